"""What a privacy curve says in other words: f-DP, risks of attacks, Gaussian, Renyi and concentrated privacy."""

from __future__ import annotations

import html
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opacus_edgeworth._types import Adjacency, Direction, Which
from opacus_edgeworth._validate import as_direction, as_open_rate, as_order, as_rate, shown
from opacus_edgeworth.adjacency import IN_WORDS
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import CertificationError, InvalidParameterError, OutOfReachError
from opacus_edgeworth.meaning.gaussian import gaussian_mu, gaussian_regret
from opacus_edgeworth.meaning.profile import Profile
from opacus_edgeworth.meaning.renyi import renyi_divergence, zcdp_rho
from opacus_edgeworth.meaning.risk import bayes_success, posterior, precision
from opacus_edgeworth.meaning.tradeoff import best_attack
from opacus_edgeworth.mixed.engines import Others
from opacus_edgeworth.plotting import plot_delta
from opacus_edgeworth.rounding import at_most

if TYPE_CHECKING:
    from opacus_edgeworth.plotting import Axes


MOST_NUMBERS = 100_000
"""Of an array in one call."""
SHOWN_DELTAS = (1e-4, 1e-5, 1e-6, 1e-8)


class Meaning(ABC):
    """The measures of privacy that follow from delta(epsilon) and from the steps' moments."""

    __slots__ = ()

    @abstractmethod
    def epsilon(self, delta: float) -> Bounds:
        """Return bounds on epsilon at delta."""

    @abstractmethod
    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on delta at epsilon."""

    @property
    @abstractmethod
    def adjacency(self) -> Adjacency:
        """What neighbouring data sets differ in."""

    @abstractmethod
    def _profile(self, which: Which) -> Profile:
        """Return delta at any real epsilon."""

    @abstractmethod
    def _parts(self) -> tuple[Composition, Others]:
        """Return the Gaussian steps and all others."""

    @overload
    def tradeoff(self, alpha: float, *, direction: Which = "both") -> Bounds: ...
    @overload
    def tradeoff(self, alpha: ArrayLike, *, direction: Which = "both") -> Bounds | NDArray[np.object_]: ...
    def tradeoff(self, alpha: ArrayLike, *, direction: Which = "both") -> Bounds | NDArray[np.object_]:
        """Return bounds on the trade-off function: the least false negative rate of any attack.

        The attack guesses from everything that training published whether one given example was used.

        Args:
          alpha: its false positive rate, in [0, 1], a number or an array of them.
          direction: "remove" for the test of "not used" against "used", "add" for the reverse; "both" (the default) is
            the largest symmetric trade-off function below either, which f-DP states.

        Returns:
          Bounds in [0, 1], or an array of them; the lower end is what is safe to claim.

        Raises:
          InvalidParameterError: alpha is outside [0, 1], or there is no such direction.

        Source:
          Dong, Roth & Su 2022, Definition 2.1 and Proposition 2.12, https://arxiv.org/abs/1905.02383.
        """
        profile = self._profile(as_direction(direction))
        return each("alpha", alpha, lambda value: best_attack(profile, as_rate("alpha", value)).false_negative_rate)

    @overload
    def true_positive_rate(self, false_positive_rate: float, *, direction: Which = "both") -> Bounds: ...
    @overload
    def true_positive_rate(
        self, false_positive_rate: ArrayLike, *, direction: Which = "both"
    ) -> Bounds | NDArray[np.object_]: ...
    def true_positive_rate(
        self, false_positive_rate: ArrayLike, *, direction: Which = "both"
    ) -> Bounds | NDArray[np.object_]:
        """Return bounds on the largest true positive rate of any membership inference attack; 1 - `tradeoff`.

        Args:
          false_positive_rate: in [0, 1], a number or an array of them.
          direction: see `tradeoff`.

        Returns:
          Bounds in [0, 1], or an array of them, relatively as sharp where the rate is small; the upper end is safe.

        Raises:
          InvalidParameterError: see `tradeoff`.
        """
        profile, name = self._profile(as_direction(direction)), "false_positive_rate"
        return each(
            name, false_positive_rate, lambda value: best_attack(profile, as_rate(name, value)).true_positive_rate
        )

    def advantage(self) -> Bounds:
        """Return bounds on the largest true minus false positive rate of any attack: the total variation distance.

        Source:
          It is delta(0): Yeom, Giacomelli, Fredrikson & Jha 2018, Definition 4, https://arxiv.org/abs/1709.01604, the
          best attack; Kulynych, Gomez, Kaissis, Calmon & Troncoso 2024, https://arxiv.org/abs/2407.02191.
        """
        return self.delta(0.0)

    def bayes_success(self, prior: float = 0.5) -> Bounds:
        """Return bounds on the probability that the best guess whether an example was used is right.

        Args:
          prior: in [0, 1], the probability that it was used, as the attacker sees it before.

        Returns:
          Bounds in [max(prior, 1 - prior), 1]; at 1/2 they are (1 + advantage) / 2.

        Raises:
          InvalidParameterError: prior is outside [0, 1].

        Source:
          One minus the Bayes risk; Kulynych et al. 2025, https://arxiv.org/abs/2507.06969, derived in `meaning.risk`.
        """
        return bayes_success(self._profile("remove"), as_rate("prior", prior))

    def precision(self, prior: float, false_positive_rate: float) -> Bounds:
        """Return bounds on how many of those that the best attack names members are members.

        Args:
          prior: in [0, 1], the share of members among the examples asked about.
          false_positive_rate: in (0, 1], at which the attack works.

        Returns:
          Bounds in [prior, 1] on p T / (p T + (1 - p) alpha), T the largest true positive rate at alpha.

        Raises:
          InvalidParameterError: an argument is outside its range.

        Source:
          Jayaraman, Wang, Knipmeyer, Gu & Evans 2021, Section 4, https://arxiv.org/abs/2005.10881.
        """
        rate = as_rate("false_positive_rate", false_positive_rate)
        if rate == 0.0:
            raise InvalidParameterError("false_positive_rate=0.0 must be in (0, 1]; without a false alarm all are true")
        return precision(self._profile("remove"), as_rate("prior", prior), rate)

    def posterior(self, prior: float, failure_probability: float) -> Bounds:
        """Return bounds on the belief that an example was used which is hardly ever exceeded.

        An attacker who gives membership the prior p updates it by Bayes' rule after seeing what was published, all of
        it or anything made from it. If the example was used, his posterior exceeds this value with probability
        `failure_probability` at most, whatever it is that he sees.

        Args:
          prior: in [0, 1].
          failure_probability: in (0, 1), over the randomness of training.

        Returns:
          Bounds in [prior, 1] on the least such value; the upper end is safe to claim.

        Raises:
          InvalidParameterError: an argument is outside its range.

        Source:
          `precision` at the false positive rate whose largest true positive rate is `failure_probability`, derived in
          `meaning.risk`; Kasiviswanathan & Smith 2014, https://arxiv.org/abs/0803.3946, bound beliefs by epsilon.
        """
        failure = as_open_rate("failure_probability", failure_probability)
        return posterior(self._profile("remove"), as_rate("prior", prior), failure)

    def reconstruction_success(self, baseline: float) -> Bounds:
        """Return bounds on 1 - f(baseline), which no attack that reconstructs or re-identifies an example exceeds.

        Args:
          baseline: in [0, 1], the success of the best guess without the output: 1/k among k equally likely candidates.

        Returns:
          Bounds in [baseline, 1] on the least bound of this kind; its upper end is safe to claim.

        Raises:
          InvalidParameterError: baseline is outside [0, 1].

        Source:
          Hayes, Mahloujifar & Balle 2023, https://arxiv.org/abs/2302.07225; Kaissis et al. 2023,
          https://arxiv.org/abs/2307.03928; Kulynych et al. 2025, https://arxiv.org/abs/2507.06969.
        """
        return best_attack(self._profile("both"), as_rate("baseline", baseline)).true_positive_rate

    def gaussian_mu(self, *, floor: float = 1e-6) -> Bounds:
        """Return bounds on the least mu of a Gaussian mechanism that is nowhere more private down to delta = floor.

        Its trade-off function G_mu satisfies f >= G_mu - floor, proved for the upper end. The loss of sampled steps has
        the tail of unsampled ones, so that floor = 0 would ask for the mu without sampling.

        Args:
          floor: a delta in (0, 1).

        Raises:
          InvalidParameterError: floor is outside (0, 1).

        Source:
          Gomez, Kulynych, Kaissis, Calmon, Hayes, Balle & Honkela 2025, https://arxiv.org/abs/2503.10945; the floor is
          ours, derived in `meaning.gaussian`.
        """
        return self._gaussian(as_open_rate("floor", floor), self._profile("both"))

    def gaussian_regret(self, *, floor: float = 1e-6) -> Bounds:
        """Return bounds on how much stating `gaussian_mu` exaggerates: the least k with f(a + k) - k <= G_mu(a).

        Args:
          floor: as for `gaussian_mu`, whose upper end is what is judged.

        Returns:
          Bounds in [0, 1], to about 1e-7: error rates by which the Gaussian is at most worse than the curve.

        Raises:
          InvalidParameterError: floor is outside (0, 1).

        Source:
          The regret of Gomez et al. 2025, https://arxiv.org/abs/2503.10945, a Delta-divergence of Kaissis et al. 2024,
          https://arxiv.org/abs/2406.08918.
        """
        profile = self._profile("both")
        found = self._gaussian(as_open_rate("floor", floor), profile)
        if self._is_gaussian():
            return Bounds(0.0, found.width)  # delta_mu moves by less than mu does
        mu = found.upper
        if mu == 0.0 or math.isinf(mu):
            return Bounds(0.0, 0.0) if mu == 0.0 else Bounds(0.0, 1.0)
        return gaussian_regret(profile, mu)

    def renyi_divergence(self, order: float, *, direction: Which = "both") -> Bounds:
        """Return bounds on the Renyi divergence of an order, in nats: what RDP accountants add up.

        Args:
          order: > 1 and finite.
          direction: "both" takes the larger.

        Returns:
          Bounds in [0, inf].

        Raises:
          InvalidParameterError: order is not in (1, inf), or there is no such direction.
          CertificationError: the order is too large to be computed.

        Source:
          Mironov 2017, Definition 3, https://arxiv.org/abs/1702.07476.
        """
        at, which = as_order(order), as_direction(direction)
        directions: tuple[Direction, ...] = ("remove", "add") if which == "both" else (which,)
        found = [self._renyi(at, one) for one in directions]
        return found[0] if len(found) == 1 else found[0].larger(found[1])

    def zcdp_rho(self) -> Bounds:
        """Return bounds on the least rho with rho-zero-concentrated differential privacy.

        Sampling does not help here: Gaussian steps have sum n / (2 noise_multiplier^2).

        Returns:
          Bounds in [0, inf]; infinite if anything is seen for certain.

        Source:
          Bun & Steinke 2016, Definition 1.1, https://arxiv.org/abs/1605.02065; derived in `meaning.renyi`.
        """
        return zcdp_rho(*self._parts())

    def plot(self, *, delta: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw delta as a function of epsilon; `opacus_edgeworth.plotting` has this and other pictures.

        Args:
          delta: in (0, 1); epsilon at it is marked.
          ax: axes of matplotlib to draw on; new ones by default.

        Returns:
          The axes.
        """
        return plot_delta(self, delta=None if delta is None else as_open_rate("delta", delta), ax=ax)

    def _repr_html_(self) -> str:
        """Return a table for notebooks: epsilon at common deltas, rounded to the safe side."""
        rows = "".join(
            f"<tr><td>{delta:g}</td><td>{at_most(self.epsilon(delta).upper)}</td></tr>" for delta in SHOWN_DELTAS
        )
        caption = f"{html.escape(repr(self))}; {IN_WORDS[self.adjacency]}"
        return f"<table><caption>{caption}</caption><tr><th>δ</th><th>ε, at most</th></tr>{rows}</table>"

    def _is_gaussian(self) -> bool:
        """Whether all steps are unsampled Gaussian ones."""
        steps, others = self._parts()
        return steps.phases == 0 and not others and steps.log_hidden == 0.0

    def _gaussian(self, floor: float, profile: Profile) -> Bounds:
        """Return bounds on mu."""
        if self._is_gaussian():
            steps, _ = self._parts()
            mu, room = math.sqrt(steps.gaussian), steps.gaussian_error + 1e-15
            return Bounds(mu * (1.0 - room), mu * (1.0 + room))
        largest = self.epsilon(floor)
        if math.isinf(largest.upper):
            return Bounds(largest.lower if math.isinf(largest.lower) else 0.0, math.inf)
        return gaussian_mu(profile, floor, largest)

    def _renyi(self, order: float, direction: Direction) -> Bounds:
        """Return bounds on one direction's Renyi divergence."""
        try:
            return renyi_divergence(*self._parts(), order, direction)
        except OutOfReachError as error:
            raise CertificationError(
                f"order={order!r} is too large for this history: {error}; ask a lower one"
            ) from None


def each(name: str, values: ArrayLike, function: Callable[[Any], Bounds]) -> Any:
    """Apply a function to a number, or to every number of an array; `name` is the argument's, for messages."""
    given: Any = values
    if isinstance(values, (list, tuple, np.ndarray)) and (array := _as_array(name, given)).ndim > 0:
        result = np.empty(array.shape, dtype=object)
        for index in np.ndindex(array.shape):
            result[index] = function(array[index])
        return result
    return function(values)


def _as_array(name: str, values: Any) -> NDArray[Any]:
    """Return an array; more than MOST_NUMBERS entries are refused: their proofs would take many minutes."""
    try:
        array = np.asarray(values)
    except (ValueError, RecursionError):
        raise InvalidParameterError(f"{name}={shown(values)} is not a number or an array of numbers") from None
    if array.size > MOST_NUMBERS:
        raise InvalidParameterError(
            f"{name} has {array.size} entries, at most {MOST_NUMBERS} in one call, because each answer is proved on"
            " its own; ask in parts, or at fewer points"
        )
    return array
