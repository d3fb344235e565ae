"""The search for free choices that make an audit's proof narrow and cheap: contour, nodes, scores, barriers.

Everything here is in floats and rough, and nothing needs to be right: a bad choice makes a wide proof, or none. What is
proved is found out by `certificate.complete_proof`. Letters are those of `balls`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_ndtr

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.certification.balls import Rule
from opacus_edgeworth.errors import CertificationError

LOG_SMALL = 40.0
"""How far below delta every error term should lie, in log: beyond what a double can show."""
MAX_LINE = 30_000
"""Nodes beyond which a line is given up."""
SHIFTS = np.geomspace(1e-4, 0.9, 48)
"""Candidates for shifts of the line of scores, in units of pi s."""
STEPS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002)
"""Candidates for the step of the line, in units of 1 / sd."""
CHEAP = 3e6
"""Cost of a line below which no other is looked for."""
MAX_COST = 2e8
"""Cost beyond which a line is given up: about half a minute."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One sampled phase in floats; see `balls.Rule` for the barriers."""

    noise: float
    rate: float
    steps: int
    width: float = 0.0
    split: float = math.inf
    cut: float = math.inf

    @property
    def growth(self) -> float:
        """The factor g of `balls`."""
        return 1.0 + self.width**-2 if self.width > 0.0 else 1.0

    def scores(self, x: float, part: str = "all") -> FloatArray:
        """Return scores that cover a part of the law under the tilt x."""
        low, high = self.range(x, part, 12.0)
        spacing = 0.15 * min(1.0, self.noise, self.width or 1.0)
        if not (high - low) / spacing < 2e5:
            raise CertificationError(f"noise multiplier {self.noise!r} is beyond the reach of audits")
        return np.arange(low, high, spacing)

    def slope(self, u: float) -> float:
        """Return dL/du at a score."""
        w = u / self.noise - 0.5 / self.noise**2
        return (
            self.rate / (self.rate + (1.0 - self.rate) * math.exp(-min(w, 700.0))) / self.noise if w > -700.0 else 0.0
        )

    def range(self, x: float, part: str, reach: float) -> tuple[float, float]:
        """Return scores beyond which a part of the law under the tilt x is negligible: e^{-reach^2 / 2}."""
        low, high = -reach, reach + max(x, 0.0) / self.noise
        while x < 0.0 and -low + x * self.slope(low) < reach:
            low -= 1.0
        end = self.split if part == "quiet" else self.cut
        if end < math.inf:
            peak = (max(x, 0.0) / self.noise + end / self.width**2) / self.growth
            high = min(high, max(peak, end) + reach / math.sqrt(self.growth))
        return low, high

    def log_weight(self, u: FloatArray, part: str) -> FloatArray:
        """Return log k N(u) chi(u), about."""
        result = -0.5 * u * u + math.log((u[1] - u[0]) / math.sqrt(2.0 * math.pi))
        end = self.split if part == "quiet" else self.cut
        if end < math.inf:
            result += log_ndtr((end - u) / self.width)
        if part == "loud":
            result += log_ndtr((u - self.split) / self.width)
        return result

    def log_moment(self, x: float, part: str = "all") -> float:
        """Return log phi(x)."""
        u = self.scores(x, part)
        w = u / self.noise - 0.5 / self.noise**2
        loss = np.logaddexp(math.log1p(-self.rate), math.log(self.rate) + w)
        return float(_log_sum(self.log_weight(u, part) + x * loss))

    def log_decay(self, x: float, y: float, part: str) -> tuple[float, float]:
        """Return (log of the bound on |phi(x + iy)|, the shift that gives it)."""
        u = self.scores(x)
        shift = np.minimum(SHIFTS * math.pi * self.noise, 20.0)[:, None]
        mixture = math.log(self.rate) - math.log1p(-self.rate) + u / self.noise - 0.5 / self.noise**2
        large = np.exp(-np.abs(mixture))  # the smaller of the two components over the larger
        turn = np.exp(1j * shift / self.noise)
        inner = np.where(mixture > 0, turn + large, 1.0 + large * turn)
        loss = math.log1p(-self.rate) + np.maximum(mixture, 0.0) + np.log(np.abs(inner))
        exponent = self.log_weight(u, part) + x * loss - y * np.angle(inner)
        bound = _log_sum(exponent) + 0.5 * self.growth * shift[:, 0] ** 2
        best = int(np.argmin(bound))
        return float(bound[best]), float(shift[best, 0])


