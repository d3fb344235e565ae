"""Single steps of private algorithms, and the privacy loss of the sampled Gaussian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth._validate import (
    as_categories,
    as_distribution,
    as_noise_multiplier,
    as_response_epsilon,
    as_sample_rate,
    as_scale,
)
from opacus_edgeworth.errors import InvalidParameterError

ULP = 2.0**-52
"""Relative spacing of doubles; elementary functions are taken to be accurate to 4 of them."""
LARGE_EXPONENT = 30.0
"""Above it, e^w dwarfs 1 - q, and factoring e^w out of the mixture avoids overflow."""


@dataclass(frozen=True, slots=True)
class PoissonSubsampledGaussian:
    """One DP-SGD step: each example enters the batch with probability `sample_rate`, Gaussian noise is added.

    Its dominating pair, for add/remove adjacency, is P = (1-q) N(0, s^2) + q N(1, s^2), Q = N(0, s^2).

    Args:
      noise_multiplier: s, noise standard deviation over clipping norm, in [1e-120, 1e120]; or 0, no privacy.
      sample_rate: q, Poisson sampling probability, in [1e-40, 1]; or 0.

    Raises:
      InvalidParameterError: an argument is outside its range.

    Source:
      Zhu, Dong & Wang 2022, "Optimal Accounting of Differential Privacy via Characteristic Function",
      https://arxiv.org/abs/2106.08567 (dominating pairs under Poisson sampling, both directions).

    Example:
      >>> PoissonSubsampledGaussian(noise_multiplier=1.0, sample_rate=0.01)
      PoissonSubsampledGaussian(noise_multiplier=1.0, sample_rate=0.01)
    """

    noise_multiplier: float
    sample_rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise_multiplier", as_noise_multiplier(self.noise_multiplier))
        object.__setattr__(self, "sample_rate", as_sample_rate(self.sample_rate))


@dataclass(frozen=True, slots=True)
class Gaussian:
    """The Gaussian mechanism without sampling, with sensitivity 1.

    Args:
      noise_multiplier: noise standard deviation over sensitivity, in [0, inf).

    Raises:
      InvalidParameterError: `noise_multiplier` is outside its range.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise_multiplier", as_noise_multiplier(self.noise_multiplier))

    @property
    def sample_rate(self) -> float:
        """1: every example enters every step."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Laplace:
    """The Laplace mechanism without sampling, with sensitivity 1.

    Its dominating pair is P = Lap(1, b), Q = Lap(0, b); b = scale. The loss takes each of the values 1/b and -1/b with
    positive probability, and is continuous between them.

    Args:
      scale: b, the noise's scale over the sensitivity of a query with one number as its answer, in [1e-6, 1e9]; alone
        it is (1/b, 0)-differentially private.

    Raises:
      InvalidParameterError: `scale` is outside its range.

    Source:
      Dwork, McSherry, Nissim & Smith 2006; of all pairs of neighbours the one at distance 1 dominates: Zhu, Dong & Wang
      2022 (https://arxiv.org/abs/2106.08567).
    """

    scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale(self.scale))

    @property
    def sample_rate(self) -> float:
        """1: every example enters every step."""
        return 1.0


@dataclass(frozen=True, slots=True)
class PoissonSubsampledLaplace:
    """The Laplace mechanism on a Poisson sample; add/remove adjacency.

    Its dominating pair is P = (1-q) Lap(0, b) + q Lap(1, b), Q = Lap(0, b).

    Args:
      scale: b, the noise's scale over the sensitivity of a query with one number as its answer, in [1e-6, 1e9].
      sample_rate: q, Poisson sampling probability, in [0, 1].

    Raises:
      InvalidParameterError: an argument is outside its range.

    Source:
      Zhu, Dong & Wang 2022, https://arxiv.org/abs/2106.08567 (dominating pairs under Poisson sampling).
    """

    scale: float
    sample_rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale(self.scale))
        object.__setattr__(self, "sample_rate", as_sample_rate(self.sample_rate))


@dataclass(frozen=True, slots=True)
class RandomizedResponse:
    """Randomized response of one person: the true category with probability e^epsilon / (e^epsilon + k - 1).

    Each other one of the k categories has probability 1 / (e^epsilon + k - 1). The neighbours are two answers of the
    person; P and Q are the reports' laws under them, and for k > 2 all other reports are equally likely under both.

    Args:
      epsilon: in [0, 1e6]; the response alone is (epsilon, 0)-differentially private, locally.
      categories: k >= 2.

    Raises:
      InvalidParameterError: an argument is outside its range.

    Source:
      Warner 1965; Kairouz, Oh & Viswanath 2016, "Extremal Mechanisms for Local Differential Privacy".
    """

    epsilon: float
    categories: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", as_response_epsilon(self.epsilon))
        object.__setattr__(self, "categories", as_categories(self.categories))


@dataclass(frozen=True, slots=True)
class DiscreteMechanism:
    """A mechanism given by its dominating pair, two distributions on the same finitely many outputs.

    Args:
      p: probabilities under the data set with the example; normalised if they add up to 1 within 1e-9.
      q: probabilities under the data set without it, of the same outputs in the same order. An output that only one of
        the two has reveals which it was: its probability is part of every delta.

    Raises:
      InvalidParameterError: the two differ in length, have a negative entry, or do not add up to 1.

    Example:
      >>> DiscreteMechanism(p=[0.75, 0.25], q=[0.25, 0.75])
      DiscreteMechanism(p=(0.75, 0.25), q=(0.25, 0.75))
    """

    p: tuple[float, ...]
    q: tuple[float, ...]

    def __post_init__(self) -> None:
        p, q = as_distribution("p", self.p), as_distribution("q", self.q)
        if len(p) != len(q):
            raise InvalidParameterError(
                f"p has {len(p)} outputs and q has {len(q)}; give both the probabilities of the same outputs"
            )
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "q", q)


@dataclass(frozen=True, slots=True)
class FixedBatches:
    """One epoch of DP-SGD without Poisson sampling, each example in one batch at most: shuffled, or in order.

    Its dominating pair is that of one Gaussian step without amplification, P = N(1, s^2) and Q = N(0, s^2), if one
    example's gradient is put to zero (adjacency "zero_out"), and N(2, s^2) if the example is replaced
    ("replace_one"). So E epochs are mu-Gaussian differentially private with mu = sqrt(E) / s, or twice that.

    *Assumptions.* The order does not depend on the examples' contents; the data set keeps its size; no example is
    drawn twice in an epoch. Given the order, the example takes part in one known step of each epoch, whatever else is
    published follows from the other steps, and a mean over orders is no farther apart (joint convexity). Nothing is
    claimed for an example added or removed: others change their batches then.

    Args:
      noise_multiplier: s, noise standard deviation over clipping norm, in [0, inf).

    Raises:
      InvalidParameterError: `noise_multiplier` is outside its range.

    Source:
      Adaptive composition of Gaussian mechanisms: Dong, Roth & Su 2022, Corollary 3.3 (https://arxiv.org/abs/1905.02383);
      zero-out adjacency: Kairouz et al. 2021, Definition 1.1 (https://arxiv.org/abs/2103.00039).

    Example:
      >>> from opacus_edgeworth import PrivacyCurve
      >>> three_epochs = PrivacyCurve([(FixedBatches(noise_multiplier=4.0), 3)], adjacency="zero_out")
      >>> round(three_epochs.epsilon(1e-5).upper, 4)
      1.698
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise_multiplier", as_noise_multiplier(self.noise_multiplier))


@dataclass(frozen=True, slots=True)
class ReplacedSubsampledGaussian:
    """One DP-SGD step when one example is replaced by another; `PrivacyCurve(..., adjacency="replace_one")` makes it.

    Its dominating pair is P = (1-q) N(0, s^2) + q N(1, s^2), Q = (1-q) N(0, s^2) + q N(-1, s^2): the proof is in
    `opacus_edgeworth.mixed.replaced`.

    Args:
      noise_multiplier: s, > 0.
      sample_rate: q, in (0, 1).
    """

    noise_multiplier: float
    sample_rate: float


Mechanism: TypeAlias = (
    PoissonSubsampledGaussian
    | Gaussian
    | FixedBatches
    | Laplace
    | PoissonSubsampledLaplace
    | RandomizedResponse
    | DiscreteMechanism
)
"""One step of a history."""


def privacy_loss(score: FloatArray, noise_multiplier: FloatArray, sample_rate: FloatArray) -> FloatArray:
    r"""Return the privacy loss of one step at x = s u, u a standard normal score under Q.

    L = log(1 - q + q e^w),  w = u / s - 1 / (2 s^2),  s = noise_multiplier, q = sample_rate.

    Args:
      score: u, shape (..., J), dimensionless.
      noise_multiplier: s > 0, broadcastable to `score`.
      sample_rate: q, all in (0, 1) or all 1, broadcastable to `score`.

    Returns:
      L in nats, the broadcast shape. Its error is at most s_w * dw + 16 ulp * (|L| + w [w > 30]), where s_w = dL/dw
      lies in (0, 1) and dw <= 4 ulp * (|u| / s + 1 / (2 s^2)): see `privacy_loss_error`.

    Source:
      The likelihood ratio of the dominating pair. Each of the three forms keeps its relative accuracy on its range.
    """
    w = score / noise_multiplier - 0.5 / noise_multiplier**2
    if sample_rate.min() == 1.0:
        return w
    ratio_minus_one = sample_rate * np.expm1(np.minimum(w, LARGE_EXPONENT))
    loss = np.log1p(ratio_minus_one)
    if sample_rate.max() > 0.5:  # log1p near -1 loses the difference 1 - q + q e^w, whose two terms are exact enough
        cancelling = ratio_minus_one < -0.5
        mixture = (1.0 - sample_rate) + sample_rate * np.exp(np.minimum(w, LARGE_EXPONENT))
        loss = np.where(cancelling, np.log(mixture), loss)
    large = w > LARGE_EXPONENT
    if large.any():
        factored = sample_rate + (1.0 - sample_rate) * np.exp(-np.maximum(w, LARGE_EXPONENT))
        loss = np.where(large, w + np.log(factored), loss)
    return loss


def loss_slope(
    loss: FloatArray, score: FloatArray, noise_multiplier: FloatArray, sample_rate: FloatArray
) -> FloatArray:
    r"""Return dL/dw = q e^w / (1 - q + q e^w) = q e^{w - L}, in (0, 1); shapes as in `privacy_loss`."""
    w = score / noise_multiplier - 0.5 / noise_multiplier**2
    return np.minimum(1.0, sample_rate * np.exp(w - loss))


def score_at_loss(loss: FloatArray | float, noise_multiplier: FloatArray, sample_rate: FloatArray) -> FloatArray:
    """Return about the score u at which the privacy loss is `loss`, between log(1 - q) and 600; broadcasts."""
    ratio = np.expm1(np.minimum(loss, 600.0)) / sample_rate + 1.0
    w = np.log(np.maximum(ratio, ULP))  # at log(1 - q), q next to 1, it is rounding
    return noise_multiplier * w + 0.5 / noise_multiplier


def loss_turn(
    score: FloatArray, theta: FloatArray, noise_multiplier: FloatArray, sample_rate: FloatArray
) -> FloatArray:
    r"""Return Im L at u + i theta s, the argument of 1 - q + q e^{w + i theta}, 0 < theta < pi; it rises with u."""
    w = score / noise_multiplier - 0.5 / noise_multiplier**2
    small = np.exp(-np.abs(w))  # of 1 - q and q e^w the larger is divided out
    mixed = np.where(w > 0.0, 1.0, small) * sample_rate
    rest = np.where(w > 0.0, small, 1.0) * (1.0 - sample_rate)
    return np.arctan2(mixed * np.sin(theta), rest + mixed * np.cos(theta))


def privacy_loss_error(
    loss: FloatArray, slope: FloatArray, score: FloatArray, noise_multiplier: FloatArray
) -> FloatArray:
    r"""Bound the rounding error of `privacy_loss`, assuming elementary functions accurate to 4 ulp.

    Rounding of w enters through its slope; log1p(q expm1 w) is relatively accurate because |r| / (1 + r) <= 2 |L|
    wherever that form is used (r >= -1/2); the form for w > 30 adds two terms of size about w.
    """
    half_shift = 0.5 / noise_multiplier**2
    w_error = 4.0 * ULP * (np.abs(score) / noise_multiplier + half_shift)
    large_w = np.maximum(0.0, score / noise_multiplier - half_shift)
    return slope * w_error + 16.0 * ULP * (np.abs(loss) + np.where(large_w > LARGE_EXPONENT, large_w, 0.0))
