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


def certain_link(steps: Composition, soft: FloatArray, below: FloatArray, barrier: FloatArray) -> Certain:
    r"""Return what all steps gain between two barriers, each (P, 1), where losses are large.

    With b = E_P[1 - chi] the mass beyond a barrier, P's mass is e^A expm1(D), A = sum n log(1 - b_below) and
    D = sum n log(1 + (b_below - b_barrier) / (1 - b_below)); Q's is at most sum n E_Q[1 - chi_below]. Both b are off
    by `wrong`, which grows as the square of the arguments of Phi (SciPy's is accurate to 16 + 2 x^2 ulp).
    """
    lost_q, lost = Law(steps, below, None, below, soft).mass_lost()
    _, left = Law(steps, barrier, None, barrier, soft).mass_lost()
    farthest = np.maximum(np.abs(barrier[:, 0]), np.abs(below[:, 0])) + 1.0 / steps.noise_multiplier
    wrong = ULP * (64.0 + 8.0 * farthest**2) * lost
    kept = 1.0 - lost
    gained = (lost - left) / kept
    uncertain = 3.0 * wrong / kept + 8.0 * ULP * gained  # of the logarithms: their derivatives are at most 1 / kept
    with np.errstate(divide="ignore", invalid="ignore"):
        log_below = float(steps.steps @ np.log1p(-lost))
        gain = float(steps.steps @ np.log1p(gained))
    error = float(steps.steps @ uncertain) * (1.0 + 1e-9) + ULP * (steps.phases + 8) * (gain - log_below)
    if not (float(kept.min()) > 0.01 and float(uncertain.max()) < 1e-3 and error < 1.0 and gain < 600.0):
        return Certain(Bounds(0.0, 1.0), 1.0)
    room = 1.0 + 16.0 * ULP
    lower = math.exp(log_below - error) * math.expm1(max(gain - error, 0.0)) / room
    upper = math.exp(log_below + error) * math.expm1(gain + error) * room
    # SciPy's Phi is 0 where it would be denormal, and e^epsilon may be 1e304
    hidden = float(steps.steps @ lost_q) * (1.0 + 1e-9) + 1e-307 * float(steps.steps.sum())
    return Certain(Bounds(lower, min(upper, 1.0)), hidden)
