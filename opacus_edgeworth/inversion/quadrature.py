r"""Cumulant generating and characteristic functions of tilted steps, by a trapezoid rule with proved error.

Every phase has K(z) = log phi(z), phi(z) = E_Q[e^{zL}], and at a real tilt t the tilted law p ~ N e^{tL}, under which
phi_t(y) = phi(t + iy) / phi(t) is a characteristic function. Several tilts and all phases are treated at once.

With psi(x) = e^x - 1 - x >= 0 and E_Q[chi] = 1 - m, E_Q[chi e^L] = 1 - m' known in closed form, the differences that a
sum would lose to cancellation are taken analytically. With base b = 0 (t < 1/2) or b = 1 (t >= 1/2), d = t - b,

    phi(t) - 1  = E[ chi e^{bL} (psi(dL) + (2b-1) d psi((1-2b) L)) ] + t (m - m') - m
    phi'(t)     = E[ chi e^{bL} (L expm1(dL) + (2b-1) psi((1-2b) L)) ] + m - m'

so K and the tilted mean keep an error of a few ulp of E[L^2], however many steps multiply them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.inversion.grid import (
    LOG_SQRT_2PI,
    SMALLEST_LOG,
    Grid,
    discretisation_error,
    expm1_minus,
    range_error,
)
from opacus_edgeworth.mechanisms import ULP

SMALL_LOG = 0.5
"""Up to this K the analytic differences are used; above it there is nothing to cancel."""
SUMS_SQUARED, SUMS_LINEAR, SUMS_PLAIN, SUMS_MEAN = 0.75, 2.3, 8.7, 1.0
r"""How much sums over J points err, in J ulp: those of p e^{iyL} by so many times y^2 E_t[L^2], |y| E_t|L| or 1, and
the mean by so many times E_t|L|.

In any order a sum of J products of complex numbers errs by at most sqrt(2) J ulp sum |a||b|, and by J/2 ulp of that sum
where one factor is real. With A and B as in `characteristic` |A| <= min(2, |aL|) and |A - iaL| <= min(1.26 |aL|,
(aL)^2 / 2), B likewise; |A||B| is at most 4, ab L^2, and, with x = |yL| = (a + b) |L|, 4 sin(x/4)^2 <= 0.725 x up to
x = 2 pi, from where on 4 is less. The sum of A B and those of A and B so err by 4 sqrt(2) + 2, centred by
(0.725 sqrt(2) + 0.63) |yL|, or by (sqrt(2) ab + (a^2 + b^2) / 4) L^2 <= 0.48 (yL)^2. The sum that normalises the
weights, of J positive numbers, is off by J/2 ulp, which adds 1, 0.63 |yL| and 0.25 (yL)^2. The mean errs by J/2 ulp
of E_t|L|, and once more as much by those weights.
"""


@dataclass(frozen=True, slots=True)
class TiltedSteps:
    """All phases of a composition under T real tilts; arrays are (T, P) unless stated.

    Args:
      grid: the scores and losses.
      tilt: (T,), t.
      weight: (T, P, J), p, the tilted probabilities of the grid points; the last axis sums to 1.
      log_mgf: K(t); `log_mgf_error` bounds its error, discretisation and rounding together.
      mean: phi'(t) / phi(t) up to `mean_error`, both in nats.
      rounding: (3, T, P): the grid's sum of p (e^{iyL} - 1 - iyL) errs by at most min(r1 |y|, r2 y^2) + r3 y^2.
      lost: what the grid's finite range leaves out, relative to phi(t).
      spread, turn: the sum of p e^{iyL} errs by at most spread + turn |y|, too.
    """

    grid: Grid
    tilt: FloatArray
    weight: FloatArray
    log_mgf: FloatArray
    log_mgf_error: FloatArray
    mean: FloatArray
    mean_error: FloatArray
    rounding: FloatArray
    lost: FloatArray
    spread: FloatArray
    turn: FloatArray

    @property
    def loss(self) -> FloatArray:
        """The grid's losses, (P, J)."""
        return self.grid.loss

    @property
    def plain(self) -> bool:
        """Whether the losses do not crowd around 0: those of a law between two barriers."""
        return self.grid.law.below is not None

    def quadrature_error(self, reach: float) -> FloatArray:
        """Return the error of the rule for phi(z) / phi(t), finite range included, on |Im z| <= reach; (T, P).

        That is twice the relative error: phi(t), by which the weights are normalised, is off by as much.
        """
        return 2.0 * (discretisation_error(self.grid, self.tilt, reach, self.log_mgf) + self.lost)


