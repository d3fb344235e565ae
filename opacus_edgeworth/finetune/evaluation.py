"""How good a classifier is on examples that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from opacus_edgeworth.finetune.encoding import Inputs

EVALUATION_BATCH = 128


@torch.no_grad()
def predict(classifier: nn.Module, inputs: Inputs, device: torch.device) -> Tensor:
    """Return the logits of every example, shape (examples, classes), in their order, on the CPU."""
    classifier.eval()
    order = inputs.lengths.argsort(stable=True)
    logits = [classifier(**inputs.batch(rows, device)).float().cpu() for rows in order.split(EVALUATION_BATCH)]
    return torch.cat(logits)[order.argsort()]


def metrics(logits: Tensor, labels: Tensor, label_names: Sequence[str]) -> dict[str, float]:
    """Return accuracy, macro F1, mean loss, and the accuracy of always guessing the most frequent class."""
    guessed = logits.argmax(dim=1)
    scores = []
    for number in range(len(label_names)):
        hits = int(((guessed == number) & (labels == number)).sum())
        named = int((guessed == number).sum() + (labels == number).sum())
        scores.append(2.0 * hits / named if named else 0.0)
    return {
        "accuracy": int((guessed == labels).sum()) / len(labels),
        "macro_f1": sum(scores) / len(scores),
        "loss": float(nn.functional.cross_entropy(logits, labels)),
        "majority_accuracy": int(labels.bincount().max()) / len(labels),
        "examples": len(labels),
    }
