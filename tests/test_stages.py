"""The stages of the numerical core against ball arithmetic and exact sums: sound, and as tight as stated here.

What a stage says of its errors must cover the truth, and must not be much more than it: a factor, or units in the last
place, are given in every test. `oracle` judges the whole; here each allowance is judged where it is made.
"""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import oracle
import pytest
from flint import acb, arb, ctx
from pins_lines import a_line, piece
from pins_steps import HISTORIES, law

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.calibration import _larger_batch
from opacus_edgeworth.composition import compose
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import InvalidParameterError, OutOfReachError
from opacus_edgeworth.inversion.certain import Certain, CertainTable
from opacus_edgeworth.inversion.characteristic import _expm1_imaginary, _less_angle, gap_cf, log_cf, log_steps
from opacus_edgeworth.inversion.elementary import (
    ORDERS,
    distance_bound,
    elementary_delta,
    log_moment_bound,
    nearly_noiseless_delta,
    sampling_delta,
)
from opacus_edgeworth.inversion.engines import (
    add_direction_delta,
    direction_delta,
    history_delta,
    history_direction_delta,
    history_epsilon_and_table,
)
from opacus_edgeworth.inversion.exact import single_step_delta
from opacus_edgeworth.inversion.grid import discretisation_error, expm1_minus, make_grid, range_error
from opacus_edgeworth.inversion.inverting import invert
from opacus_edgeworth.inversion.line import Chernoff, log_chernoff
from opacus_edgeworth.inversion.link import make_link
from opacus_edgeworth.inversion.many import AddBound, plan_for
from opacus_edgeworth.inversion.quadrature import log_mgf_upper, tilted_steps
from opacus_edgeworth.inversion.root import invert_delta
from opacus_edgeworth.inversion.saddle import log_kappa
from opacus_edgeworth.inversion.truncation import decay_bound, shifted_bound
from opacus_edgeworth.meaning import renyi
from opacus_edgeworth.meaning.gaussian import gaussian_delta
from opacus_edgeworth.meaning.renyi import _log_above
from opacus_edgeworth.mechanisms import (
    ULP,
    DiscreteMechanism,
    Gaussian,
    PoissonSubsampledLaplace,
    RandomizedResponse,
    loss_slope,
    loss_turn,
    privacy_loss,
    privacy_loss_error,
    score_at_loss,
)
from opacus_edgeworth.mixed import points
from opacus_edgeworth.mixed.atoms import Atoms, compose_atoms
from opacus_edgeworth.mixed.contour import Parts, chernoff_delta, chernoff_epsilon
from opacus_edgeworth.mixed.engines import mixed_epsilon
from opacus_edgeworth.mixed.laplace import LaplacePart, log_phi, sampled_laplace_delta
from opacus_edgeworth.mixed.law import discrete_law, response_law, sampled_laplace_law
from opacus_edgeworth.mixed.panels import make_panels
from opacus_edgeworth.mixed.part import Upper
from opacus_edgeworth.mixed.points import PointsPart
from opacus_edgeworth.targets import as_target

SIGMAS = [(0.05, 0.9), (0.3, 0.2), (1.0, 0.01), (4.0, 1e-6)]


@pytest.fixture(autouse=True)
def precise():
    ctx.prec = 200


def tail(x: arb) -> arb:
    """The probability that a standard normal exceeds x."""
    return (x / arb(2).sqrt()).erfc() / 2


def exact_loss(u: acb, s: float, q: float) -> acb:
    """The loss at a score, which may be complex."""
    s, q = arb(s), arb(q)
    return (1 + q * ((u / s - 1 / (2 * s * s)).exp() - 1)).log()


def exact_phi(one, z: acb, low: float, high: float, phase: int = 0) -> acb:
    """E_Q[chi e^{zL}] of a law between two scores."""
    s, q = one.steps.noise_multiplier[phase], one.steps.sample_rate[phase]
    barrier, soft = arb(one.barrier[phase, 0]), arb(one.soft[phase, 0])

    def chi(u: acb) -> acb:
        value = ((u - barrier) / soft / arb(2).sqrt()).erfc() / 2
        if one.below is None:
            return value
        return value - ((u - arb(one.below[phase, 0])) / soft / arb(2).sqrt()).erfc() / 2

    def density(u: acb, _: bool) -> acb:
        return (-u * u / 2).exp() / (2 * arb.pi()).sqrt() * chi(u) * (z * exact_loss(u, s, q)).exp()

    # short pieces: the logarithm's branch points are pi s away from the real line
    count = max(math.ceil((high - low) / min(2.0 * s, 2.0)), 1)
    ends = np.linspace(low, high, count + 1)
    pieces = [acb.integral(density, acb(a), acb(b), rel_tol=arb(2) ** -80) for a, b in pairwise(ends)]
    return sum(pieces, acb(0))


# --- mechanisms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "q"), [*SIGMAS, (1.0, 0.75), (0.7, 0.9999)])
def test_losses_err_by_less_than_they_say(s, q):
    score = np.concatenate([np.linspace(-30.0, 30.0, 61), 0.5 / s + s * np.linspace(29.0, 31.0, 9)])
    noise, rate = np.full(1, s), np.full(1, q)
    loss = privacy_loss(score, noise, rate)
    slope = loss_slope(loss, score, noise, rate)
    error = privacy_loss_error(loss, slope, score, noise)
    for u, got, m, off in zip(score, loss, slope, error, strict=True):
        true = exact_loss(acb(u), s, q).real
        assert abs(arb(got) - true) <= off
        w = abs(u) / s + 0.5 / s**2
        assert off <= ULP * (4.0 * m * w * 1.01 + 17.0 * abs(got) + 17.0 * w * (u / s - 0.5 / s**2 > 30.0) + 1e-300)
        assert abs(arb(m) - arb(q) * ((arb(u) / s - 1 / (2 * arb(s) ** 2)) - true).exp()) <= 1e-13 + 2.0 * off
    some = loss[(loss < 500.0) & (loss > 0.9 * math.log1p(-q))]
    back = privacy_loss(score_at_loss(some, noise, rate), noise, rate)
    assert np.all(np.abs(back - some) <= 1e-6 * (1.0 + np.abs(back)))


