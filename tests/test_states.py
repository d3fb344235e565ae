"""Checkpoints and faults: states that move between accountants, damaged files, killed runs, threads."""

import contextlib
import copy
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import PrivacyEngine
from opacus.accountants import create_accountant
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from versions import loads_names

import opacus_edgeworth as ew
from opacus_edgeworth import accountant as accountant_module
from opacus_edgeworth import states
from opacus_edgeworth.histories import read_history

DELTA = 1e-5
HISTORY = [(1.0, 0.01, 100), (0.8, 0.02, 7), (1.0, 0.01, 5)]
OTHERS = ["rdp", "prv", "gdp"]


def quietly(function: Callable[[], Any]) -> Any:
    """Call without the warnings of other accountants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


def accountant_of(history: list[tuple[float, float, int]] | None = None, name: str = "edgeworth") -> Any:
    accountant = quietly(lambda: create_accountant(name))
    accountant.history = list(HISTORY if history is None else history)
    return accountant


def private_training(name: str, noise: float = 1.0) -> tuple[PrivacyEngine, Any, Any, Any]:
    """Return an engine, a model with an unused buffer, its optimizer and its loader, made private."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(32, 4, generator=generator), torch.randint(0, 2, (32,), generator=generator))
    model = nn.Linear(4, 2)
    engine = quietly(lambda: PrivacyEngine(accountant=name))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return engine, *engine.make_private(
        module=model, optimizer=optimizer, data_loader=DataLoader(data, batch_size=8), noise_multiplier=noise,
        max_grad_norm=1.0,
    )  # fmt: skip


def train(model: Any, optimizer: Any, loader: Any, steps: int) -> None:
    while steps:
        for x, y in loader:
            if not steps:
                return
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            steps -= 1


# --- states that move -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["edgeworth", *OTHERS])
def test_a_run_of_any_accountant_goes_on_with_ours(name: str, tmp_path: Path):
    engine, model, optimizer, loader = private_training(name)
    train(model, optimizer, loader, 3)
    engine.save_checkpoint(path=tmp_path / "run.pt", module=model, optimizer=optimizer)
    engine, model, optimizer, loader = private_training("edgeworth")
    engine.load_checkpoint(path=tmp_path / "run.pt", module=model, optimizer=optimizer)
    train(model, optimizer, loader, 2)
    assert engine.accountant.history == [(1.0, 0.25, 5)]
    truth = ew.PrivacyCurve([(1.0, 0.25, 5)]).epsilon(DELTA)
    assert truth.lower <= engine.get_epsilon(DELTA) <= truth.upper * (1.0 + 2e-8)


@loads_names
@pytest.mark.parametrize("name", OTHERS)
def test_a_run_of_ours_goes_on_with_any_accountant(name: str, tmp_path: Path):
    engine, model, optimizer, loader = private_training("edgeworth")
    train(model, optimizer, loader, 3)
    engine.save_checkpoint(path=tmp_path / "run.pt", module=model, optimizer=optimizer)
    checkpoint = torch.load(tmp_path / "run.pt", weights_only=True)
    accountant = ew.EdgeworthAccountant()
    accountant.load_state_dict(checkpoint["privacy_accountant_state_dict"])
    checkpoint["privacy_accountant_state_dict"] = accountant.state_dict(mechanism=name)
    torch.save(checkpoint, tmp_path / "other.pt")
    engine, model, optimizer, loader = private_training(name)
    engine.load_checkpoint(path=tmp_path / "other.pt", module=model, optimizer=optimizer)
    train(model, optimizer, loader, 2)
    whole = accountant_of([(1.0, 0.25, 5)], name)
    assert engine.accountant.history == whole.history
    assert engine.get_epsilon(DELTA) == whole.get_epsilon(DELTA)


def test_states_of_opacus_1_5_hold_the_method_for_the_name():
    accountant = ew.EdgeworthAccountant()
    accountant.load_state_dict({"history": [(1.0, 0.01, 5)], "mechanism": create_accountant("rdp").mechanism})
    assert accountant.history == [(1.0, 0.01, 5)]
    with pytest.raises(ew.InvalidParameterError, match="mechanism"):
        accountant.load_state_dict({"history": [(1.0, 0.01, 5)], "mechanism": accountant.get_epsilon})


