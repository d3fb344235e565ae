"""What a privacy curve means: against closed forms, exact fractions, quadrature, dp-accounting, riskcal, and itself."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import oracle_meaning as oracle
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from oracle_meaning import encloses
from riskcal import analysis as riskcal
from scipy.special import ndtr, ndtri

from opacus_edgeworth import PrivacyCurve
from opacus_edgeworth.mechanisms import DiscreteMechanism, Laplace, RandomizedResponse

RATES = (1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0 - 1e-6)
DIRECTIONS = ("remove", "add", "both")
RARE = [[(0.3, 0.01, 100)], [(0.7, 1e-3, 20)], [(0.2, 1e-3, 50)]]
COIN = ((0.5, 0.25, 0.125, 0.125), (0.375, 0.25, 0.25, 0.125))
LOUD = ((0.5, 0.25, 0.25, 0.0), (0.25, 0.625, 0.0, 0.125))
"""The third output is seen for certain, the fourth never if the example was used."""
PAIRS = [(COIN, 1), (COIN, 4), (LOUD, 1), (LOUD, 3), (((0.75, 0.25), (1.0, 0.0)), 2), (((1.0, 0.0), (0.75, 0.25)), 2)]


def encloses_rates(one: PrivacyCurve, alpha: float, direction: str, exact: Any, width: float) -> None:
    """Assert the same of both error rates: relatively, but for a false negative rate far below one at x > 1."""
    encloses(one.tradeoff(alpha, direction=direction), exact, width, 1e-10 if alpha < 0.5 else 1e-14)
    encloses(one.true_positive_rate(alpha, direction=direction), 1 - exact, width)


def discrete(pair: Any, steps: int) -> PrivacyCurve:
    return PrivacyCurve([(DiscreteMechanism(*pair), steps)])


@cache
def curve(*history: Any) -> PrivacyCurve:
    return PrivacyCurve(history)


# trade-off functions


@pytest.mark.parametrize("noise", [0.1, 0.7, 1.0, 4.0, 1e3, 1e9])
def test_gaussian_tradeoffs_enclose_the_closed_form(noise):
    for alpha in RATES:
        exact = oracle.gaussian_tradeoff(alpha, 1 / mpf(noise))
        for direction in DIRECTIONS:
            encloses_rates(curve((noise, 1.0, 1)), alpha, direction, exact, 1e-7)


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.1), (0.3, 0.01), (5.0, 0.5), (0.5, 0.9), (0.8, 1e-4)])
def test_one_sampled_step_encloses_neyman_pearson(noise, rate):
    for direction in ("remove", "add"):
        for alpha in RATES:
            exact = oracle.step_tradeoff(alpha, noise, rate, direction)
            encloses_rates(curve((noise, rate, 1)), alpha, direction, exact, 1e-7)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_laplace_and_responses_enclose_their_tradeoffs(scale):
    for alpha in RATES:
        for direction in DIRECTIONS:
            encloses_rates(curve((Laplace(scale), 1)), alpha, direction, oracle.laplace_tradeoff(alpha, scale), 1e-6)
            exact = oracle.response_tradeoff(alpha, scale)
            encloses_rates(curve((RandomizedResponse(scale), 1)), alpha, direction, exact, 1e-6)


@pytest.mark.parametrize(("pair", "steps"), PAIRS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_discrete_tradeoffs_enclose_the_polygon(pair, steps, direction):
    polygon = oracle.corners(oracle.outcomes_of(*pair, steps), direction)
    on_corners = [float(alpha) for alpha, _ in polygon]
    for alpha in (*RATES, 0.0, 1.0, *on_corners):
        exact = oracle.at(polygon, alpha)
        encloses_rates(discrete(pair, steps), alpha, direction, exact, 1e-6)


@pytest.mark.parametrize("history", [(1.0, 0.01, 1000), (0.7, 0.02, 200), (2.0, 0.2, 300)])
def test_dp_accounting_encloses_the_same_and_riskcal_is_near(history):
    noise, rate, steps = history
    optimistic, pessimistic = (
        pld.from_gaussian_mechanism(
            noise,
            sampling_prob=rate,
            pessimistic_estimate=estimate,
            value_discretization_interval=1e-4,
            use_connect_dots=estimate,
        ).self_compose(steps)
        for estimate in (False, True)
    )
    one, room = curve(history), 1e-8  # their FFTs round
    alphas, epsilons = np.array([1e-4, 1e-2, 0.1, 0.5, 0.9]), np.linspace(0.0, 8.0, 4001)
    lines = [np.array(loss.get_delta_for_epsilon(epsilons)) for loss in (optimistic, pessimistic)]
    for alpha, found, near in zip(
        alphas, one.tradeoff(alphas), riskcal.get_beta_from_pld(pessimistic, alphas), strict=True
    ):
        high, low = (
            max((1 - delta - np.exp(epsilons) * alpha).max(), (np.exp(-epsilons) * (1 - delta - alpha)).max())
            for delta in lines
        )
        assert low - room <= found.upper
        assert found.lower <= high + 1e-3 * alpha  # the least of its lines on a grid of epsilons
        assert near == pytest.approx(found.upper, abs=1e-4)  # its discretisation is not on the safe side
    for prior in (0.3, 0.5, 0.9):
        epsilon = abs(math.log(prior / (1.0 - prior)))
        low, high = (
            max(prior, 1 - prior) + min(prior, 1 - prior) * loss.get_delta_for_epsilon(epsilon)
            for loss in (optimistic, pessimistic)
        )
        assert one.bayes_success(prior).lower <= high + room
        if prior == 0.5:
            assert low - room <= one.advantage().upper / 2.0 + 0.5
            risk = riskcal.get_bayes_risk_from_pld(pessimistic, prior)
            assert one.bayes_success(prior).upper == pytest.approx(1.0 - risk, abs=1e-4)
            assert one.advantage().upper == pytest.approx(riskcal.get_advantage_from_pld(pessimistic), abs=1e-4)


def test_riskcal_agrees_on_the_gaussian():
    for mu in (0.1, 1.0, 3.0):
        gaussian = curve((1.0 / mu, 1.0, 1))
        for alpha in (1e-3, 0.1, 0.6):
            assert gaussian.tradeoff(alpha).upper == pytest.approx(riskcal.get_beta_from_gdp(mu, alpha), rel=1e-6)
        assert gaussian.advantage().upper == pytest.approx(riskcal.get_advantage_from_gdp(mu), rel=1e-9)
        risk = riskcal.get_bayes_risk_from_gdp(mu, 0.3)
        assert gaussian.bayes_success(0.3).upper == pytest.approx(1.0 - risk, rel=1e-9)


HISTORIES = st.lists(
    st.tuples(st.floats(0.5, 20.0), st.sampled_from([1e-3, 0.01, 0.1, 0.6, 1.0]), st.sampled_from([1, 10, 300])),
    min_size=1,
    max_size=2,
)


@settings(max_examples=12, deadline=None)
@given(HISTORIES)
def test_tradeoffs_fall_bend_and_mirror(history):
    alphas = [1e-6, 1e-3, 0.05, 0.2, 0.5, 0.8, 0.99]
    f = {d: [PrivacyCurve(history).tradeoff(a, direction=d) for a in alphas] for d in DIRECTIONS}
    for values in f.values():
        for a, value in zip(alphas, values, strict=True):
            assert value.upper <= (1.0 - a) * (1.0 + 1e-14)
        for left, right in pairwise(values):
            assert right.lower <= left.upper
        for k in range(1, len(alphas) - 1):
            share = (alphas[k + 1] - alphas[k]) / (alphas[k + 1] - alphas[k - 1])
            assert values[k].lower <= share * values[k - 1].upper + (1.0 - share) * values[k + 1].upper + 1e-15
    for both, remove, add in zip(f["both"], f["remove"], f["add"], strict=True):
        assert both.lower <= min(remove.upper, add.upper)
        assert both.relative_width < 1e-5 or both.upper < 1e-30
    for a, both, remove in zip(alphas, f["both"], f["remove"], strict=True):
        for value, back in ((both, "both"), (remove, "add")):  # f_add is the inverse of f_remove
            if 1e-12 < value.lower < 1.0:
                again = PrivacyCurve(history).tradeoff(value.upper, direction=back)
                assert again.lower <= a
                assert again.upper >= a * (1.0 - 1e-3) or value.upper > 1.0 - a - 1e-6


@settings(max_examples=12, deadline=None)
@given(HISTORIES, st.floats(0.0, 3.0))
def test_delta_is_the_conjugate_of_the_tradeoff(history, epsilon):
    one = PrivacyCurve(history)
    for direction in DIRECTIONS:
        delta, growth = one.delta(epsilon, direction=direction), math.exp(epsilon)
        for alpha in (1e-6, 1e-3, 0.03, 0.2, 0.6):
            assert one.true_positive_rate(alpha, direction=direction).lower <= delta.upper + growth * alpha + 1e-15
    assert one.delta(epsilon).upper >= max(one.delta(epsilon, direction=d).lower for d in ("remove", "add"))


@pytest.mark.slow
@pytest.mark.parametrize("history", RARE)
def test_rare_events_are_narrow(history):
    for alpha in (1e-5, 0.5):
        found = curve(*history).true_positive_rate(alpha)
        assert alpha <= found.lower
        assert found.relative_width < 1e-6
    assert curve(*history).gaussian_mu().relative_width < 1e-6
    assert curve(*history).posterior(0.5, 0.05).width < 1e-6


# attacks


@pytest.mark.parametrize(("pair", "steps"), PAIRS)
def test_discrete_attacks_enclose_the_fractions(pair, steps):
    outcomes = oracle.outcomes_of(*pair, steps)
    polygon, one = oracle.corners(outcomes, "remove"), discrete(pair, steps)
    for prior in (0.0, 1e-3, 0.3, 0.5, 0.8, 1.0):
        p = Fraction(prior)
        right = sum(max(p * x, (1 - p) * y) for x, y in outcomes)
        encloses(one.bayes_success(prior), right, 1e-12, 1e-14)
        for alpha in (1e-4, 0.2, 0.7):
            tpr, false = 1 - oracle.at(polygon, alpha), (1 - p) * Fraction(alpha)
            encloses(one.precision(prior, alpha), p * tpr / (p * tpr + false), 1e-6)
        for failure in (1e-4, 0.11, 0.4, 0.77, 0.999):
            exact = oracle.posterior_at(outcomes, prior, failure) if 0.0 < prior < 1.0 else prior
            encloses(one.posterior(prior, failure), exact, 1e-6)
    encloses(one.advantage(), sum(max(x - y, 0) for x, y in outcomes), 1e-12)


@pytest.mark.parametrize("noise", [0.3, 1.0, 30.0])
def test_gaussian_posteriors_enclose_the_closed_form(noise):
    mu = 1 / mpf(noise)
    for failure in (1e-9, 0.05, 0.5, 0.99):
        alpha = mp.ncdf(-oracle.quantile(failure) - mu)
        for prior in (1e-6, 0.5, 0.99):
            exact = prior * mpf(failure) / (prior * mpf(failure) + (1 - mpf(prior)) * alpha)
            encloses(curve((noise, 1.0, 1)).posterior(prior, failure), exact, 1e-8)


def test_regression_seeing_less_may_leave_a_stronger_belief():
    one = discrete(((0.9, 0.08, 0.02), (0.9899, 0.01, 0.0001)), 1)
    coarse = 0.5 * 0.1 / (0.5 * 0.1 + 0.5 * 0.0101)  # whoever sees only "the second or the third", 10 % under P
    assert one.posterior(0.5, 0.1).upper >= coarse
    assert one.posterior(0.5, 0.05).upper >= coarse  # the loss's quantile at 5 % is lower: 0.8889


@pytest.mark.parametrize("history", [((1.0, 0.01, 1000),), ((0.8, 0.05, 20),), ((Laplace(1.5), 1),)])
def test_posteriors_rise_with_the_prior_and_fall_with_the_failure(history):
    one = curve(*history)
    for key in (
        lambda p: one.posterior(p, 0.05),
        lambda p: one.precision(p, 0.01),
        lambda p: one.posterior(0.3, 1 - p),
    ):
        for low, high in pairwise(key(p) for p in (0.01, 0.2, 0.5, 0.9)):
            assert low.lower <= high.upper
    for alpha in (1e-6, 0.1, 0.9):
        found = one.true_positive_rate(alpha)
        assert alpha <= found.lower
        assert one.reconstruction_success(alpha) == found


# Gaussian


@pytest.mark.parametrize("mu", [1e-9, 0.1, 1.0, 7.0, 40.0])
def test_mu_of_gaussian_steps_is_exact(mu):
    for floor in (1e-300, 1e-6, 0.5):
        encloses(curve((2.0 / mu, 1.0, 4)).gaussian_mu(floor=floor), 2 * (1 / mpf(2.0 / mu)), 1e-14)
    assert curve((2.0 / mu, 1.0, 4)).gaussian_regret().upper < 1e-7


@pytest.mark.parametrize(
    ("pair", "steps"), [PAIRS[0], PAIRS[1], (((0.7, 0.3), (0.3, 0.7)), 1), (((0.6, 0.4), (0.5, 0.5)), 3)]
)
def test_mu_and_regret_enclose_what_the_corners_say(pair, steps):
    polygon, one = oracle.corners(oracle.outcomes_of(*pair, steps), "both"), discrete(pair, steps)
    mu = one.gaussian_mu(floor=1e-9)
    encloses(mu, oracle.least_mu(polygon), 1e-6)
    exact, found = oracle.regret(polygon, mu.upper, 200), one.gaussian_regret(floor=1e-9)
    assert exact <= found.upper
    assert found.lower <= exact + 1e-4
    assert found.width < 2e-7


@pytest.mark.parametrize(
    "history",
    [((1.0, 0.01, 1000),), ((0.6, 0.05, 3000),), ((0.8, 0.02, 20),), ((1.5, 0.1, 30), (RandomizedResponse(0.5), 2))],
)
def test_the_gaussian_is_below_but_for_floor_and_regret(history):
    one, floor = curve(*history), 1e-4
    mu, k = one.gaussian_mu(floor=floor), one.gaussian_regret(floor=floor)
    assert mu.relative_width < 1e-6
    assert k.width < 2e-7
    profile, epsilons = one._profile("both"), np.linspace(0.0, one.epsilon(floor).lower, 200)
    # a little below the least mu the Gaussian asks for less than delta at some epsilon
    assert any(profile.at(e).lower > _gaussian_delta(mu.lower * (1.0 - 1e-4), e) for e in epsilons)
    for alpha in np.exp(np.linspace(math.log(1e-5), math.log(0.6), 10)):
        gaussian = float(ndtr(ndtri(1.0 - alpha) - mu.upper))
        assert gaussian - floor <= one.tradeoff(alpha).upper
        assert one.tradeoff(min(alpha + k.upper, 1.0)).lower - k.upper <= gaussian + 1e-12
    # a little below the regret the shifted function is above the Gaussian where it touches the line of some epsilon
    epsilons = np.linspace(0.0, mu.upper * (mu.upper / 2 + 5), 200)
    worst = max(epsilons, key=lambda e: (_gaussian_delta(mu.upper, e) - profile.at(e).upper) / (1 + math.exp(e)))
    alpha, less = float(ndtr(-mu.upper / 2 - worst / mu.upper)), k.lower * (1.0 - 1e-3) - 1e-6
    gaussian = float(ndtr(ndtri(1.0 - alpha) - mu.upper))
    assert less <= 0.0 or one.tradeoff(alpha + less).lower - less > gaussian


def _gaussian_delta(mu: float, epsilon: float) -> float:
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu))


# Renyi


@pytest.mark.parametrize(
    ("noise", "rate", "order"),
    [(1.0, 0.1, 1.001), (1.0, 0.1, 8.0), (0.4, 0.02, 3.5), (5.0, 0.6, 60.0), (1.0, 0.1, 90.0), (0.3, 1e-4, 2.0)],
)
def test_sampled_renyi_divergences_enclose_the_integral(noise, rate, order):
    for direction in ("remove", "add"):
        exact = 7 * oracle.sampled_renyi(order, noise, rate, direction)
        encloses(curve((noise, rate, 7)).renyi_divergence(order, direction=direction), exact, 1e-11)


@pytest.mark.parametrize("order", [1.0 + 1e-6, 1.5, 2.0, 16.0, 1000.0, 1e6])
def test_closed_renyi_divergences_are_enclosed(order):
    a, e = mpf(order), mpf(1.0)
    true = 1 / (1 + mp.exp(-e))
    response = mp.log(true**a * (1 - true) ** (1 - a) + true ** (1 - a) * (1 - true) ** a) / (a - 1)
    for direction in DIRECTIONS:
        for history, exact in (
            ([(0.7, 1.0, 3)], 3 * a / (2 * mpf(0.7) ** 2)),
            ([(Laplace(0.8), 5)], 5 * oracle.laplace_renyi(order, 0.8)),
            ([(RandomizedResponse(1.0), 2)], 2 * response),
            ([(Laplace(0.8), 5), (0.7, 1.0, 3)], 5 * oracle.laplace_renyi(order, 0.8) + 3 * a / (2 * mpf(0.7) ** 2)),
        ):
            width = 1e-11 if order > 1.1 else 1e-7
            encloses(PrivacyCurve(history).renyi_divergence(order, direction=direction), exact, width)


@settings(max_examples=20, deadline=None)
@given(HISTORIES, st.floats(1.01, 100.0), st.floats(1.0, 3.0))
def test_renyi_divergences_rise_and_never_convert_to_less(history, order, factor):
    one = PrivacyCurve(history)
    low, high = one.renyi_divergence(order), one.renyi_divergence(order * factor)
    assert low.lower <= high.upper
    assert low.width <= 1e-9 * low.upper + 1e-15 / (order - 1.0)
    converted = low.upper + math.log1p(-1.0 / order) - math.log(1e-5 * order) / (order - 1.0)
    assert one.epsilon(1e-5).lower <= max(converted, 0.0)
    assert one.zcdp_rho().upper >= low.lower / order


@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0])
def test_rho_of_laplace_and_responses_is_the_supremum(scale):
    orders = [1 + mpf(10) ** (mpf(k) / 8) for k in range(-60, 33)]
    laplace = max(oracle.laplace_renyi(a, scale) / a for a in orders)
    encloses(curve((Laplace(scale), 2)).zcdp_rho(), 2 * laplace, 1e-2)
    assert curve((Laplace(scale), 2)).zcdp_rho().relative_width < 2e-6
    mixed = curve((Laplace(scale), 2), (4.0, 0.5, 3)).zcdp_rho()
    assert mixed.lower >= 3 / 32 * (1 - 1e-12)
    assert mixed.upper >= 2 * laplace
    encloses(curve((4.0, 0.5, 3), (2.0, 1.0, 1)).zcdp_rho(), mpf(3) / 32 + mpf(1) / 8, 1e-13)
