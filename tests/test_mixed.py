"""Steps of any kind in one curve: against ball arithmetic, closed forms, dp-accounting, and each other."""

import math
from itertools import pairwise

import numpy as np
import oracle
import oracle_mixed
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from flint import acb, arb
from hypothesis import given, settings
from hypothesis import strategies as st

from opacus_edgeworth import EdgeworthApproximation, PrivacyCurve, audit
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import compose
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.inversion.engines import history_delta, history_epsilon
from opacus_edgeworth.mechanisms import (
    DiscreteMechanism,
    Gaussian,
    Laplace,
    PoissonSubsampledGaussian,
    PoissonSubsampledLaplace,
    RandomizedResponse,
)
from opacus_edgeworth.mixed.engines import mixed_delta, mixed_epsilon

COIN = DiscreteMechanism(p=(0.5, 0.3, 0.2), q=(0.4, 0.35, 0.25))


def assert_encloses(bounds: Bounds, exact: arb, width: float) -> None:
    lower, upper = arb(bounds.lower), arb(bounds.upper)
    assert not lower > exact, (bounds, exact)
    assert not upper < exact, (bounds, exact)
    assert bounds.relative_width <= width


def larger(*values: arb) -> arb:
    return max(values, key=lambda value: float(value.mid()))


@pytest.mark.parametrize(
    ("scale", "steps", "epsilon", "width"),
    [
        (2.0, 1, 0.3, 1e-12),
        (0.7, 2, 0.5, 1e-5),
        (0.7, 2, 2.5, 1e-5),
        (2.0, 3, 1.2, 1e-4),
        (1.5, 8, 1.7, 1e-4),
        (0.5, 12, 11.3, 1e-6),
        (5.0, 12, 0.45, 1e-4),
        (0.05, 5, 63.0, 1e-4),
    ],
)
def test_laplace_steps_enclose_their_exact_delta(scale, steps, epsilon, width):
    exact = oracle_mixed.laplace_delta(1 / oracle_mixed.real(scale), steps, epsilon)
    assert_encloses(PrivacyCurve([(Laplace(scale), steps)]).delta(epsilon), exact, width)


@pytest.mark.parametrize(
    ("response", "steps", "epsilon"),
    [(0.5, 1, 0.2), (0.5, 40, 3.3), (0.05, 300, 1.01), (3.0, 25, 20.0), (1e-3, 1000, 0.0095)],
)
def test_responses_enclose_the_binomial_sum(response, steps, epsilon):
    exact = oracle_mixed.binary_responses_delta(response, steps, epsilon)
    assert_encloses(PrivacyCurve([(RandomizedResponse(response), steps)]).delta(epsilon), exact, 1e-10)


@pytest.mark.parametrize("direction", ["remove", "add"])
@pytest.mark.parametrize("epsilon", [0.0, 0.21, 0.7])
def test_discrete_steps_enclose_the_sum_over_outcomes(epsilon, direction):
    p, q = (COIN.p, COIN.q) if direction == "remove" else (COIN.q, COIN.p)
    atoms = [oracle_mixed.discrete_atoms(p, q)] * 5
    mechanism = DiscreteMechanism(p, q)
    both = [oracle_mixed.atoms_delta(atoms, epsilon), oracle_mixed.atoms_delta(
        [oracle_mixed.discrete_atoms(q, p)] * 5, epsilon)]  # fmt: skip
    assert_encloses(PrivacyCurve([(mechanism, 5)]).delta(epsilon), larger(*both), 1e-11)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 6.0])
def test_discrete_and_gaussian_steps_enclose_the_mean_over_outcomes(epsilon):
    history = [(COIN, 3), (RandomizedResponse(0.4, 5), 2), (Gaussian(2.0), 4)]
    curve = oracle_mixed.gaussian_curve(1.0)
    exact = []
    for p, q in ((COIN.p, COIN.q), (COIN.q, COIN.p)):
        atoms = [oracle_mixed.discrete_atoms(p, q)] * 3 + [oracle_mixed.response_atoms(0.4, 5)] * 2
        exact.append(oracle_mixed.conditioned(atoms, curve, epsilon))
    assert_encloses(PrivacyCurve(history).delta(epsilon), larger(*exact), 1e-9)


