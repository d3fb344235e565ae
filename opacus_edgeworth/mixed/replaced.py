r"""A Poisson-subsampled Gaussian step under replace-one adjacency: its dominating pair, and a rule with proved error.

*The pair.* P = (1-q) N(0, s^2) + q N(1, s^2), Q = (1-q) N(0, s^2) + q N(-1, s^2): the replaced example's gradient has
the clipping norm, its replacement's the opposite direction. It dominates. For gradients g, g' of norm at most 1 and
a >= 1, Balle, Barthe & Gaboardi 2018, Theorem 2 (https://arxiv.org/abs/1807.01647) gives the hockey-stick divergence
of (1-q) N(0) + q N(g) from (1-q) N(0) + q N(g') as q times that of N(g) from (1-b) N(0) + b N(g'), at the order
1 + (a-1)/q and with b = a / (1 + (a-1)/q). Moved by -g, this is N(0) against centres -g and g' - g. As an integral
over N(0) it is the mean of a convex function f of S = sum_i w_i e_i, the e_i log-normal of mean 1, their logarithms
jointly normal with covariances <c_i, c_j> / s^2 of the centres c. It rises with every covariance: from normal vectors X
to X', along sqrt(1-r) X + sqrt(r) X', E[f(S)] has the derivative sum w_i w_j (cov'_ij - cov_ij) E[f''(S) e_i e_j] / 2
(Kahane 1985, "Sur le chaos multiplicatif"). <c_i, c_j> is at most |c_i| |c_j|, |g| <= 1 and |g' - g| <= 2: centres 1
and 2 on a line are the worst, which is the pair. Below a = 1 the two data sets change roles. Given which other examples
were sampled, the step is such a pair about their sum; a mean over that is no farther apart (joint convexity), and
dominating pairs compose adaptively (Zhu, Dong & Wang 2022, https://arxiv.org/abs/2106.08567, Theorem 10).

*The loss.* With u = x / s and l(u) = log(1 - q + q e^{u/s - 1/(2 s^2)}), the loss is L(u) = l(u) - l(-u), which is
odd; both directions have the same law, phi(z) = Int N(u) e^{z l(u) + (1-z) l(-u)} du, and phi(1 - z) = phi(z).

*The rule* is the trapezoid's. The integrand is analytic for |Im u| < pi s; on Im u = v,
|N(u)| grows by e^{v^2/2}, |e^l| does not grow, falls at most by `_shrink`, and arg e^{l(u)} + arg e^{l(-conj u)} is
`loss_turn` twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, logsumexp

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.grid import LOG_SQRT_2PI, STRIP, few_bits
from opacus_edgeworth.inversion.truncation import layers, one_minus_sinc
from opacus_edgeworth.mechanisms import ULP, loss_slope, loss_turn, privacy_loss, privacy_loss_error
from opacus_edgeworth.mixed.law import ReplacedDensity

SHARES = np.array([[0.05], [0.1], [0.2], [0.35], [0.5], [0.75], [1.0]])
"""Heights of shifted scores that are tried, as shares of the highest."""
HIGHEST = 9.0
"""Largest height, in u: there N(u) has grown by e^40."""
ACCURACY = 44.0
"""-log of about the rule's error, relative to phi(t)."""
WIDEST, FINEST = 0.125, 1e-6
"""Spacings: each cell's density is bounded by what it is at its ends."""
MAX_POINTS = 1 << 17
SLACK = 1e-9
"""Relative allowance for the rounding of bounds on moduli."""


