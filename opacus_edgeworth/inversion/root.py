"""Where a proved, falling function of epsilon crosses a level: the ends last proved, not the closest ones."""

from __future__ import annotations

import math
from collections.abc import Callable

from opacus_edgeworth.bounds import Bounds

MAX_EVALUATIONS = 120
PATIENCE = 20
"""Steps of a slope's length that are tried before ever wider ones."""


def invert_delta(delta_at: Callable[[float], Bounds], delta: float, start: float, slope: float) -> Bounds:
    """Return bounds on the least epsilon >= 0 with delta(epsilon) <= `delta`.

    Args:
      delta_at: proved bounds on delta at an epsilon >= 0; the true delta falls.
      delta: the level, in (0, 1).
      start: a first guess of epsilon, >= 0.
      slope: about -d log(delta) / d(epsilon) there, > 0.
    """
    known: dict[float, Bounds] = {}  # the second search begins where the first one ended

    def at(epsilon: float) -> Bounds:
        if epsilon not in known:
            known[epsilon] = delta_at(epsilon)
        return known[epsilon]

    def above(epsilon: float) -> float:
        return _log_ratio(at(epsilon).upper, delta)

    def below(epsilon: float) -> float:
        return _log_ratio(at(epsilon).lower, delta)

    upper, slope = _crossing(above, start, slope, proved_above=True)
    if upper == 0.0 or math.isinf(upper):
        return Bounds(0.0, upper)
    lower, _ = _crossing(below, upper, slope, proved_above=False)
    return Bounds(lower, upper)


def _log_ratio(value: float, delta: float) -> float:
    """Return log(value / delta), -inf at 0, of the very sign of value - delta."""
    if not value > 0.0:
        return -math.inf
    excess = (value - delta) / delta
    return math.log1p(excess) if excess > -0.5 else math.log(value) - math.log(delta)


def _crossing(gap: Callable[[float], float], start: float, slope: float, *, proved_above: bool) -> tuple[float, float]:
    """Return a point next to the zero of a falling gap, at which gap <= 0 (`proved_above`) or >= 0, and the slope.

    Secant steps aim a hair beyond the zero on the wanted side, inside the bracket seen so far. The result is a point
    where the sign was seen; without one, infinity (above) or 0 (below).
    """
    low, high = -math.inf, math.inf  # gap(low) > 0 >= gap(high), as far as seen
    hair = 2e-14 if proved_above else -2e-14
    at = max(start, 0.0)
    previous: tuple[float, float] | None = None
    for attempt in range(MAX_EVALUATIONS):
        value = gap(at)
        wanted = value <= 0.0 if proved_above else value >= 0.0
        if value > 0.0 or (value == 0.0 and not proved_above):
            low = max(low, at)
        else:
            high = min(high, at)
        if at == 0.0 and (value <= 0.0):
            return 0.0, slope
        if wanted and abs(value) <= 2.5 * abs(hair):
            return at, slope
        if high - low <= 4e-16 * abs(at):
            break
        if previous is not None and math.isfinite(value) and math.isfinite(previous[1]) and at != previous[0]:
            secant = -(value - previous[1]) / (at - previous[0])
            if secant > 0.0 and math.isfinite(secant) and abs(value - previous[1]) > 1e-12:
                slope = secant
        previous = (at, value)
        at = _next_point(at, value + hair, slope, low, high, attempt)
    result = high if proved_above else low
    return (result if math.isfinite(result) else (math.inf if proved_above else 0.0)), slope


def _next_point(at: float, value: float, slope: float, low: float, high: float, attempt: int) -> float:
    """Return the secant's next point, or one that splits the bracket or widens it ever more."""
    target = at + value / slope if math.isfinite(value) else math.nan
    if math.isinf(high):
        widest = 4.0 * at + 1.0
        return max(target, 0.0) if low < target <= widest and attempt < PATIENCE else widest
    if attempt >= PATIENCE and attempt % 2 and math.isfinite(low):
        return 0.5 * (low + high)  # a steep slope creeps along a flat stretch
    if low < target < high:
        return max(target, 0.0)
    if math.isfinite(low):
        return 0.5 * (low + high)
    if not high > 1e-300:
        return 0.0
    # the step was lost in rounding, or led astray
    return max(high - 4e-16 * high * 4.0**attempt, 0.0) if target >= high else 0.5 * high