@pytest.mark.parametrize("epsilon", [0.05, 0.4, 1.3])
def test_a_response_and_a_sampled_gaussian_step_enclose_the_mean_over_outcomes(epsilon):
    exact = []
    for direction in ("remove", "add"):
        other = "add" if direction == "remove" else "remove"

        def curve(e: acb, analytic: bool, direction: str = direction, other: str = other) -> acb:
            value = float(e.real.mid())
            if value >= 0.0:
                return acb(oracle.single_step_delta(value, 1.0, 0.05, direction))
            return 1 - e.exp() + e.exp() * oracle.single_step_delta(-value, 1.0, 0.05, other)

        exact.append(oracle_mixed.conditioned([oracle_mixed.response_atoms(0.25, 2)], curve, epsilon))
    history = [(RandomizedResponse(0.25), 1), (1.0, 0.05, 1)]
    # the oracle's epsilons are doubles: off by an ulp
    wide = larger(*exact) * arb(1, 1e-14)
    assert_encloses(PrivacyCurve(history).delta(epsilon), wide, 1e-8)


def test_a_response_and_dp_sgd_enclose_the_mean_over_outcomes():
    steps, epsilon = [(1.0, 0.02, 300)], 1.5
    total = arb(0)
    for loss, mass in oracle_mixed.response_atoms(0.5, 2):
        value, error = oracle.delta(steps, float((epsilon - loss).mid()), "remove")
        total += mass * value * arb(1, error + 1e-13)
    assert_encloses(PrivacyCurve([*steps, (RandomizedResponse(0.5), 1)]).delta(epsilon), total, 1e-9)


@pytest.mark.parametrize("epsilon", [0.2, 0.9, 2.0])
def test_laplace_and_gaussian_steps_enclose_the_integral(epsilon):
    step = oracle_mixed.SampledLaplace(1.3, 1.0, "remove")
    exact = step.then(lambda e: oracle_mixed.gaussian_curve(0.25), epsilon, [])
    assert_encloses(PrivacyCurve([(Laplace(1.3), 1), (Gaussian(2.0), 1)]).delta(epsilon), exact, 1e-9)


@pytest.mark.parametrize(("scale", "rate"), [(0.8, 0.3), (0.3, 0.02), (3.0, 0.7)])
@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_sampled_laplace_steps_enclose_the_integrals(scale, rate, epsilon):
    mechanism = PoissonSubsampledLaplace(scale, rate)
    steps = [oracle_mixed.SampledLaplace(scale, rate, direction) for direction in ("remove", "add")]
    one = larger(*(step.curve(oracle_mixed.real(epsilon)) for step in steps))
    assert_encloses(PrivacyCurve([(mechanism, 1)]).delta(epsilon), one, 1e-9)
    smooth = oracle_mixed.gaussian_curve(0.25)
    both = larger(*(step.then(lambda e: smooth, epsilon, []) for step in steps))
    assert_encloses(PrivacyCurve([(mechanism, 1), (Gaussian(2.0), 1)]).delta(epsilon), both, 1e-9)
    two = larger(*(oracle_mixed.two_sampled_laplaces(step, step, epsilon) for step in steps))
    assert_encloses(PrivacyCurve([(mechanism, 2)]).delta(epsilon), two, 1e-3)


def test_pairs_of_unlike_sampled_laplace_steps_enclose_the_integrals():
    first, second = PoissonSubsampledLaplace(0.8, 0.3), PoissonSubsampledLaplace(1.7, 0.6)
    exact = larger(
        *(
            oracle_mixed.two_sampled_laplaces(
                oracle_mixed.SampledLaplace(0.8, 0.3, direction), oracle_mixed.SampledLaplace(1.7, 0.6, direction), 0.4
            )
            for direction in ("remove", "add")
        )
    )
    assert_encloses(PrivacyCurve([(first, 1), (second, 1)]).delta(0.4), exact, 1e-4)


EVERYTHING = [
    (Laplace(2.0), 10),
    (Gaussian(2.0), 3),
    (PoissonSubsampledGaussian(1.0, 0.01), 100),
    (RandomizedResponse(0.2), 20),
    (PoissonSubsampledLaplace(1.0, 0.05), 50),
    (COIN, 4),
]
STEP = 1e-3