@loads_names
@pytest.mark.parametrize("name", ["rdp", "prv"])
def test_there_and_back_nothing_changes(name: str):
    ours, other, again = accountant_of(), accountant_of([], name), ew.EdgeworthAccountant()
    other.load_state_dict(ours.state_dict(mechanism=name))
    assert other.history == HISTORY
    assert other.get_epsilon(DELTA) == accountant_of(HISTORY, name).get_epsilon(DELTA)
    again.load_state_dict(other.state_dict())
    assert again.history == HISTORY
    assert again.get_epsilon(DELTA) == ours.get_epsilon(DELTA)


@loads_names
def test_gdp_is_given_what_it_can_hold_and_refused_the_rest():
    """Of several phases GaussianAccountant's get_epsilon would count the last one alone, in silence."""
    held, other = accountant_of([(1.0, 0.25, 3), (0.5, 0.25, 0), (1.0, 0.25, 2)]), accountant_of([], "gdp")
    other.load_state_dict(held.state_dict(mechanism="gdp"))
    assert other.history == [(1.0, 0.25, 5)]
    other.load_state_dict(accountant_of([]).state_dict(mechanism="gdp"))
    assert other.history == []
    destination = {"kept": 1}
    with pytest.raises(ew.InvalidParameterError, match=r"'gdp' keeps one noise multiplier.*has 2.*last one alone"):
        accountant_of().state_dict(destination, mechanism="gdp")
    assert destination == {"kept": 1}
    assert accountant_of(HISTORY, "gdp").get_epsilon(DELTA) < accountant_of(HISTORY[:1], "gdp").get_epsilon(DELTA)


@loads_names
def test_steps_without_noise_are_infinite_or_refused_on_every_side():
    noiseless = [(0.0, 0.01, 3), (1.0, 0.01, 5)]
    assert accountant_of(noiseless).get_epsilon(DELTA) == math.inf
    other = accountant_of([], "rdp")
    other.load_state_dict(accountant_of(noiseless).state_dict(mechanism="rdp"))
    assert other.get_epsilon(DELTA) == math.inf
    other = accountant_of([], "prv")
    other.load_state_dict(accountant_of(noiseless).state_dict(mechanism="prv"))
    with pytest.raises((ArithmeticError, ValueError, RuntimeError)):
        quietly(lambda: other.get_epsilon(DELTA))


@pytest.mark.parametrize("name", [None, 7, "mine", "RDP", ["rdp"], b"rdp", torch.tensor([1, 2])])
def test_states_for_accountants_that_are_not_known_are_refused(name: Any):
    with pytest.raises(ew.InvalidParameterError, match="mechanism="):
        accountant_of().state_dict(mechanism=name)


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_files_load_with_weights_only(zipped: bool, tmp_path: Path):
    for destination in (None, {}, OrderedDict(epoch=3)):
        accountant = accountant_of()
        state = accountant.state_dict(destination)
        assert destination is None or state is destination
        torch.save(state, tmp_path / "state.pt", _use_new_zipfile_serialization=zipped)
        restored = ew.EdgeworthAccountant()
        restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert restored.history == HISTORY
        assert all(list(map(type, phase)) == [float, float, int] for phase in restored.history)
        restored.load_state_dict(MappingProxyType(json.loads(json.dumps(state))))  # JSON makes lists of tuples
        assert restored.history == HISTORY
        assert read_history(tmp_path / "state.pt") == tuple(HISTORY)


def test_a_state_and_its_accountant_share_nothing():
    accountant, restored = accountant_of(), ew.EdgeworthAccountant()
    state = accountant.state_dict()
    restored.load_state_dict(state)
    accountant.step(noise_multiplier=1.0, sample_rate=0.01)
    assert state["history"] == restored.history == HISTORY
    restored.step(noise_multiplier=1.0, sample_rate=0.01)
    assert state["history"] == HISTORY


# --- states that are wrong --------------------------------------------------------------------------------------

