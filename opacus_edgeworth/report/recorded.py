"""What privacy.json of a fine-tuning run says, made fit to be shown. Nothing of it is checked here but its form.

A statement comes from elsewhere: every value may be missing, of another kind, or hostile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from opacus_edgeworth.report.numbers import exact

Randomness: TypeAlias = Literal["secure", "seed", "system", "unknown"]
"""Where the noise came from: a cryptographic generator, a seed, torch's generators without one, or not recorded."""

LONGEST = 400
"""Characters of a recorded text that are shown."""
FACTS = (
    ("algorithm", "mechanism", "algorithm"),
    ("sampling", "mechanism", "sampling"),
    ("training examples", "mechanism", "examples"),
    ("expected batch size", "mechanism", "expected_batch_size"),
    ("clipping norm", "mechanism", "max_grad_norm"),
    ("clipping", "mechanism", "clipping"),
    ("per-example gradients", "mechanism", "grad_sample_mode"),
    ("noise found by", "mechanism", "noise_found_by"),
    ("trained part", "trained", "method"),
    ("trained values", "trained", "values"),
    ("unit of privacy", "guarantee", "unit"),
    ("target epsilon", "guarantee", "target_epsilon"),
)
"""What is shown of a statement: label, section, key."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a fine-tuning run recorded of itself; None and empty where it did not.

    Args:
      epsilon: the upper bound that it claims.
      delta: at which.
      examples: number of training examples.
      randomness: where the noise came from.
      facts: labels and values to show.
      assumptions: the run's own words.
      notes: the same.
      versions: of the packages that it ran with.
    """

    epsilon: float | None
    delta: float | None
    examples: int | None
    randomness: Randomness
    facts: tuple[tuple[str, str], ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]


def recorded_in(statement: Mapping[str, Any]) -> Recorded | None:
    """Return what a statement records, or None if it is none."""
    guarantee, mechanism = statement.get("guarantee"), statement.get("mechanism")
    if not isinstance(guarantee, Mapping) or not isinstance(mechanism, Mapping):
        return None
    shown = ((label, _text(_mapping(statement, section).get(key))) for label, section, key in FACTS)
    assumptions = _texts(statement.get("assumptions"))
    versions = ((str(name)[:LONGEST], _text(number)) for name, number in _mapping(statement, "versions").items())
    examples = _number(mechanism.get("examples"))
    return Recorded(
        epsilon=_number(guarantee.get("epsilon")),
        delta=_number(guarantee.get("delta")),
        examples=int(examples) if examples is not None and 0.0 < examples < math.inf else None,
        randomness=_randomness(assumptions),
        facts=tuple((label, text) for label, text in shown if text),
        assumptions=assumptions,
        notes=_texts(statement.get("notes")),
        versions=tuple((name, text) for name, text in versions if text),
    )


def _randomness(assumptions: tuple[str, ...]) -> Randomness:
    """Return where the noise came from, by the words of `finetune.statement`; a seed counts above all."""
    text = " ".join(assumptions).lower()
    if "the seed" in text:
        return "seed"
    if "secure_mode" in text:
        return "secure"
    return "system" if "entropy" in text else "unknown"


def _mapping(statement: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a section, empty where there is none."""
    value = statement.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    """Return a number, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if math.isnan(number) else number


def _text(value: Any) -> str:
    """Return a recorded value as text, "" for what cannot be shown."""
    if isinstance(value, str):
        return value[:LONGEST]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**18 else ""
    number = _number(value)
    return "" if number is None else exact(number)


def _texts(value: Any) -> tuple[str, ...]:
    """Return recorded sentences."""
    return tuple(text for text in map(_text, value) if text) if isinstance(value, (list, tuple)) else ()
