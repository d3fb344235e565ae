"""Probes of lines, links, routes and what puts them together: Gaussian steps from a composition to bounds."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pins import pin
from pins_steps import HISTORIES, grids, law

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import compose
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion import certain as ct
from opacus_edgeworth.inversion import chain as ca
from opacus_edgeworth.inversion import contour as co
from opacus_edgeworth.inversion import elementary as el
from opacus_edgeworth.inversion import engines as en
from opacus_edgeworth.inversion import exact as ex
from opacus_edgeworth.inversion import few as fw
from opacus_edgeworth.inversion import law as lw
from opacus_edgeworth.inversion import line as li
from opacus_edgeworth.inversion import link as lk
from opacus_edgeworth.inversion import many as mn
from opacus_edgeworth.inversion import memory as me
from opacus_edgeworth.inversion import nearby as ne
from opacus_edgeworth.inversion import quadrature as qd
from opacus_edgeworth.inversion import root as rt
from opacus_edgeworth.inversion import route as ro
from opacus_edgeworth.inversion import saddle as sa

NOISELESS_LIKE = [(0.02, 0.003, 20), (0.05, 1e-4, 300)]
RARE = {
    "rare": ([(0.3, 0.01, 100)], 20.0, -9.0),
    "few": ([(1.0, 0.01, 2)], 0.42, -13.0),
    "phases": ([(0.5, 1e-3, 40), (0.9, 1e-4, 300)], 3.0, -14.0),
    "small": ([(0.9, 1e-3, 3)], 1e-5, -7.0),
    "below": ([(0.7, 0.01, 30)], -0.2, -2.0),
    "among others": ([(0.5, 1e-3, 40), (9.0, 1.0, 2)], 3.0, -14.0),
}


def refused(ask: Any) -> Any:
    """Return a result, or that it is out of reach."""
    try:
        return ask()
    except OutOfReachError:
        return "refused"


# --- saddle points ---------------------------------------------------------------------------------------------------


@pin(coarse=False, rel_tol=1e-8)
def rough_moments() -> Any:
    return {
        name: [sa.moments(grid, c, d) for c in (-3.0, -0.5, 0.3, 1.0, 1.6, 3.0, 8.0) for d in ("remove", "add")]
        for name, grid in grids().items()
    }


@pin(coarse=False, rel_tol=1e-7)
def rough_grids() -> Any:
    found = {}
    for name, history in HISTORIES.items():
        grid = sa.rough_grid(compose(history))
        found[name] = (grid.lowest_tilt, grid.highest_tilt, grid.reach, grid.spacing, grid.law.barrier, grid.law.end)
    found["cut"] = sa.rough_grid(compose(HISTORIES["two"]), -30.0).law.barrier
    found["variance"] = [
        sa._rough_variance(compose(h)) for h in (*HISTORIES.values(), NOISELESS_LIKE, [(1e-4, 0.5, 9)])
    ]
    found["first"] = [sa.first_log_tilt(v) for v in (1e-30, 1e-6, 0.5, 1e3, 1e9)]
    found["kappa"] = [sa.log_kappa(c) for c in (-1.0, 0.5, 1.0, 1.0 + 1e-9, 1.7, 40.0, 1e6)]
    return found


@pin(coarse=False, rel_tol=1e-7)
def saddles() -> Any:
    found: dict[str, Any] = {}
    for name, history in HISTORIES.items():
        grid = sa.rough_grid(compose(history))
        found[name] = {
            d: [
                sa.saddle_for_epsilon(grid, 0.8, d),
                sa.saddle_for_delta(grid, 1e-6, d),
                sa.saddle_in_strip(grid, -0.3, d),
            ]
            for d in ("remove", "add")
        }
    return found


@pin(coarse=False, rel_tol=1e-9)
def roots() -> Any:
    """How increasing functions are searched, and how often they are asked."""
    found = []
    for power, start in ((1.0, 0.0), (3.0, -5.0), (0.3, 12.0), (1.0, 45.0), (8.0, -40.0)):
        asked: list[float] = []

        def rising(x: float, power: float = power, asked: list[float] = asked) -> tuple[float, float, float]:
            asked.append(x)
            if x > 1e9:
                raise OutOfReachError("too far")
            return x**power - 7.0, power * x**power, 3.0 * power

        found.append((refused(lambda: sa._increasing_root(rising, start)), len(asked), asked))  # noqa: B023
    steep = sa._increasing_root(lambda x: (math.exp(min(x, 500.0)) - 1e80, x * math.exp(min(x, 500.0)), x), -2.0)
    found.append(steep)
    found.append(refused(lambda: sa._increasing_root(lambda x: (-1.0 / x, 1.0 / x, 1.0), 0.0)))
    found.append(sa._increasing_root(lambda x: (math.nan if x > 20.0 else x - 3.0, x, 9.0), 4.0))
    return found


# --- lines -----------------------------------------------------------------------------------------------------------


def a_line(c: float, **changes: float) -> li.Line:
    """Return a line of a normal loss with mean 0.3 and variance 1, so coarse that every error is seen."""
    gap = c - 1.0
    y = 0.25 * np.arange(24)
    amplitude = np.exp(-0.5 * y * y + 0.3j * y) / ((c + 1j * y) * (gap + 1j * y))
    amplitude[0] *= 0.5
    fields: dict[str, Any] = {
        "c": c,
        "gap": gap,
        "step": 0.25,
        "y": y,
        "amplitude": amplitude if gap > 0.0 else -amplitude,
        "error": 1e-5,
        "size": float(np.abs(amplitude).sum()),
        "first_moment": float(np.abs(amplitude) @ y),
        "log_peak": 0.7,
        "log_peak_error": 1e-4,
        "log_beyond": -12.0,
        "chernoff": ((0.0, 0.0), (1.0, 0.0), (c + 2.0, 4.0), (c + 0.4, 1.1)),
        "cut_off": 1e-4,
        "log_cut_share": math.inf,
        "spill": 3e-5,
    }
    return li.Line(**(fields | changes))


@pin()
def line_bounds() -> Any:
    lines = [
        a_line(2.0),
        a_line(0.4),
        a_line(2.0, log_cut_share=-11.0),
        a_line(0.4, log_cut_share=-11.0),
        a_line(2.0, error=0.0, log_peak_error=0.0, log_beyond=-99.0, cut_off=0.0, spill=0.0),
        a_line(2.0, log_peak=-680.0),
        a_line(2.0, log_peak=-744.0, spill=0.0),
        a_line(2.0, log_peak=760.0),
        a_line(1.5, chernoff=()),
        a_line(2.0, chernoff=((1.98, 1.5), (2.02, 1.5), (1.998, -9.0), (2.002, -9.0))),
    ]
    epsilons = (-0.5, 0.0, 0.8, 3.0)
    return {
        "delta": [line.delta(e) for line in lines for e in epsilons],
        "estimate": [line.estimate(e) for line in lines for e in epsilons],
        "alias": [line.alias_bound(e) for line in lines for e in epsilons],
        "scaled": [
            li._scaled_exp(*args, up=up)
            for up in (True, False)
            for args in (
                (0.3, 2.0, 1e-3),
                (-700.0, 1e-3, 1e-3),
                (-800.0, 1.0, 0.0),
                (705.0, 1e3, 0.1),
                (0.3, 0.0, 0.1),
                (0.3, -1.0, 0.1),
            )
        ],
    }


@pin()
def line_parts() -> Any:
    steps = compose(HISTORIES["two"] + [(3.0, 1.0, 4)])
    log_mgf, c = np.array([[0.2, -0.1], [3.0, 1.5]]), np.array([1.5, 4.0])
    return {
        "upper": li.compose_upper(steps, log_mgf, c),
        "peak": [li.log_peak_of(steps, p, log_mgf, 1e-6 + 0.0 * log_mgf) for p in (0.0, 2.0, np.array([-0.5, 6.0]))],
        "bounds": li.Chernoff(c, log_mgf).bounds(steps),
        "chernoff": [li.log_chernoff(2.5, 3.0, e) for e in (-1.0, 0.0, 40.0)],
        "room": [li.alias_room(2.5, other, 3.0, 1.2, v) for other in (1.0, 2.0, 4.0) for v in (-20.0, 40.0)],
        "step": [
            li.node_distance(2.5, ((1.0, 0.0), (1.5, 0.1), (3.0, 5.0), (4.0, 5.5)), 1.2, v, spread)
            for v in (-20.0, -3.0)
            for spread in (0.0, 0.1, 30.0)
        ],
        "none": [refused(lambda: li.node_distance(2.5, ((1.0, 0.0),), 1.2, -20.0, 0.0))],
        "last": [
            refused(lambda: li.last_node(lambda y: -rate * y, 2.0, 10.0, far))  # noqa: B023
            for rate in (20.0, 1.0, 0.01)
            for far in (3.0, 40.0, 1e9)
        ],
    }


CONTOURS = [
    (name, direction, epsilon)
    for name, epsilon in (("usual", 1.5), ("two", 4.0), ("full", 3.0), ("often", 8.0), ("quiet", 1e-3))
    for direction in ("remove", "add")
]


def table(name: str, direction: str, epsilon: float) -> co.LineTable:
    """Return the lines that are made for an epsilon."""
    grid = sa.rough_grid(compose(HISTORIES[name]))
    return co.make_lines(grid, co.contour_for_epsilon(grid, epsilon, direction), (direction,), epsilon)


@pin(coarse=False, rel_tol=1e-6)
def contours() -> Any:
    found: dict[str, Any] = {}
    for name, direction, epsilon in CONTOURS:
        one = table(name, direction, epsilon)
        line = one.lines(compose(HISTORIES[name]))[0]
        found[f"{name} {direction}"] = {
            "where": (one.c, one.gap, one.step, one.y.size),
            "law": (one.law.barrier, one.law.end),
            "peak": (one.log_mgf, one.log_beyond),
            "chernoff": one.chernoff,
            "line": (line.amplitude, line.size, line.first_moment),
            "ends": (line.log_peak, line.log_beyond, line.chernoff, line.cut_off, line.log_cut_share),
            "delta": [line.delta(e) for e in (0.9 * epsilon, epsilon, 1.1 * epsilon)],
        }
    return found


@pin(rel_tol=1e-6)
def contour_errors() -> Any:
    """Lines through given points on given grids: the errors alone."""
    found: dict[str, Any] = {}
    for name, c in (("usual", 9.0), ("two", 2.5), ("full", 3.0), ("often", 0.5)):
        grid = grids()[name]
        directions = ("remove", "add") if c > 1.0 else ("add",)
        one = refused(lambda: co.make_lines(grid, c, directions, 1.0))  # noqa: B023
        if one != "refused":
            lines = one.lines(grid.steps)
            found[name] = [
                one.logs.error,
                one.log_mgf_error,
                one.log_beyond,
                [(line.error, line.log_peak_error, line.log_cut_share) for line in lines],
                [line.delta(1.0) for line in lines],
            ]
        else:
            found[name] = one
    return found


@pin(coarse=False, rel_tol=1e-7)
def contour_parts() -> Any:
    found: dict[str, Any] = {}
    for name in ("usual", "two", "full"):
        grid = sa.rough_grid(compose(HISTORIES[name]))
        tilted = qd.tilted_steps(grid, np.array([1.5]))
        found[name] = {
            "share": [
                co.log_cut_share(grid.law, t, np.full(grid.steps.phases, 1e-3), np.full(grid.steps.phases, 1e-3))
                for t in (-0.5, -3.0, -1e5)
            ],
            "points": [
                co._chernoff_points(grid, c, d, 1.2, v, s)
                for c in (1.4, 4.0)
                for d in ("remove", "add")
                for v, s in ((-9.0, 2.0), (-9.0, 40.0), (3.0, 0.5))
            ],
            "bound": [co.chernoff_bound(grid, [1.5, 4.0], d, 1.2) for d in ("remove", "add")],
            "served": [(t.grid.spacing, w) for t, w in (co.served(tilted, y, grid.steps.steps) for y in (1.0, 60.0))],
            "end": refused(lambda: co._end_of_line(tilted, 1.0, 2.0, 3.0, 0.05, 4000.0)),  # noqa: B023
            "contour": [co.contour_for_epsilon(grid, e, d) for e in (0.0, 0.3, 5.0) for d in ("remove", "add")],
        }
    found["cut"] = [
        co.chernoff_bound(sa.rough_grid(compose(HISTORIES["two"]), -9.0), [1.5, 40.0], d, 1.2)
        for d in ("remove", "add")
    ]
    few = sa.rough_grid(compose([(4.0, 0.2, 3)]))
    found["few"] = [
        (line.cut_off, line.log_cut_share, line.delta(0.2))
        for line in co.make_lines(few, 3.0, ("remove", "add"), 0.2).lines(few.steps)
    ]
    near = sa.rough_grid(compose([(0.5, 0.5, 200)]))
    found["near one"] = [co.contour_for_epsilon(near, e, d) for e in (0.0, 3.0, 60.0) for d in ("remove", "add")]
    found["pole"] = [refused(lambda: co.make_lines(near, c, ("remove",), 1.0)) for c in (0.0, 1.0)]  # noqa: B023
    found["work"] = [
        refused(lambda: co.make_lines(near, 1.5, ("remove",), 1.0, most).y.size)  # noqa: B023
        for most in (1e3, 2e4, 4e4, 8e4, 1.6e5, 3.2e5, 6.4e5, 1.3e6)
    ]
    return found


# --- links and routes ------------------------------------------------------------------------------------------------


@pin(coarse=False, rel_tol=1e-7)
def routes() -> Any:
    found: dict[str, Any] = {}
    for name, (history, epsilon, log_delta) in RARE.items():
        for fine in (False, True) if name in ("rare", "small") else (False,):
            router = ro.Router(compose(history), log_delta, epsilon, fine=fine)
            offers = router.offers(epsilon)
            first = refused(lambda: router.route(epsilon, offers))  # noqa: B023
            avoid = [] if first == "refused" else [piece.ends for piece in first if piece.method == "line"]
            found[f"{name} {fine}"] = {
                "tables": (
                    router.log_gap,
                    router.score,
                    router.loss,
                    router.soft,
                    router.log_sum.ravel(),
                    np.array(router.ends).ravel(),
                    len(router.ends),
                ),
                "value": [router.log_value(e) for e in (epsilon, 0.5 * epsilon, 2.0 * epsilon)],
                "offers": (
                    offers.work.ravel(),
                    offers.log_value.ravel(),
                    offers.at.ravel(),
                    offers.left.ravel(),
                    offers.right.ravel(),
                    offers.certain,
                ),
                "route": first,
                "again": refused(lambda: router.route(epsilon, offers, avoid)),  # noqa: B023
                "negligible": [router._negligible(k, epsilon) for k in range(0, len(router.ends), 5)],
            }
    found["refused"] = [
        refused(lambda: len(ro.Router(compose([(noise, 0.01, 5)]), -9.0, epsilon).ends))  # noqa: B023
        for noise, epsilon in ((0.001, 1e5), (1.0, 1e5), (0.01, 5.0), (0.004, 5.0))
    ]
    return found


@pin(coarse=False, rel_tol=1e-7)
def loud_routes() -> Any:
    """Where a hit is loud, and P's mass is all."""
    found = []
    for history, epsilon, log_delta in (
        ([(0.07, 2e-5, 2000)], 3.0, -3.2),
        ([(0.09, 1e-3, 20)], 12.0, -4.0),
        ([(0.09, 0.95, 2)], 12.0, -0.1),
    ):
        router = ro.Router(compose(history), log_delta, epsilon)
        offers = router.offers(epsilon)
        found.append([offers.certain, offers.work.ravel(), refused(lambda: router.route(epsilon, offers))])  # noqa: B023
    return found