@pytest.mark.parametrize("theta", [0.1, 1.5, 3.0])
@pytest.mark.parametrize(("s", "q"), SIGMAS)
def test_the_turn_is_the_imaginary_part(s, q, theta):
    score = np.linspace(-9.0, 9.0, 7)
    got = loss_turn(score, np.full(1, theta), np.full(1, s), np.full(1, q))
    for u, turn in zip(score, got, strict=True):
        assert turn == pytest.approx(float(exact_loss(acb(u, theta * s), s, q).imag.mid()), rel=1e-9, abs=1e-300)


def test_limits_are_rounded_to_the_safe_side_by_a_few_units():
    steps = compose([(1.0, 0.1, 7), (2.0, 0.3, 5), (0.5, 1e-9, 1000)])
    exact = -sum((int(n) * (1 - arb(q)).log() for q, n in zip(steps.sample_rate, steps.steps, strict=True)), arb(0))
    got = arb(steps.add_direction_limit()) / exact - 1
    assert 8 * ULP < got < 13 * ULP
    hidden = compose([(0.0, 0.1, 3), (0.0, 0.2, 2)])
    seen = 1 - Fraction(0.1).__rsub__(1) ** 3 * (1 - Fraction(0.2)) ** 2
    least = Fraction(hidden.noiseless_delta().lower) / seen - 1
    assert -1.1e-12 < least < -0.9e-12
    assert hidden.noiseless_epsilon(float(seen) * (1.0 - 1e-9)).lower == math.inf
    assert hidden.noiseless_epsilon(float(seen)).lower == 0.0
    assert hidden.noiseless_epsilon(hidden.noiseless_delta().lower).lower == 0.0


@pytest.mark.parametrize("history", [[(0.7, 0.1, 7)], [(1.0, 0.3, 1)]])
def test_at_the_largest_loss_nothing_is_left(history):
    steps = compose(history)
    limit = steps.add_direction_limit()
    for got in (
        direction_delta(steps, None, limit, "add"),
        history_direction_delta(steps, limit, "add"),
        add_direction_delta(steps, limit, 0.0),
        add_direction_delta(steps, limit, 1e-9),
    ):
        assert got == Bounds(0.0, 0.0)


def test_the_largest_loss_is_where_inversion_ends():
    steps = compose([(0.7, 0.1, 7)])
    got = invert(lambda epsilon: Bounds(0.5, 0.5), steps, 1e-3, "add", 1e9, 1.0)
    assert got.upper == steps.add_direction_limit()
    assert got.upper * (1.0 - 1e-12) < got.lower < got.upper


def test_equal_steps_add_up():
    noise, response = Gaussian(2.0), RandomizedResponse(1.0, 3)
    history = [(response, 2), (noise, 1), (response, 3), (noise, 4), (2.0, 1.0, 5)]
    assert PrivacyCurve(history).history == ((2.0, 1.0, 10), (response, 5))


def test_next_to_the_largest_loss_rounding_is_covered():
    q, rate = 0.3, 2.0
    limit = -math.log1p(-q)
    for k in range(-40, 41, 4):
        epsilon = limit * (1.0 + k * ULP)
        left = 1 - (1 - arb(q)) * arb(epsilon).exp()
        exact = (
            left * (1 - (((arb(q) * arb(epsilon).exp() / left).log() - arb(rate)) / 2).exp()) if left > 0 else arb(0)
        )
        exact = exact if exact > 0 else arb(0)
        got = sampled_laplace_delta(rate, q, epsilon, "add")
        assert got.lower <= left.max(arb(0)) + 1e-300
        assert exact <= got.upper <= 60 * ULP
        exact = oracle.single_step_delta(epsilon, 1.0, q, "add")
        assert exact <= single_step_delta(1.0, q, epsilon, "add").upper <= 60 * ULP


# --- laws and grids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["usual", "two", "loud", "often"])
def test_what_a_barrier_takes_is_known(name):
    one = law(compose(HISTORIES[name]))
    of_q, of_p = one.mass_lost()
    total = arb(0)
    for i in range(one.steps.phases):
        s, q, u, w = (
            arb(float(x))
            for x in (one.steps.noise_multiplier[i], one.steps.sample_rate[i], one.barrier[i, 0], one.soft[i, 0])
        )
        wide = (1 + w * w).sqrt()
        lost, hit = tail(u / wide), tail((u - 1 / s) / wide)
        assert abs(arb(of_q[i]) / lost - 1) < 1e-13
        assert abs(arb(of_p[i]) / ((1 - q) * lost + q * hit) - 1) < 1e-13
        total += int(one.steps.steps[i]) * ((1 - q) * lost + q * hit)
        # the end: what lies beyond it, of Q and P together
        end = float(one.end[i, 0])
        beyond = (exact_phi(one, acb(0), end, end + 8.0, i) + exact_phi(one, acb(1), end, end + 8.0, i)).real
        assert beyond <= one.end_lost()[i] <= 1e4 * beyond
    assert total <= one.cut_off() <= float(total.mid()) * (1.0 + 2e-9) + 2.0 * one.spill()
    assert one.spill() >= float(one.steps.steps @ one.end_lost())


@pytest.mark.parametrize("tilt", [-0.5, -4.0])
@pytest.mark.parametrize("name", ["usual", "often"])
def test_what_a_barrier_takes_under_a_negative_tilt_is_bounded(name, tilt):
    one = law(compose(HISTORIES[name]))
    s, q = float(one.steps.noise_multiplier[0]), float(one.steps.sample_rate[0])
    u, w = arb(one.barrier[0, 0]), arb(one.soft[0, 0])

    def density(x: acb, _: bool) -> acb:
        away = ((x - u) / w / arb(2).sqrt()).erfc() / 2
        return (-x * x / 2).exp() / (2 * arb.pi()).sqrt() * (1 - away) * (tilt * exact_loss(x, s, q)).exp()

    true = sum((acb.integral(density, acb(k), acb(k + 1)).real for k in range(-9, 20)), arb(0)).log()
    got = one.log_tilted_loss(tilt)[0]
    assert true <= got
    assert got <= math.log(math.exp(tilt * math.log1p(-q)))  # no more than what e^{tL} can be


