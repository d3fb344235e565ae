"""Shared by the tests: the reference values and the rows where other accountants break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import opacus_edgeworth  # noqa: F401 -- before Opacus's `create_accountant` is imported, which matters for Opacus 1.5

DATA = Path(__file__).parent / "data"


def reference_cases() -> list[dict[str, Any]]:
    """Cases with delta to 15 digits."""
    return json.loads((DATA / "reference.json").read_text())["cases"]
