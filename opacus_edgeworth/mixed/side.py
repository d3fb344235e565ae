"""One direction of a history of steps of any kind: what each step's loss is, and what of it is seen for certain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from opacus_edgeworth._types import Direction
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition, OtherMechanism
from opacus_edgeworth.inversion.exact import exact_delta, single_step_delta
from opacus_edgeworth.mechanisms import (
    ULP,
    DiscreteMechanism,
    FixedBatches,
    Laplace,
    PoissonSubsampledLaplace,
    RandomizedResponse,
    ReplacedSubsampledGaussian,
)
from opacus_edgeworth.mixed.atoms import Atoms, compose_atoms
from opacus_edgeworth.mixed.contour import Parts
from opacus_edgeworth.mixed.laplace import LaplacePart, laplace_delta, sampled_laplace_delta
from opacus_edgeworth.mixed.law import (
    LossLaw,
    discrete_law,
    laplace_atoms,
    replaced_law,
    response_law,
    sampled_laplace_law,
)
from opacus_edgeworth.mixed.part import Part
from opacus_edgeworth.mixed.points import PointsPart
from opacus_edgeworth.mixed.replaced import replaced_delta
from opacus_edgeworth.mixed.sampled import sampled_part


@dataclass(frozen=True, slots=True)
class Side:
    """A history in one direction.

    Args:
      direction: which of the two.
      gaussian: its steps with Gaussian noise, none of them noiseless.
      others: the mechanisms without, with their numbers of steps.
      laws: their losses' laws, but those of unsampled Laplace steps.
      rates: 1 / scale of those, with their numbers.
    """

    direction: Direction
    gaussian: Composition
    others: tuple[tuple[OtherMechanism, int], ...]
    laws: tuple[tuple[LossLaw, int], ...]
    rates: tuple[tuple[float, int], ...]

    def revealed(self) -> Bounds:
        """Return 1 - prod (1 - infinite)^n: how likely some step shows for certain which data set it was."""
        log_hidden = math.fsum(n * math.log1p(-min(law.infinite, 1.0)) if law.infinite < 1.0 else -math.inf
                               for law, n in self.laws)  # fmt: skip
        room = 32.0 * ULP
        return Bounds(-math.expm1(log_hidden) * (1.0 - room), min(-math.expm1(log_hidden) * (1.0 + room), 1.0))

    def largest_loss(self) -> Bounds:
        """Return the essential supremum of the finite losses' sum; delta is 0 from there on, but for the infinite."""
        if any(law.largest_loss.upper == -math.inf for law, _ in self.laws):
            return Bounds(0.0, 0.0)  # every loss is infinite
        if self.gaussian.gaussian > 0.0 or (self.direction == "remove" and self.gaussian.phases > 0):
            return Bounds(math.inf, math.inf)
        if any(law.largest_loss.upper == math.inf for law, _ in self.laws):
            return Bounds(math.inf, math.inf)
        of_gaussian = self.gaussian.add_direction_limit()
        terms = [(of_gaussian * (1.0 - 64.0 * ULP), of_gaussian)]
        terms += [(n * law.largest_loss.lower, n * law.largest_loss.upper) for law, n in self.laws]
        terms += [(n * rate * (1.0 - 4.0 * ULP), n * rate * (1.0 + 4.0 * ULP)) for rate, n in self.rates]
        room = 8.0 * ULP * math.fsum(abs(end) for term in terms for end in term)
        return Bounds(
            math.fsum(low for low, _ in terms) - room,
            math.fsum(high for _, high in terms) + room,
        )

    @property
    def is_discrete(self) -> bool:
        """Whether no loss is continuous."""
        return self.gaussian.phases == 0 and self.gaussian.gaussian == 0.0 and self.others_are_discrete

    @property
    def others_are_discrete(self) -> bool:
        """Whether no loss of a step that is not Gaussian is continuous."""
        return not self.rates and all(law.density is None for law, _ in self.laws)

    def atoms(self) -> Atoms:
        """Return the composition of the steps that are not Gaussian, if `others_are_discrete`, as finitely many atoms.

        Raises:
          OutOfReachError: they would be too many.
        """
        return compose_atoms(self.laws)

    def atoms_alone(self) -> Atoms | None:
        """Return the outcomes in which every step's loss is an atom, or None if some step has none.

        Delta is at least theirs; near the largest loss it is little else.

        Raises:
          OutOfReachError: they would be too many.
        """
        if self.gaussian.phases > 0 or self.gaussian.gaussian > 0.0 or any(not law.loss.size for law, _ in self.laws):
            return None
        unsampled = [(laplace_atoms(rate), n) for rate, n in self.rates]
        return compose_atoms([*self.laws, *unsampled])

    def parts(self, log_cut: float) -> Parts:
        """Return what a line is made of; the sampled Gaussian steps' laws lose about the mass e^log_cut.

        Raises:
          OutOfReachError: their grid would be too large.
        """
        parts: list[Part] = [PointsPart(law, float(n)) for law, n in self.laws]
        parts += [LaplacePart(rate, float(n)) for rate, n in self.rates]
        if self.gaussian.phases > 0:
            parts.append(sampled_part(self.gaussian, self.direction, log_cut))
        return Parts(tuple(parts), self.gaussian.gaussian)

    def closed_form(self, epsilon: float) -> Bounds | None:
        """Return delta of a history of a single step that is not Gaussian."""
        gaussian = self.gaussian.phases > 0 or self.gaussian.gaussian > 0.0
        if gaussian or len(self.others) != 1 or self.others[0][1] != 1:
            return None
        return _single_delta(self.others[0][0], epsilon, self.direction)

    def lower_bound(self, epsilon: float) -> float:
        """Return a lower bound on delta: that of the best single step, all others being forgotten."""
        pairs = zip(self.gaussian.noise_multiplier.tolist(), self.gaussian.sample_rate.tolist(), strict=True)
        lower = [single_step_delta(s, q, epsilon, self.direction).lower for s, q in pairs]
        lower += [_single_delta(mechanism, epsilon, self.direction).lower for mechanism, _ in self.others]
        if 1e-200 < self.gaussian.gaussian < 1e200:
            lower.append(exact_delta(self.gaussian.select(np.zeros(0, dtype=np.intp)), epsilon, self.direction).lower)
        return max(lower, default=0.0)


