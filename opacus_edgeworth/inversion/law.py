r"""Laws of single steps that end at a barrier: what the engines compute with in place of the whole law.

Tilting a whole law brings up events of probability e^-1000, and its generating function takes off long before delta is
decided. So the law of the score u = x / s has the density N(u) chi(u) under Q, with a soft barrier at U:

    chi(u) = Phi((U - u) / W) = P(u + W xi < U),  xi standard normal, up to an end E > U where hardly anything is left.

A law with less mass has a smaller delta, by at most the mass that P or Q loses over all steps (`Law.cut_off`). A law
can also be what lies between two barriers, chi_U - chi_B = P(B < u + W xi < U). Either chi is a mixture of Gaussians in
u, so that |chi(u + iv)| <= e^{v^2 / 2 W^2} chi(u): barriers do not spoil analyticity. The end is there because no
Gaussian tail withstands every tilt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_ndtr, ndtr

from opacus_edgeworth._types import FloatArray, IntArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.mechanisms import ULP, privacy_loss, score_at_loss

MOST_POINTS = 2**24
"""At which the end of a law is looked for."""
SOFTEST = 0.25
"""Largest width of a barrier in u."""
FARTHEST = 16.0
"""How many W beyond its barrier a law may end."""
NEARER = 12.0
"""How many W below its barrier a law is practically whole."""
EDGE = 30.0
"""How much smaller than the quadrature's errors, in log, the law's edge is to be: shifted lines magnify it."""


@dataclass(frozen=True, slots=True)
class Law:
    """One step's law of every phase, up to a barrier or between two.

    Args:
      steps: the composition; its subsampled phases are used.
      barrier: (P, 1), U, multiples of 1/1024, and `below` (P, 1), B <= U - W, or None.
      end: (P, 1), E, multiples of 1/1024.
      soft: (P, 1), W, powers of two, so that (U - u) / W is exact.
    """

    steps: Composition
    barrier: FloatArray
    below: FloatArray | None
    end: FloatArray
    soft: FloatArray

    @property
    def growth(self) -> FloatArray:
        """The k of |N chi (u + iv)| <= e^{k v^2} N chi (u), (P,)."""
        return 0.5 * (1.0 + self.soft[:, 0] ** -2)

    def select(self, where: IntArray) -> Law:
        """Return the law of some phases, without the unsampled steps."""
        chosen = replace(self.steps.select(where), gaussian=0.0)
        below = None if self.below is None else self.below[where]
        return Law(chosen, self.barrier[where], below, self.end[where], self.soft[where])

    def mass_lost(self) -> tuple[FloatArray, FloatArray]:
        """Return E_Q[1 - chi_U] and E_Q[(1 - chi_U) e^L] = E_P[1 - chi_U], without the end, both (P,)."""
        q = self.steps.sample_rate
        wide = np.hypot(1.0, self.soft[:, 0])
        of_q = ndtr(-self.barrier[:, 0] / wide)
        return of_q, (1.0 - q) * of_q + q * ndtr((1.0 / self.steps.noise_multiplier - self.barrier[:, 0]) / wide)

    def end_lost(self) -> FloatArray:
        """Return bounds on what the end takes from E_Q[chi_U] and E_Q[chi_U e^L], (P,): Phi(-E) + q Phi(1/s - E)."""
        s, q, end = self.steps.noise_multiplier, self.steps.sample_rate, self.end[:, 0]
        share = ndtr((self.barrier[:, 0] - end) / self.soft[:, 0])  # chi falls
        return share * (ndtr(-end) + q * ndtr(1.0 / s - end)) * (1.0 + 1e-9)

    def cut_off(self) -> float:
        """Return a bound on what barrier and end take from delta, in either direction; they add none.

        Since (1 - e^{eps - S})_+ <= 1 under the first law of the direction's pair, that is at most the sum over all
        steps of E_P[1 - chi] or E_Q[1 - chi].
        """
        return sum_of_masses(self.most_lost(), self.steps.steps)

    def most_lost(self) -> FloatArray:
        """Return each phase's part of `cut_off` for one step, (P,)."""
        return np.maximum(*self.mass_lost()) + self.end_lost()

    def log_tilted_loss(self, tilt: float) -> FloatArray:
        """Return a bound on log E_Q[(1 - chi) e^{tL}], t < 0, of a law without lower barrier, its end included, (P,).

        Below b = U - NEARER W, 1 - chi is at most Phi(-NEARER) and e^{tL} at most (1 - q)^t; above, e^{tL} is at most
        e^{t L(b)}, and so it is beyond the end.
        """
        s, q = self.steps.noise_multiplier[:, None], self.steps.sample_rate[:, None]
        below = tilt * privacy_loss(self.barrier - NEARER * self.soft, s, q)
        return np.logaddexp(below, float(log_ndtr(-NEARER)) + tilt * np.log1p(-q))[:, 0] + 1e-6

    def spill(self) -> float:
        """Return a bound on what the end alone takes from delta."""
        return sum_of_masses(self.end_lost(), self.steps.steps)

    def log_chi(self, score: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return log chi and a bound on its error at scores (P, J), multiples of a coarse power of two.

        The arguments of Phi are exact then. Of the two tails that Phi has, the smaller one is subtracted; SciPy's is
        accurate to 16 + 2 x^2 ulp.
        """
        high = (score - self.barrier) / self.soft
        if self.below is None:
            return log_ndtr(-high), ULP * (20.0 + 2.0 * np.maximum(high, 0.0) ** 2)
        low = (score - self.below) / self.soft
        right = high + low > 0.0
        near, far = np.where(right, -high, low), np.where(right, -low, high)
        log_near = log_ndtr(near)
        share = np.exp(log_ndtr(far) - log_near)
        error = 20.0 + 2.0 * np.minimum(near, 0.0) ** 2 + share * (20.0 + 2.0 * far**2)
        return log_near + np.log1p(-share), ULP * error / (1.0 - share)


def sum_of_masses(masses: FloatArray, counts: FloatArray) -> float:
    """Return a bound on the sum of masses of one step of each phase, (P,), over all steps."""
    return float(masses @ counts) * (1.0 + 1e-9) + 1e-300


def barrier_for(steps: Composition, log_cut: float, soft: FloatArray) -> FloatArray:
    """Return barriers (P, 1) of widths (P, 1) that take about the mass e^log_cut from all steps together."""
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    log_share = log_cut - np.log(2.0 * steps.steps[:, None] * steps.phases)
    of_q, of_p = (np.sqrt(np.maximum(-2.0 * share, 0.0)) for share in (log_share, log_share - np.log(q)))
    wide = np.hypot(1.0, soft)
    return exact(np.maximum(wide * of_q, wide * of_p + 1.0 / s))


def exact(score: FloatArray) -> FloatArray:
    """Return scores rounded up to multiples of 1/1024."""
    return np.ceil(1024.0 * score) / 1024.0


def barriers_like(
    known: Composition, soft: FloatArray, barriers: Sequence[FloatArray], steps: Composition
) -> tuple[FloatArray, list[FloatArray]]:
    """Return widths and barriers for further phases, like those of the phases most like them.

    They lie at equal losses, in the same order, equal or at least their width apart. Any choice gives true bounds.

    Args:
      known: phases with barriers.
      soft: (P, 1), their widths.
      barriers: from the first to the last one, (P, 1) each.
      steps: the further phases.
    """
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    apart = np.abs(np.log(s / known.noise_multiplier)) + np.abs(np.log(q / known.sample_rate))
    near = np.argmin(apart, axis=1)
    s_near, q_near = known.noise_multiplier[near][:, None], known.sample_rate[near][:, None]
    own = np.exp2(np.floor(np.log2(np.minimum(SOFTEST, soft[near] * np.minimum(1.0, s / s_near)))))
    found: list[FloatArray] = []
    for i, barrier in enumerate(barriers):
        w = barrier[near] / s_near - 0.5 / s_near**2
        capped = np.log1p(np.expm1(np.clip(w, 0.0, 30.0)) * (q_near / q))  # where q (e^w - 1) is the same
        w = np.where(w <= 0.0, w, np.where(w < 30.0, capped, w + np.log(q_near / q)))
        mine = exact(s * w + 0.5 / s)
        if i > 0:
            same = barrier[near] == barriers[i - 1][near]
            mine = np.where(same, found[-1], np.maximum(mine, exact(found[-1] + own)))
        found.append(mine)
    return own, found


def softness(steps: Composition, share: float) -> FloatArray:
    """Return the width of barriers in u, (P, 1): a share of s at most, and SOFTEST."""
    return np.exp2(np.floor(np.log2(np.minimum(SOFTEST, share * steps.noise_multiplier))))[:, None]


def law_for_tilt(
    steps: Composition, tilt: float, soft: FloatArray, barrier: FloatArray, below: FloatArray | None = None
) -> Law:
    """Return the law with an end where the density times e^{tL} has fallen far below what matters.

    If e^{tL} outruns the density in the end, the law ends where it starts to.

    Args:
      steps: the composition.
      tilt: t, the largest one that matters.
      soft: (P, 1), W, as `softness` returns it.
      barrier: (P, 1), U, as `exact` returns it.
      below: (P, 1), B, likewise, at least W below.

    Raises:
      OutOfReachError: there is so little noise that the way there is too long.
    """
    farthest = barrier + FARTHEST * soft
    law = Law(steps, barrier, below, farthest, soft)
    first = math.floor((float(barrier.min()) if below is None else float(below.min())) - 10.0)
    lookout = float(soft.min())
    points = math.ceil(min((float(farthest.max()) - first) / lookout, 1e300)) + 1
    if points * steps.phases > MOST_POINTS:
        raise OutOfReachError(f"{points:g} points on the way to the law's end")
    later = first + lookout * np.arange(points)
    exponent = tilt * privacy_loss(later, steps.noise_multiplier[:, None], steps.sample_rate[:, None])
    exponent += law.log_chi(later)[0] - 0.5 * later * later
    beyond = (later >= barrier) & (later <= farthest)
    last = np.argmin(np.where(beyond, exponent, math.inf), axis=1)[:, None]
    exponent = np.where(np.arange(later.size) <= last, exponent, -math.inf)
    fallen = 38.0 + math.log(float(steps.steps.max())) + EDGE
    above = exponent >= exponent.max(axis=1, keepdims=True) - fallen
    high = np.minimum(later.size - np.argmax(above[:, ::-1], axis=1)[:, None], last)
    return Law(steps, barrier, below, np.maximum(exact(later[high]), barrier), soft)


def nearer_law(law: Law, tilt: float, log_share: float) -> Law:
    """Return the law with barriers no farther than t < 0 asks for: beyond them e^{tL} is less than e^log_share."""
    s, q = law.steps.noise_multiplier[:, None], law.steps.sample_rate[:, None]
    barrier = exact(score_at_loss(log_share / tilt, s, q) + NEARER * law.soft)
    return law_for_tilt(law.steps, 1.0, law.soft, np.minimum(law.barrier, barrier))
