"""Delta and epsilon of a history of steps of any kind: both directions, limits first, then atoms or a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition, OtherMechanism
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.root import invert_delta
from opacus_edgeworth.inversion.saddle import LOG_CUT
from opacus_edgeworth.mixed.atoms import Atoms
from opacus_edgeworth.mixed.contour import (
    Parts,
    SmoothedLine,
    chernoff_delta,
    make_line,
    saddle_for_delta,
    saddle_for_epsilon,
)
from opacus_edgeworth.mixed.side import Side, is_symmetric, make_side

NARROW = 1e-9
"""Relative width at which no more nodes are spent."""
BUDGETS = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18)
"""Nodes of a line: the more, the less it must be smoothed."""
LOG_RELATIVE_CUT = 40.0
"""How far below delta the mass that is cut off lies, in log."""

Others = tuple[tuple[OtherMechanism, int], ...]


def mixed_delta(gaussian: Composition, others: Others, epsilon: float) -> Bounds:
    """Return bounds on delta at epsilon in [0, inf]; the larger of the two directions."""
    if gaussian.log_hidden < 0.0:  # without noise the example is seen as soon as it is sampled
        return Bounds(-math.expm1(gaussian.log_hidden) * (1.0 - 1e-12), 1.0)
    bounds = Bounds(0.0, 0.0)
    for side in _sides(gaussian, others):
        bounds = bounds.larger(_side_delta(side, epsilon))
    return bounds


def mixed_epsilon(gaussian: Composition, others: Others, delta: float) -> Bounds:
    """Return bounds on epsilon at delta in [0, 1]; the larger of the two directions."""
    if delta == 1.0:
        return Bounds(0.0, 0.0)
    if gaussian.log_hidden < 0.0:
        revealed = -math.expm1(gaussian.log_hidden) * (1.0 - 1e-12)
        return Bounds(math.inf if delta < revealed else 0.0, math.inf)
    bounds = Bounds(0.0, 0.0)
    for side in _sides(gaussian, others):
        bounds = bounds.larger(_side_epsilon(side, delta))
    return bounds


def _sides(gaussian: Composition, others: Others) -> Iterator[Side]:
    """Yield the directions that differ, as far as they reveal anything."""
    for direction in ("remove",) if is_symmetric(gaussian, others) else ("remove", "add"):
        side = make_side(gaussian, others, direction)
        if side.others or not gaussian.is_empty:
            yield side


def _side_delta(side: Side, epsilon: float) -> Bounds:
    """Return bounds on one direction's delta."""
    revealed = side.revealed()
    if epsilon >= side.largest_loss().upper:
        return revealed
    exact = side.closed_form(epsilon)
    if exact is not None:
        return exact
    with suppress(OutOfReachError):  # a line follows
        atoms = side.atoms()
        if atoms is not None:
            return _add(atoms.delta(epsilon), revealed)
    known = Bounds(side.lower_bound(epsilon), 1.0)
    with suppress(OutOfReachError):  # what is known must do
        total = side.parts(LOG_CUT)
        c = saddle_for_epsilon(total, epsilon)
        upper = chernoff_delta(total, epsilon, c)
        if side.gaussian.phases > 0 and math.log(upper + 1e-300) - LOG_RELATIVE_CUT > LOG_CUT:
            total = side.parts(math.log(upper) - LOG_RELATIVE_CUT)
            c = saddle_for_epsilon(total, epsilon)
        for line in _lines(total, c, epsilon):
            known = known.intersect(_add(line.delta(epsilon), revealed))
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
    if revealed.upper > delta:  # the two cannot be told apart
        return Bounds(0.0, math.inf)
    if side.closed_form(0.0) is not None:
        return _invert(lambda e: _side_delta(side, e), side, delta, 0.5 * largest.upper, 1.0)
    with suppress(OutOfReachError):  # a line follows
        atoms = side.atoms()
        if atoms is not None:
            return _invert_atoms(atoms, side, delta)
    left = delta - revealed.lower
    known = Bounds(0.0, largest.upper)
    with suppress(OutOfReachError):  # what is known must do
        total = side.parts(math.log(left) - LOG_RELATIVE_CUT)
        c, start = saddle_for_delta(total, left)
        if start <= 0.0:
            if _side_delta(side, 0.0).upper <= delta:
                return Bounds(0.0, 0.0)
            start = 0.0
        for line in _lines(total, c, start):
            known = known.intersect(
                _invert(lambda e, line=line: _add(line.delta(e), revealed), side, delta, start, c - 1.0)
            )
            if known.relative_width <= NARROW or known.upper == 0.0:
                break
    return known


def _lines(total: Parts, c: float, epsilon: float) -> Iterator[SmoothedLine]:
    """Yield lines, ever less smooth, as long as that helps and can be afforded."""
    for nodes in BUDGETS:
        line = make_line(total, c, epsilon, nodes)
        yield line
        if line.is_exact:
            return


def _invert_atoms(atoms: Atoms, side: Side, delta: float) -> Bounds:
    """Return bounds on epsilon by a composition of atoms."""
    revealed = side.revealed()
    start = 0.5 * max(float(atoms.loss[-1]), 0.0)
    return _invert(lambda e: _add(atoms.delta(e), revealed), side, delta, start, 1.0)


def _invert(delta_at: Callable[[float], Bounds], side: Side, delta: float, start: float, slope: float) -> Bounds:
    """Invert delta, which is known from the largest loss on."""
    largest, revealed = side.largest_loss().upper, side.revealed()

    def at(epsilon: float) -> Bounds:
        return revealed if epsilon >= largest else delta_at(epsilon)

    return invert_delta(at, delta, min(max(start, 0.0), largest), slope)


def _add(first: Bounds, second: Bounds) -> Bounds:
    """Return bounds on the sum of two probabilities that is one."""
    return Bounds(
        min(first.lower + second.lower, 1.0) * (1.0 - 1e-16), min((first.upper + second.upper) * (1.0 + 1e-15), 1.0)
    )
