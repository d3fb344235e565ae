r"""Histories of many phases: few phases like them say where the lines go, all of them are summed on them.

A schedule has a phase for every step. Where lines and barriers should be hardly depends on so much detail: they are
chosen for FEW phases like the schedule's, which needs not be right, since every choice gives true bounds. Then every
phase's terms are computed on these nodes (`contour.further_lines`, `chain.further_chain`), the same terms as for a
short history, and put together (`product`), so that memory stays small.

All terms are sums over the steps, so a step more is one phase's terms more: what `memory` lives on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.chain import further_chain
from opacus_edgeworth.inversion.contour import LineTable, further_lines
from opacus_edgeworth.inversion.grid import make_grid
from opacus_edgeworth.inversion.inverting import NARROW_CHAIN, Table, by_lines, invert, invert_line
from opacus_edgeworth.inversion.law import Law, barriers_like, law_for_tilt, sum_of_masses
from opacus_edgeworth.inversion.line import Chernoff, log_chernoff
from opacus_edgeworth.inversion.quadrature import log_mgf_upper
from opacus_edgeworth.mechanisms import ULP

FEW, MANY = 24, 48
"""Phases by which more than MANY are represented, at most."""
AT_ONCE = 32
"""Phases whose terms are held at once."""
TILTS = (0.1, 0.2, 0.35, 0.6, 1.0, 1.5, 2.5, 4.0)
"""Tilts at which Chernoff bounds the add direction: (c - 1) epsilon in units of 1 - log(delta)."""
SHARES = (1.0, 1.35, 1.8, 2.4, 3.2, 4.3, 5.8, 8.0)
"""The same with a line for the remove direction: c - 1 in units of the line's; shorter histories have larger ones."""
LARGEST_GAP = 1e15
LONGER, MUCH_LONGER, MOST_NODES = 1.2, 1.5, 2000
"""By which factor lines are longer than they need to be; by which one again if that fails, up to so many nodes."""
ROOM = 0.6
"""Share of delta at which Chernoff bounds are taken to do for other steps, too."""
MOST_SPREAD, FINEST = 60.0, 0.01

Asked = Callable[[Composition, float, list[Table]], Bounds]
"""Bounds on epsilon at a delta; the table behind them is appended to the list, if there is one."""


def few_like(steps: Composition) -> Composition:
    """Return a composition of at most FEW phases, and of whole numbers of steps, that is about like another.

    Phases in one cell of a grid in log(noise) and log(rate) are put together, at means weighted by their share of
    mu^2 = n q^2 (e^{1/s^2} - 1) (see `solving.about_noise`).
    """
    if steps.phases <= FEW:
        return steps
    share = gaussian_like(steps)
    places = np.stack([np.log(steps.noise_multiplier), np.log(steps.sample_rate)])
    width = FINEST
    while True:
        cells = np.floor((places - places.min(axis=1, keepdims=True)) / width).astype(np.int64)
        _, cell = np.unique(cells, axis=1, return_inverse=True)
        cell = cell.reshape(-1)
        if int(cell.max()) < FEW:
            break
        width *= 1.25
    weight = np.maximum(np.bincount(cell, share), 1e-300)
    s, q = (np.exp(np.bincount(cell, np.maximum(share, 1e-300) * place) / weight) for place in places)
    count = np.ceil(np.bincount(cell, steps.steps))
    order = np.lexsort((q, s))
    return replace(steps, noise_multiplier=s[order], sample_rate=np.minimum(q[order], 1.0 - 1e-9), steps=count[order])


def gaussian_like(steps: Composition) -> FloatArray:
    """Return about the mu^2 of every phase; see `few_like`."""
    spread = np.minimum(steps.noise_multiplier**-2.0, MOST_SPREAD)
    return steps.steps * steps.sample_rate**2 * np.expm1(spread)


