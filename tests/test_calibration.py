"""Calibration: the published settings, the safe side, and what is refused."""

import math

import pytest

from opacus_edgeworth import CalibrationError, InvalidParameterError, PrivacyCurve, calibrate_noise_multiplier

# batch 2000, 20 epochs, steps = int(20 / q): data size, delta, {target epsilon: noise multiplier to the digits known}
SETTINGS = {
    "SST-2": (67349, 1e-5, {1: 3.020005, 3: 1.322774, 8: 0.801414}),
    "MNLI": (392702, 1e-6, {1: 1.543010, 3: 0.833532, 8: 0.604606}),
    "QNLI": (104743, 1e-5, {1: 2.458562, 3: 1.132492, 8: 0.726789}),
    "QQP": (363846, 1e-6, {1: 1.591664, 3: 0.848309, 8: 0.611490}),
}


@pytest.mark.parametrize("epsilon", [1, 3, 8])
@pytest.mark.parametrize("task", SETTINGS)
def test_fine_tuning_settings(task, epsilon):
    size, delta, known = SETTINGS[task]
    rate = 2000 / size
    noise = calibrate_noise_multiplier(target_epsilon=epsilon, target_delta=delta, sample_rate=rate, epochs=20)
    assert noise == pytest.approx(known[epsilon], abs=1e-6)
    history = [(noise, rate, int(20 / rate))]
    assert PrivacyCurve(history).delta(epsilon).upper <= delta
    assert PrivacyCurve([(noise * (1 - 1e-8), *history[0][1:])]).delta(epsilon).lower > delta


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "steps"),
    [(0.01, 1e-6, 1e-4, 10), (50.0, 1e-5, 0.5, 3), (2.0, 1e-9, 1.0, 100), (30.0, 1e-5, 0.001, 5), (0.0, 0.01, 0.1, 10)],
)
def test_the_result_is_safe_and_least(epsilon, delta, rate, steps):
    noise = calibrate_noise_multiplier(
        target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, rel_tol=1e-6
    )
    assert PrivacyCurve([(noise, rate, steps)]).delta(epsilon).upper <= delta
    assert PrivacyCurve([(noise * 0.999, rate, steps)]).delta(epsilon).upper > delta


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_epsilon": -1.0}, "target_epsilon"),
        ({"target_epsilon": math.inf}, "target_epsilon"),
        ({"target_delta": 0.0}, "target_delta"),
        ({"target_delta": 1.5}, "target_delta"),
        ({"sample_rate": 0.0}, "sample_rate"),
        ({"sample_rate": 2.0}, "sample_rate"),
        ({"steps": 0}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"steps": None}, "steps or epochs"),
        ({"epochs": 3.0}, "steps or epochs"),
        ({"steps": None, "epochs": -1.0}, "epochs"),
        ({"rel_tol": 0.0}, "rel_tol"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"target_epsilon": 1.0, "target_delta": 1e-5, "sample_rate": 0.01, "steps": 100} | change
    with pytest.raises(InvalidParameterError, match=message):
        calibrate_noise_multiplier(**arguments)


def test_impossible_target_is_an_error():
    with pytest.raises(CalibrationError, match="does not meet"):
        calibrate_noise_multiplier(target_epsilon=0.0, target_delta=1e-15, sample_rate=1.0, steps=10**9)