def together(phases: int) -> Any:
    """Return a composition of phases that are products, each one step."""
    return mn._nameless(np.ones(phases), 0.125)


def piece(c: float = 3.0) -> tuple[Any, ro.Piece]:
    """Return steps and a piece between barriers at 1.5 and about 6."""
    steps = compose([(0.8, 0.1, 30), (2.0, 0.05, 400), (4.0, 1.0, 2)])
    gap = law(steps, c, 1.5)
    assert gap.below is not None
    return steps, ro.Piece((0, 1), gap.soft, gap.below, gap.barrier, c, 1.0 + 0.5 * (c - 1.0), 2.0 * c, "line", -5.0)


@pin(coarse=False, rel_tol=1e-7)
def links() -> Any:
    found = []
    for c, epsilon, log_delta in ((3.0, 2.0, -8.0), (1.7, 0.5, -2.0)):
        steps, one = piece(c)
        made = lk.make_link(steps, one, epsilon, log_delta)
        line = made.line(steps)
        found.append(
            {
                "where": (made.c, made.step, made.y.size),
                "lost": made.end_lost,
                "base": (made.log_base, made.beyond, made.chernoff),
                "line": (
                    line.amplitude,
                    line.size,
                    line.log_peak,
                    line.log_beyond,
                    line.chernoff,
                    line.cut_off,
                    line.spill,
                    line.first_moment,
                ),
                "delta": [line.delta(e) for e in (0.8 * epsilon, epsilon)],
                "together": made.product(steps.steps).joined(made).line(together(3)).delta(epsilon),
                "further": lk.further_link(made, steps, one.soft, one.below, one.barrier).line(steps).delta(epsilon),
                "fewer": made.line(compose([(0.8, 0.1, 20), (2.0, 0.05, 300), (4.0, 1.0, 2)])).delta(epsilon),
            }
        )
    return found


