"""What an attacker gains: beliefs, shares of true ones, Bayes-optimal guesses.

All of it follows from the trade-off function, so it holds for whoever sees the output or anything made from it. A
quantile of the privacy loss, simpler to state, does not: who sees less may hold a stronger belief more often.
"""

from __future__ import annotations

import math

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.meaning.profile import Profile, outward
from opacus_edgeworth.meaning.tradeoff import best_attack, least_false_positive_rate
from opacus_edgeworth.mechanisms import ULP

NOTHING = 1e-100
"""A prior below it leaves the answer as it is without the output, to the last bit."""
SCALE = 2.0**200
"""Makes the smallest doubles normal ones."""


def posterior(profile: Profile, prior: float, failure_probability: float) -> Bounds:
    r"""Return bounds on the least belief in A that is exceeded with at most this probability under A.

    Let S be the outcomes of whatever is seen, a function of the output, after which the belief p A / (p A + (1-p) B)
    exceeds t. Then A(S) > r B(S), r = (1-p) t / (p (1-t)). If A(S) >= g, the attack "A on S" has a true positive rate
    of g at least, so that B(S) is at least the least false positive rate alpha of such attacks, and, its best share of
    true positives being that at g, t is below p g / (p g + (1-p) alpha): alpha / g rises with g, as f is convex.
    Somebody who sees only whether the best attack said "A" attains it.
    """
    if prior in (0.0, 1.0):
        return Bounds(prior, prior)
    alpha = least_false_positive_rate(profile, failure_probability)
    members, others = SCALE * prior, 1.0 - prior
    low, high = (
        members / (members + others * (SCALE * end / failure_probability))
        for end in (min(alpha.upper, failure_probability), alpha.lower)
    )
    return outward(low, high)


def precision(profile: Profile, prior: float, false_positive_rate: float) -> Bounds:
    """Return bounds on the share of true ones among the members that the best attack names.

    That is p T / (p T + (1 - p) alpha), T being its true positive rate, which is at least alpha, and alpha > 0.
    """
    if prior == 0.0:
        return Bounds(0.0, 0.0)
    rate = best_attack(profile, false_positive_rate).true_positive_rate
    members, false = SCALE * prior, (1.0 - prior) * (SCALE * false_positive_rate)  # p T itself may underflow
    low, high = (members / (members + false / end) for end in (max(rate.lower, false_positive_rate), rate.upper))
    return outward(low, high)


def bayes_success(profile: Profile, prior: float) -> Bounds:
    """Return bounds on the probability that the best guess between A and B is right, A having the prior p.

    sup_S p A(S) + (1 - p) (1 - B(S)) = 1 - p + p delta(log((1 - p) / p)), for p > 1/2 the same with A and B exchanged.
    """
    if prior in (0.0, 1.0):
        return Bounds(1.0, 1.0)
    small, large = min(prior, 1.0 - prior), max(prior, 1.0 - prior)
    if small < NOTHING:
        return outward(large, large + small)
    at, side = math.log(large / small), (profile.forward if prior <= 0.5 else profile.reverse)
    # rounding of `at` moves e^e by a few ulp of itself, and delta by that times at most 1
    room = 2.0 * large * ULP * (1.0 + at)
    known = side(at)
    return outward(large + small * known.lower - room, large + small * known.upper + room)