@dataclass(frozen=True, slots=True)
class AddBound:
    """Chernoff bounds on delta in the add direction; `product` and `joined` are as in `LineTable`.

    Args:
      chernoff: at points c > 1.
      most_lost: (P,), what the laws' barriers take from delta, per step.
      limit: (P,), -log(1 - q): the most that a step's loss can be below 0.
    """

    chernoff: Chernoff
    most_lost: FloatArray
    limit: FloatArray

    def proves(self, steps: Composition, epsilon: float, delta: float) -> bool:
        """Whether delta in the add direction is proved to be at most `delta` at epsilon > 0."""
        limit = float(self.limit @ steps.steps) * (1.0 + ULP * (steps.phases + 8))
        if steps.gaussian == 0.0 and epsilon >= limit:
            return True
        log_delta = min(log_chernoff(c, value, epsilon) for c, value in self.chernoff.bounds(steps)[1:])
        return math.exp(min(log_delta, 700.0)) + sum_of_masses(self.most_lost, steps.steps) <= delta

    def product(self, counts: FloatArray) -> AddBound:
        """Return the bounds for all steps together, so many of each phase, as for one phase."""
        return AddBound(
            self.chernoff.product(counts),
            np.array([sum_of_masses(self.most_lost, counts)]),
            np.array([float(self.limit @ counts) * (1.0 + ULP * (counts.size + 8))]),
        )

    def select(self, index: int) -> AddBound:
        """Return the bounds for one phase alone."""
        only = slice(index, index + 1)
        return AddBound(self.chernoff.select(index), self.most_lost[only], self.limit[only])

    def joined(self, more: AddBound) -> AddBound:
        """Return the bounds for these phases and for more."""
        return AddBound(
            self.chernoff.joined(more.chernoff),
            np.append(self.most_lost, more.most_lost),
            np.append(self.limit, more.limit),
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """What a proof of epsilon needs of some phases; `product` and `joined` are as in `LineTable`.

    Args:
      table: lines for both directions, or a line or a chain for the remove direction.
      add: for the other one, if the table is not.
    """

    table: Table
    add: AddBound | None

    def product(self, counts: FloatArray) -> Terms:
        """Return the terms of one phase, one step of which is so many steps of each of these."""
        return Terms(self.table.product(counts), None if self.add is None else self.add.product(counts))

    def select(self, index: int) -> Terms:
        """Return the terms of one phase alone, with lines."""
        assert isinstance(self.table, LineTable)
        return Terms(self.table.select(index), None if self.add is None else self.add.select(index))

    def joined(self, more: Terms) -> Terms:
        """Return the terms of these phases and of more, which are of the same plan."""
        add = None if self.add is None or more.add is None else self.add.joined(more.add)
        return Terms(self.table.joined(more.table), add)  # type: ignore[arg-type]

    def epsilon(self, counts: FloatArray, gaussian: float, delta: float, start: float) -> Bounds | None:
        """Return bounds on epsilon at delta, for so many steps of each phase and unsampled ones; None if not narrow.

        `start` is a first guess.
        """
        steps = _nameless(counts, gaussian)
        if not isinstance(self.table, LineTable):
            known = invert(self.table.chain(steps).delta, steps, delta, "remove", start, 1.0 / max(start, 1e-12))
        elif self.add is None:
            known, proved = by_lines(self.table, steps, delta, start, NARROW_CHAIN)
            return known if proved else None
        else:
            known = invert_line(self.table.lines(steps)[0], steps, delta, "remove", start)
        if known.relative_width <= NARROW_CHAIN and self.add is not None and self.add.proves(steps, known.upper, delta):
            return known
        return None

    def delta(self, counts: FloatArray, gaussian: float, epsilon: float) -> Bounds | None:
        """Return bounds on delta at epsilon > 0, likewise."""
        steps = _nameless(counts, gaussian)
        if isinstance(self.table, LineTable):
            assert self.add is None
            remove, add = (line.delta(epsilon) for line in self.table.lines(steps))
            known = remove.larger(add)
            return known if known.relative_width <= NARROW_CHAIN else None
        known = self.table.chain(steps).delta(epsilon)
        if (
            known.relative_width <= NARROW_CHAIN
            and self.add is not None
            and self.add.proves(steps, epsilon, known.lower)
        ):
            return known
        return None


def _nameless(counts: FloatArray, gaussian: float) -> Composition:
    """Return numbers of steps of phases that may be products: they have no noise of their own; none is asked for."""
    return Composition(np.ones_like(counts), np.full_like(counts, 0.5), counts, gaussian, 2.0**-50, 0.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where lines go for compositions about like one, and what epsilon is there.

    Args:
      table: a table for few phases, of which only the choices are used.
      gaps: c - 1 of the Chernoff bounds on the add direction; None with lines for both directions (see `lighter`).
      epsilon: about what it will be.
    """

    table: Table
    gaps: FloatArray | None
    epsilon: float

    def terms(self, steps: Composition, decaying: bool = True) -> Terms:
        """Return the terms of these phases; `decaying` is as in `contour.further_lines`.

        Raises:
          OutOfReachError: a grid would be too large.
        """
        if isinstance(self.table, LineTable):
            law = self.table.law
            soft, (barrier,) = barriers_like(law.steps, law.soft, [law.barrier], steps)
            own = law_for_tilt(steps, max(1.0, float(self.table.tilt.max())), soft, barrier)
            add = None if self.gaps is None else _add_bound(own, self.gaps)
            return Terms(further_lines(self.table, steps, own, decaying), add)
        path = self.table.path
        soft, barriers = barriers_like(path.steps, path.soft, path.barriers, steps)
        add = _add_bound(law_for_tilt(steps, 1.0, soft, barriers[-1]), self.gaps)
        return Terms(further_chain(self.table, steps, soft, barriers, decaying), add)

    def lighter(self, delta: float) -> Plan:
        """Return the plan with Chernoff bounds in place of the add direction's line, if it has one and they will do.

        They are a few times delta, and prove as much wherever delta in the add direction is that much less: at low
        rates it is. Whether they do is seen at the steps that the plan was made for.
        """
        if not isinstance(self.table, LineTable) or len(self.table.directions) != 2 or not self.table.gap > 0.0:
            return self
        gaps, law = self.table.gap * np.array(SHARES), self.table.law
        if not _add_bound(law, gaps).proves(law.steps, self.epsilon, ROOM * delta):
            return self
        return replace(self, table=self.table.first(), gaps=gaps)

    def longer(self) -> Plan | None:
        """Return the plan with longer lines, if it has lines: the functions of a much shorter history fall later."""
        if not isinstance(self.table, LineTable) or self.table.y.size > MOST_NODES:
            return None
        return replace(self, table=_longer(self.table, MUCH_LONGER))

    def product(self, steps: Composition) -> Terms:
        """Return the terms of all steps of a composition but the unsampled ones, as of one step of one phase."""
        parts: Terms | None = None
        for first in range(0, steps.phases, AT_ONCE):
            some = steps.select(np.arange(first, min(first + AT_ONCE, steps.phases)))
            more = self.terms(some).product(some.steps)
            parts = more if parts is None else parts.joined(more).product(np.ones(2))
        assert parts is not None
        return parts

    def suits(self, steps: Composition, delta: float) -> bool:
        """Whether few phases like these have narrow bounds on epsilon by this plan: then all of them will, mostly."""
        few = few_like(steps)
        return few is steps or self.product(few).epsilon(np.ones(1), few.gaussian, delta, self.epsilon) is not None


def plan_for(steps: Composition, delta: float, ask: Asked) -> Plan | None:
    """Return a plan for proving epsilon at delta, if few phases like these have a table."""
    keep: list[Table] = []
    few = few_like(steps)
    epsilon = ask(few, delta, keep).upper
    if not keep or not 0.0 < epsilon < math.inf:
        return None
    table, gaps = keep[-1], None
    if isinstance(table, LineTable):
        if len(table.directions) != 2:
            return None
        # for shorter histories, too, whose functions fall later
        table = _longer(table, LONGER)
    else:
        gaps = np.minimum(np.array(TILTS) * (1.0 - math.log(delta)) / epsilon, LARGEST_GAP)
    return Plan(table, gaps, epsilon)


def _longer(table: LineTable, factor: float) -> LineTable:
    """Return the table with so many times the nodes, of which nothing is known yet: for `further_lines`."""
    return replace(table, y=table.step * np.arange(math.ceil(factor * table.y.size)))


def epsilon_of_many(steps: Composition, delta: float, ask: Asked) -> Bounds | None:
    """Return bounds on epsilon at delta in (0, 1) by a plan for few phases, if they are narrow."""
    try:
        plan = plan_for(steps, delta, ask)
        return None if plan is None else plan.product(steps).epsilon(np.ones(1), steps.gaussian, delta, plan.epsilon)
    except OutOfReachError:
        return None


def delta_of_many(
    steps: Composition, epsilon: float, ask_delta: Callable[[Composition, float], Bounds], ask: Asked
) -> Bounds | None:
    """Return bounds on delta at epsilon > 0 by a plan for few phases, whose delta `ask_delta` gives, if narrow."""
    try:
        about = ask_delta(few_like(steps), epsilon).upper
        plan = plan_for(steps, about, ask) if 0.0 < about < 1.0 else None
        return None if plan is None else plan.product(steps).delta(np.ones(1), steps.gaussian, epsilon)
    except OutOfReachError:
        return None


def _add_bound(law: Law, gaps: FloatArray | None) -> AddBound:
    """Return the Chernoff bounds on the add direction for the phases of a law."""
    assert gaps is not None
    grid = make_grid(law, -float(gaps.max()), 1.0, 0.0)
    chernoff = Chernoff(1.0 + gaps, log_mgf_upper(grid, -gaps))
    return AddBound(chernoff, law.most_lost(), -np.log1p(-law.steps.sample_rate))
