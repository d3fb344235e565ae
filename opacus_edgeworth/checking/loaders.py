"""What a data loader does with the examples, read from its samplers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from opacus.utils.uniform_sampler import DistributedUniformWithReplacementSampler, UniformWithReplacementSampler
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from opacus_edgeworth.sampling import PoissonSampler

PIECES, SHARD = "BatchSplittingSampler", "BatchSamplerShard"
"""Samplers that pass another's batches on: in pieces, as BatchMemoryManager has it, or in turn, as accelerate does."""
SEEDED = "SeedableRandomSampler"
"""accelerate's RandomSampler, which shuffles by the epoch's number and a seed."""
DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
"""Of the draws of torch.rand."""
Kind = Literal["poisson", "fixed", "repeating", "unknown"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a loader makes batches.

    Args:
      kind: "poisson": each example on its own; "fixed": each in one batch of an epoch at most, shuffled or in order;
        "repeating": an example may be in many batches, and several times in one; "unknown": none of those is known.
      says: it, in words.
      batches: in an epoch, at least 1.
      batch_size: the largest one, where it is known.
      rate: what a Poisson sampler was given; `drawn_rate` is with what probability it draws.
      population: how many examples the sampler knows of; `examples`, how many the data set has.
      part: the least number of examples that one process draws from; `processes`, among how many the sampler divides
        them.
      skips_empty: whether a process's empty part of a batch is left out.
      perhaps_seeded: whether other processes may have the same generator: torch's default one, or one with a seed as
        people choose it.
    """

    kind: Kind
    says: str
    batches: int
    batch_size: int | None
    rate: float | None
    drawn_rate: float | None
    population: int
    examples: int
    part: int
    processes: int
    skips_empty: bool
    perhaps_seeded: bool


def sampling_of(loader: DataLoader[Any]) -> Sampling:
    """Return what a loader does."""
    if isinstance(loader.dataset, IterableDataset):
        return _sampling(loader, "unknown", "a stream, in whatever order it comes", examples=0, batches=1)
    sampler: Any = loader.batch_sampler
    while type(sampler).__name__ == PIECES:
        sampler = sampler.sampler
    epoch, shards = len(sampler) if hasattr(sampler, "__len__") else len(loader), []
    while type(sampler).__name__ == SHARD:
        shards.append(sampler)
        sampler = sampler.batch_sampler
    if type(sampler).__name__ == PIECES:
        return _sampling(loader, "unknown", "pieces of batches, divided among processes")
    if type(sampler) is PoissonSampler:
        return _poisson(loader, sampler, sampler.sample_rate, sampler.num_samples, sampler.processes, False)
    if type(sampler) is UniformWithReplacementSampler:
        return _poisson(loader, sampler, single_precision_rate(sampler.sample_rate), sampler.num_samples, 1, False)
    if type(sampler) is DistributedUniformWithReplacementSampler:
        drawn = single_precision_rate(sampler.sample_rate)
        return _poisson(loader, sampler, drawn, sampler.total_size, sampler.num_replicas, True)
    if type(sampler) is not BatchSampler:
        return _sampling(loader, "unknown", f"batches of {type(sampler).__name__}, which is not known here")
    return _batches_of(loader, sampler, max(epoch, 1), shards)


def single_precision_rate(rate: float) -> float:
    """Return the probability with which torch.rand(...) < rate holds, draws being whole multiples of 2^-24.

    The comparison is in single precision, and rounds the rate first; of the multiples, 0 is the first below it. Torch's
    default type decides how many bits there are. Off the CPU, if that is torch's default device, draws are multiples of
    2^-32, rounded, and 0 where that gives 1: the result is an upper bound then.
    """
    kind = torch.get_default_dtype()
    digits, rounded = DIGITS.get(kind, 8), float(torch.tensor(rate, dtype=kind, device="cpu"))
    if digits < 24:  # whether the rate is rounded is not for certain
        rounded = max(rounded, rate)
    drawn = math.ldexp(math.ceil(math.ldexp(rounded, digits)), -digits)
    if torch.empty(0).device.type != "cpu":
        drawn = max(drawn, rounded * (1.0 + 4.0 * 2.0**-digits) + 2.0**-31) + 2.0**-digits
    return min(drawn, 1.0)


def _batches_of(loader: DataLoader[Any], batches: BatchSampler, epoch: int, shards: list[Any]) -> Sampling:
    """Return what torch's usual batches of one of its samplers are, an epoch having so many in this process."""
    sampler, size = batches.sampler, int(batches.batch_size)
    examples = len(loader.dataset)  # type: ignore[arg-type]
    name = type(sampler).__name__
    processes = math.prod(shard.num_processes for shard in shards) * getattr(sampler, "num_replicas", 1)
    counts = {"batches": epoch, "processes": processes}
    if isinstance(sampler, WeightedRandomSampler) or (isinstance(sampler, RandomSampler) and sampler.replacement):
        says = f"batches of {size} drawn with replacement ({name})"
        return _sampling(loader, "repeating", says, size, **counts)
    if any(shard.even_batches and not batches.drop_last for shard in shards) and examples % (size * processes):
        says = f"batches of {size} ({name}), filled up with examples of the first ones"
        return _sampling(loader, "unknown", says, size, **counts)
    if _draws_once(sampler, examples):
        order = "in order" if type(sampler) is SequentialSampler else "shuffled"
        return _sampling(loader, "fixed", f"fixed batches of {size}, {order} ({name})", size, **counts)
    if type(sampler) is DistributedSampler and (sampler.drop_last or examples % sampler.num_replicas == 0):
        return _sampling(loader, "fixed", f"fixed batches of {size} in each process ({name})", size, **counts)
    says = f"batches of {size} of {name}, which may repeat examples"
    return _sampling(loader, "unknown", says, size, **counts)


def _draws_once(sampler: Any, examples: int) -> bool:
    """Whether a sampler is known to draw an example at most once in an epoch."""
    if type(sampler) is SubsetRandomSampler:
        return len(set(sampler.indices)) == len(sampler.indices)
    known = type(sampler) in (RandomSampler, SequentialSampler) or type(sampler).__name__ == SEEDED
    return known and len(sampler) <= examples


def _poisson(
    loader: DataLoader[Any], sampler: Any, drawn_rate: float, population: int, processes: int, skips_empty: bool
) -> Sampling:
    """Return a Poisson sampler's doing."""
    says = f"Poisson batches at the rate {sampler.sample_rate!r}"
    generator = sampler.generator
    perhaps_seeded = generator is None or (hasattr(generator, "initial_seed") and generator.initial_seed() < 2**32)
    return Sampling(
        "poisson",
        says,
        max(len(sampler), 1),
        None,
        float(sampler.sample_rate),
        drawn_rate,
        population,
        len(loader.dataset),  # type: ignore[arg-type]
        population // processes,
        processes,
        skips_empty,
        perhaps_seeded,
    )


def _sampling(
    loader: DataLoader[Any],
    kind: Kind,
    says: str,
    batch_size: int | None = None,
    *,
    examples: int | None = None,
    batches: int | None = None,
    processes: int = 1,
) -> Sampling:
    """Return what another sampler does."""
    count = len(loader.dataset) if examples is None else examples  # type: ignore[arg-type]
    epoch = max(len(loader), 1) if batches is None else batches
    return Sampling(kind, says, epoch, batch_size, None, None, count, count, count, processes, False, False)
