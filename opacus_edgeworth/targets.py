"""What a calibration aims at: epsilon at delta, or a limit in other units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from scipy.optimize import brentq
from scipy.special import ndtri

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth._validate import as_adjacency, as_delta, as_epsilon, as_open_rate, as_real
from opacus_edgeworth.adjacency import IN_WORDS
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.meaning.gaussian import gaussian_delta

MU_FLOOR = 1e-6
"""Down to which delta `PrivacyCurve.gaussian_mu` asks."""
FAR = 0.5
"""Log of delta over that of the Gaussian at which mu need not be known."""
KINDS = {
    "target_epsilon": ("target_epsilon", "target_delta"),
    "target_advantage": ("target_advantage",),
    "target_tpr": ("target_tpr", "target_fpr"),
    "target_mu": ("target_mu",),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A limit that a privacy curve is to keep.

    Args:
      says: it, in words.
      excess: log of the proved bound over the limit, at most 0 where it is proved to be kept.
      mu: of about the Gaussian that just keeps it, in [1e-6, 1e6]: where a search may begin.
      seen: about the probability of seeing an example without any noise that just keeps it.
      slope: about -d excess / d log(noise) there.
      adjacency: what neighbouring data sets differ in.
    """

    says: str
    excess: Callable[[PrivacyCurve], float]
    mu: float
    seen: float
    slope: float = 2.0
    adjacency: Adjacency = "add_or_remove"

    def excess_of(self, history: Iterable[Any]) -> float:
        """Return the excess of a history."""
        return self.excess(PrivacyCurve(history, adjacency=self.adjacency))


class TargetArguments(TypedDict, total=False):
    """The keywords of a target; exactly one of the four kinds is given.

    Attributes:
      target_epsilon: in [0, 1e6], with `target_delta`, in [1e-300, 1): (epsilon, delta)-differential privacy.
      target_delta: see `target_epsilon`.
      target_advantage: in (0, 1), the largest true minus false positive rate of membership inference,
        `PrivacyCurve.advantage`.
      target_tpr: in (0, 1), the largest true positive rate at the false positive rate `target_fpr`, below it,
        `PrivacyCurve.true_positive_rate`.
      target_fpr: see `target_tpr`.
      target_mu: in (0, 1000], the mu of Gaussian differential privacy down to delta = 1e-6, `PrivacyCurve.gaussian_mu`.
      adjacency: what neighbouring data sets differ in, "add_or_remove" if not given; see `PrivacyCurve`.
    """

    target_epsilon: float | None
    target_delta: float | None
    target_advantage: float | None
    target_tpr: float | None
    target_fpr: float | None
    target_mu: float | None
    adjacency: Adjacency | None


def as_target(given: Mapping[str, Any]) -> Target:
    """Return the target that was given, all of its parts and nothing else; None counts as not given.

    Raises:
      TypeError: there is no such keyword.
      InvalidParameterError: none or several were given, a part is missing, or one is outside its range.
    """
    for name in given:
        if name not in TargetArguments.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")
    names = {name for name, value in given.items() if value is not None} - {"adjacency"}
    adjacency = given.get("adjacency")
    adjacency = "add_or_remove" if adjacency is None else as_adjacency(adjacency)
    for parts in KINDS.values():
        if names and names <= set(parts):
            missing = [part for part in parts if part not in names]
            if missing:
                raise InvalidParameterError(f"{missing[0]} is missing: {' and '.join(parts)} go together")
            aim = _MAKERS[parts[0]](given)
            named = "" if adjacency == "add_or_remove" else f", {IN_WORDS[adjacency]}"
            return replace(aim, says=aim.says + named, adjacency=adjacency)
    ways = "; ".join(" and ".join(parts) for parts in KINDS.values())
    raise InvalidParameterError(f"give one target ({ways}), not {' and '.join(sorted(names)) if names else 'none'}")


def _rough(mu: float) -> float:
    """Return a mu from which a search may begin."""
    return min(max(mu, 1e-6), 1e6)


