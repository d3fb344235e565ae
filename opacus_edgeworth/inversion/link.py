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

import numpy as np

from opacus_edgeworth._types import FloatArray, IntArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.characteristic import Group, gap_cf
from opacus_edgeworth.inversion.grid import make_grid
from opacus_edgeworth.inversion.law import Law, law_for_tilt
from opacus_edgeworth.inversion.line import (
    FEW_NODES,
    MAX_NODES,
    MAX_WORK,
    Line,
    compose_upper,
    last_node,
    node_distance,
    served,
)
from opacus_edgeworth.inversion.quadrature import log_mgf_upper, tilted_steps
from opacus_edgeworth.inversion.route import Piece
from opacus_edgeworth.inversion.truncation import SLACK, Decay, decay_bound, shifted_bound
from opacus_edgeworth.mechanisms import ULP

SHARES = (1.0, 0.7, 0.45, 0.25)
"""Points at which Chernoff bounds the aliases, as shares of the way to the piece's."""
LARGEST_CHANGE = 600.0


def make_link(steps: Composition, piece: Piece, epsilon: float, log_delta: float) -> Line:
    """Return a line, in the remove direction, for what the law gains between two barriers.

    Args:
      steps: the composition.
      piece: the barriers, equal or at least W apart, c > 1, and points on both sides.
      epsilon: where it is to be sharp.
      log_delta: log of the delta of which it is a part, about: its error is pushed below that by e^-TARGET.

    Raises:
      OutOfReachError: it would need too many nodes.
    """
    below, barrier = piece.below, piece.barrier
    assert below is not None
    gap_left = piece.c - 1.0
    c = 1.0 + gap_left
    where = np.flatnonzero(barrier[:, 0] > below[:, 0])
    counts = steps.steps
    others = [c + share * (side - c) for side in (piece.left, piece.right) for share in SHARES]
    soft = piece.soft
    base_law = law_for_tilt(steps, c, soft, below)
    gap_law = law_for_tilt(base_law.select(where).steps, c, soft[where], barrier[where], below[where])
    bases = _groups(base_law, np.arange(steps.phases), c, others)
    gaps = _groups(gap_law, where, c, others)
    log_base, base_error = _log_mgf(bases, steps.phases)
    log_gap, gap_error = (row[where] for row in _log_mgf(gaps, steps.phases))
    log_share = np.full(steps.phases, -math.inf)
    log_share[where] = log_gap - log_base[where]
    change = float(counts @ np.logaddexp(0.0, log_share))
    if not change < LARGEST_CHANGE:
        raise OutOfReachError("the law gains too much between the barriers")
    log_peak = 0.5 * steps.gaussian * c * gap_left + float(log_base @ counts)
    log_peak_error = 4.0 * ULP * steps.gaussian * c * gap_left + float(base_error @ counts)
    log_peak_error += ULP * (counts.size + 4) * float(np.abs(log_base) @ counts)
    chernoff = ((1.0, 0.0), *_chernoff_points(steps, bases, gaps, others))
    step = node_distance(c, chernoff, epsilon, log_delta, 0.0)

    slack = float(counts @ base_error) + float(counts[where] @ gap_error) + 1e-9
    scale = math.exp(min(log_peak - gap_left * epsilon - log_delta, 700.0))
    last, log_beyond = _end_of_link(steps, bases, gaps, log_share, slack, step, scale)
    count = math.ceil(last / step) + 1
    y = step * np.arange(count)
    bases = _served(bases, float(y[-1]), counts)
    gaps = _served(gaps, float(y[-1]), np.ones(steps.phases))
    if not all(np.isfinite(group.unknown + group.tilted.log_mgf_error[0]).all() for group in (*bases, *gaps)):
        raise OutOfReachError("a grid does not hold its law")
    points = sum(group.tilted.grid.loss.size for group in (*bases, *gaps))
    if points * (count + 64.0 * math.sqrt(count)) > MAX_WORK:
        raise OutOfReachError(f"{count} nodes on {points} grid points")
    value, wrong = gap_cf(steps, bases, gaps, step, count)
    kernel = 1.0 / ((c + 1j * y) * (gap_left + 1j * y))
    amplitude = value * kernel
    size = np.abs(amplitude)
    error = (wrong + 16.0 * ULP * np.abs(value)) * np.abs(kernel)
    amplitude[0] *= 0.5
    spill = base_law.spill() + gap_law.spill()
    return Line(
        c,
        gap_left,
        step,
        y,
        amplitude,
        float(error.sum()) * (1.0 + 1e-9),
        float(size.sum()),
        float(size @ y),
        log_peak,
        log_peak_error,
        float(log_beyond[0]),
        chernoff,
        spill,
        math.inf,
        spill,
    )


