"""Run the study, or go on with it, and write its report.

make study                           everything; what is in results/study.jsonl is not run again
make study STUDY="--only swap tight" some sections
make study STUDY=--report-only       the report again

The same without make: PYTHONPATH=benchmarks python -m study
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import json_lines
from tqdm import tqdm

from study.fetch import ROOT, fetch
from study.plan import Run, make_plan
from study.report import write_report
from study.train import train

RESULTS = ROOT / "benchmarks" / "results"
DATA = ROOT / ".cache" / "study"


def main() -> None:
    """Run what is missing, and report."""
    parser = argparse.ArgumentParser(description="Accountants and recipes compared on real tasks, over seeds.")
    parser.add_argument("--only", nargs="*", metavar="SECTION", help="sections to run: reference, swap, tight, ...")
    parser.add_argument("--processes", type=int, default=max(1, min(2, os.cpu_count() or 1)))
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "study.jsonl"
    done = json_lines.read(path, "key")
    if not options.report_only:
        fetch(options.data)
        missing = [
            run for run in make_plan() if run.key not in done and (options.only is None or run.section in options.only)
        ]
        _run_all(missing, options.data, path, options.processes)
    write_report(json_lines.read(path, "key"), options.output)
    print(f"The whole report: {options.output / 'study.md'}")


def _run_all(runs: list[Run], folder: Path, path: Path, processes: int) -> None:
    """Run them in so many processes, each result being kept at once; the first of a task computes its features."""
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        path.open("a") as file,
        tqdm(total=len(runs), desc="study", unit=" runs", smoothing=0.05) as bar,
    ):
        waiting = {pool.submit(train, run, folder): run for run in runs}
        for future in as_completed(waiting):
            run = waiting[future]
            record = {"key": run.key} | dataclasses.asdict(run) | {"result": future.result()}
            file.write(json.dumps(record) + "\n")
            file.flush()
            bar.update()


if __name__ == "__main__":
    main()
