"""One accountant's answer, in a process of its own, so that one that hangs or dies takes nothing with it."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
import warnings
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from opacus_edgeworth.cli.peers import Peer
from opacus_edgeworth.histories import History

START_LIMIT = 120.0
"""Seconds that importing an accountant may take; they are not counted."""
REPEATING = 0.3
"""Seconds for which a fast call is repeated: the first one is slower than those that follow."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking an accountant: its epsilon and the seconds of a call, or else what went wrong."""

    epsilon: float | None = None
    seconds: float | None = None
    error: str | None = None


def prepare(peers: tuple[Peer, ...]) -> None:
    """Have the accountants imported once, by the process that the others are forked from, where there is one."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        modules = dict.fromkeys(module for peer in peers for module in peer.modules)
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, *modules])


def ask(peer: Peer, history: History, delta: float, time_limit: float) -> Outcome:
    """Return an accountant's epsilon of a history at delta, with the time of a call, within a limit.

    Args:
      peer: the accountant.
      history: of the run.
      delta: where epsilon is asked.
      time_limit: seconds on the clock that the first call may take.
    """
    methods = multiprocessing.get_all_start_methods()
    # not "fork": a copy of a process with torch's threads in it may stand still
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, peer, history, delta, time_limit), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(START_LIMIT):
            return Outcome(error=f"did not start within {START_LIMIT:g} s")
        first = receiver.recv()
        if first is not None:
            return first
        if not receiver.poll(time_limit):
            return Outcome(error=f"did not end within {time_limit:g} s")
        return receiver.recv()
    except EOFError:
        process.join()
        return Outcome(error=f"its process died (exit status {process.exitcode}); it may have run out of memory")
    finally:
        process.kill()
        process.join()
        receiver.close()


def _answer(connection: Connection, peer: Peer, history: History, delta: float, time_limit: float) -> None:
    """Send None once all is imported, then the outcome: what the process does."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # peers print and log; standard output is for the result alone
        os.dup2(silent, stream)
    warnings.simplefilter("ignore")
    try:
        for module in peer.modules:
            import_module(module)
        connection.send(None)
        connection.send(_timed(peer, history, delta, time_limit))
    except BaseException as error:  # MemoryError and SystemExit too: whatever it is goes into the table
        lines = str(error).strip().split("\n")
        connection.send(Outcome(error=f"raised {type(error).__name__}" + (f": {lines[0]}" if lines[0] else "")))


def _timed(peer: Peer, history: History, delta: float, time_limit: float) -> Outcome:
    """Return the answer and the median time of a call; one that is slow is made once."""
    begin, times = time.perf_counter(), []
    enough = min(REPEATING, 0.5 * time_limit)
    while True:
        start = time.perf_counter()
        answer = peer.epsilon(history, delta)
        now = time.perf_counter()
        times.append(now - start)
        if now - begin + times[-1] > enough:
            break
    return Outcome(float(answer), statistics.median(times))
