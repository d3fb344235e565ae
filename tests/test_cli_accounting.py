"""The commands that account: what they read, what they print, and how they end."""

import doctest
import importlib
import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import failing_peers
import numpy as np
import pytest
import torch
from opacus import PrivacyEngine
from opacus.accountants import create_accountant
from typer.testing import CliRunner
from versions import saves_names

import opacus_edgeworth as ew
from opacus_edgeworth import checkpoints, rounding
from opacus_edgeworth.cli import compare as compare_module
from opacus_edgeworth.cli import exits
from opacus_edgeworth.cli.app import app
from opacus_edgeworth.cli.peers import PEERS, Peer
from opacus_edgeworth.finetune import checkpoint as finetune_checkpoint
from opacus_edgeworth.histories import read_history

WIDE = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}
HISTORY = [(1.0, 0.01, 1000), (0.8, 0.02, 50)]
PHASES = tuple(HISTORY)
RUN = ("--noise-multiplier", "1", "--sample-rate", "0.01", "--steps", "1000")
CSV = "noise_multiplier,sample_rate,steps\n1.0,0.01,1000\n0.8,0.02,50\n"
OBJECTS = [{"noise_multiplier": s, "sample_rate": q, "steps": n, "phase": "any"} for s, q, n in HISTORY]


def invoke(*arguments: object, text: str | None = None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=WIDE, input=text)


