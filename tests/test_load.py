"""Much at once: a million entries, 32 threads that ask at the same time, ten thousand calls in flat memory."""

import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opacus_edgeworth as ew
from opacus_edgeworth.mechanisms import DiscreteMechanism, Laplace, RandomizedResponse

MILLION = 10**6
DELTA = 1e-5


# --- a million entries ------------------------------------------------------------------------------------------


def test_a_million_equal_steps_are_one_phase():
    started = time.process_time()
    curve = ew.PrivacyCurve([(1.0, 0.01, 1)] * MILLION)
    assert curve.history == ((1.0, 0.01, MILLION),)
    assert curve.epsilon(DELTA) == ew.PrivacyCurve([(1.0, 0.01, MILLION)]).epsilon(DELTA)
    assert time.process_time() - started < 60.0  # seconds where it is quiet


@pytest.mark.parametrize("method", ["delta", "epsilon", "tradeoff", "true_positive_rate"])
def test_a_million_questions_in_one_call_are_refused_at_once(method: str):
    """Each answer is proved on its own, so that a million of them would take many minutes; who wants them can loop."""
    curve, started = ew.PrivacyCurve([(1.0, 1.0, 3)]), time.process_time()
    for many in (np.linspace(0.1, 0.9, MILLION), [0.5] * MILLION, np.zeros((1000, 1000))):
        with pytest.raises(ew.InvalidParameterError, match="1000000 entries, at most 100000"):
            getattr(curve, method)(many)
    assert time.process_time() - started < 10.0


def test_ten_thousand_questions_in_one_call_are_answered():
    curve, asked = ew.PrivacyCurve([(1.0, 1.0, 3)]), np.linspace(0.0, 5.0, 10_000).reshape(100, 100)
    found = curve.delta(asked)
    assert isinstance(found, np.ndarray)
    assert found.shape == asked.shape
    assert found[50, 50] == curve.delta(float(asked[50, 50]))
    uppers = [bounds.upper for bounds in found.ravel()]
    assert uppers == sorted(uppers, reverse=True)


def test_streams_without_end_are_refused():
    with pytest.raises(ew.InvalidParameterError, match="history has more than 10000000 entries"):
        ew.PrivacyCurve(itertools.repeat((1.0, 0.01, 1)))
    with pytest.raises(ew.InvalidParameterError, match="p has more than 1000000 entries"):
        DiscreteMechanism(p=itertools.repeat(0.5), q=[1.0])  # type: ignore[arg-type]
    with pytest.raises(ew.InvalidParameterError, match="schedule has at least 4 factors for 3 steps"):
        ew.calibrate_noise_multiplier(
            sample_rate=1.0, steps=3, schedule=itertools.repeat(1.0), target_epsilon=1, target_delta=DELTA
        )
    with pytest.raises(ew.InvalidParameterError, match="batch_sizes has more than 10000 entries"):
        ew.plan(dataset_size=100, batch_sizes=itertools.repeat(8), target_epsilon=1, target_delta=DELTA)
    with pytest.raises(ew.InvalidParameterError, match="make 1000000 points"):
        ew.plan(
            dataset_size=2000, batch_sizes=range(1, 1001), epochs=range(1, 1001), target_epsilon=1, target_delta=1e-5
        )
    with pytest.raises(ew.InvalidParameterError, match="steps=10000000000 "):
        ew.schedules.linear(10**10)


def test_a_mechanism_of_very_many_outputs_is_held_or_refused():
    p = np.full(10**5, 1e-5)
    curve = ew.PrivacyCurve([(DiscreteMechanism(p=p, q=p), 1)])  # type: ignore[arg-type]
    assert curve.delta(0.0).upper < 1e-9
    with pytest.raises(ew.InvalidParameterError, match="p has more than 1000000 entries"):
        DiscreteMechanism(p=np.full(MILLION + 1, 1e-6), q=[1.0])  # type: ignore[arg-type]


# --- 32 threads --------------------------------------------------------------------------------------------------


