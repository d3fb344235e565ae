"""Write the table of `make compatibility`: with which versions which tests passed.

    python benchmarks/compatibility.py

Reads what the sessions of noxfile.py left in build/compatibility, and writes benchmarks/results/compatibility.md.
"""

import argparse
import json
import platform
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# With which versions the tests were run

Command: `make compatibility`, that is `nox --session compatibility core` on the wheel in `dist/`; the package at commit
{commit}; {machine}. Each row is an environment of its own that imports the wheel; where Opacus and torch are not, the
numerical core's tests were run. `noxfile.py` names the test files.

| environment | Python | {packages} | test files | passed | skipped | failed |
|---|---|{dashes}---|---|---|---|
"""
PACKAGES = ("Opacus", "torch", "NumPy", "SciPy", "transformers")


def main() -> None:
    """Write the table of all reports, or of those in another folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, default=ROOT / "build" / "compatibility")
    parser.add_argument("--commit", help="of the package in the wheel; by default the current one")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "compatibility.md")
    options = parser.parse_args()
    rows = [row(report) for report in sorted(options.reports.glob("*.xml"))]
    if not rows:
        raise SystemExit(f"there is no report in {options.reports}; run `make compatibility`")
    text = HEAD.format(
        commit=options.commit or current_commit(),
        machine=platform.machine(),
        packages=" | ".join(PACKAGES),
        dashes="---|" * len(PACKAGES),
    )
    options.output.write_text(text + "".join(rows), encoding="utf-8")
    print(options.output.read_text(encoding="utf-8"), end="")


def row(report: Path) -> str:
    """Return a table's row for a JUnit report and the versions beside it."""
    versions = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    count = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "skipped", "failures", "errors")
    }
    failed = count["failures"] + count["errors"]
    files = {case.get("classname", "").removeprefix("tests.").split(".")[0] for suite in suites for case in suite}
    shown = (versions[name.lower()] or "–" for name in PACKAGES)
    passed = count["tests"] - count["skipped"] - failed
    cells = [report.stem, versions["python"], *shown, len(files), passed, count["skipped"], failed]
    return f"| {' | '.join(map(str, cells))} |\n"


def current_commit() -> str:
    """Return the repository's commit, short."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
