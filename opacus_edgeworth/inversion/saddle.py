r"""Where to put the line: the tilt c, and rough moments of the privacy-loss sum under it.

G(c) is the cumulant generating function of the direction: Phi(c) for "remove", Phi(1 - c) for "add". Nothing here
needs to be exact: every c gives a true bound, a good one makes it cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.grid import Grid, make_grid
from opacus_edgeworth.inversion.law import Law, barrier_for, law_for_tilt, softness
from opacus_edgeworth.inversion.quadrature import tilted_mass

Moments: TypeAlias = Callable[[float], tuple[float, float, float]]
"""G, G' and G'' at a point c."""

LARGEST_LOG_TILT = 30.0
SOFT_SHARE = 0.35
"""Width of barriers, in u / s."""
LOG_CUT = -110.0
"""Log of the mass that may be cut off where nothing is known of delta: far below any delta of interest."""


def rough_grid(steps: Composition, log_cut: float = LOG_CUT) -> Grid:
    """Return a grid for the tilts and the reach that a composition usually needs.

    Raises:
      OutOfReachError: even that is too large.
    """
    variance = _rough_variance(steps)
    least = float(steps.noise_multiplier.min())
    gap = min(8.0 / math.sqrt(variance), 16.0 * least)
    soft = softness(steps, SOFT_SHARE)
    law = law_for_tilt(steps, 1.0 + gap, soft, barrier_for(steps, log_cut, soft))
    return make_grid(law, -0.7 * gap, 1.0 + gap, min(20.0 / math.sqrt(variance), 60.0 * (1.0 + least**2)))


def moments(grid: Grid, c: float, direction: Direction) -> tuple[float, float, float]:
    """Return G(c), G'(c), G''(c), with a relative error of about 1e-6."""
    tilt = c if direction == "remove" else 1.0 - c
    gaussian = grid.steps.gaussian
    log_mgf, mean, variance = _rough_moments(grid, tilt)
    counts = grid.steps.steps
    value = 0.5 * gaussian * tilt * (tilt - 1.0) + float(counts @ log_mgf)
    slope = 0.5 * gaussian * (2.0 * tilt - 1.0) + float(counts @ mean)
    return value, slope if direction == "remove" else -slope, gaussian + float(counts @ variance)


