"""`opacus-edgeworth plan`: what every batch size and length of training costs in noise, at equal privacy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from opacus_edgeworth.adjacency import IN_WORDS
from opacus_edgeworth.cli.history import OUTPUT, QUESTION, RUN, AdjacencyOption, Json
from opacus_edgeworth.cli.output import SAMPLING, package_version, print_json, print_line, print_table
from opacus_edgeworth.cli.targets import (
    TargetAdvantage,
    TargetDelta,
    TargetEpsilon,
    TargetFpr,
    TargetMu,
    TargetTpr,
    targets,
)
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.histories import read_history
from opacus_edgeworth.planning import Plan, PlanPoint, plan
from opacus_edgeworth.rounding import at_most

DIGITS = 6


def plan_command(
    dataset_size: Annotated[int, typer.Option(min=1, help="Number of training examples.", rich_help_panel=RUN)],
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="One or more; powers of two and all data by default.", rich_help_panel=RUN),
    ] = None,
    epochs: Annotated[
        list[float] | None, typer.Option(help="One or more; 1, 3, 10 and 30 by default.", rich_help_panel=RUN)
    ] = None,
    spent: Annotated[
        Path | None, typer.Option(help="FILE with what was trained before and counts, too.", rich_help_panel=RUN)
    ] = None,
    epsilon: TargetEpsilon = None,
    delta: TargetDelta = None,
    advantage: TargetAdvantage = None,
    tpr: TargetTpr = None,
    fpr: TargetFpr = None,
    mu: TargetMu = None,
    max_epochs: Annotated[
        float | None, typer.Option(help="For the best way: what can be computed.", rich_help_panel=QUESTION)
    ] = None,
    min_steps: Annotated[
        int, typer.Option(min=1, help="For the best way: steps that training needs.", rich_help_panel=QUESTION)
    ] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the points as CSV, too.", rich_help_panel=OUTPUT)
    ] = None,
    adjacency: AdjacencyOption = "add_or_remove",
    json_output: Json = False,
) -> None:
    """Print the least noise for batch sizes and lengths of training that give the same proved privacy.

    What decides how useful a step is, is its noise per example: noise multiplier over batch size. The best way, marked
    with a star, has the least, of those with at most --max-epochs and at least --min-steps.

    [bold]Example[/]: opacus-edgeworth plan --dataset-size 60000 --epochs 3 --epochs 10 --epsilon 3 --delta 1e-5
    """
    ways = plan(
        dataset_size=dataset_size,
        batch_sizes=batch_size,
        epochs=epochs or (1.0, 3.0, 10.0, 30.0),
        spent=() if spent is None else read_history(spent),
        **targets(epsilon, delta, advantage, tpr, fpr, mu, adjacency),
    )
    best = ways.best(max_epochs=float("inf") if max_epochs is None else max_epochs, min_steps=min_steps)
    if output is not None:
        _write(ways, output)
    if json_output:
        assumed = {"adjacency": IN_WORDS[adjacency], "sampling": SAMPLING}
        common = {"command": "plan", "version": package_version(), **assumed}
        points = ways.records()
        found = points[ways.points.index(best)]
        print_json({**common, "target": ways.target, "dataset_size": dataset_size, "points": points, "best": found})
        return
    columns = ("batch size", "epochs", "steps", "noise multiplier", "noise per example", "best")
    rows = [_row(point, point is best) for point in ways.points]
    print_table(f"least noise proved to give {ways.target}, {dataset_size} examples", columns, rows)
    print_line(f"adjacency: {IN_WORDS[adjacency]}; sampling: {SAMPLING}")
    if output is not None:
        print_line(f"written: {output}")


def _row(point: PlanPoint, best: bool) -> tuple[str, ...]:
    """Return a line of the table; noise is rounded to more of it."""
    noise = (at_most(point.noise_multiplier, DIGITS), at_most(point.noise_per_example, 3))
    return str(point.batch_size), f"{point.epochs:g}", str(point.steps), *noise, "*" if best else ""


def _write(ways: Plan, path: Path) -> None:
    """Write the points as a table."""
    records = ways.records()
    try:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    except OSError as error:
        raise InvalidParameterError(f"output={str(path)!r} cannot be written: {error.strerror}") from None
