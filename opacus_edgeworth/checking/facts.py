"""What is known of a training loop before any judgement: its parts, and what its accountant was told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from opacus.accountants import IAccountant
from torch import nn
from torch.utils.data import DataLoader

from opacus_edgeworth._validate import as_delta, as_epochs, shown
from opacus_edgeworth.checking.loaders import Sampling, sampling_of
from opacus_edgeworth.checking.optimizers import told_of
from opacus_edgeworth.checking.spent import Spent, steps_of
from opacus_edgeworth.composition import parse_history
from opacus_edgeworth.errors import InvalidParameterError

DELTA_SHARE = 0.1
"""Of 1 / examples, for delta if none is given."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A training loop.

    Args:
      model, optimizer, criterion, accountant: as they were given; the criterion may be None.
      loader: the data loader, and `sampling`, what it does.
      dataset: that the engine was made for, or None.
      told: the accountant and the sampling rate that the optimizer's hook leads to, as far as known.
      hooked: whether the optimizer has a hook at all.
      spent: the steps recorded, or planned: as the accountant has them.
      planned: whether none was recorded.
      epochs: passes over the data, planned or said to be done; None if nothing was said.
      delta: at which epsilon is asked.
    """

    model: Any
    optimizer: Any
    criterion: Any
    accountant: IAccountant
    loader: DataLoader[Any]
    sampling: Sampling
    dataset: Any
    told: tuple[IAccountant | None, float | None]
    hooked: bool
    spent: Spent
    planned: bool
    epochs: float | None
    delta: float

    @property
    def rate(self) -> float | None:
        """The sampling rate that the accountant is told of: by the hook, or in the last phase."""
        if self.told[1] is not None:
            return self.told[1]
        return self.spent.phases[-1][1] if self.spent.phases else None

    @property
    def batches_drawn(self) -> int | None:
        """How many batches the epochs were that are said to be done."""
        return None if self.planned or self.epochs is None else round(self.epochs * self.sampling.batches)

    @property
    def batches_recorded(self) -> int:
        """How many batches the steps were made of, as they were recorded."""
        hook = self.told[1] or 1.0 / self.sampling.batches
        return int(sum(n * max(round(rate / hook), 1) for _, rate, n in self.spent.phases))

    @property
    def together(self) -> set[int]:
        """Of how many batches each the steps were made, as far as it is known; not empty."""
        hook = self.told[1]
        counts = {max(round(rate / hook), 1) if hook else 1 for _, rate, _ in self.spent.phases}
        if self.batches_drawn is not None:
            counts.add(max(math.ceil(self.batches_drawn / max(steps_of(self.spent), 1)), 1))
        return counts or {1}


def gather(training: Any, accountant: Any, delta: Any, epochs: Any) -> Facts:
    """Return what is known.

    Raises:
      InvalidParameterError: something of it is of another kind than it should be.
    """
    engine = training if hasattr(training, "make_private") else None
    model, optimizer, criterion, loader = _parts(training, engine)
    sampling = sampling_of(loader)
    hook = getattr(optimizer, "step_hook", None)
    told = told_of(hook)
    accountant = _accountant(accountant, engine, told[0])
    passes = None if epochs is None else as_epochs(epochs)
    recorded = tuple((noise, rate, n) for (noise, rate), n in parse_history(accountant.history).items() if n > 0)
    spent = Spent(recorded if recorded else _planned(optimizer, sampling, told[1], 1.0 if passes is None else passes))
    at = DELTA_SHARE / max(sampling.examples, 1) if delta is None else as_delta(delta)
    if not 0.0 < at < 1.0:
        raise InvalidParameterError(f"delta={delta!r} must be in (0, 1); usually below 1 / examples")
    dataset = getattr(engine, "dataset", None)
    return Facts(
        model, optimizer, criterion, accountant, loader, sampling, dataset, told, hook is not None, spent,
        not recorded, passes, at,
    )  # fmt: skip


def _parts(training: Any, engine: Any) -> tuple[Any, Any, Any, DataLoader[Any]]:
    """Return model, optimizer, criterion or None, and loader."""
    parts = training if engine is None else getattr(engine, "parts", None)
    if engine is not None and parts is None:
        raise InvalidParameterError(
            f"training={type(engine).__name__} keeps nothing of what make_private returned; pass (model, optimizer,"
            " data_loader), or train with opacus_edgeworth.PrivacyEngine, which does"
        )
    if not isinstance(parts, (tuple, list)) or len(parts) not in (3, 4):
        raise InvalidParameterError(
            f"training={shown(training)} must be an engine, or (model, optimizer, data_loader), or what make_private"
            " returned"
        )
    model, optimizer, loader = parts[0], parts[1], parts[-1]
    if not isinstance(loader, DataLoader):
        raise InvalidParameterError(
            f"data_loader={type(loader).__name__} must be a torch DataLoader: its samplers say how batches are drawn"
        )
    if not hasattr(optimizer, "param_groups"):
        raise InvalidParameterError(f"optimizer={type(optimizer).__name__} must be an optimizer of torch or Opacus")
    if not isinstance(model, nn.Module) and not hasattr(model, "cleanup"):
        raise InvalidParameterError(f"model={type(model).__name__} must be a torch module, or what make_private made")
    return model, optimizer, parts[2] if len(parts) == 4 else None, loader


def _accountant(given: Any, engine: Any, told: IAccountant | None) -> IAccountant:
    """Return the accountant whose claim is judged."""
    accountant = given if given is not None else getattr(engine, "accountant", told)
    if not isinstance(accountant, IAccountant):
        raise InvalidParameterError(
            f"accountant={shown(accountant)} must be an accountant of Opacus; pass engine.accountant"
        )
    return accountant


def _planned(
    optimizer: Any, sampling: Sampling, rate: float | None, epochs: float
) -> tuple[tuple[float, float, int], ...]:
    """Return the steps that so many epochs will be recorded as."""
    noise = float(getattr(optimizer, "noise_multiplier", 0.0))
    told = 1.0 / sampling.batches if rate is None else rate
    return ((noise, told, max(round(epochs * sampling.batches), 1)),)
