"""What the numerical core computes, stage by stage, on a few histories: written down, so that no change goes unnoticed.

A bound is proved by its formula: a constant in an allowance for an error, or the direction of a rounding, matters even
where no test can find an input that shows it. So the stages' results are kept in `data/pins.json`, those of allowances
for rounding once more with units in the last place of 2^-20 instead of 2^-52, with which they are seen. That a value is
pinned does not say that it is right: that is what `test_stages` and the oracles say.

Traced probes keep what functions return on the way to whole answers, each folded to a few numbers; of these only such
as hold however it is rounded: with other noise by an ulp, and with what NumPy and OpenBLAS do on other processors.

After an intended change, judged by its derivation, write them anew:

    python tests/pins.py
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

from opacus_edgeworth.inversion import few

PACKAGE = str(Path(few.__file__).parents[1])
DATA = Path(__file__).parent / "data" / "pins.json"
COARSE = 2.0**-20
WORK_TOL = 0.5
"""Of the calls that an answer takes: on another processor searches end some steps sooner or later."""
TRACED_TOL, STEADY = 1e-8, 1e-11
"""To which results on the way hold, and to which they held when they were written, however it was rounded."""
LEAST = 1e-25
"""Smaller results on the way are left of cancelled ones, or are tails that versions of SciPy know more or less of."""
FIRST = 3
"""Of a function's results on the way to an answer, so many are looked at."""
OTHERWISE: tuple[dict[str, str], ...] = (
    {},
    {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL", "OPENBLAS_CORETYPE": "Haswell"},
    {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL", "OPENBLAS_CORETYPE": "Nehalem"},
)
"""Settings with which NumPy and OpenBLAS compute as on other processors."""
JITTER = [0.0]
"""By how much of itself a traced probe's noise is another one: rounding of other kinds."""
JITTERS = (0.0, -(2.0**-52), 2.0**-51, -(2.0**-50))
PROBES: dict[str, Probe] = {}


@dataclasses.dataclass(frozen=True)
class Probe:
    """A stage on some inputs.

    Args:
      compute: gives numbers, arrays, or dataclasses, tuples, lists and dicts of them.
      coarse: whether once more with coarse units in the last place.
      rel_tol: to which the numbers hold on other machines.
      traced: whether it gives results on the way to an answer, of which some are mere rounding; those are not kept.
    """

    compute: Callable[[], Any]
    coarse: bool
    rel_tol: float
    traced: bool = False

    @property
    def modes(self) -> tuple[str, ...]:
        """The units in the last place with which it is asked."""
        return ("fine", "coarse") if self.coarse else ("fine",)


def pin(
    *, coarse: bool = True, rel_tol: float = 1e-10, name: str = "", traced: bool = False
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Add a function to the probes, under its name or another."""

    def add(compute: Callable[[], Any]) -> Callable[[], Any]:
        PROBES[name or compute.__name__] = Probe(compute, coarse, rel_tol, traced)
        return compute

    return add


@contextmanager
def ulp(value: float) -> Iterator[None]:
    """Let all modules of the package take this for the relative spacing of doubles."""
    holders = [
        module for name, module in sys.modules.items() if name.startswith("opacus_edgeworth.") and "ULP" in vars(module)
    ]
    for module in holders:
        module.ULP = value
    try:
        yield
    finally:
        for module in holders:
            module.ULP = 2.0**-52


def observed(name: str, mode: str) -> dict[str, list[float]]:
    """Return what a probe computes, as a few numbers for each part; nothing is kept from before."""
    few._few_of.cache_clear()
    if mode == "fine":
        return dict(_flat("", PROBES[name].compute()))
    with ulp(COARSE):
        return dict(_flat("", PROBES[name].compute()))


def _flat(path: str, value: Any) -> Iterator[tuple[str, list[float]]]:
    """Yield the parts of a result."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(f"{path}.{key}", part)
    elif isinstance(value, (list, tuple)) and not all(isinstance(part, (int, float)) for part in value):
        for index, part in enumerate(value):
            yield from _flat(f"{path}.{index}", part)
    elif isinstance(value, str):
        yield path, [float(byte) for byte in value.encode()]
    elif value is None:
        yield path, []
    elif not callable(value):
        array = np.asarray(value)
        if array.dtype == np.complex128:
            yield from _flat(path + ".real", array.real.copy())
            yield from _flat(path + ".imag", array.imag.copy())
        else:
            yield path, _numbers(array.astype(float).ravel())


def _numbers(array: np.ndarray) -> list[float]:
    """Return an array itself if it is short, else its size, how many are infinite or NaN, and three sums."""
    if array.size <= 4:
        return array.tolist()
    finite = array[np.isfinite(array)]
    logs = np.log(np.abs(finite[finite != 0.0]))
    total = float(np.abs(finite).sum())
    return [
        array.size,
        array.size - finite.size,
        total,
        float(finite @ np.cos(np.arange(finite.size))),
        float(logs.sum()),
    ]


def same(got: list[float], kept: list[float | None], rel_tol: float) -> bool:
    """Whether numbers are those that were kept, but for the rounding of the largest of them.

    One that is a difference of such numbers is another on a processor that adds in another order. None stands for what
    was not kept.
    """
    scale = abs(kept[2]) if len(kept) == 5 and kept[2] is not None else 0.0
    rounding = 4.0 * 2.0**-52 * max((abs(b) for b in kept if b is not None and math.isfinite(b)), default=0.0)
    return len(got) == len(kept) and all(
        b is None
        or a == b
        or (math.isnan(a) and math.isnan(b))
        or (math.isfinite(b) and abs(a - b) <= max(rel_tol * abs(b), rel_tol * scale if i == 3 else 0.0, rounding))
        for i, (a, b) in enumerate(zip(got, kept, strict=True))
    )


@contextmanager
def profiled(note: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Let a function hear of every call and return."""
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Give a list that gets the number of calls of the package's functions: how much work an answer takes.

    Of a function that mutation testing copies, one copy is called in its place.
    """
    seen: defaultdict[CodeType, int] = defaultdict(int)
    calls: list[int] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen[frame.f_code] += 1

    with profiled(note):
        yield calls
    calls.append(
        sum(
            count
            for code, count in seen.items()
            if code.co_filename.startswith(PACKAGE) and not code.co_name.startswith(("_mutmut", "<"))
        )
    )


@contextmanager
def traced_results() -> Iterator[dict[str, list[float]]]:
    """Give a dict that gets what the package's functions return first, folded to three numbers for each function.

    Names are those of the functions that mutation testing copies.
    """
    seen: defaultdict[str, list[list[float]]] = defaultdict(list)
    found: dict[str, list[float]] = {}

    def note(frame: FrameType, event: str, value: Any) -> None:
        path = frame.f_code.co_filename
        if event == "return" and path.startswith(PACKAGE):
            name = re.sub(r"^x(_|ǁ.*ǁ)|__mutmut_\w+$", "", frame.f_code.co_name)
            results = seen[f"{Path(path).stem} {name}"]
            if len(results) < FIRST and not name.startswith(("_mutmut", "<")):
                results.append(_folded(value))

    with profiled(note):
        yield found
    found |= {name: np.sum(results, axis=0).tolist() for name, results in sorted(seen.items()) if results}


def _folded(value: Any) -> list[float]:
    """Return how many numbers a result holds, and sums over them: of logarithms, and of what is not mere rounding."""
    arrays = [np.asarray(part, dtype=float).ravel() for part in _parts(value)]
    array = np.concatenate(arrays) if arrays else np.zeros(0)
    finite = np.where(np.isfinite(array), array, 7.0)
    weights = 1.0 + 0.5 * np.cos(np.arange(array.size))
    logs = np.log(np.where(np.abs(finite) < LEAST, 1.0, np.abs(finite)))
    return [
        float(array.size),
        float(np.abs(logs) @ weights),
        float((np.sign(finite) * np.log1p(1e6 * np.abs(finite)) + 20.0) @ weights),
    ]


def _parts(value: Any) -> Iterator[Any]:
    """Yield the numbers of a result, and arrays of them."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _parts(getattr(value, field.name, None))  # one that is being made has not all yet
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _parts(part)
    elif isinstance(value, complex) or (isinstance(value, np.ndarray) and value.dtype.kind == "c"):
        yield from (np.real(value), np.imag(value))
    elif isinstance(value, (bool, int, float, np.number, np.bool_)) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "bif"
    ):
        yield value


def tolerance(probe: str, key: str) -> float:
    """Return the relative tolerance of a part; work depends a little on rounding, and so on the processor."""
    return WORK_TOL if key.endswith(".work") else PROBES[probe].rel_tol


def load_probes() -> None:
    """Import what defines the probes."""
    for name in ("pins_steps", "pins_lines", "pins_others", "pins_regimes", "pins_traced"):
        importlib.import_module(name)


def observed_otherwise(name: str, mode: str) -> list[dict[str, list[float]]]:
    """Return what a traced probe computes where it is rounded otherwise."""
    found = []
    for jitter in JITTERS:
        JITTER[0] = jitter
        found.append(observed(name, mode))
    JITTER[0] = 0.0
    return found


def steady(observations: list[dict[str, list[float]]]) -> dict[str, list[float | None]]:
    """Return what all observations have, with None where they differ."""
    first, *others = observations
    return {
        key: [x if all(same([other[key][i]], [x], STEADY) for other in others) else None for i, x in enumerate(numbers)]
        for key, numbers in first.items()
        if all(key in other for other in others)
    }


def traced_here() -> dict[str, list[dict[str, list[float]]]]:
    """Return what traced probes compute on this processor, for each jitter."""
    return {
        f"{name}-{mode}": observed_otherwise(name, mode)
        for name, probe in PROBES.items()
        for mode in probe.modes
        if probe.traced
    }


def traced_everywhere() -> dict[str, dict[str, list[float | None]]]:
    """Return what traced probes compute here, and on all other processors."""
    found = []
    for environment in OTHERWISE:
        command = [sys.executable, __file__, "--traced"]
        run = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(run.stdout))
    return {name: steady([o for everything in found for o in everything[name]]) for name in found[0]}


def write() -> None:
    """Write down what is computed now; what is the same within the tolerance stays as it is."""
    before, kept, traced = json.loads(DATA.read_text()), {}, traced_everywhere()
    for name, probe in PROBES.items():
        for mode in probe.modes:
            old = before.get(f"{name}-{mode}", {})
            now: dict[str, Any] = traced[f"{name}-{mode}"] if probe.traced else observed(name, mode)
            kept[f"{name}-{mode}"] = {
                key: old[key]
                if key in old and not probe.traced and same(numbers, old[key], tolerance(name, key))
                else [None if x is None else float(f"{x:.{11 if probe.traced else 14}g}") for x in numbers]
                for key, numbers in now.items()
            }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in kept.items())
    DATA.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    sys.modules["pins"] = sys.modules["__main__"]
    load_probes()
    if "--traced" in sys.argv:
        print(json.dumps(traced_here()))
    else:
        write()
