"""What a training run that asks for epsilon after every step need not compute again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition, compose
from opacus_edgeworth.errors import InvalidParameterError, OutOfReachError
from opacus_edgeworth.inversion.engines import epsilon_by_table, history_epsilon, history_epsilon_and_table
from opacus_edgeworth.inversion.foresight import Entry, Foresight, foresee
from opacus_edgeworth.inversion.inverting import Table
from opacus_edgeworth.inversion.many import Plan, Terms, gaussian_like, plan_for

MAX_TABLES = 4
"""How many tables are kept, and how many runs, those of the last questions."""
FEW_ENTRIES = 2
"""Up to so many entries of a history, tables are made for its phases."""
LEVEL = 4.0
"""By which factor mu^2 (see `many.gaussian_like`) may grow before another plan is made."""
BLOCKS, MOST_STEPS, LARGEST_FALL = 16, 2**40, -0.7
"""Phases of a history's future, their steps, and how far, in log, noise may fall in it."""


class Memory:
    """Tables for about the history that was asked for last.

    *A few phases*: tables are made for numbers of steps of two significant bits, and they serve all that are rounded to
    those. So the answer depends on the question alone, not on what was asked before.

    *A schedule* has a phase for every step: its terms are added up as it goes on (`Run`). The last digits, about 1e-12
    of epsilon, may depend on what was asked before, since sums are rounded differently; both answers are proved.
    """

    __slots__ = ("_runs", "_tables")

    def __init__(self) -> None:
        self._tables: dict[tuple[bytes, ...], tuple[Table | None, float]] = {}
        self._runs: dict[float, Run] = {}

    def epsilon(self, history: Iterable[Any], delta: float) -> Bounds:
        """Return bounds on epsilon at delta in [0, 1] of a history; the larger of the two directions.

        Raises:
          InvalidParameterError: see `composition.parse_history`.
        """
        entries = list(history)
        if len(entries) > FEW_ENTRIES and 0.0 < delta < 1.0:
            with suppress(OutOfReachError):  # all phases at once follow
                run = continued(self._runs.get(delta), entries, delta)
                if run is not None:
                    others = [(key, value) for key, value in self._runs.items() if key != delta]
                    self._runs = dict([*others[1 - MAX_TABLES :], (delta, run)])  # replaced: others may be reading
                    return run.bounds
        return self._of_phases(compose(entries), delta)

    def _of_phases(self, steps: Composition, delta: float) -> Bounds:
        """Return bounds by a table for about the numbers of steps."""
        if not (steps.phases and steps.log_hidden == 0.0 and 0.0 < delta < 1.0):
            return history_epsilon(steps, delta)
        about = replace(steps, steps=_rounded(steps.steps), gaussian=float(_rounded(np.array([steps.gaussian]))[0]))
        numbers = (about.noise_multiplier, about.sample_rate, about.steps, np.array([about.gaussian, delta]))
        key = tuple(array.tobytes() for array in numbers)
        entry = self._tables.get(key)
        if entry is None:
            keep: list[Table] = []
            found = history_epsilon_and_table(about, delta, keep)
            entry = (keep[-1] if keep else None, found.upper)
            # replaced, not altered: another thread may be reading
            self._tables = dict([*list(self._tables.items())[1 - MAX_TABLES :], (key, entry)])
        table, start = entry
        known = None if table is None else epsilon_by_table(table, steps, delta, start)
        return history_epsilon(steps, delta) if known is None else known


@dataclass(frozen=True, slots=True)
class Run:
    """A history of which all terms are known, and what more steps need; never altered.

    Args:
      plan: where the lines are: chosen when mu^2 reached a power of LEVEL, `level`, for a history that goes on to the
        next one.
      past: the history.
      end: the last entry.
      done: the terms of all its entries but the last, as of one step of one phase; None if they have none.
      last: the terms of one step of the last entry; None if it has none.
      foresight: the terms of steps that may follow; None if it is not known which.
      unsampled: steps / noise_multiplier^2 of the entries before the last whose steps sample every example.
      mu_squared: about that of the entries before the last.
      bounds: on epsilon.
    """

    plan: Plan
    level: int
    past: list[Entry]
    end: Composition
    done: Terms | None
    last: Terms | None
    foresight: Foresight | None
    unsampled: tuple[float, ...]
    mu_squared: float
    bounds: Bounds

    def holds(self, entries: list[Any]) -> bool:
        """Whether a history is this one up to the number of steps in its last entry, with or without more entries."""
        known = len(self.past)
        try:
            same = len(entries) >= known and entries[: known - 1] == self.past[:-1]
        except (TypeError, ValueError, RuntimeError):  # arrays do not say whether they are equal
            return False
        return same and _plain(entries[known - 1 :]) and entries[known - 1][:2] == self.past[-1][:2]