@pytest.mark.parametrize("name", ["usual", "two", "loud", "two gap"])
def test_chi_errs_by_less_than_it_says(name):
    one = law(compose(HISTORIES[name.split()[0]]), 3.0, 1.5 if "gap" in name else None)
    for at in (-6.0, -1.0, 0.0, 2.0, 8.0):
        score = one.barrier + at * one.soft
        value, error = one.log_chi(score)
        for i in range(one.steps.phases):
            u, w = arb(score[i, 0]), arb(one.soft[i, 0])
            true = tail((u - arb(one.barrier[i, 0])) / w)
            if one.below is not None:
                true -= tail((u - arb(one.below[i, 0])) / w)
            assert abs(arb(value[i, 0]) - true.log()) <= error[i, 0] <= ULP * (60.0 + 6.0 * (at + 40.0) ** 2)


@pytest.mark.parametrize(
    ("name", "gap"), [("usual", None), ("two", None), ("loud", None), ("often", None), ("two", 1.5)]
)
def test_generating_functions_err_by_less_than_they_say(name, gap):
    one = law(compose(HISTORIES[name]), 3.0, gap)
    grid = make_grid(one, -1.5, 3.0, 4.0)
    tilts = np.array([-1.0, 0.3, 2.5])
    tilted = tilted_steps(grid, tilts)
    upper = log_mgf_upper(grid, tilts)
    assert np.all(tilted.log_mgf_error < 1e-11)
    for k, tilt in enumerate(tilts):
        for i in range(one.steps.phases):
            phi = exact_phi(one, acb(tilt), -14.0, float(one.end[i, 0]), i).real
            true = phi.log()
            assert abs(arb(tilted.log_mgf[k, i]) - true) <= tilted.log_mgf_error[k, i]
            assert true <= upper[k, i] <= float(true.mid()) + 1e-10


def test_coarse_rules_err_by_less_than_they_say():
    """Of a grid that is too coarse for the arguments asked."""
    one = law(compose([(1.0, 0.2, 1)]), 1.0)
    grid = make_grid(one, -0.5, 1.0, 0.0)
    for tilt in (-0.5, 1.0):
        phi = exact_phi(one, acb(tilt), -14.0, float(one.end[0, 0])).real
        for y in (5.0, 9.0, 15.0, 30.0):
            rule = complex(grid.scale[0] @ np.exp((tilt + 1j * y) * grid.loss[0]))
            true = complex(exact_phi(one, acb(tilt, y), -14.0, float(one.end[0, 0])))
            bound = float(discretisation_error(grid, np.array([tilt]), y, np.array([[float(phi.log().mid())]]))[0, 0])
            off = abs(rule - true) / float(phi.mid())
            assert off <= bound + 1e-14


def test_below_a_grid_that_does_not_reach_the_mode_nothing_is_known():
    grid = make_grid(law(compose([(1.0, 0.2, 1)]), 1.0), 0.0, 1.0, 0.0)
    tilt = np.array([-1e6])  # at which the integrand falls where the grid begins
    assert range_error(grid, tilt, tilt[:, None] * grid.loss[:, :1])[0, 0] == math.inf


@pytest.mark.parametrize("tilt", [-1.5, 0.0, 2.0])
def test_what_lies_below_a_grid_is_bounded(tilt):
    one = law(compose([(1.0, 0.2, 1)]), 1.0)
    grid = make_grid(one, tilt if tilt < 0.0 else 0.0, 2.0, 0.0)
    low = float(grid.score[0, 0])
    true = exact_phi(one, acb(tilt), low - 9.0, low - 0.5 * float(grid.spacing[0, 0])).real
    on_grid = sum(
        (math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi) for u in low - grid.spacing[0, 0] * np.arange(1, 99)), 0.0
    )
    bound = range_error(grid, np.array([tilt]), np.zeros((1, 1)))[0, 0]
    assert true <= bound
    if tilt == 0.0:
        assert (
            on_grid * float(grid.spacing[0, 0])
            <= bound
            <= 2.0
            * true.mid()
            * math.exp(0.5 * low**2 - 0.5 * (low - 0.5 * grid.spacing[0, 0]) ** 2 + abs(low) * grid.spacing[0, 0])
        )


@pytest.mark.parametrize(("name", "tilt"), [("usual", 2.5), ("often", -0.8), ("loud", 1.5)])
def test_characteristic_functions_err_by_less_than_they_say(name, tilt):
    one = law(compose(HISTORIES[name]))
    steps = one.steps
    tilted = tilted_steps(make_grid(one, -1.0, 2.5, 6.0), np.array([tilt]))
    y = 0.75 * np.arange(9)
    logs = log_steps(tilted, tilted.quadrature_error(6.0), 0.75, 9)
    value, error = log_cf(steps, tilted.tilt, y, logs)
    at_tilt = exact_phi(one, acb(tilt), -14.0, float(one.end[0, 0]))
    for k in (1, 4, 8):
        ratio = exact_phi(one, acb(tilt, y[k]), -14.0, float(one.end[0, 0])) / at_tilt
        assert abs(acb(complex(logs.value[0, 0, k])) - ratio.log()) <= logs.error[0, 0, k] <= 1e-12 * (1.0 + y[k])
        # of the composition: up to multiples of 2 pi i
        wrong = (acb(complex(value[0, k])) - steps.steps[0] * ratio.log()).exp() - 1
        assert abs(wrong) <= math.expm1(error[0, k])


