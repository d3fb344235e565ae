"""One example replaced: the composition's delta on a contour of its own, in ball arithmetic, and by convolution.

The contour's sums are taken finer than any digit that is compared needs, in 200 bits; neither the rule's nor the line's
error is enclosed. The convolution's rounding of every loss up or down encloses delta, roughly.
"""

from __future__ import annotations

import math

import numpy as np
from flint import acb, arb, ctx
from scipy.stats import norm

BITS, NODES = 200, 250


def contour_delta(noise: float, rate: float, steps: int, epsilon: float, c: float, reach: float) -> float:
    """Return delta by the line Re z = c > 1, |Im z| <= reach."""
    ctx.prec = BITS
    s, q = arb(noise), arb(rate)
    half = int(20 * (13 + 2 * c / noise + 1 / noise))
    scores = [arb(j) / 20 for j in range(-half, half + 1)]
    log_scale = (arb(1) / 20).log() - (2 * arb.pi()).log() / 2

    def loss(u: arb) -> arb:
        return (1 - q + q * (u / s - 1 / (2 * s * s)).exp()).log()

    points = [(log_scale - u * u / 2 + loss(-u), loss(u) - loss(-u)) for u in scores]

    def cgf(z: acb) -> acb:
        return sum((((z * x) + m).exp() for m, x in points), acb(0)).log()

    distance = arb(reach) / NODES
    total = arb(0)
    for k in range(NODES + 1):
        z = acb(arb(c), k * distance)
        term = (steps * cgf(z) - (z - 1) * arb(epsilon)).exp() / (z * (z - 1))
        total += term.real / (2 if k == 0 else 1)
    return float((total * distance / arb.pi()).mid())


def convolution_delta(
    noise: float, rate: float, steps: int, epsilon: float, cells: int = 200_000
) -> tuple[float, float]:
    """Return bounds on delta, but for rounding: every loss rounded down and up to a lattice."""
    scores = np.linspace(-12 - 1 / noise, 12 + 1 / noise, 400_001)

    def loss(u: np.ndarray) -> np.ndarray:
        return np.logaddexp(math.log1p(-rate), math.log(rate) + u / noise - 0.5 / noise**2)

    losses = loss(scores) - loss(-scores)
    step = 2.0 * float(losses[-1]) / cells
    lattice = step * np.arange(-cells // 2, cells // 2 + 1)
    at = np.interp(lattice, losses, scores)
    mass = np.diff((1 - rate) * norm.cdf(at) + rate * norm.cdf(at - 1 / noise))
    size = 4 * cells
    composed = np.fft.irfft(np.fft.rfft(np.roll(np.pad(mass, (0, size - mass.size)), -cells // 2)) ** steps, size)
    total = np.fft.fftfreq(size, 1 / size) * step

    def delta(shift: float) -> float:
        above = total + shift > epsilon
        return float((composed[above] * -np.expm1(epsilon - total[above] - shift)).sum())

    return delta(0.0), delta(step * steps)


def hockey_stick(order: float, noise: float, rate: float, gradient: np.ndarray, other: np.ndarray) -> float:
    """Return the divergence of one step's outputs in the plane, its gradient replaced by another, by a sum."""
    axis = np.arange(-9.0, 9.0, 0.04) * noise
    x, y = np.meshgrid(axis, axis, indexing="ij")

    def density(centre: np.ndarray) -> np.ndarray:
        return np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * noise**2)) / (2 * math.pi * noise**2)

    zero = density(np.zeros(2))
    p, q = ((1 - rate) * zero + rate * density(centre) for centre in (gradient, other))
    return float(np.maximum(p - order * q, 0.0).sum() * (axis[1] - axis[0]) ** 2)
