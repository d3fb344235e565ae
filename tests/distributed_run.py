"""What each of several processes sees; `test_distributed` starts it under torchrun and judges what it writes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from opacus import PrivacyEngine
from opacus.distributed import DifferentiallyPrivateDistributedDataParallel
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import opacus_edgeworth as ew
from opacus_edgeworth.sampling import PoissonSampler

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # a folder of programs, not a package
example = importlib.import_module("train_distributed")

KINDS = [kind for kind in example.KINDS if kind != "fsdp" or importlib.util.find_spec("opacus.utils.fsdp_utils")]
SIZE, BATCH, NOISE, DELTA = 61, 12, 1.1, 1e-5  # 61 examples cannot be shared out evenly
CLIPPING, QUIET_NOISE, QUIET_BATCH = 0.7, 1.5, 8


def examples(count: int = SIZE) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    return TensorDataset(torch.randn(count, 6, generator=generator), torch.arange(count) % 3)


def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def weights(module: nn.Module) -> torch.Tensor:
    """Return all parameters in a row, put together again where processes share them out."""
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in (q.detach() for q in module.parameters())]
    return torch.cat([p.flatten() for p in whole])


def fingerprint(module: nn.Module) -> str:
    return hashlib.sha256(weights(module).numpy().tobytes()).hexdigest()


def train(module: Any, optimizer: Any, criterion: Any, loader: Any, epochs: int = 1) -> None:
    for _ in range(epochs):
        example.train(module, optimizer, criterion, loader, torch.device("cpu"))


def spent(engine: PrivacyEngine, module: nn.Module) -> dict[str, Any]:
    return {
        "history": engine.accountant.history,
        "epsilon": engine.get_epsilon(DELTA).hex(),
        "weights": fingerprint(module),
        "finite": bool(torch.isfinite(weights(module)).all()),
    }


def all_kinds(folder: Path) -> dict[str, Any]:
    """Train privately, each way there is."""
    result = {}
    for kind in KINDS:
        torch.manual_seed(dist.get_rank())  # models differ before they are wrapped
        engine = PrivacyEngine(accountant="edgeworth")
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        made = example.make_private(engine, model, examples(), kind=kind, batch_size=BATCH, noise_multiplier=NOISE)
        train(*made, epochs=2)
        result[kind] = {"optimizer": type(made[1]).__name__, **spent(engine, made[0])}
    return result


def few_examples(folder: Path) -> dict[str, Any]:
    """Train where most parts of a batch are empty."""
    result = {}
    for kind in KINDS:
        engine = PrivacyEngine(accountant="edgeworth")
        made = example.make_private(engine, network(), examples(9), kind=kind, batch_size=1, noise_multiplier=NOISE)
        train(*made)
        result[kind] = spent(engine, made[0])
    return result


def exact_gradients(folder: Path) -> dict[str, Any]:
    """Train without noise on all examples at once: the weights are those of one process."""
    result = {}
    for kind in KINDS:
        engine = PrivacyEngine(accountant="edgeworth")
        made = example.make_private(
            engine, network(), examples(), kind=kind, batch_size=SIZE, noise_multiplier=0.0, max_grad_norm=CLIPPING
        )
        train(*made, epochs=3)
        result[kind] = weights(made[0]).tolist()
    return result


def noise_alone(folder: Path) -> dict[str, Any]:
    """Train where all gradients are zero: every change of the weights is noise, -N(0, (noise * clipping / batch)^2)."""
    result = {}
    quiet = TensorDataset(torch.zeros(40, 250), torch.zeros(40, dtype=torch.long))
    for kind in KINDS:
        made = example.make_private(
            PrivacyEngine(accountant="edgeworth"), nn.Sequential(nn.Linear(250, 200, bias=False)), quiet, kind=kind,
            batch_size=QUIET_BATCH, noise_multiplier=QUIET_NOISE, max_grad_norm=CLIPPING, learning_rate=1.0,
        )  # fmt: skip
        module, optimizer, criterion, loader = made
        before, changes = weights(module), []
        for inputs, labels in list(loader)[:2]:
            optimizer.zero_grad()
            criterion(module(inputs), labels).backward()
            optimizer.step()
            changes.append(weights(module) - before)
            before = weights(module)
        upper, lower = changes[0].chunk(2)
        result[kind] = {
            "deviation": [float(change.std()) for change in changes],
            "mean": [float(change.mean()) for change in changes],
            "between_steps": float(torch.corrcoef(torch.stack(changes))[0, 1]),
            "between_halves": float(torch.corrcoef(torch.stack([upper, lower]))[0, 1]),
            "weights": fingerprint(module),
        }
    return result


def opacus_private(count: int, batch: int, **options: Any) -> tuple[Any, Any, Any]:
    """Return model, optimizer and loader as Opacus makes them."""
    model = DifferentiallyPrivateDistributedDataParallel(network())
    return PrivacyEngine(accountant="edgeworth").make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(examples(count), batch_size=batch, **options),
        noise_multiplier=NOISE,
        max_grad_norm=1.0,
    )


def drawn(loader: Any, epochs: int) -> list[list[int]]:
    return [sorted(int(i) for i in batch) for _ in range(epochs) for batch in loader.batch_sampler]


def sampling(folder: Path) -> dict[str, Any]:
    """Draw from Opacus's sampler and from the example's, each example expected once in 7 steps."""
    torch.manual_seed(1000 + dist.get_rank())
    loader = opacus_private(7, 1)[-1]
    return {"opacus": drawn(loader, 2000), "example": drawn(example.every_step(loader), 2000), "length": len(loader)}


def places_trained_on(private: tuple[Any, Any, Any]) -> list[list[int]]:
    """Train on 200 examples for an epoch; return which places in this process's part each step took."""
    module, optimizer, loader = private
    rows = {float(row[0]): index for index, (row, _) in enumerate(examples(200))}
    part = part_of(loader)
    places = []
    for inputs, labels in loader:
        places.append(sorted(part.index(rows[float(row[0])]) for row in inputs))
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), labels).backward()
        optimizer.step()
    return places


