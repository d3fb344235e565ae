"""Rated movie-review snippets, and a sentence encoder of which only the top layer is trained.

The encoder is cut in two. Everything below its top layer stays as it was published, so its outputs are computed once
and kept on disk; each training step then runs the top layer alone, with LoRA (low-rank updates of its query and value
projections), and a linear head on the mean token states of the last three layers. (The lower two are in it because
they helped on the validation set: with the top layer alone accuracy is about two points less.)
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

MIN_ABSOLUTE_RATING = 0.5  # nearer to 0 the raters did not agree on which side a snippet is
MAX_TOKENS = 64  # of 10,043 snippets 5 are longer (79 tokens at most)
SPLIT_SEED = 2014
TEST_SIZE = 2000
MEAN_LAYERS = 2  # layers below the top one whose mean token state the head sees
VALIDATION_SIZE = 875  # leaves 7,168 = 7 · 1,024 for training, so that a batch of 1,024 is exactly a seventh


class Snippet(NamedTuple):
    """A snippet of a movie review and the mean rating, -4 (worst) to 4 (best), that at least 20 people gave it."""

    rating: float
    text: str


class Split(NamedTuple):
    """Row numbers of the three parts; no row is in two of them."""

    train: Tensor
    validation: Tensor
    test: Tensor


def read_snippets(path: Path, min_absolute_rating: float = MIN_ABSOLUTE_RATING) -> list[Snippet]:
    """Return the snippets rated clearly enough, in the order of the file (which is sorted by class).

    Args:
      path: tab-separated UTF-8 file of id, mean rating, text, without a header.
      min_absolute_rating: keep snippets whose rating is further than this from 0.

    Raises:
      ValueError: a line does not have that form; the message names the line.
    """
    snippets = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                _, rating, text = line.rstrip("\n").split("\t")
                snippet = Snippet(float(rating), text)
            except ValueError:
                raise ValueError(f"{path}, line {number}: expected id, rating and text, tab-separated") from None
            if abs(snippet.rating) > min_absolute_rating:
                snippets.append(snippet)
    return snippets


def split_rows(
    count: int, *, test_size: int = TEST_SIZE, validation_size: int = VALIDATION_SIZE, seed: int = SPLIT_SEED
) -> Split:
    """Shuffle the rows 0 … count - 1 by `seed` and cut them into test, validation and, the rest, training rows."""
    if not 0 < test_size + validation_size < count:
        raise ValueError(f"{count} rows leave none to train on beside {test_size} + {validation_size} held out")
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    test, validation, train = rows.split([test_size, validation_size, count - test_size - validation_size])
    return Split(train, validation, test)


class TokenStates:
    """One vector for each token of each snippet, packed end to end without padding."""

    def __init__(self, states: Tensor, lengths: Tensor) -> None:
        """Take `states`, shape (sum of lengths, width), and the number of tokens of each snippet."""
        self.states = states
        self.lengths = lengths
        self.starts = lengths.cumsum(0) - lengths

    def positions(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the tokens of `rows` are in `states`, shape (rows, longest), and the mask of real tokens."""
        rows = rows.to(self.lengths.device)
        longest = int(self.lengths[rows].max()) if len(rows) else 1  # Poisson sampling may draw an empty batch
        position = torch.arange(longest, device=rows.device)
        mask = position < self.lengths[rows, None]
        return torch.where(mask, self.starts[rows, None] + position, 0), mask

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of `rows`, (rows, longest, width), zero-padded, and the mask of real tokens."""
        index, mask = self.positions(rows)
        return self.states[index].float() * mask[..., None], mask

    def by_length(self, rows: Tensor) -> Tensor:
        """Return `rows` ordered by length, so that neighbours need little padding."""
        rows = rows.to(self.lengths.device)
        return rows[self.lengths[rows].argsort(stable=True)]


class FrozenFeatures(NamedTuple):
    """What the frozen lower layers make of every snippet."""

    tokens: TokenStates  # the input of the top layer
    means: Tensor  # (snippets, MEAN_LAYERS · width): the mean token state of each of the layers below it

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the classifier's inputs for `rows`: padded token states, the mask of real tokens, and the means."""
        return *self.tokens.padded(rows), self.means[rows.to(self.means.device)]


