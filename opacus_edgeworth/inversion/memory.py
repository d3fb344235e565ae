"""What a training run that asks for epsilon after every step need not compute again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from opacus_edgeworth._types import FloatArray
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.inversion.engines import (
    Table,
    epsilon_by_table,
    history_epsilon,
    history_epsilon_and_table,
)

MAX_TABLES = 4
"""How many tables are kept, those of the last questions."""


class Memory:
    """Tables for about the numbers of steps that were asked for last.

    Tables are made for numbers of steps of two significant bits, and they serve all that are rounded to those. So
    the answer depends on the question alone, not on what was asked before.
    """

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: dict[tuple[bytes, ...], tuple[Table | None, float]] = {}

    def epsilon(self, steps: Composition, delta: float) -> Bounds:
        """Return bounds on epsilon at delta in [0, 1]; the larger of the two directions."""
        if not (steps.phases and steps.log_hidden == 0.0 and 0.0 < delta < 1.0):
            return history_epsilon(steps, delta)
        about = replace(steps, steps=_rounded(steps.steps), gaussian=float(_rounded(np.array([steps.gaussian]))[0]))
        numbers = (about.noise_multiplier, about.sample_rate, about.steps, np.array([about.gaussian, delta]))
        key = tuple(array.tobytes() for array in numbers)
        entry = self._tables.get(key)
        if entry is None:
            keep: list[Table] = []
            found = history_epsilon_and_table(about, delta, keep)
            entry = (keep[-1] if keep else None, found.upper)
            # replaced, not altered: another thread may be reading
            self._tables = dict([*list(self._tables.items())[1 - MAX_TABLES :], (key, entry)])
        table, start = entry
        known = None if table is None else epsilon_by_table(table, steps, delta, start)
        return history_epsilon(steps, delta) if known is None else known


def _rounded(numbers: FloatArray) -> FloatArray:
    """Return the numbers rounded to two significant bits; whole ones stay whole."""
    mantissa, exponent = np.frexp(numbers)
    return np.ldexp(np.rint(4.0 * mantissa) / 4.0, exponent)
