"""Where the oracle integrates: paths, barriers and steps, chosen in floating point. Nothing here decides a value.

A bad choice costs the oracle time, or leaves its levels apart; what judges is computed in `oracle` from these choices.

Words: zeta = z in the remove direction and 1 - z in the add direction, so that both need phi(zeta) = E_Q[e^{zeta L}];
a loss is measured from `base`, lambda = L - base >= or about 0, and E(zeta) = E_Q[chi (e^{zeta lambda} - 1)], where chi
falls softly from 1 to 0 at a barrier of the score u = x / s: events beyond it count as lambda = 0. A path in zeta is
X(y) + i y, X(y) = start + slope (sqrt(y^2 + onset^2) - onset), y = scale sinh(t), in panels of t.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
NODES = 16
"""Gauss-Legendre nodes per panel that panels are laid out for."""
CHEAP = 2500.0
"""Nodes up to which no lower barriers are tried."""
NEGLIGIBLE = 60.0
"""How far below the others, in log, a part is left out."""
WELL = 16.0
"""Cancellation, in log, with which one is content."""
RISE = 9.0
"""How far F may rise again, in log."""
CLIFF = 15.0
"""How much F may change, in log, over an eighth of a unit of t."""
FALL = 38.0
"""How far below delta F falls along a path, in log; where delta is not known, 4 more below F's start."""
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
        return _log1p(self.rate / (1 - self.rate) * np.exp(w) if self.quiet else self.rate * np.expm1(w))

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


@dataclass(frozen=True)
class Path:
    """Where zeta runs."""

    start: float
    slope: float
    onset: float
    scale: float

    def zeta(self, t: Real) -> tuple[Complex, Complex]:
        """Return zeta and its derivative by t."""
        y = self.scale * np.sinh(t)
        root = np.sqrt(y * y + self.onset**2)
        x = self.start + self.slope * (root - self.onset)
        return x + 1j * y, (self.slope * y / root + 1j) * self.scale * np.cosh(t)


@dataclass(frozen=True)
class Line:
    """How E(zeta) is summed at one node for one law: share of the reach, step, and the scores between which."""

    share: float
    step: float
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """One part of delta: with the barriers `index`, less that with the barriers `index - 1` (or than the quiet law)."""

    index: int
    path: Path
    panels: tuple[tuple[float, float], ...]
    log_size: float


@dataclass(frozen=True)
class Route:
    """A path before panels are laid on it: its end in t, log F at its start, about its number of nodes."""

    path: Path
    end: float
    peak: float
    cost: float


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
        self._tables: dict[tuple[int, float, int, bool, bool], Table] = {}
        self.fine, self.fall, self.steepest = False, FALL + 4.0, 2.0

    def table(self, law: int, share: float, barrier: int, gap: bool = False) -> Table:
        """Return a table, made once."""
        key = law, share, barrier, gap, self.fine
        if key not in self._tables:
            self._tables[key] = Table(
                self.laws[law], share, barrier, gap, self.laws[law].coarse * (0.5 if self.fine else 1.0)
            )
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
            total += law.steps * _log1p(self.excess(i, zeta, barrier, shares))
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
            return a + (_log_expm1(power) if self.atom else power)
        low, gap = self.log_power(zeta, index - 1, shares), np.zeros(zeta.shape, complex)
        for i, law in enumerate(self.laws):
            if law.barriers[index] > law.barriers[index - 1]:
                whole = 1 + self.excess(i, zeta, index - 1, shares)
                gap += law.steps * _log1p(self.excess(i, zeta, index, shares, True) / whole)
        return a + low + _log_expm1(gap)

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


def _log1p(x: Complex) -> Complex:
    """Return log(1 + x)."""
    small = np.abs(x) < 1e-4
    return np.where(small, x * (1 - x * (0.5 - x / 3)), np.log(np.where(small, 1.0, 1 + x)))


def _log_expm1(x: Complex) -> Complex:
    """Return log(e^x - 1) without overflow."""
    large = x.real > 30
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(large, x, np.log(np.expm1(np.where(large, 1.0, x))))


ROUGH_SHARES, FINE_SHARES = (0.0, 0.3, 0.6, 0.85), (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.85)


