"""Every accountant that `compare` asks, behind one interface.

Peers are imported by name where they are used: dp-accounting is optional, and Opacus takes seconds to import. An
adapter holds no arithmetic of its own, and each peer is used with its defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from typing import Any, Literal

from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.histories import History

Kind = Literal["proved bound", "upper bound in exact arithmetic", "estimate"]
"""What an answer claims to be; "in exact arithmetic" leaves the accountant's own rounding errors out."""

OURS = "edgeworth"

# Mironov, Talwar and Zhang (2019), https://arxiv.org/abs/1908.10530: remove has the larger Rényi divergence
_BOTH_BY_THEOREM = "both"


@dataclass(frozen=True, slots=True)
class Peer:
    """One accountant.

    Args:
      name: how the table calls it.
      distribution: its name on PyPI.
      modules: what is imported before its time is taken.
      directions: the directions of add/remove adjacency that its answer covers.
      kind: what its answer claims to be.
      epsilon: from (history, delta) to the epsilon to report; it must pickle.
    """

    name: str
    distribution: str
    modules: tuple[str, ...]
    directions: Literal["both", "remove", "none"]
    kind: Kind
    epsilon: Callable[[History, float], float]

    @property
    def version(self) -> str | None:
        """The installed version, None where the peer is absent."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None


def _own_epsilon(history: History, delta: float) -> float:
    """Return our upper bound."""
    return PrivacyCurve(history).epsilon(delta).upper


def _opacus_epsilon(mechanism: str, history: History, delta: float) -> float:
    """Return epsilon by one of Opacus's accountants."""
    accountant = import_module("opacus.accountants").create_accountant(mechanism)
    for noise_multiplier, sample_rate, _ in history:  # GDP refuses a change of phase here, and nowhere else
        accountant.step(noise_multiplier=noise_multiplier, sample_rate=sample_rate)
    accountant.history = list(history)
    return accountant.get_epsilon(delta)


def _google_epsilon(module: str, accountant: str, history: History, delta: float) -> float:
    """Return epsilon by one of dp-accounting's accountants."""
    events: Any = import_module("dp_accounting")
    ledger = getattr(import_module(module), accountant)()
    for noise_multiplier, sample_rate, steps in history:
        step = events.PoissonSampledDpEvent(sample_rate, events.GaussianDpEvent(noise_multiplier))
        ledger.compose(step, steps)
    return ledger.get_epsilon(delta)


_PLD, _RDP = "dp_accounting.pld.pld_privacy_accountant", "dp_accounting.rdp.rdp_privacy_accountant"

PEERS = (
    Peer(OURS, "opacus_edgeworth", ("scipy.special",), "both", "proved bound", _own_epsilon),
    Peer(
        "Opacus PRV", "opacus", ("opacus.accountants",), "remove", "upper bound in exact arithmetic",
        partial(_opacus_epsilon, "prv"),
    ),
    Peer(
        "Opacus RDP", "opacus", ("opacus.accountants",), _BOTH_BY_THEOREM, "upper bound in exact arithmetic",
        partial(_opacus_epsilon, "rdp"),
    ),
    Peer("Opacus GDP", "opacus", ("opacus.accountants",), "none", "estimate", partial(_opacus_epsilon, "gdp")),
    Peer(
        "dp-accounting PLD", "dp-accounting", ("dp_accounting", _PLD), "both", "upper bound in exact arithmetic",
        partial(_google_epsilon, _PLD, "PLDAccountant"),
    ),
    Peer(
        "dp-accounting RDP", "dp-accounting", ("dp_accounting", _RDP), _BOTH_BY_THEOREM,
        "upper bound in exact arithmetic", partial(_google_epsilon, _RDP, "RdpAccountant"),
    ),
)  # fmt: skip
"""Ours first; each with its default settings."""
