"""Frozen dataclasses as JSON and back: exact floats, and nothing that is not precisely of its type."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from opacus_edgeworth.errors import CertificationError


def digest(content: Any) -> str:
    """Return the SHA-256 of the content, independent of layout."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def encode(value: Any) -> Any:
    """Return JSON for nested dictionaries, tuples and numbers."""
    if isinstance(value, dict):
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return f"{value!r} {value.hex()}" if isinstance(value, float) else value


def decode(kind: Any, value: Any, where: str) -> Any:
    """Return JSON as an instance of a type, refusing whatever is not exactly one."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is float and isinstance(value, str):
        return _float(value, where)
    if kind in (int, str) and type(value) is kind:
        return value
    if origin is Literal and value in args and isinstance(value, str):
        return value
    if origin is tuple and isinstance(value, list):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) == len(value):
            items = zip(kinds, value, strict=True)
            return tuple(decode(item, part, f"{where}[{index}]") for index, (item, part) in enumerate(items))
    if origin is dict and isinstance(value, dict):
        return {name: decode(args[1], item, f"{where}.{name}") for name, item in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        if value.keys() == {field.name for field in fields(kind)}:
            assert isinstance(kind, type)
            return kind(**{name: decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    raise CertificationError(f"{where}: {str(value)[:80]!r} is not what belongs there")


def _float(text: str, where: str) -> float:
    """Return a finite float of which both spellings, decimal and hexadecimal, are the canonical ones."""
    try:
        number = float.fromhex(text.split(" ")[-1])
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or text != f"{number!r} {number.hex()}":
        raise CertificationError(f"{where}: {text[:80]!r} is not a number in decimal and in hexadecimal")
    return number
