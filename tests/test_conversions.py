"""To dp-accounting and back: never less revealing, and hardly more."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld

import opacus_edgeworth as ew
from opacus_edgeworth.conversions import from_dp_accounting, to_dp_accounting

HISTORIES = [
    [(1.0, 0.01, 1000)],
    [(0.7, 0.001, 20)],
    [(2.0, 1.0, 3)],
    [(ew.mechanisms.Laplace(2.0), 4), (1.5, 0.1, 10)],
]
ROUNDING = 1e-11
"""dp-accounting's own, relative; it is not covered."""


@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_a_curve_becomes_a_distribution_that_reveals_no_less(history):
    curve = ew.PrivacyCurve(history)
    distribution = to_dp_accounting(curve)
    largest = curve.epsilon(1e-9).upper
    for epsilon in np.linspace(0.0, largest, 23):
        proved, told = curve.delta(float(epsilon)), float(distribution.get_delta_for_epsilon(float(epsilon)))
        assert told >= proved.lower * (1.0 - ROUNDING)
        assert told <= proved.upper * 1.01 + 1e-12
    assert float(distribution.get_epsilon_for_delta(1e-6)) == pytest.approx(
        curve.epsilon(1e-6).upper, rel=3e-4, abs=2e-4
    )


def test_each_direction_is_its_own():
    curve = ew.PrivacyCurve([(0.7, 0.05, 1)])
    distribution = to_dp_accounting(curve)
    for direction, pmf in (("remove", distribution._pmf_remove), ("add", distribution._pmf_add)):
        assert float(pmf.get_delta_for_epsilon(0.03)) == pytest.approx(
            curve.delta(0.03, direction=direction).upper, rel=0.02
        )


def test_compositions_of_distributions_stay_above_the_truth():
    twice = to_dp_accounting(ew.PrivacyCurve([(1.0, 0.01, 500)])).self_compose(2)
    assert float(twice.get_epsilon_for_delta(1e-5)) >= ew.PrivacyCurve([(1.0, 0.01, 1000)]).epsilon(1e-5).lower


def test_a_distribution_becomes_a_mechanism_of_the_same_curve():
    distribution = pld.from_laplace_mechanism(1.5, value_discretization_interval=0.01).self_compose(5)
    mechanism = from_dp_accounting(distribution)
    curve = ew.PrivacyCurve([(mechanism, 1)])
    for epsilon in (0.0, 0.5, 1.5, 3.0):
        told, found = float(distribution.get_delta_for_epsilon(epsilon)), curve.delta(epsilon)
        assert found.lower <= told * (1 + 1e-9) + 1e-13
        assert found.upper >= told * (1 - 1e-9)


def test_what_is_seen_for_certain_stays_so():
    distribution = pld.from_privacy_parameters(pld.common.DifferentialPrivacyParameters(1.0, 0.01))
    curve = ew.PrivacyCurve([(from_dp_accounting(distribution), 1)])
    assert curve.delta(math.inf).upper == pytest.approx(0.01, rel=1e-9)
    assert curve.delta(1.0).upper == pytest.approx(0.01, rel=1e-3)


def test_steps_of_ours_compose_with_theirs():
    theirs = from_dp_accounting(pld.from_gaussian_mechanism(1.0, sampling_prob=0.01).self_compose(100))
    both = ew.PrivacyCurve([(theirs, 1), (1.0, 0.01, 900)]).epsilon(1e-5)
    assert both.upper == pytest.approx(ew.PrivacyCurve([(1.0, 0.01, 1000)]).epsilon(1e-5).upper, rel=1e-5)
    assert both.upper >= ew.PrivacyCurve([(1.0, 0.01, 1000)]).epsilon(1e-5).lower


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interval": 0.0}, "interval"),
        ({"interval": math.inf}, "interval"),
        ({"points": 1}, "points"),
        ({"tail": 0.0}, "tail"),
        ({"tail": 1.0}, "tail"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ew.InvalidParameterError, match=message):
        to_dp_accounting(ew.PrivacyCurve([(1.0, 0.01, 10)]), **change)


def test_no_privacy_and_no_distribution_are_errors():
    with pytest.raises(ew.CertificationError, match="tail"):
        to_dp_accounting(ew.PrivacyCurve([(0.0, 0.1, 1)]))
    with pytest.raises(ew.InvalidParameterError, match="dp-accounting"):
        from_dp_accounting(object())
