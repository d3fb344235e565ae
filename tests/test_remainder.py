"""The bounds of Derumigny, Girard & Guyonvarch: their printed values, their constants, and sums whose law is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import exp1, gamma, gammaincc, ndtr

from opacus_edgeworth.edgeworth import remainder as r
from opacus_edgeworth.errors import InvalidParameterError

COUNTS = (10, 100, 1_000, 10_000)


def of_kurtosis(count: int, fourth: float, *, identical: bool) -> r.StandardMoments:
    """The worst moments that a fourth moment allows, as the authors' package fills them in (lambda_3 <= .621 K_3)."""
    third = fourth**0.75
    return r.StandardMoments(count, 0.621 * third, third, fourth, third + 1.0 if identical else 2.0 * third)


def exponential(count: int) -> r.StandardMoments:
    """Of X - 1, X exponential: E|X - 1| = 2/e and E|X - 1|^3 = 12/e - 2."""
    return r.StandardMoments(count, 2.0, 12.0 / math.e - 2.0, 9.0, 14.0 / math.e - 2.0)


def bernoulli(count: int, p: float) -> r.StandardMoments:
    v, q = p * (1.0 - p), 1.0 - p
    third = v * (p * p + q * q) / v**1.5
    return r.StandardMoments(count, (q - p) / math.sqrt(v), third, v * (p**3 + q**3) / v**2, third + 2.0 * math.sqrt(v))


def mixture(count: int, ps: tuple[float, ...]) -> r.StandardMoments:
    """Of `count` Bernoulli summands, equally many of each p: not identically distributed."""
    p = np.array(ps)
    v = p * (1.0 - p)
    b = math.sqrt(v.mean())
    third = float((v * (p**2 + (1.0 - p) ** 2)).mean()) / b**3
    return r.StandardMoments(
        count,
        float((v * (1.0 - 2.0 * p)).mean()) / b**3,
        third,
        float((v * (p**3 + (1.0 - p) ** 3)).mean()) / b**4,
        third + float((2.0 * v**2).mean()) / b**3,
    )


def expansion(x, moments: r.StandardMoments):
    first = moments.skewness / (6.0 * math.sqrt(moments.count)) * (1.0 - x * x) * np.exp(-0.5 * x * x)
    return ndtr(x) + first / math.sqrt(2.0 * math.pi)


def distance_on_lattice(values, probabilities, moments: r.StandardMoments) -> float:
    """sup |P(S_n <= x) - expansion|: the expansion is not monotone, so points between the jumps are tried as well."""
    cdf = np.minimum(np.cumsum(probabilities), 1.0)
    ends = np.concatenate([[-12.0], values, [12.0]])
    steps = np.concatenate([[0.0], cdf])
    inner = ends[:-1, None] + np.diff(ends)[:, None] * np.linspace(0.0, 1.0, 9)
    return float(np.max(np.abs(steps[:, None] - expansion(inner, moments))))


def exponential_distance(count: int) -> float:
    x = np.linspace(-8.0, 8.0, 40_001)
    truth = stats.gamma.cdf(count + math.sqrt(count) * x, count)
    return float(np.max(np.abs(truth - expansion(x, exponential(count)))))


def exponential_cf_integral(count: int):
    """Of |f(u)| / u, |f(u)| = (1 + u^2/n)^(-n/2), by quad in log u, its error estimate added."""

    def integral(low: float, high: float) -> float:
        def at(log_u: float) -> float:
            return math.exp(-0.5 * count * math.log1p(math.exp(2.0 * log_u) / count))

        value, error = quad(at, math.log(low), math.log(high), limit=400)
        return value + 10.0 * error

    return integral


# ---------------------------------------------------------------------------------------------- printed values


def published_terms(moments: r.StandardMoments, end: float, *, identical: bool) -> float:
    return r._at_eps(moments, 0.1, identical, False, end)


