"""What is known of a run: its history, and what a fine-tuning run recorded of itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opacus_edgeworth.checkpoints import is_checkpoint
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.histories import RUN_FILES, history_in_text, read_history
from opacus_edgeworth.report.recorded import Recorded, recorded_in

STDIN = "standard input"


@dataclass(frozen=True, slots=True)
class Run:
    """What a report is about.

    Args:
      history: as `PrivacyCurve` takes it.
      source: the name of the file it came from; "" for a history from a program.
      recorded: what the run says of itself, if it does.
      stopped: the run has not ended; this is what it did so far.
    """

    history: tuple[Any, ...]
    source: str = ""
    recorded: Recorded | None = None
    stopped: bool = False


def read_run(path: str | Path) -> Run:
    """Return what a file or folder says about a run: everything that `read_history` takes.

    Raises:
      InvalidParameterError, CheckpointError: see `read_history`.
    """
    if str(path) == "-":
        content = sys.stdin.buffer.read()
        return Run(history_in_text(content, STDIN), STDIN, _statement(content))
    history = read_history(path)
    file = Path(path)
    source, stopped = file.name, False
    if file.is_dir():
        file = next(file / name for name in RUN_FILES if (file / name).is_file())
        source, stopped = f"{Path(path).resolve().name}/{file.name}", file.name != RUN_FILES[0]
    with file.open("rb") as opened:
        head = opened.read(64)
        recorded = None if is_checkpoint(file, head) else _statement(head + opened.read())
    return Run(history, source, recorded, stopped)


def as_run(run: Run | str | Path | Iterable[Any]) -> Run:
    """Return what is known of a run that was given as a file, or as a history."""
    if isinstance(run, Run):
        return run
    if isinstance(run, (str, Path)):
        return read_run(run)
    try:
        return Run(tuple(run))
    except TypeError:
        raise InvalidParameterError(
            f"run={run!r} must be a file, the folder of a fine-tuning run, or a history"
        ) from None


def _statement(content: bytes) -> Recorded | None:
    """Return what a fine-tuning run recorded, if this is its privacy.json."""
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None  # a CSV; what is no history at all was refused before
    return recorded_in(value) if isinstance(value, Mapping) else None
