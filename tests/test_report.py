"""The page for a privacy reviewer: its form, its numbers on the safe side, its warnings, and how a browser shows it."""

from __future__ import annotations

import base64
import doctest
import hashlib
import importlib
import inspect
import io
import json
import math
import re
import shutil
import subprocess
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import opacus_edgeworth as ew
from opacus_edgeworth import report as report_module
from opacus_edgeworth.cli.app import app
from opacus_edgeworth.errors import InvalidParameterError, MissingExtraError
from opacus_edgeworth.finetune import FinetuneSettings
from opacus_edgeworth.finetune.budget import Plan
from opacus_edgeworth.finetune.checkpoint import Checkpoint, save_checkpoint
from opacus_edgeworth.finetune.statement import make_statement
from opacus_edgeworth.mechanisms import Laplace, RandomizedResponse
from opacus_edgeworth.report import certifying, make_report, write_report
from opacus_edgeworth.report.figures import delta_figure, tradeoff_figure
from opacus_edgeworth.report.numbers import Proved, exact, percentage
from opacus_edgeworth.report.page import render
from opacus_edgeworth.report.run import Run, read_run

HISTORY = [(1.0, 0.01, 1000)]
HOSTILE = '</title><script>alert("x")</script>\'<img src=http://evil.example/x onerror=alert(1)>&amp;{{ 7*7 }}'
VOID = {"meta", "input", "br", "img", "link", "hr"}
NUMBER = re.compile(r"(\d[\d.]*)?(?: × )?(?:(10)([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+))?")
DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
WIDE = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}


class Page(HTMLParser):
    """A page, parsed: every element must be closed, in order."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "data":
            self.numbers.append((self.elements[-1][1], data))
        elif not {"svg", "style"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def parsed(text: str) -> Decimal:
    """Return the number that a page prints."""
    plain = text.removesuffix(" %")
    if plain == "∞":
        return Decimal("inf")
    found = NUMBER.fullmatch(plain)
    assert found is not None, text
    assert found[1] or found[2], text
    value = Decimal(found[1] or 1).scaleb(int(found[3].translate(DIGITS)) if found[3] else 0)
    return value / 100 if text.endswith(" %") else value


def require_true(page: Page, curve: ew.PrivacyCurve) -> None:
    """Refuse a printed number that is not the curve's, or is on the wrong side of it, or rounded away too far."""
    assert page.numbers
    for attributes, text in page.numbers:
        quantity, end = attributes["data-quantity"], attributes["data-end"]
        at = [float(part) for part in (attributes["data-at"] or "").split()]
        options = {"floor": at.pop()} if quantity in ("gaussian_mu", "gaussian_regret") else {}
        bounds = getattr(curve, quantity or "")(*at, **options)
        value = getattr(bounds, end or "")
        assert float(attributes["value"] or "") == value, attributes
        shown = parsed(text)
        room = Decimal("1e-2") if text.endswith("%") else Decimal("1.1e-6")
        if end == "upper":
            assert (min(shown, Decimal(1)) == 1 and text.endswith("%")) or shown >= Decimal(value), (attributes, text)
            assert math.isinf(value) or shown <= Decimal(value) * (1 + room) + Decimal("1e-300"), (attributes, text)
        else:
            assert shown <= Decimal(value), (attributes, text)
            assert math.isinf(value) or shown >= Decimal(value) * (1 - room) - Decimal("1e-300"), (attributes, text)


def require_self_contained(text: str, page: Page) -> None:
    """Refuse whatever would be fetched, run or sent."""
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form", "img"), tag
        assert not {"src", "srcset", "action", "poster", "data"} & set(attributes), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        href = attributes.get("href") or attributes.get("xlink:href")
        if href is None or href.startswith("#"):
            continue
        assert tag == "a", (tag, href)
        if href.startswith("data:application/json;base64,"):
            assert attributes["download"] == "certificate.json"
        else:
            assert href.startswith("https://")
            assert attributes["rel"] == "noopener noreferrer"
    assert "@import" not in text
    assert all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)\)", text))
    policy = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