def small_first_term(moments: r.StandardMoments) -> float:
    """What our A~_1 has more than the package's, which integrates u^2 e^(-u^2/2) where u^4 is due (eps = .1)."""
    factor = r.PSI / (2.0 * 0.7**2 * math.pi) * moments.skewness / (6.0 * moments.count**1.5)
    return factor * (3.0 - 1.0) * math.sqrt(0.5 * math.pi)


def test_readme_value_from_moments():
    """BoundEdgeworth's README: n = 1000, K4 = 9, iid, skewed, eps = .1 prints 0.1626857."""
    m = of_kurtosis(1000, 9.0, identical=True)
    ours = r.smoothing_discrete(m) + r.gaussian_tails(m, m.scale) + published_terms(m, m.scale, identical=True)
    assert ours - small_first_term(m) == pytest.approx(0.1626857, abs=6e-8)
    assert 1e-5 < small_first_term(m) < 2e-5
    assert r.moment_remainder(m, identical=True) < ours


def test_readme_value_with_kappa():
    """The same with continuity, kappa = .99: 0.1214038."""
    m = of_kurtosis(1000, 9.0, identical=True)
    end = m.scale**4
    low, high = r.regularity_interval(m)
    ours = r.smoothing_continuous(m, end) + r.gaussian_tails(m, end) + r.middle_terms(m, end)
    ours += published_terms(m, end, identical=True) + r.PSI / math.pi * r.power_integral(0.99, 1000)(low, high)
    assert ours - small_first_term(m) == pytest.approx(0.1214038, abs=6e-8)
    best = r.continuous_remainder(m, identical=True, cf_integral=r.power_integral(0.99, 1000))
    assert best < ours


# ---------------------------------------------------------------------- the constants, from what they stand for

T = np.geomspace(0.3, 300.0, 800)


def weight(t):
    """Prawitz's Psi."""
    return 0.5 * (1.0 - t + 1j * ((1.0 - t) / np.tan(np.pi * t) + 1.0 / np.pi))


def test_weight_is_bounded():
    t = np.linspace(1e-6, 1.0 - 1e-6, 200_001)
    assert 0.9999 < np.max(2.0 * np.pi * t * np.abs(weight(t))) / r.PSI < 1.0
    # and Psi - i / (2 pi t), whose integral against e^(-u^2/2) is 1.2533 / T, by (1 - t + pi^2 t^2 / 18) / 2 <= 1/2
    t = t[t <= 1.0 / np.pi]
    assert np.all(np.abs(weight(t) - 1j / (2.0 * np.pi * t)) <= 0.5 * (1.0 - t + np.pi**2 * t**2 / 18.0) + 1e-9)
    assert math.sqrt(0.5 * math.pi) < 1.2533 * (1.0 + 2e-5)


def test_cosine_gap():
    x = np.linspace(3.9, 4.1, 200_001)
    gap = (np.cos(x) - 1.0 + 0.5 * x * x) / x**3
    assert 0.0 < r.LARGEST_COSINE_GAP - gap.max() < 1e-8
    assert x[gap.argmax()] / (2.0 * np.pi) == pytest.approx(r.SPLIT_OF_DECAY, abs=1e-6)


def test_gaussian_tails_cover_their_integrals():
    ends = np.linspace(0.01, 30.0, 30_000)
    y = ends**2 / (2.0 * np.pi**2)
    first = exp1(y) / (2.0 * np.pi) * ends**4
    third = math.sqrt(2.0) * gamma(1.5) * gammaincc(1.5, y) / (6.0 * np.pi) * ends**3
    assert 14.1961 < first.max() < 14.1962  # the published digit is rounded down, ours is not
    assert 0.999 < third.max() / 4.3394 < 1.0


