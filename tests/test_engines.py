"""The engines against each other and against closed forms, where both reach."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from opacus_edgeworth import PrivacyCurve
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import compose
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.certain import certain_table
from opacus_edgeworth.inversion.chain import chain_for_epsilon
from opacus_edgeworth.inversion.characteristic import _log1p
from opacus_edgeworth.inversion.contour import line_for_epsilon, make_lines
from opacus_edgeworth.inversion.elementary import elementary_delta, elementary_epsilon
from opacus_edgeworth.inversion.engines import direction_delta, grid_or_none, history_delta
from opacus_edgeworth.inversion.exact import exact_delta
from opacus_edgeworth.inversion.grid import expm1_minus, make_grid
from opacus_edgeworth.inversion.law import Law, barrier_for, exact, law_for_tilt, softness
from opacus_edgeworth.inversion.link import make_link
from opacus_edgeworth.inversion.quadrature import tilted_steps
from opacus_edgeworth.inversion.root import invert_delta
from opacus_edgeworth.inversion.route import Piece, Router
from opacus_edgeworth.inversion.saddle import rough_grid, saddle_for_epsilon
from opacus_edgeworth.inversion.truncation import decay_bound, one_minus_sinc, shifted_bound
from opacus_edgeworth.mechanisms import FixedBatches, Gaussian, privacy_loss

OVERLAP = [
    ([(1.0, 0.01, 1000)], 1.0),
    ([(0.8, 0.1, 30)], 4.0),
    ([(4.0, 0.25, 200)], 3.0),
    ([(0.5, 0.02, 60)], 6.0),
    ([(1.0, 0.02, 100), (2.0, 0.05, 50)], 1.5),
    ([(20.0, 1.0, 10), (1.0, 0.05, 50)], 2.0),
    ([(100.0, 0.01, 20)], 1e-4),
]


def far_law(steps, tilt: float) -> Law:
    """A law whose barrier is out of the way of the tilts in these tests."""
    soft = softness(steps, 0.35)
    return law_for_tilt(steps, tilt, soft, barrier_for(steps, -110.0, soft))


@pytest.mark.parametrize(("history", "epsilon"), OVERLAP, ids=str)
def test_line_and_chain_agree(history, epsilon):
    steps = compose(history)
    line = line_for_epsilon(rough_grid(steps), epsilon, "remove").delta(epsilon)
    chain = chain_for_epsilon(Router(steps, math.log(line.upper), epsilon), epsilon).chain(steps).delta(epsilon)
    assert chain.lower <= line.upper
    assert line.lower <= chain.upper
    assert line.relative_width < 1e-9
    assert chain.relative_width < 1e-9


@pytest.mark.parametrize("share", [0.18, 0.5])
@pytest.mark.parametrize("loss", [0.15, 0.7, 1.5])
@pytest.mark.parametrize(("history", "epsilon"), OVERLAP, ids=str)
def test_a_law_is_the_sum_of_its_parts(history, epsilon, loss, share):
    """A line up to a barrier plus a link from there on is the line up to the last barrier, wherever the barrier is."""
    steps = compose(history)
    whole = line_for_epsilon(rough_grid(steps), epsilon, "remove").delta(epsilon)
    soft = softness(steps, share)
    s, q = steps.noise_multiplier[:, None], steps.sample_rate[:, None]
    last = barrier_for(steps, math.log(whole.upper) - 35.0, soft)
    below = np.minimum(exact(s * np.log(np.expm1(loss * epsilon) / q + 1.0) + 0.5 / s), last - soft)
    c = saddle_for_epsilon(rough_grid(steps), epsilon, "remove")
    grid = make_grid(law_for_tilt(steps, c, soft, below), 0.0, c, 0.0)
    base = make_lines(grid, c, ("remove",), epsilon).lines(steps)[0]
    first = replace(base, cut_off=0.0).delta(epsilon)
    piece = Piece((0, 1), soft, below, last, c, 1.0 + 0.5 * (c - 1.0), 1.0 + 1.5 * (c - 1.0), "line", 0.0)
    second = make_link(steps, piece, epsilon, math.log(whole.upper)).line(steps).delta(epsilon)
    assert first.lower + second.lower <= whole.upper
    assert first.upper + second.upper + law_for_tilt(steps, c, soft, last).cut_off() >= whole.lower
    assert second.width < 1e-7 * whole.upper


@pytest.mark.parametrize(("sigma", "rate", "epsilon"), [(0.7, 0.1, 1.0), (1.0, 1e-3, 0.3), (0.2, 1e-5, 9.0)])
def test_chain_of_one_step_meets_the_closed_form(sigma, rate, epsilon):
    steps = compose([(sigma, rate, 1)])
    delta = exact_delta(steps, epsilon, "remove")
    chain = chain_for_epsilon(Router(steps, math.log(delta.upper), epsilon), epsilon).chain(steps).delta(epsilon)
    assert chain.lower <= delta.upper
    assert delta.lower <= chain.upper
    assert chain.relative_width < 1e-6


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
    got = tilted_steps(make_grid(far_law(compose([(sigma, rate, 1)]), tilt), 0.0, tilt, 1.0), np.array([tilt]))
    assert abs(got.log_mgf[0, 0] - expected) <= got.log_mgf_error[0, 0] + 4e-16 * abs(expected) + 1e-17


@pytest.mark.parametrize(
    ("history", "tilt"), [([(1.0, 0.01, 1)], 6.0), ([(0.4, 0.2, 1)], 1.3), ([(3.0, 0.5, 1)], -4.0)]
)
def test_decay_bound_holds_where_the_characteristic_function_is_known(history, tilt):
    steps = compose(history)
    tilted = tilted_steps(make_grid(far_law(steps, tilt), tilt, tilt, 200.0), np.array([tilt]))
    decay, shifted = decay_bound(tilted), shifted_bound(tilted)
    y = np.geomspace(1e-2, 200.0, 400)
    modulus = np.abs(np.exp(1j * np.outer(y, tilted.grid.loss[0])) @ tilted.weight[0, 0])
    largest = np.maximum.accumulate(modulus[::-1])[::-1]
    for bound in (
        np.exp([decay.log_bound(float(v))[0] for v in y]),
        np.exp([shifted.log_bound(float(v))[0, 0] for v in y]),
    ):
        assert np.all(largest <= bound * (1 + 1e-9))
        assert np.all(np.diff(bound) <= 1e-12)


@pytest.mark.parametrize(("below", "barrier"), [(1.0, 4.0), (3.0, 6.0), (5.0, 5.5)])
@pytest.mark.parametrize(("sigma", "rate", "tilt"), [(1.0, 0.01, 6.0), (0.4, 0.05, 1.2), (30.0, 0.3, 90.0)])
def test_shifted_scores_bound_a_gap(sigma, rate, tilt, below, barrier):
    steps = compose([(sigma, rate, 1)])
    soft = softness(steps, 0.25)
    law = law_for_tilt(steps, tilt, soft, np.array([[barrier]]), np.array([[below]]))
    loss = privacy_loss(np.array([[below]]), np.array([[sigma]]), np.array([[rate]])) - math.log1p(-rate)
    y = np.geomspace(1e-2, min(60.0 / float(loss[0, 0]), 2e3) + 60.0 * sigma, 200)
    tilted = tilted_steps(make_grid(law, tilt, tilt, float(y[-1])), np.array([tilt]))
    modulus = np.abs(np.exp(1j * np.outer(y, tilted.grid.loss[0])) @ tilted.weight[0, 0])
    shifted = shifted_bound(tilted)
    bound = np.exp([shifted.log_bound(float(v))[0, 0] for v in y])
    assert np.all(np.maximum.accumulate(modulus[::-1])[::-1] <= bound * (1 + 1e-9) + 1e-13)
    assert np.all(np.diff(bound) <= 1e-12)
    assert bound[-1] < 0.1 * bound[0]


@pytest.mark.parametrize("below", [None, 1.0, 2.5])
@pytest.mark.parametrize(("sigma", "rate", "tilt"), [(1.0, 0.01, 6.0), (0.2, 1e-4, 1.2), (3.0, 0.5, -4.0)])
def test_the_rule_is_as_accurate_as_it_claims(sigma, rate, tilt, below):
    """A rule four times as fine tells the error of phi(t + iy), which the bound must exceed, coarse rules included."""
    steps = compose([(sigma, rate, 1)])
    soft = softness(steps, 0.25)
    law = law_for_tilt(steps, tilt, soft, np.array([[4.0]]), None if below is None else np.array([[below]]))
    for reach, y in ((0.0, 0.0), (2.0, 2.0), (2.0, 9.0), (0.0, 30.0)):  # beyond its reach a grid is a coarse one
        coarse = tilted_steps(make_grid(law, tilt, tilt, reach), np.array([tilt]))
        fine = tilted_steps(make_grid(law, tilt, tilt, 60.0 + 100.0 / sigma), np.array([tilt]))
        value, true = (
            complex(np.exp(1j * y * t.grid.loss[0]) @ t.weight[0, 0]) * math.exp(t.log_mgf[0, 0])
            for t in (coarse, fine)
        )
        error = float(coarse.quadrature_error(y)[0, 0]) * math.exp(coarse.log_mgf[0, 0])
        assert abs(value - true) <= error + 1e-12 * math.exp(coarse.log_mgf[0, 0])


def test_sinc_minorant():
    x = np.linspace(1e-6, 60.0, 200_001)
    bound = one_minus_sinc(x)
    assert np.all(bound <= 1.0 - np.abs(np.sin(x) / x) + 1e-15)
    assert np.all(np.diff(bound) >= -1e-15)


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
def test_a_barrier_that_matters_is_paid_for(history, epsilon, log_cut):
    steps = compose(history)
    true = {d: line_for_epsilon(rough_grid(steps), epsilon, d).delta(epsilon) for d in ("remove", "add")}
    affordable = 0
    for direction in ("remove", "add"):
        for c in (1.5, 3.0, 6.0, 0.5):  # the complement too
            try:
                line = make_lines(rough_grid(steps, log_cut), c, (direction,), epsilon).lines(steps)[0]
            except OutOfReachError:
                continue  # far from the saddle point it may cost too many nodes
            affordable += 1
            got = line.delta(epsilon)
            assert 1e-3 * math.exp(log_cut) < line.cut_off < 1.01 * math.exp(log_cut)
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


def test_a_gap_that_dwarfs_the_law_below_is_not_lost():
    """Regression: where gap / phi exceeded 1e14, its logarithm was taken to be 0, and delta came out as 2.2e-23."""
    history = [(0.0552, 0.00178, 2), (22.8, 0.000439, 13), (0.24, 0.0882, 4)]
    curve = PrivacyCurve(history)
    epsilon = curve.epsilon(1.72e-14)
    assert epsilon.relative_width < 1e-9
    for end in (epsilon.lower, epsilon.upper):
        delta = curve.delta(end)
        assert delta.lower <= 1.72e-14 * (1.0 + 1e-6)
        assert delta.upper >= 1.72e-14 * (1.0 - 1e-6)


@pytest.mark.parametrize(
    ("history", "epsilon", "remove", "add"),
    [
        (
            [(0.3805535985449262, 4.021149646618398e-05, 2)],
            5.204337396165327e-06,
            5.98239419498575e-05,
            5.58475221953128e-05,
        ),
        ([(2.4146449320501184, 0.0004717238608390028, 64)], 4.6e-07, 6.50248195631221e-04, 6.50237699656582e-04),
        ([(0.3, 1e-5, 50)], 2e-4, 2.87828812213425e-04, 1.47900550448229e-04),
        ([(1.005, 6.53e-4, 4)], 5.9e-4, 4.03556262074032e-04, 2.69770073587138e-04),
        ([(0.9, 1e-3, 3), (0.5, 1e-4, 5)], 1e-5, 9.41322837901884e-04, 9.38292727982905e-04),
        ([(0.069, 2e-5, 2000)], 3.0, 3.921094515790856e-02, 0.0),  # nearly all of P's mass
        ([(0.09, 1e-3, 20)], 12.0, 1.9809351503661466e-02, 0.0),
    ],
)
def test_rare_events_in_both_directions(history, epsilon, remove, add):
    """Regression: 0.3 to 0.9 wide before; the values are oracle.direction_delta(history, epsilon, direction)."""
    steps = compose(history)
    for direction, true in (("remove", remove), ("add", add)):
        got = direction_delta(steps, grid_or_none(steps), epsilon, direction)
        assert got.lower <= true * (1.0 + 2e-12)
        assert got.upper >= true * (1.0 - 2e-12)
        assert got.relative_width < 1e-9


@pytest.mark.parametrize(
    ("history", "epsilon", "exact_delta"),
    [
        # the law beyond a barrier undoes the sharp edge of the one below it: known to 1e-3 before
        ([(0.07860968572560845, 0.15141787098756768, 3)], 352.07169252647446, 2.5030209251530534e-10),
        # in the add direction two phases hardly reveal anything, but kept a line out of reach: known to 10 % before
        (
            [
                (5.497312052246083, 1.4015758288249737e-07, 58),
                (0.09882966868021306, 1.0144258722032801e-05, 1),
                (3.7734055818368937, 0.04040640851859174, 15678),
            ],
            6.459803162702506,
            1.65584174105629e-05,
        ),
    ],
)
def test_regimes_that_a_campaign_found_wide(history, epsilon, exact_delta):
    got = PrivacyCurve(history).delta(epsilon)
    assert got.lower <= exact_delta * (1.0 + 2e-12)
    assert got.upper >= exact_delta * (1.0 - 2e-12)
    assert got.relative_width < 1e-9


def test_a_link_without_a_line_holds_the_mass_between_its_barriers():
    flint = pytest.importorskip("flint")
    flint.ctx.prec = 300
    steps = compose([(0.07, 1e-3, 20), (0.3, 0.2, 400), (0.1, 1e-6, 10_000_000)])
    soft = softness(steps, 0.2)
    ends = {0.07: (9.0, 16.0), 0.3: (3.5, 8.0), 0.1: (9.5, 11.0)}
    below, barrier = (np.array([[ends[s][i]] for s in steps.noise_multiplier.tolist()]) for i in range(2))
    got = certain_table(steps, soft, below, barrier).line(steps)

    def beyond(x: float) -> object:
        return (flint.arb(x) / flint.arb(2).sqrt()).erfc() / 2

    power, hidden = {}, {}
    for name, ends in (("below", below), ("barrier", barrier)):
        power[name], hidden[name] = flint.arb(1), flint.arb(1)
        for s, q, n, w, u in zip(
            steps.noise_multiplier, steps.sample_rate, steps.steps, soft[:, 0], ends[:, 0], strict=True
        ):
            wide = (1 + flint.arb(w) ** 2).sqrt()
            of_q, of_p = beyond(flint.arb(u) / wide), beyond((flint.arb(u) - 1 / flint.arb(s)) / wide)
            power[name] *= (1 - (1 - flint.arb(q)) * of_q - flint.arb(q) * of_p) ** int(n)
            hidden[name] *= (1 - of_q) ** int(n)
    mass, of_q = power["barrier"] - power["below"], hidden["barrier"] - hidden["below"]
    assert got.mass.lower <= mass.lower()
    assert got.mass.upper >= mass.upper()
    assert got.mass.relative_width < 1e-9
    assert got.hidden >= of_q.upper()
    assert got.delta(3.0).upper == got.mass.upper
    assert got.delta(0.1).lower <= mass.lower() - of_q.upper() * math.exp(0.1)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 0.4, 1.0, 30.0, 1e8, 1e16, 1e40, 1e200])
def test_logarithms_of_any_size(size):
    rng = np.random.default_rng(int(math.log10(size)) + 20)
    x = size * np.exp(2j * math.pi * rng.random(200))
    value, error = _log1p(x, np.zeros(200))
    flint = pytest.importorskip("flint")
    flint.ctx.prec = 1000
    for z, got, off in zip(x, value, error, strict=True):
        exact = complex((1 + flint.acb(z.real, z.imag)).log())
        assert abs(exact - got) <= off
        assert off <= 1e-14 * max(abs(exact), 1.0) or abs(1.0 + z) < 0.1


def test_losses_with_two_humps_are_held_by_their_grids():
    """Regression: a grid made for one tilt lost the other hump, and bounds became NaN."""
    steps = compose([(0.03, 1e-3, 3)])
    got = history_delta(steps, 620.0)
    assert 0.0 <= got.lower <= got.upper <= 1e-3
    assert got.relative_width < 1e-6
    router = Router(compose([(1 / 30, 1e-3, 2)]), -20.0, 500.0)
    assert chain_for_epsilon(router, 500.0).chain(steps).delta(500.0).relative_width < 1e-6


def test_hidden_mass_does_not_underflow():
    """Regression: Q's mass beyond a score of 38.75 was taken to be 0, and e^690 times it is not."""
    steps = compose([(1 / 30, 1e-3, 1)])
    link = certain_table(steps, np.array([[1 / 64]]), np.array([[38.75]]), np.array([[45.0]])).line(steps)
    for epsilon, true in ((690.0, 1.07690615522e-21), (699.9, 1.0759186947e-21)):
        got = link.delta(epsilon)
        assert got.lower <= true <= got.upper


