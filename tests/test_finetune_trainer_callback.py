"""Accounting inside transformers' Trainer: the same numbers where they hold, a refusal where they do not."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

import opacus_edgeworth as ew
from opacus_edgeworth.checking.loaders import single_precision_rate
from opacus_edgeworth.finetune.trainer_callback import EdgeworthCallback


class Texts(Dataset):
    def __init__(self, count: int = 60) -> None:
        rows = tiny.texts(count)
        self.batch = tiny.tokenizer()([text for text, _ in rows], padding=True, return_tensors="pt")
        self.labels = torch.tensor([label for _, label in rows])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: tensor[row] for name, tensor in self.batch.items()} | {"labels": self.labels[row]}


def make(folder: Path, callback: EdgeworthCallback, *, poisson: bool = True, private: bool = True, **options: Any):
    data = Texts()
    model = tiny.model(layers=1, dropout=0.0).train()
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    optimizer: Any = torch.optim.SGD(model.classifier.parameters(), lr=0.1)
    loader: Any = DataLoader(data, batch_size=10, shuffle=True)
    trained: Any = model
    if private:
        trained, optimizer, loader = PrivacyEngine(accountant="edgeworth").make_private(
            module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.5, max_grad_norm=1.0,
            poisson_sampling=poisson,
        )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(folder), report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False, per_device_train_batch_size=10, dataloader_pin_memory=False,
        **{"num_train_epochs": 2} | options,
    )  # fmt: skip

    class OwnLoader(Trainer):
        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(loader)

    return OwnLoader(
        model=trained, args=arguments, train_dataset=data, optimizers=(optimizer, None), callbacks=[callback]
    )  # pyright: ignore[reportArgumentType]


def test_poisson_steps_are_counted(tmp_path: Path):
    callback = EdgeworthCallback(target_delta=1e-3)
    trainer = make(tmp_path, callback)
    trainer.train()
    rate = single_precision_rate(1.0 / 6.0)  # with which Opacus's sampler draws
    assert 1.0 / 6.0 < rate < 1.0 / 6.0 + 2.0**-24
    assert callback.accountant.history == [(1.5, rate, 12)]
    assert callback.epsilon.upper == ew.PrivacyCurve([(1.5, rate, 12)]).epsilon(1e-3).upper
    assert callback.adjacency == "one example added or removed"
    assert trainer.state.log_history[-1]["epsilon"] == callback.epsilon.upper


def test_training_stops_at_the_budget(tmp_path: Path):
    callback = EdgeworthCallback(target_delta=1e-3, target_epsilon=2.0)
    make(tmp_path, callback, num_train_epochs=20).train()
    ((_, rate, steps),) = callback.accountant.history
    assert 0 < steps < 120
    assert callback.epsilon.upper <= 2.0 < ew.PrivacyCurve([(1.5, rate, steps + 1)]).epsilon(1e-3).upper


def test_shuffled_batches_are_refused_or_not_amplified(tmp_path: Path):
    with pytest.raises(ew.InvalidParameterError, match=r"RandomSampler\), not Poisson.*without_amplification=True"):
        make(tmp_path, EdgeworthCallback(target_delta=1e-3), poisson=False).train()
    callback = EdgeworthCallback(target_delta=1e-3, without_amplification=True)
    make(tmp_path, callback, poisson=False).train()
    assert callback.accountant.history == [(1.5, 1.0, 2)]
    assert callback.adjacency == "one example replaced by an empty one"
    with pytest.raises(ew.InvalidParameterError, match="these are Poisson batches"):
        make(tmp_path, EdgeworthCallback(target_delta=1e-3, without_amplification=True)).train()


def test_epochs_stop_at_the_budget_too(tmp_path: Path):
    callback = EdgeworthCallback(target_delta=1e-3, target_epsilon=4.0, without_amplification=True)
    make(tmp_path, callback, poisson=False, num_train_epochs=20).train()
    ((_, _, epochs),) = callback.accountant.history
    assert callback.epsilon.upper <= 4.0 < ew.PrivacyCurve([(1.5, 1.0, epochs + 1)]).epsilon(1e-3).upper


def test_what_cannot_be_accounted_for_is_refused(tmp_path: Path):
    with pytest.raises(ew.InvalidParameterError, match="does not clip and add noise"):
        make(tmp_path, EdgeworthCallback(target_delta=1e-3), private=False).train()
    with pytest.raises(ew.InvalidParameterError, match="gradient_accumulation_steps=2 must be 1"):
        make(tmp_path, EdgeworthCallback(target_delta=1e-3), gradient_accumulation_steps=2).train()
    trainer = make(tmp_path, EdgeworthCallback(target_delta=1e-3))
    next(trainer.model.parameters()).requires_grad_(True)
    with pytest.raises(ew.InvalidParameterError, match="not in the optimizer; freeze it"):
        trainer.train()
    with pytest.raises(ew.InvalidParameterError, match="target_delta"):
        EdgeworthCallback(target_delta=0.0)
