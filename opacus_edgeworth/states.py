"""What an accountant's state_dict holds: the history, checked; a digest of it; and the accountant that it is for.

Opacus's accountants and ours keep the same list, (noise_multiplier, sample_rate, steps) with the same meaning, so a run
may go on with another accountant. What the list does not say is taken over unsaid: whether batches were Poisson
samples, and which adjacency was meant. Ours answers for Poisson sampling and for one example added or removed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from opacus_edgeworth._validate import as_entries, as_noise_multiplier, as_sample_rate, as_steps, shown
from opacus_edgeworth.certification.typed_json import digest
from opacus_edgeworth.errors import InvalidParameterError

Phase: TypeAlias = tuple[float, float, int]
"""(noise_multiplier, sample_rate, steps)."""

MECHANISM = "edgeworth"
OTHERS = ("rdp", "prv", "gdp")
"""Opacus's own accountants, by the names that their states bear."""
FORM = "(noise_multiplier, sample_rate, steps)"
MOST_ENTRIES = 10**7
DIGEST = "history_sha256"
"""The key of the digest. It guards against accidents in a file, which torch does not, not against who renews it."""


def phases_of(history: Iterable[Any]) -> list[Phase]:
    """Return the phases of an accountant's history as plain numbers, in their order.

    Raises:
      InvalidParameterError: an entry has another form, or a number outside its range; the message names the entry.
    """
    phases: list[Phase] = []
    for index, entry in enumerate(as_entries("history", history, MOST_ENTRIES, f"a list of {FORM}")):
        if not isinstance(entry, (tuple, list)) or len(entry) != 3:
            raise InvalidParameterError(f"history[{index}]: {shown(entry)} must be {FORM}")
        try:
            phases.append((as_noise_multiplier(entry[0]), as_sample_rate(entry[1]), as_steps(entry[2])))
        except InvalidParameterError as error:
            raise InvalidParameterError(f"history[{index}]: {error}") from None
    return phases


def state_of(history: Iterable[Any], mechanism: str) -> dict[str, Any]:
    """Return the state_dict with which `mechanism` goes on from a history.

    Raises:
      InvalidParameterError: the history is invalid, or "gdp" cannot hold it.
    """
    if not _is_known(mechanism):
        raise InvalidParameterError(
            f"mechanism={shown(mechanism)} must be one of {', '.join((MECHANISM, *OTHERS))}, whose histories mean the"
            " same"
        )
    phases = phases_of(history)
    if mechanism == "gdp":
        phases = _single(phases)
    return {"history": phases, "mechanism": mechanism, DIGEST: history_digest(phases)}


def phases_in(state_dict: Any) -> list[Phase]:
    """Return the phases in a state_dict of this or another accountant of Opacus.

    Raises:
      InvalidParameterError: it is no state_dict, the history in it is invalid or was altered, or it is of an accountant
        that is not known.
    """
    if not isinstance(state_dict, Mapping):
        raise InvalidParameterError(f"state_dict is a {type(state_dict).__name__}, not what state_dict() returned")
    missing = [key for key in ("history", "mechanism") if key not in state_dict]
    if missing:
        raise InvalidParameterError(f"state_dict does not have the key `{missing[0]}`; it may have been cut short")
    mechanism = state_dict["mechanism"]
    if inspect.ismethod(mechanism) and mechanism.__name__ == "mechanism":
        mechanism = mechanism()  # Opacus 1.5 kept the method in the name's place
    if not _is_known(mechanism):
        raise InvalidParameterError(
            f"state_dict of the mechanism {shown(mechanism)} cannot be loaded: only {', '.join((MECHANISM, *OTHERS))}"
            " are known to mean the same by their history"
        )
    phases = phases_of(state_dict["history"])
    require_unaltered(state_dict, phases)
    return phases


def require_unaltered(state_dict: Mapping[Any, Any], phases: Iterable[Phase]) -> None:
    """Refuse a history that is not the one whose digest is beside it, if there is one.

    Raises:
      InvalidParameterError: it differs.
    """
    stored = state_dict.get(DIGEST)
    if stored is not None and not (isinstance(stored, str) and stored == history_digest(phases)):
        raise InvalidParameterError(
            f"the history was altered since it was saved: its SHA-256 is not the one in {DIGEST!r}; take another copy"
            " of the file, or, where the change was meant, delete that key"
        )


def history_digest(phases: Iterable[Phase]) -> str:
    """Return the SHA-256 of checked phases."""
    return digest([list(phase) for phase in phases])


def _is_known(mechanism: Any) -> bool:
    """Return whether it is the name of an accountant whose history means the same as ours."""
    return isinstance(mechanism, str) and mechanism in (MECHANISM, *OTHERS)


def _single(phases: list[Phase]) -> list[Phase]:
    """Return the phases as GaussianAccountant can hold them: of several it would count the last one alone."""
    kinds = {phase[:2] for phase in phases if phase[2] > 0}
    if len(kinds) > 1:
        raise InvalidParameterError(
            f"mechanism='gdp' keeps one noise multiplier and one sample rate, and this history has {len(kinds)}; of"
            " these it would count the last one alone"
        )
    return [(*kind, sum(steps for *_, steps in phases)) for kind in kinds]
