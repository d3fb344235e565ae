r"""The line engine: delta by the trapezoid rule on a vertical line through the saddle point.

With G the direction's cumulant generating function and z = c + iy,

    delta(e) = (1/2 pi i) Int e^{G(z) + (1-z) e} / (z (z - 1)) dz                       c > 1,
    1 - delta(e) = E_Q[min(e^S, e^e)] = (1/2 pi i) Int e^{G(z) + (1-z) e} / (z (1 - z)) dz    0 < c < 1.

The laws end at a barrier (`law.Law.cut_off`); then there are four errors, each with its own function: the step of the
rule (`alias_bound`), the quadrature behind G (`grid.discretisation_error`, `grid.range_error`), the nodes left out
(`truncation.Decay`, `truncation.Shifted`), and rounding (`quadrature.TiltedSteps`, `characteristic.log_cf`). They are
added outward in `Line.delta` and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import ComplexArray, Direction, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.characteristic import log_cf
from opacus_edgeworth.inversion.grid import Grid, few_bits, make_grid
from opacus_edgeworth.inversion.law import nearer_law
from opacus_edgeworth.inversion.quadrature import TiltedSteps, log_mgf_upper, tilted_steps
from opacus_edgeworth.inversion.saddle import (
    fitting_law,
    log_kappa,
    moments,
    saddle_for_epsilon,
    saddle_in_strip,
)
from opacus_edgeworth.inversion.truncation import decay_bound, shifted_bound
from opacus_edgeworth.mechanisms import ULP

TARGET = 32.0
"""Each error is pushed below about e^-TARGET = 1e-14 of delta."""
LOG_SHARE = -80.0
"""Scores at which e^{tL} is less than e^LOG_SHARE do not matter."""
MAX_NODES = 1 << 16
MAX_WORK = 4e8
"""Nodes times grid points."""
MAX_LOOKS = 60
"""Ends of a line that are looked at."""
FEW_NODES = 400
"""Up to so many nodes, no further bound on what is left out beyond them is worth its time."""


@dataclass(frozen=True, slots=True)
class Line:
    """A contour with everything on it that does not depend on epsilon.

    Args:
      c: the real part; `gap` is c - 1, exact.
      step: h, the distance of nodes.
      y: (N,), the nodes' imaginary parts, from 0.
      amplitude: (N,), e^{G(c + iy) - G(c)} times the kernel 1 / (z (z - 1)), or 1 / (z (1 - z)); half of it at y = 0.
      error: bound on the sum of the amplitudes' errors.
      size, first_moment: sums of |amplitude| and of y |amplitude|.
      log_peak: G(c); `log_peak_error` bounds its error.
      log_beyond: upper bound on log |e^{G(c + iy) - G(c)}| from the last node on.
      chernoff: (c', upper bound on G(c')) pairs, for the alias terms.
      cut_off: what delta, or its complement, lost at most when the law was cut off; and `log_cut_share`, log of what
        e^{G(c)} lost, relatively, so that delta lost at most kappa(c) e^{G(c) - (c - 1) e} times that.
      spill: what the line may have too much, for want of a common end of the laws it is the difference of.
    """

    c: float
    gap: float
    step: float
    y: FloatArray
    amplitude: ComplexArray
    error: float
    size: float
    first_moment: float
    log_peak: float
    log_peak_error: float
    log_beyond: float
    chernoff: tuple[tuple[float, float], ...]
    cut_off: float
    log_cut_share: float
    spill: float

    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on delta at any real epsilon; sharp near the epsilon that the line was made for."""
        angle = self.y * epsilon
        total = float(np.dot(self.amplitude.real, np.cos(angle)) + np.dot(self.amplitude.imag, np.sin(angle)))
        uncertain = self.error + ULP * (4.0 * abs(epsilon) * self.first_moment + (self.y.size + 16.0) * self.size)

        log_unit = self.log_peak - self.gap * epsilon
        unit_error = self.log_peak_error + 4.0 * ULP * (abs(self.log_peak) + abs(self.gap * epsilon) + 4.0)
        left_out = math.exp(self.log_beyond) / (self.step * float(self.y[-1]))
        log_scale = log_unit + math.log(self.step / math.pi)
        log_alias = self.alias_bound(epsilon) - log_scale
        alias = math.exp(log_alias) if log_alias < 700.0 else math.inf
        upper = _scaled_exp(log_scale, total + uncertain + left_out, unit_error, up=True)
        upper += min(
            self.cut_off, math.exp(min(log_unit + unit_error + log_kappa(self.c) + self.log_cut_share + 1e-6, 700.0))
        )
        lower = _scaled_exp(log_scale, total - uncertain - left_out - alias, unit_error, up=False) - self.spill
        if self.gap < 0.0:
            lower, upper = 1.0 - min(upper, 1.0) - ULP, 1.0 - lower + ULP
        lower, upper = min(max(lower, 0.0), 1.0), min(max(upper, 0.0), 1.0)
        return Bounds(lower, upper)

    def estimate(self, epsilon: float) -> tuple[float, float]:
        """Return log(delta) at epsilon and its derivative, unproved and for c > 1: where to look for bounds."""
        turned = self.amplitude * np.exp(-1j * self.y * epsilon)
        total, slope = float(turned.real.sum()), float(turned.imag @ self.y)
        if not total > 0.0:
            return -math.inf, -self.gap
        log_delta = self.log_peak - self.gap * epsilon + math.log(self.step / math.pi * total)
        return log_delta, slope / total - self.gap

    def alias_bound(self, epsilon: float) -> float:
        r"""Return log of a bound on what the rule adds: sum over m != 0 of e^{(c-1) 2 pi m / h} f(e + 2 pi m / h).

        That is Poisson's summation formula; f = delta (c > 1) or 1 - delta (0 < c < 1), so every term is >= 0. By
        Chernoff f(s) <= kappa e^{G(c') - (c'-1) s}, kappa = (c'-1)^{c'-1} / c'^{c'} for c' > 1 and 1 for 0 <= c' <= 1
        (min(e^S, e^s) is at most their weighted geometric mean; delta <= 1 is c' = 1). The sums over m > 0 (c' > c)
        and over m < 0 (c' < c) are geometric, with ratio e^{-|c' - c| 2 pi / h}.
        """
        above, below = math.inf, math.inf
        for other, log_mgf in self.chernoff:
            rate = abs(other - self.c) * 2.0 * math.pi / self.step
            if rate < 0.1:
                continue
            bound = log_kappa(other) + log_mgf - (other - 1.0) * epsilon - rate - math.log(-math.expm1(-rate))
            if other > self.c:
                above = min(above, bound)
            else:
                below = min(below, bound)
        return float(np.logaddexp(above, below)) + 1e-6  # room for the rounding of these few operations


