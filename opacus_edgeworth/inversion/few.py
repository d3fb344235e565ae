r"""A few steps: all but the loudest become lists of atoms, the loudest stays as it is.

With few steps that hardly ever sample anyone, the loss has nearly all its mass next to its least value: no
characteristic function decays there. But few steps need none. Cut the line of a step's score into cells. To see the
cell alone is post-processing, so that

    A = sum_j a_j delta'(epsilon - l_j) <= delta(epsilon),     a_j = P(cell j),  l_j = log P(cell j) / Q(cell j),

delta' being that of the other steps. And h(y) = y delta'(epsilon - log y) is convex, so that a cell's share of delta is
at most that of two atoms at the likelihood ratios of its ends, with its masses under P and under Q (Doroshenko et al.
2022, https://arxiv.org/abs/2207.04380: "connect the dots"). A list of atoms is a step again, whose sum with a further
step's list is put into cells in the same way. What rounds: masses, likelihood ratios, sums; lists carry it in the
direction of their bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import erfcx, ndtr

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.grid import LOG_SQRT_2PI
from opacus_edgeworth.mechanisms import ULP

FEW = 6
"""Steps that are composed so, at most."""
LEAST_NOISE, LEAST_RATE = 0.1, 1e-30
"""With less noise likelihood ratios are no doubles, and sampling alone decides; with less of it nothing is revealed."""
CELLS_OF_TWO, CELLS = 24_000, 1200
"""Of the only step that is cut, or of each if there are more."""
BELOW, BEYOND = 9.0, 12.0
"""How far cells reach below the mean without the example, and beyond the mean with it."""
LEAST_MASS = 1e-280
"""Of a cell under Q; less may be nothing at all, and the likelihood ratio anything."""
UNDERFLOW = 1e-290
"""More than what products that are no doubles add up to."""
LARGEST = 600.0
"""An epsilon whose exponential is a double."""


class Atoms(NamedTuple):
    """Losses (J,), their probabilities with the example (J,), and that of an infinite loss."""

    loss: FloatArray
    mass: FloatArray
    certain: float


class Few:
    """Bounds on the remove direction's delta of a few subsampled steps, at any epsilon."""

    __slots__ = ("_at_least", "_at_most", "_noise", "_rate")

    def __init__(self, steps: Sequence[tuple[float, float]]) -> None:
        """Compose at least two steps (noise multiplier, sample rate in (0, 1))."""
        *quiet, (self._noise, self._rate) = sorted(steps, key=lambda step: step[1] ** 2 * _growth(step[0] ** -2.0))
        cells = CELLS_OF_TWO if len(quiet) == 1 else CELLS
        (self._at_least, self._at_most), *others = (_atoms(s, q, cells) for s, q in quiet)
        for low, high in others:
            self._at_least = _collapsed(*_sums(self._at_least, low, up=False))
            self._at_most = _spread(*_sums(self._at_most, high, up=True))

    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on delta at epsilon, which may be negative."""
        ends: list[float] = []
        for atoms, up in ((self._at_least, False), (self._at_most, True)):
            moved = 4.0 * ULP * (abs(epsilon) + np.abs(atoms.loss))
            at = epsilon - atoms.loss + (-moved if up else moved)
            known = step_delta(self._noise, self._rate, at)[1 if up else 0]
            room = ULP * (atoms.loss.size + 8) * (1.0 if up else -1.0)
            ends.append(float(atoms.mass @ known) * (1.0 + room) + atoms.certain)
        return Bounds(max(ends[0], 0.0), min(ends[1] + UNDERFLOW, 1.0))


def few_of(steps: Composition) -> Few | None:
    """Return the composition of a few steps; None if there are more, or some that are not subsampled."""
    if steps.gaussian > 0.0 or steps.log_hidden < 0.0 or not 2.0 <= steps.steps.sum() <= FEW:
        return None
    if steps.noise_multiplier.min() < LEAST_NOISE or steps.sample_rate.min() < LEAST_RATE:
        return None
    phases = zip(steps.noise_multiplier.tolist(), steps.sample_rate.tolist(), steps.steps.tolist(), strict=True)
    return _few_of(tuple((s, q) for s, q, n in phases for _ in range(int(n))))


@lru_cache(maxsize=8)
def _few_of(steps: tuple[tuple[float, float], ...]) -> Few:
    """Return what is asked for again and again, in both directions."""
    return Few(steps)


def _growth(exponent: float) -> float:
    """Return e^exponent - 1, or about the largest double."""
    return math.expm1(min(exponent, LARGEST))


def step_delta(s: float, q: float, epsilon: FloatArray) -> tuple[FloatArray, FloatArray]:
    r"""Return bounds (J,) on the remove direction's delta of one step at epsilons (J,), which may be negative.

    With e^w = (e^epsilon - 1 + q) / q, a = s w - 1/(2s) and b = a + 1/s it is q N(a) (m(a) - m(b)), m being Mills'
    ratio, and at most log(1 - q) it is 1 - e^epsilon. As a function of w it falls by q N(a) m(b). It is at least
    1 - e^epsilon, and at most q where that is not all.
    """
    at = np.minimum(epsilon, LARGEST)
    growth = np.expm1(at)
    more, error = growth + q, 2.0 * ULP * (np.abs(growth) + q)  # q e^w
    near = more <= 1e3 * error  # next to log(1 - q), or below it
    w = np.log(np.where(near, q, more) / q)
    a = s * w - 0.5 / s
    b = a + 1.0 / s
    off = 8.0 * ULP * (np.abs(w) + (np.abs(a) + 1.0 / s) / s + 1.0) + error / np.where(near, 1.0, more)
    value, room = _by_mills(np.maximum(a, -8.0), np.maximum(a, -8.0) + 1.0 / s, off)
    value, room = q * value, q * room
    left = a < -8.0
    value = np.where(left, q * ndtr(-a) - more * ndtr(-b), value)
    room = np.where(left, 32.0 * ULP * (q + np.abs(more)) + 2.0 * np.abs(more) * off, room)
    least = np.maximum(-growth, 0.0) * (1.0 - 4.0 * ULP)
    lower = np.where(near | (epsilon > LARGEST), least, np.maximum(value - room, least))
    upper = np.where(near, np.maximum(-growth, q) * (1.0 + 4.0 * ULP) + error, value + room + 1e-300)
    return np.maximum(lower - 5e-324, 0.0), np.minimum(np.maximum(upper, lower), 1.0)


def _by_mills(a: FloatArray, b: FloatArray, off: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return N(a) (m(a) - m(b)) and its error, a and b being moved by as much as w by `off`; a >= -8."""
    mills_a, mills_b = (math.sqrt(0.5 * math.pi) * erfcx(t / math.sqrt(2.0)) for t in (a, b))
    with np.errstate(under="ignore"):
        density = np.exp(-0.5 * a * a - LOG_SQRT_2PI)
    room = 2.0 * mills_b * off + 16.0 * ULP * (mills_a + mills_b) + 4.0 * ULP * np.abs(b) * (1.0 + np.abs(b) * mills_b)
    room += (mills_a - mills_b) * 4.0 * ULP * (4.0 + a * a)
    return density * (mills_a - mills_b), density * room


