"""All facts of a report: computed from a history and from what is known of its run, before anything is laid out."""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from opacus_edgeworth._validate import as_delta, as_epsilon, as_real
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.certification.certificate import Certificate
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.report.cautions import Caution, cautions
from opacus_edgeworth.report.certifying import certify
from opacus_edgeworth.report.checklist import NOT_COVERED, Answer, Assumption, answers, assumptions
from opacus_edgeworth.report.measures import (
    Table,
    belief_table,
    best_guess,
    candidate_picked,
    delta_table,
    epsilon_table,
    history_rows,
    members_found,
    membership_table,
    other_units_table,
    reconstruction_table,
)
from opacus_edgeworth.report.numbers import Cell, Proved, ends, exact
from opacus_edgeworth.report.run import Run, as_run

TITLE = "Privacy report"
LONGEST_TITLE = 200
TIME_LIMIT = 60.0
PACKAGES = ("opacus_edgeworth", "opacus", "torch", "numpy", "scipy", "python-flint")


@dataclass(frozen=True, slots=True)
class Report:
    """What a page for a privacy reviewer says: every fact of it, as plain values.

    Args:
      title: of the page.
      made_on: the day, UTC.
      run: history, source, and what the run recorded.
      curve: of the history.
      delta: at which ε is claimed.
      epsilon: proved bounds at it.
      max_epsilon: the limit that was set, or None.
      cautions: warnings, the serious ones first.
      sentences: the risks in plain words, numbers among them.
      curve_tables: ε at several δ, δ at several ε.
      risk_tables: membership, beliefs, reconstruction.
      other_units: Gaussian, zero-concentrated and Rényi differential privacy.
      answers: on the components that NIST SP 800-226 names.
      assumptions: to check.
      not_covered: what the claim does not say.
      certificate: of ε at δ, or None.
      no_certificate: why there is none.
      versions: of what made the report.
    """

    title: str
    made_on: str
    run: Run
    curve: PrivacyCurve
    delta: float
    epsilon: Bounds
    max_epsilon: float | None
    cautions: tuple[Caution, ...]
    sentences: tuple[tuple[Cell, ...], ...]
    curve_tables: tuple[Table, ...]
    risk_tables: tuple[Table, ...]
    other_units: Table
    answers: tuple[Answer, ...]
    assumptions: tuple[Assumption, ...]
    not_covered: tuple[str, ...]
    certificate: Certificate | None
    no_certificate: str
    versions: tuple[tuple[str, str], ...]

    @property
    def claim(self) -> tuple[Proved, Proved]:
        """The claimed ε, its upper and its lower end."""
        return ends("epsilon", (self.delta,), self.epsilon)

    @property
    def exceeded(self) -> bool:
        """Whether a limit was set, and is not proved to be kept."""
        return self.max_epsilon is not None and not self.epsilon.upper <= self.max_epsilon

    @property
    def phases(self) -> tuple[tuple[str, ...], ...]:
        """The history, equal phases merged, in words: mechanism, noise multiplier, sample rate, steps."""
        return history_rows(self.curve.history)

    @property
    def layers(self) -> tuple[tuple[str, tuple[Answer, ...]], ...]:
        """The answers by their layer."""
        groups = itertools.groupby(self.answers, key=lambda answer: answer.layer)
        return tuple((layer, tuple(group)) for layer, group in groups)

    @property
    def certificate_hash(self) -> str:
        """SHA-256 of the certificate's text, "" without one."""
        return "" if self.certificate is None else hashlib.sha256(self.certificate.to_json().encode()).hexdigest()


def make_report(
    run: Run | str | Path | Iterable[Any],
    *,
    delta: float | None = None,
    title: str = TITLE,
    max_epsilon: float | None = None,
    time_limit: float = TIME_LIMIT,
) -> Report:
    """Compute everything that a report says.

    Args:
      run: a file or folder, as `read_history` takes it, or a history, as `PrivacyCurve` takes it.
      delta: in (0, 1), at which ε is claimed; None takes the δ that a fine-tuning run recorded.
      title: of the page.
      max_epsilon: a limit on ε; the report says whether it is kept.
      time_limit: seconds that the certificate may take; 0 leaves it out.

    Returns:
      The facts; every number in them is a proved bound, with the end it is, or an input.

    Raises:
      InvalidParameterError: an argument is invalid, or δ is missing.
      CheckpointError: a checkpoint is damaged.

    Example:
      >>> report = make_report([(1.0, 0.01, 1000)], delta=1e-5, time_limit=0)
      >>> report.claim[0].text, report.claim[1].text
      ('1.828237', '1.828236')
    """
    known = as_run(run)
    at = _delta(known, delta)
    limit = None if max_epsilon is None else as_epsilon(max_epsilon, name="max_epsilon")
    seconds = as_real("time_limit", time_limit)
    curve = PrivacyCurve(known.history)
    epsilon = curve.epsilon(at)
    certified = certify(known.history, at, seconds)
    upper, _ = ends("epsilon", (at,), epsilon)
    claim = f"ε ≤ {upper.text} at δ = {exact(at)}"
    return Report(
        title=title.strip()[:LONGEST_TITLE] or TITLE,
        made_on=_today(),
        run=known,
        curve=curve,
        delta=at,
        epsilon=epsilon,
        max_epsilon=limit,
        cautions=cautions(known, at, epsilon, limit),
        sentences=_sentences(curve),
        curve_tables=(epsilon_table(curve, at), delta_table(curve)),
        risk_tables=(membership_table(curve), belief_table(curve), reconstruction_table(curve)),
        other_units=other_units_table(curve),
        answers=answers(known, claim, certified.certificate is not None),
        assumptions=assumptions(known),
        not_covered=NOT_COVERED,
        certificate=certified.certificate,
        no_certificate=certified.reason,
        versions=_versions(),
    )


def _delta(run: Run, delta: float | None) -> float:
    """Return the delta of the claim."""
    if delta is None and run.recorded is not None:
        delta = run.recorded.delta
    if delta is None:
        raise InvalidParameterError("delta=None is missing; give it: the run's file records none")
    value = as_delta(delta)
    if not 0.0 < value < 1.0:
        raise InvalidParameterError(f"delta={value!r} must be in (0, 1), well below one over the number of examples")
    return value


def _sentences(curve: PrivacyCurve) -> tuple[tuple[Cell, ...], ...]:
    """Return the risks in plain words."""
    return (
        (
            "An attack that wrongly names at most 0.1 % of the examples that were not used finds at most ",
            members_found(curve, 1e-3),
            " of those that were.",
        ),
        (
            "Of two equally likely guesses, “used” and “not used”, the best one is right with probability at most ",
            best_guess(curve, 0.5),
            "; a coin is right in 50 %.",
        ),
        (
            "An attacker who knows that an example is one of 1,000 equally likely candidates picks the right one with"
            " probability at most ",
            candidate_picked(curve, 1_000),
            "; without the model it is 0.1 %.",
        ),
    )


def _today() -> str:
    """Return the day, or the one that a reproducible build sets."""
    stamp = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%d", time.gmtime(int(stamp) if stamp.isdecimal() else None))


def _versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of what computes the report, where they are known."""
    found = [("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)
