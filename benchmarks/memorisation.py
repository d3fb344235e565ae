"""What a tuned model remembers of its texts, without privacy and with it, beside what the proof allows.

    python benchmarks/memorisation.py

Many models are trained on random halves of the same texts (tweets and canaries, which are texts of random words with
random labels), in four ways. Each is asked how likely it finds the label of every text. Written are
benchmarks/results/memorisation.md, .json and .png. What is trained is kept in the data folder, so that a run that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import memorisation_report
import numpy as np
import torch
from study.fetch import fetch
from study.tasks import load_task
from torch import Tensor, nn
from tqdm import tqdm

from opacus_edgeworth import calibrate_noise_multiplier
from opacus_edgeworth.finetune import Examples, FinetuneSettings, TaskData
from opacus_edgeworth.finetune.architecture import upper_part
from opacus_edgeworth.finetune.budget import Plan
from opacus_edgeworth.finetune.classifier import MeanPoolingClassifier
from opacus_edgeworth.finetune.encoding import Batch, Inputs
from opacus_edgeworth.finetune.features import cached_rows
from opacus_edgeworth.finetune.gradients import trainable
from opacus_edgeworth.finetune.loop import Training, train
from opacus_edgeworth.finetune.preparation import Prepared, prepare
from opacus_edgeworth.finetune.quiet import quiet
from opacus_edgeworth.finetune.randomness import make_randomness

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
FEWEST_MODELS = 32
PHYSICAL_BATCH_SIZE = 64  # it changes nothing but memory and rounding
PRIVATE = {"epsilon 8": 8.0, "epsilon 3": 3.0}


@dataclass(frozen=True)
class Experiment:
    """What is trained; a change of any of it trains anew.

    Half of the texts are in a model's training data, each by its own coin. Number of texts and size of batches are
    public: the plan is that of `examples`, the expected number, whatever the coins say.
    """

    models: int = 64
    canaries: int = 64
    alternatives: int = 1023
    canary_words: int = 12
    seed: int = 2019
    delta: float = 1e-4
    batches_per_epoch: int = 4
    epochs: int = 8
    max_grad_norm: float = 0.5
    learning_rate: float = 0.05
    steps_to_the_end: int = 1000
    learning_rate_to_the_end: float = 0.02

    @property
    def steps(self) -> int:
        """The number of steps of all trainings but the one to the end."""
        return self.epochs * self.batches_per_epoch

    def noise_multiplier(self, epsilon: float) -> float:
        """Return the least noise that is proved to be enough."""
        rate = 1.0 / self.batches_per_epoch
        return calibrate_noise_multiplier(
            target_epsilon=epsilon, target_delta=self.delta, sample_rate=rate, steps=self.steps
        )

    def history(self, epsilon: float) -> list[tuple[float, float, int]]:
        """Return what the accountant sees of a private training."""
        return [(self.noise_multiplier(epsilon), 1.0 / self.batches_per_epoch, self.steps)]

    def coins(self, examples: int) -> np.ndarray:
        """Return which texts are in the training data of which model, shape (models, examples)."""
        return np.random.default_rng(self.seed).random((self.models, examples)) < 0.5

    def spare_coins(self) -> np.ndarray:
        """Return coins for the alternatives, which are in no training data whatever the coins say."""
        return np.random.default_rng([self.seed, 1]).random((self.models, self.alternatives)) < 0.5


class Part:
    """Some rows of a split."""

    def __init__(self, inputs: Inputs, rows: Tensor) -> None:
        self.whole, self.rows = inputs, rows
        self.labels, self.lengths = inputs.labels[rows], inputs.lengths[rows]

    def batch(self, rows: Tensor, device: torch.device) -> Batch:
        """Return a batch of these rows."""
        return self.whole.batch(self.rows[rows], device)


@dataclass(frozen=True)
class Bench:
    """The classifier, and its inputs: tweets then canaries ("train"), alternatives, test texts."""

    prepared: Prepared
    classifier: MeanPoolingClassifier
    inputs: dict[str, Inputs]
    features: dict[str, Tensor]


def random_texts(words: list[str], count: int, experiment: Experiment, stream: str) -> Examples:
    """Return texts of random words, with random labels."""
    source = random.Random(f"{experiment.seed} {stream}")
    texts = tuple(" ".join(source.choices(words, k=experiment.canary_words)) for _ in range(count))
    return Examples(texts, None, tuple(source.randrange(2) for _ in texts))


def make_bench(experiment: Experiment, folder: Path) -> Bench:
    """Load the texts and the model, and run its frozen layers over the texts once."""
    task = load_task("tweets", folder)
    words = (folder / "model" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = [word for word in words if len(word) > 2 and word.isascii() and word.isalpha()]
    canaries = random_texts(words, experiment.canaries, experiment, "canaries")
    alternatives = random_texts(words, experiment.alternatives, experiment, "alternatives")
    pool = Examples(task.train.texts + canaries.texts, None, task.train.labels + canaries.labels)
    data = TaskData(pool, {"alternatives": alternatives, "test": task.held_out["test"]}, task.label_names)
    options = settings(experiment, folder)
    with quiet():
        prepared = prepare(str(folder / "model"), None, data, options, CPU, False)
    classifier = prepared.loaded.classifier
    assert isinstance(classifier, MeanPoolingClassifier)
    inputs: dict[str, Inputs] = {
        name: cached_rows(classifier, prepared.frozen, rows, name, CPU, options)
        for name, rows in prepared.tokens.items()
    }
    features = {name: _features(split) for name, split in inputs.items()}
    return Bench(prepared, classifier, inputs, features)


def settings(experiment: Experiment, folder: Path) -> FinetuneSettings:
    """Return the framework's settings."""
    return FinetuneSettings(
        noise_multiplier=1.0,  # the plan has the one that counts
        epochs=experiment.epochs,
        batch_size=300,  # what makes four batches of 901 to 1,200 texts: the coins stay far inside
        max_grad_norm=experiment.max_grad_norm,
        method="head",
        pooling="mean",
        pooling_layers=3,
        learning_rate=experiment.learning_rate,
        head_learning_rate=experiment.learning_rate,
        cache_dir=folder / "features",
        progress=False,
    )