def _atoms(s: float, q: float, cells: int) -> tuple[Atoms, Atoms]:
    """Return atoms of one step that bound it from below and from above.

    The edges are those at which Q's computed tail probabilities are exact. That moves them by as much as those are off,
    and the masses of N(1/s, 1) accordingly.
    """
    edges = np.linspace(-BELOW, 1.0 / s + BEYOND, cells)
    u, share = edges / s - 0.5 / s**2, 20.0 + 4.0 * edges**2
    without, rounded = _masses(edges)
    with_it, error = _masses(edges - 1.0 / s)
    off = (20.0 + 4.0 * (edges - 1.0 / s) ** 2) * _tails(edges - 1.0 / s) + share * _tails(edges) * np.exp(u)
    off = ULP * (off + (np.abs(edges) + 1.0 / s) * np.exp(-0.5 * (edges - 1.0 / s) ** 2))  # 1/s is rounded, too
    error = error + np.append(off, 0.0) + np.append(0.0, off)
    seen = without > LEAST_MASS
    base, cut = without[seen], rounded[seen]
    ratio, off = with_it[seen] / base, (error[seen] + with_it[seen] * (4.0 * ULP + cut / base)) / base
    low, high = _loss(q, ratio - off)[0], _loss(q, ratio + off)[1]
    mass, room = (1.0 - q) * without + q * with_it, q * error + rounded + 8.0 * ULP * with_it
    at_least = Atoms(low, np.maximum((mass - room)[seen], 0.0) * (1.0 - 8.0 * ULP), 0.0)
    mass = (mass + room) * (1.0 + 8.0 * ULP)
    seen[-1] = False  # that cell's likelihood ratio has no bound
    moved = 2.0 * ULP * (share + np.abs(edges) + 1.0 / s) / s  # of u, with the edges and by rounding
    bottom = _loss(q, np.append(0.0, np.exp(u - moved)))[0]
    top = _loss(q, np.append(np.exp(u + moved), 1.0))[1]
    inner = seen[without > LEAST_MASS]
    share = _share(high[inner], bottom[seen], top[seen])
    # what goes to the bottom of a cell is put on the top of the one before it, which is hardly higher
    parts = np.append(mass[seen] * (1.0 - share), 0.0) + np.append(0.0, mass[seen] * share)
    at_most = Atoms(np.append(bottom[0], top[seen]), parts, float(mass[~seen].sum()) * (1.0 + cells * ULP))
    return at_least, at_most


