"""The mistakes that are looked for: each a function of the facts that returns what is wrong, or None."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch.distributed as dist
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import nn

from opacus_edgeworth.checking import optimizers
from opacus_edgeworth.checking.facts import Facts
from opacus_edgeworth.checking.findings import Severity
from opacus_edgeworth.checking.spent import (
    SAME,
    Spent,
    cost_of,
    in_every_step,
    in_fixed_batches,
    noisier,
    of_all_processes,
    one_by_one,
    sampled_at_least,
    sampled_less,
    sampled_more,
    several_times,
    slipping,
    steps_of,
    taken_apart,
    unbounded,
    without_empty,
)

LATE = 1e-3
"""Relative difference of rates, below which epsilon differs in late digits alone."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong, and the steps that dominate the run: None where privacy does not change."""

    name: str
    severity: Severity
    what: str
    fix: str
    mend: Callable[[Spent], Spent] | None = None


def not_private(facts: Facts) -> Mistake | None:
    """An optimizer that clips nothing and adds no noise."""
    if isinstance(facts.optimizer, DPOptimizer):
        return None
    what = f"{type(facts.optimizer).__name__} is not the optimizer that make_private returned: no noise, no clipping"
    return Mistake("not-private", "error", what, "step the optimizer that make_private returned", unbounded)


def no_example_gradients(facts: Facts) -> Mistake | None:
    """A model without hooks for per-example gradients."""
    parameters = (p for group in facts.optimizer.param_groups for p in group["params"])
    if all(hasattr(p, "grad_sample") for p in parameters if p.requires_grad):
        return None
    what = "some of the optimizer's parameters have no per-example gradients; Opacus raises at the first step"
    return Mistake("no-example-gradients", "error", what, "pass model and optimizer through make_private together")


def mixing_layers(facts: Facts) -> Mistake | None:
    """Layers through which an example reaches the gradients of others."""
    module = getattr(facts.model, "_module", facts.model)
    errors = ModuleValidator.validate(module, strict=False) if isinstance(module, nn.Module) else []
    if not errors:
        return None
    what = f"the model mixes examples, or keeps what it saw of them: {str(errors[0])[:160]}"
    return Mistake("mixing-layers", "error", what, "model = ModuleValidator.fix(model), before make_private", unbounded)


def steps_unrecorded(facts: Facts) -> Mistake | None:
    """Steps that no accountant, or another one, is told of."""
    if not isinstance(facts.optimizer, DPOptimizer):
        return None
    other, _ = facts.told
    if facts.hooked and (other is None or other is facts.accountant):
        return None
    if not facts.hooked:
        what = "the optimizer has no step hook: its steps are not recorded"
        fix = "optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=...)), as make_private does"
        return Mistake("steps-unrecorded", "error", what, fix, None if facts.planned else unbounded)
    more = tuple((float(s), float(q), int(n)) for s, q, n in other.history) if other is not None else ()
    what = f"the optimizer's steps are recorded by another accountant, which has {sum(n for _, _, n in more)} so far"
    fix = "check (and report) the accountant of the engine whose make_private returned this optimizer"

    def together(spent: Spent) -> Spent:
        return replace(spent, phases=(*(() if facts.planned else spent.phases), *(more or spent.phases)))

    return Mistake("other-accountant", "error", what, fix, together)


def wrong_rate(facts: Facts) -> Mistake | None:
    """A sampling rate that is not the one that the loader draws with."""
    told, drawn = facts.rate, facts.sampling.rate
    if told is None or drawn is None or abs(told - drawn) <= SAME * drawn:
        return None
    if not facts.planned and facts.told[1] is None and len(facts.spent.phases) > 1:
        return None  # a schedule of rates, of which the last is not that of all
    if told > drawn:
        what = f"the loader draws at the rate {drawn:.6g}, and the accountant is told {told:.6g}: more than is spent"
        fix = "nothing has to be done"
        return Mistake("wrong-rate", "note", what, fix, lambda spent: sampled_less(spent, told, drawn))
    what = f"the loader draws at the rate {drawn:.6g}, and the accountant is told {told:.6g}"
    fix = "train with the loader that make_private returned, and let it tell the accountant the rate"
    return Mistake("wrong-rate", "error", what, fix, lambda spent: sampled_at_least(spent, drawn))


