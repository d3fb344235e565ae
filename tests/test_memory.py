"""Epsilon logged along a schedule: sums that grow with the history, against the curve, an oracle, altered histories."""

import threading

import numpy as np
import oracle
import pytest

import opacus_edgeworth as ew
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition, compose
from opacus_edgeworth.inversion import foresight as foresight_module
from opacus_edgeworth.inversion import memory as memory_module
from opacus_edgeworth.inversion.contour import LineTable
from opacus_edgeworth.inversion.engines import history_delta, history_epsilon, history_epsilon_and_table
from opacus_edgeworth.inversion.many import FEW, Terms, delta_of_many, epsilon_of_many, few_like, plan_for
from opacus_edgeworth.inversion.memory import Memory

DELTA = 1e-5
NEAR = 1e-7
"""What an upper bound may have too much, relatively; it is about 1e-9."""


def falling(steps: int, start: float = 1.6, end: float = 0.9, rate: float = 0.1) -> list[tuple[float, float, int]]:
    return [(float(noise), rate, 1) for noise in np.geomspace(start, end, steps)]


def assert_near(found: Bounds, history, delta: float = DELTA) -> None:
    """The bounds hold the truth, and hardly more, as far as the engines for short histories know it."""
    exact = history_epsilon_and_table(compose(history), delta, [])
    assert found.lower <= exact.upper
    assert exact.lower <= found.upper <= exact.upper * (1.0 + NEAR)


def count_beginnings(monkeypatch) -> list[int]:
    """Return a list that gets the length of every history that is added up from its first step on."""
    lengths: list[int] = []
    begin = memory_module._begin

    def counting(entries, *rest):
        lengths.append(len(entries))
        return begin(entries, *rest)

    monkeypatch.setattr(memory_module, "_begin", counting)
    return lengths


@pytest.mark.parametrize(
    ("start", "end", "rate", "table"),
    [(1.6, 0.9, 0.1, "LineTable"), (1.5, 0.9, 0.002, "ChainTable"), (0.9, 1.6, 0.1, "LineTable")],
)
def test_a_schedule_is_logged_step_by_step(start, end, rate, table, monkeypatch):
    """Every epsilon is a true bound and hardly above the least one; it rises; most steps only add their own terms."""
    beginnings, run, before = count_beginnings(monkeypatch), Memory(), 0.0
    first, last = (1, 40) if table == "LineTable" else (9, 16)
    history = falling(40, start, end, rate)
    for step in range(first, last + 1):
        found = run.epsilon(history[:step], DELTA)
        assert found.upper > before
        before = found.upper
        if step in (3, 4, 9, 16, 25, 40):
            assert_near(found, history[:step])
    assert type(run._runs[DELTA].plan.table).__name__ == table
    assert len(beginnings) < (last - first) / 2


def multiplied(steps: int, start: float, factor: float, rate: float) -> list[tuple[float, float, int]]:
    """What Opacus's ExponentialNoise does, step by step."""
    history = [(start, rate, 1)]
    while len(history) < steps:
        history.append((history[-1][0] * factor, rate, 1))
    return history


@pytest.mark.parametrize("factor", [0.98, 1.0 / 0.98, 0.4 ** (1.0 / 60.0)])
def test_steps_that_were_foreseen_are_the_steps_that_come(factor, monkeypatch):
    """The noise is known to the last bit; the answers are those without foresight; few terms are computed singly."""
    history, run, alone = multiplied(60, 1.4, factor, 0.1), Memory(), []
    terms_of = memory_module._terms_of
    monkeypatch.setattr(memory_module, "_terms_of", lambda *given: alone.append(1) or terms_of(*given))
    found = [run.epsilon(history[:step], DELTA) for step in range(1, 61)]
    assert len(alone) <= 12
    monkeypatch.setattr(memory_module, "foresee", lambda *_: None)
    singly = Memory()
    for step in range(1, 61):
        other = singly.epsilon(history[:step], DELTA)
        assert found[step - 1].lower <= other.upper
        assert other.lower <= found[step - 1].upper
        assert found[step - 1].upper == pytest.approx(other.upper, rel=1e-9)
    assert_near(found[-1], history)


