"""Adds uPlot, which draws the charts of `shardtune dashboard`, to what is built; everything else is in pyproject.toml.

The repository holds no code of others. The build fetches three files of one version, by npm where there is one and else
from GitHub, and keeps only those with the expected SHA-256. Where they cannot be fetched, the build goes on without
charts, and the dashboard says what is missing.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

VERSION = "1.6.32"
FOLDER = Path(__file__).resolve().parent / "launcher/dashboard/static/vendor/uplot"
FILES = {
    "dist/uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "dist/uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
"""Paths in the package and in the repository of uPlot, and the SHA-256 of each."""
GITHUB = f"https://raw.githubusercontent.com/leeoniya/uPlot/{VERSION}"
NPM_S, GITHUB_S = 120, 30


class BuildWithCharts(build_py):  # type: ignore[misc]  # setuptools has no types
    """Runs for wheels and for editable installs."""

    def run(self) -> None:
        if fault := provide_uplot():
            print(f"warning: the dashboard is built without charts: {fault}", file=sys.stderr)
        super().run()


def provide_uplot(folder: Path = FOLDER) -> str:
    """Puts the files of uPlot into the folder, unless they are there; returns why not, empty if they are there."""
    if all(_sha256_of(folder / Path(name).name) == sha256 for name, sha256 in FILES.items()):
        return ""
    faults = []
    for fetch in (_from_npm, _from_github):
        try:
            files = fetch()
        except (OSError, subprocess.SubprocessError, tarfile.TarError, KeyError) as error:
            faults.append(f"{fetch.__doc__}: {error}")
            continue
        if wrong := [name for name, sha256 in FILES.items() if hashlib.sha256(files[name]).hexdigest() != sha256]:
            faults.append(f"{fetch.__doc__}: unexpected contents of {', '.join(wrong)}")
            continue
        try:
            _write(folder, files)
        except OSError as error:
            return f"{folder} cannot be written: {error}"
        return ""
    return f"uPlot {VERSION} could not be fetched ({'; '.join(faults)})"


def _from_npm() -> Mapping[str, bytes]:
    """npm"""
    if (npm := shutil.which("npm")) is None:
        raise FileNotFoundError("not installed")
    with tempfile.TemporaryDirectory() as folder:
        words = [npm, "pack", "--silent", f"uplot@{VERSION}"]
        subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=NPM_S)
        with tarfile.open(Path(folder) / f"uplot-{VERSION}.tgz") as archive:
            return {name: _member(archive, f"package/{name}") for name in FILES}


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """The contents of a file in the archive; KeyError if there is no such file."""
    if (file := archive.extractfile(name)) is None:
        raise KeyError(name)
    return file.read()


def _from_github() -> Mapping[str, bytes]:
    """GitHub"""
    files = {}
    for name in FILES:
        with urllib.request.urlopen(f"{GITHUB}/{name}", timeout=GITHUB_S) as answer:
            files[name] = answer.read()
    return files


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        (folder / Path(name).name).write_bytes(contents)


def _sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


if __name__ == "__main__":  # as the build runs it; tests import it
    setup(cmdclass={"build_py": BuildWithCharts})
