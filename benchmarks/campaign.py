"""Judge the bounds on thousands of random regimes against ball arithmetic, and measure their widths and times.

    python benchmarks/campaign.py --regimes 3000 --workers 2

Every regime is drawn from its index and the seed, and its outcome is one line of a log: a rerun does only what is
missing. Ends with a table, a compact list of all regimes and two maps (noise multiplier x sample rate) in
benchmarks/results/. The judge is `tests/oracle.py`, which shares no code with the package; where it reaches no
agreement within its time, the regime counts as not judged.
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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import opacus_edgeworth as ew

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the oracle belongs to the tests
import oracle  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LOG = ROOT / ".cache" / "campaign.jsonl"
KINDS = ("box", "ordinary", "rare", "phases", "many phases")
SHARES = (0.45, 0.25, 0.17, 0.11, 0.02)
NOISE = (0.05, 1000.0)
RATE = (1e-7, 1.0)
STEPS = (1.0, 1e9)
DELTA = (1e-15, 0.5)
EPSILON = (1e-6, 1000.0)
MAX_UNCERTAINTY = 1e-9
"""Relative; a value known less well judges nothing."""
WIDTH_ORDINARY, WIDTH_ALL = 1e-9, 1e-6
"""Relative widths of delta that are aimed at."""
TIME_RARE, TIME_ALL = 0.1, 1.0
"""Seconds that are aimed at."""
FIELDS = ("index", "kind", "history", "delta", "epsilon_lower", "epsilon_upper", "delta_lower", "delta_upper")
FIELDS += ("width", "epsilon_width", "seconds_epsilon", "seconds_delta", "oracle", "uncertainty", "oracle_seconds")
FIELDS += ("verdict", "note")

History = list[tuple[float, float, int]]
Regime = dict[str, Any]
Outcome = dict[str, Any]


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    """Return a number whose logarithm is uniform between those of low and high."""
    return float(np.clip(math.exp(random.uniform(math.log(low), math.log(high))), low, high))


def _phase(random: np.random.Generator) -> tuple[float, float, int]:
    """Return one phase from the whole box; one in twelve is unsampled."""
    rate = 1.0 if random.random() < 1 / 12 else _log_uniform(random, *RATE)
    return _log_uniform(random, *NOISE), rate, round(_log_uniform(random, *STEPS))


def _draw(random: np.random.Generator, kind: str) -> tuple[History, float]:
    """Return a history of that kind, and delta."""
    delta = _log_uniform(random, *DELTA)
    if kind == "ordinary":  # private training as it is done: some epochs, batches of 0.1 to 10 %
        rate, epochs = _log_uniform(random, 1e-3, 0.1), _log_uniform(random, 1.0, 100.0)
        return [(_log_uniform(random, 0.5, 5.0), rate, math.ceil(epochs / rate))], _log_uniform(random, 1e-8, 1e-4)
    if kind == "rare":  # the example is hit about once or never, and a hit is loud
        rate = _log_uniform(random, 1e-7, 0.5)
        return [(_log_uniform(random, 0.05, 1.5), rate, math.ceil(_log_uniform(random, 1e-3, 3.0) / rate))], delta
    if kind == "phases":
        return [_phase(random) for _ in range(random.integers(2, 4))], delta
    if kind == "many phases":  # a schedule: noise and rate drift over the run
        first, second = (_log_uniform(random, 0.5, 20.0) for _ in range(2))
        rate, growth = _log_uniform(random, 1e-4, 0.05), _log_uniform(random, 0.5, 2.0)
        count, steps = int(random.integers(5, 21)), round(_log_uniform(random, 1.0, 1000.0))
        return [
            (first * (second / first) ** x, rate * growth**x, steps) for x in (k / (count - 1) for k in range(count))
        ], delta
    return [_phase(random)], delta


def regime(seed: int, index: int) -> Regime:
    """Return the regime of an index: the same whatever the bounds are, except that they decide whether it is in range.

    Candidates are drawn until epsilon, as bounded, is 0 or within EPSILON; one that fails is kept as a failure.
    """
    random = np.random.default_rng([seed, index])
    kind = str(random.choice(KINDS, p=SHARES))
    while True:
        history, delta = _draw(random, kind)
        drawn: Regime = {"index": index, "kind": kind, "history": history, "delta": delta}
        try:
            start = time.perf_counter()
            bounds = ew.PrivacyCurve(history).epsilon(delta)
            drawn["seconds_epsilon"] = time.perf_counter() - start
        except Exception as error:  # every exception is a result of the campaign
            return drawn | {"note": f"epsilon: {type(error).__name__}: {error}"}
        if bounds.upper == 0.0 or EPSILON[0] <= bounds.upper <= EPSILON[1]:
            return drawn | {"epsilon_lower": bounds.lower, "epsilon_upper": bounds.upper}


def judge(drawn: Regime, time_limit: float) -> Outcome:
    """Return what the bounds of a regime are, what they cost, and the oracle's verdict.

    Verdicts: "passed", "violation", "not judged" (the oracle did not agree with itself in time), "exception" (ours).
    """
    if "note" in drawn:
        return drawn | {"verdict": "exception"}
    history: History = drawn["history"]
    epsilon: float = drawn["epsilon_upper"]
    try:
        start = time.perf_counter()
        bounds = ew.PrivacyCurve(history).delta(epsilon)
        drawn = drawn | {"seconds_delta": time.perf_counter() - start}
    except Exception as error:  # every exception is a result of the campaign
        return drawn | {"verdict": "exception", "note": f"delta: {type(error).__name__}: {error}"}
    spread = drawn["epsilon_upper"] - drawn["epsilon_lower"]
    drawn |= {
        "delta_lower": bounds.lower,
        "delta_upper": bounds.upper,
        "width": bounds.relative_width,
        "epsilon_width": spread / epsilon if epsilon > 0 else 0.0,
    }
    start = time.perf_counter()
    try:
        drawn, complaints = _compared(drawn, time_limit, oracle.STEEPEST)
        if complaints:  # the oracle accuses nobody before another path has led it to the same value
            drawn, complaints = _compared(drawn, 5 * time_limit, oracle.STEEPEST / 40)
        judged = drawn["uncertainty"] <= MAX_UNCERTAINTY
        verdict = "violation" if complaints else "passed" if judged else "not judged"
    except (ArithmeticError, TimeoutError) as error:
        verdict, complaints = "not judged", [str(error)[-80:]]
    seconds = time.perf_counter() - start
    return drawn | {"verdict": verdict, "note": "; ".join(complaints), "oracle_seconds": seconds}


def _compared(drawn: Regime, time_limit: float, steepest: float) -> tuple[Regime, list[str]]:
    """Return the regime with the oracle's delta at epsilon's upper end, and what the oracle objects to."""
    history, delta, epsilon = drawn["history"], drawn["delta"], drawn["epsilon_upper"]
    lower = drawn["epsilon_lower"] if drawn["epsilon_lower"] > 0 else epsilon
    (value, uncertainty), at_lower = oracle.judge_both(history, epsilon, lower, time_limit, steepest)
    complaints = complain(drawn, float(value.mid()), uncertainty)
    if lower < epsilon and float(at_lower.mid()) * (1 + uncertainty + 1.2e-16) < delta:
        # in the direction that is larger at the upper end: unless the ends are far apart, the other one is not larger
        complaints.append("delta at epsilon's lower end is below delta")
    return drawn | {"oracle": float(value.mid()), "uncertainty": uncertainty}, complaints


def complain(outcome: Outcome, exact: float, uncertainty: float) -> list[str]:
    """Return which of the bounds exclude the exact delta at epsilon's upper end beyond its uncertainty.

    The oracle's value is rounded to a double here: half a unit in its last place is allowed for.
    """
    low, high = exact * (1 - uncertainty - 1.2e-16), exact * (1 + uncertainty + 1.2e-16)
    complaints = []
    if high < outcome["delta_lower"]:
        complaints.append("delta is below its lower bound")
    if low > outcome["delta_upper"]:
        complaints.append("delta is above its upper bound")
    if low > outcome["delta"]:
        complaints.append("delta at epsilon's upper end is above delta")
    return complaints


def work(seed: int, index: int, time_limit: float) -> Outcome:
    """Return one regime's outcome."""
    with np.errstate(all="ignore"):
        return judge(regime(seed, index), time_limit)


