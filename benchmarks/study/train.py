"""One run of the study, in whatever process it is given to."""

from __future__ import annotations

import math
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from opacus_edgeworth.finetune import TaskData, finetune
from opacus_edgeworth.finetune.architecture import upper_part
from opacus_edgeworth.finetune.budget import calibrated_noise
from opacus_edgeworth.finetune.evaluation import metrics, predict
from opacus_edgeworth.finetune.features import cached_rows
from opacus_edgeworth.finetune.gradients import trainable
from opacus_edgeworth.finetune.preparation import prepare
from opacus_edgeworth.finetune.quiet import quiet
from opacus_edgeworth.finetune.settings import make_settings
from study.plan import DELTA, MAX_TOKENS, Run
from study.tasks import load_task

PAIR_TOKENS = 96


def train(run: Run, folder: Path) -> dict[str, Any]:
    """Return what came of a run: its noise, its proved epsilon, and the accuracy on validation and test examples."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Optimal order is the")  # RDP's own matter
    started = time.perf_counter()
    settings: dict[str, Any] = dict(run.settings)
    task = load_task(run.task, folder)
    settings["batch_size"] = min(settings["batch_size"], len(task.train))
    settings |= {"max_tokens": PAIR_TOKENS if task.has_pairs else MAX_TOKENS, "cache_dir": folder / "features"}
    if run.epsilon is None:
        result = _without_privacy(run.seed, task, folder, settings)
    else:
        batches = math.ceil(len(task.train) / settings["batch_size"])
        tuned = finetune(
            folder / "model",
            task,
            noise_multiplier=_noise(run.accountant, run.epsilon, batches, settings["epochs"]),
            target_delta=DELTA,
            seed=run.seed,
            progress=False,
            **settings,
        )
        result = {
            "noise_multiplier": tuned.noise_multiplier,
            "sample_rate": tuned.sample_rate,
            "steps": tuned.steps,
            "epsilon_lower": tuned.epsilon.lower,
            "epsilon_upper": tuned.epsilon.upper,
        } | {name: values["accuracy"] for name, values in tuned.metrics.items()}
    return result | {"seconds": round(time.perf_counter() - started, 2)}


@cache
def _noise(accountant: Any, epsilon: float, batches: int, epochs: int) -> float:
    """Return the noise multiplier that an accountant asks for: the same for every seed, and PRV takes its time."""
    settings = make_settings(target_epsilon=epsilon, accountant=accountant)
    return calibrated_noise(settings, DELTA, 1.0 / batches, epochs * batches)


def _without_privacy(seed: int, task: TaskData, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the same head by the same optimizer with neither clipping nor noise, on shuffled batches."""
    chosen = make_settings(noise_multiplier=1.0, seed=seed, progress=False, **settings)  # the noise is not used
    device = torch.device("cpu")
    with quiet():
        torch.manual_seed(seed)
        prepared = prepare(folder / "model", None, task, chosen, device, False)
        classifier = prepared.loaded.classifier
        inputs = {
            name: cached_rows(classifier, prepared.frozen, rows, name, device, chosen)
            for name, rows in prepared.tokens.items()
        }
        with upper_part(classifier.encoder, prepared.frozen):
            train_inputs = inputs["train"]
            optimizer = torch.optim.AdamW(
                trainable(classifier).values(), lr=chosen.head_learning_rate or chosen.learning_rate, weight_decay=0.0
            )
            classifier.train()
            for _ in range(chosen.epochs):
                for rows in torch.randperm(len(train_inputs.labels)).split(chosen.batch_size):
                    optimizer.zero_grad()
                    logits = classifier(**train_inputs.batch(rows, device))
                    nn.functional.cross_entropy(logits, train_inputs.labels[rows]).backward()
                    optimizer.step()
            return {
                name: metrics(predict(classifier, inputs[name], device), rows.labels, task.label_names)["accuracy"]
                for name, rows in prepared.tokens.items()
                if name != "train"
            }
