"""What a privacy curve means at its limits, and where it was wrong once."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import oracle_meaning as oracle
import pytest
from mpmath import mp, mpf
from oracle_meaning import encloses

from opacus_edgeworth import PrivacyCurve
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import CertificationError, InvalidParameterError
from opacus_edgeworth.meaning.profile import Profile
from opacus_edgeworth.meaning.tradeoff import _Lines
from opacus_edgeworth.mechanisms import DiscreteMechanism, PoissonSubsampledLaplace, RandomizedResponse


def discrete(pair: Any, steps: int) -> PrivacyCurve:
    return PrivacyCurve([(DiscreteMechanism(*pair), steps)])


@cache
def curve(*history: Any) -> PrivacyCurve:
    return PrivacyCurve(history)


# limits


@pytest.mark.parametrize("history", [[], [(1.0, 0.0, 10)]])
def test_nothing_revealed(history):
    one = PrivacyCurve(history)
    for alpha in (0.0, 1e-300, 0.3, 1.0):
        encloses(one.tradeoff(alpha), 1 - mpf(alpha), 1e-14)
        encloses(one.true_positive_rate(alpha), alpha, 1e-7, 1e-15)
    for prior in (0.0, 1e-320, 0.3, 1.0):
        encloses(one.bayes_success(prior), max(mpf(prior), 1 - mpf(prior)), 1e-14)
        for failure in (1e-9, 0.5, 1.0 - 1e-16):
            encloses(one.posterior(prior, failure), prior, 1e-13, 1e-323)
        encloses(one.precision(prior, 1e-320), prior, 1.0, 1.0)
    assert one.gaussian_mu() == one.gaussian_regret() == one.zcdp_rho() == one.renyi_divergence(2.0) == Bounds(0.0, 0.0)


def test_everything_revealed():
    seen = PrivacyCurve([(0.0, 1.0, 1)])
    encloses(seen.tradeoff(0.3, direction="remove"), 0, 0.0, 1e-11)
    assert seen.posterior(0.3, 0.5).upper == 1.0
    assert PrivacyCurve([(1.0, 0.1, 10)]).posterior(1.0, 0.5) == Bounds(1.0, 1.0)
    assert seen.posterior(0.0, 0.5) == Bounds(0.0, 0.0)
    assert seen.gaussian_mu() == seen.zcdp_rho() == seen.renyi_divergence(3.0) == Bounds(math.inf, math.inf)
    apart = discrete(((1.0, 0.0), (0.0, 1.0)), 1)
    for alpha in (0.0, 1e-320, 0.3):
        encloses(apart.tradeoff(alpha), 0, 0.0, 1e-13)
    assert apart.posterior(1e-9, 0.5).upper == 1.0
    for part in (apart, discrete(((0.9, 0.1, 0.0), (0.9, 0.0, 0.1)), 1)):  # seen for certain, or with probability 0.1
        assert part.zcdp_rho() == part.renyi_divergence(2.0) == Bounds(math.inf, math.inf)


@pytest.mark.parametrize("call", [
    lambda c: c.tradeoff(1.5), lambda c: c.tradeoff(math.nan), lambda c: c.tradeoff(0.1, direction="up"),
    lambda c: c.precision(0.5, 0.0), lambda c: c.posterior(0.5, 1.0), lambda c: c.bayes_success(-0.1),
    lambda c: c.gaussian_mu(floor=0.0), lambda c: c.gaussian_regret(floor=1.0), lambda c: c.renyi_divergence(1.0),
    lambda c: c.renyi_divergence(math.inf), lambda c: c.reconstruction_success("a"),
])  # fmt: skip
def test_arguments_are_checked(call):
    with pytest.raises(InvalidParameterError):
        call(curve((1.0, 0.1, 10)))


# regressions


def test_regression_a_noiseless_quantile_was_not_proved():
    # 1 % is seen for certain, and no more than that is known: a belief near 1 was claimed to be a lower bound
    exact = mpf(0.3) / (0.3 + mpf(0.29) / mpf(0.99))
    encloses(PrivacyCurve([(0.0, 0.01, 1)]).posterior(0.5, 0.3), exact, 1.0)


@pytest.mark.parametrize("direction", ["remove", "add", "both"])
def test_regression_lines_beyond_one_were_cut_off(direction):
    # T(x) cut off at 1 is not convex: wherever T exceeds 1, f came out as 0
    for alpha in (1e-3, 0.3, 0.9):
        exact = oracle.gaussian_tradeoff(alpha, 1)
        for best in (-20.0, -3.0, -0.1, 0.0, 1.0, 3.0, 30.0):
            found = _Lines(curve((1.0, 1.0, 1))._profile(direction), alpha).attack(best)
            encloses(found.false_negative_rate, exact, 1.0, 1.0)
            encloses(found.true_positive_rate, 1 - exact, 1.0, 1.0)


def test_regression_half_a_false_negative_rate_was_lost_to_cancellation():
    # 1 - alpha - delta' is of the size of alpha, which is less than an ulp of 1: 1 - alpha is no double
    delta = Bounds(1.0 - 2.0**-53, 1.0 - 2.0**-53)
    found = _Lines(Profile(lambda _: delta, lambda _: delta), 1e-17).rates(-1.0).false_negative_rate
    encloses(found, mp.exp(-1) * (mpf(2) ** -53 - mpf(1e-17)), 1e-14)


def test_regression_a_small_distance_asked_for_too_little_mu():
    encloses(curve((1.0, 5e-4, 1)).gaussian_mu(floor=0.5), _mu_of_distance(1.0, 5e-4), 1e-9)


def _mu_of_distance(noise: float, rate: float) -> mpf:
    distance = mpf(rate) * (1 - 2 * oracle.tail(1 / (2 * mpf(noise))))
    return 2 * mp.sqrt(2) * mp.erfinv(distance)


def test_regression_zero_over_zero():
    one = curve((0.0, 1.0, 1))
    assert one.posterior(0.0, 0.5) == Bounds(0.0, 0.0)
    assert curve((1.0, 1.0, 1)).posterior(1.0, 1.0 - 1e-16) == Bounds(1.0, 1.0)
    assert curve((1.0, 0.1, 1)).precision(1.0, 1e-320).upper == 1.0


def test_regression_p_times_t_underflowed():
    assert curve((1e6, 1.0, 1)).precision(1e-200, 1e-200).upper >= 1e-200


def test_regression_a_regret_without_an_epsilon():
    assert curve((1.0, 0.1, 1)).gaussian_regret(floor=0.5).width < 1e-6


@pytest.mark.parametrize("history", [((0.6, 0.05, 20000),), ((0.02, 0.9, 1),)])
def test_regression_mu_of_hardly_private_histories(history):
    # e^epsilon overflows, and delta is 1 to the last digit
    assert curve(*history).gaussian_mu().relative_width < 1e-6
    assert curve(*history).gaussian_mu(floor=1e-322).lower > 10.0


@pytest.mark.parametrize("order", [2000.0, 1e8, 1e200])
def test_regression_large_orders(order):
    s, q, a = mpf(0.9), mpf(0.01), mpf(order)
    exact = 3 * (a / (2 * s * s) + a / (a - 1) * mp.log(q))
    encloses(curve((0.9, 0.01, 3)).renyi_divergence(order, direction="remove"), exact, 1e-13)
    encloses(curve((0.9, 1.0, 3)).renyi_divergence(order), 3 * a / (2 * s * s), 1e-13)
    with pytest.raises(CertificationError, match="ask a lower one"):
        curve((50.0, 1e-40, 3)).renyi_divergence(1e200, direction="add")


def test_regression_a_hopeless_epsilon_spoilt_the_others():
    # near the add direction's largest loss nothing is proved, and then any width was taken
    assert PrivacyCurve([(0.02, 0.3, 2)]).tradeoff(0.1, direction="remove").relative_width < 0.2


def test_sampled_laplace_steps_and_mixtures_stay_in_time_and_narrow():
    for history in ([(PoissonSubsampledLaplace(0.8, 0.3), 2)], [(1.0, 0.02, 300), (RandomizedResponse(0.5), 1)]):
        assert PrivacyCurve(history).tradeoff(0.1).relative_width < 1e-3


@pytest.mark.parametrize(
    ("history", "epsilon"),
    [([(4.866183296711512, 0.01, 1), (11.303542566636896, 0.01, 1)], 0.7710724792337107), ([(0.5, 1e-3, 10)], 3e-308)],
)
def test_regression_delta_warned_of_infinite_bounds(history, epsilon):
    for direction in ("remove", "add"):
        one = PrivacyCurve(history).delta(epsilon, direction=direction)
        assert one.lower <= PrivacyCurve(history).delta(epsilon).upper