def load_encoder(folder: Path) -> tuple[nn.Module, nn.Module]:
    """Return the encoder without its top layer, and that layer; both frozen, without dropout, from local files."""
    transformers_logging.disable_progress_bar()
    encoder = AutoModel.from_pretrained(
        folder, local_files_only=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    encoder.requires_grad_(False)
    layers = encoder.encoder.layer
    encoder.encoder.layer = layers[:-1]
    return encoder, layers[-1]


def compute_features(
    encoder: nn.Module, folder: Path, texts: Sequence[str], device: torch.device, batch_size: int = 64
) -> FrozenFeatures:
    """Run the frozen lower layers over every text, with the tokenizer in `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    token_ids = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    packed = TokenStates(
        torch.tensor([token for row in token_ids for token in row]), torch.tensor([len(row) for row in token_ids])
    )
    states: list[Tensor] = [torch.empty(0)] * len(texts)
    means: list[Tensor] = [torch.empty(0)] * len(texts)
    encoder = encoder.to(device).eval()
    with torch.inference_mode(), tqdm(total=len(texts), desc="frozen lower layers", unit=" snippets") as progress:
        for rows in packed.by_length(torch.arange(len(texts))).split(batch_size):
            index, mask = packed.positions(rows)
            input_ids, mask = (packed.states[index] * mask).to(device), mask.to(device)  # 0 is the padding token
            output = encoder(input_ids=input_ids, attention_mask=mask.long(), output_hidden_states=True)
            mean = torch.cat([mean_token(layer, mask) for layer in output.hidden_states[-MEAN_LAYERS:]], dim=1).cpu()
            for place, row in enumerate(rows.tolist()):
                states[row] = output.last_hidden_state[place, mask[place]].half().cpu()
                means[row] = mean[place]
            progress.update(len(rows))
    return FrozenFeatures(TokenStates(torch.cat(states), packed.lengths), torch.stack(means))


def cached_features(
    encoder: nn.Module, folder: Path, texts: Sequence[str], cache: Path, device: torch.device
) -> FrozenFeatures:
    """Return the lower layers' outputs from the file `cache`, computing and writing it first if need be."""
    if not cache.exists():
        tokens, means = compute_features(encoder, folder, texts, device)
        part = cache.with_suffix(".part")  # an interrupted run must not leave half a cache behind
        torch.save({"states": tokens.states, "lengths": tokens.lengths, "means": means}, part)
        os.replace(part, cache)
    stored = torch.load(cache, weights_only=True, map_location=device)
    if len(stored["lengths"]) != len(texts):
        raise ValueError(f"{cache} is of other data ({len(stored['lengths'])} snippets, not {len(texts)}): delete it")
    return FrozenFeatures(TokenStates(stored["states"], stored["lengths"]), stored["means"])


def mean_token(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real tokens of each snippet, shape (snippets, width)."""
    weight = mask[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class TopLayerClassifier(nn.Module):
    """The encoder's top layer with LoRA, and a linear head on mean token states; one logit per snippet."""

    def __init__(self, top_layer: nn.Module, width: int, rank: int = 8) -> None:
        """Put LoRA of the given rank on the layer's query and value projections; all else in it stays frozen."""
        super().__init__()
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["query", "value"])
        self.top_layer = inject_adapter_in_model(config, top_layer)
        self.head = nn.Linear((1 + MEAN_LAYERS) * width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, states: Tensor, mask: Tensor, means: Tensor) -> Tensor:
        """Return the logits, shape (snippets,), of a batch of FrozenFeatures."""
        attention_bias = torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask, torch.finfo(states.dtype).min)
        top = self.top_layer(states, attention_mask=attention_bias[:, None, None, :])
        return self.head(torch.cat([mean_token(top, mask), means], dim=1))[:, 0]


@torch.no_grad()
def accuracy(classifier: nn.Module, features: FrozenFeatures, rows: Tensor, positive: Tensor) -> float:
    """Return the share of `rows` whose class, `positive[row]`, is predicted rightly."""
    right = 0
    for batch in features.tokens.by_length(rows).split(256):
        predicted = classifier(*features.batch(batch)) > 0.0
        right += int((predicted == positive.to(predicted.device)[batch]).sum())
    return right / len(rows)
