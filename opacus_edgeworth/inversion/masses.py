r"""One step's law on a grid of losses: one above and one below it in the order that orders delta.

Between neighbouring grid losses e_j, e_{j+1} put s = (x - x_j) / (x_{j+1} - x_j), x = e^L. With N the law of the score
under Q,

    a_j = Int (1 - s) N,    b_j = Int s N,    m_j = Int s (1 - s) N       over the cell,  W_j = x_{j+1} - x_j.

*Above.* nu_j = a_j + b_{j-1} spreads every x to its neighbours and keeps its mean: delta, convex in every x, grows
(connect the dots; Doroshenko et al. 2022, https://arxiv.org/abs/2207.04380).

*Below.* Gathering the b-part of cell j-1 and the a-part of cell j at x_j raises the first by W_{j-1} m_{j-1} in total
and lowers the second by W_j m_j. Where the two balance this only contracts, and delta shrinks. In the remove direction
delta rises with x, so lowering is free: where the rise is larger, only the balanced share of the b-part is gathered,
the rest goes down to x_{j-1}. In the add direction delta falls with x, and the roles are exchanged. Near the least
loss log(1 - q), where one cell may hold almost everything, `gathering.gather_head` balances every group exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.gathering import gather_head
from opacus_edgeworth.inversion.grid import LARGEST_SCORE, LOG_SQRT_2PI
from opacus_edgeworth.mechanisms import ULP, loss_slope, privacy_loss, privacy_loss_error

POINTS = 12
WIDEST = 0.125
"""Cells wider than this in the score are integrated in pieces."""
MAX_LOSSES = 1 << 22


@dataclass(frozen=True, slots=True)
class StepLaw:
    """A law on losses offset + j * spacing, under Q, that bounds one step's delta from one side in compositions.

    Args:
      offset: the first grid loss, nats.
      mass: (J,), >= 0.
      outside: what to add to delta per step for the scores beyond the grid (0 for a law below).
      mass_error: relative error of every mass, quadrature and rounding.
      loss_error: absolute error of every grid loss.
    """

    offset: float
    mass: FloatArray
    outside: float
    mass_error: float
    loss_error: float


@dataclass(frozen=True, slots=True)
class _Grid:
    """Grid losses and the scores where they are taken; `anchored`: the first loss is log(1 - q), its score -inf."""

    losses: FloatArray
    scores: FloatArray
    anchored: bool
    loss_error: float


def law_above(s: float, q: float, spacing: float, log_outside: float, direction: Direction) -> StepLaw:
    """Return the law that spreads; s, q: noise multiplier > 0 and sample rate in (0, 1].

    `spacing` is the distance of grid losses, `log_outside` the log of the probability that may be left outside.
    """
    start, end, anchored = _ends(s, q, spacing, log_outside)
    grid = _grid(s, q, spacing, start, end, anchored)
    if grid.scores[-1] > LARGEST_SCORE:  # masses would underflow to 0, which is no upper bound
        raise OutOfReachError(f"scores up to {grid.scores[-1]:g}")
    a, b, _, error = _cells(grid.scores, s)
    if anchored:
        first_a, first_b = _first_cell(grid.scores[0], s)
        a, b = np.insert(a, 0, first_a), np.insert(b, 0, first_b)
    mass = np.append(a, 0.0) + np.insert(b, 0, 0.0)
    left = 0.0 if anchored else float(np.exp(log_ndtr(grid.scores[0])))
    right, right_p = (float(np.exp(log_ndtr(shift - grid.scores[-1]))) for shift in (0.0, 1.0 / s))
    if direction == "remove":  # a low score counts as the lowest grid loss; a high one as an infinite loss
        mass[0] += left
        outside = (1.0 - q) * right + q * right_p
    else:  # there delta falls with the loss: a high score counts as the highest grid loss, a low one fully
        mass[-1] += right
        outside = left
    return StepLaw(
        float(grid.losses[0]), mass, outside * (1.0 + 1e-9) + 1e-290, _mass_error(error, grid.scores), grid.loss_error
    )


def law_below(s: float, q: float, spacing: float, log_outside: float, direction: Direction) -> StepLaw:
    """Return the law that gathers; arguments as in `law_above`."""
    start, end, anchored = _ends(s, q, spacing, log_outside)
    head = gather_head(s, q, spacing, direction) if anchored else None
    grid = _grid(s, q, spacing, head.start if head else start, end, anchored=False)
    if head:  # from its last node on the head leaves a part of one cell, and whole cells
        first = head.mass.size - 1
        scores = grid.scores[first:]
        if scores.size < 3:
            return StepLaw(float(grid.losses[0]), head.mass, 0.0, _mass_error(0.0, grid.scores), grid.loss_error)
        a, b, m, error = _cells(np.insert(scores[1:], 0, head.upto), s, first_left=scores[0])
    else:
        first, (a, b, m, error) = 0, _cells(grid.scores, s)
    losses = grid.losses[first:]
    rise = np.exp(losses[:-1] - losses[-1]) * m  # W_j m_j, up to a factor
    mass_error = _mass_error(error, grid.scores)
    tail = _gather_tail(a, b, rise, direction, 4.0 * mass_error)
    mass = tail if head is None else np.append(head.mass[:-1], tail)
    if head:
        mass[first] += head.mass[-1]
    return StepLaw(float(grid.losses[0]), mass, 0.0, mass_error, grid.loss_error)


def _ends(s: float, q: float, spacing: float, log_outside: float) -> tuple[float, float, bool]:
    """Return the least and largest loss of interest, above log(1 - q) where q < 1, and whether the least is 0 there."""
    margin = math.sqrt(-2.0 * log_outside)
    floor = math.log1p(-q) if q < 1.0 else 0.0
    low, high = privacy_loss(np.array([-margin, margin + 1.0 / s]), np.array(s), np.array(q)) - floor
    anchored = bool(q < 1.0 and low < spacing)
    return (0.0 if anchored else float(low)), float(high), anchored


def _grid(s: float, q: float, spacing: float, start: float, end: float, anchored: bool) -> _Grid:
    """Return the grid of losses from `start` to beyond `end`, both above log(1 - q) where q < 1."""
    count = math.ceil((end - start) / spacing) + 2
    if count > MAX_LOSSES:
        raise OutOfReachError(f"{count} grid losses")
    above = start + spacing * np.arange(count)
    floor = math.log1p(-q) if q < 1.0 else 0.0
    losses = floor + above
    scores = _score_at(above[1:] if anchored else above, s, q)
    return _Grid(losses, scores, anchored, _grid_loss_error(scores, losses[1:] if anchored else losses, s, q))


def _mass_error(quadrature: float, scores: FloatArray) -> float:
    """Return the relative error of masses: quadrature, and rounding of the normal density."""
    largest = max(abs(float(scores[0])), abs(float(scores[-1])))
    return quadrature + ULP * (60.0 + 2.0 * largest * largest)


def _score_at(above: FloatArray, s: float, q: float) -> FloatArray:
    """Return the score at which the loss exceeds log(1 - q) by the given amounts: q e^w = (1 - q) (e^g - 1)."""
    w = above
    if q < 1.0:
        w = above + np.log(-np.expm1(-above)) + (math.log1p(-q) - math.log(q))
    return s * w + 0.5 / s


def _grid_loss_error(scores: FloatArray, losses: FloatArray, s: float, q: float) -> float:
    """Bound how far the losses at the rounded scores lie from the grid."""
    actual = privacy_loss(scores, np.array(s), np.array(q))
    slope = loss_slope(actual, scores, np.array(s), np.array(q))
    error = privacy_loss_error(actual, slope, scores, np.array(s))
    return float(np.max(np.abs(actual - losses) + error + 4.0 * ULP * np.abs(losses)))


def _gather_tail(a: FloatArray, b: FloatArray, rise: FloatArray, direction: Direction, slack: float) -> FloatArray:
    """Return the masses gathered at the ends of the cells; `rise` is W_j m_j up to a common factor.

    Where a head goes before, the first cell is partial: all of it counts as b-part, `a` is 0 there.
    """
    tiny = np.finfo(float).tiny
    mass = np.append(a, 0.0) + np.insert(b, 0, 0.0)
    if direction == "remove":
        # share of b_j gathered at j + 1; above the last cell there is nothing to balance it
        share = np.append(np.minimum(1.0, rise[1:] / np.maximum(rise[:-1], tiny)), 0.0) * (1.0 - slack)
        moved = (1.0 - share) * b
        mass[1:] -= moved
        mass[:-1] += moved
    else:
        # share of a_j gathered at j; below the first cell there is nothing to balance it
        share = np.insert(np.minimum(1.0, rise[:-1] / np.maximum(rise[1:], tiny)), 0, 0.0) * (1.0 - slack)
        moved = (1.0 - share) * a
        mass[:-1] -= moved
        mass[1:] += moved
    return np.maximum(mass, 0.0)


def _first_cell(score: float, s: float) -> tuple[float, float]:
    """Return a, b of the cell below `score` in closed form: there s = e^{w - w_1}."""
    w = score / s - 0.5 / s**2
    whole = math.exp(float(log_ndtr(score)))
    b = math.exp(float(log_ndtr(score - 1.0 / s)) - w)
    return max(whole - b, 0.0), b


def _cells(
    scores: FloatArray, s: float, first_left: float | None = None
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Return a, b, m of the cells between scores, and the relative error of their quadrature.

    With `first_left`, the first cell is only the upper part of the cell from that score on, and all of it is b-part:
    a = 0, b = its mass, and m = Int (1 - s) N, so that W m is what gathering it at the cell's end raises it by.
    """
    width = np.diff(scores)
    a, b, m = np.zeros_like(width), np.zeros_like(width), np.zeros_like(width)
    pieces = np.maximum(np.ceil(width / WIDEST), 1.0).astype(int)
    for number in np.unique(pieces):
        cells = np.flatnonzero(pieces == number)
        for piece in range(number):
            for total, part in zip((a, b, m), _gauss(scores[cells], width[cells], s, piece, number), strict=True):
                total[cells] += part
    if first_left is not None:
        # on the part, 1 - s of the whole cell is (1 - s of the part) times the ratio of the two widths in x
        ratio = math.expm1((scores[0] - scores[1]) / s) / math.expm1((first_left - scores[1]) / s)
        m[0] = a[0] * ratio
        a[0], b[0] = 0.0, a[0] + b[0]
    return a, b, m, _gauss_error(scores, np.minimum(width, WIDEST), s)


