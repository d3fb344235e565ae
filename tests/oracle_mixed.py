"""Mechanisms of several kinds in ball arithmetic, by closed forms, by conditioning on atoms, and by rigorous integrals.

A step's loss is conditioned on: delta of the composition is the mean, under A, of the other steps' delta at epsilon
less the step's loss. Their delta has a closed form at any real epsilon, and each integrand is analytic between its
kinks, so that Arb's adaptive integration encloses it. Nothing of it is a contour or a characteristic function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from math import comb, factorial

from flint import acb, arb, ctx

BITS = 400
Curve = Callable[[acb, bool], acb]
"""Delta of some steps at any epsilon; if the flag is set, only where it is analytic, and not finite elsewhere."""
Atoms = list[tuple[arb, arb]]
"""Losses, and A's mass at them."""


def real(value: float) -> arb:
    ctx.prec = BITS
    return arb(value)


def gaussian_curve(inverse_variance: float) -> Curve:
    """Delta of unsampled Gaussian steps, `inverse_variance` the sum of 1 / noise_multiplier^2; entire in epsilon."""
    mu = acb(real(inverse_variance).sqrt())

    def tail(x: acb) -> acb:
        return (x / acb(2).sqrt()).erfc() / 2

    return lambda e, analytic: tail(e / mu - mu / 2) - e.exp() * tail(e / mu + mu / 2)


def response_atoms(epsilon: float, categories: int) -> Atoms:
    e, k = real(epsilon), categories
    total = e.exp() + k - 1
    return [(e, e.exp() / total), (-e, 1 / total)] + ([(arb(0), (k - 2) / total)] if k > 2 else [])


def discrete_atoms(p: list[float], q: list[float]) -> Atoms:
    a, b = [real(x) for x in p], [real(x) for x in q]
    a, b = [x / sum(a, arb(0)) for x in a], [x / sum(b, arb(0)) for x in b]
    return [((x / y).log(), x) for x, y in zip(a, b, strict=True) if x > 0 and y > 0]


def outcomes(parts: list[Atoms]) -> Iterator[tuple[arb, arb]]:
    """Yield the sum of the losses and the probability, under A, of every outcome of a few steps."""
    for outcome in product(*parts):
        mass = arb(1)
        for _, share in outcome:
            mass *= share
        yield sum((loss for loss, _ in outcome), arb(0)), mass


def atoms_delta(parts: list[Atoms], epsilon: float) -> arb:
    """Return delta of a few steps, finite losses alone, by listing all outcomes."""
    total, e = arb(0), real(epsilon)
    for loss, mass in outcomes(parts):
        if loss > e:
            total += mass * (1 - (e - loss).exp())
        else:
            assert loss < e, "choose an epsilon that is not an atom"
    return total


def binary_responses_delta(response: float, steps: int, epsilon: float) -> arb:
    """Return delta of binary randomized responses: a binomial sum."""
    e, r = real(epsilon), real(response)
    p = r.exp() / (1 + r.exp())
    total = arb(0)
    for k in range(steps + 1):
        loss = (2 * k - steps) * r
        if loss > e:
            total += comb(steps, k) * p**k * (1 - p) ** (steps - k) * (1 - (e - loss).exp())
    return total


def conditioned(parts: list[Atoms], curve: Curve, epsilon: float) -> arb:
    """Return delta of steps with atoms and of others whose curve is known."""
    total, e = arb(0), real(epsilon)
    for loss, mass in outcomes(parts):
        total += mass * curve(acb(e - loss), False).real
    return total


def laplace_delta(rate: arb, steps: int, epsilon: float) -> arb:
    r"""Return delta of Laplace steps, exactly: the atoms' counts, and the others' losses, of density a spline.

    Under A a step's loss is a with probability 1/2, -a with e^{-a}/2, and has the density e^{(l - a)/2} / 4 between.
    That of the sum of k such is e^{s/2} times the k-fold convolution of an interval, a sum of powers
    (s - b)_+^{k-1} / (k-1)!.
    """
    ctx.prec = BITS
    total, e = arb(0), real(epsilon)
    for i in range(steps + 1):
        for j in range(steps - i + 1):
            k = steps - i - j
            ways = factorial(steps) // (factorial(i) * factorial(j) * factorial(k))
            mass = ways * arb(2) ** -(i + j) * (-rate * j).exp() * arb(4) ** -k * (-rate * k / 2).exp()
            u = e - (i - j) * rate
            if k == 0:
                total += mass * (1 - u.exp()) if u < 0 else 0
            else:
                total += mass * _spline_delta(rate, k, u)
    return total


