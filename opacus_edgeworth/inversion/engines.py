"""Delta and epsilon of a composition: the engines in turn, both directions, limits first."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import numpy as np

from opacus_edgeworth._types import Direction
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.chain import chain_for_epsilon, router_for_delta, router_for_epsilon
from opacus_edgeworth.inversion.contour import (
    MAX_WORK,
    LineTable,
    chernoff_bound,
    contour_for_epsilon,
    line_for_epsilon,
    make_lines,
)
from opacus_edgeworth.inversion.elementary import (
    distance_bound,
    elementary_delta,
    elementary_epsilon,
    nearly_noiseless_delta,
)
from opacus_edgeworth.inversion.exact import exact_delta, has_closed_form
from opacus_edgeworth.inversion.few import few_of
from opacus_edgeworth.inversion.grid import Grid, make_grid
from opacus_edgeworth.inversion.inverting import NARROW, NARROW_CHAIN, Table, by_lines, invert, invert_line
from opacus_edgeworth.inversion.law import barrier_for, law_for_tilt, softness
from opacus_edgeworth.inversion.many import MANY, delta_of_many, epsilon_of_many
from opacus_edgeworth.inversion.root import invert_delta
from opacus_edgeworth.inversion.route import Router
from opacus_edgeworth.inversion.saddle import LOG_CUT, SOFT_SHARE, rough_grid, saddle_for_delta
from opacus_edgeworth.mechanisms import ULP

Proof: TypeAlias = Callable[[float], Bounds]
"""Bounds on one direction's delta at any epsilon >= 0; sharp near one of them."""

LOG_RELATIVE_CUT = 35.0
"""How far below delta the mass that is cut off lies, in log."""
QUICK_WORK = 3e7
"""Products of nodes and scores up to which a line is tried before a chain; chains of many phases take long, too."""
CHERNOFF_FACTORS = (0.1, 0.2, 0.35, 0.6, 1.0, 1.5, 2.5, 4.0)
"""Tilts that are tried for the add direction: (c - 1) epsilon in units of 1 - log(delta)."""
LARGEST_GAP = 1e15
"""Of these tilts; products with larger ones may overflow."""
FEW_EVENTS = 100.0
"""Up to this epsilon over delta a chain may be made for the add direction: digits are lost in that proportion."""
LITTLE = 1e-3
"""Share of epsilon that a phase may at most reveal in the add direction to be left out there."""
WIDE = 1e-6
"""Relative width from which on a few steps are composed as atoms."""
MAX_CHAINS = 4
"""How many are made for one epsilon."""
NOTHING = 1e-60
"""A delta that may be less is bounded by Chernoff, too: lines cannot tell it from nothing."""
LEAST_DELTA = 1e-250
"""Below it no chain is made: its tables would underflow."""


def history_delta(steps: Composition, epsilon: float) -> Bounds:
    """Return bounds on delta at epsilon in [0, inf]; the larger of the two directions."""
    if steps.is_empty:
        return Bounds(0.0, 0.0)
    if steps.log_hidden < 0.0:
        return steps.noiseless_delta()
    if math.isinf(epsilon):
        return Bounds(0.0, 0.0)
    quick = nearly_noiseless_delta(steps, epsilon, "remove").larger(nearly_noiseless_delta(steps, epsilon, "add"))
    if quick.relative_width <= NARROW:
        return quick
    if steps.phases > MANY and epsilon > 0.0:
        found = delta_of_many(steps, epsilon, history_delta, history_epsilon_and_table)
        if found is not None:
            return found
    grid, known = grid_or_none(steps), Bounds(0.0, 1.0)
    if grid is not None:
        with suppress(OutOfReachError):  # each direction by itself follows
            c = contour_for_epsilon(grid, epsilon, "remove")
            remove, add = make_lines(grid, c, ("remove", "add"), epsilon, quick_work(steps)).lines(steps)
            known = remove.delta(epsilon)
            bounds = known.larger(add.delta(epsilon))
            if bounds.relative_width <= NARROW:
                return bounds
    remove = known.intersect(direction_delta(steps, grid, epsilon, "remove"))
    if epsilon == 0.0 and remove.relative_width <= NARROW:
        return remove  # the total variation distance is that of either direction
    add = add_direction_delta(steps, epsilon, remove.lower)
    return remove.larger(add) if epsilon > 0.0 else remove.intersect(add)


