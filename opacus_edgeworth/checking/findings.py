"""What a check finds: each mistake, by how much it matters, and what mends it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Literal

from opacus_edgeworth._types import Adjacency
from opacus_edgeworth.adjacency import IN_WORDS
from opacus_edgeworth.errors import UnsoundTrainingError
from opacus_edgeworth.rounding import at_most

Severity = Literal["error", "warning", "note"]
MARKS: dict[Severity, str] = {"error": "ERROR", "warning": "warning", "note": "note"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the accountant takes it to be, or that a reader of its epsilon should know.

    Args:
      name: of the kind of finding, like "not-poisson".
      severity: "error" where the accountant's epsilon is not proved, or too low by more than rounding; "warning" where
        it is too low in late digits, or something else is probably not as intended; "note" otherwise.
      what: what is wrong.
      fix: what mends it.
      epsilon: a proved upper bound on the epsilon of the run as it is, if nothing else is wrong, inf if there is none;
        None where epsilon does not change.
      adjacency: that it is for.
    """

    name: str
    severity: Severity
    what: str
    fix: str
    epsilon: float | None = None
    adjacency: Adjacency = "add_or_remove"

    def __str__(self) -> str:
        number = ""
        if self.epsilon is not None:
            named = "" if self.adjacency == "add_or_remove" else f" ({IN_WORDS[self.adjacency]})"
            number = f"\n  honest epsilon: at most {at_most(self.epsilon, 7)}{named}"
        return f"{MARKS[self.severity]} {self.name}: {self.what}{number}\n  fix: {self.fix}"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of `check`.

    Args:
      findings: the gravest first.
      delta: at which every epsilon is asked.
      steps: recorded by the accountant, or planned.
      planned: whether nothing was recorded yet, so that all numbers are for the planned epochs.
      reported_epsilon: a proved upper bound for what the accountant was told, its history: what is claimed.
      epsilon: a proved upper bound for the run as it is, all findings together; inf if there is none.
      adjacency: what neighbouring data sets differ in, for `epsilon`.
    """

    findings: tuple[Finding, ...]
    delta: float
    steps: int
    planned: bool
    reported_epsilon: float
    epsilon: float
    adjacency: Adjacency

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def raise_if_wrong(self) -> None:
        """Raise if there is an error.

        Raises:
          UnsoundTrainingError: its message lists the errors.
        """
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if errors:
            raise UnsoundTrainingError("\n".join(map(str, errors)))

    def __str__(self) -> str:
        when = "planned" if self.planned else "recorded"
        lines = [
            f"{self.steps} steps {when}; delta {self.delta:g}",
            f"claimed: epsilon at most {at_most(self.reported_epsilon, 7)} ({IN_WORDS['add_or_remove']})",
            f"honest:  epsilon at most {at_most(self.epsilon, 7)} ({IN_WORDS[self.adjacency]})",
        ]
        return "\n".join([*lines, *map(str, self.findings)] if self.findings else [*lines, "nothing was found"])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{MARKS[finding.severity]}</td><td>{html.escape(finding.name)}</td>"
            f"<td>{html.escape(finding.what)}<br><em>{html.escape(finding.fix)}</em></td>"
            f"<td>{'' if finding.epsilon is None else at_most(finding.epsilon, 7)}</td></tr>"
            for finding in self.findings
        )
        head, _, _ = str(self).partition("\nERROR")
        summary = "<br>".join(html.escape(line) for line in head.split("\n")[:3])
        return (
            f"<table><caption>{summary}</caption><tr><th></th><th>finding</th><th>what is wrong, and the fix</th>"
            f"<th>honest ε</th></tr>{rows or '<tr><td colspan=4>nothing was found</td></tr>'}</table>"
        )
