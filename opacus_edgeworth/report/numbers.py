"""Numbers as a report prints them: proved ones with the end they are, inputs exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Literal, TypeAlias

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.rounding import at_least, at_most

End: TypeAlias = Literal["upper", "lower"]

DIGITS = 7
PERCENT_DIGITS, MOST_PERCENT_DIGITS = 3, 7
SMALLEST_PLAIN_PERCENT = Decimal("1e-5")
TINY = 1e-300
"""Below it numbers are told apart no more."""
SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True, slots=True)
class Proved:
    """One end of proved bounds, printed rounded away from the truth.

    Args:
      quantity: what is bounded: a method of `PrivacyCurve`.
      at: the arguments it was asked at.
      end: "upper", so that the truth is at most this, or "lower".
      value: the end, all digits.
      percent: print a probability in percent.
    """

    quantity: str
    at: tuple[float, ...]
    end: End
    value: float
    percent: bool = False

    @property
    def text(self) -> str:
        """The number as it is printed: an upper end never below `value`, a lower one never above."""
        if self.percent:
            return percentage(self.value, self.end)
        if 0.0 < self.value < TINY:
            return in_words(repr(TINY)) if self.end == "upper" else "0"
        return in_words(at_most(self.value, DIGITS) if self.end == "upper" else at_least(self.value, DIGITS))


Cell: TypeAlias = str | Proved
"""What a table has in a cell, and a sentence in its places: words, or a proved number."""


def ends(quantity: str, at: tuple[float, ...], bounds: Bounds, *, percent: bool = False) -> tuple[Proved, Proved]:
    """Return the upper and the lower end of bounds."""
    return (
        Proved(quantity, at, "upper", bounds.upper, percent),
        Proved(quantity, at, "lower", bounds.lower, percent),
    )


def exact(value: float) -> str:
    """Return a number that was given, with every digit it has.

    Example:
      >>> exact(1e-5), exact(0.001), exact(0.0125), exact(1.0), exact(1.5e-7)
      ('10⁻⁵', '10⁻³', '0.0125', '1', '1.5 × 10⁻⁷')
    """
    if 0.0 < value <= 1e-3:
        power = f"1e{math.floor(math.log10(value) + 0.5)}"
        if float(power) == value:
            return in_words(power)
    return in_words(repr(float(value)).removesuffix(".0"))


def in_words(text: str) -> str:
    """Return a number in print: powers of ten with a raised exponent, infinity as its sign."""
    if text in ("inf", "-inf"):
        return text.replace("inf", "∞")
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return mantissa
    power = f"10{str(int(exponent)).translate(SUPERSCRIPT)}"
    return power if mantissa == "1" else f"{mantissa} × {power}"


def percentage(value: float, end: End) -> str:
    """Return a probability in percent, rounded up for an upper end and down for a lower one.

    Example:
      >>> percentage(0.0040684, "upper"), percentage(0.0040684, "lower"), percentage(0.99996543, "upper")
      ('0.407 %', '0.406 %', '99.99655 %')
    """
    digits = PERCENT_DIGITS
    if 0.9 < value < 1.0:  # what is missing from 100 % is to be seen
        digits = min(max(2 - math.floor(math.log10(1.0 - value)), digits), MOST_PERCENT_DIGITS)
    rounding = ROUND_CEILING if end == "upper" else ROUND_FLOOR
    number = Context(prec=digits, rounding=rounding).multiply(Decimal(value), Decimal(100))
    number = min(number, Decimal(100)).normalize()
    if Decimal(0) < number < SMALLEST_PLAIN_PERCENT:
        return f"{in_words(f'{number:e}')} %"
    return f"{number:f} %"
