"""The texts and classes of a task, checked before anything is trained on them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opacus_edgeworth.errors import InvalidParameterError

Columns = Mapping[str, Sequence[Any]]  # one split, column by column

LABEL_COLUMNS = ("label", "labels", "gold_label", "is_duplicate", "class", "sentiment", "target")
PAIR_COLUMNS = (
    ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"), ("premise", "hypothesis"),
    ("text1", "text2"), ("text", "text_pair"),
)  # fmt: skip
TEXT_COLUMNS = ("sentence", "text", "review", "content", "tweet", "comment")
NO_LABEL = (None, "", -1)  # "-1" is how the GLUE sets of `datasets` say that a label is withheld
TRAIN = "train"


@dataclass(frozen=True, slots=True)
class Examples:
    """One split: texts, the second texts of pairs or None, and the classes as numbers from 0."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of all rows in their order."""
        digest = hashlib.sha256()
        for row in zip(self.texts, self.pairs or self.texts, self.labels, strict=True):
            digest.update(repr(row).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class TaskData:
    """A classification task: what is trained on, and what is evaluated on.

    `train` alone is private: epsilon covers its rows, one row at a time. `held_out` maps names such as "validation" to
    further splits. `notes` say what a reader of the data ought to know.
    """

    train: Examples
    held_out: Mapping[str, Examples]
    label_names: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def has_pairs(self) -> bool:
        """Whether every example is a pair of texts."""
        return self.train.pairs is not None


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Which columns hold what; None is found by its name."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


def build_task(
    splits: Mapping[str, Columns],
    *,
    columns: ColumnNames | None = None,
    label_names: Sequence[str] | None = None,
    notes: Iterable[str] = (),
) -> TaskData:
    """Return the task in `splits`, of which one is named "train".

    Args:
      splits: columns of each split, all of a split equally long.
      columns: which columns hold texts and labels; what is None is found by its name.
      label_names: names of the classes. Integer labels count from 0 in this order; other labels must be among the
        names. None: the training labels, sorted.
      notes: passed on.

    Raises:
      InvalidParameterError: no training split, an empty split, no such column, a text or label that is missing, a label
        that the training split does not have, fewer than two classes. The message names split, column and row.
    """
    if TRAIN not in splits:
        raise InvalidParameterError(f'data has no "train" split, only {sorted(splits)}; name one of them "train"')
    for name, split in splits.items():
        if not split or not len(next(iter(split.values()))):
            raise InvalidParameterError(f"data: the split {name!r} is empty; leave it out or fill it")
    used = resolve_columns(list(splits[TRAIN]), columns or ColumnNames())
    notes = list(notes)
    kept: dict[str, Columns] = {}
    for name, split in splits.items():
        require_columns(name, split, used)
        if name != TRAIN and all(_is_missing(label) for label in split[used.label or ""]):
            notes.append(f"the split {name!r} has no labels and is left out")
            continue
        kept[name] = split
    labels = {name: _labels(name, split, used.label or "") for name, split in kept.items()}
    names, numbers = _class_numbers(labels[TRAIN], label_names)
    examples = {
        name: Examples(
            _texts(name, split, used.text or ""),
            None if used.text_pair is None else _texts(name, split, used.text_pair),
            _numbered(name, labels[name], numbers, names),
        )
        for name, split in kept.items()
    }
    train = examples.pop(TRAIN)
    return TaskData(train, examples, names, tuple(notes + _notes(train, examples, names)))


def resolve_columns(available: Sequence[str], wanted: ColumnNames) -> ColumnNames:
    """Return the columns to use: those that are wanted, and for the others those whose names are known.

    Raises:
      InvalidParameterError: a wanted column is not there, or none has a known name.
    """
    for role, name in (("text", wanted.text), ("text_pair", wanted.text_pair), ("label", wanted.label)):
        if name is not None and name not in available:
            raise InvalidParameterError(f"{role} column {name!r} is not in the data, which has {list(available)}")
    label = wanted.label or next((name for name in LABEL_COLUMNS if name in available), None)
    if label is None:
        raise InvalidParameterError(
            f"no label column found in {list(available)}; name it with label_column= (--label-column)"
        )
    if wanted.text is not None:
        return ColumnNames(wanted.text, wanted.text_pair, label)
    for first, second in PAIR_COLUMNS:
        if first in available and second in available and label not in (first, second):
            return ColumnNames(first, wanted.text_pair or second, label)
    others = [name for name in available if name not in (label, wanted.text_pair, "idx", "id", "index")]
    text = next((name for name in TEXT_COLUMNS if name in others), others[0] if len(others) == 1 else None)
    if text is None:
        raise InvalidParameterError(
            f"no text column found in {list(available)}; name it with text_column= (--text-column)"
        )
    return ColumnNames(text, wanted.text_pair, label)


def require_columns(split: str, columns: Columns, used: ColumnNames) -> None:
    """Refuse a split that lacks a used column, or whose columns differ in length."""
    for name in (used.text, used.text_pair, used.label):
        if name is not None and name not in columns:
            raise InvalidParameterError(
                f"data: the split {split!r} has no column {name!r}, only {list(columns)}; give every split the same"
            )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidParameterError(f"data: the columns of {split!r} differ in length: {lengths}; one row, one entry")


def _is_missing(value: Any) -> bool:
    """Whether a label says that there is none."""
    return (isinstance(value, float) and math.isnan(value)) or (
        not isinstance(value, bool) and any(value is none or (none is not None and value == none) for none in NO_LABEL)
    )


def _labels(split: str, columns: Columns, column: str) -> list[Any]:
    """Return the labels of a split, none of them missing; integral floats become integers."""
    labels = []
    for row, value in enumerate(columns[column], start=1):
        if _is_missing(value):
            raise InvalidParameterError(
                f"data: {split!r}, row {row}: the label ({column}={value!r}) is missing; label the row or leave it out"
            )
        if not isinstance(value, str) and hasattr(value, "item"):
            value = value.item()  # NumPy scalars and tensors
        labels.append(int(value) if isinstance(value, (bool, float)) and value == int(value) else value)
    return labels


def _texts(split: str, columns: Columns, column: str) -> tuple[str, ...]:
    """Return the texts of a column, refusing what is not text."""
    for row, value in enumerate(columns[column], start=1):
        if not isinstance(value, str):
            raise InvalidParameterError(
                f"data: {split!r}, row {row}: {column}={value!r} is not text; fill it or leave the row out"
            )
    return tuple(str(value) for value in columns[column])


def _class_numbers(labels: Sequence[Any], names: Sequence[str] | None) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the names of the classes, and the class of each label that may occur."""
    found = Counter(labels)
    if names is None:
        order = sorted(found, key=lambda label: (isinstance(label, str), label))
        names = [str(label) for label in order]
        numbers = {label: number for number, label in enumerate(order)}
    else:
        numbers = {str(name): number for number, name in enumerate(names)}
        numbers |= {number: number for number in range(len(names))}
    if len(set(names)) < 2 or len(set(names)) != len(names):
        raise InvalidParameterError(
            f"data: the training labels make the classes {list(names)}; at least two different ones are needed"
        )
    return tuple(str(name) for name in names), numbers


def _numbered(split: str, labels: Sequence[Any], numbers: Mapping[Any, int], names: Sequence[str]) -> tuple[int, ...]:
    """Return the class of each label."""
    for row, label in enumerate(labels, start=1):
        if label not in numbers:
            remedy = "correct it, or give label_names" if split == TRAIN else "the splits must have the same classes"
            raise InvalidParameterError(
                f"data: {split!r}, row {row}: the label {label!r} is not one of {list(names)}; {remedy}"
            )
    return tuple(numbers[label] for label in labels)


def _notes(train: Examples, held_out: Mapping[str, Examples], names: Sequence[str]) -> list[str]:
    """Say what a reader of the data ought to know."""
    notes = []
    rows = list(zip(train.texts, train.pairs or train.texts, strict=True))
    repeated = len(rows) - len(set(rows))
    if repeated:
        notes.append(
            f"{repeated} of {len(rows)} training examples repeat the text of another: the guarantee is for one row, so"
            " a text that occurs k times is protected less (about k times epsilon)"
        )
    for name, split in held_out.items():
        shared = len(set(rows) & set(zip(split.texts, split.pairs or split.texts, strict=True)))
        if shared:
            notes.append(f"{shared} texts of {name!r} are also in the training data: its accuracy is flattered")
        absent = sorted(set(range(len(names))) - set(split.labels))
        if absent:
            notes.append(f"{name!r} has no example of {', '.join(names[number] for number in absent)}")
    counts = Counter(train.labels)
    never = [name for number, name in enumerate(names) if number not in counts]
    if never:
        notes.append(f"no training example is of class {', '.join(never)}")
    return notes
