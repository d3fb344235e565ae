r"""The law below one step near its least loss log(1 - q), where one cell of a grid may hold almost everything.

The scores are cut at tau_0 = -inf < tau_1 < ...; node j gathers the scores between tau_j and tau_{j+1}, and the cuts
are chosen so that the mean of x = e^L over each group is x_j: a contraction, so delta shrinks, by a term of second
order. With x - x_j = q (e^w - e^{w_j}), the excess of a group is q times

    [Phi(u - 1/s)]_{tau_j}^{tau_{j+1}} - e^{w_j} [Phi(u)]_{tau_j}^{tau_{j+1}},

in closed form, and rises with tau_{j+1}. Where no cut below the next node balances a group, the safe side is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import Direction, FloatArray

ULP = 2.0**-52
NODES = 256
FIRST_CUT = 0.75
"""Where the first group ends, in grid spacings above log(1 - q)."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first nodes of a law below.

    Args:
      start: how far the first node lies above log(1 - q), nats.
      mass: (NODES,), lower bounds on the gathered masses.
      upto: the score from which on nothing is gathered yet; between the last node and the next.
    """

    start: float
    mass: FloatArray
    upto: float


def gather_head(s: float, q: float, spacing: float, direction: Direction) -> Head:
    """Return the head for noise multiplier s, sample rate q and the distance `spacing` of grid losses."""
    odds = (1.0 - q) / q
    cut = _score(math.expm1(FIRST_CUT * spacing) * odds, s)
    everything = _mass(-math.inf, cut, 0.0)
    mean_odds = _mass(-math.inf, cut, 1.0 / s) / everything  # mean of e^w over the first group
    lean = 1.0 - 1e-12 if direction == "remove" else 1.0 + 1e-12
    start = math.log1p(mean_odds / odds * lean)
    mass = np.zeros(NODES)
    mass[0] = everything - _rounding(everything, cut)
    previous = cut
    for j in range(1, NODES):
        node = math.expm1(start + j * spacing) * odds
        following = _score(math.expm1(start + (j + 1) * spacing) * odds, s)
        cut = _balancing_cut(previous, _score(node, s), following, node, s, direction)
        if cut is None:  # remove direction, too much on the left: raise only the balanced share, lower the rest
            cut = following
            left = _score(node, s)
            lowering = _excess(left, cut, node, s)[0]
            raising = -_excess(previous, left, node, s)[0]
            share = 0.999 * max(lowering, 0.0) / raising
            gathered = _mass(previous, left, 0.0)
            mass[j - 1] += (1.0 - share) * gathered
            mass[j] = share * gathered + _mass(left, cut, 0.0)
        else:
            mass[j] = _mass(previous, cut, 0.0)
        mass[j] -= _rounding(_mass(previous, cut, 0.0), cut)
        previous = cut
    return Head(start, np.maximum(mass, 0.0), previous)


def _score(odds: float, s: float) -> float:
    """Return the score with e^w = odds."""
    return s * math.log(odds) + 0.5 / s


def _mass(low: float, high: float, shift: float) -> float:
    """Return Phi(high - shift) - Phi(low - shift), from the smaller tails."""
    low, high = low - shift, high - shift
    if low > 0.0:
        low, high = -high, -low
    return max(0.5 * (math.erfc(-high / math.sqrt(2.0)) - math.erfc(-low / math.sqrt(2.0))), 0.0)


def _rounding(mass: float, score: float) -> float:
    """Bound the rounding error of `_mass` up to `score`: a few ulp of the tails it subtracts."""
    return 16.0 * ULP * (1.0 + score * score) * (mass + 0.5 * math.erfc(abs(score) / math.sqrt(2.0)) + 1e-300)


def _excess(low: float, high: float, node: float, s: float) -> tuple[float, float]:
    """Return the excess of the group over `node` (an e^w), and a bound on its rounding error."""
    whole, weighted = _mass(low, high, 0.0), _mass(low, high, 1.0 / s)
    error = 0.0
    for end in (low, high):
        tail = 0.5 * math.erfc(abs(end) / math.sqrt(2.0))
        shifted = end - 1.0 / s
        shifted_tail = 0.5 * math.erfc(abs(shifted) / math.sqrt(2.0))
        error += node * (tail + whole) * (1.0 + end * end) + (shifted_tail + weighted) * (1.0 + shifted * shifted)
    return weighted - node * whole, 32.0 * ULP * error


def _balancing_cut(
    previous: float, at: float, following: float, node: float, s: float, direction: Direction
) -> float | None:
    """Return a cut in [at, following] whose group has its mean at `node`, on the safe side; None if there is none."""
    sign = 1.0 if direction == "remove" else -1.0

    def safe(cut: float) -> bool:
        """Whether the group may move to the node: mean above it (remove), below it (add)."""
        excess, error = _excess(previous, cut, node, s)
        return sign * excess >= error

    low, high = at, following
    if direction == "add" and safe(high):
        return high
    if direction == "remove" and not safe(high):
        return None
    if direction == "add" and not safe(low):
        return previous  # an empty group
    for _ in range(60):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if safe(middle) == (direction == "remove"):
            high = middle
        else:
            low = middle
    return high if direction == "remove" else low
