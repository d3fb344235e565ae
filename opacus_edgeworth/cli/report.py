"""`opacus-edgeworth report`: one page about a run for a privacy reviewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from opacus_edgeworth.cli.exits import ExitStatus, wrong_usage
from opacus_edgeworth.cli.history import (
    OUTPUT,
    QUESTION,
    BatchSize,
    DatasetSize,
    Epochs,
    FileArgument,
    Json,
    NoiseMultiplier,
    RunFlags,
    SampleRate,
    Steps,
    find_history,
)
from opacus_edgeworth.cli.output import json_object, print_assumptions, print_json, print_line, print_table
from opacus_edgeworth.extras import require_extra
from opacus_edgeworth.report.content import TIME_LIMIT, TITLE, Report, make_report
from opacus_edgeworth.report.numbers import Proved
from opacus_edgeworth.report.page import save
from opacus_edgeworth.report.run import Run, read_run
from opacus_edgeworth.rounding import at_least, at_most


def report_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Write the page there.", rich_help_panel=OUTPUT)],
    file: FileArgument = None,
    noise_multiplier: NoiseMultiplier = None,
    sample_rate: SampleRate = None,
    batch_size: BatchSize = None,
    dataset_size: DatasetSize = None,
    steps: Steps = None,
    epochs: Epochs = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="δ at which ε is claimed; left out, the one that a fine-tuning run recorded.", rich_help_panel=QUESTION
        ),
    ] = None,
    max_epsilon: Annotated[
        float | None,
        typer.Option(help="Exit status 3 unless ε is proved to be at most this.", rich_help_panel=QUESTION),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.", rich_help_panel=OUTPUT)] = TITLE,
    time_limit: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds that the certificate may take; 0 leaves it out.", rich_help_panel=OUTPUT),
    ] = TIME_LIMIT,
    json_output: Json = False,
) -> None:
    """Write one self-contained page about a run for a privacy reviewer.

    It says what is claimed and under which assumptions, what could break it, what an attack can attain at most, and has
    a certificate where python-flint is installed. It needs nothing from elsewhere when it is opened.

    [bold]Examples[/]:

    opacus-edgeworth report checkpoint.pt --delta 1e-5 -o report.html

    opacus-edgeworth report tuned -o report.html --title "Movie reviews, second release"
    """
    require_extra("report", "jinja2", "matplotlib")
    flags = RunFlags(noise_multiplier, sample_rate, batch_size, dataset_size, steps, epochs)
    run = read_run(file) if file is not None and not flags.given else Run(find_history(file, flags))
    if delta is None and (run.recorded is None or run.recorded.delta is None):
        raise wrong_usage("--delta", "missing; only a fine-tuning run's privacy.json records it")
    with Console(stderr=True).status("computing ..."):
        report = make_report(run, delta=delta, title=title, max_epsilon=max_epsilon, time_limit=time_limit)
        save(report, output)
    show = _show_json if json_output else _show
    show(report, output)
    if report.exceeded:
        raise typer.Exit(ExitStatus.EXCEEDED)


def _show_json(report: Report, output: Path) -> None:
    """Print the facts for programs."""
    gate: dict[str, Any] = {}
    if report.max_epsilon is not None:
        gate = {"max_epsilon": report.max_epsilon, "exceeded": report.exceeded}
    parts: dict[str, Any] = {
        "epsilon": report.epsilon,
        "delta": report.delta,
        "report": str(output),
        "title": report.title,
        "certified": report.certificate is not None,
        "no_certificate": report.no_certificate or None,
        "warnings": [
            {"gravity": caution.gravity, "says": "".join(_plain(part) for part in caution.says)}
            for caution in report.cautions
        ],
    }
    print_json(json_object("report", report.run.history, **parts, **gate))


def _show(report: Report, output: Path) -> None:
    """Print the facts for people."""
    rows = [
        (f"ε at δ = {report.delta!r}, at most", at_most(report.epsilon.upper)),
        (f"ε at δ = {report.delta!r}, at least", at_least(report.epsilon.lower)),
        ("certificate", "in the page" if report.certificate is not None else f"none: {report.no_certificate}"),
    ]
    print_table("report for a privacy reviewer", ("what", "value"), rows)
    for caution in report.cautions:
        word = "warning" if caution.gravity == "serious" else "note"
        print_line(f"{word}: {''.join(_plain(part) for part in caution.says)}")
    print_assumptions(report.run.history)
    if report.max_epsilon is not None:
        print_line(f"limit: ε at most {report.max_epsilon!r}: {'EXCEEDED' if report.exceeded else 'kept'}")
    print_line(f"written: {output}")


def _plain(part: str | Proved) -> str:
    """Return a part of a sentence as text."""
    return part if isinstance(part, str) else part.text
