"""Chains: delta of rare events as the sum of a first law's, by a line or a Chernoff bound, and of links."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from scipy.optimize import brentq

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.certain import Certain, CertainTable, certain_table
from opacus_edgeworth.inversion.contour import LineTable, further_lines, make_lines
from opacus_edgeworth.inversion.grid import make_grid
from opacus_edgeworth.inversion.law import Law, law_for_tilt, sum_of_masses
from opacus_edgeworth.inversion.line import Chernoff, Line, log_chernoff
from opacus_edgeworth.inversion.link import LinkTable, further_link, make_link
from opacus_edgeworth.inversion.quadrature import log_mgf_upper
from opacus_edgeworth.inversion.route import Piece, Router
from opacus_edgeworth.mechanisms import ULP

MAX_DETOURS = 24
MAX_REVISIONS, LOWEST, HIGHEST, SMALLEST = 8, 1e-3, 3.0, 1e-3
"""How often tables are made anew for an epsilon, which lies between these multiples of the last one."""
NEAR = 1.0
"""How near to the delta that there is the one must be, in log, that tables are for."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Delta as the sum of lines and links.

    Args:
      lines: the line of the first law, unless that is negligible, and the links.
      negligible: (c, upper bound on G(c)) of the first law, if it has no line.
      left_out: what delta may have beyond the last barrier, and at the end of the first law.
    """

    lines: tuple[Line | Certain, ...]
    negligible: tuple[float, float] | None
    left_out: float

    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on delta at any real epsilon; sharp near the one that the chain was made for."""
        parts = [line.delta(epsilon) for line in self.lines]
        lower, upper = math.fsum(part.lower for part in parts), math.fsum(part.upper for part in parts)
        upper += self.left_out
        if self.negligible is not None:
            upper += math.exp(min(log_chernoff(*self.negligible, epsilon), 700.0))
        return Bounds(min(lower * (1.0 - 4.0 * ULP), 1.0), min(upper * (1.0 + 4.0 * ULP), 1.0))


PieceTable: TypeAlias = LineTable | LinkTable | CertainTable


@dataclass(frozen=True, slots=True)
class ChainTable:
    """Chains along one route, for any number of steps of these phases.

    `product` and `joined` are as in `LineTable`.

    Args:
      first: the first law's line, or `negligible` its Chernoff bound.
      links: what follows.
      left_out: (P,), what the end of the first law and the last barrier take from delta, per step.
      path: the barriers of the phases that the table was chosen for: where those of further ones should be.
    """

    first: LineTable | None
    negligible: Chernoff | None
    links: tuple[LinkTable | CertainTable, ...]
    left_out: FloatArray
    path: Path

    def chain(self, steps: Composition) -> Chain:
        """Return the chain for these numbers of steps; true for any, sharp for about those that it was made for."""
        lines: list[Line | Certain] = [link.line(steps) for link in self.links]
        if self.first is not None:  # the barrier takes nothing, since links follow
            lines.insert(0, replace(self.first.lines(steps)[0], cut_off=0.0))
        left_out = sum_of_masses(self.left_out, steps.steps)
        return Chain(tuple(lines), None if self.negligible is None else self.negligible.bounds(steps)[1], left_out)

    def product(self, counts: FloatArray) -> ChainTable:
        """Return the table of one phase, one step of which is so many steps of each of these."""
        return replace(
            self,
            first=None if self.first is None else self.first.product(counts),
            negligible=None if self.negligible is None else self.negligible.product(counts),
            links=tuple(link.product(counts) for link in self.links),
            left_out=np.array([sum_of_masses(self.left_out, counts)]),
        )

    def joined(self, more: ChainTable) -> ChainTable:
        """Return the table of these phases and of more, which is on the same nodes."""
        first, negligible = self.first, self.negligible
        links = (link.joined(other) for link, other in zip(self.links, more.links, strict=True))  # type: ignore[arg-type]
        return replace(
            self,
            first=None if first is None or more.first is None else first.joined(more.first),
            negligible=None if negligible is None or more.negligible is None else negligible.joined(more.negligible),
            links=tuple(links),
            left_out=np.append(self.left_out, more.left_out),
        )


@dataclass(frozen=True, slots=True)
class Path:
    """The barriers of a chain, first to last, (P, 1) each, of widths `soft`; `c` is the first line's."""

    steps: Composition
    soft: FloatArray
    barriers: tuple[FloatArray, ...]
    c: float


def further_chain(
    table: ChainTable, steps: Composition, soft: FloatArray, barriers: list[FloatArray], decaying: bool = True
) -> ChainTable:
    """Return the table's chain, on the same nodes, for other phases with barriers like those of the table's `path`.

    Every term is computed anew for them; only the choices are the table's. The barriers between two pieces are the same
    in both, whatever they are. `decaying` is as in `contour.further_lines`.

    Raises:
      OutOfReachError: a grid would be too large.
    """
    path = table.path
    law = law_for_tilt(steps, path.c, soft, barriers[0])
    last = law_for_tilt(steps, 1.0, soft, barriers[-1])
    links: list[LinkTable | CertainTable] = []
    for link, below, barrier in zip(table.links, barriers[:-1], barriers[1:], strict=True):
        if isinstance(link, CertainTable):
            links.append(certain_table(steps, soft, below, barrier))
        else:
            links.append(further_link(link, steps, soft, below, barrier, decaying))
    return replace(
        table,
        first=None if table.first is None else further_lines(table.first, steps, law, decaying),
        negligible=None if table.negligible is None else _negligible(law, path.c),
        links=tuple(links),
        left_out=last.most_lost() + law.end_lost(),
    )


