"""Pictures (`pip install opacus_edgeworth[plots]`): every function draws on the axes it is given, or on new ones.

They are made to be read in print and without colour: shades of grey, line styles, markers. What is drawn of a curve is
the proved band, whose safe side is the solid line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.extras import require_extra
from opacus_edgeworth.rounding import at_most

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_DELTA = 1e-12
"""Down to which a curve is drawn by default."""
LEAST_RATE = 1e-6
"""The least false positive rate of a picture with logarithmic axes."""
STYLES = ("-", "--", "-.", ":", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))
MARKERS = "os^Dv<>P"


class Curve(Protocol):
    """What is drawn of a privacy curve."""

    def delta(self, epsilon: float) -> Bounds:
        """Return bounds on delta."""
        ...

    def epsilon(self, delta: float) -> Bounds:
        """Return bounds on epsilon."""
        ...

    def true_positive_rate(self, false_positive_rate: ArrayLike) -> Any:
        """Return bounds on the best attack's true positive rates."""
        ...


class Point(Protocol):
    """What is drawn of one way to train."""

    @property
    def batch_size(self) -> int:
        """Expected number of examples in a step."""
        ...

    @property
    def epochs(self) -> float:
        """Passes over the data."""
        ...

    @property
    def noise_per_example(self) -> float:
        """Noise over batch size."""
        ...


class Plan(Protocol):
    """What is drawn of a plan."""

    @property
    def target(self) -> str:
        """What is met."""
        ...

    @property
    def points(self) -> Sequence[Point]:
        """Ways to train."""
        ...


