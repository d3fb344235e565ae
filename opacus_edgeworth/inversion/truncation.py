r"""How fast a tilted step's characteristic function must decay: what the line engine leaves out beyond its last node.

*Layers*, for many steps. A density that lies above sum_i m_i Uniform(interval of width W_i), sum m_i <= 1, has
|phi_t(y)| <= 1 - sum_i m_i (1 - |sinc(y W_i / 2)|) (Khinchine's layers of a unimodal density). The density of L under
the tilt is (density of u) / (dL/du); it is bounded below on every grid cell, cut down to a unimodal step function,
and sliced into layers; what was cut off is sliced once more. The layers hold for every y, so the bound never rises.
No moment and no quadrature enters but phi(t), which scales the masses.

*Shifted scores*, for few steps. On Im u = a > 0, |e^{(t + iy) L}| = e^{t Re L - y Im L} with Im L > 0 falls in y, so
that the integral of its modulus at y bounds |phi(t + iy')| for all y' >= y; it falls exponentially, but the factor
|N chi (u + ia)| / N chi (u) counts once per step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.grid import LOG_SQRT_2PI, SMALLEST_LOG, STRIP, Grid, strip_bounds
from opacus_edgeworth.inversion.quadrature import TiltedSteps
from opacus_edgeworth.mechanisms import loss_turn

SLACK = 1e-9
"""Relative allowance for the rounding of layer masses and widths, about 1e-12; the error of phi(t) is added to it."""
SHARES = np.array([0.1, 0.2, 0.35, 0.5, 0.75, 1.0])
"""Heights of the shifted scores that are tried, as shares of the highest."""
HIGHEST, HIGHEST_ABOVE = 6.0, 6.4
"""Largest heights for a law, in u, and for one above a lower barrier, in W: there |chi(u + ia)| grows quickly."""


@dataclass(frozen=True, slots=True)
class Decay:
    """Bounds on |phi_t| of every phase under T tilts.

    Args:
      steps: the composition.
      mass, width: (T, P, M), layers of the density of L.
    """

    steps: Composition
    mass: FloatArray
    width: FloatArray

    def log_bound(self, y: float) -> FloatArray:
        """Return upper bounds on log |cf| of the whole composition at every |y'| >= y > 0, (T,)."""
        return compose_bound(self.steps, self.log_phi(y), y)

    def log_phi(self, y: float) -> FloatArray:
        """Return upper bounds on log |phi_t(y')| of every phase at every |y'| >= y > 0, (T, P)."""
        return np.log1p(-(self.mass * one_minus_sinc(0.5 * y * self.width)).sum(axis=-1))


def compose_bound(steps: Composition, log_phi: FloatArray, y: float) -> FloatArray:
    """Return upper bounds on log |cf| of the whole composition from y on, from those of its phases, (..., P)."""
    return log_phi @ steps.steps - 0.5 * steps.gaussian * y * y * (1.0 - SLACK)


@dataclass(frozen=True, slots=True)
class Shifted:
    """The modulus of a tilted law on lines of complex scores, for A heights.

    Args:
      log_size: (A, T, P, J), bounds on log of its integral over the cell of each score at y = 0, over phi(t).
      turn: (A, 1, P, J), Im L where the cell begins.
      log_edge: (A, T, P), the same for what lies beyond the grid's ends.
    """

    log_size: FloatArray
    turn: FloatArray
    log_edge: FloatArray

    def log_bound(self, y: float) -> FloatArray:
        """Return upper bounds on log |phi_t(y')| of every phase at every |y'| >= y > 0, (T, P)."""
        with np.errstate(divide="ignore"):
            log_sum = np.log(np.exp(np.minimum(self.log_size - y * self.turn, 700.0)).sum(axis=-1))
        return np.logaddexp(log_sum, self.log_edge).min(axis=0) + SLACK