def dp_accounting_pld(mechanism, pessimistic: bool):
    options = {"value_discretization_interval": STEP, "pessimistic_estimate": pessimistic}
    match mechanism:
        case Laplace(scale=b):
            return pld.from_laplace_mechanism(b, **options)
        case PoissonSubsampledLaplace(scale=b, sample_rate=q):
            return pld.from_laplace_mechanism(b, sampling_prob=q, **options)
        case Gaussian(noise_multiplier=s):
            return pld.from_gaussian_mechanism(s, **options)
        case PoissonSubsampledGaussian(noise_multiplier=s, sample_rate=q):
            return pld.from_gaussian_mechanism(s, sampling_prob=q, **options)
        case RandomizedResponse(epsilon=e, categories=k):
            return pld.from_randomized_response(k / (math.exp(e) + k - 1), k, **options)
        case DiscreteMechanism(p=p, q=q):
            logs = [{i: math.log(x) for i, x in enumerate(side)} for side in (q, p)]
            return pld.from_two_probability_mass_functions(*logs, symmetric=False, **options)
    raise AssertionError(mechanism)


def dp_accounting_deltas(history, epsilon: float) -> Bounds:
    """dp-accounting's optimistic and pessimistic delta, which its own rounding may exceed by a little."""
    ends = []
    for pessimistic in (False, True):
        parts = [dp_accounting_pld(mechanism, pessimistic).self_compose(n) for mechanism, n in history]
        total = parts[0]
        for part in parts[1:]:
            total = total.compose(part)
        ends.append(total.get_delta_for_epsilon(epsilon))
    return Bounds(ends[0] * (1.0 - 1e-9), ends[1] * (1.0 + 1e-9))


@pytest.mark.parametrize(
    "history",
    [[step] for step in EVERYTHING]
    + [[first, second] for i, first in enumerate(EVERYTHING) for second in EVERYTHING[:i]]
    + [EVERYTHING],
    ids=lambda history: "+".join(type(mechanism).__name__ for mechanism, _ in history),
)
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_every_mechanism_composes_with_every_other_within_dp_accountings_bounds(history, epsilon):
    ours, theirs = PrivacyCurve(history).delta(epsilon), dp_accounting_deltas(history, epsilon)
    assert ours.lower <= theirs.upper + 1e-12
    assert theirs.lower - 1e-12 <= ours.upper
    assert ours.relative_width <= (1e-5 if ours.upper > 1e-7 else 1e-3)


@pytest.mark.parametrize(
    ("history", "epsilon"),
    [([(1.0, 0.01, 1000)], 1.0), ([(0.8, 0.1, 30), (2.0, 1.0, 3)], 4.0), ([(2.0, 0.3, 50), (3.0, 0.1, 70)], 2.0)],
)
def test_histories_of_gaussian_steps_have_the_cores_delta(history, epsilon):
    steps = compose(history)
    core, here = history_delta(steps, epsilon), mixed_delta(steps, (), epsilon)
    core.intersect(here)
    assert here.relative_width <= 1e-9
    delta = core.upper
    history_epsilon(steps, delta).intersect(mixed_epsilon(steps, (), delta))


@st.composite
def mechanisms(draw):
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return Laplace(10.0 ** draw(st.floats(-1.5, 3.0)))
    if kind == 1:
        return PoissonSubsampledLaplace(10.0 ** draw(st.floats(-1.5, 3.0)), 10.0 ** draw(st.floats(-4.0, 0.0)))
    if kind == 2:
        return RandomizedResponse(10.0 ** draw(st.floats(-3.0, 1.0)), draw(st.integers(2, 5)))
    if kind == 3:
        weights = draw(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=4))
        tilts = draw(st.lists(st.floats(-1.0, 1.0), min_size=len(weights), max_size=len(weights)))
        p = np.array(weights) / math.fsum(weights)
        q = p * np.exp(tilts)
        return DiscreteMechanism(p.tolist(), (q / q.sum()).tolist())
    if kind == 4:
        return Gaussian(10.0 ** draw(st.floats(-0.5, 3.0)))
    return PoissonSubsampledGaussian(10.0 ** draw(st.floats(-0.3, 1.0)), 10.0 ** draw(st.floats(-3.0, 0.0)))


