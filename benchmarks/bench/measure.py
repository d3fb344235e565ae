"""Time and memory of one call, in a process of its own with a time limit and a memory limit.

All processes are forked from one server that has every accountant loaded, so that no call waits for imports and none
sees what another left behind. Ours and the peers go through the same functions. Time is the process's own processor
time: with one thread it is the time on the clock of an idle machine, and other work on the same cores moves it least.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

import psutil

Status = Literal["answered", "timeout", "memory", "failed", "not offered", "absent", "skipped"]

SLOW = 1.0
"""Seconds of the first call from which it is not repeated."""
ENOUGH = 0.4
"""Seconds of repeats that are enough."""
MAX_CALLS = 30
LOG_GRACE = 5.0
"""Seconds that the last step of a logged run may take beyond the limit: what it has logged would be lost."""
POLL = 0.05
"""Seconds between two looks at a process's processor time."""
PATIENCE = 5.0
"""Wall-clock time over processor time from which a process is taken to hang."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may take: seconds of processor time and bytes of address space."""

    seconds: float = 60.0
    memory: int = 12 << 30


@dataclass(frozen=True, slots=True)
class Measurement:
    """What came of one piece of work.

    Args:
      status: "answered", or why there is no answer.
      value: the answer.
      seconds: median processor time of a call after the first one, or of the only one where that was slow.
      calls: how many calls were timed.
      peak_mib: the process's peak resident memory.
      added_mib: by how much that exceeds its memory before the call.
      message: the exception's type and first line.
      marks: of a run that was logged, (step, seconds since the start, epsilon).
    """

    status: Status
    value: Any = None
    seconds: float | None = None
    calls: int = 0
    peak_mib: float | None = None
    added_mib: float | None = None
    message: str = ""
    marks: tuple[tuple[int, float, float], ...] = field(default=())


def start_server(modules: tuple[str, ...]) -> None:
    """Start the server that the processes are forked from, with these modules loaded."""
    os.environ |= dict.fromkeys(THREAD_VARIABLES, "1") | {"BENCH_PRELOAD": ",".join(modules)}
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["bench.preload", "bench.measure", "bench.peers", "bench.truth"]
    )


def measure(work: Callable[[], Any], modules: tuple[str, ...], limits: Limits) -> Measurement:
    """Return the answer, time and memory of `work()`.

    Args:
      work: anything that pickles and takes nothing: a partial of a function of a module.
      modules: what is imported before the clock starts.
      limits: what it may take.
    """
    return _in_process(_time_call, (work,), modules, limits, limits.seconds)


def measure_log(
    work: Callable[[], Iterator[float]], marks: tuple[int, ...], modules: tuple[str, ...], limits: Limits
) -> Measurement:
    """Return the times at which an iterator of one epsilon per step passes the given steps, as far as it gets."""
    return _in_process(_time_iterator, (work, marks, limits.seconds), modules, limits, limits.seconds + LOG_GRACE)


def import_seconds(statement: str, before: str = "pass", repeats: int = 5) -> float:
    """Return the median time of an import statement in fresh interpreters, after another statement."""
    code = f"import time\n{before}\nt = time.process_time()\n{statement}\nprint(time.process_time() - t)"
    times = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
        times.append(float(done.stdout))
    return statistics.median(times)


def _in_process(
    function: Callable[..., Measurement],
    arguments: tuple[Any, ...],
    modules: tuple[str, ...],
    limits: Limits,
    seconds: float,
) -> Measurement:
    """Run a function in a process of its own and see that it ends within so many seconds of processor time."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, function, arguments, modules, limits), daemon=True)
    timeout = Measurement("timeout", seconds=limits.seconds, message=f"no answer in {limits.seconds:g} s")
    process.start()
    sender.close()
    try:
        if not receiver.poll(60.0):  # imports, where the server could not load them
            return Measurement("failed", message="the process did not start")
        receiver.recv()
        return receiver.recv() if _answers(receiver, process.pid, seconds) else timeout
    except EOFError:
        process.join()
        return Measurement("failed", message=f"process ended with exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()
        receiver.close()


def _answers(receiver: Connection, pid: int | None, seconds: float) -> bool:
    """Wait for word from a process; tell whether it came before the processor time was used up.

    The process is watched from here because a limit of its own (RLIMIT_CPU) makes its clock tick in milliseconds.
    """
    before, start = _processor_time(pid), time.monotonic()
    while not receiver.poll(POLL):
        if _processor_time(pid) - before > seconds or time.monotonic() - start > PATIENCE * seconds:
            return False
    return True


def _processor_time(pid: int | None) -> float:
    """Return the processor time that a process has used; 0 once it has ended, for then its word is in the pipe."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _child(
    sender: Connection,
    function: Callable[..., Measurement],
    arguments: tuple[Any, ...],
    modules: tuple[str, ...],
    limits: Limits,
) -> None:
    """Send word when ready, then the measurement."""
    warnings.simplefilter("ignore")  # peers remark on their own looseness
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for module in modules:
        importlib.import_module(module)
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    sender.send("ready")
    before = _peak_mib()
    try:
        result = function(*arguments)
    except MemoryError as error:
        result = Measurement("memory", message=_describe(error))
    except Exception as error:  # whatever a peer raises is its answer
        offered = type(error).__name__ != "NotOfferedError"
        result = Measurement("failed" if offered else "not offered", message=_describe(error, named=offered))
    peak = _peak_mib()
    sender.send(
        Measurement(
            result.status, result.value, result.seconds, result.calls, peak, peak - before, result.message, result.marks
        )
    )


def _describe(error: BaseException, *, named: bool = True) -> str:
    """Return an exception's type and first line."""
    line = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {line}".rstrip(": ") if named else line


def _peak_mib() -> float:
    """Return this process's peak resident memory in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _time_call(work: Callable[[], Any]) -> Measurement:
    """Call once, and where that is quick again and again; the first call then only warms up."""
    start = time.process_time()
    value = work()
    first = time.process_time() - start
    if first >= SLOW:
        return Measurement("answered", value, first, 1)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < ENOUGH and len(times) < MAX_CALLS):
        start = time.process_time()
        value = work()
        times.append(time.process_time() - start)
    return Measurement("answered", value, statistics.median(times), len(times))


def _time_iterator(work: Callable[[], Iterator[float]], marks: tuple[int, ...], seconds: float) -> Measurement:
    """Draw from the iterator until the last mark or the limit."""
    seen: list[tuple[int, float, float]] = []
    start = time.process_time()
    step, elapsed = 0, 0.0
    for step, epsilon in enumerate(work(), start=1):
        elapsed = time.process_time() - start
        if step in marks:
            seen.append((step, elapsed, float(epsilon)))
        if elapsed > seconds:
            break
    done = bool(seen) and seen[-1][0] == marks[-1]
    message = "" if done else f"{step} steps in {elapsed:.0f} s"
    return Measurement("answered" if done else "timeout", step, elapsed, 1, message=message, marks=tuple(seen))
