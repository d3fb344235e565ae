"""Run the benchmark and write Markdown, JSON and plots.

make bench                           everything, about 20 minutes on an idle machine
make bench BENCH=--quick             a part of it against Opacus's RDP and PRV, about a minute
make bench BENCH=--report-only       the report again, from the JSON file

The same without make: PYTHONPATH=benchmarks python -m bench --quick
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import plots, regimes, report
from bench.measure import Limits, start_server
from bench.peers import OPACUS_PRV, OPACUS_RDP, OURS, PEERS
from bench.sections import Plan, Record, count, run

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = ROOT / ".cache" / "bench"
QUICK_PEERS = (OURS, OPACUS_RDP, OPACUS_PRV)
NAME = "bench"


def main() -> None:
    """Parse the command line, measure and report."""
    options = _parse()
    output: Path = options.output or (QUICK_RESULTS if options.quick else RESULTS)
    output.mkdir(parents=True, exist_ok=True)
    data = output / f"{NAME}.json"
    if options.report_only:
        meta, records = report.read_json(data)
    else:
        plan = _plan(options)
        start = time.monotonic()
        load = os.getloadavg()[0]
        records = _measure(plan)
        meta = _meta(options, plan, load, (time.monotonic() - start) / 60.0)
        report.write_json(data, meta, records)
    names = plots.write_plots(output, NAME, records, meta["peers"])
    text = report.markdown(meta, records, names)
    (output / f"{NAME}.md").write_text(text)
    print(text[: text.index("## The accountants")])
    print(f"The whole report: {output / f'{NAME}.md'}")


def _parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a part of it, about a minute, written to .cache/bench")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help=f"some of: {', '.join(p.name for p in PEERS)}")
    parser.add_argument(
        "--time-limit", type=float, metavar="S", help="seconds for one piece of work (60; series: 30; quick: 5)"
    )
    parser.add_argument("--memory-limit", type=float, default=12.0, metavar="GIB", help="address space of it (12)")
    parser.add_argument("--output", type=Path, help="folder for the results (benchmarks/results)")
    parser.add_argument("--report-only", action="store_true", help="write the report again from the JSON file")
    options = parser.parse_args()
    unknown = set(options.peers or ()) - {peer.name for peer in PEERS}
    if unknown:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    return options


def _plan(options: argparse.Namespace) -> Plan:
    """Return what is to be done."""
    names = options.peers or (QUICK_PEERS if options.quick else [peer.name for peer in PEERS])
    peers = tuple(peer for peer in PEERS if peer.name in names)
    memory = int(options.memory_limit * (1 << 30))
    if not options.quick:
        return Plan(peers, Limits(options.time_limit or 60.0, memory), Limits(options.time_limit or 30.0, memory))
    return Plan(
        peers,
        Limits(options.time_limit or 5.0, memory),
        Limits(options.time_limit or 5.0, memory),
        ordinary=regimes.ORDINARY[:2],
        breaking=regimes.BREAKING[12:16],
        targets=regimes.TARGETS[7:8],
        steps=(10**3, 10**7),
        phases=(1000,),
        logged_steps=300,
        import_repeats=1,
    )


def _measure(plan: Plan) -> list[Record]:
    """Return every record, with a bar that shows what is being done."""
    installed = [peer for peer in plan.peers if peer.version is not None]
    start_server(tuple(dict.fromkeys(module for peer in installed for module in peer.modules)))
    records = []
    with tqdm(total=count(plan), unit="task", dynamic_ncols=True) as bar, suppress(KeyboardInterrupt):
        # interrupted, it reports what it has
        for record in run(plan):
            records.append(record)
            bar.set_postfix_str(f"{record.section}: {record.peer}", refresh=False)
            bar.update()
    return records


def _meta(options: argparse.Namespace, plan: Plan, load: float, minutes: float) -> dict[str, Any]:
    """Return when, where and how it was measured."""
    return {
        "command": _command(options),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _git("describe", "--always", "--dirty") or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "scipy": metadata.version("scipy"),
        "time_limit": plan.limits.seconds,
        "series_time_limit": plan.series_limits.seconds,
        "memory_limit_gib": plan.limits.memory / (1 << 30),
        "load": load,
        "minutes": minutes,
        "peers": [peer.name for peer in plan.peers],
        "versions": {peer.name: peer.version for peer in plan.peers},
    }


def _command(options: argparse.Namespace) -> str:
    """Return the command that does the same work; folders of this machine are nobody's business."""
    words = ["--quick"] if options.quick else []
    words += [f"--time-limit {options.time_limit:g}"] if options.time_limit else []
    words += ["--peers", *(f"'{name}'" for name in options.peers)] if options.peers else []
    return "make bench" + (f' BENCH="{" ".join(words)}"' if words else "")


def _git(*arguments: str) -> str:
    """Return git's answer about this working tree, empty without one."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