WRONG = [
    ([(math.nan, 0.1, 3)], r"history\[0\]: noise_multiplier=nan"), ([(-1.0, 0.1, 3)], "noise_multiplier=-1.0"),
    ([(math.inf, 0.1, 3)], "noise_multiplier=inf"), ([(10**400, 0.1, 3)], "does not fit a float"),
    ([(1.0, 0.1, 3), (1.0, math.nan, 3)], r"history\[1\]: sample_rate=nan"), ([(1.0, 1.1, 3)], "sample_rate=1.1"),
    ([(1.0, -0.1, 3)], "sample_rate=-0.1"), ([(1.0, 0.1, 2.5)], "steps=2.5"), ([(1.0, 0.1, -1)], "steps=-1"),
    ([(1.0, 0.1, math.inf)], "steps=inf"), ([(1.0, 0.1, 2**53 + 1)], r"at most 2\*\*53"),
    ([(1.0, 0.1, 10**5000)], "steps=<int> does not fit"), ([(1.0, 0.1, True)], "steps=True"),
    ([(1.0, "0.1", 3)], "sample_rate='0.1'"), ([(1.0, 0.1)], r"history\[0\].*\(1.0, 0.1\) must be"),
    ([(1.0, 0.1, 3, 4)], "must be"), ([[1.0, 0.1, None]], "steps=None"), (["abc"], r"history\[0\].*'abc'"),
    ([{"noise_multiplier": 1.0}], "must be"), (7, "history=7"), (None, "history=None"), ("abc", "history='abc'"),
    ({"a": 1}, "history="), ([7], r"history\[0\].*7"), ({(1.0, 0.1, 3)}, "history="),
    ((1.0, 0.1, 3), r"history\[0\].*1.0"),
]  # fmt: skip


@pytest.mark.parametrize(("history", "message"), WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize("name", ["edgeworth", "rdp"])
def test_wrong_histories_are_refused_with_what_is_wrong(history: Any, message: str, name: str):
    accountant = accountant_of()
    kept = accountant.history
    with pytest.raises(ew.InvalidParameterError, match=message):
        accountant.load_state_dict({"history": history, "mechanism": name})
    assert accountant.history is kept
    assert kept == HISTORY


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "a NoneType"), ([], "a list"), (7, "an? int"), ({}, "the key `history`"), ("state", "a str"),
        ({"history": HISTORY}, "the key `mechanism`.*cut short"), ({"mechanism": "edgeworth"}, "the key `history`"),
        ({"history": HISTORY, "mechanism": None}, "mechanism None"), ({"history": HISTORY, "mechanism": []}, r"\[\]"),
        ({"history": HISTORY, "mechanism": "pld"}, "'pld'"),
        ({"history": HISTORY, "mechanism": "edgeworth", states.DIGEST: "0" * 64}, "altered since it was saved"),
        ({"history": HISTORY, "mechanism": "edgeworth", states.DIGEST: 7}, "altered since it was saved"),
    ],
)  # fmt: skip
def test_wrong_states_are_refused_with_what_is_wrong(state: Any, message: str):
    accountant = accountant_of()
    with pytest.raises(ew.InvalidParameterError, match=message):
        accountant.load_state_dict(state)
    assert accountant.history == HISTORY


def test_an_accountant_that_was_spoiled_says_so():
    for history, message in WRONG:
        if isinstance(history, list):
            accountant = accountant_of([])
            accountant.history = history
            with pytest.raises(ew.InvalidParameterError, match=message):
                accountant.get_epsilon(DELTA)
            with pytest.raises(ew.InvalidParameterError, match=message):
                accountant.state_dict()
    accountant = accountant_of([])
    accountant.history = [(1.0, 0.1, math.nan)]
    with pytest.raises(ew.InvalidParameterError, match=r"history\[0\]: steps=nan"):
        len(accountant)


RUBBISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    | st.complex_numbers() | st.sampled_from([10**400, -(10**400), 5e-324, "edgeworth", "rdp", 2**53, 2**53 + 1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    | st.tuples(inner, inner, inner),
    max_leaves=12,
)  # fmt: skip


@st.composite
def altered(draw: Any) -> dict[Any, Any]:
    """A state in which one to three things were dropped, added or replaced."""
    state: dict[Any, Any] = dict(accountant_of().state_dict())
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["drop", "replace", "entry", "number", "add", "swap"]))
        history = state.get("history")
        if what == "drop" and state:
            del state[draw(st.sampled_from(sorted(state, key=str)))]
        elif what == "replace" and state:
            state[draw(st.sampled_from(sorted(state, key=str)))] = draw(RUBBISH)
        elif what == "add":
            state[draw(st.text(max_size=4) | st.integers())] = draw(RUBBISH)
        elif isinstance(history, list) and history:
            at = draw(st.integers(0, len(history) - 1))
            history = list(history)
            if what == "swap":
                history[at], history[0] = history[0], history[at]
            elif what == "number" and isinstance(history[at], tuple) and history[at]:
                entry = list(history[at])
                entry[draw(st.integers(0, len(entry) - 1))] = draw(RUBBISH)
                history[at] = tuple(entry)
            else:
                history[at] = draw(RUBBISH)
            state["history"] = history
    return state


