"""Texts as tokens, and batches of them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.finetune.data import Examples

Batch = dict[str, Tensor]  # keyword arguments of a classifier


class Inputs(Protocol):
    """What a classifier is fed with: any rows of a split as one batch."""

    lengths: Tensor
    labels: Tensor

    def batch(self, rows: Tensor, device: torch.device) -> Batch:
        """Return the classifier's keyword arguments for `rows`, which are not none."""
        ...


class Packed:
    """One sequence for each example, packed end to end without padding."""

    def __init__(self, values: Tensor, lengths: Tensor) -> None:
        """Take `values`, whose first dimension is the sum of `lengths`."""
        self.values = values
        self.lengths = lengths
        self.starts = lengths.cumsum(0) - lengths

    def positions(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the entries of `rows` are, shape (rows, longest), and the mask of real ones."""
        place = torch.arange(int(self.lengths[rows].max()))
        mask = place < self.lengths[rows, None]
        return torch.where(mask, self.starts[rows, None] + place, 0), mask


class TokenRows:
    """The tokens of a split, ready to be batched with as little padding as the batch allows."""

    def __init__(self, ids: Packed, types: Tensor | None, labels: Tensor, padding: int, truncated: int) -> None:
        """Take packed token ids, their segment numbers (packed alike) if the model has any, and the classes."""
        self.ids = ids
        self.types = types
        self.labels = labels
        self.lengths = ids.lengths
        self.padding = padding
        self.truncated = truncated

    def batch(self, rows: Tensor, device: torch.device) -> Batch:
        """Return token ids, mask and segments of `rows`, padded to the longest of them."""
        index, mask = self.ids.positions(rows)
        batch = {"input_ids": self.ids.values[index].masked_fill(~mask, self.padding), "attention_mask": mask.long()}
        if self.types is not None:
            batch["token_type_ids"] = self.types[index] * mask
        return {name: tensor.to(device) for name, tensor in batch.items()}


def encode(tokenizer: Any, examples: Examples, max_tokens: int) -> TokenRows:
    """Return the tokens of every example.

    Args:
      tokenizer: of transformers, with a padding token.
      examples: texts or pairs; of a pair that is too long, the longer text is cut first.
      max_tokens: texts are cut off there.

    Raises:
      InvalidParameterError: the tokenizer has no padding token, or a text yields no token.
    """
    if tokenizer.pad_token_id is None:
        raise InvalidParameterError(
            "tokenizer has no padding token; set tokenizer.pad_token (to its end-of-text token, for instance)"
        )
    texts = [list(examples.texts)] + ([] if examples.pairs is None else [list(examples.pairs)])
    encoded = tokenizer(*texts, truncation=True, max_length=max_tokens)
    token_ids = encoded["input_ids"]
    lengths = torch.tensor([len(row) for row in token_ids])
    if int(lengths.min()) == 0:
        row = int(lengths.argmin())
        raise InvalidParameterError(f"data: the text {examples.texts[row]!r} yields no token; leave it out")
    types = None
    if "token_type_ids" in encoded:
        types = torch.tensor([number for row in encoded["token_type_ids"] for number in row])
    packed = Packed(torch.tensor([token for row in token_ids for token in row]), lengths)
    return TokenRows(
        packed, types, torch.tensor(examples.labels), tokenizer.pad_token_id, int((lengths == max_tokens).sum())
    )