def history_direction_delta(
    steps: Composition, epsilon: float, direction: Direction, keep: list[Proof] | None = None
) -> Bounds:
    """Return bounds on one direction's delta at epsilon in [0, inf].

    What proves them at other epsilons, too, is appended to `keep`.
    """
    if steps.is_empty:
        return Bounds(0.0, 0.0)
    if steps.log_hidden < 0.0:
        return steps.noiseless_delta() if direction == "remove" else Bounds(0.0, 1.0)
    if math.isinf(epsilon) or (direction == "add" and epsilon >= steps.add_direction_limit()):
        return Bounds(0.0, 0.0)
    quick = nearly_noiseless_delta(steps, epsilon, direction)
    if quick.relative_width <= NARROW:
        return quick
    grid, known = grid_or_none(steps), Bounds(0.0, 1.0)
    if grid is not None:
        with suppress(OutOfReachError):  # the other engines follow
            c = contour_for_epsilon(grid, epsilon, direction)
            line = make_lines(grid, c, (direction,), epsilon, quick_work(steps)).lines(steps)[0]
            known = line.delta(epsilon)
            if known.relative_width <= NARROW:
                if keep is not None:
                    keep.append(line.delta)
                return known
    return known.intersect(direction_delta(steps, grid, epsilon, direction, keep))


def history_epsilon(steps: Composition, delta: float) -> Bounds:
    """Return bounds on epsilon at delta in [0, 1]; the larger of the two directions."""
    if steps.phases > MANY and steps.log_hidden == 0.0 and 0.0 < delta < 1.0:
        found = epsilon_of_many(steps, delta, history_epsilon_and_table)
        if found is not None:
            return found
    return history_epsilon_and_table(steps, delta, [])


def history_epsilon_and_table(steps: Composition, delta: float, keep: list[Table]) -> Bounds:
    """Return what `history_epsilon` does, and append the table behind it to `keep`, if one table is."""
    if steps.is_empty or delta == 1.0:
        return Bounds(0.0, 0.0)
    if steps.log_hidden < 0.0:
        return steps.noiseless_epsilon(delta)
    if delta == 0.0:
        return Bounds(math.inf, math.inf)
    if distance_bound(steps) <= delta:
        return Bounds(0.0, 0.0)
    grid, known = grid_or_none(steps, math.log(delta) - LOG_RELATIVE_CUT), Bounds(0.0, math.inf)
    start = math.inf
    if grid is not None:
        with suppress(OutOfReachError):  # each direction by itself follows
            c, start = saddle_for_delta(grid, delta, "remove")
            table = make_lines(grid, c, ("remove", "add"), start, quick_work(steps))
            known, enough = by_lines(table, steps, delta, start)
            if enough:
                keep.append(table)
                return known
    if math.isinf(start) and not has_closed_form(steps) and history_delta(steps, 0.0).upper <= delta:
        return Bounds(0.0, 0.0)
    remove = known.intersect(direction_epsilon(steps, grid, delta, "remove", start, keep))
    if remove.lower == 0.0 < remove.upper and history_delta(steps, 0.0).upper <= delta:
        return Bounds(0.0, 0.0)
    if math.isinf(remove.upper) or add_direction_delta(steps, remove.upper, delta).upper <= delta:
        return remove
    return remove.larger(direction_epsilon(steps, grid, delta, "add"))


def epsilon_by_table(table: Table, steps: Composition, delta: float, start: float) -> Bounds | None:
    """Return bounds on epsilon at delta in (0, 1) by a table that was made for about as many steps, if it does.

    `start` is a first guess.
    """
    if isinstance(table, LineTable):
        known, enough = by_lines(table, steps, delta, start)
        return known if enough else None
    known = invert(table.chain(steps).delta, steps, delta, "remove", start, 1.0 / max(start, 1e-12))
    if known.relative_width <= NARROW_CHAIN and add_direction_delta(steps, known.upper, delta).upper <= delta:
        return known
    return None


def quick_work(steps: Composition) -> float:
    """Return the work up to which a line is tried before a chain."""
    return min(QUICK_WORK * (1.0 + 0.1 * steps.phases), MAX_WORK)


def grid_or_none(steps: Composition, log_cut: float = LOG_CUT) -> Grid | None:
    """Return the grid that the engines share; None where a closed form or only elementary bounds will be used."""
    if has_closed_form(steps):
        return None
    try:
        return rough_grid(steps, log_cut)
    except OutOfReachError:
        return None


