"""The papers' expansions: against symbolic series, exact distributions, other formulas in many digits, the truth."""

import math
import warnings

import mpmath
import numpy as np
import pytest
import sympy
from scipy.stats import gamma

import opacus_edgeworth as ew
from opacus_edgeworth.composition import compose
from opacus_edgeworth.edgeworth.cumulants import loss_cumulants, whole_grid
from opacus_edgeworth.edgeworth.expansion import hermite_coefficients, standard_cdf, standard_density

QNLI = [(0.66, 0.0152, 200)]
MNIST = [(1.1, 256 / 60000, 14040)]


@pytest.mark.parametrize("order", range(7))
def test_coefficients_are_those_of_the_symbolic_series(order):
    e, d = sympy.symbols("e d")
    cumulants = [sympy.Rational(k + 1, 7) for k in range(order + 2)]
    cumulants[1] = sympy.Integer(1)
    exponent = sum(cumulants[j + 1] / sympy.factorial(j + 2) * d ** (j + 2) * e**j for j in range(1, order + 1))
    series = sympy.expand(sum(exponent**k / sympy.factorial(k) for k in range(order + 1)))
    kept = sum(series.coeff(e, j) for j in range(order + 1)) if order else sympy.Integer(1)
    expected = [float(sympy.Poly(kept, d).coeff_monomial(d**s)) for s in range(3 * order + 1)]
    got = hermite_coefficients(np.array([float(c) for c in cumulants]), order)
    assert got == pytest.approx(expected, rel=1e-13, abs=1e-15)


def test_the_first_orders_are_the_textbook_ones():
    x, k3, k4 = np.linspace(-4, 4, 9), 0.3, 0.2
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    normal = standard_cdf(x, hermite_coefficients(np.array([0.0, 1.0]), 0))
    first = standard_cdf(x, hermite_coefficients(np.array([0.0, 1.0, k3]), 1))
    second = standard_cdf(x, hermite_coefficients(np.array([0.0, 1.0, k3, k4]), 2))
    assert first == pytest.approx(normal - density * k3 / 6 * (x**2 - 1), abs=1e-15)
    tail = k4 / 24 * (x**3 - 3 * x) + k3**2 / 72 * (x**5 - 10 * x**3 + 15 * x)
    assert second == pytest.approx(first - density * tail, abs=1e-15)


@pytest.mark.parametrize("order", range(7))
def test_the_error_falls_as_the_order_says(order):
    """A sum of n exponentials is Gamma(n): the error of order m is about n^{-(m+1)/2}."""
    errors = []
    for n in (400, 1600):
        cumulants = np.array([n * math.factorial(r - 1) for r in range(1, order + 3)], dtype=float)
        x = np.linspace(-3, 3, 301)
        exact = gamma.cdf(n + math.sqrt(n) * x, n)
        errors.append(float(np.abs(standard_cdf(x, hermite_coefficients(cumulants, order)) - exact).max()))
    assert errors[0] / errors[1] == pytest.approx(2.0 ** (order + 1), rel=0.12)


def test_the_density_is_the_derivative_of_the_distribution_function():
    coefficients = hermite_coefficients(np.array([0.0, 1.0, 0.3, 0.2, 0.1]), 3)
    x, h = np.linspace(-3, 3, 13), 1e-5
    slope = (standard_cdf(x + h, coefficients) - standard_cdf(x - h, coefficients)) / (2 * h)
    assert standard_density(x, coefficients) == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize(("noise", "rate"), [(0.8, 0.01), (0.4, 1e-3), (30.0, 0.5)])
