"""Training in two processes, started by torchrun and by accelerate: one epsilon, one model, noise once."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import distributed_run as run
import numpy as np
import pytest
import torch
from filelock import FileLock  # comes with torch
from opacus import PrivacyEngine
from scipy.stats import norm
from torch import nn
from torch.utils.data import DataLoader

import opacus_edgeworth as ew
from opacus_edgeworth.mechanisms import DiscreteMechanism

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "several-gpus.md").read_text(encoding="utf-8")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
ACCELERATE = ["-m", "accelerate.commands.launch"]
SIGMAS = 5.0  # of the scatter of a count or a deviation: false alarms below one in a million

pytestmark = pytest.mark.slow


def python(*words: str, cwd: Path = ROOT) -> str:
    """Run this interpreter, and return what it printed."""
    command = [sys.executable, *words]
    with subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            printed, said = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.terminate()  # the launchers then end the processes that they started
            printed, said = process.communicate()
    assert process.returncode == 0, printed[-2000:] + said[-6000:]
    return printed


def private_alone(**options: Any) -> tuple[PrivacyEngine, Any, Any, Any]:
    """Return what Opacus makes in a single process."""
    engine, model = PrivacyEngine(accountant="edgeworth"), run.network()
    options = {"noise_multiplier": run.NOISE, "max_grad_norm": 1.0, "batch": run.BATCH, **options}
    loader = DataLoader(run.examples(), batch_size=options.pop("batch"))
    made = engine.make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.5), data_loader=loader, **options
    )
    return engine, made[0], made[1], made[-1]


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """What one process spent when it wrote the checkpoint that two go on from."""
    return json.loads((folder / "one.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which two processes left what they saw; they run once, however many workers there are."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "distributed"
    with FileLock(base / "distributed.lock"):
        if not folder.exists():
            folder.mkdir()
            engine, module, optimizer, loader = private_alone()
            run.train(module, optimizer, nn.CrossEntropyLoss(), loader)
            engine.save_checkpoint(path=folder / "one.pt", module=module, optimizer=optimizer)
            (folder / "one.json").write_text(json.dumps(run.spent(engine, module)))
            arguments = ("tests/distributed_run.py", str(folder), "--checkpoint", str(folder / "run.pt"))
            (folder / "printed.txt").write_text(python(*TORCHRUN, "2", *arguments))
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    """What each process saw."""
    return [json.loads((folder / f"process{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", run.KINDS)
def test_every_process_has_the_epsilon_of_a_single_one(seen: list[dict[str, Any]], kind: str):
    engine, module, optimizer, loader = private_alone()
    run.train(module, optimizer, nn.CrossEntropyLoss(), loader, epochs=2)
    for process in seen:
        got = process["all_kinds"][kind]
        assert [tuple(phase) for phase in got["history"]] == engine.accountant.history == [(run.NOISE, 1 / 6, 12)]
        assert float.fromhex(got["epsilon"]) == engine.get_epsilon(run.DELTA)
    assert seen[0]["all_kinds"][kind] == seen[1]["all_kinds"][kind]  # the weights, too


def test_each_kind_is_opacus_own_optimizer(seen: list[dict[str, Any]]):
    optimizers = {
        "flat": "DistributedDPOptimizer",
        "per-layer": "SimpleDistributedPerLayerOptimizer",
        "ghost": "DistributedDPOptimizerFastGradientClipping",
        "fsdp": "FSDPOptimizerFastGradientClipping",
    }
    assert {kind: seen[0]["all_kinds"][kind]["optimizer"] for kind in run.KINDS} == {
        kind: optimizers[kind] for kind in run.KINDS
    }


@pytest.mark.parametrize("kind", run.KINDS)
def test_weights_are_those_of_a_single_process(seen: list[dict[str, Any]], kind: str):
    """Without noise and with all examples in every batch: clipped one by one, averaged over all processes."""
    layers = {"max_grad_norm": [run.CLIPPING / 2] * 4, "clipping": "per_layer"} if kind == "per-layer" else {}
    _, module, optimizer, loader = private_alone(
        batch=run.SIZE, noise_multiplier=0.0, **{"max_grad_norm": run.CLIPPING, **layers}
    )
    run.train(module, optimizer, nn.CrossEntropyLoss(), loader, epochs=3)
    expected, start = run.weights(module), run.weights(run.network())
    assert (expected - start).norm() > 0.05
    for process in seen:
        assert torch.tensor(process["exact_gradients"][kind]) == pytest.approx(expected, abs=2e-7)


@pytest.mark.parametrize("kind", run.KINDS)
def test_noise_is_added_once(seen: list[dict[str, Any]], kind: str):
    """Noise from both processes would be larger by 1.41, half of it smaller; 50,000 weights tell 1.6 %."""
    got, count = seen[0]["noise_alone"][kind], 250 * 200
    right = run.QUIET_NOISE * run.CLIPPING / run.QUIET_BATCH
    for deviation, mean in zip(got["deviation"], got["mean"], strict=True):
        assert deviation == pytest.approx(right, rel=SIGMAS / math.sqrt(2 * count))
        assert abs(mean) < SIGMAS * right / math.sqrt(count)
    assert abs(got["between_steps"]) < SIGMAS / math.sqrt(count)
    assert abs(got["between_halves"]) < SIGMAS / math.sqrt(count / 2)  # each process draws for its own half in "fsdp"
    assert got == seen[1]["noise_alone"][kind]


def rates(batches: list[list[int]], members: range) -> list[float]:
    return [sum(member in batch for batch in batches) / len(batches) for member in members]


def test_every_example_is_drawn_at_the_rate_told(seen: list[dict[str, Any]]):
    """Also 7 examples for two processes, in steps of which most are empty in one of them; the draws are independent."""
    rate, first, second = 1 / 7, *(process["sampling"]["example"] for process in seen)
    assert len(first) == len(second) == 2000 * seen[0]["sampling"]["length"] == 14_000
    scatter = math.sqrt(rate * (1 - rate) / 14_000)
    assert rates(first, range(0, 7, 2)) == pytest.approx([rate] * 4, abs=SIGMAS * scatter)
    assert rates(second, range(1, 7, 2)) == pytest.approx([rate] * 3, abs=SIGMAS * scatter)
    for one, other in ((0, 1), (6, 5), (0, 2)):
        together = sum(one in left + right and other in left + right for left, right in zip(first, second, strict=True))
        assert together == pytest.approx(14_000 * rate**2, abs=SIGMAS * math.sqrt(14_000) * rate)


def test_opacus_leaves_empty_parts_out_and_draws_the_others_too_often(seen: list[dict[str, Any]]):
    """What `every_step` is for. If this fails, Opacus has been mended, and the page should say so."""
    counts = []
    for process, size in zip(seen, (4, 3), strict=True):
        batches, rate = process["sampling"]["opacus"], 1 / 7
        assert all(batches)
        taken = 1 - (1 - rate) ** size
        assert len(batches) == pytest.approx(14_000 * taken, abs=SIGMAS * math.sqrt(14_000) / 2)
        members = sorted({member for batch in batches for member in batch})
        scatter = 0.5 / math.sqrt(len(batches))
        assert rates(batches, members) == pytest.approx([rate / taken] * size, abs=SIGMAS * scatter)  # type: ignore[arg-type]
        assert rate / taken > 2 * rate
        counts.append(len(batches))
    assert counts[0] > counts[1] + 500  # so that one process waits in vain for the other


@pytest.mark.parametrize("kind", run.KINDS)
def test_empty_parts_are_trained_on(seen: list[dict[str, Any]], kind: str):
    for process in seen:
        assert process["few_examples"][kind]["history"] == [[run.NOISE, 1 / 9, 9]]
        assert process["few_examples"][kind]["finite"]
    assert seen[0]["few_examples"] == seen[1]["few_examples"]


def test_a_shared_seed_gives_all_processes_the_same_draws_unless_the_loader_has_its_own(seen: list[dict[str, Any]]):
    """With Opacus's loader the places drawn agree: at the first step, or, if its generator was seeded, at all."""
    first, second = (process["same_seed"] for process in seen)
    same = {name: [a == b for a, b in zip(first[name], second[name], strict=True)] for name in first}
    assert same == {
        "default generator": [True] + [False] * 4,  # from then on the first process has drawn noise from it
        "loader's generator": [True] * 5,
        "example": [False] * 5,
    }


