r"""Compositions of laws with finitely many losses, by convolution.

Atoms of A's law, at the losses of log dA/dB, are multiplied out; those that rounding alone keeps apart are merged. All
terms are >= 0, so the errors of masses stay relative; that of losses is carried along, and since delta falls,
delta(e + error) <= delta of the atoms as they are stored at e <= delta(e - error).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.mechanisms import ULP
from opacus_edgeworth.mixed.law import LossLaw

MAX_PAIRS = 1 << 21
"""Products of atoms in one convolution."""
NEGLIGIBLE = 1e-38
"""Masses below it are dropped."""
SAME = 16.0
"""Losses this many ulp of the largest one apart are taken to be the same."""


@dataclass(frozen=True, slots=True)
class Atoms:
    """A composition's loss under A, as far as finite.

    Args:
      loss: (K,), rising; each is off by at most `loss_error`.
      mass: (K,), A's, with a relative error of at most `mass_error`.
      dropped: what is missing of A's mass at most.
    """

    loss: FloatArray
    mass: FloatArray
    loss_error: float
    mass_error: float
    dropped: float

    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on E_A[(1 - e^{epsilon - loss})_+], epsilon being >= 0."""
        room = self.loss_error + 2.0 * ULP * (abs(epsilon) + float(np.abs(self.loss).max()))
        relative = self.mass_error + ULP * (self.loss.size + 16.0)
        low, high = (-np.expm1(np.minimum(epsilon + sign * room - self.loss, 0.0)) for sign in (1.0, -1.0))
        lower, upper = float(low @ self.mass) * (1.0 - relative), float(high @ self.mass) * (1.0 + relative)
        return Bounds(max(lower, 0.0), min(max(upper, 0.0) + self.dropped + 5e-324, 1.0))

    def guess(self, delta: float) -> tuple[float, float]:
        """Return about the epsilon >= 0 at which delta is `delta`, and -d log(delta) / d(epsilon) there."""
        # between atoms delta is S0 - e^epsilon S1, sums over the atoms above
        log_s0, log_s1 = (
            np.logaddexp.accumulate((np.log(np.maximum(self.mass, 1e-300)) - factor * self.loss)[::-1])[::-1]
            for factor in (0.0, 1.0)
        )
        at_atoms = np.exp(log_s0) * -np.expm1(np.minimum(self.loss + log_s1 - log_s0, 0.0))
        i = min(int(np.searchsorted(-at_atoms, -delta)), self.loss.size - 1)
        left = math.exp(log_s0[i]) - delta
        epsilon = math.log(left) - float(log_s1[i]) if left > 0.0 else float(self.loss[i])
        return max(min(epsilon, float(self.loss[i])), 0.0), max(left / delta, 1e-3)


def compose_atoms(laws: Iterable[tuple[LossLaw, float]]) -> Atoms:
    """Return the composition of laws without densities, each with its number of steps.

    Raises:
      OutOfReachError: there would be too many atoms.
    """
    total = Atoms(np.zeros(1), np.ones(1), 0.0, 0.0, 0.0)
    for law, steps in laws:
        error = law.mass_error + law.loss_error + 2.0 * ULP * np.abs(law.loss)
        single = Atoms(
            law.loss,
            np.exp(law.log_mass + law.loss),
            float(law.loss_error.max(initial=0.0)),
            float((error + 4.0 * ULP * (1.0 + np.abs(law.log_mass))).max(initial=0.0)),
            0.0,
        )
        total = _product(total, _power(single, int(steps)))
    return total


def _power(single: Atoms, steps: int) -> Atoms:
    """Return the composition of equal steps, by repeated squaring."""
    total = Atoms(np.zeros(1), np.ones(1), 0.0, 0.0, 0.0)
    while True:
        if steps & 1:
            total = _product(total, single)
        steps >>= 1
        if not steps:
            return total
        single = _product(single, single)


def _product(first: Atoms, second: Atoms) -> Atoms:
    """Return the composition of two."""
    if first.loss.size * second.loss.size > MAX_PAIRS:
        raise OutOfReachError(f"{first.loss.size} times {second.loss.size} atoms")
    loss = (first.loss[:, None] + second.loss).ravel()
    mass = (first.mass[:, None] * second.mass).ravel()
    order = np.argsort(loss, kind="stable")
    loss, mass = loss[order], mass[order]
    largest = float(np.abs(loss).max(initial=0.0))
    starts = np.flatnonzero(np.diff(loss, prepend=-math.inf) > SAME * ULP * largest)
    ends = np.append(starts[1:], loss.size) - 1
    merged = loss[starts]
    moved = float((loss[ends] - merged).max(initial=0.0))
    width = int((ends - starts).max(initial=0)) + 1
    mass = np.add.reduceat(mass, starts)
    mass_error = first.mass_error + second.mass_error + ULP * (width + 2.0)
    if mass_error > 1e-3:
        raise OutOfReachError("errors of masses no longer add up")
    kept = mass > NEGLIGIBLE
    kept[-1] = True  # where the loss ends
    dropped = first.dropped + second.dropped + float(mass[~kept].sum()) * (1.0 + 1e-9)
    return Atoms(
        merged[kept],
        mass[kept],
        first.loss_error + second.loss_error + moved + ULP * largest,
        mass_error * (1.0 + 2e-3),
        dropped,
    )
