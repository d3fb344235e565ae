"""Rated movie-review snippets: how they are read, and which of them are trained on.

    python examples/movie_reviews.py --data .cache/demo

writes them as train.csv, dev.csv and test.csv to a folder `reviews` there, for `opacus-edgeworth finetune`.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from opacus_edgeworth.finetune import TaskData, load_data

MIN_ABSOLUTE_RATING = 0.5  # nearer to 0 the raters did not agree on which side a snippet is
SPLIT_SEED = 2014
TEST_SIZE = 2000
SNIPPETS_FILE = "movieReviewSnippets_GroundTruth.txt"
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


def write_tables(task: TaskData, folder: Path) -> None:
    """Write the splits of a task as CSV files, the names of the classes as labels."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"train": task.train, "dev": task.held_out["validation"], "test": task.held_out["test"]}
    for name, part in files.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(zip(part.texts, (task.label_names[label] for label in part.labels), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the demo's movie reviews as CSV files.")
    parser.add_argument("--data", type=Path, required=True, help="folder made by fetch_demo_data.py")
    data = parser.parse_args(arguments).data
    write_tables(load_task(data / SNIPPETS_FILE), data / "reviews")
    print(f"{data / 'reviews'}: train.csv, dev.csv, test.csv")


if __name__ == "__main__":
    main()
