"""The privacy curve of a history: delta as a function of epsilon, and back, as proved bounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opacus_edgeworth._types import Adjacency, Which
from opacus_edgeworth._validate import as_adjacency, as_delta, as_direction, as_epsilon
from opacus_edgeworth.adjacency import steps_under
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition, OtherMechanism, compose_parsed, parse_mechanisms
from opacus_edgeworth.inversion.engines import history_delta, history_epsilon
from opacus_edgeworth.inversion.nearby import NearbyDelta, direction_delta_of
from opacus_edgeworth.meaning.methods import Meaning, each
from opacus_edgeworth.meaning.profile import Profile
from opacus_edgeworth.mixed.engines import Others, mixed_delta, mixed_direction_delta_of, mixed_epsilon


class PrivacyCurve(Meaning):
    """How private a training history is: immutable, of proved bounds, for one adjacency.

    Args:
      history: (noise_multiplier, sample_rate, steps) triples as Opacus keeps them (`accountant.history`), or
        (mechanism, steps) pairs; order does not matter. An empty history reveals nothing.
      adjacency: what neighbouring data sets differ in: one example added or removed ("add_or_remove"), replaced by
        another ("replace_one"), or its gradient put to zero ("zero_out"); see `opacus_edgeworth.adjacency`.

    Raises:
      InvalidParameterError: an entry is malformed or outside its range, the message names it; or a step has no proved
        bound under the adjacency.

    Example:
      >>> curve = PrivacyCurve([(1.0, 0.01, 1000)])
      >>> round(curve.epsilon(1e-5).upper, 6)
      1.828237
      >>> round(PrivacyCurve(curve.history, adjacency="replace_one").epsilon(1e-5).upper, 6)
      2.84344
    """

    __slots__ = ("_adjacency", "_history", "_others", "_steps")

    def __init__(self, history: Iterable[Any], *, adjacency: Adjacency = "add_or_remove") -> None:
        merged, others = parse_mechanisms(history)
        self._adjacency: Adjacency = as_adjacency(adjacency)
        self._history = (*((s, q, n) for (s, q), n in merged.items()), *sorted(others.items(), key=repr))
        merged, others = steps_under(self._adjacency, merged, others)
        self._others = tuple(sorted(others.items(), key=repr))  # the order given must not matter
        self._steps = compose_parsed(merged)

    def __repr__(self) -> str:
        named = "" if self._adjacency == "add_or_remove" else f", adjacency={self._adjacency!r}"
        return f"PrivacyCurve({list(self._history)!r}{named})"

    @property
    def adjacency(self) -> Adjacency:
        """What neighbouring data sets differ in."""
        return self._adjacency

    @property
    def history(self) -> tuple[tuple[float, float, int] | tuple[OtherMechanism, int], ...]:
        """The (noise_multiplier, sample_rate, steps) phases, then (mechanism, steps) of others, equal ones merged."""
        return self._history

    @overload
    def delta(self, epsilon: float, *, direction: Which = "both") -> Bounds: ...
    @overload
    def delta(self, epsilon: ArrayLike, *, direction: Which = "both") -> Bounds | NDArray[np.object_]: ...
    def delta(self, epsilon: ArrayLike, *, direction: Which = "both") -> Bounds | NDArray[np.object_]:
        """Return bounds on the least delta with (epsilon, delta)-differential privacy.

        Args:
          epsilon: in [0, inf], a number or an array of them, at most 100,000.
          direction: "both" is what differential privacy asks for; "remove" takes the output with the example against
            that without it, "add" the other way round. When an example is replaced, both are alike.

        Returns:
          Bounds in [0, 1]; for an array, an object array of Bounds of its shape. The upper end never understates.

        Raises:
          InvalidParameterError: epsilon is negative, NaN or not a number, or there is no such direction.
        """
        which = as_direction(direction)
        if which != "both":
            profile = self._profile(which)
            return each("epsilon", epsilon, lambda value: profile.forward(as_epsilon(value)))
        if self._others:
            return each("epsilon", epsilon, lambda value: mixed_delta(self._steps, self._others, as_epsilon(value)))
        return each("epsilon", epsilon, lambda value: history_delta(self._steps, as_epsilon(value)))

    @overload
    def epsilon(self, delta: float) -> Bounds: ...
    @overload
    def epsilon(self, delta: ArrayLike) -> Bounds | NDArray[np.object_]: ...
    def epsilon(self, delta: ArrayLike) -> Bounds | NDArray[np.object_]:
        """Return bounds on the least epsilon >= 0 with (epsilon, delta)-differential privacy.

        Args:
          delta: in [0, 1], a number or an array of them, at most 100,000. At 0 epsilon is infinite (Gaussian noise
            hides no event completely) unless nothing was revealed; at 1 it is 0.

        Returns:
          Bounds in [0, inf]; for an array, an object array of Bounds of its shape. The upper end never understates.

        Raises:
          InvalidParameterError: delta is outside [0, 1], NaN or not a number.
        """
        if self._others:
            return each("delta", delta, lambda value: mixed_epsilon(self._steps, self._others, as_delta(value)))
        return each("delta", delta, lambda value: history_epsilon(self._steps, as_delta(value)))

    def _profile(self, which: Which) -> Profile:
        """See `Meaning`."""
        new = mixed_direction_delta_of(self._steps, self._others) if self._others else direction_delta_of(self._steps)
        forward = NearbyDelta(new, which)
        if which == "both":
            return Profile(forward, forward)
        return Profile(forward, NearbyDelta(new, "add" if which == "remove" else "remove"))

    def _parts(self) -> tuple[Composition, Others]:
        """See `Meaning`."""
        return self._steps, self._others
