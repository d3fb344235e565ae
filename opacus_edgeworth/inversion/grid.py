r"""A grid of scores and the privacy losses on it, shared by every tilt of one law, with the rule's errors.

Sums over one step's law run over scores u = x / s by the trapezoid rule, all phases at once: arrays (P, J). The points
are exact floating-point numbers. One grid serves all tilts t from a lowest one on, and arguments z = t + iy of e^{zL}
up to |y| = reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.law import EDGE, Law
from opacus_edgeworth.mechanisms import ULP, loss_slope, privacy_loss, privacy_loss_error

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
STRIP = 0.95
"""Share of the strip of analyticity |Im u| < pi s that the discretisation bound may use."""
MAX_GRID = 400_000
"""Grid points over all phases."""
WIDEST = 0.15
"""Largest spacing of scores: the bounds on the characteristic function's decay see the density cell by cell."""
SMALLEST_LOG = -690.0
"""From here on e^x is a normal floating-point number."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Scores, losses and densities of laws that end at a barrier; arrays are (P, J) unless stated.

    Args:
      law: the law, which ends at E, half a spacing above the last score.
      lowest_tilt, highest_tilt: tilts t for which the density times e^{tL} has fallen at the grid's ends, as it does.
      reach: |Im z| for which the spacing was chosen.
      end_loss, end_slope, end_log_density: (P,), L, dL/dw and log(e^{-u^2/2} chi) at E, rounded up.
      spacing: (P, 1), 8 significant bits each, so that every score is exact.
      score: u.
      loss: L in nats, with an error of at most `loss_error`; `slope` is dL/dw there.
      log_density: log(e^{-u^2/2} chi(u)), with an error of at most `density_error`.
      scale: N(u) chi(u) du.
      excess: e^L - 1 - L.
      powers: (3, P, J), `scale` times 1, L, L^2.
      mass_lost, likelihood_lost: (P,), what the barrier takes from E_Q[1] and E_Q[e^L].
      mean, square: (P,), E_Q[chi L] and E_Q[chi L^2], roughly.
      least_loss, largest_loss: the losses' range over all phases.
    """

    law: Law
    lowest_tilt: float
    highest_tilt: float
    reach: float
    end_loss: FloatArray
    end_slope: FloatArray
    end_log_density: FloatArray
    spacing: FloatArray
    score: FloatArray
    loss: FloatArray
    slope: FloatArray
    loss_error: FloatArray
    log_density: FloatArray
    density_error: FloatArray
    scale: FloatArray
    excess: FloatArray
    powers: FloatArray
    mass_lost: FloatArray
    likelihood_lost: FloatArray
    mean: FloatArray
    square: FloatArray
    least_loss: float
    largest_loss: float

    @property
    def steps(self) -> Composition:
        """The composition whose subsampled phases have these laws."""
        return self.law.steps

    def serves(self, lowest: float, highest: float, reach: float) -> bool:
        """Whether the grid is meant for these tilts and this reach."""
        return self.lowest_tilt <= lowest and highest <= self.highest_tilt and reach <= self.reach


def make_grid(law: Law, lowest_tilt: float, highest_tilt: float, reach: float) -> Grid:
    """Return a grid for a law, for tilts between the two and for |Im z| <= reach.

    Raises:
      OutOfReachError: it would need more than MAX_GRID points.
    """
    steps = law.steps
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    log_accuracy = 38.0
    if law.below is None:
        lowest_tilt, highest_tilt = min(lowest_tilt, 0.0), max(highest_tilt, 1.0)
        log_accuracy += math.log(float(steps.steps.max()))
        low = _low_end(lowest_tilt, s, q, log_accuracy)
    else:
        low = _low_end_above(law, lowest_tilt, log_accuracy)
    spacing = np.minimum(_spacing(law, lowest_tilt, reach, log_accuracy), WIDEST)
    points = math.ceil(1.005 * float(((law.end - low) / spacing[:, None]).max())) + 1
    spacing = few_bits((law.end[:, 0] - low[:, 0]) / (points - 1.0))[:, None]  # all phases end about where they should
    if not points * steps.phases <= MAX_GRID:
        raise OutOfReachError(f"{points:g} grid points for each of {steps.phases} phases")
    score = law.end - (np.arange(points)[::-1] + 0.5) * spacing
    loss = privacy_loss(score, s, q)
    slope = loss_slope(loss, score, s, q)
    end_loss = privacy_loss(law.end, s, q)
    end_slope = loss_slope(end_loss, law.end, s, q)[:, 0]
    log_chi, density_error = law.log_chi(score)
    log_density = log_chi - 0.5 * score * score
    with np.errstate(over="ignore", invalid="ignore"):  # where e^L overflows, `excess` is not used
        scale = spacing * np.exp(log_density - LOG_SQRT_2PI)
        excess = expm1_minus(loss)
        mass_lost, likelihood_lost = law.mass_lost()
        mean = mass_lost - likelihood_lost - np.einsum("pj,pj->p", scale, excess)
    powers = np.stack([scale, scale * loss, scale * loss * loss])
    return Grid(
        law,
        lowest_tilt,
        highest_tilt,
        reach,
        end_loss[:, 0] + 1e-9 * np.abs(end_loss[:, 0]),
        np.minimum(end_slope * (1.0 + 1e-9), 1.0),
        law.log_chi(law.end)[0][:, 0] - 0.5 * law.end[:, 0] ** 2 + 1e-9,
        spacing,
        score,
        loss,
        slope,
        privacy_loss_error(loss, slope, score, s),
        log_density,
        density_error + ULP * (4.0 + score * score),
        scale,
        excess,
        powers,
        mass_lost,
        likelihood_lost,
        mean,
        powers[2].sum(axis=1),
        float(loss[:, 0].min()),
        float(loss[:, -1].max()),
    )


