"""What a private optimizer does, as far as privacy depends on it: noise, clipping, and who is told of its steps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import opacus
from opacus.accountants import IAccountant

RECORDS_THE_GRADIENTS_NOISE = opacus.__version__.startswith("1.5")
"""Whether Opacus's accountants are told of the gradient's noise alone where clipping is adaptive."""


def told_of(hook: Callable[..., Any] | None) -> tuple[IAccountant | None, float | None]:
    """Return the accountant that a step hook tells of steps, and the sampling rate that it tells, if it is Opacus's.

    Opacus's hook is a closure: its variables are read.
    """
    if hook is None:
        return None, None
    if not inspect.isfunction(hook):
        return None, None
    variables = inspect.getclosurevars(hook).nonlocals
    inner = variables.get("hook")
    if inspect.isfunction(inner):  # ours is around Opacus's
        return told_of(inner)
    accountant, rate = variables.get("self"), variables.get("sample_rate")
    if isinstance(accountant, IAccountant) and isinstance(rate, (int, float)):
        return accountant, float(rate)
    return None, None


def adaptive_factor(noise_multiplier: float, unclipped_num_std: float) -> float:
    r"""Return by what the noise multiplier that is recorded counts less under adaptive clipping.

    Gradients get the noise z = (s^-2 - (2 b)^-2)^(-1/2), s the noise multiplier that was asked for and b the standard
    deviation of the count's noise (Andrew et al. 2021, Theorem 1, https://arxiv.org/abs/1905.03871). That is right for
    a count shifted by one half for every example. Opacus's is not: one example moves it by up to 1, so that both
    together are as one Gaussian of (z^-2 + b^-2)^(-1/2) = (s^-2 + 3/4 b^-2)^(-1/2), the batch's size being public.
    Opacus 1.5 records z, which is too much, later versions s.
    """
    share = 1.0 if RECORDS_THE_GRADIENTS_NOISE else 0.75
    return 1.0 / math.sqrt(1.0 + share * (noise_multiplier / unclipped_num_std) ** 2)


def per_layer_factor(optimizer: Any) -> float:
    """Return the norm that the noise is for over that of the layers' clipping norms together; 1 if it is larger."""
    norms = getattr(optimizer, "max_grad_norms", None)
    if norms is None:
        return 1.0
    together = math.sqrt(math.fsum(float(norm) ** 2 for norm in norms))
    return min(float(optimizer.max_grad_norm) / together, 1.0) if together > 0.0 else 1.0


ADAPTIVE_CLIPPING = (
    "adaptive clipping publishes how many examples were not clipped, which moves by 1 with an example where the"
    " accounting takes 1/2, and divides it by the batch's exact size, which no proof covers"
)
ADAPTIVE_FIX = 'use clipping="flat" with a fixed max_grad_norm, or pass a larger noise_multiplier and unclipped_num_std'
