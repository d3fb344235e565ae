"""What a curve says, as tables and sentences of proved numbers: the risks of attacks, and other units of privacy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import EdgeworthError
from opacus_edgeworth.report.numbers import Cell, Proved, ends, exact

DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10)
EPSILONS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
FALSE_POSITIVE_RATES = (1e-4, 1e-3, 1e-2, 0.1)
PRIORS = (0.01, 0.1, 0.5, 0.9)
MEMBER_SHARES = (0.01, 0.5)
CANDIDATES = (10, 1_000, 1_000_000)
ORDERS = (1.5, 2.0, 4.0, 8.0, 16.0, 32.0)
FLOOR = 1e-6
"""The delta down to which the Gaussian comparison holds."""
BELIEF_RATE = 1e-3
"""The false positive rate that the table of beliefs takes."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page.

    Args:
      name: of it, for links.
      caption: what it shows.
      columns: their heads.
      rows: cells; the first one of each row is its head.
      note: what is to be known to read it.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def epsilon_table(curve: PrivacyCurve, delta: float) -> Table:
    """Return epsilon at several deltas, the claimed one among them."""
    rows = [(exact(at), *ends("epsilon", (at,), curve.epsilon(at))) for at in sorted({*DELTAS, delta}, reverse=True)]
    return Table("epsilon-at-delta", "ε at several δ", ("δ", "ε, at most", "ε, at least"), tuple(rows))


def delta_table(curve: PrivacyCurve) -> Table:
    """Return delta at several epsilons."""
    rows = tuple((exact(at), *ends("delta", (at,), curve.delta(at))) for at in EPSILONS)
    return Table("delta-at-epsilon", "δ at several ε", ("ε", "δ, at most", "δ, at least"), rows)


def members_found(curve: PrivacyCurve, rate: float) -> Proved:
    """Return the most members that an attack finds at a false positive rate."""
    return Proved("true_positive_rate", (rate,), "upper", curve.true_positive_rate(rate).upper, percent=True)


def members_named(curve: PrivacyCurve, prior: float, rate: float) -> Proved:
    """Return how many of those that an attack names are members, at most."""
    return Proved("precision", (prior, rate), "upper", curve.precision(prior, rate).upper, percent=True)


def best_guess(curve: PrivacyCurve, prior: float) -> Proved:
    """Return how often the best guess at membership is right, at most."""
    return Proved("bayes_success", (prior,), "upper", curve.bayes_success(prior).upper, percent=True)


def candidate_picked(curve: PrivacyCurve, candidates: int) -> Proved:
    """Return how often an attack picks the right one of equally likely candidates, at most."""
    at = 1.0 / candidates
    return Proved("reconstruction_success", (at,), "upper", curve.reconstruction_success(at).upper, percent=True)


def membership_table(curve: PrivacyCurve) -> Table:
    """Return what membership inference attains."""
    rows = tuple(
        (_percent(rate), members_found(curve, rate), *(members_named(curve, share, rate) for share in MEMBER_SHARES))
        for rate in FALSE_POSITIVE_RATES
    )
    return Table(
        "membership",
        "Membership inference: the best attack there can be",
        (
            "false alarms: examples not used that are named",
            "members found, at most",
            *(
                f"of those named, members at most, if {_percent(share)} of the candidates are"
                for share in MEMBER_SHARES
            ),
        ),
        rows,
        "A rate is the probability, over the randomness of training, that the attack names a given example; averages"
        " over examples obey the same bound. Guessing at random finds as many members as it raises false alarms.",
    )