@dataclass(frozen=True, slots=True)
class Plan:
    """A line: tilt, step, nodes, tilts for its Chernoff bounds, and scores; see `certificate.Proof`."""

    tilt: float
    step: float
    nodes: int
    side_tilts: tuple[float, ...]
    rules: tuple[Rule, ...]

    @property
    def cost(self) -> float:
        """Nodes times scores, and something for every score."""
        return sum((self.nodes + 100.0) * (rule.last - rule.first + 1) for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Search:
    """One direction of a run, near one epsilon: how to choose a line."""

    phases: tuple[Phase, ...]
    gaussian: float
    direction: Direction
    epsilon: float
    log_target: float

    @property
    def is_split(self) -> bool:
        """Whether laws are split into quiet and loud events."""
        return any(phase.split < math.inf for phase in self.phases)

    def cut(self, width: float) -> Search:
        """Return the run with laws cut off, where that costs little."""
        low, high = 0.0, 60.0
        while high > low + 0.05:
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self._log_cut_off(middle, width) <= self.log_target - 1.0 else (middle, high)
        return replace(self, phases=tuple(replace(phase, width=width, cut=high) for phase in self.phases))

    def _log_cut_off(self, cut: float, width: float) -> float:
        """Return the log of what cutting off costs."""
        spread = math.sqrt(1.0 + width**2)
        terms = [-math.inf]
        for phase in self.phases:
            terms.append(math.log(phase.steps) + float(log_ndtr(-cut / spread)))
            if self.direction == "remove":
                sampled = float(log_ndtr((1.0 / phase.noise - cut) / spread))
                terms.append(math.log(phase.steps) + math.log(phase.rate) + sampled)
        return float(_log_sum(np.array(terms))) if self.phases else -math.inf

    def split_at(self, loss: float) -> Search:
        """Return the run, cut off already, with every law split where its loss is `loss`."""
        split: list[Phase] = []
        for phase in self.phases:
            at = phase.noise * math.log((math.expm1(loss) + phase.rate) / phase.rate) + 0.5 / phase.noise
            split.append(replace(phase, split=min(at, phase.cut - phase.width)))
        return replace(self, phases=tuple(split))

    def argument(self, c: float) -> float:
        """Return where phi is needed for the tilt c."""
        return c if self.direction == "remove" else 1.0 - c

    def log_size(self, c: float, *, quiet: bool = False) -> float:
        """Return G(c), of the whole run or of quiet events."""
        x = self.argument(c)
        total = 0.5 * self.gaussian * x * (x - 1.0)
        for phase in self.phases:
            total += phase.steps * phase.log_moment(x, "quiet" if quiet and phase.split < math.inf else "all")
        return total

    def log_line(self, c: float) -> float:
        """Return G(c) - (c - 1) epsilon, of a split run less quiet events."""
        whole = self.log_size(c)
        if self.is_split:
            whole += math.log(-math.expm1(min(self.log_size(c, quiet=True) - whole, -1e-15)))
        return whole - (c - 1.0) * self.epsilon

    def log_chernoff(self, c: float, *, quiet: bool = False) -> float:
        """Return the log of Chernoff's bound on delta."""
        d = c - 1.0
        return (
            self.log_size(c, quiet=quiet) - d * self.epsilon + (d * math.log(d) if d > 0.0 else 0.0) - c * math.log(c)
        )

    def best_chernoff(self, *, quiet: bool = False) -> tuple[float, float]:
        """Return (tilt, log of Chernoff's bound there), about the best."""
        c = 1.0 + math.exp(_minimise(lambda t: self.log_chernoff(1.0 + math.exp(t), quiet=quiet)))
        return c, self.log_chernoff(c, quiet=quiet)

    def saddle(self) -> tuple[float, float]:
        """Return the tilt at which the line's integrand is smallest, and the standard deviation of the loss there."""
        c = 1.0 + math.exp(_minimise(lambda t: self.log_line(1.0 + math.exp(t)) - t - math.log1p(math.exp(t))))
        d = 0.01 * (c - 1.0)
        curvature = (self.log_line(c + d) - 2.0 * self.log_line(c) + self.log_line(c - d)) / d**2
        return c, math.sqrt(max(curvature, 0.0) + 1.0 / c**2 + 1.0 / (c - 1.0) ** 2)

    def step(self, c: float, sd: float) -> tuple[float, float, float]:
        """Return (h, tilt below, tilt above): the longest step whose alias terms are small."""
        below = [1.0 + (c - 1.0) * r for r in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.96, 0.99)]
        above = [
            1.0 + (c - 1.0) * r
            for r in (1.003, 1.01, 1.03, 1.06, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6, 1.8, 2.1, 2.5, 3.0, 4.0, 6.0, 10.0)
        ]
        sides = [[(self.log_chernoff(t), abs(t - c), t) for t in side] for side in (below, above)]
        for h in (factor / sd for factor in STEPS):
            terms = [min((size - _log_expm1(d * 2.0 * math.pi / h), t) for size, d, t in side) for side in sides]
            if max(terms)[0] <= self.log_target:
                return h, terms[0][1], terms[1][1]
        raise CertificationError(f"no step of the line serves at {self.epsilon!r}: the history is beyond audits")

    def log_truncation(self, c: float, y: float) -> tuple[float, list[float]]:
        """Return (log of about what lies beyond y, the shift for every phase)."""
        x = self.argument(c)
        part = "loud" if self.is_split else "all"
        found = [phase.log_decay(x, y, part) for phase in self.phases]
        total = self.log_size(c) - (c - 1.0) * self.epsilon - 0.5 * self.gaussian * y * y - math.log(math.pi * y)
        drops = [bound - phase.log_moment(x) for phase, (bound, _) in zip(self.phases, found, strict=True)]
        if self.is_split:
            terms = [math.log(phase.steps) + drop for phase, drop in zip(self.phases, drops, strict=True)]
            total += float(_log_sum(np.array(terms)))
        else:
            total += sum(phase.steps * min(drop, 0.0) for phase, drop in zip(self.phases, drops, strict=True))
        return total, [shift for _, shift in found]

    def last(self, c: float, h: float) -> float:
        """Return about the least y beyond which truncation is small."""
        low = high = 8.0 * h
        while self.log_truncation(c, high)[0] > self.log_target:
            low, high = high, 2.0 * high
            if high > h * MAX_LINE:
                return math.inf
        while high > 1.03 * low:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.log_truncation(c, middle)[0] > self.log_target else (low, middle)
        return high

    def rules(
        self, c: float, y: float, shifts: Sequence[float], tilts: Sequence[float], quiet: float
    ) -> tuple[Rule, ...]:
        """Return how to sum every phase, so that the errors at c + iy are small."""
        x = self.argument(c)
        goal = self.log_line(c) - self.log_target + math.log(sum(phase.steps for phase in self.phases) or 1) + 5.0
        goal = max(goal, 40.0)  # of a direction that hardly matters: still as exact as a double
        ends = [self.argument(t) for t in (c, *tilts)]
        result: list[Rule] = []
        for phase, shift in zip(self.phases, shifts, strict=True):
            spacing, strip, other = _scores(phase, x, y, shift, goal)
            reach = math.sqrt(2.0 * goal) + 1.0
            ranges = [phase.range(t, "all", reach) for t in ends]
            if phase.split < math.inf:
                ranges.append(phase.range(self.argument(quiet or c), "quiet", reach))
            first = math.floor(min(low for low, _ in ranges) / spacing)
            last = math.ceil(max(high for _, high in ranges) / spacing)
            split, cut = ((end,) if end < math.inf else () for end in (phase.split, phase.cut))
            result.append(Rule(spacing, first, last, strip, shift, other, phase.width, split, cut))
        return tuple(result)

    def plan(self) -> Plan:
        """Return a line, with whatever belongs to it."""
        c, sd = self.saddle()
        h, *tilts = self.step(c, sd)
        y = self.last(c, h)
        if not y < math.inf:
            raise CertificationError(
                f"more than {MAX_LINE} nodes are needed: the history is beyond the reach of audits"
            )
        nodes = math.ceil(y / h)
        y = nodes * h
        quiet = self.best_chernoff(quiet=True)[0] if self.is_split else 0.0
        rules = self.rules(c, y, self.log_truncation(c, y)[1], tilts, quiet)
        return Plan(c, h, nodes, (*tilts, quiet) if self.is_split else tuple(tilts), rules)


