"""Private training: Poisson batches in bounded memory, accounted step by step, stopped where the plan ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from opacus import PrivacyEngine
from opacus.optimizers import DPOptimizer
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from opacus_edgeworth.accountant import EdgeworthAccountant
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.finetune.budget import Plan
from opacus_edgeworth.finetune.checkpoint import Checkpoint
from opacus_edgeworth.finetune.classifier import Classifier
from opacus_edgeworth.finetune.encoding import Inputs
from opacus_edgeworth.finetune.gradients import Mode
from opacus_edgeworth.finetune.randomness import Randomness
from opacus_edgeworth.finetune.settings import FinetuneSettings
from opacus_edgeworth.sampling import exact_sampling

Record = dict[str, float | int]  # of one step
History = list[tuple[float, float, int]]


@dataclass(frozen=True, slots=True)
class Training:
    """All that a run of private training needs.

    Args:
      parameters: those that change, by their names in the whole model.
      head: the names among them that take the head's learning rate.
      identity: what a checkpoint must agree with.
      on_step: called with the record of each step.
      on_checkpoint: called with a checkpoint every `settings.checkpoint_every` steps, or None.
    """

    classifier: Classifier
    parameters: dict[str, nn.Parameter]
    head: frozenset[str]
    inputs: Inputs
    plan: Plan
    settings: FinetuneSettings
    mode: Mode
    physical_batch_size: int
    device: torch.device
    mixed_precision: bool
    randomness: Randomness
    identity: dict[str, Any]
    on_step: Callable[[Record], None]
    on_checkpoint: Callable[[Checkpoint], None] | None


@dataclass(frozen=True, slots=True)
class _Private:
    """What Opacus made of the model, the optimizer, the loss and the batches."""

    model: Any
    optimizer: DPOptimizer
    criterion: Callable[[Tensor, Tensor], Any]
    loader: Any
    accountant: EdgeworthAccountant


def train(run: Training, resume_from: Checkpoint | None = None) -> History:
    """Train in place; return what the accountant saw, from the first step on.

    Raises:
      ImportError: secure_mode without the package that Opacus needs for it.
    """
    private = _make_private(run)
    if resume_from is not None:
        _restore(run, private, resume_from)
    try:
        private.loader.batch_sampler.steps = run.plan.steps - len(private.accountant)
        with BatchMemoryManager(
            data_loader=private.loader,
            max_physical_batch_size=run.physical_batch_size,
            optimizer=private.optimizer,
        ) as physical:
            batches = iter(physical)  # takes a number from the generator, so the generator's state is set after it
            if resume_from is not None and not run.settings.secure_mode:
                run.randomness.restore(resume_from.generators)
            _steps(run, private, batches)
    finally:
        private.model.to_standard_module()
    return list(private.accountant.history)


def _make_private(run: Training) -> _Private:
    """Hand model, optimizer and data to Opacus."""
    settings, plan = run.settings, run.plan
    optimizer = torch.optim.AdamW(_groups(run), weight_decay=settings.weight_decay)
    # Poisson sampling draws each example on its own, whatever the order; ordered by length, physical batches need
    # little padding.
    order = run.inputs.lengths.argsort(stable=True)
    loader = DataLoader(TensorDataset(order), batch_size=settings.batch_size, generator=run.randomness.sampling)
    norm: float | list[float] = settings.max_grad_norm
    if settings.clipping == "per_layer":  # the square root makes the norm of the whole gradient the same as with "flat"
        norm = [settings.max_grad_norm / math.sqrt(len(run.parameters))] * len(run.parameters)
    engine = PrivacyEngine(accountant="edgeworth", secure_mode=settings.secure_mode)
    made = engine.make_private(
        module=run.classifier.train(),
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        data_loader=loader,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=norm,
        clipping=settings.clipping,
        grad_sample_mode=run.mode,
        noise_generator=None if settings.secure_mode else run.randomness.noise,
    )
    model, private, criterion, batches = cast(
        tuple[Any, DPOptimizer, Any, Any], made if run.mode == "ghost" else (*made[:2], nn.CrossEntropyLoss(), made[2])
    )
    # Opacus derives the rate from the number of batches, which it in turn derives from the rate: rounding may lose one.
    assert batches.sample_rate == plan.sample_rate
    accountant = cast(EdgeworthAccountant, engine.accountant)
    private.expected_batch_size = plan.expected_batch_size  # pyright: ignore[reportAttributeAccessIssue]
    private.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=plan.sample_rate))
    return _Private(model, private, criterion, exact_sampling(batches), accountant)


def _groups(run: Training) -> list[dict[str, Any]]:
    """Return the head's parameters and the others, each with their learning rate."""
    body = [value for name, value in run.parameters.items() if name not in run.head]
    head = [value for name, value in run.parameters.items() if name in run.head]
    rate = run.settings.learning_rate
    groups = [{"params": body, "lr": rate}, {"params": head, "lr": run.settings.head_learning_rate or rate}]
    return [group for group in groups if group["params"]]


