"""The documentation is a program: what it shows runs, prints what it says, and leaves no public function out."""

from __future__ import annotations

import csv
import importlib
import inspect
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import tiny
from typer.testing import CliRunner

import opacus_edgeworth as ew
from opacus_edgeworth import report
from opacus_edgeworth.cli.app import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+\.?\d*(?:e[-+]?\d+)?")
TERMINAL = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
DEMO = Path(".cache/demo")  # where the pages say that model and data are
SMALLER = ("target_delta=1e-5, output", "target_delta=1e-5, batch_size=40, epochs=1, output")  # for the tiny data
TESTED_ELSEWHERE = ("finetune", "compare")  # take long; tests/test_cli*.py run them


def blocks(text: str) -> list[tuple[str, str, int, str]]:
    """Return the page's blocks: language, text, line, and the text block right below, if there is one, or ""."""
    found = list(BLOCK.finditer(text))
    below = {block.start(): block[2] for block in found if block[1] == "text"}
    result = []
    for block in found:
        after = re.compile(r"\s*").match(text, block.end())
        said = below.get(after.end(), "") if after else ""
        result.append((block[1], block[2], text.count("\n", 0, block.start()) + 1, said))
    return result


def commands(block: str) -> list[tuple[list[str], str]]:
    """Return the command lines of a console block in words, each with what the page says it prints."""
    parts = re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]
    return [(shlex.split(line), said) for line, _, said in (part.partition("\n") for part in parts)]


def require_same(printed: str, said: str, place: str) -> None:
    """Refuse a difference; numbers may differ by a few roundings, which other machines make."""
    left, right = ([line.rstrip() for line in text.strip().splitlines()] for text in (printed, said))
    assert [NUMBER.sub("0", line) for line in left] == [NUMBER.sub("0", line) for line in right], place
    for got, shown in zip(left, right, strict=True):
        numbers = ([float(number) for number in NUMBER.findall(line)] for line in (got, shown))
        assert next(numbers) == pytest.approx(next(numbers), rel=1e-9, abs=0.0), f"{place}: {shown}"


RUNNING = [name for name, text in PAGES.items() if re.search(r"^```(python|console)", text, flags=re.MULTILINE)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty current folder, with a tiny model and made-up reviews where the demo's would be."""
    monkeypatch.chdir(tmp_path)
    tiny.saved_model(tmp_path / DEMO / "model")
    for name, rows in (("train", tiny.texts(120)), ("dev", tiny.texts(30, seed=1))):
        path = tmp_path / DEMO / "reviews" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    return tmp_path


@pytest.mark.parametrize("name", RUNNING)
def test_a_page_runs_and_prints_what_it_says(name: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    names = {"__name__": "__main__"}  # one page is one program
    for language, block, line, said in blocks(PAGES[name]):
        place = f"docs/{name}, line {line}"
        if language == "console":
            run_commands(block, place)
        if language != "python":
            continue
        if name == "how-to/fine-tune.md" and "output=" in block:
            assert SMALLER[0] in block
            block = block.replace(*SMALLER)
        exec(compile("\n" * line + block, f"docs/{name}", "exec"), names)
        printed = capsys.readouterr().out
        if said:
            require_same(printed, said, place)


def test_the_readme_prints_what_it_says(folder: Path):
    """Its programs are run by `test_public_api`."""
    for language, block, line, _ in blocks((ROOT / "README.md").read_text(encoding="utf-8")):
        if language == "console":
            run_commands(block, f"README.md, line {line}")


def run_commands(block: str, place: str) -> None:
    """Run the block's commands that are this package's and quick; others must at least exist."""
    status = None
    for words, said in commands(block):
        if words[0] == "opacus-edgeworth" and words[1] not in TESTED_ELSEWHERE:
            done = CliRunner().invoke(app, words[1:], env=TERMINAL)
            status, printed = done.exit_code, done.output
            assert status in (0, 3, 4), f"{place}: {words}: {printed}"
        elif words == ["echo", "$?"]:
            printed = str(status)
        else:
            launchers = ("torchrun", "accelerate")  # tests/test_distributed.py runs them
            assert words[0] in ("opacus-edgeworth", "pip", "make", "python", *launchers), f"{place}: {words}"
            assert words[0] != "make" or f"\n{words[1]}: " in (ROOT / "Makefile").read_text(), f"{place}: {words}"
            assert words[0] != "python" or (ROOT / words[1]).is_file(), f"{place}: {words}"
            continue
        if said:
            require_same(printed, said, f"{place}: {words}")


def public_names() -> set[str]:
    """Return what a user can call: names and public methods, as the table of guarantees spells them."""
    found: set[str] = set()
    modules = (
        (ew, "ew."),
        (ew.mechanisms, "mechanisms."),
        (ew.sampling, "sampling."),
        (finetune_module(), "finetune."),
        (report, "report."),
    )
    for module, prefix in modules:
        for name in getattr(module, "__all__", None) or own_classes(module):
            thing = getattr(module, name)
            if isinstance(thing, ModuleType) or (inspect.isclass(thing) and issubclass(thing, BaseException)):
                continue
            found.add(prefix + name)
            if inspect.isclass(thing):
                found |= {f"{prefix}{name}.{method}" for method in own_methods(thing)}
    for command in app.registered_commands:
        found.add(f"opacus-edgeworth {command.name}")
    return found


def finetune_module() -> ModuleType:
    return importlib.import_module("opacus_edgeworth.finetune")


def own_classes(module: ModuleType) -> list[str]:
    """Return the classes that a module without __all__ defines."""
    return [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__
            and inspect.isclass(thing) and not name.startswith("_")]  # fmt: skip


def own_methods(kind: type) -> list[str]:
    """Return the public methods that this package wrote for a class, inherited ones too."""
    return [
        name
        for name, thing in inspect.getmembers(kind, lambda each: inspect.isfunction(each) or inspect.ismethod(each))
        if not name.startswith("_") and thing.__module__.startswith("opacus_edgeworth")
    ]


def table_rows() -> dict[str, list[str]]:
    """Return the rows of the table of guarantees by the name in their first cell."""
    rows = {}
    for line in PAGES["reference/guarantees.md"].splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if len(cells) == 5 and cells[0].startswith("`"):
            for name in re.findall(r"`([^`]+)`", cells[0]):
                assert name not in rows, f"{name} has two rows in docs/reference/guarantees.md"
                rows[name] = cells
    return rows


def test_every_public_function_has_its_row():
    missing, unknown = public_names() - set(table_rows()), set(table_rows()) - public_names()
    assert not missing, f"no row in docs/reference/guarantees.md: {sorted(missing)}"
    assert not unknown, f"docs/reference/guarantees.md names what does not exist: {sorted(unknown)}"


def test_every_row_names_tests_that_exist():
    for name, (_, returns, guarantee, source, tests) in table_rows().items():
        assert returns, name
        assert guarantee, name
        assert source, name
        named = re.findall(r"`(test_\w+)`: `(test_\w+)`", tests)
        assert named, f"{name}: no test is named in docs/reference/guarantees.md"
        for file, function in named:
            path = ROOT / "tests" / f"{file}.py"
            assert path.is_file(), f"{name}: there is no {path.name}"
            assert f"def {function}(" in path.read_text(), f"{name}: {path.name} has no {function}"


def test_files_that_pages_name_exist():
    for name, text in PAGES.items():
        for path in re.findall(r"`((?:benchmarks|examples|notebooks|tests|docs)/[\w./-]+\.\w+)`", text):
            assert (ROOT / path).is_file(), f"docs/{name} names {path}"