def _scaled_exp(log_scale: float, value: float, error: float, *, up: bool) -> float:
    """Return value e^log_scale, moved outward by the relative error of the scale and, near underflow, by one unit."""
    if value <= 0.0:
        return 5e-324 if up else 0.0
    sign = 1.0 if up else -1.0
    exponent = log_scale + math.log(value) + sign * (error + 8.0 * ULP * (1.0 + abs(log_scale)))
    if exponent > 709.0:
        return math.inf if up else 1e308
    result = math.exp(exponent)
    return result + sign * 5e-324 if result < 1e-290 else result


def line_for_epsilon(grid: Grid, epsilon: float, direction: Direction) -> Line:
    """Return a line for delta near `epsilon`; of the complement where delta is near 1.

    Raises:
      OutOfReachError: the line would need too many nodes.
    """
    return make_lines(grid, contour_for_epsilon(grid, epsilon, direction), (direction,), epsilon)[0]


def contour_for_epsilon(grid: Grid, epsilon: float, direction: Direction) -> float:
    """Return the saddle point c > 1, or the one in (0, 1) where delta is near 1."""
    _, mean, variance = moments(grid, 1.0, direction)
    if mean - epsilon > 3.0 * math.sqrt(max(variance, 0.0)):  # rounding may leave it below 0
        return saddle_in_strip(grid, epsilon, direction)
    return saddle_for_epsilon(grid, epsilon, direction)