@torch.no_grad()
def _features(inputs: Inputs) -> Tensor:
    """Return what the head sees of every text."""
    batch = inputs.batch(torch.arange(len(inputs.labels)), CPU)
    return torch.cat([batch["lower_means"], batch["inputs_embeds"][:, 0]], dim=1)


def train_plainly(bench: Bench, rows: Tensor, seed: int, steps: int, rate: float, learning_rate: float) -> None:
    """Train the head without clipping and noise, by AdamW on Poisson batches; at rate 1 on all of the rows."""
    head, generator = bench.classifier.head, torch.Generator().manual_seed(seed)
    features, labels = bench.features["train"][rows], bench.inputs["train"].labels[rows].float()
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.0)
    for _ in range(steps):
        drawn = slice(None) if rate == 1.0 else torch.rand(len(rows), generator=generator) < rate
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(head(features[drawn])[:, 0], labels[drawn]).backward()
        optimizer.step()


def train_privately(
    bench: Bench, rows: Tensor, seed: int, epsilon: float, experiment: Experiment, folder: Path
) -> None:
    """Train the head by the framework."""
    options = settings(experiment, folder)
    expected = len(bench.inputs["train"].labels) // 2
    ((noise, rate, steps),) = experiment.history(epsilon)
    plan = Plan(expected, experiment.delta, epsilon, noise, rate, experiment.batches_per_epoch, steps, ())
    parameters = trainable(bench.classifier)
    with quiet(), upper_part(bench.classifier.encoder, bench.prepared.frozen):
        history = train(
            Training(
                classifier=bench.classifier,
                parameters=parameters,
                head=frozenset(parameters),
                inputs=Part(bench.inputs["train"], rows),
                plan=plan,
                settings=options,
                mode=bench.prepared.mode,
                physical_batch_size=PHYSICAL_BATCH_SIZE,
                device=CPU,
                mixed_precision=False,
                randomness=make_randomness(seed, CPU),
                identity={},
                on_step=lambda record: None,
                on_checkpoint=None,
            )
        )
    assert history == experiment.history(epsilon)