def histories(most: int = 3):
    counts = st.integers(1, 10).flatmap(lambda k: st.integers(1, 3**k))
    return st.lists(st.tuples(mechanisms(), counts), min_size=1, max_size=most)


@settings(max_examples=15, deadline=None)
@given(histories(), st.floats(-9.0, -0.5))
def test_epsilon_and_delta_agree_whatever_the_order(history, log_delta):
    delta = 10.0**log_delta
    curve = PrivacyCurve(history)
    epsilon = curve.epsilon(delta)
    assert PrivacyCurve(history[::-1]).epsilon(delta) == epsilon
    if 0.0 < epsilon.upper < math.inf:
        assert curve.delta(epsilon.upper * (1.0 + 1e-12)).lower <= delta
    if epsilon.lower > 0.0 and math.isfinite(epsilon.lower):
        assert curve.delta(epsilon.lower * (1.0 - 1e-12)).upper >= delta


@settings(max_examples=15, deadline=None)
@given(histories(2), mechanisms(), st.floats(0.0, 3.0))
def test_delta_falls_in_epsilon_and_rises_with_every_further_step(history, mechanism, epsilon):
    curve, more = PrivacyCurve(history), PrivacyCurve([*history, (mechanism, 2)])
    deltas = [curve.delta(e) for e in (epsilon, epsilon + 0.3, epsilon + 1.0)]
    assert all(later.lower <= earlier.upper for earlier, later in pairwise(deltas))
    assert deltas[0].lower <= more.delta(epsilon).upper


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 3.0), st.integers(2, 5), st.integers(1, 30), st.floats(0.0, 4.0))
def test_a_response_is_the_discrete_mechanism_of_its_probabilities(response, categories, steps, epsilon):
    total = math.exp(response) + categories - 1
    p = [math.exp(response) / total] + [1.0 / total] * (categories - 1)
    q = [p[1], p[0], *p[2:]]
    one = PrivacyCurve([(RandomizedResponse(response, categories), steps)]).delta(epsilon)
    one.intersect(PrivacyCurve([(DiscreteMechanism(p, q), steps)]).delta(epsilon))
    one.intersect(PrivacyCurve([(DiscreteMechanism(q, p), steps)]).delta(epsilon))


@pytest.mark.parametrize("steps", [1, 5, 400])
def test_sampling_everything_is_no_sampling(steps):
    sampled, plain = (PrivacyCurve([(m, steps)]) for m in (PoissonSubsampledLaplace(3.0, 1.0), Laplace(3.0)))
    assert sampled.delta(0.2) == plain.delta(0.2)
    nearly = PrivacyCurve([(PoissonSubsampledLaplace(3.0, 1.0 - 1e-9), steps)]).delta(0.2)
    assert nearly.upper == pytest.approx(plain.delta(0.2).upper, rel=1e-4)


def test_what_is_seen_for_certain_is_part_of_every_delta():
    leaky = DiscreteMechanism(p=(0.7, 0.25, 0.05), q=(0.8, 0.2, 0.0))
    curve = PrivacyCurve([(leaky, 3), (Laplace(2.0), 2)])
    seen = 1.0 - 0.95**3
    assert curve.delta(math.inf).lower == pytest.approx(seen, rel=1e-12)
    assert curve.delta(50.0).upper == pytest.approx(seen, rel=1e-12)
    assert curve.epsilon(0.9 * seen) == Bounds(math.inf, math.inf)
    assert curve.epsilon(1.01 * seen).upper < 50.0
    assert PrivacyCurve([(DiscreteMechanism((1.0, 0.0), (0.0, 1.0)), 1)]).delta(3.0).lower == pytest.approx(1.0)