@pytest.mark.parametrize(("name", "tilt"), [("usual", 2.5), ("loud", 1.5), ("often", -1.0)])
def test_decay_is_bounded_and_not_by_much(name, tilt):
    one = law(compose(HISTORIES[name]))
    tilted = tilted_steps(make_grid(one, min(tilt, 0.0), 2.5, 40.0), np.array([tilt]))
    decay, shifted = decay_bound(tilted), shifted_bound(tilted)
    at_tilt = exact_phi(one, acb(tilt), -14.0, float(one.end[0, 0]))
    for y in (1.0, 8.0, 40.0):
        true = float((abs(exact_phi(one, acb(tilt, y), -14.0, float(one.end[0, 0])) / at_tilt)).log().mid())
        best = min(float(decay.log_phi(y)[0, 0]), float(shifted.log_bound(y)[0, 0]))
        assert true <= best <= max(0.2 * true, -0.5 * y * y * 0.1) + 1.5


@pytest.mark.parametrize("tilt", [-2.0, 1.5, 6.0])
@pytest.mark.parametrize(("s", "q"), [(0.7, 0.02), (4.0, 0.3)])
def test_what_a_renyi_divergence_leaves_out_is_bounded(s, q, tilt):
    one = law(compose([(s, q, 1)]), max(tilt, 1.0))
    b = float(one.barrier[0, 0] - 12.0 * one.soft[0, 0])

    def density(u: acb, _: bool) -> acb:
        return (-u * u / 2).exp() / (2 * arb.pi()).sqrt() * (tilt * exact_loss(u, s, q)).exp()

    ends = np.linspace(b, b + 20.0 + max(tilt, 0.0) / s, 31)
    true = sum((acb.integral(density, acb(x), acb(y)).real for x, y in pairwise(ends)), arb(0)).log()
    got = float(_log_above(one, tilt)[0])
    assert true <= got <= float(true.mid()) + 0.5 + 4.0 * abs(tilt) / s


def test_small_differences_keep_their_relative_accuracy():
    for x in (-0.2499, -0.24, -0.2, -0.1, -1e-3, 1e-9, 0.05, 0.15, 0.2, 0.24, 0.2499):
        assert abs(arb(float(expm1_minus(np.array(x)))) / (arb(x).exp() - 1 - arb(x)) - 1) <= 3.0 * ULP


def test_turned_angles_keep_their_relative_accuracy():
    angle = np.concatenate([np.linspace(0.3, 0.4999, 40), [1e-9, 1e-3, 0.51, 2.0, -0.4]])
    turned = _expm1_imaginary(angle)
    less = _less_angle(turned, angle)
    for a, value, rest in zip(angle, turned, less, strict=True):
        exact = acb(0, a).exp() - 1
        for part, true in ((value.real, exact.real), (value.imag, exact.imag), (rest.imag, exact.imag - a)):
            assert abs(arb(part) / true - 1) <= (3.0 if abs(a) < 0.5 else 40.0) * ULP


def test_what_a_barrier_hides_from_a_renyi_divergence_is_added(monkeypatch):
    """Below b = U - NEARER W the law is whole but for Phi(-NEARER); with a small NEARER both parts are seen."""
    steps = compose([(0.7, 0.02, 1)])
    low, high = (float(bound[0]) for bound in renyi._log_mgf(steps, 3.0, "remove"))
    assert high - low < 1e-9
    monkeypatch.setattr(renyi, "NEARER", 1.0)
    assert 2.0 * float(tail(arb(1)).mid()) <= renyi._log_mgf(steps, 3.0, "remove")[1][0] - high <= 0.4


def test_a_chain_alone_proves_nothing_of_the_other_direction():
    steps = compose([(0.5, 1e-3, 2), (0.6, 1e-3, 3)])
    plan = plan_for(steps, 1e-6, history_epsilon_and_table)
    assert plan is not None
    terms, counts = plan.product(steps), np.ones(1)
    known = terms.epsilon(counts, 0.0, 1e-6, plan.epsilon)
    assert known is not None
    hopeless = AddBound(Chernoff(np.array([2.0]), np.array([[99.0]])), np.array([0.0]), np.array([9.0]))
    for add in (hopeless, None):
        assert replace(terms, add=add).epsilon(counts, 0.0, 1e-6, plan.epsilon) is None
        assert replace(terms, add=add).delta(counts, 0.0, known.upper) is None


@pytest.mark.parametrize(("kept", "upper"), [([], 1.0), (["a table"], 0.0), (["a table"], math.inf)])
def test_there_is_no_plan_without_a_table_or_an_epsilon(kept, upper):
    def ask(steps, delta, keep):
        keep.extend(kept)
        return Bounds(0.0, upper)

    assert plan_for(compose([(1.0, 0.1, 2)]), 1e-5, ask) is None


def test_errors_of_a_link_are_summed_upwards():
    steps, one = piece()
    made = make_link(steps, one, 2.0, -8.0)
    value, wrong = gap_cf(steps, made.c, made.y, made.logs)
    kernel = np.abs(1.0 / ((made.c + 1j * made.y) * (made.gap + 1j * made.y)))
    total = math.fsum(((wrong + 16.0 * ULP * np.abs(value)) * kernel).tolist())
    assert 5e-10 < made.line(steps).error / total - 1.0 < 2e-9


def test_the_largest_loss_proves_from_where_it_is_on():
    bound = AddBound(Chernoff(np.array([2.0]), np.array([[9.0]])), np.array([0.0]), np.array([0.1]))
    steps = compose([(1.0, 0.1, 1)])
    assert not bound.proves(steps, 0.1, 1e-9)
    assert not bound.proves(steps, 0.1 * (1.0 + 4.0 * ULP), 1e-9)
    assert bound.proves(steps, 0.1 * (1.0 + 20.0 * ULP), 1e-9)
    assert not bound.proves(replace(steps, gaussian=0.1), 0.2, 1e-9)
    assert not bound.joined(bound).proves(compose([(1.0, 0.1, 1), (2.0, 0.1, 1)]), 0.15, 1e-9)


# --- lines -----------------------------------------------------------------------------------------------------------


