"""The command line: its help, its errors, and a whole run."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from opacus_edgeworth.cli.app import app
from opacus_edgeworth.cli.finetune import finetune_command
from opacus_edgeworth.finetune import FinetuneSettings, load_classifier

WIDE = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments), env=WIDE)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    tiny.saved_model(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for name, rows in (("train", tiny.texts(120)), ("dev", tiny.texts(30, seed=1))):
        with (tmp_path / "data" / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    return tmp_path


def test_help_names_every_option_and_group():
    shown = invoke("finetune", "--help")
    assert shown.exit_code == 0
    for words in ("under a privacy budget", "--epsilon", "Privacy", "Data", "Model", "Training", "Running", "Example"):
        assert words in shown.output
    assert "finetune" in invoke("--help").output


def test_options_are_the_settings():
    """What the command offers has the settings' choices and defaults; what is left out is left out on purpose."""
    hints = typing.get_type_hints(finetune_command, include_extras=True)
    settings = typing.get_type_hints(FinetuneSettings)
    defaults = dict(
        zip(
            [name for name in finetune_command.__annotations__ if name != "return"][3:],
            finetune_command.__defaults__ or (),
            strict=True,
        )
    )
    renamed = {"target_epsilon": "epsilon", "target_delta": "delta"}
    left_out = {"progress", "lora_alpha", "train_embeddings", "feature_cache_gib", "head_init"}
    for field in dataclasses.fields(FinetuneSettings):
        name = renamed.get(field.name, field.name)
        assert (name in hints) != (name in left_out), name
        if name in hints:
            assert defaults[name] == field.default, name
            if typing.get_origin(settings[field.name]) is typing.Literal:
                assert typing.get_args(hints[name])[0] == settings[field.name], name


def test_whole_run(folders: Path):
    done = invoke(
        "finetune", str(folders / "model"), str(folders / "data"), "--epsilon", "8", "--epochs", "1",
        "--batch-size", "40", "--output", str(folders / "out"), "--quiet", "--method", "head", "--pooling", "mean",
        "--seed", "0",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert re.search(r"ε = 8 at δ = 0\.001 \(proved\)", done.output)
    assert "accuracy, validation" in done.output
    assert "note: target_delta was not given" in done.output
    assert json.loads((folders / "out" / "privacy.json").read_text())["guarantee"]["target_epsilon"] == 8.0
    assert load_classifier(folders / "out")(["good film"])[0] in ("0", "1")


def readme_block(start: str) -> str:
    """Return the README's program, or indented lines, in which `start` occurs."""
    text = (Path(__file__).parent.parent / "README.md").read_text()
    blocks = re.findall(r"```py\n(.*?)```", text, flags=re.DOTALL) + re.split(r"\n\s*\n", text)
    return next(block for block in blocks if start in block)


def test_readme_command_works_as_written(folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folders)
    lines = readme_block("opacus-edgeworth finetune").replace("\\\n", " ").splitlines()
    command = next(line for line in lines if "opacus-edgeworth finetune" in line).split()[1:]
    command[1:3] = ["model", "data"]  # the tiny ones, in place of the demo's
    done = invoke(*command, "--batch-size", "40", "--epochs", "1", "--quiet", "--max-tokens", "20")
    assert done.exit_code == 0, done.output
    assert (folders / command[command.index("--output") + 1] / "PRIVACY.md").exists()


def test_readme_program_works_as_written(folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folders)
    block = readme_block("from opacus_edgeworth.finetune import")
    for written, tiny_one in ((".cache/demo/model", "model"), (".cache/demo/reviews", "data"), ("1024", "40")):
        assert written in block
        block = block.replace(written, tiny_one)
    exec(compile(block, "README.md", "exec"), {})
    assert (folders / "tuned" / "privacy.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epsilon", "8", "--delta", "0.5", "--batch-size", "40"], "target_delta=0.5 must be below 1 / examples"),
        (["--epsilon", "-1"], "target_epsilon=-1.0 must be >= 0"),
        ([], "target_epsilon is missing"),
        (["--epsilon", "8", "--batch-size", "4000"], "batch_size=4000 is larger than the training data"),
        (["--epsilon", "8", "--label-column", "nope"], "label column 'nope' is not in the data"),
    ],
)
def test_errors_are_one_message(folders: Path, arguments: list[str], message: str):
    done = invoke("finetune", str(folders / "model"), str(folders / "data"), "-o", str(folders / "out"), *arguments)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (folders / "out").exists()


def test_unknown_word_is_a_usage_error():
    done = invoke("finetune", "m", "d", "-o", "out", "--method", "prefix")
    assert done.exit_code == 2
    assert "prefix" in done.output


def test_module_runs_as_a_program_and_names_the_missing_extra():
    program = """
import importlib.util
original = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "typer" else original(name, *rest)
import opacus_edgeworth.cli
opacus_edgeworth.cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: typer is not installed; run `pip install opacus_edgeworth[cli]`"
