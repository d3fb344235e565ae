"""Curves of other libraries: privacy-loss distributions of dp-accounting, which riskcal takes, too.

Opacus's accountants and riskcal's `CTDAccountant` keep their runs as we do: `PrivacyCurve(accountant.history)` is all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth._validate import as_open_rate, as_real
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import CertificationError, InvalidParameterError
from opacus_edgeworth.extras import require_extra
from opacus_edgeworth.mechanisms import DiscreteMechanism

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

DIRECTIONS: tuple[Direction, ...] = ("remove", "add")
SMALLEST_MASS = 1e-300
"""Of an atom; doubles end there."""


def to_dp_accounting(
    curve: PrivacyCurve, *, interval: float = 1e-4, points: int = 2000, tail: float = 1e-12
) -> PrivacyLossDistribution:
    """Return a privacy-loss distribution that is at least as revealing as a curve at every epsilon, in both directions.

    Its delta joins proved upper bounds at chosen epsilons by chords in e^epsilon, above the convex curve (Doroshenko et
    al. 2022, Algorithm 1, https://arxiv.org/abs/2207.04380). That holds in exact arithmetic: rounding errors, of the
    distribution and of what dp-accounting makes of it, are not covered.

    Args:
      curve: what is converted.
      interval: dp-accounting's discretization, > 0; distributions must share it to be composed.
      points: how many epsilons of each direction are computed, in [2, 100_000].
      tail: in (0, 1); the delta from which on the loss is taken to be infinite.

    Returns:
      A `dp_accounting.pld.privacy_loss_distribution.PrivacyLossDistribution`.

    Raises:
      MissingExtraError: dp-accounting is not installed.
      InvalidParameterError: an argument is outside its range.
      CertificationError: epsilon is infinite at delta = tail.
    """
    require_extra("bench", "dp_accounting")
    from dp_accounting.pld import pld_pmf, privacy_loss_distribution  # only where it is asked for

    width, last = as_real("interval", interval), as_open_rate("tail", tail)
    if not 0.0 < width < math.inf:
        raise InvalidParameterError(f"interval={width!r} must be positive and finite; dp-accounting's default is 1e-4")
    if not 2 <= as_real("points", points) <= 100_000:
        raise InvalidParameterError(f"points={points!r} must be in [2, 100000]")
    largest = curve.epsilon(last).upper
    if math.isinf(largest):
        raise CertificationError(f"epsilon is infinite at tail={last!r}; raise it above what is seen for certain")
    grid = np.unique(np.rint(np.linspace(0.0, math.ceil(largest / width) + 1.0, int(points) // 2)).astype(np.int64))
    upper = {side: _upper_deltas(curve, grid * width, side) for side in DIRECTIONS}

    def pmf(direction: Direction, other: Direction) -> Any:
        # delta(-e) = 1 - e^{-e} (1 - delta'(e)), delta' being the other direction's
        below = 1.0 - np.exp(-grid[:0:-1] * width) * (1.0 - upper[other][:0:-1])
        deltas = np.minimum.accumulate(np.concatenate([below, upper[direction]]))
        return pld_pmf.create_pmf_pessimistic_connect_dots(width, np.concatenate([-grid[:0:-1], grid]), deltas)

    return privacy_loss_distribution.PrivacyLossDistribution(pmf("remove", "add"), pmf("add", "remove"))


def _upper_deltas(curve: PrivacyCurve, epsilons: FloatArray, direction: Direction) -> FloatArray:
    """Return upper bounds on one direction's delta."""
    found = curve.delta(epsilons, direction=direction)
    assert isinstance(found, np.ndarray)
    return np.array([bounds.upper for bounds in found])


def from_dp_accounting(distribution: PrivacyLossDistribution) -> DiscreteMechanism:
    """Return a privacy-loss distribution as a mechanism, to be composed in a PrivacyCurve with other steps.

    The distribution of the remove direction is taken for that of log(p/q) under p; what q lacks is an output that p
    never has. The other direction is that of the same pair exchanged, which a pessimistic distribution bounds as well.

    Args:
      distribution: as dp-accounting makes it, composed or not, with pessimistic estimates.

    Returns:
      A `DiscreteMechanism`. Bounds of its curve are bounds on what the distribution says, which is not proved here.

    Raises:
      InvalidParameterError: the distribution is not dp-accounting's.
    """
    try:
        pmf = distribution._pmf_remove.to_dense_pmf()  # there is no public way to the masses
        losses = (pmf._lower_loss + np.arange(pmf._probs.size)) * pmf._discretization
        mass, infinite = np.asarray(pmf._probs, dtype=float), float(pmf._infinity_mass)
    except AttributeError:
        raise InvalidParameterError(
            f"distribution={distribution!r} must be a PrivacyLossDistribution of dp-accounting"
        ) from None
    kept = mass >= SMALLEST_MASS
    p = mass[kept]
    q = p * np.exp(-losses[kept])
    p, q = p[q >= SMALLEST_MASS], q[q >= SMALLEST_MASS]
    infinite = max(1.0 - math.fsum(p.tolist()), infinite, 0.0)
    rest = max(1.0 - math.fsum(q.tolist()), 0.0)
    total_p, total_q = math.fsum([*p.tolist(), infinite]), math.fsum([*q.tolist(), rest])
    return DiscreteMechanism((*(p / total_p), infinite / total_p, 0.0), (*(q / total_q), 0.0, rest / total_q))
