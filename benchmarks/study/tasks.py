"""The study's tasks: four domains of rated texts, and pairs of questions and clauses.

Each is cut by a fixed seed into training, validation and test examples. Validation examples choose recipes; test
examples are looked at when all is chosen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from opacus_edgeworth.finetune import TaskData, load_data
from study.fetch import PAIRS_FILE, SPLIT_SEED, read_snippets, split_rows


@dataclass(frozen=True)
class Domain:
    """A task.

    Args:
      title: as people call it.
      file: its name in the data folder.
      test, validation: numbers of examples.
    """

    title: str
    file: str
    test: int
    validation: int


DOMAINS = {
    "movies": Domain("movie reviews", "movieReviewSnippets_GroundTruth.txt", 2000, 875),
    "tweets": Domain("tweets", "tweets_GroundTruth.txt", 1000, 314),
    "amazon": Domain("product reviews", "amazonReviewSnippets_GroundTruth.txt", 900, 251),
    "editorials": Domain("editorials", "nytEditorialSnippets_GroundTruth.txt", 900, 352),
}
PAIRS = "policies"


def rated_rows(path: Path) -> list[tuple[str, str]]:
    """Return (text, label) of the texts rated clearly enough, each once; a damaged line is an error."""
    rows: dict[str, str] = {}
    for snippet in read_snippets(path):
        rows.setdefault(snippet.text, "positive" if snippet.rating > 0.0 else "negative")
    return list(rows.items())


@cache
def load_task(name: str, folder: Path) -> TaskData:
    """Return a task's three splits."""
    if name == PAIRS:
        return _pairs(folder / PAIRS_FILE)
    domain = DOMAINS[name]
    rows = rated_rows(folder / domain.file)
    split = split_rows(len(rows), test_size=domain.test, validation_size=domain.validation)
    return load_data({part: [rows[row] for row in numbers.tolist()] for part, numbers in split._asdict().items()})


def _pairs(path: Path) -> TaskData:
    """Return the pairs; a question is in one split only, since its clauses are alike."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    questions = sorted({record["question"] for record in records})
    order = torch.randperm(len(questions), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    part_of = {questions[index]: place / len(questions) for place, index in enumerate(order)}
    parts: dict[str, list[tuple[str, str, str]]] = {"train": [], "validation": [], "test": []}
    for record in records:
        place = part_of[record["question"]]
        part = "test" if place < 0.2 else "validation" if place < 0.3 else "train"
        label = "relevant" if record["answer"] == "True" else "irrelevant"
        parts[part].append((record["question"].strip(), record["context"].strip(), label))
    return load_data(parts)