@pin(rel_tol=1e-7)
def link_parts() -> Any:
    steps, one = piece()
    made = lk.make_link(steps, one, 2.0, -8.0)
    laws = lk._laws(steps, 3.0, one.soft, one.below, one.barrier)
    bases, gaps = lk._both_groups(*laws, 3.0, [2.0, 5.0])
    line = made.line(steps)
    beyond = lk.Beyond(np.array([-0.1, -0.3]), np.array([-2.0, -math.inf]))
    chernoff = lk.GapChernoff(
        np.array([2.0, 5.0, 9.0]),
        np.array([[0.1, 0.2], [1.0, 2.0], [math.inf, 0.1]]),
        np.array([[-3.0, 0.3], [-0.5, -math.inf], [math.nan, -30.0]]),
    )
    product = made.product(steps.steps)
    return {
        "error": (line.error, line.log_peak_error, line.spill),
        "made": (made.beyond, made.chernoff, made.y.size),
        "beyond": [beyond.log_bound(steps, y) for y in (0.5, 6.0)],
        "bounds": (chernoff.bounds(steps), lk.log_sum_of(chernoff.share[:2], steps.steps)),
        "product": (beyond.product(steps.steps), chernoff.product(steps.steps), product.end_lost, product.base_error),
        "joined": (beyond.joined(beyond), chernoff.joined(chernoff), product.joined(made).line(together(3)).error),
        "groups": [(group.where, group.tilted.log_mgf, group.tilted.grid.spacing) for group in bases + gaps],
        "mgf": (lk._log_mgf(bases, 3), lk._log_mgf(gaps, 2)),
        "chernoff": lk._chernoff(2, bases, gaps, [2.0, 5.0]),
        "served": [(group.tilted.grid.spacing, group.unknown) for group in lk._served(bases, 40.0, steps.steps)],
        "end": [
            lk._end_of_link(steps, bases, gaps, np.array([-3.0, -4.0]), h, scale)
            for h, scale in ((0.3, 1.0), (0.05, 1e9))
        ],
    }