def part_of(loader: Any) -> list[int]:
    """Return the examples that this process draws from, in its order."""
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    own = isinstance(loader.batch_sampler, PoissonSampler)
    return (torch.arange(200) if own else order)[dist.get_rank() :: dist.get_world_size()].tolist()


def same_seed(folder: Path) -> dict[str, Any]:
    """Train after every process has set the same seed, as most programs do."""
    torch.manual_seed(0)
    shared_default = places_trained_on(opacus_private(200, 40))
    shared_generator = places_trained_on(opacus_private(200, 40, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    engine = PrivacyEngine(accountant="edgeworth")
    module, optimizer, _, loader = example.make_private(
        engine, network(), examples(200), batch_size=40, noise_multiplier=NOISE
    )
    own = places_trained_on((module, optimizer, loader))
    return {"default generator": shared_default, "loader's generator": shared_generator, "example": own}


def pieces(folder: Path) -> dict[str, Any]:
    """Take batches in pieces of at most three examples, of which the processes have different numbers."""
    engine = PrivacyEngine(accountant="edgeworth")
    module, optimizer, criterion, loader = example.make_private(
        engine, network(), examples(), batch_size=BATCH, noise_multiplier=NOISE
    )
    loads = 0
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=3, optimizer=optimizer) as in_pieces:
        for inputs, labels in in_pieces:
            loads += 1
            optimizer.zero_grad()
            criterion(module(inputs), labels).backward()
            optimizer.step()
    return {"loads": loads, **spent(engine, module)}


def go_on(folder: Path) -> dict[str, Any]:
    """Go on from the checkpoint that one process wrote, and write another."""
    checkpoint = example.read(folder / "one.pt")
    state = checkpoint["module_state_dict"]
    for prefix in ("_module.", "module."):
        consume_prefix_in_state_dict_if_present(state, prefix)
    model = network()
    model.load_state_dict(state)
    engine = PrivacyEngine(accountant="edgeworth")
    engine.accountant.load_state_dict(checkpoint["privacy_accountant_state_dict"])
    made = example.make_private(engine, model, examples(), batch_size=BATCH, noise_multiplier=NOISE)
    made[1].load_state_dict(checkpoint["optimizer_state_dict"])
    before = {"weights_before": fingerprint(made[0]), "epsilon_before": engine.get_epsilon(DELTA).hex()}
    train(*made)
    example.save(folder / "two.pt", engine, made[0], made[1])
    return {**before, **spent(engine, made[0])}


def wrapped_otherwise(folder: Path) -> dict[str, Any]:
    """Wrap the model before make_private, as torch or accelerate do; not at all; or afterwards."""
    result = {}
    for way in ("torch first", "accelerate first", "not", "torch late", "accelerate late"):
        model, engine = network(), PrivacyEngine(accountant="edgeworth")
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
        if way == "torch first":
            model = DistributedDataParallel(model)
        elif way == "accelerate first":
            model, optimizer = Accelerator(cpu=True).prepare(model, optimizer)
        torch.manual_seed(dist.get_rank())
        module, optimizer, loader = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=DataLoader(examples(), batch_size=SIZE),
            noise_multiplier=NOISE,
            max_grad_norm=1.0,
        )
        if way == "torch late":
            module = DistributedDataParallel(module)
        elif way == "accelerate late":
            module, optimizer = Accelerator(cpu=True).prepare(module, optimizer)
        train(module, optimizer, nn.CrossEntropyLoss(), loader)
        result[way] = spent(engine, module)
    return result