def test_pure_mechanisms_have_an_epsilon_at_delta_zero():
    history = [(Laplace(2.0), 4), (RandomizedResponse(0.3, 3), 5), (PoissonSubsampledLaplace(1.0, 0.1), 2)]
    largest = 4 * 0.5 + 5 * 0.3 + 2 * math.log1p(0.1 * math.expm1(1.0))
    bounds = PrivacyCurve(history).epsilon(0.0)
    assert bounds.lower == pytest.approx(largest, rel=1e-12)
    assert bounds.lower <= largest <= bounds.upper
    assert PrivacyCurve(history).delta(bounds.upper) == Bounds(0.0, 0.0)
    assert PrivacyCurve([*history, (Gaussian(100.0), 1)]).epsilon(0.0).lower == math.inf


@pytest.mark.parametrize(
    "mechanism",
    [PoissonSubsampledLaplace(1.0, 0.0), RandomizedResponse(0.0, 3), DiscreteMechanism((0.5, 0.5), (0.5, 0.5))],
)
def test_steps_that_reveal_nothing_do_not_count(mechanism):
    assert PrivacyCurve([(mechanism, 1000)]).delta(0.0) == Bounds(0.0, 0.0)
    assert PrivacyCurve([(mechanism, 1000)]).epsilon(0.0) == Bounds(0.0, 0.0)
    alone = PrivacyCurve([(Laplace(2.0), 3)]).delta(0.5)
    assert PrivacyCurve([(mechanism, 1000), (Laplace(2.0), 3)]).delta(0.5) == alone


def test_deep_tails_count_what_was_cut_off():
    """Regression: Chernoff's bound on a law that was cut off fell below the truth for delta < 1e-42."""
    for (noise, rate, response), epsilon in {
        (0.5, 0.01, 0.3): 27.0,
        (1.0, 0.01, 0.1): 12.0,
        (0.7, 0.01, 0.2): 18.0,
    }.items():
        total = arb(0)
        for loss, mass in oracle_mixed.response_atoms(response, 2):
            total += mass * oracle.single_step_delta(float((epsilon - loss).mid()), noise, rate, "remove")
        bounds = PrivacyCurve([(noise, rate, 1), (RandomizedResponse(response), 1)]).delta(epsilon)
        assert bounds.lower <= float(total.mid()) * (1.0 + 1e-12)
        assert bounds.upper >= float(total.mid()) * (1.0 - 1e-12)
    assert PrivacyCurve([(1.0, 0.01, 20), (RandomizedResponse(0.1), 1)]).delta(100.0).upper > 0.0


@pytest.mark.parametrize(
    ("scale", "rate", "largest"),
    [
        (1 / 35, 1e-20, 1.58600087525306e-05),
        (1 / 33, 1e-16, 0.0212372428201007),
        (0.0313815, 1.476e-28, 1.01923534e-14),
    ],
)
def test_loud_and_rare_laplace_steps_keep_their_largest_loss(scale, rate, largest):
    """Regression: log(1 - q + q e^w) cancelled for w > 30 and q e^w < 1."""
    bounds = PrivacyCurve([(PoissonSubsampledLaplace(scale, rate), 1)]).epsilon(0.0)
    assert bounds.lower == pytest.approx(largest, rel=1e-8)
    exact = oracle_mixed.SampledLaplace(scale, rate, "remove").atoms[1][0]
    assert arb(bounds.lower) <= exact <= arb(bounds.upper)


def test_nothing_is_certain_that_is_only_likely():
    """Regression: lower ends were rounded to 1, and steps that reveal nothing or all led to exceptions."""
    assert PrivacyCurve([(Laplace(0.00812), 2)]).delta(0.0).lower < 1.0
    alone = PrivacyCurve([(Gaussian(1.0), 1)])
    assert PrivacyCurve([(Gaussian(1.0), 1), (RandomizedResponse(0.0), 5)]).delta(0.5).upper >= alone.delta(0.5).lower
    assert PrivacyCurve([(1.0, 0.1, 2), (RandomizedResponse(1.0), 0)]).epsilon(1e-5).upper < 5.0
    certain = DiscreteMechanism((1.0, 0.0), (0.0, 1.0))
    assert PrivacyCurve([(certain, 1), (Gaussian(1.0), 2)]).delta(0.5).lower == pytest.approx(1.0)