def make_lines(
    grid: Grid, c: float, directions: tuple[Direction, ...], epsilon: float, most_work: float = MAX_WORK
) -> list[Line]:
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
    counts, gaussian = grid.steps.steps, grid.steps.gaussian
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

    tilt = tilted.tilt
    log_peak = 0.5 * gaussian * tilt * (tilt - 1.0) + tilted.log_mgf @ counts
    log_peak_error = 4.0 * ULP * gaussian * np.abs(tilt * (tilt - 1.0)) + tilted.log_mgf_error @ counts
    log_peak_error += ULP * (counts.size + 4) * (np.abs(tilted.log_mgf) @ counts)
    log_value = float(log_peak[0]) - gap * epsilon - math.log(abs(c * gap) * spread * 2.51)
    chernoff = _chernoff_points(grid, c, directions[0], epsilon, log_value, spread)
    step = node_distance(c, chernoff, epsilon, log_value, spread)
    most_nodes = min(MAX_NODES, most_work / tilted.grid.loss.size)
    last, log_beyond = _end_of_line(tilted, curvature, spread, abs(c * gap), step, most_nodes)
    count = math.ceil(last / step) + 1
    y = step * np.arange(count)
    tilted, wrong = served(tilted, float(y[-1]), counts)
    if tilted.grid.loss.size * (count + 64.0 * math.sqrt(count)) > most_work:
        raise OutOfReachError(f"{count} nodes on {tilted.grid.loss.size} grid points")
    cf, error = log_cf(tilted, wrong, step, count)
    kernel = 1.0 / ((c + 1j * y) * (gap + 1j * y))
    lines = []
    for row, direction in enumerate(directions):
        own = cf[row] if direction == "remove" else np.conj(cf[row])  # G(z) = Phi(1 - z), and 1 - z = t - iy
        amplitude = np.exp(own) * (kernel if gap > 0.0 else -kernel)
        amplitude[0] *= 0.5
        size = np.abs(amplitude)
        total_error = float(size @ np.expm1(error[row] + 4.0 * ULP * (np.abs(own) + 4.0)))
        lines.append(
            Line(
                c,
                gap,
                step,
                y,
                amplitude,
                total_error,
                float(size.sum()),
                float(size @ y),
                float(log_peak[row]),
                float(log_peak_error[row]),
                float(log_beyond[row]),
                chernoff if row == 0 or c < 1.0 else (),
                grid.law.cut_off(),
                _log_cut_share(tilted, row) if direction == "add" and gap > 0.0 else math.inf,
                0.0,
            )
        )
    return lines


def _log_cut_share(tilted: TiltedSteps, row: int) -> float:
    """Bound log(prod (phi + lost)^n / prod phi^n - 1), lost = E_Q[(1 - chi) e^{tL}], t < 0: what e^G lacks."""
    lost = tilted.grid.law.log_tilted_loss(float(tilted.tilt[row])) - tilted.log_mgf[row] + tilted.log_mgf_error[row]
    grown = float(tilted.grid.steps.steps @ np.logaddexp(0.0, lost))
    return math.log(math.expm1(grown) + 1e-300) if grown < 600.0 else math.inf


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
    """Return where the nodes may end, and the bounds on log |cf| beyond; by shifted scores, too, if that is far."""
    decay = decay_bound(tilted)
    start = 9.0 / math.sqrt(curvature)
    try:
        last, log_beyond = last_node(decay.log_bound, start, kernel * spread, step * most_nodes)
        if last / step < FEW_NODES:
            return last, log_beyond
    except OutOfReachError:
        pass  # shifted scores may do
    shifted = shifted_bound(tilted)
    return last_node(lambda y: decay.log_bound(y, shifted), start, kernel * spread, step * most_nodes)


