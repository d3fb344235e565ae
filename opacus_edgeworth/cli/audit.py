"""`opacus-edgeworth audit`: a result proved again in ball arithmetic, and the check of such a proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from opacus_edgeworth.certification.audit import audit
from opacus_edgeworth.certification.certificate import Certificate, check_certificate
from opacus_edgeworth.cli.exits import ExitStatus, wrong_usage
from opacus_edgeworth.cli.history import (
    OUTPUT,
    QUESTION,
    BatchSize,
    DatasetSize,
    Epochs,
    FileArgument,
    Json,
    NoiseMultiplier,
    RunFlags,
    SampleRate,
    Steps,
    find_history,
)
from opacus_edgeworth.cli.output import (
    json_object,
    package_version,
    print_assumptions,
    print_json,
    print_line,
    print_table,
)
from opacus_edgeworth.composition import parse_history
from opacus_edgeworth.errors import CertificationError, InvalidParameterError
from opacus_edgeworth.extras import require_extra
from opacus_edgeworth.histories import History
from opacus_edgeworth.rounding import at_least, at_most


def audit_command(
    file: FileArgument = None,
    noise_multiplier: NoiseMultiplier = None,
    sample_rate: SampleRate = None,
    batch_size: BatchSize = None,
    dataset_size: DatasetSize = None,
    steps: Steps = None,
    epochs: Epochs = None,
    delta: Annotated[float | None, typer.Option(help="δ at which ε is proved.", rich_help_panel=QUESTION)] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Instead: ε at which δ is proved.", rich_help_panel=QUESTION)
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Check this certificate instead; with a FILE or flags, also that it is about that run, and with"
            " --delta or --epsilon, about that value. Exit status 4 if it is refused.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the certificate there.", rich_help_panel=OUTPUT)
    ] = None,
    json_output: Json = False,
) -> None:
    """Prove ε or δ of a run again in ball arithmetic and write the proof as a certificate, or check a certificate.

    Needs python-flint, which the extra `audit` brings.

    [bold]Examples[/]:

    opacus-edgeworth audit checkpoint.pt --delta 1e-5 -o certificate.json

    opacus-edgeworth audit --check certificate.json
    """
    if delta is not None and epsilon is not None:
        raise wrong_usage("--delta", "give either --delta or --epsilon, not both")
    if check is None and delta is None and epsilon is None:
        raise wrong_usage("--delta", "missing; give --delta, --epsilon, or a certificate to --check")
    if check is not None and output is not None:
        raise wrong_usage("--output", "goes with a new certificate, not with --check")
    require_extra("audit", "flint")
    flags = RunFlags(noise_multiplier, sample_rate, batch_size, dataset_size, steps, epochs)
    with Console(stderr=True).status("ball arithmetic ..."):
        if check is None:
            certificate = audit(find_history(file, flags), delta=delta, epsilon=epsilon)
        else:
            history = find_history(file, flags) if file is not None or flags.given else None
            certificate = _checked(check, history, delta, epsilon, json_output)
    if output is not None:
        try:
            certificate.save(output)
        except OSError as error:
            raise InvalidParameterError(f"output={str(output)!r} cannot be written: {error.strerror}") from None
    show = _show_json if json_output else _show
    show(certificate, check or output)


def _checked(
    path: Path, history: History | None, delta: float | None, epsilon: float | None, json_output: bool
) -> Certificate:
    """Return the certificate in a file, or end with exit status 4 if it is refused."""
    try:
        certificate = Certificate.load(path)
        check_certificate(certificate)
        _require_about(certificate, history, delta, epsilon)
    except OSError as error:
        raise InvalidParameterError(f"check={str(path)!r} cannot be read: {error.strerror}") from None
    except CertificationError as error:
        if json_output:
            parts = {"verified": False, "reason": str(error), "certificate": str(path)}
            print_json({"command": "audit", "version": package_version(), **parts})
        Console(stderr=True).print(Text("refused: ", style="bold red") + Text(f"{path}: {error}"), soft_wrap=True)
        raise typer.Exit(ExitStatus.REFUSED) from None
    return certificate


def _require_about(
    certificate: Certificate, history: History | None, delta: float | None, epsilon: float | None
) -> None:
    """Refuse a certificate that is about another run, or another question."""
    if history is not None:
        phases = sorted((s, q, n) for (s, q), n in parse_history(history).items() if n > 0 and q > 0.0)
        if phases != list(certificate.history):
            raise CertificationError(f"it is about another run: {list(certificate.history)}, not {phases}")
    claim = certificate.claim
    for asked, value, quantity in (("delta", delta, "epsilon"), ("epsilon", epsilon, "delta")):
        if value is not None and (claim.quantity, claim.at) != (quantity, value):
            raise CertificationError(f"it does not bound {quantity} at {asked} {value:g}: its claim is {claim}")


def _show_json(certificate: Certificate, path: Path | None) -> None:
    """Print a verified claim for programs."""
    claim = certificate.claim
    given = "delta" if claim.quantity == "epsilon" else "epsilon"
    parts: dict[str, Any] = {
        claim.quantity: {"lower": claim.lower, "upper": claim.upper},
        given: claim.at,
        "verified": True,
        "certificate": None if path is None else str(path),
        "made_by": list(certificate.versions),
    }
    print_json(json_object("audit", certificate.history, **parts))


def _show(certificate: Certificate, path: Path | None) -> None:
    """Print a verified claim for people."""
    claim = certificate.claim
    letter, given = ("ε", "δ") if claim.quantity == "epsilon" else ("δ", "ε")
    rows = [
        (f"{letter} at {given} = {claim.at:g}, at most", at_most(claim.upper)),
        (f"{letter} at {given} = {claim.at:g}, at least", at_least(claim.lower)),
        *(
            (f"proof, {proof.direction}", _method(proof.method, proof.nodes, proof.bits))
            for proof in certificate.proofs
        ),
        ("made by", ", ".join(certificate.versions)),
    ]
    print_table("proved in ball arithmetic", ("claim", "value"), rows)
    print_assumptions(certificate.history)
    if path is not None:
        print_line(f"certificate: {path}")


def _method(method: str, nodes: int, bits: int) -> str:
    """Return how one direction was proved."""
    return f"{method}, {nodes + 1} nodes, {bits} bits" if nodes else f"{method}, {bits} bits"
