"""What can be afforded: the noise that every batch size and length of training needs at the same privacy."""

from __future__ import annotations

import html
import math
import numbers
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from opacus_edgeworth._validate import (
    as_dataset_size,
    as_entries,
    as_epochs,
    as_real,
    as_steps,
    as_tolerance,
    shown,
)
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.rounding import at_most
from opacus_edgeworth.solving import about_left, about_noise, least_noise, spent_history, step_count
from opacus_edgeworth.targets import TargetArguments, as_target

if TYPE_CHECKING:
    from typing_extensions import Unpack

MOST_POINTS = 10_000


@dataclass(frozen=True, slots=True)
class PlanPoint:
    """One way to train at the privacy of the plan.

    Args:
      batch_size: expected number of examples in a step.
      epochs: passes over the data.
      steps: optimizer steps.
      sample_rate: Poisson sampling probability: 1 over the number of steps in an epoch, as Opacus has it.
      noise_multiplier: the least that is proved to meet the target.
      noise_per_example: noise_multiplier / batch_size: standard deviation of the noise in the mean gradient of a step,
        in clipping norms. The smaller, the more a step is worth.
      total_noise: noise_per_example / sqrt(steps): that of the mean gradient over the whole run, if it did not move.
    """

    batch_size: int
    epochs: float
    steps: int
    sample_rate: float
    noise_multiplier: float
    noise_per_example: float
    total_noise: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Ways to train at equal privacy.

    Args:
      target: what all of them are proved to meet, in words.
      dataset_size: number of training examples.
      points: for every number of epochs, every batch size.
    """

    target: str
    dataset_size: int
    points: tuple[PlanPoint, ...]

    def best(self, *, max_epochs: float = math.inf, min_steps: int = 1) -> PlanPoint:
        """Return the point of least noise per example among those that take enough steps and not too long.

        Args:
          max_epochs: what can be computed.
          min_steps: optimizer steps that training needs to get anywhere.

        Raises:
          InvalidParameterError: no point of the plan is like that, or an argument is no number.
        """
        longest, fewest = as_real("max_epochs", max_epochs), as_steps(min_steps, name="min_steps")
        found = [point for point in self.points if point.epochs <= longest and point.steps >= fewest]
        if not found:
            raise InvalidParameterError(
                f"max_epochs={longest:g}, min_steps={fewest} leave no point; plan smaller batches or more epochs"
            )
        return min(found, key=lambda point: point.noise_per_example)

    def records(self) -> list[dict[str, Any]]:
        """Return the points as dictionaries: rows of a table."""
        return [asdict(point) for point in self.points]

    def _repr_html_(self) -> str:
        """Return a table of noise multipliers for notebooks: a row for every batch size, a column for every length."""
        lengths = sorted({point.epochs for point in self.points})
        cells = {(point.batch_size, point.epochs): point for point in self.points}
        head = "".join(f"<th>{length:g} epochs</th>" for length in lengths)
        rows: list[str] = []
        for size in sorted({point.batch_size for point in self.points}):
            columns = "".join(_cell(cells.get((size, length))) for length in lengths)
            rows.append(f"<tr><th>{size}</th>{columns}</tr>")
        return (
            f"<table><caption>noise multiplier, and noise per example, for {html.escape(self.target)};"
            f" {self.dataset_size} examples</caption><tr><th>batch size</th>{head}</tr>{''.join(rows)}</table>"
        )


def _cell(point: PlanPoint | None) -> str:
    """Return a cell of the table; the noise is rounded up."""
    if point is None:
        return "<td></td>"
    return f"<td>{at_most(point.noise_multiplier, 5)}<br><small>{point.noise_per_example:.2e}</small></td>"


def plan(
    *,
    dataset_size: int,
    batch_sizes: Iterable[int] | int | None = None,
    epochs: Iterable[float] | float = (1, 2, 5, 10, 20, 50),
    spent: Iterable[Any] = (),
    rel_tol: float = 1e-6,
    **target: Unpack[TargetArguments],
) -> Plan:
    """Return the least noise for every batch size and every number of epochs, at the same proved privacy.

    Args:
      dataset_size: number of training examples, >= 1.
      batch_sizes: each in [1, dataset_size]; powers of two up to the data, and all of the data, by default.
      epochs: each > 0.
      spent: a history that was trained before and counts, too.
      rel_tol: each noise multiplier is about this fraction at most above the least one, in [1e-12, 1].
      **target: target_epsilon and target_delta, or another target; see `TargetArguments`.

    Returns:
      A Plan; its points are proved to meet the target one by one.

    Raises:
      InvalidParameterError: an argument is outside its range, or not exactly one target is given.
      CalibrationError: a point cannot meet the target.

    Example:
      >>> ways = plan(dataset_size=60_000, batch_sizes=[256, 1024], epochs=[3], target_epsilon=3, target_delta=1e-5)
      >>> [round(point.noise_multiplier, 4) for point in ways.points]
      [0.6266, 0.772]
    """
    aim, size, tolerance = as_target(target), as_dataset_size(dataset_size), as_tolerance(rel_tol)
    lengths = [as_epochs(length) for length in _several("epochs", epochs)]
    wanted = _powers_of_two(size) if batch_sizes is None else _several("batch_sizes", batch_sizes)
    sizes = [_batch_size(value, size) for value in wanted]
    if len(sizes) * len(lengths) > MOST_POINTS:
        raise InvalidParameterError(
            f"batch_sizes and epochs make {len(sizes) * len(lengths)} points, at most {MOST_POINTS}; plan in parts"
        )
    rates = [1.0 / math.ceil(size / batch) for batch in sizes]
    counts = {length: [step_count(rate, None, length) for rate in rates] for length in lengths}  # all checked first
    before = spent_history(spent, aim)
    left, nearby, points = about_left(aim, before), _Nearby(len(sizes), aim.slope), list[PlanPoint]()
    for length in lengths:
        for column, (batch, rate, steps) in enumerate(zip(sizes, rates, counts[length], strict=True)):
            about = about_noise(left, rate, ((1.0, steps),))
            factor, slope = nearby.guess(column, steps)
            noise, slope = least_noise(aim, rate, ((1.0, steps),), before, tolerance, about * factor, slope, False)
            nearby.add(column, steps, noise / about, slope)
            each = noise / batch
            points.append(PlanPoint(batch, length, steps, rate, noise, each, each / math.sqrt(steps)))
    return Plan(aim.says, size, tuple(points))


class _Nearby:
    """What neighbours tell of a point: the factor by which the rough answer is off, and the slope of the excess.

    Log of the factor is smooth in log(steps) at one sampling rate; by how much that misled at the rate before is added.
    """

    def __init__(self, columns: int, slope: float) -> None:
        self._known: list[dict[float, float]] = [{} for _ in range(columns)]
        self._slopes = [slope] * columns
        self._first, self._missed = 0.0, 0.0

    def guess(self, column: int, steps: int) -> tuple[float, float]:
        """Return the factor and the slope of a point, columns being taken in turn."""
        factor = self._extrapolated(column, math.log(steps)) + (self._missed if column > 0 else 0.0)
        return math.exp(factor), self._slopes[column if self._known[column] else max(column - 1, 0)]

    def add(self, column: int, steps: int, factor: float, slope: float) -> None:
        """Keep what was found."""
        at, found = math.log(steps), math.log(factor)
        self._missed = found - self._extrapolated(column, at)
        if column == 0 and not self._known[0]:
            self._first, self._missed = found, 0.0
        self._known[column][at] = found
        self._slopes[column] = slope

    def _extrapolated(self, column: int, at: float) -> float:
        """Return what a parabola through the last three points of a column says, or fewer."""
        points = list(self._known[column].items())[-3:]
        if not points:
            return self._first
        return sum(found * math.prod((at - y) / (x - y) for y, _ in points if y != x) for x, found in points)


def _several(name: str, values: Any) -> list[Any]:
    """Return numbers that were given one by one, or alone."""
    if not isinstance(values, bool) and isinstance(values, numbers.Real):
        return [values]
    found = as_entries(name, values, MOST_POINTS, "numbers; pass a list")
    if not found:
        raise InvalidParameterError(f"{name}={shown(values)} must be numbers, one at least")
    return found


def _batch_size(value: Any, dataset_size: int) -> int:
    """Return a batch size."""
    number = as_steps(value, name="batch_size")
    if not 1 <= number <= dataset_size:
        raise InvalidParameterError(f"batch_size={number!r} must be in [1, dataset_size={dataset_size}]")
    return number


def _powers_of_two(dataset_size: int) -> list[int]:
    """Return batch sizes from 32 up to all of the data."""
    return [*(2**k for k in range(5, 53) if 2**k < dataset_size), dataset_size]
