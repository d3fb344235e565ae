"""What the study runs: every run is a line of results, found again by its key when the study goes on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from study.tasks import DOMAINS, PAIRS

DELTA = 1e-5
SEEDS = 5
ACCOUNTANTS = ("edgeworth", "prv", "rdp")
MAX_TOKENS = 64

RECIPE: dict[str, Any] = {
    "method": "head", "pooling": "mean", "pooling_layers": 6, "epochs": 10, "batch_size": 1024,
    "head_learning_rate": 0.05, "max_grad_norm": 0.5, "physical_batch_size": 2048,
}  # fmt: skip
"""The framework's default for a model of six layers, chosen on validation examples (the "recipe" section)."""
PLAIN: dict[str, Any] = {
    "method": "lora", "pooling": "model", "top_layers": 1, "epochs": 4, "batch_size": 1024, "learning_rate": 2e-3,
    "head_learning_rate": 0.05, "max_grad_norm": 0.5, "physical_batch_size": 64,
}  # fmt: skip
"""What one may try first: LoRA in the top layer below the model's own classification head, four epochs."""
BASELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("LoRA in the top layer, the model's own head, 4 epochs", PLAIN),
    "linear head, 4 epochs": ("a linear head on the last layer, 4 epochs", RECIPE | {"pooling_layers": 1, "epochs": 4}),
    "linear head": ("a linear head on the last layer, 10 epochs", RECIPE | {"pooling_layers": 1}),
}
"""Recipes that the chosen one is compared with on test examples, all with RDP's noise: label, description, settings."""
CANDIDATES: dict[str, dict[str, Any]] = {
    "all layers, 10 epochs": {},
    "last layer, 4 epochs": {"pooling_layers": 1, "epochs": 4},
    "last layer": {"pooling_layers": 1},
    "last three layers": {"pooling_layers": 3},
    "4 epochs": {"epochs": 4},
    "20 epochs": {"epochs": 20},
    "larger batch": {"batch_size": 1_000_000, "epochs": 60},
    "smaller batch": {"batch_size": 256},
    "clipping 0.1": {"max_grad_norm": 0.1},
    "clipping 2": {"max_grad_norm": 2.0},
    "learning rate 0.02": {"head_learning_rate": 0.02},
    "learning rate 0.1": {"head_learning_rate": 0.1},
    "linear decay": {"schedule": "linear"},
}
"""Recipes by what they change in RECIPE; a larger batch is all examples in every step."""
TIGHT: dict[str, tuple[float, dict[str, Any]]] = {
    "one epoch of seventh parts, ε = 1": (1.0, {"epochs": 1}),
    "one epoch of small batches, ε = 1": (1.0, {"epochs": 1, "batch_size": 64}),
    "one epoch of seventh parts, ε = 0.3": (0.3, {"epochs": 1}),
    "ten epochs, ε = 0.3": (0.3, {}),
}
"""Where RDP is loosest: few steps, small batches, small epsilon; on the movie reviews."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
      section: "swap", "tight", "recipe", "confirm" or "reference".
      label: what is compared within the section.
      task: name of the task.
      epsilon: target; None without privacy.
      accountant: that calibrates the noise.
      seed: of everything random but the split.
      settings: of `finetune`, as sorted pairs.
    """

    section: str
    label: str
    task: str
    epsilon: float | None
    accountant: str
    seed: int
    settings: tuple[tuple[str, Any], ...]

    @property
    def key(self) -> str:
        """What the run is found again by."""
        return repr(dataclasses.astuple(self))


def _run(section: str, label: str, task: str, epsilon: float | None, accountant: str, seed: int, change: Any) -> Run:
    """Return a run of RECIPE with some settings changed."""
    settings = tuple(sorted((RECIPE | change).items()))
    return Run(section, label, task, epsilon, accountant, seed, settings)


def make_plan(seeds: int = SEEDS) -> list[Run]:
    """Return all runs."""
    tasks = [*DOMAINS, PAIRS]
    runs = [_run("reference", "no noise", task, None, "none", seed, {}) for task in tasks for seed in range(seeds)]
    runs += [
        _run("swap", accountant, task, epsilon, accountant, seed, {})
        for task in tasks
        for epsilon in (8.0, 3.0)
        for accountant in ACCOUNTANTS
        for seed in range(seeds)
    ]
    runs += [
        _run("tight", label, "movies", epsilon, accountant, seed, change)
        for label, (epsilon, change) in TIGHT.items()
        for accountant in ("edgeworth", "rdp")
        for seed in range(seeds)
    ]
    runs += [
        _run("recipe", label, task, 8.0, "edgeworth", seed, change)
        for seed in range(3)
        for label, change in CANDIDATES.items()
        for task in DOMAINS
    ]
    runs += [
        Run("confirm", label, task, 8.0, "rdp", seed, tuple(sorted(settings.items())))
        for label, (_, settings) in BASELINES.items()
        for task in ("tweets", "editorials", "amazon", "movies")
        for seed in range(seeds)
    ]
    # the slow ones last
    return sorted(runs, key=lambda run: (run.task == PAIRS, run.label == "plain" and run.task == "movies"))
