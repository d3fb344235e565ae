"""Schedules of the noise: by how much the noise multiplier is multiplied at every step.

A schedule is a list of factors, one for each step, or a function of the step, which counts from 0. `linear` and
`cosine` make the common ones; Opacus's `LambdaNoise` takes the same functions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeAlias

from opacus_edgeworth._validate import as_real, as_steps, shown
from opacus_edgeworth.errors import InvalidParameterError

Schedule: TypeAlias = Iterable[float] | Callable[[int], float]
Factors: TypeAlias = tuple[tuple[float, int], ...]
"""(factor, steps) pairs, in which the order of steps, which does not matter, is lost."""

MOST_FACTORS = 10**7


def linear(steps: int, *, start: float = 1.0, end: float = 0.5) -> tuple[float, ...]:
    """Return factors that go from `start` at the first step to `end` at the last one along a line.

    Args:
      steps: number of steps, >= 1.
      start: of the first step, in [1e-100, 1e100].
      end: of the last one, likewise.

    Raises:
      InvalidParameterError: an argument is outside its range.

    Example:
      >>> linear(3, end=0.5)
      (1.0, 0.75, 0.5)
    """
    return _between(steps, start, end, lambda progress: progress)


def cosine(steps: int, *, start: float = 1.0, end: float = 0.5) -> tuple[float, ...]:
    """Return factors that go from `start` to `end` along half a period of a cosine, flat at both ends.

    Args:
      steps: number of steps, >= 1.
      start: of the first step, in [1e-100, 1e100].
      end: of the last one, likewise.

    Raises:
      InvalidParameterError: an argument is outside its range.

    Example:
      >>> [round(factor, 3) for factor in cosine(5, end=0.5)]
      [1.0, 0.927, 0.75, 0.573, 0.5]
    """
    return _between(steps, start, end, lambda progress: 0.5 - 0.5 * math.cos(math.pi * progress))


def factors_of(schedule: Schedule | None, steps: int) -> Factors:
    """Return the factors of a schedule of so many steps; equal ones are counted. None is constant noise.

    Raises:
      InvalidParameterError: there are not `steps` factors, or one of them is not in [1e-100, 1e100].
    """
    if schedule is None:
        return ((1.0, steps),)
    if isinstance(schedule, (str, bytes)):
        raise InvalidParameterError(
            f"schedule={shown(schedule)} must be factors or a function; see opacus_edgeworth.schedules"
        )
    if steps > MOST_FACTORS:
        raise InvalidParameterError(f"schedule of {steps} steps has too many factors, at most 10**7; see PrivacyCurve")
    if callable(schedule):
        values = [schedule(step) for step in range(steps)]
    else:
        try:
            values = list(islice(schedule, steps + 1))  # it may never end
        except TypeError:
            raise InvalidParameterError(
                f"schedule={shown(schedule)} must be factors or a function of the step"
            ) from None
    if len(values) != steps:
        more = "at least " if len(values) > steps else ""
        raise InvalidParameterError(
            f"schedule has {more}{len(values)} factors for {steps} steps; give one for each step"
        )
    return tuple(Counter(_positive(f"schedule[{step}]", value) for step, value in enumerate(values)).items())


def _between(steps: Any, start: Any, end: Any, shape: Callable[[float], float]) -> tuple[float, ...]:
    """Return factors along a shape, which rises from 0 to 1."""
    count, first, last = as_steps(steps), _positive("start", start), _positive("end", end)
    if not 1 <= count <= MOST_FACTORS:
        raise InvalidParameterError(f"steps={count} must be in [1, 10**7]; there is a factor for every step")
    return tuple(first + (last - first) * shape(step / max(count - 1, 1)) for step in range(count))


def _positive(name: str, value: Any) -> float:
    """Return a factor."""
    number = as_real(name, value)
    if not 1e-100 <= number <= 1e100:
        raise InvalidParameterError(f"{name}={number!r} must be in [1e-100, 1e100]; it multiplies the noise")
    return number
