r"""Links: the line engine on the difference of two laws, for rare events.

Where most steps reveal nothing, their characteristic function hardly decays, and a line would need millions of nodes.
But the steps that reveal nothing decide nothing. With barriers B < U the law up to U is that up to B plus a gap law, so

    delta_U = delta_B + (delta_U - delta_B),

where delta_B is small enough for a Chernoff bound, or known from a line or another link, and the bracket is again the
delta of a positive measure, with e^{G_U} - e^{G_B} = e^{G_B} expm1(sum n log(1 + gap / phi_B)) in place of e^G. All of
`line.Line` holds of it: the trapezoid rule adds aliases >= 0, Chernoff bounds these, and |gap| falls exponentially,
because its density is smooth (`truncation.Shifted`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from opacus_edgeworth._types import FloatArray, IntArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.characteristic import GapLogs, Group, gap_cf, log_gaps
from opacus_edgeworth.inversion.contour import FEW_NODES, MAX_NODES, MAX_WORK, served
from opacus_edgeworth.inversion.grid import make_grid
from opacus_edgeworth.inversion.law import Law, law_for_tilt, sum_of_masses
from opacus_edgeworth.inversion.line import (
    Line,
    compose_upper,
    last_node,
    log_peak_of,
    log_peak_of_sampled,
    node_distance,
    upper_sum,
)
from opacus_edgeworth.inversion.quadrature import log_mgf_upper, tilted_steps
from opacus_edgeworth.inversion.route import Piece
from opacus_edgeworth.inversion.truncation import Decay, Shifted, compose_bound, decay_bound, shifted_bound
from opacus_edgeworth.mechanisms import ULP

SHARES = (1.0, 0.7, 0.45, 0.25)
"""Points at which Chernoff bounds the aliases, as shares of the way to the piece's."""
LARGEST_CHANGE = 600.0


@dataclass(frozen=True, slots=True)
class Beyond:
    """Bounds on log |phi| + |gap| over phi(c) of every phase from some y on, and log of the share of |gap| in it; (P,).

    The bound on |gap| is the share's.
    """

    both: FloatArray
    share: FloatArray

    def log_bound(self, steps: Composition, y: float) -> float:
        """Bound log of |prod (phi + gap)^n - prod phi^n| / prod phi(c)^n from y on.

        It is at most the sum over the phases of n |gap| (|phi| + |gap|)^{n-1}, times (|phi| + |gap|)^n of the others.
        """
        log_sum = float(log_sum_of(self.share, steps.steps))
        return float(compose_bound(steps, self.both, y)) + log_sum + 1e-9

    def product(self, counts: FloatArray) -> Beyond:
        """Return the bounds for all steps together, so many of each phase, as for one phase."""
        return Beyond(np.array([self.both @ counts]), np.array([log_sum_of(self.share, counts)]))

    def joined(self, more: Beyond) -> Beyond:
        """Return the bounds for these phases and for more."""
        return Beyond(np.append(self.both, more.both), np.append(self.share, more.share))


@dataclass(frozen=True, slots=True)
class GapChernoff:
    """Upper bounds on log(phi + gap) of every phase at points c' > 1, (C,), and on log of the share of gap; (C, P)."""

    c: FloatArray
    both: FloatArray
    share: FloatArray

    def bounds(self, steps: Composition) -> tuple[tuple[float, float], ...]:
        """Return (c', upper bound on log(e^{G_U(c')} - e^{G_B(c')})) for c' = 1 and all points.

        (phi + gap)^n - phi^n is at most n gap (phi + gap)^{n-1}, and at most (phi + gap)^n.
        """
        with np.errstate(invalid="ignore"):  # nothing is known where both are infinite
            share = log_sum_of(self.share, steps.steps)
            bound = compose_upper(steps, self.both, self.c) + np.where(share < 0.0, share, 0.0)
        bound[np.isnan(bound)] = math.inf
        return ((1.0, 0.0), *zip(self.c.tolist(), bound.tolist(), strict=True))

    def product(self, counts: FloatArray) -> GapChernoff:
        """Return the bounds for all steps together, so many of each phase, as for one phase."""
        with np.errstate(invalid="ignore"):
            both, share = upper_sum(self.both, counts), log_sum_of(self.share, counts)
        return GapChernoff(self.c, both[:, None], share[:, None])

    def joined(self, more: GapChernoff) -> GapChernoff:
        """Return the bounds for these phases and for more, at the same points."""
        return GapChernoff(self.c, np.hstack([self.both, more.both]), np.hstack([self.share, more.share]))