def _log_ratio(value: float, limit: float) -> float:
    """Return log(value / limit), of the very sign of value - limit."""
    ratio = (value - limit) / limit
    return math.log1p(ratio) if ratio > -0.5 else math.log(max(value, 5e-324)) - math.log(limit)


def _epsilon_delta(given: Mapping[str, Any]) -> Target:
    """Return (epsilon, delta)-differential privacy."""
    epsilon = as_epsilon(given["target_epsilon"], name="target_epsilon")
    delta = as_delta(given["target_delta"], name="target_delta")
    if epsilon > 1e6:
        raise InvalidParameterError(f"target_epsilon={epsilon!r} must be at most 1e6; that promises nothing any more")
    if not 1e-300 <= delta < 1.0:
        raise InvalidParameterError(
            f"target_delta={delta!r} must be in (0, 1), at least 1e-300; usually below 1 / dataset size"
        )

    def gap(log_mu: float) -> float:
        return math.log(gaussian_delta(math.exp(log_mu), epsilon) + 1e-320) - math.log(delta)

    low, high = math.log(1e-6), math.log(1e4)
    mu = math.exp(float(brentq(gap, low, high, xtol=1e-6))) if gap(low) < 0.0 < gap(high) else 1.0  # type: ignore[arg-type]
    slope = max(50.0 * (gap(math.log(mu) + 0.01) - gap(math.log(mu) - 0.01)), 1.0)
    says = f"epsilon={epsilon:g} at delta={delta:g}"
    return Target(says, lambda curve: _log_ratio(curve.delta(epsilon).upper, delta), mu, delta, slope)


def _advantage(given: Mapping[str, Any]) -> Target:
    """Return a limit on the advantage of membership inference."""
    limit = as_open_rate("target_advantage", given["target_advantage"])
    mu = _rough(2.0 * float(ndtri(0.5 + 0.5 * limit)))
    return Target(f"advantage {limit:g}", lambda curve: _log_ratio(curve.advantage().upper, limit), mu, limit)


def _true_positive_rate(given: Mapping[str, Any]) -> Target:
    """Return a limit on the true positive rate at a false positive rate."""
    tpr, fpr = (as_open_rate(name, given[name]) for name in ("target_tpr", "target_fpr"))
    if tpr <= fpr:
        raise InvalidParameterError(
            f"target_tpr={tpr!r} must exceed target_fpr={fpr!r}: guessing without any output attains that already"
        )

    def excess(curve: PrivacyCurve) -> float:
        # in units of what lies between no privacy loss and the limit, so that log is steep where it should be
        return _log_ratio(max(curve.true_positive_rate(fpr).upper - fpr, 5e-324), tpr - fpr)

    mu, seen = _rough(float(ndtri(tpr) - ndtri(fpr))), (tpr - fpr) / (1.0 - fpr)
    return Target(f"true positive rate {tpr:g} at {fpr:g} false positives", excess, mu, seen)


def _gaussian(given: Mapping[str, Any]) -> Target:
    """Return a limit on the mu of Gaussian differential privacy."""
    mu = as_real("target_mu", given["target_mu"])
    if not 0.0 < mu <= 1e3:
        raise InvalidParameterError(f"target_mu={mu!r} must be in (0, 1000]; about 1 is moderate privacy")

    # at these epsilons delta must not exceed delta_mu or, at the last one, the floor
    epsilons = [mu * (0.5 * mu + score) for score in (0.0, 2.0, 4.0, 9.0)]
    limits = [(epsilon, gaussian_delta(mu, epsilon)) for epsilon in epsilons]

    def excess(curve: PrivacyCurve) -> float:
        for epsilon, most in limits:  # far from private all of mu would take long
            ratio = _log_ratio(curve.delta(epsilon).lower, max(most, MU_FLOOR))
            if ratio > (FAR if most > MU_FLOOR else 0.0):
                return ratio
        return _log_ratio(curve.gaussian_mu().upper, mu)

    return Target(f"mu={mu:g}", excess, _rough(mu), MU_FLOOR)


_MAKERS = {
    "target_epsilon": _epsilon_delta,
    "target_advantage": _advantage,
    "target_tpr": _true_positive_rate,
    "target_mu": _gaussian,
}
