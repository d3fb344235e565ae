"""The commands that plan: every target, what was spent before, tables, CSV and JSON."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import opacus_edgeworth as ew
from opacus_edgeworth.cli.app import app

WIDE = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}
RUN = ["--sample-rate", "0.01", "--steps", "100"]
PLAN = [
    "plan",
    "--dataset-size",
    "6000",
    "--batch-size",
    "100",
    "--batch-size",
    "1000",
    "--epochs",
    "2",
    "--epochs",
    "5",
]
PAIR = ["--epsilon", "3", "--delta", "1e-5"]


def call(*words: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, list(words), env=WIDE)
    assert done.exit_code == status, done.output
    return done.output


@pytest.mark.parametrize(
    ("flags", "target"),
    [
        (PAIR, {"target_epsilon": 3.0, "target_delta": 1e-5}),
        (["--advantage", "0.1"], {"target_advantage": 0.1}),
        (["--tpr", "0.01", "--fpr", "0.001"], {"target_tpr": 0.01, "target_fpr": 0.001}),
        (["--mu", "0.5"], {"target_mu": 0.5}),
    ],
)
def test_noise_for_every_target(flags, target):
    said = json.loads(call("noise", *RUN, *flags, "--json"))
    assert said["noise_multiplier"] == ew.calibrate_noise_multiplier(sample_rate=0.01, steps=100, **target)
    assert said["target"] == {name.removeprefix("target_"): value for name, value in target.items()}
    assert "least noise proved to give" in call("noise", *RUN, *flags)


def test_what_was_spent_before_counts(tmp_path: Path):
    path = tmp_path / "spent.json"
    path.write_text(json.dumps([[1.0, 0.01, 300]]))
    said = json.loads(call("noise", *RUN, *PAIR, "--spent", str(path), "--json"))
    target = {"target_epsilon": 3.0, "target_delta": 1e-5}
    expected = ew.calibrate_noise_multiplier(sample_rate=0.01, steps=100, spent=[(1.0, 0.01, 300)], **target)
    assert said["noise_multiplier"] == expected
    assert said["epsilon"]["upper"] == pytest.approx(3.0, rel=1e-6)
    path.write_text(json.dumps([[0.3, 0.1, 300]]))
    assert "spent exceeds" in call("noise", *RUN, *PAIR, "--spent", str(path), status=1)


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        ([], 2, "give one of --epsilon and --delta"),
        (["--epsilon", "3"], 2, "--delta: is missing"),
        (["--tpr", "0.1"], 2, "--fpr: is missing"),
        ([*PAIR, "--mu", "1"], 2, "not --delta, --epsilon, --mu"),
        (["--mu", "-1"], 1, "--mu: -1.0 must be in (0, 1000]"),
        (["--advantage", "1.5"], 1, "--advantage: 1.5 must be in (0, 1)"),
        (["--tpr", "0.1", "--fpr", "0.2"], 1, "--tpr: 0.1 must exceed"),
    ],
)
@pytest.mark.parametrize("command", [["noise", *RUN], PLAN], ids=["noise", "plan"])
def test_bad_targets_name_the_flag(command, flags, status, words):
    assert words in call(*command, *flags, status=status)


def test_plan_prints_every_point_and_marks_the_best():
    said = json.loads(call(*PLAN, *PAIR, "--json"))
    ways = ew.plan(dataset_size=6000, batch_sizes=[100, 1000], epochs=[2, 5], target_epsilon=3.0, target_delta=1e-5)
    assert said["points"] == ways.records()
    assert said["best"]["batch_size"] == 1000
    lines = [line.split() for line in call(*PLAN, *PAIR, "--min-steps", "40").splitlines()]
    starred = [line for line in lines if line and line[-1] == "*"]
    assert [line[:3] for line in starred] == [["100", "2", "120"]]
    assert len([line for line in lines if line and line[0] in ("100", "1000")]) == 4
    for line, point in zip([x for x in lines if x and x[0] in ("100", "1000")], ways.points, strict=True):
        assert (
            point.noise_multiplier <= float(line[3]) <= point.noise_multiplier * 1.0001
        )  # never rounded to less noise


def test_plan_writes_a_table(tmp_path: Path):
    path = tmp_path / "plan.csv"
    assert f"written: {path}" in call(*PLAN, *PAIR, "-o", str(path))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["batch_size"] for row in rows] == ["100", "1000", "100", "1000"]
    assert "cannot be written" in call(*PLAN, *PAIR, "-o", str(tmp_path / "no" / "plan.csv"), status=1)


def test_plan_without_a_point_is_an_error():
    assert "leave no point" in call(*PLAN, *PAIR, "--max-epochs", "1", status=1)
    assert "--batch-size: 9000 must be in" in call(
        "plan", "--dataset-size", "6000", "--batch-size", "9000", *PAIR, status=1
    )
