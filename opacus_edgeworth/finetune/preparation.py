"""What is done before training: the model loaded, its parameters chosen, the texts made into tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.finetune.data import TRAIN, TaskData
from opacus_edgeworth.finetune.encoding import Batch, Inputs, TokenRows, encode
from opacus_edgeworth.finetune.features import use_cache
from opacus_edgeworth.finetune.gradients import DEFAULT_PHYSICAL, Mode, choose_mode
from opacus_edgeworth.finetune.methods import choose_parameters, frozen_layers
from opacus_edgeworth.finetune.models import LoadedModel, load_model, token_limit
from opacus_edgeworth.finetune.settings import FinetuneSettings

MADE_UP_TOKENS = (7, 5, 6, 4)  # lengths of the made-up texts on which gradients are checked

HEAD_PHYSICAL = 1024  # one vector of each example is cheap


@dataclass(frozen=True, slots=True)
class Prepared:
    """The model and the tokens, ready for training.

    `physical_batch_size` is how many examples are held at once, if the settings leave it open.
    """

    loaded: LoadedModel
    tokens: dict[str, TokenRows]
    max_tokens: int
    frozen: int
    cached: bool
    mode: Mode
    physical_batch_size: int


def prepare(
    model: Any, tokenizer: Any, task: TaskData, settings: FinetuneSettings, device: torch.device, mixed: bool
) -> Prepared:
    """Load the model, choose what changes, read the texts into tokens."""
    loaded = load_model(model, tokenizer, task.label_names, settings)
    choose_parameters(loaded, settings)
    classifier = loaded.classifier.to(device)
    limit = token_limit(loaded, settings.max_tokens)
    splits = {TRAIN: task.train, **task.held_out}
    tokens = {name: encode(loaded.tokenizer, examples, limit) for name, examples in splits.items()}
    config: Any = classifier.encoder.base.config
    largest = max(int(rows.ids.values.max()) for rows in tokens.values())
    if largest >= config.vocab_size:
        raise InvalidParameterError(
            f"tokenizer gives the token {largest}, but the model has only {config.vocab_size}; give the model's own"
        )
    frozen = frozen_layers(classifier.encoder, settings)
    cached = use_cache(classifier, frozen, list(tokens.values()), settings)
    # known now: while the cache is in use the encoder has no layers
    physical = HEAD_PHYSICAL if cached and frozen == classifier.encoder.depth else DEFAULT_PHYSICAL
    return Prepared(loaded, tokens, limit, frozen, cached, choose_mode(classifier, settings, mixed), physical)


def made_up_batch(prepared: Prepared, inputs: Inputs, device: torch.device) -> Batch:
    """Return a few examples in the form of `inputs`, with values that owe nothing to them."""
    generator = torch.Generator().manual_seed(0)
    form = inputs.batch(torch.tensor([0]), torch.device("cpu"))
    count = len(MADE_UP_TOKENS)
    longest = max(MADE_UP_TOKENS) if form["attention_mask"].shape[1] > 1 else 1
    lengths = torch.tensor(MADE_UP_TOKENS).clamp(max=longest)
    mask = torch.arange(longest) < lengths[:, None]
    batch: Batch = {"attention_mask": mask.long()}
    if "input_ids" in form:
        rows = prepared.tokens[TRAIN]
        config: Any = prepared.loaded.classifier.encoder.base.config
        ids = torch.randint(0, config.vocab_size, mask.shape, generator=generator)
        ids = torch.where(ids == rows.padding, (ids + 1) % config.vocab_size, ids)
        batch["input_ids"] = ids.masked_fill(~mask, rows.padding)
        if "token_type_ids" in form:
            batch["token_type_ids"] = torch.zeros_like(ids)
    else:
        width = form["inputs_embeds"].shape[2]
        batch["inputs_embeds"] = torch.randn(count, longest, width, generator=generator) * mask[..., None]
        if "lower_means" in form:
            batch["lower_means"] = torch.randn(count, form["lower_means"].shape[1], generator=generator)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def preparation_notes(prepared: Prepared) -> list[str]:
    """Say what of the preparation a reader ought to know."""
    notes = []
    truncated = {name: rows.truncated for name, rows in prepared.tokens.items() if rows.truncated}
    if truncated:
        counts = ", ".join(f"{count} of {name}" for name, count in truncated.items())
        notes.append(f"texts of {prepared.max_tokens} tokens or more were cut off there: {counts}")
    if prepared.cached:
        notes.append(f"the outputs of the {prepared.frozen} frozen layers were computed once and kept")
    return notes
