"""A few steps as atoms, against quadrature in 40 digits, the other engines and arbitrary cells."""

import math
from typing import Any

import mpmath as mp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from opacus_edgeworth import PrivacyCurve
from opacus_edgeworth.composition import compose
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.contour import line_for_epsilon
from opacus_edgeworth.inversion.exact import single_step_delta as scalar_delta
from opacus_edgeworth.inversion.few import Few, _atoms, few_of, step_delta
from opacus_edgeworth.inversion.saddle import rough_grid
from opacus_edgeworth.mechanisms import ULP


def exact_step(s: Any, q: Any, epsilon: Any) -> Any:
    """The remove direction's delta of one step at any epsilon."""
    more = mp.expm1(epsilon) + q
    if more <= 0:
        return -mp.expm1(epsilon)
    t = s * mp.log(more / q) + 1 / (2 * s)
    return q * mp.ncdf(1 / s - t) - more * mp.ncdf(-t)


def exact_pair(first: tuple[float, float], second: tuple[float, float], epsilon: float) -> Any:
    """The remove direction's delta of two steps, by quadrature over the first one's score."""
    with mp.workdps(40):
        (s, q), (r, p), e = map(mp.mpf, first), map(mp.mpf, second), mp.mpf(epsilon)

        def integrand(z: Any) -> Any:
            ratio = 1 - q + q * mp.exp(z / s - 1 / (2 * s**2))
            return mp.npdf(z) * ratio * exact_step(r, p, e - mp.log(ratio))

        most = 1 / s + 40
        points = {mp.mpf(-12), most, *(mp.mpf(k) / 2 for k in range(-20, int(2 * most)))}
        kink = (mp.exp(e) / (1 - p) - 1 + q) / q  # where the second step's delta is flat from
        if kink > 0:
            points.add(min(max(s * mp.log(kink) + 1 / (2 * s), mp.mpf(-12)), most))
        return mp.quad(integrand, sorted(points))


PAIRS = [
    ((7.229774333762903, 0.001), (0.716663858987238, 0.001)),
    ((2.0, 1e-4), (20.0, 1e-4)),
    ((0.7, 1e-4), (0.7, 1e-4)),
    ((1.0, 0.6), (0.5, 0.95)),
    ((0.15, 1e-5), (0.3, 0.02)),
    ((50.0, 0.3), (3.0, 1e-6)),
]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=str)
@pytest.mark.parametrize("epsilon", [-0.3, -1e-4, 0.0, 1e-3, 0.1, 1.5])
def test_two_steps_by_quadrature(first, second, epsilon):
    bounds, exact = Few([first, second]).delta(epsilon), exact_pair(first, second, epsilon)
    room = 1e-6 if exact < 1e-30 else 0.0  # as far as the quadrature sees such tails
    assert bounds.lower <= exact * (1 + room)
    assert exact * (1 - room) <= bounds.upper
    assert bounds.relative_width < 3e-6 or bounds.upper < 1e-12


def test_two_steps_where_nothing_decays_are_narrow():
    """They were 456 times too large: no engine reached them."""
    curve = PrivacyCurve([(s, q, 1) for s, q in PAIRS[0]])
    for epsilon in (0.0, 1e-3, 0.1):
        exact = exact_pair(*PAIRS[0], epsilon)
        assert curve.delta(epsilon, direction="remove").lower <= exact <= curve.delta(epsilon, direction="remove").upper
        assert curve.delta(epsilon).relative_width < 1e-8
    found = curve.epsilon(1e-5)
    assert found.relative_width < 1e-8
    assert exact_pair(*PAIRS[0], found.upper) <= 1e-5 <= exact_pair(*PAIRS[0], found.lower)


@pytest.mark.parametrize(("history", "epsilon"), [
    ([(0.7, 1e-4, 3)], 0.02), ([(1.0, 1e-3, 2), (9.0, 0.01, 2)], 0.3),
])  # fmt: skip
def test_three_and_four_steps_by_ball_arithmetic(history, epsilon):
    few = few_of(compose(history))
    assert few is not None
    (value, error), bounds = oracle.direction_delta(history, epsilon, "remove"), few.delta(epsilon)
    assert bounds.lower <= float(value.upper()) * (1.0 + error)
    assert float(value.lower()) * (1.0 - error) <= bounds.upper
    assert bounds.relative_width < 5e-3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.4, 4.0), st.floats(0.02, 0.9)), min_size=2, max_size=6),
    st.floats(-1.0, 4.0),
)
def test_the_bounds_meet_those_of_other_engines(steps, epsilon):
    bounds = Few(steps).delta(epsilon)
    assert 0.0 <= bounds.lower <= bounds.upper <= 1.0
    assert bounds.upper >= -math.expm1(epsilon)
    composed = compose([(s, q, 1) for s, q in steps])
    try:
        line = line_for_epsilon(rough_grid(composed), epsilon, "remove").delta(epsilon)
    except OutOfReachError:
        return
    assert bounds.lower <= line.upper
    assert line.lower <= bounds.upper


