"""`opacus-edgeworth noise`: the least noise that is proved to meet a target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opacus_edgeworth.calibration import calibrate_noise_multiplier
from opacus_edgeworth.cli.history import (
    RUN,
    AdjacencyOption,
    BatchSize,
    DatasetSize,
    Epochs,
    Json,
    RunFlags,
    SampleRate,
    Steps,
    sampling,
)
from opacus_edgeworth.cli.output import (
    json_object,
    print_assumptions,
    print_json,
    print_table,
)
from opacus_edgeworth.cli.targets import (
    TargetAdvantage,
    TargetDelta,
    TargetEpsilon,
    TargetFpr,
    TargetMu,
    TargetTpr,
    targets,
)
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.histories import read_history
from opacus_edgeworth.rounding import at_least, at_most
from opacus_edgeworth.targets import TargetArguments

DELTA = 1e-5
"""At which ε is printed where the target has no δ."""


def noise_command(
    epsilon: TargetEpsilon = None,
    delta: TargetDelta = None,
    advantage: TargetAdvantage = None,
    tpr: TargetTpr = None,
    fpr: TargetFpr = None,
    mu: TargetMu = None,
    sample_rate: SampleRate = None,
    batch_size: BatchSize = None,
    dataset_size: DatasetSize = None,
    steps: Steps = None,
    epochs: Epochs = None,
    spent: Annotated[
        Path | None, typer.Option(help="FILE with what was trained before and counts, too.", rich_help_panel=RUN)
    ] = None,
    adjacency: AdjacencyOption = "add_or_remove",
    json_output: Json = False,
) -> None:
    """Print the smallest noise multiplier that is proved to meet a target: (ε, δ), or a limit on attacks.

    [bold]Example[/]: opacus-edgeworth noise --epsilon 3 --delta 1e-5 --batch-size 256 --dataset-size 60000 --epochs 10
    """
    aim = targets(epsilon, delta, advantage, tpr, fpr, mu, adjacency)
    rate, count = sampling(RunFlags(None, sample_rate, batch_size, dataset_size, steps, epochs))
    before = () if spent is None else read_history(spent)
    noise_multiplier = calibrate_noise_multiplier(sample_rate=rate, steps=count, spent=before, **aim)
    history = (*before, (noise_multiplier, rate, count))
    at = DELTA if delta is None else delta
    total = PrivacyCurve(history, adjacency=adjacency).epsilon(at)
    if json_output:
        given = ((name, value) for name, value in aim.items() if name != "adjacency" and value is not None)
        target = {name.removeprefix("target_"): value for name, value in given}
        parts = {"noise_multiplier": noise_multiplier, "target": target, "epsilon": total, "delta": at}
        print_json(json_object("noise", history, adjacency=adjacency, **parts))
        return
    columns = ("noise multiplier", "ε, at most", "ε, at least", "δ")
    # a noise multiplier that is copied from the table is rounded to more noise
    row = (at_most(noise_multiplier), at_most(total.upper), at_least(total.lower), f"{at:g}")
    print_table(f"least noise proved to give {_in_words(aim)}", columns, [row])
    print_assumptions(history, adjacency)


def _in_words(aim: TargetArguments) -> str:
    """Return the target as people say it."""
    if aim.get("target_epsilon") is not None:
        return f"ε at most {aim.get('target_epsilon'):g} at δ = {aim.get('target_delta'):g}"
    if aim.get("target_advantage") is not None:
        return f"an advantage of at most {aim.get('target_advantage'):g}"
    if aim.get("target_tpr") is not None:
        return f"at most {aim.get('target_tpr'):g} true at {aim.get('target_fpr'):g} false positives"
    return f"μ at most {aim.get('target_mu'):g}"
