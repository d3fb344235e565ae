"""The accountant that Opacus uses: `accountant="edgeworth"`."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from opacus.accountants import IAccountant
from opacus.optimizers import DPOptimizer

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth._validate import as_adjacency, as_delta, as_noise_multiplier, as_sample_rate, shown
from opacus_edgeworth.checking.optimizers import ADAPTIVE_CLIPPING, ADAPTIVE_FIX
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.edgeworth.approximation import EdgeworthApproximation
from opacus_edgeworth.edgeworth.tilted import TiltedEdgeworth
from opacus_edgeworth.errors import EstimateWarning, InvalidParameterError, UnsoundTrainingWarning
from opacus_edgeworth.inversion.memory import Memory
from opacus_edgeworth.registration import make_known
from opacus_edgeworth.states import MECHANISM, phases_in, phases_of, state_of

Method = Literal["certified", "aea", "eei", "tilted"]
METHODS: tuple[Method, ...] = get_args(Method)

_COUNTING = threading.Lock()
"""Held while an entry is counted up, so that no step of two threads is lost. It is one for all accountants, which can
be copied so. Nobody waits for it: who does not get it appends an entry, which is atomic, as copying the list is for
readers. An exception like KeyboardInterrupt, right after its acquisition, so costs nothing but entries not merged."""


class EdgeworthAccountant(IAccountant):
    """Opacus accountant whose epsilon is never below the truth, for any number of steps.

    It holds nothing but Opacus's list of (noise_multiplier, sample_rate, steps), so checkpoints and code that swap
    the list keep working. Threads may ask while others train: each answer is for the steps recorded when it was asked.

    Example:
      >>> accountant = EdgeworthAccountant()
      >>> for _ in range(100):
      ...     accountant.step(noise_multiplier=1.0, sample_rate=0.01)
      >>> round(accountant.get_epsilon(delta=1e-5), 4)
      0.718
    """

    def __init__(self) -> None:
        super().__init__()
        self._memory = Memory()

    def step(self, *, noise_multiplier: float, sample_rate: float) -> None:
        """Record one optimizer step; a step equal to the last ones is counted with them.

        Args:
          noise_multiplier: noise standard deviation over the clipping norm, 0 or in [1e-120, 1e120].
          sample_rate: Poisson sampling probability of that step, 0 or in [1e-40, 1].

        Raises:
          InvalidParameterError: an argument is outside its range. The history is unchanged then.
        """
        phase = (as_noise_multiplier(noise_multiplier), as_sample_rate(sample_rate))
        history = self.history  # Opacus may swap the list
        if not _COUNTING.acquire(blocking=False):
            history.append((*phase, 1))
            return
        try:
            last = len(history) - 1  # where it stays, whoever appends in between
            if last >= 0 and tuple(history[last][:2]) == phase:
                history[last] = (*phase, history[last][2] + 1)
            else:
                history.append((*phase, 1))
        finally:
            _COUNTING.release()

    def get_epsilon(
        self,
        delta: float,
        *,
        method: Method = "certified",
        order: int | None = None,
        adjacency: Adjacency = "add_or_remove",
        **kwargs: Any,
    ) -> float:
        """Return epsilon at `delta` for all steps taken so far: by default a proved upper bound.

        Args:
          delta: in [0, 1]; for the expansions in (0, 1].
          method: "certified", a proved upper bound; "eei", the upper end of the papers' finite-sample interval, which
            is inf for small delta; "aea" and "tilted", Edgeworth expansions without and with the saddle-point tilt,
            which are estimates and warn that they are: use them to compare, not to promise privacy.
          order: of the expansion, for "aea" (1 by default) and "tilted" (2 by default).
          adjacency: what neighbouring data sets differ in, for "certified"; see `PrivacyCurve`.
          **kwargs: options of other Opacus accountants, which Opacus forwards; they have no effect.

        Raises:
          InvalidParameterError: delta is outside its range, the history holds an invalid entry, or there is no such
            method or order.
        """
        history = self.history  # Opacus may swap the list: what is remembered is known by the numbers in it
        if not isinstance(method, str) or method not in METHODS:
            raise InvalidParameterError(f"method={shown(method)} must be one of {', '.join(METHODS)}")
        if as_adjacency(adjacency) != "add_or_remove":
            if method != "certified":
                raise InvalidParameterError(f'method={method!r} knows adjacency="add_or_remove" alone; use "certified"')
            return PrivacyCurve(history, adjacency=adjacency).epsilon(delta).upper
        if method == "certified":
            return self._memory.epsilon(history, as_delta(delta)).upper
        if method == "eei":
            return EdgeworthApproximation(history).interval(delta).upper
        warnings.warn(
            f'method="{method}" is an estimate, no bound: the epsilon spent may be larger; method="certified" is one',
            EstimateWarning,
            stacklevel=2,
        )
        if method == "aea":
            return EdgeworthApproximation(history, order=1 if order is None else order).epsilon(delta)
        return TiltedEdgeworth(history, order=2 if order is None else order).epsilon(delta)

    def get_optimizer_hook_fn(self, sample_rate: float) -> Callable[[DPOptimizer], None]:
        """Return Opacus's step hook, which warns at its first step of an optimizer whose steps are not what it records.

        Warns:
          UnsoundTrainingWarning: adaptive clipping. `opacus_edgeworth.check` finds more, in loaders above all, of which
            a hook sees nothing.
        """
        hook, looked = super().get_optimizer_hook_fn(sample_rate), False

        def recording(optimizer: DPOptimizer) -> None:
            nonlocal looked
            if not looked and hasattr(optimizer, "unclipped_num_std"):
                warnings.warn(f"{ADAPTIVE_CLIPPING}; {ADAPTIVE_FIX}", UnsoundTrainingWarning, stacklevel=5)
            looked = True
            hook(optimizer)

        return recording

    def __len__(self) -> int:
        history = self.history
        try:
            return int(sum(steps for _, _, steps in list(history)))  # steps, not phases
        except (TypeError, ValueError, OverflowError):
            phases_of(history)  # says what is wrong
            raise

    @classmethod
    def mechanism(cls) -> str:
        """Return the name under which Opacus knows this accountant."""
        return MECHANISM

    def state_dict(self, destination: Any = None, *, mechanism: str = MECHANISM) -> Any:
        """Return what a checkpoint keeps: the history, the accountant's name, and a digest of the history.

        Args:
          destination: a mapping to put it in, a new one by default.
          mechanism: of the accountant that is to load it. Opacus's "rdp" and "prv" take any history, and "gdp" one of
            equal steps; their answers are their own matter.

        Raises:
          InvalidParameterError: the history holds an invalid entry, or the accountant cannot hold it.

        Example:
          >>> from opacus.accountants import RDPAccountant
          >>> accountant, other = EdgeworthAccountant(), RDPAccountant()
          >>> accountant.step(noise_multiplier=1.0, sample_rate=0.01)
          >>> other.load_state_dict(accountant.state_dict(mechanism="rdp"))
          >>> other.history
          [(1.0, 0.01, 1)]
        """
        state = state_of(self.history, mechanism)
        destination = super().state_dict(destination)
        destination.update(state)
        return destination

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state_dict: of this accountant, or of Opacus's "rdp", "prv" or "gdp", whose history is the same.

        What is taken over is what the history says. Whether its batches were Poisson samples, and which adjacency was
        meant, is not in it: the answers are for Poisson sampling and one example added or removed.

        Args:
          state_dict: from a checkpoint, or from JSON.

        Raises:
          InvalidParameterError: it is no state_dict, of an accountant that is not known, or the history in it is
            corrupt or was altered after it was saved; this accountant is unchanged then.
        """
        phases = phases_in(state_dict)
        self.history = phases  # what Opacus 1.6 does; 1.5 compares a method with a name, and refuses every state


def register() -> None:
    """Make `accountant="edgeworth"` known to Opacus; again and again without effect."""
    make_known(MECHANISM, EdgeworthAccountant)


register()
