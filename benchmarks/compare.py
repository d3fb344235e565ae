"""Compare this accountant with Opacus's RDP and PRV on the same work, side by side in one run.

    python benchmarks/compare.py

Prints two Markdown tables and writes them to benchmarks/results/compare.md: epsilon of a history with the time of one
call, and the noise multiplier that a target needs. Times are medians on this machine; only their ratios mean much.
"""

import functools
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier

import opacus_edgeworth as ew

HISTORIES = [
    ([(1.1, 256 / 60000, 14040)], 1e-5),
    ([(0.8, 0.005, 1000)], 1e-6),
    ([(1.0, 0.01, 10000)], 1e-5),
    ([(0.66, 1024 / 67349, 200)], 1e-5),
    ([(0.5, 0.02, 60)], 1e-5),
    ([(5.0, 0.05, 100000)], 1e-6),
    ([(1.0, 0.01, 1)], 1e-5),
    ([(1.0, 0.01, 1000)], 1e-12),
]
QNLI = {"sample_rate": 2000 / 104743, "steps": 1047}
OUTPUT = Path(__file__).parent / "results" / "compare.md"


def timed(work: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Return the result and the median time in seconds, after one call to warm up."""
    result, times = work(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)


def epsilon_of(name: str, history: list[tuple[float, float, int]], delta: float) -> float:
    """Return epsilon by a new accountant, which remembers nothing of the last call."""
    accountant = create_accountant(name)
    accountant.history = list(history)
    return accountant.get_epsilon(delta)


def epsilon_rows() -> list[str]:
    """Return the table of epsilons."""
    rows = [
        "| noise, rate, steps; delta | epsilon, proved | RDP | PRV | ours | RDP | PRV | PRV / ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for history, delta in HISTORIES:
        proved = ew.PrivacyCurve(history).epsilon(delta)
        times, epsilons = {}, {}
        for name, repeats in (("edgeworth", 30), ("rdp", 3), ("prv", 3)):
            epsilons[name], times[name] = timed(functools.partial(epsilon_of, name, history, delta), repeats)
        cells = []
        for name in ("rdp", "prv"):
            unsound = " (below the truth)" if epsilons[name] < proved.lower else ""
            cells.append(f"{100 * (epsilons[name] / proved.upper - 1):+.2f} %{unsound}")
        label = "; ".join(f"{s:g}, {q:.4g}, {n}" for s, q, n in history)
        clock = " | ".join(f"{1e3 * times[name]:.1f} ms" for name in ("edgeworth", "rdp", "prv"))
        ratio = times["prv"] / times["edgeworth"]
        rows.append(f"| {label}; {delta:g} | {proved.upper:.7g} | {' | '.join(cells)} | {clock} | {ratio:.0f} |")
    return rows


def noise_rows() -> list[str]:
    """Return the table of noise multipliers for QNLI, batch 2,000, 20 epochs."""
    rows = ["| target epsilon | noise multiplier, ours | RDP | PRV |", "|---|---|---|---|"]
    for target in (1.0, 3.0, 8.0):
        ours = ew.calibrate_noise_multiplier(target_epsilon=target, target_delta=1e-5, **QNLI)
        cells = []
        for name in ("rdp", "prv"):
            noise = get_noise_multiplier(
                target_epsilon=target, target_delta=1e-5, accountant=name, epsilon_tolerance=1e-3, **QNLI
            )
            cells.append(f"{noise:.5f} ({100 * (noise / ours - 1):+.2f} %)")
        rows.append(f"| {target:g} | {ours:.6f} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    """Print and store both tables."""
    warnings.filterwarnings("ignore", message="Optimal order is the")  # RDP's remark on its own looseness
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines = [
        "# Against Opacus's RDP and PRV",
        "",
        f"Command: `make compare`; commit {commit.stdout.strip() or 'unknown'}; {platform.machine()}, Python"
        f" {platform.python_version()}, one thread.",
        "",
        "RDP and PRV: excess of epsilon over the proved one. The last four columns are times of a new accountant's"
        " call.",
        "",
        *epsilon_rows(),
        "",
        "QNLI (rate 2000/104743, 1047 steps, delta 1e-5); RDP and PRV by Opacus's search, tolerance 1e-3 in epsilon:",
        "",
        *noise_rows(),
    ]
    text = "\n".join(lines) + "\n"
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
