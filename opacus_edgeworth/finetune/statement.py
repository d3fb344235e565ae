"""The privacy statement: what is promised about a model, under which assumptions, and what is not."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.finetune.budget import Plan
from opacus_edgeworth.finetune.settings import FinetuneSettings

PACKAGES = ("opacus_edgeworth", "opacus", "torch", "transformers", "peft", "numpy", "scipy")


def make_statement(
    plan: Plan,
    settings: FinetuneSettings,
    history: list[tuple[float, float, int]],
    epsilon: Bounds,
    trained: dict[str, int],
    grad_sample_mode: str,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Return the statement as plain values, ready for JSON.

    Args:
      plan: of the run.
      settings: of the run.
      history: what the accountant saw: (noise_multiplier, sample_rate, steps).
      epsilon: proved bounds at the plan's delta.
      trained: number of values in each parameter that was trained, by name.
      grad_sample_mode: how gradients were clipped.
      notes: of the plan. What was noticed in the data is not among them: a statement is published.
    """
    return {
        "guarantee": {
            "epsilon": epsilon.upper,
            "epsilon_lower_bound": epsilon.lower,
            "delta": plan.delta,
            "definition": "(epsilon, delta)-differential privacy of the trained weights and all intermediate ones",
            "adjacency": "data sets that differ by one training example added or removed, the larger direction",
            "unit": "one row of the training data; a person with k rows is covered for each, not for all at once",
            "target_epsilon": plan.target_epsilon,
        },
        "mechanism": {
            "algorithm": "DP-SGD (clipped per-example gradients plus Gaussian noise), AdamW on the noisy gradients",
            "sampling": "Poisson: every example enters every batch on its own with probability sample_rate",
            "sample_rate": plan.sample_rate,
            "examples": plan.examples,
            "expected_batch_size": plan.expected_batch_size,
            "steps": sum(steps for _, _, steps in history),
            "history": [list(phase) for phase in history],
            "noise_multiplier": plan.noise_multiplier,
            "noise_found_by": "given" if settings.noise_multiplier is not None else settings.accountant,
            "max_grad_norm": settings.max_grad_norm,
            "clipping": settings.clipping,
            "grad_sample_mode": grad_sample_mode,
            "accountant": "edgeworth (certified upper bound, no asymptotics)",
        },
        "trained": {"method": settings.method, "values": sum(trained.values()), "parameters": trained},
        "assumptions": _assumptions(settings),
        "not_covered": [
            "floating-point effects: the proof is of exact arithmetic with real Gaussian noise",
            "hyper-parameters chosen by looking at results on this data, and other releases computed from it",
            "the number of training examples, the names of the classes, and the tokenizer's and model's own training",
            "validation and test examples, and every metric computed from them",
            "training_log.jsonl (losses of training batches), metrics.json (notes on the data) and checkpoints: not"
            " private, do not publish them",
        ],
        "notes": list(notes),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def _assumptions(settings: FinetuneSettings) -> list[str]:
    """Return what must hold for the guarantee to hold."""
    if settings.secure_mode:
        source = (
            "noise and sampling came from a cryptographic generator (secure_mode); if the run was resumed, what it did"
            " after its last checkpoint was seen by nobody"
        )
    elif settings.seed is not None:
        source = (
            f"DEMONSTRATION ONLY: the noise follows from the seed {settings.seed}; it protects against nobody who knows"
            " or guesses the seed"
        )
    else:
        source = "nobody can predict torch's generators, which took their state from the operating system's entropy"
    return [
        source,
        "one example's gradient depends on that example alone (checked on made-up texts before training)",
        "the checkpoints, which hold the state of the noise generator, stayed secret",
    ]


def _version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def to_markdown(statement: dict[str, Any]) -> str:
    """Return a statement for people to read."""
    guarantee, mechanism, trained = statement["guarantee"], statement["mechanism"], statement["trained"]
    lines = [
        "# Privacy statement",
        "",
        f"**ε = {_rounded_up(guarantee['epsilon'])} at δ = {guarantee['delta']:g}**, a proved upper bound for exactly"
        f" {mechanism['steps']} steps (the true value is at least {_rounded_down(guarantee['epsilon_lower_bound'])}).",
        "",
        f"- *What*: {guarantee['definition']}.",
        f"- *Adjacency*: {guarantee['adjacency']}.",
        f"- *Unit*: {guarantee['unit']}.",
        f"- *Sampling*: {mechanism['sampling']}; sample rate {mechanism['sample_rate']:.6g}, {mechanism['examples']}"
        f" examples, {mechanism['expected_batch_size']:.6g} in a batch on average.",
        f"- *Noise*: multiplier {mechanism['noise_multiplier']:.8g} ({mechanism['noise_found_by']}) times the clipping"
        f" norm {mechanism['max_grad_norm']:g}.",
        f"- *Clipping*: of each example's gradient, {mechanism['clipping']} ({mechanism['grad_sample_mode']}).",
        f"- *Trained*: {trained['values']} values by {trained['method']}.",
    ]
    for title, key in (("Assumptions", "assumptions"), ("Not covered", "not_covered"), ("Notes", "notes")):
        if statement[key]:
            lines += ["", f"## {title}", "", *(f"- {entry}" for entry in statement[key])]
    versions = ", ".join(f"{name} {number}" for name, number in statement["versions"].items() if number)
    return "\n".join([*lines, "", f"Versions: {versions}.", "", "Every number in full: privacy.json.", ""])


def _rounded_up(epsilon: float) -> str:
    """Return epsilon with six digits, never below what was proved."""
    text = f"{epsilon:.6g}"
    return text if float(text) >= epsilon else f"{epsilon * (1.0 + 5e-6):.6g}"


def _rounded_down(epsilon: float) -> str:
    """Return epsilon with six digits, never above what was proved."""
    text = f"{epsilon:.6g}"
    return text if float(text) <= epsilon else f"{epsilon * (1.0 - 5e-6):.6g}"
