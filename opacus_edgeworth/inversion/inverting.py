"""Epsilon from what lines and chains prove of delta."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from opacus_edgeworth._types import Direction
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.chain import ChainTable
from opacus_edgeworth.inversion.contour import LineTable
from opacus_edgeworth.inversion.line import Line
from opacus_edgeworth.inversion.root import invert_delta

Table: TypeAlias = LineTable | ChainTable

NARROW = 1e-9
"""Relative width at which no further engine is asked."""
NARROW_CHAIN = 1e-8
"""The same for chains, which cost more."""
NEWTON_STEPS = 6


def by_lines(
    table: LineTable, steps: Composition, delta: float, start: float, narrow: float = NARROW
) -> tuple[Bounds, bool]:
    """Return bounds on the remove direction's epsilon by lines for both, and whether they are narrow and larger."""
    line, add = table.lines(steps)
    known = invert_line(line, steps, delta, "remove", start)
    return known, known.relative_width <= narrow and add.delta(known.upper).upper <= delta


def invert_line(line: Line, steps: Composition, delta: float, direction: Direction, start: float) -> Bounds:
    """Invert a line's delta, from where its unproved value says."""
    slope = -line.gap
    for _ in range(NEWTON_STEPS):
        log_delta, derivative = line.estimate(start)
        if not (math.isfinite(log_delta) and derivative < 0.0):
            break
        move, slope = (math.log(delta) - log_delta) / derivative, derivative
        if not 0.0 < start + move < 2.0 * start:
            break
        start += move
        if abs(move) < 1e-13 * start:
            break
    return invert(line.delta, steps, delta, direction, start, -slope)


def invert(
    delta_at: Callable[[float], Bounds],
    steps: Composition,
    delta: float,
    direction: Direction,
    start: float,
    slope: float,
) -> Bounds:
    """Invert one engine's delta, exact 0 beyond the add direction's limit included."""
    limit = steps.add_direction_limit() if direction == "add" else math.inf

    def at(epsilon: float) -> Bounds:
        return Bounds(0.0, 0.0) if epsilon >= limit else delta_at(epsilon)

    return invert_delta(at, delta, min(max(start, 0.0), limit), slope)