@pin(rel_tol=1e-7)
def certain_links() -> Any:
    found: list[Any] = []
    for history, low, high in (
        ([(0.07, 1e-3, 20), (0.1, 1e-6, 10_000)], 9.0, 16.0),
        ([(0.05, 0.3, 3)], 12.0, 30.0),
        ([(1.0, 0.5, 2000)], 0.0, 3.0),
        ([(0.05, 1e-3, 9)], -3.0, 25.0),
    ):
        steps = compose(history)
        soft = lw.softness(steps, 0.35)
        table = ct.certain_table(steps, soft, np.full_like(soft, low), np.full_like(soft, high))
        one = table.line(steps)
        found.append((table, one, [one.delta(e) for e in (0.1, 60.0, 699.0, 701.0)]))
        found.append((table.product(steps.steps), table.joined(table)))
    found.append([ct.Certain(Bounds(0.2, 0.3), hidden).delta(2.0) for hidden in (0.01, 0.1)])
    return found


@pin()
def chain_sums() -> Any:
    parts = (a_line(2.0), ct.Certain(Bounds(0.01, 0.02), 1e-5))
    return [ca.Chain(parts, negligible, 1e-3).delta(0.8) for negligible in (None, (2.0, -5.0), (2.0, 900.0))]


@pin()
def further_chains() -> Any:
    """A chain of a law bounded by Chernoff and of a loud link, for the same phases and for one more."""
    steps, soft = compose([(0.07, 1e-3, 20), (0.1, 1e-6, 10_000)]), np.full((2, 1), 1.0 / 64.0)
    barriers = [np.full((2, 1), 9.0), np.full((2, 1), 16.0)]
    law = lw.law_for_tilt(steps, 1.5, soft, barriers[0])
    table = ca.ChainTable(
        None,
        ca._negligible(law, 1.5),
        (ct.certain_table(steps, soft, *barriers),),
        law.end_lost(),
        ca.Path(steps, soft, tuple(barriers), 1.5),
    )
    again = ca.further_chain(table, steps, soft, barriers)
    both = again.joined(table.product(steps.steps))
    counts = (steps, together(3), compose([(0.07, 1e-3, 5), (0.1, 1e-6, 9)]))
    return [
        (one.left_out, chain.negligible, chain.left_out, [chain.delta(e) for e in (3.0, 60.0)])
        for one, n in zip((again, both, again), counts, strict=True)
        for chain in [one.chain(n)]
    ]


