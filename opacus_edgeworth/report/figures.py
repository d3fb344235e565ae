"""Figures of a report: SVG that lies in the page, drawn by `opacus_edgeworth.plotting`; text stays text."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from opacus_edgeworth.plotting import plot_delta, plot_tradeoff
from opacus_edgeworth.report.measures import is_finite
from opacus_edgeworth.report.numbers import exact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from opacus_edgeworth.report.content import Report

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
}
WIDTH = 7.2
"""Inches: as wide as the text of a page."""


def delta_figure(report: Report) -> str:
    """Return the picture of the curve, "" where there is none to draw."""
    if not is_finite(report.curve, report.delta):
        return ""
    upper, _ = report.claim

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        plot_delta(report.curve, ax=axes)
        axes.plot([upper.value], [report.delta], "o", color="black")
        beside = axes.get_xlim()[1] > 1.6 * upper.value
        axes.annotate(
            f"claim: ε ≤ {upper.text} at δ = {exact(report.delta)}", (upper.value, report.delta),
            xytext=(8 if beside else -8, 8), textcoords="offset points", ha="left" if beside else "right",
        )  # fmt: skip
        axes.set(ylabel="δ, at most")

    title = "δ as a function of ε"
    words = f"A falling line from ε = 0 on; the claim, ε ≤ {upper.text} at δ = {exact(report.delta)}, is a point on it."
    return _svg(draw, 2.9, "delta", title, words)


def tradeoff_figure(report: Report) -> str:
    """Return the picture of the best attack, "" where there is none to draw."""
    if not is_finite(report.curve, report.delta):
        return ""

    def draw(figure: Figure) -> None:
        plain, close = figure.subplots(1, 2)
        plot_tradeoff(report.curve, ax=plain)
        plot_tradeoff(report.curve, log=True, ax=close)
        for axes in (plain, close):
            _in_short(axes)
        close.set_title("the same, few false alarms", fontsize=9.0)
        plain.set_title("membership inference", fontsize=9.0)

    title = "The best membership inference attack"
    words = (
        "True positive rate against false positive rate, on plain and on logarithmic axes. Between the diagonal, which"
        " is guessing, and the line lies what an attack may reach; above the line, what none does. The table below has"
        " the numbers."
    )
    return _svg(draw, 3.3, "tradeoff", title, words)


def _in_short(axes: Axes) -> None:
    """Say on the axes what is meant in words of the page."""
    axes.set(xlabel="false alarms", ylabel="members found, at most")


def _svg(draw: Any, height: float, name: str, title: str, words: str) -> str:
    """Return a figure as an element of HTML with a title and a description for who does not see it."""
    from matplotlib import rc_context  # takes long, and is optional
    from matplotlib.figure import Figure

    text = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _as_element(text.getvalue(), name, title, words)


def _as_element(svg: str, name: str, title: str, words: str) -> str:
    """Return an SVG document as an element: no prologue, names of its own, a role and a title."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", body, flags=re.DOTALL)  # a style is the page's
    body = re.sub(r"font-family: [^;\"]*; ?", "", body)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", body)
    head = re.match(r"<svg[^>]*>", body)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    opening = (
        f'<svg role="img" aria-labelledby="{name}-title {name}-words" {box[0]} xmlns="http://www.w3.org/2000/svg"'
        f' xmlns:xlink="http://www.w3.org/1999/xlink"><title id="{name}-title">{title}</title>'
        f'<desc id="{name}-words">{words}</desc>'
    )
    return opening + body[head.end() :].strip()
