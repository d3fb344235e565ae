"""What is computed: histories, noise targets and growing runs, the same for every accountant."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

Phase = tuple[float, float, int]
"""(noise_multiplier, sample_rate, steps)"""
History = tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One history whose epsilon is asked for.

    Args:
      history: (noise_multiplier, sample_rate, steps) of each phase.
      delta: the delta at which epsilon is asked for.
      recorded: epsilon as recorded earlier from ball arithmetic, its last digit rounded; a check on our own bounds.
      trouble: what was seen to go wrong with whom, in the rows that were chosen for that.
      title: the row's label where the history is too long for one.
    """

    history: History
    delta: float
    recorded: str = ""
    trouble: str = ""
    title: str = ""

    @property
    def label(self) -> str:
        """The case in one short line."""
        phases = " + ".join(f"({noise:g}, {rate:.4g}, {steps})" for noise, rate, steps in self.history)
        return f"{self.title or phases or 'no phase'}; {self.delta:g}"

    def agrees_with_record(self, lower: float, upper: float) -> bool:
        """Tell whether bounds meet the recorded value, to within one unit of its last digit."""
        exponent = Decimal(self.recorded).as_tuple().exponent
        unit = 10.0**exponent if isinstance(exponent, int) else 0.0
        return lower - unit <= float(self.recorded) <= upper + unit


@dataclass(frozen=True, slots=True)
class Target:
    """A privacy target whose least noise multiplier is asked for: (epsilon, delta) after `steps` steps."""

    title: str
    epsilon: float
    delta: float
    sample_rate: float
    steps: int
    recorded: str = ""

    @property
    def label(self) -> str:
        """The target in one short line."""
        return f"{self.title}, epsilon {self.epsilon:g}"


def declining(phases: int, steps: int = 10) -> History:
    """Return a run whose noise multiplier falls from 1.5 to 0.7 in `phases` distinct phases of `steps` steps."""
    return tuple((1.5 - 0.8 * index / max(phases - 1, 1), 0.01, steps) for index in range(phases))


ORDINARY = (
    Case(((1.1, 256 / 60000, 14040),), 1e-5, "2.37955"),
    Case(((0.8, 0.005, 1000),), 1e-6, "2.00411"),
    Case(((1.0, 0.01, 10000),), 1e-5, "6.18771"),
    Case(((0.66, 1024 / 67349, 200),), 1e-5, "4.48889"),
    Case(((0.5, 0.02, 60),), 1e-5, "8.36623"),
    Case(((0.3, 0.01, 100),), 1e-5, "26.8347"),
    Case(((1.0, 1e-4, 1_000_000),), 1e-8, "0.658114"),
    Case(((5.0, 0.05, 100_000),), 1e-6, "19.6843"),
    Case(((1.0, 0.01, 1),), 1e-5, "0.19945"),
    Case(declining(300), 1e-5, "3.71489", title="300 phases of 10 steps, noise 1.5 to 0.7, rate 0.01"),
)
"""Histories like those of real training runs."""

BREAKING = (
    Case(((1.0, 0.01, 1000),), 1e-12, "3.914298", "Opacus PRV unsound"),
    Case(((0.8, 1e-4, 100_000),), 1e-10, "0.546889", "Opacus PRV unsound"),
    Case(((1.0, 0.1, 1000),), 1e-12, "39.01263", "Opacus PRV unsound"),
    Case(((0.02, 0.01, 1),), 1e-5, "1398.9", "Opacus PRV unsound"),
    Case(((2.0, 0.01, 1500),), 1e-10, "1.276050", "dp-accounting PLD at 1e-5 unsound"),
    Case(((0.4, 1e-5, 10_000),), 1e-9, "5.126516", "dp-accounting PLD at 1e-4 unsound"),
    Case(((20.0, 0.01, 1_000_000),), 1e-6, "2.255864", "pld-accounting unsound"),
    Case(((1.0, 0.01, 100),), 0.1, "0", "Opacus RDP, PRV, prv-accountant negative"),
    Case(((0.5, 1e-4, 1000),), 1e-13, "6.43", "Opacus PRV loose"),
    Case(((1000.0, 0.001, 10),), 1e-6, "0.000000", "Opacus PRV never below 0.01"),
    Case(((1.0, 1e-8, 1),), 1e-12, "4.4e-7", "Opacus RDP loose"),
    Case(((0.3, 0.5, 1000),), 1e-5, "", "Opacus PRV takes too long"),
    Case(((1.0, 0.01, 0),), 1e-5, "0", "Opacus PRV raises: no steps"),
    Case(((1.0, 0.01, 100),), 0.0, "", "Opacus PRV raises: delta 0"),
    Case(((1.0, 0.01, 100),), 1.0, "0", "Opacus PRV raises: delta 1"),
    Case(((0.0, 0.01, 100),), 1e-5, "", "Opacus PRV raises: no noise"),
    # 4.854545 was noted once; ball arithmetic has delta = 1.000000377e-15 at 4.8545377
    Case(((1.0, 0.01, 1000),), 1e-15, "4.8545378", "Opacus PRV, prv-accountant raise; PLD tools infinite"),
    Case(((0.5, 1.0, 10_000),), 1e-5, "20852", "Opacus PRV, prv-accountant out of memory"),
    Case(((1.0, 0.01, 1_000_000),), 1e-5, "139.03", "Opacus PRV, prv-accountant take too long"),
    Case(((100.0, 1e-3, 10_000_000),), 1e-6, "0.115932", "dp-accounting PLD, Opacus PRV loose"),
    Case(((0.3, 0.01, 5), (5.0, 0.01, 5000)), 1e-5, "12.9383", "prv-accountant, pld-accounting, Opacus GDP raise"),
    Case(((0.2, 0.01, 100),), 1e-5, "", "Opacus GDP raises"),
)
"""Every row of the list of histories at which some accountant was seen to break."""


def _targets(title: str, records: int, delta: float, recorded: tuple[str, str, str]) -> tuple[Target, ...]:
    """Return the fine-tuning targets of one data set: batch 2,000, 20 epochs, epsilon 1, 3 and 8."""
    rate = 2000 / records
    return tuple(
        Target(title, epsilon, delta, rate, int(20 / rate), noise)
        for epsilon, noise in zip((1.0, 3.0, 8.0), recorded, strict=True)
    )


TARGETS = (
    *_targets("SST-2", 67349, 1e-5, ("3.020005", "1.322774", "0.801414")),
    *_targets("MNLI", 392702, 1e-6, ("1.543010", "0.833532", "0.604606")),
    *_targets("QNLI", 104743, 1e-5, ("2.458562", "1.132492", "0.726789")),
    *_targets("QQP", 363846, 1e-6, ("1.591664", "0.848309", "0.611490")),
)
"""Noise for private fine-tuning of a language model on four GLUE data sets."""

GROWING_STEPS = tuple(10**power for power in range(8))
GROWING_PHASES = (1, 10, 30, 100, 1000)
LOGGED_STEPS = 1000
LOG_MARKS = (1, 10, 30, 100, 200, 300, 500, 700, 1000)
"""The steps of a logged run whose time and epsilon are kept."""
LOG_PHASE = (1.0, 0.01)
LOG_DELTA = 1e-5


def growing_steps(steps: int) -> Case:
    """Return the case of the series in which only the number of steps grows."""
    return Case(((1.0, 0.001, steps),), 1e-6)


def growing_phases(phases: int) -> Case:
    """Return the case of the series in which the number of distinct phases grows."""
    return Case(declining(phases), 1e-5, title=f"{phases} phases")