def tilted_steps(grid: Grid, tilt: FloatArray) -> TiltedSteps:
    """Return the tilted laws of every phase at the tilts (T,), which the grid should serve.

    Every tilt gives true bounds; those of a tilt that the grid does not serve may be infinitely wide.
    """
    weight, total, log_mgf = tilted_mass(grid, tilt)
    weight /= total
    # at the tilts 0 and 1 too: what the grid misses of E[chi] and E[chi e^L], which the fine formulas take to be exact
    tilts, log_unit = np.append(tilt, (0.0, 1.0)), np.zeros((tilt.size + 2, grid.steps.phases))
    log_unit[:-2] = log_mgf
    lost = range_error(grid, tilts, log_unit)
    at_real = discretisation_error(grid, tilts, 0.0, log_unit) + lost
    discretisation, lost = at_real[:-2], lost[:-2]
    others = (
        at_real[-2:].sum(axis=0) + 2.0 * grid.law.end_lost() + 256.0 * ULP * (grid.mass_lost + grid.likelihood_lost)
    )
    # Weights err relatively by `spread`, from N, e^{tL} and the loss; sums over the grid add `summing` (`SUMS_LINEAR`).
    absolute, size = np.abs(grid.loss), np.abs(tilt)[:, None, None]
    summing = ULP * (grid.score.shape[1] + 40)
    spread = 4.0 * ULP + grid.density_error + size * (2.0 * ULP * absolute + grid.loss_error)
    mean_spread = np.einsum("tpj,tpj->tp", weight, spread)
    spreads = 2.0 * (spread + mean_spread[..., None])
    squares, lines, means = (
        weight * ((spreads + share * summing) * absolute + 2.0 * grid.loss_error)
        for share in (SUMS_SQUARED, SUMS_LINEAR, SUMS_MEAN)
    )
    squares *= absolute
    turning = absolute * grid.reach > 1.0  # where e^{iyL} turns, the linear bound is the better one
    rounding = np.stack(
        [
            (lines * turning).sum(axis=2),
            (squares * turning).sum(axis=2),
            (squares * ~turning).sum(axis=2),
        ]
    )
    mean = np.einsum("tpj,pj->tp", weight, grid.loss)
    log_mgf_error = log_error(mean_spread + summing + discretisation) + 4.0 * ULP * np.abs(log_mgf)
    mean_error: FloatArray = means.sum(axis=2)
    small = np.abs(log_mgf) <= SMALL_LOG
    if grid.law.below is None and small.any() and float(grid.log_density[:, [0, -1]].min()) > SMALLEST_LOG:
        log_phi, phi_error, drift, drift_error = _fine_moments(grid, tilt)
        with np.errstate(over="ignore", invalid="ignore"):  # overflow only where K is large: not chosen
            shrink = np.exp(-log_phi)
            fine_error = log_error((phi_error + (1.0 + np.abs(tilt))[:, None] * others) * shrink + discretisation)
            drift_error = drift_error + np.abs(drift) * (phi_error * shrink + discretisation) + others
            # where the law's edge is in the way, the differences taken analytically are not what the grid has
            finer = small & (fine_error < log_mgf_error)
            log_mgf = np.where(finer, log_phi, log_mgf)
            log_mgf_error = np.where(finer, fine_error, log_mgf_error)
            finer = small & (drift_error * shrink < mean_error)
            mean = np.where(finer, drift * shrink, mean)
            mean_error = np.where(finer, drift_error * shrink, mean_error)
    turn = np.einsum("tpj,pj->tp", weight, grid.loss_error + 4.0 * ULP * absolute)
    return TiltedSteps(
        grid,
        tilt,
        weight,
        log_mgf,
        1.01 * log_mgf_error,
        mean,
        1.01 * mean_error,
        rounding,
        lost,
        2.02 * mean_spread + SUMS_PLAIN * summing,
        1.01 * turn,
    )