def shared_draws(processes: int, noise: float, rate: float) -> DiscreteMechanism:
    """Return a pair that an example has at least, if in each other process one is drawn whenever it is.

    P = (1-q) N(0, s^2) + q N(W, s^2) with the example, Q = (1-q) N(0, s^2) + q N(W-1, s^2) without it, W processes.
    What is seen is which of 60 intervals the output is in, so that lower bounds hold for the output itself.
    """
    edges = np.concatenate([[-np.inf], np.linspace(-4.0 * noise, processes + 6.0 * noise, 59), [np.inf]])
    none, others, each = (np.diff(norm.cdf(edges, loc=mean, scale=noise)) for mean in (0, processes - 1, processes))
    return DiscreteMechanism(tuple((1 - rate) * none + rate * each), tuple((1 - rate) * none + rate * others))


@pytest.mark.parametrize(("processes", "steps", "honest"), [(2, 1000, 10.3), (8, 1000, 23.2), (2, 1, 2.6)])
def test_what_shared_draws_cost(processes: int, steps: int, honest: float):
    """Whoever knows the others sees when they are drawn: nothing is amplified; `steps` of 1,000 are shared."""
    told = ew.PrivacyCurve([(1.0, 0.01, 1000)]).epsilon(run.DELTA).upper
    spent = ew.PrivacyCurve([(shared_draws(processes, 1.0, 0.01), steps), (1.0, 0.01, 1000 - steps)])
    assert round(told, 2) == 1.83
    assert honest <= spent.epsilon(run.DELTA).lower < honest + 0.1
    for number in (1.83, honest):
        assert str(number) in PAGE


