"""Fine-tune a language model on movie reviews with differential privacy, and judge the run by three accountants.

    python examples/fetch_demo_data.py --output .cache/demo
    python examples/finetune_movie_reviews.py --data .cache/demo --target-epsilon 8

LoRA on the top layer of a sentence encoder, and a linear head on the mean token states of its last three layers, by
`opacus_edgeworth.finetune`; everything below the top layer stays as it was published, so its outputs are computed once.

What an epsilon means here. The unit of privacy is one snippet of the training set: the guarantee, (epsilon, delta)
differential privacy of the trained weights, is for data sets that differ by one snippet added or removed, each step
drawing its batch by Poisson sampling (each snippet on its own, with probability `sample_rate`). Someone who wrote
several snippets is covered for each of them, not for all at once. Not accounted for, because this data set is public:
the number of snippets, from which the sample rate follows, and the choice of the hyper-parameters below, made by
looking at the validation set. The 2,000 test snippets are looked at once, at the very end, and chose nothing.

The seed makes a demonstration repeatable. Where the data is really private nobody may be able to repeat the noise:
leave out the seed.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from fetch_demo_data import MODEL_FOLDER, SNIPPETS_FILE, DemoDataError, check_folder
from matplotlib.figure import Figure
from movie_reviews import load_task
from opacus.accountants import create_accountant
from rich.console import Console
from rich.table import Table

import opacus_edgeworth as ew  # registers the accountant "edgeworth" with Opacus
from opacus_edgeworth.finetune import FinetuneResult, FinetuneSettings, finetune
from opacus_edgeworth.finetune.budget import PEER_TOLERANCE, calibrated_noise
from opacus_edgeworth.finetune.settings import Accountant

LABELS = {"edgeworth": "edgeworth (certified)", "prv": "PRV (Opacus)", "rdp": "RDP (Opacus)"}
PEER_ERRORS = (ArithmeticError, MemoryError, RuntimeError, ValueError)  # Opacus's PRV raises these in some regimes
PEERS: tuple[Accountant, ...] = ("prv", "rdp")
POINTS_IN_PICTURE = 60
MAX_TOKENS = 64  # of 10,043 snippets 5 are longer (79 tokens at most)

History = list[tuple[float, float, int]]  # as Opacus keeps it: (noise_multiplier, sample_rate, steps)


@dataclasses.dataclass(frozen=True)
class Result:
    """All that the demo reports; every epsilon is at `delta`, None where an accountant gave no answer."""

    target_epsilon: float
    delta: float
    sample_rate: float
    steps: int
    noise_multiplier: float
    noise_needed: dict[str, float | None]
    epsilon_lower: float
    epsilon_upper: float
    epsilon_of_run: dict[str, float | None]
    training_snippets: int
    validation_accuracy: float
    test_accuracy: float
    majority_accuracy: float
    seconds: dict[str, float]


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description="Fine-tune a language model privately, and judge the run by three accountants.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder made by fetch_demo_data.py")
    parser.add_argument("--target-epsilon", type=float, default=8.0, help="privacy budget of the whole run")
    parser.add_argument("--delta", type=float, default=1e-5, help="delta of the budget, below 1 / training snippets")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1024, help="expected batch size of Poisson sampling")
    parser.add_argument("--seed", type=int, default=0, help="for a repeatable demonstration, not for private data")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for all that comes of it")
    parser.add_argument("--device", default=None, help="a torch device; by default CUDA where available")
    return parser.parse_args(arguments)


def train(options: argparse.Namespace) -> FinetuneResult:
    """Fine-tune as the options say."""
    tuned = options.output / "tuned"
    shutil.rmtree(tuned, ignore_errors=True)  # a demonstration is run again and again
    return finetune(
        options.data / MODEL_FOLDER,
        load_task(options.data / SNIPPETS_FILE),
        target_epsilon=options.target_epsilon,
        target_delta=options.delta,
        epochs=options.epochs,
        batch_size=options.batch_size,
        max_grad_norm=0.5,
        method="lora",
        top_layers=1,
        pooling="mean",
        pooling_layers=3,
        learning_rate=2e-3,
        head_learning_rate=0.05,
        max_tokens=MAX_TOKENS,
        seed=options.seed,
        device=options.device,
        cache_dir=options.data,
        output=tuned,
    )


def epsilon_by(name: str, history: History, delta: float) -> float | None:
    """Return a registered accountant's epsilon for a history, or None where it gives up."""
    accountant = create_accountant(name)
    accountant.history = history
    try:
        return float(accountant.get_epsilon(delta=delta))
    except PEER_ERRORS:
        return None