def belief_table(curve: PrivacyCurve) -> Table:
    """Return how an attacker's belief can change.

    A belief above p T / (p T + (1 - p) a), T the largest true positive rate at a, is reached by a member with
    probability at most T: were the event S of such a belief likelier than T, then B(S) > a, and A(S) / B(S), at most
    T(B(S)) / B(S), would be at most T / a, T being concave. That holds for whatever is computed from the output too.
    """
    often = members_found(curve, BELIEF_RATE)
    rows = tuple(
        (
            _percent(prior),
            _percent(max(prior, 1.0 - prior)),
            best_guess(curve, prior),
            members_named(curve, prior, BELIEF_RATE),
            often,
        )
        for prior in PRIORS
    )
    return Table(
        "belief",
        "What an attacker believes before and after",
        (
            "belief before that the example was used",
            "best guess right, without the model",
            "best guess right, at most",
            "if it was used, the belief after exceeds",
            "with probability, at most",
        ),
        rows,
        "The attacker updates the belief by Bayes' rule and knows every other example. The last two columns belong to"
        f" {_percent(BELIEF_RATE)} false alarms in the table before; other rates give other such pairs.",
    )


def reconstruction_table(curve: PrivacyCurve) -> Table:
    """Return what reconstruction and re-identification attain."""
    rows = tuple((f"1 in {count:,}", _percent(1.0 / count), candidate_picked(curve, count)) for count in CANDIDATES)
    return Table(
        "reconstruction",
        "Reconstruction and re-identification: one of k equally likely candidates picked",
        ("chance without the model", "in percent", "success, at most"),
        rows,
        "The bound holds for every attack whose success without the model would be that chance, whatever is"
        " reconstructed: a whole example, an attribute of it, or the person behind it.",
    )


def other_units_table(curve: PrivacyCurve) -> Table:
    """Return the run in other units of privacy; what cannot be computed for this history is left out."""
    asked: list[tuple[str, str, tuple[float, ...], Callable[[], Bounds]]] = [
        (f"Gaussian DP, μ (down to δ = {exact(FLOOR)})", "gaussian_mu", (FLOOR,), _gaussian_mu(curve)),
        ("its exaggeration, in error rates", "gaussian_regret", (FLOOR,), lambda: curve.gaussian_regret(floor=FLOOR)),
        ("zero-concentrated DP, ρ", "zcdp_rho", (), curve.zcdp_rho),
    ]
    for order in ORDERS:
        asked.append((f"Rényi DP of order {exact(order)}", "renyi_divergence", (order,), _renyi(curve, order)))
    rows = []
    for label, quantity, at, ask in asked:
        try:
            rows.append((label, *ends(quantity, at, ask())))
        except EdgeworthError:
            rows.append((label, "not computed for this history", ""))
    return Table(
        "other-units",
        "The same run in other units of privacy",
        ("unit", "at most", "at least"),
        tuple(rows),
        "μ: the run is nowhere less private than one Gaussian release with this μ, up to error rates of"
        f" {exact(FLOOR)}; that release is less private than the run by at most the exaggeration. ρ gains nothing from"
        " sampling.",
    )


def _gaussian_mu(curve: PrivacyCurve) -> Callable[[], Bounds]:
    """Return the question for mu."""
    return lambda: curve.gaussian_mu(floor=FLOOR)


def _renyi(curve: PrivacyCurve, order: float) -> Callable[[], Bounds]:
    """Return the question for an order."""
    return lambda: curve.renyi_divergence(order)


def _percent(value: float) -> str:
    """Return a rate that was chosen, in percent."""
    return f"{100.0 * value:.10g} %"


def history_rows(history: tuple[Any, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the phases in words: what, noise multiplier, sample rate, steps."""
    rows = []
    for entry in history:
        if len(entry) == 3:
            noise, rate, steps = entry
            kind = "no noise" if noise == 0.0 else "Gaussian" if rate == 1.0 else "Poisson-sampled Gaussian"
            rows.append((kind, exact(noise), exact(rate), f"{steps:,}"))
        else:
            rows.append((repr(entry[0]), "", "", f"{entry[1]:,}"))
    return tuple(rows)


def is_finite(curve: PrivacyCurve, delta: float) -> bool:
    """Return whether there is a curve to draw: something was revealed, and not everything."""
    return 0.0 < curve.epsilon(min(delta, 1e-12)).upper < math.inf
