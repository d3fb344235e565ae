"""A short campaign: random regimes of every kind, judged by ball arithmetic; and the campaign's own bookkeeping."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import campaign

SEED = 2026
TIME_LIMIT = 2.0  # a regime that takes the judge longer is left to `make campaign`
COUNT = 16


@pytest.fixture(scope="module")
def outcomes():
    return [campaign.work(SEED, index, TIME_LIMIT) for index in range(COUNT)]


@pytest.mark.slow
def test_no_regime_violates_its_bounds(outcomes):
    bad = [o for o in outcomes if o["verdict"] in ("violation", "exception")]
    assert not bad
    assert sum(o["verdict"] == "passed" for o in outcomes) >= 0.75 * COUNT


@pytest.mark.slow
def test_ordinary_regimes_are_known_to_nine_digits(outcomes):
    ordinary = [o for o in outcomes if o["kind"] == "ordinary"]
    assert len(ordinary) >= 2
    assert max(o["width"] for o in ordinary) <= campaign.WIDTH_ORDINARY


def test_a_regime_is_drawn_from_its_index():
    first, again = campaign.regime(SEED, 5), campaign.regime(SEED, 5)
    assert first["history"] == again["history"]
    assert first["delta"] == again["delta"]
    assert campaign.regime(SEED, 6)["history"] != first["history"]


@pytest.mark.parametrize(
    ("lower", "upper", "target", "complaints"),
    [
        (0.9, 1.1, 1.2, 0),
        (0.5, 0.9, 1.2, 1),  # above the upper bound
        (1.1, 1.5, 1.2, 1),  # below the lower bound
        (0.9, 1.1, 0.95, 1),  # epsilon's upper end does not reach the target
        (0.9, 1.0 - 1e-7, 1.2, 0),  # within the uncertainty
    ],
)
def test_what_counts_as_a_violation(lower, upper, target, complaints):
    outcome = {"delta_lower": lower, "delta_upper": upper, "delta": target}
    assert len(campaign.complain(outcome, 1.0, 1e-6)) == complaints


def test_a_log_is_resumed_and_reported(tmp_path, outcomes):
    log = tmp_path / "campaign.jsonl"
    lines = [json.dumps({"seed": SEED} | outcome) for outcome in outcomes]
    log.write_text("\n".join(lines) + "\n" + lines[0][:40])  # interrupted in the middle of a line
    read = campaign.read_log(log, SEED)
    assert sorted(read) == list(range(COUNT))
    assert campaign.read_log(log, SEED + 1) == {}
    text = campaign.write_report([read[index] for index in range(COUNT)], SEED, TIME_LIMIT, tmp_path)
    assert f"| all | {COUNT} |" in text
    assert (tmp_path / "campaign.csv").read_text().count("\n") == COUNT + 1
    assert (tmp_path / "campaign_width.png").stat().st_size > 0
    assert (tmp_path / "campaign_time.png").stat().st_size > 0
