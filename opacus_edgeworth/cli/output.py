"""What commands print: tables for people, whose numbers are rounded to the safe side, and JSON for programs.

With --json the standard output is one JSON object and nothing else. Its keys only ever grow. Common to all commands:

    command, version    "epsilon" and so on; of this package
    history             list of {noise_multiplier, sample_rate, steps}; the object can be given as FILE again
    adjacency, sampling what the numbers assume, in words
    epsilon, delta      one of them as it was asked for, the other as {lower, upper}, proved bounds

Numbers have all their digits; what JSON has no numbers for are the strings "inf", "-inf" and "nan".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth.adjacency import IN_WORDS
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.histories import COLUMNS, History

PHASES_SHOWN = 4
LONGEST_UNWRAPPED = 24
SAMPLING = "Poisson, every example enters every batch on its own with probability sample_rate"


def json_object(
    command: str, history: History, *, adjacency: Adjacency = "add_or_remove", **parts: Any
) -> dict[str, Any]:
    """Return what a command says to programs: the common keys, and its own."""
    return {
        "command": command,
        "version": package_version(),
        "history": [dict(zip(COLUMNS, phase, strict=True)) for phase in history],
        "adjacency": IN_WORDS[adjacency],
        "sampling": SAMPLING,
        **parts,
    }


def print_json(value: Mapping[str, Any]) -> None:
    """Print an object as JSON."""
    typer.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    """Return a value in what JSON knows."""
    if isinstance(value, Bounds):
        return {"lower": _plain(value.lower), "upper": _plain(value.upper)}
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table for people."""
    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    table = Table(**look)
    for number, name in enumerate(columns):
        # long texts wrap, numbers never do
        table.add_column(name, overflow="fold", no_wrap=all(len(row[number]) <= LONGEST_UNWRAPPED for row in rows))
    for row in rows:
        table.add_row(*map(Text, row))  # as they are: brackets are no markup
    console = Console()
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)


def print_line(text: str) -> None:
    """Print one line as it is, not wrapped."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def print_assumptions(history: History, adjacency: Adjacency = "add_or_remove") -> None:
    """Print what was accounted for, with all digits, and what the numbers assume: a line each."""
    shown = [f"noise multiplier {s!r}, sample rate {q!r}, steps {n}" for s, q, n in history[:PHASES_SHOWN]]
    if len(history) > PHASES_SHOWN:
        rest = history[PHASES_SHOWN:]
        shown.append(f"and {len(rest)} more phases, steps {sum(n for _, _, n in rest)}")
    print_line(f"history: {'; '.join(shown)}")
    print_line(f"adjacency: {IN_WORDS[adjacency]}; sampling: {SAMPLING}")


def package_version() -> str:
    """Return the version of this package."""
    try:
        return version("opacus_edgeworth")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
