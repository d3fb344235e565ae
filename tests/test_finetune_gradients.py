"""Whose gradient is whose: the check before training, empty batches, and what clipping really does."""

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

import opacus_edgeworth as ew
from opacus_edgeworth.finetune.budget import Plan
from opacus_edgeworth.finetune.classifier import OwnHeadClassifier
from opacus_edgeworth.finetune.encoding import Batch
from opacus_edgeworth.finetune.gradients import Mode, check_gradients, choose_mode
from opacus_edgeworth.finetune.loop import Training, train
from opacus_edgeworth.finetune.randomness import make_randomness
from opacus_edgeworth.finetune.settings import make_settings

CPU = torch.device("cpu")
SIGNS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


class Linear(nn.Module):
    """A linear classifier of two numbers, perhaps with something wrong in it."""

    def __init__(self, kind: str = "right") -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(2, 2, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, values: Tensor, attention_mask: Tensor) -> Tensor:
        if self.kind == "mixes examples":
            values = values - values.mean(dim=0)
        return self.layer(values)


class Values:
    """Inputs that are numbers already."""

    def __init__(self, count: int) -> None:
        self.values = SIGNS.repeat(count, 1)[:count] * 3.0
        self.labels = torch.arange(count) % 2
        self.lengths = torch.ones(count, dtype=torch.long)

    def batch(self, rows: Tensor, device: torch.device) -> Batch:
        return {"values": self.values[rows], "attention_mask": torch.ones(len(rows), 1)}


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_right_model_passes_unchanged(mode: Mode):
    model = Linear()
    check_gradients(model, Values(4).batch(torch.arange(4), CPU), 2, mode)
    assert not model.layer.weight.any()
    assert not hasattr(model.layer.weight, "grad_sample")
    assert model.layer.weight.grad is None


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_model_that_mixes_examples_is_refused(mode: Mode):
    with pytest.raises(ew.InvalidParameterError, match=r"wrong by .* mix examples"):
        check_gradients(Linear("mixes examples"), Values(4).batch(torch.arange(4), CPU), 2, mode)


def test_positions_shared_by_all_examples_are_refused():
    classifier = OwnHeadClassifier(tiny.model())
    classifier.requires_grad_(False)
    classifier.encoder.base.embeddings.position_embeddings.requires_grad_(True)
    batch = {"input_ids": torch.randint(5, 15, (3, 6)), "attention_mask": torch.ones(3, 6, dtype=torch.long)}
    with pytest.raises(ew.InvalidParameterError, match="model: "):
        check_gradients(classifier, batch, 2, "hooks")
    classifier.expand_positions = True
    check_gradients(classifier, batch, 2, "hooks")
    check_gradients(classifier, batch, 2, "ghost")


def test_mode_follows_from_the_size():
    model = nn.Linear(1000, 1000)
    for physical, expected in ((1, "hooks"), (1000, "ghost")):
        assert choose_mode(model, make_settings(target_epsilon=1.0, physical_batch_size=physical), False) == expected
    assert choose_mode(model, make_settings(target_epsilon=1.0, physical_batch_size=1000), True) == "hooks"


def steps(model: nn.Module, inputs: Values, mode: Mode, *, rate: float, noise: float, count: int, norm: float) -> Any:
    """Train, and return the history, with a log of the steps."""
    per_epoch = round(1.0 / rate)
    plan = Plan(len(inputs.labels), 1e-3, None, noise, 1.0 / per_epoch, per_epoch, count, ())
    settings = make_settings(
        noise_multiplier=noise, batch_size=-(-len(inputs.labels) // per_epoch), physical_batch_size=3,
        max_grad_norm=norm, learning_rate=0.1, progress=False,
    )  # fmt: skip
    log: list[Any] = []
    history = train(
        Training(
            classifier=model,
            parameters=dict(model.named_parameters()),
            head=frozenset(),
            inputs=inputs,
            plan=plan,
            settings=settings,
            mode=mode,
            physical_batch_size=settings.physical_batch_size or 64,
            device=CPU,
            mixed_precision=False,
            randomness=make_randomness(0, CPU),
            identity={},
            on_step=log.append,
            on_checkpoint=None,
        )
    )
    return history, log


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_empty_batches_are_steps_with_noise_alone(mode: Mode):
    model = Linear()
    history, log = steps(model, Values(20), mode, rate=1.0 / 20.0, noise=1.0, count=60, norm=1.0)
    assert history == [(1.0, 1.0 / 20.0, 60)]
    assert len(log) == 60
    assert any(record["loss"] == 0.0 for record in log)  # about a third of all batches
    assert torch.isfinite(model.layer.weight).all()
    assert model.layer.weight.any()


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_first_batch_may_be_empty(mode: Mode):
    for _ in range(3):  # a rate at which most batches are empty
        history, _ = steps(Linear(), Values(3), mode, rate=1.0 / 3.0, noise=1.0, count=2, norm=1.0)
        assert history == [(1.0, 1.0 / 3.0, 2)]


def test_every_example_is_drawn_on_its_own_at_the_stated_rate(monkeypatch: pytest.MonkeyPatch):
    seen: list[list[int]] = []
    inputs = Values(50)
    original = inputs.batch
    monkeypatch.setattr(inputs, "batch", lambda rows, device: seen.append(rows.tolist()) or original(rows, device))
    steps(Linear(), inputs, "hooks", rate=1.0 / 5.0, noise=1.0, count=150, norm=1.0)
    counts = torch.tensor([row for rows in seen for row in rows]).bincount(minlength=50).double()
    # 150 draws at rate 1/5: mean 30, standard deviation 4.9; the sum over 50 examples has standard deviation 34.6
    assert (counts - 30.0).abs().max() < 4.9 * 5.0
    assert abs(counts.sum() - 1500.0) < 34.6 * 5.0
    assert max(len(rows) for rows in seen) <= 3


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_one_example_moves_the_sum_by_at_most_the_norm(mode: Mode, monkeypatch: pytest.MonkeyPatch):
    """With rate 1 and next to no noise, the first gradient with and without an example differs by its clipped own."""
    norm = 0.25
    sums = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: sums.append(grad(self)))

    def grad(optimizer: Any) -> Tensor:
        return optimizer.param_groups[0]["params"][0].grad.clone()

    for count in (7, 8):
        steps(Linear(), Values(count), mode, rate=1.0, noise=1e-9, count=1, norm=norm)
        sums[-1] *= count  # Opacus divides by the expected batch size
    assert float((sums[1] - sums[0]).norm()) == pytest.approx(norm, rel=1e-5)
