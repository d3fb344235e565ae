"""Tiny models, tokenizers and texts for the tests of fine-tuning: random weights, nothing fetched."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

WORDS = ["good", "bad", "film", "the", "a", "movie", "is", "was", "not", "very", "great", "awful", "plot", "actor"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FAMILIES = ("bert", "roberta", "distilbert")
SIZE = len(SPECIAL) + len(WORDS)


def tokenizer(types: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words."""
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if types else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=32, model_input_names=inputs,
    )  # fmt: skip


def model(family: str = "bert", classes: int = 2, layers: int = 3, dropout: float = 0.1, vocabulary: int = SIZE) -> Any:
    """Return a sequence-classification model of a family, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "distilbert":
            return DistilBertForSequenceClassification(
                DistilBertConfig(
                    vocab_size=vocabulary, dim=32, n_layers=layers, n_heads=2, hidden_dim=64,
                    max_position_embeddings=40, pad_token_id=0, num_labels=classes, dropout=dropout,
                    attention_dropout=dropout,
                )
            )  # fmt: skip
        common = {
            "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2,
            "intermediate_size": 64, "max_position_embeddings": 40, "pad_token_id": 0, "num_labels": classes,
            "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "type_vocab_size": 2,
        }  # fmt: skip
        if family == "roberta":
            return RobertaForSequenceClassification(RobertaConfig(**common))
        return BertForSequenceClassification(BertConfig(**common))


def decoder() -> Any:
    """Return a model that is built otherwise."""
    return GPT2ForSequenceClassification(GPT2Config(vocab_size=SIZE, n_embd=32, n_layer=1, n_head=2, n_positions=40))


def saved_model(folder: Path, family: str = "bert", **options: Any) -> Path:
    """Write a model with its tokenizer, and return the folder."""
    model(family, **options).save_pretrained(folder)
    tokenizer(types=family != "distilbert").save_pretrained(folder)
    return folder


def texts(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Return texts with the word "good" (class 1) or "bad" (class 0)."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.randrange(2)
        words = [draw.choice(WORDS[2:]) for _ in range(draw.randint(2, 9))]
        words.insert(draw.randrange(len(words)), WORDS[1 - label])
        rows.append((" ".join(words), label))
    return rows


def pairs(count: int, seed: int = 0) -> list[tuple[str, str, int]]:
    """Return pairs of texts, of class 1 where both hold the same word."""
    rows = texts(2 * count, seed)
    return [(a, b, int(x == y)) for (a, x), (b, y) in zip(rows[:count], rows[count:], strict=True)]
