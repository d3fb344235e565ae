r"""A grid of scores and the privacy losses on it, shared by every tilt of one composition, with the rule's errors.

Sums over one step's law run over scores u = x / s by the trapezoid rule, all phases at once: arrays (P, J). The points
are exact floating-point numbers. One grid serves all tilts t from a lowest one on, and arguments z = t + iy of e^{zL}
up to |y| = reach. All laws are cut off at a score that is practically never exceeded: without that, tilting would bring
up events of probability e^-1000, and generating functions would take off long before delta is decided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.mechanisms import loss_slope, privacy_loss, privacy_loss_error

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
STRIP = 0.95
"""Share of the strip of analyticity |Im u| < pi s that the discretisation bound may use."""
MAX_GRID = 400_000
"""Grid points over all phases; beyond it another engine is quicker."""
LATER = np.arange(0.0, 12.0, 0.25)
"""How much beyond the score that the mass asks for the laws may be cut off."""
WIDEST = 0.15
"""Largest spacing of scores: the bounds on the characteristic function's decay see the density cell by cell."""
LARGEST_SCORE = 37.0
"""Up to it a normal density is a normal floating-point number."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Scores, losses and densities; arrays are (P, J) unless stated.

    Args:
      steps: the composition; its subsampled phases are used.
      lowest_tilt, highest_tilt: tilts t for which N e^{tL} has fallen at the grid's ends, as far as it does.
      cap: (P,), U, half a spacing above the last score: the law is cut off there, see `cut_off`.
      cap_loss, cap_slope: (P,), L and dL/dw at the cap, rounded up.
      reach: |Im z| for which the spacing was chosen.
      log_cut: log of the mass that was to be cut off.
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
    cap: FloatArray
    cap_loss: FloatArray
    cap_slope: FloatArray
    reach: float
    log_cut: float
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

    def cut_off(self) -> float:
        """Return a bound on what cutting the laws off at the caps takes from delta, in either direction; it adds none.

        Only outcomes with some score above its cap U are lost. Since (1 - e^{eps - S})_+ <= 1 under the first law of
        the direction's pair, that is at most the sum over all steps of P(u > U) or Q(u > U), both at most
        Phi(-U) + q Phi(1/s - U).
        """
        s, q = self.steps.noise_multiplier, self.steps.sample_rate
        tails = np.exp(log_ndtr(-self.cap)) + q * np.exp(log_ndtr(1.0 / s - self.cap))
        return float(self.steps.steps @ tails) * (1.0 + 1e-9) + 1e-300


def make_grid(steps: Composition, lowest_tilt: float, highest_tilt: float, reach: float, log_cut: float) -> Grid:
    """Return a grid for tilts between the two and for |Im z| <= reach; `cut_off` is about e^log_cut or less.

    Raises:
      OutOfReachError: it would need more than MAX_GRID points.
    """
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    lowest_tilt, highest_tilt = min(lowest_tilt, 0.0), max(highest_tilt, 1.0)
    log_accuracy = 38.0 + math.log(float(steps.steps.max()))
    low, high = _low_end(lowest_tilt, s, q, log_accuracy), _high_end(steps, highest_tilt, log_cut, log_accuracy)
    spacing = np.minimum(_spacing(steps, high[:, 0], lowest_tilt, reach, log_accuracy), WIDEST)
    spacing = few_bits(spacing)[:, None]
    last = np.ceil(high / spacing)
    points = float(np.max(last - np.floor(low / spacing))) + 1.0
    if not points * steps.phases <= MAX_GRID:
        raise OutOfReachError(f"{points:g} grid points for each of {steps.phases} phases")
    first = last - (points - 1.0)
    cap = (last + 0.5) * spacing
    cap_loss = privacy_loss(cap, s, q)
    cap_slope = loss_slope(cap_loss, cap, s, q)
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
        cap[:, 0],
        cap_loss[:, 0] + 1e-9 * np.abs(cap_loss[:, 0]),
        np.minimum(cap_slope[:, 0] * (1.0 + 1e-9), 1.0),
        reach,
        log_cut,
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


def _high_end(steps: Composition, tilt: float, log_cut: float, log_accuracy: float) -> FloatArray:
    """Return scores (P, 1) above which all steps together have at most about the mass e^log_cut.

    By Phi(-x) <= e^{-x^2/2} / 2; `Grid.cut_off` is the bound. If N e^{tL} has not fallen by e^-log_accuracy there, but
    does so soon after, then they lie where it has: the rule likes no edges. If it rises on, only practically
    impossible events are left, and they had better stay away.
    """
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    log_share = log_cut - np.log(steps.steps[:, None] * steps.phases)
    of_q, of_p = (np.sqrt(np.maximum(-2.0 * share, 0.0)) for share in (log_share, log_share - np.log(q)))
    later = np.maximum(of_q, of_p + 1.0 / s) + LATER
    fallen = tilt * privacy_loss(later, s, q) - 0.5 * later**2 < -log_accuracy
    return np.take_along_axis(later, np.argmax(fallen, axis=1)[:, None], axis=1)


def _slope_in_score(score: FloatArray, s: FloatArray, q: FloatArray) -> FloatArray:
    """Return dL/du."""
    return loss_slope(privacy_loss(score, s, q), score, s, q) / s


def _spacing(steps: Composition, cap: FloatArray, tilt: float, reach: float, log_accuracy: float) -> FloatArray:
    """Return the largest spacing in u for which `discretisation_error` is about e^-log_accuracy, (P,)."""
    s, q = steps.noise_multiplier, steps.sample_rate
    slope = loss_slope(privacy_loss(cap, s, q), cap, s, q)
    shift = _strip_shift(steps, np.array([[tilt]]), log_accuracy)
    turn, shrink = _strip_bounds(shift / s, slope)
    exponent = 0.5 * shift**2 + reach * turn + max(0.0, -tilt) * shrink
    return (2.0 * math.pi * shift / (exponent + log_accuracy))[0]


def _strip_shift(steps: Composition, tilt: FloatArray, log_accuracy: float) -> FloatArray:
    """Return how far to shift the line of integration, in u: near the optimum, within the strip; tilt (T, 1)."""
    s = steps.noise_multiplier
    return np.minimum(np.sqrt(log_accuracy / (0.5 + np.maximum(0.0, -tilt) / (8.0 * s**2))), STRIP * math.pi * s)


def _strip_bounds(theta: FloatArray, slope: FloatArray) -> tuple[FloatArray, FloatArray]:
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

    `tilt` is (T,), `log_mgf`, which is about K(t), and the result (T, P). phi is the law's cut off at U, half a spacing
    h beyond the last score. For f analytic in |Im u| <= a, u < U, the residue theorem gives the rule's error as
    -Int f(u) / (1 - e^{-+2 pi i u / h}) du along both lines Im u = +-a up to U and the sides from there to U. On the
    lines the factor is at most 1 / (e^{2 pi a / h} - 1), on the sides, where e^{2 pi i U / h} = -1, at most
    e^{-2 pi v / h}, v = |Im u| (compare Trefethen & Weideman 2014, Theorem 5.1, https://doi.org/10.1137/130932132).
    With |N(u + iv)| = e^{v^2/2} N(u) and `_strip_bounds`, |f| exceeds N e^{tL} at most by
    e^{v^2/2 + |Im z| turn + (-t)_+ shrink}. The first two and -2 pi v / h are convex in v, so at most as large as at
    one of the ends 0 and a; the third rises.
    """
    steps = grid.steps
    negative = np.maximum(0.0, -tilt)[:, None]
    shift = _strip_shift(steps, tilt[:, None], 45.0)  # every shift gives a bound
    turn, shrink = _strip_bounds(shift / steps.noise_multiplier, grid.cap_slope)
    decay = 2.0 * math.pi * shift / grid.spacing[:, 0]
    growth = 0.5 * shift**2 + reach * turn - decay
    lines = np.minimum(growth + negative * shrink, 300.0)
    log_cap = tilt[:, None] * grid.cap_loss - 0.5 * grid.cap**2 - log_mgf + negative * (shrink + 1e-9 * grid.cap_loss)
    sides = np.minimum(log_cap + np.maximum(growth, 0.0), 300.0)
    return 2.0 * (1.0 + 1e-9) * (np.exp(lines) / -np.expm1(-decay) + shift * np.exp(sides))


def range_error(grid: Grid, tilt: FloatArray, log_mgf: FloatArray) -> FloatArray:
    r"""Bound the part of E_Q[e^{tL}] from below the grid, relative to e^log_mgf; shapes as in `discretisation_error`.

    With e(u) = t L(u) - u^2/2 and 0 < dL/du < 1/s (`slope`, the derivative in w, is s times that): below `low` < 0, e
    rises at least as fast as min(t, 0) L'(low) - low, because L' rises with u and -u falls; the tail is at most
    e^{e(low)} over that. A rising function's sum over grid points up to an end is at most its integral beyond it.
    """
    s, t = grid.steps.noise_multiplier, tilt[:, None]
    low = grid.log_density[:, 0] + t * grid.loss[:, 0] - (LOG_SQRT_2PI + log_mgf)
    rise = np.minimum(t, 0.0) * (grid.slope[:, 0] / s) - grid.score[:, 0]
    with np.errstate(over="ignore", divide="ignore"):
        return (1.0 + 1e-9) * np.exp(low) / np.maximum(rise, 0.0)
