"""Delta and epsilon of a history of steps of any kind: both directions, limits first, then atoms or a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress

from opacus_edgeworth._types import Direction
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition, OtherMechanism
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.engines import Proof
from opacus_edgeworth.inversion.nearby import DirectionDelta
from opacus_edgeworth.inversion.root import invert_delta
from opacus_edgeworth.inversion.saddle import LOG_CUT
from opacus_edgeworth.mixed.atoms import Atoms
from opacus_edgeworth.mixed.contour import (
    Parts,
    SmoothedLine,
    chernoff_delta,
    chernoff_epsilon,
    make_line,
    nearly_all,
    saddle_for_delta,
    saddle_for_epsilon,
)
from opacus_edgeworth.mixed.outcomes import delta_over_outcomes
from opacus_edgeworth.mixed.side import Side, is_symmetric, make_side

NARROW = 1e-8
"""Relative width at which no more nodes are spent."""
WIDE, WIDE_EPSILON = 1e-6, 1e-4
"""Relative widths, of delta and epsilon, from which a few outcomes are gone through one by one."""
LEAST = 1e-320
"""Up to this delta nothing is gained by a line."""
USEFUL = 1e-3
"""Relative width of delta up to which a line may serve at other epsilons."""
MAX_OUTCOMES, MAX_OUTCOMES_EPSILON = 12, 3
BUDGETS = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18)
"""Nodes of a line: the more, the less it must be smoothed."""
LARGEST_EPSILON = 1e12
LARGEST_VARIANCE = 1e15
"""Of unsampled Gaussian steps: beyond, single steps' bounds must do."""
LADDER = [2.0**k for k in range(-10, 31, 2)]
"""Values of c - 1 at which Chernoff's bound is tried where no saddle point is found."""
GAP_SHARES = (1.0, 0.7, 0.5, 0.3)
"""Shares of the saddle point's c - 1 that are tried."""
CHERNOFF_FACTORS = (0.1, 0.2, 0.35, 0.6, 1.0, 1.5, 2.5, 4.0)
"""Tilts that are tried for an upper bound that may be enough: (c - 1) epsilon in units of 1 - log(delta)."""
LOG_RELATIVE_CUT = 40.0
"""How far below delta the mass that is cut off lies, in log."""

Others = tuple[tuple[OtherMechanism, int], ...]


def mixed_delta(gaussian: Composition, others: Others, epsilon: float) -> Bounds:
    """Return bounds on delta at epsilon in [0, inf]; the larger of the two directions."""
    if gaussian.log_hidden < 0.0:
        return gaussian.noiseless_delta()
    bounds = Bounds(0.0, 0.0)
    for side in _sides(gaussian, others):
        bounds = bounds.larger(_side_delta(side, epsilon, bounds.lower))
    return bounds


def mixed_direction_delta_of(gaussian: Composition, others: Others) -> DirectionDelta:
    """Return the deltas of steps of any kind, in one direction at a time."""
    sides: dict[Direction, Side] = {
        "remove": make_side(gaussian, others, "remove"),
        "add": make_side(gaussian, others, "add"),
    }

    def new(epsilon: float, direction: Direction, enough: float | None, keep: list[Proof]) -> Bounds:
        if gaussian.log_hidden < 0.0:
            return gaussian.noiseless_delta() if direction == "remove" else Bounds(0.0, 1.0)
        side = sides[direction]
        if not side.others and gaussian.is_empty:
            return Bounds(0.0, 0.0)
        return _side_delta(side, epsilon, enough or 0.0, keep)

    return new


def mixed_epsilon(gaussian: Composition, others: Others, delta: float) -> Bounds:
    """Return bounds on epsilon at delta in [0, 1]; the larger of the two directions."""
    if delta == 1.0:
        return Bounds(0.0, 0.0)
    if gaussian.log_hidden < 0.0:
        return gaussian.noiseless_epsilon(delta)
    bounds = Bounds(0.0, 0.0)
    for side in _sides(gaussian, others):
        if not 0.0 < bounds.upper < math.inf or _side_delta(side, bounds.upper, delta).upper > delta:
            bounds = bounds.larger(_side_epsilon(side, delta))
    return bounds


def _sides(gaussian: Composition, others: Others) -> Iterator[Side]:
    """Yield the directions that differ, as far as they reveal anything."""
    for direction in ("remove",) if is_symmetric(gaussian, others) else ("remove", "add"):
        side = make_side(gaussian, others, direction)
        if side.others or not gaussian.is_empty:
            yield side


