"""What a privacy curve means, by other roads: closed forms in 50 digits, and exact fractions over all outcomes.

A test of two finite distributions has a polygon for its trade-off function: sort the outcomes by likelihood ratio and
add up. Posteriors follow from the outcomes, the least mu and the regret from the polygon. No privacy profile is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise, product

from mpmath import mp, mpf

from opacus_edgeworth.bounds import Bounds

mp.dps = 50
Corners = list[tuple[Fraction, Fraction]]
"""Corners (alpha, beta) of a trade-off function, alpha rising from 0 to 1."""


def encloses(bounds: Bounds, exact: float | mpf | Fraction, width: float, least: float = 0.0) -> None:
    """Assert that bounds hold a number and are relatively as narrow as `width`, or absolutely as `least`."""
    assert type(bounds.lower) is float
    assert type(bounds.upper) is float
    exact = real(exact) if isinstance(exact, Fraction) else mpf(exact)
    assert mpf(bounds.lower) <= exact <= mpf(bounds.upper), (bounds, exact)
    assert bounds.upper - bounds.lower <= width * float(abs(exact)) + least, (bounds, exact)


def tail(x: mpf) -> mpf:
    """Return Phi(-x), to relative precision."""
    return mp.erfc(x / mp.sqrt(2)) / 2


def quantile(p: float | mpf | Fraction) -> mpf:
    """Return x with Phi(-x) = p."""
    p = mpf(p.numerator) / p.denominator if isinstance(p, Fraction) else mpf(p)
    if p > 0.5:
        return -quantile(1 - p)
    low, high = mpf(0), mpf(60)
    for _ in range(190):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > p else (low, middle)
    return low


def gaussian_tradeoff(alpha: float, mu: float | mpf) -> mpf:
    return tail(mpf(mu) - quantile(alpha))


def step_tradeoff(alpha: float, noise: float, rate: float, direction: str) -> mpf:
    """Return f of one sampled Gaussian step: the likelihood ratio rises with the score, so tests are half-lines."""
    s, q, alpha = mpf(noise), mpf(rate), mpf(alpha)
    if direction == "remove":
        t = quantile(alpha)
        return (1 - q) * tail(-t) + q * tail(1 / s - t)
    low, high = mpf(-60), mpf(60) + 1 / s
    for _ in range(200):  # alpha is P's mass below t
        middle = (low + high) / 2
        mass = (1 - q) * tail(-middle) + q * tail(1 / s - middle)
        low, high = (middle, high) if mass < alpha else (low, middle)
    return tail(low)


def laplace_tradeoff(alpha: float, scale: float) -> mpf:
    """Return f of the Laplace mechanism (Dong, Roth & Su 2022, Proposition A.6)."""
    a, shrink = mpf(alpha), mp.exp(-1 / mpf(scale))
    if a < shrink / 2:
        return 1 - a / shrink
    return shrink / (4 * a) if a <= mpf(1) / 2 else shrink * (1 - a)


def response_tradeoff(alpha: float, epsilon: float) -> mpf:
    """Return f of binary randomized response: the two lines of pure differential privacy."""
    a, growth = mpf(alpha), mp.exp(mpf(epsilon))
    return max(1 - growth * a, (1 - a) / growth)


def sampled_renyi(order: float, noise: float, rate: float, direction: str) -> mpf:
    """Return the Renyi divergence of one sampled Gaussian step, by quadrature in 40 digits."""
    s, q, a = mpf(noise), mpf(rate), mpf(order)
    power = a if direction == "remove" else 1 - a

    def integrand(u: mpf) -> mpf:
        return mp.npdf(u) * (1 - q + q * mp.exp(u / s - 1 / (2 * s * s))) ** power

    far = max(power, 0) / s
    points = [mpf(-30), -12, -6, -3, 0, 3, 6, 12, far + 30] + ([far - 6, far - 2, far + 2, far + 6] if far > 20 else [])
    with mp.workdps(40):
        return mp.log(mp.quad(integrand, sorted(points))) / (a - 1)


def laplace_renyi(order: float, scale: float) -> mpf:
    """Return the Renyi divergence of the Laplace mechanism (Mironov 2017, Table II)."""
    a, r = mpf(order), 1 / mpf(scale)
    return mp.log(a / (2 * a - 1) * mp.exp((a - 1) * r) + (a - 1) / (2 * a - 1) * mp.exp(-a * r)) / (a - 1)


def outcomes_of(p: Iterable[float], q: Iterable[float], steps: int) -> list[tuple[Fraction, Fraction]]:
    """Return the probabilities of all outcomes of a few steps, under P and under Q."""
    single = [(Fraction(x), Fraction(y)) for x, y in zip(p, q, strict=True)]
    totals = [sum(pair[k] for pair in single) for k in (0, 1)]
    single = [(x / totals[0], y / totals[1]) for x, y in single]
    result = []
    for outcome in product(single, repeat=steps):
        of_p = of_q = Fraction(1)
        for x, y in outcome:
            of_p, of_q = of_p * x, of_q * y
        result.append((of_p, of_q))
    return [pair for pair in result if any(pair)]


def corners(outcomes: list[tuple[Fraction, Fraction]], direction: str) -> Corners:
    """Return the trade-off function of the test of B against A, (A, B) being (P, Q) for "remove"."""
    if direction == "both":
        return hull([*corners(outcomes, "remove"), *corners(outcomes, "add")])
    pairs = outcomes if direction == "remove" else [(y, x) for x, y in outcomes]
    alpha, beta = Fraction(0), Fraction(1)
    found = [(alpha, beta)]
    for of_a, of_b in sorted(pairs, key=lambda pair: (pair[1] == 0, pair[0] / pair[1] if pair[1] else 0), reverse=True):
        alpha, beta = alpha + of_b, beta - of_a
        found.append((alpha, beta))
    return hull(found)


def hull(points: Corners) -> Corners:
    """Return the lower convex hull."""
    lowest: dict[Fraction, Fraction] = {}
    for alpha, beta in points:
        lowest[alpha] = min(beta, lowest.get(alpha, beta))
    kept: Corners = []
    for point in sorted(lowest.items()):
        while len(kept) > 1 and _turn(kept[-2], kept[-1], point) <= 0:
            kept.pop()
        kept.append(point)
    return kept


def _turn(a: tuple[Fraction, Fraction], b: tuple[Fraction, Fraction], c: tuple[Fraction, Fraction]) -> Fraction:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def at(polygon: Corners, alpha: float) -> Fraction:
    """Return f(alpha)."""
    exact = Fraction(alpha)
    for (left, upper), (right, lower) in pairwise(polygon):
        if left <= exact <= right:
            return upper + (lower - upper) * (exact - left) / (right - left)
    raise AssertionError(alpha)


def posterior_at(outcomes: list[tuple[Fraction, Fraction]], prior: float, failure: float) -> Fraction:
    """Return the belief after "one of the outcomes that speak most for P", of this probability under P in all."""
    p, left, false = Fraction(prior), Fraction(failure), Fraction(0)
    for x, y in sorted(outcomes, key=lambda pair: pair[1] / pair[0] if pair[0] else Fraction(10**9)):
        share = min(left / x, Fraction(1)) if x else Fraction(0)
        left, false = left - share * x, false + share * y
    return p * Fraction(failure) / (p * Fraction(failure) + (1 - p) * false)


def least_mu(polygon: Corners) -> mpf:
    """Return the least mu with f >= G_mu: G_mu is convex, so the corners decide."""
    inner = [(alpha, beta) for alpha, beta in polygon if alpha > 0 and beta > 0]
    return max((quantile(alpha) + quantile(beta) for alpha, beta in inner), default=mpf(0))


def regret(polygon: Corners, mu: float, points: int = 4000) -> mpf:
    """Return about the least k with f(alpha + k) - k <= G_mu(alpha), from below: on the lines beta - alpha = const.

    Both functions fall, so along such a line the one's distance to the other is a shift k in both coordinates.
    """
    worst = mpf(0)
    for k in range(1, points):
        alpha = Fraction(k, points)
        beta = gaussian_tradeoff(float(alpha), mu)
        low, high = Fraction(0), 1 - alpha
        for _ in range(40):
            middle = (low + high) / 2
            below = real(at(polygon, alpha + middle)) - real(middle) > beta
            low, high = (middle, high) if below else (low, middle)
        worst = max(worst, real(low))
    return worst


def real(value: Fraction) -> mpf:
    return mpf(value.numerator) / value.denominator
