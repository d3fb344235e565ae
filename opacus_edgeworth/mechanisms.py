"""One step of a private algorithm, and its privacy loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth._validate import as_noise_multiplier, as_sample_rate

ULP = 2.0**-52
"""Relative spacing of doubles; elementary functions are taken to be accurate to 4 of them."""
LARGE_EXPONENT = 30.0
"""Above it, e^w dwarfs 1 - q, and factoring e^w out of the mixture avoids overflow."""


@dataclass(frozen=True, slots=True)
class PoissonSubsampledGaussian:
    """One DP-SGD step: each example enters the batch with probability `sample_rate`, Gaussian noise is added.

    Its dominating pair, for add/remove adjacency, is P = (1-q) N(0, s^2) + q N(1, s^2), Q = N(0, s^2).

    Args:
      noise_multiplier: s, noise standard deviation over clipping norm, in [0, inf); 0 is no privacy.
      sample_rate: q, Poisson sampling probability, in [0, 1].

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
    w = np.log(np.expm1(np.minimum(loss, 600.0)) / sample_rate + 1.0)
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
