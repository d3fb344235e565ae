"""The laws that the oracle integrates, in floating point: what a path must know of F to be chosen.

Words: zeta = z in the remove direction and 1 - z in the add direction, so that both need phi(zeta) = E_Q[e^{zeta L}];
a loss is measured from `base`, lambda = L - base >= or about 0, and E(zeta) = E_Q[chi (e^{zeta lambda} - 1)], where chi
falls softly from 1 to 0 at a barrier of the score u = x / s: events beyond it count as lambda = 0. F is the integrand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, log_ndtr

History = Sequence[tuple[float, float, int]]
Real = NDArray[np.float64]
Complex = NDArray[np.complex128]
Barrier = tuple[float, float]

SHIFTS = (-0.3, -0.15, 0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.85, 0.93)
"""Lines Im u = share * reach of a law that are considered for the inner rule."""
LOW_SHARES, ROUGH_SHARES = (0.0, 0.15), (0.0, 0.3, 0.6, 0.85)
FINE_SHARES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.85)
FALL = 38.0
"""How far below delta F falls along a path, in log; where delta is not known, 4 more below F's start."""
STEEPEST = 2.0
"""Largest slope of a path; another one leads to other paths."""
LARGEST = 650.0
"""Exponents beyond are not formed."""


@dataclass(frozen=True)
class Law:
    """One phase's loss on the scores that matter; `barriers` are increasing, the last one is always there.

    A barrier is a score and a width W in it: chi(u) = P(u + W xi < score), and |chi(u + iv)| <= e^{v^2 / 2 W^2} chi(u).
    """

    noise: float
    rate: float
    steps: int
    quiet: bool
    barriers: tuple[Barrier, ...]

    @property
    def base(self) -> float:
        """The loss from which lambda counts: the least one where most steps reveal nothing, else 0."""
        return math.log1p(-self.rate) if self.quiet else 0.0

    @property
    def reach(self) -> float:
        """Height of the strip of scores that is used: the loss is analytic below pi s."""
        return min(math.pi * self.noise, 4.5)

    @property
    def coarse(self) -> float:
        """A step that resolves the integrand to a few digits."""
        return 0.25 * min(self.noise, 1.2)

    def range(self) -> tuple[float, float]:
        """The scores between which anything matters."""
        score, width = self.barriers[-1]
        return -14.0, score + 14.0 * width

    def loss(self, u: Complex) -> Complex:
        """Return lambda."""
        w = u / self.noise - 0.5 / self.noise**2
        return log1p(self.rate / (1 - self.rate) * np.exp(w) if self.quiet else self.rate * np.expm1(w))

    def score(self, loss: float) -> float:
        """Return the real score at which lambda is `loss` > 0."""
        log_growth = loss + math.log(-math.expm1(-loss))  # log(e^loss - 1) without overflow
        if self.quiet:
            w = log_growth - math.log(self.rate / (1 - self.rate))
        else:
            w = float(np.logaddexp(log_growth - math.log(self.rate), 0.0))
        return self.noise * w + 0.5 / self.noise

    def log_weight(self, u: Complex, barrier: int) -> Complex:
        """Return log of density times chi; -inf where it vanishes."""
        score, width = self.barriers[barrier]
        away = (u - score) / (width * math.sqrt(2.0))
        chi = np.where(away.real < 0.0, 1.0 + 0j, 0j)
        square = away.real * np.abs(away.real) + np.sign(away.real) * -(away.imag**2)  # erfc is about e^-square, or 2
        near = (square > -40.0) & (square < 600.0) | (away.real**2 < away.imag**2)
        chi[near] = 0.5 * erfc(away[near])
        with np.errstate(divide="ignore"):
            return -0.5 * u * u - 0.5 * math.log(2 * math.pi) + np.log(chi)


def softness(noise: float, steepness: float) -> float:
    """Return the width of a barrier: soft, so that phi falls fast, unless e^{zeta L} would climb over it.

    Args:
      noise: s.
      steepness: zeta dL/dw on the real line.
    """
    return min(0.4, noise * max(0.05, min(1.5, 4.0 / steepness)))


def _log_minus_expm1(x: Complex) -> Complex:
    """Return log(1 - e^x)."""
    with np.errstate(all="ignore"):
        value = np.log(-np.expm1(x))
    value[np.isnan(value)] = -np.inf
    return value


