"""A build has uPlot by npm or from GitHub, of the expected contents only, and goes on where it cannot have it."""

import hashlib
import importlib.util
import io
import sys
import tarfile
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from setuptools import Distribution

ROOT = Path(__file__).parents[1]


def load_setup() -> ModuleType:
    """setup.py as a module, which builds nothing."""
    spec = importlib.util.spec_from_file_location("shardtune_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """setup.py on a machine with an empty PATH and without a network, which expects the contents b"the " + name."""
    module = load_setup()
    expected = {name: hashlib.sha256(f"the {name}".encode()).hexdigest() for name in module.FILES}
    monkeypatch.setattr(module, "FILES", expected)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def refuse(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(module.urllib.request, "urlopen", refuse)
    return module


def install_npm(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts an npm into folder/bin whose `pack` writes a package of these files into its working directory."""
    (folder / "bin").mkdir()
    with tarfile.open(folder / "package.tgz", "w:gz") as archive:
        for name, contents in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    copy = f"import shutil; shutil.copy({str(folder / 'package.tgz')!r}, 'uplot-1.6.32.tgz')"
    (folder / "bin/npm").write_text(f"#!{sys.executable}\n{copy}\n")
    (folder / "bin/npm").chmod(0o755)


def contents_of(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.iterdir()} if folder.exists() else set()


def test_npm_provides_it_with_the_licence_and_a_second_build_fetches_nothing(build: ModuleType, tmp_path: Path) -> None:
    install_npm(tmp_path, {name: f"the {name}".encode() for name in build.FILES})
    assert build.provide_uplot(tmp_path / "uplot") == ""
    assert contents_of(tmp_path / "uplot") == {f"the {name}" for name in build.FILES}
    (tmp_path / "bin/npm").unlink()
    assert build.provide_uplot(tmp_path / "uplot") == ""


def test_without_npm_it_comes_from_github(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(url: str, timeout: float) -> io.BytesIO:
        assert url.startswith(f"{build.GITHUB}/")
        return io.BytesIO(f"the {url.removeprefix(build.GITHUB + '/')}".encode())

    monkeypatch.setattr(build.urllib.request, "urlopen", answer)
    assert build.provide_uplot(tmp_path / "uplot") == ""
    assert contents_of(tmp_path / "uplot") == {f"the {name}" for name in build.FILES}


def test_other_contents_are_refused_and_nothing_is_written(build: ModuleType, tmp_path: Path) -> None:
    install_npm(tmp_path, dict.fromkeys(build.FILES, b"something else"))
    fault = build.provide_uplot(tmp_path / "uplot")
    assert "npm: unexpected contents of dist/uPlot.iife.min.js" in fault and "no network" in fault
    assert contents_of(tmp_path / "uplot") == set()


def test_a_build_that_cannot_have_it_warns_once_and_goes_on(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.provide_uplot, "__defaults__", (tmp_path / "uplot",))
    command = build.BuildWithCharts(Distribution({"packages": []}))
    command.ensure_finalized()
    command.run()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the dashboard is built without charts: uPlot 1.6.32 could not be fetched")
