"""Panels of Gauss-Legendre rules along the oracle's paths, halved until they resolve what is integrated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from oracle_laws import FINE_SHARES, Problem
from oracle_paths import RISE, Route

MOST_PANELS = 300
"""Panels beyond which none is halved."""
NODES = 16
"""Gauss-Legendre nodes per panel that panels are laid out for."""

_ABSCISSA, _WEIGHT = np.polynomial.legendre.leggauss(NODES)
_TAIL = np.array([np.polynomial.legendre.Legendre.basis(k)(_ABSCISSA) * (k + 0.5) * _WEIGHT for k in range(8, 16)])


@dataclass(frozen=True)
class _Panel:
    """A panel in t, its share of the integral, the last Legendre coefficients, the largest value and its rounding.

    Coefficients, those before and the largest value are times half the length; rounding is relative to that value.
    """

    start: float
    end: float
    value: complex
    before: float
    tail: float
    size: float
    blur: float

    @property
    def error(self) -> float:
        """About the error of the rule, exact for twice as many coefficients as are known; they may level off."""
        return self.tail * max(min(1.0, self.tail / max(self.before, 1e-300)) ** 3, self.tail / max(self.size, 1e-300))

    @property
    def halves(self) -> list[tuple[float, float]]:
        """The ends of its halves."""
        middle = 0.5 * (self.start + self.end)
        return [(self.start, middle), (middle, self.end)]


def lay_panels(problem: Problem, index: int, route: Route) -> tuple[list[tuple[float, float]], complex, float]:
    """Return the panels in t, the integral over e^peak, and the largest modulus times the length it acts on.

    A panel stays whole if its coefficients fall and its halves together say the same as it does.
    """
    problem.fine = 1
    count = max(2, math.ceil(route.end / 1.5))
    pending = _measured(
        problem, index, route, [(route.end * k / count, route.end * (k + 1) / count) for k in range(count)]
    )
    done: list[tuple[_Panel, _Panel, _Panel]] = []
    while pending:
        parts = _measured(problem, index, route, [half for panel in pending for half in panel.halves])
        done += zip(pending, parts[::2], parts[1::2], strict=True)
        total = sum(left.value + right.value for _, left, right in done)
        largest = max(panel.size for panel, *_ in done)
        limit = max(3e-13 * abs(total.imag), 1e-18 * largest)  # a first total may be far too large: look at all again
        poor = [item for item in done if not _is_resolved(*item, limit)]
        done = [item for item in done if item not in poor]
        pending = [half for _, left, right in poor for half in (left, right)]
        if len(done) + len(pending) > MOST_PANELS:  # the levels will tell whether that does
            break
    panels = [(panel.start, panel.end) for panel in pending]
    for panel, *_ in done:  # where rounding hides the differences, one more halving makes up for it
        panels += panel.halves if panel.blur * panel.size > 1e3 * limit else [(panel.start, panel.end)]
    return sorted(panels), total, largest


def _is_resolved(panel: _Panel, left: _Panel, right: _Panel, limit: float) -> bool:
    """Return whether a panel's error is about the limit or hidden by rounding."""
    if panel.end - panel.start <= 2e-3:
        return True
    rounding = panel.blur * panel.size
    falling = panel.tail <= rounding or panel.error <= limit
    return falling and abs(panel.value - left.value - right.value) <= max(10 * limit, 4 * rounding)


def _measured(problem: Problem, index: int, route: Route, ends: list[tuple[float, float]]) -> list[_Panel]:
    """Return panels with what is to be known of them.

    Raises:
      ArithmeticError: the integrand rises far above its start.
    """
    t = np.concatenate([0.5 * (a + b) + 0.5 * (b - a) * _ABSCISSA for a, b in ends])
    zeta, slope = route.path.zeta(t)
    pieces = np.array_split(zeta, math.ceil(zeta.size / 64))
    value = np.concatenate([problem.log_integrand(piece, index, FINE_SHARES) for piece in pieces])
    phase = abs(value.imag).reshape(-1, NODES).max(1)
    value = (np.exp(value - route.peak) * slope).reshape(-1, NODES)
    if not abs(value).max() < math.exp(RISE + 3) * route.path.scale:
        raise ArithmeticError("mountains")
    blur = 1e-13 + 4e-16 * phase + problem.rounding(zeta.reshape(-1, NODES)[:, NODES // 2], index)
    half = np.array([0.5 * (b - a) for a, b in ends])
    sums, sizes = half * (value * _WEIGHT).sum(1), half * abs(value).max(1)
    tails = half[:, None] * abs(np.einsum("ij,kj->ik", value, _TAIL))
    before, after = tails[:, :4].max(1), tails[:, 4:].max(1)
    return [
        _Panel(*end, complex(total), *map(float, rest))
        for end, total, *rest in zip(ends, sums, before, after, sizes, blur, strict=True)
    ]