def accelerated(folder: Path) -> dict[str, Any]:
    """Use accelerate to start, and nothing else of it; then its prepare on a loader that is private already."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    engine = PrivacyEngine(accountant="edgeworth")
    made = example.make_private(engine, network(), examples(), batch_size=BATCH, noise_multiplier=NOISE)
    train(*made, epochs=2)
    result = {"processes": accelerator.num_processes, "device": accelerator.device.type, **spent(engine, made[0])}
    prepared = accelerator.prepare(example.every_step(opacus_private(300, 50)[-1]))
    return {**result, "steps": sum(1 for _ in prepared)}


def checked(folder: Path) -> dict[str, Any]:
    """Check training loops: the example's, and those with the mistakes of Opacus's sampler and of its users."""
    example_made = example.make_private(
        PrivacyEngine(accountant="edgeworth"), network(), examples(2000), batch_size=100, noise_multiplier=NOISE
    )
    unwrapped = network()
    alone = ew.PrivacyEngine(on_mistake="ignore").make_private(
        module=unwrapped, optimizer=torch.optim.SGD(unwrapped.parameters(), lr=0.1), noise_multiplier=NOISE,
        data_loader=DataLoader(examples(2000), batch_size=100), max_grad_norm=1.0,
    )  # fmt: skip
    loops = {
        "example": example_made,
        "few in each part": opacus_private(200, 4),
        "one seed": opacus_private(2000, 100, generator=torch.Generator().manual_seed(0)),
        "each for itself": alone,
        "one loader": (*opacus_private(2000, 100)[:2], alone[-1]),  # of one process, for a model of several
    }
    results = {name: ew.check(made, delta=1e-4) for name, made in loops.items()}
    return {
        name: {
            "findings": {finding.name: finding.epsilon for finding in result.findings},
            "reported": result.reported_epsilon,
            "epsilon": result.epsilon,
        }
        for name, result in results.items()
    }


SCENES = (
    all_kinds, few_examples, exact_gradients, noise_alone, sampling, same_seed, pieces, go_on, wrapped_otherwise,
    accelerated, checked,
)  # fmt: skip


def main(folder: Path, *arguments: str) -> None:
    """Play the scenes; then run the example itself, with these arguments."""
    warnings.simplefilter("ignore")
    example.start_processes()
    result = {scene.__name__: scene(folder) for scene in SCENES}
    (folder / f"process{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.barrier()
    example.main(arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
