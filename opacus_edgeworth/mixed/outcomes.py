"""Steps with Gaussian noise among a few with finitely many losses: the core's delta, averaged over the outcomes.

Given the others' loss l, under A, the Gaussian steps' delta counts at epsilon - l. That is sharp where a line would
have to be smoothed: for a few noisy steps after a randomized response, say.
"""

from __future__ import annotations

import math

from opacus_edgeworth._types import Direction
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.engines import direction_delta, grid_or_none
from opacus_edgeworth.mechanisms import ULP
from opacus_edgeworth.mixed.atoms import Atoms


def delta_over_outcomes(atoms: Atoms, gaussian: Composition, epsilon: float, direction: Direction) -> Bounds:
    """Return bounds on delta of atoms and Gaussian steps, finite losses alone.

    Delta falls by at most its argument's error, since its slope, -E_A[e^{x - loss}; loss > x], is at least -1.
    """
    lower, upper = 0.0, atoms.dropped
    room = atoms.loss_error + 4.0 * ULP * (abs(epsilon) + abs(float(atoms.loss[0])) + abs(float(atoms.loss[-1])))
    for loss, mass in zip(atoms.loss.tolist(), atoms.mass.tolist(), strict=True):
        delta = _delta_anywhere(gaussian, epsilon - loss, direction)
        lower += mass * max(delta.lower - room, 0.0)
        upper += mass * (delta.upper + room)
    relative = atoms.mass_error + ULP * (atoms.loss.size + 8.0)
    return Bounds(lower * (1.0 - relative), min(upper * (1.0 + relative), 1.0))


def _delta_anywhere(gaussian: Composition, epsilon: float, direction: Direction) -> Bounds:
    """Return bounds on delta at any epsilon: below 0 it is 1 - e^epsilon (1 - delta of the other direction)."""
    if epsilon >= 0.0:
        return direction_delta(gaussian, grid_or_none(gaussian), epsilon, direction)
    other = direction_delta(gaussian, grid_or_none(gaussian), -epsilon, "add" if direction == "remove" else "remove")
    share = math.exp(epsilon)
    low, high = (-math.expm1(epsilon) + share * end for end in (other.lower, other.upper))
    return Bounds(max(low - 8.0 * ULP, 0.0), min(high + 8.0 * ULP, 1.0))
