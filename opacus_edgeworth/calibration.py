"""The least noise that is proved to meet a privacy target."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

from opacus_edgeworth._validate import as_delta, as_epsilon, as_real, as_sample_rate, as_steps
from opacus_edgeworth.composition import compose
from opacus_edgeworth.errors import CalibrationError, InvalidParameterError
from opacus_edgeworth.inversion.engines import history_delta
from opacus_edgeworth.inversion.exact import exact_delta

LARGEST_NOISE = 1e9


def calibrate_noise_multiplier(
    *,
    target_epsilon: float,
    target_delta: float,
    sample_rate: float,
    steps: int | None = None,
    epochs: float | None = None,
    rel_tol: float = 1e-9,
) -> float:
    """Return the smallest noise multiplier proved to give (target_epsilon, target_delta)-differential privacy.

    Args:
      target_epsilon: in [0, inf).
      target_delta: in (0, 1).
      sample_rate: Poisson sampling probability, in (0, 1]; with Opacus, 1 / len(data_loader).
      steps: number of optimizer steps, >= 1; or
      epochs: passes over the data, > 0, which make int(epochs / sample_rate) steps, as Opacus counts them.
      rel_tol: the result is at most this fraction above a value that is not proved, in [1e-12, 1].

    Returns:
      The noise multiplier: noise standard deviation over the clipping norm. The upper bound on delta at
      `target_epsilon` is at most `target_delta` there.

    Raises:
      InvalidParameterError: an argument is outside its range, or not exactly one of steps and epochs is given.
      CalibrationError: no noise multiplier up to 1e9 meets the target.

    Example:
      >>> sigma = calibrate_noise_multiplier(target_epsilon=8, target_delta=1e-5, sample_rate=0.02, steps=1000)
      >>> round(sigma, 4)
      0.7339
    """
    epsilon = as_epsilon(target_epsilon, name="target_epsilon")
    delta = as_delta(target_delta, name="target_delta")
    if not 0.0 < delta < 1.0 or math.isinf(epsilon):
        raise InvalidParameterError(
            f"target_delta={delta!r} must be in (0, 1) and target_epsilon={epsilon!r} finite; no noise is needed or"
            " enough otherwise"
        )
    rate = as_sample_rate(sample_rate)
    if rate == 0.0:
        raise InvalidParameterError("sample_rate=0.0 must be > 0; nothing is ever sampled, any noise will do")
    count = _step_count(rate, steps, epochs)
    tolerance = as_real("rel_tol", rel_tol)
    if not 1e-12 <= tolerance <= 1.0:
        raise InvalidParameterError(f"rel_tol={tolerance!r} must be in [1e-12, 1]")

    def excess(noise_multiplier: float) -> float:
        """Log of proved delta over target; at most 0 where the noise is proved enough."""
        upper = history_delta(compose([(noise_multiplier, rate, count)]), epsilon).upper
        return math.log(max(upper, 5e-324)) - math.log(delta)

    return _smallest_safe(excess, tolerance, *_first_guess(epsilon, delta, rate, count))


def _step_count(sample_rate: float, steps: int | None, epochs: float | None) -> int:
    """Return the number of steps that was asked for."""
    if (steps is None) == (epochs is None):
        raise InvalidParameterError(f"give either steps or epochs, not {'both' if steps is not None else 'neither'}")
    if steps is None:
        length = as_real("epochs", epochs)
        if not 0.0 < length < math.inf:
            raise InvalidParameterError(f"epochs={length!r} must be positive and finite")
        steps = int(length / sample_rate)
    count = as_steps(steps)
    if count == 0:
        raise InvalidParameterError("steps=0 needs no noise; give at least one step")
    return count


def _first_guess(epsilon: float, delta: float, sample_rate: float, steps: int) -> tuple[float, float]:
    """Return about the noise multiplier, and the slope of -log(delta) in log(noise); nothing of it needs to be right.

    By the central limit theorem the steps are about one Gaussian of mu^2 = n q^2 (e^{1/s^2} - 1) (Bu, Dong, Long & Su
    2020, https://arxiv.org/abs/1911.11607): an estimate, mostly a little too low.
    """

    def log_delta(log_noise: float) -> float:
        variance = steps * sample_rate**2 * math.expm1(min(math.exp(-2.0 * log_noise), 60.0))
        return math.log(exact_delta(compose([(1.0 / math.sqrt(variance), 1.0, 1)]), epsilon, "remove").upper)

    low, high = math.log(0.15), math.log(1e4)
    if not log_delta(low) > math.log(delta) > log_delta(high):
        return 1.0, 10.0
    root = brentq(lambda log_noise: log_delta(log_noise) - math.log(delta), low, high, xtol=1e-3)
    assert isinstance(root, float)
    at = root + 0.03
    return math.exp(at), max(50.0 * (log_delta(at - 0.01) - log_delta(at + 0.01)), 1.0)


def _smallest_safe(excess: Callable[[float], float], rel_tol: float, start: float, slope: float) -> float:
    """Return x with excess(x) <= 0, at most rel_tol above a value where that was not so.

    A secant in (log x, excess) inside a bracket, aimed half a tolerance to the safe side: noise spans decades, and log
    delta is smooth in log noise. The value returned is one at which the bound was evaluated.
    """
    low, high = 0.0, math.inf
    at = start
    previous: tuple[float, float] | None = None
    for _ in range(200):
        value = excess(at)
        if value <= 0.0:
            high = min(high, at)
        else:
            low = max(low, at)
        if high <= low * (1.0 + rel_tol):
            return high
        if low >= LARGEST_NOISE:
            raise CalibrationError(
                f"noise_multiplier={low:g} does not meet the target; raise target_epsilon or target_delta, or train"
                " fewer steps"
            )
        if high < 1e-9:
            return high  # practically no noise is needed
        if previous is not None and previous[0] != at and math.isfinite(value) and math.isfinite(previous[1]):
            secant = -(value - previous[1]) / math.log(at / previous[0])
            if secant > 0.0:
                slope = secant
        previous = (at, value)
        at = _next_noise(at, value, slope, low, high, rel_tol)
    return high


def _next_noise(at: float, value: float, slope: float, low: float, high: float, rel_tol: float) -> float:
    """Return the next noise multiplier to try, strictly inside the bracket."""
    move = value / slope if math.isfinite(value) else math.copysign(1.0, value)
    # aim beyond the root, on the side not yet closed to within the tolerance
    aim = 0.4 * rel_tol if abs(move) > 0.4 * rel_tol or value > 0.0 else -0.8 * rel_tol
    target = at * math.exp(min(max(move + aim, -0.7), 0.7))
    if low < target < high:
        return target
    if math.isinf(high):
        return 4.0 * at
    return math.sqrt(low * high) if low > 0.0 else 0.25 * high
