"""Calibration in every unknown, on both sides: what is returned meets the target, and a step further does not.

Both are asked of `PrivacyCurve` itself, at the history that a user would train, not of the search.
"""

import itertools
import math
import time

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import opacus_edgeworth as ew
from opacus_edgeworth import search, solving
from opacus_edgeworth.errors import CalibrationError, InvalidParameterError

FURTHER = 1e-6
PROMISE = {"target_epsilon": 3.0, "target_delta": 1e-5}
RANDOM = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # a failing regime may take long to shrink
)


def spread(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers between positive ends, as many in every decade."""
    return st.floats(math.log(low), math.log(high)).map(math.exp).map(lambda value: min(max(value, low), high))


NOISES, RATES = spread(0.3, 20.0), spread(1e-4, 1.0)
STEPS = spread(1.0, 1e5).map(round)
DELTAS = st.fixed_dictionaries({"target_epsilon": spread(0.05, 20.0), "target_delta": spread(1e-10, 1e-3)})
TARGETS = st.one_of(
    DELTAS,
    DELTAS,
    st.fixed_dictionaries({"target_advantage": spread(0.01, 0.95)}),
    st.tuples(spread(1e-4, 0.3), st.floats(0.05, 0.9)).map(
        lambda pair: {"target_fpr": pair[0], "target_tpr": pair[0] + (1.0 - pair[0]) * pair[1]}
    ),
    st.fixed_dictionaries({"target_mu": spread(0.05, 4.0)}),
)


def attained(target: dict, history: list) -> tuple[ew.Bounds, float]:
    """Return the proved bounds on what a target limits, and the limit."""
    curve = ew.PrivacyCurve(history)
    if "target_epsilon" in target:
        return curve.delta(target["target_epsilon"]), target["target_delta"]
    if "target_advantage" in target:
        return curve.advantage(), target["target_advantage"]
    if "target_tpr" in target:
        return curve.true_positive_rate(target["target_fpr"]), target["target_tpr"]
    return curve.gaussian_mu(), target["target_mu"]


def meets(target: dict, history: list) -> bool:
    """Whether a history is proved to meet a target."""
    bounds, limit = attained(target, history)
    return bounds.upper <= limit


def breaks(target: dict, history: list) -> bool:
    """Whether a history is not proved to meet a target, and does not but for the width of the bounds."""
    bounds, limit = attained(target, history)
    width = 1e-4 if "target_mu" in target else 1e-8
    return bounds.upper > limit and bounds.lower > limit * (1.0 - width)


# --- random regimes, both sides ----------------------------------------------------------------------------------


@RANDOM
@given(target=TARGETS, rate=RATES, steps=STEPS)
def test_noise(target, rate, steps):
    noise = ew.calibrate_noise_multiplier(sample_rate=rate, steps=steps, **target)
    assert meets(target, [(noise, rate, steps)])
    if noise > search.SMALLEST:
        assert breaks(target, [(noise * (1.0 - FURTHER), rate, steps)])


@RANDOM
@given(target=TARGETS, noise=NOISES, rate=RATES)
def test_steps(target, noise, rate):
    try:
        steps = ew.calibrate_steps(noise_multiplier=noise, sample_rate=rate, **target)
    except CalibrationError:
        steps = 0
    assert steps == 0 or meets(target, [(noise, rate, steps)])
    assert steps == solving.MOST_STEPS or not meets(target, [(noise, rate, steps + 1)])


@RANDOM
@given(target=TARGETS, noise=NOISES, steps=STEPS)
def test_sample_rate_of_steps(target, noise, steps):
    try:
        rate = ew.calibrate_sample_rate(noise_multiplier=noise, steps=steps, **target)
    except CalibrationError:
        rate = 0.0
    assert rate == 0.0 or meets(target, [(noise, rate, steps)])
    if rate < 1.0:
        assert breaks(target, [(noise, max(rate * (1.0 + FURTHER), 1.1e-9), steps)])


@settings(RANDOM, max_examples=8)
@given(target=TARGETS, noise=NOISES, epochs=spread(0.05, 100.0))
def test_sample_rate_of_epochs(target, noise, epochs):
    try:
        rate = ew.calibrate_sample_rate(noise_multiplier=noise, epochs=epochs, **target)
    except CalibrationError:
        assume(False)
        raise
    steps = solving.step_count(rate, None, epochs)
    assert meets(target, [(noise, rate, steps)])
    # no larger rate does, with as many steps or fewer, down to those that any rate makes
    further = rate * (1.0 + FURTHER)
    larger = [further] if further <= min(epochs / steps, 1.0) else []
    larger += [epochs / (n + 1) * (1.0 + 1e-11) for n in range(max(int(epochs), 1, steps - 20), steps)]
    for tried in larger:
        if tried <= 1.0:
            assert not meets(target, [(noise, tried, solving.step_count(tried, None, epochs))])


@RANDOM
@given(
    target=TARGETS,
    noise=NOISES,
    size=spread(1.0, 1e6).map(round),
    length=st.one_of(
        st.fixed_dictionaries({"epochs": st.one_of(spread(0.3, 50.0), st.integers(1, 50))}),
        st.fixed_dictionaries({"steps": STEPS}),
    ),
)
def test_batch_size(target, noise, size, length):
    def history(batch):
        rate = 1.0 / math.ceil(size / batch)
        return [(noise, rate, solving.step_count(rate, length.get("steps"), length.get("epochs")))]

    batch, refused = 0, ""
    try:
        batch = ew.calibrate_batch_size(dataset_size=size, noise_multiplier=noise, **length, **target)
    except CalibrationError:
        assert not meets(target, history(1))
        return
    except InvalidParameterError as error:
        refused = str(error)
    if refused:
        assert "epochs" in refused
        assert size * length["epochs"] < 1.0
        return
    assert 1 <= batch <= size
    assert meets(target, history(batch))
    if batch < size and length.get("epochs", 1.0) * math.ceil(size / (batch + 1)) >= 1.0:
        assert not meets(target, history(batch + 1))


@RANDOM
@given(epsilon=spread(0.05, 20.0), noise=NOISES, rate=RATES, steps=STEPS)
def test_delta(epsilon, noise, rate, steps):
    delta = ew.calibrate_delta(target_epsilon=epsilon, noise_multiplier=noise, sample_rate=rate, steps=steps)
    bounds = ew.PrivacyCurve([(noise, rate, steps)]).delta(epsilon)
    assert delta == bounds.upper
    assert bounds.lower >= delta * (1.0 - FURTHER) - 1e-15


@settings(RANDOM, max_examples=10)
@given(
    target=DELTAS,
    rate=RATES,
    steps=STEPS,
    before=st.lists(st.tuples(spread(0.5, 20.0), RATES, STEPS), min_size=1, max_size=2),
)
def test_noise_after_what_was_spent(target, rate, steps, before):
    noise, refused = 0.0, ""
    try:
        noise = ew.calibrate_noise_multiplier(sample_rate=rate, steps=steps, spent=before, **target)
    except CalibrationError as error:
        refused = str(error)
    if refused:
        assert not meets(target, before) or "e+09" in refused
        return
    assert meets(target, [*before, (noise, rate, steps)])
    assert noise <= search.SMALLEST or not meets(target, [*before, (noise * (1.0 - FURTHER), rate, steps)])


@settings(RANDOM, max_examples=12)
@given(
    target=DELTAS,
    rate=spread(1e-3, 0.1),
    steps=st.integers(1, 60),
    kind=st.sampled_from(["linear", "cosine", "list", "function"]),
    end=spread(0.2, 5.0),
)
def test_scale_of_a_schedule(target, rate, steps, kind, end):
    factors = {
        "linear": lambda: ew.schedules.linear(steps, end=end),
        "cosine": lambda: ew.schedules.cosine(steps, end=end),
        "list": lambda: [1.0] * (steps // 2) + [end] * (steps - steps // 2),
        "function": lambda: [end ** (step / steps) for step in range(steps)],
    }[kind]()
    schedule = (lambda step: factors[step]) if kind == "function" else factors
    noise = ew.calibrate_noise_multiplier(sample_rate=rate, steps=steps, schedule=schedule, **target)

    def history(scale):
        return [(scale * factor, rate, 1) for factor in factors]

    assert meets(target, history(noise))
    assert noise <= search.SMALLEST or breaks(target, history(noise * (1.0 - FURTHER)))


@pytest.mark.slow
def test_a_long_schedule():
    factors = ew.schedules.cosine(120, end=0.3)
    noise = ew.calibrate_noise_multiplier(sample_rate=0.01, steps=120, schedule=factors, **PROMISE)
    assert meets(PROMISE, [(noise * factor, 0.01, 1) for factor in factors])
    assert breaks(PROMISE, [(noise * (1.0 - FURTHER) * factor, 0.01, 1) for factor in factors])


# --- corners -----------------------------------------------------------------------------------------------------


def test_three_epochs_of_seventy_five_batches_are_225_steps():
    """3 / (1 / 75) is 224.99... in floating point."""
    assert solving.step_count(1 / 75, None, 3) == 225
    by_epochs = ew.calibrate_noise_multiplier(sample_rate=1 / 75, epochs=3, **PROMISE)
    assert by_epochs == ew.calibrate_noise_multiplier(sample_rate=1 / 75, steps=225, **PROMISE)
    for batches, epochs in itertools.product(range(1, 200), (1, 2, 3, 7)):
        assert solving.step_count(1 / batches, None, epochs) == batches * epochs


@pytest.mark.parametrize("rel_tol", [1e-9, 0.1, 1.0])
@pytest.mark.parametrize("epochs", [0.7, 1.0, 1.9, 10.0])
def test_the_rate_makes_as_many_steps_as_were_proved(epochs, rel_tol):
    """A wide tolerance let the rate fall below the one with which an epoch has a step more."""
    for noise in (0.7, 2.0):
        for target in ({"target_advantage": 0.3}, PROMISE):
            rate = ew.calibrate_sample_rate(noise_multiplier=noise, epochs=epochs, rel_tol=rel_tol, **target)
            assert meets(target, [(noise, rate, solving.step_count(rate, None, epochs))])


@pytest.mark.parametrize("epochs", [0.3, 0.5, 1.5, 2.25, 3])
@pytest.mark.parametrize("size", [7, 20])
def test_no_larger_batch_at_all(size, epochs):
    """Epochs that are not whole make up to a step less than they say: larger batches may be more private."""
    for noise, advantage in itertools.product((0.4, 1.5), (0.1, 0.5, 0.9)):
        target = {"target_advantage": advantage}

        def safe(batch, noise=noise, target=target):
            rate = 1.0 / math.ceil(size / batch)
            steps = solving.whole_steps(rate, epochs)
            return steps >= 1 and meets(target, [(noise, rate, steps)])

        best = max((batch for batch in range(1, size + 1) if safe(batch)), default=0)
        try:
            found = ew.calibrate_batch_size(dataset_size=size, noise_multiplier=noise, epochs=epochs, **target)
        except CalibrationError:
            found = 0
        assert found == best


@pytest.mark.slow
def test_rates_below_a_billionth_of_very_many_steps():
    target = {"target_epsilon": 3.0, "target_delta": 3e-8}
    rate = ew.calibrate_sample_rate(noise_multiplier=0.3, epochs=3, **target)
    assert rate < 1e-9
    assert meets(target, [(0.3, rate, solving.step_count(rate, None, 3))])


def test_fewer_steps_at_a_larger_rate_where_that_is_safe():
    """With hardly any noise one step at rate 0.52 is seen less often than two at a third, with one epoch."""
    target = {"target_advantage": 0.52}
    rate = ew.calibrate_sample_rate(noise_multiplier=0.05, epochs=1, **target)
    assert rate == pytest.approx(0.52, rel=1e-6)
    assert breaks(target, [(0.05, 1 / 3 + 1e-9, 2)])


def test_batches_that_no_batch_size_makes():
    for size in range(16, 36):
        batch = ew.calibrate_batch_size(dataset_size=size, noise_multiplier=1.5, steps=10, **PROMISE)
        best = max(b for b in range(1, size + 1) if meets(PROMISE, [(1.5, 1 / math.ceil(size / b), 10)]))
        assert batch == best


def test_all_data_in_one_step():
    noise = ew.calibrate_noise_multiplier(sample_rate=1.0, steps=1, **PROMISE)
    assert breaks(PROMISE, [(noise * (1 - 1e-8), 1.0, 1)])
    assert ew.calibrate_steps(noise_multiplier=noise, sample_rate=1.0, **PROMISE) == 1
    assert ew.calibrate_sample_rate(noise_multiplier=noise, steps=1, **PROMISE) == 1.0
    assert ew.calibrate_sample_rate(noise_multiplier=noise, epochs=1, **PROMISE) == 1.0
    assert ew.calibrate_batch_size(dataset_size=1, noise_multiplier=noise, steps=1, **PROMISE) == 1


def test_what_was_spent_leaves_almost_nothing():
    steps = ew.calibrate_steps(noise_multiplier=1.0, sample_rate=0.01, **PROMISE)
    before = [(1.0, 0.01, steps)]
    noise = ew.calibrate_noise_multiplier(sample_rate=0.01, steps=100, spent=before, **PROMISE)
    assert meets(PROMISE, [*before, (noise, 0.01, 100)])
    assert not meets(PROMISE, [*before, (noise * (1 - FURTHER), 0.01, 100)])
    with pytest.raises(CalibrationError, match="one step at"):
        ew.calibrate_steps(noise_multiplier=1.0, sample_rate=0.01, spent=before, **PROMISE)
    rate = ew.calibrate_sample_rate(noise_multiplier=1.0, steps=1, spent=before, **PROMISE)
    assert 0.0 < rate < 0.01
    assert meets(PROMISE, [*before, (1.0, rate, 1)])
    for call in (
        lambda spent: ew.calibrate_noise_multiplier(sample_rate=0.01, steps=1, spent=spent, **PROMISE),
        lambda spent: ew.calibrate_steps(noise_multiplier=9.0, sample_rate=0.01, spent=spent, **PROMISE),
        lambda spent: ew.calibrate_sample_rate(noise_multiplier=9.0, steps=1, spent=spent, **PROMISE),
        lambda spent: ew.calibrate_batch_size(noise_multiplier=9.0, dataset_size=9, steps=1, spent=spent, **PROMISE),
        lambda spent: ew.plan(dataset_size=64, epochs=1, spent=spent, **PROMISE),
    ):
        with pytest.raises(CalibrationError, match="spent exceeds epsilon=3 at delta=1e-05 already"):
            call([(1.0, 0.01, steps + 1)])


def test_other_mechanisms_were_spent():
    before = [(ew.mechanisms.Laplace(4.0), 2)]
    noise = ew.calibrate_noise_multiplier(sample_rate=0.01, steps=100, spent=iter(before), **PROMISE)
    assert meets(PROMISE, [*before, (noise, 0.01, 100)])
    assert not meets(PROMISE, [*before, (noise * (1 - FURTHER), 0.01, 100)])


def test_targets_that_any_noise_meets():
    # sampled with probability 1e-6 at most
    noise = ew.calibrate_noise_multiplier(sample_rate=1e-7, steps=10, target_epsilon=1.0, target_delta=1e-5)
    assert noise <= search.SMALLEST
    assert meets({"target_epsilon": 1.0, "target_delta": 1e-5}, [(noise, 1e-7, 10)])
    assert ew.calibrate_steps(noise_multiplier=1e9, sample_rate=1.0, **PROMISE) == solving.MOST_STEPS
    assert ew.calibrate_sample_rate(noise_multiplier=100.0, steps=10, **PROMISE) == 1.0
    assert ew.calibrate_batch_size(dataset_size=100, noise_multiplier=100.0, epochs=5, **PROMISE) == 100


@pytest.mark.parametrize(
    "call",
    [
        lambda: ew.calibrate_noise_multiplier(sample_rate=1.0, steps=10**12, target_epsilon=0.0, target_delta=1e-15),
        lambda: ew.calibrate_noise_multiplier(sample_rate=1.0, steps=1, target_advantage=1e-12),
        lambda: ew.calibrate_steps(noise_multiplier=0.3, sample_rate=0.5, **PROMISE),
        lambda: ew.calibrate_sample_rate(noise_multiplier=0.01, epochs=3, **PROMISE),
        lambda: ew.calibrate_batch_size(dataset_size=9, noise_multiplier=0.3, epochs=3, **PROMISE),
    ],
)
def test_targets_that_nothing_meets(call):
    with pytest.raises(CalibrationError, match=r"epsilon=|advantage"):
        call()


@pytest.mark.parametrize("noise", [1e-4, 0.001, 0.01, 0.05, 50.0, 100.0, 1e6, 1e9])
@pytest.mark.parametrize("length", [{"steps": 1000}, {"epochs": 3}, {"epochs": 0.1}])
def test_extreme_noise_is_answered_within_two_seconds(noise, length):
    """At noise 0.01 one evaluation took five seconds, and its bounds were wide."""
    begin = time.process_time()
    try:
        rate = ew.calibrate_sample_rate(noise_multiplier=noise, **length, **PROMISE)
    except CalibrationError:
        pass
    else:
        steps = solving.step_count(rate, length.get("steps"), length.get("epochs"))
        assert meets(PROMISE, [(noise, rate, steps)])
    assert time.process_time() - begin < 20.0  # two in practice; this only tells a hang


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0, 30.0])
@pytest.mark.parametrize("history", [[(0.02, 1e-6, 1000)], [(0.05, 0.01, 3), (0.03, 1e-3, 100)], [(0.06, 0.5, 5)]])
def test_delta_with_hardly_any_noise_is_that_of_sampling(history, epsilon):
    curve = ew.PrivacyCurve(history)
    unseen = math.fsum(n * math.log1p(-q) for _, q, n in history)
    for direction, exact in (("remove", -math.expm1(unseen)), ("add", max(-math.expm1(unseen + epsilon), 0.0))):
        bounds = curve.delta(epsilon, direction=direction)
        assert bounds.lower <= exact * (1.0 + 1e-13)
        assert exact * (1.0 - 1e-9) <= bounds.upper <= exact * (1.0 + 1e-13) + 1e-15
        assert bounds.upper - bounds.lower <= 1e-8 * exact + 1e-15


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (ew.calibrate_noise_multiplier, {"sample_rate": 1e-15, "steps": 1}),
        (ew.calibrate_noise_multiplier, {"sample_rate": 1.0, "steps": 2**53}),
        (ew.calibrate_steps, {"noise_multiplier": 1.0, "sample_rate": 1e-6}),
        (ew.calibrate_steps, {"noise_multiplier": 1e9, "sample_rate": 1e-4}),
        (ew.calibrate_steps, {"noise_multiplier": 1e-4, "sample_rate": 0.5}),
        (ew.calibrate_batch_size, {"noise_multiplier": 1e9, "dataset_size": 10**15, "epochs": 1}),
    ],
)
@pytest.mark.parametrize(
    "target",
    [
        PROMISE,
        {"target_epsilon": 1e6, "target_delta": 0.5},
        {"target_epsilon": 0.0, "target_delta": 1e-300},
        {"target_advantage": 1.0 - 1e-16},
        {"target_advantage": 1e-300},
        {"target_tpr": 1.0 - 1e-16, "target_fpr": 1e-300},
        {"target_mu": 100.0},
        {"target_mu": 1e-200},
    ],
)
def test_extremes_end_in_an_answer_or_an_error_of_ours(call, arguments, target):
    """Squares that overflow, logarithms of what underflowed."""
    try:
        found = call(**arguments, **target)
    except CalibrationError:
        return
    assert found > 0


# --- the searches themselves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [PROMISE, {"target_advantage": 0.2}, {"target_mu": 0.7}])
@pytest.mark.parametrize(("noise", "rate"), [(0.6, 0.001), (1.0, 0.01), (3.0, 0.1), (10.0, 1.0), (100.0, 1e-3)])
def test_whole_numbers_take_few_evaluations(monkeypatch, noise, rate, target):
    evaluations = []
    known = ew.PrivacyCurve.__init__

    def counted(self, history, **adjacency):
        evaluations.append(1)
        known(self, history, **adjacency)

    monkeypatch.setattr(ew.PrivacyCurve, "__init__", counted)
    ew.calibrate_steps(noise_multiplier=noise, sample_rate=rate, **target)
    assert len(evaluations) <= 15


@given(
    root=spread(1e-6, 1e6),
    start=spread(1e-9, 1e9),
    bend=st.floats(-3.0, 3.0),
    slope=spread(1e-3, 1e3),
    rel_tol=spread(1e-12, 1.0),
)
@settings(deadline=None, derandomize=True)
def test_any_falling_excess_is_solved(root, start, bend, slope, rel_tol):
    def excess(x):
        t = math.log(root / x)
        return math.copysign(math.expm1(min(abs(t) * math.exp(bend), 50.0)), t)

    found, _ = search.smallest_safe(excess, rel_tol, start, slope)
    assert excess(found) <= 0.0 < excess(found / (1.0 + rel_tol) * (1.0 - 1e-15))


@given(
    last=spread(1.0, 1e15).map(round),
    start=spread(1e-9, 1e20),
    bend=st.floats(-3.0, 3.0),
    slope=spread(1e-3, 1e3),
    steep=st.booleans(),
)
@settings(deadline=None, derandomize=True)
def test_any_rising_excess_of_whole_numbers_is_solved(last, start, bend, slope, steep):
    seen = set()

    def excess(n):
        seen.add(n)
        if steep:
            return math.inf if n > last else -1e-3
        t = math.log(n / (last + 0.5))
        return math.copysign(math.expm1(min(abs(t) * math.exp(bend), 50.0)), t)

    assert search.largest_safe_integer(excess, start, 2**53, slope) == last
    assert {last, last + 1} <= seen
    assert search.largest_safe_integer(lambda n: 1.0, start, 10, slope) == 0
    assert search.largest_safe_integer(lambda n: -1.0, start, 10, slope) == 10


def test_heavy_noise_is_not_taken_for_none():
    """Where delta is less than doubles hold the bound was that of sampling, 0.002: more noise seemed unsafe."""
    for noise in (8.0, 17.5, 100.0):
        assert ew.PrivacyCurve([(noise, 1.18e-4, 496)]).delta(0.052).upper < 1e-60
    target = {"target_epsilon": 0.052, "target_delta": 1e-7}
    steps = ew.calibrate_steps(noise_multiplier=10.0, sample_rate=1.18e-4, **target)
    assert meets(target, [(10.0, 1.18e-4, steps)])
    assert breaks(target, [(10.0, 1.18e-4, steps + steps // 1000 + 1)])


def test_a_search_that_does_not_end_returns_nothing(monkeypatch):
    monkeypatch.setattr(search, "MAX_STEPS", 3)
    with pytest.raises(CalibrationError, match="the search did not end"):
        search.smallest_safe(lambda x: 1.0 - x, 1e-12, 1e-6, 1.0)
    with pytest.raises(CalibrationError, match="the search did not end"):
        search.largest_safe_integer(lambda n: n - 1e9, 1.0, 2**53)


# --- what is refused, before anything is computed ----------------------------------------------------------------

CALLS = {
    "noise": (ew.calibrate_noise_multiplier, {"sample_rate": 0.01, "steps": 100}),
    "steps": (ew.calibrate_steps, {"noise_multiplier": 1.0, "sample_rate": 0.01}),
    "rate": (ew.calibrate_sample_rate, {"noise_multiplier": 1.0, "steps": 100}),
    "batch": (ew.calibrate_batch_size, {"noise_multiplier": 1.0, "dataset_size": 100, "steps": 100}),
    "delta": (ew.calibrate_delta, {"target_epsilon": 1.0, "noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 9}),
}
NO_NUMBERS = (math.nan, "1", None, True, [1.0], 1j)


@pytest.fixture
def nothing_computed(monkeypatch):
    def refuse(self, *_, **__):
        raise AssertionError("computed before the arguments were checked")

    for name in ("delta", "advantage", "true_positive_rate", "gaussian_mu"):
        monkeypatch.setattr(ew.PrivacyCurve, name, refuse)


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("argument", "values", "remedy"),
    [
        ("noise_multiplier", (0.0, -1.0, math.inf, 1e-5, 1e10, *NO_NUMBERS), r"must be|not a"),
        ("sample_rate", (0.0, -0.1, 1.5, 1e-16, *NO_NUMBERS), r"must be|not a"),
        ("steps", (0, -1, 1.5, 2**60, math.inf, *NO_NUMBERS[:2], *NO_NUMBERS[3:]), r"must be|not a|at least"),
        ("dataset_size", (0, -5, 2.5, *NO_NUMBERS), r"must be|not a"),
        ("epochs", (0, -1.0, math.inf, 1e300, *NO_NUMBERS[:2], *NO_NUMBERS[3:]), r"must be|not a|more than"),
        ("rel_tol", (0.0, 2.0, 1e-13, *NO_NUMBERS), r"must be|not a"),
        ("spent", (5, None, [(1.0, 2.0, 3)], [(1.0, 0.1)], "history"), r"must be"),
    ],
)
def test_bad_arguments_are_named(name, argument, values, remedy):
    call, good = CALLS[name]
    takes = {**good, "spent": ()} | ({"rel_tol": 1e-9} if name in ("noise", "rate") else {})
    takes |= {"epochs": None} if "steps" in good else {}
    if argument not in takes:
        return
    for value in values:
        if name == "delta" and argument == "noise_multiplier" and value in (0.0, 1e-5, 1e10):
            continue  # an answer, if a useless one
        arguments = takes | ({"steps": None} if argument == "epochs" else {}) | {argument: value}
        target = {} if name == "delta" else PROMISE
        with pytest.raises(InvalidParameterError, match=f"{argument}.*({remedy})") as caught:
            call(**arguments, **target)
        assert str(caught.value).startswith(argument)


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize("name", ["noise", "steps", "rate", "batch"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "give one target .* not none"),
        ({"target_epsilon": 1.0}, "target_delta is missing"),
        ({"target_delta": 1.0}, "target_epsilon is missing"),
        ({"target_tpr": 0.5}, "target_fpr is missing"),
        (PROMISE | {"target_mu": 1.0}, "give one target"),
        ({"target_epsilon": -1.0, "target_delta": 0.1}, "target_epsilon=-1.0 must be"),
        ({"target_epsilon": math.inf, "target_delta": 0.1}, "target_epsilon=inf"),
        ({"target_epsilon": 2e6, "target_delta": 0.1}, "target_epsilon=2000000.0 must be"),
        ({"target_epsilon": "3", "target_delta": 0.1}, "target_epsilon='3' is not a real number"),
        ({"target_epsilon": 1.0, "target_delta": 0.0}, "target_delta=0.0 must be"),
        ({"target_epsilon": 1.0, "target_delta": math.nan}, "target_delta=nan is not"),
        ({"target_advantage": 0.0}, "target_advantage=0.0 must be"),
        ({"target_advantage": 1.0}, "target_advantage=1.0 must be"),
        ({"target_tpr": 0.1, "target_fpr": 0.1}, "target_tpr=0.1 must exceed target_fpr=0.1"),
        ({"target_tpr": 2.0, "target_fpr": 0.1}, "target_tpr=2.0 must be"),
        ({"target_mu": 0.0}, "target_mu=0.0 must be"),
        ({"target_mu": 1001.0}, "target_mu=1001.0 must be"),
        ({"target_mu": math.inf}, "target_mu=inf must be"),
    ],
)
def test_bad_targets_are_named(name, target, message):
    call, good = CALLS[name]
    with pytest.raises(InvalidParameterError, match=message):
        call(**good, **target)


def test_no_such_target_is_a_type_error():
    with pytest.raises(TypeError, match="target_eps"):
        ew.calibrate_steps(noise_multiplier=1.0, sample_rate=0.1, target_eps=1.0)


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize("name", ["noise", "rate", "batch", "delta"])
def test_either_steps_or_epochs(name):
    call, good = CALLS[name]
    target = {} if name == "delta" else PROMISE
    for change, word in (({"epochs": 1.0}, "both"), ({"steps": None}, "neither")):
        with pytest.raises(InvalidParameterError, match=f"either steps or epochs, not {word}"):
            call(**(good | change), **target)


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([1.0], r"schedule has 1 factors for 3 steps"),
        ([1.0] * 4, r"schedule has at least 4 factors for 3 steps"),
        (itertools.cycle([1.0, 2.0]), r"schedule has at least 4 factors for 3 steps"),
        ([1.0, 0.0, 1.0], r"schedule\[1\]=0.0 must be in"),
        ([1.0, math.nan, 1.0], r"schedule\[1\]=nan is not"),
        ([1.0, 1.0, "x"], r"schedule\[2\]='x' is not"),
        (lambda step: -1.0, r"schedule\[0\]=-1.0 must be in"),
        ("linear", r"schedule='linear' must be factors or a function"),
        (3, r"schedule=3 must be factors or a function"),
    ],
)
def test_bad_schedules_are_named(schedule, message):
    with pytest.raises(InvalidParameterError, match=message):
        ew.calibrate_noise_multiplier(sample_rate=0.01, steps=3, schedule=schedule, **PROMISE)


def test_bad_shapes_of_schedules_are_named():
    for call in (ew.schedules.linear, ew.schedules.cosine):
        for arguments, message in (
            ({"steps": 0}, "steps=0 must be"),
            ({"steps": 2, "start": 0.0}, "start=0.0 must be"),
            ({"steps": 2, "end": math.inf}, "end=inf must be"),
        ):
            with pytest.raises(InvalidParameterError, match=message):
                call(**arguments)
        assert call(1) == (1.0,)
        assert call(7, start=2.0, end=0.5)[::6] == (2.0, 0.5)
    with pytest.raises(InvalidParameterError, match="too many factors"):
        ew.calibrate_noise_multiplier(sample_rate=0.01, steps=10**8, schedule=lambda step: 1.0, **PROMISE)
