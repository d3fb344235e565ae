r"""Closed forms: any number of unsampled Gaussian steps, or one subsampled step.

Every case is scale * (Phi(-a) - e^{(b^2 - a^2)/2} Phi(-b)) = scale * N(a) (m(a) - m(b)), a < b, N the normal density
and m(t) = sqrt(pi/2) erfcx(t / sqrt 2) Mills' ratio: no term overflows, and the relative error is known.
"""

from __future__ import annotations

import math

from scipy.special import erfcx, log_ndtr, ndtr

from opacus_edgeworth._types import Direction
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.grid import LOG_SQRT_2PI
from opacus_edgeworth.mechanisms import ULP


def has_closed_form(steps: Composition) -> bool:
    """Whether `exact_delta` applies."""
    return steps.phases == 0 or (steps.phases == 1 and steps.steps[0] == 1.0 and steps.gaussian == 0.0)


def exact_delta(steps: Composition, epsilon: float, direction: Direction) -> Bounds:
    """Return delta at epsilon >= 0 of a composition with a closed form, enclosed by its rounding error.

    Source:
      Balle & Wang 2018, Theorem 8 (https://arxiv.org/abs/1805.06530) for the Gaussian; for one subsampled step the
      set where the loss exceeds epsilon is a half-line, whose probabilities under P and Q give the same form.
    """
    if steps.phases == 0:
        inverse = math.sqrt(steps.gaussian)
        if epsilon > 100.0 * inverse + 0.5 * inverse**2:
            return Bounds(0.0, 5e-324)  # Phi(-100) is far below the smallest double
        return _difference(1.0, epsilon / inverse - 0.5 * inverse, inverse, steps.gaussian_error, 0.0)
    s, q = float(steps.noise_multiplier[0]), float(steps.sample_rate[0])
    return single_step_delta(s, q, epsilon, direction)


def single_step_delta(s: float, q: float, epsilon: float, direction: Direction) -> Bounds:
    """Return delta of one subsampled step (noise multiplier s, sample rate q in (0, 1)) at epsilon >= 0."""
    if epsilon > 700.0:  # e^epsilon overflows; w = epsilon - log q there
        if direction == "add":
            return Bounds(0.0, 0.0) if epsilon >= -math.log1p(-q) * (1.0 + 8.0 * ULP) else Bounds(0.0, 1.0)
        w = epsilon - math.log(q)
        return _difference(q, s * w - 0.5 / s, 1.0 / s, 0.0, 8.0 * ULP * (abs(w) + 1.0) * s)
    growth = math.expm1(epsilon)
    if direction == "remove":  # loss > epsilon where u > t, e^{w(t)} = (e^epsilon - 1 + q) / q
        w = math.log1p(growth / q) if growth < 1e300 * q else math.log(growth) - math.log(q)
        return _difference(q, s * w - 0.5 / s, 1.0 / s, 0.0, 8.0 * ULP * (abs(w) + epsilon) * s)
    # loss < -epsilon where u < t, e^{w(t)} = (e^-epsilon - 1 + q) / q
    scale = q - (1.0 - q) * growth
    error = 4.0 * ULP * (q + growth)
    if scale <= error:
        return Bounds(0.0, max(scale + error, 0.0))
    w = math.log(scale / q) - epsilon
    relative = error / scale
    result = _difference(scale, -(s * w + 0.5 / s), 1.0 / s, 0.0, s * (relative + 8.0 * ULP * (abs(w) + epsilon + 1.0)))
    return Bounds(result.lower * (1.0 - 2.0 * relative), min(1.0, result.upper * (1.0 + 2.0 * relative)))


def _difference(scale: float, a: float, gap: float, gap_error: float, shift_error: float) -> Bounds:
    r"""Enclose scale * (Phi(-a) - e^{(b^2-a^2)/2} Phi(-b)), b = a + gap.

    Moving a and b together by t changes it by -gap N(a) m(b) t; moving b alone by t changes m(b) by at most
    (1 + |b| m(b)) t, because m' = t m - 1. So the relative error is

        [16 ulp (m(a) + m(b)) + (rounding of a and b) (2 + |a| m(a) + |b| m(b)) + gap m(b) shift_error] / (m(a) - m(b))

    and a few ulp of 1 + a^2 from N(a). Below a = -8 the two probabilities are subtracted directly.
    """
    b = a + gap
    position_error = 8.0 * ULP * (abs(a) + abs(b) + gap) + gap_error * gap
    if a - position_error - shift_error > 40.0:  # Phi(-40) is less than any double; a^2 may be more than any
        return Bounds(0.0, 5e-324)
    if a < -8.0:
        log_second = 0.5 * gap * (b + a) + float(log_ndtr(-b))
        second = math.exp(min(log_second, 0.0))
        value = float(ndtr(-a)) - second
        error = 16.0 * ULP * (1.0 + second * (1.0 + abs(log_second) + gap * (abs(a) + abs(b))))
        error += second * (gap * shift_error + (position_error + 8.0 * ULP * gap) * (abs(a) + abs(b) + gap + 1.0))
    else:
        mills_a, mills_b = (math.sqrt(0.5 * math.pi) * float(erfcx(t / math.sqrt(2.0))) for t in (a, b))
        log_density = -0.5 * a * a - LOG_SQRT_2PI
        density = math.exp(log_density) if log_density > -745.0 else 0.0
        error = 16.0 * ULP * (mills_a + mills_b) + gap * mills_b * shift_error
        error += position_error * (2.0 + abs(a) * mills_a + abs(b) * mills_b)
        error += (mills_a - mills_b) * 4.0 * ULP * (4.0 + a * a)
        value, error = density * (mills_a - mills_b), density * error
    if not math.isfinite(
        value + error
    ):  # epsilon of 1e200, say, where all that is known is that it is a share of scale
        return Bounds(0.0, min(scale * (1.0 + 4.0 * ULP) + 5e-324, 1.0))
    upper = scale * (value + error) * (1.0 + 4.0 * ULP) + 5e-324
    lower = scale * (value - error) * (1.0 - 4.0 * ULP) - 5e-324
    return Bounds(min(max(lower, 0.0), 1.0), min(max(upper, 5e-324), 1.0))
