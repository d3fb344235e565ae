"""A certificate for a report, within a time limit: made in a process of its own, which can be stopped.

The process is a plain call of Python, not one of `multiprocessing`: a program that asks for a report needs no
`if __name__ == "__main__"` for it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass

from opacus_edgeworth.certification.certificate import Certificate
from opacus_edgeworth.composition import parse_history
from opacus_edgeworth.errors import EdgeworthError

PROGRAM = f"from {__name__} import main; main()"
MISSING = "python-flint is not installed (pip install opacus_edgeworth[audit])"


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate of epsilon, or why there is none."""

    certificate: Certificate | None
    reason: str = ""


def certify(history: tuple[object, ...], delta: float, time_limit: float) -> Certified:
    """Return a certificate of epsilon at delta, or why there is none.

    Args:
      history: of the run.
      delta: in (0, 1).
      time_limit: seconds, the start of a process included; 0 asks for none.
    """
    if time_limit <= 0.0:
        return Certified(None, "none was asked for")
    if importlib.util.find_spec("flint") is None:
        return Certified(None, MISSING)
    try:
        phases = [[*phase, steps] for phase, steps in parse_history(history).items()]
    except EdgeworthError:
        return Certified(None, "audits are of Gaussian noise, and this history has other mechanisms too")
    asked = json.dumps({"history": phases, "delta": delta})
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], input=asked, capture_output=True, encoding="utf-8", errors="replace",
            check=False, timeout=time_limit,
        )  # fmt: skip
        if done.returncode != 0:
            return Certified(None, _last_line(done.stderr) or f"its process ended with status {done.returncode}")
        return Certified(Certificate.from_json(done.stdout))
    except subprocess.TimeoutExpired:
        return Certified(None, f"the audit did not end within {time_limit:g} s")
    except (OSError, EdgeworthError) as error:
        return Certified(None, f"the audit failed: {error}")


def main() -> None:
    """Read a question from the standard input and write the certificate: what the process does."""
    from opacus_edgeworth.certification.audit import audit

    asked = json.load(sys.stdin)
    try:
        print(audit([tuple(phase) for phase in asked["history"]], delta=asked["delta"]).to_json(), end="")
    except EdgeworthError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _last_line(text: str) -> str:
    """Return the last line of what a process said."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
