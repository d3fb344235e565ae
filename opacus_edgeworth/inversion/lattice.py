r"""The lattice engine: delta from the composed masses of `masses`, convolved by FFT under an exponential tilt.

Tilting by e^{tL} (t = c, or 1 - c in the add direction, c the saddle point) puts the bulk of the law where delta is
decided, so that rounding of the FFT is small relative to delta, however small that is. Errors: the grid itself
(`masses`: one law above, one below), wrap-around (Chernoff, in `_compose`), rounding (`_fft_error`), quadrature and
range of the masses; all are added outward in `Lattice.delta`.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.grid import Grid
from opacus_edgeworth.inversion.masses import StepLaw, law_above, law_below
from opacus_edgeworth.inversion.saddle import log_kappa, moments
from opacus_edgeworth.mechanisms import ULP

LOG_LOSS = 6.0
LOG_WRAP = 40.0
"""Wrap-around is pushed below about e^-LOG_WRAP of delta."""


@dataclass(frozen=True, slots=True)
class Law:
    """A tilted law of the summed loss on its window.

    Args:
      loss: (N,), the window's grid losses; `loss_error` bounds the error of each.
      mass: (N,), e^{t s} nu(s) / e^log_norm there, everything outside the window folded in.
      log_norm: log of the normalisation.
      log_mass_error: bound on the error of log(mass), as far as it is relative.
      rounding: bound on the 2-norm of the error of `mass` by the FFT.
      log_wrapped: log of a bound on the tilted mass (same normalisation) outside the window.
      log_missing: log of a bound on what delta of this law has outside the window.
      outside: what the steps' scores outside their grids add to delta at most.
    """

    loss: FloatArray
    loss_error: float
    mass: FloatArray
    log_norm: float
    log_mass_error: float
    rounding: float
    log_wrapped: float
    log_missing: float
    outside: float


@dataclass(frozen=True, slots=True)
class Lattice:
    """Composed laws above and below the truth, for any epsilon near the one they were made for."""

    direction: Direction
    c: float
    above: Law
    below: Law

    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on delta at any real epsilon."""
        law = self.above
        at = epsilon - law.loss_error - 4.0 * ULP * abs(epsilon)
        total, norm, log_scale = self._sum(law, at)
        factor = law.log_mass_error + ULP * (16.0 + 4.0 * abs(log_scale))
        upper = math.exp(min(log_scale + factor, 700.0)) * (total * (1.0 + 1e-13) + norm * law.rounding)
        upper += math.exp(min(law.log_missing, 700.0)) + law.outside
        if (law.loss[-1] if self.direction == "remove" else -law.loss[0]) < at:
            upper = math.inf  # the window ends below epsilon: nothing is known beyond
        law = self.below
        total, norm, log_scale = self._sum(law, epsilon + law.loss_error + 4.0 * ULP * abs(epsilon))
        factor = law.log_mass_error + ULP * (16.0 + 4.0 * abs(log_scale))
        wrapped = math.exp(min(log_kappa(self.c) + law.log_wrapped, 700.0))
        total = total * (1.0 - 1e-13) - norm * law.rounding - wrapped
        lower = math.exp(min(log_scale - factor, 700.0)) * total if total > 0.0 else 0.0
        upper = max(min(upper, 1.0), 5e-324)
        return Bounds(lower, upper)

    def _sum(self, law: Law, epsilon: float) -> tuple[float, float, float]:
        """Return sum of mass * weight, the 2-norm of weight, and the log of their unit.

        weight(s) = e^{-(c-1)(s-e)} (1 - e^{e-s})_+ with s the direction's loss; it is at most kappa(c).
        """
        beyond = np.maximum((law.loss if self.direction == "remove" else -law.loss) - epsilon, 0.0)
        weight = np.exp((1.0 - self.c) * beyond) * -np.expm1(-beyond)
        log_scale = (1.0 - self.c) * epsilon + law.log_norm
        return float(law.mass @ weight), math.sqrt(float(weight @ weight)), log_scale


def lattice_tilt(rough: Grid, saddle: float, epsilon: float, direction: Direction) -> float:
    """Return the tilt c in (1, saddle] with the narrowest window, as far as rounding stays harmless.

    Off the saddle point the tilted law's total weighs more against delta, by e^LOG_LOSS at most: the FFT's rounding
    grows by that factor, and the grid gets finer by as much as the window shrinks.
    """

    def log_size(c: float) -> float:
        return moments(rough, c, direction)[0] - (c - 1.0) * epsilon - math.log(c * (c - 1.0))

    least = log_size(saddle)
    best, width = saddle, math.inf
    for share in (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05):
        c = 1.0 + share * (saddle - 1.0)
        if log_size(c) - least > LOG_LOSS:
            break
        low, high, _ = _window(rough, c, direction)
        if high - low < 0.8 * width:
            best, width = c, high - low
    return best


def make_lattice(rough: Grid, c: float, direction: Direction, log_delta: float, size: int) -> Lattice:
    """Return the lattice of `size` (a power of two) losses under the tilt c > 1.

    Args:
      rough: the composition with its rough moments.
      c: the saddle point.
      direction: "remove" or "add".
      log_delta: log of the delta of interest, roughly: it sets how much may be cut off.
      size: number of grid losses in the window.

    Raises:
      OutOfReachError: the grid cannot hold the law.
    """
    steps = rough.steps
    low, high, points = _window(rough, c, direction)
    mantissa, exponent = math.frexp((high - low) / (size - 2))
    spacing = math.ldexp(math.ceil(256.0 * mantissa) / 256.0, exponent)  # 8 bits: every multiple is exact
    phases = list(zip(steps.noise_multiplier.tolist(), steps.sample_rate.tolist(), steps.steps.tolist(), strict=True))
    if steps.gaussian > 0.0:
        phases.append((1.0 / math.sqrt(steps.gaussian), 1.0, 1.0))
    log_outside = min(log_delta, -1.0) - 25.0 - math.log(sum(n for _, _, n in phases))
    laws = []
    for make in (law_above, law_below):
        parts = [(n, make(s, q, spacing, log_outside, direction)) for s, q, n in phases]
        laws.append(_compose(parts, direction, c, spacing, low, size, points))
    return Lattice(direction, c, *laws)


