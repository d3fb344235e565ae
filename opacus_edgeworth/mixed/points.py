r"""Steps whose loss has finitely many values, or is a sum over a rule's points: atoms and points of a rule alike.

With psi(x) = e^x - 1 - x >= 0 and the masses of both laws being 1 (`law`), the mean of the loss drops out of

    phi(t) - 1 = t (vanished - infinite) - vanished + E_B[psi(tl) - t psi(l)],

so that log phi(t) keeps its relative accuracy where losses are small and steps are many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from opacus_edgeworth._types import ComplexArray, FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.characteristic import log_steps
from opacus_edgeworth.inversion.grid import expm1_minus
from opacus_edgeworth.inversion.quadrature import SUMS_LINEAR, SUMS_MEAN, SUMS_PLAIN, SUMS_SQUARED, log_error
from opacus_edgeworth.mechanisms import ULP
from opacus_edgeworth.mixed.law import LaplaceDensity, LossLaw, ReplacedDensity
from opacus_edgeworth.mixed.panels import LaplaceDecay, Panels, make_panels
from opacus_edgeworth.mixed.part import Upper, WholeLaw
from opacus_edgeworth.mixed.replaced import ReplacedDecay, ReplacedRule, make_replaced_rule

MODERATE = 30.0
"""Up to this |t l| the analytic differences are used."""
MAX_WORK = 1e8
"""Products of nodes and points."""
MAX_TABLE = 4e6
"""Complex numbers held at once."""


@dataclass(frozen=True, slots=True)
class PointsPart:
    """Steps of one law.

    Args:
      law: one step's.
      steps: n, how many.
    """

    law: LossLaw
    steps: float

    def moments(self, c: float) -> tuple[float, float, float]:
        """See `Part`."""
        return _tilt(self.law, self.steps, c, 0.0).moments()

    def upper(self, c: float) -> Upper:
        """See `Part`; the law is whole."""
        tilted = _tilt(self.law, self.steps, c, 0.0)
        return Upper(tilted.log_peak + tilted.log_peak_error, 0.0)

    def at(self, c: float, reach: float) -> TiltedPoints:
        """See `Part`."""
        tilted = _tilt(self.law, self.steps, c, reach)
        if tilted.rule is None:
            return tilted
        return replace(tilted, decay=tilted.rule.decay(c, tilted.log_phi_bounds))


@dataclass(frozen=True, slots=True)
class TiltedPoints(WholeLaw):
    """Points under the tilt t; (1, 1, ...) arrays are as `characteristic.Tilted` has them.

    Args:
      law, steps, t: what is tilted.
      rule: for the density, if any, good for |y| up to `reach`.
      loss: (1, J); `weight` (1, 1, J).
      log_phi: log phi(t); `log_phi_error` bounds its error.
      atoms: share of the atoms.
    """

    law: LossLaw
    steps: float
    t: float
    rule: Panels | ReplacedRule | None
    reach: float
    loss: FloatArray
    weight: FloatArray
    log_phi: float
    log_phi_error: float
    atoms: float
    mean: FloatArray
    mean_error: FloatArray
    rounding: FloatArray
    spread: FloatArray
    turn: FloatArray
    decay: LaplaceDecay | ReplacedDecay | None = None

    @property
    def plain(self) -> bool:
        """See `Tilted`."""
        return False

    @property
    def log_phi_bounds(self) -> Bounds:
        """Of one step."""
        return Bounds(self.log_phi - self.log_phi_error, self.log_phi + self.log_phi_error)

    @property
    def log_peak(self) -> float:
        """See `TiltedPart`."""
        return self.steps * self.log_phi

    @property
    def log_peak_error(self) -> float:
        """See `TiltedPart`."""
        return self.steps * (self.log_phi_error + ULP * abs(self.log_phi))

    def upper(self, c: float) -> float:
        """See `TiltedPart`."""
        other = _tilt(self.law, self.steps, c, 0.0)
        return other.log_peak + other.log_peak_error

    def moments(self) -> tuple[float, float, float]:
        """Return about G, G' and G'' of all steps."""
        mean = float(self.mean[0, 0])
        variance = float(self.weight[0, 0] @ (self.loss[0] - mean) ** 2)
        return self.steps * self.log_phi, self.steps * mean, self.steps * variance

    def log_beyond(self, y: float) -> float:
        """See `TiltedPart`: atoms do not decay."""
        if self.rule is None:
            return 0.0
        decay = self.decay or self.rule.decay(self.t, self.log_phi_bounds)
        log_share = decay.log_bound(y)
        if self.atoms > 0.0:
            log_share = math.log(self.atoms + float(self.spread[0, 0]) + math.exp(min(log_share, 1.0)))
        return self.steps * min(log_share, 0.0)

    def log_cf(self, step: float, count: int) -> tuple[ComplexArray, FloatArray]:
        """See `TiltedPart`."""
        last = step * (count - 1)
        if self.rule is not None and self.reach < last:
            return _tilt(self.law, self.steps, self.t, last).log_cf(step, count)
        points = self.loss.size
        if points * count > MAX_WORK or 2.0 * points * math.sqrt(count) > MAX_TABLE:
            raise OutOfReachError(f"{count} nodes on {points} points")
        unknown = 0.0
        if self.rule is not None:
            unknown = 2.0 * math.exp(min(self.rule.log_error(self.t, last) - self.log_phi + self.log_phi_error, 1.0))
        logs = log_steps(self, np.full((1, 1), unknown), step, count)
        value, error, size = logs.power(np.array([self.steps]))
        return value[0], error[0] + 4.0 * ULP * size[0]


