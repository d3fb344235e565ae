"""A number known to lie in an interval."""

from __future__ import annotations

from dataclasses import dataclass

from opacus_edgeworth._validate import as_real, shown
from opacus_edgeworth.errors import CertificationError, InvalidParameterError
from opacus_edgeworth.rounding import at_least, at_most


@dataclass(frozen=True, slots=True)
class Bounds:
    """A real number proved to lie in [lower, upper]; either end may be infinite.

    Args:
      lower: the lower end, not NaN.
      upper: the upper end, at least `lower`; the end to report for privacy.

    Raises:
      InvalidParameterError: `lower` exceeds `upper`, or one of them is NaN or no number.

    Example:
      >>> Bounds(0.5, 0.75).width
      0.25
    """

    lower: float
    upper: float

    def __post_init__(self) -> None:
        if type(self.lower) is not float or type(self.upper) is not float:
            object.__setattr__(self, "lower", as_real("lower", self.lower))
            object.__setattr__(self, "upper", as_real("upper", self.upper))
        if not self.lower <= self.upper:  # written so that NaN is refused too
            raise InvalidParameterError(f"empty bounds: lower={self.lower!r}, upper={self.upper!r}")

    @property
    def width(self) -> float:
        """The absolute width, upper - lower (0 for a point, infinite ends included)."""
        return 0.0 if self.lower == self.upper else self.upper - self.lower

    @property
    def relative_width(self) -> float:
        """The width over the upper end's magnitude; 0 for a point."""
        return 0.0 if self.lower == self.upper else self.width / abs(self.upper)

    def _repr_html_(self) -> str:
        """Return it for notebooks: the end to report first, both rounded outward."""
        return f"<b>at most {at_most(self.upper, 12)}</b>, at least {at_least(self.lower, 12)} <small>(proved)</small>"

    def intersect(self, other: Bounds) -> Bounds:
        """Return the interval in both: two proofs about one number are one better proof.

        Raises:
          CertificationError: the intervals are disjoint, so one of the two proofs is wrong (a defect of ours).
        """
        _require_bounds(other)
        lower, upper = max(self.lower, other.lower), min(self.upper, other.upper)
        if lower > upper:
            raise CertificationError(f"two proved bounds exclude each other: {self} and {other}; please report this")
        return Bounds(lower, upper)

    def larger(self, other: Bounds) -> Bounds:
        """Return bounds on the larger of the two numbers."""
        _require_bounds(other)
        return Bounds(max(self.lower, other.lower), max(self.upper, other.upper))


def _require_bounds(other: Bounds) -> None:
    """Refuse what is not bounds."""
    if not isinstance(other, Bounds):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidParameterError(f"other={shown(other)} must be Bounds")