def continued(run: Run | None, entries: list[Any], delta: float) -> Run | None:
    """Return the run of a history, made from another one of which it is the continuation, or new.

    None if its epsilon is not found to be narrow by such means, or an entry is no triple of plain numbers in their
    ranges.

    Raises:
      OutOfReachError: a grid would be too large.
    """
    holds = run is not None and run.holds(entries)
    if not holds:
        entries = [tuple(entry) if type(entry) is list else entry for entry in entries]  # type: ignore[arg-type]
    with suppress(InvalidParameterError):  # who composes all of it says where
        failed = None
        if run is not None and (holds or run.holds(entries)):
            if len(entries) == len(run.past) and entries[-1] == run.past[-1]:
                return run  # asked again
            further = _add_up(run, entries[len(run.past) - 1 :], delta)
            if further is not None:
                return further
            failed = run.level
        return _begin(entries, delta, failed) if _plain(entries) else None
    return None


def _add_up(run: Run, fresh: list[Entry], delta: float) -> Run | None:
    """Return the run with further entries, the first of which replaces its last one; None if it needs another plan."""
    first = run.end if fresh[0] == run.past[-1] else compose(fresh[:1])
    between, end = (compose(fresh[1:-1]) if len(fresh) > 2 else None), compose(fresh[-1:])
    if min(steps.log_hidden for steps in (first, between, end) if steps is not None) < 0.0:
        return None
    past, done, last, foresight = run.past[:-1] + fresh, run.done, run.last, run.foresight
    unsampled, mu_squared = run.unsampled, run.mu_squared
    if len(fresh) > 1:
        done = _joined(done, last, first.steps)
        if between is not None and between.phases:
            done = _joined(done, run.plan.product(between), np.ones(1))
        last, foresight = _last_terms(run.plan, past, end, foresight)
        unsampled = (*unsampled, *_unsampled(fresh[:-1]))
        mu_squared += _mu_squared(first) + (0.0 if between is None else _mu_squared(between))
    if _level(mu_squared + _mu_squared(end)) != run.level:
        return None
    further = Run(run.plan, run.level, past, end, done, last, foresight, unsampled, mu_squared, run.bounds)
    return _proved(further, delta)


def _begin(entries: list[Entry], delta: float, failed: int | None) -> Run | None:
    """Return the run of a history, from its first step on; `failed` is a level whose plan did not do."""
    steps, before = compose(entries), compose(entries[:-1])
    if steps.log_hidden < 0.0 or not before.phases:
        return None
    sums = np.cumsum([_mu_squared(compose([entry])) for entry in entries])
    level = _level(float(sums[-1]))
    reached = int(np.argmax(sums >= LEVEL**level))
    known = len(entries)
    # a level's first plan serves all of it if the noise goes on as it did; then one from here on, for ever less to come
    ways = [] if level == failed else [(reached + 1, LEVEL ** (level + 1))]
    ways += [(known, max(LEVEL ** (level + 1), 2.0 * sums[-1])), (known, 1.5 * sums[-1]), (known, 0.0)]
    for first, mu_squared in dict.fromkeys(ways):  # what failed once is not tried again
        about = [*entries[:first], *_future(entries[:first], float(mu_squared - sums[first - 1]))]
        plan = plan_for(compose(about), delta, history_epsilon_and_table)
        plan = None if plan is None else plan.lighter(delta)
        while plan is not None:
            found = _by_plan(plan, level, entries, steps, before, delta)
            if found is not None:
                return found
            plan = plan.longer()
    return None