def rounded_rate(facts: Facts) -> Mistake | None:
    """Draws of few bits, which make the rate a little larger."""
    rate, drawn = facts.sampling.rate, facts.sampling.drawn_rate
    if rate is None or drawn is None or drawn <= rate:
        return None
    excess = drawn / rate - 1.0
    severity: Severity = "error" if excess > LATE else "warning" if excess > 1e-7 else "note"
    what = f"draws are compared in single precision, so that the rate is {drawn!r}, {excess:.1e} above {rate!r}"
    fix = "loader = opacus_edgeworth.sampling.exact_sampling(loader), after make_private"
    return Mistake("rounded-rate", severity, what, fix, lambda spent: sampled_more(spent, rate, drawn))


def not_poisson(facts: Facts) -> Mistake | None:
    """Batches that are not drawn by Poisson sampling."""
    sampling = facts.sampling
    if sampling.kind == "poisson":
        return None
    fix = "pass poisson_sampling=True to make_private and train with the loader that it returns"
    together = facts.together
    if sampling.kind == "fixed":
        drawn = max(facts.batches_drawn or 0, facts.batches_recorded)

        def fixed(spent: Spent) -> Spent:
            return in_fixed_batches(spent, drawn, sampling.batches, together)

        spent = fixed(facts.spent)
        twice = spent.epsilon(facts.delta, "replace_one")
        what = (
            f"{sampling.says}, not Poisson samples: no amplification. Each example is in one step of each of"
            f" {spent.epochs} epochs, if they are run to their ends: a Gaussian mechanism (mechanisms.FixedBatches). If"
            f" it may be replaced by another, epsilon is at most {twice:.6g}; nothing is claimed for an example added"
            " or removed"
        )
        return Mistake("not-poisson", "error", what, fix, fixed)
    if sampling.kind == "repeating":
        times = (sampling.batch_size or 1) * max(together)
        what = f"{sampling.says}: an example may be in every batch, up to {times} times"
        return Mistake("not-poisson", "error", what, fix, lambda spent: in_every_step(spent, times))
    what = f"{sampling.says}: nothing is known of how often an example is drawn; at most once in every batch is assumed"
    return Mistake("not-poisson", "error", what, fix, lambda spent: in_every_step(spent, max(together)))


def added_up(facts: Facts) -> Mistake | None:
    """Gradients of several Poisson batches in one step."""
    if facts.sampling.kind != "poisson" or facts.planned or facts.rate is None:
        return None
    hook = facts.told[1]
    times = max((round(rate / hook) for _, rate, _ in facts.spent.phases), default=1) if hook else 1
    if hook is not None and times > 1:
        what = (
            f"the gradients of up to {times} batches were added up in one step, which was recorded at {times} times the"
            " rate; but an example may be in several of them"
        )
        fix = "give the loader larger batches, and BatchMemoryManager smaller pieces of them"
        return Mistake("batches-added-up", "error", what, fix, lambda spent: taken_apart(spent, hook))
    return None


def batches_without_steps(facts: Facts) -> Mistake | None:
    """More batches than steps: skipped, or added up by skipped steps."""
    drawn, rate = facts.batches_drawn, facts.sampling.drawn_rate
    steps = steps_of(facts.spent) if facts.told[1] is None else facts.batches_recorded
    if facts.sampling.kind != "poisson" or drawn is None or rate is None or not 0 < steps < drawn:
        return None
    empty = (1.0 - min(rate, 1.0)) ** facts.sampling.part
    missing = drawn - steps
    if missing <= drawn * empty + 6.0 * math.sqrt(drawn * empty) + 1.0 and drawn * empty > 1e-3:
        what = (
            f"{missing} of {drawn} batches made no step, about as many as are empty: whether a step is taken tells"
            " whether anyone was sampled"
        )
        fix = "take the step for empty batches, too: Opacus then publishes noise alone"

        return Mistake(
            "empty-batches-skipped",
            "error",
            what,
            fix,
            lambda spent: without_empty(spent, missing, facts.sampling.part, rate),
        )
    times = math.ceil(drawn / steps)
    what = (
        f"{drawn} batches made {steps} steps: their gradients were added up, and the accountant counted one batch a"
        f" step; epsilon is for up to {times} batches in each step, evenly"
    )
    fix = "take a step for every batch of the loader; for small memory use BatchMemoryManager"
    return Mistake("batches-added-up", "error", what, fix, lambda spent: one_by_one(spent, times))


