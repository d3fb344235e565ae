r"""Cumulant generating and characteristic functions of tilted steps, by a trapezoid rule with proved error.

Every phase has K(z) = log phi(z), phi(z) = E_Q[e^{zL}], and at a real tilt t the tilted law p ~ N e^{tL}, under which
phi_t(y) = phi(t + iy) / phi(t) is a characteristic function. The rule runs over scores u = x / s on a grid whose
points are exact floating-point numbers, all phases at once: shape (P, J).

With psi(x) = e^x - 1 - x >= 0 and E_Q[1] = E_Q[e^L] = 1, the differences that a sum would lose to cancellation are
taken analytically. With base b = 0 (t < 1/2) or b = 1 (t >= 1/2), d = t - b and L' = L or -L,

    phi(t) - 1      = E[ e^{bL} (psi(dL) + (2b-1) d psi((1-2b) L)) ]
    phi'(t)         = E[ e^{bL} (L expm1(dL) + (2b-1) psi((1-2b) L)) ]

so K and the tilted mean keep an error of a few ulp of E[L^2], however many steps multiply them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.mechanisms import ULP, loss_slope, privacy_loss, privacy_loss_error

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
STRIP = 0.95
"""Share of the strip of analyticity |Im u| < pi s that the discretisation bound may use."""
SMALL_LOG = 0.5
"""Up to this K the analytic differences are used; above it there is nothing to cancel."""


MAX_GRID = 400_000
"""Grid points over all phases; beyond it another engine is quicker."""


@dataclass(frozen=True, slots=True)
class TiltedSteps:
    """All phases of a composition under one real tilt t; arrays are (P,) or (P, J).

    Args:
      tilt: t.
      weight: p, the tilted probabilities of the grid points; rows sum to 1.
      loss: L at the grid points, nats, with an error of at most `loss_error`; `slope` is dL/dw there.
      score: u, the grid points.
      log_mgf: K(t); `log_mgf_error` bounds its error, discretisation and rounding together.
      mean: phi'(t) / phi(t) up to `mean_error`, both in nats.
      rounding: (3, P): the grid's sum of p (e^{iyL} - 1 - iyL) errs by at most min(r1 |y|, r2 y^2) + r3 y^2.
      discretisation: relative error of the rule on |Im z| <= reach, with what its finite range leaves out.
    """

    tilt: float
    weight: FloatArray
    loss: FloatArray
    loss_error: FloatArray
    slope: FloatArray
    score: FloatArray
    log_mgf: FloatArray
    log_mgf_error: FloatArray
    mean: FloatArray
    mean_error: FloatArray
    rounding: FloatArray
    discretisation: FloatArray


def expm1_minus(x: FloatArray) -> FloatArray:
    """Return psi(x) = e^x - 1 - x with a relative error of at most 40 ulp."""
    series = np.full_like(x, 1.0 / math.factorial(13))
    for power in range(12, 1, -1):
        series *= x
        series += 1.0 / math.factorial(power)
    series *= x
    series *= x
    # Taylor below 1/4: the next term is (1/4)^12 2 / 14! < 2^-60 of the sum; above, at most a factor 9 cancels.
    return np.where(np.abs(x) < 0.25, series, np.expm1(x) - x)


def tilted_steps(steps: Composition, tilt: float, reach: float, *, fine: bool = True) -> TiltedSteps:
    """Return the tilted law of every phase, accurate for characteristic-function arguments up to `reach`.

    Args:
      steps: the composition; its subsampled phases are used.
      tilt: t, any finite real number.
      reach: largest |y| at which the characteristic function will be asked for, >= 0.
      fine: whether K and the mean are computed by the formulas at the head; otherwise their errors are larger.

    Raises:
      OutOfReachError: the grid would need more than MAX_GRID points.
    """
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    log_accuracy = 38.0 + math.log(float(steps.steps.max()))
    spacing, score = grid_points(steps, tilt, reach, log_accuracy)
    loss = privacy_loss(score, s, q)
    slope = loss_slope(loss, score, s, q)
    loss_error = privacy_loss_error(loss, slope, score, s)

    weight, total, log_mgf = tilted_mass(tilt * loss - 0.5 * score * score, spacing)
    weight /= total
    lost = range_error(score, loss, slope, s[:, 0], tilt, log_mgf)
    discretisation = discretisation_error(spacing[:, 0], s[:, 0], tilt, reach) + lost  # covers y = 0 too
    # Weights err relatively by `spread`, from N, e^{tL} and the loss; sums over the grid add `summing`.
    summing = ULP * (score.shape[1] + 40)
    spread = ULP * (4.0 + score * score + 2.0 * np.abs(tilt * loss)) + abs(tilt) * loss_error
    mean_spread = np.einsum("pj,pj->p", weight, spread)
    absolute = np.abs(loss)
    uncertain = weight * (2.0 * (spread + mean_spread[:, None] + summing) * absolute + 2.0 * loss_error)
    squared = uncertain * absolute
    turning = absolute * reach > 1.0  # where e^{iyL} turns, the linear bound is the better one
    rounding = np.stack(
        [np.where(turning, uncertain, 0.0), np.where(turning, squared, 0.0), np.where(turning, 0.0, squared)]
    ).sum(axis=2)
    mean = np.einsum("pj,pj->p", weight, loss)
    log_mgf_error = mean_spread + summing + 4.0 * ULP * np.abs(log_mgf) + discretisation
    mean_error = uncertain.sum(axis=1)
    small = np.abs(log_mgf) <= SMALL_LOG
    if fine and small.any():
        # what the grid loses of E[1] and E[e^L], which the formulas take to be exact
        others = 2.0 * discretisation_error(spacing[:, 0], s[:, 0], 1.0, 0.0)
        for t in (0.0, 1.0):
            others = others + range_error(score, loss, slope, s[:, 0], t, 0.0)
        scale = spacing * np.exp(-LOG_SQRT_2PI - 0.5 * score * score)
        relative = ULP * (score.shape[1] + 60.0 + score * score)
        log_phi, phi_error, drift, drift_error = _fine_moments(tilt, loss, scale, loss_error, relative)
        shrink = np.exp(-log_phi)
        log_mgf = np.where(small, log_phi, log_mgf)
        log_mgf_error = np.where(
            small, (phi_error + (1.0 + abs(tilt)) * others) * shrink + discretisation, log_mgf_error
        )
        mean = np.where(small, drift * shrink, mean)
        drift_error = drift_error + np.abs(drift) * (phi_error * shrink + discretisation) + others
        mean_error = np.where(small, drift_error * shrink, mean_error)
    return TiltedSteps(
        tilt=tilt,
        weight=weight,
        loss=loss,
        loss_error=loss_error,
        slope=slope,
        score=score,
        log_mgf=log_mgf,
        log_mgf_error=1.01 * log_mgf_error,
        mean=mean,
        mean_error=1.01 * mean_error,
        rounding=rounding,
        discretisation=discretisation,
    )


def log_mgf_upper(steps: Composition, tilt: float) -> float:
    """Return a proved upper bound on sum n K(tilt) over the subsampled phases, too high by about 1e-13 per step."""
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    spacing, score = grid_points(steps, tilt, 0.0, 34.0)
    loss = privacy_loss(score, s, q)
    slope = loss_slope(loss, score, s, q)
    exponent = tilt * loss - 0.5 * score * score
    _, _, log_mgf = tilted_mass(exponent, spacing)
    lost = range_error(score, loss, slope, s[:, 0], tilt, log_mgf)
    spread = ULP * (score.shape[1] + 60.0 + score * score + 2.0 * np.abs(exponent))
    spread = spread + abs(tilt) * privacy_loss_error(loss, slope, score, s)
    error = spread.max(axis=1) + 4.0 * ULP * np.abs(log_mgf) + lost
    error = error + discretisation_error(spacing[:, 0], s[:, 0], tilt, 0.0)
    return float(steps.steps @ (log_mgf + error))


def tilted_mass(exponent: FloatArray, spacing: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return e^exponent over its largest value in each row, (P, J), its sum, (P, 1), and K(t), (P,).

    `exponent` is t L - u^2 / 2 on a grid with the given spacing in u, (P, 1).
    """
    top = exponent.max(axis=1, keepdims=True)
    mass = np.exp(exponent - top)
    total = mass.sum(axis=1, keepdims=True)
    return mass, total, (top + np.log(total * spacing))[:, 0] - LOG_SQRT_2PI


