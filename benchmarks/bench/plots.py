"""The results as pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.peers import OURS
from bench.sections import Record

FLOOR = 1e-13
"""Where an excess of 0 is drawn on a logarithmic axis."""
MARKERS = "osD^vPX<>*h"
LOG_TARGET = (300, 1.5)
PHASES_TARGET = (1000, 0.5)


def write_plots(folder: Path, prefix: str, records: list[Record], peers: list[str]) -> list[str]:
    """Write every plot that has data and return the file names."""
    mpl.use("Agg")
    drawings: dict[str, Callable[[list[Record], list[str]], Any]] = {
        "epsilon": _epsilon,
        "noise": _noise,
        "steps": _steps,
        "phases": _phases,
        "log": _log,
    }
    names = []
    for name, draw in drawings.items():
        section = "ordinary" if name == "epsilon" else name
        rows = [r for r in records if r.section == section and (r.status == "answered" or r.marks)]
        if rows:
            figure = draw(rows, peers)
            file = f"{prefix}_{name}.png"
            figure.savefig(folder / file, dpi=130, bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
            names.append(file)
    return names


def _style(peers: list[str], name: str) -> dict[str, Any]:
    """Return one accountant's colour and marker, the same in every plot; ours in black."""
    index = peers.index(name)
    colour = "black" if name == OURS else mpl.colormaps["tab10"]((index - 1) % 10)
    return {"color": colour, "marker": MARKERS[index % len(MARKERS)], "zorder": 5 if name == OURS else 3}


def _scatter(axes: Axes, rows: list[Record], peers: list[str], own_error: Callable[[Record], float]) -> None:
    """Draw error against time; answers below the truth are hollow, at the size of their error."""
    for name in [peer for peer in peers if any(r.peer == peer for r in rows)]:
        style = _style(peers, name)
        for below in (False, True):
            chosen = [r for r in rows if r.peer == name and (r.verdict == "below") == below]
            if not chosen:
                continue
            errors = [own_error(r) if name == OURS else abs(r.excess) for r in chosen]
            axes.scatter(
                [1e3 * r.seconds for r in chosen],
                [max(error, FLOOR) for error in errors],
                s=46 if name == OURS else 34,
                facecolors="none" if below else style["color"],
                edgecolors=[style["color"]],
                marker=style["marker"],
                zorder=style["zorder"],
                alpha=0.9,
                label=None if below and any(r.peer == name and r.verdict != "below" for r in rows) else name,
            )
    axes.set(xscale="log", yscale="log", xlabel="time of one call (ms)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _epsilon(rows: list[Record], peers: list[str]) -> Any:
    """Draw epsilon's error against its time."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    _scatter(axes, rows, peers, lambda r: r.width)
    axes.set(ylabel="relative error of epsilon", title="Epsilon of ordinary histories (hollow: below the truth)")
    return figure


def _noise(rows: list[Record], peers: list[str]) -> Any:
    """Draw the noise multiplier's error against its time."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    _scatter(axes, rows, peers, lambda r: (r.value - r.lower) / r.value)
    axes.set(
        xlabel="time of the search (ms)",
        ylabel="relative error of the noise multiplier",
        title="Noise for a privacy target (hollow: too little)",
    )
    return figure


def _lines(axes: Axes, rows: list[Record], peers: list[str], value: Callable[[Record], float]) -> None:
    """Draw one line for each accountant over the sizes of a series."""
    for name in peers:
        points = [(r.size, value(r)) for r in rows if r.peer == name and not math.isnan(value(r))]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, markersize=4.5, linewidth=1.2, **_style(peers, name))
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)


def _steps(rows: list[Record], peers: list[str]) -> Any:
    """Draw time and memory over the number of steps."""
    return _time_and_memory(rows, peers, "steps, noise multiplier 1, sample rate 0.001")


def _phases(rows: list[Record], peers: list[str]) -> Any:
    """Draw time and memory over the number of phases."""
    figure = _time_and_memory(rows, peers, "distinct phases of 10 steps")
    figure.axes[0].plot(*PHASES_TARGET, "r_", markersize=16, markeredgewidth=2)
    figure.axes[0].annotate("our target", PHASES_TARGET, (-8, 6), textcoords="offset points", fontsize=7, color="r")
    return figure


def _time_and_memory(rows: list[Record], peers: list[str], xlabel: str) -> Any:
    """Draw time and memory of a growing history side by side."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6))
    _lines(left, rows, peers, lambda r: r.seconds)
    left.set(xlabel=xlabel, ylabel="time of one call (s)", title="Time")
    _lines(right, rows, peers, lambda r: max(r.added_mib, 1.0))
    right.set(xlabel=xlabel, ylabel="memory that the call added (MiB)", title="Memory")
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def _log(rows: list[Record], peers: list[str]) -> Any:
    """Draw the time since the start of a run that logs epsilon at each step."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    for record in sorted(rows, key=lambda r: peers.index(r.peer)):
        style = _style(peers, record.peer)
        steps, seconds = [mark[0] for mark in record.marks], [mark[1] for mark in record.marks]
        if record.status == "timeout":  # as far as it got
            steps, seconds = [*steps, int(record.value)], [*seconds, record.seconds]
        axes.plot(steps, seconds, label=record.peer, markersize=4.5, linewidth=1.2, **style)
    axes.plot(*LOG_TARGET, "r_", markersize=16, markeredgewidth=2)
    axes.annotate("our target", LOG_TARGET, (-12, 6), textcoords="offset points", fontsize=7, color="r")
    axes.set(
        xscale="log", yscale="log", xlabel="step", ylabel="time since the start (s)",
        title="Epsilon logged at each step",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure
