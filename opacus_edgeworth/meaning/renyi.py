r"""Renyi divergences and zero-concentrated privacy, proved from the cumulant generating functions that the engines use.

D_a(A || B) = G(a) / (a - 1), G(a) = sum n log E_B[e^{aL}] over the steps (Mironov 2017,
https://arxiv.org/abs/1702.07476); rho-zCDP means D_a <= rho a for all a > 1 (Bun & Steinke 2016,
https://arxiv.org/abs/1605.02065).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy.special import log_ndtr

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.grid import make_grid
from opacus_edgeworth.inversion.law import NEARER, Law, exact, law_for_tilt, softness
from opacus_edgeworth.inversion.quadrature import tilted_steps
from opacus_edgeworth.inversion.saddle import LOG_CUT, SOFT_SHARE
from opacus_edgeworth.mechanisms import ULP, ReplacedSubsampledGaussian, privacy_loss
from opacus_edgeworth.mixed.engines import Others
from opacus_edgeworth.mixed.side import Side, is_symmetric, make_side

FAR = 16.0
"""How far beyond the tilted law's mode its barrier is set, in u."""
FARTHEST, MOST_POINTS = 1000.0, 3e6
"""Barriers that a grid can be made for, and scores that are looked at before."""
LOUD = 40.0
"""From this log(q) + (a - 1) / (2 s^2) on D_a of a sampled step is a closed form, up to a / (a - 1) e^-LOUD."""
LARGEST = 1e308
"""For what is finite, but no double."""
MAX_CELLS = 400
FAR_ORDER, FAR_REPLACED = 16, 7
"""The largest order that is looked at is 1 + 10^(k/4); grids for a replaced example grow with it."""
RHO_TOL = 1e-7
"""Relative width at which the search for rho ends."""


def renyi_divergence(steps: Composition, others: Others, order: float, direction: Direction) -> Bounds:
    """Return bounds on the Renyi divergence of an order > 1, in nats, of one direction.

    Raises:
      OutOfReachError: the order is so large that its grid would be, too.
    """
    if steps.log_hidden < 0.0 or make_side(steps, others, direction).revealed().lower > 0.0:
        return Bounds(math.inf if direction == "remove" or steps.log_hidden == 0.0 else 0.0, math.inf)
    gaussian, room = 0.5 * steps.gaussian * order, steps.gaussian_error + 4.0 * ULP
    terms = [(gaussian * (1.0 - room), gaussian * (1.0 + room))]
    if others:
        found = _other_log_mgfs(steps, others, order, direction)
        low, high = (math.fsum(value + sign * error for value, error in found) for sign in (-1.0, 1.0))
        largest = _without_gaussian(steps, others, direction).largest_loss().upper  # D_a is at most that
        terms.append((max(low, 0.0) / (order - 1.0), min(max(high, 0.0) / (order - 1.0), largest)))
    if steps.phases:
        least, most = _sampled(steps, order, direction)
        terms.append((float(steps.steps @ least), float(steps.steps @ most)))
    room = 2.0 * ULP * (steps.phases + 8)
    lower, upper = (
        math.fsum(term[end] for term in terms) * factor for end, factor in enumerate((1.0 - room, 1.0 + room))
    )
    return Bounds(min(lower, LARGEST), upper)


def _sampled(steps: Composition, order: float, direction: Direction) -> tuple[FloatArray, FloatArray]:
    """Return bounds on D_a of one step of every phase, (P,) each."""
    s, q = steps.noise_multiplier, steps.sample_rate
    with np.errstate(over="ignore"):
        exponent = (order - 1.0) * (0.5 / s / s)
    loud = (exponent + np.log(q) > LOUD) & (direction == "remove")
    # in the norm of order a the likelihood ratio 1 - q + q e^w is at least q |e^w|, at most 1 - q more
    share = order / (order - 1.0)
    first, second, room = share * np.log(q), share * exponent, 16.0 * ULP
    least = first * (1.0 + room) + second * (1.0 - room)
    most = first * (1.0 - room) + second * (1.0 + room) + share * math.exp(-LOUD)
    rest = np.flatnonzero(~loud)
    if rest.size:
        low, high = _log_mgf(steps.select(rest), order, direction)
        least[rest], most[rest] = np.maximum(low, 0.0) / (order - 1.0), np.maximum(high, 0.0) / (order - 1.0)
    return np.minimum(least, LARGEST / steps.steps.sum()), most


def zcdp_rho(steps: Composition, others: Others) -> Bounds:
    """Return bounds on the least rho, over both directions, infinite if anything is seen for certain.

    The Gaussian steps have exactly sum n / (2 s^2), sampled or not: D_a <= a / (2 s^2) for one of them by
    post-processing, and as a grows a / (2 s^2) + log(q) a / (a - 1) is a lower bound (one term of the mixture). The
    least rho of all steps lies between that of the Gaussian ones, or of D_a / a at any a, and the sum of both kinds'.
    Where an example is replaced, sampled steps have at least as much: N(-1) is below N(0) where outputs are positive.
    """
    if steps.log_hidden < 0.0:
        return Bounds(math.inf, math.inf)
    with np.errstate(over="ignore"):
        exact_rho = 0.5 * (
            steps.gaussian + float(steps.steps @ (1.0 / steps.noise_multiplier / steps.noise_multiplier))
        )
    room = steps.gaussian_error + ULP * (steps.phases + 8)
    found = Bounds(min(exact_rho * (1.0 - room), LARGEST), exact_rho * (1.0 + room))
    if not others:
        return found
    replaced = math.fsum(0.5 * n / step.noise_multiplier**2 for step, n in _replaced(others))
    most, least = 0.0, found.lower + replaced * (1.0 - 16.0 * ULP)
    directions: tuple[Direction, ...] = ("remove",) if is_symmetric(steps, others) else ("remove", "add")
    for direction in directions:
        side = make_side(steps, others, direction)
        if side.revealed().lower > 0.0:
            return Bounds(math.inf, math.inf)
        rho, order = _largest_ratio(steps, others, direction)
        most = max(most, rho)
        with suppress(OutOfReachError):  # what is known must do
            least = max(least, renyi_divergence(steps, others, order, direction).lower / order)
    return Bounds(least, max(found.upper + most, least))


def _largest_ratio(steps: Composition, others: Others, direction: Direction) -> tuple[float, float]:
    """Return an upper bound on the largest D_a / a of the steps that are not Gaussian, and about where it is.

    G is convex and G(1) = 0, so between two orders it is at most its chord; D_a is at most the largest loss.
    """

    def log_mgf(order: float) -> Bounds:
        terms = _other_log_mgfs(steps, others, order, direction)
        return Bounds(*(math.fsum(v + sign * e for v, e in terms) for sign in (-1.0, 1.0)))

    far = FAR_REPLACED if _replaced(others) else FAR_ORDER
    orders, value = [1.0], {1.0: Bounds(0.0, 0.0)}
    with suppress(OutOfReachError):  # the orders before it must do
        for k in range(-28, far + 1):
            order = 1.0 + 10.0 ** (0.25 * k)
            value[order] = log_mgf(order)
            orders.append(order)
    beyond = _ratio_beyond(steps, others, orders[-1], direction)
    best, upper = 2.0, math.inf
    if len(orders) == 1:  # not even the first was in reach
        return beyond, best
    for _ in range(MAX_CELLS):
        best = max(orders[1:], key=lambda a: value[a].lower / (a * (a - 1.0)))
        lower = value[best].lower / (best * (best - 1.0))
        upper, index = max(
            (_chord_ratio(low, value[low].upper, high, value[high].upper), i)
            for i, (low, high) in enumerate(pairwise(orders))
        )
        middle = 1.0 + math.sqrt((orders[index] - 1.0) * (orders[index + 1] - 1.0)) if index else 1.0
        if upper <= max(lower * (1.0 + RHO_TOL), beyond) or not orders[index] < middle < orders[index + 1]:
            break
        orders.insert(index + 1, middle)
        value[middle] = log_mgf(middle)
    return max(upper, beyond), best


def _replaced(others: Others) -> list[tuple[ReplacedSubsampledGaussian, int]]:
    """Return the sampled steps with an example replaced."""
    return [(step, n) for step, n in others if isinstance(step, ReplacedSubsampledGaussian)]


def _ratio_beyond(steps: Composition, others: Others, order: float, direction: Direction) -> float:
    """Return an upper bound on D_a / a of the steps that are not Gaussian, for every a from an order on.

    Where an example is replaced, a sampled step's Q is at least (1 - q) N(0, s^2), so that D_a is at most that of P
    from N(0, s^2), at most a / (2 s^2), less log(1 - q); and at most that of N(1, s^2) from N(-1, s^2), 2 a / s^2.
    """
    rest = tuple((step, n) for step, n in others if not isinstance(step, ReplacedSubsampledGaussian))
    terms = [
        n * min(0.5 * unit - math.log1p(-step.sample_rate) / order, 2.0 * unit) * (1.0 + 16.0 * ULP)
        for step, n in _replaced(others)
        for unit in (1.0 / step.noise_multiplier**2,)
    ]
    largest = _without_gaussian(steps, rest, direction).largest_loss().upper
    return (math.fsum(terms) + largest / order) * (1.0 + 4.0 * ULP)


def _chord_ratio(low: float, at_low: float, high: float, at_high: float) -> float:
    """Return the largest (A + B a) / (a (a - 1)) between two orders, of the chord A + B a, rounded up."""
    slope = (at_high - at_low) / (high - low)
    if low == 1.0:
        return slope * (1.0 + 1e-12)
    offset = at_low - slope * low
    candidates = [low, high]
    root = offset * offset + offset * slope
    if slope != 0.0 and root >= 0.0:
        candidates += [a for a in ((-offset + sign * math.sqrt(root)) / slope for sign in (-1, 1)) if low < a < high]
    return max((at_low + slope * (a - low)) / (a * (a - 1.0)) for a in candidates) * (1.0 + 1e-12)


def _other_log_mgfs(
    steps: Composition, others: Others, order: float, direction: Direction
) -> list[tuple[float, float]]:
    """Return log E_B[e^{aL}] of the steps that are not Gaussian, by kinds, and bounds on the errors."""
    parts = _without_gaussian(steps, others, direction).parts(LOG_CUT).parts
    return [(tilted.log_peak, tilted.log_peak_error) for tilted in (part.at(order, 0.0) for part in parts)]


def _without_gaussian(steps: Composition, others: Others, direction: Direction) -> Side:
    """Return the steps that are not Gaussian."""
    return make_side(replace(steps.select(np.zeros(0, dtype=np.intp)), gaussian=0.0), others, direction)


def _log_mgf(steps: Composition, order: float, direction: Direction) -> tuple[FloatArray, FloatArray]:
    """Return bounds on log E_B[e^{aL}] of every phase, (P,) each."""
    tilt = order if direction == "remove" else 1.0 - order
    soft = softness(steps, SOFT_SHARE)
    s = steps.noise_multiplier[:, None]
    barrier = exact((tilt / s if tilt > 0.0 else np.minimum(1.0 / s, 0.5 * FARTHEST)) + FAR)
    if not (barrier.max() < FARTHEST and barrier.max() / soft.min() * steps.phases < MOST_POINTS):
        raise OutOfReachError(f"scores up to {barrier.max():g}")
    law = law_for_tilt(steps, max(tilt, 1.0), soft, barrier)
    grid = make_grid(law, min(tilt, 0.0), max(tilt, 1.0), 0.0)
    tilted = tilted_steps(grid, np.array([tilt]))
    log_mgf, error = tilted.log_mgf[0], tilted.log_mgf_error[0]
    upper = log_mgf + error
    # phi <= what the law has + Phi(-NEARER) phi + what is left out above b
    grown = np.exp(np.minimum(_log_above(law, tilt) - log_mgf + error, 300.0)) + 2.0 * math.exp(log_ndtr(-NEARER))
    return log_mgf - error, upper + grown


def _log_above(law: Law, tilt: float) -> FloatArray:
    """Return a bound on log E_Q[e^{tL}; u > b], b = U - NEARER W, below which 1 - chi is at most Phi(-NEARER); (P,).

    There L(b) <= L(u) <= L(b) + (u - b) / s, because 0 <= dL/du <= 1/s.
    """
    s, q = law.steps.noise_multiplier[:, None], law.steps.sample_rate[:, None]
    b = law.barrier - NEARER * law.soft
    at = tilt * privacy_loss(b, s, q)
    if tilt > 0.0:
        at += 0.5 * (tilt / s) ** 2 - tilt * b / s
    return (at + log_ndtr(max(tilt, 0.0) / s - b) + 1e-6)[:, 0]