def _by_plan(
    plan: Plan, level: int, entries: list[Entry], steps: Composition, before: Composition, delta: float
) -> Run | None:
    """Return the run of a history by a plan, from its first step on, if it is narrow; `before` is without the last."""
    if not plan.suits(steps, delta):
        return None
    end = compose(entries[-1:])
    done, (last, foresight) = plan.product(before), _last_terms(plan, entries, end, None)
    unsampled, guess = _unsampled(entries[:-1]), Bounds(0.0, plan.epsilon)
    return _proved(Run(plan, level, entries, end, done, last, foresight, unsampled, _mu_squared(before), guess), delta)


def _future(entries: list[Entry], mu_squared: float) -> list[Entry]:
    """Return how a history may go on until it has so much more mu^2: its noise falling as it did, if it did.

    Lines for a longer history serve a shorter one, but not the other way round: they lie too near where the generating
    function takes off when the noise has fallen.
    """
    s, q, _ = entries[-1]
    half = entries[len(entries) // 2 :]
    count = sum(n for _, _, n in half)
    if not (s > 0.0 and q > 0.0 and half[0][0] > 0.0 and mu_squared > 0.0):
        return []
    fall = min(math.log(s / half[0][0]) / max(count, 1), 0.0)
    block, future = 1, []
    while block < MOST_STEPS:
        noise = [s * math.exp(max(fall * block * (i + 0.5), LARGEST_FALL)) for i in range(BLOCKS)]
        future = [(value, q, block) for value in noise]
        enough = np.cumsum([_mu_squared(compose([entry])) for entry in future]) >= mu_squared
        if enough.any():
            return future[: int(np.argmax(enough)) + 1]
        block *= 2
    return future


def _proved(run: Run, delta: float) -> Run | None:
    """Return the run with its bounds, if these are narrow."""
    terms, counts, end = run.done, np.ones(1), run.end
    if terms is None:
        return None
    if run.last is not None and end.phases:
        terms, counts = terms.joined(run.last), np.append(counts, end.steps)
    gaussian = math.fsum((*run.unsampled, end.gaussian))
    bounds = terms.epsilon(counts, gaussian, delta, run.bounds.upper)
    return None if bounds is None else replace(run, bounds=bounds)


def _last_terms(
    plan: Plan, entries: list[Entry], end: Composition, foresight: Foresight | None
) -> tuple[Terms | None, Foresight | None]:
    """Return the terms of one step of the last entry, `end`, None if it has none; and those of steps that may follow.

    `foresight` is what was known of those before.
    """
    known = None if foresight is None else foresight.of(entries[-1])
    if known is None:
        foresight = foresee(plan, entries)
        known = None if foresight is None else foresight.of(entries[-1])
    return _terms_of(plan, entries[-1], end) if known is None else known, foresight


def _terms_of(plan: Plan, entry: Entry, end: Composition) -> Terms | None:
    """Return the terms of one step of an entry, `end`; None if it has none."""
    one = end if end.phases and float(end.steps[0]) == 1.0 else compose([(*entry[:2], 1)])
    return plan.terms(one, decaying=False) if one.phases else None


def _unsampled(entries: list[Entry]) -> tuple[float, ...]:
    """Return steps / noise_multiplier^2 of the entries whose steps sample every example."""
    return tuple(n / s / s for s, q, n in entries if q == 1.0)


def _joined(done: Terms | None, more: Terms | None, counts: FloatArray) -> Terms | None:
    """Return the terms of both, as of one step of one phase, with so many steps of the second."""
    if more is None or not counts.size:
        return done
    if done is None:
        return more.product(counts)
    return done.joined(more).product(np.append(1.0, counts))


def _mu_squared(step: Composition) -> float:
    """Return about mu^2 of steps."""
    return float(gaussian_like(step).sum()) + step.gaussian


def _level(mu_squared: float) -> int:
    """Return the greatest k with LEVEL^k <= mu^2."""
    return math.floor(math.log(max(mu_squared, 1e-280)) / math.log(LEVEL))


def _plain(entries: list[Any]) -> bool:
    """Whether all entries are triples of plain numbers, which cannot change."""
    return all(
        type(entry) is tuple and len(entry) == 3 and all(type(number) in (float, int) for number in entry)
        for entry in entries
    )


def _rounded(numbers: FloatArray) -> FloatArray:
    """Return the numbers rounded to two significant bits; whole ones stay whole."""
    mantissa, exponent = np.frexp(numbers)
    return np.ldexp(np.rint(4.0 * mantissa) / 4.0, exponent)