def test_an_inversion_compares_numbers_not_logarithms():
    """Regression: near 1e-10 logarithms are 3.6e-15 apart, and delta was exceeded by 1.3e-15."""
    value = 1e-10 * (1.0 + 1.3e-15)
    got = invert_delta(lambda e: Bounds(*2 * (value * math.exp(-1e-3 * (e - 1.0)),)), 1e-10, 1.0, 1e-3)
    assert value * math.exp(-1e-3 * (got.upper - 1.0)) <= 1e-10


def test_a_variance_that_rounds_below_zero_is_no_obstacle():
    """Regression: a campaign's only exception, a domain error of the square root."""
    got = PrivacyCurve([(0.057315627698967135, 0.004738053102125077, 2)]).delta(0.0)
    assert got.relative_width < 1e-6
    assert got.upper < 2 * 0.004738053102125077


@pytest.mark.parametrize(
    ("history", "delta", "epsilon"),
    [
        # delta hardly falls between epsilon = 1e-3 and 39
        ([(0.09642392752196609, 0.0036772539586122084, 10)], 0.028069356573378165, 39.363828292684),
        # the tables' first guesses were too low, and led to and fro
        ([(1.4014630563802501, 0.0004017807539655628, 27)], 8.301259784042962e-05, 0.00251832875875),
        ([(10.080229128464733, 1.5632062959326856e-07, 307662239)], 0.38897588452280546, 0.0),
    ],
)
def test_epsilon_is_found_where_the_first_guess_is_bad(history, delta, epsilon):
    """Regression: the upper end was far above, up to 72 for 39 and 2.1 for 0.0025."""
    got = PrivacyCurve(history).epsilon(delta)
    assert got.lower <= epsilon * (1.0 + 1e-11)
    assert got.upper >= epsilon * (1.0 - 1e-11)
    assert got.upper - got.lower <= 1e-9 * epsilon


@pytest.mark.parametrize("times", [1.0 + 1e-9, 1.5, 2.0, 2.7])
def test_a_delta_that_is_hardly_too_large_at_0_is_inverted(times):
    def delta(epsilon: float) -> Bounds:
        return Bounds(times * 1e-5 * math.exp(-3.0 * epsilon), times * 1e-5 * math.exp(-3.0 * epsilon))

    found = invert_delta(delta, 1e-5, 0.0, 3.0)
    assert delta(found.upper).upper <= 1e-5 <= delta(found.lower).lower
    assert found.upper == pytest.approx(math.log(times) / 3.0, rel=1e-6, abs=1e-12)


def test_many_phases_have_no_epsilon_at_delta_0():
    assert PrivacyCurve([(1.0 + 0.01 * k, 0.1, 1) for k in range(80)]).epsilon(0.0).lower == math.inf


@pytest.mark.parametrize("kind", [FixedBatches, Gaussian])
def test_noise_multipliers_are_floats(kind):
    assert type(kind(2).noise_multiplier) is float
    assert kind(2) == kind(2.0)