def test_single_precision_draws_too_often():
    """Opacus's `torch.rand(n) < rate`: k / 2^24 for whole k, compared in single precision."""
    drawn = torch.rand(100_000, generator=torch.Generator().manual_seed(0)).double() * 2**24
    assert torch.equal(drawn, drawn.round())
    assert (drawn % 2 == 1).any()
    for rate, noise, steps, delta, short in (
        (0.01, 1.0, 10_000, 1e-5, 6e-6),
        (1e-4, 1.0, 10**6, 1e-8, 2e-4),
        (1e-6, 0.7, 10**6, 1e-8, 0.014),
    ):
        near = torch.arange(int(rate * 2**24) - 2, int(rate * 2**24) + 4)
        taken = int(near[near.float() / 2**24 < rate].max()) + 1  # of the 2^24 values, 0 among them
        honest = taken / 2**24
        assert rate < honest <= rate + 2.0**-24
        told = ew.PrivacyCurve([(noise, rate, steps)]).epsilon(delta)
        assert ew.PrivacyCurve([(noise, honest, steps)]).epsilon(delta).lower / told.upper - 1 == pytest.approx(
            short, rel=0.15
        )


def test_batches_come_in_pieces(seen: list[dict[str, Any]]):
    first, second = (process["pieces"] for process in seen)
    assert first["history"] == [[run.NOISE, 1 / 6, 6]]
    assert min(first.pop("loads"), second.pop("loads")) > 6  # of different numbers of pieces, as a rule
    assert first == second


def test_one_process_then_two_then_one(folder: Path, alone: dict[str, Any], seen: list[dict[str, Any]]):
    """The weights, and what was spent, go from one number of processes to the other."""
    for process in seen:
        assert process["go_on"]["weights_before"] == alone["weights"]
        assert process["go_on"]["epsilon_before"] == alone["epsilon"]
        assert process["go_on"]["history"] == [[run.NOISE, 1 / 6, 12]]  # one phase: nothing but the processes changed
    checkpoint = torch.load(folder / "two.pt", weights_only=True)
    assert not list(folder.glob("*.part"))
    state = checkpoint["module_state_dict"]
    for prefix in ("_module.", "module."):
        run.consume_prefix_in_state_dict_if_present(state, prefix)
    engine, module, optimizer, loader = private_alone()
    module._module.load_state_dict(state)
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    engine.accountant.load_state_dict(checkpoint["privacy_accountant_state_dict"])
    assert run.fingerprint(module) == seen[0]["go_on"]["weights"] == seen[1]["go_on"]["weights"]
    assert engine.get_epsilon(run.DELTA).hex() == seen[0]["go_on"]["epsilon"]
    before = engine.get_epsilon(run.DELTA)
    run.train(module, optimizer, nn.CrossEntropyLoss(), loader)
    assert engine.accountant.history == [(run.NOISE, 1 / 6, 18)]
    assert engine.get_epsilon(run.DELTA) > before > float.fromhex(alone["epsilon"])


def test_a_model_is_wrapped_before_make_private(seen: list[dict[str, Any]]):
    """Wrapped by torch or accelerate it is one model; wrapped afterwards, or not at all, each process has its own."""
    weights = {way: {process["wrapped_otherwise"][way]["weights"] for process in seen} for way in WAYS}
    assert {way: len(different) for way, different in weights.items()} == WAYS


WAYS = {"torch first": 1, "accelerate first": 1, "not": 2, "torch late": 2, "accelerate late": 2}


def test_accelerate_only_starts_the_processes(seen: list[dict[str, Any]]):
    got = [dict(process["accelerated"]) for process in seen]
    assert got[0] == got[1]
    assert (got[0]["processes"], got[0]["history"]) == (2, [[run.NOISE, 1 / 6, 12]])
    assert got[0]["epsilon"] == seen[0]["all_kinds"]["flat"]["epsilon"]
    assert (
        got[0]["steps"] == 3
    )  # prepare on a loader of 6 steps: each process draws 6 times and leaves out every second