def shifted_bound(tilted: TiltedSteps) -> Shifted:
    r"""Return what bounds |phi_t| of every phase by shifted scores.

    *Growth*: |N(u + ia)| = e^{a^2/2} N(u), and |chi(u + ia)| is at most e^{a^2 / 2 W^2} chi(u) and, for one barrier, at
    most 1 + e^{a^2 / 2 W^2} (1 - chi(u)). |1 - q + q e^{w + i theta}| <= 1 - q + q e^w; for t < 0 see `strip_bounds`.
    *Cells*: log(N chi) is concave and t L has a second derivative of at most k = (t)_+ m (1 - m) / s^2, m = dL/dw; over
    half a spacing h their sum rises by at most half its last difference, looking back, and 3 k h^2 / 8. At the ends its
    slope is bounded by |u| + |t| dL/du + |u - barrier| / W^2 + 1 / W (Mills' ratio). *Edges*: the path goes down to
    the real line at the end E; below the grid the modulus is that of `range_error` with its growth.
    """
    grid, tilt = tilted.grid, tilted.tilt[:, None, None]
    law, s = grid.law, grid.steps.noise_multiplier[:, None]
    rate, q, h = np.maximum(tilt, 0.0), grid.steps.sample_rate[:, None], grid.spacing
    height = SHARES[:, None, None, None] * np.minimum(
        STRIP * math.pi * s, HIGHEST if law.below is None else HIGHEST_ABOVE * law.soft
    )
    theta = height / s
    with np.errstate(divide="ignore"):
        log_weight = np.log(tilted.weight)
    convex = 0.375 * rate * np.minimum(grid.slope * np.exp(h / s), 0.25) / s**2 * h**2
    soft = law.growth[:, None] * height**2
    size = log_weight + _overshoot(grid, tilt, grid.log_density) + convex + soft
    low_growth = soft[..., 0]
    if law.below is None:
        far = 0.5 * (height / law.soft) ** 2
        beyond = np.minimum(far, 600.0) + np.log(ndtr((grid.score + 0.5 * h - law.barrier) / law.soft) + 1e-300)
        plain = (
            log_weight - grid.log_density - 0.5 * grid.score**2 + _overshoot(grid, tilt, -0.5 * grid.score**2) + convex
        )
        plain = plain + 0.5 * height**2 + np.logaddexp(0.0, beyond)
        size = np.minimum(size, np.where(np.isfinite(plain), plain, np.inf))
        low_growth = 0.5 * height[..., 0] ** 2 + np.logaddexp(0.0, beyond[..., 0])
    shrink = np.maximum(-tilt, 0.0) * strip_bounds(theta, np.minimum(grid.slope * np.exp(0.5 * h / s), 1.0))[1]
    turn = loss_turn(grid.score - 0.5 * h, theta, s, q) * (1.0 - 1e-9)
    log_end = grid.end_log_density + tilted.tilt[:, None] * grid.end_loss - tilted.log_mgf - LOG_SQRT_2PI
    log_end = (
        log_end + np.log(height[..., 0]) + soft[..., 0] + shrink[..., -1] + 1e-9 * np.abs(grid.end_loss * tilt[..., 0])
    )
    with np.errstate(divide="ignore"):
        log_low = np.log(tilted.lost) + low_growth + shrink[..., 0]
    log_edge = np.logaddexp(np.logaddexp(log_end, log_low), SMALLEST_LOG + 100.0)  # and weights that underflowed
    return Shifted(size + shrink + tilted.log_mgf_error[..., None], turn, log_edge + tilted.log_mgf_error)


def _overshoot(grid: Grid, tilt: FloatArray, log_density: FloatArray) -> FloatArray:
    """Return by how much the logarithm of the density times e^{tL} rises over half a cell at most, (T, P, J)."""
    s, law = grid.steps.noise_multiplier[:, None], grid.law
    exponent = tilt * grid.loss + log_density
    rise = np.diff(exponent, axis=-1)
    over = np.zeros_like(exponent)
    over[..., 1:] = np.maximum(rise, 0.0)
    over[..., :-1] = np.maximum(over[..., :-1], -rise)
    lower = law.barrier if law.below is None else law.below
    soft = law.soft[:, 0]
    for at, barrier in ((0, lower), (-1, law.barrier)):
        u = grid.score[:, at]
        slope = np.abs(u) + np.abs(tilt[..., 0]) * grid.slope[:, at] / s[:, 0]
        slope = slope + np.abs(u - barrier[:, 0]) / soft**2 + 1.0 / soft
        over[..., at] = np.maximum(over[..., at], slope * grid.spacing[:, 0])
    return 0.5 * over