def test_every_error_of_a_line_is_added_outward():
    """Each error alone moves the ends as the derivation says, from those of a line without errors."""
    clean = a_line(
        2.0,
        error=0.0,
        log_peak_error=0.0,
        log_beyond=-900.0,
        cut_off=0.0,
        spill=0.0,
        chernoff=((1.0, -900.0), (9.0, -900.0)),
    )
    for epsilon in (-0.5, 0.8):
        unit = math.exp(clean.log_peak - epsilon) * 0.25 / math.pi
        base = clean.delta(epsilon)
        middle = 0.5 * (base.lower + base.upper)
        assert base.width < 1e-13
        for change, below, above in (
            ({"error": 1e-4}, unit * 1e-4, unit * 1e-4),
            ({"log_peak_error": 1e-4}, middle * 1e-4, middle * 1e-4),
            ({"log_beyond": -9.0}, unit * math.exp(-9.0) / (0.25 * 5.75), unit * math.exp(-9.0) / (0.25 * 5.75)),
            ({"cut_off": 1e-4}, 0.0, 1e-4),
            ({"cut_off": 1.0, "log_cut_share": -8.0}, 0.0, 0.25 * math.exp(0.7 - epsilon - 8.0)),
            ({"spill": 1e-4}, 1e-4, 0.0),
        ):
            got = replace(clean, **change).delta(epsilon)
            assert base.lower - got.lower == pytest.approx(below, rel=2e-4, abs=1e-13)
            assert got.upper - base.upper == pytest.approx(above, rel=2e-4, abs=1e-13)
        # the complement, where the ends change places
        other = a_line(
            0.4,
            log_peak=-1.2,
            error=0.0,
            log_peak_error=0.0,
            log_beyond=-900.0,
            cut_off=0.0,
            spill=0.0,
            chernoff=((0.0, -900.0), (1.0, -900.0)),
        )
        plain, wrong = other.delta(epsilon), replace(other, error=1e-4).delta(epsilon)
        assert plain.width < 1e-13
        unit = math.exp(other.log_peak + 0.6 * epsilon) * 0.25 / math.pi
        assert plain.lower - wrong.lower == pytest.approx(unit * 1e-4, rel=2e-4, abs=1e-13)
        assert wrong.upper - plain.upper == pytest.approx(unit * 1e-4, rel=2e-4, abs=1e-13)
        lost = replace(other, cut_off=1e-4).delta(epsilon)
        assert (lost.upper, plain.lower - lost.lower) == (plain.upper, pytest.approx(1e-4, rel=1e-6))


