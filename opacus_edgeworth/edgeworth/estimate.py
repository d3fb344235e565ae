"""What every estimate has in common: a history with noise, an order, and delta as the larger of two directions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from opacus_edgeworth._types import Direction
from opacus_edgeworth._validate import as_delta, as_epsilon, as_real, shown
from opacus_edgeworth.composition import Composition, compose_parsed, parse_history
from opacus_edgeworth.errors import InvalidParameterError

HIGHEST_ORDER = 20


class Estimate(ABC):
    """An expansion for a training history; `EdgeworthApproximation` and `TiltedEdgeworth` are two."""

    __slots__ = ("_history", "_order", "_steps")

    def __init__(self, history: Iterable[Any], order: int) -> None:
        self._order = _as_order(order)
        self._history, self._steps = _compose_noisy(history)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._history)!r}, order={self._order})"

    @property
    def history(self) -> tuple[tuple[float, float, int], ...]:
        """The (noise_multiplier, sample_rate, steps) phases, equal ones merged."""
        return self._history

    @property
    def order(self) -> int:
        """The order of the expansion."""
        return self._order

    def delta(self, epsilon: float, direction: Direction | None = None) -> float:
        """Return the estimate of delta at epsilon: an estimate, not a bound.

        Args:
          epsilon: in [0, inf).
          direction: "remove" or "add"; the larger of the two by default.

        Returns:
          The expansion's value, cut off at 0 and 1.

        Raises:
          InvalidParameterError: an argument is outside its range.
        """
        value, wanted = as_epsilon(epsilon), as_directions(direction)
        if self._steps.is_empty or math.isinf(value):
            return 0.0
        return max(self._delta(value, each) for each in wanted)

    @abstractmethod
    def _delta(self, epsilon: float, direction: Direction) -> float:
        """Return one direction's estimate at a finite epsilon, in [0, 1]; the history is not empty."""


def as_directions(direction: Any) -> tuple[Direction, ...]:
    """Return the directions that count: both for None.

    Raises:
      InvalidParameterError: it is not "remove", "add" or None.
    """
    if direction is None:
        return ("remove", "add")
    if isinstance(direction, str) and direction in ("remove", "add"):
        return (direction,)
    raise InvalidParameterError(f'direction={shown(direction)} must be "remove", "add" or None')


def as_positive_delta(delta: Any) -> float:
    """Return delta in (0, 1].

    Raises:
      InvalidParameterError: it is not.
    """
    value = as_delta(delta)
    if value == 0.0:
        raise InvalidParameterError("delta=0.0 must be > 0: an expansion in normal distributions never reaches it")
    return value


def _as_order(order: Any) -> int:
    """Return the order of an expansion.

    Raises:
      InvalidParameterError: it is not a whole number from 0 to HIGHEST_ORDER.
    """
    value = as_real("order", order)
    if not 0 <= value <= HIGHEST_ORDER or value != int(value):
        raise InvalidParameterError(f"order={shown(order)} must be a whole number from 0 to {HIGHEST_ORDER}")
    return int(value)


def _compose_noisy(history: Iterable[Any]) -> tuple[tuple[tuple[float, float, int], ...], Composition]:
    """Return the phases of a history and their composition.

    Raises:
      InvalidParameterError: an entry is malformed, or has no noise: its privacy loss has no moments.
    """
    merged = parse_history(history)
    steps = compose_parsed(merged)
    if steps.log_hidden < 0.0:
        raise InvalidParameterError(
            f"history={list(merged)!r} has steps without noise, whose privacy loss is infinite: there is no expansion;"
            " PrivacyCurve bounds it"
        )
    return tuple((s, q, n) for (s, q), n in merged.items()), steps