@pin(coarse=False, rel_tol=1e-7)
def chains() -> Any:
    found: dict[str, Any] = {}
    for name, (history, epsilon, _) in RARE.items():
        steps = compose(history)
        router = ca.router_for_epsilon(steps, epsilon, -1.0)
        made = ca.chain_for_epsilon(router, epsilon)
        chain = made.chain(steps)
        found[name] = {
            "router": router.log_delta,
            "first": made.first is None,
            "negligible": chain.negligible,
            "left": chain.left_out,
            "lines": [line.y.size if isinstance(line, li.Line) else line for line in chain.lines],
            "cut": [line.cut_off for line in chain.lines if isinstance(line, li.Line)],
            "delta": [chain.delta(e) for e in (epsilon, 0.9 * epsilon)],
        }
    for history, delta, start in (
        ([(0.3, 0.01, 100)], 1e-5, 3.0),
        ([(0.9, 1e-3, 3)], 1e-3, 1.0),
        ([(1.0, 0.01, 2)], 1e-6, 1e-4),
    ):
        made = refused(lambda: ca.router_for_delta(compose(history), delta, start))  # noqa: B023
        found[str(delta)] = made if made == "refused" else (made[1], len(made[0].ends))
    return found


# --- closed forms, elementary bounds, inversion ----------------------------------------------------------------------


@pin()
def closed_forms() -> Any:
    return {
        "gaussian": [
            ex.exact_delta(compose([(s, 1.0, n)]), e, "add")
            for s, n in ((1.0, 1), (50.0, 1000), (0.02, 3))
            for e in (0.0, 0.3, 4.0, 900.0)
        ],
        "step": [
            ex.single_step_delta(s, q, e, d)
            for s, q in ((1.0, 0.01), (0.04, 0.3), (20.0, 0.999), (0.5, 1e-9))
            for e in (0.0, 1e-5, 0.3, 5.0, 400.0, 699.0, 701.0, 1e4)
            for d in ("remove", "add")
        ],
        "difference": [
            ex._difference(0.3, -1e200, 1e200, 0.0, 0.0),
            *(
                ex._difference(0.3, a, gap, 1e-4, 1e-5)
                for a in (-30.0, -8.1, -7.9, 0.0, 5.0, 39.0)
                for gap in (1e-3, 2.0)
            ),
        ],
        "form": [
            ex.has_closed_form(compose(h))
            for h in (
                [(1.0, 0.1, 1)],
                [(1.0, 0.1, 2)],
                [(1.0, 1.0, 2)],
                [],
                [(1.0, 0.1, 1), (1.0, 1.0, 1)],
                [(1.0, 0.1, 1), (2.0, 0.1, 1)],
            )
        ],
    }


@pin()
def elementary_bounds() -> Any:
    found: dict[str, Any] = {}
    for name, history in (
        HISTORIES | {"silent": NOISELESS_LIKE, "one": [(0.05, 0.2, 1)], "gaussian": [(9.0, 1.0, 4)]}
    ).items():
        steps = compose(history)
        found[name] = {
            "moment": (el.log_moment_bound(steps), [el.log_moment_delta(steps, e) for e in (0.0, 0.5, 30.0)]),
            "sampling": [el.sampling_delta(steps, e) for e in (0.0, 0.01, 5.0)],
            "distance": el.distance_bound(steps),
            "noiseless": [el.nearly_noiseless_delta(steps, e, d) for e in (0.0, 1e-3, 3.0) for d in ("remove", "add")],
            "delta": [el.elementary_delta(steps, e, d) for e in (0.0, 0.5, 30.0) for d in ("remove", "add")],
            "epsilon": [el.elementary_epsilon(steps, delta) for delta in (0.5, 1e-5, 1e-40)],
        }
    return found


