"""The engines against each other and against closed forms, where both reach."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from opacus_edgeworth import PrivacyCurve
from opacus_edgeworth.composition import compose
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.elementary import elementary_delta, elementary_epsilon
from opacus_edgeworth.inversion.exact import exact_delta
from opacus_edgeworth.inversion.grid import expm1_minus, make_grid
from opacus_edgeworth.inversion.lattice import make_lattice
from opacus_edgeworth.inversion.line import line_for_epsilon, make_lines
from opacus_edgeworth.inversion.quadrature import tilted_steps
from opacus_edgeworth.inversion.saddle import rough_grid, saddle_for_epsilon
from opacus_edgeworth.inversion.truncation import decay_bound, one_minus_sinc

OVERLAP = [
    ([(1.0, 0.01, 1000)], 1.0),
    ([(0.8, 0.1, 30)], 4.0),
    ([(4.0, 0.25, 200)], 3.0),
    ([(0.5, 0.02, 60)], 6.0),
    ([(1.0, 0.02, 100), (2.0, 0.05, 50)], 1.5),
    ([(20.0, 1.0, 10), (1.0, 0.05, 50)], 2.0),
    ([(100.0, 0.01, 20)], 1e-4),
]


@pytest.mark.parametrize("direction", ["remove", "add"])
@pytest.mark.parametrize(("history", "epsilon"), OVERLAP, ids=str)
def test_line_and_lattice_agree(history, epsilon, direction):
    steps = compose(history)
    law = rough_grid(steps)
    if direction == "add":  # stay below the limit from where on delta is 0
        epsilon = min(epsilon, 0.3 * steps.add_direction_limit())
    line = line_for_epsilon(law, epsilon, direction).delta(epsilon)
    c = saddle_for_epsilon(law, epsilon, direction)
    lattice = make_lattice(law, c, direction, math.log(line.upper), 1 << 17).delta(epsilon)
    assert lattice.lower <= line.upper
    assert line.lower <= lattice.upper
    assert line.relative_width < 1e-9
    assert lattice.relative_width < 0.05


@pytest.mark.parametrize("direction", ["remove", "add"])
@pytest.mark.parametrize(("sigma", "rate", "epsilon"), [(0.7, 0.1, 0.05), (1.0, 0.5, 0.3), (3.0, 0.9, 0.8)])
def test_lattice_of_one_step_meets_the_closed_form(sigma, rate, epsilon, direction):
    steps = compose([(sigma, rate, 1)])
    law = rough_grid(steps)
    exact = exact_delta(steps, epsilon, direction)
    c = saddle_for_epsilon(law, epsilon, direction)
    lattice = make_lattice(law, c, direction, math.log(exact.upper), 1 << 17).delta(epsilon)
    assert lattice.lower <= exact.upper
    assert exact.lower <= lattice.upper
    assert lattice.relative_width < 1e-5


@pytest.mark.parametrize(("sigma", "epsilon"), [(1.0, 1.0), (50.0, 0.01), (0.1, 70.0), (0.1, 10.0), (3.0, 0.0)])
def test_gaussian_closed_form(sigma, epsilon):
    a, b = epsilon * sigma - 0.5 / sigma, epsilon * sigma + 0.5 / sigma
    expected = norm.sf(a) - math.exp(epsilon + norm.logsf(b))
    got = exact_delta(compose([(sigma, 1.0, 1)]), epsilon, "remove")
    assert got.lower <= expected + 1e-15
    assert got.upper >= expected - 1e-15
    assert got.relative_width < 1e-9


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_delta_near_one_uses_the_complement(epsilon):
    steps = compose([(0.5, 0.5, 200)])
    law = rough_grid(steps)
    for direction in ("remove", "add"):
        line = line_for_epsilon(law, epsilon, direction)
        got = line.delta(epsilon)
        assert 0.999 < got.lower <= got.upper <= 1.0
        assert line.gap < 0.0


@pytest.mark.parametrize(("history", "epsilon"), OVERLAP, ids=str)
def test_elementary_bounds_hold(history, epsilon):
    steps = compose(history)
    line = line_for_epsilon(rough_grid(steps), epsilon, "remove").delta(epsilon)
    simple = elementary_delta(steps, epsilon, "remove")
    assert simple.lower <= line.upper
    assert simple.upper >= line.lower
    if 0.0 < line.lower < 1.0:
        assert elementary_epsilon(steps, line.lower) >= epsilon


def test_small_differences_keep_their_relative_accuracy():
    x = np.array([1e-12, -1e-8, 1e-3, 0.2, -0.24, 0.26, -3.0, 5.0])
    series = [math.fsum(v**k / math.factorial(k) for k in range(2, 60)) for v in x]
    np.testing.assert_allclose(expm1_minus(x), series, rtol=40 * 2.0**-52)


@pytest.mark.parametrize("tilt", [2.0, 3.0])
def test_cgf_at_integers_is_known(tilt):
    sigma, rate = 0.9, 0.03
    k = int(tilt)
    moments = [math.comb(k, j) * (1 - rate) ** (k - j) * rate**j * math.exp(j * (j - 1) / (2 * sigma**2))
               for j in range(k + 1)]  # fmt: skip
    expected = math.log1p(math.fsum([*moments, -1.0]))
    got = tilted_steps(make_grid(compose([(sigma, rate, 1)]), 0.0, tilt, 1.0, -70.0), np.array([tilt]))
    assert abs(got.log_mgf[0, 0] - expected) <= got.log_mgf_error[0, 0] + 4e-16 * abs(expected) + 1e-17


@pytest.mark.parametrize(
    ("history", "tilt"), [([(1.0, 0.01, 1)], 6.0), ([(0.4, 0.2, 1)], 1.3), ([(3.0, 0.5, 1)], -4.0)]
)
def test_decay_bound_holds_where_the_characteristic_function_is_known(history, tilt):
    steps = compose(history)
    tilted = tilted_steps(make_grid(steps, tilt, tilt, 200.0, -70.0), np.array([tilt]))
    decay = decay_bound(tilted)
    y = np.geomspace(1e-2, 200.0, 400)
    modulus = np.abs(np.exp(1j * np.outer(y, tilted.grid.loss[0])) @ tilted.weight[0, 0])
    bound = np.exp([decay.log_bound(float(v))[0] for v in y])
    assert np.all(np.maximum.accumulate(modulus[::-1])[::-1] <= bound * (1 + 1e-9))
    assert np.all(np.diff(bound) <= 1e-12)


def test_sinc_minorant():
    x = np.linspace(1e-6, 60.0, 200_001)
    bound = one_minus_sinc(x)
    assert np.all(bound <= 1.0 - np.abs(np.sin(x) / x) + 1e-15)
    assert np.all(np.diff(bound) >= -1e-15)


@pytest.mark.parametrize(
    ("direction", "epsilon"), [("remove", 5e-6), ("remove", 1e-4), ("remove", 1e-3), ("add", 5e-6), ("add", 1.5e-5)]
)
@pytest.mark.parametrize("size", [1 << 14, 1 << 16, 1 << 18])
def test_grid_coarser_than_the_sample_rate_stays_sound(size, direction, epsilon):
    """Regression: the gathered head stopped early when a cut met its node, and the lower bound came out too high."""
    steps = compose([(1.0, 1.67e-5, 1)])
    exact = exact_delta(steps, epsilon, direction)
    law = rough_grid(steps)
    got = make_lattice(law, 20.0, direction, math.log(exact.upper), size).delta(epsilon)
    assert got.lower <= exact.upper
    assert got.upper >= exact.lower


def test_lattice_refuses_scores_whose_masses_underflow():
    """Regression: masses beyond a score of 37 were 0, and the upper bound came out as 6e-14 instead of 0.15."""
    steps = compose([(1.0, 0.3679, 1), (1.0, 1.0, 268_300)])
    with pytest.raises(OutOfReachError):
        make_lattice(rough_grid(steps), 1.0045, "remove", math.log(0.15), 1 << 16)


@pytest.mark.parametrize(
    ("history", "delta"),
    [
        ([(0.0619, 1.17e-7, 27501)], 4.8e-3),  # a tilt with a mode beyond floating-point scores went on for ever
        ([(149.7, 7.0e-4, 9007), (10.3, 1.19e-7, 34)], 1.4e-8),  # nothing left to balance: division by zero
        ([(1.0, 0.3679, 1), (1.0, 1.0, 268_300)], 0.1534),  # the lower end was lost to the spacing of doubles
    ],
)
def test_regimes_that_once_failed(history, delta):
    bounds = PrivacyCurve(history).epsilon(delta)
    assert 0.0 <= bounds.lower <= bounds.upper < math.inf
    curve = PrivacyCurve(history)
    if bounds.upper > 0.0:
        assert curve.delta(bounds.upper * (1.0 + 1e-9)).lower <= delta
    if bounds.lower > 0.0:
        assert curve.delta(bounds.lower * (1.0 - 1e-9)).upper >= delta


@pytest.mark.parametrize("log_cut", [-6.0, -9.0, -14.0, -25.0])
@pytest.mark.parametrize(
    ("history", "epsilon"),
    [([(1.0, 0.01, 1000)], 1.0), ([(0.8, 0.1, 30)], 2.0), ([(4.0, 0.25, 200)], 3.0), ([(0.5, 0.5, 200)], 0.5)],
    ids=str,
)
def test_a_cut_that_matters_is_paid_for(history, epsilon, log_cut, monkeypatch):
    steps = compose(history)
    true = {d: line_for_epsilon(rough_grid(steps), epsilon, d).delta(epsilon) for d in ("remove", "add")}
    monkeypatch.setattr("opacus_edgeworth.inversion.grid.LATER", np.array([0.0]))  # cut exactly there
    affordable = 0
    for direction in ("remove", "add"):
        for c in (1.5, 3.0, 6.0, 0.5):  # the complement too
            try:
                line = make_lines(rough_grid(steps, log_cut), c, (direction,), epsilon)[0]
            except OutOfReachError:
                continue  # an edge in the tilted law may cost too many nodes
            affordable += 1
            got = line.delta(epsilon)
            assert 1e-4 * math.exp(log_cut) < line.cut_off < math.exp(log_cut)
            assert got.lower <= true[direction].upper
            assert got.upper >= true[direction].lower
    assert affordable


@pytest.mark.parametrize(("direction", "exact"), [("remove", 4.9882750619551014e-05), ("add", 4.979939868011293e-05)])
def test_a_small_sample_rate_is_not_lost_in_impossible_events(direction, exact):
    """Regression: known to 17 % before laws were cut off; `exact` is oracle.delta(history, epsilon, direction)."""
    epsilon = 0.0010980899651075332
    got = line_for_epsilon(rough_grid(compose([(4.72, 7.7e-6, 302_345)])), epsilon, direction).delta(epsilon)
    assert got.lower <= exact * (1.0 + 1e-14)
    assert got.upper >= exact * (1.0 - 1e-14)
    assert got.relative_width < 1e-9