def answer(*arguments: object, text: str | None = None, status: int = 0) -> dict:
    """Return what a command says to programs; the standard output holds nothing else."""
    done = invoke(*arguments, "--json", text=text)
    assert done.exit_code == status, done.output
    return json.loads(done.stdout, parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that Opacus wrote after three real steps."""
    data = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randint(0, 2, (32,)))
    engine = PrivacyEngine(accountant="prv")
    model = torch.nn.Linear(4, 2)
    model, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=torch.utils.data.DataLoader(data, batch_size=8),
        noise_multiplier=1.5,
        max_grad_norm=1.0,
    )
    for _, (inputs, labels) in zip(range(3), loader, strict=False):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("opacus") / "run.pt"
    engine.save_checkpoint(path=path, module=model, optimizer=optimizer, checkpoint_dict={"epoch": 1})
    return path


# --- what is read ------------------------------------------------------------------------------------------------


@saves_names
def test_a_checkpoint_of_opacus(checkpoint: Path):
    history = read_history(checkpoint)
    assert history == ((1.5, 0.25, 3),)
    said = answer("epsilon", checkpoint, "--delta", "1e-5")
    bounds = ew.PrivacyCurve(history).epsilon(1e-5)
    assert said["epsilon"] == {"lower": bounds.lower, "upper": bounds.upper}
    assert said["history"] == [{"noise_multiplier": 1.5, "sample_rate": 0.25, "steps": 3}]


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=saves_names) for name in ("rdp", "prv", "gdp")), "edgeworth"]
)
def test_the_state_of_any_accountant(tmp_path: Path, name: str):
    with pytest.warns() if name == "gdp" else torch.no_grad():
        accountant = create_accountant(name)
    accountant.history = list(HISTORY)
    torch.save(accountant.state_dict(), tmp_path / "state.pt")
    (tmp_path / "state.json").write_text(json.dumps(accountant.state_dict()))
    assert read_history(tmp_path / "state.pt") == read_history(tmp_path / "state.json") == PHASES


def test_numpy_numbers_tensors_and_the_old_format_of_torch(tmp_path: Path):
    history = [(np.float64(1.0), torch.tensor(0.01, dtype=torch.float64), np.int64(1000)), (np.float32(0.5), 0.02, 50)]
    for zipped in (True, False):
        torch.save({"history": history}, tmp_path / "any.name", _use_new_zipfile_serialization=zipped)
        assert read_history(tmp_path / "any.name") == ((1.0, 0.01, 1000), (0.5, 0.02, 50))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("triples.json", json.dumps(HISTORY)),
        ("objects.json", json.dumps(OBJECTS)),
        ("state.json", json.dumps({"history": HISTORY, "mechanism": "rdp"})),
        ("opacus.json", json.dumps({"history": [0.7, 0.8], "privacy_accountant_state_dict": {"history": HISTORY}})),
        ("privacy.json", json.dumps({"guarantee": {"epsilon": 1.0}, "mechanism": {"history": HISTORY}})),
        ("no_suffix", "\ufeff" + json.dumps(HISTORY)),
        ("run.csv", CSV),
        ("excel.csv", "\ufeff" + CSV.replace("\n", "\r\n") + "\r\n"),
        ("tabs.tsv", CSV.replace(",", "\t")),
        ("semicolons.csv", CSV.replace(",", ";")),
        ("columns.csv", "run, steps , sample_rate,noise_multiplier\na,1000.0,0.01,1\nb,50,0.02,0.8\n"),
    ],
)
def test_texts(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_bytes(text.encode())
    assert read_history(tmp_path / name) == PHASES


def test_standard_input_takes_what_json_gave():
    said = answer("epsilon", "-", "--delta", "1e-5", text=json.dumps(HISTORY))
    assert answer("epsilon", "-", "--delta", "1e-5", text=json.dumps(said)) == said
    assert answer("epsilon", "-", "--delta", "1e-5", text=CSV) == said
    refused("standard input is empty", "-", text="")


def test_a_folder_of_a_finetuning_run(tmp_path: Path):
    assert checkpoints.FINETUNE_MAGIC == finetune_checkpoint.MAGIC
    assert checkpoints.FINETUNE_HASH_SIZE == finetune_checkpoint.HASH_SIZE
    kept = finetune_checkpoint.Checkpoint({}, list(HISTORY), {"weight": torch.ones(3)}, {}, {})
    finetune_checkpoint.save_checkpoint(kept, tmp_path / "checkpoint.pt")
    assert read_history(tmp_path) == PHASES
    (tmp_path / "privacy.json").write_text(json.dumps({"mechanism": {"history": HISTORY[:1]}}))
    assert read_history(tmp_path) == PHASES[:1]  # the run has ended: that is its statement
    content = bytearray((tmp_path / "checkpoint.pt").read_bytes())
    content[-100] ^= 1
    (tmp_path / "checkpoint.pt").write_bytes(content)
    refused("checkpoint.pt is damaged: its content does not match its hash", tmp_path / "checkpoint.pt")


# --- what is refused ---------------------------------------------------------------------------------------------


def refused(message: str, *arguments: object, text: str | None = None) -> None:
    done = invoke("epsilon", *arguments, "--delta", "1e-5", "--json", text=text)
    assert done.exit_code == 1, done.output
    assert message in done.stderr.replace("\n", "")
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; give a list of [noise_multiplier, sample_rate, steps]"),
        ("[]", "records no step: save it after training"),
        ("[[1.0, 0.01]]", "phase 1 is '[1.0, 0.01]'; give a list"),
        ("[[1.0, 0.01, 10], [1.0, NaN, 10]]", "phase 2: sample_rate=nan is not a number"),
        ("[[-1.0, 0.01, 10]]", "phase 1: noise_multiplier=-1.0 must be in [0, inf)"),
        ("[[Infinity, 0.01, 10]]", "phase 1: noise_multiplier=inf must be in [0, inf)"),
        ("[[1.0, 1.01, 10]]", "phase 1: sample_rate=1.01 must be in [0, 1]"),
        ("[[1.0, 0.01, 10.5]]", "phase 1: steps=10.5 must be an integer >= 0"),
        ('[["1.0", 0.01, 10]]', "phase 1: noise_multiplier='1.0' is not a real number"),
        ('[{"sigma": 1.0, "sample_rate": 0.01}]', "phase 1 lacks noise_multiplier, steps; it has sigma, sample_rate"),
        ('{"epsilon": 3, "mechanism": "rdp"}', "holds no privacy accountant's history (its keys: 'epsilon', 'mechan"),
        ('{"a": {"history": []}, "b": {"history": []}}', "holds several histories, in a, b"),
        ('{"history": [[1.0, 0.01, 10], [1.0', "is not valid JSON, or was cut short"),
        ("noise_multiplier,sample_rate\n1,0.1\n", "must name the columns noise_multiplier, sample_rate, steps"),
        ("sigma,q,n\n1,0.1,1\n", "each once; it is 'sigma,q,n'"),
        ("noise_multiplier,sample_rate,steps\n", "records no step"),
        (CSV + "1.0,0.01,x\n", "line 4: steps='x' is not a number"),
        (CSV + "1.0,nan,1\n", "line 4: sample_rate=nan is not a number"),
        (CSV + "1.0,0.0", "line 4 has 2 cells, not 3; it may have been cut short"),
        ("\ud83d".encode("utf-16", "surrogatepass").decode("latin-1"), "neither a checkpoint of torch nor a text"),
        ("PK\x03\x04 and no more", "is not a whole checkpoint of torch"),
        ("\x80\x02 and no more", "is not a whole checkpoint of torch"),
    ],
)
def test_texts_that_hold_no_history(tmp_path: Path, text: str, message: str):
    path = tmp_path / "run"
    path.write_bytes(text.encode("latin-1"))
    refused(message, path)
    refused(str(path), path)


def test_checkpoints_that_hold_no_history(tmp_path: Path, checkpoint: Path):
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:-200])
    refused("cut.pt is not a whole checkpoint of torch", tmp_path / "cut.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    refused("text.pt is not a whole checkpoint of torch", tmp_path / "text.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.bin")
    refused("weights.bin holds no privacy accountant's history (its keys: 'weight', 'bias')", tmp_path / "weights.bin")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    refused("tensor.pt holds a Tensor, no history", tmp_path / "tensor.pt")
    (tmp_path / "folder").mkdir()
    refused("is a folder without privacy.json or checkpoint.pt", tmp_path / "folder")


def test_no_object_of_a_checkpoint_is_run(tmp_path: Path):
    torch.save({"history": HISTORY, "options": Trap(tmp_path / "trap")}, tmp_path / "trap.pt")
    refused("holds an object of", tmp_path / "trap.pt")
    refused("write the accountant alone, torch.save(engine.accountant.state_dict()", tmp_path / "trap.pt")
    assert not (tmp_path / "trap").exists()


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("arguments", "flag", "message"),
    [
        (["epsilon", *RUN], "--delta", "give either --delta or --epsilon, not neither"),
        (["epsilon", *RUN, "--delta", "1e-5", "--epsilon", "1"], "--delta", "not both"),
        (["epsilon", "--delta", "1e-5"], "FILE", "missing; give a file, or --noise-multiplier"),
        (["epsilon", "-", *RUN, "--delta", "1e-5"], "FILE", "leave out --noise-multiplier, --sample-rate, --steps"),
        (["epsilon", "--steps", "1", "--delta", "1e-5"], "--noise-multiplier", "missing; or give a FILE"),
        (["epsilon", *RUN[:2], "--steps", "1", "--delta", "1"], "--sample-rate", "missing; or give --batch-size"),
        (["epsilon", *RUN[:4], "--delta", "1"], "--steps", "give either --steps or --epochs, not neither"),
        (["epsilon", *RUN, "--epochs", "1", "--delta", "1"], "--steps", "not both"),
        (["epsilon", *RUN, "--batch-size", "1", "--delta", "1"], "--sample-rate", "excludes --batch-size"),
        (["epsilon", *RUN[:2], "--batch-size", "1", "--steps", "1", "--delta", "1"], "--batch-size", "give both"),
        (["epsilon", *RUN, "--delta", "1e-5", "--max-delta", "1"], "--max-delta", "goes with --epsilon"),
        (["epsilon", *RUN, "--epsilon", "1", "--max-epsilon", "1"], "--max-epsilon", "goes with --delta"),
        (["noise", "--epsilon", "1", *RUN[2:]], "--delta", "is missing"),
        (["noise", "--epsilon", "x", "--delta", "1e-5", *RUN[2:]], "--epsilon", "Invalid value"),
        (["compare", *RUN], "--delta", "Missing option"),
        (["audit", *RUN], "--delta", "missing; give --delta, --epsilon, or a certificate"),
        (["audit", *RUN, "--delta", "1e-5", "--epsilon", "1"], "--delta", "not both"),
        (["audit", "--check", __file__, "-o", "new.json"], "--output", "not with --check"),
    ],
)
def test_wrong_usage_names_the_flag(arguments: list[str], flag: str, message: str):
    done = invoke(*arguments)
    assert done.exit_code == exits.ExitStatus.USAGE
    assert flag in done.stderr
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epsilon", *RUN, "--delta", "1.5"], "--delta: 1.5 must be in [0, 1]"),
        (["epsilon", *RUN, "--delta", "nan"], "--delta: nan is not a number"),
        (["epsilon", *RUN, "--epsilon", "-1"], "--epsilon: -1.0 must be >= 0"),
        (["epsilon", *RUN, "--delta", "1e-5", "--max-epsilon", "nan"], "--max-epsilon: nan is not a number"),
        (["epsilon", *RUN, "--epsilon", "1", "--max-delta", "2"], "--max-delta: 2.0 must be in [0, 1]"),
        (["epsilon", "--noise-multiplier", "-1", *RUN[2:], "--delta", "1"], "--noise-multiplier: -1.0 must be in"),
        (["epsilon", *RUN[:2], "--sample-rate", "2", "--steps", "1", "--delta", "1"], "--sample-rate: 2.0 must be in"),
        (["epsilon", *RUN[:4], "--steps", "-1", "--delta", "1"], "--steps: -1 must be an integer >= 0"),
        (["epsilon", *RUN[:4], "--epochs", "0", "--delta", "1"], "--epochs: 0.0 must be positive and finite"),
        (["epsilon", *RUN[:2], "--sample-rate", "0", "--epochs", "1", "--delta", "1"], "--epochs: 1.0 are more than"),
        (
            ["epsilon", *RUN[:2], "--batch-size", "9", "--dataset-size", "8", "--epochs", "1", "--delta", "1"],
            "--batch-size: 9 is larger than --dataset-size 8; lower it",
        ),
        (["noise", "--epsilon", "1", "--delta", "1", *RUN[2:]], "--delta: 1.0 must be in (0, 1)"),
        (["noise", "--epsilon", "-1", "--delta", "0.1", *RUN[2:]], "--epsilon: -1.0 must be >= 0"),
        (["noise", "--epsilon", "1", "--delta", "0.1", *RUN[2:4], "--steps", "0"], "--steps: 0 needs no noise"),
        (["epsilon", "/no/such/file", "--delta", "1"], "/no/such/file cannot be read: No such file or directory"),
        (["audit", "--check", "/no/such/file"], "--check: '/no/such/file' cannot be read: No such file or directory"),
        (["compare", *RUN, "--delta", "-1"], "--delta: -1.0 must be in [0, 1]"),
        (["audit", *RUN, "--delta", "2"], "--delta: 2.0 must be in [0, 1]"),
        (["audit", *RUN, "--epsilon", "1", "-o", "/no/such/folder/x"], "--output: '/no/such/folder/x' cannot be"),
    ],
)
def test_invalid_values_name_the_flag(arguments: list[str], message: str):
    done = invoke(*arguments)
    assert done.exit_code == exits.ExitStatus.ERROR
    assert f"error: {message}" in done.stderr
    assert done.stdout == ""


# --- epsilon and noise -------------------------------------------------------------------------------------------


def test_epsilon_for_people():
    done = invoke("epsilon", *RUN, "--delta", "1e-5", "--delta", "1e-6")
    assert done.exit_code == 0
    for words in (
        "1.8282367",
        "1.8282366",
        "1e-06",
        "at most",
        "at least",
        "both directions",
        "Poisson",
        "sample rate 0.01, steps 1000",
    ):
        assert words in done.stdout
    assert invoke("epsilon", *RUN, "--epsilon", "2").stdout.startswith("δ at ε: proved bounds")


def test_epsilon_for_programs():
    said = answer("epsilon", *RUN, "--delta", "1e-5")
    assert list(said) == ["command", "version", "history", "adjacency", "sampling", "epsilon", "delta"]
    assert (said["command"], said["delta"]) == ("epsilon", 1e-5)
    bounds = ew.PrivacyCurve([(1.0, 0.01, 1000)]).epsilon(1e-5)
    assert said["epsilon"] == {"lower": bounds.lower, "upper": bounds.upper}
    said = answer("epsilon", *RUN, "--epsilon", "2")
    assert said["epsilon"] == 2.0
    assert 0.0 < said["delta"]["lower"] <= said["delta"]["upper"] < 1e-5
    several = answer("epsilon", *RUN, "--delta", "1e-5", "--delta", "0")
    assert "epsilon" not in several
    assert several["results"] == [
        {"epsilon": {"lower": bounds.lower, "upper": bounds.upper}, "delta": 1e-5},
        {"epsilon": {"lower": "inf", "upper": "inf"}, "delta": 0.0},
    ]


@pytest.mark.parametrize(
    ("question", "status"),
    [
        (["--delta", "1e-5", "--max-epsilon", "1.8283"], 0),
        (["--delta", "1e-5", "--max-epsilon", "1.8282"], 3),
        (["--delta", "1e-5", "--delta", "1e-6", "--max-epsilon", "1.8283"], 3),
        (["--delta", "0", "--max-epsilon", "1e300"], 3),
        (["--epsilon", "1.8283", "--max-delta", "1e-5"], 0),
        (["--epsilon", "1.8282", "--max-delta", "1e-5"], 3),
    ],
)
def test_limits_are_exit_statuses(question: list[str], status: int):
    done = invoke("epsilon", *RUN, *question)
    assert done.exit_code == status
    assert ("EXCEEDED" if status else "kept") in done.stdout
    said = answer("epsilon", *RUN, *question, status=status)
    assert said["exceeded"] is bool(status)
    assert said[question[-2].removeprefix("--").replace("-", "_")] == float(question[-1])


@pytest.mark.parametrize(
    ("flags", "phase"),
    [
        (["--batch-size", "8", "--dataset-size", "33", "--epochs", "2"], (1 / 5, 10)),
        (["--batch-size", "8", "--dataset-size", "600", "--epochs", "3"], (1 / 75, 225)),
        (["--sample-rate", repr(1 / 75), "--epochs", "3"], (1 / 75, 225)),  # int(3 / (1 / 75)) is 224
        (["--sample-rate", "0.3", "--epochs", "1"], (0.3, 3)),
        (["--batch-size", "8", "--dataset-size", "8", "--steps", "4"], (1.0, 4)),
    ],
)
def test_sampling_as_opacus_does_it(flags: list[str], phase: tuple[float, int]):
    said = answer("epsilon", "--noise-multiplier", "2", *flags, "--delta", "1e-5")["history"]
    assert said == [{"noise_multiplier": 2.0, "sample_rate": phase[0], "steps": phase[1]}]


def test_noise():
    target = ["--epsilon", "3", "--delta", "1e-5", "--batch-size", "256", "--dataset-size", "60000", "--epochs", "10"]
    said = answer("noise", *target)
    rate, steps = 1 / 235, 2350
    wanted = ew.calibrate_noise_multiplier(target_epsilon=3, target_delta=1e-5, sample_rate=rate, steps=steps)
    assert said["noise_multiplier"] == wanted
    assert said["history"] == [{"noise_multiplier": wanted, "sample_rate": rate, "steps": steps}]
    assert 2.99999 < said["epsilon"]["lower"] <= said["epsilon"]["upper"] <= 3.0
    done = invoke("noise", *target)
    shown = next(line for line in done.stdout.splitlines() if line.strip().startswith("0."))
    assert wanted <= float(shown.split()[0]) <= wanted * (1 + 1e-7)  # what is copied is enough


def test_numbers_are_rounded_to_the_safe_side():
    for value in (1.23456789012, 7.9999999999, 1e-300, 123456789.5, 5e-324):
        assert float(rounding.at_least(value)) <= value <= float(rounding.at_most(value))
        assert float(rounding.at_most(value)) <= value * (1 + 2e-7) + 1e-323
    assert float(rounding.at_most(5e-324)) >= 5e-324
    assert rounding.at_most(math.inf) == "inf"


@pytest.mark.parametrize("name", ["histories", "cli.exits", "rounding"])
def test_docstring_examples(name: str):
    result = doctest.testmod(importlib.import_module(f"opacus_edgeworth.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


# --- compare -----------------------------------------------------------------------------------------------------


def test_compare_asks_every_accountant():
    said = answer("compare", *RUN, "--delta", "1e-5")
    rows = {row["name"]: row for row in said["accountants"]}
    assert list(rows) == [peer.name for peer in PEERS]
    assert {row["error"] for row in rows.values()} == {None}
    assert rows["edgeworth"]["epsilon"] == said["epsilon"]["upper"]
    assert rows["edgeworth"]["kind"] == "proved bound"
    assert (rows["Opacus GDP"]["kind"], rows["Opacus GDP"]["below_truth"]) == ("estimate", True)
    for name in ("Opacus PRV", "Opacus RDP", "dp-accounting PLD", "dp-accounting RDP"):
        assert said["epsilon"]["lower"] <= rows[name]["epsilon"] < 1.5 * said["epsilon"]["upper"]
        assert rows[name]["below_truth"] is False
        assert 0.0 < rows[name]["seconds"] < 30.0


def test_compare_survives_accountants_that_fail(monkeypatch: pytest.MonkeyPatch):
    names = ("hangs", "raises", "dies", "understates", "is_no_number", "overstates")
    fakes = [Peer(name, "opacus", (), "both", "estimate", getattr(failing_peers, name)) for name in names]
    absent = Peer("absent", "no-such-distribution", (), "both", "estimate", failing_peers.raises)
    broken = Peer("broken", "opacus", ("no_such_module",), "both", "estimate", failing_peers.raises)
    monkeypatch.setattr(compare_module, "PEERS", (PEERS[0], absent, broken, *fakes))
    said = answer("compare", *RUN, "--delta", "1e-5", "--time-limit", "1")
    rows = {row["name"]: row for row in said["accountants"]}
    assert list(rows) == ["edgeworth", "broken", *names]
    assert rows["broken"]["error"] == "raised ModuleNotFoundError: No module named 'no_such_module'"
    assert rows["hangs"]["error"] == "did not end within 1 s"
    assert rows["raises"]["error"] == "raised RuntimeError: Discrete mean differs"
    assert rows["dies"]["error"].startswith("its process died (exit status 9)")
    assert rows["hangs"]["epsilon"] is rows["hangs"]["seconds"] is rows["hangs"]["below_truth"] is None
    assert (rows["understates"]["epsilon"], rows["understates"]["below_truth"]) == (-1.0, True)
    assert (rows["is_no_number"]["epsilon"], rows["is_no_number"]["below_truth"]) == ("nan", True)
    assert (rows["overstates"]["epsilon"], rows["overstates"]["below_truth"]) == ("inf", False)
    shown = invoke("compare", *RUN, "--delta", "1e-5", "--time-limit", "1").stdout
    for words in ("did not end within 1 s", "raised RuntimeError", "below the truth, -155 %", "within", "+inf"):
        assert words in shown


def test_processes_that_import_the_program_do_not_run_it():
    runpy.run_module("opacus_edgeworth.cli.__main__", run_name="__mp_main__")


# --- audit -------------------------------------------------------------------------------------------------------


def test_audit_and_its_check(tmp_path: Path):
    path = tmp_path / "certificate.json"
    said = answer("audit", *RUN, "--delta", "1e-5", "-o", path)
    bounds = ew.PrivacyCurve([(1.0, 0.01, 1000)]).epsilon(1e-5)
    assert said["epsilon"] == {"lower": bounds.lower, "upper": bounds.upper}
    assert (said["delta"], said["verified"], said["certificate"]) == (1e-5, True, str(path))
    assert answer("audit", "--check", path) == said
    assert answer("audit", "--check", path, *RUN, "--delta", "1e-5") == said
    shown = invoke("audit", "--check", path).stdout
    for words in ("proved in ball arithmetic", "1.8282367", "proof, remove", "python-flint", str(path)):
        assert words in shown
    for others in (["--delta", "1e-6"], ["--epsilon", "1.0"], [*RUN[:4], "--steps", "999"]):
        said = answer("audit", "--check", path, *others, status=4)
        assert said["verified"] is False
        assert "it is about another run" in said["reason"] or "it does not bound" in said["reason"]
    path.write_text(path.read_text().replace("python-flint", "another"))
    done = invoke("audit", "--check", path)
    assert done.exit_code == 4
    assert done.stderr.startswith("refused: ")
    assert "the certificate was altered" in done.stderr
    assert done.stdout == ""


def test_audit_of_what_is_out_of_reach_is_an_error():
    done = invoke("audit", "--noise-multiplier", "0", *RUN[2:], "--delta", "1e-5")
    assert done.exit_code == 1
    assert "reveals nothing, or everything" in done.stderr


def test_audit_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = invoke("audit", *RUN, "--delta", "1e-5")
    assert done.exit_code == 1
    assert done.stderr.strip() == "error: flint is not installed; run `pip install opacus_edgeworth[audit]`"


# --- the program -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["epsilon"], ["noise"], ["compare"], ["audit"]])
def test_help_lists_the_exit_statuses(command: list[str]):
    done = invoke(*command, "--help")
    assert done.exit_code == 0
    for words in ("Exit status", "3  --max-epsilon or --max-delta is exceeded", "4  audit --check refused"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "complete -o default -F"), ("zsh", "compdef"), ("fish", "complete")]
)
def test_completion_scripts(monkeypatch: pytest.MonkeyPatch, shell: str, words: str):
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, shell))
    done = invoke("--show-completion")
    assert done.exit_code == 0
    assert words in done.stdout
    assert "opacus-edgeworth" in done.stdout


@saves_names
def test_the_program_itself(checkpoint: Path):
    """A real call: only JSON on standard output, a status for scripts; and a command line that loads no torch."""
    arguments = ["epsilon", str(checkpoint), "--delta", "1e-5", "--max-epsilon", "0.5", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "opacus_edgeworth.cli", *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "")
    assert json.loads(done.stdout)["exceeded"] is True


def test_the_program_loads_neither_torch_nor_opacus_for_most_commands():
    """What `--help` and completion wait for; whoever asks for the accountant has it, registered."""
    program = """
import sys
sys.argv[0] = "/somewhere/bin/opacus-edgeworth"
import opacus_edgeworth
import opacus_edgeworth.cli.app
assert not {"torch", "opacus", "dp_accounting"} & set(sys.modules)
from opacus_edgeworth import EdgeworthAccountant
from opacus.accountants import create_accountant
assert type(create_accountant("edgeworth")) is EdgeworthAccountant
try:
    opacus_edgeworth.nothing
except AttributeError as error:
    assert "nothing" in str(error)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