@pin(coarse=False, rel_tol=1e-9)
def inversions() -> Any:
    """How falling functions are inverted, and how often they are asked."""
    found = []
    curves = {
        "straight": lambda e: math.exp(-1.0 - 2.0 * e),
        "bent": lambda e: math.exp(-1e-3 * e - (e / 30.0) ** 4),
        "flat": lambda e: 0.3 if e < 7.0 else 1e-9,
        "steep": lambda e: math.exp(-1e6 * e),
        "zero": lambda e: 1e-3 if e < 2.0 else 0.0,
        "low": lambda e: 1e-9 * math.exp(-e),
    }
    for name, curve in curves.items():
        for width in (0.0, 1e-6, 0.3):
            for start, slope in ((0.0, 1.0), (3.0, 2.0), (1e3, 1e-2)):
                asked: list[float] = []

                def at(e: float, asked: list[float] = asked, curve: Any = curve, width: float = width) -> Bounds:
                    asked.append(e)
                    return Bounds(curve(e) * (1.0 - width), curve(e) * (1.0 + width))

                got = rt.invert_delta(at, 1e-4, start, slope)
                found.append({f"{name} {width} {start}": (got, len(asked), asked)})
    found.append([rt._log_ratio(value, 1e-3) for value in (0.0, -1.0, 1e-9, 4e-4, 6e-4, 1e-3, 1.0)])
    points = [
        (1.0, 0.5, 2.0, -math.inf, math.inf, 3),
        (1.0, 0.5, 2.0, 1.0, math.inf, 30),
        (1.0, math.inf, 2.0, 0.3, 4.0, 3),
        (1.0, 9.0, 2.0, 0.3, 4.0, 3),
        (1.0, 9.0, 2.0, -math.inf, 4.0, 3),
        (1.0, 9.0, 2.0, -math.inf, 4.0, 19),
        (1.0, -9.0, 2.0, -math.inf, 4.0, 3),
        (1.0, -9.0, 2.0, -math.inf, 1e-301, 3),
        (1.0, 0.1, 2.0, 0.3, 4.0, 21),
        (1.0, 0.1, 2.0, 0.3, 4.0, 22),
    ]
    found.append([rt._next_point(*point) for point in points])
    return found


# --- engines ---------------------------------------------------------------------------------------------------------

QUESTIONS = {
    "usual": [(1.0, 0.01, 1000)],
    "loud": [(0.3, 0.01, 100)],
    "few": [(0.7, 1e-3, 20)],
    "full": [(30.0, 1.0, 10), (1.0, 0.02, 300)],
    "gaussian": [(50.0, 1.0, 1000)],
    "one": [(1.0, 0.01, 1)],
    "often": [(0.5, 0.5, 200)],
    "silent": [(0.02, 0.003, 20)],
    "nothing": [],
    "seen": [(0.0, 0.01, 20), (1.0, 0.1, 3)],
}


ASKED = {  # epsilons in each direction, epsilons in both, deltas
    "loud": ((0.9,), (9.0,), (1e-9,)),
    "few": ((0.9,), (), (1e-9,)),
    "silent": ((1e-4, 0.9, 9.0), (0.0, 0.9), (0.0, 0.3)),
}


def answers(name: str) -> Any:
    """Return the engines' answers to some questions, and what they keep for others."""
    steps, keep, tables = compose(QUESTIONS[name]), [], []
    one, both, deltas = ASKED.get(name, ((1e-4, 0.9, 9.0, math.inf), (0.0, 0.9, math.inf), (0.0, 1e-9, 0.3, 1.0)))
    return {
        "direction": [en.history_direction_delta(steps, e, d, keep) for e in one for d in ("remove", "add")],
        "proofs": [len(keep), [proof(0.9) for proof in keep]],
        "both": [en.history_delta(steps, e) for e in both],
        "epsilon": [en.history_epsilon_and_table(steps, delta, tables) for delta in deltas],
        "tables": [type(table).__name__ for table in tables],
    }


for _name in QUESTIONS:
    pin(coarse=False, rel_tol=1e-8, name=f"answers_{_name}")(lambda name=_name: answers(name))


@pin(coarse=False, rel_tol=1e-8)
def engine_choices() -> Any:
    usual, few = compose(QUESTIONS["usual"]), compose(QUESTIONS["few"])
    mixed = compose([(5.5, 1.4e-7, 58), (0.1, 1e-5, 1), (3.8, 0.04, 1500)])
    return {
        "work": [en.quick_work(compose([(1.0 + 0.1 * k, 0.01, 1) for k in range(n)])) for n in (1, 40, 400)],
        "grid": [en.grid_or_none(compose(h)) is None for h in ([], [(1.0, 0.1, 1)], [(1.0, 0.1, 2)])],
        "fewer": [
            en._add_delta_of_fewer(steps, e) for steps, e in ((mixed, 6.4), (usual, 1.0), (few, 1.0), (usual, 1e5))
        ],
        "chernoff": [
            en._chernoff_delta(usual, e, d, enough)
            for e in (0.5, 2.0)
            for d in ("remove", "add")
            for enough in (1e-3, 1e-30)
        ],
        "unreachable": [en._chernoff_delta(compose([(1e-4, 0.1, 5)]), 1e-9, d, 1e-9) for d in ("remove", "add")],
        "of remove": [en._add_of_remove(Bounds(0.3, 0.4), e) for e in (0.0, 0.2, 2.0, 701.0)],
    }