def log_sum_of(log_share: FloatArray, counts: FloatArray) -> FloatArray:
    """Return log of the sum of n e^share over the phases, the last axis, rounded up."""
    return np.logaddexp.reduce(np.log(counts) + log_share, axis=-1) + 1e-12


@dataclass(frozen=True, slots=True)
class LinkTable:
    """What the law gains between two barriers, for any number of steps of these phases.

    `product` and `joined` are as in `LineTable`.

    Args:
      end_lost: (P,), what the ends of the two laws, up to the lower barrier and between the two, take, per step.
      c, gap, step, y: as in `Line`.
      log_base: (P,), log phi(c); `base_error` bounds its error.
      logs: the factors at the nodes.
      beyond: what is known from the last node on.
      chernoff: for the alias terms.
    """

    end_lost: FloatArray
    c: float
    gap: float
    step: float
    y: FloatArray
    log_base: FloatArray
    base_error: FloatArray
    logs: GapLogs
    beyond: Beyond
    chernoff: GapChernoff

    def line(self, steps: Composition) -> Line:
        """Return the line for these numbers of steps; true for any, sharp for about those that it was made for."""
        c, gap, y = self.c, self.gap, self.y
        value, wrong = gap_cf(steps, c, y, self.logs)
        kernel = 1.0 / ((c + 1j * y) * (gap + 1j * y))
        amplitude = value * kernel
        size = np.abs(amplitude)
        error = (wrong + 16.0 * ULP * np.abs(value)) * np.abs(kernel)
        amplitude[0] *= 0.5
        spill = sum_of_masses(self.end_lost, steps.steps)
        log_peak, log_peak_error = log_peak_of(steps, c * gap, self.log_base, self.base_error)
        return Line(
            c,
            gap,
            self.step,
            y,
            amplitude,
            float(error.sum()) * (1.0 + 1e-9),
            float(size.sum()),
            float(size @ y),
            float(log_peak),
            float(log_peak_error),
            self.beyond.log_bound(steps, float(y[-1])),
            self.chernoff.bounds(steps),
            spill,
            math.inf,
            spill,
        )

    def product(self, counts: FloatArray) -> LinkTable:
        """Return the table of one phase, one step of which is so many steps of each of these."""
        log_base, error = log_peak_of_sampled(counts, self.log_base, self.base_error)
        return replace(
            self,
            end_lost=np.array([sum_of_masses(self.end_lost, counts)]),
            log_base=np.array([log_base]),
            base_error=np.array([error]),
            logs=self.logs.product(counts),
            beyond=self.beyond.product(counts),
            chernoff=self.chernoff.product(counts),
        )

    def joined(self, more: LinkTable) -> LinkTable:
        """Return the table of these phases and of more, which is on the same nodes."""
        return replace(
            self,
            end_lost=np.append(self.end_lost, more.end_lost),
            log_base=np.append(self.log_base, more.log_base),
            base_error=np.append(self.base_error, more.base_error),
            logs=self.logs.joined(more.logs),
            beyond=self.beyond.joined(more.beyond),
            chernoff=self.chernoff.joined(more.chernoff),
        )


