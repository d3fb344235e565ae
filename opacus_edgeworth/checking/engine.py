"""Opacus's engine, with Poisson sampling to the last bit, and a look at what it made."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import opacus
from torch.utils.data import DataLoader

from opacus_edgeworth._validate import shown
from opacus_edgeworth.checking.check import check
from opacus_edgeworth.errors import InvalidParameterError, UnsoundTrainingWarning
from opacus_edgeworth.sampling import exact_sampling

OnMistake = Literal["warn", "raise", "ignore"]


class PrivacyEngine(opacus.PrivacyEngine):
    """Opacus's `PrivacyEngine` with this package's accountant, exact sampling, and a check of what was made.

    Batches are drawn by a `PoissonSampler`: Opacus's samplers draw a little more often than the accountant is told.

    Args:
      accountant: "edgeworth", or another name that Opacus knows.
      secure_mode: as Opacus has it.
      on_mistake: what is done about errors and warnings that `check` finds after make_private: "warn" warns
        (`UnsoundTrainingWarning`), "raise" raises for errors, "ignore" keeps quiet.

    Raises:
      InvalidParameterError: there is no such `on_mistake`.
    """

    def __init__(
        self, *, accountant: str = "edgeworth", secure_mode: bool = False, on_mistake: OnMistake = "warn"
    ) -> None:
        if not isinstance(on_mistake, str) or on_mistake not in ("warn", "raise", "ignore"):
            raise InvalidParameterError(f'on_mistake={shown(on_mistake)} must be "warn", "raise" or "ignore"')
        super().__init__(accountant=accountant, secure_mode=secure_mode)
        self.on_mistake: OnMistake = on_mistake
        self.parts: tuple[Any, ...] | None = None

    def _prepare_data_loader(self, data_loader: DataLoader[Any], *, poisson_sampling: bool, **options: Any) -> Any:
        made = super()._prepare_data_loader(data_loader, poisson_sampling=poisson_sampling, **options)
        return exact_sampling(made) if poisson_sampling else made

    def make_private(self, **arguments: Any) -> Any:
        """Return what Opacus's `make_private` does, for the same arguments, and say what is wrong with it.

        Raises:
          UnsoundTrainingError: it is not as the accountant takes it to be, and `on_mistake` is "raise".
        """
        made = super().make_private(**arguments)
        self.parts = tuple(made)
        if self.on_mistake == "ignore":
            return made
        found = check(self.parts, self.accountant)
        if self.on_mistake == "raise":
            found.raise_if_wrong()
            return made
        for finding in found.findings:
            if finding.severity != "note":
                warnings.warn(str(finding), UnsoundTrainingWarning, stacklevel=2)
        return made
