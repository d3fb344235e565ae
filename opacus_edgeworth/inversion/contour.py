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
from opacus_edgeworth.inversion.law import Law, nearer_law
from opacus_edgeworth.inversion.line import (
    Chernoff,
    Line,
    alias_room,
    last_node,
    log_chernoff,
    log_peak_of,
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
FEW_NODES = 400
"""Up to so many nodes, no further bound on what is left out beyond them is worth its time."""


@dataclass(frozen=True, slots=True)
class LineTable:
    """Lines through one point, a row for every direction, for any number of steps of these phases.

    Args:
      law: the steps' laws.
      directions: T of them; the first one's line bounds delta from both sides, the others only from above.
      tilt: (T,), c or 1 - c.
      c, gap, step, y: as in `Line`.
      log_mgf: (T, P), K at the tilts; `log_mgf_error` bounds its error.
      logs: (T, P, N), log of every step's cf at the nodes.
      log_beyond: (T, P), upper bounds on log of its modulus from the last node on.
      chernoff: for the alias terms of the first direction; None for c < 1.
    """

    law: Law
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
        law = replace(self.law, steps=steps)
        cut_off = law.cut_off()
        log_peak, log_peak_error = log_peak_of(steps, tilt * (tilt - 1.0), self.log_mgf, self.log_mgf_error)
        log_beyond = compose_bound(steps, self.log_beyond, float(self.y[-1]))
        chernoff = STRIP_ENDS if self.chernoff is None else self.chernoff.bounds(steps)
        cf, error = log_cf(steps, tilt, self.y, self.logs)
        kernel = 1.0 / ((c + 1j * self.y) * (gap + 1j * self.y))
        lines = []
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
                    log_cut_share(law, float(tilt[row]), self.log_mgf[row], self.log_mgf_error[row])
                    if direction == "add" and gap > 0.0
                    else math.inf,
                    0.0,
                )
            )
        return lines


def log_cut_share(law: Law, tilt: float, log_mgf: FloatArray, log_mgf_error: FloatArray) -> float:
    """Bound log(prod (phi + lost)^n / prod phi^n - 1), lost = E_Q[(1 - chi) e^{tL}], t < 0: what e^G lacks.

    From K(t) of every phase, (P,), and bounds on its error.
    """
    lost = law.log_tilted_loss(tilt) - log_mgf + log_mgf_error
    grown = float(law.steps.steps @ np.logaddexp(0.0, lost))
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
        grid.law,
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