@pytest.mark.parametrize(
    "history",
    [
        [(PoissonSubsampledLaplace(1e-3, 1e-40), 1)],
        [(1.0, 1e-6, 1), (RandomizedResponse(0.1), 1)],
        [(Laplace(0.05), 5), (1.0, 0.5, 2)],
        [(Laplace(0.05), 5), (Gaussian(1.0), 2)],
        [(Laplace(0.05), 5), (Gaussian(1e-120), 2)],
        [(RandomizedResponse(0.5), 5), (Gaussian(1e120), 2)],
        [(Laplace(1e-6), 3)],
        [(Laplace(1e9), 3), (RandomizedResponse(1e6, 7), 2)],
    ],
    ids=str,
)
@pytest.mark.parametrize("value", [0.0, 1e-65, 1e-9, 0.3, 590.0, 1e6, 1e308])
def test_extremes_get_an_answer(history, value):
    assert 0.0 <= PrivacyCurve(history).delta(value).upper <= 1.0
    if value < 1.0:
        assert PrivacyCurve(history).epsilon(value).upper >= 0.0


@pytest.mark.parametrize(("scale", "steps", "delta"), [(0.0322, 3, 1e-12), (0.00177, 2, 1e-12), (0.594, 3, 5.4e-14)])
def test_epsilon_next_to_the_largest_loss_is_known(scale, steps, delta):
    bounds = PrivacyCurve([(Laplace(scale), steps)]).epsilon(delta)
    assert bounds.relative_width < 1e-10
    assert bounds.upper == pytest.approx(steps / scale + math.log1p(-delta * 2.0**steps), rel=1e-10)


def test_limits_and_arrays():
    curve = PrivacyCurve([(Laplace(2.0), 3), (1.0, 0.01, 10)])
    assert curve.history == ((1.0, 0.01, 10), (Laplace(2.0), 3))
    assert curve.epsilon(1.0) == Bounds(0.0, 0.0)
    deltas = curve.delta(np.array([0.5, 1.0]))
    assert deltas.shape == (2,)
    assert deltas[0] == curve.delta(0.5)
    assert PrivacyCurve([(Laplace(2.0), 0)]).delta(0.0) == Bounds(0.0, 0.0)
    hidden = PrivacyCurve([(Laplace(2.0), 1), (0.0, 0.1, 1)])
    assert hidden.delta(math.inf).lower == pytest.approx(0.1)
    assert hidden.epsilon(0.05).lower == math.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Laplace(0.0), r"scale=0\.0 must be in \[1e-6, 1e9\]"),
        (lambda: Laplace(math.nan), "scale=nan is not a number"),
        (lambda: PoissonSubsampledLaplace(1.0, 1.5), r"sample_rate=1\.5 must be in"),
        (lambda: RandomizedResponse(-1.0), r"epsilon=-1\.0 must be >= 0"),
        (lambda: RandomizedResponse(math.inf), r"epsilon=inf must be in \[0, 1e6\]"),
        (lambda: RandomizedResponse(1.0, 1), "categories=1 must be at least 2"),
        (lambda: DiscreteMechanism((0.5, 0.5), (1.0,)), "p has 2 outputs and q has 1"),
        (lambda: DiscreteMechanism((0.5, 0.4), (0.5, 0.5)), r"p adds up to 0\.9, not to 1"),
        (lambda: DiscreteMechanism((1.5, -0.5), (0.5, 0.5)), r"p\[0\]=1\.5 must be in \[0, 1\]"),
        (lambda: DiscreteMechanism((5e-324, 1.0), (0.5, 0.5)), r"p\[0\]=5e-324 must be 0 or at least 1e-300"),
        (lambda: DiscreteMechanism("half", (0.5, 0.5)), "p='half' must be a list of probabilities"),
        (lambda: DiscreteMechanism((0.5, "x"), (0.5, 0.5)), r"p\[1\]='x' is not a real number"),
        (lambda: PrivacyCurve([(Laplace(1.0), 2.5)]), r"history\[0\]: steps=2\.5 must be an integer"),
        (lambda: audit([(Laplace(1.0), 2)], delta=1e-5), r"Laplace\(scale=1\.0\) is not a Poisson-sampled"),
        (lambda: EdgeworthApproximation([(Laplace(1.0), 2)]), r"Laplace\(scale=1\.0\) is not a Poisson-sampled"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(InvalidParameterError, match=message):
        make()