@pytest.mark.parametrize("tilt", [0, 1])
def test_cumulants_are_exact(noise, rate, tilt):
    """Against moments by adaptive quadrature in 40 digits, and the logarithm of their power series."""
    with mpmath.workdps(40):
        s, q = mpmath.mpf(noise), mpmath.mpf(rate)

        def loss(u):
            return mpmath.log(1 + q * mpmath.expm1(u / s - 1 / (2 * s * s)))

        def density(u):
            p = mpmath.npdf(u)
            return (1 - q) * p + q * mpmath.npdf(u - 1 / s) if tilt else p

        ends = [-14, -6, 0, 1 / (2 * s), 1 / s, 1 / s + 6, 1 / s + 16]
        raw = [mpmath.quad(lambda u, k=k: loss(u) ** k * density(u), sorted(ends)) for k in range(7)]
        series = [raw[k] / mpmath.factorial(k) for k in range(7)]
        log = [mpmath.mpf(0)] * 7  # of 1 + sum series_k x^k
        for k in range(1, 7):
            log[k] = series[k] - mpmath.fsum(j * log[j] * series[k - j] for j in range(1, k)) / k
        expected = [float(log[k] * mpmath.factorial(k)) for k in range(1, 7)]
    steps = compose([(noise, rate, 3)])
    got = loss_cumulants(whole_grid(steps), steps, float(tilt), 6)
    assert got == pytest.approx([3.0 * value for value in expected], rel=1e-9)


@pytest.mark.parametrize("order", [0, 1, 2, 4, 6])
def test_unsampled_steps_need_no_expansion(order):
    history = [(10.0, 1.0, 60), (20.0, 1.0, 160)]
    truth = ew.PrivacyCurve(history)
    for estimate in (ew.EdgeworthApproximation(history, order=order), ew.TiltedEdgeworth(history, order=order)):
        for epsilon in (0.0, 0.3, 3.0, 6.0):
            for direction in ("remove", "add", None):
                assert estimate.delta(epsilon, direction) == pytest.approx(truth.delta(epsilon).upper, rel=1e-9)
        assert estimate.epsilon(1e-6) == pytest.approx(truth.epsilon(1e-6).upper, rel=1e-9)


