"""What a reviewer must not overlook: warnings that follow from the record and from the proved numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.report.numbers import Cell, Proved, exact
from opacus_edgeworth.report.run import Run

Gravity: TypeAlias = Literal["serious", "note"]
WIDE = 1e-3
"""Relative width of the bounds from which on a report says so."""


@dataclass(frozen=True, slots=True)
class Caution:
    """A warning: one sentence in parts, numbers among them."""

    gravity: Gravity
    says: tuple[Cell, ...]


def cautions(run: Run, delta: float, epsilon: Bounds, max_epsilon: float | None) -> tuple[Caution, ...]:
    """Return the warnings, the serious ones first.

    Args:
      run: what is known of it.
      delta: of the claim.
      epsilon: proved bounds at it.
      max_epsilon: the limit that was set, if any.
    """
    found = [*_of_numbers(run, delta, epsilon, max_epsilon), *_of_record(run, delta, epsilon)]
    return tuple(sorted(found, key=lambda caution: caution.gravity != "serious"))


def _of_numbers(run: Run, delta: float, epsilon: Bounds, max_epsilon: float | None) -> list[Caution]:
    """Return what follows from the bounds."""
    found = []
    upper = Proved("epsilon", (delta,), "upper", epsilon.upper)
    if math.isinf(epsilon.upper):
        found.append(
            Caution(
                "serious", ("Nothing is promised: no finite ε is proved at this δ. Some steps may have had no noise.",)
            )
        )
    elif max_epsilon is not None and epsilon.upper > max_epsilon:
        says = (f"The limit is exceeded: ε ≤ {exact(max_epsilon)} is not proved. The bound is ", upper, ".")
        found.append(Caution("serious", says))
    if epsilon.upper == 0.0:
        found.append(Caution("note", ("ε is 0 at this δ: next to nothing was revealed. Is the history complete?",)))
    elif epsilon.relative_width > WIDE and not math.isinf(epsilon.upper):
        lower = Proved("epsilon", (delta,), "lower", epsilon.lower)
        found.append(
            Caution("note", ("The bounds are wide: the true ε may be as small as ", lower, ". The upper end holds."))
        )
    if run.stopped:
        found.append(
            Caution("serious", ("The run had not ended: the history is of the steps up to its last checkpoint.",))
        )
    return found


def _of_record(run: Run, delta: float, epsilon: Bounds) -> list[Caution]:
    """Return what follows from what the run recorded."""
    record, found = run.recorded, []
    if record is None:
        return []
    if record.randomness == "seed":
        says = "A seed was set: the noise can be computed by whoever knows or guesses it. For demonstrations alone."
        found.append(Caution("serious", (says,)))
    elif record.randomness == "system":
        says = (
            "secure_mode was off: noise and batches come from torch's generators, which are unpredictable by their"
            " state alone, not by design."
        )
        found.append(Caution("note", (says,)))
    elif record.randomness == "unknown":
        found.append(Caution("note", ("The run did not record where its noise came from.",)))
    if record.examples is not None and delta * record.examples >= 1.0:
        says = (
            f"δ = {exact(delta)} is not below one over the {record.examples:,} training examples: such a δ allows one"
            " of them to be published in full."
        )
        found.append(Caution("serious", (says,)))
    if record.epsilon is not None and record.delta == delta and record.epsilon < epsilon.lower:
        lower = Proved("epsilon", (delta,), "lower", epsilon.lower)
        says = (f"The run claims ε = {exact(record.epsilon)}, which is disproved: the true ε is at least ", lower, ".")
        found.append(Caution("serious", says))
    return found
