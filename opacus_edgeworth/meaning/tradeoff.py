r"""The best attack at a given false positive rate: trade-off functions of f-DP, proved from above and below.

An attack that says "with" on S has the false positive rate alpha = B(S) and the true positive rate A(S), so

    A(S) <= T(x) = delta(log x) + x alpha   for every x > 0,   and the best attack attains the least of it

(Dong, Roth & Su 2022, Proposition 2.12, https://arxiv.org/abs/1905.02383). Any x proves an upper bound on the true
positive rate. T is convex: points next to its minimum, the chords between them prolonged, bound it from below.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.optimize import minimize_scalar
from scipy.special import ndtri

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.meaning.profile import LARGEST, Profile, outward
from opacus_edgeworth.mechanisms import ULP

ENOUGH = 1e-10
"""Relative width at which the points need not be set wider, to surround the minimum for certain."""
WIDEST = 0.7
"""In epsilon."""
MAX_MOVES, MAX_LOOKS, SEARCH_TOL = 60, 40, 3e-8
"""Of the search for the best epsilon, whose result needs no proof."""
HOPELESS = 0.1
"""Relative width of T from which on the search is not worth its time."""
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


def least_false_positive_rate(profile: Profile, true_positive_rate: float) -> Bounds:
    """Return bounds on the least false positive rate of an attack with a true positive rate in (0, 1).

    It is the false negative rate of the best test of A against B with the false positive rate 1 - true_positive_rate.
    """
    if true_positive_rate < LEAST_RATE:
        return Bounds(0.0, true_positive_rate)
    lines = _Lines(Profile(profile.reverse, profile.forward), 1.0 - true_positive_rate, true_positive_rate)
    return lines.attack(_about_the_best(lines)).false_negative_rate


class _Lines:
    """T(x) at x = e^epsilon, and 1 - T, which is x (1 - alpha - delta') for x < 1, without cancellation.

    Far from its minimum T exceeds 1: cut off there it would not be convex.
    """

    def __init__(self, profile: Profile, alpha: float, rest: float | None = None) -> None:
        self.profile, self.alpha = profile, alpha
        self.rest = (1.0, -alpha) if rest is None else (rest,)  # 1 - alpha, whatever a double knows of it
        self.quantile = float(ndtri(alpha) if rest is None else -ndtri(rest))
        self.certain = profile.at(math.inf).lower

    def rates(self, epsilon: float) -> Attack:
        """Return T, which may exceed 1, and 1 - T."""
        known, x = self.profile.at(epsilon), math.exp(epsilon)
        if epsilon >= 0.0:
            seen = _widened(known.lower + x * self.alpha, known.upper + x * self.alpha)
            return Attack(seen, _widened(1.0 - seen.upper, 1.0 - seen.lower))
        rest = [math.fsum((*self.rest, -end)) for end in (known.upper, known.lower)]
        more = -math.expm1(epsilon)
        seen = _widened(more + x * (self.alpha + known.lower), more + x * (self.alpha + known.upper))
        return Attack(seen, _widened(x * rest[0], x * rest[1]))

    def log_odds(self, epsilon: float) -> float:
        """Return log(T / (1 - T)), or more and rising from T = 1 on: least where T is, without proof."""
        epsilon = float(epsilon)  # NumPy's come in
        if abs(epsilon) > LARGEST:
            return 1e4 + abs(epsilon)
        seen, missed = self.rates(epsilon)
        tpr, fnr = 0.5 * (seen.lower + seen.upper), 0.5 * (missed.lower + missed.upper)
        if fnr < 1e-300:
            return 1e3 + epsilon  # T is 1 at x = 0: its minimum is farther down
        return math.log(max(tpr, 1e-300)) - math.log(fnr)

    def width(self, epsilon: float) -> float:
        """Return the relative width of T, or of 1 - T for x < 1."""
        seen, missed = self.rates(epsilon)
        return (seen if epsilon >= 0.0 else missed).relative_width

    def attack(self, best: float) -> Attack:
        """Return the least of T with a proof, from about where it is."""
        width = max(self.width(best), 1e-15)
        step = max(min(self.profile.scale(), 0.5) * math.sqrt(min(width, 1.0)), 1e-14 * abs(best), 1e-300)
        # f is convex, 1 - certain at 0, and 0 from where only what is never seen with the example counts as "without"
        hidden = self.profile.at(-math.inf).lower
        share = math.fsum((*self.rest, -hidden)) / (1.0 - hidden) if hidden < 1.0 else 0.0
        missed = outward(0.0, share * (1.0 - self.certain))
        found = Attack(Bounds(max(self.alpha, outward(1.0 - missed.upper, 1.0).lower), 1.0), missed)
        found, narrowest = _both(found, self._at_most(self.rates(best))), math.inf
        while True:
            now = self._surround(best, step)
            found = _both(found, now)
            wide = (now.true_positive_rate if best >= 0.0 else now.false_negative_rate).relative_width
            narrowest = min(narrowest, wide)
            step *= 8.0
            if step >= WIDEST or narrowest <= ENOUGH or (narrowest <= 1e-6 and wide > 10.0 * narrowest):
                return found

    def _surround(self, middle: float, step: float) -> Attack:
        """Return bounds on the least of T by five points around it; slopes are in units of x at the middle one."""
        epsilons = [middle + k * step for k in (-2.0, -1.0, 0.0, 1.0, 2.0)]
        points, at = [self.rates(e) for e in epsilons], [math.expm1(e - middle) for e in epsilons]
        known = self._at_most(*points)
        # the least of T is at least alpha x + delta(inf) there
        at_most = (points[2].true_positive_rate.upper - self.certain) / self.alpha
        farthest = max(at_most * math.exp(-middle) * (1.0 + 1e-9) - 1.0, at[3])
        if middle >= 0.0:
            least = _least_of([point.true_positive_rate for point in points], at, farthest)
            return _both(known, _of_tpr(least, 1.0))
        least = _least_of([_minus(point.false_negative_rate) for point in points], at, farthest)
        missed = outward(0.0, 0.0 - least)
        return _both(known, Attack(outward(1.0 - missed.upper, 1.0), missed))

    def _at_most(self, *points: tuple[Bounds, Bounds]) -> Attack:
        """Return that the least of T is at most what it is at each point."""
        seen = min(point[0].upper for point in points)
        missed = max(point[1].lower for point in points)
        return Attack(outward(0.0, seen), outward(missed, 1.0))


def _about_the_best(lines: _Lines) -> float:
    """Return about the epsilon at which T is least, from that of a Gaussian with the same total variation distance."""
    mu = max(2.0 * float(ndtri(0.5 + 0.5 * min(lines.profile.at(0.0).upper, 1.0 - 1e-9))), 1e-12)
    guess = -mu * (0.5 * mu + lines.quantile)
    guess, step = min(max(guess, -LARGEST), LARGEST), 0.3 * min(mu, 3.0)
    low, best, high = ((at, lines.log_odds(at)) for at in (guess - step, guess, guess + step))
    for _ in range(MAX_MOVES):
        step *= 2.0
        if low[1] < best[1]:
            low, best, high = (low[0] - step, lines.log_odds(low[0] - step)), low, best
        elif high[1] < best[1]:
            low, best, high = best, high, (high[0] + step, lines.log_odds(high[0] + step))
        else:
            break
        if lines.width(best[0]) > HOPELESS:
            return best[0]
    if lines.width(best[0]) > HOPELESS:
        return best[0]
    options = {"xatol": SEARCH_TOL * (high[0] - low[0]), "maxiter": MAX_LOOKS}
    found = minimize_scalar(lines.log_odds, bounds=(low[0], high[0]), method="bounded", options=options)
    return min(max(float(found.x), -LARGEST), LARGEST)


def _least_of(points: list[Bounds], at: list[float], farthest: float) -> float:
    """Return a lower bound on a convex function that is known at five points x = 1 + at, for 0 <= x <= 1 + farthest.

    Above the fourth point it is at least what the chord to it from the third says. Likewise below the second one, down
    to x = 0, what the chord from the third to the fourth says; or what it is there, if it falls from there on.
    """
    (_, low, middle, high, _) = points
    falls, rises = ((end - start) / (at[3] - at[2]) for end, start in (
        (high.lower, middle.upper), (high.upper, middle.lower)))  # fmt: skip
    above = high.lower + min(falls, 0.0) * (farthest - at[3]) * (1.0 + 1e-9)
    below = low.lower if middle.upper <= low.lower else middle.lower - max(rises, 0.0) * (1.0 + 1e-9)
    return min(_least_between(points[:4], at[:4]), _least_between(points[1:], at[1:]), above, below)


def _least_between(points: list[Bounds], at: list[float]) -> float:
    """Return a lower bound on a convex function between the middle two of four points.

    It is above the chord of the first two, prolonged, and above that of the last two: least at the ends or where these
    cross, which is where a function with a kink has it.
    """
    first, second, third, fourth = points
    width = at[2] - at[1]
    falls = (second.lower - first.upper) / (at[1] - at[0])
    rises = (fourth.upper - third.lower) / (at[3] - at[2])
    at_second = max(second.lower, third.lower - rises * width)
    at_third = max(third.lower, second.lower + falls * width)
    least, room = min(at_second, at_third), 64.0 * ULP
    if falls < 0.0 < rises:
        crossing = (third.lower - second.lower - rises * width) / (falls - rises)
        if 0.0 < crossing < width:
            least = min(least, second.lower + falls * crossing)
    return least - room * (abs(second.lower) + abs(third.lower) + (abs(falls) + abs(rises)) * width)


def _widened(lower: float, upper: float) -> Bounds:
    """Return bounds on a number computed by a few operations, of either sign."""
    room = 8.0 * ULP
    return Bounds(lower - room * abs(lower) - 5e-324, upper + room * abs(upper) + 5e-324)


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