def direction_delta(
    steps: Composition,
    grid: Grid | None,
    epsilon: float,
    direction: Direction,
    keep: list[Proof] | None = None,
) -> Bounds:
    """Return bounds on one direction's delta at epsilon >= 0, by the engines in turn until one is narrow.

    Without a grid no line is tried. What proves narrow bounds is appended to `keep`.
    """
    if direction == "add" and epsilon >= steps.add_direction_limit():
        return Bounds(0.0, 0.0)
    if has_closed_form(steps):
        return exact_delta(steps, epsilon, direction)
    bounds = elementary_delta(steps, epsilon, direction)
    if direction == "remove" and bounds.upper > LEAST_DELTA:
        # as a function of e^epsilon delta falls, but with a slope of -1 at most: good to know near epsilon = 0
        at = max(epsilon, 1e-11 * bounds.lower)
        more = (math.expm1(at) - math.expm1(epsilon)) * (1.0 + 1e-12) if at > epsilon else 0.0
        least = max(bounds.lower - more, 0.0) * (1.0 - 2.0 * ULP)
        found = _chain_delta(steps, at, Bounds(least, bounds.upper), keep)
        bounds = bounds.intersect(Bounds(found.lower, found.upper + more))
    if grid is not None and bounds.relative_width > NARROW:
        with suppress(OutOfReachError):  # what is known must do
            line = line_for_epsilon(grid, epsilon, direction)
            bounds = bounds.intersect(line.delta(epsilon))
            if keep is not None and bounds.relative_width <= NARROW:
                keep.append(line.delta)
    if direction == "add" and bounds.relative_width > NARROW and epsilon < FEW_EVENTS * bounds.upper:
        bounds = bounds.intersect(_add_delta_by_chain(steps, epsilon, bounds, keep))
    if direction == "add" and bounds.relative_width > NARROW:
        bounds = bounds.intersect(_add_delta_of_fewer(steps, epsilon))
    if bounds.lower < NOTHING < bounds.upper and epsilon > 0.0:
        bounds = bounds.intersect(Bounds(0.0, _chernoff_delta(steps, epsilon, direction, NOTHING)))
    return bounds if bounds.relative_width <= WIDE else bounds.intersect(_delta_of_few(steps, epsilon, direction, keep))


def _delta_of_few(steps: Composition, epsilon: float, direction: Direction, keep: list[Proof] | None = None) -> Bounds:
    """Return bounds on delta at epsilon >= 0 by atoms, if the steps are few; see `direction_delta`."""
    few = few_of(steps)
    if few is None:
        return Bounds(0.0, 1.0)

    def prove(epsilon: float) -> Bounds:
        return few.delta(epsilon) if direction == "remove" else _add_of_remove(few.delta(-epsilon), epsilon)

    if keep is not None:
        keep.append(prove)
    return prove(epsilon)


def _add_delta_of_fewer(steps: Composition, epsilon: float) -> Bounds:
    """Return bounds on delta in the add direction without the phases that hardly reveal anything in it.

    There their loss is at most r = -sum n log(1 - q), so they move epsilon by r at most; and forgetting them is
    post-processing.
    """
    most = -steps.steps * np.log1p(-steps.sample_rate)
    quiet = most < LITTLE * epsilon
    moved = float(most[quiet].sum()) * (1.0 + ULP * (steps.phases + 8))
    if not quiet.any() or (quiet.all() and steps.gaussian == 0.0) or moved >= epsilon:
        return Bounds(0.0, 1.0)
    rest = steps.select(np.flatnonzero(~quiet))
    grid = grid_or_none(rest)
    low, high = (direction_delta(rest, grid, e, "add") for e in (epsilon, (epsilon - moved) * (1.0 - 2.0 * ULP)))
    return Bounds(low.lower, high.upper)


def _add_delta_by_chain(steps: Composition, epsilon: float, known: Bounds, keep: list[Proof] | None = None) -> Bounds:
    """Return bounds on delta in the add direction: 1 - e^epsilon (1 - delta of the remove direction at -epsilon)."""
    growth, more = math.exp(epsilon), math.expm1(epsilon)
    made: list[Proof] = []
    at_least, at_most = (known.lower + more) / growth, min((known.upper + more) / growth, 1.0)
    found = _chain_delta(steps, -epsilon, Bounds(at_least, at_most), made)
    if made and keep is not None:
        keep.append(lambda e: _add_of_remove(made[-1](-e), e))
    return _add_of_remove(found, epsilon)


def _add_of_remove(remove: Bounds, epsilon: float) -> Bounds:
    """Return bounds on delta in the add direction at epsilon >= 0 from those in the remove direction at -epsilon."""
    if epsilon > 700.0:  # e^epsilon overflows
        return Bounds(0.0, 1.0)
    growth, more = math.exp(epsilon), math.expm1(epsilon)
    room = 8.0 * ULP * (remove.upper * growth + more)
    lower, upper = (max(end * growth - more, 0.0) for end in (remove.lower, remove.upper))
    return Bounds(max(lower - room, 0.0), min(upper + room, 1.0))


def _chain_delta(steps: Composition, at: float, known: Bounds, keep: list[Proof] | None = None) -> Bounds:
    """Return bounds on delta in the remove direction by a chain, at an epsilon that is not 0; see `direction_delta`."""
    with suppress(OutOfReachError):  # what is known must do
        router = router_for_epsilon(steps, at, math.log(known.upper))
        for _ in range(3):
            with suppress(OutOfReachError):  # more barriers follow
                chain = chain_for_epsilon(router, at).chain(steps)
                known = known.intersect(chain.delta(at))
                if known.relative_width <= NARROW_CHAIN:
                    if keep is not None:
                        keep.append(chain.delta)
                    break
            # barriers depend on the delta that there is
            router = Router(steps, min(router.log_delta, math.log(known.upper)), at, fine=True)
    return known