def _fine_moments(
    tilt: float, loss: FloatArray, scale: FloatArray, loss_error: FloatArray, relative: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return log phi(t), the error of phi(t), phi'(t) and its error, by the formulas at the head of this module.

    `scale` is N(u) du; `relative` bounds the rounding of the pieces, of equal sign but for 0 < t < 1, and of their
    sum. An error of the loss enters through the derivatives of e^{tL} - t e^L and L e^{tL} - e^L.
    """
    base = 0.0 if tilt < 0.5 else 1.0
    d = tilt - base
    sign = 2.0 * base - 1.0
    with np.errstate(over="ignore", invalid="ignore"):  # rows with a large K overflow here, and are not used
        if base:
            scale = scale * np.exp(loss)
        mirrored = expm1_minus(-sign * loss)
        first, second = expm1_minus(d * loss), sign * d * mirrored
        third, fourth = loss * np.expm1(d * loss), sign * mirrored
        excess = np.einsum("pj,pj->p", scale, first + second)
        slope = np.einsum("pj,pj->p", scale, third + fourth)
        # e^{tL} - e^L and e^{tL} (1 + tL) - e^L, over e^{bL}
        gap = np.abs(np.expm1(d * loss) - np.expm1((1.0 - base) * loss))
        steepness = gap + np.abs(tilt * loss) * np.exp(d * loss)
        excess_error = np.einsum(
            "pj,pj->p", scale, relative * (np.abs(first) + np.abs(second)) + abs(tilt) * loss_error * gap
        )
        slope_error = np.einsum("pj,pj->p", scale, relative * (np.abs(third) + np.abs(fourth)) + loss_error * steepness)
        log_phi = np.log1p(excess)
    return log_phi, excess_error + 4.0 * ULP * np.abs(excess), slope, slope_error + 4.0 * ULP * np.abs(slope)


def grid_points(steps: Composition, tilt: float, reach: float, log_accuracy: float) -> tuple[FloatArray, FloatArray]:
    """Return spacings (P, 1) and scores (P, J); spacings have 8 significant bits, so that every score is exact."""
    spacing = few_bits(grid_spacing(steps, tilt, reach, log_accuracy))[:, None]
    low, high = score_range(steps, tilt, log_accuracy)
    first = np.floor(low / spacing)
    points = float(np.max(np.ceil(high / spacing) - first)) + 1.0
    if not points * steps.phases <= MAX_GRID:
        raise OutOfReachError(f"{points:g} grid points for each of {steps.phases} phases")
    return spacing, (first + np.arange(points)) * spacing


def few_bits(spacing: FloatArray | float) -> FloatArray:
    """Return spacings rounded down to 8 significant bits, so that whole multiples of them are exact."""
    mantissa, exponent = np.frexp(spacing)
    return np.ldexp(np.floor(256.0 * mantissa) / 256.0, exponent)


def score_range(steps: Composition, tilt: float, log_accuracy: float) -> tuple[FloatArray, FloatArray]:
    """Return ends (P, 1) of the score grid, beyond which N e^{tL}, N and N e^L are small; `high` exceeds every mode.

    How small is a good guess, not a proof: `range_error` bounds what is left out.
    """
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    margin = math.sqrt(2.0 * log_accuracy)
    if tilt < 0.0:  # N e^{tL} is log-concave, with its only mode between t L'(0) and 0 because L' rises
        left = tilt * _slope_in_score(np.zeros_like(s), s, q)
        right = np.zeros_like(s)
        if np.any(left < -3.0):
            for _ in range(12):
                mode = 0.5 * (left + right)
                rising = tilt * _slope_in_score(mode, s, q) > mode
                left, right = np.where(rising, mode, left), np.where(rising, right, mode)
        return left - margin, _falling_end(1.0, s, q, log_accuracy)
    return np.full_like(s, -margin), _falling_end(max(tilt, 1.0), s, q, log_accuracy)


def _falling_end(tilt: float, s: FloatArray, q: FloatArray, log_accuracy: float) -> FloatArray:
    """Return a score beyond every mode of N e^{tL}, where it has fallen by e^-log_accuracy."""
    margin = math.sqrt(2.0 * log_accuracy)
    mode = tilt / s  # no mode lies beyond, since dL/du < 1/s, and from there on e^{tL} N falls like N
    if np.all(mode < 20.0):
        return mode + margin
    for _ in range(30):  # iterating u <- t L'(u) falls to the largest mode, and never below it
        lower = tilt * _slope_in_score(mode, s, q)
        if np.all(mode - lower < 0.1):
            break
        mode = lower
    floor = np.maximum(tilt * privacy_loss(mode, s, q) - 0.5 * mode**2, 0.0) - log_accuracy
    high = mode + margin
    while np.any(still := tilt * privacy_loss(high, s, q) - 0.5 * high**2 > floor):
        high = np.where(still, high + 1.0, high)
    return high


def _slope_in_score(score: FloatArray, s: FloatArray, q: FloatArray) -> FloatArray:
    """Return dL/du."""
    return loss_slope(privacy_loss(score, s, q), score, s, q) / s


def grid_spacing(steps: Composition, tilt: float, reach: float, log_accuracy: float) -> FloatArray:
    """Return the largest spacing in u for which `discretisation_error` is about e^-log_accuracy, shape (P,)."""
    s = steps.noise_multiplier
    shift = _strip_shift(s, tilt, log_accuracy)
    return 2.0 * math.pi * shift / (_strip_exponent(shift, s, tilt, reach) + log_accuracy)


def _strip_shift(s: FloatArray, tilt: float, log_accuracy: float) -> FloatArray:
    """Return how far to shift the line of integration, in u: near the optimum, within the strip of analyticity."""
    curvature = 0.5 + max(0.0, -tilt) / (8.0 * s**2)
    return np.minimum(np.sqrt(log_accuracy / curvature), STRIP * math.pi * s)


def _strip_exponent(shift: FloatArray, s: FloatArray, tilt: float, reach: float) -> FloatArray:
    """Return log of the factor by which |N e^{zL}| integrated on the shifted line can exceed phi(t)."""
    theta = shift / s
    return 0.5 * shift**2 + reach * theta - max(0.0, -tilt) * np.log(np.cos(0.5 * theta))


def discretisation_error(spacing: FloatArray, s: FloatArray, tilt: float, reach: float) -> FloatArray:
    r"""Bound |trapezoid - phi(z)| / phi(t) for Re z = t, |Im z| <= reach, the grid unbounded; shape (P,).

    For f analytic in |Im u| < pi s the rule with step h errs by at most 2 M / (e^{2 pi a / h} - 1), M a bound on the
    integral of |f| over the lines Im u = +-a (Trefethen & Weideman 2014, Theorem 5.1,
    https://doi.org/10.1137/130932132). With theta = a / s < pi: |N(u + ia)| = e^{a^2/2} N(u), the modulus of
    1-q+q e^{w+i theta} lies between cos(theta/2) (1-q+q e^w) and 1-q+q e^w, and its argument is at most theta, so
    |e^{zL}| <= e^{tL} e^{|Im z| theta}, times cos(theta/2)^{-|t|} where t < 0.
    """
    shift = _strip_shift(s, tilt, 45.0)  # every shift gives a bound
    decay = 2.0 * math.pi * shift / spacing
    exponent = _strip_exponent(shift, s, tilt, reach) - decay
    return 2.0 * np.exp(np.minimum(exponent, 700.0)) / -np.expm1(-decay)


def range_error(
    score: FloatArray, loss: FloatArray, slope: FloatArray, s: FloatArray, tilt: float, log_unit: FloatArray | float
) -> FloatArray:
    r"""Bound the part of E_Q[e^{tL}] from outside the grid's ends, in units of e^log_unit; shape (P,).

    With e(u) = t L(u) - u^2/2 and 0 < dL/du < 1/s (`slope`, the derivative in w, is s times that): for t >= 0 the slope
    of e is at least |u| for u <= low < 0, so the left tail is at most e^{e(low)} / |low|. `high` exceeds every mode by
    construction, so e falls beyond it: at most e^{e(high)} up to m = max(t/s, high), and then like a normal density,
    together e^{e(high)} (m - high + sqrt(pi/2)). For t < 0, e is concave and its slopes at the
    ends bound both tails. A falling function's sum over grid points beyond an end is at most its integral.
    """
    low, high = score[:, 0], score[:, -1]
    log_low, log_high = (tilt * loss[:, j] - 0.5 * score[:, j] ** 2 - log_unit for j in (0, -1))
    slope_low, slope_high = tilt * (slope[:, 0] / s) - low, tilt * (slope[:, -1] / s) - high
    with np.errstate(over="ignore", divide="ignore"):
        mass_low, mass_high = np.exp(log_low - LOG_SQRT_2PI), np.exp(log_high - LOG_SQRT_2PI)
        if tilt < 0.0:
            left = np.where(slope_low > 0.0, mass_low / np.abs(slope_low), math.inf)
            right = np.where(slope_high < 0.0, mass_high / np.abs(slope_high), math.inf)
        else:
            left = np.where(low < 0.0, mass_low / np.abs(low), math.inf)
            right = mass_high * (np.maximum(tilt / s - high, 0.0) + math.sqrt(0.5 * math.pi))
    return left + right
