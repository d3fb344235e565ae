r"""Where to put the line: the tilt c, and rough moments of the privacy-loss sum under it.

G(c) is the cumulant generating function of the direction: Phi(c) for "remove", Phi(1 - c) for "add". Nothing here
needs to be exact: every c gives a true bound, a good one makes it cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from opacus_edgeworth._types import Direction
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.quadrature import LOG_SQRT_2PI, SMALL_LOG, expm1_minus, grid_points
from opacus_edgeworth.mechanisms import privacy_loss

LARGEST_LOG_TILT = 30.0


def moments(steps: Composition, c: float, direction: Direction) -> tuple[float, float, float]:
    """Return G(c), G'(c), G''(c), with a relative error of about 1e-6."""
    tilt = c if direction == "remove" else 1.0 - c
    gaussian = steps.gaussian
    value = 0.5 * gaussian * tilt * (tilt - 1.0)
    slope, curvature = 0.5 * gaussian * (2.0 * tilt - 1.0), gaussian
    if steps.phases:
        log_mgf, mean, variance = _rough_moments(steps, tilt)
        value += float(steps.steps @ log_mgf)
        slope += float(steps.steps @ mean)
        curvature += float(steps.steps @ variance)
    return value, slope if direction == "remove" else -slope, curvature


def _rough_moments(steps: Composition, tilt: float):
    """Return K(t), K'(t), K''(t) per phase on a coarse grid."""
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    spacing, score = grid_points(steps, tilt, 0.0, 14.0)
    loss = privacy_loss(score, s, q)
    half_square = 0.5 * score * score
    exponent = tilt * loss - half_square
    top = exponent.max(axis=1, keepdims=True)
    weight = np.exp(exponent - top)
    total = weight.sum(axis=1, keepdims=True)
    weight /= total
    log_mgf = (top + np.log(total * spacing))[:, 0] - LOG_SQRT_2PI
    mean = (weight * loss).sum(axis=1)
    variance = (weight * (loss - mean[:, None]) ** 2).sum(axis=1)
    if np.abs(log_mgf).min() <= SMALL_LOG:  # the differences of `quadrature`, here without their errors
        base = 0.0 if tilt < 0.5 else 1.0
        d, sign = tilt - base, 2.0 * base - 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            scale = spacing * np.exp(base * loss - half_square - LOG_SQRT_2PI)
            mirrored = expm1_minus(-sign * loss)
            excess = (scale * (expm1_minus(d * loss) + sign * d * mirrored)).sum(axis=1)
            slope = (scale * (loss * np.expm1(d * loss) + sign * mirrored)).sum(axis=1)
            small = np.abs(log_mgf) <= SMALL_LOG
            log_mgf = np.where(small, np.log1p(excess), log_mgf)
            mean = np.where(small, slope / (1.0 + excess), mean)
    return log_mgf, mean, variance


def saddle_for_epsilon(steps: Composition, epsilon: float, direction: Direction) -> float:
    """Return about the c > 1 that minimises G(c) + (1 - c) epsilon - log(c (c - 1))."""

    def rising(d: float) -> tuple[float, float, float]:
        _, slope, curvature = moments(steps, 1.0 + d, direction)
        value = slope - epsilon - 1.0 / (1.0 + d) - 1.0 / d
        curvature += 1.0 / (1.0 + d) ** 2 + 1.0 / d**2
        return value, d * curvature, d * math.sqrt(curvature)

    return 1.0 + math.exp(_increasing_root(rising, _first_log_tilt(steps)))


def saddle_for_delta(steps: Composition, delta: float, direction: Direction) -> tuple[float, float]:
    """Return about the c > 1 at which the Chernoff bound on epsilon at `delta` is least, and that bound.

    delta(e) <= kappa(c) e^{G(c) - (c - 1) e}, kappa(c) = (c - 1)^{c - 1} / c^c (Canonne, Kamath & Steinke 2020,
    https://arxiv.org/abs/2004.00010, Proposition 12); solving for e and setting the derivative in c to zero gives
    (c - 1) (G'(c) + log((c - 1)/c)) = G(c) + log kappa(c) - log delta, whose difference of sides rises in c.
    """
    log_delta = math.log(delta)

    def rising(d: float) -> tuple[float, float, float]:
        value, slope, curvature = moments(steps, 1.0 + d, direction)
        gap = d * (slope + math.log(d) - math.log1p(d)) - (value + log_kappa(1.0 + d) - log_delta)
        derivative = d * curvature + 1.0 / (1.0 + d)
        return gap, d * derivative, math.sqrt(d * derivative)

    d = math.exp(_increasing_root(rising, _first_log_tilt(steps)))
    value, _, _ = moments(steps, 1.0 + d, direction)
    return 1.0 + d, (value + log_kappa(1.0 + d) - log_delta) / d


def log_kappa(c: float) -> float:
    """Return log of the Chernoff constant (c - 1)^{c - 1} / c^c for c > 1, and 0 for 0 <= c <= 1."""
    return (c - 1.0) * math.log(c - 1.0) - c * math.log(c) if c > 1.0 else 0.0


def saddle_in_strip(steps: Composition, epsilon: float, direction: Direction) -> float:
    """Return about the c in (0, 1) that minimises G(c) + (1 - c) epsilon - log(c (1 - c))."""

    def rising(odds: float) -> tuple[float, float, float]:
        c = odds / (1.0 + odds)
        _, slope, curvature = moments(steps, c, direction)
        value = slope - epsilon - 1.0 / c + 1.0 / (1.0 - c)
        curvature += 1.0 / c**2 + 1.0 / (1.0 - c) ** 2
        width = c * (1.0 - c)
        return value, width * curvature, width * math.sqrt(curvature)

    odds = math.exp(_increasing_root(rising, 0.0))
    return odds / (1.0 + odds)


def _first_log_tilt(steps: Composition) -> float:
    """Return log(c - 1) of a Gaussian with the variance log(1 + q^2 (e^{1/s^2} - 1)) per step, roughly."""
    spread = np.minimum(1.0 / np.maximum(steps.noise_multiplier, 1e-3) ** 2, 40.0)
    variance = steps.gaussian + float(steps.steps @ np.log1p(steps.sample_rate**2 * np.expm1(spread)))
    return math.log(4.0 / math.sqrt(min(max(variance, 1e-20), 1e4)))


def _increasing_root(rising: Callable[[float], tuple[float, float, float]], start: float) -> float:
    """Return about the root in log x of an increasing function.

    `rising` gives the function, its derivative in log x, and the scale of log x in units of the integrand's width:
    a Newton step of a fifth of that width is close enough. G may take off exponentially, where Newton's steps from
    above are short: they are doubled as long as the sign stays.
    """
    low, high = -math.inf, math.inf
    at = min(max(start, -LARGEST_LOG_TILT), LARGEST_LOG_TILT)
    stretch = 1.0
    previous = 0.0
    for _ in range(80):
        value, derivative, scale = rising(math.exp(at))
        if math.isfinite(value) and math.isfinite(derivative) and derivative > 0.0:
            move = -value / derivative
            if abs(move) * scale < 0.2 and abs(move) < 0.2:
                return at + move
        else:
            move = -1.0
        low, high = (at, high) if move > 0.0 else (low, at)
        stretch = 2.0 * stretch if move * previous > 0.0 else 1.0
        previous = move
        move = min(max(stretch * move, -2.0), 2.0)
        if not low < at + move < high:
            move = 0.5 * (low + high) - at
        at += move
        if abs(at) > LARGEST_LOG_TILT:
            raise OutOfReachError(f"the saddle point lies beyond tilt e^{at:g}")
    return at