def read_log(path: Path, seed: int) -> dict[int, Outcome]:
    """Return the outcomes of an earlier run by index; a line cut short by an interruption is dropped."""
    outcomes: dict[int, Outcome] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                outcome = json.loads(line)
            except json.JSONDecodeError:
                continue
            if outcome["seed"] == seed:
                outcomes[outcome["index"]] = outcome
    return outcomes


def run(indices: Sequence[int], seed: int, workers: int, time_limit: float) -> Iterator[Outcome]:
    """Yield the outcomes of these regimes as they come."""
    if workers <= 1:
        yield from (work(seed, index, time_limit) for index in indices)
        return
    with ProcessPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(work, seed, index, time_limit) for index in indices]):
            yield future.result()


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


def write_report(outcomes: Sequence[Outcome], seed: int, time_limit: float, folder: Path) -> str:
    """Write the table, the list of regimes and the maps; return the table."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    judge_seconds = np.array([o["oracle_seconds"] for o in outcomes if "oracle_seconds" in o])
    bad = [o for o in outcomes if o["verdict"] in ("violation", "exception")]
    lines = [
        "# The bounds judged by ball arithmetic",
        "",
        f"Command: `make campaign`; {len(outcomes)} regimes, seed {seed}; commit {commit.stdout.strip() or 'unknown'};"
        f" {platform.machine()}, Python {platform.python_version()}, one thread per process.",
        "",
        f"Domain: noise multiplier {NOISE[0]:g} to {NOISE[1]:g}, sample rate {RATE[0]:g} to 1, steps 1 to {STEPS[1]:g},"
        f" delta {DELTA[0]:g} to {DELTA[1]:g}, epsilon 0 or {EPSILON[0]:g} to {EPSILON[1]:g}. Width: (upper - lower)"
        f" / upper of delta at epsilon's upper end. Aims: width {WIDTH_ORDINARY:g} in ordinary regimes, {WIDTH_ALL:g}"
        f" in all; {TIME_RARE:g} s in rare-event and {TIME_ALL:g} s in all regimes. Judged: the oracle's levels agree"
        f" to {MAX_UNCERTAINTY:g} within {time_limit:g} s a direction; it took {judge_seconds.mean():.2f} s a regime.",
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
        "Slowest:",
        "",
        *_worst(outcomes, "seconds_epsilon", 8),
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
    """Return a value for the list: histories as numbers between spaces and slashes, floats in full."""
    if isinstance(value, list):
        return "/".join(f"{s!r} {q!r} {n}" for s, q, n in value)
    return repr(value) if isinstance(value, float) else str(value)


def draw_maps(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Draw noise multiplier x sample rate, coloured by width and by time."""
    import matplotlib as mpl  # only here: the tests import this module, and need no picture

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    single = [o for o in outcomes if len(o["history"]) == 1 and "width" in o]
    noise, rate = (np.array([o["history"][0][i] for o in single]) for i in (0, 1))
    width = np.array([o["width"] for o in single])
    seconds = np.array([max(o["seconds_epsilon"], o["seconds_delta"]) for o in single])
    for name, label, values, low, high in (
        ("width", "relative width of delta's bounds", np.maximum(width, 1e-15), 1e-15, 1.0),
        ("time", "seconds of the slower call", seconds, 1e-4, 10.0),
    ):
        figure, axes = plt.subplots(figsize=(8.0, 5.0), layout="constrained")
        order = np.argsort(values)  # the worst on top
        points = axes.scatter(
            noise[order], rate[order], c=values[order], s=7, norm=LogNorm(low, high), cmap="viridis", linewidths=0
        )
        axes.set(xscale="log", yscale="log", xlabel="noise multiplier", ylabel="sample rate")
        axes.set_title(f"{len(single)} regimes of one phase")
        figure.colorbar(points, label=label)
        figure.savefig(folder / f"campaign_{name}.png", dpi=110)
        plt.close(figure)


