"""`opacus-edgeworth noise`: the least noise that is proved to meet a target."""

from __future__ import annotations

from typing import Annotated

import typer

from opacus_edgeworth.calibration import calibrate_noise_multiplier
from opacus_edgeworth.cli.history import (
    QUESTION,
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
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.rounding import at_least, at_most


def noise_command(
    epsilon: Annotated[float, typer.Option(help="Target ε.", rich_help_panel=QUESTION)],
    delta: Annotated[float, typer.Option(help="Target δ, usually below 1 / dataset size.", rich_help_panel=QUESTION)],
    sample_rate: SampleRate = None,
    batch_size: BatchSize = None,
    dataset_size: DatasetSize = None,
    steps: Steps = None,
    epochs: Epochs = None,
    json_output: Json = False,
) -> None:
    """Print the smallest noise multiplier that is proved to give (ε, δ)-differential privacy.

    [bold]Example[/]: opacus-edgeworth noise --epsilon 3 --delta 1e-5 --batch-size 256 --dataset-size 60000 --epochs 10
    """
    rate, count = sampling(RunFlags(None, sample_rate, batch_size, dataset_size, steps, epochs))
    noise_multiplier = calibrate_noise_multiplier(
        target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=count
    )
    history = ((noise_multiplier, rate, count),)
    spent = PrivacyCurve(history).epsilon(delta)
    if json_output:
        target = {"epsilon": epsilon, "delta": delta}
        parts = {"noise_multiplier": noise_multiplier, "target": target, "epsilon": spent, "delta": delta}
        print_json(json_object("noise", history, **parts))
        return
    columns = ("noise multiplier", "ε, at most", "ε, at least", "δ")
    # a noise multiplier that is copied from the table is rounded to more noise
    row = (at_most(noise_multiplier), at_most(spent.upper), at_least(spent.lower), f"{delta:g}")
    print_table(f"least noise proved to give ε at most {epsilon:g} at δ = {delta:g}", columns, [row])
    print_assumptions(history)
