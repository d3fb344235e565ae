r"""How far a standardised sum can be from its first-order Edgeworth expansion, for that number of summands.

For independent centred X_1, ..., X_n, B_n^2 = sum E X_i^2 and S_n = sum X_i / B_n, every bound here is on

    D = sup_x |P(S_n <= x) - Phi(x) - lambda_3 / (6 sqrt n) (1 - x^2) phi(x)|.

Prawitz's smoothing inequality turns D into integrals of characteristic functions, weighted by Psi with
2 pi t |Psi(t)| <= 1.0253. With s = 2 pi sqrt(n) / K~_3 and t_1 = .6359658, these are known of f, the one of S_n:

    u <= u_0 = sqrt(2 eps) (n / K_4)^(1/4):  Taylor's formula, for any eps in (0, 1/3): `cubic_terms`, `integrated_*`;
    u_0 <= u <= s / pi:                      |f - e^(-u^2/2)|, from a telescoping product: `difference_*`;
    u <= t_1 s:                              |f| <= exp(-u^2/2 (1 - 4 pi chi_1 u / s));
    beyond, up to T:                         nothing (T = s: moments only), or what the caller proves of f (T = s^4).

Source:
  Derumigny, Girard & Guyonvarch 2024, https://arxiv.org/abs/2101.05780 (v3): Theorems A.2 (moments only) and A.4
  (with the integral of |f|) for independent summands, A.3 and A.5 for identically distributed ones, with their
  constants. Each line was derived anew. Where that asks for more than their package BoundEdgeworth 0.1.3 computes, more
  is taken, and the place says so: `integrated_identical` (twice), `difference_identical`, `cubic_terms`, one summand
  (`_least_over_eps`), and a last digit in `LARGEST_COSINE_GAP` and in `gaussian_tails`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import exp1, gamma, gammainc, gammaincc, hyp1f1

from opacus_edgeworth._validate import as_real, as_steps
from opacus_edgeworth.errors import InvalidParameterError

CfIntegral: TypeAlias = Callable[[float, float], float]
"""(a, b) -> an upper bound on the integral over [a, b] of |f(u)| / u, f the characteristic function of S_n."""

PSI = 1.0253
"""Bound on 2 pi t |Psi(t)|, Psi Prawitz's weight (the supremum is 1.02529; Equation 9)."""
LARGEST_COSINE_GAP = 0.09916192
"""chi_1 = sup (cos x - 1 + x^2/2) / |x|^3 = .0991619135..., rounded up."""
SPLIT_OF_DECAY = 0.6359658
"""t_1, the argument of that supremum over 2 pi; any number above 1/pi would do."""
OUTWARD = 1.0 + 1e-9
"""Far above the rounding of some forty operations."""
SPECIAL = 1e-12
"""Far above the relative error of SciPy's incomplete gamma and confluent hypergeometric functions here."""
LARGEST_SPLIT = 0.3
"""Of the eps that are tried; the theorems hold below 1/3, where their terms have a pole."""


