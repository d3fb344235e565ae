"""The privacy curve: limits, bad input, and invariants over random regimes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opacus_edgeworth import Bounds, InvalidParameterError, PrivacyCurve, mechanisms


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp).map(lambda x: float(f"{x:.4g}"))


NOISE = log_uniform(0.5, 50.0)
RATE = st.one_of(log_uniform(1e-5, 0.9), st.just(1.0))
STEPS = log_uniform(1.0, 1e6).map(int)
PHASE = st.tuples(NOISE, RATE, STEPS)
HISTORY = st.lists(PHASE, min_size=1, max_size=3)
DELTA = log_uniform(1e-13, 0.3)
SOME = settings(max_examples=12, deadline=None, derandomize=True)


def test_nothing_done_reveals_nothing():
    for history in ([], [(1.0, 0.01, 0)], [(1.0, 0.0, 100)], [(0.0, 0.0, 5)]):
        assert PrivacyCurve(history).epsilon(1e-5) == Bounds(0.0, 0.0)
        assert PrivacyCurve(history).epsilon(0.0) == Bounds(0.0, 0.0)
        assert PrivacyCurve(history).delta(0.0) == Bounds(0.0, 0.0)


def test_no_noise_is_no_privacy():
    curve = PrivacyCurve([(0.0, 0.01, 100), (1.0, 0.01, 100)])
    assert curve.epsilon(1e-5) == Bounds(math.inf, math.inf)
    assert curve.delta(3.0).lower == pytest.approx(1 - 0.99**100, rel=1e-9)
    assert curve.delta(3.0).upper == 1.0
    assert PrivacyCurve([(0.0, 1.0, 1)]).delta(100.0).lower == pytest.approx(1.0)


def test_ends_of_delta_and_epsilon():
    curve = PrivacyCurve([(1.0, 0.01, 100)])
    assert curve.epsilon(1.0) == Bounds(0.0, 0.0)
    assert curve.epsilon(0.0) == Bounds(math.inf, math.inf)
    assert curve.delta(math.inf) == Bounds(0.0, 0.0)
    assert curve.epsilon(0.5) == Bounds(0.0, 0.0)


def test_arrays_in_arrays_out():
    curve = PrivacyCurve([(1.0, 0.01, 1000)])
    got = curve.epsilon(np.array([[1e-6, 1e-5], [1e-4, 1e-3]]))
    assert got.shape == (2, 2)
    assert got[0, 1] == curve.epsilon(1e-5)
    assert curve.delta([1.0])[0] == curve.delta(1.0)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, "1e-5", None, True, 1e-5j])
def test_bad_delta_is_refused_by_name(value):
    with pytest.raises(InvalidParameterError, match="delta"):
        PrivacyCurve([(1.0, 0.01, 10)]).epsilon(value)


@pytest.mark.parametrize("value", [-1.0, math.nan, "1", None])
def test_bad_epsilon_is_refused_by_name(value):
    with pytest.raises(InvalidParameterError, match="epsilon"):
        PrivacyCurve([(1.0, 0.01, 10)]).delta(value)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([(-1.0, 0.01, 10)], r"history\[0\]: noise_multiplier=-1.0"),
        ([(math.inf, 0.01, 10)], "noise_multiplier=inf"),
        ([(1.0, 0.01, 10), (1.0, 1.5, 10)], r"history\[1\]: sample_rate=1.5.*accumulation"),
        ([(1.0, math.nan, 10)], "sample_rate=nan"),
        ([(1.0, 0.01, 1.5)], "steps=1.5"),
        ([(1.0, 0.01, -1)], "steps=-1"),
        ([(1.0, 0.01)], "must be"),
        ([("1", 0.01, 3)], "noise_multiplier='1'"),
        (5, "history=5"),
        ([7], "history"),
    ],
)
def test_bad_history_is_refused_with_its_place(history, message):
    with pytest.raises(InvalidParameterError, match=message):
        PrivacyCurve(history)


def test_mechanisms_are_histories_too():
    by_tuples = PrivacyCurve([(1.0, 0.01, 10), (20.0, 1.0, 5)])
    pairs = [(mechanisms.PoissonSubsampledGaussian(1.0, 0.01), 10), (mechanisms.Gaussian(20.0), 5)]
    assert PrivacyCurve(pairs).epsilon(1e-5) == by_tuples.epsilon(1e-5)


def test_rows_of_an_array_and_generators_are_entries():
    history = [(1.0, 0.1, 10), (2.0, 0.5, 3)]
    for same in (np.array(history), [iter(entry) for entry in history], (list(entry) for entry in history)):
        assert PrivacyCurve(same).epsilon(1e-5) == PrivacyCurve(history).epsilon(1e-5)


def test_full_sampling_is_the_limit_of_sampling():
    full = PrivacyCurve([(5.0, 1.0, 10)]).epsilon(1e-5)
    almost = PrivacyCurve([(5.0, 1.0 - 1e-13, 10)]).epsilon(1e-5)
    assert almost.lower <= full.upper
    assert almost.upper >= full.lower * (1 - 1e-9)
    assert almost.relative_width < 1e-5


@SOME
@given(HISTORY, DELTA)
def test_epsilon_and_delta_are_inverse(history, delta):
    curve = PrivacyCurve(history)
    epsilon = curve.epsilon(delta)
    assert 0.0 <= epsilon.lower <= epsilon.upper < math.inf
    assert curve.delta(epsilon.upper).lower <= delta
    assert epsilon.lower == 0.0 or curve.delta(epsilon.lower).upper >= delta


@SOME
@given(st.lists(PHASE, min_size=2, max_size=3), DELTA)
def test_order_and_splitting_do_not_matter(history, delta):
    sigma, rate, steps = history[0]
    split = [*history[1:], (sigma, rate, steps - steps // 2), (sigma, rate, steps // 2)]
    assert PrivacyCurve(history).epsilon(delta) == PrivacyCurve(split).epsilon(delta)


@SOME
@given(PHASE, DELTA)
def test_more_steps_and_less_noise_never_help(phase, delta):
    sigma, rate, steps = phase
    base = PrivacyCurve([phase]).epsilon(delta)
    assert PrivacyCurve([(sigma, rate, steps + 1)]).epsilon(delta).upper >= base.lower
    assert PrivacyCurve([(sigma * 0.9, rate, steps)]).epsilon(delta).upper >= base.lower
    assert PrivacyCurve([phase]).epsilon(delta / 2).upper >= base.lower


@SOME
@given(HISTORY, st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_delta_falls_and_is_convex_in_exp_epsilon(history, first, second):
    curve = PrivacyCurve(history)
    low, high = sorted((first, second))
    middle = math.log(0.5 * (math.exp(low) + math.exp(high)))
    at_low, at_high, at_middle = (curve.delta(e) for e in (low, high, middle))
    assert at_high.lower <= at_low.upper
    assert at_middle.lower <= 0.5 * (at_low.upper + at_high.upper) * (1 + 1e-12) + 1e-320
