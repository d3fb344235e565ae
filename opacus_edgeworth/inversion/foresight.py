"""Steps that a schedule is going to make: their terms are computed together, which costs less than one by one.

Schedulers multiply the noise by one factor after every step. Where the noise of the last steps says which, to the last
bit, the next steps' noise is known, to the last bit. Terms that were foreseen are those that the step itself would have
got, or some that are as true: they serve a step of this very noise and rate alone. What does not come to pass is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opacus_edgeworth.composition import compose
from opacus_edgeworth.inversion.contour import LineTable
from opacus_edgeworth.inversion.many import Plan, Terms

AHEAD = 16
"""Steps that are foreseen at once."""
BEHIND, FEWEST = 64, 4
"""How many changes of the noise are looked at, at most, and how many are to agree with a factor."""
NEAREST = np.arange(-8.0, 9.0)
"""Which factors are tried, in units of the last place of the quotient of the last two."""

Entry = tuple[float, float, int]


@dataclass(frozen=True, slots=True)
class Foresight:
    """Terms of steps that may come next, in this order.

    Args:
      steps: their noise multipliers and sample rates.
      terms: of one step of each of them, as phases of their own.
    """

    steps: tuple[tuple[float, float], ...]
    terms: Terms

    def of(self, entry: Entry) -> Terms | None:
        """Return the terms of one step of an entry, if it was foreseen."""
        key = entry[:2]
        return self.terms.select(self.steps.index(key)) if key in self.steps else None


def foresee(plan: Plan, entries: list[Entry]) -> Foresight | None:
    """Return the terms of the last entry and of those that follow it; None if the noise obeys no factor.

    Raises:
      OutOfReachError: a grid would be too large.
    """
    if not isinstance(plan.table, LineTable) or len(entries) <= FEWEST:
        return None
    (s, q, _), tail = entries[-1], np.array([s for s, _, _ in entries[-BEHIND - 1 :]], dtype=np.float64)
    factor = _factor(tail)
    if factor is None or not (s > 0.0 and 0.0 < q < 1.0):
        return None
    noise = [float(s)]
    while len(noise) < AHEAD:
        noise.append(noise[-1] * factor)
    some = compose([(value, q, 1) for value in noise])
    if some.phases < AHEAD:  # it does not change
        return None
    rows = zip(some.noise_multiplier.tolist(), some.sample_rate.tolist(), strict=True)
    return Foresight(tuple(rows), plan.terms(some, decaying=False))


def _factor(noise: np.ndarray) -> float | None:
    """Return a factor by which every noise gives the next one, for the last FEWEST of them and as many as possible."""
    before, after = noise[:-1], noise[1:]
    if not (float(noise.min()) > 0.0 and before[-1] != after[-1]):
        return None
    quotient = after[-1] / before[-1]
    factors = quotient + NEAREST * np.spacing(quotient)
    wrong = (factors[:, None] * before != after)[:, ::-1]
    agree = np.where(wrong.any(axis=1), np.argmax(wrong, axis=1), before.size)
    best = np.flatnonzero(agree == agree.max())
    return float(factors[best[best.size // 2]]) if int(agree.max()) >= FEWEST else None
