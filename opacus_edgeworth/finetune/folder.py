"""The output folder of a run while it runs: its log and its checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opacus_edgeworth.errors import CheckpointError, InvalidParameterError
from opacus_edgeworth.finetune.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from opacus_edgeworth.finetune.result import CHECKPOINT, LOG, STATEMENT

Record = dict[str, float | int]


@dataclass
class RunFolder:
    """Keeps the records of a run's steps, and its state, in memory and (where there is one) in a folder."""

    path: Path | None
    records: list[Record] = field(default_factory=list)

    def open(self, resume: bool, identity: dict[str, Any]) -> Checkpoint | None:
        """Make the folder ready; return the checkpoint to go on from, if there is one.

        Raises:
          InvalidParameterError: the folder holds a run that ended, or one that may be resumed though that is not asked.
          CheckpointError: the checkpoint is damaged or of another run.
        """
        if self.path is None:
            if resume:
                raise InvalidParameterError("resume=True needs output=, the folder of the run to go on with")
            return None
        require_free(self.path, resume)
        self.path.mkdir(parents=True, exist_ok=True)
        checkpoint = None
        if (self.path / CHECKPOINT).exists():
            checkpoint = load_checkpoint(self.path / CHECKPOINT, identity)
            done = sum(steps for _, _, steps in checkpoint.history)
            self.records = read_records(self.path / LOG, done)
        with (self.path / LOG).open("w", encoding="utf-8") as log:
            log.writelines(json.dumps(record) + "\n" for record in self.records)
        return checkpoint

    def add(self, record: Record) -> None:
        """Keep the record of a step."""
        self.records.append(record)
        if self.path is not None:
            with (self.path / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep the state of the run."""
        assert self.path is not None
        save_checkpoint(checkpoint, self.path / CHECKPOINT)

    def close(self) -> None:
        """Remove what is needed only while the run runs: a checkpoint tells the noise."""
        if self.path is not None:
            (self.path / CHECKPOINT).unlink(missing_ok=True)


def read_records(path: Path, count: int) -> list[Record]:
    """Return the first records of a log, refusing one that lacks some of them.

    Raises:
      CheckpointError: there are not so many, or they are damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:count]
        records = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} does not go with the checkpoint beside it: {error}") from error
    if len(records) < count:
        raise CheckpointError(f"{path} has {len(records)} records where the checkpoint is at step {count}; restore it")
    return records


def require_free(path: Path, resume: bool) -> None:
    """Refuse a folder in which a run ended, or stands still and is not to be resumed."""
    if path.exists() and not path.is_dir():
        raise InvalidParameterError(f"output={str(path)!r} is a file; give a folder")
    if (path / STATEMENT).exists():
        raise InvalidParameterError(f"output={str(path)!r} holds a run that ended; give another folder, or delete it")
    if (path / CHECKPOINT).exists() and not resume:
        raise InvalidParameterError(
            f"output={str(path)!r} holds a run that was stopped; go on with it by resume=True (--resume), give another"
            " folder, or delete it"
        )
