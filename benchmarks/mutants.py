"""Mutation testing of the numerical core: a random sample of every module's mutants, and what survived.

    make mutants                        # judges what is not judged yet of the sample; writes results/mutants.md
    make mutants MUTANTS="opacus_edgeworth/inversion/line.py --share 1"    # all of a module; printed only

mutmut makes the mutants (its settings are in pyproject.toml), `mutants_judge` lets the tests judge them, the quick ones
first, and once more by all of `SLOWER` what they let live. Mutants are drawn in every module by themselves, so that the
score of all is the modules' scores, weighed with their numbers of mutants. Why a survivor is no want of tests is said
in `mutants_survivors.json`, by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = ROOT / "mutants"
PACKAGE = "opacus_edgeworth"
RESULTS = ROOT / "benchmarks" / "results" / "mutants.md"
REASONS = ROOT / "benchmarks" / "mutants_survivors.json"
SHARE, LEAST, SEED = 0.02, 8, 7
"""Of the sample: share of every module's mutants, and how many at least."""
QUICK = ("pinned", "stages", "bounds", "curve", "reference", "few")
SLOWER = (
    *QUICK, "engines", "memory", "mixed", "meaning", "meaning_limits", "conversions", "calibration",
    "calibration_unknowns", "adjacency", "hostile_input",
)  # fmt: skip
"""Test files."""


LONG = (
    "no_larger_batch or no_batch_size or riskcal_is_near or extremes or corners_say or floor_and_regret or "
    "sampled_renyi or rate_makes or safe_and_least or infinite_bounds or dp_sgd_enclose or two_humps or "
    "hardly_private or take_few or what_was_spent or other_mechanisms or any_noise_meets or sampling_everything or "
    "dp_accountings or heavy_noise or hardly_any_noise or fine_tuning_settings"
)
"""Tests of these names take long: they do not judge mutants."""
COPIES = "mutmut or every_parameter_has_a_case"
"""Nor do those that take the copies that mutmut makes of methods for public ones."""


@dataclass(frozen=True)
class Module:
    """One module's mutants.

    Args:
      name: its file, relative to the repository.
      mutants: their names, and a hash of the function that each changes.
      sample: the mutants that are to be judged.
      verdicts: what is known of those.
    """

    name: str
    mutants: dict[str, str]
    sample: frozenset[str]
    verdicts: dict[str, dict[str, Any]]

    @property
    def unjudged(self) -> list[str]:
        """Those of the sample that are not judged yet."""
        return sorted(self.sample - set(self.verdicts))

    @property
    def survivors(self) -> list[str]:
        """Those under which every test passed."""
        return [name for name, verdict in self.verdicts.items() if verdict["code"] == 0]

    @property
    def late(self) -> list[str]:
        """Those that ran out of time."""
        return [name for name, verdict in self.verdicts.items() if verdict["code"] < 0]

    def killed_by(self, file: str) -> int:
        """Return how many were killed by a test of a file first."""
        return sum(verdict["code"] > 0 and f"test_{file}.py" in verdict["by"] for verdict in self.verdicts.values())

    @property
    def killed(self) -> int:
        """How many were killed by a failing test."""
        return len(self.verdicts) - len(self.survivors) - len(self.late)

    @property
    def score(self) -> float:
        """The share that was killed, those that ran out of time included."""
        return 1.0 - len(self.survivors) / max(len(self.verdicts), 1)


def make_mutants() -> None:
    """Let mutmut write the mutated package to `mutants`, as far as that is not there."""
    MUTANTS.mkdir(exist_ok=True)
    files = import_module("mutmut.utils.file_utils")
    files.copy_src_dir()
    files.copy_also_copy_files()
    import_module("mutmut.__main__").create_mutants(os.cpu_count() or 1)


def drawn(names: Iterable[str], share: float, seed: str) -> frozenset[str]:
    """Return a sample, which a larger one contains, and which other names hardly change: the least hashes' names."""
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return frozenset(ordered[: max(math.ceil(share * len(ordered)), LEAST)])


