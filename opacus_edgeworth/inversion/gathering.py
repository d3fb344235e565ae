r"""The law below one step near its least loss log(1 - q), where one cell of a grid may hold almost everything.

The scores are cut at tau_0 = -inf < tau_1 < ...; node j gathers the scores between tau_j and tau_{j+1}, and the cuts
are chosen so that the mean of x = e^L over each group is x_j: a contraction, so delta shrinks, by a term of second
order. With x - x_j = q (e^w - e^{w_j}), the excess of a group is q times

    [Phi(u - 1/s)]_{tau_j}^{tau_{j+1}} - e^{w_j} [Phi(u)]_{tau_j}^{tau_{j+1}},

in closed form, and rises with tau_{j+1}. Exact balance alone would be unstable where the density falls (wide and
narrow groups alternate ever more), so each cut is held near the quasi-stationary one, half-way between the nodes plus
r W^2 / 12 (r the logarithmic slope of the density of x, W the distance of nodes), as far as the safe side permits: in
the remove direction a group may reach further up than balance asks, in the add direction less far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.mechanisms import ULP

NODES = 1024
LOOK_AHEAD = 12
"""Nodes over which the first cut is chosen."""
FREE_NODES = 4
"""Nodes whose cuts only balance: there the density changes too much from node to node to be held calm."""


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
    """Return the head for noise multiplier s, sample rate q and the distance `spacing` of grid losses.

    Every first cut gives a law below; the one that loses least over the first nodes is taken.
    """

    def loss(first: float) -> float:
        return _gather(s, q, spacing, direction, float(first), LOOK_AHEAD)[1]

    candidates = np.geomspace(0.1, 6.0, 24)
    best = int(np.argmin([loss(first) for first in candidates]))
    around = candidates[max(best - 1, 0)], candidates[min(best + 1, candidates.size - 1)]
    found: Any = minimize_scalar(loss, bounds=around, method="bounded", options={"maxiter": 24})
    first = float(found.x)
    if loss(first) > loss(candidates[best]):
        first = float(candidates[best])
    return _gather(s, q, spacing, direction, first, NODES)[0]


def _gather(s: float, q: float, spacing: float, direction: Direction, first: float, nodes: int) -> tuple[Head, float]:
    """Return the head with its first cut `first` spacings above log(1 - q), and how far it moves means of e^w."""
    odds = (1.0 - q) / q
    previous = _score(math.expm1(first * spacing) * odds, s)
    everything = _mass(-math.inf, previous, 0.0)
    mean_odds = _mass(-math.inf, previous, 1.0 / s) / max(everything, 1e-300)  # mean of e^w over the first group
    lean = 1.0 - 1e-12 if direction == "remove" else 1.0 + 1e-12
    start = math.log1p(mean_odds / odds * lean)
    mass = np.zeros(nodes)
    mass[0] = everything - _rounding(everything, previous)
    loss = 0.0
    for j in range(1, nodes):
        node, beyond = (math.expm1(start + (j + i) * spacing) * odds for i in (0, 1))
        at, following = _score(node, s), _score(beyond, s)
        if j == 1 and previous > at:  # a first cut beyond the second node cannot be used
            return Head(start, np.maximum(mass, 0.0), previous), 1e30
        cut = _balancing_cut(previous, at, following, node, s, direction)
        if cut is None:  # remove direction, too much on the left: raise only the balanced share, lower the rest
            cut = following
            raising = -_excess(previous, at, node, s)[0]
            lowering = max(_excess(at, cut, node, s)[0], 0.0)
            share = (1.0 - 1e-9) * lowering / raising if raising > 0.0 else 0.0
            gathered = _mass(previous, at, 0.0)
            mass[j - 1] += (1.0 - share) * gathered
            mass[j] = share * gathered + _mass(at, cut, 0.0)
            loss += (1.0 - share) * gathered * (beyond - node)
        else:
            if j >= FREE_NODES:
                calm = _calm_cut(node, beyond - node, s)
                cut = max(cut, calm) if direction == "remove" else max(previous, min(cut, calm))
            mass[j] = _mass(previous, cut, 0.0)
            loss += abs(_excess(previous, cut, node, s)[0])
        mass[j] -= _rounding(_mass(previous, cut, 0.0), cut)
        previous = cut
    return Head(start, np.maximum(mass, 0.0), previous), loss


def _calm_cut(node: float, width: float, s: float) -> float:
    """Return the quasi-stationary cut above a node (an e^w), `width` below the next one."""
    fall = max(1.0 + s * _score(node, s), 0.0) * width / node  # r W
    return _score(node + width * min(0.5 + fall / 12.0, 0.7), s)


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
    middle = 2.0 * at - previous if math.isfinite(previous) else 0.5 * (low + high)
    for _ in range(60):
        if not low < middle < high:
            middle = 0.5 * (low + high)
            if not low < middle < high:
                break
        excess, error = _excess(previous, middle, node, s)
        if sign * excess >= error:
            low, high = (low, middle) if direction == "remove" else (middle, high)
            if sign * excess <= 8.0 * error:
                break
        else:
            low, high = (middle, high) if direction == "remove" else (low, middle)
        # Newton towards twice the error on the safe side; d excess / d cut = N(cut) (e^w - e^{w_j})
        density = math.exp(-0.5 * middle * middle) / math.sqrt(2.0 * math.pi)
        slope = density * (math.exp(middle / s - 0.5 / s**2) - node)
        middle = middle + (2.0 * sign * error - excess) / slope if slope > 0.0 else math.nan
    return high if direction == "remove" else low
