"""Probes of whole answers in random regimes: what they are, and how much work they take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pins import counted_calls, pin

from opacus_edgeworth import calibration as ca
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import compose
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import EdgeworthError, OutOfReachError
from opacus_edgeworth.inversion import engines as en
from opacus_edgeworth.inversion.memory import Memory
from opacus_edgeworth.inversion.nearby import NearbyDelta, direction_delta_of
from opacus_edgeworth.mechanisms import Laplace, PoissonSubsampledLaplace, RandomizedResponse
from opacus_edgeworth.mixed import engines as mixed_engines

REGIMES = 4
"""Of each kind."""
WIDE = 1e-8
"""Bounds that are wider say nothing that another processor must say, too."""


def said(bounds: Bounds) -> Any:
    """Return narrow bounds, or that they are wide."""
    return bounds if bounds.relative_width <= WIDE else "wide"


def asked(compute: Any) -> Any:
    """Return what is computed, or the name of its error."""
    try:
        return compute()
    except EdgeworthError as error:
        return type(error).__name__


def worked(compute: Any) -> Any:
    """Return what is computed, and how many calls of the package's functions it took."""
    with counted_calls() as calls:
        found = asked(compute)
    return {"found": found, "work": calls}


def regime(rng: np.random.Generator, kind: str) -> list[tuple[float, float, int]]:
    """Return a random history: of one phase, two, a schedule, rare events, few steps, or with unsampled steps."""

    def phase(low: float = 0.4, rates: tuple[float, float] = (-4.0, -0.3), most: float = 4.0) -> Any:
        return (
            float(low * 10.0 ** rng.uniform(0.0, 1.2)),
            float(10.0 ** rng.uniform(*rates)),
            int(10.0 ** rng.uniform(0.0, most)) + 1,
        )

    if kind == "one":
        return [phase()]
    if kind == "two":
        return [phase(), phase()]
    if kind == "schedule":
        start, rate, _ = phase(0.7, (-2.5, -0.7))
        return [(start * 0.97**k, rate, 1 + k % 2) for k in range(int(rng.integers(3, 12)))]
    if kind == "rare":
        return [phase(0.25, (-5.0, -2.5), 2.0)]
    if kind == "few":
        return [phase(0.5, (-3.0, -0.5), 0.1) for _ in range(int(rng.integers(1, 4)))]
    return [phase(), (float(10.0 ** rng.uniform(0.5, 2.0)), 1.0, int(rng.integers(1, 50)))]


KINDS = ("one", "two", "schedule", "rare", "few", "unsampled")


def engine_answers(kind: str) -> Any:
    """Return delta and epsilon, of both directions and of each, and what is known near by."""
    rng, found = np.random.default_rng(KINDS.index(kind)), []
    for _ in range(REGIMES):
        steps = compose(regime(rng, kind))
        delta = float(10.0 ** rng.uniform(-12.0, -1.0))
        epsilon = en.history_epsilon(steps, delta)
        e = max(epsilon.upper, 1e-6)

        def by_direction(steps: Any = steps, delta: float = delta) -> Any:
            grid = en.grid_or_none(steps)
            return [said(en.direction_epsilon(steps, grid, delta, d)) for d in ("remove", "add")]

        def in_each(steps: Any = steps, e: float = e) -> Any:
            return [
                said(en.history_direction_delta(steps, at, d)) for at in (0.3 * e, 1.1 * e) for d in ("remove", "add")
            ]

        found += [
            worked(lambda: said(en.history_epsilon(steps, delta))),  # noqa: B023
            worked(lambda: [said(en.history_delta(steps, at)) for at in (0.0, 0.1 * e, e)]),  # noqa: B023
            worked(in_each),
            worked(by_direction),
        ]
    return found


for _kind in KINDS:
    pin(coarse=False, rel_tol=1e-7, name=f"regimes_{_kind}")(lambda kind=_kind: engine_answers(kind))


@pin(coarse=False, rel_tol=1e-7)
def regimes_near_by() -> Any:
    """One history at many epsilons; what was computed, and what was known."""
    rng, found = np.random.default_rng(7), []
    for kind in ("one", "two", "rare", "few", "unsampled"):
        steps = compose(regime(rng, kind))
        for which in ("both", "remove", "add"):
            count: list[float] = []
            new = direction_delta_of(steps)

            def counted(
                epsilon: float, direction: Any, enough: Any, keep: Any, new: Any = new, count: Any = count
            ) -> Any:
                count.append(epsilon)
                return new(epsilon, direction, enough, keep)

            delta = NearbyDelta(counted, which)
            found.append([[said(delta(e)) for e in (0.5, 0.51, 0.0, 0.5, 2.0, 1e-3, 0.505)], len(count)])
    return found


@pin(coarse=False, rel_tol=1e-7)
def regimes_logged() -> Any:
    """Epsilon after every step of a run."""
    found: list[Any] = []
    for history in (
        [(1.1, 0.02, k) for k in (1, 2, 3, 9, 40, 41, 300)],
        [(0.6, 1e-3, k) for k in (1, 2, 3, 20, 21)],
    ):
        memory = Memory()
        found += [worked(lambda: said(memory.epsilon([entry], 1e-5))) for entry in history]  # noqa: B023
    memory, entries = Memory(), [(1.5 * 0.98**k, 0.05, 1) for k in range(20)]
    found.append(worked(lambda: [said(memory.epsilon(entries[:k], 1e-5)) for k in (*range(5, 21), 20)]))
    return found