def _spline_delta(rate: arb, k: int, u: arb) -> arb:
    """Return the integral of e^{s/2} (1 - e^{u-s})_+ f_k(s)."""
    low, high = (u if u > -k * rate else -k * rate), k * rate
    if not low < high:
        return arb(0)
    total = arb(0)
    for m in range(k):
        start = (2 * m - k) * rate
        begin = start if start > low else low
        if begin < high:
            value = _moment(arb(1) / 2, k, start, begin, high) - u.exp() * _moment(arb(-1) / 2, k, start, begin, high)
            total += (-1) ** m * comb(k, m) * value
    return total


def _moment(b: arb, k: int, start: arb, low: arb, high: arb) -> arb:
    """Return the integral of e^{bs} (s - start)^{k-1} / (k-1)! from low to high."""

    def antiderivative(w: arb) -> arb:
        terms = ((-1) ** (k - 1 - r) * w**r / factorial(r) / b ** (k - r) for r in range(k))
        return (b * w).exp() * sum(terms, arb(0))

    return (b * start).exp() * (antiderivative(high - start) - antiderivative(low - start))


class SampledLaplace:
    """One Poisson-subsampled Laplace step (unsampled for q = 1) in one direction."""

    def __init__(self, scale: float, sample_rate: float, direction: str) -> None:
        ctx.prec = BITS
        self.a, self.q, self.direction = 1 / arb(scale), arb(sample_rate), direction
        ends = [self._mixture(acb(x)).real.log() for x in (0, 1)]
        shares = [arb(1) / 2, (-self.a).exp() / 2]
        if direction == "remove":
            self.atoms: Atoms = [(end, share * end.exp()) for end, share in zip(ends, shares, strict=True)]
        else:
            self.atoms = [(-end, share) for end, share in zip(ends, shares, strict=True)]

    def _mixture(self, x: acb) -> acb:
        """R(x), the likelihood ratio dP/dQ at the output x."""
        return 1 - self.q + self.q * (self.a * (2 * x - 1)).exp()

    def output_at(self, loss: arb) -> arb:
        """The output x at which the loss is `loss`."""
        ratio = loss.exp() if self.direction == "remove" else (-loss).exp()
        return (((ratio - 1 + self.q) / self.q).log() / self.a + 1) / 2

    def curve(self, e: arb) -> arb:
        """Delta at any real epsilon."""
        low, high = sorted((loss for loss, _ in self.atoms), key=lambda loss: float(loss.mid()))
        if e > high:
            return arb(0)
        if e < low:
            return 1 - e.exp()
        return self.inner(acb(e), False).real

    def inner(self, e: acb, analytic: bool) -> acb:
        """Delta at an epsilon between the smallest and the largest loss, analytically continued."""
        if self.direction == "remove":
            ratio = (e.exp() - 1 + self.q) / self.q
            return self.q * (1 - (ratio.log(analytic=analytic) / 2 - self.a / 2).exp())
        scale = 1 - (1 - self.q) * e.exp()
        return scale * (1 - ((self.q * e.exp() / scale).log(analytic=analytic) / 2 - self.a / 2).exp())

    def then(self, piece_at: Callable[[arb], Curve], epsilon: float, kinks: list[arb]) -> arb:
        """Return delta of this step and of others, whose curve is analytic but at `kinks`, and there continuous.

        `piece_at` gives the analytic piece at an epsilon: integration looks beyond the ends of intervals.
        """
        e, total = real(epsilon), arb(0)
        for loss, mass in self.atoms:
            total += mass * piece_at(e - loss)(acb(e - loss), False).real
        low, high = sorted((loss for loss, _ in self.atoms), key=lambda loss: float(loss.mid()))
        sign = 1 if self.direction == "remove" else -1
        inside = [self.output_at(e - kink) for kink in kinks if low < e - kink < high]
        cuts = [arb(0), *sorted(inside, key=lambda x: float(x.mid())), arb(1)]
        for left, right in pairwise(cuts):
            curve = piece_at(e - sign * self._mixture(acb((left + right) / 2)).real.log())

            def integrand(x: acb, analytic: bool, curve: Curve = curve) -> acb:
                ratio = self._mixture(x)
                weight = self.a / 2 * (-self.a * x).exp() * (ratio if sign > 0 else 1)
                return weight * curve(e - sign * ratio.log(analytic=analytic), analytic)

            total += acb.integral(integrand, acb(left), acb(right), rel_tol=arb(2) ** -60).real
        return total


def two_sampled_laplaces(first: SampledLaplace, second: SampledLaplace, epsilon: float) -> arb:
    """Return delta of two such steps."""
    low, high = sorted((loss for loss, _ in second.atoms), key=lambda loss: float(loss.mid()))

    def piece_at(e: arb) -> Curve:
        if e > high:
            return lambda e, analytic: acb(0)
        if e < low:
            return lambda e, analytic: 1 - e.exp()
        return second.inner

    return first.then(piece_at, epsilon, [low, high])
