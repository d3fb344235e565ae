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
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.quadrature import TiltedSteps

SLACK = 1e-9
"""Relative allowance for rounding and quadrature error of moments and layer masses.

Both are accurate to about 1e-12: the quadrature error of phi is analytic in z and below 1e-16 on a disc of radius
1 / sd about the tilt, so Cauchy's inequality bounds that of the moments by 24e-16 relative to sd^2 and sd^4.
"""


@dataclass(frozen=True, slots=True)
class Decay:
    """Bounds on |phi_t| of every phase.

    Args:
      steps: (P,), how often each phase is composed.
      variance, quartic: (P,), V and (mu_4 + 3 V^2) / 12, rounded to the safe side.
      vertex, beyond: (P,), up to where the near bound falls, and the far bound there.
      mass, width: (P, M), layers of the density of L.
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

    def log_bound(self, y: float) -> float:
        """Return an upper bound on log |cf| of the whole composition at every |y'| >= y > 0."""
        at = np.minimum(y, self.vertex)
        near = np.sqrt(1.0 - self.variance * at**2 + self.quartic * at**4)
        modulus = np.maximum(near, self.beyond)
        if np.any(at == self.vertex):  # past the vertex the moments say no more
            modulus = np.minimum(modulus, far_bound(self.mass, self.width, np.full(at.shape, y)))
        return float(self.steps @ np.log(modulus)) - 0.5 * self.gaussian * y * y * (1.0 - SLACK)


def far_bound(mass: FloatArray, width: FloatArray, y: FloatArray) -> FloatArray:
    """Return the layers' bound on |phi_t| at |y'| >= y, one value per phase; mass and width (P, M), y (P,)."""
    return 1.0 - (1.0 - SLACK) * (mass * one_minus_sinc(0.5 * y[:, None] * width)).sum(axis=1)


def one_minus_sinc(x: FloatArray) -> FloatArray:
    """Return a non-decreasing lower bound on 1 - |sin(x)/x| for x >= 0.

    Up to 2.46, sin(x)/x falls from 1 to 0.256; beyond, |sin(x)/x| is at most 0.256, since it falls on and its second
    hump reaches 0.2173 only, and at most 1/x.
    """
    small = np.minimum(x, 2.46)
    with np.errstate(invalid="ignore", divide="ignore"):
        direct = np.where(small > 0.1, 1.0 - np.sin(small) / small, small**2 / 6.0 * (1.0 - small**2 / 20.0))
        return np.maximum(direct, 1.0 - 1.0 / x)


def decay_bound(tilted: TiltedSteps, steps: Composition) -> Decay:
    """Return the decay of every phase's characteristic function under the tilt."""
    centred = tilted.loss - tilted.mean[:, None]
    square = centred * centred
    variance = (tilted.weight * square).sum(axis=1)
    fourth = (tilted.weight * square * square).sum(axis=1)
    quartic = (fourth + 3.0 * variance**2) / 12.0 * (1.0 + 4.0 * SLACK)
    variance = variance * (1.0 - SLACK)
    vertex = np.sqrt(variance / (2.0 * quartic))
    mass, width = _layers(*_cell_density(tilted, steps.noise_multiplier[:, None]))
    beyond = far_bound(mass, width, vertex)
    return Decay(steps.steps, variance, quartic, vertex, beyond, mass, width, steps.gaussian)


def _cell_density(tilted: TiltedSteps, s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return lower bounds on the density of L in every grid cell, and on the cell's width in L; both (P, J - 1).

    log(density) has second derivative at most k = (t + 1)_+ / (4 s^2) - 1 in u, so within a cell of width h it is at
    least the smaller end value less k_+ h^2 / 8.
    """
    spacing = tilted.score[:, 1:2] - tilted.score[:, :1]
    slope, error = tilted.slope, tilted.loss_error
    width = np.maximum(np.diff(tilted.loss, axis=1) - error[:, 1:] - error[:, :-1], 0.0)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        density = np.where(slope > 0.0, tilted.weight * s / (spacing * slope), 0.0)
    density = np.where(np.isfinite(density), density, 0.0)
    curvature = np.maximum((tilted.tilt + 1.0) / (4.0 * s**2) - 1.0, 0.0)
    floor = np.minimum(density[:, 1:], density[:, :-1]) * np.exp(-curvature * spacing**2 / 8.0)
    return np.where(width > 0.0, floor, 0.0), width


def _layers(density: FloatArray, width: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slice step densities into uniform layers, twice: masses and widths, both (P, M)."""
    masses, widths = [], []
    for _ in range(2):
        unimodal = _unimodal_minorant(density)
        order = np.argsort(-unimodal, axis=1, kind="stable")
        level = np.take_along_axis(unimodal, order, axis=1)
        # superlevel sets of a unimodal function are intervals, so their widths are running sums
        extent = np.cumsum(np.take_along_axis(width, order, axis=1), axis=1)
        drop = level - np.append(level[:, 1:], np.zeros((level.shape[0], 1)), axis=1)
        masses.append(drop * extent)
        widths.append(extent)
        if float(masses[0].sum(axis=1).min()) > 0.6:  # little was cut off
            break
        density = density - unimodal
    return np.concatenate(masses, axis=1), np.concatenate(widths, axis=1)


def _unimodal_minorant(density: FloatArray) -> FloatArray:
    """Return the largest function below `density` that rises to its peak and falls after it."""
    peak = np.argmax(density, axis=1)[:, None]
    column = np.arange(density.shape[1])[None, :]
    falling = np.minimum.accumulate(np.where(column < peak, math.inf, density), axis=1)
    rising = np.minimum.accumulate(np.where(column > peak, math.inf, density)[:, ::-1], axis=1)[:, ::-1]
    return np.where(column >= peak, falling, rising)
