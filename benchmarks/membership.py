"""How well an attacker tells members from others: exposure, membership scores, their ROC, and what a proof allows.

Sources:
  N. Carlini, C. Liu, U. Erlingsson, J. Kos, D. Song, "The Secret Sharer", USENIX Security 2019,
    https://arxiv.org/abs/1802.08232 (exposure).
  L. Watson, C. Guo, G. Cormode, A. Sablayrolles, "On the Importance of Difficulty Calibration in Membership Inference
    Attacks", ICLR 2022, https://arxiv.org/abs/2111.08440 (the loss against a reference).
  N. Carlini, S. Chien, M. Nasr, S. Song, A. Terzis, F. Tramer, "Membership Inference Attacks From First Principles",
    S&P 2022, https://arxiv.org/abs/2112.03570 (the likelihood ratio; true positives at few false ones).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from opacus_edgeworth import PrivacyCurve

Reals = NDArray[np.float64]
Flags = NDArray[np.bool_]
SMALLEST_DELTA = 1e-10  # how far the grid of epsilons goes
GRID_POINTS = 400


def exposure(loss: float, alternatives: Reals) -> float:
    """Return log2 |R| - log2 rank of a canary's loss, R being the canary and its random alternatives.

    Rank 1 is the smallest loss; ties count against the canary. A canary that the model never saw has each rank with
    the same probability, and an exposure of about log2(e) = 1.44 on average.
    """
    rank = 1 + int((alternatives <= loss).sum())
    return math.log2(len(alternatives) + 1) - math.log2(rank)


def losses_of(margins: Reals) -> Reals:
    """Return cross-entropy losses from margins, log p / (1 - p) of the right class; exact where p is almost 1."""
    return np.logaddexp(0.0, -margins)


def reference_scores(losses: Reals, member: Flags) -> Reals:
    """Return how much smaller an example's loss is than in the models that were trained without it.

    Args:
      losses: shape (models, examples).
      member: whether the example was in the model's training data; each example is out of two models at least.

    Returns:
      Scores, large for members; the reference of a model's score is the mean over all *other* models without the
      example, so that a score owes to its own model nothing but the loss.
    """
    return _out_moments(losses, member)[0] - losses


def likelihood_ratio_scores(margins: Reals, member: Flags) -> Reals:
    """Return the log likelihood ratio of each margin: as in other models with the example, or as in those without.

    Both laws are taken for normal. Means are of the example, variances of all examples together, in and out: 30 models
    are too few for one each. The model itself has no part in any of them.
    """
    mean_out, variance_out = _out_moments(margins, member)
    mean_in, variance_in = _out_moments(margins, ~member)
    spread_out, spread_in = (np.sqrt(variance.mean(axis=1, keepdims=True)) for variance in (variance_out, variance_in))
    return stats.norm.logpdf(margins, mean_in, spread_in) - stats.norm.logpdf(margins, mean_out, spread_out)


def _out_moments(values: Reals, member: Flags) -> tuple[Reals, Reals]:
    """Return, for each model and example, mean and variance over the other models without the example."""
    out = (~member).astype(float)
    center = values.mean(axis=0)  # taken off first: the difference of large sums would lose digits
    shifted = values - center
    count = out.sum(axis=0) - out
    if count.min() < 2:
        raise ValueError("an example is in or out of too few models; train more of them")
    first = (out * shifted).sum(axis=0) - out * shifted
    second = (out * shifted**2).sum(axis=0) - out * shifted**2
    mean = first / count
    return mean + center, np.maximum(second / count - mean**2, 0.0) * count / (count - 1.0)


@dataclass(frozen=True, slots=True)
class Roc:
    """The scores of members and of others, each sorted from the largest."""

    members: Reals
    others: Reals

    @classmethod
    def of(cls, scores: Reals, member: Flags) -> Roc:
        """Sort scores by what they are of."""
        return cls(-np.sort(-scores[member]), -np.sort(-scores[~member]))

    def auc(self) -> float:
        """Return the probability that a member's score is above another's, ties counting half."""
        ranks = stats.rankdata(np.concatenate([self.members, self.others]))[: len(self.members)]
        count = len(self.members)
        return float((ranks.sum() - count * (count + 1) / 2) / (count * len(self.others)))

    def hits(self, fpr: float) -> int:
        """Return how many members lie above the lowest threshold with at most `fpr` of the others above it."""
        allowed = math.floor(fpr * len(self.others) + 1e-9)
        if allowed >= len(self.others):
            return len(self.members)
        return int((self.members > self.others[allowed]).sum())

    def tpr(self, fpr: float) -> float:
        """Return the true positive rate at a false positive rate of at most `fpr`."""
        return self.hits(fpr) / len(self.members)


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact confidence interval of a proportion (C. Clopper and E. Pearson, Biometrika 1934)."""
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(stats.beta.ppf(1.0 - tail, hits + 1, trials - hits))
    return low, high


def tpr_allowed(history: Iterable[Any], fprs: Reals) -> Reals:
    """Return a proved upper bound on the true positive rate of every membership test, at each false positive rate.

    The definition of (epsilon, delta)-privacy, for the event that the test says "member", gives TPR <= e^epsilon FPR +
    delta; for the event that it does not, with both data sets exchanged, 1 - FPR <= e^epsilon (1 - TPR) + delta. With
    the curve's delta they hold for every epsilon, so the smallest right side over a grid of them is a bound. It is
    concave in FPR, and so a bound on the mean rates of many examples as well.
    """
    curve = PrivacyCurve(history)
    epsilons = np.linspace(0.0, curve.epsilon(SMALLEST_DELTA).upper, GRID_POINTS)[:, None]
    deltas = np.array([curve.delta(float(epsilon)).upper for epsilon in epsilons[:, 0]])[:, None]
    return np.minimum(1.0, lines(epsilons, deltas, fprs).min(axis=0))


def lines(epsilon: Any, delta: Any, fprs: Reals) -> Reals:
    """Return the smaller of the two bounds on the true positive rate that (epsilon, delta) gives."""
    return np.minimum(np.exp(epsilon) * fprs + delta, 1.0 - np.exp(-epsilon) * (1.0 - delta - fprs))