def one_minus_sinc(x: FloatArray) -> FloatArray:
    """Return a non-decreasing lower bound on 1 - |sin(x)/x| for x >= 0.

    Up to 2.46, sin(x)/x falls from 1 to 0.256; beyond, |sin(x)/x| is at most 0.256, since it falls on and its second
    hump reaches 0.2173 only, and at most 1/x.
    """
    small = np.minimum(x, 2.46)
    with np.errstate(invalid="ignore", divide="ignore"):
        direct = np.where(small > 0.1, 1.0 - np.sin(small) / small, small**2 / 6.0 * (1.0 - small**2 / 20.0))
        return np.maximum(direct, 1.0 - 1.0 / x)


def decay_bound(tilted: TiltedSteps) -> Decay:
    """Return the decay of every phase's characteristic function under each tilt."""
    steps = tilted.grid.steps
    mass, width = layers(*_cell_density(tilted.grid, tilted.weight, tilted.tilt))
    share = np.maximum(1.0 - SLACK - tilted.log_mgf_error, 0.0)
    return Decay(steps, mass * share[..., None], width)


def _cell_density(grid: Grid, weight: FloatArray, tilt: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return lower bounds on the density of L in every grid cell, (T, P, J - 1), and on its width in L, (P, J - 1).

    log(density) has second derivative at most k = (t + 1)_+ m (1 - m) / s^2 - 1 in u, m = dL/dw, which rises, so within
    a cell of width h it is at least the smaller end value less k_+ h^2 / 8.
    """
    s = grid.steps.noise_multiplier[:, None]
    slope, error = grid.slope, grid.loss_error
    width = np.maximum(np.diff(grid.loss, axis=1) - error[:, 1:] - error[:, :-1], 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = s / (grid.spacing * slope)
        inverse = np.where(inverse < 1e300, inverse, 0.0)
    density = weight * inverse
    steepest = np.minimum(slope[:, 1:], 0.25) / s**2
    curvature = np.maximum((tilt[:, None, None] + 1.0) * steepest - 1.0, 0.0)
    floor = np.minimum(density[..., 1:], density[..., :-1]) * np.exp(-curvature * grid.spacing**2 / 8.0)
    return floor * (width > 0.0), width


def layers(density: FloatArray, width: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slice step densities (T, P, M) into uniform layers, twice: masses and widths, both (T, P, M')."""
    masses: list[FloatArray] = []
    widths: list[FloatArray] = []
    for _ in range(2):
        unimodal = _unimodal_minorant(density)
        order = np.argsort(-unimodal, axis=-1)
        level = np.take_along_axis(unimodal, order, axis=-1)
        # superlevel sets of a unimodal function are intervals, so their widths are running sums
        extent = np.cumsum(np.take_along_axis(np.broadcast_to(width, density.shape), order, axis=-1), axis=-1)
        level[..., :-1] -= level[..., 1:]
        masses.append(level * extent)
        widths.append(extent)
        if float(masses[0].sum(axis=-1).min()) > 0.6:  # little was cut off
            break
        density = density - unimodal
    return np.concatenate(masses, axis=-1), np.concatenate(widths, axis=-1)


def _unimodal_minorant(density: FloatArray) -> FloatArray:
    """Return the largest function below `density` that rises to its peak and falls after it."""
    peak = np.argmax(density, axis=-1)[..., None]
    size: int = density.shape[-1]
    column = np.arange(size)
    falling = np.minimum.accumulate(np.where(column < peak, math.inf, density), axis=-1)
    rising = np.minimum.accumulate(np.where(column > peak, math.inf, density)[..., ::-1], axis=-1)[..., ::-1]
    return np.where(column >= peak, falling, rising)
