"""How commands end: exit statuses that scripts can use, and errors in the words of the command line."""

from __future__ import annotations

import re
from enum import IntEnum

import typer


class ExitStatus(IntEnum):
    """What a command ends with."""

    OK = 0
    ERROR = 1
    USAGE = 2
    EXCEEDED = 3
    REFUSED = 4


EPILOG = "\n\n".join(
    [
        "[bold]Exit status[/]",
        "0  done, and within the limit where one was given",
        "1  error: an invalid value, an unreadable file, a target out of reach, a missing package",
        "2  wrong usage: an unknown, missing or contradictory option",
        "3  --max-epsilon or --max-delta is exceeded",
        "4  audit --check refused the certificate",
    ]
)

FLAGS = {
    "target_epsilon": "--epsilon", "target_delta": "--delta", "target_advantage": "--advantage", "target_tpr": "--tpr",
    "target_fpr": "--fpr", "target_mu": "--mu", "history": "FILE",
}  # fmt: skip
"""Flags of arguments of the library that are not called like them."""

PARAMETERS = (
    "noise_multiplier", "sample_rate", "steps", "epochs", "batch_size", "dataset_size", "epsilon", "delta",
    "max_epsilon", "max_delta", "time_limit", "output", "check", "max_epochs", "min_steps", "spent",
)  # fmt: skip
"""Arguments of the library, and our own, that are flags of the same name."""


def flag_of(argument: str) -> str:
    """Return the flag that sets an argument of the library."""
    return FLAGS.get(argument, f"--{argument.replace('_', '-')}")


def in_flags(message: str) -> str:
    """Return a message of the library, `argument=value ...`, with the flag in place of the argument.

    Example:
      >>> in_flags("target_delta=1.5 must be in (0, 1)")
      '--delta: 1.5 must be in (0, 1)'
    """
    found = re.match(r"(\w+)=(?=\S)", message)
    if found is None or found[1] not in (*FLAGS, *PARAMETERS):
        return message
    return f"{flag_of(found[1])}: {message[found.end() :]}"


def wrong_usage(flag: str, message: str) -> typer.BadParameter:
    """Return the error that ends a command with exit status 2 and names a flag."""
    return typer.BadParameter(message, param_hint=flag)