def modules(share: float, seed: int, only: Sequence[str] = ()) -> list[Module]:
    """Return the modules, all or `only` these, with samples of their mutants, which do not depend on the others."""
    known: dict[str, dict[str, Any]] = {}
    verdicts = MUTANTS / "verdicts.jsonl"
    for line in verdicts.read_text().splitlines() if verdicts.exists() else ():
        verdict = json.loads(line)
        known[verdict["name"]] = verdict
    found = []
    for path in sorted(MUTANTS.glob(f"{PACKAGE}/**/*.meta")):
        name, meta = path.relative_to(MUTANTS).with_suffix("").as_posix(), json.loads(path.read_text())
        hashes = meta["hash_by_function_name"]
        mutants = {key: hashes[key.rpartition("__mutmut_")[0].rpartition(".")[2]] for key in meta["exit_code_by_key"]}
        if mutants and (not only or name in only):
            sample = drawn(mutants, share, str(seed))
            valid = {key: known[key] for key in sorted(sample) if key in known and known[key]["of"] == mutants[key]}
            found.append(Module(name, mutants, sample, valid))
    return found


def let_judge(found: list[Module], names: Iterable[str], files: tuple[str, ...]) -> None:
    """Let tests judge mutants."""
    names = list(names)
    random.Random(0).shuffle(names)  # where it is stopped, all modules have been judged in part
    if not names:
        return
    of = {key: value for module in found for key, value in module.mutants.items()}
    asked = MUTANTS / "asked.jsonl"
    asked.write_text("".join(json.dumps({"name": name, "of": of[name], "files": files}) + "\n" for name in names))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "benchmarks"),
        "OMP_NUM_THREADS": "1",
        "MUTANTS_ASKED": str(asked),
        "MUTANTS_VERDICTS": str(MUTANTS / "verdicts.jsonl"),
        "MUTANTS_REACH": str(MUTANTS / "reach.json"),
    }
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "mutants_judge", "-p", "no:cacheprovider"]
    command += ["-p", "no:xdist", "-m", "not slow and not hypothesis", "-k", f"not ({LONG} or {COPIES})"]
    command += [f"tests/test_{file}.py" for file in files]
    subprocess.run(command, cwd=MUTANTS, env=environment, check=True)


def judge(share: float, seed: int, only: Sequence[str]) -> list[Module]:
    """Judge what is not judged yet, and once more, by more tests, what the quick ones let live."""
    make_mutants()
    found = modules(share, seed, only)
    let_judge(found, [name for module in found for name in module.unjudged], QUICK)
    found = modules(share, seed, only)
    again = [
        name
        for module in found
        for name in (*module.survivors, *module.late)
        if module.verdicts[name]["files"] != list(SLOWER)
    ]
    let_judge(found, again, SLOWER)
    return modules(share, seed, only)


def total_score(found: list[Module]) -> tuple[float, float]:
    """Return the score of all mutants, estimated from the samples, and half the width of its 95 % interval."""
    found = [module for module in found if module.verdicts]
    whole = sum(len(module.mutants) for module in found)
    score = sum(len(module.mutants) * module.score for module in found) / whole
    variance = 0.0
    for module in found:
        n, size = len(module.verdicts), len(module.mutants)
        if 1 < n < size:
            p = (module.score * n + 1.0) / (n + 2.0)  # not 1 where all of a small sample were killed
            variance += (size / whole) ** 2 * p * (1.0 - p) / n * (1.0 - n / size)
    return score, 1.96 * math.sqrt(variance)


def change(name: str, path: str) -> str:
    """Return what a mutant changes: the line that it takes away and the one that it puts there."""
    lines: list[str] = import_module("mutmut.mutation.diff_apply").get_diff_for_mutant(name, path=path).splitlines()
    kept = [line for line in lines if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in kept)


