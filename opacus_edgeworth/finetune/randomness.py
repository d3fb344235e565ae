"""Where a run's randomness comes from: separate streams for initial weights, sampling and noise."""

from __future__ import annotations

import importlib.util
import secrets
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opacus_edgeworth.errors import MissingExtraError

WORDS = 624  # of the Mersenne Twister, each kept in eight bytes,
HEADER_BYTES = 24  # after the seed (8), two counters (4 each) and the place of the next word (8)


@dataclass(frozen=True, slots=True)
class Randomness:
    """Generators of batches and of noise, and the seed of torch's own generator (new weights, dropout)."""

    torch_seed: int
    sampling: torch.Generator
    noise: torch.Generator

    def state(self) -> dict[str, Tensor]:
        """Return the state of all of them."""
        state = {
            "sampling": self.sampling.get_state(),
            "noise": self.noise.get_state(),
            "torch": torch.get_rng_state(),
        }
        if self.noise.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.noise.device)
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self.sampling.set_state(state["sampling"])
        self.noise.set_state(state["noise"])
        torch.set_rng_state(state["torch"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.noise.device)


def make_randomness(seed: int | None, device: torch.device) -> Randomness:
    """Return generators with independent streams, from a seed or, for None, from the operating system's entropy."""
    words = np.random.SeedSequence(secrets.randbits(128) if seed is None else seed).generate_state(3, np.uint64)
    first, second, third = (int(word) % 2**63 for word in words)
    sampling, noise = torch.Generator().manual_seed(second), torch.Generator(device).manual_seed(third)
    if seed is None:
        for generator in (sampling, noise):
            if generator.device.type == "cpu":
                _fill_with_entropy(generator)
    return Randomness(first, sampling, noise)


def require_secure_source() -> None:
    """Raise MissingExtraError if Opacus could not make cryptographic noise."""
    if importlib.util.find_spec("torchcsprng") is None:
        raise MissingExtraError(
            "secure_mode=True needs torchcsprng, which is not installed (https://github.com/pytorch/csprng); without"
            " it leave secure_mode out: torch's generator then takes its state from the operating system's entropy"
        )


def _fill_with_entropy(generator: torch.Generator) -> None:
    """Replace all 624 words of a CPU generator's state.

    A seed would not do: torch's Mersenne Twister uses 32 bits of it, which can be searched.
    """
    state = generator.get_state()
    words = np.frombuffer(secrets.token_bytes(4 * WORDS), dtype=np.uint32).astype(np.uint64)
    start = HEADER_BYTES
    state[start : start + 8 * WORDS] = torch.from_numpy(words.view(np.uint8).copy())
    generator.set_state(state)
