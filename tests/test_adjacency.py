"""What neighbouring data sets differ in: pairs, their dominance, and their deltas."""

import json
import math

import numpy as np
import oracle_replaced as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from typer.testing import CliRunner

import opacus_edgeworth as ew
from opacus_edgeworth import EdgeworthAccountant, InvalidParameterError, PrivacyCurve
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.cli.app import app
from opacus_edgeworth.composition import compose
from opacus_edgeworth.mechanisms import (
    DiscreteMechanism,
    FixedBatches,
    Gaussian,
    Laplace,
    RandomizedResponse,
    ReplacedSubsampledGaussian,
)
from opacus_edgeworth.mixed.law import ReplacedDensity
from opacus_edgeworth.mixed.replaced import make_replaced_rule, replaced_delta


def replaced(*history):
    return PrivacyCurve(history, adjacency="replace_one")


def gaussian_delta(mu, epsilon):
    return norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "epsilon", "c", "reach"),
    [
        (1.0, 0.01, 1000, 1.0, 2.5, 25.0),
        (1.0, 0.01, 1000, 6.0, 8.0, 25.0),
        (2.0, 0.3, 10, 1.0, 3.0, 22.0),
        (0.7, 0.9, 5, 4.0, 1.3, 6.0),
        (5.0, 0.5, 100, 2.0, 2.0, 9.0),
        (0.8, 0.004, 14040, 3.0, 3.0, 20.0),
    ],
)
def test_bounds_hold_the_contour_integral(noise, rate, steps, epsilon, c, reach):
    exact = oracle.contour_delta(noise, rate, steps, epsilon, c, reach)
    bounds = replaced((noise, rate, steps)).delta(epsilon)
    assert bounds.lower * (1 - 1e-14) <= exact <= bounds.upper * (1 + 1e-14)
    assert bounds.relative_width <= 1e-9


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "epsilon"),
    [(1.0, 0.02, 3, 1.0), (0.5, 0.001, 100, 2.0), (0.4, 0.3, 4, 9.0), (3.0, 0.999, 20, 2.5), (0.6, 0.05, 1, 1.0)],
)
def test_bounds_meet_those_by_convolution(noise, rate, steps, epsilon):
    low, high = oracle.convolution_delta(noise, rate, steps, epsilon)
    bounds = replaced((noise, rate, steps)).delta(epsilon)
    assert low * (1 - 1e-6) - 1e-13 <= bounds.upper
    assert bounds.lower <= high * (1 + 1e-6) + 1e-13
    assert bounds.relative_width <= 1e-2


@given(
    noise=st.floats(0.3, 3.0),
    rate=st.floats(0.01, 0.99),
    order=st.floats(0.3, 6.0),
    angles=st.tuples(st.floats(0.0, 6.3), st.floats(0.0, 6.3)),
    norms=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
)
@settings(max_examples=25, deadline=None)
def test_opposite_gradients_dominate_all_others_in_the_plane(noise, rate, order, angles, norms):
    first, second = (r * np.array([math.cos(a), math.sin(a)]) for r, a in zip(norms, angles, strict=True))
    worst = oracle.hockey_stick(order, noise, rate, np.array([1.0, 0.0]), np.array([-1.0, 0.0]))
    assert oracle.hockey_stick(order, noise, rate, first, second) <= worst + 2e-4


@given(noise=st.floats(0.3, 10.0), rate=st.floats(0.02, 0.999), epsilon=st.floats(0.0, 5.0))
@settings(max_examples=15, deadline=None)
def test_one_step_agrees_with_the_line(noise, rate, epsilon):
    # another, nearly silent step takes the closed form away
    closed = replaced_delta(noise, rate, epsilon)
    line = replaced((noise, rate, 1), (1e8, 1.0, 1)).delta(epsilon)
    assert closed.lower <= line.upper * (1 + 1e-9)
    assert line.lower <= closed.upper * (1 + 1e-9) + 1e-7 * closed.upper + 1e-15