@dataclass(frozen=True, slots=True)
class ReplacedRule:
    """The points of the trapezoid rule, as losses with masses under Q.

    Args:
      density: whose law it is.
      spacing: h, of few bits, so that every score is exact.
      score: (J,), u.
      loss: (J,); `loss_error` (J,) bounds its error.
      log_mass: (J,), with relative errors of the masses of at most `mass_error` (J,).
      up, down: (J,), derivatives of l, in units of 1/s, at u and at -u.
    """

    density: ReplacedDensity
    spacing: float
    score: FloatArray
    loss: FloatArray
    loss_error: FloatArray
    log_mass: FloatArray
    mass_error: FloatArray
    up: FloatArray
    down: FloatArray

    def log_error(self, tilt: float, reach: float) -> float:
        """Return log of a bound on the rule's error for phi(tilt + iy), |y| <= reach, tilt >= 0.

        Source:
          Trefethen & Weideman 2014, Theorem 5.1, https://doi.org/10.1137/130932132: 2 M / (e^{2 pi a / h} - 1), M the
          integral of the modulus on Im u = +-a. Cell by cell it is at most `_log_cells`; beyond the ends see
          `_log_tails`. Every height a gives a bound.
        """
        height = SHARES * min(STRIP * math.pi * self.density.noise_multiplier, HIGHEST)
        log_size = self._log_cells(tilt, height) + reach * self._turn(height, 0.5)
        log_lines = np.logaddexp(logsumexp(log_size, axis=1), self._log_far(tilt, height, reach))
        growth = 2.0 * math.pi * height[:, 0] / self.spacing
        log_lines += math.log(2.0) - growth - np.log(-np.expm1(-growth))
        return float(np.logaddexp(log_lines.min(), self._log_tails(tilt))) + 1e-9 * (1.0 + tilt)

    def decay(self, tilt: float, log_phi: Bounds) -> ReplacedDecay:
        """Return what bounds |phi(tilt + iy) / phi(tilt)|, tilt >= 1/2, given bounds on log phi(tilt)."""
        height = SHARES * min(STRIP * math.pi * self.density.noise_multiplier, HIGHEST)
        mass, width = layers(*self._cell_density(tilt, log_phi.upper))
        # Im L > 0 on the line and least at a cell's lower ends; beyond the grid's ends it is not counted
        return ReplacedDecay(
            mass[0, 0] * (1.0 - SLACK * (1.0 + tilt)),
            width[0, 0],
            self._log_cells(tilt, height) - log_phi.lower + SLACK * tilt,
            self._turn(height, -0.5) * (1.0 - SLACK),
            self._log_far(tilt, height, 0.0) - log_phi.lower,
        )

    def _log_cells(self, tilt: float, height: FloatArray) -> FloatArray:
        """Return bounds on log of the modulus's integral over every cell, at y = 0; (A, J)."""
        h, s = self.spacing, self.density.noise_multiplier
        grown = math.exp(0.5 * h / s)  # slopes are at most so many times what they are at the score
        up, down = np.minimum(self.up * grown, 1.0), np.minimum(self.down * grown, 1.0)
        rise = 0.5 * h * (np.abs(self.score) + 0.5 * h + (tilt * up + abs(1.0 - tilt) * down) / s)
        shrink = max(tilt - 1.0, 0.0) * _shrink(height / s, self.down / grown, down)
        return self.log_mass + tilt * self.loss + rise + shrink + 0.5 * height**2 + SLACK

    def _turn(self, height: FloatArray, side: float) -> FloatArray:
        """Return Im L at the upper (side 1/2) or lower (-1/2) ends of the cells, each of both terms' own; (A, J)."""
        s, q = (np.array(number) for number in (self.density.noise_multiplier, self.density.sample_rate))
        edge = side * self.spacing
        return loss_turn(self.score + edge, height / s, s, q) + loss_turn(edge - self.score, height / s, s, q)

    def _log_far(self, tilt: float, height: FloatArray, reach: float) -> FloatArray:
        """Return bounds on log of the modulus's integral beyond the ends, (A,); Im L is at most 2 a / s there."""
        theta = height[:, 0] / self.density.noise_multiplier
        ends = _shrink(theta, 0.0 * theta, self.down[-1]), _shrink(theta, self.down[0], 1.0 + 0.0 * theta)
        shrink = max(tilt - 1.0, 0.0) * np.maximum(*ends)
        return self._log_tails(tilt) + shrink + 0.5 * height[:, 0] ** 2 + 2.0 * reach * theta

    def _log_tails(self, tilt: float) -> float:
        r"""Return log of a bound on the integral, and on the rule's sum, beyond the grid's ends; tilt >= 0.

        The integrand's logarithm has the derivative -u + (t l'(u) + (t-1) l'(-u)), l' the slope over s; outwards from
        an end U > 0 it falls at least as fast as U - (t + (t-1)_+ l'(-U)) / s, and outwards from -U as fast as
        U - (1-t)_+ / s. What falls has a sum beyond an end of at most its integral.
        """
        s = self.density.noise_multiplier
        rates = (
            -self.score[0] - max(1.0 - tilt, 0.0) / s,
            self.score[-1] - (tilt + max(tilt - 1.0, 0.0) * self.down[-1]) / s,
        )
        if not min(rates) > 0.0:
            return math.inf
        ends = (self.log_mass + tilt * self.loss)[[0, -1]] - math.log(self.spacing)
        return float(np.logaddexp.reduce(ends - np.log(rates))) + SLACK

    def _cell_density(self, tilt: float, log_phi: float) -> tuple[FloatArray, FloatArray]:
        """Return lower bounds on the tilted density of L in every cell between scores, and on its width in L.

        log_phi is at least log phi(tilt). With k the largest l'' there, log(density) = t l(u) + (1-t) l(-u) - u^2/2 -
        log L'(u) has a second derivative of at most (max(t, 1) + 1) k - 1: L' is a sum of two exponentials of l-like
        functions, whose logarithm's second derivative is at least the lesser of theirs, -k. Slopes m rise, and
        l'' = m (1 - m) / s^2.
        """
        h, s = self.spacing, self.density.noise_multiplier
        with np.errstate(divide="ignore"):  # where L is flat but for what underflows, nothing is claimed
            log_slope = np.log(h * (self.up + self.down) / s)
        log_density = self.log_mass + tilt * self.loss - log_phi - log_slope
        log_density = np.where(log_slope > -600.0, log_density, -math.inf)
        steepest = np.minimum(np.maximum(self.up[1:], self.down[:-1]), 0.25) / s**2
        bend = np.maximum((max(tilt, 1.0) + 1.0) * steepest - 1.0, 0.0) * h**2 / 8.0
        floor = np.exp(np.minimum(log_density[1:], log_density[:-1]) - bend - SLACK)
        width = np.maximum(np.diff(self.loss) - self.loss_error[1:] - self.loss_error[:-1], 0.0)
        return (floor * (width > 0.0))[None, None], width[None]


