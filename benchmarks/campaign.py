"""Judge the bounds on thousands of random regimes against ball arithmetic, and measure their widths and times.

    python benchmarks/campaign.py --regimes 3000 --workers 2

The regimes and their truths come from `truths.py`, which computes those that its file lacks: that takes hours for
thousands, judging the bounds takes minutes. Outcomes are kept in a log, so that an interrupted run goes on where it
was, as long as the commit is the same. Ends with a table, a list of all outcomes and two maps (noise multiplier x
sample rate) in benchmarks/results/.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import csv
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import opacus_edgeworth as ew
from opacus_edgeworth.plotting import plot_map

sys.path.insert(0, str(Path(__file__).resolve().parent))
from truths import (
    DELTA,
    EPSILON,
    GENTLE,
    KINDS,
    NOISE,
    RATE,
    RESULTS,
    STEPS,
    TIME_LIMIT,
    Truth,
    complete,
    find,
    in_parallel,
    read,
)

LOG = RESULTS.parent.parent / ".cache" / "campaign.jsonl"
WIDTH_ORDINARY, WIDTH_ALL = 1e-9, 1e-6
"""Relative widths of delta that are aimed at."""
TIME_RARE, TIME_ALL = 0.1, 1.0
"""Seconds that are aimed at."""
FIELDS = ("index", "kind", "target", "epsilon_lower", "epsilon_upper", "delta_lower", "delta_upper", "width")
FIELDS += ("epsilon_width", "seconds_epsilon", "seconds_delta", "verdict", "note")

Outcome = dict[str, Any]
"""What a truth has, and FIELDS: what the bounds are, and what they cost."""


def judge(truth: Truth) -> Outcome:
    """Return what the bounds say about a regime whose truth is known, and what they cost, in processor seconds.

    Verdicts: "passed", "violation", "not judged" (the truth is not known well), "exception" (ours). What is judged:
    delta at epsilon; epsilon at the exact delta, rounded outward on either side; and, whatever the truth, that the two
    do not contradict each other.
    """
    outcome: Outcome = dict(truth)
    history, epsilon = truth["history"], truth["epsilon"]
    target = truth["delta"]
    if epsilon and truth["exact"]:
        target = math.nextafter(truth["exact"] * (1.0 - truth["uncertainty"]), 0.0)
    try:
        outcome["seconds_epsilon"], at_target = _timed(lambda: ew.PrivacyCurve(history).epsilon(target))
        if epsilon is None:
            return outcome | {"verdict": "not judged"}
        outcome["seconds_delta"], at_epsilon = _timed(lambda: ew.PrivacyCurve(history).delta(epsilon))
        _, back = _timed(lambda: ew.PrivacyCurve(history).delta(at_target.upper))
        other = math.nextafter(truth["exact"] * (1.0 + truth["uncertainty"]), 1.0) if truth["exact"] else 1.0
        above = ew.PrivacyCurve(history).epsilon(other) if other < 1.0 else ew.Bounds(0.0, 0.0)
    except Exception as error:  # every exception is a result of the campaign
        return outcome | {"verdict": "exception", "note": f"{type(error).__name__}: {error}"}
    outcome |= {
        "target": target,
        "epsilon_lower": at_target.lower,
        "epsilon_upper": at_target.upper,
        "delta_lower": at_epsilon.lower,
        "delta_upper": at_epsilon.upper,
        "back_lower": back.lower,
        "epsilon_above": above.lower,
        "width": at_epsilon.relative_width,
        "epsilon_width": at_target.relative_width,
    }
    complaints = complain(outcome)
    verdict = "violation" if complaints else "not judged" if truth["exact"] is None else "passed"
    return outcome | {"verdict": verdict, "note": "; ".join(complaints) or truth["note"]}


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return processor seconds and the result."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def complain(outcome: Outcome) -> list[str]:
    """Return what is wrong with the bounds of an outcome."""
    complaints = []
    if outcome["back_lower"] > outcome["target"]:
        complaints.append("delta at epsilon's upper end is above delta, by our own lower bound")
    if outcome["exact"] is None:
        return complaints
    low, high = (outcome["exact"] * (1.0 + side * outcome["uncertainty"]) for side in (-1.0, 1.0))
    if high < outcome["delta_lower"]:
        complaints.append("delta is below its lower bound")
    if low > outcome["delta_upper"]:
        complaints.append("delta is above its upper bound")
    if outcome["epsilon"] > 0.0:
        if outcome["epsilon_upper"] < outcome["epsilon"]:
            complaints.append("epsilon is above its upper bound")
        if outcome["epsilon_above"] > outcome["epsilon"]:
            complaints.append("epsilon is below its lower bound")
    elif outcome["epsilon_lower"] > 0.0:
        complaints.append("epsilon is 0 and below its lower bound")
    return complaints


def work(seed: int, truth: Truth) -> Outcome:
    """Return one regime's outcome; nobody is accused before the judge was led to the same truth by other contours."""
    with np.errstate(all="ignore"):
        outcome = judge(truth)
        if outcome["verdict"] == "violation" and truth["exact"] is not None:
            outcome = judge(find(seed, truth["index"], 5.0 * TIME_LIMIT, GENTLE, truth))
    return outcome


