"""Calibration in every unknown: the least noise, the most steps, the largest batch that are proved to meet a target.

What is returned was itself evaluated and found safe; next to it, within the tolerance or one step further, a value was
evaluated that is not. `TargetArguments` lists the targets, one of which is given in every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth._validate import (
    as_adjacency,
    as_dataset_size,
    as_epsilon,
    as_noise_multiplier,
    as_positive_noise,
    as_positive_rate,
    as_tolerance,
)
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import CalibrationError, InvalidParameterError
from opacus_edgeworth.schedules import Schedule, factors_of
from opacus_edgeworth.search import largest_safe_integer, smallest_safe
from opacus_edgeworth.solving import (
    MOST_STEPS,
    STEP_ROOM,
    about_left,
    about_rate,
    about_steps,
    as_length,
    fewest_safe,
    least_noise_of_schedule,
    one_step,
    parsed_spent,
    spent_history,
    step_count,
    whole_steps,
)
from opacus_edgeworth.targets import Target, TargetArguments, as_target

if TYPE_CHECKING:
    from typing_extensions import Unpack

WINDOWS = 8
"""How many smaller numbers of steps are tried where fewer steps may be as good as smaller batches."""
MOST_BATCHES = 20_000
"""How many numbers of batches are looked at for that."""


def calibrate_noise_multiplier(
    *,
    sample_rate: float,
    steps: int | None = None,
    epochs: float | None = None,
    schedule: Schedule | None = None,
    spent: Iterable[Any] = (),
    rel_tol: float = 1e-9,
    **target: Unpack[TargetArguments],
) -> float:
    """Return the smallest noise multiplier proved to meet a target.

    Args:
      sample_rate: Poisson sampling probability, in [1e-15, 1]; with Opacus, 1 / len(data_loader).
      steps: number of optimizer steps, >= 1; or
      epochs: passes over the data, > 0: epochs / sample_rate steps, rounded down to whole ones.
      schedule: what the noise multiplier is multiplied by at every step: factors, or a function of the step (see
        `opacus_edgeworth.schedules`); the result is the noise multiplier where that is 1.
      spent: a history that was trained before and counts, too.
      rel_tol: the result is at most this fraction above a value that is not proved, in [1e-12, 1]; not less than
        1e-7 for schedules of more than 48 different factors.
      **target: target_epsilon and target_delta, or another target; see `TargetArguments`.

    Returns:
      The noise multiplier: noise standard deviation over the clipping norm.

    Raises:
      InvalidParameterError: an argument is outside its range, or not exactly one target, or one of steps and epochs,
        is given.
      CalibrationError: no noise multiplier up to 1e9 meets the target, or `spent` exceeds it already.

    Example:
      >>> sigma = calibrate_noise_multiplier(target_epsilon=8, target_delta=1e-5, sample_rate=0.02, steps=1000)
      >>> round(sigma, 4)
      0.7339
    """
    aim = as_target(target)
    rate = as_positive_rate(sample_rate)
    tolerance = as_tolerance(rel_tol)
    factors = factors_of(schedule, step_count(rate, steps, epochs))
    before = spent_history(spent, aim)
    return least_noise_of_schedule(aim, rate, factors, before, tolerance)


def calibrate_steps(
    *,
    noise_multiplier: float,
    sample_rate: float,
    spent: Iterable[Any] = (),
    **target: Unpack[TargetArguments],
) -> int:
    """Return the largest number of steps proved to meet a target; times sample_rate it is the number of epochs.

    Args:
      noise_multiplier: in [1e-4, 1e9].
      sample_rate: in [1e-15, 1].
      spent: a history that was trained before and counts, too.
      **target: as for `calibrate_noise_multiplier`.

    Returns:
      A number of steps in [1, 2**53], with which the target is met; one more is not proved to meet it.

    Raises:
      InvalidParameterError: an argument is outside its range, or not exactly one target is given.
      CalibrationError: not even one step meets the target.

    Example:
      >>> calibrate_steps(target_epsilon=3, target_delta=1e-5, noise_multiplier=1.0, sample_rate=0.01)
      2666
    """
    aim = as_target(target)
    noise, rate = as_positive_noise(noise_multiplier), as_positive_rate(sample_rate)
    before = spent_history(spent, aim)

    def excess(n: int) -> float:
        return aim.excess_of([*before, (noise, rate, n)])

    start = about_steps(aim, about_left(aim, before), noise, rate)
    found = largest_safe_integer(excess, start, MOST_STEPS, 0.5 * aim.slope)
    if found == 0:
        raise CalibrationError(
            f"one step at noise_multiplier={noise!r} and sample_rate={rate!r} exceeds {aim.says}; raise the noise"
        )
    return found


def calibrate_sample_rate(
    *,
    noise_multiplier: float,
    steps: int | None = None,
    epochs: float | None = None,
    spent: Iterable[Any] = (),
    rel_tol: float = 1e-9,
    **target: Unpack[TargetArguments],
) -> float:
    """Return the largest sampling probability proved to meet a target.

    Args:
      noise_multiplier: in [1e-4, 1e9].
      steps: number of optimizer steps, >= 1; or
      epochs: passes over the data, > 0: epochs / sample_rate steps, rounded down to whole ones. Then a larger rate
        means fewer steps.
      spent: a history that was trained before and counts, too.
      rel_tol: the result is at most this fraction below a value that is not proved, in [1e-12, 1].
      **target: as for `calibrate_noise_multiplier`.

    Returns:
      A probability in (0, 1]; 1 if every step may see all data.

    Raises:
      InvalidParameterError: an argument is outside its range, or not exactly one target, or one of steps and epochs,
        is given.
      CalibrationError: no rate meets the target, with `steps` none down to 1e-9.
    """
    aim = as_target(target)
    noise, tolerance = as_positive_noise(noise_multiplier), as_tolerance(rel_tol)
    count, passes = as_length(steps, epochs)
    before = spent_history(spent, aim)
    left = about_left(aim, before)

    def excess(rate: float, n: int) -> float:
        return aim.excess_of([*before, (noise, rate, n)])

    least, most = 0.0, 1.0
    if passes is not None:
        count, least, most = _fewest_steps(excess, passes, one_step(noise) / left, aim)
    assert count is not None
    if excess(most, count) <= 0.0:
        return most
    start = 1.0 / min(max(about_rate(aim, left, noise, count), least), most)
    try:
        best, _ = smallest_safe(lambda x: excess(min(1.0 / x, most), count), tolerance, start, aim.slope)
    except CalibrationError:
        if passes is not None:
            return least  # with so many steps it is next to the best one
        raise CalibrationError(f"no sample_rate down to 1e-9 meets {aim.says}; raise noise_multiplier") from None
    rate = min(1.0 / best, most)
    return rate if passes is None or (rate >= least and whole_steps(rate, passes) == count) else least


def _fewest_steps(
    excess: Callable[[float, int], float], passes: float, per_pass: float, aim: Target
) -> tuple[int, float, float]:
    """Return the least number of steps that so many epochs may take, and the least and most rate with which they do.

    With n steps the rate is in (passes / (n + 1), passes / n]; what counts is whether the lower end is safe. That may
    not be monotone among the first few n: they are tried one by one.
    """

    def lower_end(n: int) -> tuple[float, int]:
        rate = min(passes / (n + 1) * (1.0 + 4.0 * (STEP_ROOM - 1.0)), 1.0)
        return rate, max(whole_steps(rate, passes), 1)  # of very many steps perhaps not n

    first = max(whole_steps(1.0, passes), 1)
    if first > MOST_STEPS:
        raise InvalidParameterError(f"epochs={passes!r} are more than 2**53 steps; no training run is longer")
    if excess(min(passes / first, 1.0), first) <= 0.0:
        return first, 0.0, min(passes / first, 1.0)
    found = fewest_safe(lambda n: excess(*lower_end(n)), first, passes * per_pass * passes, aim)
    for fewer in range(first + 1, min(found - 1, first + WINDOWS)):
        if excess(*lower_end(fewer)) <= 0.0:
            found = fewer
            break
    least, count = lower_end(found)
    return count, least, min(passes / count, 1.0)


def calibrate_batch_size(
    *,
    dataset_size: int,
    noise_multiplier: float,
    steps: int | None = None,
    epochs: float | None = None,
    spent: Iterable[Any] = (),
    **target: Unpack[TargetArguments],
) -> int:
    """Return the largest batch size, of a data loader that Opacus makes private, proved to meet a target.

    Opacus samples with the probability 1 / ceil(dataset_size / batch_size), and an epoch has that many steps.

    Args:
      dataset_size: number of training examples, >= 1.
      noise_multiplier: in [1e-4, 1e9].
      steps: number of optimizer steps, >= 1; or
      epochs: passes over the data, > 0.
      spent: a history that was trained before and counts, too.
      **target: as for `calibrate_noise_multiplier`.

    Returns:
      A batch size in [1, dataset_size].

    Raises:
      InvalidParameterError: an argument is outside its range, or not exactly one target, or one of steps and epochs,
        is given.
      CalibrationError: not even batches of one example meet the target.
    """
    aim = as_target(target)
    noise, size = as_positive_noise(noise_multiplier), as_dataset_size(dataset_size)
    count, passes = as_length(steps, epochs)
    if passes is not None:
        step_count(1.0 / size, None, passes)  # says what is wrong
    before = spent_history(spent, aim)
    known: dict[int, float] = {}

    def steps_of(batches: int) -> int:
        return whole_steps(1.0 / batches, passes) if passes is not None else count or 1

    def excess(batch: int) -> float:
        batches = math.ceil(size / batch)
        if batches not in known:
            n = steps_of(batches)
            known[batches] = aim.excess_of([*before, (noise, 1.0 / batches, n)]) if n else math.inf
        return known[batches]

    left = about_left(aim, before)
    start = left / (passes * one_step(noise)) if passes is not None else about_rate(aim, left, noise, steps_of(1))
    found = largest_safe_integer(excess, start * size, size, 0.5 * aim.slope)
    if passes is not None and passes != math.floor(passes):
        found = _larger_batch(excess, steps_of, size, found)
    if found == 0:
        raise CalibrationError(f"no batch size meets {aim.says}; raise noise_multiplier or train less")
    return found


def _larger_batch(excess: Callable[[int], float], steps_of: Callable[[int], int], size: int, found: int) -> int:
    """Return a larger safe batch, if there is one: where fewer batches make as good as as few steps; else `found`.

    Epochs that are not whole make up to one step less than they say, which may outweigh the larger batch.
    """
    batch, refused, tried = max(found, 1), 0, 0
    for _ in range(MOST_BATCHES):
        batches = math.ceil(size / batch)
        if batches == 1 or tried == WINDOWS:
            break
        batch = math.ceil(size / (batches - 1))
        count = steps_of(math.ceil(size / batch))
        if count == refused:
            continue  # a smaller batch with as many steps was
        tried += 1
        if excess(batch) <= 0.0:
            fewer = math.ceil(size / batch)
            found = size if fewer == 1 else math.ceil(size / (fewer - 1)) - 1
        else:
            refused = count
    return found


def calibrate_delta(
    *,
    target_epsilon: float,
    noise_multiplier: float,
    sample_rate: float,
    steps: int | None = None,
    epochs: float | None = None,
    spent: Iterable[Any] = (),
    adjacency: Adjacency = "add_or_remove",
) -> float:
    """Return the least delta proved at an epsilon: the upper end of `PrivacyCurve.delta`.

    Args:
      target_epsilon: in [0, inf].
      noise_multiplier: >= 0.
      sample_rate: in [1e-15, 1].
      steps: number of optimizer steps, >= 1; or
      epochs: passes over the data, > 0.
      spent: a history that was trained before and counts, too.
      adjacency: what neighbouring data sets differ in; see `PrivacyCurve`.

    Raises:
      InvalidParameterError: an argument is outside its range, or not exactly one of steps and epochs is given.
    """
    epsilon = as_epsilon(target_epsilon, name="target_epsilon")
    noise, rate = as_noise_multiplier(noise_multiplier), as_positive_rate(sample_rate)
    count = step_count(rate, steps, epochs)
    neighbours = as_adjacency(adjacency)
    history = [*parsed_spent(spent, neighbours), (noise, rate, count)]
    return PrivacyCurve(history, adjacency=neighbours).delta(epsilon).upper
