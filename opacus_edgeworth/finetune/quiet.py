"""Silence about other packages' own matters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

MESSAGES = (
    "Secure RNG turned off",  # the privacy statement says where the noise comes from
    "Full backward hook is firing",  # the inputs of a frozen layer need no gradient
    "Using a non-full backward hook",
    "`is_gradient_checkpointing` is deprecated",  # peft asks transformers for it
    "Optimal order is the",  # Opacus's RDP accountant, of its own search
)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, known warnings of Opacus, torch and peft, and transformers' loading reports, are not shown."""
    shown = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for message in MESSAGES:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        transformers_logging.set_verbosity(shown)
        if bars:
            transformers_logging.enable_progress_bar()
