r"""Cumulants of the privacy loss under a tilt: t = 0 is Q, t = 1 is P.

The law of one step's loss L under the tilt t has the density N(u) e^{tL(u)} / phi(t) in the score u; its central
moments are sums over the grid of `inversion.grid`, whose error falls faster than any power of the spacing, and the
cumulants follow from E[X^m] = sum_k C(m-1, k-1) kappa_k E[X^{m-k}]. Cumulants of independent steps add.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import CertificationError, OutOfReachError
from opacus_edgeworth.inversion.grid import Grid, make_grid
from opacus_edgeworth.inversion.law import barrier_for, law_for_tilt, softness
from opacus_edgeworth.inversion.quadrature import tilted_mass
from opacus_edgeworth.inversion.saddle import SOFT_SHARE

LOG_WHOLE = -600.0
"""Log of the mass beyond the scores that are summed over: nothing that a moment under P or Q could show."""


def whole_grid(steps: Composition) -> Grid:
    """Return a grid for the tilts 0 and 1 of practically the whole law.

    Raises:
      CertificationError: it would be too large.
    """
    soft = softness(steps, SOFT_SHARE)
    law = law_for_tilt(steps, 1.0, soft, barrier_for(steps, LOG_WHOLE, soft))
    return affordable(lambda: make_grid(law, 0.0, 1.0, 0.0))


def affordable(make: Callable[[], Grid]) -> Grid:
    """Return a grid.

    Raises:
      CertificationError: it would be too large.
    """
    try:
        return make()
    except OutOfReachError as error:
        raise CertificationError(
            f"no expansion: a grid of the losses would be too large ({error}); PrivacyCurve bounds such a history"
        ) from error


def central_moments(grid: Grid, tilt: float, order: int) -> tuple[FloatArray, FloatArray]:
    """Return the tilted mean, (P,), and central moments 0 to order, (order + 1, P)."""
    mass, total, _ = tilted_mass(grid, np.array([tilt]))
    weight = (mass / total)[0]
    mean = (weight * grid.loss).sum(axis=1)
    centred = grid.loss - mean[:, None]
    moments = np.array([(weight * centred**k).sum(axis=1) for k in range(order + 1)])
    return mean, moments


def loss_cumulants(grid: Grid | None, steps: Composition, tilt: float, order: int) -> FloatArray:
    """Return the first cumulants of the whole privacy loss under a tilt, (order,), in powers of nats.

    Args:
      grid: of the subsampled phases; None if there are none.
      steps: the composition; unsampled steps are one Gaussian loss with variance `gaussian`.
      tilt: t; 0 for Q, 1 for P.
      order: >= 2.
    """
    result = np.zeros(order)
    result[:2] = steps.gaussian * (tilt - 0.5), steps.gaussian
    if grid is not None:
        mean, moments = central_moments(grid, tilt, order)
        cumulants = np.zeros_like(moments)
        for m in range(2, order + 1):
            cumulants[m] = moments[m]
            for k in range(2, m - 1):
                cumulants[m] -= math.comb(m - 1, k - 1) * cumulants[k] * moments[m - k]
        cumulants[1] = mean
        result += cumulants[1:] @ steps.steps
    return result
