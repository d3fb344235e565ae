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
from typing import Protocol

import numpy as np

from opacus_edgeworth._types import ComplexArray, FloatArray, IntArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.quadrature import TiltedSteps
from opacus_edgeworth.mechanisms import ULP

MAX_CHUNK = 1 << 15
"""Complex numbers of a table of e^{iyL} that are held at once, about."""


class Tilted(Protocol):
    """Finitely many losses with probabilities, of P laws under T tilts; `TiltedSteps` says what each is."""

    @property
    def loss(self) -> FloatArray:
        """(P, J)."""
        ...

    @property
    def plain(self) -> bool:
        """Whether nothing is gained by centring."""
        ...

    @property
    def weight(self) -> FloatArray:
        """(T, P, J)."""
        ...

    @property
    def mean(self) -> FloatArray:
        """(T, P), as all that follow."""
        ...

    @property
    def mean_error(self) -> FloatArray: ...  # noqa: D102
    @property
    def rounding(self) -> FloatArray: ...  # noqa: D102
    @property
    def spread(self) -> FloatArray: ...  # noqa: D102
    @property
    def turn(self) -> FloatArray: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Logs:
    """Logarithms of one step's factors at N nodes, for any number of steps.

    Args:
      value: (..., P, N); where nothing is known of a factor, log of a bound on its modulus.
      error: (..., P, N), bounds on their errors; infinite where nothing is known.
    """

    value: ComplexArray
    error: FloatArray

    def power(self, counts: FloatArray) -> tuple[ComplexArray, FloatArray, FloatArray]:
        """Return the sum of n log over the phases, a bound on its error, and the sum of the moduli, (..., N).

        Where nothing is known, that power of the bound on the modulus and twice it, which is expm1(log 3), cover the
        difference.
        """
        unknown = np.isinf(self.error)
        if unknown.any():
            error = np.where(unknown, math.log(3.0), counts[:, None] * self.error).sum(axis=-2)
        else:
            error = counts @ self.error
        return counts @ self.value, error, counts @ np.abs(self.value)

    def product(self, counts: FloatArray, keep_unknown: bool = False) -> Logs:
        """Return the logarithms of the product of all factors, so many of each, as those of one phase.

        The sum's rounding is added to the error; factors of which nothing is known are covered as in `power`, unless
        they are to stay unknown.
        """
        value, error, size = self.power(counts)
        if keep_unknown:
            error = counts @ self.error
        error = error + ULP * (counts.size + 4) * size
        return Logs(value[..., None, :], error[..., None, :])

    def select(self, index: int) -> Logs:
        """Return one phase's logarithms."""
        return Logs(self.value[..., index : index + 1, :], self.error[..., index : index + 1, :])

    def joined(self, more: Logs) -> Logs:
        """Return these phases' logarithms and more phases'."""
        return Logs(np.concatenate([self.value, more.value], -2), np.concatenate([self.error, more.error], -2))


def log_steps(tilted: Tilted, unknown: FloatArray, step: float, nodes: int) -> Logs:
    """Return log of every step's cf at y_k, k < nodes, under each tilt, (T, P, nodes); `unknown` is (T, P)."""
    shape = (*unknown.shape, nodes)
    logs = Logs(np.empty(shape, dtype=np.complex128), np.empty(shape))
    for some, x, wrong in _excess(tilted, unknown, step, nodes):
        logs.value[:, some], logs.error[:, some] = log_factor(x, wrong)
    return logs


def log_cf(steps: Composition, tilts: FloatArray, y: FloatArray, logs: Logs) -> tuple[ComplexArray, FloatArray]:
    """Return log of the cf of the whole composition at y (N,), under each tilt, and bounds on its error, (T, N)."""
    total, error = _gaussian(steps, tilts, y)
    log_phi, log_error, size = logs.power(steps.steps)
    return total + log_phi, error + log_error + ULP * (steps.phases + 4) * (size + np.abs(total))


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


@dataclass(frozen=True, slots=True)
class GapLogs:
    """What `gap_cf` needs of every step at the nodes, all (P, N): phi and phi + gap over phi(t), and 1 + gap / phi."""

    base: Logs
    both: Logs
    ratio: Logs

    def product(self, counts: FloatArray) -> GapLogs:
        """Return what is needed of all steps together, so many of each phase, as of one phase's."""
        return GapLogs(self.base.product(counts), self.both.product(counts), self.ratio.product(counts, True))

    def joined(self, more: GapLogs) -> GapLogs:
        """Return these phases' logarithms and more phases'."""
        return GapLogs(self.base.joined(more.base), self.both.joined(more.both), self.ratio.joined(more.ratio))


