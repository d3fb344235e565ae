"""The commands of `opacus-edgeworth`: each is one function in a module of its own, added here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from opacus_edgeworth.cli.finetune import finetune_command
from opacus_edgeworth.errors import EdgeworthError

app = typer.Typer(
    name="opacus-edgeworth",
    help="Certified differential-privacy accounting for DP-SGD, and private fine-tuning of language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def _commands() -> None:
    """Keep the commands' names even while there is only one."""


def add_command(name: str, command: Callable[..., Any]) -> None:
    """Add a command; this package's errors end it with their message alone and exit status 1."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except EdgeworthError as error:
            Console(stderr=True).print(Text("error: ", style="bold red") + Text(str(error)), soft_wrap=True)
            raise typer.Exit(1) from None

    app.command(name)(guarded)


add_command("finetune", finetune_command)