def empty_parts(facts: Facts) -> Mistake | None:
    """Opacus's sampler for several processes, which leaves out steps in which a process has no example."""
    if not facts.sampling.skips_empty or facts.sampling.rate is None:
        return None
    rate = min(facts.sampling.rate, facts.rate or 1.0)

    def slipped(spent: Spent) -> Spent:
        return slipping(spent, rate, facts.sampling.part, facts.sampling.processes)

    slip = slipped(facts.spent).slip
    if slip == 0.0:
        return None
    cost = cost_of(slip, facts.spent.epsilon(0.5 * facts.delta)) / facts.delta
    severity: Severity = "error" if cost > LATE else "warning" if cost > 1e-7 else "note"
    what = (
        f"in {facts.sampling.processes} processes Opacus leaves out a step where a process has no example; with"
        f" {facts.sampling.part * rate:.3g} expected in each, that happens with probability {min(slip, 1.0):.2g}"
    )
    fix = "loader = opacus_edgeworth.sampling.exact_sampling(loader), after make_private; or larger batches"
    return Mistake("empty-parts-skipped", severity, what, fix, slipped)


def one_seed(facts: Facts) -> Mistake | None:
    """Several processes whose draws may be the same."""
    if facts.sampling.processes < 2 or not facts.sampling.perhaps_seeded:
        return None
    what = (
        f"if the {facts.sampling.processes} processes have the same seed (torch.manual_seed, set_seed, a seeded"
        " generator), they draw the same places, and nothing is amplified by sampling; epsilon is for that case"
    )
    fix = "a generator of the loader's own, with generator.seed() called in every process"
    return Mistake("one-seed", "warning", what, fix, in_every_step)


def each_for_itself(facts: Facts) -> Mistake | None:
    """Several processes, each of which trains a model of its own."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    processes = dist.get_world_size()
    if processes == 1 or facts.sampling.processes == processes or _is_distributed(facts.optimizer):
        return None
    what = (
        f"each of {processes} processes draws from all examples, by itself, and trains a model of its own: make_private"
        " was not given a model wrapped for several processes; epsilon is for publishing all of them"
    )
    fix = "wrap the model in DifferentiallyPrivateDistributedDataParallel before make_private"

    def all_of_them(spent: Spent) -> Spent:
        if facts.sampling.kind == "poisson":
            return of_all_processes(spent, processes)
        return noisier(spent, 1.0 / math.sqrt(processes))  # no step more is counted where batches are fixed

    return Mistake("each-for-itself", "error", what, fix, all_of_them)


def one_loader(facts: Facts) -> Mistake | None:
    """Several processes that train one model, each on all examples, with noise for one."""
    if not _is_distributed(facts.optimizer) or facts.sampling.kind == "unknown":
        return None
    processes = facts.optimizer.world_size
    if processes == 1 or facts.sampling.processes == processes:
        return None
    what = (
        f"each of {processes} processes draws from all examples for one model: an example may be {processes} times in a"
        " step, whose noise is for one"
    )
    fix = "train with the loader that make_private returned for the wrapped model, with poisson_sampling=True"
    if facts.sampling.kind == "poisson":
        return Mistake("one-loader-for-all", "error", what, fix, lambda spent: several_times(spent, processes))
    return Mistake("one-loader-for-all", "error", what, fix, lambda spent: noisier(spent, 1.0 / processes))


def adaptive_clipping(facts: Facts) -> Mistake | None:
    """A second query on every batch, of the number of unclipped examples."""
    spread = getattr(facts.optimizer, "unclipped_num_std", None)
    if spread is None and hasattr(facts.criterion, "target_unclipped_quantile"):
        spread = (getattr(facts.optimizer, "expected_batch_size", None) or 1.0) / 20.0  # what Opacus takes there
    if spread is None:
        return None

    phases = ((s * optimizers.adaptive_factor(s, float(spread)), q, n) for s, q, n in facts.spent.phases)
    counted = replace(facts.spent, phases=tuple(phases)).epsilon(facts.delta)
    what = f"{optimizers.ADAPTIVE_CLIPPING}; if it were the expected one, epsilon would be at most {counted:.6g}"
    return Mistake("adaptive-clipping", "error", what, optimizers.ADAPTIVE_FIX, unbounded)


def layers_beyond_norm(facts: Facts) -> Mistake | None:
    """Per-layer clipping norms that are larger, together, than the norm that the noise is for."""
    factor = optimizers.per_layer_factor(facts.optimizer)
    if factor > 1.0 - 1e-6:
        return None
    what = (
        f"the layers' clipping norms are {1.0 / factor:.4g} times max_grad_norm together, to which the noise is scaled"
    )
    fix = "optimizer.max_grad_norm = the root of the sum of squares of optimizer.max_grad_norms"
    return Mistake("layers-beyond-norm", "error", what, fix, lambda spent: noisier(spent, factor))


def ghost_norms_differ(facts: Facts) -> Mistake | None:
    """A norm that ghost clipping clips to, in the model, larger than the one that the optimizer's noise is for."""
    if not hasattr(facts.model, "get_clipping_coef"):
        return None
    clipped, noised = float(facts.model.max_grad_norm), float(getattr(facts.optimizer, "max_grad_norm", math.inf))
    if not clipped > noised * (1.0 + 1e-6):
        return None
    what = (
        f"ghost clipping clips to the model's max_grad_norm, {clipped:g}, and the noise is for the optimizer's,"
        f" {noised:g}: as schedulers of the clipping norm change it"
    )
    fix = "set max_grad_norm in both, model and optimizer"
    return Mistake("ghost-norms-differ", "error", what, fix, lambda spent: noisier(spent, noised / clipped))