@dataclass(frozen=True, slots=True)
class StandardMoments:
    r"""Averaged, standardised moments of n independent centred summands, or upper bounds on their magnitudes.

    With b^2 = (1/n) sum E X_i^2: lambda_3 = (1/n) sum E X_i^3 / b^3, K_3 and K_4 likewise of |X_i|^3 and X_i^4, and
    K~_3 = K_3 + (1/n) sum E|X_i| E X_i^2 / b^3.

    Args:
      count: n, an integer >= 1.
      skewness: lambda_3, in [-K_3, K_3].
      absolute_third: K_3, at least 1 (Jensen).
      fourth: K_4, at least 1 (Jensen).
      absolute_third_plus: K~_3, at least K_3.

    Raises:
      InvalidParameterError: a moment is not finite or outside its range (by more than rounding, 1e-9 of it).

    Example:
      >>> moment_remainder(StandardMoments(1000, 0.0, 1.0, 1.0, 2.0), identical=True) < 0.0142
      True
    """

    count: int
    skewness: float
    absolute_third: float
    fourth: float
    absolute_third_plus: float

    def __post_init__(self) -> None:
        if as_steps(self.count, name="count") < 1:
            raise InvalidParameterError(f"count={self.count!r} must be at least 1; a sum of nothing has no moments")
        cubed = as_real("absolute_third", self.absolute_third)
        for name, least, why in [
            ("absolute_third", 1.0, "standardise by the summands' mean variance"),
            ("fourth", 1.0, "standardise by the summands' mean variance"),
            ("absolute_third_plus", cubed, "it is absolute_third plus the mean of E|X| E X^2"),
        ]:
            value = as_real(name, getattr(self, name))
            if not least * (1.0 - 1e-9) <= value < math.inf:
                raise InvalidParameterError(f"{name}={value!r} must be in [{least!r}, inf); {why}")
        if not abs(as_real("skewness", self.skewness)) <= cubed * (1.0 + 1e-9):
            raise InvalidParameterError(f"skewness={self.skewness!r} must be at most absolute_third={cubed!r} in size")

    @property
    def scale(self) -> float:
        """The frequency s = 2 pi sqrt(n) / K~_3 that governs the proof."""
        return 2.0 * math.pi * math.sqrt(self.count) / self.absolute_third_plus

    @property
    def sum_skewness(self) -> float:
        """|lambda_3| / sqrt(n), the size of the skewness of S_n itself."""
        return abs(self.skewness) / math.sqrt(self.count)

    def split(self, eps: float) -> float:
        """Return u_0, up to which Taylor's formula is used."""
        return math.sqrt(2.0 * eps) * (self.count / self.fourth) ** 0.25


def moment_remainder(moments: StandardMoments, *, identical: bool, unskewed: bool = False) -> float:
    r"""Return a bound on D from the moments alone: .1995 K~_3 / sqrt(n) and terms of order 1/n.

    Args:
      moments: of the summands.
      identical: whether they are identically distributed.
      unskewed: whether E X_i^3 = 0 for every one of them (a zero mean of these is not enough).

    Returns:
      The least, over eps, of Theorem A.2 (and A.3 if identical), or `trivial_bound` if that is less; rounded up. It is
      below 1 if |lambda_3| <= 6.9 sqrt(n); beyond that D itself can exceed 1.

    Raises:
      InvalidParameterError: `unskewed` contradicts the moments' skewness.

    Source:
      Derumigny, Girard & Guyonvarch 2024, Equations 11, 12, 15-18, 21, 22, https://arxiv.org/abs/2101.05780.
    """
    _check_unskewed(moments, unskewed)
    trivial = trivial_bound(moments)
    if _hopeless(moments):
        return trivial
    fixed = smoothing_discrete(moments) + gaussian_tails(moments, moments.scale)
    return min(trivial, (fixed + _least_over_eps(moments, identical, unskewed, moments.scale)) * OUTWARD)


def continuous_remainder(
    moments: StandardMoments, *, identical: bool, cf_integral: CfIntegral, unskewed: bool = False
) -> float:
    r"""Return a bound on D of order 1/n, given that the characteristic function of S_n is small where it is unknown.

    Args:
      moments: of the summands.
      identical: whether they are identically distributed.
      cf_integral: (a, b) -> an upper bound on the integral of |f(u)| / u over [a, b], b >= a > 0; asked for
        `regularity_interval` only; inf and `power_integral` are accepted.
      unskewed: whether E X_i^3 = 0 for every one of them.

    Returns:
      The least, over eps, of Theorem A.4 (and A.5 if identical), or `trivial_bound` if that is less; rounded up.

    Raises:
      InvalidParameterError: `unskewed` contradicts the skewness, or `cf_integral` returns no number >= 0.

    Source:
      Derumigny, Girard & Guyonvarch 2024, Equations 23, 24, 27-30, 33, 34, https://arxiv.org/abs/2101.05780.
    """
    _check_unskewed(moments, unskewed)
    trivial = trivial_bound(moments)
    if _hopeless(moments):
        return trivial
    integral = as_real("cf_integral", cf_integral(*regularity_interval(moments)))
    if not integral >= 0.0:
        raise InvalidParameterError(f"cf_integral={integral!r} must be >= 0; it bounds the integral of |f(u)| / u")
    end = moments.scale**4
    fixed = smoothing_continuous(moments, end) + gaussian_tails(moments, end) + middle_terms(moments, end)
    total = fixed + PSI / math.pi * integral + _least_over_eps(moments, identical, unskewed, end)
    return min(trivial, total * OUTWARD)