def log_mgf_upper(grid: Grid, tilt: FloatArray) -> FloatArray:
    """Return proved upper bounds on K(t) for tilts (T,), of shape (T, P).

    They are too high by about 1e-13; infinite for a tilt of which the grid knows nothing.
    """
    _, _, log_mgf = tilted_mass(grid, tilt)
    spread = ULP * (grid.score.shape[1] + 60.0) + grid.density_error
    slack = 2.0 * ULP * np.maximum(grid.largest_loss, -grid.least_loss) + grid.loss_error.max(axis=1)
    error = spread.max(axis=1) + np.abs(tilt)[:, None] * slack + 4.0 * ULP * np.abs(log_mgf)
    error += log_error(discretisation_error(grid, tilt, 0.0, log_mgf) + range_error(grid, tilt, log_mgf))
    return log_mgf + error


def log_error(relative: FloatArray) -> FloatArray:
    """Return a bound on the error of a logarithm, whose argument has this relative error; infinite from 1 on."""
    return np.where(relative < 1.0, -np.log1p(-np.minimum(relative, 1.0 - ULP)), math.inf)


def tilted_mass(grid: Grid, tilt: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return N chi e^{tL} over its largest value, (T, P, J), its sum, (T, P, 1), and K(t), (T, P), for tilts (T,)."""
    exponent = tilt[:, None, None] * grid.loss + grid.log_density
    top = exponent.max(axis=2, keepdims=True)
    mass = np.exp(exponent - top)
    total = mass.sum(axis=2, keepdims=True)
    return mass, total, (top + np.log(total * grid.spacing))[..., 0] - LOG_SQRT_2PI


def _fine_moments(grid: Grid, tilt: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return log phi(t), the error of phi(t), phi'(t) and its error, by the formulas at the head of this module.

    All are (T, P). The pieces of a sum have equal signs but for 0 < t < 1. An error of the loss enters through the
    derivatives t (e^{tL} - e^L) and e^{tL} (1 + tL) - e^L of what the two sums average (for b = 0, and likewise).
    """
    base = (tilt >= 0.5)[:, None, None]
    d = tilt[:, None, None] - base
    sign = np.where(base, 1.0, -1.0)
    relative = ULP * (grid.score.shape[1] + 60.0) + grid.density_error
    with np.errstate(over="ignore", invalid="ignore"):  # overflow only where K is large: the caller sees inf or NaN
        scale = np.where(base, grid.scale * np.exp(grid.loss), grid.scale)
        mirrored = np.where(base, expm1_minus(-grid.loss), grid.excess)
        moved = d * grid.loss
        growth = np.expm1(moved)
        first, second = expm1_minus(moved), sign * d * mirrored
        third = grid.loss * growth
        excess = np.einsum("tpj,tpj->tp", scale, first + second)
        slope = np.einsum("tpj,tpj->tp", scale, third + sign * mirrored)
        # |e^{tL} - e^L| and a bound on |e^{tL} (1 + tL) - e^L|, over e^{bL}
        gap = np.abs(growth - np.where(base, 0.0, np.expm1(grid.loss)))
        steepness = gap + np.abs(tilt)[:, None, None] * np.abs(grid.loss) * (growth + 1.0)
        wrong = relative * (first + np.abs(second)) + np.abs(tilt)[:, None, None] * grid.loss_error * gap
        excess_error = np.einsum("tpj,tpj->tp", scale, wrong)
        wrong = relative * (np.abs(third) + mirrored) + grid.loss_error * steepness
        slope_error = np.einsum("tpj,tpj->tp", scale, wrong)
        gained = grid.mass_lost - grid.likelihood_lost
        excess += tilt[:, None] * gained - grid.mass_lost
        slope += gained
        log_phi = np.log1p(excess)
    return log_phi, excess_error + 4.0 * ULP * np.abs(excess), slope, slope_error + 4.0 * ULP * np.abs(slope)