def test_smoothing_covers_the_integral_of_the_unknown_cf():
    """2 |Psi f| over [1/pi, 1] is at most .031 (2 pi / T)^2 + 67.0415 / T^4."""
    near = np.linspace(1.0 / np.pi, r.SPLIT_OF_DECAY, 4_001)
    far = 1.0 - np.concatenate([[0.0], np.geomspace(1e-7, 1.0 - r.SPLIT_OF_DECAY, 8_001)])
    far_weight = np.abs(weight(np.where(far < 1.0, far, 0.5))) * (far < 1.0)
    for scale in T:
        decay = np.exp(-0.5 * (scale * near) ** 2 * (1.0 - 4.0 * np.pi * r.LARGEST_COSINE_GAP * near))
        total = np.trapezoid(2.0 * np.abs(weight(near)) * decay, near)
        decay = np.exp(-(scale**2) * (1.0 - np.cos(2.0 * np.pi * far)) / (4.0 * np.pi**2))
        total -= np.trapezoid(2.0 * far_weight * decay, far)
        assert total <= 0.031 * (2.0 * np.pi / scale) ** 2 + 67.0415 / scale**4


def test_rounded_constants():
    assert 0.0 < 0.327 - r.PSI / math.pi < 7e-4  # int u^3 e^(-u^2/2) = 2, halved by the way it is written
    assert 8.0 * r.PSI / (72.0 * math.pi) < 1.306 / 36.0 < 0.037
    assert 1.2533 / (2.0 * math.pi) < 0.1995
    assert 0.3334 / (2.0 * math.pi) < 0.054
    x = np.linspace(0.0, 3.0, 30_001)
    assert np.max(ndtr(x) - x * x / (1.0 + x * x)) < 0.541
    assert 1.0 / (6.0 * math.sqrt(2.0 * math.pi)) < 0.0665


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (1.3, 9.0), (2.0, 2.5), (4.0, 40.0)])
def test_published_cubic_term_is_the_larger(low, high):
    m = r.StandardMoments(1, 1.0, 1.0, 1.0, 2.0)
    exact = quad(lambda u: r.PSI / (6.0 * math.pi) * u * u * math.exp(-0.5 * u * u), low, high)[0]
    assert exact <= r.cubic_terms(m, low, high * math.pi)


@pytest.mark.parametrize("rate", [-0.2, -1e-9, 0.0, 1e-9, 0.1, 0.3])
@pytest.mark.parametrize(("power", "low", "high"), [(3, 0.0, 2.0), (4, 1.0, 5.0), (3, 3.0, 9.0), (4, 2.0, 2.0)])
def test_gaussian_moment_between(rate, power, low, high):
    exact = quad(lambda u: u ** (power - 1) * math.exp(-rate * u * u), low, high, epsabs=0.0)[0] if high > low else 0.0
    assert exact * (1.0 - 1e-11) <= r.gaussian_moment_between(power, rate, low, high) <= exact * (1.0 + 1e-8) + 1e-9
    assert r.gaussian_moment_between(power, -10.0, low, 100.0) == math.inf


def test_what_taylor_leaves_is_covered():
    """R-bar against the integrals it stands for, in the true powers; A~_6 needs its square when K_4 is large."""
    for count, fourth in [(100, 9.0), (1_000, 9.0), (1_000, 900.0), (10_000, 5_000.0)]:
        m = of_kurtosis(count, fourth, identical=True)
        for eps in (0.01, 0.1, 0.25):
            n, skew, inner = float(count), m.skewness, (1.0 - 3.0 * eps) ** -2
            spread = r._spread_identical(m, eps)
            q = fourth / 12.0 + inner * spread
            e_2 = math.exp(eps**2 * (1.0 / 6.0 + 2.0 * inner * spread))
            moment = [2.0 ** (0.5 * k - 0.5) * math.gamma(0.5 * k + 0.5) for k in range(10)]
            true = (
                skew / 6.0 / n**1.5 * moment[4] + fourth / 24.0 / n**2 * moment[5] + skew**2 / 36.0 / n**2 * moment[5]
            )
            true += fourth * skew / 72.0 / n**2.5 * moment[6] + fourth**2 / 576.0 / n**3 * moment[7]
            true = 0.5 * inner * true + e_2 * (q * q / 8.0 / n**2 * moment[7] + skew * q / 12.0 / n**1.5 * moment[6])
            assert r.PSI / math.pi * true <= r.integrated_identical(m, eps)


