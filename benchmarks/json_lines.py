"""Results kept one a line, so that a long run can go on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(path: Path, key: str) -> dict[Any, dict[str, Any]]:
    """Return the records of a file by one of their fields; a line cut short by an interruption is dropped."""
    records: dict[Any, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records[record[key]] = record
    return records
