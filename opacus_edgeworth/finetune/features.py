"""Outputs of frozen lower layers, computed once.

Where the lower layers neither change nor drop anything out, they give the same states for an example in every step.
They are kept in fp32, as the layers above would have seen them; what differs is rounding, because an example meets
other padding when its states are computed than in its batch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.finetune.architecture import layer_outputs, lower_part
from opacus_edgeworth.finetune.classifier import Classifier, mean_token
from opacus_edgeworth.finetune.encoding import Batch, Packed, TokenRows
from opacus_edgeworth.finetune.fingerprint import hash_of_tensors
from opacus_edgeworth.finetune.settings import FinetuneSettings

FORWARD_BATCH = 64
GIB = 2.0**30


class CachedRows:
    """The inputs of the first layer that changes, for every example of a split."""

    def __init__(self, states: Packed, means: Tensor | None, rows: TokenRows) -> None:
        """Take packed states of `rows` and, for a head on mean token states, those of lower layers, side by side."""
        self.states = states
        self.means = means
        self.labels = rows.labels
        self.lengths = rows.lengths  # of the texts, by which batches are put in order, whatever is kept of them

    def batch(self, rows: Tensor, device: torch.device) -> Batch:
        """Return states, mask and means of `rows`, padded to the longest of them."""
        index, mask = self.states.positions(rows)
        batch = {"inputs_embeds": self.states.values[index] * mask[..., None], "attention_mask": mask.long()}
        if self.means is not None:
            batch["lower_means"] = self.means[rows]
        return {name: tensor.to(device) for name, tensor in batch.items()}


def use_cache(classifier: Classifier, frozen: int, splits: Sequence[TokenRows], settings: FinetuneSettings) -> bool:
    """Return whether the frozen layers' outputs are to be kept.

    Args:
      classifier: with its parameters chosen.
      frozen: number of frozen layers; 0 and less means that there is nothing worth keeping.
      splits: all that they would be kept for.
      settings: of the run; "auto" asks for exactness and for room.

    Raises:
      InvalidParameterError: feature_cache="on" where keeping them would not give the same result.
    """
    if settings.feature_cache == "off":
        return False
    why_not = None
    if frozen < 1:
        why_not = "no encoder layer is frozen; choose top_layers or method='head'"
    elif any(isinstance(module, nn.Dropout) and module.p > 0.0 for module in classifier.encoder.base.modules()):
        why_not = "the frozen layers have dropout; set dropout=0"
    if why_not is not None:
        if settings.feature_cache == "on":
            raise InvalidParameterError(f'feature_cache="on" is not exact here: {why_not}, or leave feature_cache out')
        return False
    return settings.feature_cache == "on" or cache_gib(classifier, frozen, splits) <= settings.feature_cache_gib


def cache_gib(classifier: Classifier, frozen: int, splits: Sequence[TokenRows]) -> float:
    """Return the memory that the outputs would take, in GiB."""
    single = frozen == classifier.encoder.depth
    vectors = sum(len(split.lengths) if single else int(split.lengths.sum()) for split in splits)
    means = sum(len(split.lengths) for split in splits) * _extra_means(classifier, frozen)
    return 4.0 * classifier.encoder.base.config.hidden_size * (vectors + means) / GIB


def cached_rows(
    classifier: Classifier, frozen: int, rows: TokenRows, name: str, device: torch.device, settings: FinetuneSettings
) -> CachedRows:
    """Return the frozen layers' outputs for a split, from `settings.cache_dir` if they are there.

    The file's name is a hash of everything that they follow from, so no other run's can be taken for them.
    """
    if settings.cache_dir is None:
        return compute_rows(classifier, frozen, rows, name, device, settings.progress)
    folder = Path(settings.cache_dir)
    path = folder / f"features-{_key(classifier, frozen, rows)}.pt"
    if path.exists():
        stored = torch.load(path, weights_only=True)
        return CachedRows(Packed(stored["states"], stored["lengths"]), stored["means"], rows)
    made = compute_rows(classifier, frozen, rows, name, device, settings.progress)
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")  # an interrupted run must not leave half a file behind
    torch.save({"states": made.states.values, "lengths": made.states.lengths, "means": made.means}, part)
    os.replace(part, path)
    return made


@torch.no_grad()
def compute_rows(
    classifier: Classifier, frozen: int, rows: TokenRows, name: str, device: torch.device, progress: bool
) -> CachedRows:
    """Run the frozen layers over every example of a split.

    Where all layers are frozen, one vector is left of each example: its mean token state, or its first token's state,
    which is all that the models' own heads look at.
    """
    encoder = classifier.encoder
    single = frozen == encoder.depth
    extra = _extra_means(classifier, frozen)
    states: list[Tensor] = [torch.empty(0)] * len(rows.lengths)
    means: list[Tensor] = [torch.empty(0)] * len(rows.lengths)
    classifier.eval()
    order = rows.lengths.argsort(stable=True)  # neighbours of one length need little padding
    with (
        lower_part(encoder, frozen),
        tqdm(total=len(order), desc=f"frozen layers, {name}", unit=" texts", disable=not progress) as bar,
    ):
        for chosen in order.split(FORWARD_BATCH):
            batch = rows.batch(chosen, device)
            mask = batch["attention_mask"]
            outputs = layer_outputs(encoder, batch)
            top = outputs[-1]
            if single:
                top = top[:, :1] if classifier.pooled_layers == 0 else mean_token(top, mask)[:, None]
            lower = [mean_token(output, mask) for output in outputs[-1 - extra : -1]] if extra else []
            side = torch.cat(lower, dim=1).cpu() if extra else None
            kept = mask.bool()[:, : top.shape[1]].cpu()
            top = top.cpu()
            for place, row in enumerate(chosen.tolist()):
                states[row] = top[place, kept[place]].clone()
                if side is not None:
                    means[row] = side[place]
            bar.update(len(chosen))
    lengths = torch.ones_like(rows.lengths) if single else rows.lengths
    return CachedRows(Packed(torch.cat(states), lengths), torch.stack(means) if extra else None, rows)


def _extra_means(classifier: Classifier, frozen: int) -> int:
    """Return how many of the layers that the head sees lie below the kept states."""
    return max(0, classifier.pooled_layers - (classifier.encoder.depth - frozen + 1))


def _key(classifier: Classifier, frozen: int, rows: TokenRows) -> str:
    """Return a hash of the frozen weights, the tokens, and what is kept of them."""
    digest = hashlib.sha256(repr((frozen, classifier.encoder.depth, classifier.pooled_layers)).encode())
    encoder = classifier.encoder
    digest.update(hash_of_tensors(encoder.base.embeddings.state_dict()).encode())
    for layer in encoder.layers[:frozen]:
        digest.update(hash_of_tensors(layer.state_dict()).encode())
    for tensor in (rows.ids.values, rows.lengths, *(() if rows.types is None else (rows.types,))):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:32]
