"""The data flows one way: imports point down, and only the leaves know Opacus, torch or matplotlib."""

import ast
from pathlib import Path

import pytest

import opacus_edgeworth as ew

PACKAGE = Path(ew.__file__).parent  # the sources here, the wheel under `make test-wheel`
ORDER = [
    "errors", "rounding", "_validate", "bounds", "extras", "plotting", "_types", "mechanisms", "composition",
    "adjacency",
    "inversion.law", "inversion.certain", "inversion.grid", "inversion.quadrature", "inversion.saddle",
    "inversion.truncation", "inversion.characteristic", "inversion.line", "inversion.contour", "inversion.route",
    "inversion.link", "inversion.chain", "inversion.exact", "inversion.elementary", "inversion.few",
    "inversion.root",
    "inversion.inverting", "inversion.many", "inversion.foresight", "inversion.engines", "inversion.memory",
    "inversion.nearby", "mixed.law",
    "mixed.panels", "mixed.part", "mixed.replaced", "mixed.points", "mixed.laplace", "mixed.sampled", "mixed.atoms",
    "mixed.contour", "mixed.outcomes", "mixed.side",
    "mixed.engines", "meaning.profile", "meaning.tradeoff", "meaning.risk", "meaning.gaussian", "meaning.renyi",
    "meaning.methods", "curve", "certification.typed_json", "certification.balls", "certification.composed",
    "certification.certificate", "certification.search", "certification.audit", "schedules", "search", "targets",
    "solving", "calibration", "conversions", "planning", "edgeworth.estimate", "edgeworth.expansion",
    "edgeworth.cumulants", "edgeworth.remainder", "edgeworth.finite_sample", "edgeworth.approximation",
    "edgeworth.tilted", "states", "registration", "sampling", "checking.optimizers", "accountant", "checking.spent",
    "checking.findings", "checking.loaders", "checking.facts", "checking.mistakes", "checking.check", "checking.engine",
    "checkpoints", "histories", "report.numbers", "report.recorded",
    "report.run", "report.measures", "report.cautions", "report.certifying", "report.checklist", "report.content",
    "report.figures", "report.page", "finetune.settings", "finetune.data", "finetune.tables", "finetune.sources",
    "finetune.quiet", "finetune.fingerprint", "finetune.devices", "finetune.randomness", "finetune.budget",
    "finetune.checkpoint", "finetune.encoding", "finetune.architecture", "finetune.classifier", "finetune.models",
    "finetune.methods", "finetune.gradients", "finetune.features", "finetune.evaluation", "finetune.loop",
    "finetune.statement", "finetune.result", "finetune.folder", "finetune.preparation", "finetune.run",
    "finetune.trainer_callback", "cli.exits", "cli.output", "cli.history", "cli.targets", "cli.peers", "cli.timed",
    "cli.epsilon", "cli.noise", "cli.plan", "cli.compare", "cli.audit", "cli.report", "cli.finetune", "cli.app",
    "cli.__main__",
]  # fmt: skip
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def test_every_module_has_its_place():
    assert {name_of(path) for path in MODULES} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    own = ORDER.index(name_of(path))
    for module in imported(path):
        if module.startswith("opacus_edgeworth."):
            name = module.removeprefix("opacus_edgeworth.")
            lowest = min(ORDER.index(entry) for entry in ORDER if entry == name or entry.startswith(f"{name}."))
            assert lowest < own, module  # a package as a whole counts as its lowest module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_core_is_numpy_and_scipy_alone(path):
    roots = {module.split(".")[0] for module in imported(path)}
    if name_of(path) in ("plotting", "report.figures"):
        roots -= {"matplotlib"}
    if name_of(path) not in ("accountant", "checkpoints", "registration", "sampling") and not name_of(path).startswith(
        ("checking.", "finetune.")
    ):
        assert not roots & {"opacus", "torch", "matplotlib", "transformers", "peft"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_is_of_typer(path):
    roots = {module.split(".")[0] for module in imported(path)}
    assert name_of(path).startswith("cli.") or not roots & {"typer", "rich"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400
