"""Contours: where lines go, how far, and what they need of one step of every phase, for any number of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.characteristic import Logs, log_cf, log_steps
from opacus_edgeworth.inversion.grid import Grid, make_grid
from opacus_edgeworth.inversion.law import Law, nearer_law, sum_of_masses
from opacus_edgeworth.inversion.line import (
    Chernoff,
    Line,
    alias_room,
    last_node,
    log_chernoff,
    log_peak_of,
    log_peak_of_sampled,
    node_distance,
)
from opacus_edgeworth.inversion.quadrature import TiltedSteps, log_mgf_upper, tilted_steps
from opacus_edgeworth.inversion.saddle import (
    fitting_law,
    moments,
    saddle_for_epsilon,
    saddle_in_strip,
)
from opacus_edgeworth.inversion.truncation import compose_bound, decay_bound, shifted_bound
from opacus_edgeworth.mechanisms import ULP

LOG_SHARE = -80.0
"""Scores at which e^{tL} is less than e^LOG_SHARE do not matter."""
MAX_NODES = 1 << 16
MAX_WORK = 4e8
"""Nodes times grid points."""
STRIP_ENDS = ((0.0, 0.0), (1.0, 0.0))
"""G(0) = G(1) = 0: the points for the alias terms of c < 1."""
FEW_NODES, MANY_NODES, MANY_STEPS = 400, 1000, 32
"""Up to so many nodes, or so many for so many further steps, no second bound on what is beyond is worth its time."""


@dataclass(frozen=True, slots=True)
class LineTable:
    """Lines through one point, a row for every direction, for any number of steps of these phases.

    Everything is a sum over steps, or a bound that is one: so steps of all phases together are one step of another
    phase (`product`), and tables of different phases on the same nodes are one table (`joined`).

    Args:
      law: the laws of the phases that the table was chosen for: how those of further ones should end.
      most_lost: (P,), what delta loses at most by the laws' ends, per step.
      log_grown: (P,), bounds on log(1 + lost / phi), lost = E_Q[(1 - chi) e^{tL}], of the add direction; 0 without it.
      directions: T of them; the first one's line bounds delta from both sides, the others only from above.
      tilt: (T,), c or 1 - c.
      c, gap, step, y: as in `Line`.
      log_mgf: (T, P), K at the tilts; `log_mgf_error` bounds its error.
      logs: (T, P, N), log of every step's cf at the nodes.
      log_beyond: (T, P), upper bounds on log of its modulus from the last node on.
      chernoff: for the alias terms of the first direction; None for c < 1.
    """

    law: Law
    most_lost: FloatArray
    log_grown: FloatArray
    directions: tuple[Direction, ...]
    tilt: FloatArray
    c: float
    gap: float
    step: float
    y: FloatArray
    log_mgf: FloatArray
    log_mgf_error: FloatArray
    logs: Logs
    log_beyond: FloatArray
    chernoff: Chernoff | None

    def lines(self, steps: Composition) -> list[Line]:
        """Return the lines for these numbers of steps; true for any, sharp for about those that they were made for."""
        gap, c, tilt = self.gap, self.c, self.tilt
        cut_off, log_share = sum_of_masses(self.most_lost, steps.steps), _log_share(self.log_grown, steps.steps)
        log_peak, log_peak_error = log_peak_of(steps, tilt * (tilt - 1.0), self.log_mgf, self.log_mgf_error)
        log_beyond = compose_bound(steps, self.log_beyond, float(self.y[-1]))
        chernoff = STRIP_ENDS if self.chernoff is None else self.chernoff.bounds(steps)
        cf, error = log_cf(steps, tilt, self.y, self.logs)
        kernel = 1.0 / ((c + 1j * self.y) * (gap + 1j * self.y))
        lines: list[Line] = []
        for row, direction in enumerate(self.directions):
            own = cf[row] if direction == "remove" else np.conj(cf[row])  # G(z) = Phi(1 - z), and 1 - z = t - iy
            amplitude = np.exp(own) * (kernel if gap > 0.0 else -kernel)
            amplitude[0] *= 0.5
            size = np.abs(amplitude)
            total_error = float(size @ np.expm1(error[row] + 4.0 * ULP * (np.abs(own) + 4.0)))
            lines.append(
                Line(
                    c,
                    gap,
                    self.step,
                    self.y,
                    amplitude,
                    total_error,
                    float(size.sum()),
                    float(size @ self.y),
                    float(log_peak[row]),
                    float(log_peak_error[row]),
                    float(log_beyond[row]),
                    chernoff if row == 0 or c < 1.0 else (),
                    cut_off,
                    log_share if direction == "add" and gap > 0.0 else math.inf,
                    0.0,
                )
            )
        return lines

    def product(self, counts: FloatArray) -> LineTable:
        """Return the table of one phase, one step of which is so many steps of each of these."""
        log_mgf, error = log_peak_of_sampled(counts, self.log_mgf, self.log_mgf_error)
        return replace(
            self,
            most_lost=np.array([sum_of_masses(self.most_lost, counts)]),
            log_grown=np.array([float(self.log_grown @ counts) * (1.0 + 1e-9)]),
            log_mgf=log_mgf[:, None],
            log_mgf_error=error[:, None],
            logs=self.logs.product(counts),
            log_beyond=(self.log_beyond @ counts)[:, None],
            chernoff=None if self.chernoff is None else self.chernoff.product(counts),
        )

    def first(self) -> LineTable:
        """Return the table of the first direction alone, for the remove direction."""
        return replace(
            self,
            log_grown=np.zeros_like(self.log_grown),
            directions=self.directions[:1],
            tilt=self.tilt[:1],
            log_mgf=self.log_mgf[:1],
            log_mgf_error=self.log_mgf_error[:1],
            logs=Logs(self.logs.value[:1], self.logs.error[:1]),
            log_beyond=self.log_beyond[:1],
        )

    def select(self, index: int) -> LineTable:
        """Return the table of one phase alone."""
        only = slice(index, index + 1)
        return replace(
            self,
            most_lost=self.most_lost[only],
            log_grown=self.log_grown[only],
            log_mgf=self.log_mgf[:, only],
            log_mgf_error=self.log_mgf_error[:, only],
            logs=self.logs.select(index),
            log_beyond=self.log_beyond[:, only],
            chernoff=None if self.chernoff is None else self.chernoff.select(index),
        )

    def joined(self, more: LineTable) -> LineTable:
        """Return the table of these phases and of more, which is on the same nodes."""
        chernoff = self.chernoff
        return replace(
            self,
            most_lost=np.append(self.most_lost, more.most_lost),
            log_grown=np.append(self.log_grown, more.log_grown),
            log_mgf=np.hstack([self.log_mgf, more.log_mgf]),
            log_mgf_error=np.hstack([self.log_mgf_error, more.log_mgf_error]),
            logs=self.logs.joined(more.logs),
            log_beyond=np.hstack([self.log_beyond, more.log_beyond]),
            chernoff=None if chernoff is None or more.chernoff is None else chernoff.joined(more.chernoff),
        )


def log_cut_share(law: Law, tilt: float, log_mgf: FloatArray, log_mgf_error: FloatArray) -> float:
    """Bound log(prod (phi + lost)^n / prod phi^n - 1), lost = E_Q[(1 - chi) e^{tL}], t < 0: what e^G lacks.

    From K(t) of every phase, (P,), and bounds on its error.
    """
    return _log_share(_log_grown(law, tilt, log_mgf, log_mgf_error), law.steps.steps)


def _log_grown(law: Law, tilt: float, log_mgf: FloatArray, log_mgf_error: FloatArray) -> FloatArray:
    """Bound log(1 + lost / phi) of every phase; see `log_cut_share`."""
    return np.logaddexp(0.0, law.log_tilted_loss(tilt) - log_mgf + log_mgf_error)


def _log_share(log_grown: FloatArray, counts: FloatArray) -> float:
    """Return log of prod (1 + lost / phi)^n - 1; see `log_cut_share`."""
    grown = float(log_grown @ counts)
    return math.log(math.expm1(grown) + 1e-300) if grown < 600.0 else math.inf


def line_for_epsilon(grid: Grid, epsilon: float, direction: Direction) -> Line:
    """Return a line for delta near `epsilon`; of the complement where delta is near 1.

    Raises:
      OutOfReachError: the line would need too many nodes.
    """
    table = make_lines(grid, contour_for_epsilon(grid, epsilon, direction), (direction,), epsilon)
    return table.lines(grid.steps)[0]


def contour_for_epsilon(grid: Grid, epsilon: float, direction: Direction) -> float:
    """Return the saddle point c > 1, or the one in (0, 1) where delta is near 1."""
    _, mean, variance = moments(grid, 1.0, direction)
    if mean - epsilon > 3.0 * math.sqrt(max(variance, 0.0)):  # rounding may leave it below 0
        return saddle_in_strip(grid, epsilon, direction)
    return saddle_for_epsilon(grid, epsilon, direction)


def make_lines(
    grid: Grid, c: float, directions: tuple[Direction, ...], epsilon: float, most_work: float = MAX_WORK
) -> LineTable:
    """Return lines through c for these directions, on common nodes chosen for the first one at epsilon.

    The first line bounds delta from both sides, the others only from above: their alias terms, >= 0, are not bounded.
    Any grid gives true lines; one that does not serve is replaced.

    Raises:
      OutOfReachError: the lines would need too many nodes.
    """
    gap = c - 1.0
    c = 1.0 + gap  # now both are exact
    if gap == 0.0 or c == 0.0:
        raise OutOfReachError("the saddle point is at a pole")
    steps = grid.steps
    counts = steps.steps
    if directions == ("add",) and gap > 0.0:  # high scores do not matter under a negative tilt
        law = nearer_law(grid.law, -gap, LOG_SHARE)
        grid = make_grid(law, -gap, 1.0, 0.0)
    tilts = [c if direction == "remove" else -gap for direction in directions]
    curvature = moments(grid, c, directions[0])[2]
    if not curvature > 0.0:
        raise OutOfReachError("the tilted law is too narrow for its variance to be seen")
    spread = math.sqrt(curvature + 1.0 / c**2 + 1.0 / gap**2)
    reach = 9.0 / math.sqrt(curvature)
    if not grid.serves(min(tilts), max(tilts), 0.7 * reach):
        grid = make_grid(fitting_law(grid.law, max(tilts)), min(tilts), max(tilts), reach)
    tilted = tilted_steps(grid, np.array(tilts))
    if float((counts * tilted.log_mgf_error).max()) > 1e-11 and max(tilts) < grid.highest_tilt:
        # the tilted law does not end with the grid: one made for this very tilt may do better
        grid = make_grid(fitting_law(grid.law, max(tilts)), min(tilts), max(tilts), reach)
        tilted = tilted_steps(grid, np.array(tilts))

    log_peak, _ = log_peak_of(steps, tilts[0] * (tilts[0] - 1.0), tilted.log_mgf[0], tilted.log_mgf_error[0])
    log_value = float(log_peak) - gap * epsilon - math.log(abs(c * gap) * spread * 2.51)
    chernoff = _chernoff_points(grid, c, directions[0], epsilon, log_value, spread) if c > 1.0 else None
    bounds = STRIP_ENDS if chernoff is None else chernoff.bounds(steps)
    step = node_distance(c, bounds, epsilon, log_value, spread)
    most_nodes = min(MAX_NODES, most_work / tilted.grid.loss.size)
    last, log_beyond = _end_of_line(tilted, curvature, spread, abs(c * gap), step, most_nodes)
    count = math.ceil(last / step) + 1
    y = step * np.arange(count)
    tilted, wrong = served(tilted, float(y[-1]), counts)
    if tilted.grid.loss.size * (count + 64.0 * math.sqrt(count)) > most_work:
        raise OutOfReachError(f"{count} nodes on {tilted.grid.loss.size} grid points")
    return LineTable(
        tilted.grid.law,
        tilted.grid.law.most_lost(),
        _grown_of(tilted, directions, gap),
        directions,
        tilted.tilt,
        c,
        gap,
        step,
        y,
        tilted.log_mgf,
        tilted.log_mgf_error,
        log_steps(tilted, wrong, step, count),
        log_beyond,
        chernoff,
    )


def _grown_of(tilted: TiltedSteps, directions: tuple[Direction, ...], gap: float) -> FloatArray:
    """Return `LineTable.log_grown`."""
    if "add" not in directions or gap < 0.0:
        return np.zeros(tilted.grid.steps.phases)
    row = directions.index("add")
    return _log_grown(tilted.grid.law, float(tilted.tilt[row]), tilted.log_mgf[row], tilted.log_mgf_error[row])


def further_lines(table: LineTable, steps: Composition, law: Law, decaying: bool = True) -> LineTable:
    """Return the table's lines, on the same nodes, for other phases, whose law this is.

    Every term is computed anew for them, as `make_lines` does; only the choices are the table's. Unless they are to
    be seen `decaying`, of these phases' functions beyond the last node it is only used that they are at most 1.
    """
    reach = float(table.y[-1])
    grid = make_grid(law, float(table.tilt.min()), float(table.tilt.max()), reach)
    tilted, wrong = served(tilted_steps(grid, table.tilt), reach, steps.steps)
    log_beyond = decay_bound(tilted).log_phi(reach) if decaying else np.zeros_like(tilted.log_mgf)
    few_steps = float(steps.steps.sum()) < MANY_STEPS
    if decaying and table.y.size > (FEW_NODES if few_steps else MANY_NODES):
        log_beyond = np.minimum(log_beyond, shifted_bound(tilted).log_bound(reach))
    points = table.chernoff
    return replace(
        table,
        most_lost=law.most_lost(),
        log_grown=_grown_of(tilted, table.directions, table.gap),
        log_mgf=tilted.log_mgf,
        log_mgf_error=tilted.log_mgf_error,
        logs=log_steps(tilted, wrong, table.step, table.y.size),
        log_beyond=log_beyond,
        chernoff=None if points is None else _chernoff(grid, points.c.tolist(), table.directions[0]),
    )


def served(tilted: TiltedSteps, reach: float, counts: FloatArray) -> tuple[TiltedSteps, FloatArray]:
    """Return tilted steps on a grid fine enough for |y| <= reach, and the rule's error there, (T, P)."""
    wrong = tilted.quadrature_error(reach)
    if not float((counts * wrong).max()) <= 1e-13:
        lowest, highest = float(tilted.tilt.min()), float(tilted.tilt.max())
        if tilted.grid.law.below is not None:  # its law may have a second hump, which lower tilts make the grid hold
            lowest, highest = min(lowest, tilted.grid.lowest_tilt), max(highest, tilted.grid.highest_tilt)
        tilted = tilted_steps(make_grid(tilted.grid.law, lowest, highest, reach), tilted.tilt)
        wrong = tilted.quadrature_error(reach)
    return tilted, wrong


