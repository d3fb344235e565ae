"""Numbers for people: rounded to the safe side, never inward."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

DIGITS = 8


def at_most(value: float, digits: int = DIGITS) -> str:
    """Return a number in so many digits, never below it.

    Example:
      >>> at_most(0.12345678901, 4), at_most(8.0), at_most(float("inf"))
      ('0.1235', '8', 'inf')
    """
    text = _rounded(value, Context(prec=digits, rounding=ROUND_CEILING))
    return text if float(text) >= value else repr(value)  # next to 0 doubles have fewer digits


def at_least(value: float, digits: int = DIGITS) -> str:
    """Return a number in so many digits, never above it."""
    text = _rounded(value, Context(prec=digits, rounding=ROUND_FLOOR))
    return text if float(text) <= value else repr(value)


def _rounded(value: float, context: Context) -> str:
    """Return a number rounded as the context says."""
    if not math.isfinite(value):
        return str(value)
    return f"{float(context.create_decimal(value)):.{context.prec}g}"