def choose_routes(problem: Problem, index: int) -> list[Route]:
    """Return the cheapest paths of those tried, best first.

    Raises:
      ArithmeticError: none ends.
    """
    start, width, peak = problem.saddle(index)
    slopes = [*np.geomspace(problem.steepest, 1e-3 * problem.steepest, 13), 0.0]
    while slopes:
        found: list[Route] = []
        for slope in slopes:
            for onset in (2.0, 8.0) if slope > 0 else (2.0,):
                most = 4.0 * min((route.cost for route in found), default=2000.0)
                path = Path(start, float(slope), onset * width, width)
                cost, end = _path_cost(problem, index, path, peak, most)
                if math.isfinite(cost):
                    found.append(Route(path, end, peak, cost))
        found.sort(key=lambda route: route.cost)
        good = [route for route in found[:8] if _has_room(problem, index, route)]
        if good or not found:
            break
        slopes = [slope for slope in slopes if slope < min(route.path.slope for route in found[:8])]
    else:
        good = []
    if not good:
        raise ArithmeticError("no path ends")
    return good


def _has_room(problem: Problem, index: int, route: Route) -> bool:
    """Return whether a steeper and a shifted path would do as well (levels vary both), and nothing comes after the end.

    What comes after the end is looked for straight above it, step by step while F may recur, as it does with the
    period of a loud step's loss, and then ever farther.
    """
    old = route.path
    path = Path(old.start + 0.2 * old.scale, 1.12 * old.slope, old.onset, old.scale)
    if not math.isfinite(_path_cost(problem, index, path, route.peak, 3 * route.cost)[0]):
        return False
    end = complex(old.zeta(np.array([route.end]))[0][0])
    recurring = end.imag + 0.7 * old.scale * np.arange(1, 801)
    above = np.concatenate([recurring, recurring[-1] * 1.15 ** np.arange(1, 161)])
    for y in np.array_split(above, 30):
        value = problem.log_integrand(end.real + 1j * y, index, ROUGH_SHARES[1:]).real + np.log(y)  # no aliases there
        if not (value < route.peak + math.log(old.scale) - problem.fall + 6.0).all():
            return False
    return True


def _path_cost(problem: Problem, index: int, path: Path, peak: float, most: float) -> tuple[float, float]:
    """Return about the number of nodes until the integrand has vanished, and that end; infinite beyond `most`."""
    cost, width, block = 0.0, 0.125, 8
    top = peak + math.log(path.scale)
    last, floor = 0j, top
    for k in range(0, 400, block):
        t = width * np.arange(k, k + block + 3)
        zeta, slope = path.zeta(t)
        value = problem.log_integrand(zeta, index, ROUGH_SHARES) + np.log(slope)
        dead = value.real < top - problem.fall
        over = np.convolve(dead, [1, 1, 1, 1], "valid") == 4
        count = int(over.argmax()) if over.any() else block  # what comes after that is of no interest
        height = np.concatenate([[floor], value.real[: count + 1]])
        rough = (abs(np.diff(height)) > CLIFF) & (height[:-1] > top - problem.fall)
        if (
            rough.any() or not (height < np.minimum.accumulate(height) + RISE).all()
        ):  # nothing is known beyond mountains
            return math.inf, math.inf
        floor = float(height.min())
        moved = np.diff(np.concatenate([[last if k else value[0]], value[:count]]))
        turn = np.minimum(abs(moved.imag), 60.0)  # too large where a logarithm jumps, which is rare
        cost += 6 * width * count + float(np.sum(turn + np.minimum(abs(moved.real), 20)))
        if cost >= most:
            break
        if over.any():
            return cost, float(t[count])
        last = value[block - 1]
    return math.inf, math.inf


_ABSCISSA, _WEIGHT = np.polynomial.legendre.leggauss(NODES)
_TAIL = np.array([np.polynomial.legendre.Legendre.basis(k)(_ABSCISSA) * (k + 0.5) * _WEIGHT for k in range(8, 16)])