@pin(coarse=False, rel_tol=1e-8)
def engines_alone() -> Any:
    usual, few = compose(QUESTIONS["usual"]), compose(QUESTIONS["few"])
    grid, kept = en.grid_or_none(usual), []
    return {
        "add": [
            en.add_direction_delta(usual, e, enough)
            for e, enough in ((0.0, 0.2), (1.0, 1e-3), (1.0, 1e-12), (30.0, 0.0))
        ],
        "by chain": (en._add_delta_by_chain(few, 1e-4, Bounds(3e-3, 4e-3), kept), [proof(1.1e-4) for proof in kept]),
        "chain": en._chain_delta(few, 0.6, Bounds(0.0, 0.1)),
        "direction": [
            en.direction_delta(usual, g, e, d) for g in (None, grid) for e in (1.0,) for d in ("remove", "add")
        ],
        "epsilon": [
            en.direction_epsilon(s, g, 1e-6, d)
            for s, g, d in ((usual, grid, "add"), (few, None, "remove"), (few, None, "add"))
        ],
    }


@pin(coarse=False, rel_tol=1e-8)
def memories() -> Any:
    memory = me.Memory()
    found = [memory.epsilon([(1.0, 0.01, n)], 1e-5) for n in (100, 101, 110, 500, 501, 2000, 1, 7)]
    found += [memory.epsilon([(0.3, 0.01, n), (9.0, 1.0, 3)], 1e-6) for n in (60, 61)]
    found += [memory.epsilon([(1.0, 0.01, 5)], delta) for delta in (0.0, 1.0)]
    return found, me._rounded(np.array([1.0, 5.0, 7.0, 9.0, 1000.0, 0.3])), len(memory._tables)


@pin(coarse=False, rel_tol=1e-7)
def runs() -> Any:
    """A schedule that is asked for step by step, with unsampled steps in between and a change of plan."""
    entries = [(2.0 - 0.01 * k, 0.3, 3) for k in range(6)]
    entries[3] = (30.0, 1.0, 2)
    run, found = None, []
    for known in (3, 5, 6):
        run = me.continued(run, entries[:known], 1e-5)
        found.append(None if run is None else (run.level, run.bounds, run.unsampled, run.mu_squared, len(run.past)))
    assert run is not None
    more = me.continued(run, [*entries[:-1], (*entries[-1][:2], 6)], 1e-5)
    other = [(2.0, 0.01, 5), *entries[1:]]
    return {
        "found": found,
        "more": None if more is None else more.bounds,
        "holds": [
            run.holds(h) for h in (entries, entries[:-1], [*entries, (1.0, 0.1, 1)], other, [*entries, (1.0, "0.1", 1)])
        ],
        "refused": [
            me.continued(None, h, 1e-5) is None
            for h in ([(1.0, 0.1, "3")] * 3, [(0.0, 0.1, 3)] * 3, [(2.0, 1.0, 3)] * 3)
        ],
        "future": [me._future(entries[:known], more) for known in (1, 3, 6) for more in (0.0, 0.1, 1e9)],
        "level": [me._level(value) for value in (1e-9, 0.3, 1.0, 3.9, 4.0, 4.1)],
        "unsampled": me._unsampled(entries),
    }


LIKE = {  # histories and deltas for which lines and chains are made once
    "lines": ([(2.0, 0.3, 3), (1.8, 0.29, 2), (9.0, 1.0, 2)], 1e-5),
    "links": ([(0.5, 1e-3, 2), (0.6, 1e-3, 3)], 1e-6),
    "first": ([(1.0, 0.01, 2), (1.1, 0.01, 1)], 1e-6),
}


def tables(name: str) -> Any:
    """Return what the terms of single phases prove, together and as products."""
    history, delta = LIKE[name]
    steps = compose(history)
    plan = mn.plan_for(steps, delta, en.history_epsilon_and_table)
    if plan is None:
        return None
    terms = plan.product(steps)
    one, other = (plan.terms(steps.select(np.array([k]))) for k in range(2))
    both = one.joined(other)
    ways = ((terms, np.ones(1)), (both, steps.steps), (both.product(steps.steps), np.ones(1)))
    return {
        "plan": (plan.gaps, plan.epsilon, plan.suits(steps, delta)),
        "epsilon": [way.epsilon(counts, steps.gaussian, delta, plan.epsilon) for way, counts in ways],
        "delta": [way.delta(counts, steps.gaussian, plan.epsilon) for way, counts in ways],
        "less": one.epsilon(steps.steps[:1], 0.0, delta, 0.3),
        "add": (one.add, terms.add, both.add),
    }


for _name in LIKE:
    pin(coarse=False, rel_tol=1e-7, name=f"tables_{_name}")(lambda name=_name: tables(name))


@pin(coarse=False, rel_tol=1e-7)
def many_phases() -> Any:
    long = compose([(0.9 + 0.004 * k, 0.01 + 1e-5 * (k % 7), 3 + k % 3) for k in range(60)])
    usual = compose(LIKE["lines"][0])
    return {
        "few": (mn.few_like(long), mn.gaussian_like(long)),
        "epsilon": mn.epsilon_of_many(usual, 1e-5, en.history_epsilon_and_table),
        "delta": mn.delta_of_many(usual, 1.0, en.history_delta, en.history_epsilon_and_table),
    }


