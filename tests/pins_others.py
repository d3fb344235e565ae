"""Probes of what is not Gaussian, of other measures of privacy, and of calibration."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from pins import pin
from pins_lines import refused
from pins_steps import law as law_of

from opacus_edgeworth import calibration as cb
from opacus_edgeworth import rounding
from opacus_edgeworth import search as se
from opacus_edgeworth import solving as so
from opacus_edgeworth import targets as ta
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import compose
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import CalibrationError
from opacus_edgeworth.meaning import gaussian as ga
from opacus_edgeworth.meaning import profile as pr
from opacus_edgeworth.meaning import renyi as re
from opacus_edgeworth.meaning import risk as ri
from opacus_edgeworth.meaning import tradeoff as tf
from opacus_edgeworth.mechanisms import (
    DiscreteMechanism,
    Laplace,
    PoissonSubsampledLaplace,
    RandomizedResponse,
    ReplacedSubsampledGaussian,
)
from opacus_edgeworth.mixed import atoms as at
from opacus_edgeworth.mixed import contour as mc
from opacus_edgeworth.mixed import engines as me
from opacus_edgeworth.mixed import laplace as la
from opacus_edgeworth.mixed import law as lw
from opacus_edgeworth.mixed import outcomes as oc
from opacus_edgeworth.mixed import panels as pa
from opacus_edgeworth.mixed import points as po
from opacus_edgeworth.mixed import replaced as re_
from opacus_edgeworth.mixed import sampled as sp
from opacus_edgeworth.mixed import side as si

APART = DiscreteMechanism((0.9, 0.09, 0.01), (0.1, 0.2, 0.7))
DISCRETE = DiscreteMechanism((0.5, 0.3, 0.15, 0.05, 0.0), (0.4, 0.31, 0.1, 0.0, 0.19))
RESPONSE, CHOICE = RandomizedResponse(1.2, 2), RandomizedResponse(0.4, 5)
SAMPLED = [PoissonSubsampledLaplace(2.0, 0.1), PoissonSubsampledLaplace(0.3, 0.9), PoissonSubsampledLaplace(0.002, 0.5)]
DIRECTIONS = ("remove", "add")
NOTHING = compose([])
GAUSSIAN = compose([(1.0, 0.01, 100), (4.0, 1.0, 2)])


# --- laws and atoms --------------------------------------------------------------------------------------------------


def loss_laws() -> dict[str, lw.LossLaw]:
    """Return laws of every kind."""
    found = {"response": lw.response_law(RESPONSE), "choice": lw.response_law(CHOICE), "laplace": lw.laplace_atoms(0.7)}
    for d in DIRECTIONS:
        found[f"discrete {d}"] = lw.discrete_law(DISCRETE, d)
        found[f"apart {d}"] = lw.discrete_law(APART, d)
        found |= {f"sampled {m.scale} {d}": lw.sampled_laplace_law(m, d) for m in SAMPLED}
    return found


@pin()
def loss_laws_alone() -> Any:
    mixture = [
        lw.log_mixture(np.array([-800.0, -5.0, -0.1, 0.0, 1e-9, 3.0, 699.0, 701.0, 2e3]), q) for q in (1e-6, 0.3, 0.97)
    ]
    return {name: (law, law.largest_loss) for name, law in loss_laws().items()} | {"mixture": mixture}


@pin()
def atom_compositions() -> Any:
    found: dict[str, Any] = {}
    for name, law in loss_laws().items():
        if law.density is None:
            atoms = at.compose_atoms([(law, 7), (lw.response_law(CHOICE), 2)])
            found[name] = (
                atoms,
                [atoms.delta(e) for e in (0.0, 0.4, 2.0, 30.0)],
                [atoms.guess(d) for d in (0.9, 0.1, 1e-4, 1e-12)],
            )
    one = at.Atoms(np.array([-1.0, 0.5, 2.0]), np.array([0.2, 0.5, 0.3]), 1e-5, 1e-4, 1e-6)
    close = at.Atoms(np.array([0.0, 1e-15, 1.0]), np.array([1e-30, 0.5, 1e-39]), 0.0, 0.0, 0.0)
    found["product"] = (at._product(one, close), at._product(close, close), at._power(one, 5), at._power(one, 0))
    found["delta"] = [one.delta(e) for e in (0.0, 1.0, 3.0)]
    wide = at.Atoms(np.arange(1500.0), np.ones(1500) / 1500, 0.0, 0.0, 0.0)
    wrong = at.Atoms(np.zeros(1), np.ones(1), 0.0, 9e-4, 0.0)
    found["refused"] = [refused(lambda: at._product(wide, wide)), refused(lambda: at._product(wrong, wrong))]
    return found


@pin()
def panels() -> Any:
    found: dict[str, Any] = {}
    for name, law in loss_laws().items():
        if law.density is not None:
            for t, reach in ((1.5, 0.0), (-2.0, 0.0), (4.0, 30.0)):
                made = pa.make_panels(law.density, t, reach)
                found[f"{name} {t}"] = (
                    made,
                    [made.log_error(tilt, y) for tilt in (-3.0, 0.0, 1.0, 4.0) for y in (0.0, 30.0)],
                    pa.log_end_densities(law.density, t),
                )
    return found


@pin(rel_tol=1e-9)
def points() -> Any:
    found: dict[str, Any] = {}
    for name, law in loss_laws().items():
        if "0.002" in name:
            continue  # one atom is all: what is left is rounding
        part = po.PointsPart(law, 9.0)
        for c in (1.4, 5.0):
            tilted = part.at(c, 10.0)
            found[f"{name} {c}"] = {
                "moments": part.moments(c),
                "upper": (part.upper(c), tilted.upper(2.5)),
                "tilted": (
                    tilted.weight,
                    tilted.log_phi,
                    tilted.log_phi_error,
                    tilted.atoms,
                    tilted.mean,
                    tilted.mean_error,
                    tilted.rounding,
                    tilted.spread,
                    tilted.turn,
                    tilted.log_peak,
                    tilted.log_peak_error,
                ),
                "beyond": [tilted.log_beyond(y) for y in (0.5, 20.0, 1e3)],
                "cf": [refused(lambda: tilted.log_cf(h, count)) for h, count in ((0.5, 9), (3.0, 12))],  # noqa: B023
            }
    return found


@pin(rel_tol=1e-9)
def laplace() -> Any:
    found: dict[str, Any] = {"sinhc": [la._sinhc_less_one(x) for x in (0.0, 1e-3, 0.9, 1.0, 1.1, 9.0)]}
    for rate in (1e-3, 0.7, 3.0, 60.0):
        part = la.LaplacePart(rate, 9.0)
        for c in (1.01, 1.4, 5.0, 200.0):
            tilted = part.at(c, 10.0)
            found[f"{rate} {c}"] = {
                "phi": [la.log_phi(rate, t) for t in (0.5, 0.8, 1.0, c)],
                "moments": part.moments(c),
                "upper": (part.upper(c), tilted.upper(2.5)),
                "peak": (tilted.log_peak, tilted.log_peak_error),
                "beyond": [tilted.log_beyond(y) for y in (0.01, 5.0, 1e3)],
                "cf": tilted.log_cf(0.4, 12),
            }
        found[f"{rate} delta"] = [la.laplace_delta(rate, e) for e in (0.0, 0.3, 2.99, 3.0, 59.9, 61.0)]
        found[f"{rate} sampled"] = [
            la.sampled_laplace_delta(rate, q, e, d)
            for q in (1e-9, 0.2, 0.95)
            for d in DIRECTIONS
            for e in (0.0, 1e-4, 0.1, 2.0, 50.0, 599.0, 601.0)
        ]
    return found


@pin(rel_tol=1e-9)
def replaced_steps() -> Any:
    found: dict[str, Any] = {}
    for noise, rate in ((1.0, 0.05), (3.0, 0.5), (0.6, 0.01)):
        density = lw.ReplacedDensity(noise, rate)
        for t, reach in ((1.3, 2.0), (4.0, 20.0)):
            rule = re_.make_replaced_rule(density, t, reach)
            log_phi = float(np.logaddexp.reduce(rule.log_mass + t * rule.loss)) - 1e-9
            decay = rule.decay(t, Bounds(log_phi, log_phi))
            height = re_.SHARES * min(3.0 * noise, re_.HIGHEST)
            found[f"{noise} {t}"] = {
                "rule": rule,
                "error": [rule.log_error(tilt, y) for tilt in (0.0, 1.0, t) for y in (0.0, reach, 90.0)],
                "coarse": [replace(rule, spacing=32.0 * rule.spacing).log_error(tilt, 3.0) for tilt in (0.3, t)],
                "decay": (decay.mass.sum(), float(decay.mass @ decay.width), decay.log_size, decay.turn, decay.log_far),
                "bound": [decay.log_bound(y) for y in (0.3, 3.0, 50.0)],
                "parts": (rule._log_cells(t, height), rule._turn(height, 0.5), rule._log_far(t, height, reach)),
                "tails": [rule._log_tails(tilt) for tilt in (0.0, 0.7, t, 99.0)],
                "ends": re_._ends(density, t),
            }
        found[f"{noise} delta"] = [
            re_.replaced_delta(noise, rate, e)
            for e in (0.0, 1e-3, 0.05, 0.1, 0.2, 0.5, 0.7, 1.5, 2.0, 3.0, 5.0, 8.0, 50.0, 601.0)
        ]
        found[f"{noise} beyond"] = [
            (re_._beyond(u, noise, rate, c), re_._scaled(0.7, u, noise, rate))
            for u in (-1.0, 3.0, 30.0)
            for c in (1.0, -1.0)
        ]
    theta = np.array([0.0, 0.3, 2.0, 3.1])
    found["shrink"] = [
        re_._shrink(theta, *ends)
        for ends in (
            (0.0 * theta, 0.0 * theta + 0.3),
            (0.2 + 0.0 * theta, 0.7 + 0.0 * theta),
            (0.6 + 0.0 * theta, 1.5 + 0.0 * theta),
        )
    ]
    found["refused"] = [
        refused(lambda: re_.make_replaced_rule(lw.ReplacedDensity(s, q), t, y))  # noqa: B023
        for s, q, t, y in (
            (1e-3, 0.1, 20.0, 0.0),
            (0.01, 0.1, 2.0, 1e7),
        )
    ]
    return found


@pin(coarse=False, rel_tol=1e-7)
def replaced_answers() -> Any:
    step = ReplacedSubsampledGaussian(1.0, 0.05)
    others, nothing = ((step, 20),), compose([])
    side = si.make_side(nothing, others, "remove")
    total = side.parts(-60.0)
    line = mc.make_line(total, mc.saddle_for_epsilon(total, 1.0), 1.0, 900)
    return {
        "delta": [me.mixed_delta(nothing, others, e) for e in (0.0, 1.0)],
        "epsilon": me.mixed_epsilon(nothing, others, 1e-4),
        "one": me.mixed_delta(nothing, ((step, 1),), 0.3),
        "side": (
            side.largest_loss(),
            side.revealed(),
            side.is_discrete,
            side.others_are_discrete,
            refused(side.atoms_alone),
        ),
        "line": (line.is_exact, line.above.y.size, line.above.step, line.above.log_beyond),
        "rho": [re.zcdp_rho(nothing, one) for one in (others, ((ReplacedSubsampledGaussian(0.7, 0.1), 3),))],
        "renyi": [re.renyi_divergence(nothing, others, a, "remove") for a in (1.5, 8.0)],
        "beyond": [re._ratio_beyond(nothing, (*others, (RESPONSE, 2)), a, "remove") for a in (2.0, 900.0)],
    }


# --- sides and lines -------------------------------------------------------------------------------------------------

KINDS = {
    "responses": (NOTHING, ((RESPONSE, 20), (CHOICE, 3))),
    "discrete": (NOTHING, ((DISCRETE, 4),)),
    "laplace": (NOTHING, ((Laplace(2.0), 12),)),
    "one": (NOTHING, ((SAMPLED[0], 1),)),
    "sampled": (NOTHING, ((SAMPLED[0], 30),)),
    "gaussian": (GAUSSIAN, ()),
    "both": (GAUSSIAN, ((RESPONSE, 1),)),
    "smooth": (compose([(4.0, 1.0, 2)]), ((Laplace(2.0), 3), (DISCRETE, 1))),
    "sampled ones": (compose([(1.0, 0.01, 100)]), ((SAMPLED[0], 4),)),
    "silent": (
        NOTHING,
        (
            (RandomizedResponse(0.0, 3), 5),
            (PoissonSubsampledLaplace(1.0, 0.0), 2),
            (DiscreteMechanism((0.5, 0.5), (0.5, 0.5)), 1),
        ),
    ),
    "seen": (compose([(0.0, 0.1, 3)]), ((RESPONSE, 1),)),
    "loud": (NOTHING, ((Laplace(0.01), 2),)),
}


@pin()
def sides() -> Any:
    found: dict[str, Any] = {}
    for name, (gaussian, others) in KINDS.items():
        for d in DIRECTIONS:
            side = si.make_side(gaussian, others, d)
            found[f"{name} {d}"] = {
                "side": (
                    len(side.others),
                    len(side.laws),
                    side.rates,
                    side.is_discrete,
                    side.others_are_discrete,
                    si.is_symmetric(gaussian, others),
                ),
                "ends": (side.revealed(), side.largest_loss()),
                "form": [side.closed_form(e) for e in (0.0, 0.3, 2.0)],
                "least": [side.lower_bound(e) for e in (0.0, 0.3, 2.0)],
                "alone": refused(side.atoms_alone),
                "atoms": refused(side.atoms) if side.others_are_discrete else None,
                "parts": len(side.parts(-60.0).parts),
            }
    return found


@pin(coarse=False, rel_tol=1e-7)
def mixed_lines() -> Any:
    found: dict[str, Any] = {}
    for name in ("laplace", "sampled", "gaussian", "both", "smooth", "discrete", "loud"):
        gaussian, others = KINDS[name]
        for d in DIRECTIONS if name in ("gaussian", "discrete") else ("remove",):
            total = si.make_side(gaussian, others, d).parts(-60.0)
            c = refused(lambda: mc.saddle_for_epsilon(total, 1.2))  # noqa: B023
            found[f"{name} {d}"] = [
                total.moments(1.7),
                total.upper(1.7),
                c,
                refused(lambda: mc.saddle_for_delta(total, 1e-4)),  # noqa: B023
                [
                    mc.chernoff_delta(total, 1.2, 2.0),
                    mc.chernoff_epsilon(total, 1e-4, 2.0),
                    mc.nearly_all(total, 0.01),
                    mc.nearly_all(total, 0.3),
                ],
            ]
            if c == "refused":
                continue
            for most in (200, 900):
                line = refused(lambda: mc.make_line(total, c, 1.2, most))  # noqa: B023
                found[f"{name} {d} {most}"] = (
                    "refused"
                    if line == "refused"
                    else [
                        line.is_exact,
                        line.delta(1.2),
                        line.delta(1.0),
                        line.above.step,
                        line.above.y.size,
                        line.above.log_beyond,
                        line.above.log_peak,
                        line.above.size,
                        line.above.chernoff,
                        None if line.below is None else (line.below.size, line.below.log_beyond),
                    ]
                )
    return found


@pin(rel_tol=1e-7)
def mixed_errors() -> Any:
    found: dict[str, Any] = {}
    for name in ("laplace", "sampled", "both", "smooth"):
        gaussian, others = KINDS[name]
        total = si.make_side(gaussian, others, "add").parts(-60.0)
        line = refused(lambda: mc.make_line(total, 2.3, 1.2, 400))  # noqa: B023
        found[name] = (
            "refused"
            if line == "refused"
            else [
                (one.error, one.log_peak_error, one.cut_off, one.log_cut_share)
                for one in (line.above, line.below)
                if one is not None
            ]
            + [
                total.upper(2.3),
                total.composed([0.3, -0.2], 2.0),
                mc.chernoff_delta(total, 1.2, 2.0),
                mc.chernoff_epsilon(total, 1e-4, 2.0),
            ]
        )
    return found


@pin(rel_tol=1e-7)
def sampled_parts() -> Any:
    found: dict[str, Any] = {}
    for d in DIRECTIONS:
        part = sp.sampled_part(compose([(1.0, 0.01, 100), (2.0, 0.2, 3)]), d, -60.0)
        for c in (1.3, 4.0):
            tilted = part.at(c, 3.0)
            found[f"{d} {c}"] = [
                part.moments(c),
                part.upper(c),
                (tilted.log_peak, tilted.log_peak_error, tilted.lost, tilted.log_lost_share),
                tilted.upper(2.0),
                [tilted.log_beyond(y) for y in (0.5, 9.0)],
                tilted.log_cf(0.4, 9),
            ]
        found[f"{d} low"] = (part.upper(0.7), part.upper(1.0))
    found["far"] = refused(lambda: part.at(1.3, 3.0).log_cf(0.5, 4_000_000))
    return found


@pin(rel_tol=1e-8)
def outcomes() -> Any:
    atoms = at.Atoms(np.array([-1.0, 0.5, 2.0]), np.array([0.2, 0.5, 0.3]), 1e-5, 1e-4, 1e-6)
    found = [oc.delta_over_outcomes(atoms, compose([(2.0, 1.0, 1)]), e, d) for e in (0.0, 0.7, 3.0) for d in DIRECTIONS]
    return found, [
        oc._delta_anywhere(compose([(1.0, 0.1, 1)]), e, d) for e in (-2.0, -0.01, 0.0, 0.1) for d in DIRECTIONS
    ]


@pin(coarse=False, rel_tol=1e-8)
def outcomes_of_steps() -> Any:
    return [oc._delta_anywhere(compose([(1.0, 0.1, 3)]), -0.01, d) for d in DIRECTIONS]


ASKED = {  # epsilons, deltas, epsilons in each direction
    "laplace": ((0.3,), (0.0, 1e-4, 1.0), (1e13,)),
    "sampled": ((3.0,), (0.0, 1.0), (1e13,)),
    "sampled ones": ((0.3, 3.0), (1e-4,), (1.0,)),
    "both": ((0.3, 3.0), (1e-4, 0.95), (0.0, 1.0)),
    "loud": ((0.3, 1e13), (0.0, 1e-4), (1.0,)),
}


def mixed_answers(name: str) -> Any:
    """Return the answers to some questions."""
    (gaussian, others), keep = KINDS[name], []
    epsilons, deltas, one = ASKED.get(name, ((0.0, 0.3, 300.0), (0.0, 1e-4, 0.2, 0.95, 1.0), (0.0, 1.0)))
    new = me.mixed_direction_delta_of(gaussian, others)
    return {
        "delta": [me.mixed_delta(gaussian, others, e) for e in epsilons],
        "epsilon": [me.mixed_epsilon(gaussian, others, d) for d in deltas],
        "direction": [new(e, d, enough, keep) for e in one for d in DIRECTIONS for enough in (None, 0.2)],
        "kept": [len(keep), [proof(1.0) for proof in keep]],
    }


for _name in KINDS:
    pin(coarse=False, rel_tol=1e-7, name=f"mixed_answers_{_name.replace(' ', '_')}")(
        lambda name=_name: mixed_answers(name)
    )


@pin(coarse=False, rel_tol=1e-8)
def mixed_searches() -> Any:
    side = si.make_side(*KINDS["smooth"], "remove")
    total = side.parts(-60.0)
    return {
        "lower": [me._lower_epsilon(side, d, most) for d in (0.05, 0.2, 0.9) for most in (math.inf, 0.1)],
        "lines": [
            (line.is_exact, line.above.step, line.above.y.size)
            for line in islice(me._lines(total, mc.saddle_for_epsilon(total, 0.4), 0.4), 3)
        ],
        "few": [
            refused(lambda: len(me._few_atoms(si.make_side(*KINDS[name], "remove"), most).loss))  # noqa: B023
            for name, size in (("responses", 127), ("discrete", 15), ("laplace", 4))
            for most in (3, size - 1, size, 400)
        ],
        "quick": [me._quick_delta(total, e, enough) for e in (0.3, 3.0) for enough in (0.1, 1e-9)],
        "least": me._least_chernoff(total, 1.0, [0.5, 2.0, 1e9]),
        "add": [me._add(Bounds(0.1, 0.2), Bounds(low, high)) for low, high in ((0.0, 0.0), (0.3, 0.4), (0.85, 0.95))],
        "chernoff": [refused(lambda: mc.saddle_for_delta(total, d)) for d in (0.1, 1e-12)],  # noqa: B023
    }


# --- meanings --------------------------------------------------------------------------------------------------------


def profiles() -> dict[str, pr.Profile]:
    """Return cheap profiles: closed forms, and one with wide bounds."""
    found = {
        "gaussian": PrivacyCurve([(1.5, 1.0, 1)])._profile("both"),
        "step": PrivacyCurve([(1.0, 0.1, 1)])._profile("remove"),
        "add": PrivacyCurve([(1.0, 0.1, 1)])._profile("add"),
        "laplace": PrivacyCurve([(Laplace(2.0), 1)])._profile("both"),
        "discrete": PrivacyCurve([(DISCRETE, 2)])._profile("remove"),
    }

    def wide(epsilon: float) -> Bounds:
        value = ga.gaussian_delta(0.8, epsilon)
        return Bounds(value * 0.999, min(value * 1.001, 1.0))

    return found | {"wide": pr.Profile(wide, wide)}


@pin(coarse=False, rel_tol=1e-7)
def attacks() -> Any:
    found: dict[str, Any] = {}
    for name, profile in profiles().items():
        found[name] = [
            [tf.best_attack(profile, alpha) for alpha in (0.0, 1e-300, 1e-12, 0.01, 0.3, 0.9, 1.0)],
            [tf.least_false_positive_rate(profile, beta) for beta in (1e-300, 1e-6, 0.1, 0.7)],
            len(profile._known) if name != "wide" else None,
            profile.scale(),
            [profile.delta(e) for e in (-2.0, -1e-3, 0.0, 1.0)],
        ]
    return found


@pin(coarse=False, rel_tol=1e-6)
def best_attacks() -> Any:
    lines = tf._Lines(profiles()["wide"], 0.05), tf._Lines(profiles()["wide"], 0.95, 0.05)
    return [tf._about_the_best(line) for line in lines]


@pin()
def attack_parts() -> Any:
    curved = [Bounds(v - 1e-4, v + 1e-4) for v in (0.9, 0.5, 0.3, 0.35, 0.6)]
    rising = [Bounds(v - 1e-4, v + 1e-4) for v in (0.2, 0.3, 0.5, 0.8, 1.2)]
    falling, place = rising[::-1], [-0.4, -0.2, 0.0, 0.3, 0.7]
    lines = tf._Lines(profiles()["wide"], 0.05)
    other = tf._Lines(profiles()["wide"], 0.95, 0.05)
    return {
        "least": [tf._least_of(p, place, far) for p in (curved, rising, falling) for far in (0.3, 2.0)],
        "between": [
            tf._least_between(p[i : i + 4], place[i : i + 4]) for p in (curved, rising, falling) for i in (0, 1)
        ],
        "widened": [tf._widened(*ends) for ends in ((-0.3, -0.2), (0.0, 0.4), (-1.0, 2.0))],
        "minus": tf._minus(Bounds(0.1, 0.2)),
        "of": [tf._of_tpr(*ends) for ends in ((-0.1, 0.2), (0.3, 0.9), (0.5, 1.5))],
        "both": tf._both(tf._of_tpr(0.3, 0.9), tf._of_tpr(0.2, 0.8)),
        "outward": [pr.outward(*ends) for ends in ((-0.1, 0.5), (0.3, 0.4), (0.9, 1.5), (-0.5, -0.1))],
        "rates": [line.rates(e) for line in (lines, other) for e in (-3.0, -0.2, 0.0, 0.7)],
        "odds": [line.log_odds(e) for line in (lines, other) for e in (-700.0, -3.0, 0.0, 0.7, 40.0)],
        "width": [line.width(e) for line in (lines, other) for e in (-3.0, 0.7)],
        "surround": [line._surround(e, step) for line in (lines, other) for e, step in ((-1.0, 0.2), (0.5, 0.3))],
        "attack": [line.attack(e) for line in (lines, other) for e in (-1.0, 0.5)],
        "most": lines._at_most(lines.rates(0.3), lines.rates(1.0)),
    }


@pin(coarse=False, rel_tol=1e-7)
def risks() -> Any:
    return {
        name: [
            [
                ri.posterior(profile, prior, failure)
                for prior in (0.0, 1e-120, 0.01, 0.5, 1.0)
                for failure in (1e-3, 0.2)
            ],
            [ri.precision(profile, prior, alpha) for prior in (0.0, 0.01, 0.5, 1.0) for alpha in (1e-3, 0.2)],
            [ri.bayes_success(profile, prior) for prior in (0.0, 1e-120, 0.01, 0.5, 0.7, 1.0)],
        ]
        for name, profile in profiles().items()
    }


@pin(rel_tol=1e-7)
def rooms() -> Any:
    """What is allowed for rounding where delta is known exactly."""
    exact = pr.Profile(lambda e: Bounds(0.5 * math.exp(-abs(e)), 0.5 * math.exp(-abs(e))), lambda e: Bounds(0.25, 0.25))
    return {
        "bayes": [ri.bayes_success(exact, prior) for prior in (0.01, 0.3, 0.5, 0.7, 0.999)],
        "mu": [ga._mu_at(e, d, up=up) for e in (0.3, 5.0) for d in (1e-9, 0.2, 0.99) for up in (True, False)],
    }


@pin(coarse=False, rel_tol=1e-7)
def gaussian_units() -> Any:
    found: dict[str, Any] = {}
    for name in ("gaussian", "laplace", "wide"):
        profile = profiles()[name]
        search = ga._Mu(profile, 1.0 - 1e-3)
        found[name] = [
            [
                ga.gaussian_mu(profile, floor, Bounds(max(end, 0.0), end + 0.1))
                for floor, end in ((1e-3, 1.0), (0.05, 0.3), (1e-3, -0.1))
            ],
            [ga.gaussian_regret(profile, mu) for mu in (0.3, 1.0)],
            [search.between(*pair) for pair in ((0.0, 0.1), (0.5, 0.6), (0.1, 3.0), (1.0, 900.0))],
            [(search.below(e), search.above(e)) for e in (0.0, 0.5)],
            len(profile._known),
        ]
    found["mu"] = [
        ga._mu_at(e, d, up=up) for e in (0.0, 0.3, 5.0) for d in (0.0, 1e-9, 0.2, 0.99, 1.0) for up in (True, False)
    ]
    found["tiny"] = [ga._mu_at(5.0, 1e-320, up=up) for up in (True, False)]
    found["delta"] = [ga.gaussian_delta(mu, e) for mu in (1e-3, 0.7, 30.0) for e in (0.0, 0.5, 600.0)]
    return found


@pin(rel_tol=1e-7)
def renyi() -> Any:
    found: dict[str, Any] = {}
    for name, (gaussian, others) in (KINDS | {"plain": (compose([(0.7, 0.02, 25), (0.05, 0.3, 2)]), ())}).items():
        if name != "loud":
            found[name] = [
                [
                    refused(lambda: re.renyi_divergence(gaussian, others, a, d))  # noqa: B023
                    for a in (1.001, 2.0, 9.0, 300.0)
                    for d in DIRECTIONS
                ],
                re.zcdp_rho(gaussian, others),
            ]
    for noise, rate in ((0.7, 0.02), (4.0, 0.3)):
        steps = compose([(noise, rate, 25)])
        found[f"above {noise}"] = [re._log_above(law_of(steps, max(t, 1.0)), t) for t in (-3.0, -0.5, 1.5, 9.0)]
        found[f"mgf {noise}"] = [re._log_mgf(steps, a, d) for a in (1.001, 2.0, 9.0) for d in DIRECTIONS]
    found["chord"] = [
        re._chord_ratio(*chord)
        for chord in ((1.0, 0.0, 2.0, 0.4), (2.0, 0.5, 3.0, 1.9), (2.0, 1.0, 9.0, 1.2), (2.0, 0.3, 3.0, 0.3))
    ]
    found["far"] = [refused(lambda: re.renyi_divergence(compose([(1e-3, 0.1, 5)]), (), a, "add")) for a in (2.0, 1e7)]  # noqa: B023
    return found


# --- calibration -----------------------------------------------------------------------------------------------------


@pin(coarse=False, rel_tol=1e-9)
def searches() -> Any:
    """What is found, and how often it is asked."""
    found: list[Any] = []

    def count(search: Any, curve: Any, *args: Any) -> None:
        asked: list[float] = []

        def excess(x: float) -> float:
            asked.append(x)
            return curve(x)

        try:
            result = search(excess, *args)
        except CalibrationError:
            result = "refused"
        found.append((result, len(asked), asked))

    straight, plateau = (lambda x: 2.0 * math.log(5.0 / x)), (lambda x: 1.0 if x < 7.0 else -0.5)
    for curve in (straight, plateau, lambda x: 1.0, lambda x: -1.0, lambda x: math.inf if x < 0.3 else 0.3 - x):
        for args in ((1e-9, 1.0, 2.0), (1e-3, 30.0, 1.0), (1e-6, 5.0, 2.0, False)):
            count(se.smallest_safe, curve, *args)
    for curve in (
        lambda n: math.log(n / 77.5),
        lambda n: -1.0,
        lambda n: 1.0,
        lambda n: 0.0 if n < 9 else math.inf,
        lambda n: n / 1e6 - 3.3,
    ):
        for args in ((10.0, 2**53), (1e9, 10**7, 1.0), (math.inf, 500, 3.0)):
            count(se.largest_safe_integer, curve, *args)
    found.append(
        [se._slope(first, (1.0, 3.0), 2.0) for first in (None, (1.0, 5.0), (0.0, 3.0), (0.0, 1.0), (0.0, 9.0))]
    )
    found.append(
        [
            se._next(*p)
            for p in (
                (2.0, 0.5, 2.0, 0.0, math.inf, 1e-3, 0.7),
                (2.0, -math.inf, 2.0, 0.0, math.inf, 1e-3, 0.7),
                (2.0, 9.0, 2.0, 2.0, 3.0, 1e-3, 40.0),
                (2.0, -9.0, 2.0, 0.0, 2.0, 1e-3, 40.0),
                (2.0, 9.0, 2.0, 0.0, 3.0, 1e-3, 40.0),
                (2.0, -1e-9, 2.0, 0.0, 2.1, 1e-3, 0.7),
                (2.0, 9.0, 2.0, 2.0, math.inf, 1e-3, 0.1),
                (2.0, 1e-9, 1e-3, 0.0, math.inf, 1e-3, 0.7),
            )
        ]
    )
    return found


TARGETS = [
    {"target_epsilon": 3.0, "target_delta": 1e-5},
    {"target_epsilon": 0.0, "target_delta": 1e-2},
    {"target_advantage": 0.2},
    {"target_tpr": 0.3, "target_fpr": 0.01},
    {"target_mu": 0.7},
]


@pin(coarse=False, rel_tol=1e-7)
def targets() -> Any:
    curves = [PrivacyCurve([(noise, 1.0, 1)]) for noise in (0.3, 1.4, 9.0)]
    found = []
    for given in TARGETS:
        aim = ta.as_target(given)
        found.append([aim.mu, aim.seen, aim.slope, [aim.excess(curve) for curve in curves]])
        noise, rate = 1.3, 0.02
        left = so.about_left(aim, [(2.0, 0.01, 30)])
        found.append(
            [
                left,
                so.about_rate(aim, left, noise, 200),
                so.about_rate(aim, 1e9 * left, noise, 1),
                so.about_steps(aim, left, noise, rate),
                so.about_steps(aim, left, noise, 1.0),
            ]
        )
    return (
        found,
        [ta._log_ratio(value, 0.1) for value in (0.0, 0.01, 0.04, 0.06, 0.1, 0.3)],
        [ta._rough(mu) for mu in (0.0, 1.0, 1e9)],
    )


@pin(coarse=False, rel_tol=1e-9)
def rough_answers() -> Any:
    long = tuple((1.0 + 0.01 * k, 3 + k) for k in range(60))
    return {
        "noise": [
            so.about_noise(mu, rate, factors)
            for mu in (0.0, 0.1, 4.0)
            for rate in (0.01, 1.0)
            for factors in (((1.0, 50),), ((1.0, 9), (0.5, 30)))
            if mu or len(factors) > 1
        ],
        "whole": [
            so.whole_steps(rate, epochs) for rate, epochs in ((1.0 / 75.0, 3.0), (0.3, 1.0), (1e-15, 1e9), (0.5, 0.2))
        ],
        "count": [so.step_count(0.01, *args) for args in ((7, None), (None, 0.5))],
        "length": [so.as_length(7, None), so.as_length(None, 2)],
        "mu": so.about_mu_squared([(1.0, 0.01, 30), (Laplace(2.0), 3)]),
        "one": [so.one_step(s) for s in (0.0, 0.1, 1.0, 1e200)],
        "coarse": so._coarse(long, 0.8),
        "coarser": so._coarse(((1.0, 5), (2.0, 5)), 3.0),
        "fewest": [
            so.fewest_safe(lambda n: math.log(limit / n), 3, start, ta.as_target(TARGETS[0]))  # noqa: B023
            for limit in (2.0, 3.0, 500.5)
            for start in (2.0, 100.0)
        ],
    }


@pin(coarse=False, rel_tol=1e-9)
def least_noises() -> Any:
    """What is found for schedules, and how often it is asked."""
    found = []
    short, long = ((1.0, 3), (0.5, 9)), tuple((1.0 + 0.05 * k, 3 + k % 5) for k in range(60))
    for factors in (short, long):
        for spent in ([], [(9.0, 1.0, 1)]):
            asked: list[float] = []
            aim = ta.as_target(TARGETS[0])

            def excess(curve: PrivacyCurve, asked: list[float] = asked, aim: Any = aim) -> float:
                asked.append(len(curve.history))
                return aim.excess(curve)

            counted = ta.Target("all", excess, aim.mu, aim.seen, aim.slope)
            found.append([so.least_noise_of_schedule(counted, 1.0, factors, spent, 1e-9), list(asked), len(asked)])
            found.append(
                [
                    so.least_noise(counted, 1.0, factors, spent, 1e-4, *start)
                    for start in ((), (3.0, 1.0), (3.0, None, False))
                ]
            )
    return found


@pin(coarse=False, rel_tol=1e-9)
def calibrations() -> Any:
    promise = TARGETS[0]
    return {
        "noise": [cb.calibrate_noise_multiplier(sample_rate=1.0, steps=4, **given) for given in TARGETS],
        "sampled": cb.calibrate_noise_multiplier(sample_rate=0.01, epochs=2.5, rel_tol=1e-6, **promise),
        "schedule": cb.calibrate_noise_multiplier(
            sample_rate=0.1, steps=3, schedule=[1.0, 0.5, 0.5], rel_tol=1e-5, **promise
        ),
        "spent": cb.calibrate_noise_multiplier(sample_rate=1.0, steps=2, spent=[(9.0, 1.0, 1)], **promise),
        "steps": [cb.calibrate_steps(noise_multiplier=200.0, sample_rate=1.0, **given) for given in TARGETS],
        "delta": cb.calibrate_delta(target_epsilon=1.0, noise_multiplier=2.0, sample_rate=1.0, epochs=3.0),
    }


@pin(coarse=False, rel_tol=1e-9)
def calibrated_rates() -> Any:
    promise, tight = TARGETS[0], {"target_epsilon": 0.3, "target_delta": 1e-4}
    return {
        "rate": [
            cb.calibrate_sample_rate(noise_multiplier=1.0, rel_tol=1e-6, **ask)
            for ask in ({"steps": 1, **promise}, {"steps": 1, **tight}, {"epochs": 0.5, **tight})
        ],
        "batch": [
            cb.calibrate_batch_size(noise_multiplier=1.0, dataset_size=300, **ask)
            for ask in (
                {"steps": 1, **promise},
                {"steps": 1, **tight},
                {"epochs": 0.06, **tight},
                {"epochs": 0.3, **promise},
            )
        ],
        "room": [
            cb.calibrate_sample_rate(noise_multiplier=50.0, steps=2, **promise),
            cb.calibrate_batch_size(noise_multiplier=50.0, dataset_size=70, epochs=2.0, **promise),
        ],
    }


@pin(coarse=False)
def printed() -> Any:
    numbers = (0.12345678901, 8.0, -0.3, 5e-324, 0.0, 1e300, math.inf, -math.inf, 0.1 + 0.2)
    return [
        show(x, *digits) for x in numbers for show in (rounding.at_most, rounding.at_least) for digits in ((), (4,))
    ]


@pin(coarse=False)
def interval_arithmetic() -> Any:
    one, other = Bounds(0.25, 0.75), Bounds(0.5, 2.0)
    return [
        one.width,
        one.relative_width,
        Bounds(-4.0, -2.0).relative_width,
        one.intersect(other),
        one.larger(other),
        Bounds(1.0 / 3.0, 2.0 / 3.0)._repr_html_(),
    ]


@pin(coarse=False, rel_tol=1e-8)
def curves() -> Any:
    one, mixed = PrivacyCurve([(1.0, 0.1, 1)]), PrivacyCurve([(Laplace(2.0), 2), (RESPONSE, 1), (2.0, 1.0, 1)])
    skewed = [
        PrivacyCurve([(DiscreteMechanism(*pair), 1)]) for pair in ((DISCRETE.p, DISCRETE.q), (DISCRETE.q, DISCRETE.p))
    ]
    return {
        "delta": [
            curve.delta(np.array([0.1, 1.0]), direction=d).tolist()
            for curve in (one, mixed)
            for d in ("both", *DIRECTIONS)
        ],
        "epsilon": [curve.epsilon([0.1, 1e-4]).tolist() for curve in (one, mixed)],
        "profile": [
            [curve._profile(d).at(e) for e in (-1.0, -0.2, 0.2, 1.0)]
            for curve in (one, mixed, *skewed)
            for d in ("both", *DIRECTIONS)
        ],
        "parts": [repr(curve) + str(curve._parts()[1]) + str(curve.history) for curve in (one, mixed)],
    }


@pin()
def mus_between() -> Any:
    """Mu of cells of epsilons: steep ones, flat ones, and one that is too wide for a chord."""

    class Known:
        """A profile of which the deltas are given."""

        def at(self, epsilon: float) -> Bounds:
            delta = 0.4 * math.exp(-0.3 * epsilon) if epsilon > 0.2 else 0.35
            return Bounds(delta, delta * (1.0 + 1e-9))

    found = []
    for most in (1.0, 0.3, 1e-3):
        search = ga._Mu(Known(), most)  # type: ignore[arg-type]
        cells = [(0.0, 0.1), (0.05, 0.15), (0.2, 0.9), (0.5, 0.6), (1.0, 8.0), (0.3, 900.0)]
        found.append([search.between(*cell) for cell in cells])
    return found
