"""The privacy plan of a run: sampling, delta, noise and steps, fixed before the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from opacus.accountants.utils import get_noise_multiplier

from opacus_edgeworth.calibration import calibrate_noise_multiplier
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import CalibrationError, InvalidParameterError
from opacus_edgeworth.finetune.settings import FinetuneSettings

PEER_TOLERANCE = 1e-3  # in epsilon: how close Opacus's own search for the noise comes to the target


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done to the training data.

    `sample_rate` is what Opacus samples with, one over the number of batches in an epoch: with batch_size not dividing
    the data it is a little less than batch_size / examples, and so is the expected batch.
    """

    examples: int
    delta: float
    target_epsilon: float | None
    noise_multiplier: float
    sample_rate: float
    steps_per_epoch: int
    steps: int
    notes: tuple[str, ...]

    @property
    def expected_batch_size(self) -> float:
        """The mean number of examples in a batch."""
        return self.examples * self.sample_rate


def make_plan(examples: int, settings: FinetuneSettings) -> Plan:
    """Return the plan of a run on so many training examples.

    Raises:
      InvalidParameterError: batch_size is above the number of examples, or target_delta is not below one over it.
      CalibrationError: no noise meets the budget, or the given noise does not allow a single step.
    """
    notes: list[str] = []
    if settings.batch_size > examples:
        raise InvalidParameterError(
            f"batch_size={settings.batch_size} is larger than the training data ({examples} examples); lower it"
        )
    delta = settings.target_delta
    if delta is None:
        delta = default_delta(examples)
        notes.append(f"target_delta was not given: {delta:g}, the largest power of ten below 1 / {examples}, is used")
    elif delta * examples >= 1.0:
        raise InvalidParameterError(
            f"target_delta={delta:g} must be below 1 / examples = {1.0 / examples:.3g}: at that size, publishing one"
            f" example outright would be allowed; use {default_delta(examples):g} or leave it out"
        )
    steps_per_epoch = math.ceil(examples / settings.batch_size)
    sample_rate = 1.0 / steps_per_epoch
    planned = settings.epochs * steps_per_epoch
    if not math.isclose(examples * sample_rate, settings.batch_size):
        notes.append(
            f"an epoch has {steps_per_epoch} steps, so that the sample rate is 1 / {steps_per_epoch} and a batch has"
            f" {examples * sample_rate:.1f} examples on average, not {settings.batch_size}"
        )
    noise = settings.noise_multiplier
    if noise is None:
        noise = calibrated_noise(settings, delta, sample_rate, planned)
    steps = planned
    if settings.target_epsilon is not None:
        steps = steps_within(settings.target_epsilon, delta, noise, sample_rate, planned)
        if steps == 0:
            raise CalibrationError(
                f"noise_multiplier={noise:g} does not allow a single step within epsilon {settings.target_epsilon:g} at"
                f" delta {delta:g}; raise it, or leave it out to have it calibrated"
            )
        if steps < planned:
            notes.append(f"the budget ends the run after {steps} of {planned} steps")
    return Plan(examples, delta, settings.target_epsilon, noise, sample_rate, steps_per_epoch, steps, tuple(notes))


def default_delta(examples: int) -> float:
    """Return the largest power of ten below one over the number of examples (1e-5 for 67,349)."""
    exponent = len(str(examples)) - 1  # 10**exponent <= examples < 10**(exponent + 1)
    return float(f"1e-{exponent + 1}")


def calibrated_noise(settings: FinetuneSettings, delta: float, sample_rate: float, steps: int) -> float:
    """Return the noise multiplier that the chosen accountant finds for the budget.

    Raises:
      CalibrationError: it finds none.
    """
    assert settings.target_epsilon is not None
    if settings.accountant == "edgeworth":
        return calibrate_noise_multiplier(
            target_epsilon=settings.target_epsilon, target_delta=delta, sample_rate=sample_rate, steps=steps
        )
    try:
        return float(
            get_noise_multiplier(
                target_epsilon=settings.target_epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant=settings.accountant,
                epsilon_tolerance=PEER_TOLERANCE,
            )
        )
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:  # each of them was seen
        raise CalibrationError(
            f'accountant="{settings.accountant}" finds no noise for this budget: {error}; use "edgeworth"'
        ) from error


def steps_within(epsilon: float, delta: float, noise_multiplier: float, sample_rate: float, most: int) -> int:
    """Return the largest number of steps, up to `most`, that is proved to stay within (epsilon, delta)."""

    def is_safe(steps: int) -> bool:
        return PrivacyCurve([(noise_multiplier, sample_rate, steps)]).delta(epsilon).upper <= delta

    if is_safe(most):
        return most
    low, high = 0, most  # 0 steps reveal nothing; `most` is too many
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_safe(middle) else (low, middle)
    return low
