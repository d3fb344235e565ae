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
    return _rounded(value, Context(prec=digits, rounding=ROUND_CEILING))


def at_least(value: float, digits: int = DIGITS) -> str:
    """Return a number in so many digits, never above it."""
    return _rounded(value, Context(prec=digits, rounding=ROUND_FLOOR))


def _rounded(value: float, context: Context) -> str:
    """Return a number rounded as the context says.

    The double next to the rounded decimal is on its side of the value, too, and the text is no farther from that double
    than the decimal is: it is read as this double again, next to 0 as well, where doubles have fewer digits.
    """
    if not math.isfinite(value):
        return str(value)
    return f"{float(context.create_decimal(value)):.{context.prec}g}"