# ------------------------------------------------------------------------------------------------- behaviour


@pytest.mark.parametrize("identical", [True, False])
def test_decreases_in_the_number_of_summands(identical):
    counts = [int(x) for x in np.geomspace(1, 1e12, 37)]
    moments = [of_kurtosis(n, 9.0, identical=identical) for n in counts]
    values = [r.moment_remainder(m, identical=identical) for m in moments]
    assert all(a >= b for a, b in pairwise(values))
    values = [r.continuous_remainder(m, identical=identical, cf_integral=lambda a, b: 0.0) for m in moments]
    assert all(a >= b for a, b in pairwise(values))
    assert max(values) < 1.0


@pytest.mark.parametrize("identical", [True, False])
def test_leading_terms(identical):
    """Theorems 2.1 and 3.1 display .1995 K~/sqrt(n) + (.031 K~^2 + .195 K4 + .054 |l| K~ + .038 l^2)/n, eps = .1."""
    n = 10**12
    m = r.StandardMoments(n, 1.5, 2.0, 5.0, 3.0)
    order_n = 0.195 * 5.0 + 0.038 * 1.5**2
    discrete = 0.1995 * 3.0 / math.sqrt(n) + (0.031 * 9.0 + 0.054 * 1.5 * 3.0) / n
    got = r.moment_remainder(m, identical=identical)
    assert discrete + (0.327 * 5.0 / 3.0 + 0.036 * 1.5**2) / n < got < discrete + order_n / n
    got = r.continuous_remainder(m, identical=identical, cf_integral=lambda a, b: 0.0)
    assert (0.327 * 5.0 / 3.0 + 0.036 * 1.5**2) / n < got < order_n / n
    at = r._at_eps(m, 0.1, identical, False, m.scale)
    assert at == pytest.approx(order_n / n, rel=0.02)


def test_no_skewness_helps():
    for n in (100, 10_000, 10**6):
        m = r.StandardMoments(n, 0.0, 1.6, 3.0, 2.4)
        for identical in (True, False):
            skewed = r.moment_remainder(m, identical=identical)
            assert r.moment_remainder(m, identical=identical, unskewed=True) <= skewed
            far = r.continuous_remainder(m, identical=identical, cf_integral=lambda a, b: 0.0)
            near = r.continuous_remainder(m, identical=identical, cf_integral=lambda a, b: 0.0, unskewed=True)
            assert near <= far


def test_identical_summands_have_the_better_of_two_theorems():
    for n in COUNTS:
        m = exponential(n)
        assert r.moment_remainder(m, identical=True) <= r.moment_remainder(m, identical=False)
    m = bernoulli(1, 0.3)
    assert r.moment_remainder(m, identical=True) == r.moment_remainder(m, identical=False)


def test_hopeless_cases_are_trivial():
    for m in (
        r.StandardMoments(1, 500.0, 500.0, 1e6, 501.0),
        r.StandardMoments(100, 1e3, 1e5, 1e250, 2e5),
        r.StandardMoments(10**6, 0.0, 1.5, 1e300, 2.0),
    ):
        for identical in (True, False):
            assert r.moment_remainder(m, identical=identical) == r.trivial_bound(m)
            assert r.continuous_remainder(m, identical=identical, cf_integral=lambda a, b: 0.0) == r.trivial_bound(m)
    m = exponential(1000)
    assert r.continuous_remainder(m, identical=True, cf_integral=lambda a, b: math.inf) == r.trivial_bound(m)


def test_any_moments_give_a_bound():
    """No overflow, warning or NaN, whatever the moments, contradictory ones included."""
    random = np.random.default_rng(0)
    for _ in range(100):
        third = 10.0 ** random.uniform(0.0, 6.0)
        m = r.StandardMoments(
            int(10.0 ** random.uniform(0.0, 15.0)),
            third * random.uniform(-1.0, 1.0),
            third,
            10.0 ** random.uniform(0.0, 14.0),
            third * random.uniform(1.0, 2.0),
        )
        for identical in (True, False):
            assert 0.0 < r.moment_remainder(m, identical=identical) <= r.trivial_bound(m)
            got = r.continuous_remainder(m, identical=identical, cf_integral=lambda a, b: 0.0)
            assert 0.0 < got <= r.trivial_bound(m)


