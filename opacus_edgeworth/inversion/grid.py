r"""A grid of scores and the privacy losses on it, shared by every tilt of one composition, with the rule's errors.

Sums over one step's law run over scores u = x / s by the trapezoid rule, all phases at once: arrays (P, J). The points
are exact floating-point numbers. One grid serves all tilts t between two ends, and arguments z = t + iy of e^{zL} up
to |y| = reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.mechanisms import loss_slope, privacy_loss, privacy_loss_error

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
STRIP = 0.95
"""Share of the strip of analyticity |Im u| < pi s that the discretisation bound may use."""
MAX_GRID = 400_000
"""Grid points over all phases; beyond it another engine is quicker."""
WIDEST = 0.15
"""Largest spacing of scores: the bounds on the characteristic function's decay see the density cell by cell."""
LARGEST_SCORE = 37.0
"""Up to it a normal density is a normal floating-point number."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Scores, losses and densities; arrays are (P, J) unless stated.

    Args:
      steps: the composition; its subsampled phases are used.
      lowest_tilt, highest_tilt: no mode of N e^{tL} lies beyond the grid's end for a tilt t up to the highest.
      reach: |Im z| for which the spacing was chosen.
      spacing: (P, 1), 8 significant bits each, so that every score is exact.
      score: u.
      loss: L in nats, with an error of at most `loss_error`; `slope` is dL/dw there.
      log_density: -u^2 / 2.
      scale: N(u) du.
      excess: e^L - 1 - L.
      powers: (3, P, J), N(u) du times 1, L, L^2.
      mean, square: (P,), E_Q[L] and E_Q[L^2], roughly.
      least_loss, largest_loss: the losses' range over all phases.
    """

    steps: Composition
    lowest_tilt: float
    highest_tilt: float
    reach: float
    spacing: FloatArray
    score: FloatArray
    loss: FloatArray
    slope: FloatArray
    loss_error: FloatArray
    log_density: FloatArray
    scale: FloatArray
    excess: FloatArray
    powers: FloatArray
    mean: FloatArray
    square: FloatArray
    least_loss: float
    largest_loss: float

    def serves(self, lowest: float, highest: float, reach: float) -> bool:
        """Whether the grid is meant for these tilts and this reach."""
        return self.lowest_tilt <= lowest and highest <= self.highest_tilt and reach <= self.reach


