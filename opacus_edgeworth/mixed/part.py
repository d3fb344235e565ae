"""What the line asks of the steps of one kind, in one direction: a common interface to closed forms and sums."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from opacus_edgeworth._types import ComplexArray, FloatArray


class Upper(NamedTuple):
    """An upper bound on G(c) of laws that may be cut off, and what delta lost by that at most."""

    log_mgf: float
    lost: float


class TiltedPart(Protocol):
    """The steps of one kind under the tilt c."""

    @property
    def log_peak(self) -> float:
        """G(c) = n log phi(c), of all these steps."""
        ...

    @property
    def log_peak_error(self) -> float:
        """A bound on its error."""
        ...

    @property
    def lost(self) -> float:
        """What delta lost at most when these steps' laws were cut off."""
        ...

    @property
    def log_lost_share(self) -> float:
        """Log of what e^{G(c)} lost, relatively: delta lost at most kappa(c) e^{G(c) - (c - 1) e} times that, too."""
        ...

    def upper(self, c: float) -> float:
        """Return a proved upper bound on G(c) at another c > 1, of the very laws that are under this tilt."""
        ...

    def log_beyond(self, y: float) -> float:
        """Return an upper bound on log |e^{G(c + iy') - G(c)}| for every |y'| >= y."""
        ...

    def log_cf(self, step: float, count: int) -> tuple[ComplexArray, FloatArray]:
        """Return G(c + iy) - G(c) at y = 0, step, ..., (count - 1) step, up to multiples of 2 pi i, and its error.

        Raises:
          OutOfReachError: that would take too long.
        """
        ...


class WholeLaw:
    """What steps say whose law is not cut off."""

    __slots__ = ()

    @property
    def lost(self) -> float:
        """Nothing."""
        return 0.0

    @property
    def log_lost_share(self) -> float:
        """Of nothing."""
        return -math.inf


class Part(Protocol):
    """The steps of one kind."""

    def moments(self, c: float) -> tuple[float, float, float]:
        """Return about G(c), G'(c), G''(c)."""
        ...

    def upper(self, c: float) -> Upper:
        """Return a proved upper bound on G(c), c >= 1/2."""
        ...

    def at(self, c: float, reach: float) -> TiltedPart:
        """Return the steps under the tilt c > 1, for |y| up to about `reach`."""
        ...
