"""The last value that is proved safe, next to one that is not: on the line, and among whole numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

from opacus_edgeworth.errors import CalibrationError

LARGEST = 1e9
SMALLEST = 1e-9
MAX_STEPS = 300
PATIENCE = 9
"""Secant steps before every third one halves the bracket instead: a bent excess lets them creep."""
FIRST_MOVE, LONGEST_MOVE = 0.7, 40.0
"""Longest move, in log, while nothing is known beyond: it doubles each time that it is not enough."""


def smallest_safe(
    excess: Callable[[float], float], rel_tol: float, start: float, slope: float, prove_least: bool = True
) -> tuple[float, float]:
    """Return x with excess(x) <= 0, at most rel_tol above a value where that was not so, and the slope there.

    A secant in (log x, excess) inside a bracket, aimed half a tolerance to the safe side: noise spans decades, and log
    delta is smooth in log noise. The value returned is one at which the bound was evaluated; below SMALLEST it is
    returned without one that is not safe.

    Args:
      excess: about falling; log of a proved bound over its target.
      rel_tol: relative width of the last bracket.
      start: a first guess, > 0.
      slope: about -d excess / d log x there, > 0.
      prove_least: evaluate a value that is not safe, too; else it will do that the slope says that it is near.

    Raises:
      CalibrationError: no x up to LARGEST is safe.
    """
    low, high, widest = 0.0, math.inf, FIRST_MOVE
    at = start
    previous: tuple[float, float] | None = None
    for attempt in range(MAX_STEPS):
        value = excess(at)
        if value <= 0.0:
            high = min(high, at)
        else:
            low = max(low, at)
        if high <= low * (1.0 + rel_tol) or (not prove_least and -rel_tol * slope <= value <= 0.0):
            return high, slope
        if low >= LARGEST:
            raise CalibrationError(f"{low:g} does not meet the target")
        if high < SMALLEST:
            return high, slope
        slope = _slope(previous, (math.log(at), -value), slope)
        previous = (math.log(at), -value)
        halve = attempt >= PATIENCE and attempt % 3 == 0 and low > 0.0 and high < math.inf
        at = math.sqrt(low * high) if halve else _next(at, value, slope, low, high, rel_tol, widest)
        widest = FIRST_MOVE if low > 0.0 and high < math.inf else min(2.0 * widest, LONGEST_MOVE)
    raise CalibrationError(f"between {low:g} and {high:g}, where the search did not end, nothing is proved to meet")


def _slope(first: tuple[float, float] | None, second: tuple[float, float], known: float) -> float:
    """Return the slope of the line through two points if it rises; else what was known, half of it on a plateau."""
    if first is None or first[0] == second[0]:
        return known
    if first[1] == second[1]:
        return 0.5 * known
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return slope if 0.0 < slope < math.inf else known


def _next(at: float, value: float, slope: float, low: float, high: float, rel_tol: float, widest: float) -> float:
    """Return the next x to try, strictly inside the bracket."""
    move = value / slope if math.isfinite(value) else math.copysign(1.0, value)
    # aim beyond the root, on the side not yet closed to within the tolerance
    aim = 0.4 * rel_tol if abs(move) > 0.4 * rel_tol or value > 0.0 else -0.8 * rel_tol
    target = at * math.exp(min(max(move + aim, -widest), widest))
    if low < target < high:
        return target
    if math.isinf(high):
        return 4.0 * at
    return math.sqrt(low * high) if low > 0.0 else 0.25 * high


def largest_safe_integer(excess: Callable[[int], float], start: float, most: int, slope: float = 1.0) -> int:
    """Return n with excess(n) <= 0 < excess(n + 1), or `most`, or 0 if excess(1) > 0.

    Secant steps in (log n, excess) inside a bracket, some of which halve it. Both neighbours are evaluated.

    Args:
      excess: about rising; log of a proved bound over its target.
      start: a first guess, > 0, perhaps infinite.
      most: the largest n allowed.
      slope: about d excess / d log n there, > 0.
    """
    low, high, widest = 0, most + 1, FIRST_MOVE  # 0 counts as safe, most + 1 does not
    at = min(max(math.floor(min(start, most)), 1), most)
    previous: tuple[float, float] | None = None
    for attempt in range(MAX_STEPS):
        value = excess(at)
        if value <= 0.0:
            low = max(low, at)
        else:
            high = min(high, at)
        if high == low + 1:
            return low
        slope = _slope(previous, (math.log(at), value), slope)
        previous = (math.log(at), value)
        if attempt >= PATIENCE and attempt % 3 == 0:
            at = math.isqrt(low * high) if high > 4 * low > 0 else (low + high) // 2
        else:
            move = -value / slope if math.isfinite(value) else math.copysign(1.0, -value)
            at = math.floor(at * math.exp(min(max(move, -widest), widest)) * (1.0 + 1e-15))
            widest = FIRST_MOVE if low > 0 and high <= most else min(2.0 * widest, LONGEST_MOVE)
        at = min(max(at, low + 1), high - 1)
    raise CalibrationError(f"the search did not end between the whole numbers {low} and {high}; please report this")