@pin(coarse=False, rel_tol=1e-7)
def regimes_calibrated() -> Any:
    """Noise, steps, rate and batch size for random targets."""
    rng, found = np.random.default_rng(11), []
    for k in range(3):
        s, q, n = regime(rng, "one")[0]
        aim = {
            "target_epsilon": float(10.0 ** rng.uniform(-1.0, 1.0)),
            "target_delta": float(10.0 ** rng.uniform(-9.0, -3.0)),
        }
        past = regime(rng, "one") if k % 3 == 0 else []
        found.append(
            [
                worked(lambda: ca.calibrate_noise_multiplier(**aim, sample_rate=q, steps=n, spent=past)),  # noqa: B023
                worked(lambda: ca.calibrate_steps(**aim, noise_multiplier=s, sample_rate=q)),  # noqa: B023
                worked(lambda: ca.calibrate_sample_rate(**aim, noise_multiplier=s, steps=n)),  # noqa: B023
                worked(lambda: ca.calibrate_sample_rate(**aim, noise_multiplier=s, epochs=3.0)),  # noqa: B023
                worked(lambda: ca.calibrate_batch_size(**aim, noise_multiplier=s, dataset_size=5000, epochs=2.0)),  # noqa: B023
            ]
        )
    return found


@pin(coarse=False, rel_tol=1e-7)
def regimes_mixed() -> Any:
    """Gaussian steps and others together."""
    rng, found = np.random.default_rng(13), []
    for k in range(8):
        others: list[Any] = [
            (Laplace(float(rng.uniform(1.0, 30.0))), int(rng.integers(1, 6))),
            (RandomizedResponse(float(rng.uniform(0.05, 1.5))), int(rng.integers(1, 4))),
            (
                PoissonSubsampledLaplace(float(rng.uniform(0.5, 5.0)), float(rng.uniform(0.01, 0.5))),
                int(rng.integers(1, 9)),
            ),
        ]
        history = [*others[k % 3 :: 2], *(regime(rng, "one" if k % 2 else "unsampled") if k % 4 else [])]
        curve = PrivacyCurve(history)
        found += [
            worked(lambda: said(curve.epsilon(1e-4))),  # noqa: B023
            *(worked(lambda: said(curve.delta(e, direction=d))) for e in (0.0, 0.7) for d in ("remove", "add")),  # noqa: B023
        ]
    return found


@pin(coarse=False, rel_tol=1e-7)
def regimes_out_of_reach() -> Any:
    """Mixed histories where lines, or points to start from, are not to be had: what is known otherwise."""

    def refuse(*_: Any) -> Any:
        raise OutOfReachError("not here")

    others: dict[str, list[Any]] = {
        "response": [(RandomizedResponse(0.8), 2), (0.9, 0.05, 30)],
        "laplace": [(Laplace(3.0), 2), (5.0, 1.0, 3)],
        "whole": [(PoissonSubsampledLaplace(2.0, 1.0), 3), (1.5, 0.2, 4)],
    }
    found: dict[str, Any] = {}
    for name, history in others.items():
        for patched in ("", "make_line", "saddle_for_epsilon", "saddle_for_delta"):
            with pytest.MonkeyPatch.context() as patch:
                if patched:
                    patch.setattr(mixed_engines, patched, refuse)
                curve = PrivacyCurve(history)
                found[f"{name} {patched}"] = [
                    *(asked(lambda: curve.delta(e, direction=d)) for e in (0.0, 0.3, 2.0) for d in ("remove", "add")),  # noqa: B023
                    *(asked(lambda: curve.epsilon(delta)) for delta in (1e-4, 0.1)),  # noqa: B023
                ]
    return found


@pin(coarse=False, rel_tol=1e-7)
def regimes_of_meaning() -> Any:
    """What attacks can do in random regimes."""
    rng, found = np.random.default_rng(17), []
    for kind in ("one", "unsampled"):
        curve = PrivacyCurve(regime(rng, kind))
        found.append(
            [
                worked(lambda: said(curve.tradeoff(alpha, direction=d)))  # noqa: B023
                for alpha in (1e-6, 0.03, 0.7)
                for d in ("remove", "add", "both")
            ]
            + [said(curve.bayes_success(prior)) for prior in (0.1, 0.5, 0.8)]
            + [said(curve.precision(0.3, 0.05)), said(curve.posterior(0.2, 1e-3)), said(curve.advantage())]
            + [asked(lambda: curve.renyi_divergence(order)) for order in (1.5, 4.0)]  # noqa: B023
        )
    zero, replaced = (PrivacyCurve([(1.2, 0.05, 30)], adjacency=name) for name in ("zero_out", "replace_one"))
    found.append([said(curve.epsilon(1e-5)) for curve in (zero, replaced)])
    found.append([Bounds(0, 1), Bounds(np.float64(0.25), math.inf), Bounds(np.float32(0.5), 1)])  # type: ignore[arg-type]
    return found
