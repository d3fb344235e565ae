"""Tables of text: CSV, TSV, JSON lines, Parquet, and folders of them such as GLUE's."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.extras import require_extra
from opacus_edgeworth.finetune.data import LABEL_COLUMNS, Columns

FORMATS = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
STEMS = {  # file name without its ending -> split
    "train": "train", "dev": "validation", "valid": "validation", "validation": "validation", "test": "test",
    "dev_matched": "validation", "dev_mismatched": "validation_mismatched",
}  # fmt: skip


def read_folder(folder: Path) -> dict[str, Columns]:
    """Return the splits in a folder: train, dev or validation, and test, in any of the formats.

    GLUE's folders (MNLI, QNLI, QQP, SST-2) are such folders; MNLI's dev_matched is its validation. The test files that
    GLUE hands out have no labels: a test.tsv without a column that train.tsv has is left out.

    Raises:
      InvalidParameterError: there is no training file.
    """
    splits: dict[str, Columns] = {}
    for path in sorted(folder.iterdir()):
        name = STEMS.get(path.stem)
        if name is None or path.suffix not in FORMATS or not path.is_file():
            continue
        if name in splits:
            raise InvalidParameterError(f"{folder} has two files for {name!r}, one of them {path.name}; remove one")
        splits[name] = read_table(path)
    if "train" not in splits:
        raise InvalidParameterError(
            f"{folder} has no training file; it must hold train{{{','.join(FORMATS)}}} and, if you like, dev and test"
        )
    test = splits.get("test")
    if test is not None and not set(splits["train"]) <= set(test) and not _has_label(test):
        del splits["test"]
    return splits


def read_table(path: Path) -> Columns:
    """Return the columns of one file, by its ending.

    TSV is read as GLUE writes it: the first line names the columns, and quotation marks are part of the text.

    Raises:
      InvalidParameterError: no such file, another ending, or a malformed line, which the message names.
    """
    if not path.is_file():
        raise InvalidParameterError(f"{path} does not exist; give a file or folder of {', '.join(FORMATS)}")
    readers = {".tsv": read_tsv, ".csv": read_csv, ".jsonl": read_jsonl, ".json": read_jsonl, ".parquet": read_parquet}
    if path.suffix not in readers:
        raise InvalidParameterError(f"{path} ends in {path.suffix!r}; the formats are {', '.join(FORMATS)}")
    return readers[path.suffix](path)


def read_tsv(path: Path) -> Columns:
    """Return the columns of a tab-separated file without quoting."""
    with path.open(encoding="utf-8-sig", newline="\n") as lines:  # a lone carriage return may be part of a text
        rows = [line.rstrip("\r\n").split("\t") for line in lines]
    return _from_rows(path, rows)


def read_csv(path: Path) -> Columns:
    """Return the columns of a comma-separated file with quoting."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            rows = list(csv.reader(lines, strict=True))
        except csv.Error as error:
            raise InvalidParameterError(f"{path} is not a CSV file: {error}; check its quotation marks") from None
    return _from_rows(path, [row for row in rows if row])


def read_jsonl(path: Path) -> Columns:
    """Return the columns of a file with one JSON object a line (or one list of them)."""
    text = path.read_text(encoding="utf-8-sig")
    rows: list[Any] = []
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            for line in text.split("\n"):
                if line.strip():
                    rows.append(json.loads(line))
    except json.JSONDecodeError as error:
        where = f", line {len(rows) + 1}" if not text.lstrip().startswith("[") else ""
        raise InvalidParameterError(f"{path}{where}: {error}; each line must be one JSON object") from None
    return from_objects(str(path), rows)


def read_parquet(path: Path) -> Columns:
    """Return the columns of a Parquet file."""
    require_extra("finetune", "pyarrow")
    from pyarrow import ArrowInvalid, parquet  # only those who read Parquet need it

    try:
        return parquet.read_table(path).to_pydict()
    except ArrowInvalid as error:
        raise InvalidParameterError(f"{path} is not a Parquet file: {error}") from None


def from_objects(where: str, rows: Iterable[Any]) -> Columns:
    """Return the columns of a list of objects with the same keys; a key that one lacks is None there."""
    rows = list(rows)
    names: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InvalidParameterError(f"{where}, row {number}: {row!r} is not an object with named fields")
        names |= dict.fromkeys(str(name) for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _from_rows(path: Path, rows: list[list[str]]) -> Columns:
    """Return the columns of rows of which the first holds the names."""
    if not rows:
        return {}
    header = rows[0]
    if len(set(header)) != len(header):
        raise InvalidParameterError(f"{path}: two columns have the same name in {header}; rename one")
    body = rows[1:]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise InvalidParameterError(
                f"{path}, row {number}: {len(row)} fields where the header has {len(header)} ({header}); correct or"
                " remove the row"
            )
    return {name: [row[place] for row in body] for place, name in enumerate(header)}


def _has_label(columns: Columns) -> bool:
    """Whether a split has a column with a label's usual name."""
    return any(name in columns for name in LABEL_COLUMNS)