@dataclass(frozen=True, slots=True)
class ReplacedDecay:
    """How fast a tilted step's characteristic function must decay; see `inversion.truncation` for both ways.

    Args:
      mass, width: (M,), layers of the density of L.
      log_size: (A, J), of cells on lines of complex scores; `turn` (A, J), Im L; `log_far` (A,), beyond the grid.
    """

    mass: FloatArray
    width: FloatArray
    log_size: FloatArray
    turn: FloatArray
    log_far: FloatArray

    def log_bound(self, y: float) -> float:
        """Return an upper bound on log |phi(t + iy') / phi(t)| for every |y'| >= y > 0."""
        layered = math.log1p(-float(self.mass @ one_minus_sinc(0.5 * y * self.width)))
        shifted = np.logaddexp(logsumexp(self.log_size - y * self.turn, axis=1), self.log_far)
        return min(layered, float(shifted.min()) + SLACK)


def make_replaced_rule(density: ReplacedDensity, tilt: float, reach: float) -> ReplacedRule:
    """Return a rule for phi(t + iy), t = `tilt` >= 1/2 and |y| <= `reach`, and for phi(0) and phi(1).

    Raises:
      OutOfReachError: it would take too many points.
    """
    low, high = _ends(density, tilt)
    spacing = WIDEST
    while spacing > FINEST:
        rule = _rule(density, few_bits(np.array(spacing)).item(), low, high)
        log_phi = logsumexp(rule.log_mass + tilt * rule.loss)
        over = max(rule.log_error(tilt, reach) - log_phi, rule.log_error(0.0, 0.0), rule.log_error(1.0, 0.0)) + ACCURACY
        if over <= 0.0:
            return rule
        # log(error) is about -2 pi a / h, and what it is above that need not be known
        spacing *= max(min(0.9, 2.0 * ACCURACY / (2.0 * ACCURACY + over)), 0.2)
    raise OutOfReachError(f"no rule for {density} at the tilt {tilt:g}, up to {reach:g}")


def _ends(density: ReplacedDensity, tilt: float) -> tuple[float, float]:
    """Return scores beyond which there is hardly anything of the integrand at the tilts t, 0 and 1."""
    s, q = density.noise_multiplier, density.sample_rate
    farthest = (tilt + max(tilt - 1.0, 0.0) * min(1.0, q * 4.0)) / s + 12.0
    if not farthest < 1e4:
        raise OutOfReachError(f"scores up to {farthest:g}")
    u = np.arange(-12.0 - 1.0 / s, max(farthest, 12.0 + 1.0 / s) + 1.0, 0.25)
    up, down = (privacy_loss(sign * u, np.array(s), np.array(q)) for sign in (1.0, -1.0))
    where = np.zeros(u.size, dtype=bool)
    for t in (0.0, 1.0, tilt):
        exponent = t * up + (1.0 - t) * down - 0.5 * u * u
        where |= exponent >= exponent.max() - ACCURACY - 8.0
    slope = loss_slope(down, -u, np.array(s), np.array(q))
    # from here on the integrand falls outwards; see `_log_tails`
    falls = np.argmax((u > 0.0) & (u >= (max(tilt, 1.0) + max(tilt - 1.0, 0.0) * slope) / s + 1.0))
    low = min(float(u[where][0]) - 0.25, -1.0 / s - 1.0)
    return low, max(float(u[where][-1]) + 0.25, float(u[falls]))


