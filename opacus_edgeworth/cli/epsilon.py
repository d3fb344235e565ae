"""`opacus-edgeworth epsilon`: how much privacy a run spent, as proved bounds; a gate for scripts."""

from __future__ import annotations

from typing import Annotated

import typer

from opacus_edgeworth._validate import as_delta, as_epsilon
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.cli.exits import ExitStatus, wrong_usage
from opacus_edgeworth.cli.history import (
    QUESTION,
    AdjacencyOption,
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
from opacus_edgeworth.cli.output import (
    json_object,
    print_assumptions,
    print_json,
    print_line,
    print_table,
)
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.histories import History
from opacus_edgeworth.rounding import at_least, at_most

Answer = tuple[float, Bounds]
"""Where it was asked, and the proved bounds there."""


def epsilon_command(
    file: FileArgument = None,
    noise_multiplier: NoiseMultiplier = None,
    sample_rate: SampleRate = None,
    batch_size: BatchSize = None,
    dataset_size: DatasetSize = None,
    steps: Steps = None,
    epochs: Epochs = None,
    delta: Annotated[
        list[float] | None, typer.Option(help="δ at which ε is asked; may be repeated.", rich_help_panel=QUESTION)
    ] = None,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(help="Instead: ε at which δ is asked; may be repeated.", rich_help_panel=QUESTION),
    ] = None,
    max_epsilon: Annotated[
        float | None,
        typer.Option(help="Exit status 3 unless every ε is proved to be at most this.", rich_help_panel=QUESTION),
    ] = None,
    max_delta: Annotated[
        float | None, typer.Option(help="The same for δ, with --epsilon.", rich_help_panel=QUESTION)
    ] = None,
    adjacency: AdjacencyOption = "add_or_remove",
    json_output: Json = False,
) -> None:
    """Print the ε that a run spent at δ, or δ at ε: a proved upper bound with a proved lower one.

    [bold]Examples[/]:

    opacus-edgeworth epsilon checkpoint.pt --delta 1e-5 --max-epsilon 3

    opacus-edgeworth epsilon --noise-multiplier 1 --batch-size 256 --dataset-size 60000 --epochs 10 --delta 1e-5
    """
    points, quantity, limit = _question(delta, epsilon, max_epsilon, max_delta)
    flags = RunFlags(noise_multiplier, sample_rate, batch_size, dataset_size, steps, epochs)
    history = find_history(file, flags)
    curve = PrivacyCurve(history, adjacency=adjacency)
    ask = curve.epsilon if quantity == "epsilon" else curve.delta
    answers = [(at, ask(at)) for at in points]
    exceeded = limit is not None and not all(bounds.upper <= limit for _, bounds in answers)
    if json_output:
        _show_json(curve, history, quantity, answers, limit, exceeded)
    else:
        _show(curve, history, quantity, answers, limit, exceeded)
    if exceeded:
        raise typer.Exit(ExitStatus.EXCEEDED)


def _question(
    delta: list[float] | None, epsilon: list[float] | None, max_epsilon: float | None, max_delta: float | None
) -> tuple[list[float], str, float | None]:
    """Return where what is asked, and the limit on it."""
    if bool(delta) == bool(epsilon):
        raise wrong_usage("--delta", f"give either --delta or --epsilon, not {'both' if delta else 'neither'}")
    if epsilon:
        if max_epsilon is not None:
            raise wrong_usage("--max-epsilon", "goes with --delta; with --epsilon, limit --max-delta")
        limit = None if max_delta is None else as_delta(max_delta, name="max_delta")
        return [as_epsilon(value) for value in epsilon], "delta", limit
    if max_delta is not None:
        raise wrong_usage("--max-delta", "goes with --epsilon; with --delta, limit --max-epsilon")
    limit = None if max_epsilon is None else as_epsilon(max_epsilon, name="max_epsilon")
    return [as_delta(value) for value in delta or []], "epsilon", limit


def _show_json(
    curve: PrivacyCurve, history: History, quantity: str, answers: list[Answer], limit: float | None, exceeded: bool
) -> None:
    """Print the answers for programs: one at the top, several as a list, `results`."""
    given = "delta" if quantity == "epsilon" else "epsilon"
    results = [{quantity: bounds, given: at} for at, bounds in answers]
    parts = results[0] if len(results) == 1 else {"results": results}
    gate = {} if limit is None else {f"max_{quantity}": limit, "exceeded": exceeded}
    print_json(json_object("epsilon", history, adjacency=curve.adjacency, **parts, **gate))


def _show(
    curve: PrivacyCurve, history: History, quantity: str, answers: list[Answer], limit: float | None, exceeded: bool
) -> None:
    """Print the answers for people."""
    letter, given = ("ε", "δ") if quantity == "epsilon" else ("δ", "ε")
    rows = [(f"{at:g}", at_most(bounds.upper), at_least(bounds.lower)) for at, bounds in answers]
    print_table(f"{letter} at {given}: proved bounds", (given, f"{letter}, at most", f"{letter}, at least"), rows)
    print_assumptions(history, curve.adjacency)
    if limit is not None:
        verdict = "EXCEEDED" if exceeded else "kept"
        print_line(f"limit: {letter} at most {limit:g}: {verdict}")