def _end_of_line(
    tilted: TiltedSteps, curvature: float, spread: float, kernel: float, step: float, most_nodes: float
) -> tuple[float, FloatArray]:
    """Return where the nodes may end, and bounds on every step's log |cf| beyond, (T, P).

    By shifted scores, too, if that is far.
    """
    steps = tilted.grid.steps
    decay, shifted = decay_bound(tilted), None

    def log_phi(y: float) -> FloatArray:
        bound = decay.log_phi(y)
        return bound if shifted is None else np.minimum(bound, shifted.log_bound(y))

    def log_cf_bound(y: float) -> float:
        return float(compose_bound(steps, log_phi(y), y).max())

    start, farthest = 9.0 / math.sqrt(curvature), step * most_nodes
    try:
        last = last_node(log_cf_bound, start, kernel * spread, farthest)
        if last / step < FEW_NODES:
            return last, log_phi(last)
    except OutOfReachError:
        pass  # shifted scores may do
    shifted = shifted_bound(tilted)
    last = last_node(log_cf_bound, start, kernel * spread, farthest)
    return last, log_phi(last)


def _chernoff_points(
    grid: Grid, c: float, direction: Direction, epsilon: float, log_value: float, spread: float
) -> Chernoff:
    """Return well chosen points on both sides of c > 1 with upper bounds on K there."""
    others = [c + offset / spread for offset in (3.0, 1.5, 0.6)]
    if c - 6.0 / spread > 1.0:
        others.append(c - 6.0 / spread)
    points = _chernoff(grid, others, direction)
    room = max(alias_room(c, *point, epsilon, log_value) for point in points.bounds(grid.steps)[1:4])
    if room * spread > 0.4:
        return points
    best = c
    for offset in (4.0, 2.0, 1.0, 0.5, 0.25, 0.12):  # G may take off just above c: look before proving
        other = c + offset / spread
        rough = alias_room(c, other, moments(grid, other, direction)[0], epsilon, log_value)
        if rough > room:
            best, room = other, rough
    if best == c:
        return points
    tilt = best if direction == "remove" else 1.0 - best
    more = _chernoff(make_grid(grid.law, tilt, tilt, 0.0), [best], direction)
    return Chernoff(np.append(points.c, more.c), np.vstack([points.log_mgf, more.log_mgf]))


def _chernoff(grid: Grid, points: list[float], direction: Direction) -> Chernoff:
    """Return proved upper bounds on K at the points c' > 1."""
    c = np.array(points)
    return Chernoff(c, log_mgf_upper(grid, c if direction == "remove" else 1.0 - c))


def chernoff_bound(grid: Grid, points: list[float], direction: Direction, epsilon: float) -> float:
    """Return the least of the bounds kappa(c) e^{G(c) - (c - 1) epsilon} on delta at points c > 1."""
    log_delta = math.inf
    for c, log_mgf in _chernoff(grid, points, direction).bounds(grid.steps)[1:]:
        log_delta = min(log_delta, log_chernoff(c, log_mgf, epsilon))
    return math.exp(min(log_delta, 700.0)) + grid.law.cut_off()
