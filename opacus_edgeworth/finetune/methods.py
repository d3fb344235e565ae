"""Which parameters change: all, LoRA's, the biases, or the head's."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn

from opacus_edgeworth.finetune.architecture import OFFSET_POSITIONS, Encoder
from opacus_edgeworth.finetune.classifier import OwnHeadClassifier, plain_model
from opacus_edgeworth.finetune.models import LoadedModel
from opacus_edgeworth.finetune.settings import FinetuneSettings


def frozen_layers(encoder: Encoder, settings: FinetuneSettings) -> int:
    """Return how many encoder layers, from the bottom, do not change; -1 if the embeddings change too."""
    if settings.train_embeddings:
        return -1
    if settings.method == "head":
        return encoder.depth
    return encoder.depth - (settings.top_layers or encoder.depth)


def choose_parameters(loaded: LoadedModel, settings: FinetuneSettings) -> None:
    """Let the method's parameters require a gradient, adding LoRA's; all others are frozen already.

    The head changes with every method, and the pooler below it wherever it was not in the checkpoint.
    """
    classifier = loaded.classifier
    encoder = classifier.encoder
    frozen = frozen_layers(encoder, settings)
    if settings.method == "lora":
        _add_lora(loaded, encoder, frozen, settings)
    upper: list[nn.Module] = list(encoder.layers[max(frozen, 0) :]) if settings.method in ("full", "bitfit") else []
    if upper and classifier.pooled_layers == 0 and encoder.pooler is not None:
        upper.append(encoder.pooler)
    if settings.train_embeddings:
        upper.append(encoder.base.embeddings)
        classifier.expand_positions = encoder.base.config.model_type not in OFFSET_POSITIONS  # they make their own
    for part in upper:
        for name, parameter in part.named_parameters():
            parameter.requires_grad_(settings.method == "full" or name.endswith("bias"))
    new = dict(classifier.head_parameters())
    if loaded.new_pooler and classifier.pooled_layers == 0 and encoder.pooler is not None:
        new |= dict(encoder.pooler.named_parameters())
    for name, parameter in new.items():
        parameter.requires_grad_("original_module" not in name)  # peft keeps a copy of the head as it was
    if settings.head_init == "zero" or (settings.head_init == "auto" and loaded.new_head):
        last = classifier.last_layer()
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)


def _add_lora(loaded: LoadedModel, encoder: Encoder, frozen: int, settings: FinetuneSettings) -> None:
    """Put LoRA on the query and value projections of the layers that may change."""
    classifier = loaded.classifier
    saved = None
    if isinstance(classifier, OwnHeadClassifier):
        saved = _head_modules(classifier.model, encoder) + (["pooler"] if loaded.new_pooler else [])
    config = LoraConfig(
        task_type="FEATURE_EXTRACTION" if saved is None else "SEQ_CLS",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,  # pyright: ignore[reportArgumentType]
        lora_dropout=settings.dropout or 0.0,
        target_modules=list(encoder.attention),
        layers_to_transform=list(range(frozen, encoder.depth)),
        layers_pattern="layer",
        modules_to_save=saved,
    )
    classifier.model = get_peft_model(plain_model(classifier.model), config)


def _head_modules(model: Any, encoder: Encoder) -> list[str]:
    """Return the names of the modules beside the encoder that have parameters."""
    children = [(name, child) for name, child in model.named_children() if child is not encoder.base]
    return [name for name, child in children if any(True for _ in child.parameters())]
