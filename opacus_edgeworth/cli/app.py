"""The commands of `opacus-edgeworth`: each is one function in a module of its own, added here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from opacus_edgeworth.cli.audit import audit_command
from opacus_edgeworth.cli.compare import compare_command
from opacus_edgeworth.cli.epsilon import epsilon_command
from opacus_edgeworth.cli.exits import EPILOG, ExitStatus, in_flags
from opacus_edgeworth.cli.finetune import finetune_command
from opacus_edgeworth.cli.noise import noise_command
from opacus_edgeworth.cli.plan import plan_command
from opacus_edgeworth.cli.report import report_command
from opacus_edgeworth.errors import EdgeworthError

app = typer.Typer(
    name="opacus-edgeworth",
    help="Certified differential-privacy accounting for DP-SGD, and private fine-tuning of language models.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def _commands() -> None:
    """Keep the commands' names even while there is only one."""


def add_command(name: str, command: Callable[..., Any], *, words: Callable[[str], str] = in_flags) -> None:
    """Add a command; this package's errors end it with their message alone and exit status 1.

    Args:
      name: of the command.
      command: the function behind it.
      words: from the library's message to the one that is shown.
    """

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except EdgeworthError as error:
            message = Text("error: ", style="bold red") + Text(words(str(error)))
            Console(stderr=True).print(message, soft_wrap=True)
            raise typer.Exit(ExitStatus.ERROR) from None

    app.command(name, epilog=EPILOG)(guarded)


add_command("epsilon", epsilon_command)
add_command("noise", noise_command)
add_command("plan", plan_command)
add_command("compare", compare_command)
add_command("audit", audit_command)
add_command("report", report_command)
add_command("finetune", finetune_command, words=str)  # its messages name settings, which Python callers share