@pin(coarse=False, rel_tol=1e-8)
def nearby() -> Any:
    """The answers, and which of them were computed."""
    found: dict[str, Any] = {}
    for which in ("both", "remove", "add"):
        for name in ("usual", "one", "seen", "nothing"):
            asked: list[float] = []
            new = ne.direction_delta_of(compose(QUESTIONS[name]))

            def count(e: float, d: Any, enough: Any, keep: Any, asked: list[float] = asked, new: Any = new) -> Bounds:
                asked.append(e)
                return new(e, d, enough, keep)

            delta = ne.NearbyDelta(count, which)
            found[f"{which} {name}"] = [[delta(e) for e in (1.0, 1.01, 1.001, 0.0, math.inf, 40.0, 50.0)], len(asked)]
    widths = iter([1e-3, 0.7, 0.9, 0.6, 1e-12, 0.8, 0.9])

    def wide(e: float, d: Any, enough: Any, keep: Any) -> Bounds:
        width = next(widths)
        keep.append(
            lambda x: Bounds(math.exp(-x) * (1.0 - width * (1.0 + abs(x - e))) * (abs(x - e) < 1.0), math.exp(-x))
        )
        return keep[-1](e)

    delta = ne.NearbyDelta(wide, "remove")
    found["wide"] = [delta(e) for e in (1.0, 1.0, 5.0, 7.0, 6.0, 5.5, 1.3, 1.0, 9.0)]

    def low_or_wide(e: float, d: Any, enough: Any, keep: Any) -> Bounds:
        keep.append(lambda x: Bounds(0.5 * math.exp(-x), 0.6 * math.exp(-x)) if d == "remove" else Bounds(0.0, 1e-3))
        return keep[-1](e)

    delta = ne.NearbyDelta(low_or_wide, "both")
    found["enough"] = [(delta(e), dict(delta._enough)) for e in (0.5, 0.6, 8.0, 8.1)]
    return found


@pin(rel_tol=1e-7)
def few_steps() -> Any:
    """Atoms of a step and of several; their delta at some epsilons."""
    pairs = {
        "two": [(2.0, 0.001), (0.7, 0.001)],
        "rare": [(0.7, 1e-4)] * 3,
        "often": [(0.9, 0.6), (1.5, 0.2), (3.0, 0.05), (1.0, 0.01)],
    }
    lists = [fw._atoms(s, q, 60) for s, q in ((0.8, 0.01), (0.04, 0.3), (9.0, 0.7))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fw, "CELLS", 60)
        patch.setattr(fw, "CELLS_OF_TWO", 200)
        sums = [fw._sums(one[up], other[up], up=bool(up)) for one, other in pairwise(lists) for up in (0, 1)]
        found = {name: fw.Few(steps) for name, steps in pairs.items()}
        patch.setattr(fw, "_few_of", list)
        made = [
            fw.few_of(compose(history))
            for history in (
                [(1.0, 0.1, 1)], [(1.0, 0.1, 2), (2.0, 0.1, 5)], [(1.0, 1.0, 2)], [(1.0, 0.1, 2), (2.0, 0.1, 4)],
                [(1.0, 0.1, 2)], [(0.099, 0.1, 2)], [(1.0, 1e-31, 2)],
            )
        ]  # fmt: skip
    e = np.array([-3.0, -0.5, -1e-3, -1e-5, 0.0, 1e-9, 0.01, 0.5, 3.0, 40.0, 601.0])
    return {
        "atoms": lists,
        "sums": sums,
        "collapsed": [fw._collapsed(*each) for each in sums[::2]],
        "spread": [fw._spread(*each) for each in sums[1::2]],
        "step": [fw.step_delta(s, q, e) for s, q in ((0.8, 0.01), (0.1, 0.3), (9.0, 0.7), (1.0, 1e-5))],
        "far": fw.step_delta(0.1, 0.3, np.array([599.0, 600.0, 601.0, 1e4])),
        "near": fw.step_delta(1.0, 0.01, math.log1p(-0.01) + np.array([-1e-9, 0.0, 1e-17, 1e-15, 1e-13, 1e-9])),
        "delta": {name: [few.delta(x) for x in (-0.3, -1e-4, 0.0, 1e-3, 0.5, 2.0)] for name, few in found.items()},
        "made": made,
    }


@pin(coarse=False, rel_tol=1e-8)
def chains_led_astray() -> Any:
    """A chain's epsilon where the first guess has no barriers, and where the search goes on from there."""
    steps, known = compose([(0.5, 1e-3, 3), (0.9, 1e-4, 40)]), Bounds(0.0, 6.0)
    found = [en._chain_epsilon(steps, 1e-6, 3.0, known, kept := []), len(kept)]
    asked: list[float] = []
    original = en.router_for_delta

    def first_fails(steps: Any, delta: float, start: float) -> Any:
        asked.append(start)
        if len(asked) == 1:
            raise OutOfReachError("led astray")
        return original(steps, delta, start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(en, "router_for_delta", first_fails)
        again = en._chain_epsilon(steps, 1e-6, 3.0, known, kept := [])
    return [*found, again, len(kept), asked]
