"""Where a task's data may come from: files, folders, `datasets`, or lists in memory."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opacus_edgeworth._validate import as_real
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.extras import require_extra
from opacus_edgeworth.finetune.data import LABEL_COLUMNS, TRAIN, ColumnNames, Columns, TaskData, build_task
from opacus_edgeworth.finetune.tables import from_objects, read_folder, read_table

SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}


def load_data(
    data: Any,
    *,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    validation_fraction: float = 0.0,
    split_seed: int = 0,
) -> TaskData:
    """Return the task in `data`, read and checked.

    Args:
      data: a file (CSV, TSV, JSON lines, Parquet); a folder with train, dev and test files, such as GLUE's; a name of
        `datasets`, "name" or "name:configuration"; a Dataset or DatasetDict; or in memory a list of (text, label) or
        (text, text, label) tuples or of objects, a mapping of columns, or a mapping of splits to any of these.
      validation: a file with held-out examples.
      test: another one.
      text_column: name of the column of (first) texts; None finds it.
      text_pair_column: name of the column of second texts; None finds it, if there is one.
      label_column: name of the column of labels; None finds it.
      label_names: names of the classes, in the order of their numbers; None takes the training labels, sorted.
      validation_fraction: in [0, 1): part of the training examples to hold out by chance, where there is no validation.
      split_seed: of that choice.

    Returns:
      The task; its `notes` say what was left out or looks odd.

    Raises:
      InvalidParameterError: the data is not there, malformed, incomplete or empty; the message names the place.
    """
    if isinstance(data, TaskData):
        return data
    splits, names = _read(data)
    for name, path in (("validation", validation), ("test", test)):
        if path is not None:
            splits[name] = read_table(Path(path))
    fraction = as_real("validation_fraction", validation_fraction)
    if not 0.0 <= fraction < 1.0:
        raise InvalidParameterError(f"validation_fraction={fraction!r} must be in [0, 1)")
    if fraction > 0.0 and TRAIN in splits and "validation" not in splits:
        splits = _hold_out(splits, fraction, split_seed)
    columns = ColumnNames(text_column, text_pair_column, label_column)
    return build_task(splits, columns=columns, label_names=label_names or names)


def _read(data: Any) -> tuple[dict[str, Columns], Sequence[str] | None]:
    """Return the splits of any source, and the names of the classes where the source has them."""
    if isinstance(data, (str, Path)):
        path = Path(data)
        if path.is_dir():
            if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
                require_extra("finetune", "datasets")
                from datasets import load_from_disk  # slow to import, and only some need it

                return _from_datasets(load_from_disk(str(path)))
            return read_folder(path), None
        if path.exists() or path.suffix or isinstance(data, Path):
            return {TRAIN: read_table(path)}, None
        return _from_datasets(_download(data))
    if _is_dataset(data):
        return _from_datasets(data)
    if isinstance(data, Mapping) and data and set(data) <= set(SPLIT_NAMES):
        return _from_splits(data)
    return {TRAIN: _from_memory("data", data)}, None


def _download(name: str) -> Any:
    """Return a data set by the name that `datasets` knows it by."""
    require_extra("finetune", "datasets")
    from datasets import load_dataset  # slow to import, and only some need it

    path, _, configuration = name.partition(":")
    try:
        return load_dataset(path, configuration or None)
    except Exception as error:  # the library raises many kinds
        raise InvalidParameterError(
            f"data={name!r} is no file or folder here, and `datasets` cannot load it: {error}"
        ) from error


def _is_dataset(data: Any) -> bool:
    """Whether an object is of the `datasets` library, without importing it."""
    return type(data).__module__.split(".")[0] == "datasets"


def _from_splits(data: Mapping[str, Any]) -> tuple[dict[str, Columns], Sequence[str] | None]:
    """Return splits of which each is some source with a single split."""
    splits: dict[str, Columns] = {}
    names: Sequence[str] | None = None
    for split, part in data.items():
        found, part_names = _read(part)
        if set(found) != {TRAIN}:
            raise InvalidParameterError(f"data[{split!r}] holds the splits {sorted(found)}; give one split for each")
        splits[SPLIT_NAMES[split]] = found[TRAIN]
        names = names or part_names
    return splits, names


def _from_datasets(data: Any) -> tuple[dict[str, Columns], Sequence[str] | None]:
    """Return the splits of a Dataset or DatasetDict, and the names of its classes if it knows them."""
    if not isinstance(data, Mapping):
        data = {TRAIN: data}
    splits: dict[str, Columns] = {}
    names: Sequence[str] | None = None
    for split, part in data.items():
        if part.num_rows == 0:
            raise InvalidParameterError(f"data: the split {split!r} is empty; leave it out or fill it")
        known = {"validation_matched": "validation"}.get(split, SPLIT_NAMES.get(split, split))
        splits[str(known)] = {column: list(part[column]) for column in part.column_names}
        for column in LABEL_COLUMNS:
            names = names or getattr(part.features.get(column), "names", None)
    return splits, names


def _from_memory(where: str, data: Any) -> Columns:
    """Return the columns of a mapping of columns, or of a list of tuples or objects."""
    if isinstance(data, Mapping):
        for name, values in data.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
                raise InvalidParameterError(f"{where}[{name!r}]={values!r} is not a column of values; give a list")
        return {str(name): list(values) for name, values in data.items()}
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise InvalidParameterError(
            f"{where}={data!r} is no data; give a path, a `datasets` name or object, or a list of (text, label)"
        )
    rows = list(data)
    if not rows:
        return {}
    if all(isinstance(row, Mapping) for row in rows):
        return from_objects(where, rows)
    width = len(rows[0]) if isinstance(rows[0], (tuple, list)) else 0
    names = {2: ("text", "label"), 3: ("text", "text_pair", "label")}.get(width)
    for number, row in enumerate(rows, start=1):
        if names is None or not isinstance(row, (tuple, list)) or len(row) != width:
            raise InvalidParameterError(
                f"{where}, row {number}: {row!r} is not (text, label) or, all through, (text, text, label)"
            )
    assert names is not None
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _hold_out(splits: Mapping[str, Columns], fraction: float, seed: int) -> dict[str, Columns]:
    """Move part of the training rows, chosen by chance, to a validation split."""
    train = splits[TRAIN]
    count = len(next(iter(train.values()))) if train else 0
    rows = list(range(count))
    random.Random(seed).shuffle(rows)
    cut = round(count * fraction)
    held, kept = sorted(rows[:cut]), sorted(rows[cut:])
    parts = {TRAIN: kept, "validation": held}
    return dict(splits) | {
        name: {column: [values[row] for row in chosen] for column, values in train.items()}
        for name, chosen in parts.items()
    }
