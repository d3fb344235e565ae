"""Probes of single steps: mechanisms, laws, grids, tilted laws, characteristic functions and their decay."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from pins import pin

from opacus_edgeworth import mechanisms as m
from opacus_edgeworth.composition import Composition, compose
from opacus_edgeworth.inversion import characteristic as ch
from opacus_edgeworth.inversion import grid as g
from opacus_edgeworth.inversion import law as lw
from opacus_edgeworth.inversion import quadrature as qd
from opacus_edgeworth.inversion import truncation as tr

HISTORIES = {
    "usual": [(1.0, 0.01, 1000)],
    "two": [(0.8, 0.1, 30), (2.0, 0.05, 400)],
    "full": [(5.0, 1.0, 3), (0.7, 0.02, 25)],
    "loud": [(0.3, 0.01, 100)],
    "often": [(0.6, 0.9, 20)],
    "quiet": [(1000.0, 1e-7, 1_000_000_000)],
}
NOISE = np.array([[0.05], [0.3], [1.0], [4.0]])
RATE = np.array([[0.9], [0.2], [0.01], [1e-6]])
SCORE = np.linspace(-30.0, 30.0, 49) * np.ones((4, 1))


def law(steps: Composition, tilt: float = 3.0, low: float | None = None) -> lw.Law:
    """Return a law with a barrier 4 to 8 standard deviations out, and perhaps one below."""
    soft = lw.softness(steps, 0.35)
    barrier = lw.exact(6.0 + 1.0 / np.maximum(steps.noise_multiplier[:, None], 0.5))
    below = None if low is None else lw.exact(low + 0.0 * barrier)
    return lw.law_for_tilt(steps, tilt, soft, barrier, below)


def laws() -> dict[str, lw.Law]:
    """Return laws without and with a lower barrier."""
    found = {name: law(compose(history)) for name, history in HISTORIES.items()}
    return found | {f"{name} gap": law(compose(HISTORIES[name]), 3.0, 1.5) for name in ("two", "loud")}


def grids() -> dict[str, g.Grid]:
    """Return a grid for each of them."""
    return {name: g.make_grid(one, -1.5, 3.0, 4.0) for name, one in laws().items()}


def tilted(tilts: tuple[float, ...] = (-1.0, 0.3, 0.7, 2.5)) -> dict[str, qd.TiltedSteps]:
    """Return tilted laws."""
    return {name: qd.tilted_steps(grid, np.array(tilts)) for name, grid in grids().items()}


# --- mechanisms, composition -----------------------------------------------------------------------------------------


@pin()
def losses() -> Any:
    loss = m.privacy_loss(SCORE, NOISE, RATE)
    slope = m.loss_slope(loss, SCORE, NOISE, RATE)
    return {
        "loss": list(loss),
        "unsampled": m.privacy_loss(SCORE, NOISE, np.ones((4, 1))),
        "slope": list(slope),
        "error": list(m.privacy_loss_error(loss, slope, SCORE, NOISE)),
        "score": [m.score_at_loss(at, NOISE, RATE) for at in (-1e-8, 0.0, 1e-3, 2.0, 500.0, 1e3)],
        "turn": [list(m.loss_turn(SCORE, theta, NOISE, RATE)) for theta in (np.array([[0.1]]), np.array([[2.5]]))],
    }


@pin()
def compositions() -> Any:
    steps = compose([(1.0, 0.01, 10), (2.0, 0.5, 3), (5.0, 1.0, 2), (0.0, 0.1, 3), (1.0, 0.01, 7), (3.0, 0.0, 9)])
    sampled = compose([(1.0, 0.01, 10), (2.0, 0.5, 3)])
    return {
        "steps": steps,
        "selected": steps.select(np.array([1])),
        "noiseless": (steps.noiseless_delta(), steps.noiseless_epsilon(0.1), steps.noiseless_epsilon(0.5)),
        "limit": (steps.add_direction_limit(), sampled.add_direction_limit()),
        "empty": [
            s.is_empty for s in (compose([]), sampled, steps, compose([(0.0, 0.1, 1)]), compose([(2.0, 1.0, 1)]))
        ],
    }


# --- laws ------------------------------------------------------------------------------------------------------------


@pin()
def law_losses() -> Any:
    return {
        name: {
            "growth": one.growth,
            "selected": one.select(np.array([0])),
            "lost": one.mass_lost(),
            "end": (one.end_lost(), one.cut_off(), one.spill(), one.most_lost()),
            "tilted": [one.log_tilted_loss(t) for t in (-0.5, -4.0)] if one.below is None else None,
            "chi": [one.log_chi(one.barrier + at * one.soft) for at in np.arange(-9.5, 12.0, 1.5)],
        }
        for name, one in laws().items()
    }


@pin()
def close_barriers() -> Any:
    """Both barriers are felt at once."""
    found = {}
    for name, one in laws().items():
        close = replace(one, below=one.barrier - 2.0 * one.soft)
        found[name] = [close.log_chi(one.barrier + at * one.soft) for at in (-9.0, -3.0, -1.5, -0.5, 1.0, 6.0)]
    return found


@pin()
def law_choices() -> Any:
    found: dict[str, Any] = {}
    for name, history in HISTORIES.items():
        steps = compose(history)
        soft = lw.softness(steps, 0.35)
        barrier = lw.barrier_for(steps, -40.0, soft)
        found[name] = {
            "soft": (soft, lw.softness(steps, 0.1)),
            "barrier": (barrier, lw.barrier_for(steps, -5.0, soft), lw.barrier_for(steps, 0.0, soft)),
            "end": [lw.law_for_tilt(steps, t, soft, barrier).end for t in (-2.0, 0.0, 1.0, 4.0, 30.0, 300.0)],
            "gap": [lw.law_for_tilt(steps, t, soft, barrier, barrier - 3.0).end for t in (1.0, 30.0)],
            "like": lw.barriers_like(
                compose(HISTORIES["two"]),
                lw.softness(compose(HISTORIES["two"]), 0.35),
                [np.array([[at], [at + 0.5]]) for at in (-1.0, 2.0, 2.5, 6.0)],
                steps,
            ),
            "nearer": [lw.nearer_law(law(steps), t, -80.0) for t in (-1.0, -30.0)],
        }
    return found


# --- grids -----------------------------------------------------------------------------------------------------------


@pin()
def whole_grids() -> Any:
    return grids()


@pin(coarse=False)
def grid_choices() -> Any:
    one, gap = laws()["two"], laws()["two gap"]
    return {
        "spacing": [
            g.make_grid(law, t, 3.0, reach).spacing
            for law in (one, gap)
            for t in (-40.0, -1.0, 0.0, 0.8)
            for reach in (0.0, 30.0)
        ],
        "points": [g.make_grid(law, t, 3.0, 0.0).score.shape[1] for law in (one, gap) for t in (-40.0, -1.0, 0.5)],
        "tilts": [
            (grid.lowest_tilt, grid.highest_tilt)
            for grid in (g.make_grid(one, 0.5, 0.7, 0.0), g.make_grid(gap, 0.5, 0.7, 0.0))
        ],
        "serves": [
            g.make_grid(one, -1.0, 3.0, 4.0).serves(*asked)
            for asked in ((-1.0, 3.0, 4.0), (-1.1, 3.0, 4.0), (-1.0, 3.1, 4.0), (-1.0, 3.0, 4.1), (0.0, 2.0, 1.0))
        ],
        "low": [g._low_end(t, NOISE, RATE, 40.0) for t in (0.0, -0.5, -20.0, -1e3)],
        "bits": g.few_bits(np.array([1.0, 0.3, 7.7e-5, 123.4])),
    }


@pin()
def small_differences() -> Any:
    return [g.expm1_minus(np.array([x])) for x in (-40.0, -0.26, -0.25, -0.2, -1e-5, 0.0, 1e-9, 0.1, 0.25, 0.3, 5.0)]


@pin()
def grid_errors() -> Any:
    theta, slope = np.array([0.0, 0.3, 1.5, 3.0]), np.array([1e-3, 0.4, 0.5, 0.9])
    tilts = np.array([-2.5, -0.5, 0.0, 1.0, 3.5])
    found: dict[str, Any] = {"strip": [g.strip_bounds(theta, s) for s in slope]}
    for name, grid in grids().items():
        log_mgf = np.full((tilts.size, grid.steps.phases), 0.1)
        found[name] = {
            "shift": g._strip_shift(grid.law, tilts[:, None], 45.0),
            "rule": [list(g.discretisation_error(grid, tilts, reach, log_mgf)) for reach in (0.0, 4.0, 25.0, 80.0)],
            "range": list(g.range_error(grid, tilts, log_mgf)),
        }
    coarse = g.make_grid(law(compose(HISTORIES["usual"])), 0.0, 1.0, 0.0)
    found["hopeless"] = g.discretisation_error(
        g.make_grid(law(compose(HISTORIES["usual"])), 0.0, 1.0, 0.0), np.array([1.0]), 4e4, np.zeros((1, 1))
    )
    found["coarse"] = [g.discretisation_error(coarse, np.array([t]), 60.0, np.zeros((1, 1))) for t in (-3.0, 1.0, 9.0)]
    return found


# --- tilted laws -----------------------------------------------------------------------------------------------------


@pin(rel_tol=1e-7)  # means are differences
def tilted_laws() -> Any:
    return {
        name: {
            "log_mgf": one.log_mgf,
            "log_mgf_error": one.log_mgf_error,
            "mean": one.mean,
            "mean_error": one.mean_error,
            "rounding": list(one.rounding),
            "lost": one.lost,
            "spread": one.spread,
            "turn": one.turn,
            "quadrature": [one.quadrature_error(reach) for reach in (0.0, 4.0, 30.0)],
            "plain": one.plain,
            "upper": qd.log_mgf_upper(one.grid, np.array([-1.0, 0.5, 2.0, 5.0])),
        }
        for name, one in tilted().items()
    }


@pin(rel_tol=1e-7)
def fine_moments() -> Any:
    return {
        name: [qd._fine_moments(grid, np.array([t])) for t in (-1.0, 0.3, 0.5, 0.7, 2.0)]
        for name, grid in grids().items()
        if grid.law.below is None
    }


@pin(coarse=False)
def log_errors() -> Any:
    return qd.log_error(np.array([0.0, 1e-9, 0.5, 1.0 - 1e-16, 1.0, 2.0]))


# --- characteristic functions ----------------------------------------------------------------------------------------


@pin(rel_tol=1e-7)
def cf_logs() -> Any:
    found: dict[str, Any] = {}
    for name, one in tilted((0.5, 2.5)).items():
        wrong = np.full(one.log_mgf.shape, 1e-7)
        logs = ch.log_steps(one, wrong, 0.7, 23)
        y = 0.7 * np.arange(23)
        found[name] = {
            "value": logs.value,
            "error": logs.error,
            "cf": ch.log_cf(one.grid.steps, one.tilt, y, logs),
            "lost": ch.log_steps(one, wrong + 0.3, 0.7, 23).error,
        }
    return found


@pin()
def logarithms() -> Any:
    angle = np.array([0.0, 1e-9, 1e-3, 0.3, 0.49, 0.51, 2.0, 3.1, 30.0, -0.2, -5.0])
    x = np.array([0.0, 1e-9 + 2e-9j, -0.3 + 0.4j, -0.9 + 0.1j, 0.9j, -0.7j, 1.5 - 2.0j, 1e8 + 1e7j, -2.0 + 1e-4j])
    found = {
        "turned": ch._expm1_imaginary(angle),
        "less": list(ch._less_angle(ch._expm1_imaginary(angle), angle)),
        "log1p": [ch._log1p(x[i : i + 1], np.array([w])) for i in range(x.size) for w in (0.0, 1e-5, 0.1)],
        "factor": [ch.log_factor(x[i : i + 1], np.array([w])) for i in range(x.size) for w in (1e-5, 0.5, 3.0)],
        "larger": ch.log_factor(x, np.full(x.size, 2.0), 1.7),
        "strange": ch._log1p(np.array([math.inf + 0j, math.nan + 1j, 1.0 + 0j]), np.array([0.0, 0.0, math.inf])),
    }
    counts = np.array([3.0, 5.0])
    value = np.array([[0.1 + 1j, -0.2 + 0.3j, -5.0 + 0j], [0.3 - 1j, -0.1 - 0.3j, -1.0 + 2j]])
    for key, error in (("known", 1e-3), ("unknown", math.inf)):
        wrong = np.full((2, 3), 1e-4)
        wrong[1, 2] = error
        logs = ch.Logs(value, wrong)
        found[key] = (logs.power(counts), logs.product(counts), logs.product(counts, True), logs.joined(logs))
    return found


@pin(rel_tol=1e-9)
def gap_cfs() -> Any:
    steps = compose([(0.8, 0.1, 30), (2.0, 0.05, 400), (4.0, 1.0, 2)])
    found: dict[str, Any] = {}
    for tilt in (1.5, 3.0):
        base, both = law(steps, tilt), law(steps, tilt, 1.5)
        where = np.arange(2)
        base = lw.law_for_tilt(steps, tilt, base.soft, base.barrier - 4.5)
        groups = []
        for one, chosen in ((base, where), (both, np.array([1]))):
            grid = g.make_grid(one.select(chosen), tilt, tilt, 12.0)
            groups.append([ch.Group(chosen, qd.tilted_steps(grid, np.array([tilt])), np.full(chosen.size, 1e-6))])
        logs = ch.log_gaps(2, *groups, 0.6, 17)
        found[str(tilt)] = {
            "logs": logs,
            "cf": ch.gap_cf(steps, tilt, 0.6 * np.arange(17), logs),
            "product": (logs.product(steps.steps), logs.joined(logs)),
        }
    base, gap = (
        ch._Phase(0, np.array([0.1 - 0.3j, -0.9 + 0.1j]), np.array([wrong, wrong]), log_mgf, 1e-3)
        for wrong, log_mgf in ((0.2, 0.1), (0.4, -0.7))
    )
    lost = replace(base, wrong=np.array([3.0, 3.0]))
    found["sums"] = [(ch._log_sum(one, gap), ch._log_ratio(one, gap), ch._share(one, gap)) for one in (base, lost)]
    huge = ch.Logs(np.full((2, 3), 400.0 + 1j), np.full((2, 3), 1e-3))
    small = ch.Logs(np.full((2, 3), -0.1 + 1j), np.array([[1e-3, 1e-1, math.inf]] * 2))
    one = compose([(0.8, 0.1, 3), (2.0, 0.05, 4)])
    for key, logs in (
        ("huge", (small, small, huge)),
        ("whole", (huge, small, small)),
        ("small", (small, small, small)),
    ):
        found[key] = ch.gap_cf(one, 2.0, np.array([0.0, 1.0, 2.0]), ch.GapLogs(*logs))
    return found


# --- decay -----------------------------------------------------------------------------------------------------------


@pin()
def decays() -> Any:
    found: dict[str, Any] = {
        "sinc": [tr.one_minus_sinc(np.array([x])) for x in (0.0, 0.05, 0.1, 0.11, 2.4, 2.5, 4.0, 50.0)]
    }
    for name, one in tilted((-1.0, 2.5)).items():
        layers = tr.decay_bound(one)
        shifted = tr.shifted_bound(one)
        found[name] = {
            "layers": (layers.mass.sum(axis=-1), [layers.log_phi(y) for y in (0.1, 2.0, 30.0)], layers.log_bound(3.0)),
            "shifted": (shifted.log_size, shifted.turn, shifted.log_edge),
            "bound": [shifted.log_bound(y) for y in (0.1, 2.0, 30.0, 1e4)],
        }
    steps = compose([(2.0, 1e-3, 50)])  # ends where its loss hardly turns yet
    near = lw.law_for_tilt(steps, 1.0, lw.softness(steps, 0.35), np.array([[2.0]]))
    shifted = tr.shifted_bound(qd.tilted_steps(g.make_grid(near, -5.0, 1.0, 2.0), np.array([-1.0, -5.0])))
    found["near"] = (shifted, [shifted.log_bound(y) for y in (0.1, 2.0, 30.0)])
    density = np.array([[[0.1, 0.5, 0.2, 0.7, 0.3, 0.4, 0.0], [0.9, 0.1, 0.1, 0.5, 0.05, 0.3, 0.2]]])
    found["minorant"] = list(tr._unimodal_minorant(density)[0])
    found["sliced"] = tr.layers(density, np.array([[0.5, 0.1, 1.0, 0.2, 0.3, 0.1, 0.4], [1.0] * 7]))
    return found
