"""The data flows one way: imports point down, and only the leaves know Opacus, torch or matplotlib."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "opacus_edgeworth"
ORDER = [
    "errors", "bounds", "_types", "_validate", "mechanisms", "composition", "inversion.law", "inversion.certain",
    "inversion.grid", "inversion.quadrature", "inversion.saddle", "inversion.truncation", "inversion.characteristic",
    "inversion.line", "inversion.contour", "inversion.route", "inversion.link", "inversion.chain", "inversion.exact",
    "inversion.elementary", "inversion.root", "inversion.engines", "inversion.memory", "curve",
    "certification.typed_json", "certification.balls", "certification.composed", "certification.certificate",
    "certification.search", "certification.audit", "calibration", "edgeworth.estimate", "edgeworth.expansion",
    "edgeworth.cumulants", "edgeworth.remainder", "edgeworth.finite_sample", "edgeworth.approximation",
    "edgeworth.tilted", "accountant",
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
            assert ORDER.index(module.removeprefix("opacus_edgeworth.")) < own, module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_core_is_numpy_and_scipy_alone(path):
    roots = {module.split(".")[0] for module in imported(path)}
    if name_of(path) != "accountant":
        assert not roots & {"opacus", "torch", "matplotlib", "transformers"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400
