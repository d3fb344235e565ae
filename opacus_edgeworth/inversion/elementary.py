r"""Bounds that hold in every regime at no cost: the last resort, and a check on the others.

*Moments.* For t >= 1 and for t <= 0, x^t is convex, so E_Q[(1-q+q e^w)^t] <= 1 - q + q e^{t(t-1)/(2 s^2)}. At
t = c and at t = 1 - c the right-hand side is the same, so one Chernoff bound serves both directions:
delta(e) <= kappa(c) e^{sum n log(1 - q + q e^{c(c-1)/(2 s^2)}) - (c-1) e}.

*Sampling.* With probability (1-q)^n no step samples the example; otherwise everything may be revealed. So
delta <= 1 - prod (1-q)^n in the remove direction, and P >= prod (1-q)^n Q gives delta <= 1 - e^e prod (1-q)^n in the
add direction.

*Hardly any noise.* The test "some output is beyond 1/2" errs without the example with probability at most F = sum n
Phi(-1/(2s)), and with it with probability at most M = prod (1 - q Phi(1/(2s)))^n. So delta >= 1 - M - e^e F in the
remove direction and, by the complement, delta >= 1 - F - e^e M in the add one: where F is nothing, the bounds of
sampling.

*One step.* Forgetting all steps but one is post-processing, so delta is at least that of any one step.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf, log_ndtr, ndtr

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.exact import single_step_delta
from opacus_edgeworth.inversion.saddle import log_kappa
from opacus_edgeworth.mechanisms import ULP

HARDLY_ANY_NOISE = 0.1
"""Noise multiplier up to which delta may be that of sampling alone, to many digits."""
ORDERS: FloatArray = 1.0 + np.geomspace(1e-6, 1e6, 241)
LOG_KAPPAS: FloatArray = np.array([log_kappa(float(c)) for c in ORDERS])


def log_moment_bound(steps: Composition) -> FloatArray:
    """Return upper bounds on G at ORDERS, both directions, shape (241,)."""
    with np.errstate(over="ignore"):
        exponent = 0.5 * (ORDERS * (ORDERS - 1.0))[:, None] / steps.noise_multiplier**2
        # where the exponent is small, log1p keeps what the sum of logs would round away
        small = np.log1p(steps.sample_rate * np.expm1(np.minimum(exponent, 30.0)))
        large = np.logaddexp(np.log1p(-steps.sample_rate), np.log(steps.sample_rate) + exponent)
        total = np.where(exponent < 30.0, small, large) @ steps.steps + 0.5 * steps.gaussian * ORDERS * (ORDERS - 1.0)
    return total * (1.0 + 1e-9) + 1e-15


def log_moment_delta(steps: Composition, epsilon: float) -> float:
    """Return log of the moment bound on delta at epsilon >= 0, both directions; it may exceed 0."""
    moments = log_moment_bound(steps)
    with np.errstate(over="ignore", invalid="ignore"):
        shift = (ORDERS - 1.0) * epsilon
        found = moments + LOG_KAPPAS - shift
    # two numbers beyond doubles cannot be compared: such an order bounds nothing
    return float(np.min(np.where(np.isinf(shift) & (moments > 1e300), np.inf, found)))


def sampling_delta(steps: Composition, epsilon: float = 0.0) -> float:
    """Return the bound 1 - e^epsilon prod (1-q)^n: on delta(epsilon) in the add direction and, at 0, on any delta."""
    if steps.gaussian > 0.0:
        return 1.0
    log_hidden = float(steps.steps @ np.log1p(-steps.sample_rate)) * (1.0 + ULP * (steps.phases + 8))
    return max(-math.expm1(min(log_hidden + epsilon, 0.0)) * (1.0 + 8.0 * ULP), 5e-324)


def distance_bound(steps: Composition) -> float:
    """Return a bound on delta(0) in either direction, the total variation distance.

    It is at most `sampling_delta`, and at most the sum of the distances of all steps: q (2 Phi(1/(2s)) - 1) each.
    """
    single = steps.sample_rate * erf(0.5 / (math.sqrt(2.0) * steps.noise_multiplier))
    total = float(steps.steps @ single) + float(erf(0.5 * math.sqrt(0.5 * steps.gaussian)))
    return min(sampling_delta(steps), total * (1.0 + 1e-12) + 1e-300)


def nearly_noiseless_delta(steps: Composition, epsilon: float, direction: Direction) -> Bounds:
    """Return bounds on delta at epsilon >= 0: sharp where there is hardly any noise, [0, 1] where there is more."""
    if steps.gaussian > 0.0 or steps.phases == 0 or steps.noise_multiplier.max() > HARDLY_ANY_NOISE:
        return Bounds(0.0, 1.0)
    score, room = 0.5 / steps.noise_multiplier, ULP * (steps.phases + 8)
    log_missed = float(steps.steps @ np.log1p(-steps.sample_rate * ndtr(score) * (1.0 - 1e-15))) * (1.0 - room)
    log_false = log_ndtr(-score) * (1.0 - 1e-13) + (epsilon if direction == "remove" else 0.0)
    false = float(steps.steps @ np.exp(np.minimum(log_false, 0.0))) * (1.0 + 1e-9) + 1e-290
    seen = -math.expm1(min(log_missed + (epsilon if direction == "add" else 0.0), 0.0)) * (1.0 - 8.0 * ULP)
    upper = sampling_delta(steps, epsilon if direction == "add" else 0.0)
    return Bounds(min(max(seen - false, 0.0), upper), min(upper, 1.0))


def elementary_delta(steps: Composition, epsilon: float, direction: Direction) -> Bounds:
    """Return true, often wide bounds on delta at epsilon >= 0."""
    upper = math.exp(min(log_moment_delta(steps, epsilon) * (1.0 - 1e-9) + 1e-9, 0.0)) + 5e-324
    upper = min(upper, sampling_delta(steps, epsilon if direction == "add" else 0.0), distance_bound(steps))
    pairs = zip(steps.noise_multiplier.tolist(), steps.sample_rate.tolist(), strict=True)
    lower = max((single_step_delta(s, q, epsilon, direction).lower for s, q in pairs), default=0.0)
    return Bounds(lower, min(upper, 1.0))


def elementary_epsilon(steps: Composition, delta: float) -> float:
    """Return an upper bound on epsilon at delta in (0, 1), valid in both directions."""
    candidates = (log_moment_bound(steps) + LOG_KAPPAS - math.log(delta)) / (ORDERS - 1.0)
    return max(float(np.nanmin(candidates)), 0.0) * (1.0 + 1e-9) + 1e-12
