"""What a run really spends, as a history that is proved to dominate it: each mistake changes it in its own way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.mechanisms import DiscreteMechanism, FixedBatches

Phase = tuple[float, float, int]
SAME = 1e-9
"""Relative difference up to which two rates are the same."""
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
            epsilon = curve.epsilon(at).upper
            slipped = cost_of(self.slip, epsilon)
            if slipped <= (delta - at) * (1.0 - 1e-12):
                found = min(found, epsilon)
            left = delta * (1.0 - 1e-12) - slipped * (1.0 + 1e-9)
            if not at < left:  # it was enough already, or never is
                break
            at = left
        return found


def cost_of(slip: float, epsilon: float) -> float:
    """Return what a slip adds to delta at epsilon, (1 + e^epsilon) slip, rounded up."""
    return (1.0 + math.exp(epsilon)) * slip * (1.0 + 1e-12) if epsilon < 700.0 else math.inf


def noisier(spent: Spent, factor: float) -> Spent:
    """Return the steps with so many times the noise."""
    return replace(spent, phases=tuple((noise * factor, rate, n) for noise, rate, n in spent.phases))


def sampled_at_least(spent: Spent, rate: float) -> Spent:
    """Return the steps with their rates raised to at least that."""
    phases = tuple((noise, max(told, rate), n) for noise, told, n in spent.phases)
    return replace(spent, phases=phases)


def sampled_more(spent: Spent, rate: float, drawn: float) -> Spent:
    """Return the steps that were recorded at the sampler's rate with the one that is drawn at; smaller ones as well."""
    phases = tuple((s, max(q, drawn) if q <= rate * (1.0 + SAME) else q, n) for s, q, n in spent.phases)
    return replace(spent, phases=phases)


def sampled_less(spent: Spent, told: float, drawn: float) -> Spent:
    """Return the steps that were recorded at one rate with the lower one that is drawn at; others stay."""
    phases = tuple((s, drawn if abs(q - told) <= SAME * told else q, n) for s, q, n in spent.phases)
    return replace(spent, phases=phases)


def several_times(spent: Spent, times: int) -> Spent:
    r"""Return steps that dominate those in which an example may be up to so many times, by Poisson samples of any kind.

    It is there at all with at most `times` times the probability of one sample, whether the samples are independent or
    the same. A mean over the number of times is no worse than the largest one: centres k g on a line have covariances
    that rise with k, see `mixed.replaced`.
    """
    phases = tuple((noise / times, min(rate * times, 1.0), n) for noise, rate, n in spent.phases)
    return replace(spent, phases=phases)


def one_by_one(spent: Spent, batches: int) -> Spent:
    r"""Return steps that dominate those for which the gradients of so many Poisson batches were added up.

    An example may be in several of them. Noise of standard deviation s is the sum of k independent ones of s / sqrt(k):
    the step is a function of k steps of that noise, one for each batch.
    """
    shrink = 1.0 / math.sqrt(batches)
    return replace(spent, phases=tuple((noise * shrink, rate, n * batches) for noise, rate, n in spent.phases))


def taken_apart(spent: Spent, hook: float) -> Spent:
    """Return the steps that were recorded at several times the hook's rate as so many steps each."""
    parts = (one_by_one(Spent(((s, hook, n),)), max(round(q / hook), 1)) for s, q, n in spent.phases)
    phases = tuple(itertools.chain.from_iterable(part.phases for part in parts))
    return replace(spent, phases=phases)


def of_all_processes(spent: Spent, processes: int) -> Spent:
    """Return what so many processes publish that draw for themselves."""
    phases = tuple((s, q, n * processes) for s, q, n in spent.phases)
    return replace(spent, phases=phases, others=tuple((step, n * processes) for step, n in spent.others))


def in_fixed_batches(spent: Spent, batches: int, batches_per_epoch: int, together: Collection[int] = (1,)) -> Spent:
    """Return what was spent where every example is in one batch of an epoch at most; see `FixedBatches`.

    A step of several batches `together` may have some of two epochs. With m_i times in the steps i, of which the sum is
    the number E of epochs and the largest m, the sum of squares is at most m E.
    """
    aligned = len(together) == 1 and batches_per_epoch % max(together) == 0
    most = 1 if aligned else 1 + math.ceil((max(together) - 1) / batches_per_epoch)
    spent = noisier(spent, 1.0 / math.sqrt(most))
    return replace(spent, adjacency="zero_out", epochs=math.ceil(batches / batches_per_epoch))


def in_every_step(spent: Spent, times: int = 1) -> Spent:
    """Return what was spent where an example may be in every batch, up to so many times."""
    phases = tuple((noise / times, 1.0, n) for noise, _, n in spent.phases)
    return replace(spent, phases=phases, adjacency="zero_out", epochs=None)


def without_empty(spent: Spent, missing: int, examples: int, drawn: float) -> Spent:
    r"""Return steps that dominate those of which `missing` were not taken because no one was sampled.

    p is the probability that none of the other examples is sampled. If some are, the step is as accounted. If none,
    there is a step if the example is sampled, with probability q, and none otherwise: q for certain it is seen. Whoever
    is told which of the two it was sees more; and that is a function, by a coin of bias p, of the step as accounted
    together with a step that has the outcomes "others" (1 - p), "no step" and "a step". Larger p and q only show more:
    where rates differ, p is that of the least and q the largest, of those recorded and the one that is `drawn`.
    """
    rates = [drawn, *(rate for _, rate, _ in spent.phases)]
    low, high = min(rates), max(rates)
    alone = min(math.exp((examples - 1) * math.log1p(-min(low, 1.0 - 1e-16))) * (1.0 + 1e-9), 1.0)
    seen = DiscreteMechanism((1.0 - alone, alone * (1.0 - high), alone * high), (1.0 - alone, alone, 0.0))
    phases = (*spent.phases, (min(noise for noise, _, _ in spent.phases), high, missing))
    return replace(spent, phases=phases, others=(*spent.others, (seen, sum(n for _, _, n in phases))))


def slipping(spent: Spent, rate: float, part: int, processes: int) -> Spent:
    """Return the steps with the probability that some process's part of some batch is empty but for one example."""
    alone = math.exp(max(part - 1, 0) * math.log1p(-min(rate, 1.0 - 1e-16)))
    slip = min(steps_of(spent) * processes * alone * (1.0 + 1e-9), 1.0)
    return replace(spent, slip=spent.slip + slip)


def unbounded(spent: Spent) -> Spent:
    """Return what was spent where nothing hides an example."""
    return replace(spent, phases=((0.0, 1.0, 1),), epochs=None)


def steps_of(spent: Spent) -> int:
    """Return how many steps there are."""
    return sum(n for _, _, n in spent.phases)