def commands(start: str) -> list[list[str]]:
    """Return the page's commands that start so, without that word."""
    return [shlex.split(line)[1:] for line in re.findall(rf"^\$ ({start} .*)$", PAGE, flags=re.MULTILINE)]


def epsilons(printed: str, processes: int) -> list[float]:
    found = re.findall(rf"process (\d) of {processes}: epsilon (\S+) at most, after \d+ steps", printed)
    assert sorted(rank for rank, _ in found) == [str(rank) for rank in range(processes)], printed
    return [float(epsilon) for _, epsilon in found]


def test_the_page_commands_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """Torchrun's with two processes (`folder` ran it), with one, going on from the checkpoint; accelerate's."""
    first, second = commands("torchrun")
    script = "examples/train_distributed.py"
    assert first == ["--standalone", "--nproc-per-node", "2", script, "--checkpoint", "run.pt"]
    assert second[:4] == ["--standalone", "--nproc-per-node", "1", script]
    (folder / "run.pt").rename(tmp_path / "run.pt")
    spent = epsilons((folder / "printed.txt").read_text(), 2)
    assert 2.9999 < spent[0] == spent[1] <= 3.0
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, value)  # as torchrun does
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run.example.main(second[4:])
    (more,) = epsilons(capsys.readouterr().out, 1)
    assert 3.9999 < more <= 4.0
    history = torch.load("run.pt", weights_only=True)["privacy_accountant_state_dict"]["history"]
    assert [steps for _, _, steps in history] == [30, 10]

    ((launch, *words),) = commands("accelerate")
    assert (launch, words[:4]) == ("launch", ["--multi_gpu", "--main_process_port", "0", "--num_processes"])
    assert epsilons(python(*ACCELERATE, *words), 2) == spent


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def test_results_can_be_sent_between_processes():
    curve = ew.PrivacyCurve([(1.0, 0.01, 1000), (ew.mechanisms.Laplace(10.0), 3)])
    plan = ew.plan(target_epsilon=3, target_delta=1e-5, dataset_size=50_000, batch_sizes=[512], epochs=[3])
    accountant = ew.EdgeworthAccountant()
    accountant.step(noise_multiplier=1.0, sample_rate=0.01)
    for thing in (
        curve,
        curve.epsilon(1e-5),
        plan,
        ew.EdgeworthApproximation([(1.0, 0.01, 1000)]),
        ew.InvalidParameterError("x"),
    ):
        again = pickle.loads(pickle.dumps(thing))
        assert type(again) is type(thing)
        assert repr(again) == repr(thing)
    assert pickle.loads(pickle.dumps(curve)).epsilon(1e-5) == curve.epsilon(1e-5)
    assert pickle.loads(pickle.dumps(accountant)).get_epsilon(1e-5) == accountant.get_epsilon(1e-5)


def test_the_page_sweeps_in_parallel(tmp_path: Path):
    (block,) = [block for block in re.findall(r"^```py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if "Pool" in block]
    (tmp_path / "sweep.py").write_text(block)
    printed = python("sweep.py", cwd=tmp_path)
    got = [float(number) for number in re.findall(r"\d+\.\d+", printed)]
    assert got == [
        ew.calibrate_noise_multiplier(target_epsilon=epsilon, target_delta=1e-5, sample_rate=0.01, epochs=10)
        for epsilon in (1, 2, 4, 8)
    ]


def test_the_check_knows_the_mistakes_of_several_processes(seen: list[dict[str, Any]]):
    def epsilon(*history: Any) -> float:
        return ew.PrivacyCurve(history).epsilon(1e-4).upper

    for process in seen:
        checked = process["checked"]
        assert set(checked["example"]["findings"]) == {"insecure-noise"}
        assert checked["example"]["epsilon"] == epsilon((run.NOISE, 0.05, 20))
        assert checked["one seed"]["findings"]["one-seed"] == epsilon((run.NOISE, 1.0, 20))
        assert "one-seed" not in checked["example"]["findings"]
        assert checked["few in each part"]["findings"]["empty-parts-skipped"] == math.inf
        assert checked["each for itself"]["findings"]["each-for-itself"] == epsilon((run.NOISE, 0.05, 40))
        assert checked["each for itself"]["epsilon"] > checked["each for itself"]["reported"]
        assert set(checked["one loader"]["findings"]) == {"one-loader-for-all", "loader-changed", "insecure-noise"}
        # an example may be in both parts of a step, and is in one of them about twice as often
        assert checked["one loader"]["epsilon"] == epsilon((run.NOISE / 2, 0.1, 20))