def _rough_moments(grid: Grid, tilt: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return K(t), K'(t), K''(t) per phase, on this grid if it holds the tilted law, on a better one if not."""
    if tilt <= grid.highest_tilt and max(max(tilt, 1.0) * grid.largest_loss, tilt * grid.least_loss) < 300.0:
        growing = np.expm1(tilt * grid.loss)
        if float(np.abs(grid.scale[:, 0] * growing[:, 0]).max()) < 1e-7:
            # E[L^k e^{tL}] = E[L^k] + E[L^k (e^{tL} - 1)], so that little is lost where tL is small
            growth, mean, square = np.einsum("kpj,pj->kp", grid.powers, growing)
            growth -= grid.mass_lost
            total = 1.0 + growth
            mean = (mean + grid.mean) / total
            square = (square + grid.square) / total
            return np.log1p(growth), mean, square - mean * mean
    mass, total, log_mgf = (row[0] for row in tilted_mass(grid, np.array([tilt])))
    # more than three points carry the mass, and it has fallen at the lower end
    fits = tilt <= grid.highest_tilt and float(total.min()) > 3.0 and float(mass[:, 0].max()) < 1e-6
    if not fits and (grid.reach > 0.0 or not grid.serves(tilt, tilt, 0.0)):
        return _rough_moments(make_grid(fitting_law(grid.law, tilt), tilt, tilt, 0.0), tilt)
    weight = mass / total
    mean = (weight * grid.loss).sum(axis=1)
    return log_mgf, mean, (weight * (grid.loss - mean[:, None]) ** 2).sum(axis=1)


def fitting_law(law: Law, tilt: float) -> Law:
    """Return the law with an end that suits a tilt."""
    return law_for_tilt(law.steps, tilt, law.soft, law.barrier, law.below)


def saddle_for_epsilon(grid: Grid, epsilon: float, direction: Direction) -> float:
    """Return about the c > 1 that minimises G(c) + (1 - c) epsilon - log(c (c - 1))."""
    return saddle_of_delta(lambda c: moments(grid, c, direction), epsilon, first_log_tilt(_rough_variance(grid.steps)))


def saddle_for_delta(grid: Grid, delta: float, direction: Direction) -> tuple[float, float]:
    """Return about the c > 1 at which the Chernoff bound on epsilon at `delta` is least, and that bound."""
    return saddle_of_epsilon(lambda c: moments(grid, c, direction), delta, first_log_tilt(_rough_variance(grid.steps)))


def saddle_of_delta(moments_at: Moments, epsilon: float, first: float) -> float:
    """Return about the c > 1 that minimises G(c) + (1 - c) epsilon - log(c (c - 1)).

    `moments_at` gives G, G' and G''; the search for log(c - 1) begins at `first`.
    """

    def rising(d: float) -> tuple[float, float, float]:
        _, slope, curvature = moments_at(1.0 + d)
        value = slope - epsilon - 1.0 / (1.0 + d) - 1.0 / d
        curvature += 1.0 / (1.0 + d) ** 2 + 1.0 / d**2
        return value, d * curvature, d * math.sqrt(curvature)

    return 1.0 + math.exp(_increasing_root(rising, first))


def saddle_of_epsilon(moments_at: Moments, delta: float, first: float) -> tuple[float, float]:
    """Return about the c > 1 at which the Chernoff bound on epsilon at `delta` is least, and that bound.

    delta(e) <= kappa(c) e^{G(c) - (c - 1) e}, kappa(c) = (c - 1)^{c - 1} / c^c (Canonne, Kamath & Steinke 2020,
    https://arxiv.org/abs/2004.00010, Proposition 12); solving for e and setting the derivative in c to zero gives
    (c - 1) (G'(c) + log((c - 1)/c)) = G(c) + log kappa(c) - log delta, whose difference of sides rises in c.
    """
    log_delta = math.log(delta)

    def rising(d: float) -> tuple[float, float, float]:
        value, slope, curvature = moments_at(1.0 + d)
        gap = d * (slope + math.log(d) - math.log1p(d)) - (value + log_kappa(1.0 + d) - log_delta)
        derivative = d * curvature + 1.0 / (1.0 + d)
        return gap, d * derivative, math.sqrt(d * derivative)

    d = math.exp(_increasing_root(rising, first))
    value, _, _ = moments_at(1.0 + d)
    return 1.0 + d, (value + log_kappa(1.0 + d) - log_delta) / d


def log_kappa(c: float) -> float:
    """Return log of the Chernoff constant (c - 1)^{c - 1} / c^c for c > 1, and 0 for 0 <= c <= 1."""
    return (c - 1.0) * math.log1p(-1.0 / c) - math.log(c) if c > 1.0 else 0.0


def saddle_in_strip(grid: Grid, epsilon: float, direction: Direction) -> float:
    """Return about the c in (0, 1) that minimises G(c) + (1 - c) epsilon - log(c (1 - c))."""

    def rising(odds: float) -> tuple[float, float, float]:
        c = odds / (1.0 + odds)
        _, slope, curvature = moments(grid, c, direction)
        value = slope - epsilon - 1.0 / c + 1.0 / (1.0 - c)
        curvature += 1.0 / c**2 + 1.0 / (1.0 - c) ** 2
        width = c * (1.0 - c)
        return value, width * curvature, width * math.sqrt(curvature)

    odds = math.exp(_increasing_root(rising, 0.0))
    return odds / (1.0 + odds)


def first_log_tilt(variance: float) -> float:
    """Return log(c - 1) of a Gaussian with about this variance: where a search may begin."""
    return math.log(4.0 / math.sqrt(min(max(variance, 1e-20), 1e4)))


def _rough_variance(steps: Composition) -> float:
    """Return about the variance of the privacy-loss sum: log(1 + q^2 (e^{1/s^2} - 1)) per step, within limits."""
    spread = np.minimum(1.0 / np.maximum(steps.noise_multiplier, 1e-3) ** 2, 40.0)
    variance = steps.gaussian + float(steps.steps @ np.log1p(steps.sample_rate**2 * np.expm1(spread)))
    return min(max(variance, 1e-20), 1e4)


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
