"""What a run leaves behind: the tuned model in a folder, its statement, and how to load it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.finetune.classifier import Classifier, MeanPoolingClassifier, OwnHeadClassifier
from opacus_edgeworth.finetune.data import Examples
from opacus_edgeworth.finetune.encoding import encode
from opacus_edgeworth.finetune.evaluation import predict
from opacus_edgeworth.finetune.quiet import quiet
from opacus_edgeworth.finetune.settings import FinetuneSettings
from opacus_edgeworth.finetune.statement import to_markdown

DESCRIPTION = "finetune.json"
STATEMENT, STATEMENT_TEXT = "privacy.json", "PRIVACY.md"
METRICS, LOG, CHECKPOINT = "metrics.json", "training_log.jsonl", "checkpoint.pt"
MODEL, ADAPTER, HEAD = "model", "adapter", "head.safetensors"


@dataclass(frozen=True, slots=True)
class TextClassifier:
    """A tuned model that takes texts."""

    classifier: Classifier
    tokenizer: Any
    label_names: tuple[str, ...]
    max_tokens: int

    def probabilities(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> torch.Tensor:
        """Return the probability of each class, shape (texts, classes).

        Args:
          texts: what to classify.
          pairs: second texts, where the model was tuned on pairs.

        Raises:
          InvalidParameterError: there are no texts, or not as many second ones.
        """
        if isinstance(texts, str) or not texts or (pairs is not None and len(pairs) != len(texts)):
            raise InvalidParameterError("texts must be a list of at least one, with as many pairs if there are any")
        examples = Examples(tuple(texts), None if pairs is None else tuple(pairs), (0,) * len(texts))
        device = next(self.classifier.parameters()).device
        return predict(self.classifier, encode(self.tokenizer, examples, self.max_tokens), device).softmax(dim=1)

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return the name of the likeliest class of each text."""
        return tuple(self.label_names[int(row)] for row in self.probabilities(texts, pairs).argmax(dim=1))


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What came of a run.

    `epsilon` are proved bounds at `delta` (give away its upper end), `history` is what the accountant saw, `metrics`
    are those of each held-out split, `log` the records of all steps (not private), `classifier` takes texts, `folder`
    is where all of it was written, or None.
    """

    epsilon: Bounds
    delta: float
    history: tuple[tuple[float, float, int], ...]
    noise_multiplier: float
    sample_rate: float
    steps: int
    metrics: Mapping[str, Mapping[str, float]]
    log: tuple[Mapping[str, float | int], ...]
    notes: tuple[str, ...]
    statement: Mapping[str, Any]
    seconds: Mapping[str, float]
    settings: FinetuneSettings
    classifier: TextClassifier
    folder: Path | None


def save_model(classifier: Classifier, tokenizer: Any, folder: Path, description: dict[str, Any]) -> None:
    """Write the tuned model: the adapter alone where the base can be found again, the whole model otherwise."""
    model = classifier.model
    if isinstance(model, PeftModel) and description["base"] is None:
        model = model.merge_and_unload()  # pyright: ignore[reportCallIssue]
    if isinstance(model, PeftModel):
        saved = ADAPTER
    elif isinstance(classifier, MeanPoolingClassifier) and description["method"] == "head" and description["base"]:
        saved = None  # the encoder is as it was
    else:
        saved = MODEL
    if saved is not None:
        model.save_pretrained(str(folder / saved))
    if isinstance(classifier, MeanPoolingClassifier):
        save_file({name: value.detach().cpu() for name, value in classifier.head.state_dict().items()}, folder / HEAD)
    tokenizer.save_pretrained(folder / (saved or "tokenizer"))
    write_json(folder / DESCRIPTION, description | {"saved": saved})


def load_classifier(folder: str | Path, *, base_model: str | None = None) -> TextClassifier:
    """Return the tuned model in a result folder.

    A whole model (`model/`) also loads with transformers' from_pretrained, and an adapter (`adapter/`) with peft's.

    Args:
      folder: the output of a run.
      base_model: where the model lies that was tuned, if it was moved since.

    Raises:
      InvalidParameterError: the folder is not the output of a run that ended.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise InvalidParameterError(f"folder={str(folder)!r} has no {DESCRIPTION}; give the output of a run that ended")
    description = json.loads(path.read_text())
    names, saved = tuple(description["label_names"]), description["saved"]
    base = str(folder / MODEL) if saved == MODEL else base_model or description["base"]
    mean = description["pooling"] == "mean"
    options: dict[str, Any] = {"local_files_only": Path(base).exists()}
    loader = AutoModel if mean else AutoModelForSequenceClassification
    if not mean:
        options |= {"num_labels": len(names), "ignore_mismatched_sizes": saved == ADAPTER}
    with quiet():
        model = loader.from_pretrained(base, **options)
        if saved == ADAPTER:
            model = PeftModel.from_pretrained(model, str(folder / ADAPTER))
    if mean:
        classifier: Classifier = MeanPoolingClassifier(model, len(names), description["pooling_layers"])
        classifier.head.load_state_dict(load_file(folder / HEAD))
    else:
        classifier = OwnHeadClassifier(model)
    tokenizer = AutoTokenizer.from_pretrained(str(folder / (saved or "tokenizer")), local_files_only=True)
    return TextClassifier(classifier.eval(), tokenizer, names, description["max_tokens"])


def write_statement(folder: Path, statement: Mapping[str, Any]) -> None:
    """Write the privacy statement, for programs and for people."""
    write_json(folder / STATEMENT, statement)
    (folder / STATEMENT_TEXT).write_text(to_markdown(dict(statement)), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
