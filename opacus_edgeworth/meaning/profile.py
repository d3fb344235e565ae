r"""Delta as a function of any real epsilon: what every other measure of privacy is computed from.

With A and B the laws of the output with and without the example (the add direction exchanges them), L = log dA/dB:

    delta(e) = sup_S A(S) - e^e B(S),        delta(-e) = 1 - e^{-e} (1 - delta'(e)),

delta' being that of (B, A), because A(S) - e^{-e} B(S) = 1 - e^{-e} - A(S^c) + e^{-e} B(S^c). As a function of x = e^e
delta is convex, of slope -B(L > e).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.mechanisms import ULP

LARGEST = 690.0
"""Of |epsilon|: e^epsilon is a normal double."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A privacy profile, proved at every point that is asked for, and then remembered.

    Args:
      forward: bounds on delta(e) at e >= 0.
      reverse: bounds on delta'(e) at e >= 0, of the opposite direction; `forward` itself for the worse of both.
    """

    forward: Callable[[float], Bounds]
    reverse: Callable[[float], Bounds]
    _known: dict[float, Bounds] = field(default_factory=dict[float, Bounds], init=False)

    def at(self, epsilon: float) -> Bounds:
        """Return bounds on delta(epsilon) if epsilon >= 0, and else on delta'(-epsilon)."""
        found = self._known.get(epsilon)
        if found is None:
            found = self.forward(epsilon) if epsilon >= 0.0 else self.reverse(-epsilon)
            self._known[epsilon] = found
        return found

    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on delta at any real epsilon."""
        known = self.at(epsilon)
        if epsilon >= 0.0:
            return known
        shrink = math.exp(epsilon)
        return outward(shrink * known.lower - math.expm1(epsilon), shrink * known.upper - math.expm1(epsilon))

    def scale(self) -> float:
        """Return about the size of the losses, from the total variation distance: where searches may begin."""
        return min(max(2.5 * self.at(0.0).upper, 1e-12), 20.0)


def outward(lower: float, upper: float) -> Bounds:
    """Return bounds on a probability computed by a few operations on positive numbers."""
    lower, upper = float(lower) * (1.0 - 8.0 * ULP), float(upper) * (1.0 + 8.0 * ULP)
    return Bounds(min(max(lower, 0.0), 1.0), min(max(upper, 0.0), 1.0))