@settings(max_examples=200, deadline=None)
@given(st.floats(0.1, 50.0), st.floats(1e-9, 1.0, exclude_max=True), st.floats(-3.0, 60.0))
def test_one_step_is_what_the_closed_form_says(s, q, epsilon):
    (low,), (high,) = step_delta(s, q, np.array([epsilon]))
    assert 0.0 <= low <= high <= 1.0
    assert high - low <= 1e-9 * high or high < 1e-20
    if epsilon >= 0.0:
        exact = oracle.single_step_delta(epsilon, s, q, "remove")
        assert not exact < low
        assert not exact > high
    else:  # the same test the other way round
        known = scalar_delta(s, q, -epsilon, "add")
        more, shrink = -math.expm1(epsilon), math.exp(epsilon)
        assert low <= (more + shrink * known.upper) * (1.0 + 8.0 * ULP)
        assert (more + shrink * known.lower) * (1.0 - 8.0 * ULP) <= high


@pytest.mark.parametrize("epsilon", [599.0, 600.0, 600.5, 640.0, 1e3])
def test_one_step_where_the_likelihood_ratio_is_hardly_a_double(epsilon):
    (low,), (high,) = step_delta(0.03, 0.3, np.array([epsilon]))
    known = scalar_delta(0.03, 0.3, epsilon, "remove")
    assert low <= known.upper
    assert known.lower <= high


@pytest.mark.parametrize("q", [1e-8, 1e-3, 0.4, 0.999])
def test_one_step_next_to_its_least_loss(q):
    edge = math.log1p(-q)
    epsilon = edge + q * np.concatenate([[0.0], np.geomspace(1e-18, 1.0, 60), -np.geomspace(1e-18, 1.0, 60)])
    low, high = step_delta(1.3, q, epsilon)
    with mp.workdps(60):
        exact = [exact_step(mp.mpf(1.3), mp.mpf(q), mp.mpf(float(e))) for e in epsilon]
    assert all(a <= x <= b for a, x, b in zip(low, exact, high, strict=True))
    assert np.all(high - low <= 1e-9 * high)


@pytest.mark.parametrize(("s", "q"), [(0.2, 0.001), (1.0, 0.3), (30.0, 0.9), (0.1, 0.5)])
def test_atoms_are_probabilities_and_their_losses_those_of_cells(s, q):
    low, high = _atoms(s, q, 300)
    assert low.certain == 0.0
    assert low.mass.sum() <= 1.0 <= high.mass.sum() + high.certain <= 1.0 + 1e-12
    for atoms, sign in ((low, 1.0), (high, -1.0)):  # under Q, too
        assert sign * (1.0 - float(atoms.mass @ np.exp(-atoms.loss))) >= -1e-12
        assert np.all(np.diff(atoms.loss) >= 0.0)
        assert np.all(atoms.mass >= 0.0)
    assert low.loss[0] >= math.log1p(-q) - 1e-14 > high.loss[0] - 2e-14


def test_tails_are_as_accurate_as_is_taken_for_granted():
    for x in np.concatenate([np.linspace(-22.0, 0.0, 173), -np.geomspace(1e-12, 1.0, 20)]):
        exact = mp.ncdf(mp.mpf(float(x)))
        assert abs(float(ndtr(x) / exact - 1)) <= (20.0 + 4.0 * x**2) * ULP


def test_all_but_the_loudest_are_cut():
    quiet, loud = (9.0, 0.001), (0.5, 0.01)
    for steps in ([quiet, loud], [loud, quiet]):
        few = Few(steps)
        assert (few._noise, few._rate) == loud
        assert few.delta(0.01) == Few([quiet, loud]).delta(0.01)


def test_what_is_not_few_is_left_to_the_other_engines():
    for history in (
        [(1.0, 0.1, 1)],
        [(1.0, 0.1, 7)],
        [(1.0, 0.1, 2), (2.0, 1.0, 1)],
        [(1.0, 0.1, 2), (0.0, 0.1, 1)],
        [(0.09, 0.1, 2)],
    ):
        assert few_of(compose(history)) is None
    assert few_of(compose([(1.0, 0.1, 4), (2.0, 0.1, 2)])) is not None
