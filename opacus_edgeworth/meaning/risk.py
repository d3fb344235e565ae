r"""What an attacker gains: tails of the privacy loss, posteriors, Bayes-optimal guesses.

All of it is read off the privacy profile (`profile`). The tail follows from its slope: delta is convex in x = e^e, of
slope -B(L > e), and A(L > e) = delta + e^e B(L > e).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.meaning.profile import LARGEST, Profile, outward
from opacus_edgeworth.meaning.tradeoff import best_attack

MAX_STEPS = 60
"""Of widening, until both ends of a quantile are proved."""


def loss_tail(profile: Profile, epsilon: float) -> Bounds:
    """Return bounds on A(L > epsilon), the probability of a loss beyond any real epsilon."""
    at = profile.delta(epsilon)
    width = max(at.relative_width, 1e-15)
    step = max(min(profile.scale(), 1.0) * math.sqrt(width), 1e-14 * abs(epsilon), 1e-300)
    left, right = epsilon - step, epsilon + step
    before, after = profile.delta(left), profile.delta(right)
    # x B(L > e) lies between the falls per unit of x on either side, x = e^epsilon being the unit
    most = (before.upper - at.lower) / -math.expm1(left - epsilon) * (1.0 + 1e-9)
    least = max(at.lower - after.upper, 0.0) / math.expm1(right - epsilon) * (1.0 - 1e-9)
    return outward(at.lower + least, min(at.upper + most, 1.0))


def loss_quantile(profile: Profile, failure_probability: float) -> Bounds:
    """Return bounds on the least real e with A(L > e) <= failure_probability, in (0, 1)."""
    if profile.forward(math.inf).lower > failure_probability:
        return Bounds(math.inf, math.inf)

    def excess(epsilon: float) -> float:
        tail = loss_tail(profile, epsilon)
        return 0.5 * (tail.lower + tail.upper) - failure_probability

    low, high = _bracket(excess, profile.scale())
    if math.isinf(low) or math.isinf(high):
        return Bounds(low, high)
    root = brentq(excess, low, high, xtol=1e-9 * profile.scale(), rtol=np.float64(1e-12))
    assert isinstance(root, float)
    move = 1e-8 * max(profile.scale(), abs(root))
    lower, upper = -math.inf, math.inf
    for _ in range(MAX_STEPS):
        if math.isinf(upper) and loss_tail(profile, root + move).upper <= failure_probability:
            upper = root + move
        if math.isinf(lower) and loss_tail(profile, root - move).lower > failure_probability:
            lower = root - move
        if lower > -math.inf and upper < math.inf:
            break
        move *= 2.0
        if abs(root) + move > LARGEST:
            break
    return Bounds(lower, upper)


def _bracket(excess: Callable[[float], float], scale: float) -> tuple[float, float]:
    """Return points around the zero of a falling function, infinite where it has none within reach."""
    low, high, move = 0.0, 0.0, scale
    if excess(0.0) > 0.0:
        while excess(high) > 0.0:
            low, high, move = high, high + move, 2.0 * move
            if high > LARGEST:
                return low, math.inf
        return low, high
    while excess(low) <= 0.0:
        low, high, move = low - move, low, 2.0 * move
        if low < -LARGEST:
            return -math.inf, high
    return low, high


def posterior(profile: Profile, prior: float, failure_probability: float) -> Bounds:
    """Return bounds on the posterior probability of A that is exceeded with probability failure_probability under A."""
    loss = loss_quantile(profile, failure_probability)
    return Bounds(_updated(prior, loss.lower) * (1.0 - 1e-14), min(_updated(prior, loss.upper) * (1.0 + 1e-14), 1.0))


def _updated(prior: float, loss: float) -> float:
    """Return the posterior of A after an output of this loss, p e^L / (1 - p + p e^L)."""
    if loss > 0.0:
        return prior / (prior + (1.0 - prior) * math.exp(-loss))
    growth = math.exp(loss)
    return prior * growth / (1.0 - prior + prior * growth)


def precision(profile: Profile, prior: float, false_positive_rate: float) -> Bounds:
    """Return bounds on the share of true ones among the members that the best attack names.

    That is p T / (p T + (1 - p) alpha), T being its true positive rate.
    """
    rate = best_attack(profile, false_positive_rate).true_positive_rate
    false = (1.0 - prior) * false_positive_rate
    return outward(prior * rate.lower / (prior * rate.lower + false), prior * rate.upper / (prior * rate.upper + false))


def bayes_success(profile: Profile, prior: float) -> Bounds:
    """Return bounds on the probability that the best guess between A and B is right, A having the prior p.

    sup_S p A(S) + (1 - p) (1 - B(S)) = 1 - p + p delta(log((1 - p) / p)), for p > 1/2 the same with A and B exchanged.
    """
    if prior in (0.0, 1.0):
        return Bounds(1.0, 1.0)
    small, large = min(prior, 1.0 - prior), max(prior, 1.0 - prior)
    at, side = math.log(large / small), (profile.forward if prior <= 0.5 else profile.reverse)
    # rounding of `at` moves e^e by a few ulp of itself, and delta by that times at most 1
    room = 4.0 * large * 2.0**-53 * (1.0 + at)
    known = side(at)
    return outward(large + small * known.lower - room, large + small * known.upper + room)