def regularity_interval(moments: StandardMoments) -> tuple[float, float]:
    """Return (a_n, b_n), where the caller of `continuous_remainder` bounds f: b_n = s^4, a_n = min(t_1 s, b_n / pi)."""
    end = moments.scale**4
    return min(SPLIT_OF_DECAY * moments.scale, end / math.pi), end


def power_integral(kappa: float, count: int) -> CfIntegral:
    """Return (a, b) -> kappa^n log(b/a), where |E e^(itX/sd)| <= kappa for all |t| >= a / sqrt(n), X any of n summands.

    Raises:
      InvalidParameterError: `kappa` is outside [0, 1], or `count` no integer >= 1.
    """
    if not 0.0 <= as_real("kappa", kappa) <= 1.0:
        raise InvalidParameterError(f"kappa={kappa!r} must be in [0, 1]; it bounds a characteristic function's modulus")
    if (number := as_steps(count, name="count")) < 1:
        raise InvalidParameterError(f"count={count!r} must be at least 1")
    return lambda a, b: kappa**number * math.log(b / a)


def trivial_bound(moments: StandardMoments) -> float:
    """Return .541 + .0665 |lambda_3| / sqrt(n): no law of mean 0 and variance 1 is .541 away from the normal one.

    For x >= 0, P(S <= x) >= x^2 / (1 + x^2) (Cantelli), so Phi - P <= max (Phi(x) - x^2 / (1 + x^2)) < .54094, and
    P - Phi <= 1/2; for x < 0, reflect. The correction is largest at x = 0, phi(0) / 6 < .0665 of |lambda_3| / sqrt(n).
    """
    return (0.541 + 0.0665 * moments.sum_skewness) * OUTWARD


def smoothing_discrete(moments: StandardMoments) -> float:
    """Return (Theorems A.2, A.3) what smoothing at T = s costs, and the integral of |f| over [s / pi, s].

    .1995 = 1.2533 / (2 pi) bounds that of |Psi - i/(2 pi t)| e^(-u^2/2), .054 = .3334 / (2 pi) the same with the cubic;
    .031 K~_3^2 / n + 67.0415 / s^4 that of |Psi f|, from |f| <= exp(-u^2/2 (1 - 4 pi chi_1 u / s)) below t_1 s, and
    |f| <= exp(-s^2 (1 - cos(2 pi u / s)) / (4 pi^2)) above.
    """
    n, K = moments.count, moments.absolute_third_plus
    return 0.1995 * K / math.sqrt(n) + (0.031 * K + 0.054 * abs(moments.skewness)) * K / n + 67.0415 / moments.scale**4


def smoothing_continuous(moments: StandardMoments, end: float) -> float:
    """Return (Theorems A.4, A.5) what smoothing at T = `end` costs."""
    return (1.2533 + 0.3334 * moments.sum_skewness) / end


def gaussian_tails(moments: StandardMoments, end: float) -> float:
    """Return (all theorems) the integral of the expansion's transform beyond T / pi, T = `end`, by a power of T.

    The published 14.1961 is rounded down: the supremum is 14.196144.
    """
    return 14.1962 / end**4 + 4.3394 * moments.sum_skewness / end**3