@settings(max_examples=400, deadline=None)
@given(state=altered())
def test_altered_states_are_refused_or_mean_what_they_say(state: dict[Any, Any]):
    """With the digest, what loads is what was saved; without it, what the altered history says, never less."""
    accountant = accountant_of([(0.7, 0.5, 3)])
    try:
        accountant.load_state_dict(state)
    except ew.InvalidParameterError:
        assert accountant.history == [(0.7, 0.5, 3)]
        return
    if states.DIGEST in state and state[states.DIGEST] is not None:
        assert accountant.history == HISTORY
    said = [tuple(entry) for entry in state["history"]]
    assert accountant.history == said
    assert len(accountant) == sum(steps for *_, steps in said)
    assert all(0.0 <= s < math.inf and 0.0 <= q <= 1.0 and n >= 0 for s, q, n in accountant.history)


def test_no_bit_of_a_file_changes_a_history_in_silence(tmp_path: Path):
    """Torch does not check the sums in its archives, so that without the digest one bit may cost steps."""
    path, accountant = tmp_path / "state.pt", accountant_of()
    torch.save(accountant.state_dict(), path)
    whole, silent, refused = path.read_bytes(), 0, 0
    start = whole.index(b"history")  # the pickle, which is all there is; what surrounds it is torch's
    for bit in range(8 * (start - 40), 8 * whole.index(b"byteorder")):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            state = torch.load(path, weights_only=True)
        except Exception:  # torch's, of many kinds
            continue
        try:
            accountant.load_state_dict(state)
            silent += 1
        except ew.InvalidParameterError:
            refused += 1
        assert accountant.history == HISTORY
    assert refused > 100  # flips that torch lets pass
    assert silent > 0  # in names, say


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # torch's, where that very byte is hit
def test_files_that_were_cut_or_altered_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "state.pt"
    torch.save(accountant_of().state_dict(), path)
    whole, generator = path.read_bytes(), random.Random(5)
    for length in sorted({0, 1, 3, len(whole) - 1, *generator.sample(range(len(whole)), 60)}):
        path.write_bytes(whole[:length])
        with pytest.raises(ew.EdgeworthError, match=r"state\.pt"):
            read_history(path)
    for _ in range(300):
        damaged, flips = bytearray(whole), generator.choice([1, 1, 2, 8])
        for _ in range(flips):
            damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(ew.EdgeworthError):
            assert read_history(path) == tuple(HISTORY) or flips > 1  # two may hit both history and digest


# --- runs that are killed ---------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Stands for the end of a process, at one line of code."""


def lines_of(function: Any, kill_at: int | None) -> int:
    """Call a function, ending it at a line of Opacus's, torch's optimizer's or our code; return how many it ran."""
    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        name = frame.f_code.co_filename
        if not any(part in name for part in ("opacus", "torch/optim")):
            return None
        if event == "line":
            count += 1
            if count == kill_at:
                raise KilledError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KilledError:
        pass
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("grad_sample_mode", ["hooks", "ghost"])
@pytest.mark.usefixtures("_own_lock")
def test_wherever_a_step_ends_what_changed_the_model_was_counted(grad_sample_mode: str):
    """Opacus counts after the noise is drawn and before it reaches the parameters: nothing can come in between."""
    engine, criterion = PrivacyEngine(accountant="edgeworth"), nn.CrossEntropyLoss()
    model, x, y = nn.Linear(4, 2), torch.randn(8, 4), torch.randint(0, 2, (8,))
    made = engine.make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), criterion=criterion,
        data_loader=DataLoader(TensorDataset(x, y), batch_size=8), noise_multiplier=1.0, max_grad_norm=1.0,
        grad_sample_mode=grad_sample_mode,
    )  # fmt: skip
    private, optimizer = made[0], made[1]
    criterion = made[2] if grad_sample_mode == "ghost" else criterion

    def taken(kill_at: int | None) -> tuple[int, bool, int]:
        torch.set_grad_enabled(True)  # off where the last end was within torch's own step
        optimizer.zero_grad()
        criterion(private(x), y).backward()
        before, counted = [p.detach().clone() for p in model.parameters()], len(engine.accountant)
        lines = lines_of(optimizer.step, kill_at)
        changed = any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        return lines, changed, len(engine.accountant) - counted

    lines, changed, counted = taken(None)
    assert changed
    assert counted == 1
    outcomes = set()
    for kill_at in range(1, lines + 1):
        _, changed, counted = taken(kill_at)
        assert counted >= changed
        outcomes.add((changed, counted))
    assert {(False, 0), (False, 1), (True, 1)} <= outcomes  # before, in between and after were all met


