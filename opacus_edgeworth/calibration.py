"""Calibration in every unknown: the least noise, the most steps, the largest batch that are proved to meet a target.

What is returned was itself evaluated and found safe; next to it, within the tolerance or one step further, a value was
evaluated that is not. `TargetArguments` lists the targets, one of which is given in every call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from opacus_edgeworth._validate import (
    as_dataset_size,
    as_epochs,
    as_epsilon,
    as_noise_multiplier,
    as_positive_noise,
    as_positive_rate,
    as_tolerance,
)
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import CalibrationError
from opacus_edgeworth.schedules import Schedule, factors_of
from opacus_edgeworth.search import largest_safe_integer, smallest_safe
from opacus_edgeworth.solving import (
    MOST_STEPS,
    STEP_ROOM,
    about_mu_squared,
    fewest_safe,
    least_noise_of_schedule,
    one_step,
    spent_history,
    step_count,
)
from opacus_edgeworth.targets import TargetArguments, as_target

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
      sample_rate: Poisson sampling probability, in (0, 1]; with Opacus, 1 / len(data_loader).
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
      noise_multiplier: > 0.
      sample_rate: in (0, 1].
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
    left = aim.mu**2 - about_mu_squared(before)
    start = left / (rate**2 * one_step(noise)) if left > 0.0 else 1.0

    def excess(n: int) -> float:
        return aim.excess(PrivacyCurve([*before, (noise, rate, n)]))

    found = largest_safe_integer(excess, start, MOST_STEPS)
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
      noise_multiplier: > 0.
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
      CalibrationError: no rate down to 1e-9 meets the target.
    """
    aim = as_target(target)
    noise, tolerance, before = as_positive_noise(noise_multiplier), as_tolerance(rel_tol), spent_history(spent, aim)
    if (steps is None) == (epochs is None):
        step_count(1.0, steps, epochs)  # says what is wrong

    def excess(rate: float, count: int) -> float:
        return aim.excess(PrivacyCurve([*before, (noise, rate, count)]))

    each_step = one_step(noise)
    left = max(aim.mu**2 - about_mu_squared(before), 1e-12)
    if steps is not None:
        count, most = step_count(1.0, steps, None), 1.0
        start = math.sqrt(left / (count * each_step))
    else:
        # with n steps the rate is in (passes / (n + 1), passes / n]: the fewest with which its lower end is safe
        passes = as_epochs(epochs)
        least = max(math.floor(passes * STEP_ROOM), 1)

        def at_lower_end(n: int) -> float:
            return excess(min(passes / (n + 1) * STEP_ROOM, 1.0), n)

        count = fewest_safe(at_lower_end, least, passes**2 * each_step / left, aim)
        most = start = min(passes / count, 1.0)
    if excess(most, count) <= 0.0:
        return most
    try:
        least, _ = smallest_safe(lambda x: excess(min(1.0 / x, 1.0), count), tolerance, max(1.0 / start, 1.0), 2.0)
        return 1.0 / least
    except CalibrationError:
        raise CalibrationError(f"no sample_rate down to 1e-9 meets {aim.says}; raise noise_multiplier") from None


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
      noise_multiplier: > 0.
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
    before = spent_history(spent, aim)
    step_count(1.0, steps, epochs)

    def excess(batches: int) -> float:
        count = step_count(1.0 / batches, steps, epochs)
        return aim.excess(PrivacyCurve([*before, (noise, 1.0 / batches, count)]))

    left = max(aim.mu**2 - about_mu_squared(before), 1e-12)
    each_step = one_step(noise)
    start = math.sqrt(each_step * steps / left) if steps is not None else each_step * as_epochs(epochs) / left
    batches = fewest_safe(excess, 1, start, aim, most=size)
    batch = size if batches == 1 else math.ceil(size / (batches - 1)) - 1
    # not every number of batches is that of a batch size
    if batch < 1 or (math.ceil(size / batch) != batches and excess(math.ceil(size / batch)) > 0.0):
        raise CalibrationError(f"no batch size meets {aim.says}; raise noise_multiplier or train less")
    return batch


def calibrate_delta(
    *,
    target_epsilon: float,
    noise_multiplier: float,
    sample_rate: float,
    steps: int | None = None,
    epochs: float | None = None,
    spent: Iterable[Any] = (),
) -> float:
    """Return the least delta proved at an epsilon: the upper end of `PrivacyCurve.delta`.

    Args:
      target_epsilon: in [0, inf].
      noise_multiplier: >= 0.
      sample_rate: in (0, 1].
      steps: number of optimizer steps, >= 1; or
      epochs: passes over the data, > 0.
      spent: a history that was trained before and counts, too.

    Raises:
      InvalidParameterError: an argument is outside its range, or not exactly one of steps and epochs is given.
    """
    rate = as_positive_rate(sample_rate)
    history = [*spent, (as_noise_multiplier(noise_multiplier), rate, step_count(rate, steps, epochs))]
    return PrivacyCurve(history).delta(as_epsilon(target_epsilon, name="target_epsilon")).upper