def log_gaps(phases: int, bases: list[Group], gaps: list[Group], step: float, nodes: int) -> GapLogs:
    """Return the logarithms for phi of all phases and what is added to some of them, under the same tilt."""
    shape = (phases, nodes)
    base_logs, both, ratio = (Logs(np.zeros(shape, dtype=np.complex128), np.zeros(shape)) for _ in range(3))
    added = {phase.index: phase for group in gaps for phase in _phases(group, step, nodes)}
    for group in bases:
        for base in _phases(group, step, nodes):
            i, gap = base.index, added.get(base.index)
            base_logs.value[i], base_logs.error[i] = log_factor(base.x, base.wrong)
            if gap is None:
                both.value[i], both.error[i] = base_logs.value[i], base_logs.error[i]
            else:
                both.value[i], both.error[i] = _log_sum(base, gap)
                ratio.value[i], ratio.error[i] = _log_ratio(base, gap)
    return GapLogs(base_logs, both, ratio)


def gap_cf(steps: Composition, tilt: float, y: FloatArray, logs: GapLogs) -> tuple[ComplexArray, FloatArray]:
    r"""Return (prod (phi + gap)^n - prod phi^n) / prod phi(t)^n at y (N,), and a bound on its error, (N,).

    With D = sum n log(1 + gap / phi) that is e^{log prod (phi / phi(t))^n} expm1(D), and
    |e^{D'} - e^D| <= e^{Re D} expm1 |D' - D|: accurate where the gap is small. Where phi is not known, or gap undoes
    it (a barrier's edge is sharp, the law beyond it is not), the two products by themselves are.
    """
    gaussian, gaussian_error = (row[0] for row in _gaussian(steps, np.array([tilt]), y))
    counts, rounding = steps.steps, ULP * (steps.phases + 8)
    powers: list[tuple[ComplexArray, FloatArray]] = []
    for factors in (logs.base, logs.both):
        total, error, size = factors.power(counts)
        total = total + gaussian
        error = error + gaussian_error + rounding * (size + np.abs(gaussian)) + 4.0 * ULP * np.abs(total)
        powers.append((total, error))
    (total, error), (whole, whole_error) = powers
    d = counts @ logs.ratio.value
    d_error = counts @ logs.ratio.error + rounding * (counts @ np.abs(logs.ratio.value))
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


def _log_ratio(base: _Phase, gap: _Phase) -> tuple[ComplexArray, FloatArray]:
    """Return log(1 + gap / phi) and a bound on its error."""
    share, off = _share(base, gap)
    left = np.maximum(np.abs(1.0 + base.x) - base.wrong, 1e-300)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        ratio = share * (1.0 + gap.x) / (1.0 + base.x)
        relative = np.expm1(off) + base.wrong / left + 16.0 * ULP
        wrong = share * math.exp(off) * gap.wrong / left + np.abs(ratio) * relative * (1.0 + relative)
    return _log1p(ratio, wrong)


def _log_sum(base: _Phase, gap: _Phase) -> tuple[ComplexArray, FloatArray]:
    """Return log((phi + gap) / phi(t)) and a bound on its error."""
    share, off = _share(base, gap)
    added = share * (1.0 + gap.x)
    x = base.x + added
    wrong = base.wrong + share * math.exp(off) * gap.wrong + np.abs(added) * (math.expm1(off) + 16.0 * ULP)
    wrong += 8.0 * ULP * (np.abs(base.x) + np.abs(added))
    return log_factor(x, wrong, 1.0 + share * math.exp(off) * (1.0 + 4.0 * ULP))


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
    tilted: Tilted, unknown: FloatArray, step: float, nodes: int
) -> Iterator[tuple[slice, ComplexArray, FloatArray]]:
    """Yield some phases, X at y_k and a bound on its error, both (T, p, nodes), so that memory stays small."""
    inner = max(1, math.isqrt(nodes - 1) + 1)
    outer = -(-nodes // inner)
    parts = step * np.concatenate([np.arange(inner), inner * np.arange(outer)])
    y = step * np.arange(nodes)
    phases, points = tilted.loss.shape
    table = parts.size * points + unknown.shape[0] * nodes
    chunk = max(1, MAX_CHUNK // table)
    for i in range(0, phases, chunk):
        some = slice(i, i + chunk)
        linear, quadratic, both_ways = tilted.rounding[:, :, some, None] * y
        around_mean = np.minimum(linear, quadratic * y) + both_ways * y + tilted.mean_error[:, some, None] * y
        wrong = tilted.spread[:, some, None] + tilted.turn[:, some, None] * y
        plain = np.full(wrong.shape, True) if tilted.plain else wrong < around_mean
        angle = parts[:, None] * tilted.loss[some, None, :]
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


def log_factor(x: ComplexArray, wrong: FloatArray, largest: float = 1.0) -> tuple[ComplexArray, FloatArray]:
    """Return log(1 + x), x being off by up to `wrong` and by its own rounding, and a bound on its error.

    Where nothing is known of 1 + x, the bound is infinite, and the result is log of a bound on its modulus, which is at
    most |1 + x| + wrong and at most `largest`.
    """
    log_phi, error = _log1p(x, wrong)
    unknown = np.isinf(error)
    if unknown.any():
        most = np.abs(1.0 + x) + wrong + 8.0 * ULP * (1.0 + np.abs(x))
        log_phi[unknown] = np.log(np.clip(most, 1e-300, largest))[unknown]
    return log_phi, error


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
