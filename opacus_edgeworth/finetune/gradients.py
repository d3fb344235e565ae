"""Whose gradient is whose: the mode of Opacus, and a check of it on made-up texts before any training."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.finetune.encoding import Batch
from opacus_edgeworth.finetune.settings import FinetuneSettings

Mode = Literal["hooks", "ghost"]
DEFAULT_PHYSICAL = 64  # examples whose gradients are held at once
HOOKS_LIMIT = 2.0**30  # bytes of per-example gradients beyond which "auto" takes ghost clipping
TOLERANCE = 1e-3  # relative, in fp32: a wrong gradient is wrong by much more


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that change, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def choose_mode(model: nn.Module, settings: FinetuneSettings, mixed_precision: bool) -> Mode:
    """Return how the gradients are clipped.

    Raises:
      InvalidParameterError: ghost clipping was asked for together with what it cannot do.
    """
    reason = None
    if settings.clipping != "flat":
        reason = f'clipping="{settings.clipping}" needs the gradients themselves'
    elif mixed_precision:
        reason = "in bf16 it would clip by a rounded norm of another gradient than the one used"
    if settings.grad_sample_mode == "ghost" and reason is not None:
        raise InvalidParameterError(f'grad_sample_mode="ghost" does not serve here: {reason}; use "hooks"')
    if settings.grad_sample_mode == "auto":
        size = (
            4.0
            * (settings.physical_batch_size or DEFAULT_PHYSICAL)
            * sum(value.numel() for value in trainable(model).values())
        )
        return "ghost" if size > HOOKS_LIMIT and reason is None else "hooks"
    return settings.grad_sample_mode


def check_gradients(model: nn.Module, batch: Batch, classes: int, mode: Mode) -> None:
    """Refuse a model in which Opacus's per-example gradients are not those of the examples.

    The bound on one example's influence rests on them. A few made-up examples are run through the model in one batch
    and one by one, with all that changes moved away from its starting point (where a zero would hide differences).

    Args:
      model: a classifier with its parameters chosen; unchanged afterwards.
      batch: a few examples, none of them from the training data.
      classes: number of classes.
      mode: "hooks" compares gradients, "ghost" their norms.

    Raises:
      InvalidParameterError: they differ, or Opacus cannot compute them.
    """
    model.train()
    errors = ModuleValidator.validate(model, strict=False)
    if errors:
        raise InvalidParameterError(f"model cannot be trained privately: {errors[0]}; replace that layer or freeze it")
    parameters = list(trainable(model).values())
    kept = [parameter.detach().clone() for parameter in parameters]
    dropouts = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    generator = torch.Generator().manual_seed(0)
    try:
        for module, _ in dropouts:
            module.p = 0.0
        with torch.no_grad():
            for parameter in parameters:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)
        count = len(batch["attention_mask"])
        labels = (torch.arange(count) % classes).to(batch["attention_mask"].device)
        found = _by_opacus(model, parameters, batch, labels, mode)
        for row in range(count):
            wanted = _alone(model, parameters, batch, labels, row)
            _compare([values[row] for values in found], wanted, mode)
    finally:
        for module, probability in dropouts:
            module.p = probability
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
                parameter.grad = None


def _by_opacus(
    model: nn.Module, parameters: list[nn.Parameter], batch: Batch, labels: Tensor, mode: Mode
) -> list[Tensor]:
    """Return each parameter's gradients, (examples, *shape), or in ghost mode the norms of all, (examples,)."""
    kind: Any = GradSampleModule if mode == "hooks" else GradSampleModuleFastGradientClipping
    wrapped = kind(model, loss_reduction="sum")
    try:
        nn.functional.cross_entropy(wrapped(**batch), labels, reduction="sum").backward()
        if mode == "ghost":
            return [wrapped.get_norm_sample().detach()]
        samples: list[Any] = [getattr(parameter, "grad_sample", None) for parameter in parameters]
        if any(sample is None or len(sample) != len(labels) for sample in samples):
            raise InvalidParameterError(
                "model: Opacus finds no gradient for each example of some parameter that changes (its layer sees the"
                " whole batch as one); freeze that layer, or leave train_embeddings out"
            )
        return samples
    except (NotImplementedError, RuntimeError) as error:
        raise InvalidParameterError(
            f"model: Opacus cannot compute the gradient of each example ({error}); try another method or"
            " grad_sample_mode"
        ) from error
    finally:
        wrapped.to_standard_module()
        for parameter in parameters:
            for name in ("grad_sample", "_norm_sample", "_forward_counter", "_current_grad_sample"):
                if hasattr(parameter, name):
                    delattr(parameter, name)


def _alone(model: nn.Module, parameters: list[nn.Parameter], batch: Batch, labels: Tensor, row: int) -> list[Tensor]:
    """Return the gradient of one example, computed without the others."""
    single = {name: tensor[row : row + 1] for name, tensor in batch.items()}
    loss = nn.functional.cross_entropy(model(**single), labels[row : row + 1], reduction="sum")
    parts = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if part is None else part for part, p in zip(parts, parameters, strict=True)]


def _compare(found: list[Tensor], wanted: list[Tensor], mode: Mode) -> None:
    """Refuse the gradient of an example, or its norm, if it differs by more than rounding."""
    norm = _norm(wanted)
    error = (
        abs(float(found[0]) - norm)
        if mode == "ghost"
        else _norm([ours - theirs for ours, theirs in zip(found, wanted, strict=True)])
    )
    if not error <= TOLERANCE * norm + 1e-7:  # written so that NaN is refused too
        raise InvalidParameterError(
            f"model: the gradient that Opacus computes for a single example is wrong by {error / max(norm, 1e-30):.1%},"
            " so that clipping it would not bound the example's influence (layers that mix examples, or parameters used"
            " twice); freeze what is shared, or try another method"
        )


def _norm(parts: list[Tensor]) -> float:
    """Return the norm of a gradient given in parts."""
    return math.sqrt(sum(float(part.double().square().sum()) for part in parts))