def add_direction_delta(steps: Composition, epsilon: float, enough: float, keep: list[Proof] | None = None) -> Bounds:
    """Return bounds on delta in the add direction, by Chernoff if that is at most `enough`; see `direction_delta`."""
    quick = nearly_noiseless_delta(steps, epsilon, "add")
    if quick.upper <= enough or quick.relative_width <= NARROW:
        return quick
    if has_closed_form(steps) or epsilon >= steps.add_direction_limit() or not enough > LEAST_DELTA:
        return direction_delta(steps, grid_or_none(steps), epsilon, "add", keep)
    if epsilon > 0.0:
        upper = _chernoff_delta(steps, epsilon, "add", enough)
        if upper <= enough:
            return Bounds(0.0, upper)
    return direction_delta(steps, grid_or_none(steps, math.log(enough) - LOG_RELATIVE_CUT), epsilon, "add", keep)


def _chernoff_delta(steps: Composition, epsilon: float, direction: Direction, enough: float) -> float:
    """Return an upper bound on one direction's delta at epsilon > 0, good where it is `enough`, about; 1 if none."""
    gaps = [min(factor * (1.0 - math.log(enough)) / epsilon, LARGEST_GAP) for factor in CHERNOFF_FACTORS]
    tilt = 1.0 if direction == "add" else 1.0 + max(gaps)
    soft = softness(steps, SOFT_SHARE)
    with suppress(OutOfReachError):
        law = law_for_tilt(steps, tilt, soft, barrier_for(steps, math.log(enough) - LOG_RELATIVE_CUT, soft))
        grid = make_grid(law, -max(gaps) if direction == "add" else 0.0, tilt, 0.0)
        return min(chernoff_bound(grid, [1.0 + gap for gap in gaps], direction, epsilon), 1.0)
    return 1.0


def direction_epsilon(
    steps: Composition,
    grid: Grid | None,
    delta: float,
    direction: Direction,
    start: float = math.inf,
    keep: list[Table] | None = None,
) -> Bounds:
    """Return bounds on one direction's epsilon at delta in (0, 1), by the engines in turn until one is narrow.

    Without a grid no line is tried; `start` is a first guess; the table of a narrow chain is appended to `keep`.
    """
    most = elementary_epsilon(steps, delta)
    if has_closed_form(steps):
        return invert_delta(lambda e: direction_delta(steps, None, e, direction), delta, most, 1.0)
    bounds = Bounds(0.0, most)
    if direction == "remove":
        bounds = _chain_epsilon(steps, delta, min(max(start, 1e-12), most), bounds, [] if keep is None else keep)
    if grid is not None and bounds.relative_width > NARROW:
        with suppress(OutOfReachError):  # what is known must do
            c, start = saddle_for_delta(grid, delta, direction)
            line = make_lines(grid, c, (direction,), start).lines(steps)[0]
            bounds = bounds.intersect(invert_line(line, steps, delta, direction, start))
    if bounds.relative_width > WIDE and few_of(steps) is not None:
        by_few = partial(_delta_of_few, steps, direction=direction)
        bounds = bounds.intersect(invert(by_few, steps, delta, direction, bounds.upper, 1.0))
    return bounds


def _chain_epsilon(steps: Composition, delta: float, start: float, known: Bounds, keep: list[Table]) -> Bounds:
    """Return bounds on epsilon in the remove direction by chains, intersected with what is known."""
    with suppress(OutOfReachError):  # what is known must do
        try:
            router, guess = router_for_delta(steps, delta, start)
        except OutOfReachError:  # led astray
            router, guess = router_for_delta(steps, delta, known.upper)
        for attempt in range(MAX_CHAINS):
            with suppress(OutOfReachError):  # more barriers follow
                table = chain_for_epsilon(router, guess)
                chain = table.chain(steps)
                if guess < delta and chain.delta(guess).upper + math.expm1(min(guess, 1.0)) * (1.0 + 1e-12) <= delta:
                    return Bounds(0.0, 0.0)  # since delta(0) is at most that
                known = known.intersect(invert(chain.delta, steps, delta, "remove", guess, 1.0 / guess))
                if known.relative_width <= (NARROW if attempt == 0 else NARROW_CHAIN) or known.upper < delta:
                    keep.append(table)
                    break
            # again, near the epsilon that was found; where delta hardly falls the tables may be far from it
            guess = known.upper if attempt % 2 == 0 else 0.5 * (known.lower + known.upper)
            router = Router(steps, math.log(delta), guess, fine=True)
    return known
