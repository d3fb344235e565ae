"""From a path, a name or a loaded model to a classifier and its tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.finetune.architecture import OFFSET_POSITIONS, find_encoder
from opacus_edgeworth.finetune.classifier import Classifier, MeanPoolingClassifier, OwnHeadClassifier
from opacus_edgeworth.finetune.settings import FinetuneSettings

DEFAULT_POOLED = 6  # layers that a head on mean token states sees, if the model has so many
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A classifier, its tokenizer, where it came from, and what of it was not in the checkpoint."""

    classifier: Classifier
    tokenizer: Any
    source: str | None
    new_pooler: bool
    new_head: bool


def load_model(model: Any, tokenizer: Any, label_names: Sequence[str], settings: FinetuneSettings) -> LoadedModel:
    """Return the model as a classifier of as many classes as there are `label_names`.

    Args:
      model: a folder, a hub name, or a loaded transformers model: for pooling="model" one with a classification head.
      tokenizer: the tokenizer, or its folder or name; None takes it from where the model is.
      label_names: become the model's id2label.
      settings: of the run.

    Raises:
      InvalidParameterError: nothing can be loaded from there, or the model does not suit private training.
    """
    source = str(model) if isinstance(model, (str, Path)) else None
    missing: set[str] = set()
    if source is not None:
        model, missing = _from_pretrained(source, label_names, settings)
    elif not isinstance(model, PreTrainedModel):
        raise InvalidParameterError(
            f"model={type(model).__name__} is neither a folder, a hub name nor a loaded transformers model; give one"
        )
    else:
        model = copy.deepcopy(model)  # the caller's stays as it is
    _refuse_batch_norm(model)
    encoder = find_encoder(model)
    if settings.top_layers is not None and settings.top_layers > encoder.depth:
        raise InvalidParameterError(
            f"top_layers={settings.top_layers} is more than the model's {encoder.depth} layers; leave it out for all"
        )
    _set_dropout(model, settings.dropout)
    prefix = model.base_model_prefix
    if settings.pooling == "mean":
        layers = settings.pooling_layers or min(DEFAULT_POOLED, encoder.depth)
        if layers > encoder.depth:
            raise InvalidParameterError(
                f"pooling_layers={layers} is more than the model's {encoder.depth} layers; give less"
            )
        if encoder.base is not model:  # leave the given model's own head behind
            model = encoder.base
        classifier: Classifier = MeanPoolingClassifier(model, len(label_names), layers)
    else:
        _set_labels(model, label_names)
        classifier = OwnHeadClassifier(model)
    classifier.requires_grad_(False)
    new_head = any(not name.startswith(f"{prefix}.") for name in missing)
    return LoadedModel(
        classifier,
        load_tokenizer(tokenizer, source),
        source,
        any(".pooler." in f".{name}" for name in missing),
        new_head or settings.pooling == "mean",
    )


def token_limit(loaded: LoadedModel, wanted: int | None) -> int:
    """Return where texts are cut off: where the model or its tokenizer ends, or earlier if that is wanted.

    Raises:
      InvalidParameterError: more is wanted than the model can take.
    """
    config: Any = loaded.classifier.encoder.base.config
    positions = config.max_position_embeddings
    if config.model_type in OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    limit = min(positions, loaded.tokenizer.model_max_length)
    if wanted is not None and wanted > positions:
        raise InvalidParameterError(f"max_tokens={wanted} is more than the model's {positions} positions; lower it")
    return min(limit, wanted or limit)


def load_tokenizer(tokenizer: Any, source: str | None) -> Any:
    """Return a tokenizer: the given one, or the one at the given place, or the one beside the model."""
    if tokenizer is not None and not isinstance(tokenizer, (str, Path)):
        return tokenizer
    place = source if tokenizer is None else str(tokenizer)
    if place is None:
        raise InvalidParameterError("tokenizer is missing; a loaded model does not bring one, so give tokenizer=")
    try:
        return AutoTokenizer.from_pretrained(place, local_files_only=Path(place).exists())
    except (OSError, ValueError) as error:
        raise InvalidParameterError(f"tokenizer={place!r} cannot be loaded: {error}") from error


def _from_pretrained(
    source: str, label_names: Sequence[str], settings: FinetuneSettings
) -> tuple[PreTrainedModel, set[str]]:
    """Return the model at a folder or name, and the names of parameters that were not there."""
    loader = AutoModel if settings.pooling == "mean" else AutoModelForSequenceClassification
    options: dict[str, Any] = {"output_loading_info": True, "local_files_only": Path(source).exists()}
    if settings.pooling == "model":
        options |= {"num_labels": len(label_names), "ignore_mismatched_sizes": True}
    try:
        model, info = loader.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise InvalidParameterError(
            f"model={source!r} cannot be loaded: {error}; give a folder with config.json and weights, or a hub name"
        ) from error
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in info.get("mismatched_keys", ())}
    return model.float(), set(info["missing_keys"]) | mismatched


def _set_labels(model: PreTrainedModel, label_names: Sequence[str]) -> None:
    """Name the classes in the model's configuration, refusing a head of another size."""
    if not hasattr(model.config, "num_labels") or not hasattr(model, "num_labels"):
        raise InvalidParameterError(
            f"model={type(model).__name__} has no classification head; give a sequence-classification model, or"
            ' pooling="mean"'
        )
    if model.config.num_labels != len(label_names):
        raise InvalidParameterError(
            f"model has {model.config.num_labels} classes and the data {len(label_names)} ({', '.join(label_names)});"
            " load the model with num_labels= the number of classes"
        )
    model.config.id2label = dict(enumerate(label_names))
    model.config.label2id = {name: number for number, name in enumerate(label_names)}
    model.config.problem_type = "single_label_classification"


def _refuse_batch_norm(model: nn.Module) -> None:
    """Refuse layers that mix the examples of a batch."""
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS):
            raise InvalidParameterError(
                f"model has a BatchNorm layer ({name}), through which examples of a batch influence each other, so that"
                " clipping one example's gradient does not bound its influence; replace it by GroupNorm or LayerNorm"
            )


def _set_dropout(model: Any, probability: float | None) -> None:
    """Set the probability of every dropout, if one is given."""
    if probability is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif hasattr(module, "dropout_prob"):  # attention in older versions of transformers
            module.dropout_prob = probability
