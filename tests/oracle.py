r"""An independent judge: delta of composed Poisson-subsampled Gaussians in ball arithmetic (python-flint).

It shares nothing with the package but the mathematics: another contour (bent towards the right, so that the integrand
falls exponentially), another line in the score (shifted into the complex plane, so that the inner integrand falls
too), another arithmetic (balls of 160 bits, whose radii bound rounding rigorously). What is not rigorous is the
discretisation: both trapezoid rules are refined until two levels agree, and that agreement is returned.

    delta_remove(e) = (1/pi) Int_0^inf Im[ e^{Phi(z) + (1-z) e} / (z (z-1)) (X'(y) + i) ] dy,  z = X(y) + i y,
    X(y) = sqrt(c^2 + 2 A (sqrt(y^2 + y0^2) - y0)),  A = min(0.45 pi s_min^2, 1.4),  y0 = 5 / sd,

and Phi(1 - z) in place of Phi(z) for the add direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from flint import acb, arb, ctx

History = Sequence[tuple[float, float, int]]
BITS = 160
AGREEMENT = 1e-14


def _upper_tail(x: arb) -> arb:
    """Return the probability that a standard normal exceeds x, at the precision set."""
    return (x / arb(2).sqrt()).erfc() / 2


def gaussian_delta(epsilon: float, noise_multiplier: float, steps: int) -> arb:
    """Return delta of unsampled Gaussian steps, in closed form (Balle & Wang 2018, Theorem 8)."""
    ctx.prec = BITS
    mu = arb(steps).sqrt() / arb(noise_multiplier)
    e = arb(epsilon)
    return _upper_tail(e / mu - mu / 2) - e.exp() * _upper_tail(e / mu + mu / 2)


def single_step_delta(epsilon: float, noise_multiplier: float, sample_rate: float, direction: str) -> arb:
    """Return delta of one subsampled step: the loss exceeds epsilon on a half-line."""
    ctx.prec = 4 * BITS
    s, q, e = arb(noise_multiplier), arb(sample_rate), arb(epsilon)
    if direction == "remove":
        t = s * (((e.exp() - 1 + q) / q).log()) + 1 / (2 * s)
        p, other = (1 - q) * _upper_tail(t) + q * _upper_tail(t - 1 / s), _upper_tail(t)
        return p - e.exp() * other
    inside = ((-e).exp() - 1 + q) / q
    if not inside > 0:
        return arb(0)
    t = s * inside.log() + 1 / (2 * s)
    return _upper_tail(-t) - e.exp() * ((1 - q) * _upper_tail(-t) + q * _upper_tail(1 / s - t))


def delta(history: History, epsilon: float, direction: str) -> tuple[arb, float]:
    """Return delta as a ball, and the relative difference of the last two levels of refinement.

    Raises:
      ArithmeticError: two levels did not agree to AGREEMENT.
    """
    if direction == "add" and all(q < 1 for _, q, _ in history):
        limit = -math.fsum(n * math.log1p(-q) for _, q, n in history)
        if epsilon >= limit * (1 + 1e-12):
            return arb(0), 0.0
    c, sd = _saddle(history, epsilon, direction)
    previous, difference = None, math.inf
    for level in range(6):
        value = _integral(history, epsilon, direction, c, sd, 2.0**-level)
        if previous is not None:
            difference = abs(float(value.mid()) / float(previous.mid()) - 1)
            if difference < AGREEMENT:
                return value, difference
        previous = value
    raise ArithmeticError(f"{history}, {epsilon}, {direction}: levels agree to {difference:g} only")


def _integral(history: History, epsilon: float, direction: str, c: float, sd: float, fineness: float) -> arb:
    """Return the trapezoid rule in t, y = t sqrt(1 + t^2/100) / sd."""
    ctx.prec = BITS
    bend = min(0.45 * math.pi * min(s for s, _, _ in history) ** 2, 1.4)
    start = 5.0 / sd
    step = 0.25 * fineness
    farthest = math.sqrt(c * c + 2 * bend * 400 / sd)
    tables = [_table(s, q, direction, farthest, fineness) for s, q, _ in history]
    total, largest = arb(0), 0.0
    for k in range(100_000):
        t = arb(step) * k
        root = (1 + t * t / 100).sqrt()
        y = t * root / arb(sd)
        slope_y = (root + t * t / (100 * root)) / arb(sd)
        hyp = (y * y + arb(start) ** 2).sqrt()
        x = (arb(c) ** 2 + 2 * arb(bend) * (hyp - arb(start))).sqrt()
        slope_x = arb(bend) * y / (hyp * x)
        z = acb(x, y)
        at = z if direction == "remove" else 1 - z
        exponent = (1 - z) * arb(epsilon)
        for (s, q, n), table in zip(history, tables, strict=True):
            exponent += n * (at * (at - 1) / (2 * arb(s) ** 2) if q == 1 else _phi(table, at).log())
        value = (exponent.exp() / (z * (z - 1)) * acb(slope_x, 1)).imag * slope_y
        total += value / 2 if k == 0 else value
        size = abs(float(value.mid()))
        largest = max(largest, size)
        if size < 1e-20 * largest and float(t) > 6:
            break
    return total * arb(step) / arb.pi()


def _table(s: float, q: float, direction: str, farthest: float, fineness: float) -> list[tuple[acb, acb]] | None:
    """Return (log of density times step, loss) on the shifted line of scores."""
    if q == 1:
        return None
    sign = 1 if direction == "remove" else -1
    shift = min(0.8 * math.pi * s, 5.0)
    step = 0.25 * min(1.0, s) * fineness
    low, high = -14.0, 14.0
    if direction == "remove":
        high += farthest / s
    else:
        low -= farthest / s
    sigma, rate = arb(s), arb(q)
    table = []
    for j in range(math.floor(low / step), math.ceil(high / step) + 1):
        u = acb(arb(step) * j, sign * arb(shift))
        w = u / sigma - 1 / (2 * sigma * sigma)
        loss = (1 - rate + rate * w.exp()).log()
        table.append((-u * u / 2 + (arb(step) / (2 * arb.pi()).sqrt()).log(), loss))
    return table


def _phi(table: list[tuple[acb, acb]] | None, z: acb) -> acb:
    """Return E_Q[e^{zL}]."""
    assert table is not None
    total = acb(0)
    for log_density, loss in table:
        total += (log_density + z * loss).exp()
    return total


def _saddle(history: History, epsilon: float, direction: str) -> tuple[float, float]:
    """Return about the minimiser of G(c) + (1 - c) epsilon - log c (c - 1) over c > 1, and the width there (floats)."""

    def log_cgf(c: float) -> float:
        t = c if direction == "remove" else 1 - c
        value = 0.0
        for s, q, n in history:
            if q == 1:
                value += n * t * (t - 1) / (2 * s * s)
                continue
            step = 0.2 * min(1.0, s)
            low, high = (-9.0, 9.0 + max(t, 0) / s) if t > 0 else (-9.0 + t / s, 9.0)
            u = np.arange(low, high, step)
            w = u / s - 0.5 / s**2
            loss = np.logaddexp(np.log1p(-q), np.log(q) + w)
            growth = np.expm1(t * loss) - t * np.expm1(loss) if np.max(np.abs(t * loss)) < 300 else None
            if growth is not None:
                value += n * math.log1p(float(np.sum(growth * np.exp(-u * u / 2)) * step / math.sqrt(2 * math.pi)))
            else:
                e = t * loss - u * u / 2
                value += n * (e.max() + math.log(float(np.exp(e - e.max()).sum()) * step / math.sqrt(2 * math.pi)))
        return value

    def objective(log_gap: float) -> float:
        d = math.exp(log_gap)
        return log_cgf(1 + d) - d * epsilon - math.log(d * (1 + d))

    grid = np.linspace(-12, 7, 77)
    values = [objective(x) for x in grid]
    best = int(np.argmin(values))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
    for _ in range(40):
        a, b = low + (high - low) * 0.382, low + (high - low) * 0.618
        low, high = (low, b) if objective(a) < objective(b) else (a, high)
    d = math.exp(0.5 * (low + high))
    width = 0.02 * d
    c = 1 + d
    curvature = (log_cgf(c + width) - 2 * log_cgf(c) + log_cgf(c - width)) / width**2
    return c, math.sqrt(max(curvature, 0.0) + 1 / c**2 + 1 / d**2)