def _gauss(
    low: FloatArray, width: FloatArray, s: float, piece: int, pieces: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return one piece's part of a, b, m by Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    a, b, m = np.zeros_like(low), np.zeros_like(low), np.zeros_like(low)
    whole = np.maximum(width / s, 1e-300)  # a head may leave an empty part
    for node, weight in zip((piece + 0.5 + 0.5 * nodes) / pieces, 0.5 / pieces * weights, strict=True):
        score = low + node * width
        mass = weight * width * np.exp(-0.5 * score * score - LOG_SQRT_2PI)
        up = np.expm1(node * whole) / np.expm1(whole)
        down = np.expm1((node - 1.0) * whole) / np.expm1(-whole)
        a += mass * down
        b += mass * up
        m += mass * up * down
    return a, b, m


def _gauss_error(scores: FloatArray, width: FloatArray, s: float) -> float:
    r"""Bound the relative error of `_gauss` on a, b and m.

    For f analytic in the Bernstein ellipse with parameter r, |f| <= M there, n + 1 points err by at most
    (64/15) M r^{-2n} / (1 - r^{-2}) on [-1, 1] (Trefethen 2008, Theorem 4.5, https://doi.org/10.1137/060659831). On
    the ellipse over a piece of width d the score stays within d (1 + (r + 1/r) / 4) of the piece's points and has
    imaginary part at most d r / 4, so N grows by at most e^{U D + D^2}, D = d (1 + r / 2), U the largest |score|; each
    fraction grows by at most e^{2 D / s} (1 + D / d) / share, where share > 0.02 is the least part of its own
    integral that a piece's minimum of N leaves (its mean over a piece, of at most twelve).
    """
    largest = np.maximum(np.abs(scores[1:]), np.abs(scores[:-1]))
    best = np.full(width.shape, math.inf)
    for ratio in (6.0, 12.0, 25.0, 60.0, 200.0, 1000.0):
        reach = width * (1.0 + 0.5 * ratio)
        log_growth = largest * reach + reach**2 + 4.0 * reach / s + 2.0 * math.log(2.0 + 0.5 * ratio)
        log_error = math.log(64.0 / 15.0 / 2e-4) - 2.0 * (POINTS - 1) * math.log(ratio) + log_growth
        best = np.minimum(best, log_error)
    worst = float(np.max(best, initial=-math.inf))
    if worst > -12.0:
        raise OutOfReachError(f"cells of the loss grid are too wide for their quadrature (log error {worst:.1f})")
    return math.exp(worst)
