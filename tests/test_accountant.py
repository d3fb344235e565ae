"""The accountant inside Opacus: registration, checkpoints, the hook, and real training with it."""

import copy
import subprocess
import sys
import textwrap

import pytest
import torch
from opacus import PrivacyEngine
from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import opacus_edgeworth as ew

DELTA = 1e-5


def make_training(size: int = 64, batch: int = 8) -> tuple[nn.Module, torch.optim.Optimizer, DataLoader]:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(size, 4, generator=generator), torch.randint(0, 2, (size,), generator=generator))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data, batch_size=batch)


def train(model, optimizer, loader, criterion) -> int:
    steps = 0
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
        steps += 1
    return steps


def test_opacus_creates_it_by_name():
    assert isinstance(create_accountant("edgeworth"), ew.EdgeworthAccountant)
    assert ew.EdgeworthAccountant.mechanism() == "edgeworth"


def test_registration_is_idempotent():
    ew.accountant.register()
    ew.accountant.register()
    assert type(create_accountant("edgeworth")) is ew.EdgeworthAccountant
    assert create_accountant("rdp").mechanism() == "rdp"


def test_equal_steps_are_merged_and_counted():
    accountant = ew.EdgeworthAccountant()
    for noise in (1.0, 1.0, 0.8, 1.0):
        accountant.step(noise_multiplier=noise, sample_rate=0.01)
    assert accountant.history == [(1.0, 0.01, 2), (0.8, 0.01, 1), (1.0, 0.01, 1)]
    assert len(accountant) == 4


def test_a_logged_run_gives_what_a_single_question_gives():
    """At every step the answer is that of a new accountant, within the curve's bounds, and it rises."""
    logging, before = ew.EdgeworthAccountant(), 0.0
    for step in range(1, 61):
        logging.step(noise_multiplier=0.9, sample_rate=0.01 if step < 40 else 0.02)
        epsilon = logging.get_epsilon(DELTA)
        if step % 7 == 0 or step in (1, 2, 39, 40, 41):
            asking = ew.EdgeworthAccountant()
            asking.history = list(logging.history)
            assert asking.get_epsilon(DELTA) == epsilon
            exact = ew.PrivacyCurve(logging.history).epsilon(DELTA)
            assert exact.lower <= epsilon <= exact.upper * (1.0 + 2e-8)
        assert epsilon > before
        before = epsilon


def test_what_is_remembered_belongs_to_its_question():
    accountant = ew.EdgeworthAccountant()
    accountant.history = [(0.8, 0.02, 500)]
    first = accountant.get_epsilon(1e-5), accountant.get_epsilon(1e-7)
    for noise, rate, steps, delta in ((0.8, 0.02, 500, 1e-6), (0.9, 0.02, 500, 1e-5), (0.8, 0.03, 500, 1e-5)):
        accountant.history = [(noise, rate, steps)]
        exact = ew.PrivacyCurve(accountant.history).epsilon(delta)
        assert exact.lower <= accountant.get_epsilon(delta) <= exact.upper * (1.0 + 2e-9)
    accountant.history = [(0.8, 0.02, 500)]
    assert (accountant.get_epsilon(1e-5), accountant.get_epsilon(1e-7)) == first


def test_epsilon_is_the_upper_bound():
    accountant = ew.EdgeworthAccountant()
    accountant.history = [(1.1, 256 / 60000, 14040)]
    exact = ew.PrivacyCurve(accountant.history).epsilon(DELTA)
    assert exact.lower <= accountant.get_epsilon(delta=DELTA) <= exact.upper * (1.0 + 1e-9)
    assert accountant.get_epsilon(DELTA) == pytest.approx(2.37955, abs=1e-5)
    assert ew.EdgeworthAccountant().get_epsilon(DELTA) == 0.0


def test_state_dict_round_trip():
    accountant = ew.EdgeworthAccountant()
    accountant.history = [(1.0, 0.01, 10), (0.9, 0.02, 5)]
    restored = ew.EdgeworthAccountant()
    restored.load_state_dict(copy.deepcopy(accountant.state_dict()))
    assert restored.history == accountant.history
    assert restored.get_epsilon(DELTA) == accountant.get_epsilon(DELTA)


@pytest.mark.parametrize("history", [[(1.0, 0.01)], [(1.0, 2.0, 3)], [(float("nan"), 0.1, 3)], 7, [("a", 0.1, 1)]])
def test_corrupt_checkpoint_is_refused_and_nothing_is_lost(history):
    accountant = ew.EdgeworthAccountant()
    accountant.step(noise_multiplier=1.0, sample_rate=0.01)
    with pytest.raises(ew.InvalidParameterError):
        accountant.load_state_dict({"history": history, "mechanism": "edgeworth"})
    assert accountant.history == [(1.0, 0.01, 1)]


