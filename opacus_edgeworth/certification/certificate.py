r"""A bound on delta or epsilon with its proof, and the checker that trusts no more of it than it can re-derive.

A certificate holds a claim, and proofs of results (lower and upper bounds on one direction's delta) from which it
follows. A proof is a set of free choices (contour, scores: a bad one could only fail), enclosures of the characteristic
function at every node of the contour, error terms, and results. `check_certificate` computes the enclosures again, in
ball arithmetic and from the inputs and choices alone, requires the stored ones to contain them, sums the stored ones,
adds its own error terms, and compares. What passes is a theorem about the history in the certificate, given this file,
`composed`, `balls` and python-flint. The digest guards against accidents alone: a forger can renew it, and then gets
no further.

The proof of one direction by a line Re z = c > 1 (`_line_results`), with h its step, K its last node, D = 2 pi / h:

    delta(e) = (1/2 pi i) Int e^{G(z) + (1-z) e} / (z (z-1)) dz,    sum of nodes = sum_m e^{(c-1) D m} delta(e + D m)

by Poisson's summation formula. All terms are >= 0, so the sum is an upper bound; for the lower one, Chernoff bounds at
tilts on either side of c sum up to geometric series (alias). Nodes beyond K: |z (z-1)| >= y^2 (truncation). A split run
sums the delta of Q^n (prod chi - prod chi_quiet), a positive measure too, and bounds that of quiet events by Chernoff.
What was cut off adds to the upper bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from opacus_edgeworth._types import Direction
from opacus_edgeworth._validate import shown
from opacus_edgeworth.certification.balls import Ball, Rule, flint
from opacus_edgeworth.certification.composed import (
    Run,
    add_limit,
    amplitude_decay,
    amplitudes,
    chernoff,
    closed_form,
    cut_off,
    line_sum,
    make_run,
    moment,
)
from opacus_edgeworth.certification.typed_json import decode, digest, encode
from opacus_edgeworth.errors import CertificationError, InvalidParameterError

FORMAT = 1
DIGITS = 100
"""Bits kept of the largest amplitude: nodes are stored as whole multiples of 2^unit."""
MAX_TEXT, MAX_NODES, MAX_PHASES, MAX_BITS, MAX_WORK = 1 << 26, 1 << 16, 256, 1024, 400_000_000
"""Characters, nodes, phases, bits, and nodes times scores beyond which a certificate is refused unread."""
NO_LINE = (0.0, 0, (), 0, ())
"""Step, nodes, side tilts, unit and amplitudes of a proof without a line."""
AGREEMENT = 1e-12
"""How much looser a stored bound may be than the derived one: rounding may differ between versions of flint."""


@dataclass(frozen=True, slots=True)
class Result:
    """One direction's delta at `epsilon` lies in [lower, upper]; `terms` are the error terms, by name."""

    epsilon: float
    terms: dict[str, float]
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Proof:
    """Results on one direction, and how they are derived.

    Args:
      direction: "remove" or "add".
      method: "line"; "chernoff", an upper bound at one tilt; "limit", delta = 0 where no loss exceeds epsilon;
        "closed form".
      bits: precision of the ball arithmetic.
      tilt: c of the line Re z = c, or of the one tilt that "chernoff" takes.
      step: h of the line's nodes at Im z = 0, h, ..., K h; 0 without a line.
      nodes: K; 0 without a line.
      side_tilts: tilts of Chernoff bounds: below and above c for the alias terms, and one for quiet events.
      rules: how each phase with sample_rate < 1 is summed, in the order of the history.
      unit: amplitudes are multiples of 2^unit.
      amplitudes: "re im radius", whole numbers in units, per node: both parts of e^{G(z)} lie within the radius.
    """

    direction: Direction
    method: Literal["line", "chernoff", "limit", "closed form"]
    bits: int
    tilt: float
    step: float
    nodes: int
    side_tilts: tuple[float, ...]
    rules: tuple[Rule, ...]
    unit: int
    amplitudes: tuple[str, ...]
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """The `quantity` ("delta" or "epsilon") at the other one's value `at` lies in [lower, upper]."""

    quantity: Literal["delta", "epsilon"]
    at: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """A claim about a training history, with its proof.

    Args:
      format: of this file, 1.
      versions: of the package, python-flint and Python that made it: for information, the checker needs none.
      history: (noise_multiplier, sample_rate, steps) phases, merged and sorted.
      claim: what is proved, for the larger of the two directions.
      proofs: from which it follows.

    Example:
      >>> from opacus_edgeworth.certification.audit import audit
      >>> certificate = audit([(1.0, 0.01, 1000)], delta=1e-5)
      >>> check_certificate(Certificate.from_json(certificate.to_json()))
      >>> round(certificate.claim.upper, 6)
      1.828237
    """

    format: int
    versions: tuple[str, ...]
    history: tuple[tuple[float, float, int], ...]
    claim: Claim
    proofs: tuple[Proof, ...]

    def to_json(self) -> str:
        """Return the certificate as text; every float is written twice, in decimal and, exactly, in hexadecimal."""
        try:
            content = encode(asdict(self))
            return json.dumps({**content, "digest": digest(content)}, indent=1) + "\n"
        except (TypeError, ValueError, RecursionError) as error:  # anyone can put anything into a dataclass
            raise CertificationError(f"this is not a certificate: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Return the certificate that a text holds; this says nothing yet about its truth.

        Raises:
          CertificationError: the text is no certificate, or was damaged.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CertificationError(f"text={shown(text)} is not a certificate's text")
        if len(text) > MAX_TEXT:
            raise CertificationError(f"a certificate of {len(text)} characters is longer than any that is issued")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CertificationError(f"the certificate is not whole: {error}") from None
        if not isinstance(content, dict) or "digest" not in content:
            raise CertificationError("the certificate has no digest")
        stored = content.pop("digest")
        certificate = decode(cls, content, "certificate")
        if stored != digest(content):
            raise CertificationError("the certificate was altered: its digest differs")
        return certificate

    def save(self, path: str | Path) -> None:
        """Write the certificate to a file."""
        _as_path(path).write_text(self.to_json(), encoding="ascii")

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read a certificate from a file; see `from_json`."""
        try:
            return cls.from_json(_as_path(path).read_text(encoding="ascii"))
        except UnicodeDecodeError:
            raise CertificationError("the certificate is not a text") from None


def _as_path(path: Any) -> Path:
    """Return a path that can be asked for."""
    if not isinstance(path, (str, Path)) or "\0" in str(path):
        raise InvalidParameterError(f"path={shown(path)} must be the path of a file")
    return Path(path)


def check_certificate(certificate: Certificate) -> None:
    """Verify a certificate: afterwards its claim is proved for the history it names.

    Every enclosure, error term and result is derived again, in ball arithmetic, from the history and the free choices.

    Raises:
      CertificationError: it is malformed, its work is beyond bounds, something stored is not what is derived, or the
        claim does not follow; the message says which.
      ImportError: python-flint is not installed.
    """
    try:
        certificate = decode(Certificate, encode(asdict(certificate)), "certificate")  # it may never have been a text
    except (TypeError, AttributeError):
        raise CertificationError("this is not a certificate") from None
    _check_inputs(certificate)
    for proof in certificate.proofs:
        with flint().ctx.workprec(proof.bits):
            _check_proof(proof, certificate.history)
    check_claim(certificate)


def _check_inputs(certificate: Certificate) -> None:
    """Refuse inputs outside their domain and work beyond bounds, before any work is done."""
    if certificate.format != FORMAT:
        raise CertificationError(f"format {certificate.format} is not known, only {FORMAT}")
    history, claim = certificate.history, certificate.claim
    if not 1 <= len(history) <= MAX_PHASES or not 1 <= len(certificate.proofs) <= 8:
        raise CertificationError("the number of phases or proofs is out of bounds")
    for s, q, n in history:
        if not (1e-3 <= s <= 1e6 and 0.0 < q <= 1.0 and 1 <= n <= 2**53):
            raise CertificationError(f"history: {(s, q, n)} is out of bounds")
    if not (claim.at >= 0.0 and 0.0 <= claim.lower <= claim.upper):
        raise CertificationError(f"claim: {claim} is not a claim")
    for proof in certificate.proofs:
        _check_size(proof, sum(q < 1.0 for _, q, _ in history))


def _check_size(proof: Proof, sampled: int) -> None:
    """Refuse a proof of the wrong shape, or whose work is beyond bounds."""
    if len(proof.rules) != (sampled if proof.method in ("line", "chernoff") else 0):
        raise CertificationError("rules: one is needed for every phase with sample_rate below 1")
    if any(not 2 <= rule.last - rule.first < MAX_WORK or abs(rule.first) > 2**40 for rule in proof.rules):
        raise CertificationError("rules: the range of scores is out of bounds")
    if not (0 <= proof.nodes <= MAX_NODES and 64 <= proof.bits <= MAX_BITS and abs(proof.unit) <= 2**40):
        raise CertificationError("nodes, bits or unit are out of bounds")
    if proof.method != "line" and (proof.step, proof.nodes, proof.side_tilts, proof.unit, proof.amplitudes) != NO_LINE:
        raise CertificationError(f"a proof by {proof.method!r} has neither step nor nodes")
    scores = sum(rule.last - rule.first + 1 for rule in proof.rules)
    if (proof.nodes + 100) * scores > MAX_WORK or not 1 <= len(proof.results) <= 2:
        raise CertificationError("the work of checking, or the number of results, is out of bounds")


def _check_proof(proof: Proof, history: tuple[tuple[float, float, int], ...]) -> None:
    """Derive a proof's enclosures and results again, and compare them with what it says."""
    if proof.method == "line":
        run = make_run(history, proof.direction, proof.rules)
        stored = read_amplitudes(proof)
        for node, value in enumerate(amplitudes(run, proof.tilt, proof.step, proof.nodes)):
            if not stored[node].contains(value):
                raise CertificationError(f"amplitude {node} of the {proof.direction} direction is wrong")
    for stored_result, derived in zip(proof.results, derive_results(proof, history), strict=True):
        _compare(stored_result, derived, f"{proof.direction} direction, epsilon {stored_result.epsilon!r}")


def _compare(stored: Result, derived: Result, where: str) -> None:
    """Refuse a stored result that is tighter than the derived one, or looser beyond rounding."""
    if stored.terms.keys() != derived.terms.keys():
        raise CertificationError(f"{where}: the error terms should be {sorted(derived.terms)}")
    for name, value in derived.terms.items():
        if not value * (1.0 - AGREEMENT) <= stored.terms[name] <= value * (1.0 + AGREEMENT):
            raise CertificationError(f"{where}: the error term {name!r} is {value!r}, not {stored.terms[name]!r}")
    if not derived.upper <= stored.upper <= derived.upper * (1.0 + AGREEMENT):
        raise CertificationError(f"{where}: the upper bound is {derived.upper!r}, not {stored.upper!r}")
    if not derived.lower * (1.0 - AGREEMENT) <= stored.lower <= derived.lower:
        raise CertificationError(f"{where}: the lower bound is {derived.lower!r}, not {stored.lower!r}")


def check_claim(certificate: Certificate) -> None:
    """Refuse a claim that does not follow from the results, which have been verified."""
    claim = certificate.claim
    at = [claim.at] if claim.quantity == "delta" else [claim.lower, claim.upper]
    bounds = [delta_bounds(certificate.proofs, epsilon) for epsilon in at]
    if claim.quantity == "delta":
        if bounds[0] != (claim.lower, claim.upper):
            raise CertificationError(f"claim: delta lies in {bounds[0]}, which is not {claim}")
        return
    if not bounds[1][1] <= claim.at:
        raise CertificationError(f"claim: delta at epsilon {claim.upper!r} is proved up to {bounds[1][1]!r}: {claim}")
    if not (claim.lower == 0.0 or bounds[0][0] >= claim.at):
        raise CertificationError(f"claim: delta at epsilon {claim.lower!r} is proved from {bounds[0][0]!r}: {claim}")


def delta_bounds(proofs: Iterable[Proof], epsilon: float) -> tuple[float, float]:
    """Return (lower, upper) on the larger direction's delta; the upper end needs both directions."""
    lower, upper = 0.0, {"remove": 1.0, "add": 1.0}
    for proof in proofs:
        for result in proof.results:
            if result.epsilon == epsilon:
                lower = max(lower, result.lower)
                upper[proof.direction] = min(upper[proof.direction], result.upper)
    return lower, max(upper.values())


def complete_proof(proof: Proof, history: tuple[tuple[float, float, int], ...]) -> Proof:
    """Return a proof, given as free choices and the epsilons of its results, with all that is derived from them."""
    with flint().ctx.workprec(proof.bits):
        if proof.method == "line":
            run = make_run(history, proof.direction, proof.rules)
            values = amplitudes(run, proof.tilt, proof.step, proof.nodes)
            if not (abs(values[0]) > 0 and all(value.is_finite() for value in values)):
                raise CertificationError("the amplitudes are lost in error: the choices do not suit the history")
            unit = math.floor(float(abs(values[0]).log() / flint().arb(2).log())) - DIGITS
            proof = replace(proof, unit=unit, amplitudes=tuple(_write_amplitude(value, unit) for value in values))
        return replace(proof, results=derive_results(proof, history))


def derive_results(proof: Proof, history: tuple[tuple[float, float, int], ...]) -> tuple[Result, ...]:
    """Return the results that follow from a proof's free choices and stored enclosures."""
    if proof.method == "line":
        return _line_results(proof, make_run(history, proof.direction, proof.rules))
    return tuple(_other_result(proof, history, result.epsilon) for result in proof.results)


def _line_results(proof: Proof, run: Run) -> tuple[Result, ...]:
    """Sum a line's stored enclosures and add its error terms: the only place where they meet."""
    arb = flint().arb
    c, h = arb(proof.tilt), arb(proof.step)
    if len(proof.side_tilts) != 2 + run.is_split or not 1 <= proof.side_tilts[0] < proof.tilt < proof.side_tilts[1]:
        raise CertificationError(f"{proof.side_tilts} do not lie on either side of the tilt {proof.tilt!r}")
    if not (proof.nodes >= 1 and h > 0):
        raise CertificationError("a line needs nodes a distance apart")
    stored = read_amplitudes(proof)
    period = 2 * arb.pi() / h
    beyond = amplitude_decay(run, proof.tilt, h * (proof.nodes + 1)) / (arb.pi() * h * proof.nodes)
    sides = [(tilt, moment(run, tilt), (abs(arb(tilt) - c) * period).expm1()) for tilt in proof.side_tilts[:2]]
    quiet = moment(run, proof.side_tilts[2], quiet=True) if run.is_split else arb(0)
    results: list[Result] = []
    for epsilon in (result.epsilon for result in proof.results):
        e = arb(epsilon)
        total = line_sum(stored, proof.tilt, proof.step, e)
        below, above = (chernoff(size, tilt, e) / growth for tilt, size, growth in sides)
        truncation = beyond * ((1 - c) * e).exp()
        left = chernoff(quiet, proof.side_tilts[2], e) if run.is_split else arb(0)
        terms = {"alias below": below, "alias above": above, "truncation": truncation, "quiet events": left}
        terms["cut off"] = cut_off(run)
        lower, upper = total - below - above - truncation, total + truncation + left + terms["cut off"]
        rounded = {name: round_up(term) for name, term in terms.items()}
        results.append(Result(epsilon, rounded, round_down(lower), min(round_up(upper), 1.0)))
    return tuple(results)


def _other_result(proof: Proof, history: tuple[tuple[float, float, int], ...], epsilon: float) -> Result:
    """Return what follows without a line."""
    e = flint().arb(epsilon)
    if proof.method == "chernoff":
        run = make_run(history, proof.direction, proof.rules)
        value = chernoff(moment(run, proof.tilt), proof.tilt, e) + cut_off(run)
        return Result(epsilon, {}, 0.0, min(round_up(value), 1.0))
    if proof.method == "limit":
        if proof.direction != "add" or not e >= add_limit(history):
            raise CertificationError(f"a loss may exceed epsilon {epsilon!r} in the {proof.direction} direction")
        return Result(epsilon, {}, 0.0, 0.0)
    value = closed_form(history, proof.direction, epsilon)
    return Result(epsilon, {}, round_down(value), min(round_up(value), 1.0))


def round_up(value: Ball) -> float:
    """Return a double that is not below any number in a ball."""
    return 0.0 - round_down(-value, lowest=-math.inf)  # 0.0 - 0.0 is 0.0, not -0.0


def round_down(value: Ball, *, lowest: float = 0.0) -> float:
    """Return a double that is not above any number in a ball, or `lowest` if that is larger."""
    if not value.is_finite():
        raise CertificationError("a bound is not finite: the choices of the proof do not suit the history")
    result = float(value.lower())
    while not flint().arb(result) <= value:
        result = math.nextafter(result, -math.inf)
    return max(result, lowest)


def read_amplitudes(proof: Proof) -> list[Ball]:
    """Return the stored enclosures as balls."""
    lib = flint()
    if len(proof.amplitudes) != proof.nodes + 1:
        raise CertificationError(f"there are {len(proof.amplitudes)} amplitudes for {proof.nodes + 1} nodes")
    unit = lib.arb(2) ** proof.unit
    balls: list[Ball] = []
    for node, text in enumerate(proof.amplitudes):
        words = text.split(" ")
        try:
            if len(text) > 200 or len(words) != 3 or any(str(int(word)) != word for word in words):
                raise ValueError
        except ValueError:
            raise CertificationError(f"amplitude {node}: {text[:80]!r} is not three whole numbers") from None
        real, imag, radius = (lib.arb(int(word)) * unit for word in words)
        if radius < 0:
            raise CertificationError(f"amplitude {node} has a negative radius")
        around = radius.union(-radius)
        balls.append(lib.acb(real + around, imag + around))
    return balls


def _write_amplitude(value: Ball, unit: int) -> str:
    """Return an enclosure in units, rounded outward with a margin for other versions of flint."""
    scaled = value * flint().arb(2) ** -unit
    real, imag = (int(part.mid().floor().unique_fmpz()) for part in (scaled.real, scaled.imag))
    radius = (scaled.real.rad() + scaled.imag.rad()) * 1.25
    return f"{real} {imag} {int(radius.upper().ceil().unique_fmpz()) + 2}"
