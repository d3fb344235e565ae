r"""The privacy loss of one step that is not Gaussian, in one direction.

With A and B the two output laws (P and Q in the remove direction, Q and P in the add direction) the loss is
l = log dA/dB. Its law under B decides all: phi(z) = E_B[e^{zl}; l finite], the mass that A has where B has none
(*infinite*: seen for certain), and the mass that B has where A has none (*vanished*). The masses of both laws being 1,

    phi(0) = 1 - vanished,   phi(1) = 1 - infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.mechanisms import (
    ULP,
    DiscreteMechanism,
    PoissonSubsampledLaplace,
    RandomizedResponse,
    ReplacedSubsampledGaussian,
)


@dataclass(frozen=True, slots=True)
class LaplaceDensity:
    """The continuous part of the sampled Laplace mechanism's loss: outputs x between 0 and 1.

    There the output has the density (a/2) e^{-ax} under Q, and L = log R(x), R(x) = 1 - q + q e^{a(2x - 1)}.

    Args:
      rate: a = 1 / scale.
      sample_rate: q, in (0, 1).
      direction: which of L (under Q) and -L (under P) is the loss.
    """

    rate: float
    sample_rate: float
    direction: Direction


@dataclass(frozen=True, slots=True)
class ReplacedDensity:
    """The loss of a Poisson-subsampled Gaussian step when one example is replaced; see `mixed.replaced`.

    Args:
      noise_multiplier: s, > 0.
      sample_rate: q, in (0, 1).
    """

    noise_multiplier: float
    sample_rate: float


@dataclass(frozen=True, slots=True)
class LossLaw:
    """The law of one step's loss under B: atoms, and perhaps a density.

    Args:
      loss: (K,), the finite losses of the atoms; `loss_error` (K,) bounds their errors.
      log_mass: (K,), log of B's mass there, whose relative error is at most `mass_error` (K,).
      infinite, vanished: masses as above, relative errors at most 8 ulp.
      density: the part between, or all of it, or None.
    """

    loss: FloatArray
    loss_error: FloatArray
    log_mass: FloatArray
    mass_error: FloatArray
    infinite: float = 0.0
    vanished: float = 0.0
    density: LaplaceDensity | ReplacedDensity | None = None

    @property
    def largest_loss(self) -> Bounds:
        """Bounds on the largest finite loss; -inf if every loss is infinite. A Laplace density lies between atoms."""
        if isinstance(self.density, ReplacedDensity):
            return Bounds(math.inf, math.inf)
        ends = (float((self.loss + sign * self.loss_error).max(initial=-math.inf)) for sign in (-1.0, 1.0))
        return Bounds(*ends)


def discrete_law(mechanism: DiscreteMechanism, direction: Direction) -> LossLaw:
    """Return the law of a pair of distributions; outputs that neither has do not matter."""
    a, b = (np.array(side) / math.fsum(side) for side in (mechanism.p, mechanism.q))
    if direction == "add":
        a, b = b, a
    both = (a > 0.0) & (b > 0.0)
    infinite, vanished = math.fsum(a[b == 0.0].tolist()), math.fsum(b[a == 0.0].tolist())
    a, b = a[both], b[both]
    near = np.abs(a - b) < 0.5 * b
    loss = np.where(near, np.log1p((a - b) / b), np.log(a) - np.log(b))  # a - b is exact where it is small
    loss_error = ULP * (8.0 + 8.0 * np.abs(loss) + np.where(near, 0.0, 4.0 * np.abs(np.log(a))))
    log_mass = np.log(b)
    return LossLaw(loss, loss_error, log_mass, ULP * (8.0 + 4.0 * np.abs(log_mass)), infinite, vanished)


def response_law(mechanism: RandomizedResponse) -> LossLaw:
    """Return the law of randomized response, the same in both directions."""
    epsilon, others = mechanism.epsilon, float(mechanism.categories - 1)
    log_true = -math.log1p(others * math.exp(-epsilon))
    loss = np.array([-epsilon, 0.0, epsilon][:: 1 if others > 1.0 else 2])
    log_mass = np.array([log_true, log_true - epsilon + math.log(max(others - 1.0, 1.0)), log_true - epsilon])
    log_mass = log_mass[:: 1 if others > 1.0 else 2]
    return LossLaw(loss, 0.0 * loss, log_mass, ULP * (16.0 + 4.0 * np.abs(log_mass)))


def sampled_laplace_law(mechanism: PoissonSubsampledLaplace, direction: Direction) -> LossLaw:
    """Return the law of the sampled Laplace mechanism: an atom on each side, x < 0 and x > 1, and what is between."""
    rate, q = 1.0 / mechanism.scale, mechanism.sample_rate
    loss = log_mixture(np.array([-rate, rate]), q)
    log_mass = np.array([-math.log(2.0), -math.log(2.0) - rate])
    slope = q * np.exp(np.minimum(np.array([-rate, rate]) - loss, 700.0))
    # w is rounded, which counts by the slope; for w < 0 the mixture may cancel
    loss_error = ULP * (48.0 * np.abs(loss) + 8.0 * rate * (q + slope))
    mass_error = ULP * (16.0 + 8.0 * np.abs(log_mass))
    if direction == "add":
        loss, log_mass, mass_error = -loss, log_mass + loss, mass_error + loss_error + 2.0 * ULP * np.abs(loss)
    return LossLaw(loss, loss_error, log_mass, mass_error, density=LaplaceDensity(rate, q, direction))


def replaced_law(mechanism: ReplacedSubsampledGaussian) -> LossLaw:
    """Return the law of a subsampled Gaussian step under replace-one adjacency, the same in both directions."""
    none = np.zeros(0)
    density = ReplacedDensity(mechanism.noise_multiplier, mechanism.sample_rate)
    return LossLaw(none, none, none, none, density=density)


def laplace_atoms(rate: float) -> LossLaw:
    """Return the atoms of an unsampled Laplace step's law alone: outputs beyond both means."""
    loss = np.array([-rate, rate])
    log_mass = np.array([-math.log(2.0), -math.log(2.0) - rate])
    return LossLaw(loss, 4.0 * ULP * np.abs(loss), log_mass, ULP * (16.0 + 4.0 * np.abs(log_mass)))


def log_mixture(w: FloatArray, q: float) -> FloatArray:
    """Return log(1 - q + q e^w), to a few ulp of itself and of q e^w |w|."""
    small = np.minimum(w, 700.0)
    excess = q * np.expm1(small)
    with np.errstate(divide="ignore"):
        loss = np.where(excess > -0.5, np.log1p(np.maximum(excess, -0.5)), np.log((1.0 - q) + q * np.exp(small)))
        return np.where(w > 700.0, np.logaddexp(np.log1p(-q), math.log(q) + w), loss)
