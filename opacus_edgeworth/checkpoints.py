"""What a checkpoint file of torch holds, without running anything that is in it; torch is imported when one is read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from opacus_edgeworth.errors import CheckpointError

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
SIGNATURES = (b"PK\x03\x04", b"\x80")
"""How torch's files begin: a zip archive, and before torch 1.6 a pickle."""
FINETUNE_MAGIC, FINETUNE_HASH_SIZE = b"opacus_edgeworth checkpoint\n", 32
"""What `finetune.checkpoint` writes before torch's archive; repeated here because that module needs its extra."""

_REMEDY = (
    "write the accountant alone, torch.save(engine.accountant.state_dict(), 'accountant.pt') or"
    " json.dump(engine.accountant.history, file), and give that file"
)


def is_checkpoint(path: Path, head: bytes) -> bool:
    """Return whether a file is a checkpoint, by its first bytes or, failing that, by its name."""
    return head.startswith((FINETUNE_MAGIC, *SIGNATURES)) or path.suffix.lower() in SUFFIXES


def read_checkpoint(path: Path) -> Any:
    """Return the object in a checkpoint file: torch.save's, or that of a fine-tuning run.

    It is read with weights_only=True: tensors, NumPy numbers and plain values, never other objects, whose unpickling
    could run code.

    Args:
      path: of a file that can be read. Weights in it are mapped, not read.

    Raises:
      CheckpointError: it is damaged, or holds other objects; the message says what to do.
    """
    import torch  # takes seconds, which who reads no checkpoint must not wait for

    with path.open("rb") as file:
        own = file.read(len(FINETUNE_MAGIC)) == FINETUNE_MAGIC
        zipped = file.seek(0) == 0 and file.read(4) == SIGNATURES[0]
    source = _body_of_own(path) if own else str(path)
    try:
        with _numpy_numbers_allowed(torch):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise _unreadable(path, error) from None
        raise CheckpointError(
            f"{path} holds an object of {found[1]}, and unpickling such objects can run any code; {_REMEDY}"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from None  # what torch raises on damaged files is of many kinds


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that torch cannot read."""
    first = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().split("\n")[0].rstrip(". ")
    return CheckpointError(
        f"{path} is not a whole checkpoint of torch ({type(error).__name__}: {first}); copy it again if it was cut"
        f" short, or {_REMEDY}"
    )


def _body_of_own(path: Path) -> io.BytesIO:
    """Return torch's archive inside the checkpoint of a fine-tuning run, provided that it is whole."""
    content = path.read_bytes()[len(FINETUNE_MAGIC) :]
    stored, body = content[:FINETUNE_HASH_SIZE], content[FINETUNE_HASH_SIZE:]
    if hashlib.sha256(body).digest() != stored:
        raise CheckpointError(f"{path} is damaged: its content does not match its hash; copy it again")
    return io.BytesIO(body)


def _numpy_numbers_allowed(torch: Any) -> contextlib.AbstractContextManager[Any]:
    """Let NumPy's numbers pass: a noise multiplier that was computed is often one. They are as plain as floats."""
    if not hasattr(torch.serialization, "safe_globals"):  # before torch 2.5
        return contextlib.nullcontext()
    kinds = {type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64)}
    scalar = np.float64(0.0).__reduce__()[0]
    return torch.serialization.safe_globals([scalar, np.dtype, *kinds])
