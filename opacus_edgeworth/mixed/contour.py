r"""One line for steps of all kinds together, smoothed where their losses do not blur by themselves.

With G the sum over the parts, the line of `inversion.line` bounds delta. It needs |e^{G(c + iy)}| to decay. Where atoms
or single events keep it up, an extra Gaussian step of variance t^2 is added to the loss:

*Above.* One mechanism more only raises delta.

*Below.* Let k(u) = g(u) - (1 - e^u)_+, g the extra step's own delta. With x = |u| / t and Mills' ratio R,
k(u) = N(x) e^{u/2 - t^2/8} (R(x - t/2) - R(x + t/2)). R is convex and falls, so the bracket falls in x; at x = 0 it is
at most t e^{t^2/8}. The density of the extra loss under A being N(x) e^{u/2 - t^2/8} / t, k(u) is at most t^2 e^{t^2/8}
times it; so the smoothed delta less the true one is at most that times the density of the smoothed sum at epsilon: the
same integral with the kernel 1 / (z (z - 1)) - t^2 e^{t^2/8}. What the rule adds to a density, >= 0, is on the safe
side; beyond the last node Y the constant adds at most t^2 e^{t^2/8} Int_Y e^{-t^2 y^2/2} dy, which is less than
e^{t^2/8} e^{-t^2 Y^2/2} / Y.

The error is t^2 times a density: second order, but of first order where an atom lies at epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import ComplexArray, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.line import TARGET, Line, last_node, log_chernoff, node_distance
from opacus_edgeworth.inversion.saddle import first_log_tilt, log_kappa, saddle_of_delta, saddle_of_epsilon
from opacus_edgeworth.mechanisms import ULP
from opacus_edgeworth.mixed.part import Part, TiltedPart, Upper

NEGLIGIBLE = 1e-21
"""Share of the largest amplitude that a node must have."""
OFFSETS = (3.0, 1.5, 0.6, 0.25, -6.0, -2.0)
"""Where Chernoff points are tried, in units of the integrand's width from c."""


@dataclass(frozen=True, slots=True)
class Parts:
    """All steps of a history in one direction.

    Args:
      parts: of the steps that are not unsampled Gaussian ones.
      gaussian: the unsampled Gaussian steps' sum of steps / noise_multiplier^2.
    """

    parts: tuple[Part, ...]
    gaussian: float

    def moments(self, c: float) -> tuple[float, float, float]:
        """Return about G, G' and G''."""
        value, slope, curvature = (
            np.array([(0.0, 0.0, 0.0), *(part.moments(c) for part in self.parts)]).sum(axis=0).tolist()
        )
        variance = self.gaussian
        return value + 0.5 * variance * c * (c - 1.0), slope + variance * (c - 0.5), curvature + variance

    def upper(self, c: float) -> Upper:
        """Return an upper bound on G(c), and what delta lost at most by cutting laws off."""
        uppers = [part.upper(c) for part in self.parts]
        return Upper(self.composed([upper.log_mgf for upper in uppers], c), math.fsum(upper.lost for upper in uppers))

    def composed(self, terms: list[float], c: float) -> float:
        """Return an upper bound on G(c) from those of the parts."""
        terms = [*terms, 0.5 * self.gaussian * c * (c - 1.0) + 8.0 * ULP * abs(self.gaussian * c * (c - 1.0))]
        return math.fsum(terms) + 2.0 * ULP * math.fsum(map(abs, terms))


