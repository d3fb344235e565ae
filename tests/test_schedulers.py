"""Opacus's schedulers with the accountant: the history is the noise that was really added, step by step."""

import math

import pytest
import torch
from opacus import PrivacyEngine
from opacus.optimizers import optimizer as dp_optimizer
from opacus.schedulers import (
    ExponentialGradClip,
    ExponentialNoise,
    LambdaGradClip,
    LambdaNoise,
    StepGradClip,
    StepNoise,
)
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import opacus_edgeworth as ew

DELTA = 1e-5
NOISE = {
    "exponential": lambda optimizer: ExponentialNoise(optimizer, gamma=0.9),
    "step": lambda optimizer: StepNoise(optimizer, step_size=3, gamma=0.7),
    "lambda": lambda optimizer: LambdaNoise(optimizer, noise_lambda=lambda step: 1.0 / (1.0 + 0.2 * step)),
}
CLIPPING = {
    "exponential": lambda optimizer: ExponentialGradClip(optimizer, gamma=0.8),
    "step": lambda optimizer: StepGradClip(optimizer, step_size=2, gamma=0.5),
    "lambda": lambda optimizer: LambdaGradClip(optimizer, scheduler_function=lambda step: 2.0 + step),
}


class Added:
    """The standard deviations of all noise that Opacus draws, over the clipping norm that was used: one per step."""

    def __init__(self, monkeypatch, parameters: int) -> None:
        self.stds: list[float] = []
        self.norms: list[float] = []
        self.parameters = parameters
        draw, clip = dp_optimizer._generate_noise, dp_optimizer.DPOptimizer.clip_and_accumulate

        def drawing(std, reference, **options):
            self.stds.append(std)
            return draw(std=std, reference=reference, **options)

        def clipping(optimizer):
            self.norms.append(optimizer.max_grad_norm)
            return clip(optimizer)

        monkeypatch.setattr(dp_optimizer, "_generate_noise", drawing)
        monkeypatch.setattr(dp_optimizer.DPOptimizer, "clip_and_accumulate", clipping)

    def multipliers(self, norms: list[float]) -> list[float]:
        """Return the noise over the norm of every step; its parameters' noise is alike."""
        stds = self.stds[:: self.parameters]
        assert self.stds == [std for std in stds for _ in range(self.parameters)]
        return [std / norm for std, norm in zip(stds, norms, strict=True)]


def private_training(size: int = 128, batch: int = 16):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(size, 4, generator=generator), torch.randint(0, 2, (size,), generator=generator))
    model = nn.Linear(4, 2)
    engine = PrivacyEngine(accountant="edgeworth")
    model, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(data, batch_size=batch),
        noise_multiplier=2.0,
        max_grad_norm=1.0,
    )
    return engine, model, optimizer, loader


def step_by_step(history) -> list[float]:
    return [noise for noise, _, steps in history for _ in range(steps)]


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("kind", NOISE)
def test_the_recorded_noise_is_the_noise_added(kind, when, monkeypatch):
    """Whether the scheduler steps after the optimizer, as it should, or before it."""
    engine, model, optimizer, loader = private_training()
    added, scheduler = Added(monkeypatch, 2), NOISE[kind](optimizer)
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if when == "before":
            scheduler.step()
        optimizer.step()
        if when == "after":
            scheduler.step()
        engine.get_epsilon(DELTA)
    recorded = step_by_step(engine.accountant.history)
    assert recorded == pytest.approx(added.multipliers(added.norms), rel=1e-15)
    assert len(recorded) == len(loader)
    assert len(set(recorded)) > 2
    truth = ew.PrivacyCurve(engine.accountant.history).epsilon(DELTA)
    assert truth.lower <= engine.get_epsilon(DELTA) <= truth.upper * (1.0 + 1e-7)


@pytest.mark.parametrize("kind", CLIPPING)
def test_schedules_of_the_clipping_norm_leave_the_noise_multiplier(kind, monkeypatch):
    """The noise is a multiple of the norm of its step, so the multiplier is all that counts."""
    engine, model, optimizer, loader = private_training()
    added, scheduler = Added(monkeypatch, 2), CLIPPING[kind](optimizer)
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
    assert len(set(added.norms)) > 2
    assert added.multipliers(added.norms) == pytest.approx([2.0] * len(loader), rel=1e-15)
    assert engine.accountant.history == [(2.0, 1 / 8, len(loader))]


def recorded_in_pieces(monkeypatch, at_every_piece):
    """Train in pieces, the scheduler being stepped at each, or when a batch is complete; return what was recorded.

    And the noise that was added, and how many batches there are.
    """
    engine, model, optimizer, loader = private_training(size=128, batch=32)
    added, scheduler = Added(monkeypatch, 2), NOISE["exponential"](optimizer)
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=5, optimizer=optimizer) as physical:
        for x, y in physical:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if at_every_piece or not optimizer._is_last_step_skipped:
                scheduler.step()
    return step_by_step(engine.accountant.history), added, len(loader)


def test_virtual_steps_count_with_the_noise_of_their_logical_step(monkeypatch):
    """With a memory manager, noise is added once per logical step; the scheduler is stepped when one is complete."""
    recorded, added, batches = recorded_in_pieces(monkeypatch, at_every_piece=False)
    assert len(added.norms) > batches  # so there were virtual steps
    assert recorded == pytest.approx(added.multipliers([1.0] * batches), rel=1e-15)
    assert len(set(recorded)) == batches


def test_a_scheduler_that_steps_at_virtual_steps_is_recorded_as_it_was(monkeypatch):
    """The noise then falls faster than meant, and the history says so."""
    recorded, added, batches = recorded_in_pieces(monkeypatch, at_every_piece=True)
    assert recorded == pytest.approx(added.multipliers([1.0] * batches), rel=1e-15)
    assert recorded[-1] < 2.0 * 0.9 ** (batches + 1)


def test_larger_batches_are_recorded_by_a_new_hook(monkeypatch):
    """Opacus has no schedule of batch sizes: a loader's rate goes to the accountant by the optimizer's hook."""
    engine, model, optimizer, loader = private_training()
    scheduler = NOISE["exponential"](optimizer)
    added = Added(monkeypatch, 2)
    for step, (x, y) in enumerate(loader):
        if step == 4:
            optimizer.attach_step_hook(engine.accountant.get_optimizer_hook_fn(sample_rate=0.25))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
    assert [rate for _, rate, _ in engine.accountant.history] == [1 / 8] * 4 + [0.25] * 4
    assert step_by_step(engine.accountant.history) == pytest.approx(added.multipliers(added.norms), rel=1e-15)
    assert math.isfinite(engine.get_epsilon(DELTA))