def plot_delta(
    curve: Curve,
    *,
    epsilons: ArrayLike | None = None,
    delta: float | None = None,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw delta as a function of epsilon, with its proved band.

    Args:
      curve: a PrivacyCurve.
      epsilons: where it is computed; by default 100 points from 0 to epsilon at delta = 1e-12.
      delta: in (0, 1); the point that is claimed at it is marked.
      label: for the legend.
      ax: axes to draw on; new ones by default.

    Returns:
      The axes.
    """
    axes = _axes(ax)
    if epsilons is None:
        largest = curve.epsilon(LEAST_DELTA).upper
        epsilons = np.linspace(0.0, largest if 0.0 < largest < math.inf else 1.0, 100)
    where = np.asarray(epsilons, dtype=float)
    found = [curve.delta(float(epsilon)) for epsilon in where]
    upper, lower = np.array([b.upper for b in found]), np.array([b.lower for b in found])
    shown = upper > 0.0
    (line,) = axes.plot(where[shown], upper[shown], color="black", linestyle=_style(axes), label=label)
    axes.fill_between(where, np.maximum(lower, 1e-300), upper, color="0.75", linewidth=0.0)
    axes.set(xlabel="ε", ylabel="δ", yscale="log")
    if shown.any():
        axes.set_ylim(max(float(upper[shown].min()), LEAST_DELTA) * 0.5, 1.0)
    if delta is not None:
        claimed = curve.epsilon(delta).upper
        axes.plot([claimed], [delta], "o", color=line.get_color())
        axes.annotate(
            f"ε ≤ {at_most(claimed, 4)} at δ = {delta:g}", (claimed, delta), xytext=(8, 8), textcoords="offset points"
        )
    axes.grid(color="0.9")
    return axes


def plot_tradeoff(
    curve: Curve,
    *,
    log: bool = False,
    label: str | None = None,
    regions: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the most that membership inference can attain: true positive rate against false positive rate.

    Args:
      curve: a PrivacyCurve.
      log: logarithmic axes, for attacks that hardly ever err.
      label: for the legend.
      regions: shade what is proved impossible, and draw guessing.
      ax: axes to draw on; new ones by default.

    Returns:
      The axes.
    """
    axes = _axes(ax)
    # chords lie below a concave curve: close together where it is steep
    steep = np.geomspace(LEAST_RATE, 0.1, 40)
    rates = np.geomspace(LEAST_RATE, 1.0, 80) if log else np.union1d(np.linspace(0.0, 1.0, 81), steep)
    best = np.array([bounds.upper for bounds in curve.true_positive_rate(rates)])
    if regions:
        axes.fill_between(rates, best, 1.0, color="0.92", linewidth=0.0)
        axes.plot(rates, rates, color="0.5", linestyle=":", linewidth=1.0)
        axes.annotate(
            "no attack gets here", (0.04, 0.95), xycoords="axes fraction", va="top", color="0.3", fontsize="small"
        )
        axes.annotate(
            "guessing", (0.78, 0.72), xycoords="axes fraction", rotation=0, color="0.3", fontsize="small", va="top"
        )
    axes.plot(rates, best, color="black", linestyle=_style(axes), label=label)
    axes.set(xlabel="false positive rate", ylabel="true positive rate, at most", xlim=(rates[0], 1.0))
    if log:
        axes.set(xscale="log", yscale="log", ylim=(LEAST_RATE, 1.0))
    else:
        axes.set(ylim=(0.0, 1.0), aspect="equal")
    axes.grid(color="0.9")
    return axes


def plot_epsilon_over_steps(
    steps: ArrayLike,
    epsilons: Mapping[str, ArrayLike],
    *,
    target: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw epsilon over the steps of a run, as several accountants see it.

    Args:
      steps: (N,), numbers of steps.
      epsilons: a name and (N,) values for every accountant; the first one is drawn black and solid.
      target: the budget, drawn as a line.
      ax: axes to draw on; new ones by default.

    Returns:
      The axes.

    Raises:
      InvalidParameterError: an accountant has not as many values as there are steps.
    """
    axes = _axes(ax)
    where = np.asarray(steps)
    marks = max(len(where) // 8, 1)
    for index, (name, values) in enumerate(epsilons.items()):
        value = np.asarray(values, dtype=float)
        if value.shape != where.shape:
            raise InvalidParameterError(
                f"epsilons[{name!r}] has shape {value.shape}; one for each of {where.size} steps"
            )
        axes.plot(
            where, value, color=str(0.55 * index / max(len(epsilons) - 1, 1)), linestyle=STYLES[index % len(STYLES)],
            marker=MARKERS[index % len(MARKERS)], markevery=(index, marks), markersize=4, label=name,
        )  # fmt: skip
    if target is not None:
        axes.axhline(target, color="0.6", linewidth=1.0)
        axes.annotate("budget", (float(where.min()), target), xytext=(2, 3), textcoords="offset points", color="0.4")
    axes.set(xlabel="steps", ylabel="ε")
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False)
    axes.grid(color="0.9")
    return axes


def plot_plan(plan: Plan, *, ax: Axes | None = None) -> Axes:
    """Draw the noise per example against the batch size, a line for every number of epochs.

    Args:
      plan: as `opacus_edgeworth.plan` returns it.
      ax: axes to draw on; new ones by default.

    Returns:
      The axes.
    """
    axes = _axes(ax)
    ordered = sorted(plan.points, key=lambda point: (point.epochs, point.batch_size))
    groups = [(epochs, list(points)) for epochs, points in itertools.groupby(ordered, key=lambda point: point.epochs)]
    for index, (epochs, points) in enumerate(groups):
        axes.plot(
            [point.batch_size for point in points],
            [point.noise_per_example for point in points],
            color=str(0.6 * index / max(len(groups) - 1, 1)),
            linestyle=STYLES[index % len(STYLES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            label=f"{epochs:g}",
        )
    axes.set(xlabel="batch size", ylabel="noise multiplier / batch size", xscale="log", yscale="log", title=plan.target)
    axes.legend(title="epochs", frameon=False)
    axes.grid(color="0.9", which="both", linewidth=0.5)
    return axes


def plot_map(
    noise_multipliers: Iterable[float],
    sample_rates: Iterable[float],
    values: Iterable[float],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a map of regimes, such as of the bounds' width or the time that they take.

    Args:
      noise_multipliers: (N,) of the regimes.
      sample_rates: (N,).
      values: (N,), positive, one for each regime; the largest are drawn on top.
      label: what they are.
      limits: ends of the scale; the values' by default.
      ax: axes to draw on; new ones by default.

    Returns:
      The axes.
    """
    axes = _axes(ax)
    from matplotlib.colors import LogNorm  # only now is it known to be there

    noise, rate, value = (np.array(list(column), dtype=float) for column in (noise_multipliers, sample_rates, values))
    low, high = limits if limits is not None else (float(value.min()), float(value.max()))
    order = np.argsort(value)
    points = axes.scatter(
        noise[order], rate[order], c=np.clip(value[order], low, high), s=7, norm=LogNorm(low, high), cmap="viridis_r",
        linewidths=0,
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="noise multiplier", ylabel="sample rate")
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(points, ax=axes, label=label)
    return axes


def _axes(ax: Axes | None) -> Axes:
    """Return axes to draw on."""
    if ax is not None:
        return ax
    require_extra("plots", "matplotlib")
    from matplotlib import pyplot as plt  # only where a picture is asked for

    _, axes = plt.subplots(figsize=(5.5, 4.0), layout="constrained")
    return axes


def _style(axes: Axes) -> Any:
    """Return the next line style of curves on the axes: black lines are told apart by it."""
    curves = [line for line in axes.get_lines() if line.get_color() == "black" and len(line.get_xdata()) > 1]  # type: ignore[arg-type]
    return STYLES[len(curves) % len(STYLES)]
