"""The page: facts and figures laid out as one HTML file that asks for nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from opacus_edgeworth.errors import InvalidParameterError
from opacus_edgeworth.extras import require_extra
from opacus_edgeworth.report.content import TIME_LIMIT, TITLE, Report, make_report
from opacus_edgeworth.report.figures import delta_figure, tradeoff_figure
from opacus_edgeworth.report.numbers import exact
from opacus_edgeworth.report.run import Run


def render(report: Report) -> str:
    """Return the page, an HTML document without scripts; everything that is not ours is escaped.

    Raises:
      MissingExtraError: jinja2 or matplotlib is missing.
    """
    require_extra("report", "jinja2", "matplotlib")
    from jinja2 import Environment, PackageLoader, StrictUndefined  # the extra `report` brings them
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("opacus_edgeworth", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(exact=exact, number=repr, numbers=lambda values: " ".join(map(repr, values)))
    style = (files("opacus_edgeworth") / "report" / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        report=report,
        style=Markup(style),  # a file of this package
        delta_figure=Markup(delta_figure(report)),  # of numbers and of our own words
        tradeoff_figure=Markup(tradeoff_figure(report)),
        certificate_link=certificate_link(report),
        check_command=f"opacus-edgeworth audit --check certificate.json --delta {report.delta!r}",
    )


def certificate_link(report: Report) -> str:
    """Return the certificate as the address of a link, "" where there is none."""
    if report.certificate is None:
        return ""
    return "data:application/json;base64," + base64.b64encode(report.certificate.to_json().encode()).decode()


def save(report: Report, output: str | Path) -> None:
    """Write the page to a file.

    Raises:
      InvalidParameterError: the file cannot be written.
      MissingExtraError: see `render`.
    """
    page = render(report)
    try:
        Path(output).write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidParameterError(f"output={str(output)!r} cannot be written: {error.strerror or error}") from None


def write_report(
    run: Run | str | Path | Iterable[Any],
    output: str | Path,
    *,
    delta: float | None = None,
    title: str = TITLE,
    max_epsilon: float | None = None,
    time_limit: float = TIME_LIMIT,
) -> Report:
    """Write the page for a privacy reviewer about a run, and return the facts in it.

    Args:
      run: a file or folder: an Opacus checkpoint, an accountant's state, JSON or CSV, a fine-tuning run or its
        privacy.json; or a history, as `PrivacyCurve` takes it.
      output: the HTML file to write.
      delta: in (0, 1), at which ε is claimed; None takes the δ that a fine-tuning run recorded.
      title: of the page.
      max_epsilon: a limit on ε; the page says whether it is kept.
      time_limit: seconds that the certificate may take; 0 leaves it out.

    Returns:
      The facts, every number of them a proved bound or an input.

    Raises:
      InvalidParameterError: an argument is invalid, or a file cannot be read or written.
      CheckpointError: a checkpoint is damaged.
      MissingExtraError: jinja2 or matplotlib is missing.

    Example:
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     report = write_report([(1.0, 0.01, 1000)], Path(folder, "report.html"), delta=1e-5, time_limit=0)
      ...     page = Path(folder, "report.html").read_text(encoding="utf-8")
      >>> report.claim[0].text in page
      True
    """
    require_extra("report", "jinja2", "matplotlib")
    report = make_report(run, delta=delta, title=title, max_epsilon=max_epsilon, time_limit=time_limit)
    save(report, output)
    return report
