"""A text classifier: a transformers model with its own head, or an encoder with a linear head on mean token states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.finetune.architecture import Encoder, find_encoder, layer_outputs


def mean_token(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real tokens of each example, shape (examples, width)."""
    weight = mask[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def _positions(ids: Tensor) -> Tensor:
    """Return positions for each example: one row for all of them would hide whose gradient is whose."""
    return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape).contiguous()


class OwnHeadClassifier(nn.Module):
    """A transformers sequence-classification model, called with a batch, answering with logits."""

    pooled_layers = 0

    def __init__(self, model: Any) -> None:
        """Take the model, with LoRA in it or without."""
        super().__init__()
        self.model = model
        self.expand_positions = False

    @property
    def encoder(self) -> Encoder:
        """The parts of the encoder."""
        return find_encoder(plain_model(self.model))

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return all parameters outside the encoder, by name."""
        inside = {id(parameter) for parameter in self.encoder.base.parameters()}
        return {name: value for name, value in self.named_parameters() if id(value) not in inside}

    def last_layer(self) -> nn.Linear:
        """Return the linear layer that makes the logits."""
        inside = set(self.encoder.base.modules())
        layers = [
            module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and module not in inside and "original_module" not in name
        ]
        if not layers:
            raise InvalidParameterError(f"model={type(self.model).__name__} has no linear classification head")
        return layers[-1]

    def forward(self, **batch: Tensor) -> Tensor:
        """Return the logits, shape (examples, classes), of a batch of `Inputs`."""
        if self.expand_positions:
            batch["position_ids"] = _positions(batch["input_ids"])
        return self.model(**batch).logits


class MeanPoolingClassifier(nn.Module):
    """An encoder with a linear head on the mean token states of its last layers.

    Two classes take one logit, the other being 0, so that no noise is spent on what cancels.
    """

    def __init__(self, model: Any, classes: int, pooled_layers: int) -> None:
        """Take an encoder, with LoRA in it or without, and put a head that starts at zero on it."""
        super().__init__()
        self.model = model
        self.pooled_layers = pooled_layers
        self.classes = classes
        width = plain_model(model).config.hidden_size
        self.head = nn.Linear(pooled_layers * width, 1 if classes == 2 else classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.expand_positions = False

    @property
    def encoder(self) -> Encoder:
        """The parts of the encoder."""
        return find_encoder(plain_model(self.model))

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return the head's parameters, by name."""
        return {f"head.{name}": value for name, value in self.head.named_parameters()}

    def last_layer(self) -> nn.Linear:
        """Return the linear layer that makes the logits."""
        return self.head

    def forward(self, lower_means: Tensor | None = None, **batch: Tensor) -> Tensor:
        """Return the logits, shape (examples, classes).

        Args:
          lower_means: mean token states of layers that were left out, lowest first, side by side.
          **batch: arguments of the encoder.
        """
        if self.expand_positions:
            batch["position_ids"] = _positions(batch["input_ids"])
        outputs = layer_outputs(self.encoder, batch)[-self.pooled_layers :]
        means = [mean_token(states, batch["attention_mask"]) for states in outputs]
        if lower_means is not None:
            means.insert(0, lower_means)
        logits = self.head(torch.cat(means, dim=1).to(self.head.weight.dtype))
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if self.classes == 2 else logits


Classifier = OwnHeadClassifier | MeanPoolingClassifier


def plain_model(model: Any) -> Any:
    """Return the transformers model in which peft put its adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
