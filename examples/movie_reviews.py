"""Rated movie-review snippets: how they are read, and which of them are trained on."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from opacus_edgeworth.finetune import TaskData, load_data

MIN_ABSOLUTE_RATING = 0.5  # nearer to 0 the raters did not agree on which side a snippet is
SPLIT_SEED = 2014
TEST_SIZE = 2000
VALIDATION_SIZE = 875  # leaves 7,168 = 7 · 1,024 for training, so that a batch of 1,024 is exactly a seventh


class Snippet(NamedTuple):
    """A snippet of a movie review and the mean rating, -4 (worst) to 4 (best), that at least 20 people gave it."""

    rating: float
    text: str


class Split(NamedTuple):
    """Row numbers of the three parts; no row is in two of them."""

    train: Tensor
    validation: Tensor
    test: Tensor


def read_snippets(path: Path, min_absolute_rating: float = MIN_ABSOLUTE_RATING) -> list[Snippet]:
    """Return the snippets rated clearly enough, in the order of the file (which is sorted by class).

    Args:
      path: tab-separated UTF-8 file of id, mean rating, text, without a header.
      min_absolute_rating: keep snippets whose rating is further than this from 0.

    Raises:
      ValueError: a line does not have that form; the message names the line.
    """
    snippets = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                _, rating, text = line.rstrip("\n").split("\t")
                snippet = Snippet(float(rating), text)
            except ValueError:
                raise ValueError(f"{path}, line {number}: expected id, rating and text, tab-separated") from None
            if abs(snippet.rating) > min_absolute_rating:
                snippets.append(snippet)
    return snippets


def split_rows(
    count: int, *, test_size: int = TEST_SIZE, validation_size: int = VALIDATION_SIZE, seed: int = SPLIT_SEED
) -> Split:
    """Shuffle the rows 0 … count - 1 by `seed` and cut them into test, validation and, the rest, training rows."""
    if not 0 < test_size + validation_size < count:
        raise ValueError(f"{count} rows leave none to train on beside {test_size} + {validation_size} held out")
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    test, validation, train = rows.split([test_size, validation_size, count - test_size - validation_size])
    return Split(train, validation, test)


def load_task(path: Path) -> TaskData:
    """Return the snippets of the file as a task: is the mean rating positive or negative?"""
    snippets = read_snippets(path)
    split = split_rows(len(snippets))
    rows = {"train": split.train, "validation": split.validation, "test": split.test}
    return load_data(
        {
            name: [(snippets[row].text, int(snippets[row].rating > 0.0)) for row in chosen.tolist()]
            for name, chosen in rows.items()
        },
        label_names=("negative", "positive"),
    )
