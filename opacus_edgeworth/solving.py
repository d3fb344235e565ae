"""What the calibrations share: histories under construction, rough answers to begin with, whole numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth._validate import as_epochs, as_some_steps
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import CalibrationError, InvalidParameterError
from opacus_edgeworth.schedules import Factors
from opacus_edgeworth.search import largest_safe_integer, smallest_safe
from opacus_edgeworth.targets import Target

COARSE_PHASES = 24
"""Phases by which a long schedule is replaced for a first guess."""
LONG_TOL = 1e-7
"""Relative tolerance of the noise of long schedules, whose evaluation takes long."""
MOST_STEPS = 2**53
STEP_ROOM = 1.0 + 1e-12
"""For the rounding of epochs / sample_rate."""
SAFE_ZERO = 5e-324
"""An excess of 0 is safe."""


def least_noise(
    target: Target,
    rate: float,
    factors: Factors,
    spent: list[Any],
    rel_tol: float,
    start: float | None = None,
    slope: float | None = None,
    prove_least: bool = True,
) -> tuple[float, float]:
    """Return the least noise multiplier proved to meet a target, and the slope; see `smallest_safe`.

    Arguments are checked before.
    """

    def excess(noise: float) -> float:
        return target.excess_of([*spent, *((noise * factor, rate, n) for factor, n in factors)])

    if start is None:
        start = about_noise(about_left(target, spent), rate, factors)
    try:
        return smallest_safe(excess, rel_tol, start, target.slope if slope is None else slope, prove_least)
    except CalibrationError as error:
        raise CalibrationError(
            f"noise_multiplier={error}, {target.says}; raise the target, or train fewer steps"
        ) from None


def about_noise(mu_squared: float, rate: float, factors: Factors) -> float:
    """Return about the noise at which the steps are a Gaussian of mu; nothing of it needs to be right.

    By the central limit theorem mu^2 = n q^2 (e^{1/s^2} - 1) (Bu, Dong, Long & Su 2020,
    https://arxiv.org/abs/1911.11607): an estimate, mostly a little too low.
    """
    if len(factors) == 1:
        (factor, count) = factors[0]
        return 1.03 / (factor * math.sqrt(math.log1p(mu_squared / count / rate / rate)))
    factor, counts = np.array([f for f, _ in factors]), np.array([float(n) for _, n in factors])

    def excess(log_noise: float) -> float:
        spread = np.minimum((factor * math.exp(log_noise)) ** -2.0, 60.0)
        return math.log(float(counts @ np.expm1(spread))) + 2.0 * math.log(rate) - math.log(mu_squared)

    low, high = math.log(0.13 / float(factor.max())), math.log(1e8)
    if not mu_squared > 0.0 or not excess(low) > 0.0 > excess(high):
        return 1.0
    return math.exp(float(brentq(excess, low, high, xtol=1e-3)) + 0.03)  # type: ignore[arg-type]


def step_count(sample_rate: float, steps: int | None, epochs: float | None) -> int:
    """Return the number of steps that was asked for, in [1, MOST_STEPS]."""
    count, passes = as_length(steps, epochs)
    if passes is None:
        return count or 1
    count = whole_steps(sample_rate, passes)
    if not 1 <= count <= MOST_STEPS:
        few = "not a whole step; train longer, or with smaller batches"
        raise InvalidParameterError(
            f"epochs={passes!r} at sample_rate={sample_rate:g} are "
            + (few if count < 1 else "more than 2**53 steps; no training run is longer")
        )
    return count


def whole_steps(sample_rate: float, epochs: float) -> int:
    """Return how many whole steps so many epochs are, MOST_STEPS + 1 if they are more."""
    # 3 / (1/75) is less than 225 in floating point, but the run takes 225 steps
    return int(min(epochs / sample_rate * STEP_ROOM, MOST_STEPS + 2.0))


def as_length(steps: int | None, epochs: float | None) -> tuple[int | None, float | None]:
    """Return what was given of steps and epochs, checked: one of them."""
    if (steps is None) == (epochs is None):
        raise InvalidParameterError(f"give either steps or epochs, not {'both' if steps is not None else 'neither'}")
    return (None, as_epochs(epochs)) if steps is None else (as_some_steps(steps), None)


def fewest_safe(
    excess: Callable[[int], float], least: int, start: float, target: Target, most: int = MOST_STEPS
) -> int:
    """Return a whole number from `least` on that is safe, and `least` or one more than one that is not."""
    if excess(least) <= 0.0:
        return least
    unsafe = largest_safe_integer(
        lambda n: -excess(least + n - 1) + SAFE_ZERO, start - least, most - least + 1, 0.5 * target.slope
    )
    found = least + unsafe
    if found > most:
        raise CalibrationError(f"no sample_rate, however small, meets {target.says}; raise noise_multiplier")
    return found


def parsed_spent(spent: Iterable[Any], adjacency: Adjacency) -> list[Any]:
    """Return what was spent before, checked."""
    try:
        return list(PrivacyCurve(spent, adjacency=adjacency).history)
    except InvalidParameterError as error:
        raise InvalidParameterError(str(error).replace("history", "spent", 1)) from None


def spent_history(spent: Iterable[Any], target: Target) -> list[Any]:
    """Return what was spent before, if that leaves anything."""
    before = parsed_spent(spent, target.adjacency)
    if before and target.excess_of(before) > 0.0:
        raise CalibrationError(f"spent exceeds {target.says} already: no further training meets it")
    return before


def about_mu_squared(history: list[Any]) -> float:
    """Return about mu^2 of Gaussian steps; see `about_noise`."""
    steps = [entry for entry in history if len(entry) == 3]
    return sum(n * q * q * one_step(s) for s, q, n in steps)


def about_left(target: Target, spent: list[Any]) -> float:
    """Return about the mu^2 that a target leaves, > 0; see `about_noise`."""
    return max(target.mu**2 - about_mu_squared(spent), 1e-3 * target.mu**2)


def about_rate(target: Target, left: float, noise: float, steps: int) -> float:
    """Return about the largest sampling rate, in (0, 1]; see `about_noise`. With little noise few are to be sampled."""
    unseen = -math.expm1(math.log1p(-target.seen) / steps)
    return min(max(math.sqrt(left / (steps * one_step(noise))), unseen, 1e-300), 1.0)


def about_steps(target: Target, left: float, noise: float, rate: float) -> float:
    """Return about the largest number of steps; see `about_rate`."""
    log_gaussian = math.log(left) - 2.0 * math.log(rate) - math.log(one_step(noise))
    unseen = math.log1p(-target.seen) / math.log1p(-rate) if rate < 1.0 else 1.0
    return max(math.exp(min(log_gaussian, 80.0)), unseen)


def least_noise_of_schedule(target: Target, rate: float, factors: Factors, spent: list[Any], rel_tol: float) -> float:
    """Return what `least_noise` does; of a long schedule most of the search is made with fewer phases like it."""
    if len(factors) <= 2 * COARSE_PHASES:
        return least_noise(target, rate, factors, spent, rel_tol)[0]
    about = about_noise(about_left(target, spent), rate, factors)
    about, _ = least_noise(target, rate, _coarse(factors, about), spent, 1e-3, about)
    coarse = _coarse(factors, about)  # how phases are put together depends on the noise
    about, _ = least_noise(target, rate, coarse, spent, 1e-5, about)

    def excess(noise: float) -> float:
        return target.excess_of([*spent, *((noise * factor, rate, n) for factor, n in coarse)])

    slope = max((excess(about * 0.999) - excess(about * 1.001)) / 0.002, 0.1)
    return least_noise(target, rate, factors, spent, max(rel_tol, LONG_TOL), about, slope)[0]


def _coarse(factors: Factors, noise: float) -> Factors:
    """Return about the same schedule with few phases: with the same share of mu^2 at this noise; see `about_noise`."""
    ordered = sorted(factors)
    counts = np.array([float(n) for _, n in ordered])
    shares = np.array([n * one_step(noise * f) for f, n in ordered])
    groups = np.minimum((np.cumsum(shares) - 0.5 * shares) / shares.sum() * COARSE_PHASES, COARSE_PHASES - 1).astype(
        int
    )
    chosen: list[tuple[float, int]] = []
    for group in np.unique(groups):
        total = counts[groups == group].sum()
        mean = shares[groups == group].sum() / total
        chosen.append((1.0 / (noise * math.sqrt(math.log1p(mean))), int(total)))
    return tuple(chosen)


def one_step(noise: float) -> float:
    """Return e^{1/s^2} - 1, by which a step's share of mu^2 exceeds its squared rate; see `about_noise`."""
    return math.expm1(min(min(max(noise, 1e-3), 1e100) ** -2.0, 60.0))
