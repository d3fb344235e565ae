"""A training history as one composition: equal steps merged, limits set apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, get_args

import numpy as np

from opacus_edgeworth._types import FloatArray, IntArray
from opacus_edgeworth._validate import as_entries, as_steps, shown
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.mechanisms import (
    ULP,
    DiscreteMechanism,
    FixedBatches,
    Gaussian,
    Laplace,
    Mechanism,
    PoissonSubsampledGaussian,
    PoissonSubsampledLaplace,
    RandomizedResponse,
    ReplacedSubsampledGaussian,
)

OtherMechanism: TypeAlias = (
    Laplace
    | PoissonSubsampledLaplace
    | RandomizedResponse
    | DiscreteMechanism
    | FixedBatches
    | ReplacedSubsampledGaussian
)
"""A step whose dominating pair is not that of the sampled Gaussian."""

FORM = "(noise_multiplier, sample_rate, steps) or (mechanism, steps)"
MOST_ENTRIES = 10**7
"""Of a history; one that never ends is refused, too."""


@dataclass(frozen=True, slots=True)
class Composition:
    """Independent steps, grouped: subsampled phases, one Gaussian for all unsampled ones, and noiseless ones.

    Args:
      noise_multiplier: shape (P,), > 0, of the phases with 0 < sample_rate < 1, sorted.
      sample_rate: shape (P,), in (0, 1).
      steps: shape (P,), whole numbers >= 1.
      gaussian: sum of steps / noise_multiplier^2 over the phases with sample_rate 1; relative error `gaussian_error`.
      gaussian_error: bound on the relative rounding error of `gaussian`.
      log_hidden: log of the probability that no noiseless step samples the example: 0 without such steps,
        -inf if one of them has sample_rate 1.
    """

    noise_multiplier: FloatArray
    sample_rate: FloatArray
    steps: FloatArray
    gaussian: float
    gaussian_error: float
    log_hidden: float

    @property
    def phases(self) -> int:
        """The number of distinct subsampled phases, P."""
        return int(self.steps.size)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was revealed: no steps, or sample_rate 0 throughout."""
        return self.phases == 0 and self.gaussian == 0.0 and self.log_hidden == 0.0

    def select(self, where: IntArray) -> Composition:
        """Return the composition of these subsampled phases and of all other steps."""
        return replace(
            self,
            noise_multiplier=self.noise_multiplier[where],
            sample_rate=self.sample_rate[where],
            steps=self.steps[where],
        )

    def noiseless_delta(self) -> Bounds:
        """Return bounds on delta if some steps have no noise: the example is seen as soon as one samples it."""
        return Bounds(-math.expm1(self.log_hidden) * (1.0 - 1e-12), 1.0)

    def noiseless_epsilon(self, delta: float) -> Bounds:
        """Return bounds on epsilon at delta if some steps have no noise."""
        return Bounds(math.inf if delta < self.noiseless_delta().lower else 0.0, math.inf)

    def add_direction_limit(self) -> float:
        """Return a lower end of the epsilon at and above which delta is exactly 0 in the add direction.

        There L <= -log(1 - q) per step, so the sum never exceeds -sum n log(1 - q); infinite if some step has q = 1.
        The value is rounded up, so that "epsilon >= limit" proves delta = 0.
        """
        if self.gaussian > 0.0:
            return math.inf
        total = float(-(self.steps @ np.log1p(-self.sample_rate)))
        return total * (1.0 + ULP * (self.phases + 8))


def parse_history(history: Iterable[Any]) -> dict[tuple[float, float], int]:
    """Return {(noise_multiplier, sample_rate): steps}, every entry checked.

    Args:
      history: (noise_multiplier, sample_rate, steps) triples as Opacus keeps them, or (mechanism, steps) pairs.

    Raises:
      InvalidParameterError: an entry has another form, one of its numbers is outside its range, or its noise is not
        Gaussian.
    """
    phases, others = parse_mechanisms(history)
    for mechanism in others:
        raise InvalidParameterError(
            f"{shown(mechanism)} is not a Poisson-sampled Gaussian step: only PrivacyCurve composes it; leave it out"
            " here, or ask PrivacyCurve"
        )
    return phases


def parse_mechanisms(
    history: Iterable[Any],
) -> tuple[dict[tuple[float, float], int], dict[OtherMechanism, int]]:
    """Return the steps with Gaussian noise, {(noise_multiplier, sample_rate): steps}, and {mechanism: steps} of others.

    Args:
      history: as for `parse_history`; the mechanisms may be any of `opacus_edgeworth.mechanisms`.

    Raises:
      InvalidParameterError: an entry has another form, or one of its numbers is outside its range.
    """
    merged: dict[tuple[float, float], int] = {}
    others: dict[OtherMechanism, int] = {}
    for index, entry in enumerate(as_entries("history", history, MOST_ENTRIES, f"a list of {FORM}")):
        try:
            step, steps = _parse_entry(entry)
        except InvalidParameterError as error:
            raise InvalidParameterError(f"history[{index}]: {error}") from None
        if isinstance(step, (PoissonSubsampledGaussian, Gaussian)):
            key = (step.noise_multiplier, step.sample_rate)
            merged[key] = merged.get(key, 0) + steps
        else:
            others[step] = others.get(step, 0) + steps
    for step, steps in (*merged.items(), *others.items()):
        if steps > 2**53:  # beyond, a double would lose some
            raise InvalidParameterError(f"history has {steps} steps of {shown(step)}, at most 2**53; no run is longer")
    return merged, others


def _parse_entry(entry: Any) -> tuple[Mechanism, int]:
    """Return one phase's mechanism and count."""
    given: Any = entry
    if not isinstance(entry, (tuple, list)):  # a row of an array, say
        given = as_entries("entry", entry, 3, FORM)
    parts: tuple[Any, ...] = tuple(given)
    if len(parts) == 2 and isinstance(parts[0], get_args(Mechanism)):
        return parts[0], as_steps(parts[1])
    if len(parts) == 3:
        return PoissonSubsampledGaussian(parts[0], parts[1]), as_steps(parts[2])
    raise InvalidParameterError(f"{shown(parts)} must be {FORM}")


def compose(history: Iterable[Any]) -> Composition:
    """Return the composition of a history; the order of its entries does not matter, to the last bit.

    Raises:
      InvalidParameterError: see `parse_history`.
    """
    return compose_parsed(parse_history(history))


def compose_parsed(phases: dict[tuple[float, float], int]) -> Composition:
    """Return the composition of what `parse_history` returned."""
    active = sorted((key, steps) for key, steps in phases.items() if steps > 0 and key[1] > 0.0)
    sampled = [(s, q, n) for (s, q), n in active if q < 1.0 and s > 0.0]
    full = [(s, n) for (s, q), n in active if q == 1.0 and s > 0.0]
    noiseless = [(q, n) for (s, q), n in active if s == 0.0]
    columns = np.array(sampled, dtype=np.float64).reshape(-1, 3)
    gaussian = math.fsum(n / s / s for s, n in full)
    log_hidden = math.fsum(n * math.log1p(-q) if q < 1.0 else -math.inf for q, n in noiseless)
    return Composition(columns[:, 0], columns[:, 1], columns[:, 2], gaussian, 2.0**-50, log_hidden)
