"""Checkpoints: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opacus_edgeworth.composition import parse_history
from opacus_edgeworth.errors import CheckpointError, InvalidParameterError

FORMAT = 1
MAGIC = b"opacus_edgeworth checkpoint\n"
HASH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two steps.

    It holds the state of the noise generator, from which the noise follows: keep it as secret as the data.

    Args:
      identity: what must agree for the run to be the same: settings, data, model, plan; plain values by name.
      history: what the accountant saw.
      parameters: those that change, by name.
      optimizer: its state_dict.
      generators: states of the sampling and noise generators and of torch's own.
    """

    identity: dict[str, Any]
    history: list[tuple[float, float, int]]
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    generators: dict[str, Tensor]


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; whatever happens, `path` holds the old or the new one, whole."""
    stream = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "identity": json.dumps(checkpoint.identity, sort_keys=True),
            "history": checkpoint.history,
            "parameters": checkpoint.parameters,
            "optimizer": checkpoint.optimizer,
            "generators": checkpoint.generators,
        },
        stream,
    )
    content = stream.getvalue()
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(MAGIC + hashlib.sha256(content).digest() + content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load_checkpoint(path: Path, identity: dict[str, Any]) -> Checkpoint:
    """Return the checkpoint at `path`, provided that it is whole and of the run described by `identity`.

    Raises:
      CheckpointError: it is damaged, of another format, or of another run; the message says which values differ.
    """
    remedy = "delete it, or take another output folder, to start anew"
    content = path.read_bytes()
    body = content[len(MAGIC) + HASH_SIZE :]
    if not content.startswith(MAGIC) or hashlib.sha256(body).digest() != content[len(MAGIC) :][:HASH_SIZE]:
        raise CheckpointError(f"{path} is damaged or no checkpoint: its content does not match its hash; {remedy}")
    try:
        stored = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
        found = json.loads(stored["identity"])
        if stored["format"] != FORMAT:
            raise CheckpointError(f"{path} has the format {stored['format']}, not {FORMAT}; {remedy}")
        parse_history(stored["history"])
    except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError, InvalidParameterError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; {remedy}") from error
    wanted = json.loads(json.dumps(identity, sort_keys=True))
    different = [
        f"{name} was {found.get(name)!r} and is {wanted.get(name)!r}"
        for name in sorted(found | wanted)
        if found.get(name) != wanted.get(name)
    ]
    if different:
        raise CheckpointError(f"{path} belongs to another run: {'; '.join(different)}; restore that, or {remedy}")
    return Checkpoint(
        found, [tuple(phase) for phase in stored["history"]], stored["parameters"], stored["optimizer"],
        stored["generators"],
    )  # fmt: skip
