"""What a run really spends, as a history that is proved to dominate it: each mistake changes it in its own way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.mechanisms import DiscreteMechanism, FixedBatches

Phase = tuple[float, float, int]
REFINEMENTS = 4
"""How often epsilon is asked again with what the slip leaves of delta."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Steps that dominate a run, and the probability that it is another.

    Args:
      phases: (noise_multiplier, sample_rate, steps).
      adjacency: of the data sets for which they do.
      epochs: how often an example takes part in a step, where batches are fixed, or None.
      others: what the steps publish besides, composed with them.
      slip: the run may differ from these steps with at most this probability, for either of two neighbours.
    """

    phases: tuple[Phase, ...]
    adjacency: Adjacency = "add_or_remove"
    epochs: int | None = None
    slip: float = 0.0
    others: tuple[tuple[DiscreteMechanism, int], ...] = ()

    @property
    def history(self) -> list[Any]:
        """The steps as `PrivacyCurve` takes them. Of fixed batches an example may take part in the least noisy ones."""
        if self.epochs is None:
            return [*self.phases, *self.others]
        noise = min((noise for noise, _, steps in self.phases if steps > 0), default=math.inf)
        return [(FixedBatches(noise), self.epochs)] if noise < math.inf else []

    def epsilon(self, delta: float, adjacency: Adjacency | None = None) -> float:
        """Return a proved upper bound on epsilon at `delta` in (0, 1).

        With M' what the steps would publish and M what is published, P(M != M') <= slip for both data sets:
        P(M(D) in S) <= e^epsilon P(M(D') in S) + delta' + (1 + e^epsilon) slip.
        """
        curve = PrivacyCurve(self.history, adjacency=self.adjacency if adjacency is None else adjacency)
        if self.slip == 0.0:
            return curve.epsilon(delta).upper
        found = math.inf
        at = 0.5 * delta
        for _ in range(REFINEMENTS):
            epsilon = min(curve.epsilon(at).upper, 700.0)
            slipped = (1.0 + math.exp(epsilon)) * self.slip * (1.0 + 1e-12)
            if slipped <= (delta - at) * (1.0 - 1e-12):
                found = min(found, epsilon)
            left = delta - slipped
            if not at < left:  # it was enough already, or never is
                break
            at = left
        return found


def noisier(spent: Spent, factor: float) -> Spent:
    """Return the steps with so many times the noise."""
    return replace(spent, phases=tuple((noise * factor, rate, n) for noise, rate, n in spent.phases))


def sampled_at(spent: Spent, rate: float) -> Spent:
    """Return the steps with another sampling rate."""
    return replace(spent, phases=tuple((noise, rate, n) for noise, _, n in spent.phases))


def one_by_one(spent: Spent, batches: int) -> Spent:
    r"""Return steps that dominate those for which the gradients of so many Poisson batches were added up.

    An example may be in several of them. Noise of standard deviation s is the sum of k independent ones of s / sqrt(k):
    the step is a function of k steps of that noise, one for each batch.
    """
    shrink = 1.0 / math.sqrt(batches)
    return replace(spent, phases=tuple((noise * shrink, rate, n * batches) for noise, rate, n in spent.phases))


def in_fixed_batches(spent: Spent, batches: int, batches_per_epoch: int) -> Spent:
    """Return what was spent where every example is in one batch of an epoch at most; see `FixedBatches`."""
    return replace(spent, adjacency="zero_out", epochs=math.ceil(batches / batches_per_epoch))


def in_every_step(spent: Spent, times: int = 1) -> Spent:
    """Return what was spent where an example may be in every batch, up to so many times."""
    phases = tuple((noise / times, 1.0, n) for noise, _, n in spent.phases)
    return replace(spent, phases=phases, adjacency="zero_out", epochs=None)


def without_empty(spent: Spent, missing: int, examples: int) -> Spent:
    r"""Return steps that dominate those of which `missing` were not taken because no one was sampled.

    p is the probability that none of the other examples is sampled. If some are, the step is as accounted. If none,
    there is a step if the example is sampled, with probability q, and none otherwise: q for certain it is seen. Whoever
    is told which of the two it was sees more; and that is a function, by a coin of bias p, of the step as accounted
    together with a step that has the outcomes "others" (1 - p), "no step" and "a step".
    """
    noise, rate, _ = spent.phases[-1]
    alone = math.exp((examples - 1) * math.log1p(-min(rate, 1.0 - 1e-16))) * (1.0 + 1e-9)
    seen = DiscreteMechanism((1.0 - alone, alone * (1.0 - rate), alone * rate), (1.0 - alone, alone, 0.0))
    phases = (*spent.phases, (noise, rate, missing))
    return replace(spent, phases=phases, others=(*spent.others, (seen, sum(n for _, _, n in phases))))


def unbounded(spent: Spent) -> Spent:
    """Return what was spent where nothing hides an example."""
    return replace(spent, phases=((0.0, 1.0, 1),), epochs=None)


def steps_of(spent: Spent) -> int:
    """Return how many steps there are."""
    return sum(n for _, _, n in spent.phases)
