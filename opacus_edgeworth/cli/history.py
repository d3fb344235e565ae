"""The options that say what a run did, the same in every command: a FILE, or flags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth._validate import as_noise_multiplier, as_real, as_sample_rate, as_steps
from opacus_edgeworth.cli.exits import wrong_usage
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.histories import History, read_history

RUN, QUESTION, OUTPUT = "The run", "The question", "Output"

FileArgument: TypeAlias = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        help="Opacus checkpoint, accountant's state_dict (.pt), JSON or CSV with noise_multiplier, sample_rate, steps;"
        " folder or privacy.json of a fine-tuning run; - reads JSON or CSV. Or use the flags.",
    ),
]
NoiseMultiplier: TypeAlias = Annotated[
    float | None, typer.Option(help="Noise's standard deviation over the clipping norm.", rich_help_panel=RUN)
]
SampleRate: TypeAlias = Annotated[
    float | None, typer.Option(help="Probability that an example enters a batch.", rich_help_panel=RUN)
]
BatchSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Instead of --sample-rate, with --dataset-size: Opacus samples with one over the number of batches.",
        rich_help_panel=RUN,
    ),
]
DatasetSize: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Number of training examples.", rich_help_panel=RUN)
]
Steps: TypeAlias = Annotated[int | None, typer.Option(help="Optimizer steps.", rich_help_panel=RUN)]
Epochs: TypeAlias = Annotated[
    float | None, typer.Option(help="Passes over the data, instead of --steps.", rich_help_panel=RUN)
]
AdjacencyOption: TypeAlias = Annotated[
    Adjacency,
    typer.Option(
        help="What neighbouring data sets differ in: an example added or removed, replaced by another, or its gradient"
        " put to zero.",
        rich_help_panel=QUESTION,
    ),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object for programs.", rich_help_panel=OUTPUT)
]


@dataclass(frozen=True, slots=True)
class RunFlags:
    """What the flags say about a run; None where they say nothing."""

    noise_multiplier: float | None = None
    sample_rate: float | None = None
    batch_size: int | None = None
    dataset_size: int | None = None
    steps: int | None = None
    epochs: float | None = None

    @property
    def given(self) -> list[str]:
        """The flags that were given."""
        return [f"--{name.replace('_', '-')}" for name in self.__slots__ if getattr(self, name) is not None]


def find_history(file: Path | None, flags: RunFlags) -> History:
    """Return the history in the file, or that of the flags.

    Raises:
      typer.BadParameter: both or neither are given, or the flags are not enough.
      InvalidParameterError, CheckpointError: what is given is invalid.
    """
    if file is not None:
        if flags.given:
            raise wrong_usage("FILE", f"holds the whole history; leave out {', '.join(flags.given)}, or the file")
        return read_history(file)
    if not flags.given:
        raise wrong_usage("FILE", "missing; give a file, or --noise-multiplier, --sample-rate and --steps")
    if flags.noise_multiplier is None:
        raise wrong_usage("--noise-multiplier", "missing; or give a FILE")
    noise_multiplier = as_noise_multiplier(flags.noise_multiplier)
    return ((noise_multiplier, *sampling(flags)),)


def sampling(flags: RunFlags) -> tuple[float, int]:
    """Return the sample rate and the number of steps that the flags say.

    With batch and data set size, the rate is one over the number of batches, as Opacus takes it. Epochs make as many
    whole steps as fit into them; where rounding leaves open whether one more does, it is counted.
    """
    if flags.sample_rate is not None and (flags.batch_size, flags.dataset_size) != (None, None):
        raise wrong_usage("--sample-rate", "excludes --batch-size and --dataset-size; leave out one or the others")
    if (flags.batch_size is None) != (flags.dataset_size is None):
        raise wrong_usage("--batch-size", "goes with --dataset-size; give both")
    if (flags.steps is None) == (flags.epochs is None):
        raise wrong_usage(
            "--steps", f"give either --steps or --epochs, not {'neither' if flags.steps is None else 'both'}"
        )
    if flags.batch_size is not None and flags.dataset_size is not None:
        if flags.batch_size > flags.dataset_size:
            raise InvalidParameterError(
                f"batch_size={flags.batch_size} is larger than --dataset-size {flags.dataset_size}; lower it"
            )
        batches = -(-flags.dataset_size // flags.batch_size)
        return 1.0 / batches, _count(flags, float(batches))
    if flags.sample_rate is None:
        raise wrong_usage("--sample-rate", "missing; or give --batch-size and --dataset-size")
    rate = as_sample_rate(flags.sample_rate)
    return rate, _count(flags, 1.0 / rate if rate > 0.0 else math.inf)


def _count(flags: RunFlags, steps_per_epoch: float) -> int:
    """Return the number of steps."""
    if flags.epochs is None:
        return as_steps(flags.steps)
    epochs = as_real("epochs", flags.epochs)
    if not 0.0 < epochs < math.inf:
        raise InvalidParameterError(f"epochs={epochs!r} must be positive and finite")
    steps = epochs * steps_per_epoch * (1.0 + 1e-12)  # 3 / (1 / 75) is 224.99..., and the run takes 225 steps
    if not steps < 2.0**53:
        raise InvalidParameterError(f"epochs={epochs!r} are more than 2**53 steps at this sample rate; give --steps")
    return int(steps)