def chain_for_epsilon(router: Router, epsilon: float) -> ChainTable:
    """Return a chain of lines for delta near an epsilon other than 0, in the remove direction.

    Raises:
      OutOfReachError: there is no affordable one.
    """
    steps = router.steps
    tables: dict[tuple[int, int], PieceTable] = {}
    avoid: set[tuple[int, int]] = set()
    offers = router.offers(epsilon)
    for _ in range(MAX_DETOURS):
        pieces = router.route(epsilon, offers, avoid)
        log_delta = float(np.logaddexp.reduce([piece.log_value for piece in pieces]))
        piece = pieces[0]
        try:
            for piece in pieces:
                if piece.method != "chernoff" and piece.ends not in tables:
                    tables[piece.ends] = _make_table(steps, piece, epsilon, log_delta)
        except OutOfReachError:
            avoid.add(piece.ends)  # go another way
            continue
        return _chain(steps, pieces, tables)
    raise OutOfReachError("too many detours")


def _chain(steps: Composition, pieces: list[Piece], tables: dict[tuple[int, int], PieceTable]) -> ChainTable:
    """Return the chain of these pieces, whose tables are there."""
    piece = pieces[0]
    law = law_for_tilt(steps, piece.c, piece.soft, piece.barrier)
    first = negligible = None
    if piece.method == "chernoff":
        negligible = _negligible(law, piece.c)
    else:
        first = tables[piece.ends]
        assert isinstance(first, LineTable)
    links = [tables[piece.ends] for piece in pieces[1:]]
    last = law_for_tilt(steps, 1.0, piece.soft, pieces[-1].barrier)
    return ChainTable(
        first,
        negligible,
        tuple(link for link in links if not isinstance(link, LineTable)),
        last.most_lost() + law.end_lost(),
        Path(steps, piece.soft, tuple(p.barrier for p in pieces), piece.c),
    )


def _negligible(law: Law, c: float) -> Chernoff:
    """Return the Chernoff bound on a first law at c."""
    points = np.array([c])
    return Chernoff(points, log_mgf_upper(make_grid(law, 0.0, c, 0.0), points))


def _make_table(steps: Composition, piece: Piece, epsilon: float, log_delta: float) -> PieceTable:
    """Return the table for a piece."""
    if piece.below is not None and piece.method == "certain":
        return certain_table(steps, piece.soft, piece.below, piece.barrier)
    if piece.below is not None:
        return make_link(steps, piece, epsilon, log_delta)
    law = law_for_tilt(steps, piece.c, piece.soft, piece.barrier)
    return make_lines(make_grid(law, 0.0, piece.c, 0.0), piece.c, ("remove",), epsilon)


def router_for_epsilon(steps: Composition, epsilon: float, log_most: float) -> Router:
    """Return tables for about the delta that there is at epsilon, whose log is at most `log_most`.

    Raises:
      OutOfReachError: they would be too large.
    """
    router = Router(steps, log_most, epsilon)
    for _ in range(MAX_REVISIONS):
        log_value = min(router.log_value(epsilon) + 0.5, log_most)
        if abs(log_value - router.log_delta) < NEAR:
            break
        router = Router(steps, log_value, epsilon)
    return router


def router_for_delta(steps: Composition, delta: float, start: float) -> tuple[Router, float]:
    """Return tables for about the epsilon at which `delta` is reached, and that epsilon; `start` is a first guess.

    If delta(0) is less, the epsilon is SMALLEST times delta.

    Raises:
      OutOfReachError: none is found.
    """
    log_delta, epsilon = math.log(delta), start
    for _ in range(MAX_REVISIONS):
        router = Router(steps, log_delta, epsilon)
        low, high = max(epsilon * LOWEST, SMALLEST * delta), epsilon * HIGHEST
        if not router.log_value(low) > log_delta:
            found = low
        elif not router.log_value(high) < log_delta:
            found = high
        else:
            found = _crossing(router, low, high)
        if 0.7 < found / epsilon < 1.4 or found == SMALLEST * delta:
            return router, found
        epsilon = found
    raise OutOfReachError("no epsilon")


def _crossing(router: Router, low: float, high: float) -> float:
    """Return about the epsilon between the two at which the router's delta is reached."""

    def excess(log_epsilon: float) -> float:
        return router.log_value(math.exp(log_epsilon)) - router.log_delta

    root = brentq(excess, math.log(low), math.log(high), xtol=1e-3)
    assert isinstance(root, float)
    return math.exp(root)
