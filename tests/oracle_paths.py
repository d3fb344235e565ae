"""Paths that the oracle may integrate along, chosen in floating point: see `oracle_plan`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from oracle_laws import LOW_SHARES, ROUGH_SHARES, Complex, Problem, Real

RISE = 9.0
"""How far F may rise again, in log."""
CLIFF = 15.0
"""How much F may change, in log, over an eighth of a unit of t."""


@dataclass(frozen=True)
class Path:
    """Where zeta runs."""

    start: float
    slope: float
    onset: float
    scale: float

    def zeta(self, t: Real) -> tuple[Complex, Complex]:
        """Return zeta and its derivative by t."""
        y = self.scale * np.sinh(t)
        root = np.sqrt(y * y + self.onset**2)
        x = self.start + self.slope * (root - self.onset)
        return x + 1j * y, (self.slope * y / root + 1j) * self.scale * np.cosh(t)


@dataclass(frozen=True)
class Route:
    """A path before panels are laid on it: its end in t, log F at its start, about its number of nodes."""

    path: Path
    end: float
    peak: float
    cost: float


def choose_routes(problem: Problem, index: int) -> list[Route]:
    """Return the cheapest paths of those tried, best first.

    Raises:
      ArithmeticError: none ends.
    """
    start, width, peak = problem.saddle(index)
    slopes = [*np.geomspace(problem.steepest, 1e-3 * problem.steepest, 13), 0.0]
    while slopes:
        found: list[Route] = []
        for slope in slopes:
            for onset in (2.0, 8.0) if slope > 0 else (2.0,):
                most = 4.0 * min((route.cost for route in found), default=2000.0)
                path = Path(start, float(slope), onset * width, width)
                cost, end = _path_cost(problem, index, path, peak, most)
                if math.isfinite(cost):
                    found.append(Route(path, end, peak, cost))
        found.sort(key=lambda route: route.cost)
        good = [route for route in found[:8] if _has_room(problem, index, route)]
        if good or not found:
            break
        slopes = [slope for slope in slopes if slope < min(route.path.slope for route in found[:8])]
    else:
        good = []
    if not good:
        raise ArithmeticError("no path ends")
    return good


def _has_room(problem: Problem, index: int, route: Route) -> bool:
    """Return whether a steeper and a shifted path would do as well (levels vary both), and nothing comes after the end.

    What comes after the end is looked for straight above it, step by step while F may recur, as it does with the
    period of a loud step's loss, and then ever farther.
    """
    old = route.path
    path = Path(old.start + 0.2 * old.scale, 1.12 * old.slope, old.onset, old.scale)
    if not math.isfinite(_path_cost(problem, index, path, route.peak, 3 * route.cost)[0]):
        return False
    end = complex(old.zeta(np.array([route.end]))[0][0])
    recurring = end.imag + 0.7 * old.scale * np.arange(1, 801)
    above = np.concatenate([recurring, recurring[-1] * 1.15 ** np.arange(1, 161)])
    for y in np.array_split(above, 30):
        # the lowest line aliases where y is large, and the others meet narrow barriers: what is real is on both
        both = [
            problem.log_integrand(end.real + 1j * y, index, shares).real for shares in (LOW_SHARES, ROUGH_SHARES[1:])
        ]
        value = np.fmin(*both) + np.log(y)
        if not (value < route.peak + math.log(old.scale) - problem.fall + 6.0).all():
            return False
    return True


def _path_cost(problem: Problem, index: int, path: Path, peak: float, most: float) -> tuple[float, float]:
    """Return about the number of nodes until the integrand has vanished, and that end; infinite beyond `most`."""
    cost, width, block = 0.0, 0.125, 8
    top = peak + math.log(path.scale)
    last, floor = 0j, top
    for k in range(0, 400, block):
        t = width * np.arange(k, k + block + 3)
        zeta, slope = path.zeta(t)
        value = problem.log_integrand(zeta, index, ROUGH_SHARES) + np.log(slope)
        dead = value.real < top - problem.fall
        over = np.convolve(dead, [1, 1, 1, 1], "valid") == 4
        count = int(over.argmax()) if over.any() else block  # what comes after that is of no interest
        height = np.concatenate([[floor], value.real[: count + 1]])
        rough = (abs(np.diff(height)) > CLIFF) & (height[:-1] > top - problem.fall)
        if (
            rough.any() or not (height < np.minimum.accumulate(height) + RISE).all()
        ):  # nothing is known beyond mountains
            return math.inf, math.inf
        floor = float(height.min())
        moved = np.diff(np.concatenate([[last if k else value[0]], value[:count]]))
        turn = np.minimum(abs(moved.imag), 60.0)  # too large where a logarithm jumps, which is rare
        cost += 6 * width * count + float(np.sum(turn + np.minimum(abs(moved.real), 20)))
        if cost >= most:
            break
        if over.any():
            return cost, float(t[count])
        last = value[block - 1]
    return math.inf, math.inf
