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

from opacus_edgeworth._types import ComplexArray, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.grid import few_bits
from opacus_edgeworth.inversion.saddle import log_kappa
from opacus_edgeworth.mechanisms import ULP

TARGET = 32.0
"""Each error is pushed below about e^-TARGET = 1e-14 of delta."""
MAX_LOOKS = 60
"""Ends of a line that are looked at."""


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


@dataclass(frozen=True, slots=True)
class Chernoff:
    """Upper bounds on K of every phase at some points, for any number of steps.

    Args:
      c: (C,), c' > 1.
      log_mgf: (C, P), upper bounds on K there, or at 1 - c' for the add direction.
    """

    c: FloatArray
    log_mgf: FloatArray

    def bounds(self, steps: Composition) -> tuple[tuple[float, float], ...]:
        """Return (c', upper bound on G(c')) for c' = 1 and all points."""
        return ((1.0, 0.0), *zip(self.c.tolist(), compose_upper(steps, self.log_mgf, self.c).tolist(), strict=True))

    def product(self, counts: FloatArray) -> Chernoff:
        """Return the bounds for all steps together, so many of each phase, as for one phase."""
        return Chernoff(self.c, upper_sum(self.log_mgf, counts)[:, None])

    def select(self, index: int) -> Chernoff:
        """Return the bounds for one phase alone."""
        return Chernoff(self.c, self.log_mgf[:, index : index + 1])

    def joined(self, more: Chernoff) -> Chernoff:
        """Return the bounds for these phases and for more, at the same points."""
        return Chernoff(self.c, np.hstack([self.log_mgf, more.log_mgf]))


def compose_upper(steps: Composition, log_mgf: FloatArray, c: FloatArray) -> FloatArray:
    """Return upper bounds on G at c (C,) from those on K of each phase, (C, P)."""
    return upper_sum(log_mgf, steps.steps) + 0.5 * steps.gaussian * c * (c - 1.0) * (1.0 + 8.0 * ULP)


def upper_sum(values: FloatArray, counts: FloatArray) -> FloatArray:
    """Return upper bounds on the sums of n times the values over the phases, the last axis."""
    return values @ counts + ULP * (counts.size + 4) * (np.abs(values) @ counts)


def log_peak_of(
    steps: Composition, product: FloatArray | float, log_mgf: FloatArray, log_mgf_error: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return log prod phi(t)^n of the whole composition, (...), and bounds on its error.

    From K(t) of every phase, (..., P), with bounds on its error; `product` is t (t - 1).
    """
    gaussian = 0.5 * steps.gaussian * np.asarray(product)
    sampled, error = log_peak_of_sampled(steps.steps, log_mgf, log_mgf_error)
    return gaussian + sampled, 8.0 * ULP * np.abs(gaussian) + error


def log_peak_of_sampled(
    counts: FloatArray, log_mgf: FloatArray, log_mgf_error: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return what `log_peak_of` does, for so many steps of each phase and no unsampled ones."""
    return log_mgf @ counts, log_mgf_error @ counts + ULP * (counts.size + 4) * (np.abs(log_mgf) @ counts)


def log_chernoff(c: float, log_mgf: float, epsilon: float) -> float:
    """Return log of the bound kappa(c) e^{G(c) - (c - 1) epsilon} on delta, with room for its rounding."""
    return log_kappa(c) + log_mgf - (c - 1.0) * epsilon + 1e-12 * (1.0 + abs(log_mgf) + c * abs(epsilon))


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


def last_node(log_bound: Callable[[float], float], start: float, kernel: float, farthest: float) -> float:
    r"""Return where the nodes may end, between `start` and `farthest`, given a bound on log |cf| beyond.

    The nodes beyond Y add at most (1/pi) |cf| e^{G(c) + (1-c) e} sum h / y_k^2 <= (1/pi) |cf| e^{...} / Y, because
    |z (z - 1)| >= y^2: `Line.delta` adds that to both sides.
    """
    last, growth = start, 1.2
    for _ in range(MAX_LOOKS):
        if log_bound(last) + math.log(kernel / last) < -TARGET:
            return last
        if last >= farthest:
            break
        last = min(last * growth, farthest)
        growth = min(1.03 * growth, 1.5)
    raise OutOfReachError("the characteristic function decays too slowly")
