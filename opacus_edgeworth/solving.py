"""What the calibrations share: histories under construction, rough answers to begin with, whole numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from opacus_edgeworth._validate import as_epochs, as_steps
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
        return target.excess(PrivacyCurve([*spent, *((noise * factor, rate, n) for factor, n in factors)]))

    if start is None:
        start = about_noise(target.mu**2 - about_mu_squared(spent), rate, factors)
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
    factor, counts = np.array([f for f, _ in factors]), np.array([float(n) for _, n in factors])

    def excess(log_noise: float) -> float:
        spread = np.minimum((factor * math.exp(log_noise)) ** -2.0, 60.0)
        return math.log(float(counts @ np.expm1(spread)) * rate**2) - math.log(mu_squared)

    low, high = math.log(0.13 / float(factor.max())), math.log(1e8)
    if not mu_squared > 0.0 or not excess(low) > 0.0 > excess(high):
        return 1.0
    return math.exp(float(brentq(excess, low, high, xtol=1e-3)) + 0.03)  # type: ignore[arg-type]


def step_count(sample_rate: float, steps: int | None, epochs: float | None) -> int:
    """Return the number of steps that was asked for."""
    if (steps is None) == (epochs is None):
        raise InvalidParameterError(f"give either steps or epochs, not {'both' if steps is not None else 'neither'}")
    if steps is None:
        # 3 / (1/75) is less than 225 in floating point, but the run takes 225 steps
        steps = int(as_epochs(epochs) / sample_rate * STEP_ROOM)
    count = as_steps(steps)
    if count == 0:
        raise InvalidParameterError("steps=0 needs no noise; give at least one step")
    return count


def fewest_safe(
    excess: Callable[[int], float], least: int, start: float, target: Target, most: int = MOST_STEPS
) -> int:
    """Return the least whole number from `least` on that is safe, where fewer are less so."""
    if excess(least) <= 0.0:
        return least
    unsafe = largest_safe_integer(
        lambda n: -excess(least + n - 1) + SAFE_ZERO, max(start - least, 1.0), most - least + 1
    )
    found = least + unsafe
    if found > most:
        raise CalibrationError(f"no batch size or rate, however small, meets {target.says}; raise noise_multiplier")
    return found


def spent_history(spent: Iterable[Any], target: Target) -> list[Any]:
    """Return what was spent before, if that leaves anything."""
    before = list(PrivacyCurve(spent).history)
    if before and target.excess(PrivacyCurve(before)) > 0.0:
        raise CalibrationError(f"spent exceeds {target.says} already: no further training meets it")
    return before


def about_mu_squared(history: list[Any]) -> float:
    """Return about mu^2 of Gaussian steps; see `about_noise`."""
    steps = [entry for entry in history if len(entry) == 3]
    return sum(n * q * q * math.expm1(min(max(s, 1e-3) ** -2.0, 60.0)) for s, q, n in steps)


def least_noise_of_schedule(target: Target, rate: float, factors: Factors, spent: list[Any], rel_tol: float) -> float:
    """Return what `least_noise` does; of a long schedule most of the search is made with fewer phases like it."""
    if len(factors) <= 2 * COARSE_PHASES:
        return least_noise(target, rate, factors, spent, rel_tol)[0]
    about = about_noise(target.mu**2 - about_mu_squared(spent), rate, factors)
    about, _ = least_noise(target, rate, _coarse(factors, about), spent, 1e-3, about)
    coarse = _coarse(factors, about)  # how phases are put together depends on the noise
    about, _ = least_noise(target, rate, coarse, spent, 1e-5, about)

    def excess(noise: float) -> float:
        return target.excess(PrivacyCurve([*spent, *((noise * factor, rate, n) for factor, n in coarse)]))

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
    return math.expm1(min(max(noise, 1e-3) ** -2.0, 60.0))