def _chernoff_points(
    grid: Grid, c: float, direction: Direction, epsilon: float, log_value: float, spread: float
) -> tuple[tuple[float, float], ...]:
    """Return points on both sides of c with upper bounds on G there: the ends of the strip, or well chosen."""
    if c < 1.0:
        return ((0.0, 0.0), (1.0, 0.0))  # G(0) = G(1) = 0
    others = [c + offset / spread for offset in (3.0, 1.5, 0.6)]
    if c - 6.0 / spread > 1.0:
        others.append(c - 6.0 / spread)
    points = ((1.0, 0.0), *_upper_cgf(grid, others, direction))
    room = max(alias_room(c, *point, epsilon, log_value) for point in points[1:4])
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
    return (*points, *_upper_cgf(make_grid(grid.law, tilt, tilt, 0.0), [best], direction))


def _upper_cgf(grid: Grid, points: list[float], direction: Direction) -> list[tuple[float, float]]:
    """Return (c', proved upper bound on G(c')) for the points c' > 1."""
    c = np.array(points)
    tilt = c if direction == "remove" else 1.0 - c
    log_mgf = compose_upper(grid.steps, log_mgf_upper(grid, tilt), c)
    return list(zip(points, log_mgf.tolist(), strict=True))


def compose_upper(steps: Composition, log_mgf: FloatArray, c: FloatArray) -> FloatArray:
    """Return upper bounds on G at c (C,) from those on K of each phase, (C, P)."""
    total = log_mgf @ steps.steps + ULP * (steps.phases + 4) * (np.abs(log_mgf) @ steps.steps)
    return total + 0.5 * steps.gaussian * c * (c - 1.0) * (1.0 + 8.0 * ULP)


def log_chernoff(c: float, log_mgf: float, epsilon: float) -> float:
    """Return log of the bound kappa(c) e^{G(c) - (c - 1) epsilon} on delta, with room for its rounding."""
    return log_kappa(c) + log_mgf - (c - 1.0) * epsilon + 1e-12 * (1.0 + abs(log_mgf) + c * abs(epsilon))


def chernoff_bound(grid: Grid, points: list[float], direction: Direction, epsilon: float) -> float:
    """Return the least of the bounds kappa(c) e^{G(c) - (c - 1) epsilon} on delta at points c > 1."""
    log_delta = math.inf
    for c, log_mgf in _upper_cgf(grid, points, direction):
        log_delta = min(log_delta, log_chernoff(c, log_mgf, epsilon))
    return math.exp(min(log_delta, 700.0)) + grid.law.cut_off()


def alias_room(c: float, other: float, log_mgf: float, epsilon: float, log_value: float) -> float:
    """Return the largest h at which Chernoff at `other` puts the alias sum at e^-TARGET of the value."""
    excess = log_kappa(other) + log_mgf - (other - 1.0) * epsilon - log_value + TARGET
    return abs(other - c) * 2.0 * math.pi / max(excess, 1.0)


def node_distance(
    c: float, chernoff: tuple[tuple[float, float], ...], epsilon: float, log_value: float, spread: float
) -> float:
    """Return the largest h at which both alias sums are about e^-TARGET of the value."""
    rooms = {above: [0.0] for above in (True, False)}
    for other, log_mgf in chernoff:
        rooms[other > c].append(alias_room(c, other, log_mgf, epsilon, log_value))
    step = min(max(rooms[True]), max(rooms[False]), 1.0 / spread if spread > 0.0 else math.inf)
    if not step > 0.0:
        raise OutOfReachError("no distance of nodes bounds the alias terms")
    return float(few_bits(step))


def last_node(
    log_bound: Callable[[float], FloatArray], start: float, kernel: float, farthest: float
) -> tuple[float, FloatArray]:
    r"""Return where the nodes may end, between `start` and `farthest`, and the bounds on log |cf| beyond.

    The nodes beyond Y add at most (1/pi) |cf| e^{G(c) + (1-c) e} sum h / y_k^2 <= (1/pi) |cf| e^{...} / Y, because
    |z (z - 1)| >= y^2: `Line.delta` adds that to both sides.
    """
    last, growth = start, 1.2
    for _ in range(MAX_LOOKS):
        log_beyond = log_bound(last)
        if float(log_beyond.max()) + math.log(kernel / last) < -TARGET:
            return last, log_beyond
        if last >= farthest:
            break
        last = min(last * growth, farthest)
        growth = min(1.03 * growth, 1.5)
    raise OutOfReachError("the characteristic function decays too slowly")