@pytest.mark.parametrize("c", [1.7, 3.0, 0.5])
def test_aliases_are_bounded_where_delta_is_known(c):
    """A Gaussian's: sum over m != 0 of e^{(c-1) 2 pi m / h} f(e + 2 pi m / h), f = delta or 1 - delta."""
    variance, step, epsilon = 0.5, 1.1, 0.4
    mu = arb(variance).sqrt()

    def f(e: arb) -> arb:
        delta = tail(e / mu - mu / 2) - e.exp() * tail(e / mu + mu / 2)
        return delta if c > 1.0 else 1 - delta

    shift = 2 * arb.pi() / arb(step)
    true = sum(
        (((c - 1) * shift * m).exp() * f(arb(epsilon) + shift * m) for m in (*range(-9, 0), *range(1, 10))), arb(0)
    )
    points = (1.0, c - 0.3, c + 0.5, c + 2.0, c + 6.0, c + 12.0) if c > 1.0 else (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    chernoff = tuple((at, 0.5 * variance * at * (at - 1.0)) for at in points)
    got = a_line(c, chernoff=chernoff)
    got = replace(got, step=step)
    assert true.log() <= got.alias_bound(epsilon) <= float(true.log().mid()) + 2.5


@pytest.mark.parametrize("c", [1.01, 1.5, 4.0, 60.0])
def test_kappa_is_the_least_constant(c):
    """(1 - e^{e - s})_+ <= kappa e^{(c - 1)(s - e)}, with equality at one s."""
    s = np.linspace(1e-6, 60.0, 2_000_001) * min(1.0, 2.0 / (c - 1.0) + 0.2)
    ratio = np.log(-np.expm1(-s)) - (c - 1.0) * s
    assert log_kappa(c) == pytest.approx(float(ratio.max()), rel=1e-7)
    assert log_chernoff(c, 0.3, 0.2) > log_kappa(c) + 0.3 - (c - 1.0) * 0.2
    assert log_chernoff(c, 0.3, 0.2) < log_kappa(c) + 0.3 - (c - 1.0) * 0.2 + 3e-12 * (1.0 + c)


def test_composed_upper_bounds_are_above_the_sum_by_a_few_units():
    steps = compose([(1.0, 0.01, 1000), (2.0, 0.3, 77), (3.0, 1.0, 4)])
    c, log_mgf = np.array([1.7, 9.0]), np.array([[0.1, -0.3], [0.7, 1.3]])
    for (at, got), row in zip(Chernoff(c, log_mgf).bounds(steps)[1:], log_mgf, strict=True):
        exact = sum((Fraction(k) * int(n) for k, n in zip(row.tolist(), steps.steps, strict=True)), Fraction(0))
        exact += Fraction(steps.gaussian) * Fraction(at) * (Fraction(at) - 1) / 2
        size = sum(abs(k) * n for k, n in zip(row.tolist(), steps.steps, strict=True)) + 0.5 * steps.gaussian * at * (
            at - 1.0
        )
        assert 0 < got - float(exact) <= 20 * ULP * size


def test_what_a_loud_link_hides_is_rounded_up():
    for epsilon in (0.1, 2.0, 6.0):
        hidden = 0.5 * math.exp(-epsilon)
        taken = 1 - arb(Certain(Bounds(1.0, 1.0), hidden).delta(epsilon).lower)
        assert 5e-13 < taken / (arb(hidden) * arb(epsilon).exp()) - 1 < 2e-12
    table = CertainTable(np.array([-1e-3]), np.array([1e-3]), np.array([1e-9]), np.array([1e-3]))
    one = table.line(compose([(1.0, 0.1, 7)]))
    assert 5e-10 < one.hidden / 7e-3 - 1.0 < 2e-9
    mass = math.exp(-7e-3) * math.expm1(7e-3)
    assert 6e-9 * mass < mass - one.mass.lower < 3e-8
    assert 6e-9 * mass < one.mass.upper - mass < 3e-8
    assert Certain(Bounds(0.5, 1.0), 0.0).delta(699.9).lower == 0.5
    assert Certain(Bounds(0.5, 1.0), 1e-300).delta(700.0) == Bounds(0.0, 1.0)


# --- elementary bounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "q"), [(1.0, 0.01), (0.4, 0.3), (20.0, 0.5), (1000.0, 1e-7)])
def test_moments_are_bounded(s, q):
    got = log_moment_bound(compose([(s, q, 1)]))
    for k in range(0, 241, 40):
        c = ORDERS[k]
        bound = ((1 - arb(q)) + arb(q) * (arb(c) * (arb(c) - 1) / (2 * arb(s) ** 2)).exp()).log()
        assert bound <= got[k]
        assert arb(got[k]) <= bound * (1 + 2e-9) + 2e-15


def test_the_chance_of_never_being_sampled():
    steps = compose([(0.1, 0.1, 7), (0.098, 0.03, 50)])
    hidden = (1 - Fraction(0.1)) ** 7 * (1 - Fraction(0.03)) ** 50
    for epsilon in (0.0, 0.4):
        exact = 1 - arb(hidden.numerator) / arb(hidden.denominator) * arb(epsilon).exp()
        assert 0 < arb(sampling_delta(steps, epsilon)) / exact - 1 < 60 * ULP
    assert sampling_delta(steps, 9.0) == 5e-324
    assert sampling_delta(replace(steps, gaussian=0.1)) == 1.0
    # and of the test "some output is beyond 1/2"
    missed, false = arb(1), arb(0)
    for s, q, n in zip(steps.noise_multiplier, steps.sample_rate, steps.steps, strict=True):
        missed *= (1 - arb(q) * (1 - tail(1 / (2 * arb(s))))) ** int(n)
        false += int(n) * tail(1 / (2 * arb(s)))
    for epsilon in (0.0, 0.2):
        for direction in ("remove", "add"):
            least = (
                1 - missed - arb(epsilon).exp() * false
                if direction == "remove"
                else 1 - false - arb(epsilon).exp() * missed
            )
            got = nearly_noiseless_delta(steps, epsilon, direction)
            assert -1e-7 < arb(got.lower) / least - 1 < 0
            assert got.upper == min(sampling_delta(steps, epsilon if direction == "add" else 0.0), 1.0)


@pytest.mark.parametrize("history", [[], [(0.05, 0.1, 3), (5.0, 1.0, 2)], [(0.05, 0.1, 3), (0.2, 0.1, 3)]])
def test_noise_that_is_not_negligible_is_not_neglected(history):
    for direction in ("remove", "add"):
        assert nearly_noiseless_delta(compose(history), 0.1, direction) == Bounds(0.0, 1.0)


@pytest.mark.parametrize("epsilon", [5.0, 8.0, 12.0])
def test_noise_next_to_none_may_still_count(epsilon):
    """Beyond the test's threshold there is e^epsilon times what it errs by, in one direction."""
    exact = oracle.single_step_delta(epsilon, 0.075, 0.3, "remove")
    for got in (history_delta(compose([(0.075, 0.3, 1)]), epsilon), PrivacyCurve([(0.075, 0.3, 1)]).delta(epsilon)):
        assert got.lower <= exact <= got.upper
        assert got.relative_width < 1e-9


def test_the_total_variation_distance_is_bounded_by_the_sum():
    steps = compose([(2.0, 0.001, 3), (9.0, 0.01, 2), (40.0, 1.0, 1)])
    exact = (arb(1) / 80 / arb(2).sqrt()).erf()
    for s, q, n in zip(steps.noise_multiplier, steps.sample_rate, steps.steps, strict=True):
        exact += int(n) * arb(q) * (1 / (2 * arb(s)) / arb(2).sqrt()).erf()
    assert 0 < arb(distance_bound(steps)) / exact - 1 < 2e-12


@pytest.mark.parametrize("direction", ["remove", "add"])
@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.7])
def test_elementary_bounds_hold_of_one_step(epsilon, direction):
    steps = compose([(1.0, 0.05, 1)])
    exact = oracle.single_step_delta(epsilon, 1.0, 0.05, direction)
    got = elementary_delta(steps, epsilon, direction)
    assert got.lower <= exact <= got.upper + 1e-300
    assert arb(got.lower) >= exact * (1 - 1e-9) - 1e-300


class Cut:
    """Steps that lost a part of delta."""

    def __init__(self, log_mgf: float, lost: float) -> None:
        self.log_mgf, self.lost = log_mgf, lost

    def upper(self, c: float) -> Upper:
        return Upper(self.log_mgf * c, self.lost)


@pytest.mark.parametrize("lost", [0.0, 1e-5, 4e-4, 4.99999999e-4])
def test_what_was_cut_off_counts_in_epsilon(lost):
    total = Parts((Cut(0.7, lost),), 0.3)
    epsilon = chernoff_epsilon(total, 1e-3, 3.0)
    assert chernoff_delta(total, epsilon, 3.0) <= 1e-3 < chernoff_delta(total, epsilon - 1e-10, 3.0)
    assert chernoff_epsilon(Parts((Cut(0.7, 5e-4),), 0.3), 1e-3, 3.0) == math.inf


# --- inversion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("width", [0.0, 1e-9, 0.1])
@pytest.mark.parametrize("start", [0.0, 0.5, 40.0])
def test_inversion_returns_what_was_seen(rate, width, start):
    asked = {}

    def delta(epsilon):
        value = 0.7 * math.exp(-rate * epsilon)
        asked[epsilon] = Bounds(value * (1.0 - width), value * (1.0 + width))
        return asked[epsilon]

    got = invert_delta(delta, 1e-4, start, 2.0 * rate)
    assert asked[got.upper].upper <= 1e-4 <= asked[got.lower].lower
    exact = math.log(0.7e4) / rate
    assert got.width <= 1e-12 * exact + 2.5 * width / rate
    assert len(asked) <= 24


