r"""The Gaussian of the same privacy: least mu with f >= G_mu, and how far G_mu understates f.

G_mu(alpha) = Phi(Phi^{-1}(1 - alpha) - mu) is the trade-off function of N(0, 1) against N(mu, 1) (Dong, Roth & Su 2022,
https://arxiv.org/abs/1905.02383). For a symmetric f, f >= G_mu if and only if delta_mu(e) >= delta(e) for every e >= 0
(their Proposition 2.12). The tail of a sampled Gaussian's loss is that of the unsampled one: that would ask for the mu
without sampling. So nothing is asked where delta(e) is below a floor, nor that delta_mu(e) should exceed 1 - floor, and
f >= G_mu - floor is what is proved: a line 1 - delta_mu - x alpha that may lie above f is at most 1 - delta - x alpha +
floor, or floor.
"""

from __future__ import annotations

import math
from bisect import insort
from itertools import pairwise

from scipy.optimize import brentq
from scipy.special import erfinv, log_ndtr, ndtr, ndtri, ndtri_exp

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.meaning.profile import Profile
from opacus_edgeworth.mechanisms import ULP

POINTS = 24
MAX_POINTS = 400
PATIENCE = 20
"""Refinements in vain after which the rounding of delta is what stands in the way."""
MU_ROOM, MU_LEAST_ROOM = 1e-11, 1e-13
"""For the rounding of Phi and its inverse, relative and absolute."""
LEAST_MU = 1e-12
ENOUGH_EPSILON = 40.0
"""Beyond it 1 / (1 + e^e) is less than any regret that counts."""


def gaussian_mu(profile: Profile, floor: float, largest_epsilon: Bounds, rel_tol: float = 1e-7) -> Bounds:
    """Return bounds on the least mu with delta_mu(e) >= min(delta(e), 1 - floor) for all 0 <= e <= largest_epsilon.

    Args:
      profile: symmetric: both directions at once.
      floor: in (0, 1).
      largest_epsilon: bounds on it, >= 0 and finite: where delta is `floor`.
      rel_tol: where refinement ends.
    """
    largest, search = largest_epsilon.upper, _Mu(profile, 1.0 - floor)
    points = sorted({largest * k / POINTS for k in range(POINTS + 1)})
    lower = max(search.below(e) for e in (largest_epsilon.lower, *points) if e <= largest_epsilon.lower)
    cells = sorted((search.between(*pair), *pair) for pair in pairwise(points))
    upper, idle = math.inf, 0
    for _ in range(MAX_POINTS):
        if not cells:
            break
        most, low, high = cells[-1]
        idle = 0 if most < upper else idle + 1
        upper, middle = min(upper, most), 0.5 * (low + high)
        if upper <= lower * (1.0 + rel_tol) or idle > PATIENCE or not low < middle < high:
            break
        cells.pop()
        if middle <= largest_epsilon.lower:
            lower = max(lower, search.below(middle))
        for pair in ((low, middle), (middle, high)):
            insort(cells, (search.between(*pair), *pair))
    upper = max(search.above(0.0), upper if cells else 0.0, lower)
    return Bounds(max(lower * (1.0 - MU_ROOM) - MU_LEAST_ROOM, 0.0), upper * (1.0 + MU_ROOM) + MU_LEAST_ROOM)


class _Mu:
    """What delta at some epsilons, and between them, asks of mu; not that delta_mu should be more than `most`."""

    def __init__(self, profile: Profile, most: float) -> None:
        self.profile, self.most = profile, most

    def below(self, epsilon: float) -> float:
        """Return a mu that is asked for at epsilon at least."""
        return _mu_at(epsilon, min(self.profile.at(epsilon).lower, self.most), up=False)

    def above(self, epsilon: float) -> float:
        """Return a mu that is asked for at epsilon at most."""
        return _mu_at(epsilon, min(self.profile.at(epsilon).upper, self.most), up=True)

    def between(self, low: float, high: float) -> float:
        """Return a mu that will do between two epsilons.

        One at which delta_mu(high) is delta(low), or `most`, will: both deltas fall. Better, as a function of x = e^e
        delta is at most its chord, and delta_mu less the chord is convex: at least 0 if it is so at both ends and has
        its minimum elsewhere; at least 0 everywhere if the chord's corner (alpha, 1 - T), -alpha being its slope, is
        above G_mu. The minimum is where B(L > e) = Phi(-mu/2 - e/mu) is alpha.
        """
        first, second = self.profile.at(low).upper, self.profile.at(high).upper
        simple = _mu_at(high, min(first, self.most), up=True)
        width = min(high - low, 700.0)
        share = (first - second) / math.expm1(width)  # alpha e^low
        rate = max(first + share, second + share * math.exp(width)) * (1.0 + 4.0 * ULP)
        if not share > 0.0 or rate >= 1.0 or width == 700.0:
            return simple
        at_alpha, ends = float(ndtri_exp(math.log(share) - low)), max(self.above(low), self.above(high))
        if 0.0 < ends < math.inf and first <= self.most:
            minimum, slack = -ends * (0.5 * ends + at_alpha), 1e-9 * (1.0 + high)
            if minimum > high + slack or minimum < low - slack:
                return ends
        return min(max(float(ndtri(rate)) - at_alpha, ends), simple)


