"""The results as Markdown and JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.peers import OURS, PEERS
from bench.sections import Record
from bench.targets import promises

FAILURES = ("failed", "timeout", "memory", "skipped")


def write_json(path: Path, meta: dict[str, Any], records: list[Record]) -> None:
    """Write everything that was measured."""
    content = {"meta": meta, "records": [record.as_json() for record in records]}
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """Read what `write_json` wrote."""
    content = json.loads(path.read_text())
    return content["meta"], [Record.from_json(row) for row in content["records"]]


def markdown(meta: dict[str, Any], records: list[Record], plots: Iterable[str]) -> str:
    """Return the whole report."""
    by = {name: [r for r in records if r.section == name] for name in dict.fromkeys(r.section for r in records)}
    pictures = {name.removeprefix("bench_").removesuffix(".png"): f"![{name}]({name})" for name in plots}
    parts = [
        "# Against every public accountant",
        _head(meta),
        "## What was promised, and what was measured",
        _table(
            ["promise", "measured", "met"],
            [
                [p.promise, p.measured, "—" if p.met is None else "yes" if p.met else "**no**"]
                for p in promises(records)
            ],
        ),
        "## The accountants",
        _table(
            ["accountant", "version", "directions covered", "its answer", "settings"],
            [
                [p.name, meta["versions"].get(p.name) or "absent", p.directions, p.answer, p.settings]
                for p in PEERS
                if p.name in meta["peers"]
            ],
        ),
        "## In short",
        "Epsilon and noise multipliers of all sections. Unsound: below a proved lower bound, or negative. Excess over"
        " the truth and time of one call: median and worst over the ordinary histories answered soundly. Memory: the"
        " most that one call added.",
        _summary(records, meta["peers"]),
        "## Epsilon of ordinary histories",
        "(noise_multiplier, sample_rate, steps); delta. Truth: our proved upper bound. Cells: excess over it (for"
        " ours: within what fraction of a proved lower bound), time of one call.",
        _matrix(by.get("ordinary", []), meta["peers"]),
        pictures.get("epsilon", ""),
        "## Where accountants break",
        "Each row is here because somebody was seen to fail in it. **below**: less than the truth, so not a bound.",
        _matrix(by.get("breaking", []), meta["peers"]),
        "## Answers below the truth",
        _unsound(records),
        "## Noise multipliers for private fine-tuning",
        "Batch 2,000, 20 epochs; delta 1e-5 for SST-2 and QNLI, 1e-6 for MNLI and QQP; each search with its own default"
        " tolerance. Truth: the least noise multiplier proved enough; ours: within what fraction of one that is proved"
        " too little.",
        _matrix(by.get("noise", []), meta["peers"]),
        pictures.get("noise", ""),
        "## As steps grow",
        "Who ran out of time or memory is not asked for more.",
        _matrix(by.get("steps", []), meta["peers"]),
        pictures.get("steps", ""),
        "## As phases grow",
        "Ten steps a phase, sample rate 0.01, the noise multiplier falling from 1.5 to 0.7.",
        _matrix(by.get("phases", []), meta["peers"]),
        pictures.get("phases", ""),
        "## Epsilon logged at each step",
        "Seconds since the start of the run, and the excess of that step's epsilon.",
        _log(by.get("log", []), meta["peers"]),
        pictures.get("log", ""),
        "## Imports",
        "In a fresh interpreter, median.",
        _table(["statement", "seconds"], [[f"`{r.case}`", _time(r.seconds)] for r in by.get("import", [])]),
        "## Failures",
        _failures(records),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(meta: dict[str, Any]) -> str:
    """Return when, where and how it was measured."""
    absent = [name for name in meta["peers"] if not meta["versions"].get(name)]
    return (
        f"Command: `{meta['command']}`; commit {meta['commit']}; {meta['machine']}, Python {meta['python']}, NumPy"
        f" {meta['numpy']}, SciPy {meta['scipy']}; one thread; {meta['minutes']:.0f} minutes.\n\n"
        f"Each piece of work runs in a process of its own, limited to {meta['time_limit']:g} s"
        f" ({meta['series_time_limit']:g} s where steps and phases grow and where epsilon is logged) and"
        f" {meta['memory_limit_gib']:g} GiB; a first call that takes less than a second only warms up, and the time is"
        " the median of the calls after it. The truth is our own proved bounds, which the tests judge in ball"
        f" arithmetic. Times are processor time of one thread on this machine (load average {meta['load']:.1f} at"
        " the start), which is the time on the clock where nothing else runs; their ratios, taken side by side in one"
        " run, are what counts.\n\n"
        f"Absent: {', '.join(absent) or 'none'}."
    )


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _matrix(records: list[Record], peers: list[str]) -> str:
    """Return a table of cases by accountants."""
    if not records:
        return "Not run."
    columns = [name for name in peers if any(r.peer == name for r in records)]
    rows: dict[str, dict[str, Record]] = {}
    for record in records:
        rows.setdefault(record.case, {})[record.peer] = record
    return _table(
        ["case", "truth", *columns],
        [[case, _truth(row), *(_cell(row[name]) for name in columns)] for case, row in rows.items()],
    )


def _truth(row: dict[str, Record]) -> str:
    """Return the proved upper bound."""
    known = next((r for r in row.values() if not math.isnan(r.upper)), None)
    if known is None:
        return "unknown"
    return f"{known.upper:.7g}"


def _cell(record: Record) -> str:
    """Return one accountant's answer to one case."""
    if record.status == "answered":
        worth = {"sound": "", "unknown": "", "below": "**below** "}.get(record.verdict, f"**{record.verdict}** ")
        return f"{worth}{_excess(record)}, {_time(record.seconds)}"
    if record.status == "timeout":
        return f"> {record.seconds:g} s"
    if record.status == "failed":
        return f"raises {record.message.split(':')[0]}"
    return {"memory": "out of memory", "skipped": "> before", "not offered": "—"}.get(record.status, record.status)