# --------------------------------------------------------------------------------- laws that are known exactly


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("identical", [True, False])
def test_exponential_summands(count, identical):
    true, m = exponential_distance(count), exponential(count)
    integral = exponential_cf_integral(count)
    discrete = r.moment_remainder(m, identical=identical)
    continuous = r.continuous_remainder(m, identical=identical, cf_integral=integral)
    assert true <= continuous
    assert true <= discrete
    if count == 10_000:
        assert continuous < 0.02 * discrete + 1e-2
        assert discrete < 0.02


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("p", [0.5, 0.2, 0.01])
def test_bernoulli_summands(count, p):
    m, k = bernoulli(count, p), np.arange(count + 1)
    values = (k - count * p) / math.sqrt(count * p * (1.0 - p))
    true = distance_on_lattice(values, stats.binom.pmf(k, count, p), m)
    for identical in (True, False):
        assert true <= r.moment_remainder(m, identical=identical) <= 1.0
    if p == 0.5:
        unskewed = r.moment_remainder(m, identical=True, unskewed=True)
        assert true <= unskewed
        if count == 10_000:
            assert unskewed < 1.1 * true  # a symmetric lattice comes within a tenth of the bound


@pytest.mark.parametrize("half", [5, 50, 500])
def test_summands_of_two_kinds(half):
    m, k = mixture(2 * half, (0.1, 0.6)), np.arange(half + 1)
    law = np.convolve(stats.binom.pmf(k, half, 0.1), stats.binom.pmf(k, half, 0.6))
    values = (np.arange(2 * half + 1) - 0.7 * half) / math.sqrt(half * (0.09 + 0.24))
    assert distance_on_lattice(values, law, m) <= r.moment_remainder(m, identical=False)


def test_large_skewness_is_not_cut_at_one():
    """The expansion itself exceeds 1 there, so the distance does: a cut at 1 would be no bound."""
    m = bernoulli(1, 1e-6)
    true = distance_on_lattice(np.array([-1e-3, 1e3]), np.array([1.0 - 1e-6, 1e-6]), m)
    assert 1.0 < true <= r.moment_remainder(m, identical=True)


# --------------------------------------------------------------------------------------------- invalid input


@pytest.mark.parametrize(
    "bad",
    [
        (0, 0.0, 1.0, 1.0, 2.0),
        (1.5, 0.0, 1.0, 1.0, 2.0),
        (10, math.nan, 1.0, 1.0, 2.0),
        (10, 1.1, 1.0, 1.0, 2.0),
        (10, 0.0, 0.9, 1.0, 2.0),
        (10, 0.0, 1.0, 0.9, 2.0),
        (10, 0.0, 1.0, math.inf, 2.0),
        (10, 0.0, 2.0, 3.0, 1.9),
        (10, "0", 1.0, 1.0, 2.0),
    ],
)
def test_refuses_impossible_moments(bad):
    with pytest.raises(InvalidParameterError):
        r.StandardMoments(*bad)


@pytest.mark.parametrize("value", [-1e-3, math.nan])
def test_refuses_an_impossible_integral(value):
    with pytest.raises(InvalidParameterError, match="cf_integral"):
        r.continuous_remainder(exponential(100), identical=True, cf_integral=lambda a, b: value)


def test_refuses_other_nonsense():
    with pytest.raises(InvalidParameterError, match="unskewed"):
        r.moment_remainder(exponential(100), identical=True, unskewed=True)
    with pytest.raises(InvalidParameterError, match="kappa"):
        r.power_integral(1.1, 10)
    with pytest.raises(InvalidParameterError, match="count"):
        r.power_integral(0.5, 0)
