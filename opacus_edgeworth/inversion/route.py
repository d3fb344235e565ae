r"""Which barriers to set for rare events, and where the lines and links go.

Nothing here needs to be exact: every choice gives true bounds, a good one makes them narrow and cheap.

On the real axis F(c) = e^{G(c) + (1-c) e} / (c (c - 1)) is least at the saddle point, and a line is well conditioned if
F is about as large as delta there, and cheap if F falls quickly on it. For every pair of barriers the table below has F
of the law between them; the route is the chain of pairs, from a law that matters little to the last barrier, with the
least work. Barriers lie at equal losses of all phases, in proportion to epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.special import ndtr

from opacus_edgeworth._types import BoolArray, FloatArray, IntArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.grid import LOG_SQRT_2PI
from opacus_edgeworth.inversion.law import FARTHEST, Law, barrier_for, exact, softness
from opacus_edgeworth.inversion.saddle import log_kappa
from opacus_edgeworth.mechanisms import loss_turn, privacy_loss, score_at_loss

LOG_CUT = 30.0
"""How far below delta the mass beyond the last barrier lies, in log."""
NEGLIGIBLE = 28.0
"""How far below delta, in log, the delta of a law lies that is bounded by Chernoff only."""
WELL, WORST = 2.0, 14.0
"""By how much, in log, a piece may exceed delta at no price, and at all: so much accuracy is lost."""
LOSSES = np.array([
    0.002, 0.005, 0.01, 0.02, 0.04, 0.07, 0.11, 0.16, 0.23, 0.32, 0.43, 0.56, 0.72, 0.9, 1.3, 2.0, 3.5, 7.0, 15.0, 50.0,
    200.0, 1e3, 5e3, 3e4, 2e5, 1e6, 1e7, 1e8,
])  # fmt: skip
"""Losses at barriers, as multiples of epsilon; those beyond the last barrier are left out."""
LOWER_LOSSES = (0.995, 0.98, 0.92, 0.8, 0.6, 0.35, 0.15, 0.05)
"""Losses at further barriers, as shares of the least loss, log(1 - q): where all steps together hardly reveal less than
epsilon, or where epsilon is less than delta, or negative."""
LOWEST_SCORE, MOST_BEYOND = -2.5, 30.0
"""The least score, and the most events beyond it, on average, of such a barrier: else the law up to it vanishes."""
FINE_LOSSES = np.sort(np.concatenate([LOSSES, np.geomspace(0.08, 2.8, 20)]))
"""More of them."""
LEAST_GAP, LARGEST_EXCESS, FINENESS = 1e-3, 700.0, 0.07
"""Tilts of the table: from c - 1 = LEAST_GAP to (c - 1) epsilon = LARGEST_EXCESS, FINENESS apart in log(c - 1)."""
MOST_EXCESS = 120.0
"""How much, in log, F may exceed its target where Chernoff is to bound aliases: beyond, barriers hardly hold."""
MAX_TABLE = 4e7
DECADES = np.geomspace(1.0, 3e4, 24)
"""Ends of lines that are tried, in units of the distance of nodes."""
SHARP_SHARE, BLUNT_SHARE, LARGE_LOSS = 0.18, 0.5, 5.0
"""Width of barriers, in u / s: sharp ones have their ends near, where e^{zL} turns less; for losses from LARGE_LOSS on,
which grow as u / s, that is no advantage, and soft ones let the gap law's characteristic function fall faster."""
LARGEST_RATE = 0.9
"""Sample rate up to which masses beyond barriers are used."""
LEAST_WORK = 2e5
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
      method: a Chernoff bound at c, a line, or no more than P's mass (see `certain`).
      log_value: about log of its delta.
    """

    ends: tuple[int, int]
    soft: FloatArray
    below: FloatArray | None
    barrier: FloatArray
    c: float
    left: float
    right: float
    method: Literal["chernoff", "line", "certain"]
    log_value: float


@dataclass(frozen=True, slots=True)
class Offers:
    """The best line for every two laws j < k, and for law k itself at [k, k]; arrays are (K, K).

    Args:
      work: products of nodes and scores, infinite where there is no line.
      at, left, right: indices on the table of its c, and of points where Chernoff bounds the aliases best.
      log_value: about log of the integral.
      certain: (K,), whether losses beyond law j are so large that what it gains is P's mass.
    """

    work: FloatArray
    at: IntArray
    left: IntArray
    right: IntArray
    log_value: FloatArray
    certain: BoolArray


class Router:
    """Tables on the real line from which routes are read off: one composition, the remove direction, one delta.

    Epsilon may be negative: `engines` asks for that on behalf of the add direction.
    """

    def __init__(self, steps: Composition, log_delta: float, epsilon: float, *, fine: bool = False) -> None:
        """Make the tables for about these values; fine ones have more barriers, for a second attempt.

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
        scale = max(epsilon, math.exp(min(log_delta, 0.0)), 1e-300)
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
            self.tilted = np.exp(np.minimum(exponent + np.log(self.density), LARGEST_EXPONENT))  # (C, P, J)
        levels = [loss * np.ones_like(self.q) for loss in scale * (FINE_LOSSES if fine else LOSSES)]
        if fine or epsilon < max(scale, float(steps.steps @ steps.sample_rate)):
            levels = [share * np.log1p(-self.q) for share in LOWER_LOSSES] + levels
        self.ends = self._barriers(levels, last)
        self.log_sum = self._log_sums(*self._powers())

    def log_value(self, epsilon: float) -> float:
        """Return about log of delta at epsilon, from the saddle points of the first law and of all gaps.

        Their widths are taken from where F rises by 1/2 on the left: on the right it may take off at once.
        """
        pairs = [self.log_sum[0, 0], *(self.log_sum[k, k + 1] for k in range(len(self.ends) - 1))]
        log_f = np.clip(np.array(pairs) - self._log_kernel(epsilon), -1e6, 1e6)
        row, at, least = np.arange(len(pairs)), log_f.argmin(axis=1), log_f.min(axis=1)
        columns = np.arange(self.gap.size)
        risen = (log_f > least[:, None] + 0.5) & (columns < at[:, None])
        low = np.where(risen, columns, -1).max(axis=1)
        inside, outside = np.minimum(low + 1, at), np.maximum(low, 0)
        rise, more = log_f[row, inside] - least, log_f[row, outside] - log_f[row, inside]
        share = np.where(low >= 0, (0.5 - rise) / np.where(more > 0.0, more, 1.0), 0.0)
        left = self.gap[inside] + share * (self.gap[outside] - self.gap[inside])
        width = np.where(low >= 0, self.gap[at] - left, self.gap[at])
        return float(np.logaddexp.reduce(least + np.log(width / 2.51)))

    def route(self, epsilon: float, offers: Offers, avoid: Iterable[tuple[int, int]] = ()) -> list[Piece]:
        """Return the pieces of which delta at epsilon consists, without lines between the `ends` to avoid.

        Raises:
          OutOfReachError: there is no affordable route.
        """
        size = len(self.ends)
        costs = offers.work.copy()
        for ends in avoid:
            costs[ends] = math.inf
        for j in np.flatnonzero(offers.certain):
            costs[j, j + 1 :] = LEAST_WORK / 4.0
        total, before = np.full(size, math.inf), np.arange(size)
        negligible: dict[int, Piece] = {}
        for k in range(size):
            piece = self._negligible(k, epsilon)
            if piece is not None:
                negligible[k], total[k] = piece, LEAST_WORK
                continue
            work = np.append(total[:k] + costs[:k, k], costs[k, k])
            before[k] = np.argmin(work)
            total[k] = work[before[k]]
        if not math.isfinite(total[-1]):
            raise OutOfReachError("no affordable route")
        path = [size - 1]
        while before[path[0]] != path[0]:
            path.insert(0, int(before[path[0]]))
        first = negligible.get(path[0]) or self._piece(path[0], path[0], offers)
        return [first, *(self._piece(j, k, offers) for j, k in pairwise(path))]

    def _log_kernel(self, epsilon: float) -> FloatArray:
        """Return log of c (c - 1) e^{(c - 1) epsilon} on the table, (C,)."""
        return self.gap * epsilon + self.log_gap + np.log1p(self.gap)

    def _barriers(self, losses: Sequence[FloatArray], last: FloatArray) -> list[FloatArray]:
        """Return barriers at these losses, each in all phases at least W below the next one or equal to it."""
        ends = [last]
        for loss in losses[::-1]:
            barrier = exact(score_at_loss(loss, self.s, self.q))
            barrier = np.where(barrier > ends[0] - self.soft, ends[0], barrier)
            beyond = float(self.steps.steps @ ndtr(-barrier[:, 0]))
            if np.any(loss < 0.0) and (beyond > MOST_BEYOND or float(barrier.min()) < LOWEST_SCORE):
                break
            if np.any(barrier < ends[0]):
                ends.insert(0, barrier)
        return ends

    def _powers(self) -> tuple[FloatArray, FloatArray]:
        """Return G of the first law, (C,), and what G gains from each law to the next, (K - 1, C)."""
        counts = self.steps.steps
        gain: list[FloatArray] = []
        # masses in closed form: the table's scores are too far apart for them where n is large
        beyond = [ndtr(-end[:, 0] / np.hypot(1.0, self.soft[:, 0])) for end in self.ends]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            phi = self._moment(ndtr((self.ends[0] - self.score) / self.soft), 1.0 - beyond[0])
            power = np.log(phi) @ counts + 0.5 * self.steps.gaussian * (1.0 + self.gap) * self.gap
            for k, (below, barrier) in enumerate(pairwise(self.ends)):
                low, high = (self.score - below) / self.soft, (self.score - barrier) / self.soft
                between = np.where(low + high > 0.0, ndtr(-high) - ndtr(-low), ndtr(low) - ndtr(high))
                more = self._moment(between, beyond[k] - beyond[k + 1])
                gain.append(np.log1p(more / phi) @ counts)
                phi = phi + more
        return power, np.array(gain).reshape(-1, self.gap.size)

    def _moment(self, chi: FloatArray, mass: FloatArray) -> FloatArray:
        """Return E_Q[chi e^{cL}], (C, P), given E_Q[chi], (P,)."""
        seen = (self.density * chi).sum(axis=1)
        moment = np.einsum("cpj,pj->cp", self.tilted, chi)
        moment *= np.where(seen > 1e-290, mass / np.maximum(seen, 1e-300), 1.0)
        return np.where(moment < OVERFLOW, moment, math.inf)

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

    def _negligible(self, k: int, epsilon: float) -> Piece | None:
        """Return the law up to barrier k as a piece for which a Chernoff bound will do, if it does."""
        bound = self.log_sum[k, k] + self.log_kappa - self.gap * epsilon
        small = np.flatnonzero(bound < self.log_delta - NEGLIGIBLE)
        if not small.size:
            return None
        at = int(small[0])  # a higher tilt asks for more of the barrier
        c = 1.0 + float(self.gap[at])
        return Piece((k, k), self.soft, None, self.ends[k], c, c, c, "chernoff", float(bound[at]))

    def _piece(self, j: int, k: int, offers: Offers) -> Piece:
        """Return what was offered for two laws."""
        below = self.ends[j] if j < k else None
        if below is not None and offers.certain[j]:
            mass = self._beyond(below)[1] - self._beyond(self.ends[k])[1]
            log_value = min(math.log(max(mass, 1e-300)), 0.0)
            return Piece((j, k), self.soft, below, self.ends[k], 1.0, 1.0, 1.0, "certain", log_value)
        c, left, right = (1.0 + float(self.gap[x[j, k]]) for x in (offers.at, offers.left, offers.right))
        return Piece((j, k), self.soft, below, self.ends[k], c, left, right, "line", float(offers.log_value[j, k]))

    def offers(self, epsilon: float) -> Offers:
        """Return where on the table lines may be put, and what they cost.

        That is near the saddle point, where F is least; but where G takes off close to it, at some distance from there.
        F (c - 1) at c is hardly less than the integral of |F| along the line: if it is large, digits are lost, and that
        has its price.
        """
        size, columns = len(self.ends), np.arange(self.gap.size)
        at, left, right = np.zeros((3, size, size), dtype=np.intp)
        offers = Offers(
            np.full((size, size), math.inf), at, left, right, np.full((size, size), -math.inf), self._certain(epsilon)
        )
        lower, upper = np.triu_indices(size)
        log_f = self.log_sum[lower, upper] - self._log_kernel(epsilon)  # (N, C)
        at, least = log_f.argmin(axis=1), log_f.min(axis=1)
        risen = log_f > least[:, None] + 0.5
        low: IntArray = np.where(risen & (columns < at[:, None]), columns, -1).max(axis=1)
        high: IntArray = np.where(risen & (columns > at[:, None]), columns, columns.size).min(axis=1)
        usable = np.isfinite(least) & (at > 0) & (at < columns.size - 1)
        low, high = np.where(low < 0, at, low), np.where(high == columns.size, at, high)
        log_value = least + np.log(0.5 * (self.gap[high] - self.gap[low]) / 2.51 + 1e-300)
        usable &= log_value < self.log_delta + WORST
        lower, upper, log_f, log_value = lower[usable], upper[usable], log_f[usable], log_value[usable]
        if not usable.any():
            return offers
        low_enough = (log_f < least[usable, None] + 4.0) & (columns > 0) & (columns < columns.size - 1)
        begin, end = low_enough.argmax(axis=1), columns.size - 1 - low_enough[:, ::-1].argmax(axis=1)
        near = np.asarray(np.linspace(begin, end, 10, axis=1), dtype=np.intp)  # (N, 10)
        excess = log_f - self.log_delta + 32.0
        room = (excess < MOST_EXCESS) * 2.0 * math.pi / np.maximum(excess, 1.0)
        room = room[:, None, :] * (self.gap - self.gap[near][..., None])
        left, right = room.argmin(axis=2), room.argmax(axis=2)
        step = np.minimum(-room.min(axis=2), room.max(axis=2))
        lost = np.take_along_axis(log_f, near, axis=1) + self.log_gap[near] - self.log_delta - WELL
        last = np.empty(lower.size)
        links = lower < upper
        last[links] = self._last_of_links(lower[links], upper[links], log_value[links])
        for i in np.flatnonzero(~links):
            last[i] = self._last_of_start(int(upper[i]), int(near[i, 0]), float(step[i, 0]))
        work = LEAST_WORK * np.exp(np.minimum(np.maximum(lost, 0.0), 40.0))
        with np.errstate(divide="ignore", over="ignore"):
            work += (self._size(last) * last)[:, None] / np.maximum(step, 0.0)
        row = np.arange(lower.size), work.argmin(axis=1)
        offers.work[lower, upper], offers.log_value[lower, upper] = work[row], log_value
        for table, choice in ((offers.at, near), (offers.left, left), (offers.right, right)):
            table[lower, upper] = choice[row]
        return offers

    def _beyond(self, barrier: FloatArray) -> tuple[float, float]:
        """Return about what a barrier takes from Q and from P, over all steps."""
        of_q, of_p = Law(self.steps, barrier, None, barrier, self.soft).mass_lost()
        return float(self.steps.steps @ of_q), float(self.steps.steps @ of_p)

    def _certain(self, epsilon: float) -> BoolArray:
        """Return of which laws all that lies beyond is so loud that Q's mass there is negligible, (K,)."""
        beyond = np.log(np.array([self._beyond(end)[0] for end in self.ends]) + 1e-300)
        return (beyond + epsilon < self.log_delta - NEGLIGIBLE) & (float(self.q.max()) < LARGEST_RATE)

    def _last_of_links(self, lower: IntArray, upper: IntArray, log_value: FloatArray) -> FloatArray:
        """Return about where the lines of links end, (N,)."""
        ends = np.array(self.ends)[..., 0]  # (K, P)
        soft, s, q = self.soft[:, 0], self.s[:, 0], self.q[:, 0]
        height = np.minimum(0.9 * math.pi * s, 5.0 * soft)
        turn = loss_turn(ends - 2.0 * soft, height / s, s, q)[lower]
        log_need = 32.0 + np.maximum(log_value - self.log_delta, 0.0)[:, None] + 0.5 * (height / soft) ** 2
        return np.where(ends[lower] < ends[upper], log_need / np.maximum(turn, 1e-300), 0.0).max(axis=1)

    def _last_of_start(self, k: int, at: int, step: float) -> float:
        """Return about where the line of law k ends; infinite if it hardly decays."""
        law = self.tilted[at] * ndtr((self.ends[k] - self.score) / self.soft)
        law /= law.sum(axis=1, keepdims=True)
        low, high = -1, DECADES.size  # of the ends of lines that are tried, the first one beyond which little is left
        while high - low > 1:
            middle = (low + high) // 2
            last = min(float(DECADES[middle]) * step, 1e150)  # whose square is a number
            with np.errstate(divide="ignore"):
                decay = np.log(np.abs(np.einsum("pj,pj->p", law, np.exp(1j * last * self.loss)))) @ self.steps.steps
            low, high = (low, middle) if decay - 0.5 * self.steps.gaussian * last**2 < -40.0 else (middle, high)
        return 2.0 * step * float(DECADES[high]) if high < DECADES.size else math.inf

    def _size(self, last: FloatArray) -> FloatArray:
        """Return about how many scores lines up to |y| = last need, (N,)."""
        soft, s = self.soft[:, 0], self.s[:, 0]
        density = 2.0 * math.sqrt(20.0) / soft + last[:, None] / s
        density = np.maximum(density, (50.0 + 3.0 * last[:, None]) / (0.9 * math.pi * s)) / (2.0 * math.pi)
        return density @ (self.ends[-1][:, 0] + FARTHEST * soft)