@dataclass(frozen=True)
class _Panel:
    """A panel in t, its share of the integral, the last Legendre coefficients, the largest value and its rounding.

    Coefficients, those before and the largest value are times half the length; rounding is relative to that value.
    """

    start: float
    end: float
    value: complex
    before: float
    tail: float
    size: float
    blur: float

    @property
    def error(self) -> float:
        """About the error of the rule, exact for twice as many coefficients as are known; they may level off."""
        return self.tail * min(1.0, self.tail / max(self.before, 1e-300)) ** 3

    @property
    def halves(self) -> list[tuple[float, float]]:
        """The ends of its halves."""
        middle = 0.5 * (self.start + self.end)
        return [(self.start, middle), (middle, self.end)]


def lay_panels(problem: Problem, index: int, route: Route) -> tuple[list[tuple[float, float]], complex, float]:
    """Return the panels in t, the integral over e^peak, and the largest modulus times the length it acts on."""
    problem.fine = True
    count = max(2, math.ceil(route.end / 1.5))
    pending = [(route.end * k / count, route.end * (k + 1) / count) for k in range(count)]
    done: list[_Panel] = []
    while True:
        done += _measured(problem, index, route, pending)
        total, largest = sum(panel.value for panel in done), max(panel.size for panel in done)
        limit = max(3e-13 * abs(total.imag), 1e-18 * largest)  # a first total may be far too large: look at all again
        poor = [p for p in done if p.tail > p.blur * p.size and p.error > limit and p.end - p.start > 2e-3]
        if not poor:
            break
        done = [panel for panel in done if panel not in poor]
        pending = [half for panel in poor for half in panel.halves]
        if len(done) + len(pending) > 400:
            raise ArithmeticError("too many panels")
    panels = []
    for p in done:  # where rounding hides the coefficients, one more halving makes up for it
        hidden = p.tail <= p.blur * p.size and p.blur * p.size > 1e3 * limit
        panels += p.halves if hidden else [(p.start, p.end)]
    return sorted(panels), total, largest