@pytest.mark.parametrize(("safe", "largest"), [({7, 10}, 16), ({10}, 11), ({9, 10, 8}, 14), ({3, 10}, 49)])
def test_fewer_batches_may_do_as_well(safe, largest):
    asked: list[int] = []

    def excess(batch: int) -> float:
        asked.append(math.ceil(100 / batch))
        return 0.0 if asked[-1] in safe else 1.0

    assert _larger_batch(excess, lambda batches: batches, 100, 11) == largest
    assert asked == list(range(9, max(asked[-1], 2) - 1, -1))
    assert _larger_batch(lambda batch: float(batch < 100), lambda batches: batches, 100, 20) == 100
    # as many steps with smaller batches were refused: not asked again
    asked.clear()
    _larger_batch(lambda batch: excess(batch) + 9.0, lambda batches: batches // 3, 100, 11)
    assert asked == [9, 8, 5, 2]
    asked.clear()
    _larger_batch(excess, lambda batches: 5, 100, 11)
    assert len(asked) == 1 or 9 in safe


def test_everything_may_be_seen_for_certain():
    curve = PrivacyCurve([(DiscreteMechanism((1.0, 0.0), (0.0, 1.0)), 2)])
    assert curve.delta(3.0).lower >= 1.0 - 1e-14
    assert curve.true_positive_rate(0.1).lower >= 1.0 - 1e-14


def test_what_is_seen_for_certain_cannot_be_told_from_delta():
    others = ((DiscreteMechanism((0.5, 0.5, 0.0), (0.5, 0.3, 0.2)), 1),)
    got = mixed_epsilon(compose([]), others, 0.2)
    assert got.lower < 1.0
    assert got.upper == math.inf
    assert mixed_epsilon(compose([]), others, 0.21).upper < math.inf


@pytest.mark.parametrize("start", [0.0, 3.0, 50.0])
def test_inversion_of_a_jump_returns_what_was_seen(start):
    asked = {}

    def delta(epsilon):
        asked[epsilon] = Bounds(*2 * (0.3 if epsilon < 7.0 else 1e-9,))
        return asked[epsilon]

    got = invert_delta(delta, 1e-4, start, 1.0)
    assert asked[got.upper].upper <= 1e-4 <= asked[got.lower].lower
    assert 7.0 * (1.0 - 1e-14) < got.lower < 7.0 <= got.upper < 7.0 * (1.0 + 1e-14)


# --- mechanisms that are not Gaussian --------------------------------------------------------------------------------


def test_atoms_are_the_exact_sums():
    p, q = (Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)), (Fraction(1, 4), Fraction(1, 2), Fraction(1, 4))
    law_of = discrete_law(DiscreteMechanism(tuple(map(float, p)), tuple(map(float, q))), "remove")
    atoms = compose_atoms([(law_of, 6)])
    total = {0: Fraction(1)}  # powers of 2, the loss
    for _ in range(6):
        new: dict[int, Fraction] = {}
        for power, mass in total.items():
            for a, step in zip(p, (1, -1, 0), strict=True):
                new[power + step] = new.get(power + step, Fraction(0)) + mass * a
        total = new
    assert atoms.loss.size == len(total) == 13
    for power, loss, mass in zip(sorted(total), atoms.loss, atoms.mass, strict=True):
        assert abs(arb(loss) - power * arb(2).log()) <= atoms.loss_error <= 300 * ULP
        assert abs(Fraction(mass) / total[power] - 1) <= atoms.mass_error <= 2000 * ULP
    assert Atoms(np.array([50.0]), np.array([0.9]), 0.0, 0.0, 0.3).delta(0.0).upper == 1.0
    for x in (0, 1, 3):  # epsilon a little above x log 2
        exact = sum(
            (mass * (1 - Fraction(2) ** (x - power)) for power, mass in total.items() if power > x), Fraction(0)
        )
        got = atoms.delta(x * math.log(2.0))
        assert got.lower <= exact <= got.upper
        assert got.relative_width < 1e-12


@pytest.mark.parametrize("rate", [1e-3, 0.7, 3.0, 60.0])
@pytest.mark.parametrize("c", [0.5 + 1e-6, 0.8, 1.0, 1.4, 5.0, 40.0])
def test_laplace_generating_functions_err_by_less_than_they_say(rate, c):
    h, v = arb(rate) / 2, 2 * arb(c) - 1
    exact = (-h).exp() * ((h * v).cosh() + (h * v).sinh() / v)
    got, error = log_phi(rate, c)
    assert abs(arb(got) - exact.log()) <= error
    assert error <= 400 * ULP * (1.0 + rate * max(c, 1.0)) * max(min(rate, 1.0), abs(got))
    tilted = LaplacePart(rate, 1.0).at(c, 1.0) if c > 1.0 else None
    if tilted is not None:
        value, wrong = tilted.log_cf(0.6, 5)
        for k in range(1, 5):
            w = acb(v, 2 * arb(0.6) * k)
            true = ((h * w).cosh() + (h * w).sinh() / w) / ((h * v).cosh() + (h * v).sinh() / v)
            assert abs((acb(complex(value[k])) - true.log()).exp() - 1) <= math.expm1(wrong[k])
            assert wrong[k] < 1e-11
            assert float(abs(true).log().mid()) <= tilted.log_beyond(0.6 * k)


@pytest.mark.parametrize("epsilon", [599.5, 600.5, 601.5])
def test_sampled_laplace_steps_where_exponentials_overflow(epsilon):
    q, rate = 0.2, 606.0
    inner = arb(epsilon) + ((1 - (-arb(epsilon)).exp() * (1 - arb(q))) / arb(q)).log()
    exact = arb(q) * (1 - ((inner - rate) / 2).exp())
    got = sampled_laplace_delta(rate, q, epsilon, "remove")
    assert got.lower <= exact <= got.upper
    assert got.relative_width < 1e-11