def _tilt(law: LossLaw, steps: float, t: float, reach: float) -> TiltedPoints:
    """Return the points of a law under the tilt t, its rule good for |y| <= reach."""
    rule = _rule_for(law, t, reach)
    loss, loss_error, log_mass, mass_error = law.loss, law.loss_error, law.log_mass, law.mass_error
    if rule is not None:
        loss, loss_error = np.append(loss, rule.loss), np.append(loss_error, rule.loss_error)
        log_mass, mass_error = np.append(log_mass, rule.log_mass), np.append(mass_error, rule.mass_error)
    size, summing = np.abs(loss), ULP * (loss.size + 40)
    exponent = t * loss + log_mass
    top = float(exponent.max())
    mass = np.exp(exponent - top)
    total = float(mass.sum())
    weight, log_phi = mass / total, top + math.log(total)
    # relative errors of the weights, those of exponents included
    moved = np.expm1(np.minimum(abs(t) * (4.0 * ULP * size + loss_error), 30.0))
    spread = mass_error + 4.0 * ULP * (2.0 + np.abs(log_mass) + abs(top)) + moved
    mean_spread = float(weight @ spread)
    quadrature = _quadrature(rule, t, log_phi)
    error = float(log_error(np.array(mean_spread + summing + quadrature))) + 4.0 * ULP * abs(log_phi)
    if max(abs(t), 1.0) * float(size.max()) < MODERATE:
        fine, fine_error = _fine_log_phi(law, rule, t, loss, loss_error, np.exp(log_mass), mass_error)
        if fine_error < error:
            log_phi, error = fine, fine_error
    spreads = 2.0 * (spread + mean_spread)
    quadratic, linear, of_mean = (
        weight * ((spreads + share * summing) * size + 2.0 * loss_error)
        for share in (SUMS_SQUARED, SUMS_LINEAR, SUMS_MEAN)
    )
    return TiltedPoints(
        law,
        steps,
        t,
        rule,
        reach,
        loss[None],
        weight[None, None],
        log_phi,
        1.01 * error,
        float(weight[: law.loss.size].sum()),
        np.full((1, 1), float(weight @ loss)),
        np.full((1, 1), 1.01 * (float(of_mean.sum()) + quadrature * float(size.max()))),
        np.array([float(linear.sum()), float(quadratic @ size), 0.0]).reshape(3, 1, 1),
        np.full((1, 1), 2.02 * mean_spread + SUMS_PLAIN * summing),
        np.full((1, 1), 1.01 * float(weight @ (loss_error + 4.0 * ULP * size))),
    )


def _rule_for(law: LossLaw, t: float, reach: float) -> Panels | ReplacedRule | None:
    """Return what sums up a law's density, if it has one."""
    match law.density:
        case LaplaceDensity():
            return make_panels(law.density, t, reach)
        case ReplacedDensity():
            return make_replaced_rule(law.density, t, reach)
        case None:
            return None


def _quadrature(rule: Panels | ReplacedRule | None, t: float, log_phi: float) -> float:
    """Return the rule's error relative to phi(t)."""
    return 0.0 if rule is None else math.exp(min(rule.log_error(t, 0.0) - log_phi, 1.0))


def _fine_log_phi(
    law: LossLaw,
    rule: Panels | ReplacedRule | None,
    t: float,
    loss: FloatArray,
    loss_error: FloatArray,
    mass: FloatArray,
    mass_error: FloatArray,
) -> tuple[float, float]:
    """Return log phi(t) by the formula at the head of this module, and a bound on its error."""
    first, second = expm1_minus(t * loss), t * expm1_minus(loss)
    drift = t * (law.vanished - law.infinite) - law.vanished
    excess = float(mass @ (first - second)) + drift
    relative = mass_error + ULP * (loss.size + 60.0)
    moved = abs(t) * (loss_error + ULP * np.abs(loss)) * (np.abs(np.expm1(t * loss)) + np.abs(np.expm1(loss)))
    moved += abs(t) * (1.0 + abs(t)) * loss_error**2
    error = float(mass @ (relative * (first + np.abs(second)) + moved))
    error += 16.0 * ULP * ((1.0 + abs(t)) * (law.vanished + law.infinite) + abs(excess))
    if rule is not None:
        for tilt, factor in ((t, 1.0), (0.0, 1.0 + abs(t)), (1.0, abs(t))):
            error += factor * math.exp(min(rule.log_error(tilt, 0.0), 1.0))
    if not (excess > -1.0 and error < 0.5 * (1.0 + excess)):
        return 0.0, math.inf
    log_phi = math.log1p(excess)
    return log_phi, float(log_error(np.array(error / (1.0 + excess)))) + 4.0 * ULP * abs(log_phi)