def middle_terms(moments: StandardMoments, end: float) -> float:
    """Return (Theorems A.4, A.5) twice the integrals of |f|/u over [s/pi, t_1 s] and e^(-u^2/2)/u over [s/pi, T/pi]."""
    low, high, far = moments.scale / math.pi, regularity_interval(moments)[0], end / math.pi
    rate = 0.5 * (1.0 - 4.0 * math.pi * LARGEST_COSINE_GAP * SPLIT_OF_DECAY)
    of_sum = max(0.0, float(exp1(rate * low**2)) - float(exp1(rate * high**2)))
    of_normal = max(0.0, float(exp1(0.5 * low**2)) - float(exp1(0.5 * far**2)))
    return PSI / math.pi * (of_sum + of_normal)


def fourth_term(moments: StandardMoments, eps: float) -> float:
    """Return (all theorems) the leading term of K_4, 1.0253 / pi * 2 K_4 / n (1/24 + 1/(8 (1-3eps)^2)) rounded up."""
    return 0.327 * moments.fourth * (1.0 / 12.0 + 0.25 / (1.0 - 3.0 * eps) ** 2) / moments.count


def cubic_terms(moments: StandardMoments, lower: float, end: float) -> float:
    """Return (all theorems) the integral of |lambda_3| u^2 e^(-u^2/2) / (6 sqrt n) from `lower` to T / pi, bounded.

    The published form has u for u^2/2 in the incomplete gamma functions and 1 for 1.0253 sqrt(2) / (6 pi) before them.
    That is larger: the integrands' ratio is at most .16. It starts at s / pi if u_0 is beyond (A.4 and A.5 do not).
    """
    return moments.sum_skewness * gamma_between(1.5, lower, end / math.pi)


def squared_terms(moments: StandardMoments, eps: float, identical: bool) -> float:
    """Return (all theorems) the leading term of lambda_3^2; if identical, right for any e_3, as 1.306/36 < .037."""
    square = moments.skewness**2 / moments.count
    if not identical:
        return 0.037 * _growth(eps, _spread_independent(eps, unskewed=False)) * square
    limit = math.exp(eps**2 / 6.0 + eps**2 / (2.0 * (1.0 - 3.0 * eps)) ** 2)
    return (0.037 * limit + 1.306 / 36.0 * (_growth(eps, _spread_identical(moments, eps)) - limit)) * square


def integrated_independent(moments: StandardMoments, eps: float, unskewed: bool) -> float:
    """Return R-bar of Theorems A.2 and A.4 (Section C.3.1): what Taylor's formula leaves, integrated, A_1 to A_7.

    With r = K_4 / n, a power u^k under the integral comes with r^(k/4), and (published) as u^(k+2) e^(-u^2/2) / u.
    """
    r, P = moments.fourth / moments.count, _spread_independent(eps, unskewed)
    inner, growth = (1.0 - 3.0 * eps) ** -2, _growth(eps, P)
    remaining = 1.0 / 24.0 + 0.5 * P * inner
    total = inner * (r**1.5 * _power(7) / 48.0 + r**2 * _power(9) / 1152.0)
    total += 0.5 * growth * (r * remaining) ** 2 * _power(9)
    if not unskewed:
        total += inner * (r**1.25 * _power(6) / 12.0 + r**1.5 * _power(7) / 72.0 + r**1.75 * _power(8) / 144.0)
        total += growth / 6.0 * moments.sum_skewness * r * remaining * _power(9)
    return PSI / math.pi * total


def integrated_identical(moments: StandardMoments, eps: float) -> float:
    """Return R-bar of Theorems A.3 and A.5 (Section C.3.2): what Taylor's formula leaves, integrated, A~_1 to A~_7.

    Two terms differ from the published package. A~_1 stands for u^5, so its integral is that of u^4 e^(-u^2/2), where
    the package has u^2. A~_6 is the square of the remaining exponent q u^4 / (2n): 48 q^2 / (8 n^2), where the package
    has 384 q / (8 n^2), which is less if q > 8; the larger is taken.
    """
    n, skew, K4 = moments.count, abs(moments.skewness), moments.fourth
    P = _spread_identical(moments, eps)
    inner, growth = (1.0 - 3.0 * eps) ** -2, _growth(eps, P)
    q = K4 / 12.0 + inner * P
    total = skew / (6.0 * n**1.5) * _power(4) + K4 / (24.0 * n**2) * _power(7) + skew**2 / (36.0 * n**2) * _power(7)
    total += K4 * skew / (72.0 * n**2.5) * _power(8) + K4**2 / (576.0 * n**3) * _power(9)
    squared = q * max(_power(9), q * _power(7)) / (8.0 * n**2)
    crossed = q * skew / (12.0 * n**1.5) * _power(8)
    return PSI / math.pi * (0.5 * inner * total + growth * (squared + crossed))


