r"""The best attack at a given false positive rate: trade-off functions of f-DP, proved from above and below.

An attack that says "with" on S has the false positive rate alpha = B(S) and the true positive rate A(S), so

    A(S) <= T(x) = delta(log x) + x alpha   for every x > 0,   and the best attack attains the least of it

(Dong, Roth & Su 2022, Proposition 2.12, https://arxiv.org/abs/1905.02383). Any x proves an upper bound on the true
positive rate. T is convex: three points next to its minimum, the chords between them prolonged, bound it from below.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.optimize import minimize_scalar
from scipy.special import ndtri

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.meaning.profile import LARGEST, Profile, outward

ENOUGH = 1e-10
"""Relative width at which the three points need not be set wider, to surround the minimum for certain."""
WIDEST = 0.7
"""In epsilon."""
LEAST_RATE = 1e-290
"""Smaller false positive rates, but 0, are taken for 0 and for this one: doubles end."""


class Attack(NamedTuple):
    """The best attack's error rates."""

    true_positive_rate: Bounds
    false_negative_rate: Bounds


def best_attack(profile: Profile, false_positive_rate: float) -> Attack:
    """Return bounds on what the best attack attains at a false positive rate in [0, 1]."""
    alpha = false_positive_rate
    if alpha == 1.0:
        return Attack(Bounds(1.0, 1.0), Bounds(0.0, 0.0))
    if alpha < LEAST_RATE:
        certain = profile.forward(math.inf)
        upper = certain if alpha == 0.0 else best_attack(profile, LEAST_RATE).true_positive_rate
        return _of_tpr(certain.lower, max(upper.upper, certain.upper))
    lines = _Lines(profile, alpha)
    return lines.attack(_about_the_best(lines))


class _Lines:
    """T(x) at x = e^epsilon, as the pair of rates; 1 - T is x (1 - alpha - delta') for x < 1, without cancellation."""

    def __init__(self, profile: Profile, alpha: float) -> None:
        self.profile, self.alpha = profile, alpha

    def rates(self, epsilon: float) -> Attack:
        """Return T and 1 - T."""
        known, x = self.profile.at(epsilon), math.exp(epsilon)
        if epsilon >= 0.0:
            return _of_tpr(known.lower + x * self.alpha, known.upper + x * self.alpha)
        rest = Bounds(max(1.0 - self.alpha - known.upper, 0.0), max(1.0 - self.alpha - known.lower, 0.0))
        missed = outward(x * rest.lower, x * rest.upper)
        more = -math.expm1(epsilon)
        return Attack(outward(more + x * (self.alpha + known.lower), more + x * (self.alpha + known.upper)), missed)

    def log_odds(self, epsilon: float) -> float:
        """Return log(T / (1 - T)), which has its minimum where T has it, without proof."""
        if abs(epsilon) > LARGEST:
            return 1e4 + abs(epsilon)
        seen, missed = self.rates(epsilon)
        tpr, fnr = 0.5 * (seen.lower + seen.upper), 0.5 * (missed.lower + missed.upper)
        return math.log(max(tpr, 1e-300)) - math.log(max(fnr, 1e-300))

    def attack(self, best: float) -> Attack:
        """Return the least of T with a proof, from about where it is."""
        seen, missed = self.rates(best)
        width = max((seen if best >= 0.0 else missed).relative_width, 1e-15)
        step = max(min(self.profile.scale(), 1.0) * math.sqrt(width), 1e-14 * abs(best), 1e-300)
        found, narrowest = Attack(Bounds(self.alpha, 1.0), Bounds(0.0, 1.0 - self.alpha)), math.inf
        while step < WIDEST:
            now = self._surround(best - step, best, best + step)
            found = _both(found, now)
            wide = (now.true_positive_rate if best >= 0.0 else now.false_negative_rate).relative_width
            narrowest = min(narrowest, wide)
            if narrowest <= ENOUGH or (narrowest <= 1e-6 and wide > 10.0 * narrowest):
                break
            step *= 8.0
        return found

    def _surround(self, left: float, middle: float, right: float) -> Attack:
        """Return bounds on the least of T by three points; slopes are in units of x at the middle one.

        For x above the middle T is at least what the left chord, prolonged, says, up to the right point, and the right
        chord from there on; below the middle the other way round, down to x = 0.
        """
        points = [self.rates(epsilon) for epsilon in (left, middle, right)]
        back, ahead = -math.expm1(left - middle), math.expm1(right - middle)
        if middle >= 0.0:
            low, at, high = (point.true_positive_rate for point in points)
            least = _least_between(low, at, high, back, ahead)
            return _of_tpr(least, min(point.true_positive_rate.upper for point in points))
        low, at, high = (point.false_negative_rate for point in points)
        most = -_least_between(_minus(low), _minus(at), _minus(high), back, ahead)
        missed = Bounds(max(point.false_negative_rate.lower for point in points), min(max(most, 0.0), 1.0))
        return Attack(outward(1.0 - missed.upper, 1.0 - missed.lower), missed)


def _about_the_best(lines: _Lines) -> float:
    """Return about the epsilon at which T is least, from that of a Gaussian with the same total variation distance."""
    mu = max(2.0 * float(ndtri(0.5 + 0.5 * min(lines.profile.at(0.0).upper, 1.0 - 1e-9))), 1e-12)
    guess = -mu * (0.5 * mu + float(ndtri(lines.alpha)))
    guess = min(max(guess, -LARGEST), LARGEST)
    reach = 0.3 * min(mu, 3.0)
    found = minimize_scalar(lines.log_odds, bracket=(guess - reach, guess + reach), method="brent", tol=1e-7)
    return min(max(float(found.x), -LARGEST), LARGEST)


def _least_between(low: Bounds, at: Bounds, high: Bounds, back: float, ahead: float) -> float:
    """Return a lower bound on a convex function of x >= 0, known at x = 1 - back, 1 and 1 + ahead."""
    margin = 1.0 + 1e-9
    rise_before = ((at.lower - low.upper) / back, (at.upper - low.lower) / back)
    rise_after = ((high.lower - at.upper) / ahead, (high.upper - at.lower) / ahead)
    if rise_after[0] < 0.0:
        return -math.inf  # it may fall on beyond the last point
    above = at.lower + min(rise_before[0], 0.0) * ahead * margin
    below = at.lower - max(rise_after[1], 0.0) * (back if rise_before[1] <= 0.0 else 1.0) * margin
    return min(above, below)


def _minus(bounds: Bounds) -> Bounds:
    """Return bounds on the negative."""
    return Bounds(-bounds.upper, -bounds.lower)


def _of_tpr(lower: float, upper: float) -> Attack:
    """Return both rates from bounds on the true positive rate."""
    seen = outward(max(lower, 0.0), max(upper, 0.0))
    return Attack(seen, outward(1.0 - seen.upper, 1.0 - seen.lower))


def _both(first: Attack, second: Attack) -> Attack:
    """Return what both prove."""
    return Attack(*(one.intersect(other) for one, other in zip(first, second, strict=True)))