def expm1_minus(x: FloatArray) -> FloatArray:
    """Return psi(x) = e^x - 1 - x with a relative error of at most 40 ulp."""
    # Taylor below 1/4: the next term is (1/4)^12 2 / 14! < 2^-60 of the sum; above, at most a factor 9 cancels.
    small = np.minimum(np.maximum(x, -0.25), 0.25)
    series = small * (1.0 / math.factorial(13)) + 1.0 / math.factorial(12)
    for power in range(11, 1, -1):
        series *= small
        series += 1.0 / math.factorial(power)
    series *= small
    series *= small
    return np.where(small == x, series, np.expm1(x) - x)


def few_bits(spacing: FloatArray | float) -> FloatArray:
    """Return spacings rounded down to 8 significant bits, so that whole multiples of them are exact."""
    mantissa, exponent = np.frexp(spacing)
    return np.ldexp(np.floor(256.0 * mantissa) / 256.0, exponent)


def _low_end(tilt: float, s: FloatArray, q: FloatArray, log_accuracy: float) -> FloatArray:
    """Return scores (P, 1) below which N, N e^L and N e^{tL} are small, t = tilt <= 0."""
    margin = math.sqrt(2.0 * log_accuracy)
    if tilt == 0.0:
        return np.full_like(s, -margin)
    # N e^{tL} is log-concave, with its only mode between t L'(0) and 0 because L' rises
    left, right = tilt * _slope_in_score(np.zeros_like(s), s, q), np.zeros_like(s)
    if np.any(left < -3.0):
        for _ in range(12):
            mode = 0.5 * (left + right)
            rising = tilt * _slope_in_score(mode, s, q) > mode
            left, right = np.where(rising, mode, left), np.where(rising, right, mode)
    return left - margin


def _low_end_above(law: Law, tilt: float, log_accuracy: float) -> FloatArray:
    """Return scores (P, 1) below which N chi e^{tL} is small, for a law above a lower barrier."""
    assert law.below is not None
    first = math.floor(float(law.below.min()) - 10.0)
    lookout = float(law.soft.min())
    later = first + lookout * np.arange(math.ceil((float(law.end.max()) - first) / lookout) + 1)
    exponent = tilt * privacy_loss(later, law.steps.noise_multiplier[:, None], law.steps.sample_rate[:, None])
    exponent = np.where(later <= law.end, exponent + law.log_chi(later)[0] - 0.5 * later * later, -math.inf)
    above = exponent >= exponent.max(axis=1, keepdims=True) - log_accuracy - EDGE
    return later[np.argmax(above, axis=1)][:, None] - lookout


def _slope_in_score(score: FloatArray, s: FloatArray, q: FloatArray) -> FloatArray:
    """Return dL/du."""
    return loss_slope(privacy_loss(score, s, q), score, s, q) / s


def _spacing(law: Law, tilt: float, reach: float, log_accuracy: float) -> FloatArray:
    """Return the largest spacing in u for which `discretisation_error` is about e^-log_accuracy, (P,)."""
    s, q, end = law.steps.noise_multiplier, law.steps.sample_rate, law.end[:, 0]
    slope = loss_slope(privacy_loss(end, s, q), end, s, q)
    shift = _strip_shift(law, np.array([[tilt]]), log_accuracy)
    turn, shrink = strip_bounds(shift / s, slope)
    exponent = law.growth * shift**2 + reach * turn + max(0.0, -tilt) * shrink
    return (2.0 * math.pi * shift / (exponent + log_accuracy))[0]