def make_link(steps: Composition, piece: Piece, epsilon: float, log_delta: float) -> LinkTable:
    """Return a line, in the remove direction, for what the law gains between two barriers.

    Args:
      steps: the composition.
      piece: the barriers, equal or at least W apart, c > 1, and points on both sides.
      epsilon: where it is to be sharp.
      log_delta: log of the delta of which it is a part, about: its error is pushed below that by e^-TARGET.

    Raises:
      OutOfReachError: it would need too many nodes.
    """
    assert piece.below is not None
    gap_left = piece.c - 1.0
    c = 1.0 + gap_left
    counts = steps.steps
    others = [c + share * (side - c) for side in (piece.left, piece.right) for share in SHARES]
    laws = _laws(steps, c, piece.soft, piece.below, piece.barrier)
    bases, gaps = _both_groups(*laws, c, others)
    log_base, base_error = _log_mgf(bases, steps.phases)
    log_gap, gap_error = _log_mgf(gaps, steps.phases)
    log_share = log_gap - log_base
    if not float(counts @ np.logaddexp(0.0, log_share)) < LARGEST_CHANGE:
        raise OutOfReachError("the law gains too much between the barriers")
    log_peak = float(log_peak_of(steps, c * gap_left, log_base, base_error)[0])
    chernoff = _chernoff(steps.phases, bases, gaps, others)
    step = node_distance(c, chernoff.bounds(steps), epsilon, log_delta, 0.0)
    scale = math.exp(min(log_peak - gap_left * epsilon - log_delta, 700.0))
    last, beyond = _end_of_link(steps, bases, gaps, log_share + base_error + gap_error, step, scale)
    count = math.ceil(last / step) + 1
    y = step * np.arange(count)
    bases = _served(bases, float(y[-1]), counts)
    gaps = _served(gaps, float(y[-1]), np.ones(steps.phases))
    if not all(np.isfinite(group.unknown + group.tilted.log_mgf_error[0]).all() for group in (*bases, *gaps)):
        raise OutOfReachError("a grid does not hold its law")
    points = sum(group.tilted.grid.loss.size for group in (*bases, *gaps))
    if points * (count + 64.0 * math.sqrt(count)) > MAX_WORK:
        raise OutOfReachError(f"{count} nodes on {points} grid points")
    return LinkTable(
        _end_lost(*laws),
        c,
        gap_left,
        step,
        y,
        log_base,
        base_error,
        log_gaps(steps.phases, bases, gaps, step, count),
        beyond,
        chernoff,
    )


def further_link(
    table: LinkTable,
    steps: Composition,
    soft: FloatArray,
    below: FloatArray,
    barrier: FloatArray,
    decaying: bool = True,
) -> LinkTable:
    """Return the table's link, on the same nodes, for other phases with these barriers, (P, 1).

    Every term is computed anew for them, as `make_link` does; only the choices are the table's. `decaying` is as in
    `contour.further_lines`.

    Raises:
      OutOfReachError: a grid would be too large.
    """
    c, others, reach = table.c, table.chernoff.c.tolist(), float(table.y[-1])
    laws = _laws(steps, c, soft, below, barrier)
    bases, gaps = _both_groups(*laws, c, others)
    log_base, base_error = _log_mgf(bases, steps.phases)
    log_gap, gap_error = _log_mgf(gaps, steps.phases)
    chernoff = _chernoff(steps.phases, bases, gaps, others)
    decays = [(group, decay_bound(group.tilted)) for group in bases] if decaying else []
    shifted = [(group, shifted_bound(group.tilted)) for group in gaps]
    beyond = _beyond(decays, shifted, log_gap - log_base + base_error + gap_error, reach)
    bases, gaps = _served(bases, reach, steps.steps), _served(gaps, reach, np.ones(steps.phases))
    logs = log_gaps(steps.phases, bases, gaps, table.step, table.y.size)
    return replace(
        table,
        end_lost=_end_lost(*laws),
        log_base=log_base,
        base_error=base_error,
        logs=logs,
        beyond=beyond,
        chernoff=chernoff,
    )


def _laws(
    steps: Composition, c: float, soft: FloatArray, below: FloatArray, barrier: FloatArray
) -> tuple[Law, Law, IntArray]:
    """Return the law up to the lower barrier, what lies between the two, and the phases where something does."""
    where = np.flatnonzero(barrier[:, 0] > below[:, 0])
    base = law_for_tilt(steps, c, soft, below)
    if not where.size:  # a phase may lie between barriers that are one to it
        return base, base.select(where), where
    return base, law_for_tilt(base.select(where).steps, c, soft[where], barrier[where], below[where]), where


def _end_lost(base: Law, between: Law, where: IntArray) -> FloatArray:
    """Return `LinkTable.end_lost`."""
    lost = base.end_lost()
    lost[where] += between.end_lost()
    return lost


