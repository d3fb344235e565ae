"""Where the oracle integrates: paths, panels and steps, chosen in floating point. Nothing here decides a value.

A bad choice costs the oracle time, or leaves its levels apart; what judges is computed in `oracle` from these choices.
A path in zeta (see `oracle_laws`) is X(y) + i y, X(y) = start + slope (sqrt(y^2 + onset^2) - onset), y = scale sinh(t),
in panels of t. Where one path has much cancellation, delta up to a lower barrier and the rest have paths of their own.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from oracle_laws import (
    FALL,
    FINE_SHARES,
    SHIFTS,
    STEEPEST,
    Barrier,
    Complex,
    History,
    Problem,
    Real,
    barriers_for_mass,
    softness,
)
from oracle_panels import lay_panels
from oracle_paths import Path, Route, choose_routes

CHEAP = 2500.0
"""Nodes up to which no lower barriers are tried."""
NEGLIGIBLE = 60.0
"""How far below the others, in log, a part is left out."""
WELL = 16.0
"""Cancellation, in log, with which one is content."""


@dataclass(frozen=True)
class Line:
    """How E(zeta) is summed at one node for one law: share of the reach, step, and the scores between which."""

    share: float
    step: float
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """One part of delta: with the barriers `index`, less that with the barriers `index - 1` (or than the quiet law)."""

    index: int
    path: Path
    panels: tuple[tuple[float, float], ...]
    log_size: float


def inner_lines(problem: Problem, law: int, zeta: Complex, barrier: int, log_abs_tol: Real) -> list[Line]:
    """Return how to sum E at every zeta with an absolute error of about e^log_abs_tol: the coarsest step that does."""
    tables = [problem.table(law, share, barrier) for share in SHIFTS]
    reach, noise = problem.laws[law].reach, problem.laws[law].noise
    log_size = np.empty((len(SHIFTS), zeta.size))
    spans = []
    for k, table in enumerate(tables):
        exponent = zeta[:, None] * table.loss
        size = np.abs(exponent)
        with np.errstate(divide="ignore"):
            growth = np.where(size < 1, np.log(size), np.maximum(exponent.real, 0.0)) + 0.7
        log_terms = growth + table.log_weight.real + math.log(table.step)
        top = log_terms.max(1)
        log_size[k] = top + np.log(np.exp(log_terms - top[:, None]).sum(1))
        alive = log_terms > log_abs_tol[:, None] - 3.0
        first = alive.argmax(1)
        last = alive.shape[1] - 1 - alive[:, ::-1].argmax(1)
        spans.append((table.u[first] - table.step, table.u[last] + table.step))
    best_step, best = np.zeros(zeta.size), np.full(zeta.size, 2)
    shifts = reach * np.array(SHIFTS)
    excess = np.maximum(log_size - log_abs_tol, 1.0) + 0.7
    for k in range(1, len(SHIFTS) - 1):  # the rule's error: sum of moduli on a line above and one below
        above = (2 * math.pi * (shifts[k + 1 :] - shifts[k])[:, None] / excess[k + 1 :]).max(0)
        below = (2 * math.pi * (shifts[k] - shifts[:k])[:, None] / excess[:k]).max(0)
        step = np.minimum(above, below)
        better = step > best_step
        best_step[better], best[better] = step[better], k
    unit = min(noise, 1.0)
    rounded = unit * 2.0 ** (np.floor(2 * np.log2(np.minimum(best_step, 1.0) / unit)) / 2)
    return [
        Line(SHIFTS[k], float(h), float(spans[k][0][i]), float(spans[k][1][i]))
        for i, (k, h) in enumerate(zip(best, rounded, strict=True))
    ]


@dataclass(frozen=True)
class Plan:
    """Everything that the judge needs."""

    problem: Problem
    parts: tuple[Part, ...]
    log_delta: float
    log_cut: float

    @property
    def log_condition(self) -> float:
        """Log of the largest modulus summed over delta."""
        return max(part.log_size for part in self.parts) - self.log_delta


@np.errstate(all="ignore")  # what overflows is compared, and left out
def plan_parts(
    history: History,
    epsilon: float,
    direction: str,
    deadline: float,
    avoid: int = 0,
    log_delta: float | None = None,
    steepest: float = STEEPEST,
) -> Plan:
    """Return paths on which delta is found with little cancellation and few nodes.

    Args:
      history: (noise_multiplier, sample_rate, steps) triples.
      epsilon: >= 0.
      direction: "remove" or "add".
      deadline: on the clock of the process.
      avoid: how many of the best routes to pass over.
      log_delta: what is known of log delta, if anything is.
      steepest: the largest slope of a path.

    Raises:
      ArithmeticError: none was found, or not before the deadline.
    """
    best, reason = None, "cancellation"
    start, width, peak = Problem(history, epsilon, direction, [barriers_for_mass(history, -100.0, 5.0)]).saddle(0)
    tilt, log_mass = max(start, 1.0), min(peak + math.log(width), 0.0) - 48.0
    top, fall = peak + math.log(width), FALL + 4.0
    if log_delta is not None:
        log_mass, fall = log_delta - 36.0, max(fall, top - log_delta + FALL)
    for cheap in (CHEAP, CHEAP, 0.0):  # the second time with the barrier where delta wants it, then with lower ones
        if time.process_time() > deadline:
            raise TimeoutError("no time for a plan")
        barriers = [barriers_for_mass(history, log_mass, tilt)]
        try:
            plan = _plan(
                *_split(history, epsilon, direction, barriers, cheap, fall, steepest, deadline), log_mass, avoid
            )
        except ArithmeticError as error:
            reason = str(error)
            continue
        if log_delta is not None:  # floating point may see its own noise instead
            plan = replace(plan, log_delta=log_delta)
        if plan.log_cut < plan.log_delta - 29 and (best is None or plan.log_condition < best.log_condition):
            best = plan
        if best is not None and best.log_condition < WELL:
            break
        log_mass, fall = plan.log_delta - 36.0, max(fall, top - plan.log_delta + FALL)
    if best is None:
        raise ArithmeticError(f"{history}, {epsilon}, {direction}: no path found, {reason}")
    return best


def _split(
    history: History,
    epsilon: float,
    direction: str,
    barriers: list[list[Barrier]],
    cheap: float,
    fall: float,
    steepest: float,
    deadline: float,
) -> tuple[Problem, list[list[Route]]]:
    """Return a problem with routes for its parts; lower barriers are set where that saves work or cancellation."""
    problem = Problem(history, epsilon, direction, barriers)
    problem.fall, problem.steepest = fall, steepest
    tried: list[tuple[float, float, list[list[Barrier]], Problem, list[list[Route]]]] = []
    with suppress(ArithmeticError):
        routes = [choose_routes(problem, 0)]
        tried.append((*_effort(routes), barriers, problem, routes))
        if tried[0][0] < cheap:
            return problem, routes
    goal = abs(epsilon + problem.base) if direction == "add" else epsilon - problem.base
    for loss in goal * np.geomspace(0.02, 2.0, 9) if goal > 0 else ():
        if time.process_time() > deadline:
            break
        lower = []
        for law, top in zip(problem.laws, barriers[-1], strict=True):
            steepness = (1 + 25 / goal) * -math.expm1(-float(loss))  # about the saddle point of the part below
            lower.append(min((law.score(float(loss)), softness(law.noise, steepness)), top))
        if lower == barriers[-1]:
            continue
        candidate = [lower, *barriers]
        other = Problem(history, epsilon, direction, candidate)
        other.fall, other.steepest = FALL + 4.0, steepest  # lower barriers are there to keep F near delta
        with suppress(ArithmeticError):
            routes = _all_routes(other, len(candidate))
            tried.append((*_effort(routes), candidate, other, routes))
    if not tried:
        raise ArithmeticError("no path ends")
    lowest = min(item[1] for item in tried)  # about log delta
    return min(tried, key=lambda item: item[0] * (1 + (item[1] - lowest) / 8))[3:]


def _all_routes(problem: Problem, parts: int) -> list[list[Route]]:
    """Return routes for all parts, none for those whose share in delta is negligible."""
    heights = []
    for index in range(parts):
        _, width, peak = problem.saddle(index)
        heights.append(peak + math.log(width))
    return [
        choose_routes(problem, index) if height > max(heights) - NEGLIGIBLE else []
        for index, height in enumerate(heights)
    ]


def _effort(routes: list[list[Route]]) -> tuple[float, float]:
    """Return about the number of inner sums with the first route of each part, and log of the largest integral."""
    first = [(1 if i == 0 else 2, route[0]) for i, route in enumerate(routes) if route]
    return sum(k * route.cost for k, route in first), max(r.peak + math.log(r.path.scale) for _, r in first)


def _plan(problem: Problem, routes: list[list[Route]], log_mass: float, avoid: int) -> Plan:
    """Return the routes with panels, and an estimate of delta; the first `avoid` routes are passed over."""
    parts, values = [], []
    for index, candidates in enumerate(routes):
        for route in candidates[min(avoid, len(candidates) - 1) :]:
            with suppress(ArithmeticError):
                panels, value, largest = lay_panels(problem, index, route)
                if abs(value.imag) > 20 * route.path.scale:
                    raise ArithmeticError("more than the start of the path allows")
                parts.append(Part(index, route.path, tuple(panels), route.peak + math.log(largest)))
                values.append((route.peak, value.imag / math.pi))
                break
        else:
            if candidates:
                raise ArithmeticError("no path is smooth")
    top = max(peak for peak, _ in values)
    total = sum(math.exp(peak - top) * value for peak, value in values)
    return Plan(problem, tuple(parts), top + math.log(max(total, 1e-12)), math.log(4.0) + log_mass)


@np.errstate(all="ignore")
def node_lines(problem: Problem, zeta: Complex, log_tol: Real, index: int) -> list[list[Line]]:
    """Return for each law the lines on which E is summed at every node.

    Args:
      problem: the laws.
      zeta: the nodes.
      log_tol: log of the absolute error that F may have at each.
      index: the barrier.
    """
    power = problem.log_power(zeta, index, FINE_SHARES)
    room = np.clip(log_tol - problem.log_factor(zeta).real - power.real, -300.0, -3.0)
    lines = []
    for i, law in enumerate(problem.laws):
        whole = np.log(np.maximum(np.abs(1 + problem.excess(i, zeta, index, FINE_SHARES)), 1e-15))
        lines.append(inner_lines(problem, i, zeta, index, room + whole - math.log(law.steps)))
    return lines
