"""Where a run computes, and in which precision."""

from __future__ import annotations

import opacus
import torch

from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.finetune.settings import FinetuneSettings


def choose_device(settings: FinetuneSettings) -> tuple[torch.device, bool]:
    """Return the device, and whether the model runs in bf16 there.

    Raises:
      InvalidParameterError: the device cannot be used, or not in bf16.
    """
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidParameterError(f"device={name!r} cannot be used: {error}; leave it out for the default") from None
    able = device.type == "cuda" and torch.cuda.is_bf16_supported() and not opacus.__version__.startswith("1.5")
    if settings.precision == "bf16" and not able:
        raise InvalidParameterError(
            f'precision="bf16" needs Opacus 1.6 (not {opacus.__version__}, which clips no gradients of bf16) and a CUDA'
            f' device that has it, not {name!r} (processors are slower in it); use "fp32"'
        )
    return device, able and settings.precision != "fp32"