def make_grid(steps: Composition, lowest_tilt: float, highest_tilt: float, reach: float) -> Grid:
    """Return a grid for tilts between the two (0 and 1 always included) and |Im z| <= reach.

    Raises:
      OutOfReachError: it would need more than MAX_GRID points.
    """
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    lowest_tilt, highest_tilt = min(lowest_tilt, 0.0), max(highest_tilt, 1.0)
    log_accuracy = 38.0 + math.log(float(steps.steps.max()))
    spacing = few_bits(np.minimum(_spacing(steps, lowest_tilt, highest_tilt, reach, log_accuracy), WIDEST))[:, None]
    low, high = _low_end(lowest_tilt, s, q, log_accuracy), _high_end(highest_tilt, s, q, log_accuracy)
    first = np.floor(low / spacing)
    points = float(np.max(np.ceil(high / spacing) - first)) + 1.0
    if not points * steps.phases <= MAX_GRID:
        raise OutOfReachError(f"{points:g} grid points for each of {steps.phases} phases")
    score = (first + np.arange(points)) * spacing
    loss = privacy_loss(score, s, q)
    slope = loss_slope(loss, score, s, q)
    log_density = -0.5 * score * score
    with np.errstate(over="ignore", invalid="ignore"):  # where e^L overflows, `excess` is not used
        scale = spacing * np.exp(log_density - LOG_SQRT_2PI)
        excess = expm1_minus(loss)
        mean = -np.einsum("pj,pj->p", scale, excess)  # since E[e^L] = 1
    weighted = scale * loss
    powers = np.stack([scale, weighted, weighted * loss])
    return Grid(
        steps,
        lowest_tilt,
        highest_tilt,
        reach,
        spacing,
        score,
        loss,
        slope,
        privacy_loss_error(loss, slope, score, s),
        log_density,
        scale,
        excess,
        powers,
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
    """Return scores (P, 1) below which N, N e^L and N e^{tL} are small, t = tilt <= 0.

    How small is a good guess, not a proof: `range_error` bounds what is left out.
    """
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


def _high_end(tilt: float, s: FloatArray, q: FloatArray, log_accuracy: float) -> FloatArray:
    """Return scores (P, 1) beyond every mode of N e^{tL}, where it has fallen by e^-log_accuracy.

    They are beyond every mode of a lower tilt t' too: above the last mode of t, u > t L'(u) >= t' L'(u).
    """
    margin = math.sqrt(2.0 * log_accuracy)
    mode = tilt / s  # no mode lies beyond, since dL/du < 1/s, and from there on e^{tL} N falls like N
    if np.all(mode < 20.0):
        return mode + margin
    for _ in range(30):  # iterating u <- t L'(u) falls to the largest mode, and never below it
        lower = tilt * _slope_in_score(mode, s, q)
        if np.all(mode - lower < 0.1):
            break
        mode = lower
    if not np.all(mode < WIDEST * MAX_GRID):
        raise OutOfReachError(f"a mode of the law tilted by {tilt:g} at score {float(mode.max()):g}")
    floor = np.maximum(tilt * privacy_loss(mode, s, q) - 0.5 * mode**2, 0.0) - log_accuracy
    high = mode + margin
    while np.any(still := tilt * privacy_loss(high, s, q) - 0.5 * high**2 > floor):
        high = np.where(still, high + 1.0, high)
    return high


def _slope_in_score(score: FloatArray, s: FloatArray, q: FloatArray) -> FloatArray:
    """Return dL/du."""
    return loss_slope(privacy_loss(score, s, q), score, s, q) / s


def _spacing(steps: Composition, lowest: float, highest: float, reach: float, log_accuracy: float) -> FloatArray:
    """Return the largest spacing in u for which `discretisation_error` is about e^-log_accuracy at both tilts, (P,)."""
    tilt = np.array([[lowest], [highest]])
    shift = _strip_shift(steps, tilt, log_accuracy)
    return (2.0 * math.pi * shift / (_strip_exponent(steps, shift, tilt, reach) + log_accuracy)).min(axis=0)


def _strip_shift(steps: Composition, tilt: FloatArray, log_accuracy: float) -> FloatArray:
    """Return how far to shift the line of integration, in u: near the optimum, within the strip; tilt (T, 1)."""
    s = steps.noise_multiplier
    return np.minimum(np.sqrt(log_accuracy / (0.5 + np.maximum(0.0, -tilt) / (8.0 * s**2))), STRIP * math.pi * s)


def _strip_exponent(steps: Composition, shift: FloatArray, tilt: FloatArray, reach: float) -> FloatArray:
    r"""Bound log of the integral of |N e^{zL}| on the line Im u = shift over phi(t), |Im z| <= reach; tilt (T, 1).

    With theta = shift / s < pi: |N(u + ia)| = e^{a^2/2} N(u). With m = dL/dw(u), 1-q+q e^{w+i theta} is 1-q+q e^w times
    1-m+m e^{i theta}, whose argument rises with m from 0 to theta, and whose modulus falls from 1 to cos(theta/2) at
    m = 1/2 and rises again. So |e^{zL}| <= e^{tL} e^{|Im z| theta}, times cos(theta/2)^{-|t|} where t < 0: "far". Up to
    a score U the argument and modulus at m(U) serve; beyond, far holds, but with U >= max(t/s, 0) and dL/du < 1/s the
    integral of N e^{tL} from U on is at most e^{tL(U) - U^2/2} / 2. Last, phi(t) >= 1 outside of 0 < t < 1, and
    phi(t) >= (1 - q)^t there.
    """
    s, q = steps.noise_multiplier, steps.sample_rate
    theta, negative, positive = shift / s, np.maximum(0.0, -tilt), np.maximum(tilt, 0.0)
    far = reach * theta - negative * np.log(np.cos(0.5 * theta))
    if not np.any(far > 60.0):
        return 0.5 * shift**2 + far
    end = np.sqrt(2.0 * far + 120.0)
    for _ in range(2):
        growth = positive * privacy_loss(end, s, q)
        end = np.maximum(np.sqrt(2.0 * (far + np.maximum(growth, 0.0)) + 120.0), tilt / s)
    loss = privacy_loss(end, s, q)
    slope = loss_slope(loss, end, s, q) * (1.0 + 1e-9)
    half = np.minimum(slope, 0.5)
    near = reach * np.arctan2(slope * np.sin(theta), 1.0 - slope + slope * np.cos(theta))
    near -= 0.5 * negative * np.log(1.0 - 2.0 * half * (1.0 - half) * (1.0 - np.cos(theta)))
    tail = tilt * loss - 0.5 * end**2 - np.minimum(positive, 1.0) * np.log1p(-q)
    return 0.5 * shift**2 + np.minimum(far, np.logaddexp(near, far + tail) * (1.0 + 1e-9))


def discretisation_error(grid: Grid, tilt: FloatArray, reach: float) -> FloatArray:
    r"""Bound |trapezoid - phi(z)| / phi(t) for Re z = t, |Im z| <= reach, the grid unbounded; tilt (T,), result (T, P).

    For f analytic in |Im u| < pi s the rule with step h errs by at most 2 M / (e^{2 pi a / h} - 1), M a bound on the
    integral of |f| over the lines Im u = +-a (Trefethen & Weideman 2014, Theorem 5.1,
    https://doi.org/10.1137/130932132), here e^{_strip_exponent}.
    """
    shift = _strip_shift(grid.steps, tilt[:, None], 45.0)  # every shift gives a bound
    decay = 2.0 * math.pi * shift / grid.spacing[:, 0]
    exponent = _strip_exponent(grid.steps, shift, tilt[:, None], reach) - decay
    return 2.0 * (1.0 + 1e-9) * np.exp(np.minimum(exponent, 300.0)) / -np.expm1(-decay)


def range_error(grid: Grid, tilt: FloatArray, log_unit: FloatArray) -> FloatArray:
    r"""Bound the part of E_Q[e^{tL}] from outside the grid's ends, in units of e^log_unit.

    `tilt` is (T,), `log_unit` and the result (T, P). With e(u) = t L(u) - u^2/2 and 0 < dL/du < 1/s (`slope`, the
    derivative in w, is s times that):

    Below `low` < 0, e rises at least as fast as min(t, 0) L'(low) - low, because L' rises with u and -u falls; the left
    tail is at most e^{e(low)} over that. `high` > 0 exceeds every mode by construction, so e falls beyond it: at most
    e^{e(high)} up to m = max(t/s, high), and then at least like a normal density, together
    e^{e(high)} (m - high + sqrt(pi/2)). A falling function's sum over grid points beyond an end is at most its
    integral.
    """
    s, t, ends = grid.steps.noise_multiplier, tilt[:, None], (0, -1)
    low, high = (grid.log_density[:, j] + t * grid.loss[:, j] - (LOG_SQRT_2PI + log_unit) for j in ends)
    rise = np.minimum(t, 0.0) * (grid.slope[:, 0] / s) - grid.score[:, 0]
    flat = np.maximum(t / s - grid.score[:, -1], 0.0) + math.sqrt(0.5 * math.pi)
    with np.errstate(over="ignore", divide="ignore"):
        total = np.exp(low) / np.maximum(rise, 0.0) + np.exp(high) * flat
    if grid.highest_tilt < float(tilt.max()):
        total = np.where(t > grid.highest_tilt, math.inf, total)
    return (1.0 + 1e-9) * total
