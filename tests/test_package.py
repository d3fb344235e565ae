"""What is imported is what was installed, whole: here from the sources, under `make test-wheel` from the wheel."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from importlib.metadata import Distribution, distribution, distributions
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from packaging.requirements import Requirement

import opacus_edgeworth as ew

PACKAGE = "opacus_edgeworth"
IMPORTED = Path(ew.__file__).resolve().parent


@pytest.fixture
def installed() -> Distribution:
    """Return what pip knows of: a current folder with sources would say less, and be found first."""
    (found,) = distributions(name=PACKAGE, path=[sysconfig.get_path("purelib")])
    return found


def is_editable(installed: Distribution) -> bool:
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    return origin.get("dir_info", {}).get("editable", False)


def test_the_package_is_the_installed_one(installed: Distribution):
    if is_editable(installed):
        origin = json.loads(installed.read_text("direct_url.json") or "{}")["url"]
        home = Path(unquote(urlsplit(origin).path))
    else:
        home = Path(str(installed.locate_file("")))
        assert home.resolve().is_relative_to(Path(sys.prefix).resolve())
    assert (home / PACKAGE).resolve() == IMPORTED


def test_a_test_of_the_wheel_is_one(installed: Distribution):
    """`noxfile.py` sets the variable: then nothing but the environment may have the package."""
    if os.environ.get("EDGEWORTH_TEST_WHEEL"):
        assert not is_editable(installed)
        assert not (Path(__file__).parent.parent / PACKAGE).exists()


@pytest.mark.parametrize("name", ["py.typed", "report/page.html", "report/page.css"])
def test_what_is_no_module_comes_with_the_modules(name: str):
    resource = files(PACKAGE).joinpath(name)
    assert resource.is_file()
    assert name == "py.typed" or len(resource.read_text(encoding="utf-8")) > 1000


def test_the_wheel_holds_the_package_and_nothing_else(installed: Distribution):
    if is_editable(installed):
        pytest.skip("installed from the sources: nothing was packed")
    recorded = [file for file in installed.files or [] if "__pycache__" not in file.parts]
    outside = {file.parts[0] for file in recorded} - {PACKAGE, f"{PACKAGE}-{installed.version}.dist-info"}
    assert outside <= {".."}  # the program, beside the interpreter
    packed = {file.suffix for file in recorded if file.parts[0] == PACKAGE}
    assert packed == {".py", ".typed", ".html", ".css"}
    assert not any("test" in file.name for file in recorded if file.parts[0] == PACKAGE)


def test_metadata(installed: Distribution):
    said = installed.metadata
    assert said["License-Expression"] == "Apache-2.0"
    assert said.get_all("License-File") == ["LICENSE"]
    assert said["Requires-Python"] == ">=3.10"
    declared = {line.rsplit(" ", 1)[1] for line in said.get_all("Classifier", []) if ":: Python :: 3." in line}
    assert declared == {"3.10", "3.11", "3.12", "3.13"}
    assert "Typing :: Typed" in said.get_all("Classifier", [])
    assert "Certified privacy accounting" in str(said.get_payload())  # the README, for the registry's page


def test_what_is_installed_is_what_is_asked_for(installed: Distribution):
    """Every requirement without an extra is met by the environment that the tests run in."""
    required = [Requirement(line) for line in installed.requires or []]
    plain = {each.name: each for each in required if each.marker is None or each.marker.evaluate({"extra": ""})}
    assert set(plain) == {"numpy", "scipy", "opacus", "torch"}
    for name in ("numpy", "scipy"):
        assert distribution(name).version in plain[name].specifier
    if sys.modules.get("torch"):
        assert distribution("torch").version in plain["torch"].specifier
        assert distribution("opacus").version in plain["opacus"].specifier


def test_the_command_is_installed(installed: Distribution):
    (program,) = installed.entry_points.select(group="console_scripts")
    assert (program.name, program.value) == ("opacus-edgeworth", "opacus_edgeworth.cli:main")
    assert callable(program.load())