def _end_of_link(
    steps: Composition,
    bases: list[Group],
    gaps: list[Group],
    log_share: FloatArray,
    slack: float,
    step: float,
    scale: float,
) -> tuple[float, FloatArray]:
    r"""Return where the nodes may end, and log of a bound on |prod (phi + gap)^n - prod phi^n| / prod phi(c)^n beyond.

    That is at most the sum over the phases of n |gap| (|phi| + |gap|)^{n-1}, times (|phi| + |gap|)^n of the others;
    first with phi at c and, if that is far, with what is known of its decay.
    """
    counts = steps.steps
    shifted = [(group, shifted_bound(group.tilted)) for group in gaps]
    decays: list[tuple[Group, Decay]] = []

    def log_beyond_at(y: float) -> FloatArray:
        gap, phi = np.full(steps.phases, -math.inf), np.zeros(steps.phases)
        for group, bound in shifted:
            gap[group.where] = log_share[group.where] + np.minimum(bound.log_bound(y)[0], 0.0)
        for group, decay in decays:
            phi[group.where] = decay.log_phi(y)[0]
        both = np.logaddexp(phi, gap)
        log_sum = np.logaddexp.reduce(np.log(counts) + gap - both)
        return np.atleast_1d(float(counts @ both) + log_sum - 0.5 * steps.gaussian * y * y * (1.0 - SLACK) + slack)

    try:
        last, log_beyond = last_node(log_beyond_at, 4.0 * step, scale, step * MAX_NODES)
        if last < step * FEW_NODES:
            return last, log_beyond
    except OutOfReachError:
        pass  # the decay of phi may do
    decays.extend((group, decay_bound(group.tilted)) for group in bases)
    return last_node(log_beyond_at, 4.0 * step, scale, step * MAX_NODES)


def _groups(law: Law, where: IntArray, tilt: float, others: list[float]) -> list[Group]:
    """Return the phases `where`, whose laws these are, under a tilt, in groups that need about equally many scores.

    Their grids serve the other tilts, too.
    """
    fineness = np.floor(np.log2(np.minimum(law.steps.noise_multiplier, 1.0)))
    groups = []
    for value in np.unique(fineness):
        some = np.flatnonzero(fineness == value)
        grid = make_grid(law.select(some), min(tilt, *others), max(tilt, *others), 0.0)
        groups.append(Group(where[some], tilted_steps(grid, np.array([tilt])), np.zeros(some.size)))
    return groups


def _served(groups: list[Group], reach: float, counts: FloatArray) -> list[Group]:
    """Return the groups on grids that are fine enough for |y| <= reach."""
    result = []
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


def _chernoff_points(
    steps: Composition, bases: list[Group], gaps: list[Group], points: list[float]
) -> list[tuple[float, float]]:
    """Return (c', upper bound on log(e^{G_U(c')} - e^{G_B(c')})) for the points c' > 1.

    (phi + gap)^n - phi^n is at most n gap (phi + gap)^{n-1}, and at most (phi + gap)^n.
    """
    c = np.array(points)
    base, gap = np.full((2, c.size, steps.phases), -math.inf)
    for groups, log_mgf in ((bases, base), (gaps, gap)):
        for group in groups:
            log_mgf[:, group.where] = log_mgf_upper(group.tilted.grid, c)
    both = np.logaddexp(base, gap) + 4.0 * ULP
    with np.errstate(invalid="ignore"):  # nothing is known where both are infinite
        share = np.logaddexp.reduce(np.log(steps.steps) + gap - both, axis=1) + 1e-12
    bound = compose_upper(steps, both, c) + np.where(share < 0.0, share, 0.0)
    return list(zip(points, bound.tolist(), strict=True))
