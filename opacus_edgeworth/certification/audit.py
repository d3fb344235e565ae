"""Audits: derive a result again in ball arithmetic, and return the proof as a certificate (needs python-flint).

Which proof is tried is decided here, its free choices by `search`; neither needs to be right. What is proved is
found out by `certificate.complete_proof`.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from opacus_edgeworth._types import Direction
from opacus_edgeworth._validate import as_delta, as_epsilon
from opacus_edgeworth.certification.balls import flint
from opacus_edgeworth.certification.certificate import (
    FORMAT,
    Certificate,
    Claim,
    Proof,
    Result,
    check_claim,
    complete_proof,
    delta_bounds,
)
from opacus_edgeworth.certification.search import Search, best_plan, make_search
from opacus_edgeworth.composition import parse_history
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.errors import CertificationError, InvalidParameterError

WIDEST = 1e-9
"""Relative width of delta above which an audit is refused rather than issued."""
SMALLEST = 1e-300
"""The least delta that the search aims at."""

History = tuple[tuple[float, float, int], ...]


def audit(history: Iterable[Any], *, epsilon: float | None = None, delta: float | None = None) -> Certificate:
    """Prove a result of `PrivacyCurve` again, by ball arithmetic and another route, and return the proof.

    With `epsilon`, the certificate claims bounds on delta, derived afresh. With `delta`, it claims the very bounds that
    `PrivacyCurve.epsilon` returns: delta at their upper end is proved to be at most `delta`, and at their lower end at
    least `delta`.

    Args:
      history: (noise_multiplier, sample_rate, steps) triples or (mechanism, steps) pairs, as for `PrivacyCurve`.
      epsilon: in [0, inf).
      delta: in (0, 1); exactly one of the two is given.

    Returns:
      The certificate; `check_certificate` verifies it, also in another program and on another machine.

    Raises:
      InvalidParameterError: an argument is outside its range, or there is not exactly one of epsilon and delta.
      CertificationError: the history is beyond the reach of audits (events so rare that every contour needs too many
        nodes; no noise; nothing revealed), or the curve's result was not confirmed; the message says which.
      ImportError: python-flint is missing: pip install opacus_edgeworth[audit].

    Example:
      >>> import opacus_edgeworth as ew
      >>> certificate = audit([(1.0, 0.01, 1000)], epsilon=1.8)
      >>> ew.PrivacyCurve([(1.0, 0.01, 1000)]).delta(1.8).upper >= certificate.claim.lower
      True
    """
    if (epsilon is None) == (delta is None):
        raise InvalidParameterError("audit needs exactly one of epsilon and delta")
    flint()
    phases = tuple(sorted((s, q, n) for (s, q), n in parse_history(history).items() if n > 0 and q > 0.0))
    if not phases or any(s == 0.0 for s, _, _ in phases):
        raise CertificationError(f"{list(phases)} reveals nothing, or everything (no noise): there is nothing to audit")
    certificate = (
        _audit_delta(phases, as_epsilon(epsilon)) if delta is None else _audit_epsilon(phases, as_delta(delta))
    )
    check_claim(certificate)
    return certificate


def _audit_delta(phases: History, epsilon: float) -> Certificate:
    """Return a certificate of delta at epsilon."""
    if math.isinf(epsilon):
        raise CertificationError("delta at an infinite epsilon is 0: there is nothing to audit")
    near = PrivacyCurve(phases).delta(epsilon).upper
    proofs = _prove(phases, (epsilon,), math.log(max(near, SMALLEST)), None)
    claim = Claim("delta", epsilon, *delta_bounds(proofs, epsilon))
    if not claim.upper - claim.lower <= WIDEST * claim.upper:
        raise CertificationError(f"the audit reaches only {claim}, which is wide: the history is beyond its reach")
    return Certificate(FORMAT, _versions(), phases, claim, proofs)


def _audit_epsilon(phases: History, delta: float) -> Certificate:
    """Return a certificate of the epsilon that the curve gives at delta."""
    bounds = PrivacyCurve(phases).epsilon(delta)
    if math.isinf(bounds.upper) or not 0.0 < delta < 1.0:
        raise CertificationError(f"epsilon at {delta=} is in {bounds}: there is nothing to audit")
    points = tuple(dict.fromkeys(end for end in (bounds.upper, bounds.lower) if end > 0.0 or end == bounds.upper))
    proofs = _prove(phases, points, math.log(delta), delta)
    return Certificate(FORMAT, _versions(), phases, Claim("epsilon", delta, bounds.lower, bounds.upper), proofs)


def _versions() -> tuple[str, ...]:
    """Return what made the certificate."""
    try:
        own = version("opacus_edgeworth")
    except PackageNotFoundError:  # run from a source tree
        own = "unknown"
    return f"opacus_edgeworth {own}", f"python-flint {flint().__version__}", f"python {platform.python_version()}"


def _prove(phases: History, points: tuple[float, ...], log_delta: float, target: float | None) -> tuple[Proof, ...]:
    """Return proofs for both directions; the add direction by the cheapest means that settles the claim."""
    if all(q == 1.0 for _, q, _ in phases) or (len(phases) == 1 and phases[0][2] == 1):
        return tuple(_simple("closed form", d, phases, points, bits=1024) for d in ("remove", "add"))
    try:
        with np.errstate(all="ignore"):
            return _prove_by_lines(phases, points, log_delta, target)
    except (ArithmeticError, ValueError) as error:  # the search runs in floats, and need not survive everything
        raise CertificationError(
            f"the search for a proof failed, {list(phases)} is beyond its reach: {error}"
        ) from error


def _prove_by_lines(
    phases: History, points: tuple[float, ...], log_delta: float, target: float | None
) -> tuple[Proof, ...]:
    """Return proofs of which one at least is a line."""
    remove = _line(make_search(phases, "remove", points[0], log_delta), phases, points)
    limit = -sum(n * math.log1p(-q) if q < 1.0 else -math.inf for _, q, n in phases)
    if points[0] > limit * (1.0 + 1e-12):
        return remove, _simple("limit", "add", phases, points[:1])
    search = make_search(phases, "add", points[0], log_delta)
    add = _chernoff(search, phases, points[:1])
    upper_settled = add.results[0].upper <= (remove.results[0].lower if target is None else target)
    lower_settled = target is None or len(points) == 1 or remove.results[1].lower >= target
    return remove, add if upper_settled and lower_settled else _line(search, phases, points)


def _simple(method: Any, direction: Direction, phases: History, points: Sequence[float], bits: int = 128) -> Proof:
    """Return a proof without a contour."""
    empty = Proof(direction, method, bits, 0.0, 0.0, 0, (), (), 0, (), _wanted(points))
    return complete_proof(empty, phases)


def _wanted(points: Sequence[float]) -> tuple[Result, ...]:
    """Return results of which only epsilon is set."""
    return tuple(Result(epsilon, {}, 0.0, 1.0) for epsilon in points)


def _chernoff(search: Search, phases: History, points: Sequence[float]) -> Proof:
    """Return an upper bound at one tilt."""
    c, _ = search.best_chernoff()
    rules = search.rules(c, 0.0, [0.0] * len(search.phases), (), 0.0)
    return complete_proof(
        Proof(search.direction, "chernoff", 128, c, 0.0, 0, (), rules, 0, (), _wanted(points)), phases
    )


def _line(search: Search, phases: History, points: Sequence[float]) -> Proof:
    """Return bounds by a line."""
    plan = best_plan(search)
    bits = 128 + math.ceil(math.log2(sum(n for _, _, n in phases)))
    choices = (plan.tilt, plan.step, plan.nodes, plan.side_tilts, plan.rules)
    return complete_proof(Proof(search.direction, "line", bits, *choices, 0, (), _wanted(points)), phases)
