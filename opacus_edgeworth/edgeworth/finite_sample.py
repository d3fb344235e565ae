r"""How far the first-order expansion of the privacy-loss sum can be from the truth, for that very number of steps.

What the theorems in `remainder` ask for is found here: absolute moments of one step's loss, by Gauss-Legendre panels on
both sides of its mean, where the integrand is smooth; and the integral of |f| / u, f the characteristic function of the
standardised sum, from the proved decay of `inversion.truncation`, which falls, on a geometric grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.edgeworth.remainder import StandardMoments, continuous_remainder, moment_remainder
from opacus_edgeworth.inversion.grid import Grid
from opacus_edgeworth.inversion.quadrature import tilted_steps
from opacus_edgeworth.inversion.truncation import Decay, decay_bound
from opacus_edgeworth.mechanisms import privacy_loss, score_at_loss

FARTHEST = -float(ndtri(1e-300))
"""Standard deviations beyond which nothing is integrated."""
ABSCISSAE, WEIGHTS = np.polynomial.legendre.leggauss(24)
RATIO = 1.02
"""Of neighbouring points of the geometric grid."""


def finite_sample_remainder(history: Sequence[tuple[float, float, int]], grid: Grid | None, tilt: float) -> float:
    """Return a bound on sup |F - F_1| of the privacy-loss sum under P (tilt 1) or Q (tilt 0); 0 of a normal one.

    Args:
      history: (noise_multiplier, sample_rate, steps) phases.
      grid: of the subsampled phases of their composition, None if there are none.
      tilt: 0 or 1.
    """
    if grid is None:
        return 0.0
    phases = [(s, q, n) for s, q, n in history if n > 0 and q > 0.0]
    moments, deviation = standard_moments(phases, tilt)
    identical = len(phases) == 1
    decay = decay_bound(tilted_steps(grid, np.array([tilt])))

    def cf_integral(low: float, high: float) -> float:
        return _cf_integral(decay, low, high, deviation)

    return min(
        moment_remainder(moments, identical=identical),
        continuous_remainder(moments, identical=identical, cf_integral=cf_integral),
    )


def standard_moments(phases: Sequence[tuple[float, float, int]], tilt: float) -> tuple[StandardMoments, float]:
    """Return averaged, standardised moments of all losses under P (tilt 1) or Q (tilt 0), and their sum's deviation."""
    each = np.array([_step_moments(s, q, tilt) for s, q, _ in phases])  # (P, 5)
    counts = np.array([float(n) for _, _, n in phases])
    total = float(counts.sum())
    variance, third, absolute, cubed, fourth = (
        counts @ np.column_stack([each[:, 1], each[:, 2], each[:, 0] * each[:, 1], each[:, 3], each[:, 4]]) / total
    )
    spread = math.sqrt(variance)
    moments = StandardMoments(
        count=int(total),
        skewness=float(third / spread**3),
        absolute_third=float(cubed / spread**3),
        fourth=float(fourth / spread**4),
        absolute_third_plus=float((cubed + absolute) / spread**3),
    )
    return moments, spread * math.sqrt(total)


def _step_moments(s: float, q: float, tilt: float) -> tuple[float, float, float, float, float]:
    """Return E|X|, E[X^2], E[X^3], E|X|^3 and E[X^4] of one step's centred loss X."""
    if q == 1.0:
        deviation = 1.0 / s
        half = math.sqrt(2.0 / math.pi)
        return half * deviation, deviation**2, 0.0, 2.0 * half * deviation**3, 3.0 * deviation**4
    rate, noise = np.array([[q]]), np.array([[s]])
    low, high = -FARTHEST, FARTHEST + (1.0 / s if tilt == 1.0 else 0.0)
    loss, weight = _panels(low, high, s, q, tilt)
    mean = float(weight @ loss / weight.sum())
    middle = float(score_at_loss(np.array([[mean]]), noise, rate)[0, 0])
    parts = [_panels(low, middle, s, q, tilt), _panels(middle, high, s, q, tilt)]
    loss, weight = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    weight = weight / weight.sum()
    x = loss - float(weight @ loss)
    size = np.abs(x)
    first, second, third, cubed, fourth = (float(weight @ power) for power in (size, x * x, x**3, size**3, x**4))
    return first, second, third, cubed, fourth


def _panels(low: float, high: float, s: float, q: float, tilt: float) -> tuple[FloatArray, FloatArray]:
    """Return losses and weights of Gauss-Legendre panels between two scores."""
    count = max(4, math.ceil((high - low) / min(1.0, s)))
    edges = np.linspace(low, high, count + 1)
    half = 0.5 * np.diff(edges)[:, None]
    score = (0.5 * (edges[:-1] + edges[1:])[:, None] + half * ABSCISSAE).ravel()
    loss = privacy_loss(score[None], np.array([[s]]), np.array([[q]]))[0]
    density = np.exp(-0.5 * score * score)
    if tilt == 1.0:
        density = (1.0 - q) * density + q * np.exp(-0.5 * (score - 1.0 / s) ** 2)
    return loss, (half * WEIGHTS).ravel() * density


def _cf_integral(decay: Decay, low: float, high: float, deviation: float) -> float:
    """Return an upper bound on the integral of |f(u)| / u from low to high, f that of the sum over its deviation."""
    if not high > low:
        return 0.0
    count = max(1, math.ceil(math.log(high / low) / math.log(RATIO)))
    points = low * (high / low) ** (np.arange(count + 1) / count)
    total = 0.0
    for left, right in zip(points[:-1].tolist(), points[1:].tolist(), strict=True):
        log_bound = float(decay.log_bound(left / deviation)[0])
        value = math.exp(min(log_bound, 0.0)) * math.log(right / left)
        total += value
        if value < 1e-18 and log_bound < -60.0:  # the rest is at most that times the logarithm of the ratio
            return (total + math.exp(log_bound) * math.log(high / left)) * (1.0 + 1e-9)
    return total * (1.0 + 1e-9)
