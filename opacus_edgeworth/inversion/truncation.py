r"""How fast a tilted step's characteristic function must decay: what the line engine leaves out beyond its last node.

Two bounds on |phi_t(y)|, per phase:

*Near* (moments). With L, L* independent under the tilt, |phi_t(y)|^2 = E cos(y (L - L*)) and
cos x <= 1 - x^2/2 + x^4/24, so |phi_t(y)|^2 <= 1 - V y^2 + (mu_4 + 3 V^2) y^4 / 12, falling up to its vertex.

*Far* (layers). A density that lies above sum_i m_i Uniform(interval of width W_i), sum m_i <= 1, has
|phi_t(y)| <= 1 - sum_i m_i (1 - |sinc(y W_i / 2)|) (Khinchine's layers of a unimodal density). The density of L under
the tilt is (density of u) / (dL/du); it is bounded below on every grid cell, cut down to a unimodal step function,
and sliced into layers; what was cut off is sliced once more. The layers hold for every y, so the bound never rises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.inversion.grid import Grid
from opacus_edgeworth.inversion.quadrature import TiltedSteps

SLACK = 1e-9
"""Relative allowance for rounding and quadrature error of moments and layer masses.

Both are accurate to about 1e-12: the quadrature error of phi is analytic in z and below 1e-16 on a disc of radius
1 / sd about the tilt, so Cauchy's inequality bounds that of the moments by 24e-16 relative to sd^2 and sd^4. Not so
where the tilted law reaches the grid's cap: there it is an assumption.
"""


@dataclass(frozen=True, slots=True)
class Decay:
    """Bounds on |phi_t| of every phase under T tilts.

    Args:
      steps: (P,), how often each phase is composed.
      variance, quartic: (T, P), V and (mu_4 + 3 V^2) / 12, rounded to the safe side.
      vertex, beyond: (T, P), up to where the near bound falls, and the far bound there.
      mass, width: (T, P, M), layers of the density of L.
      gaussian: inverse variance of the unsampled steps, whose characteristic function is known.
    """

    steps: FloatArray
    variance: FloatArray
    quartic: FloatArray
    vertex: FloatArray
    beyond: FloatArray
    mass: FloatArray
    width: FloatArray
    gaussian: float

    def log_bound(self, y: float) -> FloatArray:
        """Return upper bounds on log |cf| of the whole composition at every |y'| >= y > 0, (T,)."""
        square = np.minimum(y, self.vertex) ** 2
        modulus = np.maximum(np.sqrt(1.0 - square * (self.variance - self.quartic * square)), self.beyond)
        passed = y >= self.vertex
        if passed.any():  # past the vertex the moments say no more
            modulus = np.where(passed, np.minimum(modulus, far_bound(self.mass, self.width, y)), modulus)
        return np.log(modulus) @ self.steps - 0.5 * self.gaussian * y * y * (1.0 - SLACK)


def far_bound(mass: FloatArray, width: FloatArray, y: FloatArray | float) -> FloatArray:
    """Return the layers' bound on |phi_t| at |y'| >= y; mass and width (T, P, M), y a number or (T, P)."""
    return 1.0 - (1.0 - SLACK) * (mass * one_minus_sinc(0.5 * np.asarray(y)[..., None] * width)).sum(axis=-1)


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
    steps, weight = tilted.grid.steps, tilted.weight
    centred = tilted.grid.loss - tilted.mean[..., None]
    square = centred * centred
    weighted = weight * square
    variance = weighted.sum(axis=-1)
    fourth = np.einsum("tpj,tpj->tp", weighted, square)
    quartic = (fourth + 3.0 * variance**2) / 12.0 * (1.0 + 4.0 * SLACK)
    variance = variance * (1.0 - SLACK)
    vertex = np.sqrt(variance / (2.0 * quartic))
    mass, width = _layers(*_cell_density(tilted.grid, weight, tilted.tilt))
    return Decay(steps.steps, variance, quartic, vertex, far_bound(mass, width, vertex), mass, width, steps.gaussian)


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
