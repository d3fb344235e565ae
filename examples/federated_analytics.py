"""What many noisy reports tell about one person: Laplace and Gaussian reports and randomized responses, composed.

    python examples/federated_analytics.py --days 60 --delta 1e-6

The setting is the federated analytics of the Edgeworth accountant paper (arXiv 2206.04236): a server collects
statistics from many users' devices, and each user adds noise before anything is sent. Every day a device here reports a
bounded count with Laplace noise and an activity level with Gaussian noise (both of sensitivity 1), and answers one
yes-or-no question by randomized response. The noise differs from week to week, so the mechanisms are not identical.

The server, or whoever reads its data, sees all reports of a device. The epsilon printed is for any two values of one
user's data in all of them (local differential privacy, nothing is sampled). Beside the certified bounds stands what
adding up epsilons would say (basic composition; the Gaussian reports each at their share of delta), and below, what the
noise does to the server's mean over all users.
"""

import argparse
import math
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

import opacus_edgeworth as ew
from opacus_edgeworth.mechanisms import Gaussian, Laplace, Mechanism, RandomizedResponse

WEEKLY_FACTORS = (1.0, 1.25, 1.5, 2.0)
"""The noise is turned up from week to week, then starts again."""
SCALE, NOISE_MULTIPLIER, RESPONSE_EPSILON = 12.0, 15.0, 0.08


def reports(days: int) -> list[tuple[Mechanism, int]]:
    """Return one device's reports of so many days."""
    history: list[tuple[Mechanism, int]] = []
    for day in range(days):
        factor = WEEKLY_FACTORS[day // 7 % len(WEEKLY_FACTORS)]
        history += [
            (Laplace(SCALE * factor), 1),
            (Gaussian(NOISE_MULTIPLIER * factor), 1),
            (RandomizedResponse(RESPONSE_EPSILON / factor), 1),
        ]
    return history


def basic_epsilon(history: list[tuple[Mechanism, int]], delta: float) -> float:
    """Return the sum of the epsilons of all reports, delta shared among the Gaussian ones."""
    gaussian = sum(n for mechanism, n in history if isinstance(mechanism, Gaussian))
    total = 0.0
    for mechanism, n in history:
        share = delta / gaussian if isinstance(mechanism, Gaussian) else 0.0
        total += n * ew.PrivacyCurve([(mechanism, 1)]).epsilon(share).upper
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description="Privacy of one device's noisy reports, and what they are good for.")
    parser.add_argument("--days", type=int, default=60, help="days of reports")
    parser.add_argument("--users", type=int, default=10_000, help="devices whose reports are averaged")
    parser.add_argument("--delta", type=float, default=1e-6)
    options = parser.parse_args(arguments)
    if options.days < 1 or options.users < 1:
        parser.error("--days and --users must be at least 1")
    if not 0.0 < options.delta < 1.0:
        parser.error(f"--delta must lie between 0 and 1, not {options.delta}")
    table = Table(title=f"one device's reports, δ = {options.delta:g}")
    for name in ("days", "reports", "ε, proved: lower", "upper", "basic composition"):
        table.add_column(name, justify="right")
    for days in sorted({min(options.days, days) for days in (1, 7, 14, 30, options.days)}):
        history = reports(days)
        bounds = ew.PrivacyCurve(history).epsilon(float(options.delta))
        table.add_row(
            str(days),
            str(3 * days),
            f"{bounds.lower:.6f}",
            f"{bounds.upper:.6f}",
            f"{basic_epsilon(history, options.delta):.4f}",
        )
    console = Console()
    console.print(table)
    error = math.sqrt(2.0) * SCALE / math.sqrt(options.users)
    console.print(
        f"the mean of {options.users} counts of one day is off by {error:.3f} (standard deviation of the noise)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
