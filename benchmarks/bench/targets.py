"""What the project promises of its speed, beside what this run measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from bench.peers import OPACUS_PRV, OPACUS_RDP, OURS
from bench.sections import Record

LOGGED = 300


@dataclass(frozen=True, slots=True)
class Promise:
    """One target: what was promised, what was measured, whether it was met (None: not measured)."""

    promise: str
    measured: str
    met: bool | None


def promises(records: list[Record]) -> list[Promise]:
    """Return every target with its measured figure."""
    return [
        _faster("`get_epsilon` of ordinary histories >= 500x faster than Opacus PRV", records, OPACUS_PRV, 500.0),
        _faster("`get_epsilon` of ordinary histories >= 20x faster than Opacus RDP", records, OPACUS_RDP, 20.0),
        _flat_in_steps(records),
        _faster("calibration >= 300x faster than Opacus's search with PRV", records, OPACUS_PRV, 300.0, "noise"),
        _noise_is_exact(records),
        _at_most("1,000 distinct phases <= 0.5 s", _seconds(records, "phases", 1000), 0.5),
        _at_most(f"epsilon at each of {LOGGED} steps <= 1.5 s in all", _logged_seconds(records), 1.5),
        _at_most("import adds <= 0.3 s to import of opacus", _import_seconds(records), 0.3),
        _never_below(records),
        _agrees(records),
    ]


def speed_ratios(records: Iterable[Record], section: str, peer: str) -> dict[str, float]:
    """Return, by case, how many times longer a peer takes than ours; out of time counts with the limit.

    Cases that the peer refuses count for nobody; one that ours does not answer counts as 0.
    """
    times: dict[str, float] = {}
    own: dict[str, float] = {}
    for record in records:
        if record.section == section and record.peer == peer and record.status in ("answered", "timeout"):
            times[record.case] = record.seconds
        if record.section == section and record.peer == OURS:
            own[record.case] = record.seconds if record.status == "answered" else math.inf
    return {case: seconds / own[case] for case, seconds in times.items() if case in own}


def _faster(promise: str, records: list[Record], peer: str, least: float, section: str = "ordinary") -> Promise:
    """Return how often and by how much ours is faster; met where it is so in every case."""
    ratios = sorted(speed_ratios(records, section, peer).values())
    if not ratios:
        return Promise(promise, "not measured", None)
    enough = sum(ratio >= least for ratio in ratios)
    measured = (
        f"{ratios[0]:,.1f}x / {statistics.median(ratios):,.0f}x / {ratios[-1]:,.0f}x (least / median / most);"
        f" {enough} of {len(ratios)} cases reach it"
    )
    return Promise(promise, measured, enough == len(ratios))


def _flat_in_steps(records: list[Record]) -> Promise:
    """Return the ratio of times at 1e7 and at 1e3 steps."""
    many, few = _seconds(records, "steps", 10**7), _seconds(records, "steps", 10**3)
    ratio = many / few
    promise = "1e7 steps take the time of 1e3 within 2x"
    if math.isnan(ratio):  # not asked, or one of them without an answer
        return Promise(promise, "not measured", None)
    measured = f"{ratio:.2f}x ({1e3 * many:.3g} ms against {1e3 * few:.3g} ms)"
    return Promise(promise, measured, 0.5 <= ratio <= 2.0)


def _noise_is_exact(records: list[Record]) -> Promise:
    """Return how far our noise multipliers are from exact, by the proved bounds."""
    rows = [r for r in records if r.section == "noise" and r.peer == OURS and r.status == "answered"]
    promise = "noise multiplier within 1e-6 of exact and never below"
    if not rows:
        return Promise(promise, "not measured", None)
    widest = max((row.value - row.lower) / row.value for row in rows)
    below = sum(row.verdict == "below" for row in rows)
    measured = f"at most {widest:.1e} above a value proved too little; {below} of {len(rows)} below"
    return Promise(promise, measured, widest <= 1e-6 and below == 0)


def _never_below(records: list[Record]) -> Promise:
    """Return how many of our answers are sound, and how many are missing."""
    rows = [r for r in records if r.peer == OURS and r.section != "import"]
    answered = [row for row in rows if row.status == "answered"]
    sound = sum(row.verdict == "sound" for row in answered)
    measured = f"{sound} of {len(rows)} sound, {len(rows) - len(answered)} without an answer in time"
    return Promise("ours answers everything, and every answer is sound", measured, sound == len(rows))


def _agrees(records: list[Record]) -> Promise:
    """Return how many of our bounds meet the values recorded from ball arithmetic."""
    rows = [r for r in records if r.agrees is not None]
    right = sum(bool(row.agrees) for row in rows)
    promise = "our bounds meet the values recorded from ball arithmetic"
    return Promise(promise, f"{right} of {len(rows)}", right == len(rows) if rows else None)


def _at_most(promise: str, seconds: float, most: float) -> Promise:
    """Return whether a time was kept."""
    if math.isnan(seconds):
        return Promise(promise, "not measured", None)
    return Promise(promise, "no answer in time" if math.isinf(seconds) else f"{seconds:.3g} s", seconds <= most)


def _seconds(records: list[Record], section: str, size: int) -> float:
    """Return our time at one size of a series, infinite without an answer, NaN where it was not asked."""
    found = [r for r in records if r.section == section and r.peer == OURS and r.size == size]
    if not found:
        return math.nan
    return found[0].seconds if found[0].status == "answered" else math.inf


def _logged_seconds(records: list[Record]) -> float:
    """Return our time until the step of the logged run that the target is about."""
    runs = [r for r in records if r.section == "log" and r.peer == OURS]
    marks = [mark for r in runs for mark in r.marks]
    return next((seconds for step, seconds, *_ in marks if step == LOGGED), math.inf if runs else math.nan)


def _import_seconds(records: list[Record]) -> float:
    """Return the time that our import adds to that of Opacus."""
    found = [r.seconds for r in records if r.section == "import" and r.peer == OURS and "after" in r.case]
    return found[0] if found else math.nan
