"""Each mistake is made with the real Opacus, and found, with the epsilon that is honest."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from opacus import PrivacyEngine
from opacus.data_loader import DPDataLoader
from opacus.utils.batch_memory_manager import BatchMemoryManager
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from scipy.stats import binom, norm
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from versions import OPACUS_1_5

import opacus_edgeworth as ew
from opacus_edgeworth import EdgeworthAccountant, InvalidParameterError, PrivacyCurve
from opacus_edgeworth.checking.loaders import sampling_of, single_precision_rate
from opacus_edgeworth.checking.optimizers import adaptive_factor
from opacus_edgeworth.checking.spent import Spent, of_all_processes, sampled_less, several_times, without_empty
from opacus_edgeworth.errors import UnsoundTrainingError, UnsoundTrainingWarning
from opacus_edgeworth.mechanisms import FixedBatches
from opacus_edgeworth.sampling import PoissonSampler, exact_sampling

DELTA = 1e-4


def data(examples=640):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(examples, 4, generator=generator), torch.zeros(examples, dtype=torch.long))


def train(model, optimizer, loader, *, criterion=None, epochs=1, skip_empty=False):
    for _ in range(epochs):
        for x, y in loader:
            if skip_empty and len(x) == 0:
                continue
            optimizer.zero_grad()
            (criterion or nn.CrossEntropyLoss())(model(x), y).backward()
            optimizer.step()


def make(engine=None, examples=640, batch=32, loader=None, model=None, **options):
    model = nn.Linear(4, 2) if model is None else model
    engine = PrivacyEngine(accountant="edgeworth") if engine is None else engine
    arguments = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, **options}
    loader = DataLoader(data(examples), batch_size=batch) if loader is None else loader
    made = engine.make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05), data_loader=loader, **arguments
    )
    return engine, made


def found(result, name):
    (finding,) = [finding for finding in result.findings if finding.name == name]
    return finding


def epsilon(history, adjacency="add_or_remove", delta=DELTA):
    return PrivacyCurve(history, adjacency=adjacency).epsilon(delta).upper


def test_a_sound_run_with_exact_sampling_has_no_fault():
    engine, (model, optimizer, loader) = make(ew.PrivacyEngine())
    train(model, optimizer, loader, epochs=2)
    result = ew.check(engine, delta=DELTA)
    assert result.ok
    assert [finding.name for finding in result.findings] == ["insecure-noise"]
    assert result.epsilon == result.reported_epsilon == epsilon([(1.0, 0.05, 40)])
    assert not result.planned
    assert result.steps == 40
    assert "honest:  epsilon at most" in str(result)
    assert "insecure-noise" in result._repr_html_()
    result.raise_if_wrong()


def test_before_training_the_epochs_planned_are_judged():
    engine, made = make(ew.PrivacyEngine())
    assert ew.check(engine, delta=DELTA, epochs=3).epsilon == epsilon([(1.0, 0.05, 60)])
    assert ew.check(made, engine.accountant, delta=DELTA).epsilon == epsilon([(1.0, 0.05, 20)])
    assert ew.check(made, epochs=0.5).delta == pytest.approx(0.1 / 640)


@pytest.mark.parametrize(("shuffle", "drop_last"), [(False, False), (True, False), (True, True)])
def test_fixed_batches_are_gaussian_steps_of_whole_epochs(shuffle, drop_last):
    loader = DataLoader(data(650), batch_size=32, shuffle=shuffle, drop_last=drop_last)
    engine, made = make(loader=loader, poisson_sampling=False)
    train(*made, epochs=3)
    result = ew.check(made, engine.accountant, delta=DELTA)
    finding = found(result, "not-poisson")
    assert finding.severity == "error"
    assert not result.ok
    assert finding.epsilon == result.epsilon == epsilon([(FixedBatches(1.0), 3)], "zero_out")
    assert finding.adjacency == result.adjacency == "zero_out"
    assert result.epsilon > 3.0 * result.reported_epsilon
    assert f"at most {epsilon([(FixedBatches(1.0), 3)], 'replace_one'):.6g}" in finding.what
    with pytest.raises(UnsoundTrainingError, match="not-poisson"):
        result.raise_if_wrong()


def test_an_epoch_begun_counts_as_whole():
    _, (model, optimizer, loader) = make(poisson_sampling=False)
    train(model, optimizer, loader)
    x, y = next(iter(loader))
    optimizer.zero_grad()
    nn.CrossEntropyLoss()(model(x), y).backward()
    optimizer.step()
    assert ew.check((model, optimizer, loader), delta=DELTA).epsilon == epsilon([(FixedBatches(1.0), 2)], "zero_out")


def test_gradients_added_up_over_fixed_batches_count_the_batches():
    engine, (model, optimizer, loader) = make(poisson_sampling=False)
    for step, (x, y) in enumerate(loader):
        if step % 4 == 0:
            optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(x), y).backward()
        if step % 4 == 3:
            optimizer.step()
    assert engine.accountant.history == [(1.0, 4 * 0.05, 5)]
    assert ew.check((model, optimizer, loader), delta=DELTA).epsilon == epsilon([(FixedBatches(1.0), 1)], "zero_out")


@pytest.mark.parametrize("sampler", [
    RandomSampler(data(), replacement=True), WeightedRandomSampler([1.0] * 640, 640),
])  # fmt: skip
def test_draws_with_replacement_may_repeat_an_example_in_a_batch(sampler):
    loader = DataLoader(data(), batch_size=32, sampler=sampler)
    _, made = make(loader=loader, poisson_sampling=False)
    finding = found(ew.check(made, delta=DELTA), "not-poisson")
    assert finding.epsilon == epsilon([(1.0 / 32, 1.0, 20)])
    assert "up to 32 times" in finding.what


class Odd(BatchSampler):
    pass


class Stream(IterableDataset):
    def __iter__(self):
        return iter(data())

    def __len__(self):
        return 640


def test_unknown_samplers_may_draw_an_example_in_every_batch():
    for loader in (
        DataLoader(data(), batch_sampler=Odd(RandomSampler(data()), 32, False)),
        DataLoader(Stream(), batch_size=32),
    ):
        _, made = make(loader=loader, poisson_sampling=False)
        finding = found(ew.check(made, delta=DELTA), "not-poisson")
        assert finding.severity == "error"
        assert "nothing is known" in finding.what
        assert finding.epsilon >= epsilon([(1.0, 1.0, 1)])
    assert found(ew.check(make(loader=DataLoader(data(), batch_sampler=Odd(RandomSampler(data()), 32, False)),
                               poisson_sampling=False)[1], delta=DELTA), "not-poisson").epsilon == epsilon(
        [(1.0, 1.0, 20)])  # fmt: skip


def test_the_loader_from_before_make_private_is_not_private():
    loader = DataLoader(data(), batch_size=32, shuffle=True)
    _, (model, optimizer, _) = make(loader=loader)
    assert found(ew.check((model, optimizer, loader), delta=DELTA), "not-poisson").severity == "error"


def test_a_rate_that_is_too_low():
    engine, (model, optimizer, _) = make()
    larger = DPDataLoader(data(), sample_rate=0.2)
    result = ew.check((model, optimizer, larger), engine.accountant, delta=DELTA, epochs=2)
    finding = found(result, "wrong-rate")
    assert finding.severity == "error"
    assert finding.epsilon == epsilon([(1.0, 0.2, 10)])
    assert result.reported_epsilon == epsilon([(1.0, 0.05, 10)])
    assert found(result, "loader-changed").severity == "warning"


def test_a_rate_told_by_hand():
    accountant = EdgeworthAccountant()
    _, (model, optimizer, loader) = make()
    for _ in range(20):
        accountant.step(noise_multiplier=1.0, sample_rate=0.01)
    optimizer.attach_step_hook(lambda optimizer: accountant.step(noise_multiplier=1.0, sample_rate=0.01))
    finding = found(ew.check((model, optimizer, loader), accountant, delta=DELTA), "wrong-rate")
    assert finding.epsilon == epsilon([(1.0, 0.05, 20)])


def test_more_than_is_spent_is_a_note():
    # Opacus draws at 1 / 93, makes int(1 / (1 / 93)) = 92 steps of it, and tells one over that
    _, made = make(examples=93 * 8, batch=8)
    result = ew.check(made, delta=DELTA)
    finding = found(result, "wrong-rate")
    assert finding.severity == "note"
    assert finding.epsilon < result.reported_epsilon


@pytest.mark.parametrize("rate", [0.01, 0.001, 1 / 390, 1e-5, 0.3, 0.5, 1 / 49, 3e-8, 1.0])
def test_single_precision_rates_are_counted_one_by_one(rate):
    draws = torch.arange(2**24, dtype=torch.float64).div(2**24).to(torch.float32)  # all values of torch.rand
    assert int((draws < rate).sum()) == single_precision_rate(rate) * 2**24


def test_draws_in_single_precision_are_a_little_too_many():
    _, made = make(examples=39000, batch=100)
    result = ew.check(made, delta=DELTA)
    finding = found(result, "rounded-rate")
    assert finding.severity == "warning"
    assert finding.epsilon == epsilon([(1.0, single_precision_rate(1 / 390), 390)]) > result.reported_epsilon
    assert result.epsilon == finding.epsilon
    mended = (made[0], made[1], exact_sampling(made[2]))
    assert "rounded-rate" not in [finding.name for finding in ew.check(mended, delta=DELTA).findings]


def test_steps_of_another_accountant():
    _, made = make()
    other = EdgeworthAccountant()
    train(*made)
    other.step(noise_multiplier=2.0, sample_rate=0.1)
    finding = found(ew.check(made, other, delta=DELTA), "other-accountant")
    assert finding.severity == "error"
    assert finding.epsilon == epsilon([(1.0, 0.05, 20), (2.0, 0.1, 1)])


def test_steps_of_no_accountant():
    engine, (model, optimizer, loader) = make()
    optimizer.attach_step_hook(None)
    train(model, optimizer, loader)
    engine.accountant.step(noise_multiplier=1.0, sample_rate=0.05)
    finding = found(ew.check((model, optimizer, loader), engine.accountant, delta=DELTA), "steps-unrecorded")
    assert finding.severity == "error"
    assert finding.epsilon == math.inf


def test_a_loader_of_another_engine():
    (_, (model, optimizer, _)), (second, (_, _, loader)) = make(), make(examples=1280)
    result = ew.check((model, optimizer, loader), second.accountant, delta=DELTA)
    assert found(result, "other-accountant").severity == "error"


def test_a_plain_optimizer_hides_nothing():
    engine, (model, optimizer, loader) = make()
    result = ew.check((model, optimizer.original_optimizer, loader), engine.accountant, delta=DELTA)
    assert found(result, "not-private").epsilon == math.inf == result.epsilon


def test_a_model_without_example_gradients():
    engine, (_, optimizer, loader) = make()
    plain = nn.Linear(4, 2)
    optimizer.original_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    result = ew.check((plain, optimizer, loader), engine.accountant, delta=DELTA)
    assert found(result, "no-example-gradients").severity == "error"


def test_layers_that_mix_examples():
    engine, (model, optimizer, loader) = make(model=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    model._module.append(nn.BatchNorm1d(2))
    result = ew.check((model, optimizer, loader), engine.accountant, delta=DELTA)
    assert found(result, "mixing-layers").epsilon == math.inf


def test_poisson_batches_added_up_by_accumulated_gradients():
    engine, (model, optimizer, loader) = make()
    model.allow_grad_accumulation()
    assert found(ew.check((model, optimizer, loader), delta=DELTA), "accumulation-allowed").severity == "warning"
    for step, (x, y) in enumerate(loader):
        nn.CrossEntropyLoss()(model(x), y).backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert engine.accountant.history == [(1.0, 0.1, 10)]
    finding = found(ew.check((model, optimizer, loader), delta=DELTA), "batches-added-up")
    assert finding.severity == "error"
    assert finding.epsilon == epsilon([(1.0 / math.sqrt(2.0), 0.05, 20)])


def test_poisson_batches_added_up_by_skipped_steps():
    engine, (model, optimizer, loader) = make()
    for step, (x, y) in enumerate(loader):
        optimizer.signal_skip_step(do_skip=step % 4 < 3)
        nn.CrossEntropyLoss()(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert engine.accountant.history == [(1.0, 0.05, 5)]  # as if no batch had been skipped
    result = ew.check((model, optimizer, loader), delta=DELTA, epochs=1)
    finding = found(result, "batches-added-up")
    assert finding.epsilon == epsilon([(0.5, 0.05, 20)])
    assert finding.epsilon > 2.0 * result.reported_epsilon
    # without the epochs nothing tells
    assert ew.check((model, optimizer, loader), delta=DELTA).ok


def test_batch_memory_manager_is_sound():
    engine, (model, optimizer, loader) = make(ew.PrivacyEngine())
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=8, optimizer=optimizer) as pieces:
        train(model, optimizer, pieces)
        assert ew.check((model, optimizer, pieces), engine.accountant, delta=DELTA, epochs=1).ok
    assert ew.check(engine, delta=DELTA, epochs=1).ok
    assert engine.accountant.history == [(1.0, 0.05, 20)]


def test_empty_batches_that_make_no_step():
    torch.manual_seed(3)
    engine, (model, optimizer, loader) = make(examples=100, batch=5, noise_multiplier=1.0)
    train(model, optimizer, loader, epochs=20, skip_empty=True)
    assert len(engine.accountant) < 400
    likely = 400 * 0.05 * 0.95**99  # of the steps that show for certain that the example was sampled
    for delta, honest in ((0.5 * likely, math.inf), (2.0 * likely, None)):
        result = ew.check((model, optimizer, loader), delta=delta, epochs=20)
        finding = found(result, "empty-batches-skipped")
        assert finding.severity == "error"
        assert result.reported_epsilon < finding.epsilon < math.inf if honest is None else finding.epsilon == honest


def test_what_a_slip_costs():
    curve, slip = PrivacyCurve([(1.0, 0.01, 1000)]), 1e-8
    slipping = Spent(((1.0, 0.01, 1000),), slip=slip).epsilon(1e-5)
    assert curve.epsilon(1e-5).upper < slipping < curve.epsilon(1e-5).upper * 1.01
    assert curve.delta(slipping).upper + (1.0 + math.exp(slipping)) * slip <= 1e-5
    assert Spent(((1.0, 0.01, 1000),), slip=1e-5).epsilon(1e-5) == math.inf


def test_adaptive_clipping_is_found_and_the_hook_warns():
    options = {
        "clipping": "adaptive", "target_unclipped_quantile": 0.5, "clipbound_learning_rate": 0.2, "max_clipbound": 10.0,
        "min_clipbound": 0.1, "unclipped_num_std": 2.0,
    }  # fmt: skip
    _, made = make(**options)
    with pytest.warns(UnsoundTrainingWarning, match="adaptive clipping"):
        train(*made)
    result = ew.check(made, delta=DELTA)
    finding = found(result, "adaptive-clipping")
    # both noises as they are: the gradient's, and the count's, which one example moves by one
    gradient = (1.0**-2 - (2 * 2.0) ** -2) ** -0.5
    together = (gradient**-2 + 2.0**-2) ** -0.5
    recorded = made[1].noise_multiplier  # what was asked for; in Opacus 1.5 the gradient's
    assert recorded == pytest.approx(gradient if OPACUS_1_5 else 1.0, rel=1e-12)
    assert recorded * adaptive_factor(recorded, 2.0) == pytest.approx(together, rel=1e-12)
    counted = epsilon([(together, 0.05, 20)])
    assert f"if it were the expected one, epsilon would be at most {counted:.6g}" in finding.what
    assert finding.epsilon == result.epsilon == math.inf  # a batch's exact size shows who is in it


def test_layers_whose_norms_exceed_the_noise():
    _, made = make(clipping="per_layer", max_grad_norm=[0.6, 0.8])
    assert ew.check(made, delta=DELTA).ok
    made[1].max_grad_norms = [1.2, 1.6]  # as by hand; the noise stays that of norm 1
    finding = found(ew.check(made, delta=DELTA), "layers-beyond-norm")
    assert finding.epsilon == pytest.approx(epsilon([(0.5, 0.05, 20)]), rel=1e-5)


def test_a_data_set_that_changed():
    engine, (model, optimizer, loader) = make(ew.PrivacyEngine())
    grown = copy.copy(loader)
    object.__setattr__(grown, "dataset", data(700))
    result = ew.check((model, optimizer, grown), engine.accountant, delta=DELTA)
    assert found(result, "data-changed").severity == "warning"
    engine.parts = (model, optimizer, DataLoader(data(), batch_sampler=PoissonSampler(640, 0.05)))
    assert found(ew.check(engine, delta=DELTA), "other-data").severity == "warning"


def test_reductions_that_differ():
    _, made = make(grad_sample_mode="ghost", criterion=nn.CrossEntropyLoss())
    assert ew.check(made, delta=DELTA).ok
    made[1].loss_reduction = "sum"
    finding = found(ew.check(made, delta=DELTA), "reductions-differ")
    assert finding.severity == "warning"
    assert finding.epsilon is None


def test_noise_that_is_known():
    _, made = make(noise_generator=torch.Generator().manual_seed(0))
    assert found(ew.check(made, delta=DELTA), "seeded-noise").severity == "warning"


def test_mistakes_add_up():
    engine, (model, optimizer, _) = make(clipping="per_layer", max_grad_norm=[0.6, 0.8])
    optimizer.max_grad_norms = [1.2, 1.6]
    loader = DataLoader(data(), batch_size=32)
    result = ew.check((model, optimizer, loader), engine.accountant, delta=DELTA, epochs=4)
    assert result.epsilon == pytest.approx(epsilon([(FixedBatches(0.5), 4)], "zero_out"), rel=1e-5)
    assert [finding.severity for finding in result.findings] == ["error", "error", "note"]


@pytest.mark.parametrize("accountant", ["rdp", "prv", "gdp"])
def test_other_accountants_are_judged_by_their_history(accountant):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Opacus's own accountants
        _, made = make(PrivacyEngine(accountant=accountant), poisson_sampling=False)
        train(*made)
    result = ew.check(made, delta=DELTA)
    assert result.reported_epsilon == epsilon([(1.0, 0.05, 20)])
    assert result.epsilon == epsilon([(FixedBatches(1.0), 1)], "zero_out")


def test_our_engine_warns_raises_or_keeps_quiet():
    with pytest.warns(UnsoundTrainingWarning, match="not-poisson"):
        make(ew.PrivacyEngine(), poisson_sampling=False)
    with pytest.raises(UnsoundTrainingError, match="put to zero"):
        make(ew.PrivacyEngine(on_mistake="raise"), poisson_sampling=False)
    engine, _ = make(ew.PrivacyEngine(on_mistake="ignore"), poisson_sampling=False)
    assert not ew.check(engine).ok
    with pytest.raises(InvalidParameterError, match="on_mistake='stop'"):
        ew.PrivacyEngine(on_mistake="stop")


def test_our_engine_draws_exactly_and_tells_the_rate():
    engine, (model, optimizer, loader) = make(ew.PrivacyEngine(), examples=390, batch=10)
    assert isinstance(loader.batch_sampler, PoissonSampler)
    train(model, optimizer, loader)
    assert engine.accountant.history == [(1.0, 1 / len(loader), len(loader))]


def test_the_exact_sampler_draws_at_its_rate_and_yields_empty_batches():
    sampler = PoissonSampler(50, 0.01, steps=4000, generator=torch.Generator().manual_seed(1))
    batches = list(sampler)
    assert len(batches) == len(sampler) == 4000
    drawn = sum(map(len, batches))
    assert abs(drawn - 2000) < 5 * math.sqrt(2000)
    assert any(not batch for batch in batches)
    parts = [set().union(*PoissonSampler(10, 0.9, steps=50, rank=rank, processes=3)) for rank in range(3)]
    assert sorted(set().union(*parts)) == list(range(10))
    assert sum(map(len, parts)) == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((10, 0.0), "sample_rate"), ((10, 1.5), "sample_rate"), ((10, 0.1, 3, 2), "rank"), ((2, 0.1, 0, 3), "processes")],
)
def test_the_exact_sampler_refuses(arguments, words):
    examples, rate, *place = arguments
    options = dict(zip(("rank", "processes"), place, strict=False))
    with pytest.raises(InvalidParameterError, match=words):
        PoissonSampler(examples, rate, **options)


def test_exact_sampling_keeps_the_loader_otherwise():
    _, (_, _, loader) = make()
    exact = exact_sampling(loader)
    assert (exact.dataset, exact.collate_fn, len(exact)) == (loader.dataset, loader.collate_fn, len(loader))
    assert isinstance(loader.batch_sampler, UniformWithReplacementSampler)
    x, _ = exact.collate_fn([])  # Opacus's, which knows empty batches
    assert tuple(x.shape) == (0, 4)
    with pytest.raises(InvalidParameterError, match="poisson_sampling=True"):
        exact_sampling(DataLoader(data(), batch_size=4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e, m: ew.check(3), "training=3"),
        (lambda e, m: ew.check((m[0], m[1])), "must be an engine"),
        (lambda e, m: ew.check(e), "opacus_edgeworth.PrivacyEngine"),
        (lambda e, m: ew.check((m[0], m[1], [1, 2])), "data_loader=list"),
        (lambda e, m: ew.check((m[0], "sgd", m[2])), "optimizer=str"),
        (lambda e, m: ew.check(("net", m[1], m[2])), "model=str"),
        (lambda e, m: ew.check(m, accountant="edgeworth"), "accountant='edgeworth'"),
        (lambda e, m: ew.check(m, delta=1.5), "delta=1.5"),
        (lambda e, m: ew.check(m, delta=0.0), "delta=0.0"),
        (lambda e, m: ew.check(m, epochs=-1), "epochs=-1"),
        (lambda e, m: ew.check(ew.PrivacyEngine()), "pass"),
    ],
)
def test_bad_arguments_are_named(call, words):
    engine, made = make()
    with pytest.raises(InvalidParameterError, match=words):
        call(engine, made)


def test_pieces_of_fixed_batches_are_no_batches():
    """The pieces of BatchMemoryManager are more than the batches: they must not make epochs longer."""
    engine, (model, optimizer, loader) = make(poisson_sampling=False)
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=8, optimizer=optimizer) as pieces:
        train(model, optimizer, pieces, epochs=3)
        assert len(pieces) == 80
        result = ew.check((model, optimizer, pieces), engine.accountant, delta=DELTA)
    assert engine.accountant.history == [(1.0, 0.05, 60)]
    assert result.epsilon == epsilon([(FixedBatches(1.0), 3)], "zero_out")


def test_steps_across_the_ends_of_epochs_may_see_an_example_twice():
    _, (model, optimizer, loader) = make(examples=672, poisson_sampling=False)  # 21 batches, two at a time
    drawn = 0
    for _ in range(2):
        for x, y in loader:
            nn.CrossEntropyLoss()(model(x), y).backward()
            drawn += 1
            if drawn % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
    result = ew.check((model, optimizer, loader), delta=DELTA)
    # of four times at most two are in one step: 2^2 for it, or 1 + 1; FixedBatches with noise 1 / sqrt(2), twice
    assert result.epsilon == epsilon([(FixedBatches(1.0 / math.sqrt(2.0)), 2)], "zero_out")
    assert result.epsilon >= epsilon([(0.5, 1.0, 1)]) * (1 - 1e-9)  # twice in the step between the epochs


@pytest.mark.parametrize(("sampler", "times"), [(RandomSampler(data(), replacement=True), 64), (None, 2)])
def test_repeated_draws_that_are_added_up_count_together(sampler, times):
    odd = DataLoader(data(), batch_sampler=Odd(RandomSampler(data()), 32, False))
    loader = odd if sampler is None else DataLoader(data(), batch_size=32, sampler=sampler)
    _, (model, optimizer, loader) = make(loader=loader, poisson_sampling=False)
    for step, (x, y) in enumerate(loader):
        nn.CrossEntropyLoss()(model(x), y).backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert found(ew.check((model, optimizer, loader), delta=DELTA), "not-poisson").epsilon == epsilon(
        [(1.0 / times, 1.0, 10)]
    )


def test_batches_that_were_recorded_together_are_not_missing():
    _, (model, optimizer, loader) = make()
    model.allow_grad_accumulation()
    for step, (x, y) in enumerate(loader):
        nn.CrossEntropyLoss()(model(x), y).backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    result = ew.check((model, optimizer, loader), delta=DELTA, epochs=1)
    finding = found(result, "batches-added-up")
    assert finding.epsilon == epsilon([(1.0 / math.sqrt(2.0), 0.05, 20)])
    assert result.epsilon == pytest.approx(finding.epsilon, rel=1e-5)  # once, and the rate as it is rounded


def test_a_subset_with_repetitions_is_not_fixed():
    for indices, kind in (([0, 1, 2, 3] * 8, "may repeat examples"), (range(32), "fixed batches of 4")):
        loader = DataLoader(data(32), batch_size=4, sampler=SubsetRandomSampler(indices))
        _, made = make(loader=loader, poisson_sampling=False)
        assert kind in found(ew.check(made, delta=DELTA), "not-poisson").what


@pytest.mark.parametrize(("options", "words"), [
    ({}, "fixed batches of 4, shuffled"), ({"replacement": True}, "drawn with replacement"),
    ({"num_samples": 64}, "may repeat examples"),
])  # fmt: skip
def test_accelerates_seedable_sampler_shuffles_as_torchs_does(options, words):
    seedable = pytest.importorskip("accelerate.data_loader").SeedableRandomSampler
    loader = DataLoader(data(32), batch_size=4, sampler=seedable(data(32), data_seed=1, **options))
    assert words in sampling_of(loader).says


@pytest.mark.parametrize(("options", "words"), [
    ({}, "filled up"), ({"even_batches": False}, "fixed batches"), ({"split_batches": True}, "fixed batches"),
])  # fmt: skip
def test_shards_of_fixed_batches(options, words):
    sharded = pytest.importorskip("accelerate.data_loader").BatchSamplerShard
    inner = BatchSampler(RandomSampler(data()), 32, drop_last=False)
    shard = sharded(inner, num_processes=3 if not options else 2, **options)
    engine, (model, optimizer, _) = make(poisson_sampling=False)
    loader = DataLoader(data(), batch_sampler=shard)
    sampling = sampling_of(loader)
    assert words in sampling.says
    assert (sampling.batches, sampling.processes) == (len(shard), shard.num_processes)
    assert not ew.check((model, optimizer, loader), engine.accountant, delta=DELTA).ok


@pytest.mark.parametrize("poisson", [True, False])
def test_one_model_of_several_processes_that_each_draw_from_all(poisson):
    engine, (model, optimizer, loader) = make(poisson_sampling=poisson)
    optimizer.world_size = 4  # as optimizers for several processes have it
    finding = found(ew.check((model, optimizer, loader), engine.accountant, delta=DELTA), "one-loader-for-all")
    assert finding.severity == "error"
    if poisson:
        assert finding.epsilon == epsilon([(0.25, 0.2, 20)])
    result = ew.check((model, optimizer, loader), engine.accountant, delta=DELTA)
    assert poisson or result.epsilon == epsilon([(FixedBatches(0.25), 1)], "zero_out")


def test_several_times_dominates_draws_that_are_the_same_and_draws_that_are_not():
    noise, rate, times = 2.0, 0.1, 3
    ((s, q, _),) = several_times(Spent(((noise, rate, 1),)), times).phases
    score = np.linspace(-40.0, 60.0, 200_001)
    zero, step = norm.pdf(score, 0.0, noise), score[1] - score[0]
    apart = sum(binom.pmf(k, times, rate) * norm.pdf(score, k, noise) for k in range(times + 1))
    same = (1 - rate) * zero + rate * norm.pdf(score, times, noise)
    for at in (0.1, 0.5, 2.0):
        for p in (apart, same):
            for a, b in ((p, zero), (zero, p)):
                exact = np.maximum(a - math.exp(at) * b, 0.0).sum() * step
                assert exact <= PrivacyCurve([(s, q, 1)]).delta(at).upper + 1e-9


def test_a_ghost_norm_that_a_scheduler_left_behind():
    _, made = make(grad_sample_mode="ghost", criterion=nn.CrossEntropyLoss())
    assert ew.check(made, delta=DELTA).ok
    made[1].max_grad_norm = 0.5  # as GradClipScheduler does; the model clips to 1 still
    assert found(ew.check(made, delta=DELTA), "ghost-norms-differ").epsilon == epsilon([(0.5, 0.05, 20)])
    made[1].max_grad_norm = 2.0
    assert ew.check(made, delta=DELTA).ok


def test_an_empty_batch_counts_at_the_least_and_the_largest_rate():
    spent = Spent(((2.0, 0.01, 30), (1.0, 0.002, 5)))
    more = without_empty(spent, 3, 10, 0.05)
    assert more.phases == (*spent.phases, (1.0, 0.05, 3))
    ((seen, steps),) = more.others
    assert steps == 38
    assert seen.p[2] == pytest.approx(0.998**9 * 0.05, rel=1e-8)
    assert seen.p[2] >= max((1 - q) ** 9 * q for q in (0.002, 0.01, 0.05))
    ((alone, _),) = without_empty(spent, 3, 1, 0.01).others  # nobody else: no step shows it for certain
    assert alone.q[0] == 0.0
    assert of_all_processes(more, 2).others == ((seen, 76),)


def test_a_rate_that_is_too_high_does_not_lower_that_of_other_steps():
    spent = Spent(((1.0, 0.1, 30), (1.0, 0.05, 5)))
    assert sampled_less(spent, 0.05, 0.02).phases == ((1.0, 0.1, 30), (1.0, 0.02, 5))


def test_a_tiny_slip_costs_next_to_nothing_but_is_counted():
    curve = PrivacyCurve([(1.0, 0.01, 1000)])
    for slip in (1e-30, 1e-16, 1e-12):
        slipping = Spent(((1.0, 0.01, 1000),), slip=slip).epsilon(1e-5)
        assert curve.epsilon(1e-5).upper <= slipping <= curve.epsilon(1e-5).upper * (1 + 1e-9 + 1e6 * slip)
    assert Spent(((0.01, 1.0, 10),), slip=1e-320).epsilon(1e-5) == math.inf  # e^epsilon is no double


@pytest.mark.parametrize(("kind", "rate"), [(torch.bfloat16, 0.01), (torch.float16, 0.001), (torch.float64, 1e-5)])
def test_draws_of_other_types(kind, rate):
    torch.set_default_dtype(kind)
    try:
        drawn = single_precision_rate(rate)
        share = float((torch.rand(2_000_000) < rate).double().mean())
    finally:
        torch.set_default_dtype(torch.float32)
    assert drawn >= rate
    assert share <= drawn + 6 * math.sqrt(drawn / 2e6)
    assert kind is torch.float64 or share >= drawn - 2.0**-8 - 6 * math.sqrt(drawn / 2e6)


def test_draws_off_the_cpu_have_an_upper_bound_and_ours_stay_on_it():
    torch.set_default_device("meta")
    try:
        rates = [single_precision_rate(rate) for rate in (2.0**-10, 1e-5)]
        batch = next(iter(PoissonSampler(10, 1.0)))
    finally:
        torch.set_default_device(None)
    assert batch == list(range(10))
    for rate, drawn in zip((2.0**-10, 1e-5), rates, strict=True):
        assert rate + 2.0**-25 <= drawn <= rate + 2.0**-22  # the draws that round to 1 become 0