def make_side(gaussian: Composition, others: tuple[tuple[OtherMechanism, int], ...], direction: Direction) -> Side:
    """Return a history in one direction; steps that reveal nothing are left out."""
    laws: list[tuple[LossLaw, int]] = []
    rates: list[tuple[float, int]] = []
    kept: list[tuple[OtherMechanism, int]] = []
    for mechanism, n in others:
        if n == 0 or _reveals_nothing(mechanism):
            continue
        kept.append((mechanism, n))
        rate = _unsampled_rate(mechanism)
        if rate is None:
            laws.append((_law_of(mechanism, direction), n))
        else:
            rates.append((rate, n))
    return Side(direction, replace(gaussian, log_hidden=0.0), tuple(kept), tuple(laws), tuple(rates))


def is_symmetric(gaussian: Composition, others: tuple[tuple[OtherMechanism, int], ...]) -> bool:
    """Whether both directions have the same loss."""
    return gaussian.phases == 0 and all(
        isinstance(mechanism, (Laplace, RandomizedResponse, ReplacedSubsampledGaussian))
        or _unsampled_rate(mechanism) is not None
        for mechanism, _ in others
    )


def _reveals_nothing(mechanism: OtherMechanism) -> bool:
    """Whether a step's output does not depend on the example."""
    match mechanism:
        case PoissonSubsampledLaplace(sample_rate=q):
            return q == 0.0
        case RandomizedResponse(epsilon=epsilon):
            return epsilon == 0.0
        case DiscreteMechanism(p=p, q=q):
            return p == q
        case _:
            return False


def _unsampled_rate(mechanism: OtherMechanism) -> float | None:
    """Return 1 / scale of an unsampled Laplace step."""
    match mechanism:
        case Laplace(scale=scale) | PoissonSubsampledLaplace(scale=scale, sample_rate=1.0):
            return 1.0 / scale
        case _:
            return None


def _law_of(mechanism: OtherMechanism, direction: Direction) -> LossLaw:
    """Return the law of a step that is not an unsampled Laplace step."""
    match mechanism:
        case PoissonSubsampledLaplace():
            return sampled_laplace_law(mechanism, direction)
        case RandomizedResponse():
            return response_law(mechanism)
        case DiscreteMechanism():
            return discrete_law(mechanism, direction)
        case ReplacedSubsampledGaussian():
            return replaced_law(mechanism)
        case Laplace() | FixedBatches():
            raise AssertionError(f"{mechanism!r} has no such law")


def _single_delta(mechanism: OtherMechanism, epsilon: float, direction: Direction) -> Bounds:
    """Return delta of one step at epsilon >= 0."""
    rate = _unsampled_rate(mechanism)
    if rate is not None:
        return laplace_delta(rate, epsilon)
    if isinstance(mechanism, PoissonSubsampledLaplace):
        return sampled_laplace_delta(1.0 / mechanism.scale, mechanism.sample_rate, epsilon, direction)
    if isinstance(mechanism, ReplacedSubsampledGaussian):
        return replaced_delta(mechanism.noise_multiplier, mechanism.sample_rate, epsilon)
    law = _law_of(mechanism, direction)
    finite = compose_atoms([(law, 1)]).delta(epsilon)
    room = 8.0 * ULP * law.infinite
    return Bounds(finite.lower + law.infinite - room, min(finite.upper + law.infinite + room, 1.0))