def summary(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the table, one row per kind of regime."""
    rows = [
        "| regimes | number | judged | violations | exceptions | delta: width, median / 99 % / largest"
        " | width > aim | epsilon(delta): ms, median / 99 % / largest | delta(epsilon): ms, median / 99 % / largest"
        " | slower than aimed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    outcomes = list(outcomes)
    for kind in (*KINDS, "all"):
        these = [o for o in outcomes if kind in ("all", o["kind"])]
        if not these:
            continue
        counts = {v: sum(o["verdict"] == v for o in these) for v in ("violation", "exception", "not judged")}
        judged = len(these) - counts["exception"] - counts["not judged"]
        whole = [o for o in these if "width" in o]
        width = np.array([o["width"] for o in whole])
        width_aim = np.array([WIDTH_ORDINARY if o["kind"] == "ordinary" else WIDTH_ALL for o in whole])
        times = np.array([[o["seconds_epsilon"], o["seconds_delta"]] for o in whole])
        time_aim = np.array([TIME_RARE if o["kind"] == "rare" else TIME_ALL for o in whole])
        rows.append(
            f"| {kind} | {len(these)} | {judged} | {counts['violation']} | {counts['exception']}"
            f" | {_three(width, '.1e')} | {int((width > width_aim).sum())} | {_three(1e3 * times[:, 0], '.1f')}"
            f" | {_three(1e3 * times[:, 1], '.1f')} | {int((times.max(1) > time_aim).sum())} |"
        )
    return rows


def _three(values: np.ndarray, form: str) -> str:
    """Return median, 99 % quantile and maximum."""
    quantiles = np.quantile(values, [0.5, 0.99, 1.0], method="higher")
    return " / ".join(f"{value:{form}}" for value in quantiles)


def _worst(outcomes: Iterable[Outcome], key: str, count: int) -> list[str]:
    """Return the regimes where a number is largest."""
    rows = [f"| history; delta | {key} | kind |", "|---|---|---|"]
    for outcome in sorted((o for o in outcomes if key in o), key=lambda o: -o[key])[:count]:
        rows.append(f"| {_label(outcome)} | {outcome[key]:.2g} | {outcome['kind']} |")
    return rows


def _label(outcome: Outcome) -> str:
    """Return a regime in short."""
    phases = [f"({s:.6g}, {q:.6g}, {n})" for s, q, n in outcome["history"]]
    more = f" + {len(phases) - 3} more" if len(phases) > 3 else ""
    return f"{' + '.join(phases[:3])}{more}; {outcome['delta']:.4g}"


def version() -> str:
    """Return which commit this is; it ends in -dirty if files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=RESULTS).stdout.strip()