def _side_delta(side: Side, epsilon: float, enough: float, keep: list[Proof] | None = None) -> Bounds:
    """Return bounds on one direction's delta; an upper bound alone if that is at most `enough`.

    What proves them at other epsilons, too, is appended to `keep`.
    """
    revealed, keep = side.revealed(), [] if keep is None else keep
    if epsilon >= side.largest_loss().upper:
        return revealed
    if epsilon > LARGEST_EPSILON:
        return Bounds(revealed.lower, _side_delta(side, LARGEST_EPSILON, enough).upper)
    exact = side.closed_form(epsilon)
    if exact is not None:
        return exact
    if side.is_discrete:
        with suppress(OutOfReachError):  # a line follows
            atoms = side.atoms()
            keep.append(lambda e: _add(atoms.delta(e), revealed))
            return _add(atoms.delta(epsilon), revealed)
    known = Bounds(_lower_delta(side, _atoms_alone(side), epsilon), 1.0)
    if not side.gaussian.gaussian < LARGEST_VARIANCE:
        return known
    with suppress(OutOfReachError):  # what is known must do
        total = side.parts(LOG_CUT)
        if enough > 0.0 and epsilon > 0.0:
            upper = _quick_delta(total, epsilon, enough) + revealed.upper
            if upper * (1.0 + 1e-12) <= enough:
                return Bounds(0.0, enough)
        known = known.intersect(Bounds(max(math.nextafter(1.0 - nearly_all(total, epsilon), 0.0), 0.0), 1.0))
        if known.relative_width > NARROW:
            known = _delta_by_lines(side, total, epsilon, known, keep)
    if known.relative_width > WIDE:
        with suppress(OutOfReachError):  # what is known must do
            atoms = _few_atoms(side, MAX_OUTCOMES)
            finite = delta_over_outcomes(atoms, side.gaussian, epsilon, side.direction)
            known = known.intersect(_add(finite, revealed))
    return known


def _atoms_alone(side: Side) -> Atoms | None:
    """Return the outcomes in which every step's loss is an atom, if there are any, and not too many."""
    with suppress(OutOfReachError):  # single steps must do
        atoms = side.atoms_alone()
        if atoms is not None and atoms.loss.size > 0:
            return atoms
    return None


def _lower_delta(side: Side, atoms: Atoms | None, epsilon: float) -> float:
    """Return a lower bound on one direction's delta: of single steps, or of outcomes that are all atoms."""
    lower = side.lower_bound(epsilon)
    if atoms is not None:
        lower = max(lower, _add(atoms.delta(epsilon), side.revealed()).lower)
    return min(lower, 1.0)


def _few_atoms(side: Side, most: int) -> Atoms:
    """Return the steps without Gaussian noise as so many atoms at most.

    Raises:
      OutOfReachError: some of them are continuous, or there are too many.
    """
    if side.others_are_discrete:
        atoms = side.atoms()
        if atoms.loss.size <= most:
            return atoms
    raise OutOfReachError("the outcomes are too many")


def _quick_delta(total: Parts, epsilon: float, enough: float) -> float:
    """Return the least of Chernoff bounds on delta at points where it may be `enough`."""
    scale = min((1.0 - math.log(enough)) / epsilon, LADDER[-1])
    return _least_chernoff(total, epsilon, [factor * scale for factor in CHERNOFF_FACTORS])


def _least_chernoff(total: Parts, epsilon: float, gaps: list[float]) -> float:
    """Return the least of Chernoff bounds on delta at c = 1 + gap."""
    least = math.inf
    for gap in gaps:
        with suppress(OutOfReachError):  # the others must do
            least = min(least, chernoff_delta(total, epsilon, 1.0 + gap))
    return least


def _delta_by_lines(side: Side, total: Parts, epsilon: float, known: Bounds, keep: list[Proof]) -> Bounds:
    """Return bounds on one direction's delta by lines, intersected with what is known; see `_side_delta`."""
    revealed = side.revealed()
    try:
        c = saddle_for_epsilon(total, epsilon)
        upper = chernoff_delta(total, epsilon, c)
    except OutOfReachError:  # near the largest loss, mostly
        upper = _least_chernoff(total, epsilon, LADDER)
        return known.intersect(_add(Bounds(0.0, min(upper, 1.0)), revealed))
    if upper < 1.0:
        known = known.intersect(_add(Bounds(0.0, upper), revealed))
    if known.upper <= LEAST:
        return known
    if side.gaussian.phases > 0 and math.log(upper + 1e-300) - LOG_RELATIVE_CUT > LOG_CUT:
        total = side.parts(math.log(upper) - LOG_RELATIVE_CUT)
        c = saddle_for_epsilon(total, epsilon)
    with suppress(OutOfReachError):  # what is known must do
        for line in _lines(total, c, epsilon):
            found = _add(line.delta(epsilon), revealed)
            known = known.intersect(found)
            if found.relative_width <= USEFUL:
                keep.append(lambda e, line=line: _add(line.delta(e), revealed))
            if known.relative_width <= NARROW:
                break
    return known