def _tails(edges: FloatArray) -> FloatArray:
    """Return the smaller of N(0, 1)'s two tail probabilities (J,); they are accurate to 20 + 4 x^2 ulp."""
    return ndtr(-np.abs(edges))


def _masses(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return N(0, 1)'s masses (J + 1,) of the cells between edges (J,), and how much the differences are off."""
    tails, right, left = _tails(edges), edges[:-1] >= 0.0, edges[1:] <= 0.0
    inner = np.where(
        right, tails[:-1] - tails[1:], np.where(left, tails[1:] - tails[:-1], 1.0 - tails[:-1] - tails[1:])
    )
    rounded = np.where(right | left, 2.0 * ULP * np.maximum(inner, 0.0), 4.0 * ULP)
    return np.r_[tails[0], inner, tails[-1]], np.r_[0.0, rounded, 0.0]


def _loss(q: float, ratio: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return bounds (J,) on log(1 - q + q ratio)."""
    moved = q * (np.maximum(ratio, 0.0) - 1.0)
    loss = np.log1p(moved)
    room = 8.0 * ULP * (q * (1.0 + np.abs(ratio)) / (1.0 + moved) + np.abs(loss))
    return loss - room, loss + room


def _share(loss: FloatArray, bottom: FloatArray, top: FloatArray) -> FloatArray:
    """Return what share of the mass (J,) goes to the atom at the top, for the mean likelihood ratio to be e^loss."""
    share = np.expm1(bottom - loss) / np.minimum(np.expm1(bottom - top), -1e-300)
    return np.clip(share * (1.0 + 16.0 * ULP), 0.0, 1.0)


def _sums(one: Atoms, other: Atoms, *, up: bool) -> tuple[Atoms, FloatArray]:
    """Return the atoms of two steps together, and edges of cells for them, which have fewer."""
    loss = np.add.outer(one.loss, other.loss).ravel()
    loss += (2.0 * ULP if up else -2.0 * ULP) * np.abs(loss)
    mass = np.multiply.outer(one.mass, other.mass).ravel() * (1.0 + (2.0 * ULP if up else -2.0 * ULP))
    edges = np.concatenate([
        each.loss + at for each, more in ((one, other), (other, one)) for at in (more.loss.min(), _median(more))
    ])  # fmt: skip
    edges = np.unique(edges)[:: max(edges.size // (2 * CELLS), 1)]
    return Atoms(loss, mass, one.certain + other.certain + UNDERFLOW), np.r_[loss.min(), edges, loss.max()]


def _median(atoms: Atoms) -> float:
    """Return about the median loss."""
    order = np.argsort(atoms.loss)
    total = np.cumsum(atoms.mass[order])
    return float(atoms.loss[order[np.searchsorted(total, 0.5 * total[-1])]])


def _collapsed(atoms: Atoms, edges: FloatArray) -> Atoms:
    """Return one atom for all of a cell: a bound from below."""
    cell = np.clip(np.searchsorted(edges, atoms.loss, side="right") - 1, 0, edges.size - 1)
    mass = np.bincount(cell, atoms.mass, edges.size)
    beyond = np.bincount(cell, -atoms.mass * np.expm1(edges[cell] - atoms.loss), edges.size)
    seen = mass > LEAST_MASS
    room = 4.0 * ULP * atoms.loss.size
    moved = -np.log1p(-np.clip(beyond[seen] / mass[seen] * (1.0 - room), 0.0, 1.0 - 1e-12))
    loss = edges[seen] + moved * (1.0 - 8.0 * ULP)
    return Atoms(loss - 4.0 * ULP * np.abs(loss), mass[seen] * (1.0 - room), 0.0)


def _spread(atoms: Atoms, edges: FloatArray) -> Atoms:
    """Return atoms at the edges of cells: a bound from above."""
    cell = np.clip(np.searchsorted(edges, atoms.loss, side="right") - 1, 0, edges.size - 2)
    share = _share(atoms.loss, edges[cell], edges[cell + 1])
    mass = np.bincount(cell, atoms.mass * (1.0 - share), edges.size)
    mass += np.bincount(cell + 1, atoms.mass * share, edges.size)
    return Atoms(edges, mass * (1.0 + 4.0 * ULP * atoms.loss.size), atoms.certain)
