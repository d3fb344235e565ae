"""What two neighbouring data sets differ in, and what that makes of each step's dominating pair."""

from __future__ import annotations

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth.composition import OtherMechanism
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.mechanisms import FixedBatches, RandomizedResponse, ReplacedSubsampledGaussian

IN_WORDS: dict[Adjacency, str] = {
    "add_or_remove": "one example added or removed, the larger of both directions",
    "replace_one": "one example replaced by another",
    "zero_out": "one example's gradient put to zero, the larger of both directions",
}
"""What neighbouring data sets differ in, for results that are read."""

Phases = dict[tuple[float, float], int]
Others = dict[OtherMechanism, int]


def steps_under(adjacency: Adjacency, phases: Phases, others: Others) -> tuple[Phases, Others]:
    """Return the steps whose dominating pairs hold under an adjacency, {(noise, rate): steps} and {mechanism: steps}.

    *Add or remove* is what the pairs of `mechanisms` are for. *Zero out* has the same: the data set keeps its size,
    but a gradient of zero adds to a sum what an example that is not there does. *Replace one* moves an unsampled
    Gaussian step's mean by up to twice the clipping norm; for a sampled one see `mixed.replaced`.

    Fixed batches are Gaussian steps, one per epoch: see `FixedBatches`.

    Raises:
      InvalidParameterError: a step has no proved pair under this adjacency.
    """
    fixed = {step: n for step, n in others.items() if isinstance(step, FixedBatches)}
    others = {step: n for step, n in others.items() if step not in fixed}
    if fixed and adjacency == "add_or_remove":
        raise InvalidParameterError(
            f'{next(iter(fixed))!r} has no bound for adjacency="add_or_remove": with one example more or fewer other'
            ' examples change their batches; ask for adjacency="zero_out" or "replace_one"'
        )
    phases = dict(phases)
    for step, n in fixed.items():
        key = (step.noise_multiplier, 1.0)
        phases[key] = phases.get(key, 0) + n
    if adjacency != "replace_one":
        return phases, others
    for step in others:
        if not isinstance(step, RandomizedResponse):
            raise InvalidParameterError(
                f'{step!r} has no proved bound for adjacency="replace_one"; Gaussian noise and randomized response have'
            )
    moved: Phases = {}
    for (noise, rate), n in phases.items():
        if 0.0 < rate < 1.0 and noise > 0.0:
            others[ReplacedSubsampledGaussian(noise, rate)] = n
        else:
            moved[(0.5 * noise, rate)] = moved.get((0.5 * noise, rate), 0) + n
    return moved, others
