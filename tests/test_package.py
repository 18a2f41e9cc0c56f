"""A checkout, an editable install and a wheel work alike, also in a folder whose files are called like our imports."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.namesakes import write_namesakes
from tests.support.runs import RECIPE, write_tiny

ROOT = Path(__file__).parents[1]
PYTHON = Path(sys.executable)
EDITABLE, CHECKOUT, WHEEL = "editable", "checkout", "wheel"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages: those of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("shardtune", "launcher", "trainer", "ds_configs", "slurm"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})"
    done = subprocess.run([PYTHON, "-c", build], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        file.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its model and its rows, and a random.py, torch.py, trainer.py … of the user's own."""
    folder = write_tiny(tmp_path_factory.mktemp("user"))
    (folder / "tiny.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    write_namesakes(folder)
    (folder / "shardtune").symlink_to(ROOT)  # the clone lies beside the user's own files
    return folder


def shardtune(install: str, wheel: Path, folder: Path, *words: str) -> str:
    """What the command prints. Checks that it ends well, and that it is this install's."""
    searched = {EDITABLE: ".", CHECKOUT: f".:{ROOT}", WHEEL: f".:{wheel}"}[install]
    command = [PYTHON.parent / "shardtune"] if install == EDITABLE else [PYTHON, "-m", "shardtune.launcher"]
    environment = os.environ | {"PYTHONPATH": searched, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the user's own" not in done.stdout + done.stderr
    return done.stdout


def test_one_package_is_installed_with_its_scripts_strategies_and_templates(wheel: Path) -> None:
    assert [path.name for path in wheel.iterdir() if path.suffix != ".dist-info"] == ["shardtune"]
    for folder, pattern in (("slurm", "*.sh"), ("ds_configs", "*.json"), ("launcher/slurm", "*.py")):
        names = {path.name for path in (ROOT / folder).glob(pattern)}
        assert names and {path.name for path in (wheel / "shardtune" / folder).glob(pattern)} == names
    templates = {path.relative_to(ROOT) for half in ("launcher", "trainer") for path in (ROOT / half).rglob("*.j2")}
    assert templates and {path.relative_to(wheel / "shardtune") for path in wheel.rglob("*.j2")} == templates


def test_the_wheel_has_the_page_of_the_dashboard_with_all_that_it_loads(wheel: Path) -> None:
    static = ROOT / "launcher/dashboard/static"
    files = {path.relative_to(static) for path in static.rglob("*") if path.is_file()}
    assert Path("index.html") in files
    installed = wheel / "shardtune/launcher/dashboard/static"
    assert {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("install", [EDITABLE, CHECKOUT, WHEEL])
def test_no_command_imports_a_users_own_files(install: str, wheel: Path, folder: Path) -> None:
    def run(*words: str) -> str:
        return shardtune(install, wheel, folder, *words)

    run_dir = f"runs/{install}"
    short = ["train.max_steps=2", "engine.deepspeed=null", "job.ranks=1"]
    assert "run directory" in run("plan", "tiny.yaml")
    assert json.loads(run("schema"))["title"] == "Recipe"
    assert run("run", "tiny.yaml", *short, f"--run-dir={run_dir}")
    run("report", run_dir)
    assert [install, "finished"] in [line.split()[:2] for line in run("status").splitlines()]
    assert "optim:" in Path(folder / run_dir / "report.html").read_text(encoding="utf-8")
    assert json.loads(run("checkpoints", run_dir, "--quick", "--json"))
    assert json.loads(run("predict", run_dir, "--text=the film was good"))["prediction"]
    script = run("submit", "tiny.yaml", "--dry-run", "job.gpus_per_node=1", "engine.deepspeed=zero3")
    assert "watched" in script and "torch.distributed.run" in script
    has_clone = "SHARDTUNE_CODE=" in script.split("# ---- The job.")[0]
    assert has_clone is (install != WHEEL)  # which a job comes back to


@pytest.mark.parametrize("words", [("check",), ("prepare",), ("sweep", "--grid", "optim.lr=1e-3,2e-3", "--dry-run")])
def test_neither_do_those_that_only_read(words: tuple[str, ...], wheel: Path, folder: Path) -> None:
    name, *flags = words
    assert shardtune(EDITABLE, wheel, folder, name, "tiny.yaml", *flags)


def test_a_checkout_that_is_not_installed_runs_by_either_name_of_the_trainer(folder: Path) -> None:
    for module in ("trainer", "shardtune.trainer"):
        words = [PYTHON, "-m", module, "--help"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0 and "shardtune.trainer" in done.stdout, done.stderr
