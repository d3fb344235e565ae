"""The accountant that Opacus uses: `accountant="edgeworth"`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

from opacus.accountants import IAccountant, registry

from opacus_edgeworth._validate import as_delta, as_noise_multiplier, as_sample_rate
from opacus_edgeworth.composition import compose, parse_history
from opacus_edgeworth.edgeworth.approximation import EdgeworthApproximation
from opacus_edgeworth.edgeworth.tilted import TiltedEdgeworth
from opacus_edgeworth.errors import EstimateWarning, InvalidParameterError
from opacus_edgeworth.inversion.memory import Memory

MECHANISM = "edgeworth"

Method = Literal["certified", "aea", "eei", "tilted"]


class EdgeworthAccountant(IAccountant):
    """Opacus accountant whose epsilon is never below the truth, for any number of steps.

    It holds nothing but Opacus's list of (noise_multiplier, sample_rate, steps), so checkpoints and code that swap
    the list keep working.

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
          noise_multiplier: noise standard deviation over the clipping norm, in [0, inf).
          sample_rate: Poisson sampling probability of that step, in [0, 1].

        Raises:
          InvalidParameterError: an argument is outside its range. The history is unchanged then.
        """
        phase = (as_noise_multiplier(noise_multiplier), as_sample_rate(sample_rate))
        if self.history and tuple(self.history[-1][:2]) == phase:
            self.history[-1] = (*phase, self.history[-1][2] + 1)
        else:
            self.history.append((*phase, 1))

    def get_epsilon(
        self, delta: float, *, method: Method = "certified", order: int | None = None, **kwargs: Any
    ) -> float:
        """Return epsilon at `delta` for all steps taken so far: by default a proved upper bound.

        Args:
          delta: in [0, 1]; for the expansions in (0, 1].
          method: "certified", a proved upper bound; "eei", the upper end of the papers' finite-sample interval, which
            is inf for small delta; "aea" and "tilted", Edgeworth expansions without and with the saddle-point tilt,
            which are estimates and warn that they are: use them to compare, not to promise privacy.
          order: of the expansion, for "aea" (1 by default) and "tilted" (2 by default).
          **kwargs: options of other Opacus accountants, which Opacus forwards; they have no effect.

        Raises:
          InvalidParameterError: delta is outside its range, the history holds an invalid entry, or there is no such
            method or order.
        """
        history = self.history  # Opacus may swap the list: what is remembered is known by the numbers in it
        if method == "certified":
            return self._memory.epsilon(compose(history), as_delta(delta)).upper
        if method == "eei":
            return EdgeworthApproximation(history).interval(delta).upper
        if method not in ("aea", "tilted"):
            raise InvalidParameterError(f'method={method!r} must be "certified", "aea", "eei" or "tilted"')
        warnings.warn(
            f'method="{method}" is an estimate, no bound: the epsilon spent may be larger; method="certified" is one',
            EstimateWarning,
            stacklevel=2,
        )
        if method == "aea":
            return EdgeworthApproximation(history, order=1 if order is None else order).epsilon(delta)
        return TiltedEdgeworth(history, order=2 if order is None else order).epsilon(delta)

    def __len__(self) -> int:
        return sum(steps for _, _, steps in self.history)  # steps, not phases

    @classmethod
    def mechanism(cls) -> str:
        """Return the name under which Opacus knows this accountant."""
        return MECHANISM

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a checkpoint made by `state_dict`.

        Raises:
          ValueError: Opacus's checks of the keys and of the mechanism.
          InvalidParameterError: the history in it is corrupt; this accountant is unchanged then.
        """
        if isinstance(state_dict, Mapping) and "history" in state_dict:
            parse_history(state_dict["history"])
        super().load_state_dict(state_dict)
        self.history = list(self.history)


def register() -> None:
    """Make `accountant="edgeworth"` known to Opacus; again and again without effect."""
    if registry._ACCOUNTANTS.get(MECHANISM) is not EdgeworthAccountant:
        registry.register_accountant(MECHANISM, EdgeworthAccountant, force=True)


register()