def _mu_at(epsilon: float, delta: float, *, up: bool) -> float:
    """Return the mu with delta_mu(epsilon) = delta, on the given side of it but for MU_ROOM."""
    room = 64.0 * ULP  # rounding of delta_mu where it is nearly 1 and hardly depends on mu
    delta *= 1.0 + room if up else 1.0 - room
    if delta <= 0.0:
        return 0.0
    if delta >= 1.0:
        return math.inf
    if epsilon == 0.0:
        return math.sqrt(8.0) * float(erfinv(delta))  # delta_mu(0) = 2 Phi(mu/2) - 1
    low, high = LEAST_MU, 1.0
    while gaussian_delta(high, epsilon) < delta:
        low, high = high, 2.0 * high
    if gaussian_delta(low, epsilon) >= delta:
        return low if up else 0.0

    def excess(mu: float) -> float:
        value = gaussian_delta(mu, epsilon)
        return math.log(value) - math.log(delta) if value > 0.0 else -1e4

    root = brentq(excess, low, high, xtol=1e-15)
    assert isinstance(root, float)
    return root


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return delta_mu(epsilon) = Phi(mu/2 - e/mu) - e^e Phi(-mu/2 - e/mu), to rounding of its two terms."""
    a, b = 0.5 * mu - epsilon / mu, -0.5 * mu - epsilon / mu
    gap = epsilon + float(log_ndtr(b)) - float(log_ndtr(a))
    return -float(ndtr(a)) * math.expm1(gap) if gap < 0.0 else 0.0


def gaussian_regret(profile: Profile, mu: float, abs_tol: float = 1e-7) -> Bounds:
    r"""Return bounds on the regret of stating mu: the least k with f(alpha + k) - k <= G_mu(alpha) for all alpha.

    In terms of profiles that is the largest (delta_mu(e) - delta(e)) / (1 + e^e) over e >= 0. Between two points
    delta_mu, convex in x = e^e, is at most its chord, and delta at least its neighbours' chords, prolonged.
    """
    largest = min(mu * (0.5 * mu + 5.5), ENOUGH_EPSILON)  # delta_mu is at most Phi(-5.5) there
    points = [largest * k / POINTS for k in range(POINTS + 1)]
    value = {e: gaussian_delta(mu, e) for e in points}
    known: dict[tuple[float, ...], float] = {}

    def lower_at(e: float) -> float:
        return (value[e] - profile.at(e).upper) / (1.0 + math.exp(e))

    def upper_between(i: int) -> float:
        key = points[i - 1] if i else -points[1], points[i], points[i + 1], points[min(i + 2, len(points) - 1)]
        if key not in known:
            known[key] = _regret_between(profile, value, *key)
        return known[key]

    lower, upper, idle = max(0.0, *(lower_at(e) for e in points)), 1.0, 0
    for _ in range(MAX_POINTS):
        most, worst = max((upper_between(i), i) for i in range(len(points) - 1))
        idle = 0 if most < upper else idle + 1
        upper, middle = min(upper, most), 0.5 * (points[worst] + points[worst + 1])
        if upper <= lower + abs_tol or idle > PATIENCE or not points[worst] < middle < points[worst + 1]:
            break
        points.insert(worst + 1, middle)
        value[middle] = gaussian_delta(mu, middle)
        lower = max(lower, lower_at(middle))
    beyond = value[points[-1]] / (1.0 + math.exp(points[-1]))
    room = 1e-12
    return Bounds(max(lower - room, 0.0), min(max(upper, beyond, lower) + room, 1.0))


def _regret_between(
    profile: Profile, value: dict[float, float], before: float, low: float, high: float, after: float
) -> float:
    """Return an upper bound on (delta_mu - delta) / (1 + x) between two points, `low` and `high`.

    The numerator's bound is a line less the largest of up to three; over 1 + x that is monotone between crossings.
    """
    x, y = math.exp(low), math.exp(high)
    at_x, at_y = profile.at(low).lower, profile.at(high).lower
    lines = [(y, at_y, 0.0), (x, at_x, (at_x - profile.delta(before).upper) / (x - math.exp(before)))]
    if after > high:
        lines.append((y, at_y, (profile.at(after).upper - at_y) / (math.exp(after) - y)))
    crossings = [
        (second[1] - first[1] + first[2] * first[0] - second[2] * second[0]) / (first[2] - second[2])
        for k, first in enumerate(lines)
        for second in lines[:k]
        if first[2] != second[2]
    ]

    def over(at: float) -> float:
        chord = value[low] + (value[high] - value[low]) * (at - x) / (y - x)
        return (chord - max(d + slope * (at - c) for c, d, slope in lines)) / (1.0 + at)

    return max(over(at) for at in (x, y, *(c for c in crossings if x < c < y)))
