"""A short campaign: random regimes of every kind, judged by ball arithmetic; and the campaign's own bookkeeping."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import campaign
import truths

SEED = 2026
TIME_LIMIT = 2.0  # a regime that takes the judge longer is left to `make campaign`
COUNT = 16
KNOWN = 250  # of the regimes whose truths were computed once, how many are judged here


@pytest.fixture(scope="module")
def fresh():
    return {index: truths.find(SEED, index, TIME_LIMIT) for index in range(COUNT)}


@pytest.fixture(scope="module")
def outcomes(fresh):
    return [campaign.work(SEED, truth) for truth in fresh.values()]


@pytest.mark.slow
def test_no_fresh_regime_violates_its_bounds(outcomes):
    assert not [o for o in outcomes if o["verdict"] in ("violation", "exception")]
    assert sum(o["verdict"] == "passed" for o in outcomes) >= 0.75 * COUNT


@pytest.mark.slow
def test_no_known_regime_violates_its_bounds():
    known = list(truths.read(truths.path_of(1)).values())[-KNOWN:]
    assert len(known) == KNOWN
    outcomes = [campaign.judge(truth) for truth in known]
    assert not [o for o in outcomes if o["verdict"] in ("violation", "exception")]
    ordinary = [o["width"] for o in outcomes if o["kind"] == "ordinary"]
    assert len(ordinary) > 0.15 * KNOWN
    assert max(ordinary) <= campaign.WIDTH_ORDINARY


def test_a_regime_is_drawn_from_its_index():
    first, again = truths.regime(SEED, 5), truths.regime(SEED, 5)
    assert first["history"] == again["history"]
    assert first["delta"] == again["delta"]
    assert truths.regime(SEED, 6)["history"] != first["history"]


@pytest.mark.parametrize(
    ("changes", "complaints"),
    [
        ({}, 0),
        ({"delta_upper": 0.9}, 1),
        ({"delta_lower": 1.1}, 1),
        ({"delta_upper": 1.0 - 1e-7}, 0),  # within the uncertainty
        ({"epsilon_upper": 1.9}, 1),
        ({"epsilon_above": 2.1}, 1),
        ({"back_lower": 1.2}, 1),  # our two answers contradict each other
        ({"back_lower": 1.2, "exact": None}, 1),
        ({"epsilon_upper": 1.9, "delta_upper": 0.9}, 2),
        ({"epsilon": 0.0, "epsilon_lower": 1e-9}, 1),
    ],
)
def test_what_counts_as_a_violation(changes, complaints):
    outcome = {
        "exact": 1.0,
        "uncertainty": 1e-6,
        "target": 1.0 - 1e-6,
        "epsilon": 2.0,
        "epsilon_lower": 1.8,
        "epsilon_upper": 2.1,
        "epsilon_above": 1.8,
        "delta_lower": 0.9,
        "delta_upper": 1.1,
        "back_lower": 0.9,
    }
    assert len(campaign.complain(outcome | changes)) == complaints


def test_an_understated_truth_is_found_out(fresh):
    truth = next(t for t in fresh.values() if t["exact"] and t["epsilon"] > 0.0)
    assert campaign.judge(truth)["verdict"] == "passed"
    for factor in (1.0 - 1e-3, 1.0 + 1e-3):
        assert campaign.judge(truth | {"exact": factor * truth["exact"]})["verdict"] == "violation"


def test_a_log_is_resumed_and_reported(tmp_path, monkeypatch, fresh, outcomes):
    log = tmp_path / "campaign.jsonl"
    lines = [json.dumps(outcome | {"seed": SEED, "version": "abc"}) for outcome in outcomes]
    log.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])  # interrupted in the middle of a line
    asked = []
    monkeypatch.setattr(campaign, "work", lambda seed, truth: asked.append(truth["index"]) or outcomes[truth["index"]])
    monkeypatch.setattr(campaign, "version", lambda: "abc")
    read = campaign.run(fresh, SEED, 1, log)
    assert asked == [COUNT - 1]
    assert [o["index"] for o in read] == list(range(COUNT))
    monkeypatch.setattr(campaign, "version", lambda: "abd")  # of another commit: all is done again
    campaign.run(fresh, SEED, 1, log)
    assert len(asked) == 1 + COUNT
    text = campaign.write_report(read, SEED, tmp_path)
    assert f"| all | {COUNT} |" in text
    assert (tmp_path / "campaign.csv").read_text().count("\n") == COUNT + 1
    assert (tmp_path / "campaign_width.png").stat().st_size > 0
    assert (tmp_path / "campaign_time.png").stat().st_size > 0


def test_truths_are_completed_and_compared(tmp_path, monkeypatch, fresh):
    monkeypatch.setattr(truths, "RESULTS", tmp_path)
    path = truths.path_of(SEED)
    truths.write(path, {index: fresh[index] for index in range(COUNT - 1)})
    found = truths.complete(SEED, COUNT, 1, TIME_LIMIT)
    assert sorted(found) == list(range(COUNT))
    assert truths.read(path).keys() == found.keys()
    simple = {i: t for i, t in found.items() if t["exact"] and t["kind"] == "ordinary"}
    assert truths.disagreements(SEED, simple, 1, 1) == []
    wrong = {i: t | {"exact": t["exact"] * (1.0 + 1e-6)} for i, t in simple.items()}
    assert len(truths.disagreements(SEED, wrong, 1, 1)) == 1
