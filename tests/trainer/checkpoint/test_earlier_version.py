"""A run directory that an earlier version of shardtune wrote is resumed by this one."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.runs import curve, events

ROOT = Path(__file__).parents[3]
STOPPED_RUN = Path(__file__).with_name("stopped_run.tar.xz")
"""What version 0.1.0 left at commit 0c8a233 when it was stopped after step 8 of 18, on 2 ranks under ZeRO-2: the tiny
encoder, its rows, the run directory, and the unbroken run's curve. Its recipe names its files by /proc/self/cwd, so
that it can be unpacked anywhere."""


def test_a_run_directory_of_an_earlier_version_resumes_to_the_unbroken_runs_curve(tmp_path: Path) -> None:
    with tarfile.open(STOPPED_RUN) as archive:
        archive.extractall(tmp_path)  # without a filter, which Debian 12's Python does not know
    words = ["run", "/proc/self/cwd/stopped", "job.ranks=2"]
    done = subprocess.run(
        [sys.executable, "-m", "shardtune.launcher", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    unbroken = json.loads((tmp_path / "unbroken.json").read_text(encoding="utf-8"))
    starts = [event["step"] for event in events(tmp_path / "stopped", "start")]
    assert starts == [0, 8]
    for ours, theirs in zip(curve(events(tmp_path / "stopped")), unbroken["curve"], strict=True):
        assert ours == pytest.approx(tuple(theirs), rel=1e-3)
    results = json.loads((tmp_path / "stopped" / "results.json").read_text(encoding="utf-8"))
    assert results["test"]["loss"] == pytest.approx(unbroken["test"]["loss"], rel=1e-3)
