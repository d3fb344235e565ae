"""The study's report: tables, tests over seeds, pictures."""
from pathlib import Path
def write_report(results, output: Path) -> None:
    print(len(results))