def _scores(phase: Phase, x: float, y: float, shift: float, goal: float) -> tuple[float, float, float]:
    """Return (spacing, strip, strip of the shifted line): the widest spacing whose errors are below e^-goal."""
    limit = 0.98 * math.pi * phase.noise
    left = max(-x, 0.0)
    a = np.minimum(np.geomspace(1e-3, 1.0, 200) * limit, 20.0)
    cost = goal + 1.0 + 0.5 * phase.growth * a**2 - left * np.log(np.cos(a / (2.0 * phase.noise)))
    spacing = 2.0 * math.pi * a / (cost + y * a / phase.noise)
    best = int(np.argmax(spacing))
    if shift == 0.0:
        return float(spacing[best]), float(a[best]), float(a[best])
    b = a * (limit - shift) / limit
    cost = goal + 1.0 + 0.5 * phase.growth * (b**2 + shift**2) + y * np.maximum(b - shift, 0.0) / (2.0 * phase.noise)
    cost -= left * np.log(np.cos((b + shift) / (2.0 * phase.noise)))
    shifted = 2.0 * math.pi * b / cost
    other = int(np.argmax(shifted))
    return min(float(spacing[best]), float(shifted[other])), float(a[best]), float(b[other])


def _log_sum(x: FloatArray) -> FloatArray:
    """Return log sum e^x over the last axis."""
    largest = x.max(axis=-1)
    return largest + np.log(np.exp(x - largest[..., None]).sum(axis=-1))