def test_checkpoint_of_an_unknown_accountant_is_refused():
    with pytest.raises(ValueError, match=r"mechanism 'mine' cannot be loaded: only edgeworth, rdp, prv, gdp"):
        ew.EdgeworthAccountant().load_state_dict({"history": [], "mechanism": "mine"})


def test_sample_rate_above_one_says_what_to_do():
    accountant = ew.EdgeworthAccountant()
    hook = accountant.get_optimizer_hook_fn(sample_rate=0.6)

    class Accumulating:
        noise_multiplier = 1.0
        accumulated_iterations = 2

    with pytest.raises(ew.InvalidParameterError, match=r"sample_rate=1.2.*accumulation.*BatchMemoryManager"):
        hook(Accumulating())
    assert accountant.history == []


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_private_training(mode):
    model, optimizer, loader = make_training()
    engine = PrivacyEngine(accountant="edgeworth")
    criterion = nn.CrossEntropyLoss()
    options = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "poisson_sampling": True}
    if mode == "ghost":
        model, optimizer, criterion, loader = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=loader,
            criterion=criterion,
            grad_sample_mode="ghost",
            **options,
        )
    else:
        model, optimizer, loader = engine.make_private(module=model, optimizer=optimizer, data_loader=loader, **options)
    steps = train(model, optimizer, loader, criterion)
    assert engine.accountant.history == [(1.0, 1 / 8, steps)]
    assert engine.get_epsilon(DELTA) == pytest.approx(
        ew.PrivacyCurve([(1.0, 1 / 8, steps)]).epsilon(DELTA).upper, rel=1e-8
    )


def test_batch_memory_manager_counts_logical_steps():
    model, optimizer, loader = make_training(size=64, batch=32)
    engine = PrivacyEngine(accountant="edgeworth")
    model, optimizer, loader = engine.make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0, max_grad_norm=1.0
    )
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=4, optimizer=optimizer) as small:
        train(model, optimizer, small, nn.CrossEntropyLoss())
    assert engine.accountant.history == [(1.0, 0.5, 2)]


def test_make_private_with_epsilon_searches_with_it():
    model, optimizer, loader = make_training()
    engine = PrivacyEngine(accountant="edgeworth")
    _, optimizer, _ = engine.make_private_with_epsilon(
        module=model,
        optimizer=optimizer,
        data_loader=loader,
        target_epsilon=3.0,
        target_delta=DELTA,
        epochs=5,
        max_grad_norm=1.0,
    )
    steps = int(5 / (1 / 8))
    achieved = ew.PrivacyCurve([(optimizer.noise_multiplier, 1 / 8, steps)]).epsilon(DELTA).upper
    assert 2.9 <= achieved <= 3.0


def test_needs_less_noise_than_rdp_and_prv():
    wanted = {"target_epsilon": 8.0, "target_delta": DELTA, "sample_rate": 0.02, "steps": 1000}
    noise = {
        name: get_noise_multiplier(accountant=name, epsilon_tolerance=1e-3, **wanted)
        for name in ("edgeworth", "prv", "rdp")
    }
    assert noise["edgeworth"] <= noise["prv"] <= noise["rdp"]
    assert noise["rdp"] / noise["edgeworth"] > 1.03
    assert ew.calibrate_noise_multiplier(**wanted) <= noise["edgeworth"]


def test_unchanged_program_needs_one_import(tmp_path):
    """A program written for RDP runs with one more import and the other name."""
    program = textwrap.dedent("""
        import torch
        from opacus import PrivacyEngine
        torch.manual_seed(0)
        data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,)))
        loader = torch.utils.data.DataLoader(data, batch_size=8)
        model = torch.nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        engine = PrivacyEngine(accountant="rdp")
        model, optimizer, loader = engine.make_private_with_epsilon(
            module=model, optimizer=optimizer, data_loader=loader,
            target_epsilon=4.0, target_delta=1e-5, epochs=2, max_grad_norm=1.0)
        for _ in range(2):
            for x, y in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        print(engine.get_epsilon(1e-5), optimizer.noise_multiplier)
    """)
    results = []
    for source in (program, "import opacus_edgeworth\n" + program.replace('"rdp"', '"edgeworth"')):
        path = tmp_path / "program.py"
        path.write_text(source)
        done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True, timeout=300)
        results.append([float(word) for word in done.stdout.split()])
    (rdp_epsilon, rdp_noise), (epsilon, noise) = results
    assert epsilon <= 4.0
    assert rdp_epsilon <= 4.0
    assert noise < rdp_noise