def _window(rough: Grid, c: float, direction: Direction) -> tuple[float, float, tuple[float, float]]:
    """Return losses that hold all but about e^-LOG_WRAP of the tilted law, and the tilts that prove it best."""
    peak, _, curvature = moments(rough, c, direction)
    if not curvature > 0.0:
        raise OutOfReachError("the tilted law is too narrow for its variance to be seen")
    spread = math.sqrt(curvature)
    highest: tuple[float, float] = (math.inf, c)
    lowest: tuple[float, float] = (-math.inf, c)
    for offset in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
        with suppress(OutOfReachError):  # a tilt too far away proves nothing
            other = c + offset / spread
            value = (moments(rough, other, direction)[0] - peak + LOG_WRAP) / (other - c)
            highest = min(highest, (value, other))
        with suppress(OutOfReachError):
            other = c - offset / spread
            value = (peak - moments(rough, other, direction)[0] - LOG_WRAP) / (c - other)
            lowest = max(lowest, (value, other))
    if not (math.isfinite(lowest[0]) and math.isfinite(highest[0])):
        raise OutOfReachError("the tilted law has no finite window")
    if direction == "add":  # the loss of this direction is -L
        low, high, points = -highest[0], -lowest[0], (1.0 - highest[1], 1.0 - lowest[1])
    else:
        low, high, points = lowest[0], highest[0], (lowest[1], highest[1])
    steps = rough.steps
    if steps.gaussian == 0.0:
        low = max(low, (1.0 + 1e-9) * float(steps.steps @ np.log1p(-steps.sample_rate)))
    if not low < high:
        raise OutOfReachError("the tilted law's window is empty")
    return low, high, points


def _compose(
    parts: list[tuple[float, StepLaw]],
    direction: Direction,
    c: float,
    spacing: float,
    low: float,
    size: int,
    points: tuple[float, float],
) -> Law:
    """Return the law of the sum of independent steps, folded into `size` losses from `low` on.

    Everything outside the window is bounded by Chernoff at the tilts `points`, one below and one above that of c.
    """
    tilt = c if direction == "remove" else 1.0 - c
    offset = math.fsum(n * part.offset for n, part in parts)
    first = math.floor((low - offset) / spacing)
    loss = offset + spacing * (first + np.arange(size))
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    log_norm, rounding, log_mass_error = 0.0, 0.0, 0.0
    log_mgf = [0.0, 0.0]
    for count, part in parts:
        losses = part.offset + spacing * np.arange(part.mass.size)
        with np.errstate(divide="ignore"):
            log_mass = np.log(part.mass)
        log_mgf = [
            value + count * _log_sum_exp(log_mass + t * losses)[1] for value, t in zip(log_mgf, points, strict=True)
        ]
        mass, log_total = _log_sum_exp(log_mass + tilt * losses)
        log_norm += count * log_total
        largest = abs(tilt) * float(np.abs(losses[[0, -1]]).max()) + float(np.abs(log_mass[mass > 0.0]).max())
        log_mass_error += count * (part.mass_error + ULP * (16.0 + 2.0 * largest + abs(log_total)))
        folded = np.append(mass, np.zeros(-mass.size % size)).reshape(-1, size).sum(axis=0)
        rounding += count * (_fft_error(size) + 40.0 * ULP) * float(np.linalg.norm(folded))
        transform = np.fft.rfft(folded)
        spectrum *= np.where(transform == 0.0, 0.0, np.exp(count * np.log(np.where(transform == 0.0, 1.0, transform))))
    composed = np.fft.irfft(spectrum, size)
    below, above = (
        value - log_norm - (t - tilt) * end + 1e-6
        for value, t, end in zip(log_mgf, points, (loss[0], loss[-1]), strict=True)
    )
    if loss[0] <= offset:
        below = -math.inf  # the sum cannot lie below the window
    if direction == "remove":
        missing = above + log_norm + (1.0 - tilt) * float(loss[-1])
    else:
        missing = below + log_norm - tilt * float(loss[0])
    loss_error = math.fsum(n * (part.loss_error + 2.0 * ULP * abs(part.offset)) for n, part in parts)
    return Law(
        loss,
        loss_error + 8.0 * ULP * float(np.abs(loss[[0, -1]]).max() + abs(offset)),
        np.roll(composed, -(first % size)),
        log_norm,
        1.01 * log_mass_error + ULP * abs(log_norm) * len(parts),
        2.0 * rounding + _fft_error(size) * float(np.linalg.norm(composed)),
        float(np.logaddexp(below, above)),
        missing,
        math.fsum(n * part.outside for n, part in parts) * (1.0 + 1e-9),
    )


def _log_sum_exp(exponent: FloatArray) -> tuple[FloatArray, float]:
    """Return e^exponent normalised to sum 1, and the log of its sum."""
    top = float(exponent.max())
    mass = np.exp(exponent - top)
    total = float(mass.sum())
    return mass / total, top + math.log(total)


def _fft_error(size: int) -> float:
    """Return a bound on the relative error, in the 2-norm, of one FFT (Higham 2002, Theorem 24.2: 7 u log2 N)."""
    return 8.0 * ULP * math.log2(size)
