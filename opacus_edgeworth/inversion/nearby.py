"""Delta of one history at many epsilons: what was computed for one of them serves its neighbours."""

from __future__ import annotations

import math
from typing import Protocol

from opacus_edgeworth._types import Direction, Which
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.engines import NARROW, Proof, add_direction_delta, history_direction_delta

MAX_PROOFS = 6
"""How many are asked again."""
NARROW_AGAIN, TIMES_WIDER, WIDEST_AGAIN = 2e-10, 4.0, 1e-2
"""Relative width at which what was made for another epsilon will do, or as many times what the last new one had, but
not more than the widest: one hopeless epsilon says nothing of others."""

HOPELESS = 0.5
"""Relative width from which on the engines, which take their time then, are not asked between two such epsilons."""


class DirectionDelta(Protocol):
    """Bounds on delta in one direction."""

    def __call__(self, epsilon: float, direction: Direction, enough: float | None, keep: list[Proof]) -> Bounds:
        """Return bounds at epsilon in [0, inf]; an upper bound alone may be `enough`.

        What proves them at other epsilons, too, is appended to `keep`.
        """
        ...


def direction_delta_of(steps: Composition) -> DirectionDelta:
    """Return the deltas of Gaussian steps."""

    def new(epsilon: float, direction: Direction, enough: float | None, keep: list[Proof]) -> Bounds:
        if enough is None or direction == "remove" or math.isinf(epsilon) or steps.is_empty or steps.log_hidden < 0.0:
            return history_direction_delta(steps, epsilon, direction, keep)
        return add_direction_delta(steps, epsilon, enough, keep)

    return new


class NearbyDelta:
    """Bounds on delta at any epsilon in [0, inf], of one direction or the larger of both."""

    __slots__ = ("_enough", "_hopeless", "_new", "_nothing_from", "_proofs", "_which")

    def __init__(self, new: DirectionDelta, which: Which) -> None:
        self._new, self._which = new, which
        self._proofs: dict[Direction, list[Proof]] = {"remove": [], "add": []}
        self._nothing_from: dict[Direction, float] = {"remove": math.inf, "add": math.inf}
        self._hopeless: dict[Direction, list[tuple[float, Bounds]]] = {"remove": [], "add": []}
        self._enough: dict[Direction, float] = {"remove": NARROW_AGAIN, "add": NARROW_AGAIN}

    def __call__(self, epsilon: float) -> Bounds:
        """Return the bounds."""
        if self._which == "remove" or self._which == "add":
            return self._one(epsilon, self._which)
        remove = self._one(epsilon, "remove")
        if epsilon > 0.0:
            return remove.larger(self._one(epsilon, "add", remove.lower))
        # the total variation distance is that of either direction
        return remove if remove.relative_width <= NARROW else remove.intersect(self._one(epsilon, "add"))

    def _one(self, epsilon: float, direction: Direction, enough: float | None = None) -> Bounds:
        """Return bounds on one direction's delta; an upper bound alone may be `enough`."""
        proofs = self._proofs[direction]
        if epsilon >= self._nothing_from[direction] < math.inf:
            return Bounds(0.0, 0.0)  # delta falls
        for index in range(len(proofs) - 1 if epsilon < math.inf else -1, -1, -1):
            known = proofs[index](epsilon)
            if known.relative_width <= self._enough[direction] or (enough is not None and known.upper <= enough):
                proofs.append(proofs.pop(index))
                return known
        between = self._between_hopeless(epsilon, direction)
        if between is not None:
            return between
        known = self._new(epsilon, direction, enough, proofs)
        if enough is None and known.relative_width > HOPELESS:
            self._hopeless[direction].append((epsilon, known))
        if known.upper == 0.0:
            self._nothing_from[direction] = min(self._nothing_from[direction], epsilon)
        if enough is None or known.lower > 0.0:
            self._enough[direction] = min(max(NARROW_AGAIN, TIMES_WIDER * known.relative_width), WIDEST_AGAIN)
        del proofs[:-MAX_PROOFS]
        return known

    def _between_hopeless(self, epsilon: float, direction: Direction) -> Bounds | None:
        """Return what is known from both sides, delta falling, where the engines failed on both."""
        below = [known.upper for e, known in self._hopeless[direction] if e <= epsilon]
        above = [known.lower for e, known in self._hopeless[direction] if e >= epsilon]
        if not below or not (above or self._nothing_from[direction] < math.inf):
            return None
        return Bounds(max(above, default=0.0), min(below))