@given(noise=st.floats(0.5, 5.0), rate=st.floats(1e-3, 0.9), steps=st.integers(20, 500), epsilon=st.floats(0.05, 4.0))
@settings(max_examples=15, deadline=None)
def test_replacing_lies_between_removing_and_both_in_turn(noise, rate, steps, epsilon):
    history = [(noise, rate, steps)]
    added, both = PrivacyCurve(history), replaced(*history)
    # to remove an example and add another are two neighbours in turn
    half = added.delta(0.5 * epsilon).upper
    assert added.delta(epsilon).lower <= both.delta(epsilon).upper
    assert both.delta(epsilon).lower <= half * (1.0 + math.exp(0.5 * epsilon)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("noise", "rate", "tilt", "y"),
    [(1.0, 0.01, 3.0, 5.0), (0.4, 0.3, 7.0, 2.0), (3.0, 0.9, 1.5, 6.0), (1.0, 0.5, 0.5, 1.0)],
)
def test_the_rule_knows_its_error_and_its_decay(noise, rate, tilt, y):
    rule = make_replaced_rule(ReplacedDensity(noise, rate), tilt, y)
    score = np.arange(-30.0, 40.0 + 4.0 * tilt / noise, 0.01)
    up, down = (
        np.logaddexp(math.log1p(-rate), math.log(rate) + sign * score / noise - 0.5 / noise**2) for sign in (1, -1)
    )
    terms = np.exp(tilt * up + (1 - tilt) * down - 0.5 * score**2 + 1j * y * (up - down))
    fine = 0.01 * terms.sum() / math.sqrt(2 * math.pi)
    sums = np.exp(rule.log_mass + (tilt + 1j * y) * rule.loss)
    size = np.abs(sums).sum()
    assert abs(fine - sums.sum()) <= math.exp(rule.log_error(tilt, y)) + 1e-12 * size
    for reach in (y, 0.5 * y, 0.1 * y):
        bound = rule.decay(tilt, Bounds(math.log(size), math.log(size))).log_bound(reach)
        assert math.log(abs(fine) / size) <= bound + 1e-9
        assert bound <= 0.9 * math.log(abs(np.exp(rule.log_mass + (tilt + 1j * reach) * rule.loss).sum()) / size) / 8


def test_layers_hold_for_the_largest_value_at_the_peak():
    rule = make_replaced_rule(ReplacedDensity(1.0, 0.3), 2.0, 1.0)
    log_phi = float(np.logaddexp.reduce(rule.log_mass + 2.0 * rule.loss))
    sure = rule.decay(2.0, Bounds(log_phi, log_phi))
    unsure = rule.decay(2.0, Bounds(log_phi - 0.5, log_phi + 0.5))
    assert unsure.mass.sum() <= math.exp(-0.5) * sure.mass.sum() * (1 + 1e-9)
    assert (unsure.log_size >= sure.log_size + 0.5 - 1e-9).all()


def test_slopes_that_underflow_claim_nothing():
    rule = make_replaced_rule(ReplacedDensity(0.02, 0.5), 1.5, 1.0)
    assert (rule.up + rule.down).min() == 0.0
    log_phi = float(np.logaddexp.reduce(rule.log_mass + 1.5 * rule.loss))
    decay = rule.decay(1.5, Bounds(log_phi, log_phi))
    assert 0.0 < decay.mass.sum() <= 1.0
    assert decay.log_bound(1.0) < 0.0


def test_unsampled_steps_move_twice_as_far():
    bounds = replaced((2.0, 1.0, 3), (Gaussian(4.0), 2)).delta(1.0)
    exact = gaussian_delta(2.0 * math.sqrt(3 / 4.0 + 2 / 16.0), 1.0)
    assert bounds.lower <= exact * (1 + 1e-12)
    assert exact * (1 - 1e-12) <= bounds.upper
    assert bounds.relative_width < 1e-12


def test_zero_out_has_the_pairs_of_add_or_remove():
    history = [(1.0, 0.01, 1000), (2.0, 1.0, 3)]
    assert PrivacyCurve(history, adjacency="zero_out").epsilon(1e-5) == PrivacyCurve(history).epsilon(1e-5)


def test_noiseless_steps_reveal_the_example_that_is_sampled():
    bounds = replaced((0.0, 0.1, 2), (1.0, 0.1, 3)).delta(5.0)
    assert bounds.lower <= 1 - 0.9**2 <= bounds.upper


@pytest.mark.parametrize(("adjacency", "factor"), [("zero_out", 1.0), ("replace_one", 2.0)])
def test_fixed_batches_are_a_gaussian_step_an_epoch(adjacency, factor):
    curve = PrivacyCurve([(FixedBatches(3.0), 5)], adjacency=adjacency)
    exact = gaussian_delta(factor * math.sqrt(5) / 3.0, 0.8)
    assert curve.delta(0.8).lower <= exact * (1 + 1e-12)
    assert exact * (1 - 1e-12) <= curve.delta(0.8).upper
    assert curve.history == ((FixedBatches(3.0), 5),)
    assert repr(curve) == f"PrivacyCurve([(FixedBatches(noise_multiplier=3.0), 5)], adjacency={adjacency!r})"


def test_fixed_batches_claim_nothing_for_an_example_added():
    with pytest.raises(InvalidParameterError, match="zero_out"):
        PrivacyCurve([(FixedBatches(3.0), 5)])
    with pytest.raises(InvalidParameterError, match="only PrivacyCurve"):
        compose([(FixedBatches(3.0), 5)])