def trainings(experiment: Experiment, folder: Path) -> dict[str, Callable[[Bench, Tensor, int], None]]:
    """Return the ways to train, by name."""
    end, rate = experiment.steps_to_the_end, 1.0 / experiment.batches_per_epoch

    def private(epsilon: float) -> Callable[[Bench, Tensor, int], None]:
        return lambda bench, rows, seed: train_privately(bench, rows, seed, epsilon, experiment, folder)

    return {
        "no privacy, to the end": lambda bench, rows, seed: train_plainly(
            bench, rows, seed, end, 1.0, experiment.learning_rate_to_the_end
        ),
        "no privacy, same steps": lambda bench, rows, seed: train_plainly(
            bench, rows, seed, experiment.steps, rate, experiment.learning_rate
        ),
        **{name: private(epsilon) for name, epsilon in PRIVATE.items()},
    }


@torch.no_grad()
def margins(bench: Bench) -> dict[str, np.ndarray]:
    """Return log p / (1 - p) for the right class of every text, by the head as it is."""
    head = bench.classifier.head.double()
    found = {}
    for name, features in bench.features.items():
        logits = head(features.double())[:, 0]
        found[name] = torch.where(bench.inputs[name].labels == 1, logits, -logits).numpy()
    head.float()
    return found


def run(experiment: Experiment, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Train every model that is not there yet; return margins by way of training and split, a row for each model."""
    identity = hashlib.sha256(json.dumps(asdict(experiment)).encode()).hexdigest()[:16]
    kept = folder / "memorisation" / identity
    kept.mkdir(parents=True, exist_ok=True)
    ways = trainings(experiment, folder)
    paths = {
        way: [kept / f"{way.replace(',', '').replace(' ', '-')}-{model}.npz" for model in range(experiment.models)]
        for way in ways
    }
    if not all(path.exists() for models in paths.values() for path in models):
        bench = make_bench(experiment, folder)
        coins = torch.from_numpy(experiment.coins(len(bench.inputs["train"].labels)))
        with tqdm(total=len(ways) * experiment.models, desc="training", unit=" models") as bar:
            for model in range(experiment.models):
                for number, (way, work) in enumerate(ways.items()):
                    bar.update()
                    if paths[way][model].exists():
                        continue
                    nn.init.zeros_(bench.classifier.head.weight)
                    nn.init.zeros_(bench.classifier.head.bias)
                    work(bench, coins[model].nonzero()[:, 0], experiment.seed + 10 * model + number)
                    part = paths[way][model].with_suffix(".part.npz")  # a stopped run leaves nothing by halves
                    np.savez(part, allow_pickle=False, **margins(bench))
                    part.replace(paths[way][model])
    loaded = {way: [dict(np.load(path)) for path in models] for way, models in paths.items()}
    return {
        way: {name: np.stack([one[name] for one in models]) for name in models[0]} for way, models in loaded.items()
    }


def results_of(experiment: Experiment, found: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Measure everything."""
    pool = next(iter(found.values()))["train"].shape[1]
    coins, spare = experiment.coins(pool), experiment.spare_coins()
    ways = {}
    for way, margins in tqdm(found.items(), desc="measuring", unit=" ways of training"):
        ways[way] = memorisation_report.measure(margins, coins, spare, pool - experiment.canaries)
    return {
        "experiment": asdict(experiment),
        "tweets": pool - experiment.canaries,
        "ways": ways,
        "allowed": {
            way: memorisation_report.allowed(experiment.history(epsilon), epsilon, experiment.delta)
            for way, epsilon in PRIVATE.items()
        },
    }


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / ".cache" / "study", help="folder of the model and texts")
    parser.add_argument("--models", type=int, default=Experiment.models, help="models of each kind")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    options = parser.parse_args()
    if options.models < FEWEST_MODELS:
        parser.error(f"--models must be {FEWEST_MODELS} or more: every text needs models with it and without it")
    fetch(options.data)
    experiment = Experiment(models=options.models)
    print(memorisation_report.write(results_of(experiment, run(experiment, options.data)), options.output))


if __name__ == "__main__":
    main()