def write_report(outcomes: Sequence[Outcome], seed: int, folder: Path) -> str:
    """Write the table, the list of outcomes and the maps; return the table."""
    bad = [o for o in outcomes if o["verdict"] in ("violation", "exception")]
    lines = [
        "# The bounds judged by ball arithmetic",
        "",
        f"Command: `make campaign`; {len(outcomes)} regimes, seed {seed}; commit {version() or 'unknown'};"
        f" {platform.machine()}, Python {platform.python_version()}, one thread per process, processor time.",
        "",
        f"Domain: noise multiplier {NOISE[0]:g} to {NOISE[1]:g}, sample rate {RATE[0]:g} to 1, steps 1 to {STEPS[1]:g},"
        f" delta {DELTA[0]:g} to {DELTA[1]:g}, epsilon 0 or {EPSILON[0]:g} to {EPSILON[1]:g}. The regimes and the"
        f" judge's values are in truths_seed_{seed}.jsonl (`benchmarks/truths.py`). Width: (upper - lower) / upper of"
        f" delta at the regime's epsilon. Aims: width {WIDTH_ORDINARY:g} in ordinary regimes, {WIDTH_ALL:g} in all;"
        f" {TIME_RARE:g} s in rare-event and {TIME_ALL:g} s in all regimes. Not judged: the judge, `tests/oracle.py`,"
        f" did not come to agree with itself to 1e-9 in {TIME_LIMIT:g} s a direction; of those regimes it is known only"
        " that epsilon(delta) and delta(epsilon) do not contradict each other.",
        "",
        *summary(outcomes),
        "",
        "Violations and exceptions:",
        "",
        *([f"- {_label(o)}: {o['verdict']}, {o['note']}" for o in bad] or ["none."]),
        "",
        "Widest:",
        "",
        *_worst(outcomes, "width", 8),
        "",
        "Slowest epsilon(delta):",
        "",
        *_worst(outcomes, "seconds_epsilon", 8),
        "",
        "Slowest delta(epsilon):",
        "",
        *_worst(outcomes, "seconds_delta", 8),
        "",
        "![width](campaign_width.png)",
        "![time](campaign_time.png)",
    ]
    text = "\n".join(lines) + "\n"
    (folder / "campaign.md").write_text(text)
    with (folder / "campaign.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for outcome in outcomes:
            writer.writerow([_cell(outcome.get(field, "")) for field in FIELDS])
    draw_maps(outcomes, folder)
    return text


def _cell(value: Any) -> str:
    """Return a value for the list, floats in full."""
    return repr(value) if isinstance(value, float) else str(value)


def draw_maps(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Draw noise multiplier x sample rate, coloured by width and by time."""
    import matplotlib as mpl  # only here: the tests import this module, and need no picture

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    single = [o for o in outcomes if len(o["history"]) == 1 and "width" in o]
    noise, rate = (np.array([o["history"][0][i] for o in single]) for i in (0, 1))
    width = np.array([o["width"] for o in single])
    seconds = np.array([max(o["seconds_epsilon"], o["seconds_delta"]) for o in single])
    for name, label, values, low, high in (
        ("width", "relative width of delta's bounds", np.maximum(width, 1e-15), 1e-15, 1.0),
        ("time", "seconds of the slower call", seconds, 1e-4, 10.0),
    ):
        figure, axes = plt.subplots(figsize=(8.0, 5.0), layout="constrained")
        plot_map(noise, rate, values, label=label, limits=(low, high), ax=axes)
        axes.set_title(f"{len(single)} regimes of one phase")
        figure.savefig(folder / f"campaign_{name}.png", dpi=110)
        plt.close(figure)


def run(truths: dict[int, Truth], seed: int, workers: int, log: Path) -> list[Outcome]:
    """Return the outcomes of all regimes; those in the log are of the same commit, and are not done again."""
    now = version()
    log.parent.mkdir(parents=True, exist_ok=True)
    known = read(log)
    outcomes = {
        index: outcome
        for index, outcome in known.items()
        if outcome.get("seed") == seed and outcome.get("version") == now and now and not now.endswith("-dirty")
    }
    missing = [(seed, truth) for index, truth in truths.items() if index not in outcomes]
    counts = {"violation": 0, "exception": 0, "not judged": 0}
    with log.open("a" if outcomes else "w") as file:
        bar = tqdm(total=len(truths), initial=len(truths) - len(missing), desc="bounds")
        for outcome in in_parallel(work, missing, workers):
            outcomes[outcome["index"]] = outcome | {"seed": seed, "version": now}
            file.write(json.dumps(outcomes[outcome["index"]]) + "\n")
            file.flush()
            if outcome["verdict"] in counts:
                counts[outcome["verdict"]] += 1
            bar.set_postfix(counts)
            bar.update()
        bar.close()
    return [outcomes[index] for index in truths]


def main() -> None:
    """Judge what was not judged yet, and report."""
    parser = argparse.ArgumentParser(description="Judge the bounds on random regimes by ball arithmetic.")
    parser.add_argument("--regimes", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the table, the list and the maps")
    parser.add_argument("--log", type=Path, default=LOG, help="JSON lines, to resume from")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    truths = complete(arguments.seed, arguments.regimes, arguments.workers)
    outcomes = run(truths, arguments.seed, arguments.workers, arguments.log)
    print(write_report(outcomes, arguments.seed, arguments.output))
    sys.exit(1 if any(outcome["verdict"] in ("violation", "exception") for outcome in outcomes) else 0)


if __name__ == "__main__":
    main()
