r"""Links whose losses are so large that no line is needed.

What the law gains between two barriers is a positive measure, and its delta is E[e^L] - E[min(e^L, e^epsilon)]. The
first is the mass that the barriers hold of P, known in closed form; the second is at most e^epsilon times what they
hold of Q. Where a hit is loud, the latter is negligible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.law import Law
from opacus_edgeworth.mechanisms import ULP


@dataclass(frozen=True, slots=True)
class Certain:
    """A part of delta that is practically all of P's mass between two barriers.

    Args:
      mass: bounds on P's mass.
      hidden: an upper bound on Q's.
    """

    mass: Bounds
    hidden: float

    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on delta at any real epsilon."""
        less = self.hidden * math.exp(min(epsilon, 700.0)) * (1.0 + 1e-12) if epsilon < 700.0 else math.inf
        return Bounds(max(self.mass.lower - less, 0.0), self.mass.upper)


@dataclass(frozen=True, slots=True)
class CertainTable:
    """P's mass between two barriers where losses are large, for any number of steps of these phases.

    `product` and `joined` are as in `contour.LineTable`. With b = E_P[1 - chi] the mass beyond a barrier, P's mass is
    e^A expm1(D), A = sum n log(1 - b_below) and D = sum n log(1 + (b_below - b_barrier) / (1 - b_below)).

    Args:
      log_kept, gain: (P,), the two logarithms of one step; the gain is infinite where nothing is known.
      uncertain: (P,), bounds on their errors.
      hidden: (P,), upper bounds on Q's mass.
    """

    log_kept: FloatArray
    gain: FloatArray
    uncertain: FloatArray
    hidden: FloatArray

    def line(self, steps: Composition) -> Certain:
        """Return what these numbers of steps gain between the barriers."""
        (log_kept,), (gain,), (error,), (hidden,) = self._sums(steps.steps)
        if not (error < 1.0 and gain < 600.0):
            return Certain(Bounds(0.0, 1.0), 1.0)
        room = 1.0 + 16.0 * ULP
        lower = math.exp(log_kept - error) * math.expm1(max(gain - error, 0.0)) / room
        upper = math.exp(log_kept + error) * math.expm1(gain + error) * room
        return Certain(Bounds(lower, min(upper, 1.0)), hidden)

    def product(self, counts: FloatArray) -> CertainTable:
        """Return the table of one phase, one step of which is so many steps of each of these."""
        return CertainTable(*(np.array(total) for total in self._sums(counts)))

    def joined(self, more: CertainTable) -> CertainTable:
        """Return the table of these phases and of more."""
        return CertainTable(
            np.append(self.log_kept, more.log_kept),
            np.append(self.gain, more.gain),
            np.append(self.uncertain, more.uncertain),
            np.append(self.hidden, more.hidden),
        )

    def _sums(self, counts: FloatArray) -> tuple[list[float], list[float], list[float], list[float]]:
        """Return the fields' sums over all steps, that of the errors with the sums' own."""
        log_kept, gain = float(self.log_kept @ counts), float(self.gain @ counts)
        rounding = ULP * (counts.size + 8) * (gain - log_kept) if gain < math.inf else 0.0
        error = float(self.uncertain @ counts) * (1.0 + 1e-9) + rounding
        return [log_kept], [gain], [error], [float(self.hidden @ counts) * (1.0 + 1e-9)]


def certain_table(steps: Composition, soft: FloatArray, below: FloatArray, barrier: FloatArray) -> CertainTable:
    r"""Return what every step gains between two barriers, each (P, 1), where losses are large.

    Q's mass is at most E_Q[1 - chi_below]. Both b are off by `wrong`, which grows as the square of the arguments of
    Phi (SciPy's is accurate to 16 + 2 x^2 ulp).
    """
    lost_q, lost = Law(steps, below, None, below, soft).mass_lost()
    _, left = Law(steps, barrier, None, barrier, soft).mass_lost()
    farthest = np.maximum(np.abs(barrier[:, 0]), np.abs(below[:, 0])) + 1.0 / steps.noise_multiplier
    wrong = ULP * (64.0 + 8.0 * farthest**2) * lost
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = 1.0 - lost
        gained = (lost - left) / kept
        uncertain = 3.0 * wrong / kept + 8.0 * ULP * gained  # of the logarithms: their derivatives are at most 1 / kept
        known = (kept > 0.01) & (uncertain < 1e-3)
        log_kept, gain = np.where(known, np.log1p(-lost), 0.0), np.where(known, np.log1p(gained), math.inf)
    # SciPy's Phi is 0 where it would be denormal, and e^epsilon may be 1e304
    return CertainTable(log_kept, gain, np.where(known, uncertain, 1.0), lost_q + 1e-307)