def _side_epsilon(side: Side, delta: float) -> Bounds:
    """Return bounds on one direction's epsilon at delta < 1."""
    revealed, largest = side.revealed(), side.largest_loss()
    largest = Bounds(max(largest.lower, 0.0), max(largest.upper, 0.0))
    if delta < revealed.lower:
        return Bounds(math.inf, math.inf)
    if delta == 0.0:
        return largest
    if revealed.upper >= delta:  # the two cannot be told apart
        return Bounds(0.0, math.inf)
    if side.closed_form(0.0) is not None:
        return _invert(lambda e: _side_delta(side, e, 0.0), side, delta, min(0.5 * largest.upper, 1.0), 1.0)
    if side.is_discrete:
        with suppress(OutOfReachError):  # a line follows
            return _invert_atoms(side.atoms(), side, delta)
    known = Bounds(_lower_epsilon(side, delta, largest.upper), largest.upper)
    if known.relative_width <= NARROW or not side.gaussian.gaussian < LARGEST_VARIANCE:
        return known
    with suppress(OutOfReachError):  # what is known must do
        known = _epsilon_by_lines(side, delta, known)
    if known.relative_width > WIDE_EPSILON:
        with suppress(OutOfReachError):  # what is known must do
            atoms = _few_atoms(side, MAX_OUTCOMES_EPSILON)

            def delta_at(epsilon: float) -> Bounds:
                return _add(delta_over_outcomes(atoms, side.gaussian, epsilon, side.direction), revealed)

            start = 0.5 * (known.lower + known.upper) if known.upper < math.inf else 1.0
            known = known.intersect(_invert(delta_at, side, delta, start, 1.0))
    return known


def _lower_epsilon(side: Side, delta: float, most: float) -> float:
    """Return an epsilon up to `most` at which the lower bound on delta is still `delta`, or 0."""
    low, high, atoms = 0.0, min(most, LARGEST_EPSILON), _atoms_alone(side)
    if _lower_delta(side, atoms, low) < delta:
        return 0.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _lower_delta(side, atoms, middle) >= delta else (low, middle)
    return low


def _epsilon_by_lines(side: Side, delta: float, known: Bounds) -> Bounds:
    """Return bounds on one direction's epsilon by lines, intersected with what is known."""
    revealed = side.revealed()
    left = delta - revealed.upper
    total = side.parts(math.log(left) - LOG_RELATIVE_CUT)
    c, start = saddle_for_delta(total, left)
    upper = chernoff_epsilon(total, left * (1.0 - 1e-12), c)
    known = known.intersect(Bounds(0.0, max(upper, known.lower)))
    if start <= 0.0:
        if _side_delta(side, 0.0, 0.0).upper <= delta:
            return Bounds(0.0, 0.0)
        start = 0.0
    with suppress(OutOfReachError):  # what is known must do
        for line in _lines(total, c, start):

            def delta_at(epsilon: float, line: SmoothedLine = line) -> Bounds:
                return _add(line.delta(epsilon), revealed)

            known = known.intersect(_invert(delta_at, side, delta, start, c - 1.0))
            start = 0.5 * (known.lower + known.upper) if known.lower > 0.0 else start
            if known.relative_width <= NARROW or known.upper == 0.0:
                break
    return known


def _lines(total: Parts, c: float, epsilon: float) -> Iterator[SmoothedLine]:
    """Yield lines near c, ever less smooth, as long as that helps and can be afforded.

    A law that was cut off may not be known at the saddle point, but at a lower tilt.
    """
    for share in GAP_SHARES:
        with suppress(OutOfReachError):  # a lower tilt follows
            first = make_line(total, 1.0 + share * (c - 1.0), epsilon, BUDGETS[0])
            break
    else:
        raise OutOfReachError(f"no line near c={c:g}")
    yield first
    for nodes in BUDGETS[1:]:
        if first.is_exact:
            return
        first = make_line(total, first.above.c, epsilon, nodes)
        yield first


def _invert_atoms(atoms: Atoms, side: Side, delta: float) -> Bounds:
    """Return bounds on epsilon by a composition of atoms."""
    revealed = side.revealed()
    start, slope = atoms.guess(delta - revealed.upper)
    return _invert(lambda e: _add(atoms.delta(e), revealed), side, delta, start, slope)


def _invert(delta_at: Callable[[float], Bounds], side: Side, delta: float, start: float, slope: float) -> Bounds:
    """Invert delta, which is known from the largest loss on."""
    largest, revealed = side.largest_loss().upper, side.revealed()

    def at(epsilon: float) -> Bounds:
        return revealed if epsilon >= largest else delta_at(epsilon)

    found = invert_delta(at, delta, min(max(start, 0.0), largest), slope)
    return Bounds(min(found.lower, largest), min(found.upper, largest))


def _add(first: Bounds, second: Bounds) -> Bounds:
    """Return bounds on the sum of two probabilities that is one."""
    lower, upper = first.lower + second.lower, first.upper + second.upper
    if second.upper > 0.0:
        lower, upper = math.nextafter(lower, 0.0), math.nextafter(upper, math.inf)
    return Bounds(max(min(lower, 1.0), 0.0), min(upper, 1.0))