def _restore(run: Training, private: _Private, checkpoint: Checkpoint) -> None:
    """Put everything but the generators back as it was."""
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            parameter.copy_(checkpoint.parameters[name])
    private.optimizer.load_state_dict(checkpoint.optimizer)
    private.accountant.load_state_dict({"history": checkpoint.history, "mechanism": "edgeworth"})


def _steps(run: Training, private: _Private, batches: Iterable[Any]) -> None:
    """Take the steps that are left, one logical batch after the other."""
    taken, losses, drawn, started = len(private.accountant), 0.0, 0, time.perf_counter()
    with tqdm(
        total=run.plan.steps,
        initial=taken,
        desc="private fine-tuning",
        unit=" steps",
        disable=not run.settings.progress,
    ) as bar:
        for (rows,) in batches:
            _set_learning_rates(run, private.optimizer, taken)
            private.optimizer.zero_grad()
            losses += _backward(run, private, rows)
            drawn += len(rows)
            private.optimizer.step()
            if len(private.accountant) == taken:
                continue  # the logical batch has more physical ones
            taken = len(private.accountant)
            assert taken <= run.plan.steps
            record = _record(run, private, taken, losses / max(drawn, 1), time.perf_counter() - started)
            run.on_step(record)
            bar.set_postfix_str(
                f"loss {record['loss']:.3f}, ε [{record['epsilon_lower']:.4g}, {record['epsilon_upper']:.4g}]",
                refresh=False,
            )
            bar.update()
            if run.on_checkpoint is not None and taken % run.settings.checkpoint_every == 0:
                run.on_checkpoint(_checkpoint(run, private))
            losses, drawn, started = 0.0, 0, time.perf_counter()


def _backward(run: Training, private: _Private, rows: Tensor) -> float:
    """Compute the gradients of a physical batch's examples; return the sum of their losses."""
    if len(rows) == 0:  # Poisson sampling may draw nobody: the step is taken all the same, with noise alone
        for parameter in run.parameters.values():
            if run.mode == "ghost":
                parameter.grad = torch.zeros_like(parameter)
            else:
                cast(Any, parameter).grad_sample = parameter.new_zeros((0, *parameter.shape))
        return 0.0
    labels = run.inputs.labels[rows].to(run.device)
    with autocast(run.device, run.mixed_precision):
        logits = private.model(**run.inputs.batch(rows, run.device))
    loss = private.criterion(logits.float(), labels)
    loss.backward()
    if run.mixed_precision:  # norms must be those of the gradients that are added up, not rounded to bf16
        for parameter in run.parameters.values():
            sample = cast(Any, parameter).grad_sample
            cast(Any, parameter).grad_sample = sample.float()
    return float(loss.item()) * len(rows)


def autocast(device: torch.device, mixed_precision: bool) -> AbstractContextManager[Any]:
    """Return the context in which the model runs."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if mixed_precision else nullcontext()


def _set_learning_rates(run: Training, optimizer: DPOptimizer, taken: int) -> None:
    """Set the learning rates of the step after `taken` ones."""
    if run.settings.schedule == "linear":
        left = 1.0 - taken / run.plan.steps
        for group in optimizer.param_groups:
            group["lr"] = left * group.setdefault("initial_lr", group["lr"])


def _record(run: Training, private: _Private, step: int, loss: float, seconds: float) -> Record:
    """Return what the log says of a step."""
    epsilon = PrivacyCurve(private.accountant.history).epsilon(run.plan.delta)
    return {
        "step": step,
        "epoch": round(step * run.plan.sample_rate, 6),
        "loss": round(loss, 6),
        "epsilon_lower": epsilon.lower,
        "epsilon_upper": epsilon.upper,
        "seconds": round(seconds, 3),
    }


def _checkpoint(run: Training, private: _Private) -> Checkpoint:
    """Return the state after a step."""
    return Checkpoint(
        identity=run.identity,
        history=list(private.accountant.history),
        parameters={name: value.detach().cpu().clone() for name, value in run.parameters.items()},
        optimizer=private.optimizer.state_dict(),
        generators=run.randomness.state(),
    )
