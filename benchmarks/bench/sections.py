"""The parts of the benchmark: each yields one record for each piece of work of each accountant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

from bench import regimes, truth
from bench.measure import Limits, Measurement, import_seconds, measure, measure_log
from bench.peers import OURS, PEERS, Peer
from bench.regimes import Case, Target

OURS_MODULES = ("opacus_edgeworth",)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: everything, or a minute's worth."""

    peers: tuple[Peer, ...] = PEERS
    limits: Limits = field(default_factory=Limits)
    series_limits: Limits = field(default_factory=lambda: Limits(30.0))
    ordinary: tuple[Case, ...] = regimes.ORDINARY
    breaking: tuple[Case, ...] = regimes.BREAKING
    targets: tuple[Target, ...] = regimes.TARGETS[::2]
    steps: tuple[int, ...] = regimes.GROWING_STEPS
    phases: tuple[int, ...] = regimes.GROWING_PHASES
    logged_steps: int = regimes.LOGGED_STEPS
    import_repeats: int = 3

    @property
    def marks(self) -> tuple[int, ...]:
        """The steps of the logged run whose time and epsilon are kept."""
        return tuple(mark for mark in regimes.LOG_MARKS if mark <= self.logged_steps)


@dataclass(frozen=True, slots=True)
class Record:
    """One piece of work done by one accountant, and what it is worth.

    Args:
      section: ordinary, breaking, noise, steps, phases, log or import.
      case: the work in one short line.
      peer: the accountant's name.
      size: number of steps or phases in a series, 0 elsewhere.
      status: answered, or why there is no answer.
      verdict: sound, or below the truth, negative, infinite, unknown; empty without an answer.
      value: the answer (epsilon, noise multiplier, or the last logged step).
      lower: proved lower bound on the truth.
      upper: proved upper bound on the truth.
      seconds: time of one call; of the whole run in the log section; of the import in the import section.
      calls: number of timed calls of which that is the median.
      peak_mib: peak resident memory of the process.
      added_mib: how much of it the call added.
      message: of a failure.
      delta_at_answer: proved lower bound on delta at an epsilon that is below the truth.
      recorded: the value recorded earlier in ball arithmetic.
      agrees: whether our bounds meet it.
      marks: (step, seconds since the start, epsilon, lower, upper) in the log section.
    """

    section: str
    case: str
    peer: str
    size: int = 0
    status: str = "answered"
    verdict: str = ""
    value: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    seconds: float = math.nan
    calls: int = 0
    peak_mib: float = math.nan
    added_mib: float = math.nan
    message: str = ""
    delta_at_answer: float = math.nan
    recorded: str = ""
    agrees: bool | None = None
    marks: tuple[tuple[int, float, float, float, float], ...] = ()

    @property
    def excess(self) -> float:
        """The answer's relative excess over the proved upper bound; NaN where that is 0, infinite or unknown."""
        if self.status != "answered" or not 0.0 < self.upper < math.inf:
            return math.nan
        return (self.value - self.upper) / self.upper

    @property
    def width(self) -> float:
        """The relative width of the proved bounds, 0 for a point."""
        return 0.0 if self.lower == self.upper else (self.upper - self.lower) / self.upper

    def as_json(self) -> dict[str, Any]:
        """Return the fields for a JSON file, which knows neither NaN nor infinity."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Record:
        """Return the record that `as_json` wrote."""
        numbers = {f.name for f in fields(cls) if f.type == "float"}
        read: dict[str, Any] = {name: _number(value) if name in numbers else value for name, value in row.items()}
        read["marks"] = tuple((int(step), *map(_number, rest)) for step, *rest in row["marks"])
        return cls(**read)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: NaN becomes null, infinity the word."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _number(value: Any) -> float:
    """Return a number that `_plain` wrote."""
    return math.nan if value is None else float(value)


def count(plan: Plan) -> int:
    """Return how many records the plan makes."""
    series = sum(not peer.only_breaking for peer in plan.peers)
    growing = len(plan.steps) + len(plan.phases)
    imports = len({peer.distribution for peer in plan.peers}) + 1
    singles = len(plan.breaking) * len(plan.peers)
    return singles + (len(plan.ordinary) + len(plan.targets) + growing + 1) * series + imports


def run(plan: Plan) -> Iterator[Record]:
    """Yield every record of the plan, part by part."""
    yield from import_records(plan)
    for section, cases in (("ordinary", plan.ordinary), ("breaking", plan.breaking)):
        for case in cases:
            bounds = _bounds(partial(truth.epsilon_bounds, case.history, case.delta), plan.limits)
            for peer in plan.peers:
                if section == "breaking" or not peer.only_breaking:
                    yield _epsilon_record(section, case, peer, bounds, plan.limits)
    yield from noise_records(plan)
    yield from series_records("steps", plan.steps, regimes.growing_steps, plan)
    yield from series_records("phases", plan.phases, regimes.growing_phases, plan)
    yield from log_records(plan)


def _bounds(work: Callable[[], tuple[float, float]], limits: Limits) -> tuple[float, float]:
    """Return proved bounds; NaN where they could not be had."""
    measurement = measure(work, OURS_MODULES, limits)
    return measurement.value if measurement.status == "answered" else (math.nan, math.nan)


def _record(
    section: str,
    case: str,
    peer: Peer,
    measurement: Measurement,
    bounds: tuple[float, float],
    *,
    size: int = 0,
    **more: Any,
) -> Record:
    """Return the record of a measurement judged by proved bounds."""
    lower, upper = bounds
    value = float(measurement.value) if measurement.status == "answered" else math.nan
    verdict = truth.judge(value, lower, upper) if measurement.status == "answered" else ""
    return Record(
        section, case, peer.name, size, measurement.status, verdict, value, lower, upper,
        _number(measurement.seconds), measurement.calls, _number(measurement.peak_mib),
        _number(measurement.added_mib), measurement.message, **more,
    )  # fmt: skip


def _epsilon_record(
    section: str, case: Case, peer: Peer, bounds: tuple[float, float], limits: Limits, size: int = 0
) -> Record:
    """Return one accountant's epsilon of one case."""
    if peer.version is None:
        return Record(section, case.label, peer.name, size, "absent", lower=bounds[0], upper=bounds[1])
    measurement = measure(partial(peer.epsilon, case.history, case.delta), peer.modules, limits)
    more: dict[str, Any] = {}
    if measurement.status == "answered" and truth.judge(float(measurement.value), *bounds) == "below":
        proof = measure(partial(truth.least_delta, case.history, float(measurement.value)), OURS_MODULES, limits)
        more["delta_at_answer"] = _number(proof.value)
    if case.recorded and peer.name == OURS:
        more |= {"recorded": case.recorded, "agrees": case.agrees_with_record(*bounds)}
    return _record(section, case.label, peer, measurement, bounds, size=size, **more)


