"""Means over seeds with confidence intervals, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Args:
      value: the mean.
      half: half the width of its confidence interval (Student's t, 95 %).
      deviation: standard deviation of one value.
      count: number of values.
    """

    value: float
    half: float
    deviation: float
    count: int

    def percent(self) -> str:
        """As a share, with its interval."""
        return f"{100.0 * self.value:.2f}" + (f" ± {100.0 * self.half:.2f}" if self.count > 1 else "")

    def points(self) -> str:
        """As a difference in percentage points, with its interval."""
        return f"{100.0 * self.value:+.2f} ± {100.0 * self.half:.2f}"


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of independent values."""
    array = np.asarray(values, dtype=float)
    count = array.size
    deviation = float(array.std(ddof=1)) if count > 1 else math.nan
    half = float(stats.t.ppf(0.5 + 0.5 * LEVEL, count - 1)) * deviation / math.sqrt(count) if count > 1 else math.nan
    return Mean(float(array.mean()), half, deviation, count)


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[Mean, float]:
    """Return the mean of first - second over pairs with the same seed, and the p-value of the paired t-test."""
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    mean = mean_of(difference.tolist())
    if not mean.deviation > 0.0:
        return mean, math.nan
    test: Any = stats.ttest_1samp(difference, 0.0)
    return mean, float(test.pvalue)


def seeds_to_see(effect: float, deviation: float) -> int:
    """Return about how many pairs a paired t-test needs to see an effect (5 % two-sided, power 80 %)."""
    return math.ceil((2.8 * deviation / effect) ** 2) + 2
