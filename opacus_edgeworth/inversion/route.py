r"""Which barriers to set for rare events, and where the lines and links go.

Nothing here needs to be exact: every choice gives true bounds, a good one makes them narrow and cheap.

On the real axis F(c) = e^{G(c) + (1-c) e} / (c (c - 1)) is least at the saddle point, and a line is well conditioned if
F is about as large as delta there, and cheap if F falls quickly on it. For every pair of barriers the table below has F
of the law between them; the route is the chain of pairs, from a law that matters little to the last barrier, with the
least work. Barriers lie at equal losses of all phases, in proportion to epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

from opacus_edgeworth._types import FloatArray, IntArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.grid import LOG_SQRT_2PI
from opacus_edgeworth.inversion.law import FARTHEST, barrier_for, exact, softness
from opacus_edgeworth.inversion.saddle import log_kappa
from opacus_edgeworth.mechanisms import loss_turn, privacy_loss, score_at_loss

LOG_CUT = 30.0
"""How far below delta the mass beyond the last barrier lies, in log."""
NEGLIGIBLE = 28.0
"""How far below delta, in log, the delta of a law lies that is bounded by Chernoff only."""
WELL, WORST = 3.0, 14.0
"""By how much, in log, a piece may exceed delta at no price, and at all: so much accuracy is lost."""
LOSSES = np.array([
    0.002, 0.005, 0.01, 0.02, 0.04, 0.07, 0.11, 0.16, 0.23, 0.32, 0.43, 0.56, 0.72, 0.9, 1.3, 2.0, 3.5, 7.0, 15.0, 50.0,
    200.0,
])  # fmt: skip
"""Losses at barriers, as multiples of epsilon."""
FINE_LOSSES = np.sort(np.concatenate([LOSSES, np.geomspace(0.08, 2.8, 20)]))
"""More of them, for a second attempt."""
LEAST_GAP, LARGEST_EXCESS, FINENESS = 1e-3, 700.0, 0.07
"""Tilts of the table: from c - 1 = LEAST_GAP to (c - 1) epsilon = LARGEST_EXCESS, FINENESS apart in log(c - 1)."""
MOST_EXCESS = 120.0
"""How much, in log, F may exceed its target where Chernoff is to bound aliases: beyond, barriers hardly hold."""
MAX_TABLE = 4e7
MAX_REVISIONS, LOWEST, HIGHEST, SMALLEST = 8, 1e-3, 3.0, 1e-3
"""How often tables are made anew for an epsilon, which lies between these multiples of the last one."""
DECADES = np.geomspace(1.0, 3e4, 24)
"""Ends of lines that are tried, in units of the distance of nodes."""
SHARP_SHARE, BLUNT_SHARE, LARGE_LOSS = 0.18, 0.5, 5.0
"""Width of barriers, in u / s: sharp ones have their ends near, where e^{zL} turns less; for losses from LARGE_LOSS on,
which grow as u / s, that is no advantage, and soft ones let the gap law's characteristic function fall faster."""
LEAST_WORK = 1e5
"""What a piece costs at least, in products of nodes and scores."""
LARGEST_EXPONENT, OVERFLOW = 690.0, 1e280
"""Where generating functions take off so far, nobody goes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of delta: that of the law up to `barrier`, less that of the law up to `below`, if there is one.

    Args:
      ends: numbers of the two laws in the router's table, equal if there is no `below`.
      soft, below, barrier: (P, 1).
      c: where its line goes; `left` and `right` are points where Chernoff bounds the aliases well.
      negligible: whether a Chernoff bound at c will do.
      log_value: about log of its delta.
    """

    ends: tuple[int, int]
    soft: FloatArray
    below: FloatArray | None
    barrier: FloatArray
    c: float
    left: float
    right: float
    negligible: bool
    log_value: float


@dataclass(frozen=True, slots=True)
class Candidates:
    """Where on the table a line may be put.

    Args:
      at: (N,), indices of c; `left` and `right` are those of points where Chernoff bounds the aliases best.
      step: (N,), the distance of nodes that this allows.
      log_value: about log of the integral.
    """

    at: IntArray
    step: FloatArray
    left: IntArray
    right: IntArray
    log_value: float


