"""What share of a private training step accounting takes, if epsilon is logged after every one of 1,000 steps.

    python benchmarks/step_share.py [--steps 1000] [--peer-limit 100]

Opacus's own optimizers and schedulers run: the noise of every step comes from the scheduler, and the accountant gets it
from the optimizer's hook. Epsilon is asked for after every step. Of the training itself, which is the same at every
step, some steps are really made (forward, backward, clipping, noise), spread over the run; the hook is called directly
at the others. Times are processor times of the one thread, so that other work on the machine does not count. Writes
benchmarks/results/step_share.md.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import multiprocessing
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from opacus import PrivacyEngine
from opacus.accountants import create_accountant
from opacus.schedulers import ExponentialNoise
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import opacus_edgeworth as ew

DELTA, RATE, FIRST, LAST = 1e-5, 0.01, 2.0, 0.8
OUTPUT = Path(__file__).parent / "results" / "step_share.md"
PLANS = ("constant noise", "exponential noise", "exponential noise, growing batches")


def convolutional() -> tuple[str, nn.Module, list[torch.Tensor]]:
    """Return a small CNN and a batch of 256 images of 28 x 28."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Conv2d(16, 32, 4, 2), nn.ReLU(),
        nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    batch = [torch.randn(256, 1, 28, 28), torch.randint(0, 10, (256,))]
    return "CNN of Opacus's MNIST example, batch 256", model, batch


class _Classifier(nn.Module):
    """Token numbers in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens).logits


def language() -> tuple[str, nn.Module, list[torch.Tensor]]:
    """Return a transformer of MiniLM-L6's shape with LoRA in its top layer, and a batch of 1,024 sentences."""
    config: Any = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2,  # pyright: ignore
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    lora = LoraConfig(
        r=8,
        target_modules=["query", "value"],
        layers_to_transform=[5],
        modules_to_save=["classifier"],
        task_type="SEQ_CLS",
    )
    model = _Classifier(get_peft_model(BertForSequenceClassification(config), lora))
    batch = [torch.randint(1000, 30000, (1024, 24)), torch.randint(0, 2, (1024,))]
    return "MiniLM-L6 shape, LoRA, batch 1,024", model, batch


def private(model: nn.Module, batch: list[torch.Tensor], noise: float) -> tuple[PrivacyEngine, Any, Any]:
    """Return what Opacus makes of a model; the loader, of which only the length matters, has 100 batches."""
    engine = PrivacyEngine(accountant="edgeworth")
    size = len(batch[0])
    dataset = torch.utils.data.TensorDataset(torch.zeros(100 * size, 1))
    loader = torch.utils.data.DataLoader(dataset, batch_size=size)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    made = engine.make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=noise, max_grad_norm=1.0
    )
    return engine, made[0], made[1]


def train_step(model: Any, optimizer: Any, batch: list[torch.Tensor]) -> float:
    """Make one private step; return its processor seconds."""
    start = time.thread_time()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    return time.thread_time() - start


def logged_run(plan: str, steps: int) -> tuple[list[float], list[float], list[tuple[float, float, int]], float]:
    """Return the seconds of the CNN's real steps and of each question, the history, and the last epsilon."""
    torch.manual_seed(0)
    _, model, batch = convolutional()
    engine, model, optimizer = private(model, batch, 1.0 if plan == PLANS[0] else FIRST)
    scheduler = None if plan == PLANS[0] else ExponentialNoise(optimizer, gamma=(LAST / FIRST) ** (1.0 / (steps - 1)))
    training, asking, epsilon = [], [], 0.0
    for step in range(steps):
        if plan == PLANS[2] and step % (steps // 10) == 0:  # a larger batch is a higher sampling rate
            optimizer.attach_step_hook(
                engine.accountant.get_optimizer_hook_fn(sample_rate=RATE * (1.0 + 0.1 * (10 * step // steps)))
            )
        if step % (steps // 20) == 0:
            training.append(train_step(model, optimizer, batch))
        else:
            optimizer.step_hook(optimizer)
        start = time.thread_time()
        epsilon = engine.get_epsilon(DELTA)
        asking.append(time.thread_time() - start)
        if scheduler is not None:
            scheduler.step()
    return training[1:], asking, engine.accountant.history, epsilon


def _ask(name: str, history: list[tuple[float, float, int]], queue: Any) -> None:
    """Put a peer's epsilon and its processor seconds into a queue."""
    warnings.simplefilter("ignore")
    accountant = create_accountant(name)
    accountant.history = history
    start = time.process_time()
    epsilon = accountant.get_epsilon(DELTA)
    queue.put((epsilon, time.process_time() - start))


def peer(name: str, history: list[tuple[float, float, int]], limit: float) -> str:
    """Return what one question to a peer takes after the last step, in words."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_ask, args=(name, history, queue))
    process.start()
    try:
        epsilon, seconds = queue.get(timeout=limit)
        return f"{epsilon:.4f} in {seconds:.2g} s"
    except Exception:
        return f"no answer in {limit:g} s"
    finally:
        process.terminate()
        process.join()


def report(steps: int, limit: float, progress: Callable[[str], None] = print) -> str:
    """Return the page."""
    name, model, batch = language()
    _, model, optimizer = private(model, batch, 1.0)
    large = statistics.median([train_step(model, optimizer, batch) for _ in range(3)][1:])
    progress(f"{name}: {large:.2f} s a step")
    rows, peers = [], []
    for plan in PLANS:
        training, asking, history, epsilon = logged_run(plan, steps)
        small, mean = statistics.median(training), statistics.fmean(asking)
        cells = [plan, f"{len(history)}", f"{epsilon:.6f}", f"{1e3 * mean:.2f} ms"]
        cells += [f"{1e3 * statistics.median(asking):.2f} ms", f"{max(asking):.2f} s"]
        for seconds in (small, large):
            cells += [f"{1e3 * seconds:.0f} ms", f"{mean / (mean + seconds):.2%}"]
        rows.append(f"| {' | '.join(cells)} |")
        progress(rows[-1])
        peers.append(f"| {plan} | {epsilon:.4f} | {peer('rdp', history, limit)} | {peer('prv', history, limit)} |")
        progress(peers[-1])
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return "\n".join([
        "# Share of a training step that accounting takes",
        "",
        f"`make step-share`: epsilon at delta = {DELTA:g} asked for after every one of {steps:,} steps; sample rate "
        f"{RATE:g}, in the last row rising to 0.019;",
        f"noise multiplier 1, or falling from {FIRST:g} to {LAST:g}. Processor times of one thread in one run: medians",
        "of training steps; of accounting the mean of all steps, those at which a new plan is made included. The CNN",
        f"is that of Opacus's MNIST example with batches of 256; the language model: {name}, 24 tokens.",
        f"Accountant: {ew.EdgeworthAccountant.mechanism()}. Commit {run.stdout.strip()}, {platform.machine()}, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}.",
        "",
        "| noise | phases | epsilon | accounting, mean | median | longest | CNN step | share | language step | share |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "One question to Opacus's other accountants after the last step (logging asks one after every step):",
        "",
        "| noise | this epsilon | RDP | PRV |",
        "|---|---|---|---|",
        *peers,
        "",
    ])  # fmt: skip


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--peer-limit", type=float, default=100.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    OUTPUT.write_text(report(arguments.steps, arguments.peer_limit))
    print(OUTPUT)


if __name__ == "__main__":
    main()
