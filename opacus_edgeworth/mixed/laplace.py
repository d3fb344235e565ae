r"""Unsampled Laplace steps, in closed form.

With a = 1 / scale, h = a / 2 and w = 2z - 1, in either direction

    phi(z) = e^{-h} (cosh(hw) + sinh(hw) / w);

with v = 2c - 1, x = hv, theta = a y, C = cosh x and S = sinh x, at w = v + 2iy less its value at v,

    C (cos theta - 1) + i S sin theta + [S (cos theta - 1) + i (C sin theta - 2y S / v)] / (v + 2iy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import ComplexArray, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.inversion.characteristic import Logs, log_factor
from opacus_edgeworth.inversion.grid import expm1_minus
from opacus_edgeworth.mechanisms import ULP
from opacus_edgeworth.mixed.part import Upper, WholeLaw

ABSCISSAS, WEIGHTS = np.polynomial.legendre.leggauss(48)
LARGE = 20.0
"""From this x + h on cosh x + sinh(x) / v and e^h are not compared before the logarithm."""


@dataclass(frozen=True, slots=True)
class LaplacePart:
    """Steps of the Laplace mechanism.

    Args:
      rate: a, one rounding from the truth.
      steps: n, how many.
    """

    rate: float
    steps: float

    def moments(self, c: float) -> tuple[float, float, float]:
        """See `Part`; by a sum over the density where it counts, and the two atoms."""
        a = self.rate
        span = min(2.0 * a, 40.0 / (c - 0.5))
        loss = np.concatenate([a - 0.5 * span * (1.0 - ABSCISSAS), [-a, a]])
        density = 0.125 * span * WEIGHTS * np.exp((c - 0.5) * (loss[:-2] - a))
        weight = np.append(density, (0.5 * math.exp(-min((2.0 * c - 1.0) * a, 700.0)), 0.5))
        weight /= weight.sum()
        mean = float(weight @ loss)
        return (
            self.steps * log_phi(a, c)[0],
            self.steps * mean,
            self.steps * float(weight @ (loss - mean) ** 2),
        )

    def upper(self, c: float) -> Upper:
        """See `Part`; the law is whole."""
        return Upper(_upper(self.rate, self.steps, c), 0.0)

    def at(self, c: float, reach: float) -> TiltedLaplace:
        """See `Part`."""
        value, error = log_phi(self.rate, c)
        return TiltedLaplace(
            self.rate, self.steps, c, self.steps * value, self.steps * (error + 2.0 * ULP * abs(value))
        )


@dataclass(frozen=True, slots=True)
class TiltedLaplace(WholeLaw):
    """Laplace steps under the tilt c."""

    rate: float
    steps: float
    c: float
    log_peak: float
    log_peak_error: float

    def upper(self, c: float) -> float:
        """See `TiltedPart`."""
        return _upper(self.rate, self.steps, c)

    def log_beyond(self, y: float) -> float:
        """See `TiltedPart`: |C cos theta + i S sin theta| <= C, and with S and C exchanged, too."""
        v = 2.0 * self.c - 1.0
        share = (1.0 + 1.0 / math.hypot(v, 2.0 * y)) / (1.0 + math.tanh(0.5 * self.rate * v) / v)
        return self.steps * min(math.log(share) + 32.0 * ULP, 0.0)

    def log_cf(self, step: float, count: int) -> tuple[ComplexArray, FloatArray]:
        """See `TiltedPart`. All four terms are summed with the error of each, and of theta, in proportion."""
        y = step * np.arange(count)
        v = 2.0 * self.c - 1.0
        x = 0.5 * self.rate * v
        ebb = math.exp(-2.0 * x)
        cosh, sinh = 0.5 * (1.0 + ebb), -0.5 * math.expm1(-2.0 * x)  # times e^x, which cancels
        theta = self.rate * y
        less, sine = -2.0 * np.sin(0.5 * theta) ** 2, np.sin(theta)
        w = v + 2j * y
        peak = cosh + sinh / v
        moved = 2.0 * sinh / v * y
        value = (cosh * less + 1j * (sinh * sine) + (sinh * less + 1j * (cosh * sine - moved)) / w) / peak
        own = (cosh + sinh) * theta  # whose error moves sines and cosines
        wrong = cosh * np.abs(less) + sinh * np.abs(sine) + own
        wrong += (sinh * np.abs(less) + cosh * np.abs(sine) + moved + own) / np.abs(w)
        log_value, error = log_factor(value, 32.0 * ULP / peak * wrong)
        total, total_error, moduli = Logs(log_value[None], error[None]).power(np.array([self.steps]))
        return total, total_error + 4.0 * ULP * moduli


def _upper(rate: float, steps: float, c: float) -> float:
    """Return an upper bound on G(c)."""
    value, error = log_phi(rate, c)
    return steps * (value + error + 4.0 * ULP * abs(value))


def log_phi(rate: float, c: float) -> tuple[float, float]:
    r"""Return K(c), c >= 1/2, and a bound on its error.

    phi - 1 = e^{-h} (2 sinh^2(x/2) + h (sinh(x)/x - 1) - psi(h)), psi(h) = e^h - 1 - h; all but the last term grow with
    c, and at c = 1 the sum is 0.
    """
    h, v = 0.5 * rate, 2.0 * c - 1.0
    x = h * v
    if x + h > LARGE:
        sinh = -0.5 * math.expm1(-2.0 * x) / v if x > 1.0 else h * (1.0 + _sinhc_less_one(x)) * math.exp(-x)
        value = x - h + math.log(0.5 * (1.0 + math.exp(-2.0 * x)) + sinh)
        return value, ULP * 16.0 * (x + h + 4.0)
    terms = 2.0 * math.sinh(0.5 * x) ** 2, h * _sinhc_less_one(x), float(expm1_minus(np.array(h)))
    shrink = math.exp(-h)
    excess = shrink * (terms[0] + terms[1] - terms[2])
    # the relative error of x counts (x coth x / 2 and less) times
    error = ULP * 64.0 * (1.0 + x) * shrink * sum(terms)
    left = 1.0 + excess - error
    if not left > 0.0:
        return 0.0, math.inf
    value = math.log1p(excess)
    return value, error / left + 4.0 * ULP * abs(value)


def laplace_delta(rate: float, epsilon: float) -> Bounds:
    """Return delta of one Laplace step at epsilon >= 0: 1 - e^{(epsilon - a) / 2}, 0 beyond a."""
    room = 8.0 * ULP * (rate + epsilon)
    low, high = (-math.expm1(min(0.5 * (epsilon - rate + sign * room), 0.0)) for sign in (1.0, -1.0))
    return Bounds(low * (1.0 - 4.0 * ULP), min(high * (1.0 + 4.0 * ULP), 1.0))


def sampled_laplace_delta(rate: float, q: float, epsilon: float, direction: str) -> Bounds:
    """Return delta of one sampled Laplace step at epsilon >= 0.

    With the unsampled step's delta_1: q delta_1(log((e^epsilon - 1 + q) / q)) in the remove direction, and
    k delta_1(log(q e^epsilon / k)), k = 1 - (1 - q) e^epsilon, in the add direction; 0 for k <= 0.
    """
    if epsilon > 600.0 and direction == "add":
        return Bounds(0.0, 0.0)  # q < 1
    growth = math.expm1(min(epsilon, 600.0))
    if direction == "remove":
        far = growth > 1e300 * q or epsilon > 600.0  # e^epsilon / q, up to e^-600
        inner, scale, error = epsilon - math.log(q) if far else math.log1p(growth / q), q, 0.0
    else:
        scale = q - (1.0 - q) * growth
        error = 8.0 * ULP * (q + growth)
        if scale <= 2.0 * error:
            return Bounds(0.0, max(scale + error, 0.0))
        inner, error = epsilon + math.log(q / scale), error / scale
    room = 2.0 * error + 16.0 * ULP * (1.0 + inner + epsilon)
    low, high = laplace_delta(rate, inner + room).lower, laplace_delta(rate, max(inner - room, 0.0)).upper
    return Bounds(scale * (1.0 - error - 4.0 * ULP) * low, scale * (1.0 + error + 4.0 * ULP) * high)


def _sinhc_less_one(x: float) -> float:
    """Return sinh(x) / x - 1 >= 0."""
    if x > 1.0:
        return math.sinh(x) / x - 1.0
    term, total = 1.0, 0.0
    for number in range(2, 24, 2):
        term *= x * x / (number * (number + 1))
        total += term
    return total