def _measured(problem: Problem, index: int, route: Route, ends: list[tuple[float, float]]) -> list[_Panel]:
    """Return panels with what is to be known of them.

    Raises:
      ArithmeticError: the integrand rises far above its start.
    """
    t = np.concatenate([0.5 * (a + b) + 0.5 * (b - a) * _ABSCISSA for a, b in ends])
    zeta, slope = route.path.zeta(t)
    pieces = np.array_split(zeta, math.ceil(zeta.size / 64))
    value = np.concatenate([problem.log_integrand(piece, index, FINE_SHARES) for piece in pieces])
    value = (np.exp(value - route.peak) * slope).reshape(-1, NODES)
    if not abs(value).max() < math.exp(RISE + 3) * route.path.scale:
        raise ArithmeticError("mountains")
    blur = 1e-13 + problem.rounding(zeta.reshape(-1, NODES)[:, NODES // 2], index)
    half = np.array([0.5 * (b - a) for a, b in ends])
    sums, sizes = half * (value * _WEIGHT).sum(1), half * abs(value).max(1)
    tails = half[:, None] * abs(np.einsum("ij,kj->ik", value, _TAIL))
    before, after = tails[:, :4].max(1), tails[:, 4:].max(1)
    return [
        _Panel(*end, complex(total), *map(float, rest))
        for end, total, *rest in zip(ends, sums, before, after, sizes, blur, strict=True)
    ]


def inner_lines(problem: Problem, law: int, zeta: Complex, barrier: int, log_abs_tol: Real) -> list[Line]:
    """Return how to sum E at every zeta with an absolute error of about e^log_abs_tol: the coarsest step that does."""
    tables = [problem.table(law, share, barrier) for share in SHIFTS]
    reach, noise = problem.laws[law].reach, problem.laws[law].noise
    log_size = np.empty((len(SHIFTS), zeta.size))
    spans = []
    for k, table in enumerate(tables):
        exponent = zeta[:, None] * table.loss
        size = np.abs(exponent)
        with np.errstate(divide="ignore"):
            growth = np.where(size < 1, np.log(size), np.maximum(exponent.real, 0.0)) + 0.7
        log_terms = growth + table.log_weight.real + math.log(table.step)
        top = log_terms.max(1)
        log_size[k] = top + np.log(np.exp(log_terms - top[:, None]).sum(1))
        alive = log_terms > log_abs_tol[:, None] - 3.0
        first = alive.argmax(1)
        last = alive.shape[1] - 1 - alive[:, ::-1].argmax(1)
        spans.append((table.u[first] - table.step, table.u[last] + table.step))
    best_step, best = np.zeros(zeta.size), np.full(zeta.size, 2)
    shifts = reach * np.array(SHIFTS)
    excess = np.maximum(log_size - log_abs_tol, 1.0) + 0.7
    for k in range(1, len(SHIFTS) - 1):  # the rule's error: sum of moduli on a line above and one below
        above = (2 * math.pi * (shifts[k + 1 :] - shifts[k])[:, None] / excess[k + 1 :]).max(0)
        below = (2 * math.pi * (shifts[k] - shifts[:k])[:, None] / excess[:k]).max(0)
        step = np.minimum(above, below)
        better = step > best_step
        best_step[better], best[better] = step[better], k
    unit = min(noise, 1.0)
    rounded = unit * 2.0 ** (np.floor(2 * np.log2(np.minimum(best_step, 1.0) / unit)) / 2)
    return [
        Line(SHIFTS[k], float(h), float(spans[k][0][i]), float(spans[k][1][i]))
        for i, (k, h) in enumerate(zip(best, rounded, strict=True))
    ]


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


@dataclass(frozen=True)
class Plan:
    """Everything that the judge needs."""

    problem: Problem
    parts: tuple[Part, ...]
    log_delta: float
    log_cut: float

    @property
    def log_condition(self) -> float:
        """Log of the largest modulus summed over delta."""
        return max(part.log_size for part in self.parts) - self.log_delta


@np.errstate(all="ignore")  # what overflows is compared, and left out
def plan_parts(
    history: History,
    epsilon: float,
    direction: str,
    deadline: float,
    avoid: int = 0,
    log_delta: float | None = None,
    steepest: float = 2.0,
) -> Plan:
    """Return paths on which delta is found with little cancellation and few nodes.

    Args:
      history: (noise_multiplier, sample_rate, steps) triples.
      epsilon: >= 0.
      direction: "remove" or "add".
      deadline: on the clock of the process.
      avoid: how many of the best routes to pass over.
      log_delta: what is known of log delta, if anything is.
      steepest: the largest slope of a path.

    Raises:
      ArithmeticError: none was found, or not before the deadline.
    """
    best, reason = None, "cancellation"
    start, width, peak = Problem(history, epsilon, direction, [barriers_for_mass(history, -100.0, 5.0)]).saddle(0)
    tilt, log_mass = max(start, 1.0), min(peak + math.log(width), 0.0) - 48.0
    top, fall = peak + math.log(width), FALL + 4.0
    if log_delta is not None:
        log_mass, fall = log_delta - 36.0, max(fall, top - log_delta + FALL)
    for cheap in (CHEAP, CHEAP, 0.0):  # the second time with the barrier where delta wants it, then with lower ones
        if time.process_time() > deadline:
            raise TimeoutError("no time for a plan")
        barriers = [barriers_for_mass(history, log_mass, tilt)]
        try:
            plan = _plan(
                *_split(history, epsilon, direction, barriers, cheap, fall, steepest, deadline), log_mass, avoid
            )
        except ArithmeticError as error:
            reason = str(error)
            continue
        if log_delta is not None:  # floating point may see its own noise instead
            plan = replace(plan, log_delta=log_delta)
        if plan.log_cut < plan.log_delta - 29 and (best is None or plan.log_condition < best.log_condition):
            best = plan
        if best is not None and best.log_condition < WELL:
            break
        log_mass, fall = plan.log_delta - 36.0, max(fall, top - plan.log_delta + FALL)
    if best is None:
        raise ArithmeticError(f"{history}, {epsilon}, {direction}: no path found, {reason}")
    return best


def _split(
    history: History,
    epsilon: float,
    direction: str,
    barriers: list[list[Barrier]],
    cheap: float,
    fall: float,
    steepest: float,
    deadline: float,
) -> tuple[Problem, list[list[Route]]]:
    """Return a problem with routes for its parts; lower barriers are set where that saves work or cancellation."""
    problem = Problem(history, epsilon, direction, barriers)
    problem.fall, problem.steepest = fall, steepest
    tried: list[tuple[float, float, list[list[Barrier]], Problem, list[list[Route]]]] = []
    with suppress(ArithmeticError):
        routes = [choose_routes(problem, 0)]
        tried.append((*_effort(routes), barriers, problem, routes))
        if tried[0][0] < cheap:
            return problem, routes
    goal = abs(epsilon + problem.base) if direction == "add" else epsilon - problem.base
    for loss in goal * np.geomspace(0.02, 2.0, 9) if goal > 0 else ():
        if time.process_time() > deadline:
            break
        lower = []
        for law, top in zip(problem.laws, barriers[-1], strict=True):
            steepness = (1 + 25 / goal) * -math.expm1(-float(loss))  # about the saddle point of the part below
            lower.append(min((law.score(float(loss)), softness(law.noise, steepness)), top))
        if lower == barriers[-1]:
            continue
        candidate = [lower, *barriers]
        other = Problem(history, epsilon, direction, candidate)
        other.fall, other.steepest = FALL + 4.0, steepest  # lower barriers are there to keep F near delta
        with suppress(ArithmeticError):
            routes = _all_routes(other, len(candidate))
            tried.append((*_effort(routes), candidate, other, routes))
    if not tried:
        raise ArithmeticError("no path ends")
    lowest = min(item[1] for item in tried)  # about log delta
    return min(tried, key=lambda item: item[0] * (1 + (item[1] - lowest) / 8))[3:]


def _all_routes(problem: Problem, parts: int) -> list[list[Route]]:
    """Return routes for all parts, none for those whose share in delta is negligible."""
    heights = []
    for index in range(parts):
        _, width, peak = problem.saddle(index)
        heights.append(peak + math.log(width))
    return [
        choose_routes(problem, index) if height > max(heights) - NEGLIGIBLE else []
        for index, height in enumerate(heights)
    ]


def _effort(routes: list[list[Route]]) -> tuple[float, float]:
    """Return about the number of inner sums with the first route of each part, and log of the largest integral."""
    first = [(1 if i == 0 else 2, route[0]) for i, route in enumerate(routes) if route]
    return sum(k * route.cost for k, route in first), max(r.peak + math.log(r.path.scale) for _, r in first)


def _plan(problem: Problem, routes: list[list[Route]], log_mass: float, avoid: int) -> Plan:
    """Return the routes with panels, and an estimate of delta; the first `avoid` routes are passed over."""
    parts, values = [], []
    for index, candidates in enumerate(routes):
        for route in candidates[min(avoid, len(candidates) - 1) :]:
            with suppress(ArithmeticError):
                panels, value, largest = lay_panels(problem, index, route)
                if abs(value.imag) > 20 * route.path.scale:
                    raise ArithmeticError("more than the start of the path allows")
                parts.append(Part(index, route.path, tuple(panels), route.peak + math.log(largest)))
                values.append((route.peak, value.imag / math.pi))
                break
        else:
            if candidates:
                raise ArithmeticError("no path is smooth")
    top = max(peak for peak, _ in values)
    total = sum(math.exp(peak - top) * value for peak, value in values)
    return Plan(problem, tuple(parts), top + math.log(max(total, 1e-12)), math.log(4.0) + log_mass)


@np.errstate(all="ignore")
def node_lines(problem: Problem, zeta: Complex, log_tol: Real, index: int) -> list[list[Line]]:
    """Return for each law the lines on which E is summed at every node.

    Args:
      problem: the laws.
      zeta: the nodes.
      log_tol: log of the absolute error that F may have at each.
      index: the barrier.
    """
    power = problem.log_power(zeta, index, FINE_SHARES)
    room = np.clip(log_tol - problem.log_factor(zeta).real - power.real, -300.0, -3.0)
    lines = []
    for i, law in enumerate(problem.laws):
        whole = np.log(np.maximum(np.abs(1 + problem.excess(i, zeta, index, FINE_SHARES)), 1e-15))
        lines.append(inner_lines(problem, i, zeta, index, room + whole - math.log(law.steps)))
    return lines