def _excess(record: Record) -> str:
    """Return how far an answer is from the truth."""
    if math.isnan(record.excess):
        return f"{record.value:.4g}"
    if record.peer == OURS and record.verdict == "sound":  # above the lower bound, for the upper one is its own
        return f"within {(record.value - record.lower) / record.value:.0e}"
    return _relative(record.excess)


def _relative(excess: float) -> str:
    """Return a relative excess."""
    if math.isinf(excess) or abs(excess) >= 100.0:
        return f"{100 * excess:+.2g} %"
    return f"{100 * excess:+.2f} %" if abs(excess) >= 1e-3 else f"{excess:+.0e}"


def _time(seconds: float) -> str:
    """Return a time in a fitting unit."""
    if math.isnan(seconds):
        return "—"
    if seconds < 1e-3:
        return f"{1e3 * seconds:.2f} ms"
    return f"{1e3 * seconds:.3g} ms" if seconds < 1.0 else f"{seconds:.3g} s"


def _summary(records: list[Record], peers: list[str]) -> str:
    """Return one line for each accountant."""
    rows = []
    for name in peers:
        own = [r for r in records if r.peer == name and r.section not in ("import", "log")]
        asked = [r for r in own if r.status not in ("absent", "not offered")]
        sound = [r for r in own if r.section == "ordinary" and r.verdict == "sound"]
        excess = [r.width if name == OURS else r.excess for r in sound]
        memory = [r.added_mib for r in asked if not math.isnan(r.added_mib)]
        rows.append(
            [
                name,
                str(len(asked)),
                str(sum(r.verdict == "sound" for r in asked)),
                str(sum(r.verdict in ("below", "negative", "not a number") for r in asked)),
                str(sum(r.verdict == "infinite" for r in asked)),
                str(sum(r.status in FAILURES for r in asked)),
                _pair(excess, _relative),
                _pair([r.seconds for r in sound], _time),
                f"{max(memory):,.0f} MiB" if memory else "—",
            ]
        )
    head = ["accountant", "asked", "sound", "unsound", "infinite", "no answer", "excess", "time", "memory"]
    return _table(head, rows) + f"\n\nFor {OURS} the excess is the relative width of its proved bounds."


def _pair(values: list[float], show: Callable[[float], str]) -> str:
    """Return the median and the worst of some values."""
    return f"{show(statistics.median(values))} / {show(max(values))}" if values else "—"


def _unsound(records: list[Record]) -> str:
    """Return the list of answers that are not bounds, with the proof where there is one."""
    rows = [
        [
            r.section,
            r.case,
            r.peer,
            f"{r.value:.10g}",
            f"{r.lower:.10g}",
            "" if math.isnan(r.delta_at_answer) else f">= {r.delta_at_answer:.7g}",
        ]
        for r in records
        if r.verdict in ("below", "negative", "not a number") and r.section != "log"
    ]
    text = "The last column is a proved lower bound on delta at the epsilon that was answered.\n\n"
    head = ["section", "case", "accountant", "answer", "truth at least", "its delta"]
    return text + _table(head, rows) if rows else "None in this run."


def _log(records: list[Record], peers: list[str]) -> str:
    """Return the table of the logged run."""
    if not records:
        return "Not run."
    steps = sorted({mark[0] for r in records for mark in r.marks})
    rows = []
    for record in sorted(records, key=lambda r: peers.index(r.peer)):
        marks = {step: (seconds, value, lower, upper) for step, seconds, value, lower, upper in record.marks}
        rows.append([record.peer, *(_mark(*marks[step]) if step in marks else "—" for step in steps), record.message])
    return _table(["accountant", *(f"step {step}" for step in steps), "stopped"], rows)


def _mark(seconds: float, value: float, lower: float, upper: float) -> str:
    """Return the time at one step, and what its epsilon is worth."""
    worth = "**below** " if value < lower else ""
    return f"{_time(seconds)}, {worth}{_relative((value - upper) / upper) if value != upper else 'exact'}"


def _failures(records: list[Record]) -> str:
    """Return what was said by those that gave no answer."""
    rows = [
        [r.section, r.case, r.peer, r.status, r.message]
        for r in records
        if r.status in FAILURES or (r.status == "not offered" and r.section != "noise")
    ]
    return _table(["section", "case", "accountant", "what", "message"], rows) if rows else "None."