def test_aea_gets_better_with_its_order_where_there_are_many_steps():
    truth = ew.PrivacyCurve(MNIST)
    epsilon = truth.epsilon(1e-5).upper
    errors = [abs(ew.EdgeworthApproximation(MNIST, order=k).delta(epsilon) / 1e-5 - 1) for k in (1, 2, 3, 4, 6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-4


def test_aea_understates_in_fine_tuning():
    """What EW-Tune reported: with few steps a hundredth of the true delta, or less."""
    epsilon = ew.PrivacyCurve(QNLI).epsilon(1e-5).upper
    assert ew.EdgeworthApproximation(QNLI, order=1).delta(epsilon) < 1e-3 * 1e-5
    assert ew.EdgeworthApproximation(QNLI, order=1).epsilon(1e-5) < 0.95 * epsilon


def test_phases_and_directions():
    history = [(1.0, 0.01, 3000), (2.0, 0.03, 2000), (50.0, 1.0, 10)]
    truth = ew.PrivacyCurve(history)
    estimate = ew.EdgeworthApproximation(history, order=3)
    both = [estimate.delta(0.5, direction) for direction in ("remove", "add")]
    assert estimate.delta(0.5) == max(both)
    assert both[0] != both[1]
    assert estimate.delta(0.5) == pytest.approx(truth.delta(0.5).upper, rel=2e-3)
    assert 0.0 < estimate.cdf(0.0, "P") < estimate.cdf(0.0, "Q") < 1.0
    assert estimate.history == truth.history
    assert estimate.cumulants("P")[0] > 0.0 > estimate.cumulants("Q")[0]  # Kullback-Leibler divergences


def _tilted_in_many_digits(history, epsilon, order):
    """The expansion by its closed form, B_0 = erfcx(l / sqrt 2) / 2, B_k = He_{k-1}(0) phi(0) - l B_{k-1}."""
    (s, q, n) = history[0]
    with mpmath.workdps(60):
        s, q = mpmath.mpf(s), mpmath.mpf(q)

        def loss(u):
            return mpmath.log(1 + q * mpmath.expm1(u / s - 1 / (2 * s * s)))

        def moments(c, most):
            step, low, high = mpmath.mpf(1) / 16, -14, 16 + c / s
            u = [low + k * step for k in range(int((high - low) / step) + 1)]
            losses = [loss(x) for x in u]
            weight = [mpmath.exp(c * value - x * x / 2) for x, value in zip(u, losses, strict=True)]
            total = mpmath.fsum(weight)
            raw = [mpmath.fsum(w * v**k for w, v in zip(weight, losses, strict=True)) / total for k in range(most + 1)]
            return raw, mpmath.log(total * step / mpmath.sqrt(2 * mpmath.pi))

        c = mpmath.findroot(lambda c: n * moments(c, 1)[0][1] - epsilon, (2, 4), solver="secant", tol=1e-30)
        raw, log_mgf = moments(c, order + 2)
        series = [raw[k] / mpmath.factorial(k) for k in range(order + 3)]
        log = [mpmath.mpf(0)] * (order + 3)
        for k in range(1, order + 3):
            log[k] = series[k] - mpmath.fsum(j * log[j] * series[k - j] for j in range(1, k)) / k
        deviation = mpmath.sqrt(2 * n * log[2])
        a = [n * log[j + 2] / deviation ** (j + 2) for j in range(1, order + 1)]
        terms = [[mpmath.mpf(0)] * (3 * order + 1) for _ in range(order + 1)]
        terms[0][0] = mpmath.mpf(1)
        for j in range(1, order + 1):
            for i in range(1, j + 1):
                for s_ in range(3 * order - i - 1):
                    terms[j][s_ + i + 2] += i * a[i - 1] * terms[j - i][s_] / j
        coefficients = [mpmath.fsum(column) for column in zip(*terms, strict=True)]

        def half_line(slope):
            value = mpmath.exp(slope**2 / 2) * mpmath.erfc(slope / mpmath.sqrt(2)) / 2
            total = coefficients[0] * value
            for k in range(1, 3 * order + 1):
                at_zero = mpmath.hermite(k - 1, 0) / 2 ** (mpmath.mpf(k - 1) / 2)  # He_{k-1}(0)
                value = at_zero / mpmath.sqrt(2 * mpmath.pi) - slope * value
                total += coefficients[k] * value
            return total

        scale = mpmath.exp(n * log_mgf - (c - 1) * epsilon)
        return float(scale * (half_line((c - 1) * deviation) - half_line(c * deviation)))


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
def test_the_tilted_expansion_is_the_one_in_closed_form(order):
    got = ew.TiltedEdgeworth([(1.0, 0.02, 500)], order=order).delta(2.0, "remove")
    assert got == pytest.approx(_tilted_in_many_digits([(1.0, 0.02, 500)], 2.0, order), rel=1e-7)


@pytest.mark.parametrize("delta", [0.1, 1e-3, 1e-5, 1e-7])
def test_tilted_is_good_at_any_delta_where_there_are_many_steps(delta):
    epsilon = ew.PrivacyCurve(MNIST).epsilon(delta).upper
    for order in (2, 3, 4):
        assert abs(ew.TiltedEdgeworth(MNIST, order=order).delta(epsilon) / delta - 1.0) < 3e-3
    assert ew.TiltedEdgeworth(MNIST, order=4).epsilon(delta) == pytest.approx(epsilon, rel=1e-4)


@pytest.mark.parametrize("history", [QNLI, MNIST, [(1.0, 0.001, 100)], [(1.0, 0.01, 500), (3.0, 1.0, 2)]])
@pytest.mark.parametrize("epsilon", [0.05, 0.5, 2.0])
def test_estimate_and_remainder_give_back_the_proved_bounds(history, epsilon):
    tilted, truth = ew.TiltedEdgeworth(history, order=3), ew.PrivacyCurve(history).delta(epsilon)
    remainder, estimate = tilted.remainder(epsilon), tilted.delta(epsilon)
    assert estimate / (1.0 - remainder.lower) <= truth.lower * (1.0 + 1e-12)
    assert estimate / (1.0 - remainder.upper) >= truth.upper * (1.0 - 1e-12)


def test_the_accountant_offers_every_method_and_warns_of_estimates():
    accountant = ew.EdgeworthAccountant()
    accountant.history = list(MNIST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certified = accountant.get_epsilon(1e-2)
        assert certified == pytest.approx(ew.PrivacyCurve(MNIST).epsilon(1e-2).upper, rel=1e-8)
        assert certified == accountant.get_epsilon(1e-2, method="certified")
    with pytest.warns(ew.EstimateWarning, match="estimate, no bound"):
        assert accountant.get_epsilon(1e-2, method="aea") == ew.EdgeworthApproximation(MNIST).epsilon(1e-2)
    with pytest.warns(ew.EstimateWarning, match="estimate, no bound"):
        tilted = accountant.get_epsilon(1e-2, method="tilted", order=4)
    assert tilted == pytest.approx(certified, rel=1e-5)
    with pytest.raises(ew.InvalidParameterError, match="method='rdp'"):
        accountant.get_epsilon(1e-2, method="rdp")


@pytest.mark.parametrize("kind", [ew.EdgeworthApproximation, ew.TiltedEdgeworth])
def test_too_many_loud_phases_are_refused(kind):
    history = [(0.05 + 1e-5 * k, 0.01, 1) for k in range(400)]
    with pytest.raises(ew.CertificationError, match="PrivacyCurve"):
        kind(history)


def test_the_papers_example():
    """Printed: estimate 0.346, interval [0.278, 0.432]. The whole theorem, every term of it, gives a wider interval.

    The leading terms alone give [0.289, 0.414]; what is printed lies between the two.
    """
    m = 200_000
    example = ew.EdgeworthApproximation([(0.8, 0.08 * math.sqrt(math.log(m) / m), m)])
    assert round(example.epsilon(0.1), 3) == 0.346
    interval = example.interval(0.1)
    assert round(interval.lower, 3) == 0.258
    assert round(interval.upper, 3) == 0.465
    truth = ew.PrivacyCurve(example.history).epsilon(0.1)
    assert interval.lower < truth.lower
    assert truth.upper < interval.upper


@pytest.mark.parametrize(
    ("history", "delta"),
    [
        ([(2.0, 0.3, 20_000)], 0.4),
        ([(5.0, 0.5, 100_000)], 0.02),
        ([(2.0, 0.3, 5_000), (4.0, 0.2, 30_000), (30.0, 1.0, 100)], 0.3),
        ([(10.0, 1.0, 50)], 1e-9),  # a normal loss: nothing remains
    ],
)
def test_eei_holds(history, delta):
    estimate, truth = ew.EdgeworthApproximation(history), ew.PrivacyCurve(history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ew.EstimateWarning)
        interval = estimate.interval(delta)
    assert interval.lower <= truth.epsilon(delta).upper * (1.0 + 1e-9)
    assert interval.upper >= truth.epsilon(delta).lower * (1.0 - 1e-9)
    assert interval.lower > 0.0 or interval.upper < math.inf
    for epsilon in (0.5 * interval.lower, interval.lower, min(interval.upper, 50.0)):
        room = estimate.remainder("P") + math.exp(epsilon) * estimate.remainder("Q")
        assert abs(estimate.delta(epsilon) - truth.delta(epsilon).upper) <= room + 1e-9


def test_a_vacuous_interval_says_so():
    with pytest.warns(ew.EstimateWarning, match="EEI is vacuous at delta=1e-05"):
        assert ew.EdgeworthApproximation(QNLI).interval(1e-5) == ew.Bounds(0.0, math.inf)
    accountant = ew.EdgeworthAccountant()
    accountant.history = list(QNLI)
    with pytest.warns(ew.EstimateWarning, match="vacuous"):
        assert accountant.get_epsilon(1e-5, method="eei") == math.inf


@pytest.mark.parametrize("kind", [ew.EdgeworthApproximation, ew.TiltedEdgeworth])
def test_bad_input_and_limits(kind):
    for order in (-1, 1.5, 21, math.nan, "two"):
        with pytest.raises(ew.InvalidParameterError, match="order"):
            kind(MNIST, order=order)
    with pytest.raises(ew.InvalidParameterError, match="without noise"):
        kind([(0.0, 0.1, 1)])
    with pytest.raises(ew.InvalidParameterError, match="direction"):
        kind(MNIST).delta(1.0, "both")
    for delta in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(ew.InvalidParameterError, match="delta"):
            kind(MNIST).epsilon(delta)
    empty = kind([])
    assert empty.delta(0.0) == 0.0
    assert empty.epsilon(1e-5) == 0.0
    assert kind(MNIST).delta(math.inf) == 0.0
    assert kind(MNIST).epsilon(1.0) == 0.0
    assert kind(MNIST, order=2).order == 2
    with pytest.raises(ew.InvalidParameterError, match="hypothesis"):
        ew.EdgeworthApproximation(MNIST).cdf(0.0, "R")
    with pytest.raises(ew.InvalidParameterError, match="empty history"):
        ew.EdgeworthApproximation([]).cdf(0.0)