def noise_by(name: Accountant, sample_rate: float, steps: int, options: argparse.Namespace) -> float | None:
    """Return the noise multiplier that Opacus finds with one of its own accountants, or None where that gives up."""
    settings = FinetuneSettings(target_epsilon=options.target_epsilon, accountant=name)
    try:
        return calibrated_noise(settings, options.delta, sample_rate, steps)
    except ew.CalibrationError:
        return None


def draw_epsilon(history: History, delta: float, path: Path) -> None:
    """Save a picture of epsilon over the steps of a run with one phase, by each accountant."""
    ((noise_multiplier, sample_rate, steps),) = history
    shown = sorted({max(1, round(steps * point / POINTS_IN_PICTURE)) for point in range(1, POINTS_IN_PICTURE + 1)})
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, style in zip(LABELS, ("-", "--", ":"), strict=True):
        epsilons = [epsilon_by(name, [(noise_multiplier, sample_rate, step)], delta) for step in shown]
        axes.plot(shown, [float("nan") if value is None else value for value in epsilons], style, label=LABELS[name])
    axes.set(xlabel="step", ylabel=f"ε at δ = {delta:g}", xlim=(0, steps), ylim=(0, None))
    axes.set_title(f"Privacy spent: noise multiplier {noise_multiplier:.4f}, sample rate {sample_rate:.4g}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def judge(trained: FinetuneResult, options: argparse.Namespace) -> Result:
    """Ask all accountants about the run, and put together what the demo reports."""
    noise_needed = {"edgeworth": trained.noise_multiplier}
    noise_needed |= {name: noise_by(name, trained.sample_rate, trained.steps, options) for name in PEERS}
    history = list(trained.history)
    return Result(
        target_epsilon=options.target_epsilon,
        delta=trained.delta,
        sample_rate=trained.sample_rate,
        steps=trained.steps,
        noise_multiplier=trained.noise_multiplier,
        noise_needed=noise_needed,
        epsilon_lower=trained.epsilon.lower,
        epsilon_upper=trained.epsilon.upper,
        epsilon_of_run={name: epsilon_by(name, history, trained.delta) for name in LABELS},
        training_snippets=trained.statement["mechanism"]["examples"],
        validation_accuracy=trained.metrics["validation"]["accuracy"],
        test_accuracy=trained.metrics["test"]["accuracy"],
        majority_accuracy=trained.metrics["test"]["majority_accuracy"],
        seconds=dict(trained.seconds),
    )


def show(result: Result, console: Console) -> None:
    """Print the noise and the epsilons by accountant, then what the model learned."""
    privacy = Table(title=f"{result.steps} steps, sample rate {result.sample_rate:.4g}, δ = {result.delta:g}")
    privacy.add_column("accountant")
    privacy.add_column(f"σ needed for ε ≤ {result.target_epsilon:g}", justify="right")
    privacy.add_column("more noise", justify="right")
    privacy.add_column("ε of this run", justify="right")
    for name in LABELS:
        noise, epsilon = result.noise_needed[name], result.epsilon_of_run[name]
        privacy.add_row(
            LABELS[name],
            "no answer" if noise is None else f"{noise:.5f}",
            "" if noise is None else f"{noise / result.noise_multiplier - 1.0:+.2%}",
            "no answer" if epsilon is None else f"{epsilon:.4f}",
        )
    console.print(privacy)
    console.print(
        f"ε of this run lies in [{result.epsilon_lower:.10g}, {result.epsilon_upper:.10g}], proved by edgeworth."
        f" The peers' σ are searched to {PEER_TOLERANCE:g} in ε."
    )
    learned = Table(title=f"trained on {result.training_snippets} snippets")
    learned.add_column("what")
    learned.add_column("value", justify="right")
    learned.add_row("accuracy, test", f"{result.test_accuracy:.2%}")
    learned.add_row("accuracy, test, majority class", f"{result.majority_accuracy:.2%}")
    learned.add_row("accuracy, validation", f"{result.validation_accuracy:.2%}")
    for name, seconds in result.seconds.items():
        learned.add_row(f"time, {name}", f"{seconds:.1f} s")
    console.print(learned)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = parse_options(arguments)
    console = Console()
    warnings.filterwarnings("ignore", message="Optimal order is the")  # RDP's own matter
    try:
        check_folder(options.data)
        trained = train(options)
    except (DemoDataError, OSError, ew.EdgeworthError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result = judge(trained, options)
    draw_epsilon(list(trained.history), trained.delta, options.output / "epsilon_over_steps.png")
    (options.output / "result.json").write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    show(result, console)
    console.print(
        f"written to {options.output}: result.json, epsilon_over_steps.png, and in tuned/ the model with its PRIVACY.md"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
