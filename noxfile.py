"""The built wheel, tested away from its sources: `make test-wheel` and `make compatibility`.

Every session makes its own environment, installs the wheel in dist/ into it, and runs tests in a folder that holds what
the repository tracks except the package: what they import is the wheel, or nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False  # a Python that is not here is left out, and of the table too

ROOT = Path(__file__).resolve().parent
PACKAGE = "opacus_edgeworth"
RESULTS = ROOT / "build" / "compatibility"

OLDER_NUMPY = {"numpy": "1.26.4", "pandas": "2.3.3", "pyarrow": "25.0.1"}  # what comes after these asks for numpy 2
PINS = {  # on top of constraints.txt, for Python 3.11
    "newest": {},
    "opacus-1.6-numpy-1.26": OLDER_NUMPY,
    "opacus-1.5-numpy-2": {"opacus": "1.5.4"},
    "oldest": {**OLDER_NUMPY, "opacus": "1.5.4", "numpy": "1.26.0", "scipy": "1.11.3"},
}
TESTS = [
    "accountant", "bounds", "calibration", "checking", "cli_accounting", "conversions", "curve", "engines", "few",
    "finetune_budget", "finetune_features", "finetune_gradients", "finetune_trainer_callback", "package", "reference",
    "registration", "schedulers", "states",
]  # fmt: skip
# Without Opacus and torch, whose only builds for the processor that a registry has here are for Python 3.11.
CORE = ["bounds", "calibration", "conversions", "curve", "engines", "few", "mixed", "package", "plotting", "reference"]
CORE_NEEDS = ["scipy", "matplotlib", "python-flint", "pytest", "pytest-xdist", "hypothesis", "mpmath", "sympy",
              "dp-accounting", "riskcal", "typer", "rich", "jinja2"]  # fmt: skip
# The package's own program starts without Opacus; so does who has its name.
AS_PROGRAM = "import sys\n\nsys.argv[0] = 'opacus-edgeworth'\n"
SHOWN = ["opacus", "torch", "numpy", "scipy", "transformers"]
VERSIONS = """
import importlib.metadata, json, platform, sys
have = {each.name.lower(): each.version for each in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version(), **{name: have.get(name, "") for name in sys.argv[1:]}}))
"""


@nox.session
def wheel(session: nox.Session) -> None:
    """Run every test with the wheel, its `test` extra and the tested versions; or those named after `--`."""
    session.install("-c", str(ROOT / "constraints.txt"), f"{_wheel()}[test]")
    _test(session, *(session.posargs or ["-n", "auto", "--dist", "worksteal"]))


@nox.session(python="3.11")
@nox.parametrize("pins", list(PINS), ids=list(PINS))
def compatibility(session: nox.Session, pins: str) -> None:
    """Run the tests of what meets Opacus, numpy and scipy with other versions of them."""
    session.install("-c", str(_constraints(session, PINS[pins])), f"{_wheel()}[test]")
    # Opacus 1.5 takes hooks that today's torch warns of, in other words than 1.6 makes it
    quiet = ["-W", "ignore:Using a non-full backward hook:FutureWarning"] if "opacus" in PINS[pins] else []
    _test(session, *quiet, *_files(TESTS), *session.posargs, report=pins)


@nox.session(python=["3.10", "3.12", "3.13"])
def core(session: nox.Session) -> None:
    """Run the numerical core's tests in another Python, without Opacus and torch."""
    session.install(*CORE_NEEDS)
    session.install("--no-deps", _wheel())
    plugin = Path(session.create_tmp()).resolve() / "as_program.py"
    plugin.write_text(AS_PROGRAM)
    session.env["PYTHONPATH"] = str(plugin.parent)
    _test(session, "-p", plugin.stem, *_files(CORE), *session.posargs, report=f"core-{session.python}")


def _wheel() -> str:
    """Return the one wheel in dist/."""
    (found,) = (ROOT / "dist").glob("*.whl")
    return str(found)


def _files(names: list[str]) -> list[str]:
    return [f"tests/test_{name}.py" for name in names]


def _constraints(session: nox.Session, pins: dict[str, str]) -> Path:
    """Write the tested versions, but those of `pins`."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [line for line in lines if line.partition("==")[0] not in pins]
    path = Path(session.create_tmp()).resolve() / "constraints.txt"
    path.write_text("\n".join([*kept, *(f"{name}=={number}" for name, number in pins.items())]) + "\n")
    return path


def _test(session: nox.Session, *arguments: str, report: str = "") -> None:
    """Run the tests in a folder without the package; keep their counts and the versions where `report` names them."""
    folder = _folder(Path(session.create_tmp()).resolve())
    session.chdir(folder)
    environment = {"EDGEWORTH_TEST_WHEEL": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if not report:
        session.run("python", "-m", "pytest", *arguments, env=environment)
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    versions = session.run("python", "-c", VERSIONS, *SHOWN, silent=True)
    (RESULTS / f"{report}.json").write_text(versions or "")
    (RESULTS / f"{report}.xml").unlink(missing_ok=True)
    session.run("python", "-m", "pytest", *arguments, f"--junitxml={RESULTS / f'{report}.xml'}", env=environment)


def _folder(temporary: Path) -> Path:
    """Return a new folder with all that the repository tracks but the package."""
    folder = temporary / "repository"
    shutil.rmtree(folder, ignore_errors=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if not name.startswith(f"{PACKAGE}/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder
