"""Where an encoder keeps its embeddings and layers, and how to run only some of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opacus_edgeworth.errors import InvalidParameterError

LAYER_PATHS = (("encoder", "layer"), ("transformer", "layer"))  # BERT, RoBERTa, MiniLM, ELECTRA; DistilBERT
ATTENTION = {"encoder": ("query", "value"), "transformer": ("q_lin", "v_lin")}  # what LoRA changes

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")  # count positions from the padding token's number on


@dataclass(frozen=True, slots=True)
class Encoder:
    """The parts of a transformers encoder: `stack.layer` is the list of its layers."""

    base: Any
    stack: Any
    attention: tuple[str, ...]

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.stack.layer)

    @property
    def layers(self) -> list[nn.Module]:
        """The layers, lowest first."""
        return list(self.stack.layer)

    @property
    def pooler(self) -> nn.Module | None:
        """The layer that makes one vector of the first token, where the encoder has one."""
        return getattr(self.base, "pooler", None)


def find_encoder(model: Any) -> Encoder:
    """Return the parts of the encoder in a transformers model.

    Raises:
      InvalidParameterError: the model is not built like BERT, RoBERTa, MiniLM or DistilBERT.
    """
    base = model.base_model if hasattr(model, "base_model") else model
    for outer, inner in LAYER_PATHS:
        stack = getattr(base, outer, None)
        if isinstance(getattr(stack, inner, None), nn.ModuleList) and hasattr(base, "embeddings"):
            return Encoder(base, stack, ATTENTION[outer])
    raise InvalidParameterError(
        f"model={type(model).__name__} has no stack of encoder layers that is known here; models of the BERT, RoBERTa,"
        " MiniLM and DistilBERT families have"
    )


class _PassThrough(nn.Module):
    """Stands where the embeddings were: what comes in as embeddings is already what the first layer left wants."""

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the given states."""
        given = next((arg for arg in (inputs_embeds, *args) if torch.is_tensor(arg)), None)
        assert given is not None
        assert given.is_floating_point()
        return given


@contextmanager
def upper_part(encoder: Encoder, frozen_layers: int) -> Iterator[None]:
    """Within it, the model starts at layer `frozen_layers`: call it with that layer's input as `inputs_embeds`.

    All that transformers does around the layers (masks, pooling, the classification head) stays as it is, so the
    upper part computes what the whole model would.
    """
    embeddings, layers = encoder.base.embeddings, encoder.stack.layer
    encoder.base.embeddings = _PassThrough()
    encoder.stack.layer = nn.ModuleList(encoder.layers[frozen_layers:])
    try:
        yield
    finally:
        encoder.base.embeddings, encoder.stack.layer = embeddings, layers


@contextmanager
def lower_part(encoder: Encoder, frozen_layers: int) -> Iterator[None]:
    """Within it, the encoder ends after its first `frozen_layers` layers."""
    layers = encoder.stack.layer
    encoder.stack.layer = nn.ModuleList(encoder.layers[:frozen_layers])
    try:
        yield
    finally:
        encoder.stack.layer = layers


def layer_outputs(encoder: Encoder, arguments: dict[str, Tensor]) -> list[Tensor]:
    """Run the encoder; return the input of its first layer and the output of each."""
    states: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not states:
            states.append(args[0])
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep) for layer in encoder.layers]
    try:
        output = encoder.base(**arguments)
    finally:
        for handle in handles:
            handle.remove()
    return states or [output.last_hidden_state]
