r"""Gauss-Legendre panels for the continuous part of the sampled Laplace mechanism's loss, with proved error.

What is integrated over 0 < x < 1 is (a/2) e^{-ax} R(x)^s, s = t + iy under Q and s = 1 - t - iy under P. On an ellipse
around a panel, |Im 2ax| <= theta <= pi/2, so that 1 - q + q e^{a (2 Re x - 1)} cos(theta) <= |R(x)| <= R(Re x), and
|arg R(x)|, which rises with Re x and with |Im x|, is at most what it is at the upper right corner of the ellipse's box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.mechanisms import ULP
from opacus_edgeworth.mixed.law import LaplaceDensity, log_mixture

NODES = 32
ABSCISSAS, WEIGHTS = np.polynomial.legendre.leggauss(NODES)
ELLIPSE = 4.0
"""rho: the ellipses have the semi-axes r (rho + 1/rho) / 2 and r (rho - 1/rho) / 2 for panels of half-length r."""
LONG, HIGH = 0.5 * (ELLIPSE + 1.0 / ELLIPSE), 0.5 * (ELLIPSE - 1.0 / ELLIPSE)
TURNS = 8.0
"""What |s| r dL/d(2x) may be on a panel: then what the ellipse adds is dwarfed by rho^(-2 NODES)."""
MAX_POINTS = 1 << 17
RULE_ERROR = 512.0 * ULP
"""Relative error of the rule's stored weights (the outermost err by 263 ulp); its abscissas err by 4 ulp at most."""


@dataclass(frozen=True, slots=True)
class Panels:
    """The points of a rule, as losses with masses under B.

    Args:
      density: what is integrated.
      half: r, half the length of every panel.
      loss: (J,); `loss_error` (J,) bounds its error.
      log_mass: (J,), with relative errors of the masses of at most `mass_error` (J,).
    """

    density: LaplaceDensity
    half: float
    loss: FloatArray
    loss_error: FloatArray
    log_mass: FloatArray
    mass_error: FloatArray

    def log_error(self, tilt: float, reach: float) -> float:
        """Return log of a bound on the rule's error for E_B[e^{(t + iy) l}] of the density, |y| <= reach.

        Source:
          Trefethen 2013, "Approximation Theory and Approximation Practice", Theorem 19.3.
        """
        a, q = self.density.rate, self.density.sample_rate
        power = tilt if self.density.direction == "remove" else 1.0 - tilt
        theta = 2.0 * a * self.half * HIGH
        centre = self.half * (2.0 * np.arange(round(0.5 / self.half)) + 1.0)
        low, high = centre - LONG * self.half, centre + LONG * self.half
        if power >= 0.0:
            log_power = power * log_mixture(a * (2.0 * high - 1.0), q)
        else:
            log_power = power * log_mixture(a * (2.0 * low - 1.0) + math.log(math.cos(theta)), q)
        odds = np.exp(np.minimum(a * (2.0 * high - 1.0) + math.log(q / (1.0 - q)), 600.0))
        turn = np.arctan2(odds * math.sin(theta), 1.0 + odds * math.cos(theta))
        log_size = math.log(0.5 * a) - a * low + log_power + reach * turn
        log_rule = math.log(64.0 / 15.0 * self.half / (1.0 - ELLIPSE**-2)) - 2.0 * (NODES - 1) * math.log(ELLIPSE)
        return float(np.logaddexp.reduce(log_size)) + log_rule + 1e-9 * (1.0 + float(np.abs(log_size).max()))

    def decay(self, tilt: float, log_phi: Bounds) -> LaplaceDecay:
        """Return what bounds the density's share of phi(tilt + iy) / phi(tilt), given bounds on log phi(tilt)."""
        return LaplaceDecay(log_end_densities(self.density, tilt) - log_phi.lower)


@dataclass(frozen=True, slots=True)
class LaplaceDecay:
    """How fast the density's share of a tilted characteristic function must decay.

    Args:
      log_ends: log of the sum of the tilted density's end values, as a density of the loss, over phi.
    """

    log_ends: float

    def log_bound(self, y: float) -> float:
        """Return an upper bound on its log at every |y'| >= y > 0: a log-convex density's is at most 2 ends / y."""
        return math.log(2.0) + self.log_ends - math.log(y)


def make_panels(density: LaplaceDensity, tilt: float, reach: float) -> Panels:
    """Return panels short enough for t = `tilt` and |y| <= `reach`.

    Raises:
      OutOfReachError: they would be too many.
    """
    a, q = density.rate, density.sample_rate
    steepest = 1.0 / (1.0 + math.exp(math.log((1.0 - q) / q) - min(1.2 * a, a + 0.8)))
    longest = min(0.5, TURNS / (a * ((reach + abs(tilt)) * steepest + 4.0)), 0.249 * math.pi / (a * HIGH))
    count = math.ceil(0.5 / longest)
    if count * NODES > MAX_POINTS:
        raise OutOfReachError(f"{count} panels for one sampled Laplace step")
    half = 0.5 / count
    x = half * (2.0 * np.arange(count)[:, None] + 1.0 + ABSCISSAS).ravel()
    w = a * (2.0 * x - 1.0)
    loss = log_mixture(w, q)
    loss_error = ULP * (16.0 * np.abs(loss) + 24.0 * a * q * np.exp(np.minimum(w - loss, 700.0)))
    log_mass = np.log(0.5 * a * half * np.tile(WEIGHTS, count)) - a * x
    mass_error = RULE_ERROR + 8.0 * ULP * (a + np.abs(log_mass))
    if density.direction == "add":
        loss, log_mass, mass_error = -loss, log_mass + loss, mass_error + loss_error + 2.0 * ULP * np.abs(loss)
    return Panels(density, half, loss, loss_error, log_mass, mass_error)


def log_end_densities(density: LaplaceDensity, tilt: float) -> float:
    r"""Return log of an upper bound on the sum of the density's end values times e^{t l}, as a density of l.

    That is (a/2) e^{-ax} R^s / (2 a q e^w / R) at x = 0 and x = 1. Between them it is log-convex in l: log of it is
    -(3/2) log(e^L - 1 + q) plus a multiple of L.
    """
    a, q = density.rate, density.sample_rate
    power = tilt if density.direction == "remove" else 1.0 - tilt
    x = np.array([0.0, 1.0])
    w = a * (2.0 * x - 1.0)
    log_end = -a * x - math.log(4.0 * q) - w + (power + 1.0) * log_mixture(w, q)
    return float(np.logaddexp.reduce(log_end)) + 1e-9 * (1.0 + float(np.abs(log_end).max()))
