"""The same accounting for users of transformers' Trainer, where it is sound; a refusal where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opacus.optimizers import DPOptimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from opacus_edgeworth._validate import as_delta, as_epsilon
from opacus_edgeworth.accountant import EdgeworthAccountant
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.checking.loaders import sampling_of
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import InvalidParameterError


class EdgeworthCallback(TrainerCallback):
    """Counts the noisy steps of a Trainer whose model, optimizer and data loader Opacus made private.

    The Trainer's own loader shuffles; the amplification by Poisson sampling is then not to be had, and this callback
    refuses to start, unless it is told to account without it.

    Args:
      target_delta: in (0, 1), below one over the number of training examples.
      target_epsilon: training stops before the step that would exceed it; None: never.
      without_amplification: account for shuffled batches, each example in one batch of each epoch: an epoch is one
        Gaussian mechanism, so its epsilon is much larger, and adjacency is another: data sets in which one example is
        replaced by an empty one (of gradient zero), their order being fixed by chance beforehand.

    Raises:
      InvalidParameterError: target_delta or target_epsilon is outside its range; when training starts: the Trainer is
        not set up so that an epsilon could be proved.
    """

    def __init__(
        self, *, target_delta: float, target_epsilon: float | None = None, without_amplification: bool = False
    ) -> None:
        self.target_delta = as_delta(target_delta, name="target_delta")
        if not 0.0 < self.target_delta < 1.0:
            raise InvalidParameterError(f"target_delta={target_delta!r} must be in (0, 1), below 1 / examples")
        self.target_epsilon = None if target_epsilon is None else as_epsilon(target_epsilon, name="target_epsilon")
        self.without_amplification = without_amplification
        self.accountant = EdgeworthAccountant()
        self._phase: tuple[float, float] | None = None

    @property
    def epsilon(self) -> Bounds:
        """Proved bounds for what was done so far, at target_delta and under the adjacency named in `adjacency`."""
        return PrivacyCurve(self.accountant.history).epsilon(self.target_delta)

    @property
    def adjacency(self) -> str:
        """Which data sets cannot be told apart."""
        if self.without_amplification:
            return "one example replaced by an empty one"
        return "one example added or removed"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that what is about to happen can be accounted for, and listen to the optimizer's steps."""
        optimizer = _unwrapped(kwargs["optimizer"])
        if not isinstance(optimizer, DPOptimizer) or not optimizer.noise_multiplier > 0.0:
            raise InvalidParameterError(
                f"optimizer={type(optimizer).__name__} does not clip and add noise; make model, optimizer and loader"
                " private with opacus.PrivacyEngine, and pass optimizers=(optimizer, None)"
            )
        if args.gradient_accumulation_steps != 1:
            raise InvalidParameterError(
                f"gradient_accumulation_steps={args.gradient_accumulation_steps} must be 1: it would join batches that"
                " are accounted for one by one; use opacus's BatchMemoryManager"
            )
        if args.world_size > 1:
            raise InvalidParameterError(f"world_size={args.world_size}: only training in one process is accounted for")
        if state.global_step > 0:
            raise InvalidParameterError(
                "resume_from_checkpoint is not accounted for: the steps before it are not known here; use"
                " opacus_edgeworth.finetune, whose checkpoints know them"
            )
        self._require_all_trained(kwargs["model"], optimizer)
        rate = self._sample_rate(kwargs["train_dataloader"])
        self._phase = (float(optimizer.noise_multiplier), rate)
        if not self.without_amplification:
            optimizer.attach_step_hook(self._counting(optimizer.step_hook))
            self._stop_at_budget(control)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count an epoch, where epochs are what is counted."""
        if self.without_amplification and self._phase is not None:
            self.accountant.step(noise_multiplier=self._phase[0], sample_rate=1.0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Clear what Opacus keeps of the step (the Trainer clears the model alone), and stop where the budget ends."""
        _unwrapped(kwargs["optimizer"]).zero_grad()
        if not self.without_amplification:
            self._stop_at_budget(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop where the budget ends."""
        self._stop_at_budget(control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add epsilon to the log (whose losses and gradient norms are not private)."""
        if logs is not None and self.accountant.history:
            logs["epsilon"] = self.epsilon.upper
            if state.log_history:
                state.log_history[-1]["epsilon"] = logs["epsilon"]

    def _counting(self, previous: Callable[[DPOptimizer], None] | None) -> Callable[[DPOptimizer], None]:
        """Return a hook that counts a step and then does what was done before."""

        def hook(optimizer: DPOptimizer) -> None:
            assert self._phase is not None
            self.accountant.step(noise_multiplier=optimizer.noise_multiplier, sample_rate=self._phase[1])
            if previous is not None:
                previous(optimizer)

        return hook

    def _stop_at_budget(self, control: TrainerControl) -> None:
        """Ask the Trainer to stop if one more step, or epoch, would exceed the budget."""
        if self.target_epsilon is None or self._phase is None:
            return
        curve = PrivacyCurve([*self.accountant.history, (*self._phase, 1)])
        if curve.delta(self.target_epsilon).upper > self.target_delta:
            control.should_training_stop = True

    def _require_all_trained(self, model: Any, optimizer: DPOptimizer) -> None:
        """Refuse a model of which something changes without noise."""
        noisy = {id(parameter) for parameter in optimizer.params}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and id(parameter) not in noisy:
                raise InvalidParameterError(f"model: {name} requires a gradient but is not in the optimizer; freeze it")

    def _sample_rate(self, loader: Any) -> float:
        """Return the rate of Poisson sampling, or 1 where it is not asked for."""
        sampling = sampling_of(loader)
        if sampling.kind == "poisson" and self.without_amplification:
            raise InvalidParameterError(
                "without_amplification=True is for shuffled batches, in which each example comes once an epoch;"
                " these are Poisson batches: leave it out"
            )
        if sampling.drawn_rate is not None:
            return sampling.drawn_rate  # Opacus's sampler draws a little more often than it says
        once = sampling.kind == "fixed"
        if self.without_amplification and once:
            return 1.0
        raise InvalidParameterError(
            f"train_dataloader makes {sampling.says}, not Poisson"
            " batches, so that the usual epsilon would be false; return the loader that PrivacyEngine made from the"
            " Trainer's get_train_dataloader, or account with without_amplification=True"
            + ("" if once else " for batches that hold each example once an epoch")
        )


def _unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside accelerate's wrapper."""
    return optimizer.optimizer if type(optimizer).__module__.startswith("accelerate.") else optimizer