@dataclass(frozen=True, slots=True)
class SmoothedLine:
    """Two lines with common nodes.

    Args:
      above: of the smoothed delta.
      below: of that less what it exceeds the true one by at most; `above` itself where nothing had to be smoothed, None
        where that is too much to be of use.
    """

    above: Line
    below: Line | None

    @property
    def is_exact(self) -> bool:
        """Whether nothing had to be smoothed."""
        return self.below is self.above

    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on delta, that of finite losses alone, at any real epsilon."""
        above = self.above.delta(epsilon)
        if self.is_exact:
            return above
        lower = 0.0 if self.below is None else min(self.below.delta(epsilon).lower, above.upper)
        return Bounds(lower, above.upper)


def saddle_for_epsilon(total: Parts, epsilon: float) -> float:
    """Return about the c > 1 at which a line for delta near epsilon is best."""
    return saddle_of_delta(total.moments, epsilon, first_log_tilt(total.moments(1.0)[2]))


def saddle_for_delta(total: Parts, delta: float) -> tuple[float, float]:
    """Return about the c > 1 at which the Chernoff bound on epsilon at `delta` is least, and that bound."""
    return saddle_of_epsilon(total.moments, delta, first_log_tilt(total.moments(1.0)[2]))


def chernoff_delta(total: Parts, epsilon: float, c: float) -> float:
    """Return the upper bound kappa(c) e^{G(c) - (c - 1) epsilon} on delta, and what was cut off; less than e^700."""
    log_mgf, lost = total.upper(c)
    return math.exp(min(log_chernoff(c, log_mgf, epsilon), 700.0)) + lost * (1.0 + 1e-9) + 5e-324


def chernoff_epsilon(total: Parts, delta: float, c: float) -> float:
    """Return an epsilon >= 0 at which that bound is at most delta."""
    log_mgf, lost = total.upper(c)
    if lost * (1.0 + 1e-9) >= 0.5 * delta:
        return math.inf
    epsilon = (log_mgf + log_kappa(c) - math.log(delta - lost * (1.0 + 1e-9)) + 4.0 * ULP) / (c - 1.0)
    room = 1e-12 * (1.0 + abs(log_mgf) + c * abs(epsilon)) / (c - 1.0)  # as in `log_chernoff`
    return max(epsilon + 2.0 * room, 0.0)


def nearly_all(total: Parts, epsilon: float) -> float:
    """Return an upper bound on 1 - delta: E_B[min(e^S, e^epsilon)] <= e^{G(c) + (1 - c) epsilon}, 1/2 <= c <= 1.

    The mass that A has where B has none is not counted: it is part of delta.
    """
    _, mean, variance = total.moments(1.0)
    if not (mean > epsilon and variance > 0.0):
        return 1.0
    gap = min((mean - epsilon) / variance, 0.5)
    log_mgf, lost = total.upper(1.0 - gap)
    room = 1e-12 * (1.0 + abs(log_mgf) + abs(epsilon))
    return min(math.exp(min(log_mgf + gap * epsilon + room, 0.0)) + lost * (1.0 + 1e-9), 1.0)


def make_line(total: Parts, c: float, epsilon: float, most_nodes: int) -> SmoothedLine:
    """Return the line through c > 1 for delta near epsilon, as smooth as it must be to end within so many nodes.

    Raises:
      OutOfReachError: nothing bounds the alias terms, or the nodes would take too long.
    """
    gap = c - 1.0
    c = 1.0 + gap  # now both are exact
    value, _, curvature = total.moments(c)
    if not (curvature > 0.0 and gap > 0.0):
        raise OutOfReachError("the saddle point is at a pole, or the losses are too narrow")
    spread = math.sqrt(curvature + 1.0 / c**2 + 1.0 / gap**2)
    kernel = c * gap * spread
    log_value = value - gap * epsilon - math.log(2.51 * kernel)
    others = [c + offset / spread for offset in OFFSETS if c + offset / spread > 1.0]
    reach = 9.0 / math.sqrt(curvature)
    tilted = [part.at(c, reach) for part in total.parts]
    uppers = (total.composed([part.upper(other) for part in tilted], other) for other in others)
    chernoff = ((1.0, 0.0), *zip(others, uppers, strict=True))
    step = node_distance(c, chernoff, epsilon, log_value, spread)

    def log_beyond(y: float) -> float:
        return math.fsum(part.log_beyond(y) for part in tilted) - 0.5 * total.gaussian * y * y * (1.0 - 1e-9)

    farthest, extra = step * (most_nodes - 1), 0.0
    try:
        last = last_node(log_beyond, min(reach, farthest), kernel, farthest)
    except OutOfReachError:
        last = farthest
        extra = 2.0 * max(TARGET + 1.0 + log_beyond(last) + math.log(kernel / last), 1.0) / last**2
    chernoff = tuple((other, bound + 0.5 * extra * other * (other - 1.0) * 1.000001) for other, bound in chernoff)
    count = math.ceil(last / step) + 1
    return _smoothed_line(tilted, total.gaussian, extra, (c, gap), (step, count), chernoff, log_beyond)


def _smoothed_line(
    tilted: list[TiltedPart],
    gaussian: float,
    extra: float,
    contour: tuple[float, float],
    nodes: tuple[float, int],
    chernoff: tuple[tuple[float, float], ...],
    log_beyond: Callable[[float], float],
) -> SmoothedLine:
    """Return the line of the smoothed delta, and that of its lower bound."""
    (c, gap), (step, count) = contour, nodes
    y = step * np.arange(count)
    variance = gaussian + extra
    cf, error = _log_cf(tilted, variance, c, step, count)
    wrong = error + 4.0 * ULP * (np.abs(cf) + 4.0)
    if not float(wrong.max()) < 50.0:
        raise OutOfReachError("rounding drowns the line")
    factor, wrong, kernel = np.exp(cf), np.expm1(wrong), 1.0 / ((c + 1j * y) * (gap + 1j * y))
    log_peak = math.fsum(part.log_peak for part in tilted) + 0.5 * variance * c * gap
    size = math.fsum(abs(part.log_peak) for part in tilted) + 0.5 * variance * c * gap
    log_peak_error = math.fsum(part.log_peak_error for part in tilted) + ULP * (len(tilted) + 16.0) * size
    left_out = log_beyond(float(y[-1])) - 0.5 * extra * float(y[-1]) ** 2 * (1.0 - 1e-9)
    lost = sum(part.lost for part in tilted)
    log_lost_share = max((part.log_lost_share for part in tilted), default=-math.inf)  # only one part loses anything

    def line(constant: float, log_beyond: float) -> Line:
        """Return the line with the kernel less a constant."""
        amplitude = factor * (kernel - constant)
        amplitude[0] *= 0.5
        modulus = np.abs(amplitude)
        # of the kernel, too: its two terms may cancel
        total_error = float(modulus @ wrong + (8.0 * ULP * constant * np.abs(factor)).sum())
        # most nodes of a long line hardly count: they are left out, and added to the error
        kept = modulus > NEGLIGIBLE * modulus.max()
        kept[-1] = True
        total_error += float(modulus[~kept].sum()) * (1.0 + 1e-9)
        amplitude, modulus, y_kept = amplitude[kept], modulus[kept], y[kept]
        moduli = float(modulus.sum()), float(modulus @ y_kept)
        on_line = c, gap, step, y_kept, amplitude, total_error, *moduli
        return Line(*on_line, log_peak, log_peak_error, log_beyond, chernoff, lost, log_lost_share, 0.0)

    above = line(0.0, left_out)
    if extra == 0.0 or 0.125 * extra > 600.0:
        return SmoothedLine(above, above if extra == 0.0 else None)
    share = math.exp(0.125 * extra) * (1.0 + 8.0 * ULP)
    return SmoothedLine(above, line(extra * share, left_out + math.log1p(share)))


def _log_cf(
    tilted: list[TiltedPart], variance: float, c: float, step: float, count: int
) -> tuple[ComplexArray, FloatArray]:
    """Return G(c + iy) - G(c) at the nodes, with a bound on its error."""
    y = step * np.arange(count)
    total = -0.5 * variance * y * y + 1j * (y * (variance * (c - 0.5)))
    error = 8.0 * ULP * variance * y * (y + c + 1.0)
    size = np.abs(total)
    for part in tilted:
        value, wrong = part.log_cf(step, count)
        total, error, size = total + value, error + wrong, size + np.abs(value)
    return total, error + ULP * (len(tilted) + 2) * size
