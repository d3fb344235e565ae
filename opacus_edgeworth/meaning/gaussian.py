r"""The Gaussian of the same privacy: least mu with f >= G_mu, and how far G_mu understates f.

G_mu(alpha) = Phi(Phi^{-1}(1 - alpha) - mu) is the trade-off function of N(0, 1) against N(mu, 1) (Dong, Roth & Su 2022,
https://arxiv.org/abs/1905.02383). For a symmetric f, f >= G_mu if and only if delta_mu(e) >= delta(e) for every e >= 0
(their Proposition 2.12). The tail of a sampled Gaussian's loss is that of the unsampled one: that would ask for the mu
without sampling. So nothing is asked where delta(e) is below a floor, and f >= G_mu - floor is what is proved.
"""

from __future__ import annotations

import math
from bisect import insort
from itertools import pairwise

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.meaning.profile import Profile

POINTS = 24
MAX_POINTS = 400
PATIENCE = 20
"""Refinements in vain after which the rounding of delta is what stands in the way."""
MU_ROOM, MU_LEAST_ROOM = 1e-11, 1e-13
"""For the rounding of Phi and its inverse, relative and absolute."""


def gaussian_mu(profile: Profile, largest_epsilon: float, rel_tol: float = 1e-7) -> Bounds:
    """Return bounds on the least mu with delta_mu(e) >= delta(e) for all 0 <= e <= largest_epsilon.

    Args:
      profile: symmetric: both directions at once.
      largest_epsilon: >= 0 and finite.
      rel_tol: where refinement ends.
    """
    points = sorted({largest_epsilon * k / POINTS for k in range(POINTS + 1)})
    lower = max(_mu_at(e, profile.at(e).lower) for e in points)
    cells = sorted((_mu_between(profile, *pair), *pair) for pair in pairwise(points))
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
        lower = max(lower, _mu_at(middle, profile.at(middle).lower))
        for pair in ((low, middle), (middle, high)):
            insort(cells, (_mu_between(profile, *pair), *pair))
    upper = max(_mu_at(0.0, profile.at(0.0).upper), upper if cells else 0.0, lower)
    return Bounds(max(lower * (1.0 - MU_ROOM) - MU_LEAST_ROOM, 0.0), upper * (1.0 + MU_ROOM) + MU_LEAST_ROOM)


def _mu_between(profile: Profile, low: float, high: float) -> float:
    """Return a mu with delta_mu >= delta between two epsilons.

    As a function of x = e^e delta is at most its chord, and delta_mu less the chord is convex: at least 0 if it is so
    at both ends and has its minimum elsewhere; at least 0 everywhere if the chord's corner (alpha, 1 - T), -alpha being
    its slope, is above G_mu. The minimum is where B(L > e) = Phi(-mu/2 - e/mu) is alpha.
    """
    first, second = profile.at(low).upper, profile.at(high).upper
    ends = max(_mu_at(low, first), _mu_at(high, second))
    if not 0.0 < ends < math.inf:
        return ends
    x, further = math.exp(low), math.exp(low) * math.expm1(high - low)
    alpha = (first - second) / further
    if alpha > 0.0:
        minimum = -ends * (0.5 * ends + float(ndtri(min(alpha, 1.0))))
        slack = 1e-9 * (1.0 + high)
        if minimum > high + slack or minimum < low - slack:
            return ends
    rate = max(first + x * max(alpha, 0.0), second + (x + further) * max(alpha, 0.0)) * (1.0 + 1e-15)
    if not 0.0 < alpha < 1.0 or rate >= 1.0:
        return _mu_at(high, first)  # delta falls, and so does delta_mu
    return max(float(ndtri(rate) - ndtri(alpha)), ends)


def _mu_at(epsilon: float, delta: float) -> float:
    """Return about the mu with delta_mu(epsilon) = delta."""
    if delta <= 0.0:
        return 0.0
    if epsilon == 0.0:
        return 2.0 * float(ndtri(0.5 + 0.5 * delta)) if delta > 1e-3 else delta * math.sqrt(2.0 * math.pi)
    if delta >= 1.0:
        return math.inf
    low, high = 1e-12, 1.0
    while gaussian_delta(high, epsilon) < delta:
        low, high = high, 2.0 * high
    if gaussian_delta(low, epsilon) >= delta:
        return 0.0
    root = brentq(lambda mu: math.log(gaussian_delta(mu, epsilon) + 1e-320) - math.log(delta), low, high, xtol=1e-15)
    assert isinstance(root, float)
    return root


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return delta_mu(epsilon) = Phi(mu/2 - e/mu) - e^e Phi(-mu/2 - e/mu), to rounding of its two terms."""
    a, b = 0.5 * mu - epsilon / mu, -0.5 * mu - epsilon / mu
    gap = epsilon + float(log_ndtr(b)) - float(log_ndtr(a))
    return -float(ndtr(a)) * math.expm1(gap) if gap < 0.0 else 0.0


def gaussian_regret(profile: Profile, mu: float, largest_epsilon: float, abs_tol: float = 1e-7) -> Bounds:
    r"""Return bounds on the regret of stating mu: the least k with f(alpha + k) - k <= G_mu(alpha) for all alpha.

    In terms of profiles that is the largest (delta_mu(e) - delta(e)) / (1 + e^e) over e >= 0. Between two points
    delta_mu, convex in x = e^e, is at most its chord, and delta at least its neighbours' chords, prolonged.
    """
    points = sorted({largest_epsilon * k / POINTS for k in range(POINTS + 1)})
    value = {e: gaussian_delta(mu, e) for e in points}

    def lower_at(e: float) -> float:
        return (value[e] - profile.at(e).upper) / (1.0 + math.exp(e))

    lower, most = 0.0, 1.0
    for _ in range(MAX_POINTS):
        lower = max(0.0, *(lower_at(e) for e in points))
        cells = [(_regret_between(profile, value, points, i), i) for i in range(len(points) - 1)]
        most, worst = max(cells)
        middle = 0.5 * (points[worst] + points[worst + 1])
        if most <= lower + abs_tol or not points[worst] < middle < points[worst + 1]:
            break
        points.insert(worst + 1, middle)
        value[middle] = gaussian_delta(mu, middle)
    beyond = value[points[-1]] / (1.0 + math.exp(points[-1]))
    room = 1e-12
    return Bounds(max(lower - room, 0.0), max(most, beyond, lower) + room)


def _regret_between(profile: Profile, value: dict[float, float], points: list[float], i: int) -> float:
    """Return an upper bound on (delta_mu - delta) / (1 + x) between two points.

    The numerator's bound is a line minus the largest of three; over 1 + x that is monotone between their crossings.
    """
    low, high = points[i], points[i + 1]
    before, after = points[i - 1] if i > 0 else -points[1], points[min(i + 2, len(points) - 1)]
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
