"""The options that say what is aimed at, the same in every command that calibrates."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth.cli.exits import wrong_usage
from opacus_edgeworth.cli.history import QUESTION
from opacus_edgeworth.targets import TargetArguments

TargetEpsilon: TypeAlias = Annotated[
    float | None, typer.Option("--epsilon", help="Target ε, with --delta.", rich_help_panel=QUESTION)
]
TargetDelta: TypeAlias = Annotated[
    float | None,
    typer.Option("--delta", help="Target δ, usually below 1 / dataset size.", rich_help_panel=QUESTION),
]
TargetAdvantage: TypeAlias = Annotated[
    float | None,
    typer.Option("--advantage", help="Or: the most that true may exceed false positives.", rich_help_panel=QUESTION),
]
TargetTpr: TypeAlias = Annotated[
    float | None,
    typer.Option("--tpr", help="Or: the most that an attack may find, with --fpr.", rich_help_panel=QUESTION),
]
TargetFpr: TypeAlias = Annotated[
    float | None, typer.Option("--fpr", help="The false alarms at which --tpr holds.", rich_help_panel=QUESTION)
]
TargetMu: TypeAlias = Annotated[
    float | None, typer.Option("--mu", help="Or: the μ of Gaussian differential privacy.", rich_help_panel=QUESTION)
]


def targets(
    epsilon: float | None,
    delta: float | None,
    advantage: float | None,
    tpr: float | None,
    fpr: float | None,
    mu: float | None,
    adjacency: Adjacency,
) -> TargetArguments:
    """Return the one target that was given.

    Raises:
      typer.BadParameter: none or several were given, or half of one.
    """
    flags = {"--epsilon": epsilon, "--delta": delta, "--advantage": advantage, "--tpr": tpr, "--fpr": fpr, "--mu": mu}
    given = {flag for flag, value in flags.items() if value is not None}
    for parts in (("--epsilon", "--delta"), ("--advantage",), ("--tpr", "--fpr"), ("--mu",)):
        if given == set(parts):
            return TargetArguments(
                target_epsilon=epsilon, target_delta=delta, target_advantage=advantage, target_tpr=tpr, target_fpr=fpr,
                target_mu=mu, adjacency=adjacency,
            )  # fmt: skip
        if given and given < set(parts):
            missing = (set(parts) - given).pop()
            raise wrong_usage(missing, f"is missing: {' and '.join(parts)} go together")
    ways = "--epsilon and --delta, --advantage, --tpr and --fpr, or --mu"
    raise wrong_usage("target", f"give one of {ways}, not {', '.join(sorted(given)) or 'none'}")