class Table:
    """A law on one line of scores with a coarse step."""

    def __init__(self, law: Law, share: float, barrier: int, gap: bool, step: float) -> None:
        low, high = law.range()
        self.step = step
        u = np.arange(low, high, self.step) + 1j * share * law.reach
        loss, weight = law.loss(u), law.log_weight(u, barrier)
        if gap:  # what lies between this barrier and the one before, without the cancellation of a difference
            weight += _log_minus_expm1(law.log_weight(u, barrier - 1) - weight)
        keep = weight.real > -2000.0
        self.u, self.loss, self.log_weight = u.real[keep], loss[keep], weight[keep]
        self.weight = np.exp(self.log_weight) * self.step
        with np.errstate(divide="ignore"):
            self.log_effect = np.log(np.abs(self.loss)) + self.log_weight.real + math.log(law.steps)
        self.log_steps = math.log(law.steps)

    def excess(self, zeta: Complex) -> tuple[Complex, Real]:
        """Return E(zeta) and the sum of moduli in it; infinite where exponents are too large."""
        part = self._alive(zeta)
        loss, weight, log_weight = self.loss[part], self.weight[part], self.log_weight.real[part]
        x, y = np.multiply.outer(zeta.real, loss.real), np.multiply.outer(zeta.imag, loss.real)
        x -= np.multiply.outer(zeta.imag, loss.imag)
        y += np.multiply.outer(zeta.real, loss.imag)
        too_large = (x + log_weight).max(1) > LARGEST
        np.minimum(x, LARGEST, out=x)
        growth, y = np.expm1(x), 0.5 * y  # e^{x+iy} - 1 from real functions: several times faster
        sine, cosine = np.sin(y), np.cos(y)
        grown = growth + 1.0
        real, imag = growth - 2 * sine * sine * grown, 2 * grown * sine * cosine
        total = partial(np.einsum, "ij,j->i")  # BLAS would start threads for this
        value, size = total(real, weight) + 1j * total(imag, weight), total(np.hypot(real, imag), np.abs(weight))
        value[too_large], size[too_large] = np.inf, np.inf
        return value, size

    def _alive(self, zeta: Complex) -> slice:
        """Return where the integrand matters for any of these zeta."""
        x, y, r = zeta.real, zeta.imag, self.loss
        grown = np.maximum(x.max() * r.real, x.min() * r.real) - np.minimum(y.max() * r.imag, y.min() * r.imag)
        bound = np.minimum(
            self.log_effect + math.log(np.abs(zeta).max()), self.log_weight.real + self.log_steps
        ) + np.maximum(grown, 0.0)
        alive = np.flatnonzero(bound > -42.0)
        return slice(int(alive[0]), int(alive[-1]) + 1) if alive.size else slice(0, 1)