def answers_of_threads(questions: list[Callable[[], Any]], threads: int = 32) -> list[list[Any]]:
    """Return the answers of threads that start at the same moment, each going through all questions from its own."""
    barrier, answers = threading.Barrier(threads), [[None] * len(questions) for _ in range(threads)]

    def ask(number: int) -> None:
        barrier.wait()
        for turn in range(len(questions)):
            at = (turn + number) % len(questions)
            answers[number][at] = questions[at]()

    running = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return answers


def test_32_threads_get_of_one_curve_what_one_gets():
    def questions() -> list[Callable[[], Any]]:
        plain = ew.PrivacyCurve([(1.0, 0.01, 1000), (0.8, 0.02, 50)])
        mixed = ew.PrivacyCurve([(1.0, 1.0, 3), (Laplace(5.0), 2), (RandomizedResponse(1.0), 1)])
        return [
            *(lambda d=d: plain.epsilon(d) for d in (1e-5, 1e-7)), lambda: plain.delta(1.5), plain.advantage,
            lambda: plain.delta(1.0, direction="add"), lambda: mixed.epsilon(1e-5), lambda: plain.renyi_divergence(4),
        ]  # fmt: skip

    alone = [question() for question in questions()]
    assert all(found == alone for found in answers_of_threads(questions()))


def test_32_threads_get_of_one_accountant_what_one_gets():
    """What it remembers is of several questions, and they push each other out."""
    deltas = [10.0**-k for k in range(4, 11)]

    def questions(accountant: ew.EdgeworthAccountant) -> list[Callable[[], Any]]:
        accountant.history = [(1.0, 0.01, 300), (0.9, 0.01, 40)]
        return [lambda d=d: accountant.get_epsilon(d) for d in deltas]

    alone = [question() for question in questions(ew.EdgeworthAccountant())]
    assert all(found == alone for found in answers_of_threads(questions(ew.EdgeworthAccountant()), 32))


def test_32_threads_calibrate_what_one_does():
    def question() -> float:
        return ew.calibrate_noise_multiplier(target_epsilon=3, target_delta=DELTA, sample_rate=1.0, steps=10)

    assert {found for [found] in answers_of_threads([question])} == {question()}


# --- memory ------------------------------------------------------------------------------------------------------


def growth(call: Callable[[int], Any], calls: int) -> int:
    """Return by how many blocks of memory Python grows in so many calls, after a start that fills what is kept.

    An array, whose numbers are kept elsewhere, is a block, too.
    """
    for number in range(calls // 5):
        call(number)
    gc.collect()
    before = sys.getallocatedblocks()
    for number in range(calls):
        call(calls + number)
    gc.collect()
    return sys.getallocatedblocks() - before


def step_and_ask() -> Callable[[int], Any]:
    accountant = ew.EdgeworthAccountant()

    def call(number: int) -> None:
        accountant.history = [(1.0 + 1e-6 * number, 1.0, 3)]
        accountant.step(noise_multiplier=1.0 + 1e-6 * number, sample_rate=1.0)
        accountant.get_epsilon(DELTA)
        len(accountant)

    return call


def save_and_load() -> Callable[[int], Any]:
    accountant = ew.EdgeworthAccountant()

    def call(number: int) -> None:
        accountant.load_state_dict({"history": [(1.0 + 1e-6 * number, 0.01, 3)], "mechanism": "rdp"})
        accountant.load_state_dict(accountant.state_dict())

    return call


@pytest.mark.parametrize(
    ("call", "calls"),
    [
        (step_and_ask(), 10_000),
        (save_and_load(), 10_000),
        (lambda number: ew.PrivacyCurve([(1.0 + 1e-6 * number, 1.0, 3)]).delta(1.0), 10_000),
        (lambda number: ew.PrivacyCurve([(1.0 + 1e-6 * number, 0.01, 1)]).delta(0.5), 10_000),
        (lambda number: ew.PrivacyCurve([(1.0 + 1e-6 * number, 0.01, 1000)]).delta(1.0), 200),
    ],
    ids=["accountant", "states", "unsampled", "one step", "line"],
)
def test_memory_is_flat(call: Callable[[int], Any], calls: int):
    """What is kept for one noise is not kept for all."""
    assert growth(call, calls) < max(100, calls // 20)


def test_a_leak_would_be_seen():
    kept = []
    assert growth(lambda number: kept.append(float(number)), 1000) > 900
