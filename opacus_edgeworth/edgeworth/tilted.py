r"""The Edgeworth expansion under the saddle-point tilt: good in the tail, where the papers' expansion is bad.

Under the tilt c with G'(c) = e, the loss has its mean at e itself, and with X = (L - e) / s, s^2 = G''(c),

    delta(e) = e^{G(c) - (c-1) e} E_c[e^{-l X} - e^{-(l + s) X}; X > 0],    l = (c - 1) s,

exactly. Expanding the density of X asks for its accuracy near the mean, where it has some, relatively to a delta of
any size (Esscher 1932; Daniels 1954, https://doi.org/10.1214/aoms/1177728652; for accounting, Alghamdi et al. 2022,
https://arxiv.org/abs/2208.09595, have the first orders). G is that of the direction: G(c) = Phi(c) or Phi(1 - c).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.edgeworth.cumulants import affordable, loss_cumulants
from opacus_edgeworth.edgeworth.estimate import Estimate, as_positive_delta
from opacus_edgeworth.edgeworth.expansion import hermite_coefficients, standard_density
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.inversion.grid import make_grid
from opacus_edgeworth.inversion.saddle import fitting_law, moments, rough_grid

FARTHEST = 14.0
"""Standard deviations beyond which the density is not integrated."""
LARGEST_TILT = 1e7
EDGES = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 13)])
"""Ends of the panels of integration, as shares of the whole: finer towards 0, where a small loss decides."""
ABSCISSAE, WEIGHTS = np.polynomial.legendre.leggauss(32)
_X: FloatArray = (0.5 * (EDGES[:-1, None] + EDGES[1:, None] + np.diff(EDGES)[:, None] * ABSCISSAE)).ravel()
_W: FloatArray = (0.5 * np.diff(EDGES)[:, None] * WEIGHTS).ravel()


class TiltedEdgeworth(Estimate):
    """Edgeworth's expansion under the saddle-point tilt, for a training history: estimates whose error is known.

    The relative error is 1e-3 to 1e-13 in ordinary regimes and grows without limit where events are rare; `remainder`
    bounds it for any regime, by proved bounds on the truth.

    Args:
      history: (noise_multiplier, sample_rate, steps) triples as Opacus keeps them, or (mechanism, steps) pairs.
      order: of the expansion, 0 (saddle-point normal approximation) to 20.

    Raises:
      InvalidParameterError: an entry is malformed or has no noise, or the order is outside its range.
      CertificationError: so many phases and so little noise that their losses do not fit a grid.

    Example:
      >>> estimate = TiltedEdgeworth([(1.1, 0.0042667, 14040)], order=4)
      >>> round(estimate.epsilon(1e-5), 3)
      2.38
      >>> abs(estimate.remainder(2.4).upper) < 1e-3
      True
    """

    __slots__ = ("_curve", "_grid")

    def __init__(self, history: Iterable[Any], *, order: int = 2) -> None:
        super().__init__(history, order)
        self._curve = PrivacyCurve(self._history)
        self._grid = affordable(lambda: rough_grid(self._steps)) if self._steps.phases else None

    def epsilon(self, delta: float, direction: Direction | None = None) -> float:
        """Return the estimate of epsilon at delta.

        Args:
          delta: in (0, 1].
          direction: "remove" or "add"; the larger of the two by default.

        Returns:
          An estimate, not a bound; 0 if the estimate of delta(0) does not exceed delta.

        Raises:
          InvalidParameterError: an argument is outside its range.
        """
        target = as_positive_delta(delta)

        def excess(epsilon: float) -> float:
            estimate = self.delta(epsilon, direction)
            return math.log(estimate) - math.log(target) if estimate > 0.0 else -1.0

        if self._steps.is_empty or target == 1.0 or excess(0.0) <= 0.0:
            return 0.0
        high = 1.5 * self._curve.epsilon(target).upper + 1e-3
        while excess(high) > 0.0:  # the estimate may be far above the truth
            high *= 2.0
        root = brentq(excess, 0.0, high, xtol=1e-13)
        assert isinstance(root, float)
        return root

    def remainder(self, epsilon: float) -> Bounds:
        """Return proved bounds on (delta - estimate) / delta at epsilon: what the expansion leaves out, relatively.

        Adding it to the estimate gives back the proved bounds on delta: with it, the expansion is a finite-sample one.

        Args:
          epsilon: in [0, inf).

        Raises:
          InvalidParameterError: epsilon is outside its range, or delta is 0 there.
        """
        truth, estimate = self._curve.delta(epsilon), self.delta(epsilon)
        if truth.lower == 0.0:
            raise InvalidParameterError(f"delta at {epsilon=} is in {truth}: no error is relative to that")
        # 1 - estimate / delta rises with delta; a few roundings are allowed for
        low, high = 1.0 - estimate / truth.lower, 1.0 - estimate / truth.upper
        slack = 1e-15 * (1.0 + abs(low) + abs(high))
        return Bounds(low - slack, high + slack)

    def _delta(self, epsilon: float, direction: Direction) -> float:
        """Return one direction's estimate."""
        if direction == "add" and epsilon >= self._steps.add_direction_limit():
            return 0.0
        c = self._saddle(epsilon, direction)
        if not c < LARGEST_TILT:
            return 0.0
        tilt = c if direction == "remove" else 1.0 - c
        cumulants, log_mgf = self._cumulants(tilt)
        if direction == "add":
            cumulants *= (-1.0) ** np.arange(1, cumulants.size + 1)
        deviation = math.sqrt(cumulants[1])
        slope = (c - 1.0) * deviation
        width = min(FARTHEST, FARTHEST - slope if slope < 0.0 else 700.0 / (slope + 1e-300))
        x = width * _X
        density = standard_density(x, hermite_coefficients(cumulants, self._order))
        inside = density * np.exp(-slope * x) * -np.expm1(-deviation * x)
        value = width * float(_W @ inside)
        return min(max(value, 0.0) * math.exp(min(log_mgf - (c - 1.0) * epsilon, 700.0)), 1.0)

    def _cumulants(self, tilt: float) -> tuple[FloatArray, float]:
        """Return the loss's cumulants under a tilt, and Phi there."""
        grid = self._grid
        if grid is not None and not grid.serves(tilt, tilt, 0.0):
            law = fitting_law(grid.law, tilt)
            grid = affordable(lambda: make_grid(law, tilt, tilt, 0.0))
        log_mgf = 0.5 * self._steps.gaussian * tilt * (tilt - 1.0)
        if grid is not None:
            log_mgf = moments(grid, tilt, "remove")[0]
        return loss_cumulants(grid, self._steps, tilt, self._order + 2), log_mgf

    def _saddle(self, epsilon: float, direction: Direction) -> float:
        """Return the c with G'(c) = epsilon; inf if there is none below LARGEST_TILT."""

        def excess(c: float) -> float:
            if self._grid is None:
                return self._steps.gaussian * (c - 0.5) - epsilon
            return moments(self._grid, c, direction)[1] - epsilon

        low, high = 0.5, 2.0
        while excess(low) > 0.0:
            low = 1.0 - 2.0 * (1.0 - low)
            if low < -LARGEST_TILT:
                return math.inf
        while excess(high) < 0.0:
            high = 1.0 + 4.0 * (high - 1.0)
            if high > LARGEST_TILT:
                return math.inf
        root = brentq(excess, low, high, xtol=1e-13)
        assert isinstance(root, float)
        return root