def _both_groups(
    base: Law, between: Law, where: IntArray, c: float, others: list[float]
) -> tuple[list[Group], list[Group]]:
    """Return the phases' laws up to the lower barrier, and between the two, under the tilt c, in groups."""
    return _groups(base, np.arange(base.steps.phases), c, others), _groups(between, where, c, others)


def _beyond(
    decays: list[tuple[Group, Decay]], shifted: list[tuple[Group, Shifted]], log_share: FloatArray, y: float
) -> Beyond:
    """Return what is known from y on, |phi| being at most phi(c) where its decay is not."""
    phi, gap = np.zeros(log_share.size), np.full(log_share.size, -math.inf)
    for group, decay in decays:
        phi[group.where] = decay.log_phi(y)[0]
    for group, bound in shifted:
        gap[group.where] = log_share[group.where] + np.minimum(bound.log_bound(y)[0], 0.0)
    both = np.logaddexp(phi, gap)
    return Beyond(both, gap - both)


def _end_of_link(
    steps: Composition,
    bases: list[Group],
    gaps: list[Group],
    log_share: FloatArray,
    step: float,
    scale: float,
) -> tuple[float, Beyond]:
    """Return where the nodes may end, and what is known from there on; `log_share`, gap / phi at c, is rounded up.

    First with phi at c and, if the end is far, with what is known of its decay.
    """
    shifted = [(group, shifted_bound(group.tilted)) for group in gaps]
    decays: list[tuple[Group, Decay]] = []

    def beyond(y: float) -> Beyond:
        return _beyond(decays, shifted, log_share, y)

    def log_bound(y: float) -> float:
        return beyond(y).log_bound(steps, y)

    try:
        last = last_node(log_bound, 4.0 * step, scale, step * MAX_NODES)
        if last < step * FEW_NODES:
            return last, beyond(last)
    except OutOfReachError:
        pass  # the decay of phi may do
    decays.extend((group, decay_bound(group.tilted)) for group in bases)
    last = last_node(log_bound, 4.0 * step, scale, step * MAX_NODES)
    return last, beyond(last)


def _groups(law: Law, where: IntArray, tilt: float, others: list[float]) -> list[Group]:
    """Return the phases `where`, whose laws these are, under a tilt, in groups that need about equally many scores.

    Their grids serve the other tilts, too.
    """
    fineness = np.floor(np.log2(np.minimum(law.steps.noise_multiplier, 1.0)))
    groups: list[Group] = []
    for value in np.unique(fineness):
        some = np.flatnonzero(fineness == value)
        grid = make_grid(law.select(some), min(tilt, *others), max(tilt, *others), 0.0)
        groups.append(Group(where[some], tilted_steps(grid, np.array([tilt])), np.zeros(some.size)))
    return groups


def _served(groups: list[Group], reach: float, counts: FloatArray) -> list[Group]:
    """Return the groups on grids that are fine enough for |y| <= reach."""
    result: list[Group] = []
    for group in groups:
        tilted, unknown = served(group.tilted, reach, counts[group.where])
        result.append(Group(group.where, tilted, unknown[0]))
    return result


def _log_mgf(groups: list[Group], phases: int) -> tuple[FloatArray, FloatArray]:
    """Return K of every phase at the groups' tilt, and bounds on the errors, both (P,)."""
    log_mgf, error = np.full(phases, -math.inf), np.zeros(phases)
    for group in groups:
        log_mgf[group.where], error[group.where] = group.tilted.log_mgf[0], group.tilted.log_mgf_error[0]
    return log_mgf, error


def _chernoff(phases: int, bases: list[Group], gaps: list[Group], points: list[float]) -> GapChernoff:
    """Return proved upper bounds on phi and gap at the points c' > 1."""
    c = np.array(points)
    base, gap = np.full((2, c.size, phases), -math.inf)
    for groups, log_mgf in ((bases, base), (gaps, gap)):
        for group in groups:
            log_mgf[:, group.where] = log_mgf_upper(group.tilted.grid, c)
    with np.errstate(invalid="ignore"):  # nothing is known where both are infinite
        both = np.logaddexp(base, gap) + 4.0 * ULP
        return GapChernoff(c, both, gap - both)
