"""A pytest plugin that judges mutants: tests are collected once, and every mutant gets a process of its own.

mutmut starts pytest anew for every mutant, which takes longer than most mutants live. Here a mutant's process is forked
off when everything is imported and collected, and runs the tests that reach the mutated function, the specific and
quick ones first, until one fails. It is stopped when it has taken several times the processor time that the tests take,
however busy the machine is.

Environment, see `mutants`: MUTANTS_ASKED is a file with a line of JSON for every mutant that is to be judged, its
`name` and what goes into the verdict as it is; MUTANTS_VERDICTS is one to which the verdicts are added; MUTANTS_REACH
keeps which functions the tests reach, and MUTANTS_PROCESSES says how many processes there may be.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import time
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PATIENCE, ALLOWANCE = 5.0, 10.0
"""A mutant may take so many times the processor time that its tests take, and so many seconds more."""
PROBES = {
    "inversion": ("pins_steps", "pins_lines", "pins_regimes", "pins_traced"),
    **dict.fromkeys(
        ("mixed", "meaning", "calibration", "search", "solving", "targets"),
        ("pins_others", "pins_regimes", "pins_traced"),
    ),
}
"""Of `test_pinned`, the probes that judge the mutants of a part of the package; all of them judge the other mutants."""
JUDGES = {
    "inversion": ("engines", "reference", "few", "memory"),
    "mixed": ("mixed", "adjacency", "conversions"),
    "meaning": ("meaning", "meaning_limits", "conversions"),
    **dict.fromkeys(
        ("calibration", "search", "solving", "targets"),
        ("calibration", "calibration_unknowns", "adjacency", "hostile_input"),
    ),
}
"""The tests that do, with `test_stages`; `OTHERWISE` those of the other parts."""
OTHERWISE = ("bounds", "curve", "engines", "reference", "adjacency", "hostile_input")
LONGEST = 0.3
"""Tests that take more seconds of processor time do not judge, but for those of stages."""
FAILED: list[str] = []
set_mutant_under_test = import_module("mutmut.mutation.trampoline").set_mutant_under_test
state = import_module("mutmut.state").state
function_of = import_module("mutmut.utils.format_utils").mangled_name_from_mutant_name


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what failed."""
    if report.failed:
        FAILED.append(report.nodeid)


def run(item: pytest.Item) -> bool:
    """Run a test, and return whether it passed."""
    FAILED.clear()
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    return not FAILED


def is_judge(item: pytest.Item, name: str, seconds: float) -> bool:
    """Whether a test, which takes so long, judges a mutant."""
    part, file = name.split(".")[1], item.path.stem.removeprefix("test_")
    if file != "pinned":
        return file == "stages" or (file in JUDGES.get(part, OTHERWISE) and seconds <= LONGEST)
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if "name" not in parameters:
        return False
    probe = import_module("pins").PROBES[parameters["name"]]
    return part not in PROBES or probe.compute.__module__ in PROBES[part]


def reach(items: list[pytest.Item]) -> dict[str, dict[str, Any]]:
    """Return for every test the functions that it reaches, and its processor time; known ones are not run."""
    path = Path(os.environ["MUTANTS_REACH"])
    known: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    for item in items:
        if item.nodeid in known:
            continue
        set_mutant_under_test("stats")
        state()._stats.clear()
        start = time.process_time()
        passed = run(item)
        seconds = time.process_time() - start  # somewhat more than without the bookkeeping
        set_mutant_under_test("")
        if not passed:
            raise pytest.UsageError(f"{item.nodeid} fails without any mutant")
        known[item.nodeid] = {"functions": sorted(state()._stats), "seconds": seconds}
    path.write_text(json.dumps(known))
    return known


def judge(name: str, items: list[pytest.Item], seconds: float) -> None:
    """Run the tests under a mutant, in its own process, which ends here: with 0 if all pass, and else with 1."""
    set_mutant_under_test(name)
    limit = int(time.process_time() + PATIENCE * seconds + ALLOWANCE)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        passed = all(run(item) for item in items)
    except BaseException:
        passed = False
    if not passed:
        Path(f"{os.environ['MUTANTS_VERDICTS']}.{os.getpid()}").write_text(FAILED[0] if FAILED else "")
    os._exit(0 if passed else 1)


def wait(running: dict[int, dict[str, Any]], verdicts: Path) -> None:
    """Wait for a process, and write its verdict down."""
    pid, status, used = os.wait4(-1, 0)
    killer = Path(f"{verdicts}.{pid}")
    verdict = running.pop(pid) | {
        "code": os.waitstatus_to_exitcode(status),
        "by": killer.read_text() if killer.exists() else "",
        "seconds": round(used.ru_utime + used.ru_stime, 2),
    }
    killer.unlink(missing_ok=True)
    with verdicts.open("a") as file:
        file.write(json.dumps(verdict) + "\n")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Judge all mutants instead of running the tests."""
    known = reach(session.items)
    items, of_function = {item.nodeid: item for item in session.items}, defaultdict(list)
    # the more specific a test is, the sooner it may find something; and the sooner if it is quick
    for nodeid in sorted(items, key=lambda nodeid: (len(known[nodeid]["functions"]) + 1) * known[nodeid]["seconds"]):
        for function in known[nodeid]["functions"]:
            of_function[function].append(nodeid)
    gc.collect()
    gc.freeze()  # what is there need not be copied for every mutant
    verdicts, running = Path(os.environ["MUTANTS_VERDICTS"]), {}
    for line in Path(os.environ["MUTANTS_ASKED"]).read_text().splitlines():
        asked = json.loads(line)
        name = asked["name"]
        if len(running) >= int(os.environ.get("MUTANTS_PROCESSES", "2")):
            wait(running, verdicts)
        mine = [node for node in of_function[function_of(name)] if is_judge(items[node], name, known[node]["seconds"])]
        pid = os.fork()
        if pid == 0:
            judge(name, [items[node] for node in mine], sum(known[node]["seconds"] for node in mine))
        running[pid] = asked | {"tests": len(mine)}
    while running:
        wait(running, verdicts)
    return True
