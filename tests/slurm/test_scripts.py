"""The scripts are such as shellcheck lets pass, also where they are frozen with names that nobody would choose."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher.slurm import render_script, script_body
from tests.support.slurm_cluster import ROOT

SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))
JOBS = [path for path in SCRIPTS if "#SBATCH" in path.read_text(encoding="utf-8")]


def shellcheck(path: Path) -> None:
    """Fails with what shellcheck has to say of the script and of those that it sources."""
    if shutil.which("shellcheck") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("there is no shellcheck: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", "-x", str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda its: its.name)
def test_a_script_passes_shellcheck(script: Path) -> None:
    shellcheck(script)


@pytest.mark.parametrize("script", JOBS, ids=lambda its: its.name)
def test_a_frozen_script_passes_it_too_and_needs_no_other(script: Path, tmp_path: Path) -> None:
    hostile = "a'; touch pwned #$(id)`id`\""
    frozen = render_script(
        [f"--comment={hostile}"], {"SHARDTUNE_PREAMBLE": hostile}, [hostile], script_body(script.name)
    )
    assert "/slurm/" not in "".join(line for line in frozen.splitlines() if line.startswith("source"))
    (tmp_path / "job.sbatch").write_text(frozen)
    shellcheck(tmp_path / "job.sbatch")


def test_a_mistake_is_seen(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm -rf $1/*\n")
    with pytest.raises(AssertionError, match="SC2086"):
        shellcheck(tmp_path / "bad.sh")