def _rule(density: ReplacedDensity, spacing: float, low: float, high: float) -> ReplacedRule:
    """Return the rule between two scores."""
    s, q = np.array(density.noise_multiplier), np.array(density.sample_rate)
    first, last = math.floor(low / spacing), math.ceil(high / spacing)
    if not last - first < MAX_POINTS:
        raise OutOfReachError(f"{last - first} points for one sampled Gaussian step")
    u = spacing * np.arange(first, last + 1.0)
    loss_up, loss_down = privacy_loss(u, s, q), privacy_loss(-u, s, q)
    up, down = loss_slope(loss_up, u, s, q), loss_slope(loss_down, -u, s, q)
    down_error = privacy_loss_error(loss_down, down, -u, s)
    loss = loss_up - loss_down
    loss_error = privacy_loss_error(loss_up, up, u, s) + down_error + ULP * np.abs(loss)
    log_mass = loss_down - 0.5 * u * u + (math.log(spacing) - LOG_SQRT_2PI)
    mass_error = down_error + ULP * (16.0 + 4.0 * (u * u + np.abs(loss_down)))
    return ReplacedRule(density, spacing, u, loss, loss_error, log_mass, mass_error, up, down)


def _shrink(theta: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return a bound on -log |1 - m + m e^{i theta}|, 0 <= theta < pi, over low <= m <= high; see `strip_bounds`."""
    middle = np.clip(0.5, low, np.minimum(high, 1.0))
    return -0.5 * np.log1p(-2.0 * middle * (1.0 - middle) * (1.0 - np.cos(theta))) * (1.0 + SLACK) + SLACK


def replaced_delta(noise_multiplier: float, sample_rate: float, epsilon: float) -> Bounds:
    """Return delta of one step at epsilon >= 0: P(u > t) - e^epsilon Q(u > t) where L(t) = epsilon.

    Any t gives a lower bound; with t between two scores at which L is surely below and surely above epsilon,
    P beyond the first less e^epsilon Q beyond the second is an upper one.
    """
    s, q = np.array(noise_multiplier), np.array(sample_rate)

    def loss(u: float) -> tuple[float, float]:
        score = np.array([u, -u])
        value = privacy_loss(score, s, q)
        error = privacy_loss_error(value, loss_slope(value, score, s, q), score, s)
        return float(value[0] - value[1]), float(error.sum()) + ULP * abs(float(value[0] - value[1]))

    highest = noise_multiplier * (epsilon - math.log(sample_rate) + 1.0) + 0.5 / noise_multiplier
    if not highest < 1e6 or epsilon > 600.0:
        return Bounds(0.0, 1.0)
    t = float(brentq(lambda u: loss(u)[0] - epsilon, 0.0, highest, xtol=1e-15, rtol=8.9e-16))  # type: ignore[arg-type]
    lower = _beyond(t, noise_multiplier, sample_rate, 1.0)[0] - _scaled(epsilon, t, noise_multiplier, sample_rate)[1]
    for room in (4.0**k * ULP * (abs(t) + 1.0) for k in range(1, 26)):
        below, above = loss(max(t - room, 0.0)), loss(t + room)
        if (t <= room or below[0] + below[1] < epsilon) and above[0] - above[1] > epsilon:
            break
    else:
        return Bounds(min(max(lower, 0.0), 1.0), 1.0)
    upper = _beyond(max(t - room, 0.0), noise_multiplier, sample_rate, 1.0)[1]
    upper -= _scaled(epsilon, t + room, noise_multiplier, sample_rate)[0]
    return Bounds(min(max(lower, 0.0), 1.0), min(max(upper, 5e-324), 1.0))


def _beyond(u: float, s: float, q: float, centre: float) -> tuple[float, float]:
    """Return bounds on the probability of a score above u, of (1-q) N(0) + q N(centre / s)."""
    logs = log_ndtr(np.array([-u, centre / s - u]))
    value = (1.0 - q) * math.exp(logs[0]) + q * math.exp(logs[1])
    room = ULP * (64.0 + 8.0 * float(np.abs(logs).max()) + 8.0 * (abs(u) + 1.0 / s) ** 2)
    return value * (1.0 - room), value * (1.0 + room) + 5e-324


def _scaled(epsilon: float, u: float, s: float, q: float) -> tuple[float, float]:
    """Return bounds on e^epsilon Q(u' > u)."""
    low, high = _beyond(u, s, q, -1.0)
    growth, room = math.exp(epsilon), ULP * (8.0 + 2.0 * epsilon)
    return growth * low * (1.0 - room), growth * high * (1.0 + room)