@pytest.mark.parametrize("step", [Laplace(1.0), DiscreteMechanism((0.5, 0.5), (0.4, 0.6))])
def test_steps_without_a_pair_for_a_replaced_example_are_refused(step):
    with pytest.raises(InvalidParameterError, match="no proved bound"):
        replaced((step, 3))


def test_responses_are_about_a_replaced_answer():
    history = [(RandomizedResponse(0.5), 3)]
    assert replaced(*history).delta(0.4) == PrivacyCurve(history).delta(0.4)


@pytest.mark.parametrize("adjacency", ["substitute", None, 3, ["replace_one"]])
def test_other_adjacencies_are_refused(adjacency):
    with pytest.raises(InvalidParameterError, match="adjacency="):
        PrivacyCurve([(1.0, 0.1, 1)], adjacency=adjacency)


def test_a_replaced_step_cannot_be_smuggled_into_a_history():
    with pytest.raises(InvalidParameterError, match="must be"):
        PrivacyCurve([(ReplacedSubsampledGaussian(1.0, 0.1), 3)])


def test_the_accountant_answers_for_each():
    accountant = EdgeworthAccountant()
    for _ in range(100):
        accountant.step(noise_multiplier=1.0, sample_rate=0.01)
    expected = replaced((1.0, 0.01, 100)).epsilon(1e-5).upper
    assert accountant.get_epsilon(1e-5, adjacency="replace_one") == expected > accountant.get_epsilon(1e-5)
    with pytest.raises(InvalidParameterError, match="adjacency"):
        accountant.get_epsilon(1e-5, adjacency="replace_one", method="aea")


def test_calibration_meets_the_target_and_a_step_further_does_not():
    common = {"target_epsilon": 3.0, "target_delta": 1e-5, "sample_rate": 0.02, "steps": 200}
    noise = ew.calibrate_noise_multiplier(adjacency="replace_one", rel_tol=1e-7, **common)
    assert replaced((noise, 0.02, 200)).delta(3.0).upper <= 1e-5
    assert replaced((noise * (1 - 1e-6), 0.02, 200)).delta(3.0).upper > 1e-5
    assert noise > ew.calibrate_noise_multiplier(**common)
    steps = ew.calibrate_steps(
        noise_multiplier=noise, sample_rate=0.02, adjacency="replace_one", target_epsilon=3.0, target_delta=1e-5
    )
    assert steps == 200
    delta = ew.calibrate_delta(
        target_epsilon=3.0, noise_multiplier=noise, sample_rate=0.02, steps=200, adjacency="replace_one"
    )
    assert delta <= 1e-5


def test_meaning_follows_the_adjacency():
    curve = replaced((1.0, 0.01, 500))
    assert curve.advantage() == curve.delta(0.0)
    assert curve.tradeoff(0.1, direction="remove") == curve.tradeoff(0.1, direction="add")
    order = 2.0
    rule = make_replaced_rule(ReplacedDensity(1.0, 0.01), order, 0.0)
    exact = 500 * np.logaddexp.reduce(rule.log_mass + order * rule.loss)
    assert curve.renyi_divergence(order).lower == pytest.approx(exact, rel=1e-10)
    rho = curve.zcdp_rho()
    assert rho.lower <= 250.0 * (1 + 1e-12)
    assert 250.0 <= rho.upper <= 250.2


def test_the_command_line_names_the_adjacency():
    def run(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--adjacency", "replace_one", "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    flags = ["--noise-multiplier", "1", "--sample-rate", "0.01", "--steps", "100", "--delta", "1e-5"]
    said = run("epsilon", *flags)
    assert said["epsilon"]["upper"] == replaced((1.0, 0.01, 100)).epsilon(1e-5).upper
    assert said["adjacency"] == "one example replaced by another"
    aim = ["--epsilon", "3", "--delta", "1e-5"]
    least = run("noise", *aim, "--sample-rate", "0.01", "--steps", "100")
    assert least["epsilon"]["upper"] <= 3.0
    ways = run("plan", *aim, "--dataset-size", "1000", "--batch-size", "10", "--epochs", "1")
    assert ways["best"]["noise_multiplier"] == pytest.approx(least["noise_multiplier"], rel=1e-5)
    assert "replaced" in ways["target"]


@pytest.mark.parametrize(("noise", "rate"), [(1e-3, 0.5), (1e6, 0.5), (1e4, 1e-6)])
def test_rho_where_no_order_or_no_high_one_can_be_looked_at(noise, rate):
    """From a / (2 s^2) on, as for an example removed, and never above N(1) from N(-1)."""
    rho = replaced((noise, rate, 3)).zcdp_rho()
    assert rho.lower >= 1.5 / noise**2 * (1 - 1e-12)
    assert rho.upper <= 6.0 / noise**2 * (1 + 1e-12)
