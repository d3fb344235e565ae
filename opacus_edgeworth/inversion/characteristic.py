r"""Powers of characteristic functions at the nodes of a line, with bounds on their errors.

One phase's law has phi(t + iy) = phi(t) (1 + X(y)), X(y) = E_t[e^{iyL} - 1 - iyL] + iy E_t[L]. On the nodes y_k = k h,
k = k1 + M k2, with A = e^{iaL} - 1 and B likewise for the coarse part, e^{i(a+b)L} - 1 - i(a+b)L = (A - iaL) +
(B - ibL) + A B: one matrix product for all nodes. The quadrature errs by at most `unknown`, weights and losses by
`TiltedSteps.rounding`, the mean by `mean_error`; log1p divides these by |1 + X|. Where L does not crowd around 0
nothing is gained by centring, and digits are lost where y L is large: at such nodes, and for laws between two barriers,
E_t[e^{iyL}] - 1 is summed as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import ComplexArray, FloatArray, IntArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.quadrature import TiltedSteps
from opacus_edgeworth.mechanisms import ULP

MAX_CHUNK = 1 << 15
"""Complex numbers of a table of e^{iyL} that are held at once, about."""


def log_cf(tilted: TiltedSteps, unknown: FloatArray, step: float, nodes: int) -> tuple[ComplexArray, FloatArray]:
    """Return log of the cf of the whole composition at y_k, k < nodes, under each tilt, and bounds on its error.

    Both (T, nodes); `unknown` is (T, P).
    """
    steps = tilted.grid.steps
    y = step * np.arange(nodes)
    total, error = _gaussian(steps, tilted.tilt, y)
    size = np.abs(total)
    for some, x, wrong in _excess(tilted, unknown, step, nodes):
        log_phi, log_error = _log_power(x, wrong, steps.steps[some, None])
        total = total + log_phi.sum(axis=1)
        error = error + log_error.sum(axis=1)
        size = size + np.abs(log_phi).sum(axis=1)
    return total, error + ULP * (steps.phases + 4) * size


@dataclass(frozen=True, slots=True)
class Group:
    """Some phases of a composition on a grid of their own.

    Args:
      where: (p,), their indices.
      tilted: their laws under one tilt.
      unknown: (p,), relative error of the quadrature at the nodes.
    """

    where: IntArray
    tilted: TiltedSteps
    unknown: FloatArray


def gap_cf(
    steps: Composition, bases: list[Group], gaps: list[Group], step: float, nodes: int
) -> tuple[ComplexArray, FloatArray]:
    r"""Return (prod (phi + gap)^n - prod phi^n) / prod phi(t)^n at y_k, (nodes,), and a bound on its error.

    With D = sum n log(1 + gap / phi) that is e^{log prod (phi / phi(t))^n} expm1(D), and
    |e^{D'} - e^D| <= e^{Re D} expm1 |D' - D|: accurate where the gap is small. Where phi is not known, or gap undoes
    it (a barrier's edge is sharp, the law beyond it is not), the two products by themselves are.

    Args:
      steps: the composition.
      bases: phi of all phases, under one tilt.
      gaps: what is added to some of them, under the same tilt.
      step: the distance of the nodes.
      nodes: their number.
    """
    y = step * np.arange(nodes)
    total, error = (row[0] for row in _gaussian(steps, bases[0].tilted.tilt, y))
    whole, whole_error = total, error
    d, d_error = np.zeros(nodes, dtype=np.complex128), np.zeros(nodes)
    size, whole_size, d_size = np.abs(total), np.abs(total), 0.0
    added = {phase.index: phase for group in gaps for phase in _phases(group, step, nodes)}
    for group in bases:
        for base in _phases(group, step, nodes):
            count = steps.steps[base.index]
            log_phi, log_error = _log_power(base.x, base.wrong, count)
            total, error, size = total + log_phi, error + log_error, size + np.abs(log_phi)
            gap = added.get(base.index)
            if gap is not None:
                log_ratio, ratio_error = _log_ratio(base, gap, count)
                d, d_error, d_size = d + log_ratio, d_error + ratio_error, d_size + np.abs(log_ratio)
                log_phi, log_error = _log_sum_power(base, gap, count)
            whole, whole_error, whole_size = whole + log_phi, whole_error + log_error, whole_size + np.abs(log_phi)
    rounding = ULP * (steps.phases + 8)
    error = error + rounding * size + 4.0 * ULP * np.abs(total)
    whole_error = whole_error + rounding * whole_size + 4.0 * ULP * np.abs(whole)
    d_error = d_error + rounding * d_size
    with np.errstate(over="ignore", invalid="ignore"):
        power, whole_power = np.exp(total), np.exp(whole)
        value = power * np.expm1(d)
        wrong = np.abs(value) * np.expm1(error + 8.0 * ULP)
        wrong += np.exp(np.real(total) + np.real(d) + error) * np.expm1(d_error)
        apart = np.abs(power) * np.expm1(error + 8.0 * ULP) + np.abs(whole_power) * np.expm1(whole_error + 8.0 * ULP)
        known = np.isfinite(value) & (wrong < apart)
        value = np.where(known, value, whole_power - power)
        wrong = np.where(known, wrong, apart * (1.0 + 1e-9))
    usable = np.isfinite(value) & np.isfinite(wrong)
    return np.where(usable, value, 0.0), np.where(usable, wrong, math.inf)


@dataclass(frozen=True, slots=True)
class _Phase:
    """X of one phase at the nodes with its error, and log phi(t) with its error."""

    index: int
    x: ComplexArray
    wrong: FloatArray
    log_mgf: float
    log_mgf_error: float


def _phases(group: Group, step: float, nodes: int) -> Iterator[_Phase]:
    """Yield the phases of a group."""
    tilted = group.tilted
    for some, x, wrong in _excess(tilted, group.unknown[None], step, nodes):
        for p, index in enumerate(group.where[some]):
            at = some.start + p
            yield _Phase(
                int(index), x[0, p], wrong[0, p], float(tilted.log_mgf[0, at]), float(tilted.log_mgf_error[0, at])
            )


def _share(base: _Phase, gap: _Phase) -> tuple[float, float]:
    """Return gap(t) / phi(t) and a bound on the error of its logarithm."""
    off = gap.log_mgf_error + base.log_mgf_error + 8.0 * ULP * (2.0 + abs(gap.log_mgf) + abs(base.log_mgf))
    return math.exp(min(gap.log_mgf - base.log_mgf, 600.0)), off


def _log_ratio(base: _Phase, gap: _Phase, count: float) -> tuple[ComplexArray, FloatArray]:
    """Return n log(1 + gap / phi) and a bound on its error."""
    share, off = _share(base, gap)
    left = np.maximum(np.abs(1.0 + base.x) - base.wrong, 1e-300)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        ratio = share * (1.0 + gap.x) / (1.0 + base.x)
        relative = np.expm1(off) + base.wrong / left + 16.0 * ULP
        wrong = share * math.exp(off) * gap.wrong / left + np.abs(ratio) * relative * (1.0 + relative)
    log_ratio, error = _log1p(ratio, wrong)
    return count * log_ratio, count * error


def _log_sum_power(base: _Phase, gap: _Phase, count: float) -> tuple[ComplexArray, FloatArray]:
    """Return n log((phi + gap) / phi(t)) and a bound on its error."""
    share, off = _share(base, gap)
    added = share * (1.0 + gap.x)
    x = base.x + added
    wrong = base.wrong + share * math.exp(off) * gap.wrong + np.abs(added) * (math.expm1(off) + 16.0 * ULP)
    wrong += 8.0 * ULP * (np.abs(base.x) + np.abs(added))
    return _log_power(x, wrong, count, 1.0 + share * math.exp(off) * (1.0 + 4.0 * ULP))


def _gaussian(steps: Composition, tilts: FloatArray, y: FloatArray) -> tuple[ComplexArray, FloatArray]:
    """Return log of the cf of the unsampled steps at y (N,), under each tilt, and a bound on its error, (T, N)."""
    gaussian, tilt = steps.gaussian, tilts[:, None]
    total = -0.5 * gaussian * y * y + 1j * (y * (gaussian * (tilt - 0.5)))
    return total, 8.0 * ULP * gaussian * y * (y + np.abs(tilt) + 1.0)


def _log1p(x: ComplexArray, wrong: FloatArray) -> tuple[ComplexArray, FloatArray]:
    """Return log(1 + x) for x of any size, off by up to `wrong`, and a bound on its error.

    For |x| < 1 the real part is that of |1 + x|^2 - 1 = 2 Re x + |x|^2, which keeps its relative accuracy. The
    bound is infinite where 1 + x may be 0.
    """
    usable = np.isfinite(x) & np.isfinite(wrong)
    x, size = np.where(usable, x, 0.0), np.where(usable, np.abs(x), 0.0)
    modulus = np.hypot(1.0 + x.real, x.imag)
    excess = np.where(size < 1.0, 2.0 * x.real + np.minimum(size, 1.0) ** 2, 0.0)
    fine = (size < 1.0) & (excess > -0.5)
    real = np.where(fine, 0.5 * np.log1p(np.maximum(excess, -0.5)), np.log(np.maximum(modulus, 1e-300)))
    log_value = real + 1j * np.arctan2(x.imag, 1.0 + x.real)
    wrong = np.where(usable, wrong + 8.0 * ULP * size, math.inf)
    known = wrong < 0.4 * modulus
    relative = np.where(known, wrong / np.maximum(modulus, 1e-300), 0.0)
    return log_value, np.where(known, -np.log1p(-relative) + 8.0 * ULP * np.abs(log_value), math.inf)


def _excess(
    tilted: TiltedSteps, unknown: FloatArray, step: float, nodes: int
) -> Iterator[tuple[slice, ComplexArray, FloatArray]]:
    """Yield some phases, X at y_k and a bound on its error, both (T, p, nodes), so that memory stays small."""
    inner = max(1, math.isqrt(nodes - 1) + 1)
    outer = -(-nodes // inner)
    parts = step * np.concatenate([np.arange(inner), inner * np.arange(outer)])
    y = step * np.arange(nodes)
    table = parts.size * tilted.grid.loss.shape[1] + tilted.tilt.size * nodes
    chunk = max(1, MAX_CHUNK // table)
    for i in range(0, tilted.grid.steps.phases, chunk):
        some = slice(i, i + chunk)
        linear, quadratic, both_ways = tilted.rounding[:, :, some, None] * y
        around_mean = np.minimum(linear, quadratic * y) + both_ways * y + tilted.mean_error[:, some, None] * y
        wrong = tilted.spread[:, some, None] + tilted.turn[:, some, None] * y
        plain = np.full(wrong.shape, True) if tilted.grid.law.below is not None else wrong < around_mean
        angle = parts[:, None] * tilted.grid.loss[some, None, :]
        both = _expm1_imaginary(angle)  # (p, inner + outer, J)
        weight = tilted.weight[:, some, :, None]
        pairs = np.matmul(both[:, inner:] * weight[:, :, None, :, 0], both[:, :inner].transpose(0, 2, 1))

        def combined(alone: ComplexArray, pairs: ComplexArray = pairs) -> ComplexArray:
            alone = alone[..., 0]  # (T, p, inner + outer)
            x = pairs + alone[..., inner:, None] + alone[..., None, :inner]
            return x.reshape(*x.shape[:2], -1)[..., :nodes]

        x = combined(np.matmul(both, weight)) if plain.any() else np.zeros(1, dtype=np.complex128)
        if not plain.all():
            centred = combined(np.matmul(_less_angle(both, angle), weight))
            centred += 1j * (y * tilted.mean[:, some, None])
            x, wrong = np.where(plain, x, centred), np.where(plain, wrong, around_mean)
        yield some, x, wrong + unknown[:, some, None]


def _log_power(
    x: ComplexArray, wrong: FloatArray, counts: FloatArray | float, largest: float = 1.0
) -> tuple[ComplexArray, FloatArray]:
    """Return counts * log(1 + x) and a bound on its error, x being off by up to `wrong` and by its own rounding.

    Where nothing is known of 1 + x, its modulus is at most |1 + x| + wrong and at most `largest`: that power and twice
    it, which is expm1(log 3), cover the difference.
    """
    log_phi, error = _log1p(x, wrong)
    unknown = np.isinf(error)
    if unknown.any():
        most = np.abs(1.0 + x) + wrong + 8.0 * ULP * (1.0 + np.abs(x))
        log_phi[unknown] = np.log(np.clip(most, 1e-300, largest))[unknown]
        return counts * log_phi, np.where(unknown, math.log(3.0), counts * error)
    return counts * log_phi, counts * error


def _expm1_imaginary(angle: FloatArray) -> ComplexArray:
    """Return e^{ia} - 1 to a few ulp."""
    half = np.sin(0.5 * angle)
    value = np.empty(angle.shape, dtype=np.complex128)
    value.real = -2.0 * half * half
    value.imag = np.sin(angle)
    return value


def _less_angle(value: ComplexArray, angle: FloatArray) -> ComplexArray:
    """Return e^{ia} - 1 - ia to a few ulp, given e^{ia} - 1."""
    rest = value.copy()
    rest.imag -= angle
    small = np.abs(angle) < 0.5
    if small.any():  # where the difference would cancel
        a = angle[small]
        square = a * a
        series = np.full_like(a, -1.0 / math.factorial(15))
        for power in (13, 11, 9, 7, 5, 3):
            series *= square
            series += (-1.0) ** ((power - 1) // 2) / math.factorial(power)
        rest.imag[small] = series * square * a
    return rest
