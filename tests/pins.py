"""What the numerical core computes, stage by stage, on a few histories: written down, so that no change goes unnoticed.

A bound is proved by its formula: a constant in an allowance for an error, or the direction of a rounding, matters even
where no test can find an input that shows it. So the stages' results are kept in `data/pins.json`, those of allowances
for rounding once more with units in the last place of 2^-20 instead of 2^-52, with which they are seen. That a value is
pinned does not say that it is right: that is what `test_stages` and the oracles say.

After an intended change, judged by its derivation, write them anew:

    python tests/pins.py
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
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
PROBES: dict[str, Probe] = {}


@dataclasses.dataclass(frozen=True)
class Probe:
    """A stage on some inputs.

    Args:
      compute: gives numbers, arrays, or dataclasses, tuples, lists and dicts of them.
      coarse: whether once more with coarse units in the last place.
      rel_tol: to which the numbers hold on other machines.
    """

    compute: Callable[[], Any]
    coarse: bool
    rel_tol: float

    @property
    def modes(self) -> tuple[str, ...]:
        """The units in the last place with which it is asked."""
        return ("fine", "coarse") if self.coarse else ("fine",)


def pin(
    *, coarse: bool = True, rel_tol: float = 1e-10, name: str = ""
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Add a function to the probes, under its name or another."""

    def add(compute: Callable[[], Any]) -> Callable[[], Any]:
        PROBES[name or compute.__name__] = Probe(compute, coarse, rel_tol)
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


def same(got: list[float], kept: list[float], rel_tol: float) -> bool:
    """Whether numbers are those that were kept, but for the rounding of the largest of them.

    One that is a difference of such numbers is another on a processor that adds in another order.
    """
    scale = abs(kept[2]) if len(kept) == 5 else 0.0
    rounding = 4.0 * 2.0**-52 * max((abs(b) for b in kept if math.isfinite(b)), default=0.0)
    return len(got) == len(kept) and all(
        a == b
        or (math.isnan(a) and math.isnan(b))
        or (math.isfinite(b) and abs(a - b) <= max(rel_tol * abs(b), rel_tol * scale if i == 3 else 0.0, rounding))
        for i, (a, b) in enumerate(zip(got, kept, strict=True))
    )


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

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        calls.append(
            sum(
                count
                for code, count in seen.items()
                if code.co_filename.startswith(PACKAGE) and not code.co_name.startswith(("_mutmut", "<"))
            )
        )


def tolerance(probe: str, key: str) -> float:
    """Return the relative tolerance of a part; work depends a little on rounding, and so on the processor."""
    return WORK_TOL if key.endswith(".work") else PROBES[probe].rel_tol


def load_probes() -> None:
    """Import what defines the probes."""
    for name in ("pins_steps", "pins_lines", "pins_others", "pins_regimes"):
        importlib.import_module(name)


def write() -> None:
    """Write down what is computed now; what is the same within the tolerance stays as it is."""
    load_probes()
    before, kept = json.loads(DATA.read_text()), {}
    for name, probe in PROBES.items():
        for mode in probe.modes:
            old = before.get(f"{name}-{mode}", {})
            kept[f"{name}-{mode}"] = {
                key: old[key]
                if key in old and same(numbers, old[key], tolerance(name, key))
                else [float(f"{x:.14g}") for x in numbers]
                for key, numbers in observed(name, mode).items()
            }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in kept.items())
    DATA.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    sys.modules["pins"] = sys.modules["__main__"]
    write()
