"""Probes of what every function of the core returns on the way to answers in random regimes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pins import JITTER, TRACED_TOL, pin, traced_results
from pins_regimes import KINDS, asked, regime

from opacus_edgeworth import calibration as ca
from opacus_edgeworth.composition import compose
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.inversion import engines as en
from opacus_edgeworth.inversion.memory import Memory
from opacus_edgeworth.mechanisms import DiscreteMechanism, Laplace, PoissonSubsampledLaplace, RandomizedResponse

REGIMES = 3
"""Of each kind."""
Question = Callable[[], Any]


def jittered(history: list[tuple[float, float, int]]) -> list[Any]:
    """Return a history, with other noise by as much as is asked for."""
    return [(noise * (1.0 + JITTER[0]), *others) for noise, *others in history]


def traced(questions: Callable[[], dict[str, Question]]) -> Callable[[], Any]:
    """Return a probe of what is returned on the way to the answers."""

    def compute() -> dict[str, list[float]]:
        found = {}
        for name, ask in questions().items():
            with traced_results() as results:
                asked(ask)
            found |= {f"{name} {function}": numbers for function, numbers in results.items()}
        return found

    return compute


def engine_questions(kind: str) -> dict[str, Question]:
    """Return questions for delta and epsilon in regimes of a kind."""
    rng, found = np.random.default_rng(100 + KINDS.index(kind)), {}
    for k in range(REGIMES):
        history, delta = jittered(regime(rng, kind)), float(10.0 ** rng.uniform(-10.0, -2.0))
        epsilon, direction = float(10.0 ** rng.uniform(-1.0, 1.0)), ("remove", "add")[k % 2]
        found |= {
            f"{k} epsilon": lambda h=history, d=delta: en.history_epsilon(compose(h), d),
            f"{k} delta": lambda h=history, e=epsilon, w=direction: en.history_direction_delta(compose(h), e, w),
        }
    if kind == "few":
        history = jittered([(0.7, 1e-3, 1), (0.9, 1e-3, 1)])
        for direction in ("remove", "add"):
            found[f"atoms {direction}"] = lambda w=direction: en.history_direction_delta(compose(history), 0.1, w)
        found["atoms epsilon"] = lambda: en.history_epsilon(compose(history), 1e-5)
    return found


def many_questions() -> dict[str, Question]:
    """Return questions on schedules, also such as grow."""
    history = jittered([(1.4 * 0.985**k, 0.03 + 0.0005 * k, 1 + k % 3) for k in range(60)])
    memory = Memory()

    def logged() -> None:
        for k in (30, 31, 33, 60, 59):
            memory.epsilon(history[:k], 1e-6)

    def foreseen() -> None:
        scheduled, noise = Memory(), 1.3 * (1.0 + JITTER[0])
        entries: list[Any] = []
        while len(entries) < 60:
            entries.append((noise, 0.01, 1))
            noise *= 0.99
            if len(entries) > 20:
                scheduled.epsilon(list(entries), 1e-5)

    return {
        "foreseen": foreseen,
        "epsilon": lambda: en.history_epsilon(compose(history), 1e-6),
        "delta": lambda: en.history_delta(compose(history), 1.0),
        "logged": logged,
    }


def calibration_questions() -> dict[str, Question]:
    """Return questions for noise, steps, rates and batch sizes."""
    aim: dict[str, Any] = {"target_epsilon": 1.3 * (1.0 + JITTER[0]), "target_delta": 1e-6}
    return {
        "noise": lambda: ca.calibrate_noise_multiplier(**aim, sample_rate=0.02, steps=300, spent=[(2.0, 0.02, 50)]),
        "steps": lambda: ca.calibrate_steps(**aim, noise_multiplier=1.1, sample_rate=0.01),
        "rate": lambda: ca.calibrate_sample_rate(**aim, noise_multiplier=1.1, epochs=4.0),
        "batch": lambda: ca.calibrate_batch_size(**aim, noise_multiplier=1.1, dataset_size=20000, epochs=4.0),
        "mu": lambda: ca.calibrate_noise_multiplier(target_mu=0.5, sample_rate=0.02, steps=100),
        "tpr": lambda: ca.calibrate_noise_multiplier(target_tpr=0.3, target_fpr=0.05, sample_rate=0.02, steps=100),
        "advantage": lambda: ca.calibrate_steps(target_advantage=0.2, noise_multiplier=1.5, sample_rate=0.05),
    }


def mixed_questions() -> dict[str, Question]:
    """Return questions on Gaussian steps with others, and on a replaced example."""
    steps = jittered([(1.1, 0.04, 25)])
    histories: dict[str, list[Any]] = {
        "laplace": [(Laplace(4.0), 3), *steps],
        "sampled laplace": [(PoissonSubsampledLaplace(1.5, 0.1), 6), *steps],
        "response": [(RandomizedResponse(0.7), 2), *jittered([(8.0, 1.0, 2)])],
        "discrete": [(DiscreteMechanism([0.7, 0.3, 0.0], [0.6, 0.35, 0.05]), 2), (Laplace(9.0), 1), *steps],
        "only": [(Laplace(6.0), 4), (RandomizedResponse(0.4), 3)],
    }
    curves = {name: PrivacyCurve(history) for name, history in histories.items()}
    curves["replaced"] = PrivacyCurve(steps, adjacency="replace_one")
    curves["zero_out"] = PrivacyCurve(jittered([(0.9, 0.2, 7)]), adjacency="zero_out")
    found: dict[str, Question] = {}
    for name, curve in curves.items():
        found |= {
            f"{name} epsilon": lambda c=curve: c.epsilon(1e-4),
            f"{name} delta": lambda c=curve: c.delta(0.8, direction="remove"),
            f"{name} add": lambda c=curve: c.delta(0.2, direction="add"),
        }
    return found


def meaning_questions() -> dict[str, Question]:
    """Return questions on what attacks can do, and on other notions of privacy."""
    history = jittered([(1.2, 0.03, 60)])
    curve, mixed = PrivacyCurve(history), PrivacyCurve([(Laplace(5.0), 2), *history])
    return {
        "tradeoff": lambda: curve.tradeoff(0.02, direction="remove"),
        "both": lambda: curve.tradeoff(0.4),
        "bayes": lambda: curve.bayes_success(0.3),
        "posterior": lambda: curve.posterior(0.2, 1e-3),
        "precision": lambda: curve.precision(0.1, 0.01),
        "reconstruction": lambda: curve.reconstruction_success(0.01),
        "mu": curve.gaussian_mu,
        "regret": curve.gaussian_regret,
        "renyi": lambda: curve.renyi_divergence(3.0),
        "renyi add": lambda: curve.renyi_divergence(1.5, direction="add"),
        "renyi mixed": lambda: mixed.renyi_divergence(2.0),
        "rho": curve.zcdp_rho,
        "rho mixed": mixed.zcdp_rho,
    }


PROBES: dict[str, Callable[[], dict[str, Question]]] = {
    **{kind: lambda kind=kind: engine_questions(kind) for kind in KINDS},
    "many": many_questions,
    "calibrations": calibration_questions,
    "mixed": mixed_questions,
    "meaning": meaning_questions,
}
LONG_IF_COARSE = ("few", "many", "calibrations", "meaning")
"""Where coarse units in the last place leave bounds so wide that searches go on for minutes, or no atoms."""
for _name, _questions in PROBES.items():
    pin(coarse=_name not in LONG_IF_COARSE, rel_tol=TRACED_TOL, name=f"traced_{_name}", traced=True)(traced(_questions))
