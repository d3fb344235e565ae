"""Random regimes over the whole domain, and their true delta: by ball arithmetic, kept in a file, computed once.

    python benchmarks/truths.py --regimes 3000 --workers 2 [--again 20]

Every regime is drawn from its index and the seed, and is one line of the file; a rerun computes what is missing. The
judge is `tests/oracle.py`, which shares no code with the package; the package's bounds serve only to draw an epsilon
that is in range. `--again` computes so many known truths a second time, on other contours, and compares.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import opacus_edgeworth as ew

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the oracle belongs to the tests
import json_lines
import oracle  # pyright: ignore[reportMissingImports]

RESULTS = Path(__file__).resolve().parent / "results"
KINDS = ("box", "ordinary", "rare", "phases", "many phases")
SHARES = (0.45, 0.25, 0.17, 0.11, 0.02)
NOISE = (0.05, 1000.0)
RATE = (1e-7, 1.0)
STEPS = (1.0, 1e9)
DELTA = (1e-15, 0.5)
EPSILON = (1e-6, 1000.0)
TIME_LIMIT = 20.0
"""Processor seconds of the judge per direction."""
GENTLE = 0.1
"""Largest slope of the contours that give a second opinion."""

History = list[tuple[float, float, int]]
Truth = dict[str, Any]
"""index, kind, history, delta (drawn), epsilon, exact (delta at epsilon), uncertainty (relative), seconds, note."""


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


def regime(seed: int, index: int) -> Truth:
    """Return the regime of an index, without its truth.

    Candidates are drawn until epsilon at delta, as bounded, is 0 or within EPSILON; one that fails is kept, with a
    note and no epsilon.
    """
    random = np.random.default_rng([seed, index])
    kind = str(random.choice(KINDS, p=SHARES))
    while True:
        history, delta = _draw(random, kind)
        drawn: Truth = {"index": index, "kind": kind, "history": history, "delta": delta}
        try:
            epsilon = ew.PrivacyCurve(history).epsilon(delta).upper
        except Exception as error:  # every exception is a result of the campaign
            return drawn | {"epsilon": None, "note": f"epsilon: {type(error).__name__}: {error}"}
        if epsilon == 0.0 or EPSILON[0] <= epsilon <= EPSILON[1]:
            return drawn | {"epsilon": epsilon, "note": ""}


def find(
    seed: int, index: int, time_limit: float = TIME_LIMIT, steepest: float = oracle.STEEPEST, known: Truth | None = None
) -> Truth:
    """Return the regime of an index, or a known one, with the exact delta at epsilon and its relative uncertainty.

    Where the judge comes to no conclusion, exact is None and note says why.
    """
    start = time.process_time()
    with np.errstate(all="ignore"):
        drawn = regime(seed, index) if known is None else known
        found: Truth = {"exact": None, "uncertainty": math.inf}
        if drawn["epsilon"] is not None:
            try:
                value, uncertainty = oracle.judge(drawn["history"], drawn["epsilon"], time_limit, steepest)
                # half a unit in the last place, for the value becomes a double
                found = {"exact": float(value.mid()), "uncertainty": uncertainty + 1.2e-16}
            except (ArithmeticError, TimeoutError) as error:
                found["note"] = f"{type(error).__name__}: {str(error)[-80:]}"
    return drawn | found | {"seconds": round(time.process_time() - start, 3)}


def path_of(seed: int) -> Path:
    """Return the file of a seed's truths."""
    return RESULTS / f"truths_seed_{seed}.jsonl"


def read(path: Path) -> dict[int, Truth]:
    """Return the truths in a file by index; a line cut short by an interruption is dropped."""
    return json_lines.read(path, "index")


def write(path: Path, truths: dict[int, Truth]) -> None:
    """Write truths in the order of their indices."""
    path.write_text("".join(json.dumps(truths[index]) + "\n" for index in sorted(truths)))


def in_parallel(function: Any, arguments: Sequence[tuple[Any, ...]], workers: int) -> Iterator[Any]:
    """Yield the function's results as they come."""
    if workers <= 1:
        yield from (function(*each) for each in arguments)
        return
    with ProcessPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(function, *each) for each in arguments]):
            yield future.result()


def complete(seed: int, regimes: int, workers: int, time_limit: float = TIME_LIMIT) -> dict[int, Truth]:
    """Return the truths of the first regimes; those not in the file are computed and added to it."""
    path = path_of(seed)
    truths = read(path)
    missing = [(seed, index, time_limit) for index in range(regimes) if index not in truths]
    if missing:
        with path.open("a") as file, tqdm(total=regimes, initial=regimes - len(missing), desc="truths") as bar:
            for truth in in_parallel(find, missing, workers):
                truths[truth["index"]] = truth
                file.write(json.dumps(truth) + "\n")
                file.flush()
                bar.update()
        write(path, truths)
    return {index: truths[index] for index in range(regimes)}


def disagreements(seed: int, truths: dict[int, Truth], count: int, workers: int) -> list[str]:
    """Return which of so many known truths a second opinion, on other contours, contradicts."""
    known = [t for t in truths.values() if t["exact"] is not None]
    chosen = np.random.default_rng(seed).choice(len(known), min(count, len(known)), replace=False)
    first = [known[k] for k in sorted(chosen)]
    jobs = [(seed, t["index"], 5 * TIME_LIMIT, GENTLE, t) for t in first]
    found = {t["index"]: t for t in tqdm(in_parallel(find, jobs, workers), total=len(jobs), desc="second opinions")}
    result = []
    for truth in first:
        other = found[truth["index"]]
        if other["exact"] is None:
            result.append(f"{truth['index']}: no second opinion, {other['note']}")
        elif abs(other["exact"] - truth["exact"]) > (other["uncertainty"] + truth["uncertainty"]) * truth["exact"]:
            result.append(f"{truth['index']}: {truth['exact']!r} and {other['exact']!r}")
    return result


def main() -> None:
    """Compute what is missing; compare a sample with second opinions if asked to."""
    parser = argparse.ArgumentParser(description="Compute the true delta of random regimes by ball arithmetic.")
    parser.add_argument("--regimes", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", type=int, default=0, help="how many known truths to compute again, otherwise")
    arguments = parser.parse_args()
    truths = complete(arguments.seed, arguments.regimes, arguments.workers)
    known = sum(t["exact"] is not None for t in truths.values())
    print(f"{known} of {len(truths)} regimes have a known truth")
    objections = disagreements(arguments.seed, truths, arguments.again, arguments.workers)
    if arguments.again:
        print("\n".join(objections) or f"{arguments.again} second opinions agree")
    sys.exit(1 if objections else 0)


if __name__ == "__main__":
    main()
