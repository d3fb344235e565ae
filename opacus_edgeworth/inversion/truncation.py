r"""How fast a tilted step's characteristic function must decay: what the line engine leaves out beyond its last node.

A density that lies above sum_i m_i Uniform(interval of width W_i), sum m_i <= 1, has
|phi_t(y)| <= 1 - sum_i m_i (1 - |sinc(y W_i / 2)|) (Khinchine's layers of a unimodal density). The density of L under
the tilt is (density of u) / (dL/du); it is bounded below on every grid cell, cut down to a unimodal step function,
and sliced into layers; what was cut off is sliced once more. The layers hold for every y, so the bound never rises.
No moment and no quadrature enters but phi(t), which scales the masses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.inversion.grid import Grid
from opacus_edgeworth.inversion.quadrature import TiltedSteps

SLACK = 1e-9
"""Relative allowance for the rounding of layer masses and widths, about 1e-12; the error of phi(t) is added to it."""


@dataclass(frozen=True, slots=True)
class Decay:
    """Bounds on |phi_t| of every phase under T tilts.

    Args:
      steps: (P,), how often each phase is composed.
      mass, width: (T, P, M), layers of the density of L.
      gaussian: inverse variance of the unsampled steps, whose characteristic function is known.
    """

    steps: FloatArray
    mass: FloatArray
    width: FloatArray
    gaussian: float

    def log_bound(self, y: float) -> FloatArray:
        """Return upper bounds on log |cf| of the whole composition at every |y'| >= y > 0, (T,)."""
        drop = (self.mass * one_minus_sinc(0.5 * y * self.width)).sum(axis=-1)
        return np.log1p(-drop) @ self.steps - 0.5 * self.gaussian * y * y * (1.0 - SLACK)


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
    mass, width = _layers(*_cell_density(tilted.grid, tilted.weight, tilted.tilt))
    share = np.maximum(1.0 - SLACK - tilted.log_mgf_error, 0.0)
    return Decay(steps.steps, mass * share[..., None], width, steps.gaussian)


def _cell_density(grid: Grid, weight: FloatArray, tilt: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return lower bounds on the density of L in every grid cell, (T, P, J - 1), and on its width in L, (P, J - 1).

    log(density) has second derivative at most k = (t + 1)_+ / (4 s^2) - 1 in u, so within a cell of width h it is at
    least the smaller end value less k_+ h^2 / 8.
    """
    s = grid.steps.noise_multiplier[:, None]
    slope, error = grid.slope, grid.loss_error
    width = np.maximum(np.diff(grid.loss, axis=1) - error[:, 1:] - error[:, :-1], 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = s / (grid.spacing * slope)
        inverse = np.where(inverse < 1e300, inverse, 0.0)
    density = weight * inverse
    curvature = np.maximum((tilt[:, None, None] + 1.0) / (4.0 * s**2) - 1.0, 0.0)
    floor = np.minimum(density[..., 1:], density[..., :-1]) * np.exp(-curvature * grid.spacing**2 / 8.0)
    return floor * (width > 0.0), width


def _layers(density: FloatArray, width: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slice step densities (T, P, M) into uniform layers, twice: masses and widths, both (T, P, M')."""
    masses, widths = [], []
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
    column = np.arange(density.shape[-1])
    falling = np.minimum.accumulate(np.where(column < peak, math.inf, density), axis=-1)
    rising = np.minimum.accumulate(np.where(column > peak, math.inf, density)[..., ::-1], axis=-1)[..., ::-1]
    return np.where(column >= peak, falling, rising)