def loader_changed(facts: Facts) -> Mistake | None:
    """A loader, or a data set, that is not the one that make_private saw."""
    sampling = facts.sampling
    if facts.dataset is not None and facts.dataset is not facts.loader.dataset:
        what = (
            "the loader's data set is not the one that the engine was made for: examples of both are accounted as one"
        )
        return Mistake("other-data", "warning", what, "one engine, with its own accountant, for every data set")
    if sampling.population != sampling.examples:
        what = (
            f"the data set has {sampling.examples} examples, and the sampler draws from {sampling.population}: it"
            " changed after the loader was made"
        )
        return Mistake("data-changed", "warning", what, "make the loader private again when the data set has changed")
    expected = getattr(facts.optimizer, "expected_batch_size", None)
    if expected is None or sampling.rate is None:
        return None
    drawn = sampling.examples * sampling.rate / sampling.processes
    if abs(drawn - expected) <= 1.0 + 0.02 * drawn:
        return None
    what = (
        f"the optimizer divides by {expected:g} examples, and the loader draws {drawn:.4g} on average: another loader"
    )
    return Mistake("loader-changed", "warning", what, "train with the loader that make_private returned")


def reductions_differ(facts: Facts) -> Mistake | None:
    """A loss whose gradients are scaled otherwise than the optimizer takes them."""
    of_model = getattr(facts.model, "loss_reduction", None)
    of_optimizer = getattr(facts.optimizer, "loss_reduction", None)
    of_loss = getattr(facts.criterion, "reduction", None)
    known = {value for value in (of_model, of_optimizer, of_loss) if value in ("mean", "sum")}
    if len(known) < 2:
        return None
    what = (
        f"loss_reduction is {of_model!r} in the model, {of_optimizer!r} in the optimizer"
        + (f", {of_loss!r} in the loss" if of_loss is not None else "")
        + ": gradients are clipped at another scale than intended; epsilon stays, since they are clipped all the same"
    )
    return Mistake("reductions-differ", "warning", what, "pass the loss's own loss_reduction to make_private")


def accumulation_allowed(facts: Facts) -> Mistake | None:
    """A model that lets gradients of several Poisson batches add up without a word."""
    if facts.sampling.kind != "poisson" or not getattr(facts.model, "grad_accumulation_allowed", False):
        return None
    what = "the model lets several batches add up before a step, which Poisson sampling's accounting does not cover"
    return Mistake("accumulation-allowed", "warning", what, "model.forbid_grad_accumulation(), as make_private does")


def known_noise(facts: Facts) -> Mistake | None:
    """Noise that is not secret, or is rounded."""
    if getattr(facts.optimizer, "generator", None) is not None and not getattr(facts.optimizer, "secure_mode", False):
        what = "noise comes from a generator that was given: whoever knows its seed subtracts the noise"
        return Mistake("seeded-noise", "warning", what, "no noise_generator, or secure_mode=True")
    if isinstance(facts.optimizer, DPOptimizer) and not facts.optimizer.secure_mode:
        what = "noise is pseudo-random and in floating point: attacks on either are not covered"
        return Mistake("insecure-noise", "note", what, "PrivacyEngine(secure_mode=True) for what is published")
    return None


ALL: tuple[Callable[[Facts], Mistake | None], ...] = (
    not_private, no_example_gradients, mixing_layers, steps_unrecorded, added_up, batches_without_steps, wrong_rate,
    rounded_rate, adaptive_clipping, layers_beyond_norm, ghost_norms_differ, empty_parts, each_for_itself, one_loader,
    one_seed, not_poisson, loader_changed, reductions_differ, accumulation_allowed, known_noise,
)  # fmt: skip
"""In the order in which their changes of the steps are applied, one on top of the other."""


def _is_distributed(optimizer: Any) -> bool:
    """Whether an optimizer of Opacus adds up the gradients of several processes."""
    return isinstance(optimizer, DPOptimizer) and hasattr(optimizer, "world_size")