def main() -> None:
    """Run what is missing, and report."""
    parser = argparse.ArgumentParser(description="Judge the bounds on random regimes by ball arithmetic.")
    parser.add_argument("--regimes", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the table, the list and the maps")
    parser.add_argument("--log", type=Path, help="JSON lines, to resume from; default: .cache/campaign.jsonl")
    parser.add_argument("--time-limit", type=float, default=20.0, help="processor seconds of the judge per direction")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    log = arguments.log or LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    outcomes = read_log(log, arguments.seed)
    missing = [index for index in range(arguments.regimes) if index not in outcomes]
    with log.open("a") as file, tqdm(total=arguments.regimes, initial=arguments.regimes - len(missing)) as bar:
        counts: dict[str, int] = {"violation": 0, "exception": 0, "not judged": 0}
        for outcome in run(missing, arguments.seed, arguments.workers, arguments.time_limit):
            outcomes[outcome["index"]] = outcome
            file.write(json.dumps({"seed": arguments.seed} | outcome) + "\n")
            file.flush()
            if outcome["verdict"] in counts:
                counts[outcome["verdict"]] += 1
            bar.set_postfix(counts)
            bar.update()
    chosen = [outcomes[index] for index in range(arguments.regimes)]
    print(write_report(chosen, arguments.seed, arguments.time_limit, arguments.output))
    failed = sum(outcome["verdict"] in ("violation", "exception") for outcome in chosen)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