def test_what_was_foreseen_serves_no_other_step():
    """Another noise, by one unit in the last place, another rate, and a return: each gets its own terms."""
    history = multiplied(20, 1.4, 0.98, 0.1)
    run = Memory()
    for step in range(3, 21):
        run.epsilon(history[:step], DELTA)
    foresight = run._runs[DELTA].foresight
    assert foresight is not None
    s, q = foresight.steps[len(foresight.steps) // 2]
    assert foresight.of((s, q, 5)) is not None
    for other in ((float(np.nextafter(s, 2.0)), q, 1), (s, 0.11, 1), (s, 1.0, 1)):
        assert foresight.of(other) is None
    for noise, rate in ((0.7, 0.1), (history[-1][0], 0.2), (1.4, 0.1)):
        other = [*history, (noise, rate, 3)]
        assert_near(run.epsilon(other, DELTA), other)


def test_a_factor_is_seen_or_there_is_none():
    exact = np.array([noise for noise, _, _ in multiplied(64, 2.0, 0.9990832, 0.1)])
    factor = foresight_module._factor(exact)
    assert factor is not None
    assert np.array_equal(exact[:-1] * factor, exact[1:])
    assert foresight_module._factor(np.geomspace(2.0, 1.0, 64) + np.arange(64) ** 2 * 1e-6) is None
    assert foresight_module._factor(np.full(9, 1.5)) is None


@pytest.mark.parametrize(("start", "end", "lighter"), [(1.6, 0.9, True), (20.0, 15.0, False)])
def test_a_line_for_one_direction_does_where_chernoff_bounds_settle_the_other(start, end, lighter):
    """With much noise both directions are alike, and nothing but a line for each says which is larger."""
    steps = compose(falling(60, start, end))
    plan = plan_for(steps, DELTA, history_epsilon_and_table)
    assert plan is not None
    assert isinstance(plan.table, LineTable)
    light = plan.lighter(DELTA)
    assert isinstance(light.table, LineTable)
    assert light.table.directions == (("remove",) if lighter else ("remove", "add"))
    both, one = (p.product(steps).epsilon(np.ones(1), 0.0, DELTA, p.epsilon) for p in (plan, light))
    assert both is not None
    assert one is not None
    assert one.lower <= both.upper
    assert both.lower <= one.upper <= both.upper * (1.0 + NEAR)
    if lighter:  # where the Chernoff bounds are more than delta, nothing is proved
        terms = light.product(steps)
        assert terms.add is not None
        assert not terms.add.proves(Composition(np.ones(1), np.ones(1), np.ones(1), 0.0, 2.0**-50, 0.0), 0.01, DELTA)


def test_a_schedule_against_ball_arithmetic():
    history = falling(9, 1.2, 0.8, 0.3)
    run = Memory()
    for step in range(3, 10):
        found = run.epsilon(history[:step], DELTA)
    for epsilon, safe in ((found.upper, True), (found.upper * (1.0 - NEAR), False)):
        exact = max(float(oracle.delta(history, epsilon, direction)[0]) for direction in ("remove", "add"))
        assert (exact <= DELTA * (1.0 + 1e-11)) == safe, (epsilon, exact)


def test_batch_sizes_change_too():
    history = [(1.5 - 0.01 * k, 0.05 + 0.005 * (k // 4), 1) for k in range(24)]
    run = Memory()
    for step in range(1, 25):
        found = run.epsilon(history[:step], DELTA)
    assert_near(found, history)


def test_the_noise_falls_at_once():
    """A plan for a run that goes on as it did does not serve a sudden fall: another one is made."""
    history = falling(12, 2.0, 1.9) + falling(6, 0.7, 0.65)
    run = Memory()
    for step in range(1, 19):
        found = run.epsilon(history[:step], DELTA)
        if step >= 12:
            assert_near(found, history[:step])


def test_histories_that_were_swapped_shortened_reordered_or_merged():
    run, history = Memory(), falling(20)
    whole = run.epsilon(history, DELTA)
    changed = list(history)
    changed[7] = (0.8, 0.1, 1)
    counted = [*history[:-1], (*history[-1][:2], 5)]
    others = [changed, history[:11], history[::-1], counted, falling(20, 1.3, 0.8), history[:2] + history[3:]]
    for other in others:
        assert_near(run.epsilon(other, DELTA), other)
        again = run.epsilon(history, DELTA)
        assert again.upper == pytest.approx(whole.upper, rel=1e-9)
    assert_near(run.epsilon([*history, *history], DELTA), [(s, q, 2) for s, q, _ in history])
    reversed_upper = run.epsilon(history[::-1], DELTA).upper
    assert reversed_upper == pytest.approx(whole.upper, rel=1e-8)


def test_the_last_entry_counts_up_and_down():
    run, history = Memory(), falling(6)
    for count in (1, 2, 3, 7, 7, 2, 0, 4):
        other = [*history[:-1], (*history[-1][:2], count)]
        assert_near(run.epsilon(other, DELTA), other)
    grown = [*history[:-1], (*history[-1][:2], 4), (0.85, 0.1, 1)]
    assert_near(run.epsilon(grown, DELTA), grown)


def test_entries_that_are_altered_in_place_are_seen():
    run = Memory()
    history = [list(entry) for entry in falling(8)]
    first = run.epsilon(history, DELTA)
    history[2][0] = 0.7
    second = run.epsilon(history, DELTA)
    assert second.upper > first.upper * 1.01
    assert_near(second, [tuple(entry) for entry in history])


def test_unsampled_unseen_and_noiseless_steps():
    history = falling(6)
    for extra in ([(5.0, 1.0, 1)], [(0.9, 0.0, 3)], [(0.9, 0.1, 0)], [(0.0, 0.0, 2)]):
        run = Memory()
        for mixed in (history[:3] + extra, history[:3] + extra + history[3:]):
            for step in range(3, len(mixed) + 1):
                found = run.epsilon(mixed[:step], DELTA)
            assert_near(found, mixed)
    bare = [*history, (0.0, 0.1, 1)]
    assert Memory().epsilon(bare, DELTA).upper == float("inf")
    run = Memory()
    assert run.epsilon(history, DELTA).upper < run.epsilon(bare, DELTA).upper
    assert_near(run.epsilon(history, DELTA), history)


@pytest.mark.parametrize("wrong", [(-1.0, 0.1, 1), (1.0, 1.5, 1), (float("nan"), 0.1, 1), (1.0, 0.1), 7, "abc"])
def test_wrong_entries_are_named(wrong):
    run, history = Memory(), falling(6)
    run.epsilon(history, DELTA)
    with pytest.raises(ew.InvalidParameterError, match=r"history\[6\]"):
        run.epsilon([*history, wrong], DELTA)
    assert_near(run.epsilon(history, DELTA), history)


def test_two_deltas_in_turn(monkeypatch):
    beginnings, run, history = count_beginnings(monkeypatch), Memory(), falling(16)
    for step in range(3, 17):
        found = {delta: run.epsilon(history[:step], delta) for delta in (1e-5, 1e-8)}
    assert len(beginnings) < 14
    for delta, bounds in found.items():
        assert_near(bounds, history, delta)


def test_readers_while_another_steps():
    """Whoever asks gets the epsilon of a history that there was."""
    accountant, history = ew.EdgeworthAccountant(), falling(24)
    for entry in history[:4]:
        accountant.step(noise_multiplier=entry[0], sample_rate=entry[1])
    seen: list[list[float]] = [[], []]
    done = threading.Event()

    def read(values: list[float]) -> None:
        while not done.is_set():
            values.append(accountant.get_epsilon(DELTA))

    readers = [threading.Thread(target=read, args=(values,)) for values in seen]
    for reader in readers:
        reader.start()
    for entry in history[4:]:
        accountant.step(noise_multiplier=entry[0], sample_rate=entry[1])
        accountant.get_epsilon(DELTA)
    done.set()
    for reader in readers:
        reader.join()
    truths = np.array([history_epsilon_and_table(compose(history[:k]), DELTA, []).upper for k in range(4, 25)])
    for values in seen:
        assert values
        for value in values:
            assert np.abs(truths / value - 1.0).min() < NEAR


# --- the parts ---------------------------------------------------------------------------------------------------


def test_terms_put_together_are_the_terms():
    """Product and joined tables give the bounds of all rows at once, a little wider."""
    steps = compose([(1.5 - 0.02 * k, 0.1, 1 + k % 3) for k in range(12)])
    plan = plan_for(steps, DELTA, history_epsilon_and_table)
    assert plan is not None
    at_once = plan.terms(steps).epsilon(steps.steps, 0.25, DELTA, plan.epsilon)
    parts: Terms | None = None
    for i in range(steps.phases):
        one = steps.select(np.array([i]))
        more = plan.terms(one)
        joined = more.product(one.steps) if parts is None else parts.joined(more)
        parts = joined if parts is None else joined.product(np.append(1.0, one.steps))
    assert at_once is not None
    assert parts is not None
    one_by_one = parts.epsilon(np.ones(1), 0.25, DELTA, plan.epsilon)
    assert one_by_one is not None
    assert max(at_once.lower, one_by_one.lower) <= min(at_once.upper, one_by_one.upper)
    assert one_by_one.upper == pytest.approx(at_once.upper, rel=1e-10)


def test_factors_of_which_nothing_is_known_stay_covered():
    """A line far too long for its phases: their powers are bounded, put together or not."""
    steps = compose([(0.5, 0.2, 3), (0.45, 0.2, 2)])
    plan = plan_for(steps, 1e-3, history_epsilon_and_table)
    assert plan is not None
    exact = history_epsilon(steps, 1e-3)
    for terms, counts in ((plan.terms(steps), steps.steps), (plan.product(steps), np.ones(1))):
        found = terms.epsilon(counts, 0.0, 1e-3, plan.epsilon)
        assert found is None or found.lower <= exact.upper <= found.upper * (1.0 + 1e-12) + 0.0


@pytest.mark.parametrize("decaying", [True, False])
def test_terms_without_decay_are_true_too(decaying):
    steps = compose(falling(16))
    plan = plan_for(compose(falling(16) * 2), DELTA, history_epsilon_and_table)
    assert plan is not None
    assert isinstance(plan.table, LineTable)
    found = plan.terms(steps, decaying).table.lines(steps)
    exact = history_delta(steps, 2.0)
    assert found[0].delta(2.0).larger(found[1].delta(2.0)).upper >= exact.lower
    assert found[0].delta(2.0).lower <= exact.upper


@pytest.mark.parametrize(("rate", "epsilon"), [(0.05, 1.5), (0.004, 0.3)])
def test_many_phases_are_proved_on_the_nodes_of_few(rate, epsilon):
    """Both ways, against the engines with all phases."""
    steps = compose(falling(60, 1.6, 0.8, rate))
    known = history_epsilon_and_table(steps, DELTA, [])
    found = epsilon_of_many(steps, DELTA, history_epsilon_and_table)
    assert found is not None
    assert known.lower <= found.upper <= known.upper * (1.0 + NEAR)
    assert history_epsilon(steps, DELTA).upper == found.upper
    delta = delta_of_many(steps, epsilon, history_delta, history_epsilon_and_table)
    assert delta is not None
    assert history_epsilon_and_table(steps, delta.upper, []).lower <= epsilon * (1.0 + 1e-9)
    assert history_epsilon_and_table(steps, delta.lower, []).upper >= epsilon * (1.0 - 1e-9)


def test_few_are_few_and_like_the_many():
    rng = np.random.default_rng(0)
    steps = compose(
        [
            (float(s), float(q), int(n))
            for s, q, n in zip(
                rng.uniform(0.5, 3.0, 500), rng.uniform(0.001, 0.2, 500), rng.integers(1, 9, 500), strict=True
            )
        ]
    )
    few = few_like(steps)
    assert isinstance(few, Composition)
    assert 2 <= few.phases <= FEW
    assert few.steps.sum() == pytest.approx(steps.steps.sum(), abs=FEW)
    assert few_like(few) is few
