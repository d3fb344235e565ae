"""`opacus-edgeworth compare`: one history by every accountant, with what each answer is worth."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer
from rich.console import Console

from opacus_edgeworth._validate import as_delta
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.cli.history import (
    QUESTION,
    RUN,
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
from opacus_edgeworth.cli.peers import PEERS, Peer
from opacus_edgeworth.cli.timed import Outcome, ask, prepare
from opacus_edgeworth.composition import parse_history
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.histories import History
from opacus_edgeworth.rounding import at_least, at_most

Row = tuple[Peer, Outcome]


def compare_command(
    delta: Annotated[float, typer.Option(help="δ at which ε is asked.", rich_help_panel=QUESTION)],
    file: FileArgument = None,
    noise_multiplier: NoiseMultiplier = None,
    sample_rate: SampleRate = None,
    batch_size: BatchSize = None,
    dataset_size: DatasetSize = None,
    steps: Steps = None,
    epochs: Epochs = None,
    time_limit: Annotated[
        float, typer.Option(min=0.01, help="Seconds that one accountant may take.", rich_help_panel=RUN)
    ] = 30.0,
    json_output: Json = False,
) -> None:
    """Print the ε of a run by this accountant, Opacus's PRV, RDP and GDP, and dp-accounting where it is installed.

    Each runs with its defaults, in a process of its own. What lies below the proved lower bound is marked: it promises
    more privacy than there is.

    [bold]Example[/]: opacus-edgeworth compare checkpoint.pt --delta 1e-5
    """
    delta = as_delta(delta)
    flags = RunFlags(noise_multiplier, sample_rate, batch_size, dataset_size, steps, epochs)
    phases = parse_history(find_history(file, flags))
    history = tuple((*phase, count) for phase, count in phases.items())  # equal ones merged, for all of them alike
    proved = PrivacyCurve(history).epsilon(delta)
    rows = _ask_all(history, delta, time_limit)
    if json_output:
        accountants = [_as_json(peer, outcome, proved) for peer, outcome in rows]
        print_json(json_object("compare", history, epsilon=proved, delta=delta, accountants=accountants))
        return
    title = f"ε at δ = {delta:g}: proved to lie in [{at_least(proved.lower)}, {at_most(proved.upper)}]"
    columns = ("accountant", "ε", "against the proof", "kind", "covers", "time")
    print_table(title, columns, [_as_cells(peer, outcome, proved) for peer, outcome in rows])
    print_line("* in exact arithmetic: its own rounding errors are not covered; each accountant with its defaults")
    print_assumptions(history)


def _ask_all(history: History, delta: float, time_limit: float) -> list[Row]:
    """Return the answers of all accountants that are installed; people see on standard error which is at work."""
    peers = tuple(peer for peer in PEERS if peer.version is not None)
    prepare(peers)
    rows = []
    with Console(stderr=True).status("starting") as status:
        for peer in peers:
            status.update(f"{peer.name} ...")
            rows.append((peer, ask(peer, history, delta, time_limit)))
    return rows


def _as_json(peer: Peer, outcome: Outcome, proved: Bounds) -> dict[str, Any]:
    """Return an answer for programs; `epsilon` and what depends on it is null where there is none."""
    value = outcome.epsilon
    return {
        "name": peer.name,
        "version": peer.version,
        "epsilon": value,
        "kind": peer.kind,
        "directions": peer.directions,
        "below_truth": None if value is None else _is_below(value, proved),
        "seconds": outcome.seconds,
        "error": outcome.error,
    }


def _as_cells(peer: Peer, outcome: Outcome, proved: Bounds) -> tuple[str, ...]:
    """Return an answer for people."""
    kind = peer.kind.replace("upper bound in exact arithmetic", "bound*")
    if outcome.epsilon is None or outcome.seconds is None:
        return peer.name, "none", outcome.error or "", kind, peer.directions, ""
    value = outcome.epsilon
    return peer.name, at_most(value), _verdict(value, proved), kind, peer.directions, _clock(outcome.seconds)


def _is_below(epsilon: float, proved: Bounds) -> bool:
    """Return whether an answer is proved to be too small, or is no number at all."""
    return not epsilon >= proved.lower


def _verdict(epsilon: float, proved: Bounds) -> str:
    """Return where an answer lies, in words."""
    if _is_below(epsilon, proved):
        return f"below the truth, {_relative(epsilon, proved.lower)}"
    if epsilon <= proved.upper:
        return "within"
    return _relative(epsilon, proved.upper)


def _relative(epsilon: float, end: float) -> str:
    """Return by how much an answer differs from an end of the bounds."""
    difference = epsilon - end
    if end == 0.0 or math.isinf(difference):
        return f"{difference:+.3g}"
    return f"{100.0 * difference / end:+.3g} %"


def _clock(seconds: float) -> str:
    """Return a time in a unit that suits it."""
    return f"{seconds:.2f} s" if seconds >= 1.0 else f"{1e3 * seconds:.3g} ms"