def _log_expm1(x: float) -> float:
    """Return log(e^x - 1), x > 0."""
    return x + math.log(-math.expm1(-x))


def _minimise(function: Callable[[float], float]) -> float:
    """Return about the minimiser of a function of log(c - 1)."""
    grid = np.linspace(-14.0, 14.0, 57)
    values: list[float] = []
    for t in grid:  # from small tilts up, until the function has clearly passed its minimum
        values.append(function(float(t)))
        if values[-1] > min(values) + 50.0 and len(values) > 3:
            break
    best = int(np.argmin(values))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(values) - 1)])
    for _ in range(18):
        a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
        low, high = (low, b) if function(a) < function(b) else (a, high)
    return 0.5 * (low + high)


def make_search(
    history: Sequence[tuple[float, float, int]], direction: Direction, epsilon: float, log_delta: float
) -> Search:
    """Return a search over whole laws."""
    sampled = tuple(Phase(s, q, n) for s, q, n in history if q < 1.0)
    gaussian = math.fsum(n / s**2 for s, q, n in history if q == 1.0)
    return Search(sampled, gaussian, direction, epsilon, log_delta - LOG_SMALL)


def best_plan(search: Search) -> Plan:
    """Return a cheap line: over whole laws, over laws cut off, or over loud events.

    Raises:
      CertificationError: none is cheap enough.
    """
    plans: list[Plan] = []
    for candidate in _candidates(search):
        with suppress(CertificationError):  # others follow
            plans.append(candidate.plan())
            if plans[-1].cost < CHEAP:
                break
    best = min(plans, key=lambda plan: plan.cost, default=None)
    if best is None or best.cost > MAX_COST:
        raise CertificationError("the events are too rare for audits: no line has few enough nodes and scores")
    return best


def _candidates(search: Search) -> Iterator[Search]:
    """Yield ways to cut laws off and to split them, the simplest first."""
    yield search
    for width in (1.0, 0.5, 0.25):
        yield search.cut(width)
    if search.direction == "remove" and search.epsilon > 0.0:
        for width in (0.05, 0.1, 0.2, 0.4):
            cut, low, high = search.cut(width), 1e-3 * search.epsilon, search.epsilon
            while high > 1.1 * low:  # the largest loss of quiet events at which they alone cannot reach epsilon
                loss = math.sqrt(low * high)
                log_quiet = cut.split_at(loss).best_chernoff(quiet=True)[1]
                low, high = (loss, high) if log_quiet <= search.log_target else (low, loss)
            yield cut.split_at(low)