def noise_records(plan: Plan) -> Iterator[Record]:
    """Yield the noise multiplier that each accountant's search finds for each target."""
    for target in plan.targets:
        bounds = _bounds(partial(truth.noise_bounds, target), plan.limits)
        for peer in plan.peers:
            if peer.only_breaking:
                continue
            if peer.version is None or peer.noise is None:
                status, message = ("absent", "") if peer.version is None else ("not offered", "no search")
                yield Record("noise", target.label, peer.name, status=status, message=message)
                continue
            measurement = measure(partial(peer.noise, target), peer.modules, plan.limits)
            yield _record("noise", target.label, peer, measurement, bounds)


def series_records(section: str, sizes: tuple[int, ...], make: Callable[[int], Case], plan: Plan) -> Iterator[Record]:
    """Yield the cost of a growing history; who ran out of time or memory is not asked for more."""
    exhausted: dict[str, str] = {}
    for size in sizes:
        case = make(size)
        bounds = _bounds(partial(truth.epsilon_bounds, case.history, case.delta), plan.limits)
        for peer in plan.peers:
            if peer.only_breaking:
                continue
            if peer.name in exhausted:
                yield Record(section, case.label, peer.name, size, "skipped", message=exhausted[peer.name])
                continue
            record = _epsilon_record(section, case, peer, bounds, plan.series_limits, size)
            if record.status in ("timeout", "memory"):
                exhausted[peer.name] = f"{record.status} at {size} {section}"
            yield record


def log_records(plan: Plan) -> Iterator[Record]:
    """Yield the cost of a run that logs epsilon at each step."""
    noise_multiplier, sample_rate = regimes.LOG_PHASE
    delta = regimes.LOG_DELTA
    bounds = {
        mark: _bounds(partial(truth.epsilon_bounds, ((noise_multiplier, sample_rate, mark),), delta), plan.limits)
        for mark in plan.marks
    }
    case = f"({noise_multiplier:g}, {sample_rate:g}, 1 to {plan.logged_steps}); {delta:g}"
    for peer in plan.peers:
        if peer.only_breaking or peer.log is None:
            continue
        if peer.version is None:
            yield Record("log", case, peer.name, status="absent")
            continue
        work = partial(peer.log, noise_multiplier, sample_rate, plan.logged_steps, delta)
        measurement = measure_log(work, plan.marks, peer.modules, plan.series_limits)
        marks = tuple((step, seconds, value, *bounds[step]) for step, seconds, value in measurement.marks)
        below = any(value < lower for _, _, value, lower, _ in marks)
        yield Record(
            "log", case, peer.name, plan.logged_steps, measurement.status, "below" if below else "sound",
            _number(measurement.value), seconds=_number(measurement.seconds), calls=1,
            peak_mib=_number(measurement.peak_mib), added_mib=_number(measurement.added_mib),
            message=measurement.message, marks=marks,
        )  # fmt: skip


def import_records(plan: Plan) -> Iterator[Record]:
    """Yield the time that imports take in fresh interpreters."""
    seen: set[str] = set()
    for peer in plan.peers:
        if peer.distribution in seen:
            continue
        seen.add(peer.distribution)
        statement = f"import {', '.join(peer.modules)}"
        if peer.version is None:
            yield Record("import", statement, peer.name, status="absent")
        else:
            seconds = import_seconds(statement, repeats=plan.import_repeats)
            yield Record("import", statement, peer.name, seconds=seconds, calls=plan.import_repeats)
    added = import_seconds("import opacus_edgeworth", "import opacus", plan.import_repeats)
    case = "import opacus_edgeworth, after import opacus"
    yield Record("import", case, OURS, seconds=added, calls=plan.import_repeats)