PROGRAM = textwrap.dedent("""
    import faulthandler, os, sys, warnings
    from pathlib import Path
    faulthandler.dump_traceback_later(60)  # into the message, should it hang
    import torch
    import test_states as t
    warnings.simplefilter("ignore")
    folder, every = Path(sys.argv[1]), int(sys.argv[2])
    engine, model, optimizer, loader = t.private_training("edgeworth", noise=1.0)
    checkpoint, part, updates = folder / "run.pt", folder / "run.pt.part", 0
    if checkpoint.exists():
        updates = engine.load_checkpoint(path=checkpoint, module=model, optimizer=optimizer)["updates"]
    apply = optimizer.original_optimizer.step
    def counting_apply(*args):  # what reaches the parameters is counted here, apart from the accountant, and on disk
        global updates
        updates += 1
        with open(folder / "updates.log", "a") as log:
            log.write(f"{updates}\\n")
        return apply(*args)
    optimizer.original_optimizer.step = counting_apply
    while True:
        t.train(model, optimizer, loader, every)
        engine.save_checkpoint(path=part, module=model, optimizer=optimizer, checkpoint_dict={"updates": updates})
        os.replace(part, checkpoint)
""")


@pytest.mark.slow
def test_a_run_killed_again_and_again_never_reports_less_than_its_model_holds(tmp_path: Path):
    """SIGKILL at any moment of real training; the file at rest counts every update that its weights have seen."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    generator, counts, log = random.Random(), [], tmp_path / "updates.log"
    log.touch()
    for every in (1, 7, 3):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(every)]
        before = len(log.read_text().split())
        until, patience = before + generator.randrange(20, 60), time.monotonic() + 120.0
        with (tmp_path / "said.txt").open("w") as said:
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            while len(log.read_text().split()) <= until:
                assert process.poll() is None, (tmp_path / "said.txt").read_text()[-2000:]
                assert time.monotonic() < patience, (tmp_path / "said.txt").read_text()[-2000:]
                time.sleep(0.001)
            time.sleep(0.01 * generator.random())
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL
        stored = torch.load(tmp_path / "run.pt", weights_only=True)
        accountant = ew.EdgeworthAccountant()
        accountant.load_state_dict(stored["privacy_accountant_state_dict"])
        assert len(accountant) == stored["updates"]
        assert read_history(tmp_path / "run.pt") == tuple(accountant.history)
        truth = ew.PrivacyCurve([(1.0, 0.25, stored["updates"])]).epsilon(DELTA)
        assert accountant.get_epsilon(DELTA) >= truth.lower
        # what was lost with the process is less than the steps from one checkpoint to the next and the one after it
        last = int(log.read_text().split()[-1])
        assert 0 <= last - stored["updates"] <= 2 * every
        counts.append(stored["updates"])
    assert counts == sorted(set(counts))  # each run went on from the last one


# --- threads ----------------------------------------------------------------------------------------------------


@pytest.fixture
def _own_lock(monkeypatch: pytest.MonkeyPatch):
    """An interrupted step may keep the lock: not that of other tests, which count on it."""
    monkeypatch.setattr(accountant_module, "_COUNTING", threading.Lock())


@pytest.fixture
def _eager_threads():
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_eager_threads", "_own_lock")
def test_readers_see_no_less_than_was_there_and_nothing_torn():
    """The noise changes every third step, so that phases are both counted up and added while threads read."""
    accountant, taken, failures = ew.EdgeworthAccountant(), [0], []
    phases = [(1.0 + 0.125 * (step // 3 % 7), 0.01) for step in range(150)]
    floor = [0.0, *(ew.PrivacyCurve([(2.0, 0.01, n)]).epsilon(DELTA).lower for n in range(1, 10))]  # noise is less

    def read() -> None:
        while taken[0] < len(phases):
            before = taken[0]
            seen = {
                "len": len(accountant),
                "state": sum(n for *_, n in accountant.state_dict()["history"]),
                "curve": sum(n for *_, n in ew.PrivacyCurve(accountant.history).history),
            }
            history = list(accountant.history)
            after = taken[0] + 1  # the step that is being taken may have been counted
            flat = [phase[:2] for phase in history for _ in range(phase[2])]
            if flat != phases[: len(flat)] or not all(before <= n <= after for n in (*seen.values(), len(flat))):
                failures.append((before, seen, len(flat), after))
            if before < 10 and accountant.get_epsilon(DELTA) < floor[before]:
                failures.append((before, "epsilon"))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for noise, rate in phases:
        accountant.step(noise_multiplier=noise, sample_rate=rate)
        taken[0] += 1
    for reader in readers:
        reader.join(60.0)
    assert not failures, failures[:3]
    assert len(accountant) == len(phases)


@pytest.mark.usefixtures("_eager_threads", "_own_lock")
def test_steps_of_many_threads_are_all_counted():
    """Each thread has its own noise, so that the last phase may change between looking at it and counting it up."""
    accountant, noises, each = ew.EdgeworthAccountant(), (0.5, 1.0, 1.5, 2.0), 2000

    def steps(noise: float) -> None:
        for _ in range(each):
            accountant.step(noise_multiplier=noise, sample_rate=0.01)

    threads = [threading.Thread(target=steps, args=(noise,)) for noise in noises]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {noise: sum(n for s, _, n in accountant.history if s == noise) for noise in noises}
    assert found == dict.fromkeys(noises, each)


@pytest.mark.usefixtures("_own_lock")
def test_a_step_waits_for_nobody():
    """Regression: a lock that an interrupted step had kept stopped all other threads for ever."""
    accountant = ew.EdgeworthAccountant()
    for _ in range(2):
        accountant.step(noise_multiplier=1.0, sample_rate=0.01)
    with accountant_module._COUNTING:
        other = threading.Thread(
            target=accountant.step, kwargs={"noise_multiplier": 1.0, "sample_rate": 0.01}, daemon=True
        )
        other.start()
        other.join(60.0)
        accountant.step(noise_multiplier=1.0, sample_rate=0.01)
    assert len(accountant) == 4
    steps = ew.PrivacyCurve([(1.0, 0.01, 4)]).epsilon(DELTA)  # the accountant's are entries of their own
    assert steps.lower <= accountant.get_epsilon(DELTA) <= steps.upper * (1.0 + 1e-9)


@pytest.mark.usefixtures("_own_lock")
def test_a_handler_of_signals_may_read_in_the_middle_of_a_step():
    """Who saves on SIGTERM does so between any two lines, within `step` too: readers must not wait for it."""
    accountant, seen = accountant_of(), []

    def read() -> None:
        seen.append((len(accountant), accountant.get_epsilon(DELTA), accountant.state_dict()["history"]))

    with accountant_module._COUNTING:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(60.0)
    assert seen == [(112, accountant.get_epsilon(DELTA), HISTORY)]


def test_copies_and_pickles_are_accountants_of_their_own():
    accountant = accountant_of()
    epsilon = accountant.get_epsilon(DELTA)
    for other in (copy.copy(accountant), copy.deepcopy(accountant), pickle.loads(pickle.dumps(accountant))):
        assert other.history == HISTORY
        assert other.get_epsilon(DELTA) == epsilon
    other.step(noise_multiplier=1.0, sample_rate=0.01)
    assert accountant.history == HISTORY


def test_a_list_that_was_swapped_is_the_one_that_counts():
    accountant = accountant_of()
    accountant.history = [(2.0, 0.5, 1)]
    accountant.step(noise_multiplier=2.0, sample_rate=0.5)
    assert accountant.history == [(2.0, 0.5, 2)]
    assert len(accountant) == 2
