"""Hashes that tell one model from another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn


def hash_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256, in hexadecimal, of names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_of_frozen(model: nn.Module) -> str:
    """Return the hash of all parameters that do not change, peft's copies of new heads left out."""
    kept = {n: p for n, p in model.named_parameters() if not p.requires_grad and "original_module" not in n}
    return hash_of_tensors(kept)
