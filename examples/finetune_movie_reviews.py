"""Fine-tune a language model on movie reviews with differential privacy, and judge the run by three accountants.

    python examples/fetch_demo_data.py --output .cache/demo
    python examples/finetune_movie_reviews.py --data .cache/demo --target-epsilon 8

What an epsilon means here. The unit of privacy is one snippet of the training set: the guarantee, (epsilon, delta)
differential privacy of the trained weights, is for data sets that differ by one snippet added or removed, each step
drawing its batch by Poisson sampling (each snippet on its own, with probability `sample_rate`). Someone who wrote
several snippets is covered for each of them, not for all at once. Not accounted for, because this data set is public:
the number of snippets, from which the sample rate follows, and the choice of the hyper-parameters below, made by
looking at the validation set. The 2,000 test snippets are looked at once, at the very end, and chose nothing.

The seed makes a demonstration repeatable. Where the data is really private nobody may be able to repeat the noise:
leave out both generators and use `PrivacyEngine(secure_mode=True)`.
"""

import argparse
import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from fetch_demo_data import MODEL_FOLDER, SNIPPETS_FILE, DemoDataError, check_folder
from matplotlib.figure import Figure
from movie_reviews import (
    MAX_TOKENS,
    FrozenFeatures,
    TopLayerClassifier,
    accuracy,
    cached_features,
    load_encoder,
    read_snippets,
    split_rows,
)
from opacus import PrivacyEngine
from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.utils.batch_memory_manager import BatchMemoryManager
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import opacus_edgeworth as ew  # registers the accountant "edgeworth" with Opacus

LABELS = {"edgeworth": "edgeworth (certified)", "prv": "PRV (Opacus)", "rdp": "RDP (Opacus)"}
PEER_ERRORS = (ArithmeticError, MemoryError, RuntimeError, ValueError)  # Opacus's PRV raises these in some regimes
PEER_TOLERANCE = 1e-3  # in epsilon: how close the peers' own search for the noise comes to the target
MAX_GRAD_NORM = 0.5
LORA_LEARNING_RATE = 2e-3
HEAD_LEARNING_RATE = 0.05
PHYSICAL_BATCH_SIZE = 64  # snippets whose gradients are held at once; a batch of Poisson sampling has any size
POINTS_IN_PICTURE = 60


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
    """Return the command line's options, refusing impossible values."""
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
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for the numbers and picture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    if not 0.0 < options.target_epsilon < float("inf"):
        parser.error(f"--target-epsilon must be a positive number, not {options.target_epsilon}")
    if not 0.0 < options.delta < 1.0:
        parser.error(f"--delta must lie between 0 and 1, not {options.delta}")
    if options.epochs < 1 or options.batch_size < 1:
        parser.error("--epochs and --batch-size must be at least 1")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {options.device} cannot be used: {error}")
    return options


def train(
    classifier: TopLayerClassifier,
    features: FrozenFeatures,
    positive: Tensor,
    loader: DataLoader,
    noise_multiplier: float,
    options: argparse.Namespace,
) -> History:
    """Train the LoRA and head weights of `classifier` in place by DP-SGD; return what the accountant saw."""
    lora = [weight for weight in classifier.top_layer.parameters() if weight.requires_grad]
    engine = PrivacyEngine(accountant="edgeworth")
    private = engine.make_private(
        module=classifier.train(),
        optimizer=torch.optim.Adam(
            [
                {"params": lora, "lr": LORA_LEARNING_RATE},
                {"params": classifier.head.parameters(), "lr": HEAD_LEARNING_RATE},
            ]
        ),
        data_loader=loader,  # Opacus samples from it by Poisson sampling, with probability 1 / len(loader)
        noise_multiplier=noise_multiplier,
        max_grad_norm=MAX_GRAD_NORM,
        noise_generator=torch.Generator(options.device).manual_seed(options.seed + 1),
    )
    model, optimizer, private_loader = cast(tuple[GradSampleModule, DPOptimizer, DataLoader], private)
    loss_function = nn.BCEWithLogitsLoss()
    with (
        BatchMemoryManager(
            data_loader=private_loader, max_physical_batch_size=PHYSICAL_BATCH_SIZE, optimizer=optimizer
        ) as physical_batches,
        tqdm(total=options.epochs * len(loader), desc="private fine-tuning", unit=" steps") as progress,
    ):
        for _ in range(options.epochs):
            for (batch,) in physical_batches:
                optimizer.zero_grad()
                logits = model(*features.batch(batch))
                loss_function(logits, positive[batch].to(logits)).backward()
                optimizer.step()
                if (taken := len(engine.accountant)) > progress.n:
                    progress.set_postfix_str(f"ε so far {engine.get_epsilon(options.delta):.3f}", refresh=False)
                    progress.update(taken - progress.n)
    return engine.accountant.history