def difference_independent(moments: StandardMoments, lower: float, unskewed: bool) -> float:
    """Return (Theorems A.2, A.4) 1.0253 / pi times the integral of |f - e^(-u^2/2)| / u from `lower` to s / pi.

    It is at most K_3 u^3 / (6 sqrt n) e^(-D u^2), and K_4 u^4 / (6 n) e^(-D u^2) if unskewed, with
    D = (1 - 4 chi_1 - sqrt(K_4 / n)) / 2. Theorem A.4 prints T / pi for s / pi, beyond which nothing is needed.
    """
    n, end = moments.count, moments.scale / math.pi
    D = 0.5 * (1.0 - 4.0 * LARGEST_COSINE_GAP - math.sqrt(moments.fourth / n))
    if unskewed:
        return PSI * moments.fourth / (6.0 * math.pi * n) * gaussian_moment_between(4, D, lower, end)
    return PSI * moments.absolute_third / (6.0 * math.pi * math.sqrt(n)) * gaussian_moment_between(3, D, lower, end)


def difference_identical(moments: StandardMoments, lower: float, end: float, unskewed: bool) -> float:
    """Return (Theorems A.3, A.5) 1.0253 / pi times the integral of |f - e^(-u^2/2)| / u from `lower` to T / pi.

    As for independent summands, with D = 1/8 < (1 - 4 chi_1)(n - 1) / (2n) for n >= 2. If unskewed, A.5, the package
    has K_3 where |E e^(itX) - e^(-t^2/2)| <= (K_4/24 + 1/8) t^4 gives K_4, the larger.
    """
    n, low, high = moments.count, lower**2 / 8.0, (end / math.pi) ** 2 / 8.0
    if unskewed:
        return PSI * 16.0 * moments.fourth / (3.0 * math.pi * n) * gamma_between(2.0, low, high)
    third = moments.absolute_third / math.sqrt(n)
    return PSI * 2.0**2.5 * third / (3.0 * math.pi) * gamma_between(1.5, low, high)


def gamma_between(shape: float, low: float, high: float) -> float:
    """Return the integral of v^(shape-1) e^(-v) from `low` to `high` >= `low` >= 0, rounded up."""
    if float(gammainc(shape, low)) < 0.5:  # of the two complements, the one that does not cancel
        part = float(gammainc(shape, high)) * (1.0 + SPECIAL) - float(gammainc(shape, low)) * (1.0 - SPECIAL)
    else:
        part = float(gammaincc(shape, low)) * (1.0 + SPECIAL) - float(gammaincc(shape, high)) * (1.0 - SPECIAL)
    return float(gamma(shape)) * max(part, 0.0)


def gaussian_moment_between(power: int, rate: float, low: float, high: float) -> float:
    """Return the integral of u^(power-1) e^(-rate u^2) from `low` to `high` >= `low` >= 0, any `rate`, rounded up."""
    shape = 0.5 * power
    if rate > 0.0:
        return 0.5 * rate**-shape * gamma_between(shape, rate * low**2, rate * high**2)
    below, above = (float(u**power / power * hyp1f1(shape, shape + 1.0, -rate * u * u)) for u in (low, high))
    return max(above * (1.0 + SPECIAL) - below * (1.0 - SPECIAL), 0.0) if math.isfinite(above) else math.inf


def _power(k: int) -> float:
    """Return the integral of u^k e^(-u^2/2) over u >= 0."""
    return 2.0 ** (0.5 * (k - 1)) * math.gamma(0.5 * (k + 1))