@pytest.mark.parametrize("t", [1.4, 5.0])
@pytest.mark.parametrize(
    ("law_of", "a", "b"),
    [
        (response_law(RandomizedResponse(1.2, 4)), None, None),
        (
            discrete_law(DiscreteMechanism((0.5, 0.375, 0.125), (0.25, 0.5, 0.25)), "add"),
            (0.25, 0.5, 0.25),
            (0.5, 0.375, 0.125),
        ),
        (
            discrete_law(DiscreteMechanism((0.5, 0.375, 0.125, 0.0), (0.25, 0.5, 0.0, 0.25)), "remove"),
            (0.5, 0.375),
            (0.25, 0.5),
        ),
    ],
)
def test_points_err_by_less_than_they_say(law_of, a, b, t):
    if a is None:
        e, total = arb(1.2).exp(), arb(1.2).exp() + 3
        a, b = (e / total, 1 / total, 2 / total), (1 / total, e / total, 2 / total)
    exact = sum((arb(y) * ((arb(x) / arb(y)).log() * arb(t)).exp() for x, y in zip(a, b, strict=True)), arb(0))
    tilted = PointsPart(law_of, 1.0).at(t, 5.0)
    assert abs(arb(tilted.log_phi) - exact.log()) <= tilted.log_phi_error < 200 * ULP * (1.0 + t)
    value, wrong = tilted.log_cf(0.6, 6)
    for k in range(1, 6):
        z = acb(t, arb(0.6) * k)
        true = sum((arb(y) * (z * (arb(x) / arb(y)).log()).exp() for x, y in zip(a, b, strict=True)), acb(0)) / exact
        assert abs((acb(complex(value[k])) - true.log()).exp() - 1) <= math.expm1(wrong[k])
        assert wrong[k] < 1e-11


@pytest.mark.parametrize("direction", ["remove", "add"])
@pytest.mark.parametrize(("scale", "q"), [(2.0, 0.1), (0.3, 0.9), (0.5, 1e-4)])
def test_panels_err_by_less_than_they_say(scale, q, direction):
    density = sampled_laplace_law(PoissonSubsampledLaplace(scale, q), direction).density
    assert density is not None
    a = arb(1.0 / scale)

    def integrand(x: acb, z: acb) -> acb:
        mixture = 1 - arb(q) + arb(q) * (a * (2 * x - 1)).exp()
        return a / 2 * (-a * x).exp() * (z * mixture.log()).exp()

    for t, y in ((1.5, 0.0), (3.0, 7.0)):
        made = make_panels(density, t, y)
        z = acb(t, y) if direction == "remove" else 1 - acb(t, y)
        true = sum(
            (acb.integral(lambda x, _, z=z: integrand(x, z), acb(k) / 8, acb(k + 1) / 8) for k in range(8)), acb(0)
        )
        got = sum(
            (acb(m).exp() * (acb(t, y) * acb(loss)).exp() for m, loss in zip(made.log_mass, made.loss, strict=True)),
            acb(0),
        )
        size = sum(math.exp(m + t * loss) for m, loss in zip(made.log_mass, made.loss, strict=True))
        rounding = size * float((made.mass_error + (t + y) * made.loss_error).max())
        assert abs(got - true) <= math.exp(made.log_error(t, y)) + rounding
        assert math.exp(made.log_error(t, y)) < 1e-12 * size


class PoorRule:
    """Panels that err by e^-12."""

    def __init__(self, made) -> None:
        self.made = made

    def __getattr__(self, name: str):
        return getattr(self.made, name)

    def log_error(self, tilt: float, reach: float) -> float:
        return -12.0 + 0.1 * reach


@pytest.mark.parametrize("t", [0.5, 1.4, 40.0])
def test_the_error_of_a_rule_counts(monkeypatch, t):
    law_of = sampled_laplace_law(PoissonSubsampledLaplace(1.0, 0.1), "remove")
    plain = points._tilt(law_of, 1.0, t, 0.0)
    monkeypatch.setattr(points, "make_panels", lambda *arguments: PoorRule(make_panels(*arguments)))
    poor = points._tilt(law_of, 1.0, t, 7.0)
    least = math.exp(-12.0 - max(plain.log_phi, 0.0))
    assert 0.99 * least <= poor.log_phi_error <= 8.0 * least * (1.0 + t)
    assert poor.mean_error > 0.1 * least
    fine, error = points._fine_log_phi(
        law_of,
        PoorRule(poor.rule),
        t,
        poor.loss[0],
        0.0 * poor.loss[0],
        np.exp(np.append(law_of.log_mass, poor.rule.log_mass)),
        0.0,
    )
    if t < 9.0:
        assert error == pytest.approx((2.0 + 2.0 * t) * math.exp(-12.0 - fine), rel=1e-3)
    assert poor.log_cf(1.0, 8)[1][3] >= 2.0 * math.exp(-12.0 + 0.7 - plain.log_phi) * 0.99
    with pytest.raises(OutOfReachError):
        replace(plain, rule=None, loss=np.zeros((1, 140_000))).log_cf(0.5, 700)


# --- other measures --------------------------------------------------------------------------------------------------


def test_a_gaussians_delta_is_never_negative():
    for mu in np.geomspace(1e-12, 1e2, 60):
        for epsilon in (0.0, *np.geomspace(1e-12, 50.0, 60)):
            assert 0.0 <= gaussian_delta(float(mu), float(epsilon)) <= 1.0


@pytest.mark.parametrize("delta", [0.0, 1e-301, 1.0])
def test_targets_that_promise_nothing_are_refused(delta):
    with pytest.raises(InvalidParameterError, match="target_delta"):
        as_target({"target_epsilon": 1.0, "target_delta": delta})


def test_a_target_is_about_its_adjacency():
    promise = {"target_epsilon": 1.0, "target_delta": 1e-5}
    assert as_target(promise).adjacency == as_target(promise | {"adjacency": None}).adjacency == "add_or_remove"
    replaced = as_target(promise | {"adjacency": "replace_one"})
    assert replaced.adjacency == "replace_one"
    assert replaced.says != as_target(promise).says