def survivors_by_kind(found: list[Module]) -> list[str]:
    """Return the lines on the survivors, by the kinds of reasons."""
    reasons: dict[str, dict[str, str]] = json.loads(REASONS.read_text())["reasons"]
    of_kind: dict[str, list[str]] = {kind: [] for kind in (*reasons, "not explained")}
    for module in found:
        for name in module.survivors:
            kind = next((kind for kind, names in reasons.items() if name in names), "not explained")
            why = reasons.get(kind, {}).get(name, "")
            diff = "\n".join("  " + line for line in change(name, module.name).splitlines())
            of_kind[kind].append(f"- {name.removeprefix(PACKAGE + '.')}. {why}\n  ```diff\n{diff}\n  ```")
    lines = []
    for kind, entries in of_kind.items():
        if entries:
            lines += [f"### {kind[:1].upper()}{kind[1:]} ({len(entries)})", "", *entries, ""]
    return lines


def report(found: list[Module], share: float, seed: int) -> str:
    """Return the page."""
    score, room = total_score(found)
    judged, killed, late, survived, pinned, stages = (
        sum(count)
        for count in zip(
            *(
                (len(m.verdicts), m.killed, len(m.late), len(m.survivors), m.killed_by("pinned"), m.killed_by("stages"))
                for m in found
            ),
            strict=True,
        )
    )
    last_change = ["git", "log", "-1", "--format=%h", "--", PACKAGE]
    commit = subprocess.run(last_change, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    slower = sum(m.verdicts[name]["files"] == list(SLOWER) for m in found for name in m.survivors)
    rows = [
        f"| {m.name.removeprefix(PACKAGE + '/')} | {len(m.mutants)} | {len(m.verdicts)} | {m.killed} | {len(m.late)} "
        f"| {len(m.survivors)} | {m.score:.1%} |"
        for m in found
    ]
    lines = [
        "# Mutation testing of the numerical core",
        "",
        f"`make mutants`, sources of commit {commit.strip()}, mutmut {version('mutmut')}; a sample of {share:.0%} of "
        f"every module's mutants, at least {LEAST}, drawn by hashes with the seed {seed}.",
        "",
        f"Of {sum(len(m.mutants) for m in found)} mutants {judged} were judged: {killed} killed by a failing test, "
        f"{late} out of time, {survived} survived. Weighed with the modules' numbers of mutants, **{score:.1%}** are "
        f"killed, within {room:.1%} (95 %).",
        "",
        f"The first test to fail was a stage written down (`test_pinned`) {pinned} times, a stage against ball "
        f"arithmetic or exact sums (`test_stages`) {stages} times, another one {killed - pinned - stages} times; quick "
        "and specific tests come first, so that this is not how many each would kill.",
        "",
        f"{slower} of the survivors were judged by the slower tests, too; the others by the quick ones alone.",
        "",
        json.loads(REASONS.read_text())["note"],
        "",
        "Mutants are of functions and methods. mutmut changes no properties (nor anything else that is decorated), no "
        "constants of modules, and no default values but plain ones. What errors say is left out.",
        "",
        "| module | mutants | judged | killed | out of time | survived | score |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
        "## Survivors",
        "",
        *survivors_by_kind(found),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Judge, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", nargs="*", help="files whose mutants are judged; all of the core if none is given")
    parser.add_argument("--share", type=float, default=SHARE, help="of every module's mutants")
    parser.add_argument("--seed", type=int, default=SEED, help="of the sample")
    parser.add_argument("--report", action="store_true", help="write the page on what is judged so far")
    options = parser.parse_args()
    os.chdir(ROOT)
    chosen = options.share, options.seed, options.module
    page = report(modules(*chosen) if options.report else judge(*chosen), options.share, options.seed)
    if options.module:
        print(page)
    else:
        RESULTS.write_text(page)
        print(page.split("| module")[0])


if __name__ == "__main__":
    main()
