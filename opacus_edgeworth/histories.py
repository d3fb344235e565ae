"""Training histories from files: Opacus checkpoints, accountants' states, JSON, CSV, and fine-tuning runs."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from opacus_edgeworth._validate import as_noise_multiplier, as_sample_rate, as_steps
from opacus_edgeworth.checkpoints import is_checkpoint, read_checkpoint
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.states import Phase, require_unaltered

History: TypeAlias = tuple[Phase, ...]

COLUMNS = ("noise_multiplier", "sample_rate", "steps")
OPACUS_KEY = "privacy_accountant_state_dict"
"""Where `PrivacyEngine.save_checkpoint` puts the accountant's state."""
RUN_FILES = ("privacy.json", "checkpoint.pt")
"""Where a fine-tuning run keeps its history: after its end, and before."""

_FORMS = (
    "give a list of [noise_multiplier, sample_rate, steps], a list of objects with these keys, or an accountant's"
    " state_dict"
)


def read_history(path: str | Path) -> History:
    """Return the training history in a file, every phase checked.

    The kind of file is told by its content: a checkpoint of `PrivacyEngine.save_checkpoint`, or any one of torch that
    holds an accountant's state_dict or history; the same as JSON; CSV with the columns noise_multiplier, sample_rate
    and steps; the folder, the privacy.json or the checkpoint of a fine-tuning run. Which accountant wrote a state does
    not matter: all of Opacus's keep the same history.

    Args:
      path: of the file or folder; "-" reads JSON, or CSV, from the standard input.

    Returns:
      The phases, (noise_multiplier, sample_rate, steps), at least one, in the order of the file.

    Raises:
      InvalidParameterError: there is no such file, or no history in it, or an invalid one; the message names the
        file and the place in it.
      CheckpointError: a checkpoint is damaged, or holds objects that are not safe to load.

    Example:
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     file = Path(folder, "run.json")
      ...     _ = file.write_text("[[1.0, 0.01, 1000]]")
      ...     read_history(file)
      ((1.0, 0.01, 1000),)
    """
    if str(path) == "-":
        return history_in_text(sys.stdin.buffer.read(), "standard input")
    path = Path(path)
    try:
        path = _file_of_run(path) if path.is_dir() else path
        with path.open("rb") as file:
            head = file.read(64)
        if is_checkpoint(path, head):
            return history_in(read_checkpoint(path), str(path))
        # what begins with a zero byte, or soon has one, is no text, and may be too long to read
        content = head if b"\0" in head else path.read_bytes()
    except OSError as error:
        raise InvalidParameterError(f"{path} cannot be read: {error.strerror or error}") from None
    return history_in_text(content, str(path))


def history_in_text(content: bytes, name: str) -> History:
    """Return the history in what should be JSON or CSV; `name` is its source, for messages.

    Raises:
      InvalidParameterError: it is neither, or holds no history.
    """
    try:
        text = content.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError
    except ValueError:  # of which UnicodeDecodeError is one
        raise InvalidParameterError(
            f"{name} is neither a checkpoint of torch nor a text; give one of these, JSON or CSV in UTF-8"
        ) from None
    if not text.strip():
        raise InvalidParameterError(f"{name} is empty; {_FORMS}")
    as_json = text.lstrip()[0] in "[{" or name.lower().endswith(".json")
    return history_in_json(text, name) if as_json else history_in_csv(text, name)


def _file_of_run(folder: Path) -> Path:
    """Return the file in which the folder of a fine-tuning run keeps the history."""
    for name in RUN_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InvalidParameterError(
        f"{folder} is a folder without {' or '.join(RUN_FILES)}: no fine-tuning run of this package; give a file"
    )


def history_in_json(text: str, name: str) -> History:
    """Return the history in a JSON text; `name` is its source, for messages.

    Raises:
      InvalidParameterError: it is no JSON, or holds no history.
    """
    try:
        return history_in(json.loads(text), name)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidParameterError(f"{name} is not valid JSON, or was cut short: {error}; {_FORMS}") from None


def history_in_csv(text: str, name: str) -> History:
    """Return the history in a CSV text with a header; other columns than the three are ignored.

    Raises:
      InvalidParameterError: a column is missing, or a row is invalid; the message gives the line.
    """
    first = text.lstrip().split("\n")[0]
    delimiter = next((mark for mark in ("\t", ";") if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InvalidParameterError(f"{name}: line {reader.line_num}: {error}") from None
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    if any(header.count(column) != 1 for column in COLUMNS):
        raise InvalidParameterError(
            f"{name}: the first line must name the columns {', '.join(COLUMNS)}, each once; it is {first[:200]!r}"
        )
    phases = []
    for line, row in rows[1:]:
        where = f"{name}: line {line}"
        if len(row) != len(header):
            raise InvalidParameterError(f"{where} has {len(row)} cells, not {len(header)}; it may have been cut short")
        phases.append(_phase([_number(dict(zip(header, row, strict=True))[c], c, where) for c in COLUMNS], where))
    return _not_empty(phases, name)


def _number(cell: str, column: str, where: str) -> float:
    """Return the number in a cell."""
    try:
        return float(cell)
    except ValueError:
        raise InvalidParameterError(f"{where}: {column}={cell!r} is not a number") from None


def history_in(value: Any, name: str) -> History:
    """Return the history in a loaded object: a list of phases, or a mapping that holds one, itself or one level down.

    Args:
      value: what JSON or a checkpoint gave.
      name: its source, for messages.

    Raises:
      InvalidParameterError: there is no history in it, an empty one, several, or an invalid phase.
    """
    holder = _holder(value, name)
    entries = holder["history"] if isinstance(holder, Mapping) else holder
    phases = [_phase(entry, f"{name}: phase {number}") for number, entry in enumerate(entries, 1)]
    if isinstance(holder, Mapping):
        try:
            require_unaltered(holder, phases)
        except InvalidParameterError as error:
            raise InvalidParameterError(f"{name}: {error}") from None
    return _not_empty(phases, name)


def _holder(value: Any, name: str) -> list[Any] | tuple[Any, ...] | Mapping[Any, Any]:
    """Return the list that is the history, or the mapping with it in "history"."""
    if isinstance(value, (list, tuple)):
        return value
    if not isinstance(value, Mapping):
        raise InvalidParameterError(f"{name} holds a {type(value).__name__}, no history; {_FORMS}")
    inside = {str(key): part for key, part in value.items() if _holds_history(part)}
    if OPACUS_KEY in inside:
        return inside[OPACUS_KEY]
    if _holds_history(value):
        return value
    if len(inside) == 1:
        return next(iter(inside.values()))
    if inside:
        raise InvalidParameterError(f"{name} holds several histories, in {', '.join(inside)}; give a file with one")
    keys = ", ".join(repr(str(key)) for key in list(value)[:8]) + (", ..." if len(value) > 8 else "")
    raise InvalidParameterError(
        f"{name} holds no privacy accountant's history (its keys: {keys or 'none'}); write it with"
        " PrivacyEngine.save_checkpoint, or torch.save(engine.accountant.state_dict(), 'accountant.pt')"
    )


def _holds_history(value: Any) -> bool:
    """Return whether a value is a mapping with a history in it."""
    return isinstance(value, Mapping) and isinstance(value.get("history"), (list, tuple))


def _phase(entry: Any, where: str) -> Phase:
    """Return one phase, checked."""
    if isinstance(entry, Mapping):
        missing = [column for column in COLUMNS if column not in entry]
        if missing:
            raise InvalidParameterError(f"{where} lacks {', '.join(missing)}; it has {', '.join(map(str, entry))}")
        entry = [entry[column] for column in COLUMNS]
    if not isinstance(entry, (list, tuple)) or len(entry) != 3:
        raise InvalidParameterError(f"{where} is {str(entry)[:80]!r}; {_FORMS}")
    try:
        return as_noise_multiplier(entry[0]), as_sample_rate(entry[1]), as_steps(entry[2])
    except InvalidParameterError as error:
        raise InvalidParameterError(f"{where}: {error}") from None


def _not_empty(phases: list[Phase], name: str) -> History:
    """Return the phases, refusing none: a run that was not recorded must not pass for a private one."""
    if not phases:
        raise InvalidParameterError(
            f"{name} records no step: save it after training, with the accountant that the optimizer was attached to"
        )
    return tuple(phases)
