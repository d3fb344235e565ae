"""Private training in several processes: one model, one epsilon, the same in each of them.

    torchrun --standalone --nproc-per-node 2 examples/train_distributed.py
    accelerate launch --multi_gpu --num_processes 2 examples/train_distributed.py

Each process has its own GPU, or they share the processor. A checkpoint may be resumed in another number of processes.
Two functions are to be copied whatever the model is: `private_loader` and `every_step`, without which Opacus may spend
more than it reports (docs/how-to/several-gpus.md says when, and how much).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from opacus import PrivacyEngine
from opacus.data_loader import DPDataLoader
from opacus.distributed import DifferentiallyPrivateDistributedDataParallel
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import opacus_edgeworth as ew
from opacus_edgeworth.sampling import exact_sampling

KINDS: dict[str, dict[str, Any]] = {
    "flat": {},
    "per-layer": {"clipping": "per_layer"},
    "ghost": {"grad_sample_mode": "ghost"},
    "fsdp": {"grad_sample_mode": "ghost_fsdp"},
}
"""What Opacus calls its ways to clip in several processes; "fsdp" shares the model's weights out as well."""


# --8<-- [start:loader]
def private_loader(data: Dataset[Any], batch_size: int) -> DataLoader[Any]:
    """Return a loader for make_private; batch_size is expected in all processes together.

    It has a generator of its own: with the default one, torch.manual_seed makes all processes draw the same.
    """
    generator = torch.Generator()
    generator.seed()
    return DataLoader(data, batch_size=batch_size, generator=generator)


def every_step(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return the loader that make_private made, with a sampler that leaves no step out, and draws at the very rate."""
    if not isinstance(loader, DPDataLoader) or not loader.distributed:
        raise TypeError("make_private was not given a model wrapped for several processes, or poisson_sampling=False")
    return exact_sampling(loader)


# --8<-- [end:loader]
def start_processes() -> torch.device:
    """Join the group of processes that the launcher started, if that was not done yet; return this one's device."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return device


# --8<-- [start:private]
def make_private(
    engine: PrivacyEngine,
    model: nn.Module,
    data: Dataset[Any],
    *,
    kind: str = "flat",
    batch_size: int,
    noise_multiplier: float,
    max_grad_norm: float = 1.0,
    learning_rate: float = 0.5,
) -> tuple[Any, Any, Any, DataLoader[Any]]:
    """Return model, optimizer, criterion and loader as they are to be used; `model` is on its device already."""
    # the model is wrapped first: make_private looks for that
    if kind == "fsdp":
        from opacus.utils.fsdp_utils import FSDP2Wrapper  # since Opacus 1.6

        wrapped = FSDP2Wrapper(model)
    else:
        wrapped = DifferentiallyPrivateDistributedDataParallel(model)
    parameters = list(wrapped.parameters())
    per_layer = [max_grad_norm / len(parameters) ** 0.5] * len(parameters)
    criterion = nn.CrossEntropyLoss()
    made = engine.make_private(
        module=wrapped,
        optimizer=torch.optim.SGD(parameters, lr=learning_rate),
        criterion=criterion,
        data_loader=private_loader(data, batch_size),
        noise_multiplier=noise_multiplier,
        max_grad_norm=per_layer if kind == "per-layer" else max_grad_norm,
        **KINDS[kind],
    )
    module, optimizer, *own_criterion, loader = made  # the ghost kinds bring a criterion of theirs
    return module, optimizer, own_criterion[0] if own_criterion else criterion, every_step(loader)


# --8<-- [end:private]
# --8<-- [start:checkpoint]
def save(path: Path, engine: PrivacyEngine, module: nn.Module, optimizer: Any) -> None:
    """Write a checkpoint, once for all processes, whole or not at all."""
    if dist.get_rank() == 0:
        unfinished = path.with_suffix(".part")
        engine.save_checkpoint(path=unfinished, module=module, optimizer=optimizer)
        unfinished.replace(path)
    dist.barrier()


def read(path: Path) -> dict[str, Any]:
    """Return what `save` wrote; to be called in every process, so that each knows what was spent. No code is run."""
    return torch.load(path, map_location="cpu", weights_only=True)


# --8<-- [end:checkpoint]
def two_classes(count: int, seed: int) -> TensorDataset:
    """Return made-up examples of two classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return TensorDataset(torch.randn(count, 20, generator=generator) + 0.5 * labels[:, None], labels)


def train(module: nn.Module, optimizer: Any, criterion: Any, loader: DataLoader[Any], device: torch.device) -> None:
    """Take one epoch."""
    module.train()
    for inputs, labels in loader:
        optimizer.zero_grad()
        criterion(module(inputs.to(device)), labels.to(device)).backward()
        optimizer.step()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; every process prints its epsilon."""
    parser = argparse.ArgumentParser(description="Private training in several processes.")
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=200, help="expected, in all processes together")
    parser.add_argument("--kind", choices=KINDS, default="flat", help="how gradients are clipped and weights stored")
    parser.add_argument("--checkpoint", type=Path, help="written after every epoch, and resumed if it is there")
    options = parser.parse_args(arguments)
    if options.kind == "fsdp" and options.checkpoint:
        parser.error("--checkpoint is for whole models; shared-out ones need torch.distributed.checkpoint")

    device = start_processes()
    data = two_classes(2000, seed=0)
    rate = 1 / len(DataLoader(data, batch_size=options.batch_size))  # Opacus's: one over the number of batches
    steps = round(options.epochs / rate)
    engine = PrivacyEngine(accountant="edgeworth")
    checkpoint = read(options.checkpoint) if options.checkpoint and options.checkpoint.exists() else None
    if checkpoint:
        engine.accountant.load_state_dict(checkpoint["privacy_accountant_state_dict"])
    noise = ew.calibrate_noise_multiplier(
        target_epsilon=options.epsilon,
        target_delta=options.delta,
        sample_rate=rate,
        steps=max(steps - len(engine.accountant), 1),
        spent=engine.accountant.history,
    )
    model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 2)).to(device)
    module, optimizer, criterion, loader = make_private(
        engine, model, data, kind=options.kind, batch_size=options.batch_size, noise_multiplier=noise
    )
    if checkpoint:
        module.load_state_dict(checkpoint["module_state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    while len(engine.accountant) < steps:
        train(module, optimizer, criterion, loader, device)
        if options.checkpoint:
            save(options.checkpoint, engine, module, optimizer)
    said = f"epsilon {engine.get_epsilon(options.delta)!r} at most, after {len(engine.accountant)} steps"
    print(f"process {dist.get_rank()} of {dist.get_world_size()}: {said}", flush=True)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