class Router:
    """Tables on the real line from which routes are read off: one composition, the remove direction, one delta."""

    def __init__(self, steps: Composition, log_delta: float, epsilon: float, losses: FloatArray = LOSSES) -> None:
        """Make the tables for about these values.

        Raises:
          OutOfReachError: they would be too large.
        """
        self.steps = steps
        self.log_delta = log_delta
        self.s, self.q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
        self.soft = softness(steps, SHARP_SHARE if epsilon < LARGE_LOSS else BLUNT_SHARE)
        last = barrier_for(steps, log_delta - LOG_CUT, self.soft)
        farthest = last + FARTHEST * self.soft
        spacing = np.minimum(0.15, 0.2 * self.s)
        points = math.ceil(float(((farthest + 9.0) / spacing).max()))
        # near epsilon = 0 it is losses of about delta that count, and more
        scale = max(epsilon, math.exp(min(log_delta, 0.0)))
        self.log_gap = np.arange(math.log(LEAST_GAP), math.log(LARGEST_EXCESS / scale), FINENESS)
        if not (self.log_gap.size >= 8 and points * steps.phases * self.log_gap.size <= MAX_TABLE):
            raise OutOfReachError(f"{points} scores for each of {steps.phases} phases")
        self.score = -9.0 + spacing * np.arange(points)
        self.loss = privacy_loss(self.score, self.s, self.q)
        self.density = spacing * np.exp(-0.5 * self.score**2 - LOG_SQRT_2PI) * (self.score <= farthest)
        self.gap = np.exp(self.log_gap)
        self.log_kappa = np.array([log_kappa(1.0 + gap) for gap in self.gap])
        exponent = (1.0 + self.gap)[:, None, None] * self.loss
        with np.errstate(divide="ignore"):
            large = np.exp(np.minimum(exponent + np.log(self.density), LARGEST_EXPONENT)) - self.density
        self.gain = np.where(exponent < 1.0, self.density * np.expm1(np.minimum(exponent, 1.0)), large)
        self.ends = self._barriers(losses * scale, last)
        self.log_sum = self._log_sums(*self._powers())

    def log_value(self, epsilon: float) -> float:
        """Return about log of delta at epsilon, from the saddle points of the first law and of all gaps."""
        pairs = [self.log_sum[0, 0], *(self.log_sum[k, k + 1] for k in range(len(self.ends) - 1))]
        log_f = np.array(pairs) - self._log_kernel(epsilon)
        at = np.clip(np.argmin(log_f, axis=1), 1, self.gap.size - 2)[:, None] + np.array([-1, 0, 1])
        left, middle, right = np.minimum(np.take_along_axis(log_f, at, axis=1), 1e6).T
        # in log(c - 1), in which the table is uniform
        curvature = np.maximum((left + right - 2.0 * middle) / FINENESS**2, 0.1)
        return float(np.logaddexp.reduce(middle + self.log_gap[at[:, 1]] - 0.5 * np.log(2.0 * math.pi * curvature)))

    def route(self, epsilon: float, avoid: Container[tuple[int, int]] = ()) -> list[Piece]:
        """Return the pieces of which delta at epsilon consists, without those between the `ends` to avoid.

        Raises:
          OutOfReachError: there is no affordable route.
        """
        log_f = self.log_sum - self._log_kernel(epsilon)  # (K, K, C)
        size = len(self.ends)
        best: list[tuple[float, list[Piece]]] = []
        for k in range(size):
            options = [self._start(k, epsilon, log_f[k, k]) if (k, k) not in avoid else (math.inf, [])]
            if not (options[0][1] and options[0][1][0].negligible):
                for j in range(k):
                    if math.isfinite(best[j][0]) and (j, k) not in avoid:
                        work, piece = self._link(j, k, log_f[j, k])
                        options.append((best[j][0] + work, [*best[j][1], *piece]))
            best.append(min(options, key=lambda option: option[0]))
        if not math.isfinite(best[-1][0]):
            raise OutOfReachError("no affordable route")
        return best[-1][1]

    def _log_kernel(self, epsilon: float) -> FloatArray:
        """Return log of c (c - 1) e^{(c - 1) epsilon} on the table, (C,)."""
        return self.gap * epsilon + self.log_gap + np.log1p(self.gap)

    def _barriers(self, losses: FloatArray, last: FloatArray) -> list[FloatArray]:
        """Return barriers at these losses, each in all phases at least W below the next one or equal to it."""
        ends = [last]
        for loss in losses[::-1]:
            barrier = exact(score_at_loss(loss, self.s, self.q))
            barrier = np.where(barrier > ends[0] - self.soft, ends[0], barrier)
            if np.any(barrier < ends[0]):
                ends.insert(0, barrier)
        return ends

    def _powers(self) -> tuple[FloatArray, FloatArray]:
        """Return G of the first law, (C,), and what G gains from each law to the next, (K - 1, C)."""
        counts, gain = self.steps.steps, []
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            chi = ndtr((self.ends[0] - self.score) / self.soft)
            phi = np.einsum("cpj,pj->cp", self.gain, chi) - ndtr(-self.ends[0][:, 0] / np.hypot(1.0, self.soft[:, 0]))
            power = (
                np.log1p(np.where(phi < OVERFLOW, phi, math.inf)) @ counts
                + 0.5 * self.steps.gaussian * (1.0 + self.gap) * self.gap
            )
            for below, barrier in zip(self.ends[:-1], self.ends[1:], strict=True):
                low, high = (self.score - below) / self.soft, (self.score - barrier) / self.soft
                between = np.where(low + high > 0.0, ndtr(-high) - ndtr(-low), ndtr(low) - ndtr(high))
                more = np.einsum("cpj,pj->cp", self.gain + self.density, between)
                gain.append(np.log1p(np.where(more < OVERFLOW, more / (1.0 + phi), math.inf)) @ counts)
                phi = phi + more
        return power, np.array(gain).reshape(-1, self.gap.size)

    def _log_sums(self, below: FloatArray, change: FloatArray) -> FloatArray:
        """Return log of e^G of law k at [k, k] and of the difference of laws j < k at [j, k], (K, K, C).

        From G of the first law, (C,), and what G gains from each law to the next, (K - 1, C).
        """
        size = len(self.ends)
        table = np.full((size, size, self.gap.size), math.inf)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for j in range(size):
                table[j, j] = below
                gained = np.zeros(self.gap.size)
                for k in range(j + 1, size):
                    gained = gained + change[k - 1]
                    table[j, k] = below + np.where(gained < 600.0, np.log(np.expm1(gained)), gained)
                if j + 1 < size:
                    below = below + change[j]
        return np.where(np.isnan(table), math.inf, table)

    def _start(self, k: int, epsilon: float, log_f: FloatArray) -> tuple[float, list[Piece]]:
        """Return the work for the law up to barrier k and the piece, negligible if that will do."""
        bound = self.log_sum[k, k] + self.log_kappa - self.gap * epsilon
        small = np.flatnonzero(bound < self.log_delta - NEGLIGIBLE)
        if small.size:
            at = int(small[0])  # a higher tilt asks for more of the barrier
            c = 1.0 + float(self.gap[at])
            return LEAST_WORK, [Piece((k, k), self.soft, None, self.ends[k], c, c, c, True, float(bound[at]))]
        found = self._candidates(log_f)
        if found is None:
            return math.inf, []
        law = (self.gain[found.at[0]] + self.density) * ndtr((self.ends[k] - self.score) / self.soft)
        law /= law.sum(axis=1, keepdims=True)
        for last in DECADES * found.step[0]:
            with np.errstate(divide="ignore"):
                decay = np.log(np.abs(np.einsum("pj,pj->p", law, np.exp(1j * last * self.loss)))) @ self.steps.steps
            if decay - 0.5 * self.steps.gaussian * last**2 < -40.0:
                return self._best(k, k, found, log_f, 2.0 * last)
        return math.inf, []

    def _link(self, j: int, k: int, log_f: FloatArray) -> tuple[float, list[Piece]]:
        """Return the work for what the law gains between two barriers, and the piece."""
        found = self._candidates(log_f)
        if found is None:
            return math.inf, []
        height = np.minimum(0.9 * math.pi * self.s, 5.0 * self.soft)
        turn = loss_turn(self.ends[j] - 2.0 * self.soft, height / self.s, self.s, self.q)
        log_need = 32.0 + max(found.log_value - self.log_delta, 0.0) + 0.5 * (height / self.soft) ** 2
        last = float((log_need / np.maximum(turn, 1e-300))[self.ends[j] < self.ends[k]].max())
        return self._best(j, k, found, log_f, last)

    def _candidates(self, log_f: FloatArray) -> Candidates | None:
        """Return where on the table a line may be put; None if nowhere.

        That is near the saddle point, where F is least; but where G takes off close to it, at some distance from there.
        """
        at, size, gap = int(np.argmin(log_f)), log_f.size, self.gap
        if not (0 < at < size - 1 and math.isfinite(log_f[at])):
            return None
        low = at - int(np.argmax(log_f[at::-1] > log_f[at] + 0.5))
        high = at + int(np.argmax(log_f[at:] > log_f[at] + 0.5))
        log_value = float(log_f[at] + np.log(0.5 * (gap[high] - gap[low]) / 2.51 + 1e-300))
        if not log_value < self.log_delta + WORST:
            return None
        near = np.flatnonzero(log_f[1:-1] < log_f[at] + 4.0) + 1
        near = near[np.linspace(0, near.size - 1, min(near.size, 10)).astype(int)]
        excess = log_f - self.log_delta + 32.0
        room = 2.0 * math.pi * (gap - gap[near, None]) / np.maximum(excess, 1.0) * (excess < MOST_EXCESS)
        left, right = np.argmin(room, axis=1), np.argmax(room, axis=1)
        row = np.arange(near.size)
        step = np.minimum(-room[row, left], room[row, right])
        usable = step > 0.0
        if not usable.any():
            return None
        return Candidates(near[usable], step[usable], left[usable], right[usable], log_value)

    def _best(self, j: int, k: int, found: Candidates, log_f: FloatArray, last: float) -> tuple[float, list[Piece]]:
        """Return the least work for a line up to |y| = last, and the piece.

        F (c - 1) at c is hardly less than the integral of |F| along the line: if it is large, digits are lost, and that
        has its price.
        """
        lost = log_f[found.at] + self.log_gap[found.at] - self.log_delta - WELL
        work = LEAST_WORK * np.exp(np.minimum(np.maximum(lost, 0.0), 40.0)) + self._size(last) * last / found.step
        best = int(np.argmin(work))
        c, left, right = (1.0 + float(self.gap[i[best]]) for i in (found.at, found.left, found.right))
        below = self.ends[j] if j < k else None
        piece = Piece((j, k), self.soft, below, self.ends[k], c, left, right, False, found.log_value)
        return float(work[best]), [piece]

    def _size(self, last: float) -> float:
        """Return about how many scores a line up to |y| = last needs."""
        spacing = 2.0 * math.pi / (2.0 * math.sqrt(20.0) / self.soft + last / self.s)
        spacing = np.minimum(spacing, 2.0 * math.pi * 0.9 * math.pi * self.s / (50.0 + 3.0 * last))
        return float(((self.ends[-1] + FARTHEST * self.soft) / spacing).sum())


def router_for_delta(steps: Composition, delta: float, start: float) -> tuple[Router, float]:
    """Return tables for about the epsilon at which `delta` is reached, and that epsilon; `start` is a first guess.

    If delta(0) is less, the epsilon is SMALLEST times delta.

    Raises:
      OutOfReachError: none is found.
    """
    log_delta, epsilon = math.log(delta), start
    for _ in range(MAX_REVISIONS):
        router = Router(steps, log_delta, epsilon)
        low, high = max(epsilon * LOWEST, SMALLEST * delta), epsilon * HIGHEST
        if not router.log_value(low) > log_delta:
            found = low
        elif not router.log_value(high) < log_delta:
            found = high
        else:
            found = _crossing(router, low, high)
        if 0.7 < found / epsilon < 1.4 or found == SMALLEST * delta:
            return router, found
        epsilon = found
    raise OutOfReachError("no epsilon")


def _crossing(router: Router, low: float, high: float) -> float:
    """Return about the epsilon between the two at which the router's delta is reached."""

    def excess(log_epsilon: float) -> float:
        return router.log_value(math.exp(log_epsilon)) - router.log_delta

    root = brentq(excess, math.log(low), math.log(high), xtol=1e-3)
    assert isinstance(root, float)
    return math.exp(root)
