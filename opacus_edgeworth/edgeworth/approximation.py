r"""The Edgeworth accountant of the papers: an estimate of delta (AEA), and a finite-sample interval (EEI).

With F_P and F_Q the distribution functions of the privacy-loss sum L under P and Q,

    delta_remove(e) = 1 - F_P(e) - e^e (1 - F_Q(e)),    delta_add(e) = F_Q(-e) - e^e F_P(-e),

AEA puts Edgeworth expansions in place of both. EEI knows how far a first-order expansion can be from the truth,
|F - F_1| <= r, uniformly and for that number of steps (`remainder`), so delta is within r_P + e^e r_Q of its estimate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq

from opacus_edgeworth._types import Direction, FloatArray
from opacus_edgeworth._validate import as_real, shown
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.edgeworth.cumulants import loss_cumulants, whole_grid
from opacus_edgeworth.edgeworth.estimate import Estimate, as_directions, as_positive_delta
from opacus_edgeworth.edgeworth.expansion import hermite_coefficients, standard_cdf
from opacus_edgeworth.edgeworth.finite_sample import finite_sample_remainder
from opacus_edgeworth.errors import EstimateWarning, InvalidParameterError
from opacus_edgeworth.inversion.grid import Grid

SCAN = 4001
"""Points of epsilon among which the last crossing of delta is looked for."""
FARTHEST = 40.0
"""How many standard deviations above the mean under P they reach."""

FARTHEST_SCORE = 100.0
"""Beyond it the expansion is 0 or 1, to the last bit, however large its polynomial."""

Hypothesis = Literal["P", "Q"]
HYPOTHESES: tuple[Hypothesis, ...] = ("P", "Q")
TILT: dict[Hypothesis, float] = {"P": 1.0, "Q": 0.0}


class EdgeworthApproximation(Estimate):
    """The papers' Edgeworth accountant for a training history: estimates, never bounds, but for `interval`.

    It understates delta in fine-tuning regimes, by up to 100 %; `PrivacyCurve` has proved bounds.

    Args:
      history: (noise_multiplier, sample_rate, steps) triples as Opacus keeps them, or (mechanism, steps) pairs.
      order: of the expansion, 0 (normal approximation) to 20; 1 is what EW-Tune used.

    Raises:
      InvalidParameterError: an entry is malformed or has no noise, or the order is outside its range.
      CertificationError: so many phases and so little noise that their losses do not fit a grid.

    Source:
      Wang, Gao, Zhang, Su & Shen 2022, "Analytical Composition of Differential Privacy via the Edgeworth Accountant",
      https://arxiv.org/abs/2206.04236 (AEA and EEI);
      Behnia, Ebrahimi, Pacheco & Padmanabhan 2022, "EW-Tune", https://arxiv.org/abs/2210.15042.

    Example:
      >>> estimate = EdgeworthApproximation([(1.1, 0.0042667, 14040)], order=1)
      >>> round(estimate.epsilon(1e-5), 3)
      2.423
    """

    __slots__ = ("_cumulants", "_expansions", "_grid")

    def __init__(self, history: Iterable[Any], *, order: int = 1) -> None:
        super().__init__(history, order)
        self._grid: Grid | None = whole_grid(self._steps) if self._steps.phases else None
        self._cumulants: dict[Hypothesis, FloatArray] = {}
        self._expansions: dict[Hypothesis, FloatArray] = {}
        if not self._steps.is_empty:
            for name in HYPOTHESES:
                tilt = TILT[name]
                self._cumulants[name] = loss_cumulants(self._grid, self._steps, tilt, max(self._order + 2, 4))
                self._expansions[name] = hermite_coefficients(self._cumulants[name], self._order)

    def cumulants(self, hypothesis: Hypothesis) -> FloatArray:
        """Return the cumulants of the privacy-loss sum log(dP/dQ) in nats: k_1, k_2, ... as far as they are used.

        Args:
          hypothesis: "P", the data with the example, or "Q", without it.
        """
        return self._of(self._cumulants, hypothesis).copy()

    def cdf(self, loss: float, hypothesis: Hypothesis = "P") -> float:
        """Return the estimate of the probability that the privacy-loss sum is at most `loss` (nats).

        Args:
          loss: any real number.
          hypothesis: "P", the data with the example, or "Q", without it.

        Returns:
          The expansion's value, which may lie outside [0, 1].

        Raises:
          InvalidParameterError: an argument is outside its range, or the history is empty.
        """
        coefficients = self._of(self._expansions, hypothesis)
        mean, variance = self._cumulants[hypothesis][:2]
        score = (as_real("loss", loss) - mean) / math.sqrt(variance)
        score = min(max(score, -FARTHEST_SCORE), FARTHEST_SCORE)
        return float(standard_cdf(np.array(score), coefficients))

    def epsilon(self, delta: float, direction: Direction | None = None) -> float:
        """Return the estimate of epsilon at delta: the last epsilon at which the estimate of delta falls to it.

        Args:
          delta: in (0, 1].
          direction: "remove" or "add"; the larger of the two by default.

        Returns:
          An estimate, not a bound; 0 if the estimate of delta never exceeds delta.

        Raises:
          InvalidParameterError: an argument is outside its range.
        """
        target, wanted = as_positive_delta(delta), as_directions(direction)
        return self._last_crossing(lambda e: self._deltas(e, wanted) - target)

    def interval(self, delta: float) -> Bounds:
        """Return EEI, the interval around the first-order estimate that holds for this number of steps.

        The remainder is a bound on the difference of distribution functions, the same for all losses, so it says
        nothing about a delta that is smaller than itself: an end that is not known is 0 or inf, and a warning says so.

        Args:
          delta: in (0, 1].

        Returns:
          Bounds on epsilon at delta, the larger of the two directions: true but for the rounding of moments, about
          1e-12 relative.

        Raises:
          InvalidParameterError: delta is outside its range.

        Source:
          The remainder: Derumigny, Girard & Guyonvarch 2024, https://arxiv.org/abs/2101.05780.
        """
        target = as_positive_delta(delta)
        if self._steps.is_empty:
            return Bounds(0.0, 0.0)
        of_p, of_q = self.remainder("P"), self.remainder("Q")
        first = self if self._order == 1 else EdgeworthApproximation(self._history, order=1)

        def room(epsilon: FloatArray) -> FloatArray:
            return of_p + np.exp(np.minimum(epsilon, 700.0)) * of_q

        upper = self._first_below(lambda e: first._deltas(e, as_directions(None)) + room(e) - target)
        lower = self._last_crossing(lambda e: first._deltas(e, as_directions(None)) - room(e) - target)
        if math.isinf(upper) or lower == 0.0:
            warnings.warn(
                f"EEI is vacuous at delta={target:g}: the expansion may be off by {of_p:.2g}, as far as is proved;"
                " PrivacyCurve(history).epsilon(delta) has proved bounds that are not",
                EstimateWarning,
                stacklevel=2,
            )
        return Bounds(min(lower, upper), upper)

    def remainder(self, hypothesis: Hypothesis = "P") -> float:
        """Return a proved bound on |F - F_1|, uniform in the loss, F_1 being the expansion of order 1.

        Args:
          hypothesis: "P", the data with the example, or "Q", without it.

        Raises:
          InvalidParameterError: there is no such hypothesis, or the history is empty.
        """
        self._of(self._cumulants, hypothesis)
        return finite_sample_remainder(self._history, self._grid, TILT[hypothesis])

    def _of(self, values: dict[Hypothesis, FloatArray], hypothesis: Hypothesis) -> FloatArray:
        """Return what belongs to a hypothesis."""
        if not isinstance(hypothesis, str) or hypothesis not in ("P", "Q"):
            raise InvalidParameterError(f'hypothesis={shown(hypothesis)} must be "P" or "Q"')
        if hypothesis not in values:
            raise InvalidParameterError("an empty history has a privacy loss of 0: there is nothing to expand")
        return values[hypothesis]

    def _cdf(self, loss: FloatArray, hypothesis: Hypothesis) -> FloatArray:
        """Return the expansion's distribution function at losses."""
        mean, variance = self._cumulants[hypothesis][:2]
        return standard_cdf((loss - mean) / math.sqrt(variance), self._expansions[hypothesis])

    def _delta(self, epsilon: float, direction: Direction) -> float:
        """Return one direction's estimate."""
        return float(np.clip(self._deltas(np.array([epsilon]), (direction,))[0], 0.0, 1.0))

    def _deltas(self, epsilon: FloatArray, directions: Sequence[Direction]) -> FloatArray:
        """Return the estimates of delta at finite epsilon, not cut off, the larger of these directions."""
        if self._steps.is_empty:
            return np.zeros_like(epsilon)
        with np.errstate(over="ignore", invalid="ignore"):
            growth = np.exp(np.minimum(epsilon, 700.0))
            # survival functions as the distribution functions of -L, so that small ones keep their digits
            remove = self._survival(epsilon, "P") - growth * self._survival(epsilon, "Q")
            add = self._cdf(-epsilon, "Q") - growth * self._cdf(-epsilon, "P")
        values = {"remove": remove, "add": add}
        return np.max([values[each] for each in directions], axis=0)

    def _survival(self, loss: FloatArray, hypothesis: Hypothesis) -> FloatArray:
        """Return 1 - the expansion's distribution function: He_s(-x) = (-1)^s He_s(x)."""
        mean, variance = self._cumulants[hypothesis][:2]
        coefficients = self._expansions[hypothesis]
        signs = (-1.0) ** np.arange(coefficients.size)
        return standard_cdf(-(loss - mean) / math.sqrt(variance), signs * coefficients)

    def _scan(self) -> FloatArray:
        """Return epsilons from 0 to where nothing is left."""
        mean, variance = self._cumulants["P"][:2] if not self._steps.is_empty else (0.0, 1.0)
        last = max(mean, 0.0) + FARTHEST * math.sqrt(variance)
        return np.linspace(0.0, last, SCAN)

    def _last_crossing(self, excess: Callable[[FloatArray], FloatArray]) -> float:
        """Return the last epsilon at which a function falls to 0; 0 if it is nowhere positive."""
        points = self._scan()
        above = np.flatnonzero(excess(points) > 0.0)
        if not above.size:
            return 0.0
        k = int(above[-1])
        return _root(excess, points[k], points[k + 1]) if k + 1 < points.size else math.inf

    def _first_below(self, excess: Callable[[FloatArray], FloatArray]) -> float:
        """Return the first epsilon at which a function is at most 0; inf if there is none."""
        points = self._scan()
        below = np.flatnonzero(excess(points) <= 0.0)
        if not below.size:
            return math.inf
        k = int(below[0])
        return _root(excess, points[k - 1], points[k], up=True) if k else 0.0


def _root(excess: Callable[[FloatArray], FloatArray], low: float, high: float, *, up: bool = False) -> float:
    """Return the zero between two points, with `up` one at which the function is at most 0."""
    root = brentq(lambda e: float(excess(np.array([e]))[0]), low, high, xtol=1e-13)
    while up and float(excess(np.array([root]))[0]) > 0.0:
        root = min(root + 1e-13 * max(high, 1.0), float(high))
    return root