class Problem:
    """delta of a history at epsilon in one direction, with laws cut at barriers."""

    def __init__(self, history: History, epsilon: float, direction: str, barriers: Sequence[Sequence[Barrier]]) -> None:
        merged: dict[tuple[float, float], int] = {}
        for s, q, n in history:
            if q > 0 and n > 0:
                merged[s, q] = merged.get((s, q), 0) + n
        self.epsilon, self.remove = epsilon, direction == "remove"
        self.gaussian = [(s, n) for (s, q), n in merged.items() if q == 1]
        self.curvature = math.fsum(n / s**2 for s, n in self.gaussian)
        sampled = [(s, q, n) for (s, q), n in merged.items() if q < 1]
        self.laws = [
            Law(s, q, n, s < 1.5 and q < 0.5, tuple(b[i] for b in barriers)) for i, (s, q, n) in enumerate(sampled)
        ]
        self.base = math.fsum(law.steps * law.base for law in self.laws)
        self.atom = self.remove and self.curvature == 0 and all(law.quiet for law in self.laws)
        self._tables: dict[tuple[int, float, int, bool, int], Table] = {}
        self.fine, self.fall, self.steepest = 0, FALL + 4.0, STEEPEST

    def table(self, law: int, share: float, barrier: int, gap: bool = False) -> Table:
        """Return a table, made once."""
        key = law, share, barrier, gap, self.fine
        if key not in self._tables:
            self._tables[key] = Table(self.laws[law], share, barrier, gap, self.laws[law].coarse * 0.5**self.fine)
        return self._tables[key]

    def excess(self, law: int, zeta: Complex, barrier: int, shares: Sequence[float], gap: bool = False) -> Complex:
        """Return E by the line with the least sum of moduli."""
        best, least = np.full(zeta.shape, np.inf, complex), np.full(zeta.shape, np.inf)
        for share in shares:
            value, size = self.table(law, share, barrier, gap).excess(zeta)
            size = size * 10.0 ** max(0.0, 10 * share - 5.5)  # near the singularity only if it must be
            better = size < least
            best[better], least[better] = value[better], size[better]
        return best

    def log_power(self, zeta: Complex, barrier: int, shares: Sequence[float]) -> Complex:
        """Return the sum of n log(1 + E)."""
        total = np.zeros(zeta.shape, complex)
        for i, law in enumerate(self.laws):
            total += law.steps * log1p(self.excess(i, zeta, barrier, shares))
        return total

    def rounding(self, zeta: Complex, barrier: int) -> Real:
        """Return about the relative error of the powers in F in floating point."""
        error = np.zeros(zeta.shape)
        for i, law in enumerate(self.laws):
            sizes = [self.table(i, share, barrier).excess(zeta)[1] for share in FINE_SHARES]
            error += law.steps * 2e-16 * np.nanmin(sizes, axis=0)
        if self.atom:
            error /= np.clip(np.abs(self.log_power(zeta, barrier, FINE_SHARES)), 1e-300, 1.0)
        return np.minimum(np.nan_to_num(error, nan=1e-3), 1e-3)

    def log_factor(self, zeta: Complex) -> Complex:
        """Return log of what stands before the powers in F."""
        a = zeta * self.base + 0.5 * self.curvature * zeta * (zeta - 1)
        a += (1 - zeta) * self.epsilon if self.remove else zeta * self.epsilon
        return a - np.log(zeta) - np.log(zeta - 1)

    def log_integrand(self, zeta: Complex, index: int, shares: Sequence[float]) -> Complex:
        """Return log F of one part; imaginary parts are continuous up to jumps of logarithms."""
        a = self.log_factor(zeta)
        if index == 0:
            power = self.log_power(zeta, 0, shares)
            return a + (log_expm1(power) if self.atom else power)
        low, gap = self.log_power(zeta, index - 1, shares), np.zeros(zeta.shape, complex)
        for i, law in enumerate(self.laws):
            if law.barriers[index] > law.barriers[index - 1]:
                whole = 1 + self.excess(i, zeta, index - 1, shares)
                gap += law.steps * log1p(self.excess(i, zeta, index, shares, True) / whole)
        return a + low + log_expm1(gap)

    def saddle(self, index: int) -> tuple[float, float, float]:
        """Return the start of the path, the width of the integrand there and log F."""
        log_gaps = np.linspace(-14.0, 27.0, 83)
        for _ in range(3):
            gap = np.exp(log_gaps)
            zeta = (1 + gap if self.remove else -gap).astype(complex)
            value = self.log_integrand(zeta, index, (0.0,)).real
            value[~np.isfinite(value)] = np.inf
            for i in range(len(self.laws)):  # where nothing is left of phi but rounding, nothing is known
                value[np.abs(1 + self.excess(i, zeta, index, (0.0,))) < 1e-11] = np.inf
            best = int(np.argmin(value))
            if not np.isfinite(value[best]):
                raise ArithmeticError("no start of a path")
            final = float(log_gaps[best]), float(value[best])
            if best in (0, log_gaps.size - 1):
                break
            log_gaps = np.linspace(log_gaps[best - 1], log_gaps[best + 1], 21)
        gap = math.exp(final[0])
        d = 0.05 * gap
        at = np.array([gap - d, gap, gap + d])
        three = self.log_integrand((1 + at if self.remove else -at).astype(complex), index, (0.0,)).real
        curve = (three[0] - 2 * three[1] + three[2]) / d**2
        width = 1 / math.sqrt(curve) if np.isfinite(curve) and curve > 0 else gap
        return (1 + gap if self.remove else -gap), min(width, gap), final[1]


def log1p(x: Complex) -> Complex:
    """Return log(1 + x)."""
    small = np.abs(x) < 1e-4
    return np.where(small, x * (1 - x * (0.5 - x / 3)), np.log(np.where(small, 1.0, 1 + x)))


def log_expm1(x: Complex) -> Complex:
    """Return log(e^x - 1) without overflow."""
    large = x.real > 30
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(large, x, np.log(np.expm1(np.where(large, 1.0, x))))


def barriers_for_mass(history: History, log_mass: float, tilt: float) -> list[Barrier]:
    """Return for each sampled phase a barrier beyond which the steps have at most e^log_mass in all."""
    scores: list[Barrier] = []
    merged: dict[tuple[float, float], int] = {}
    for s, q, n in history:
        if 0 < q < 1 and n > 0:
            merged[s, q] = merged.get((s, q), 0) + n
    share = log_mass - math.log(max(len(merged), 1))
    for (s, q), n in merged.items():
        width = softness(s, tilt)
        wide = math.hypot(1.0, width)
        low, high = 0.0, 80.0 + 1 / s
        for _ in range(40):
            middle = 0.5 * (low + high)
            mass = np.logaddexp(log_ndtr(-middle / wide), math.log(q) + log_ndtr((1 / s - middle) / wide))
            low, high = (low, middle) if math.log(n) + mass <= share else (middle, high)
        scores.append((high, width))
    return scores
