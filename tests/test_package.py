"""A package installed from a wheel finds its scripts, strategies and templates as a clone does."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.launcher.conftest import RECIPE

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of installed packages: those of the wheel."""
    source = tmp_path / "source"
    for name in ("shardtune", "launcher", "trainer", "ds_configs", "slurm"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    return tmp_path / "installed"


def test_a_wheel_has_the_scripts_the_strategies_and_the_templates(installed: Path, tmp_path: Path) -> None:
    for folder, pattern in (("slurm", "*.sh"), ("ds_configs", "*.json")):
        assert {path.name for path in (installed / "shardtune" / folder).iterdir()} == {
            path.name for path in (ROOT / folder).glob(pattern)
        }
    templates = [path for folder in ("launcher", "trainer") for path in (ROOT / folder).rglob("*.j2")]
    expected = {path.relative_to(ROOT) for path in templates}
    assert expected and {path.relative_to(installed / "shardtune") for path in installed.rglob("*.j2")} == expected
    assert [path.name for path in installed.iterdir() if path.suffix != ".dist-info"] == ["shardtune"]
    (tmp_path / "x.yaml").write_text(RECIPE)
    for name in ("model", "train.csv"):
        (tmp_path / name).touch()
    words = ["submit", "x.yaml", "--dry-run", "job.gpus_per_node=1", "engine.deepspeed=zero3"]
    done = subprocess.run(
        [sys.executable, "-m", "shardtune.launcher", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "watched" in done.stdout and "torch.distributed.run" in done.stdout
    assert "SHARDTUNE_CODE=" not in done.stdout.split("# ---- The job.")[0]  # no clone to come back to
