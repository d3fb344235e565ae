r"""The line engine: delta by the trapezoid rule on a vertical line through the saddle point.

With G the direction's cumulant generating function and z = c + iy,

    delta(e) = (1/2 pi i) Int e^{G(z) + (1-z) e} / (z (z - 1)) dz                       c > 1,
    1 - delta(e) = E_Q[min(e^S, e^e)] = (1/2 pi i) Int e^{G(z) + (1-z) e} / (z (1 - z)) dz    0 < c < 1.

Four errors, each with its own function: the step of the rule (`alias_bound`), the quadrature behind G
(`quadrature.discretisation_error`, `quadrature.range_error`), the nodes left out (`truncation.Decay`), and rounding
(`quadrature.TiltedSteps`, `_log_cf`). They are added outward in `Line.delta` and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import ComplexArray, Direction, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.quadrature import TiltedSteps, few_bits, log_mgf_upper, tilted_steps
from opacus_edgeworth.inversion.saddle import (
    RoughLaw,
    log_kappa,
    moments,
    saddle_for_epsilon,
    saddle_in_strip,
)
from opacus_edgeworth.inversion.truncation import decay_bound
from opacus_edgeworth.mechanisms import ULP

TARGET = 32.0
"""Each error is pushed below about e^-TARGET = 1e-14 of delta."""
MAX_NODES = 1 << 16
MAX_WORK = 4e8
"""Nodes times grid points; beyond it the lattice engine is quicker."""


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
        lower = _scaled_exp(log_scale, total - uncertain - left_out - alias, unit_error, up=False)
        if self.gap < 0.0:
            lower, upper = 1.0 - min(upper, 1.0) - ULP, 1.0 - lower + ULP
        lower, upper = min(max(lower, 0.0), 1.0), min(max(upper, 0.0), 1.0)
        return Bounds(lower, upper)

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


def line_for_epsilon(law: RoughLaw, epsilon: float, direction: Direction) -> Line:
    """Return a line for delta near `epsilon`; of the complement where delta is near 1.

    Raises:
      OutOfReachError: the line would need too many nodes.
    """
    _, mean, variance = moments(law, 1.0, direction)
    if mean - epsilon > 3.0 * math.sqrt(variance):
        return make_line(law, saddle_in_strip(law, epsilon, direction), direction, epsilon)
    return make_line(law, saddle_for_epsilon(law, epsilon, direction), direction, epsilon)


def make_line(law: RoughLaw, c: float, direction: Direction, epsilon: float, *, upper_only: bool = False) -> Line:
    """Return the line through c, its nodes chosen for epsilon; with `upper_only` its lower bounds are trivial.

    Raises:
      OutOfReachError: the line would need too many nodes.
    """
    steps, gap = law.steps, c - 1.0
    if gap == 0.0 or c == 0.0:
        raise OutOfReachError("the saddle point is at a pole")
    rough_peak, _, curvature = moments(law, c, direction)
    spread = math.sqrt(curvature + 1.0 / c**2 + 1.0 / gap**2)
    log_value = rough_peak - gap * epsilon - math.log(abs(c * gap) * spread * 2.51)
    if upper_only:  # the alias terms are >= 0: nothing need be known of them
        chernoff, step = (), float(few_bits(0.4 / spread))
    else:
        chernoff = _chernoff_points(law, c, direction, epsilon, log_value, spread)
        step = _node_distance(c, chernoff, epsilon, log_value, spread)
    tilt = c if direction == "remove" else -gap
    reach = 9.2 / math.sqrt(curvature)
    tilted = tilted_steps(steps, tilt, reach, fine=not upper_only) if steps.phases else None
    last, log_beyond = _last_node(steps, tilted, spread, abs(c * gap))
    count = math.ceil(last / step) + 1
    if count > MAX_NODES:
        raise OutOfReachError(f"{count} nodes")
    y = step * np.arange(count)
    log_peak = 0.5 * steps.gaussian * c * gap
    log_peak_error = steps.gaussian_error * abs(log_peak)
    log_cf = -0.5 * steps.gaussian * y * y + 1j * y * (0.5 * steps.gaussian * (2.0 * tilt - 1.0))
    error = steps.gaussian_error * np.abs(log_cf)
    if tilted is not None:
        if y[-1] > reach:
            tilted = tilted_steps(steps, tilt, float(y[-1]), fine=not upper_only)
        if tilted.loss.size * (count + 64.0 * math.sqrt(count)) > MAX_WORK:
            raise OutOfReachError(f"{count} nodes on {tilted.loss.size} grid points")
        phases_log_cf, phases_error = _log_cf(tilted, steps.steps, step, count)
        log_cf, error = log_cf + phases_log_cf, error + phases_error
        log_peak += float(steps.steps @ tilted.log_mgf)
        log_peak_error += float(steps.steps @ (tilted.log_mgf_error + ULP * steps.phases * np.abs(tilted.log_mgf)))
    if direction == "add":  # G(z) = Phi(1 - z), and 1 - z = t - iy
        log_cf = np.conj(log_cf)
    kernel = 1.0 / ((c + 1j * y) * (gap + 1j * y))
    amplitude = np.exp(log_cf) * (kernel if gap > 0.0 else -kernel)
    amplitude[0] *= 0.5
    size = np.abs(amplitude)
    total_error = float(size @ np.expm1(error + 4.0 * ULP * (np.abs(log_cf) + 4.0)))
    return Line(
        c,
        gap,
        step,
        y,
        amplitude,
        total_error,
        float(size.sum()),
        float(size @ y),
        log_peak,
        log_peak_error,
        log_beyond,
        chernoff,
    )


def _chernoff_points(
    law: RoughLaw, c: float, direction: Direction, epsilon: float, log_value: float, spread: float
) -> tuple[tuple[float, float], ...]:
    """Return points on both sides of c with upper bounds on G there: the ends of the strip, or well chosen."""
    if c < 1.0:
        return ((0.0, 0.0), (1.0, 0.0))
    best, best_room = c, 0.0
    for offset in (4.0, 2.0, 1.0, 0.5, 0.25):  # G may take off just above c, or not: look before proving
        other = c + offset / spread
        room = _alias_room(c, other, moments(law, other, direction)[0], epsilon, log_value)
        if room < best_room:
            break
        best, best_room = other, room
        if room * spread > 0.4:
            break
    others = [best]
    if c - 6.0 / spread > 1.0 and _alias_room(c, 1.0, 0.0, epsilon, log_value) < best_room:
        others.append(c - 6.0 / spread)
    return ((1.0, 0.0), *((other, _upper_cgf(law.steps, other, direction)) for other in others))


def _upper_cgf(steps: Composition, c: float, direction: Direction) -> float:
    """Return a proved upper bound on G(c), c > 1."""
    log_mgf = 0.5 * steps.gaussian * c * (c - 1.0) * (1.0 + steps.gaussian_error)
    if steps.phases:
        log_mgf += log_mgf_upper(steps, c if direction == "remove" else 1.0 - c)
    return log_mgf * (1.0 + ULP * (steps.phases + 8))


def _alias_room(c: float, other: float, log_mgf: float, epsilon: float, log_value: float) -> float:
    """Return the largest h at which Chernoff at `other` puts the alias sum at e^-TARGET of the value."""
    excess = log_kappa(other) + log_mgf - (other - 1.0) * epsilon - log_value + TARGET
    return abs(other - c) * 2.0 * math.pi / max(excess, 1.0)


def _node_distance(
    c: float, chernoff: tuple[tuple[float, float], ...], epsilon: float, log_value: float, spread: float
) -> float:
    """Return the largest h at which both alias sums are about e^-TARGET of the value."""
    rooms = {above: [0.0] for above in (True, False)}
    for other, log_mgf in chernoff:
        rooms[other > c].append(_alias_room(c, other, log_mgf, epsilon, log_value))
    step = min(max(rooms[True]), max(rooms[False]), 1.0 / spread)
    if not step > 0.0:
        raise OutOfReachError("no distance of nodes bounds the alias terms")
    return float(few_bits(step))


def _last_node(steps: Composition, tilted: TiltedSteps | None, spread: float, kernel: float) -> tuple[float, float]:
    r"""Return where the nodes may end, and the bound on log |cf| from there on.

    The nodes beyond Y add at most (1/pi) |cf| e^{G(c) + (1-c) e} sum h / y_k^2 <= (1/pi) |cf| e^{...} / Y, because
    |z (z - 1)| >= y^2: `Line.delta` adds that to both sides.
    """
    if tilted is None:
        last = 8.5 / math.sqrt(steps.gaussian)
        return last, -0.5 * steps.gaussian * last * last * (1.0 - 1e-9)
    decay = decay_bound(tilted, steps)
    deviation = math.sqrt(float(steps.steps @ decay.variance) + steps.gaussian)
    last, growth = 7.0 / deviation, 1.1
    for _ in range(120):
        log_beyond = decay.log_bound(last)
        if log_beyond + math.log(kernel * spread / last) < -TARGET:
            return last, log_beyond
        last *= growth
        if last > 400.0 / deviation:
            growth = 1.5
    raise OutOfReachError("the characteristic function decays too slowly")


def _log_cf(tilted: TiltedSteps, counts: FloatArray, step: float, nodes: int) -> tuple[ComplexArray, FloatArray]:
    r"""Return sum_i n_i log phi_t(y_k), k < nodes, and a bound on its error.

    X(y) = phi_t(y) - 1 = E[e^{iyL} - 1 - iyL] + iy mean. With k = k1 + M k2, A = e^{iaL} - 1 and B likewise for the
    coarse part, e^{i(a+b)L} - 1 - i(a+b)L = (A - iaL) + (B - ibL) + A B: one matrix product for all nodes. The errors
    of weights and losses are `tilted.rounding`, of the mean y `mean_error`; log1p divides them by |1 + X|.
    """
    inner = max(1, math.isqrt(nodes - 1) + 1)
    outer = -(-nodes // inner)
    parts = step * np.concatenate([np.arange(inner), inner * np.arange(outer)])
    y = step * np.arange(inner * outer)
    total = np.zeros(inner * outer, dtype=np.complex128)
    error = np.zeros(inner * outer)
    for i in range(counts.size):  # phase by phase, so that memory stays small
        loss, weight = tilted.loss[i], tilted.weight[i]
        both, both_rest = _expm1_imaginary(np.multiply.outer(parts, loss))
        fine, coarse, fine_rest, coarse_rest = both[:inner], both[inner:], both_rest[:inner], both_rest[inner:]
        x = (coarse * weight) @ fine.T + (coarse_rest @ weight)[:, None] + (fine_rest @ weight)[None, :]
        x = x.ravel() + 1j * y * tilted.mean[i]
        excess = 2.0 * x.real + (x.real**2 + x.imag**2)  # |phi|^2 - 1
        modulus = np.hypot(1.0 + x.real, x.imag)
        wrong = np.minimum(tilted.rounding[0, i] * y, tilted.rounding[1, i] * y * y) + tilted.rounding[2, i] * y * y
        wrong = wrong + tilted.mean_error[i] * y + tilted.discretisation[i]
        wrong = wrong + 8.0 * ULP * (np.abs(x.real) + np.abs(x) ** 2) + 8.0 * ULP * np.abs(x.imag) * (1.0 + modulus)
        angle = np.arctan2(x.imag, 1.0 + x.real)
        known = wrong < 0.5 * modulus
        # where nothing is known, |phi| <= modulus + wrong: twice that covers the difference, and expm1(log 3) = 2
        log_phi = np.log(np.clip(modulus + np.where(known, 0.0, wrong), 1e-300, np.where(known, math.inf, 1.0)))
        log_phi = np.where((excess > -0.5) & known, 0.5 * np.log1p(np.maximum(excess, -0.5)), log_phi)
        total += counts[i] * (log_phi + 1j * angle)
        relative = np.where(known, wrong / np.maximum(modulus, 1e-300), 0.0)
        error += np.where(known, counts[i] * (8.0 * ULP * np.abs(angle) - np.log1p(-relative)), math.log(3.0))
    summing = ULP * counts.size * np.abs(total)
    return total[:nodes], (error + summing)[:nodes]


def _expm1_imaginary(angle: FloatArray) -> tuple[ComplexArray, ComplexArray]:
    """Return e^{ia} - 1 and e^{ia} - 1 - ia, both to a few ulp."""
    half = np.sin(0.5 * angle)
    real = -2.0 * half * half
    sine = np.sin(angle)
    square = angle * angle
    series = np.full_like(angle, -1.0 / math.factorial(15))
    for power in (13, 11, 9, 7, 5, 3):
        series = series * square + (-1.0) ** ((power - 1) // 2) / math.factorial(power)
    rest = np.where(square < 0.25, series * square * angle, sine - angle)
    return real + 1j * sine, real + 1j * rest