def _spread_independent(eps: float, unskewed: bool) -> float:
    """Return P_1 (Section C.1): the sum of |f_i(u) - 1|^2 is at most P_1 u^4 K_4 / n up to u_0."""
    skewed = 0.0 if unskewed else 96.0 * math.sqrt(2.0 * eps) + 32.0 * eps + 16.0 * math.sqrt(2.0) * eps**1.5
    return (144.0 + 48.0 * eps + 4.0 * eps**2 + skewed) / 576.0


def _spread_identical(moments: StandardMoments, eps: float) -> float:
    """Return 1/4 + P_2/576 (Section C.2): n |f_1(u) - 1|^2 is at most that times u^4 / n up to u_0."""
    n, skew, K4 = moments.count, abs(moments.skewness), moments.fourth
    spread = 48.0 * eps * math.sqrt(K4 / n) + 4.0 * eps**2 * K4 / n
    spread += 96.0 * math.sqrt(2.0 * eps) * skew / (K4 * n) ** 0.25 + 32.0 * eps * skew**2 / math.sqrt(K4 * n)
    spread += 16.0 * math.sqrt(2.0) * K4**0.25 * skew * eps**1.5 / n**0.75
    return 0.25 + spread / 576.0


def _growth(eps: float, spread: float) -> float:
    """Return e_1 and e_2 (Sections C.1, C.2): the exponential of what Taylor's formula leaves at u_0, bounded."""
    exponent = eps**2 * (1.0 / 6.0 + 2.0 * spread / (1.0 - 3.0 * eps) ** 2)
    return math.exp(min(exponent, 700.0))  # far above 1 already: the bound is then the trivial one


def _at_eps(moments: StandardMoments, eps: float, identical: bool, unskewed: bool, end: float) -> float:
    """Return the sum of all terms that depend on eps."""
    # Taylor's formula ends with the region where |f| is known; if that comes before u_0, no difference is left
    lower = min(moments.split(eps), moments.scale / math.pi, end / math.pi)
    total = fourth_term(moments, eps) + squared_terms(moments, eps, identical) + cubic_terms(moments, lower, end)
    if identical:
        return total + integrated_identical(moments, eps) + difference_identical(moments, lower, end, unskewed)
    return total + integrated_independent(moments, eps, unskewed) + difference_independent(moments, lower, unskewed)


def _least_over_eps(moments: StandardMoments, identical: bool, unskewed: bool, end: float) -> float:
    """Return the least value found of `_at_eps`; every eps gives a bound, so a poor search is still a proof."""
    least = _least(lambda eps: _at_eps(moments, eps, False, unskewed, end))  # A.2 and A.4 hold for identical ones too
    if identical and moments.count > 1:  # and often give less; the rate 1/8 of A.3 and A.5 needs two factors
        least = min(least, _least(lambda eps: _at_eps(moments, eps, True, unskewed, end)))
    return least


def _least(at: Callable[[float], float]) -> float:
    """Return a value of `at` near its least over (0, LARGEST_SPLIT], or 10, which no bound that is used exceeds."""

    def at_log(x: float) -> float:
        return min(at(math.exp(x)), 10.0)  # the search subtracts values, so none may be infinite

    grid = np.linspace(math.log(1e-9), math.log(LARGEST_SPLIT), 60).tolist()
    best = min(range(1, len(grid) - 1), key=lambda i: at_log(grid[i]))
    found = minimize_scalar(at_log, bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-3})
    return min(at_log(grid[best]), float(found.fun))


def _hopeless(moments: StandardMoments) -> bool:
    """Return whether 1.2533 / s or `fourth_term` alone exceeds 1; if not, `trivial_bound` is below 1."""
    return moments.scale <= 1.0 or moments.fourth >= 10.0 * moments.count


def _check_unskewed(moments: StandardMoments, unskewed: bool) -> None:
    """Refuse a claim that the moments contradict."""
    if unskewed and moments.skewness != 0.0:
        raise InvalidParameterError(f"unskewed=True but skewness={moments.skewness!r}; drop one of the two")