def epsilon_by(name: str, history: History, delta: float) -> float | None:
    """Return a registered accountant's epsilon for a history, or None where it gives up."""
    accountant = create_accountant(name)
    accountant.history = history
    try:
        return float(accountant.get_epsilon(delta=delta))
    except PEER_ERRORS:
        return None


def noise_by(name: str, sample_rate: float, steps: int, options: argparse.Namespace) -> float | None:
    """Return the noise multiplier that Opacus finds with one of its own accountants, or None where that gives up."""
    try:
        return get_noise_multiplier(
            target_epsilon=options.target_epsilon,
            target_delta=options.delta,
            sample_rate=sample_rate,
            steps=steps,
            accountant=name,
            epsilon_tolerance=PEER_TOLERANCE,
        )
    except PEER_ERRORS:
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


def run(options: argparse.Namespace, console: Console) -> Result:
    """Fine-tune as the options say; return what came of it."""
    started = time.perf_counter()
    torch.manual_seed(options.seed)
    snippets = read_snippets(options.data / SNIPPETS_FILE)
    positive = torch.tensor([snippet.rating > 0.0 for snippet in snippets])
    split = split_rows(len(snippets))
    encoder, top_layer = load_encoder(options.data / MODEL_FOLDER)
    features = cached_features(
        encoder,
        options.data / MODEL_FOLDER,
        [snippet.text for snippet in snippets],
        options.data / f"lower_layers_{MAX_TOKENS}_tokens.pt",
        torch.device(options.device),
    )
    prepared = time.perf_counter()

    # Poisson sampling draws each snippet on its own, whatever the order; ordered by length, physical batches need
    # little padding.
    loader = DataLoader(
        TensorDataset(features.tokens.by_length(split.train)),
        batch_size=options.batch_size,
        generator=torch.Generator().manual_seed(options.seed),
    )
    sample_rate, steps = 1.0 / len(loader), options.epochs * len(loader)  # as Opacus will have them
    noise_multiplier = ew.calibrate_noise_multiplier(
        target_epsilon=options.target_epsilon, target_delta=options.delta, sample_rate=sample_rate, steps=steps
    )
    console.print(
        f"noise multiplier {noise_multiplier:.5f} for ε = {options.target_epsilon:g} at δ = {options.delta:g},"
        f" {steps} steps, sample rate {sample_rate:.4g}"
    )
    classifier = TopLayerClassifier(top_layer, features.tokens.states.shape[1]).to(options.device)
    history = train(classifier, features, positive, loader, noise_multiplier, options)
    validation_accuracy = accuracy(classifier, features, split.validation, positive)
    trained = time.perf_counter()

    bounds = ew.PrivacyCurve(history).epsilon(float(options.delta))
    noise_needed = {"edgeworth": noise_multiplier}
    noise_needed |= {name: noise_by(name, sample_rate, steps, options) for name in ("prv", "rdp")}
    options.output.mkdir(parents=True, exist_ok=True)
    draw_epsilon(history, options.delta, options.output / "epsilon_over_steps.png")
    positive_test = positive[split.test].float().mean().item()  # the only two lines that read the test labels
    test_accuracy = accuracy(classifier, features, split.test, positive)
    return Result(
        target_epsilon=options.target_epsilon,
        delta=options.delta,
        sample_rate=sample_rate,
        steps=sum(count for _, _, count in history),
        noise_multiplier=noise_multiplier,
        noise_needed=noise_needed,
        epsilon_lower=bounds.lower,
        epsilon_upper=bounds.upper,
        epsilon_of_run={name: epsilon_by(name, history, options.delta) for name in LABELS},
        training_snippets=len(split.train),
        validation_accuracy=validation_accuracy,
        test_accuracy=test_accuracy,
        majority_accuracy=max(positive_test, 1.0 - positive_test),
        seconds={
            "frozen lower layers": prepared - started,
            "private fine-tuning": trained - prepared,
            "accounting and test": time.perf_counter() - trained,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = parse_options(arguments)
    console = Console()
    # The docstring above says when the seeded generator is wrong; the others are internal matters of torch and RDP.
    for message in ("Secure RNG turned off", "Full backward hook is firing", "Optimal order is the"):
        warnings.filterwarnings("ignore", message=message)
    try:
        check_folder(options.data)
        result = run(options, console)
    except (DemoDataError, OSError, ew.EdgeworthError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (options.output / "result.json").write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    show(result, console)
    console.print(f"written: {options.output / 'result.json'}, {options.output / 'epsilon_over_steps.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
