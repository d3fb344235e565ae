"""Fine-tune a language model under a privacy budget: the whole way, from texts to the privacy statement."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.finetune.architecture import upper_part
from opacus_edgeworth.finetune.budget import Plan, make_plan
from opacus_edgeworth.finetune.data import TRAIN, TaskData
from opacus_edgeworth.finetune.devices import choose_device
from opacus_edgeworth.finetune.encoding import Inputs
from opacus_edgeworth.finetune.evaluation import metrics, predict
from opacus_edgeworth.finetune.features import cached_rows
from opacus_edgeworth.finetune.fingerprint import hash_of_frozen
from opacus_edgeworth.finetune.folder import RunFolder, require_free
from opacus_edgeworth.finetune.gradients import check_gradients, trainable
from opacus_edgeworth.finetune.loop import History, Training, autocast, train
from opacus_edgeworth.finetune.preparation import Prepared, made_up_batch, preparation_notes, prepare
from opacus_edgeworth.finetune.quiet import quiet
from opacus_edgeworth.finetune.randomness import Randomness, make_randomness, require_secure_source
from opacus_edgeworth.finetune.result import (
    METRICS,
    FinetuneResult,
    TextClassifier,
    save_model,
    write_json,
    write_statement,
)
from opacus_edgeworth.finetune.settings import FinetuneSettings, Method, make_settings
from opacus_edgeworth.finetune.sources import load_data
from opacus_edgeworth.finetune.statement import make_statement


def finetune(
    model: Any,
    data: Any,
    *,
    target_epsilon: float | None = None,
    target_delta: float | None = None,
    epochs: int = 10,
    batch_size: int = 1024,
    max_grad_norm: float = 0.5,
    method: Method = "head",
    tokenizer: Any = None,
    output: str | Path | None = None,
    resume: bool = False,
    **settings: Any,
) -> FinetuneResult:
    """Fine-tune a sequence-classification model by DP-SGD, and prove how private it is.

    Args:
      model: a folder, a hub name, or a loaded transformers model (which is copied, not changed) of the BERT, RoBERTa,
        MiniLM or DistilBERT family.
      data: whatever `load_data` takes, or what it returned: the rows of its "train" split are what epsilon covers.
      target_epsilon: the budget; the least noise that is proved to meet it is used.
      target_delta: below one over the number of training examples; None: the largest power of ten below that.
      epochs: passes over the data.
      batch_size: expected size of a batch; memory does not depend on it.
      max_grad_norm: clipping norm of one example's gradient.
      method: "full", "lora", "bitfit" or "head".
      tokenizer: of the model, or its folder or name; None: beside the model.
      output: folder for the model, the privacy statement, the log and, while it runs, checkpoints; None: none of it.
      resume: go on from the checkpoint in `output`, if there is one, as if the run had not stopped.
      **settings: all further fields of FinetuneSettings.

    Returns:
      The tuned model with its proved epsilon.

    Raises:
      InvalidParameterError: bad settings or data, or a model that does not suit; raised before any training.
      CalibrationError: no noise meets the budget.
      CheckpointError: the checkpoint to resume from is damaged or of another run.
      MissingExtraError: secure_mode without the package that it needs.
    """
    chosen = make_settings(
        target_epsilon=target_epsilon, target_delta=target_delta, epochs=epochs, batch_size=batch_size,
        max_grad_norm=max_grad_norm, method=method, **settings,
    )  # fmt: skip
    started = time.perf_counter()
    folder = RunFolder(None if output is None else Path(output))
    if folder.path is not None:
        require_free(folder.path, resume)
    task = load_data(data)
    plan = make_plan(len(task.train), chosen)
    device, mixed = choose_device(chosen)
    if chosen.secure_mode:
        require_secure_source()
    randomness = make_randomness(chosen.seed, device)
    with _own_random_numbers(device), quiet():
        torch.manual_seed(randomness.torch_seed)
        prepared = prepare(model, tokenizer, task, chosen, device, mixed)
        run = _Run(task, plan, chosen, device, mixed, randomness, folder, prepared)
        begun = time.perf_counter()
        history, scores, ended = _train_and_judge(run, resume)
        prepared.loaded.classifier.eval()
    return _finish(run, history, scores, {"preparation": begun - started} | ended)


@dataclass(frozen=True, slots=True)
class _Run:
    """Everything that a run has been given."""

    task: TaskData
    plan: Plan
    settings: FinetuneSettings
    device: torch.device
    mixed_precision: bool
    randomness: Randomness
    folder: RunFolder
    prepared: Prepared


def _train_and_judge(run: _Run, resume: bool) -> tuple[History, dict[str, dict[str, float]], dict[str, float]]:
    """Train the model; return what the accountant saw, the metrics of held-out splits, and the time taken."""
    prepared, settings = run.prepared, run.settings
    classifier = prepared.loaded.classifier
    parameters = trainable(classifier)
    identity = _identity(run)
    checkpoint = run.folder.open(resume, identity)
    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    inputs: dict[str, Inputs] = dict(prepared.tokens)
    with ExitStack() as stack:
        if prepared.cached:
            for name, rows in prepared.tokens.items():
                inputs[name] = cached_rows(classifier, prepared.frozen, rows, name, run.device, settings)
            seconds["frozen layers"] = time.perf_counter() - clock
            stack.enter_context(upper_part(classifier.encoder, prepared.frozen))
        check_gradients(
            classifier, made_up_batch(prepared, inputs[TRAIN], run.device), len(run.task.label_names), prepared.mode
        )
        clock = time.perf_counter()
        history = train(
            Training(
                classifier=classifier,
                parameters=parameters,
                head=frozenset(set(classifier.head_parameters()) & set(parameters)),
                inputs=inputs[TRAIN],
                plan=run.plan,
                settings=settings,
                mode=prepared.mode,
                physical_batch_size=settings.physical_batch_size or prepared.physical_batch_size,
                device=run.device,
                mixed_precision=run.mixed_precision,
                randomness=run.randomness,
                identity=identity,
                on_step=run.folder.add,
                on_checkpoint=None if run.folder.path is None else run.folder.save,
            ),
            checkpoint,
        )
        seconds["private training"] = time.perf_counter() - clock
        clock = time.perf_counter()
        with autocast(run.device, run.mixed_precision):
            scores = {
                name: metrics(predict(classifier, inputs[name], run.device), rows.labels, run.task.label_names)
                for name, rows in prepared.tokens.items()
                if name != TRAIN
            }
        seconds["evaluation"] = time.perf_counter() - clock
    return history, scores, seconds


def _identity(run: _Run) -> dict[str, Any]:
    """Return what a checkpoint must agree with to be of this run."""
    fixed = {
        "the training data": run.task.train.fingerprint(),
        "the frozen weights": hash_of_frozen(run.prepared.loaded.classifier),
        "the noise multiplier": run.plan.noise_multiplier,
        "the number of steps": run.plan.steps,
        "the frozen-feature cache": run.prepared.cached,
    }
    return run.settings.compared() | fixed


def _finish(
    run: _Run, history: History, scores: dict[str, dict[str, float]], seconds: dict[str, float]
) -> FinetuneResult:
    """Draw up the statement, and write everything down."""
    prepared, plan, settings = run.prepared, run.plan, run.settings
    classifier = prepared.loaded.classifier
    epsilon = PrivacyCurve(history).epsilon(plan.delta)
    notes = (*run.task.notes, *plan.notes, *preparation_notes(prepared))
    trained = {name: value.numel() for name, value in trainable(classifier).items()}
    statement = make_statement(plan, settings, history, epsilon, trained, prepared.mode, plan.notes)
    path = run.folder.path
    if path is not None:
        description = {
            "base": prepared.loaded.source, "method": settings.method, "pooling": settings.pooling,
            "pooling_layers": classifier.pooled_layers, "max_tokens": prepared.max_tokens,
            "label_names": list(run.task.label_names), "settings": settings.as_dict(),
        }  # fmt: skip
        with quiet():
            save_model(classifier, prepared.loaded.tokenizer, path, description)
        write_json(path / METRICS, {"metrics": scores, "seconds": seconds, "notes": notes})
        write_statement(path, statement)
        run.folder.close()
    return FinetuneResult(
        epsilon=epsilon,
        delta=plan.delta,
        history=tuple(history),
        noise_multiplier=plan.noise_multiplier,
        sample_rate=plan.sample_rate,
        steps=sum(steps for _, _, steps in history),
        metrics=scores,
        log=tuple(run.folder.records),
        notes=notes,
        statement=statement,
        seconds=seconds,
        settings=settings,
        classifier=TextClassifier(classifier, prepared.loaded.tokenizer, run.task.label_names, prepared.max_tokens),
        folder=path,
    )


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave the caller's random numbers as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
