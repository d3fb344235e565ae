"""A run that is killed and resumed ends as if nothing had happened; checkpoints that do not fit are refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

import opacus_edgeworth as ew
from opacus_edgeworth.errors import CheckpointError
from opacus_edgeworth.finetune import finetune
from opacus_edgeworth.finetune.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from opacus_edgeworth.finetune.randomness import make_randomness

STEPS = 20
SETTINGS: dict[str, Any] = {
    "target_epsilon": 8.0, "epochs": STEPS // 4, "batch_size": 30, "progress": False, "method": "lora", "top_layers": 2,
    "dropout": 0.1, "checkpoint_every": 3, "learning_rate": 1e-2, "schedule": "linear",
}  # fmt: skip


def run(folder: Path, **settings: Any):
    return finetune(folder.parent / "model", tiny.texts(120), output=folder, **{"seed": 0} | SETTINGS | settings)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch):
    from opacus_edgeworth.finetune.folder import RunFolder

    original = RunFolder.add

    def add(self: RunFolder, record: dict[str, Any]) -> None:
        original(self, record)
        if record["step"] == step:
            raise StoppedError

    monkeypatch.setattr(RunFolder, "add", add)


def test_killed_run_ends_as_if_nothing_had_happened(tmp_path: Path):
    tiny.saved_model(tmp_path / "model")
    whole = run(tmp_path / "whole")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_finetune_resume as t; from pathlib import Path;"
        " t.run(Path(sys.argv[2]), resume=True)"
    )
    folder = tmp_path / "killed"
    command = [sys.executable, "-W", "ignore", "-c", program, str(Path(__file__).parent), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    at = random.Random().randrange(4, STEPS - 2)  # any step will do: that is the claim
    log, patience = folder / "training_log.jsonl", time.monotonic() + 120.0
    while not (log.exists() and len(log.read_text().splitlines()) >= at):
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        assert time.monotonic() < patience
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (folder / "checkpoint.pt").exists()
    assert not (folder / "privacy.json").exists()
    resumed = run(folder, resume=True)
    assert resumed.epsilon == whole.epsilon
    assert resumed.history == whole.history
    ours, theirs = weights(folder), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    kept = [[{k: v for k, v in record.items() if k != "seconds"} for record in r.log] for r in (whole, resumed)]
    assert kept[0] == kept[1]
    assert len((folder / "training_log.jsonl").read_text().splitlines()) == STEPS
    assert not (folder / "checkpoint.pt").exists()


def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Path:
    """Return the folder of a run that stopped after seven steps."""
    tiny.saved_model(tmp_path / "model")
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(StoppedError):
            run(folder, **settings)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": None},
        {"method": "full", "top_layers": None, "grad_sample_mode": "ghost", "dropout": 0.0},
        {"method": "lora", "top_layers": 1, "dropout": 0.0, "pooling": "mean"},
    ],
    ids=["no seed", "ghost", "cached"],
)
def test_stopped_run_goes_on_from_its_checkpoint(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = stopped(tmp_path, monkeypatch, **settings)
    before = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert len(before) == 7
    result = run(folder, resume=True, **settings)
    assert result.steps == STEPS
    assert result.epsilon.upper == pytest.approx(8.0, rel=1e-6)
    assert [record["step"] for record in result.log] == list(range(1, STEPS + 1))
    for old, new in zip(before, result.log, strict=False):
        assert (old["loss"], old["epsilon_upper"]) == (new["loss"], new["epsilon_upper"])  # step 7 is taken again


def test_folder_of_a_stopped_run_is_not_taken_by_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = stopped(tmp_path, monkeypatch)
    with pytest.raises(ew.InvalidParameterError, match="was stopped; go on with it by resume=True"):
        run(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 2e-2}, "learning_rate was 0.01 and is 0.02"),
        ({"target_epsilon": 4.0}, "target_epsilon was 8.0 and is 4.0"),
        ({"seed": 1}, "seed was 0 and is 1"),
    ],
)
def test_other_settings_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = stopped(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match=message):
        run(folder, resume=True, **settings)


def test_other_data_or_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = stopped(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="the training data was"):
        finetune(folder.parent / "model", tiny.texts(120, seed=9), output=folder, resume=True, seed=0, **SETTINGS)
    changed = tiny.model()
    changed.bert.embeddings.word_embeddings.weight.data[7] += 0.5
    changed.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="the frozen weights was"):
        run(folder, resume=True)


@pytest.mark.parametrize("damage", ["cut short", "one bit", "another file", "empty"])
def test_damaged_checkpoint_is_refused(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = stopped(tmp_path, monkeypatch)
    path = folder / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    damaged = {"cut short": bytes(content[:-100]), "one bit": bytes(content), "another file": b"hello", "empty": b""}
    path.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        run(folder, resume=True)


def test_checkpoint_with_an_impossible_history_is_refused(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(Checkpoint({"a": 1}, [(1.0, 7.0, 3)], {}, {}, {}), path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path, {"a": 1})


def test_interrupted_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(Checkpoint({"a": 1}, [(1.0, 0.5, 3)], {}, {}, {}), path)
    monkeypatch.setattr("opacus_edgeworth.finetune.checkpoint.os.fsync", lambda _: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):  # noqa: PT011 - the one raised above
        save_checkpoint(Checkpoint({"a": 1}, [(1.0, 0.5, 4)], {}, {}, {}), path)
    assert load_checkpoint(path, {"a": 1}).history == [(1.0, 0.5, 3)]


def test_unseeded_generators_take_all_their_state_from_entropy():
    first, second = (make_randomness(None, torch.device("cpu")).noise for _ in range(2))
    states = [generator.get_state()[24 : 24 + 8 * 624].view(torch.int64) for generator in (first, second)]
    assert (states[0] != states[1]).double().mean() > 0.99
    assert states[0].max() < 2**32
    seeded = torch.Generator().manual_seed(int(first.initial_seed()))
    assert not torch.equal(torch.rand(5, generator=seeded), torch.rand(5, generator=first))
    sample = torch.randn(200_000, generator=second)
    assert abs(float(sample.mean())) < 0.012
    assert abs(float(sample.std()) - 1.0) < 0.01
