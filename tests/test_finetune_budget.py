"""The plan of a run: what it may spend, and what it refuses to plan."""

import math
from typing import Any

import pytest

import opacus_edgeworth as ew
from opacus_edgeworth.finetune.budget import default_delta, make_plan, steps_within
from opacus_edgeworth.finetune.settings import FinetuneSettings, make_settings


def settings(**values: Any) -> FinetuneSettings:
    return make_settings(**{"target_epsilon": 3.0, "epochs": 2, "batch_size": 100} | values)


@pytest.mark.parametrize(
    ("examples", "delta"), [(67349, 1e-5), (10000, 1e-5), (9999, 1e-4), (392702, 1e-6), (1, 1e-1), (1000000, 1e-7)]
)
def test_default_delta_is_the_largest_power_of_ten_below_one_over_n(examples: int, delta: float):
    assert default_delta(examples) == delta
    assert delta * examples < 1.0 <= 10.0 * delta * examples


def test_noise_is_the_least_that_meets_the_budget():
    plan = make_plan(1000, settings())
    assert (plan.steps, plan.sample_rate, plan.expected_batch_size, plan.delta) == (20, 0.1, 100.0, 1e-4)
    spent = ew.PrivacyCurve([(plan.noise_multiplier, 0.1, 20)]).epsilon(1e-4)
    assert 3.0 * (1.0 - 1e-7) <= spent.lower <= spent.upper <= 3.0 * (1.0 + 1e-12)
    assert any("1e-04" in note.replace("0.0001", "1e-04") for note in plan.notes)


def test_sample_rate_is_what_opacus_samples_with():
    plan = make_plan(8043, settings(batch_size=512))
    assert (plan.sample_rate, plan.steps_per_epoch) == (1.0 / 16.0, 16)
    assert any("not 512" in note for note in plan.notes)


@pytest.mark.parametrize("noise", [0.8, 1.5, 5.0])
def test_given_noise_ends_the_run_exactly_at_the_budget(noise: float):
    plan = make_plan(1000, settings(noise_multiplier=noise, epochs=100))

    def upper(steps: int) -> float:
        return ew.PrivacyCurve([(noise, 0.1, steps)]).delta(3.0).upper

    assert upper(plan.steps) <= plan.delta
    assert plan.steps == 1000 or upper(plan.steps + 1) > plan.delta
    assert plan.steps == 1000 or any("the budget ends the run" in note for note in plan.notes)


def test_steps_within_finds_every_limit():
    for steps in (1, 2, 7, 30):
        epsilon = ew.PrivacyCurve([(1.0, 0.1, steps)]).epsilon(1e-5).upper
        assert steps_within(epsilon * (1.0 + 1e-9), 1e-5, 1.0, 0.1, 64) == steps


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_peers_find_more_noise(accountant: str):
    ours, theirs = (make_plan(1000, settings(accountant=name)) for name in ("edgeworth", accountant))
    assert theirs.noise_multiplier > ours.noise_multiplier
    assert theirs.steps == ours.steps
    assert ew.PrivacyCurve([(theirs.noise_multiplier, 0.1, 20)]).epsilon(1e-4).upper < 3.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_epsilon": None}, "target_epsilon is missing"),
        ({"target_epsilon": -1.0}, "must be >= 0"),
        ({"target_epsilon": math.inf}, "positive and finite"),
        ({"target_epsilon": math.nan}, "target_epsilon=nan"),
        ({"target_epsilon": "8"}, "target_epsilon='8' is not a real number"),
        ({"target_delta": 1e-3}, r"target_delta=0.001 must be below 1 / examples = 0.001.*use 0.0001"),
        ({"target_delta": 0.5}, "must be below"),
        ({"target_delta": 0.0}, r"must be in \(0, 1\)"),
        ({"target_delta": math.nan}, "target_delta=nan"),
        ({"noise_multiplier": 0.0}, "no privacy"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"batch_size": 1001}, r"batch_size=1001 is larger than the training data \(1000"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"physical_batch_size": 1.5}, "physical_batch_size=1.5"),
        ({"epochs": 0}, "epochs=0 must be an integer >= 1"),
        ({"epochs": True}, "epochs=True"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001 must be positive"),
        ({"head_learning_rate": 0.0}, "head_learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"max_grad_norm": math.nan}, "max_grad_norm=nan"),
        ({"dropout": 1.0}, "dropout"),
        ({"method": "prefix"}, 'method=\'prefix\' must be one of "full", "lora", "bitfit", "head"'),
        ({"accountant": "gdp"}, "accountant='gdp'"),
        ({"learning_rat": 1.0}, "learning_rat=1.0 is no setting"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0, "secure_mode": True}, "contradicts secure_mode"),
        ({"train_embeddings": True}, 'needs method="full"'),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(ew.InvalidParameterError, match=message):
        make_plan(1000, settings(**values))


def test_noise_that_allows_no_step_is_refused():
    with pytest.raises(ew.CalibrationError, match="does not allow a single step"):
        make_plan(1000, settings(target_epsilon=0.01, noise_multiplier=0.3))
