"""The last value that is proved safe, next to one that is not: on the line, and among whole numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

from opacus_edgeworth.errors import CalibrationError

LARGEST = 1e9
SMALLEST = 1e-9
MAX_STEPS = 200


def smallest_safe(
    excess: Callable[[float], float], rel_tol: float, start: float, slope: float, prove_least: bool = True
) -> tuple[float, float]:
    """Return x with excess(x) <= 0, at most rel_tol above a value where that was not so, and the slope there.

    A secant in (log x, excess) inside a bracket, aimed half a tolerance to the safe side: noise spans decades, and log
    delta is smooth in log noise. The value returned is one at which the bound was evaluated.

    Args:
      excess: about falling; log of a proved bound over its target.
      rel_tol: relative width of the last bracket.
      start: a first guess.
      slope: about -d excess / d log x there, > 0.
      prove_least: evaluate a value that is not safe, too; else it will do that the slope says that it is near.

    Raises:
      CalibrationError: no x up to LARGEST is safe.
    """
    low, high = 0.0, math.inf
    at = start
    previous: tuple[float, float] | None = None
    for _ in range(MAX_STEPS):
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
        if previous is not None and previous[0] != at and math.isfinite(value) and math.isfinite(previous[1]):
            secant = -(value - previous[1]) / math.log(at / previous[0])
            if secant > 0.0:
                slope = secant
        previous = (at, value)
        at = _next(at, value, slope, low, high, rel_tol)
    return high, slope


def _next(at: float, value: float, slope: float, low: float, high: float, rel_tol: float) -> float:
    """Return the next x to try, strictly inside the bracket."""
    move = value / slope if math.isfinite(value) else math.copysign(1.0, value)
    # aim beyond the root, on the side not yet closed to within the tolerance
    aim = 0.4 * rel_tol if abs(move) > 0.4 * rel_tol or value > 0.0 else -0.8 * rel_tol
    target = at * math.exp(min(max(move + aim, -0.7), 0.7))
    if low < target < high:
        return target
    if math.isinf(high):
        return 4.0 * at
    return math.sqrt(low * high) if low > 0.0 else 0.25 * high


def largest_safe_integer(excess: Callable[[int], float], start: float, most: int) -> int:
    """Return n with excess(n) <= 0 < excess(n + 1), or `most`, or 0 if excess(1) > 0.

    Secant steps in (log n, excess) inside a bracket, which they halve where they hardly shorten it.

    Args:
      excess: about rising; log of a proved bound over its target.
      start: a first guess, > 0.
      most: the largest n allowed.
    """
    known: dict[int, float] = {}

    def at(n: int) -> float:
        if n not in known:
            known[n] = excess(n)
        return known[n]

    low, high = 0, most + 1
    guess = min(max(round(start), 1), most)
    for attempt in range(MAX_STEPS):
        if at(guess) <= 0.0:
            low = guess
        else:
            high = guess
        if high == low + 1:
            return low
        guess = min(max(_between(known, low, high, attempt), low + 1), high - 1)
    raise CalibrationError(f"no whole number was found between {low} and {high}; please report this")


def _between(known: dict[int, float], low: int, high: int, attempt: int) -> int:
    """Return where the excess is 0 about, from its values at the bracket's ends or the last two points."""
    if high not in known:  # nothing unsafe was seen yet
        return min(4 * low, low + (high - low + 1) // 2) if len(known) > 1 else 2 * low
    if low not in known:
        return max(high // 4, 1)
    below, above = known[low], known[high]
    if attempt % 3 == 2 or not (math.isfinite(below) and math.isfinite(above)):
        return math.isqrt(low * high) if low > 0 and high > 4 * low else (low + high) // 2
    share = -below / (above - below)
    return math.floor(low * (high / low) ** share + 0.5)