def _strip_shift(law: Law, tilt: FloatArray, log_accuracy: float) -> FloatArray:
    """Return how far to shift the line of integration, in u: near the optimum, within the strip; tilt (T, 1)."""
    s = law.steps.noise_multiplier
    growth = law.growth + np.maximum(0.0, -tilt) / (8.0 * s**2)
    return np.minimum(np.sqrt(log_accuracy / growth), STRIP * math.pi * s)


def strip_bounds(theta: FloatArray, slope: FloatArray) -> tuple[FloatArray, FloatArray]:
    r"""Bound arg and -log of the modulus of 1-m+m e^{i theta}, 0 <= theta < pi, over all 0 <= m <= slope.

    This is what 1-q+q e^{w+i theta} has beyond 1-q+q e^w, m = dL/dw. For m <= 1/2 the derivative of its argument in
    theta falls from m on, so that the argument is at most m theta; it is at most theta always. Its modulus squared is
    1 - 2m(1-m)(1 - cos theta), least at m = 1/2.
    """
    half = np.minimum(slope, 0.5)
    turn = np.where(slope <= 0.5, slope, 1.0) * theta
    return turn, -0.5 * np.log(1.0 - 2.0 * half * (1.0 - half) * (1.0 - np.cos(theta)))


def discretisation_error(grid: Grid, tilt: FloatArray, reach: float, log_mgf: FloatArray) -> FloatArray:
    r"""Bound |trapezoid - phi(z)| / phi(t) for Re z = t, |Im z| <= reach, the grid unbounded below.

    `tilt` is (T,), `log_mgf`, which is about K(t), and the result (T, P). phi is the law's up to its end E, half a
    spacing h beyond the last score. For f analytic in |Im u| <= a, u < E, the residue theorem gives the rule's error as
    -Int f(u) / (1 - e^{-+2 pi i u / h}) du along both lines Im u = +-a up to E and the sides from there to E. On the
    lines the factor is at most 1 / (e^{2 pi a / h} - 1), on the sides, where e^{2 pi i E / h} = -1, at most
    e^{-2 pi v / h}, v = |Im u| (compare Trefethen & Weideman 2014, Theorem 5.1, https://doi.org/10.1137/130932132).
    With |N chi (u + iv)| <= e^{k v^2} N chi (u), k = `Law.growth`, and `strip_bounds`, |f| exceeds N chi e^{tL} at most
    by e^{k v^2 + |Im z| turn + (-t)_+ shrink}. The first two and -2 pi v / h are together convex in v and 0 at v = 0,
    so at most v / a times g, their value at a; e^{...} integrates to at most a (e^g - 1) / g; the third rises.
    """
    steps = grid.steps
    negative = np.maximum(0.0, -tilt)[:, None]
    shift = _strip_shift(grid.law, tilt[:, None], 45.0)  # every shift gives a bound
    turn, shrink = strip_bounds(shift / steps.noise_multiplier, grid.end_slope)
    decay = 2.0 * math.pi * shift / grid.spacing[:, 0]
    growth = grid.law.growth * shift**2 + reach * turn - decay
    lines = np.minimum(growth + negative * shrink, 300.0)
    log_end = grid.end_log_density + tilt[:, None] * grid.end_loss - log_mgf
    log_end = log_end + negative * (shrink + 1e-9 * grid.end_loss)
    growth = np.where(np.abs(growth) > 1e-6, np.minimum(growth, 300.0), 1e-6)
    sides = shift * np.expm1(growth) / growth * np.exp(np.minimum(log_end, 300.0))
    return 2.0 * (1.0 + 1e-9) * (np.exp(lines) / -np.expm1(-decay) + sides)


def range_error(grid: Grid, tilt: FloatArray, log_mgf: FloatArray) -> FloatArray:
    r"""Bound the part of E_Q[chi e^{tL}] below the grid, relative to e^log_mgf; shapes as in `discretisation_error`.

    With e(u) = t L(u) - u^2/2 + log chi(u) and 0 < dL/du < 1/s (`slope`, the derivative in w, is s times that): the
    last two terms are concave, so below `low` they rise at least as fast as between the first two scores, and t L at
    least as fast as min(t, 0) L'(low), because L' rises; the tail is at most e^{e(low)} over the sum of the two rates.
    A rising function's sum over grid points up to an end is at most its integral beyond it.
    """
    s, t = grid.steps.noise_multiplier, tilt[:, None]
    low = grid.log_density[:, 0] + t * grid.loss[:, 0] - (LOG_SQRT_2PI + log_mgf)
    rate = (grid.log_density[:, 1] - grid.log_density[:, 0]) / grid.spacing[:, 0] * (1.0 - 1e-9)
    rise = np.minimum(t, 0.0) * (grid.slope[:, 0] / s) + rate
    with np.errstate(over="ignore", divide="ignore"):
        return (1.0 + 1e-9) * np.exp(low) / np.maximum(rise, 0.0)