@pytest.fixture(scope="module")
def certified() -> report_module.Report:
    return make_report(HISTORY, delta=1e-5, title="Spam filter, second release", max_epsilon=3.0)


@pytest.fixture(scope="module")
def text(certified: report_module.Report) -> str:
    return render(certified)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longest."""
    for name in ("delta_figure", "tradeoff_figure"):
        monkeypatch.setattr(f"opacus_edgeworth.report.page.{name}", lambda report: "")


def quick(run: Any, **arguments: Any) -> report_module.Report:
    return make_report(run, time_limit=0.0, **{"delta": 1e-5, **arguments})


# --- form --------------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_asks_for_nothing(text: str):
    page = Page(text)
    require_self_contained(text, page)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
        for reference in (attributes.get("href"), attributes.get("xlink:href")):
            assert not (reference or "").startswith("#") or (reference or "")[1:] in ids, reference
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)


def test_the_page_can_be_read_without_seeing_it(text: str):
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table")) >= 8
    assert all(attributes.get("scope") in ("col", "row", "rowgroup") for attributes in page.all("th"))
    pictures = page.all("svg")
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["role"] == "img"
        assert len((picture["aria-labelledby"] or "").split()) == 2
    assert len(page.all("input")) == 8 == len([each for each in page.all("input") if each["type"] == "checkbox"])
    assert len(page.all("label")) == 8


def test_the_page_says_what_a_reviewer_asks(text: str):
    words = Page(text).text
    for said in (
        "Spam filter, second release", "added or removed", "proved upper bound", "was ε ≤ 3: it is kept",
        "Unit of privacy", "Trust model", "Side channels", "Data collection exposure", "Utility", "Bias",
        "Composition with other releases", "Access control", "Privacy parameters", "Algorithms and correctness",
        "Poisson sampling:", "To verify:", "What breaks it:", "Hyper-parameters", "Floating-point noise",
        "A person with several examples", "Nothing else is recorded of this run", "NIST SP 800-226", "python-flint",
    ):  # fmt: skip
        assert said in words, said


def test_pages_are_the_same_for_the_same_run(certified: report_module.Report, text: str):
    assert render(certified) == text


# --- numbers -----------------------------------------------------------------------------------------------------


def test_every_number_is_the_curves_and_on_the_safe_side(certified: report_module.Report, text: str):
    page = Page(text)
    require_true(page, certified.curve)
    quantities = {attributes["data-quantity"] for attributes, _ in page.numbers}
    assert quantities == {
        "epsilon", "delta", "true_positive_rate", "precision", "bayes_success", "reconstruction_success", "gaussian_mu",
        "gaussian_regret", "zcdp_rho", "renyi_divergence",
    }  # fmt: skip
    assert certified.epsilon == ew.PrivacyCurve(HISTORY).epsilon(1e-5)
    assert "ε ≤ 1.828237 at δ = 10⁻⁵" in re.sub(r"<[^>]*>", "", text)


def test_numbers_in_running_text_are_proved_or_inputs(text: str):
    """What has decimals and is no element of its own is a version, an input, or the claim in words."""
    page = Page(text)
    allowed = {"1.828237", "0.1", "0.01", "0.5", "1.5"}  # the claim; rates, priors and orders that were chosen
    words = page.text
    words = words[: words.index("Made with")]
    words = re.sub(r"opacus_edgeworth [\d.]+, python-flint [\d.]+, python [\d.]+", "", words)
    found = set(re.findall(r"(?<![\w.])\d+\.\d+", words))
    assert found <= allowed | {"0.0001"}, found


@pytest.mark.parametrize(
    "history",
    [
        [(0.6, 0.02, 500), (0.9, 0.01, 200)],
        [(2.0, 1.0, 10)],
        [(0.0, 0.1, 10)],  # no noise
        [(1.0, 0.0, 10)],  # nothing revealed
        [(30.0, 1e-3, 5)],
        [(0.2, 1.0, 10)],  # next to no privacy
        [(2.0, 1.0, 2), (RandomizedResponse(epsilon=0.5), 1)],
    ],
)
@pytest.mark.usefixtures("without_pictures")
def test_every_kind_of_run_gives_a_true_page(history: list[Any]):
    report = quick(history, delta=1e-6)
    text = render(report)
    page = Page(text)
    require_true(page, ew.PrivacyCurve(history))
    require_self_contained(text, page)


@pytest.mark.parametrize("history", [[(0.0, 0.1, 10)], [(1.0, 0.0, 10)], [(0.2, 1.0, 10)]])
def test_pictures_of_extremes(history: list[Any]):
    report = quick(history)
    drawn = report.epsilon.upper not in (0.0, math.inf)
    assert bool(delta_figure(report)) is bool(tradeoff_figure(report)) is drawn
    assert drawn or "There is no curve to draw" in render(report)


def test_rounding_is_away_from_the_truth():
    generator = np.random.default_rng(1)
    values = [*(10.0 ** generator.uniform(-12, 0, 300)), *(1.0 - 10.0 ** generator.uniform(-12, 0, 300)), 0.0, 1.0]
    for value in map(float, values):
        high, low = parsed(percentage(value, "upper")), parsed(percentage(value, "lower"))
        assert low <= Decimal(value) <= high
        assert high - low <= Decimal("0.011") * high
        for end in ("upper", "lower"):
            shown = parsed(Proved("delta", (1.0,), end, value).text)
            assert shown >= Decimal(value) if end == "upper" else shown <= Decimal(value)
    assert (exact(0.1 + 0.2), exact(1e-7), exact(3.0)) == ("0.30000000000000004", "10⁻⁷", "3")


def test_beliefs_hold_for_what_is_computed_from_the_output():
    """An attacker who is shown a single bit believes more, more often, than a quantile of the loss allows: not here."""
    bits = np.array([[cut >> place & 1 for place in range(8)] for cut in range(1, 2**8 - 1)], dtype=float)
    for seed in range(10):
        generator = np.random.default_rng(seed)
        used, unused = (generator.dirichlet(np.full(8, 0.4)) for _ in range(2))
        curve = ew.PrivacyCurve([(ew.mechanisms.DiscreteMechanism(tuple(used), tuple(unused)), 1)])
        members, others = bits @ used, bits @ unused  # how often each bit is 1: every way to publish one
        beliefs = members / (members + others)
        for rate in (0.01, 0.1):
            belief, often = curve.precision(0.5, rate).upper, curve.true_positive_rate(rate).upper
            assert np.all(members[beliefs > belief * (1 + 1e-9)] <= often * (1 + 1e-9))


# --- certificate -------------------------------------------------------------------------------------------------


def test_the_certificate_in_the_page_is_accepted(certified: report_module.Report, text: str):
    (link,) = [each for each in Page(text).all("a") if "download" in each]
    content = base64.b64decode((link["href"] or "").split(",")[1])
    certificate = ew.Certificate.from_json(content.decode())
    ew.check_certificate(certificate)
    assert certificate == certified.certificate
    claim = certificate.claim
    assert (claim.quantity, claim.at, claim.lower, claim.upper) == (
        "epsilon", 1e-5, certified.epsilon.lower, certified.epsilon.upper,
    )  # fmt: skip
    assert hashlib.sha256(content).hexdigest() in text
    assert "opacus-edgeworth audit --check certificate.json --delta 1e-05" in text


@pytest.mark.usefixtures("without_pictures")
def test_the_page_says_why_there_is_no_certificate(monkeypatch: pytest.MonkeyPatch):
    assert "There is none: none was asked for." in Page(render(quick(HISTORY))).text
    assert certifying.certify(((Laplace(1.0), 1),), 1e-5, 9.0).reason.startswith("audits are of Gaussian noise")
    assert certifying.certify(tuple(HISTORY), 1e-5, 0.01).reason == "the audit did not end within 0.01 s"
    asked = json.dumps({"history": [[0.0, 0.01, 10]], "delta": 1e-5})
    monkeypatch.setattr("sys.stdin", io.StringIO(asked))
    with pytest.raises(SystemExit, match=r"CertificationError: .* reveals nothing, or everything"):
        certifying.main()
    monkeypatch.setattr(certifying, "PROGRAM", "import sys; sys.exit('CertificationError: beyond reach')")
    assert certifying.certify(tuple(HISTORY), 1e-5, 9.0).reason == "CertificationError: beyond reach"
    monkeypatch.setattr(certifying, "PROGRAM", "import sys; sys.exit(7)")
    assert certifying.certify(tuple(HISTORY), 1e-5, 9.0).reason == "its process ended with status 7"
    monkeypatch.setattr(certifying, "PROGRAM", "print('no certificate')")
    assert "the certificate is not whole" in certifying.certify(tuple(HISTORY), 1e-5, 9.0).reason
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "python-flint is not installed" in certifying.certify(tuple(HISTORY), 1e-5, 9.0).reason


# --- what is read, and its warnings ------------------------------------------------------------------------------


def statement(settings: FinetuneSettings, **changes: Any) -> dict[str, Any]:
    """Return what a fine-tuning run writes, in the words of the framework itself."""
    plan = Plan(10_000, 1e-5, settings.target_epsilon, 1.0, 0.01, 100, 1000, ("a note of the plan",))
    bounds = ew.PrivacyCurve(HISTORY).epsilon(1e-5)
    made = make_statement(plan, settings, [(1.0, 0.01, 1000)], bounds, {"head.weight": 20}, "hooks", plan.notes)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        made[section] = {**made[section], name: value} if name else value
    return made


def said(report: report_module.Report, gravity: str) -> list[str]:
    return [
        "".join(part if isinstance(part, str) else part.text for part in caution.says)
        for caution in report.cautions
        if caution.gravity == gravity
    ]


@pytest.mark.usefixtures("without_pictures")
def test_a_finetuning_run_shows_its_facts_and_warns_of_its_seed(tmp_path: Path):
    (tmp_path / "privacy.json").write_text(json.dumps(statement(FinetuneSettings(target_epsilon=3.0, seed=5))))
    for path in (tmp_path, tmp_path / "privacy.json"):
        report = make_report(path, time_limit=0.0)
        assert report.delta == 1e-5  # the run's own
        assert said(report, "serious") == [
            "A seed was set: the noise can be computed by whoever knows or guesses it. For demonstrations alone."
        ]
        words = Page(render(report)).text
        for fact in (
            "training examples 10000",
            "clipping norm 0.5",
            "the seed 5",
            "a note of the plan",
            "transformers",
        ):
            assert fact in words, fact
        assert "privacy.json" in words
        assert str(tmp_path) not in render(report)


def test_where_the_noise_came_from_is_told():
    system = quick(Run(tuple(HISTORY), "", _recorded(statement(FinetuneSettings(target_epsilon=3.0)))))
    assert said(system, "serious") == []
    assert said(system, "note")[0].startswith("secure_mode was off")
    secure = quick(
        Run(tuple(HISTORY), "", _recorded(statement(FinetuneSettings(target_epsilon=3.0, secure_mode=True))))
    )
    assert secure.cautions == ()
    unknown = quick(Run(tuple(HISTORY), "", _recorded(statement(FinetuneSettings(target_epsilon=3.0), assumptions=[]))))
    assert said(unknown, "note") == ["The run did not record where its noise came from."]


def _recorded(made: dict[str, Any]):
    return importlib.import_module("opacus_edgeworth.report.recorded").recorded_in(json.loads(json.dumps(made)))


def test_claims_that_are_disproved_and_deltas_that_are_too_large():
    settings = FinetuneSettings(target_epsilon=3.0, secure_mode=True)
    lied = Run(tuple(HISTORY), "", _recorded(statement(settings, guarantee__epsilon=1.5)))
    (sentence,) = said(quick(lied), "serious")
    assert sentence == "The run claims ε = 1.5, which is disproved: the true ε is at least 1.828236."
    assert quick(lied, delta=1e-6).cautions == ()  # another δ than the run's
    honest = Run(tuple(HISTORY), "", _recorded(statement(settings)))
    (sentence,) = said(quick(honest, delta=1e-4), "serious")
    assert "δ = 10⁻⁴ is not below one over the 10,000 training examples" in sentence
    (sentence,) = said(quick(HISTORY, max_epsilon=1.0), "serious")
    assert sentence == "The limit is exceeded: ε ≤ 1 is not proved. The bound is 1.828237."
    (sentence,) = said(quick([(0.0, 0.5, 10)]), "serious")
    assert sentence.startswith("Nothing is promised")
    (sentence,) = said(quick([(1.0, 0.0, 10)]), "note")
    assert sentence.startswith("ε is 0 at this δ")


def test_a_run_that_was_stopped(tmp_path: Path):
    save_checkpoint(Checkpoint({}, list(HISTORY), {"weight": torch.ones(3)}, {}, {}), tmp_path / "checkpoint.pt")
    run = read_run(tmp_path)
    assert (run.history, run.stopped, run.recorded) == (tuple(HISTORY), True, None)
    assert said(quick(run), "serious")[0].startswith("The run had not ended")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", json.dumps(HISTORY)),
        ("run.json", json.dumps({"history": HISTORY, "mechanism": "rdp"})),
        ("run.csv", "noise_multiplier,sample_rate,steps\n1.0,0.01,1000\n"),
        ("state.pt", None),
    ],
)
def test_everything_that_holds_a_history(tmp_path: Path, name: str, content: str | None):
    path = tmp_path / name
    if content is None:
        torch.save({"history": HISTORY, "mechanism": "prv"}, path)
    else:
        path.write_text(content)
    run = read_run(path)
    assert (run.history, run.source, run.recorded, run.stopped) == (tuple(HISTORY), name, None, False)
    with pytest.raises(InvalidParameterError, match="delta=None is missing"):
        make_report(path, time_limit=0.0)


@pytest.mark.usefixtures("without_pictures")
def test_hostile_text_stays_text(tmp_path: Path):
    made = statement(
        FinetuneSettings(target_epsilon=3.0),
        mechanism__clipping=HOSTILE, guarantee__unit=HOSTILE, assumptions=[HOSTILE, 7, None, {"a": 1}],
        notes=[HOSTILE], versions={HOSTILE: HOSTILE, "torch": ["no text"]}, mechanism__examples=math.inf,
        mechanism__max_grad_norm=10**400, guarantee__epsilon="5", trained="no mapping",
    )  # fmt: skip
    path = tmp_path / "<b>&'x.json"
    path.write_text(json.dumps(made))
    text = render(make_report(path, title=HOSTILE, time_limit=0.0))
    page = Page(text)
    require_self_contained(text, page)
    assert "<script" not in text
    assert "<img" not in text
    assert HOSTILE[:60] in page.text
    assert "{{ 7*7 }}" in page.text
    assert "From <b>&'x.json" in page.text


@pytest.mark.usefixtures("without_pictures")
def test_bad_arguments_are_refused(tmp_path: Path):
    for delta in (0.0, 1.0, math.nan, 2.0):
        with pytest.raises(InvalidParameterError, match="delta="):
            quick(HISTORY, delta=delta)
    with pytest.raises(InvalidParameterError, match="run=7 must be a file"):
        quick(7)
    with pytest.raises(InvalidParameterError, match="history\\[0\\]"):
        quick([(1.0, 2.0, 3)])
    with pytest.raises(InvalidParameterError, match=r"output='.*' cannot be written"):
        write_report(HISTORY, tmp_path / "no" / "folder.html", delta=1e-5, time_limit=0.0)


# --- interface ---------------------------------------------------------------------------------------------------


def test_names_signatures_and_docstrings():
    assert report_module.__all__ == ["Report", "make_report", "write_report"]
    options = ["delta", "title", "max_epsilon", "time_limit"]
    assert list(inspect.signature(make_report).parameters) == ["run", *options]
    assert list(inspect.signature(write_report).parameters) == ["run", "output", *options]
    kinds = {inspect.signature(write_report).parameters[name].kind for name in options}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    for name in ("content", "numbers", "page"):
        result = doctest.testmod(importlib.import_module(f"opacus_edgeworth.report.{name}"))
        assert result.attempted > 0
        assert result.failed == 0


@pytest.mark.usefixtures("without_pictures")
def test_write_report_returns_what_it_wrote(tmp_path: Path):
    report = write_report(HISTORY, tmp_path / "report.html", delta=1e-5, time_limit=0.0)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(report)


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install opacus_edgeworth\[report\]"):
        write_report(HISTORY, tmp_path / "report.html", delta=1e-5)
    assert not (tmp_path / "report.html").exists()


def invoke(*arguments: object, text: str | None = None):
    return CliRunner().invoke(app, ["report", *map(str, arguments)], env=WIDE, input=text)


@pytest.mark.usefixtures("without_pictures")
def test_the_command(tmp_path: Path):
    page = tmp_path / "report.html"
    (tmp_path / "run.json").write_text(json.dumps(HISTORY))
    plain = (tmp_path / "run.json", "-o", page, "--time-limit", 0)
    done = invoke(*plain, "--delta", "1e-5", "--max-epsilon", 2)
    assert done.exit_code == 0, done.output
    for words in ("1.8282367", "1.8282366", "none: none was asked for", "limit: ε at most 2.0: kept", str(page)):
        assert words in done.stdout
    assert "From <code>run.json</code>" in page.read_text(encoding="utf-8")
    done = invoke(*plain, "--delta", "1e-5", "--max-epsilon", 1, "--json", "--title", "T")
    assert done.exit_code == 3
    answer = json.loads(done.stdout)
    bounds = ew.PrivacyCurve(HISTORY).epsilon(1e-5)
    assert answer["epsilon"] == {"lower": bounds.lower, "upper": bounds.upper}
    assert (answer["exceeded"], answer["certified"], answer["title"], answer["delta"]) == (True, False, "T", 1e-5)
    assert answer["warnings"][0]["gravity"] == "serious"
    assert "not proved to be kept" in page.read_text(encoding="utf-8")
    made = json.dumps(statement(FinetuneSettings(target_epsilon=3.0, seed=1)))
    done = invoke("-", "-o", page, "--time-limit", 0, text=made)
    assert done.exit_code == 0, done.output
    assert "warning: A seed was set" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["run.json", "-o", "x.html"], 2, "--delta"),
        (["run.json", "--delta", "1e-5"], 2, "--output"),
        (["run.json", "-o", "x.html", "--delta", "1e-5", "--steps", "3"], 2, "holds the whole history"),
        (["-o", "x.html", "--delta", "1e-5"], 2, "FILE"),
        (["run.json", "-o", "x.html", "--delta", "2"], 1, "error: --delta: 2.0 must be in [0, 1]"),
        (["run.json", "-o", "x.html", "--delta", "1e-5", "--max-epsilon", "-1"], 1, "error: --max-epsilon: -1.0"),
        (["no.json", "-o", "x.html", "--delta", "1e-5"], 1, "no.json cannot be read"),
        (["run.json", "-o", "no/x.html", "--delta", "1e-5", "--time-limit", "0"], 1, "error: --output: 'no/x.html'"),
    ],
)
@pytest.mark.usefixtures("without_pictures")
def test_the_command_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, words: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(HISTORY))
    done = invoke(*arguments)
    assert done.exit_code == status, done.output
    assert words in done.stderr
    assert not (tmp_path / "x.html").exists()


# --- in a browser ------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
def test_a_browser_shows_the_page_without_a_complaint(tmp_path: Path, text: str):
    page, picture = tmp_path / "report.html", tmp_path / "picture.png"
    page.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,7000",
            f"--screenshot={picture}", page.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    shown = np.asarray(Image.open(picture).convert("L"), dtype=float)
    assert shown.shape == (7000, 1100)
    dark = shown < 128
    assert 0.005 < dark.mean() < 0.2
    tiles = dark[:6000, 150:950].reshape(12, 500, 800)  # down to the last section there is something everywhere
    assert all(tile.mean() > 0.002 for tile in tiles)
    assert np.all(np.abs(np.asarray(Image.open(picture).convert("RGB"), dtype=int)[..., 0] - shown) < 40)  # no colour
