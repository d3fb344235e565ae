r"""Where to put the line: the tilt c, and rough moments of the privacy-loss sum under it.

G(c) is the cumulant generating function of the direction: Phi(c) for "remove", Phi(1 - c) for "add". Nothing here
needs to be exact: every c gives a true bound, a good one makes it cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.quadrature import LOG_SQRT_2PI, SMALL_LOG, expm1_minus, grid_points, tilted_mass
from opacus_edgeworth.mechanisms import privacy_loss

LARGEST_LOG_TILT = 30.0


@dataclass(frozen=True, slots=True)
class RoughLaw:
    """A composition with its losses on a coarse score grid, (P, J), that serves moderate tilts.

    Args:
      steps: the composition.
      spacing: grid steps, (P, 1).
      reach: largest tilt of which no mode lies beyond the grid.
      scale: N(u) du.
      log_density: -u^2 / 2.
      loss: L; `excess` is e^L - 1 - L.
    """

    steps: Composition
    spacing: FloatArray
    reach: float
    scale: FloatArray
    log_density: FloatArray
    loss: FloatArray
    excess: FloatArray


def rough_law(steps: Composition, tilt: float | None = None) -> RoughLaw:
    """Return the law on a grid made for `tilt`, and good for others near it."""
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    if not steps.phases:
        return RoughLaw(steps, s, 0.0, s, s, s, s)
    spacing, score = grid_points(steps, 16.0 * float(s.min()) if tilt is None else tilt, 0.0, 30.0)
    loss = privacy_loss(score, s, q)
    log_density = -0.5 * score * score
    reach = float((score[:, -1:] * s).min()) if tilt is None or tilt < 0.0 else tilt
    with np.errstate(over="ignore"):
        scale = spacing * np.exp(log_density - LOG_SQRT_2PI)
        return RoughLaw(steps, spacing, reach, scale, log_density, loss, expm1_minus(loss))


def moments(law: RoughLaw, c: float, direction: Direction) -> tuple[float, float, float]:
    """Return G(c), G'(c), G''(c), with a relative error of about 1e-6."""
    tilt = c if direction == "remove" else 1.0 - c
    gaussian = law.steps.gaussian
    value = 0.5 * gaussian * tilt * (tilt - 1.0)
    slope, curvature = 0.5 * gaussian * (2.0 * tilt - 1.0), gaussian
    if law.steps.phases:
        log_mgf, mean, variance = _rough_moments(law, tilt)
        value += float(law.steps.steps @ log_mgf)
        slope += float(law.steps.steps @ mean)
        curvature += float(law.steps.steps @ variance)
    return value, slope if direction == "remove" else -slope, curvature


def _rough_moments(law: RoughLaw, tilt: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return K(t), K'(t), K''(t) per phase, on the law's grid if it holds the tilted law, on a better one if not."""
    tilted = tilt * law.loss
    if tilt <= law.reach and float(tilted.max()) < 300.0:
        growing = np.expm1(tilted)
        # E[e^L - 1] = 0 taken out, as in `quadrature`
        growth = (law.scale * (growing - tilted - tilt * law.excess)).sum(axis=1)
        edge = float((law.scale[:, [0, -1]] * growing[:, [0, -1]]).max())
        if float(growth.max()) < SMALL_LOG and edge < 1e-7:
            weighted = law.scale * law.loss
            total = 1.0 + growth
            mean = (weighted * growing - law.scale * law.excess).sum(axis=1) / total
            square = (weighted * law.loss * (growing + 1.0)).sum(axis=1) / total
            return np.log1p(growth), mean, square - mean * mean
    mass, total, log_mgf = tilted_mass(tilted + law.log_density, law.spacing)
    # more than three points carry the mass, and it has fallen at both ends
    if tilt > law.reach or float(total.min()) < 3.0 or float(mass[:, [0, -1]].max()) > 1e-6:
        fitting = rough_law(law.steps, tilt)
        if fitting.loss.shape != law.loss.shape or not np.array_equal(fitting.loss, law.loss):
            return _rough_moments(fitting, tilt)
    weight = mass / total
    mean = (weight * law.loss).sum(axis=1)
    variance = (weight * (law.loss - mean[:, None]) ** 2).sum(axis=1)
    small = np.abs(log_mgf) <= SMALL_LOG
    if small.any():
        with np.errstate(over="ignore", invalid="ignore"):
            growing = np.expm1(tilted)
            growth = (law.scale * (growing - tilted - tilt * law.excess)).sum(axis=1)
            drift = (law.scale * (law.loss * growing - law.excess)).sum(axis=1)
            log_mgf = np.where(small, np.log1p(growth), log_mgf)
            mean = np.where(small, drift / (1.0 + growth), mean)
    return log_mgf, mean, variance


def saddle_for_epsilon(law: RoughLaw, epsilon: float, direction: Direction) -> float:
    """Return about the c > 1 that minimises G(c) + (1 - c) epsilon - log(c (c - 1))."""

    def rising(d: float) -> tuple[float, float, float]:
        _, slope, curvature = moments(law, 1.0 + d, direction)
        value = slope - epsilon - 1.0 / (1.0 + d) - 1.0 / d
        curvature += 1.0 / (1.0 + d) ** 2 + 1.0 / d**2
        return value, d * curvature, d * math.sqrt(curvature)

    return 1.0 + math.exp(_increasing_root(rising, _first_log_tilt(law.steps)))


def saddle_for_delta(law: RoughLaw, delta: float, direction: Direction) -> tuple[float, float]:
    """Return about the c > 1 at which the Chernoff bound on epsilon at `delta` is least, and that bound.

    delta(e) <= kappa(c) e^{G(c) - (c - 1) e}, kappa(c) = (c - 1)^{c - 1} / c^c (Canonne, Kamath & Steinke 2020,
    https://arxiv.org/abs/2004.00010, Proposition 12); solving for e and setting the derivative in c to zero gives
    (c - 1) (G'(c) + log((c - 1)/c)) = G(c) + log kappa(c) - log delta, whose difference of sides rises in c.
    """
    log_delta = math.log(delta)

    def rising(d: float) -> tuple[float, float, float]:
        value, slope, curvature = moments(law, 1.0 + d, direction)
        gap = d * (slope + math.log(d) - math.log1p(d)) - (value + log_kappa(1.0 + d) - log_delta)
        derivative = d * curvature + 1.0 / (1.0 + d)
        return gap, d * derivative, math.sqrt(d * derivative)

    d = math.exp(_increasing_root(rising, _first_log_tilt(law.steps)))
    value, _, _ = moments(law, 1.0 + d, direction)
    return 1.0 + d, (value + log_kappa(1.0 + d) - log_delta) / d


def log_kappa(c: float) -> float:
    """Return log of the Chernoff constant (c - 1)^{c - 1} / c^c for c > 1, and 0 for 0 <= c <= 1."""
    return (c - 1.0) * math.log(c - 1.0) - c * math.log(c) if c > 1.0 else 0.0


def saddle_in_strip(law: RoughLaw, epsilon: float, direction: Direction) -> float:
    """Return about the c in (0, 1) that minimises G(c) + (1 - c) epsilon - log(c (1 - c))."""

    def rising(odds: float) -> tuple[float, float, float]:
        c = odds / (1.0 + odds)
        _, slope, curvature = moments(law, c, direction)
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
        try:
            value, derivative, scale = rising(math.exp(at))
        except OutOfReachError:  # G has no affordable grid there: look below
            value, derivative, scale = math.inf, math.inf, math.inf
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
