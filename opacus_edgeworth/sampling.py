"""Poisson sampling as the accountant takes it: to the last bit of the rate, and in every step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from opacus_edgeworth._validate import as_sample_rate
from opacus_edgeworth.errors import InvalidParameterError

__all__ = ["PoissonSampler", "exact_sampling"]

BITS = 53
"""Of a draw in double precision."""


class PoissonSampler(Sampler[list[int]]):
    """A batch sampler: each example enters each batch on its own with one probability.

    Opacus compares draws in single precision, which raises the probability to the next multiple of 2^-24 or so, and in
    several processes it leaves out steps in which a process has no example. This one draws in double precision, rounds
    the rate down to a multiple of 2^-53, and yields every batch, the empty ones too.

    Args:
      examples: how many there are, >= 1.
      sample_rate: the probability, in (0, 1].
      steps: batches in an epoch; int(1 / sample_rate) by default, as Opacus has it.
      generator: of the draws; torch's default one if None.
      rank: of this process, where there are several.
      processes: how many there are; each draws from its own part of the examples, and no two may share a seed.

    Raises:
      InvalidParameterError: an argument is outside its range.
    """

    def __init__(
        self,
        examples: int,
        sample_rate: float,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        rate = as_sample_rate(sample_rate)
        if not rate > 0.0:
            raise InvalidParameterError("sample_rate=0.0 must be > 0; no example would ever be drawn")
        if not 0 <= rank < processes <= examples:
            raise InvalidParameterError(
                f"rank={rank!r}, processes={processes!r}, examples={examples!r}: 0 <= rank < processes <= examples"
            )
        self.num_samples, self.sample_rate = examples, rate
        self.steps = int(1 / rate) if steps is None else steps
        self.generator, self.rank, self.processes = generator, rank, processes

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        # on the CPU, whatever torch's default device is: others' draws may be 1 before they are put to 0
        part = torch.arange(self.rank, self.num_samples, self.processes, device="cpu")
        most = math.ldexp(math.floor(math.ldexp(self.sample_rate, BITS)), -BITS)
        for _ in range(self.steps):
            drawn = torch.rand(len(part), dtype=torch.float64, generator=self.generator, device="cpu") < most
            yield part[drawn].tolist()


def exact_sampling(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a private data loader with a `PoissonSampler` in place of Opacus's sampler, all else being as it was.

    Args:
      loader: what `PrivacyEngine.make_private` returned, for one process or several.

    Raises:
      InvalidParameterError: it does not draw Poisson batches.
    """
    sampler = loader.batch_sampler
    rate = getattr(sampler, "sample_rate", None)
    if rate is None:
        raise InvalidParameterError(
            f"loader={type(loader).__name__} does not draw Poisson batches; pass what make_private returned, with"
            " poisson_sampling=True"
        )
    own = PoissonSampler(
        len(loader.dataset),  # type: ignore[arg-type]
        rate,
        steps=len(loader),
        generator=getattr(sampler, "generator", None),
        rank=getattr(sampler, "rank", 0),
        processes=getattr(sampler, "num_replicas", 1),
    )
    options: dict[str, Any] = {}
    if loader.num_workers > 0:
        options = {
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    return DataLoader(
        loader.dataset,
        batch_sampler=own,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        **options,
    )
