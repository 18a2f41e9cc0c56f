"""What holds for all tests: which are slow, which share a worker, and how property tests draw their examples."""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Machines differ too much for deadlines. CI draws the same examples each time; `make test-long` draws many others.
settings.register_profile("shardtune", deadline=None, derandomize="CI" in os.environ)
settings.register_profile("long", deadline=None, max_examples=5_000)
settings.load_profile("long" if "SHARDTUNE_TEST_LONG" in os.environ else "shardtune")

TESTS = Path(__file__).parent
SLOW = (
    "slurm",
    "launcher/test_run.py",
    "launcher/dashboard/test_page.py",
    "launcher/runs/test_watch_terminal.py",
    "benchmarks/test_gpu_check.py",
    "faults",
    "demo/test_demo.py",
    "test_package.py",
    "trainer/checkpoint",
    "trainer/engine/test_layouts.py",
    "trainer/engine/test_planned_peak.py",
    "trainer/engine/test_planned_states.py",
    "trainer/model/test_lora.py",
    "trainer/between_steps",
    "trainer/distributed",
    "trainer/setup",
    "trainer/export",
    "demo",
)
"""Tests that start processes as users do, or that train for long: first the longest. `make test-quick` skips them."""


def pytest_configure(config: pytest.Config) -> None:
    """Fixtures of modules and sessions, and what was imported before a test, leave the runs of the user alone, too."""
    if not hasattr(config, "workerinput"):  # workers of xdist inherit it
        folder = tempfile.mkdtemp(prefix="shardtune-state-")
        os.environ["XDG_STATE_HOME"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the slow tests, and puts them first, so that no worker has a long one left at the end."""
    for item in items:
        if _rank(item) < len(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=_rank)


class OneWorkerAFile(LoadScopeScheduling):
    """The tests of a file share a worker and so its fixtures; those of tests/slurm share one and so a cluster."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "slurm" if file.startswith("tests/slurm/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """With --numprocesses, whatever --dist is. (xdist 3.8 keeps no group together under pytest 9.2.)"""
    return OneWorkerAFile(config, log)


def pytest_collection_finish() -> None:
    """Keeps what was imported out of garbage collection, above all in forked ranks.

    torch, transformers and deepspeed are a million objects. Each search writes to all of their pages, which the kernel
    then has to copy for the rank: together it was a quarter of the suite's time.
    """
    gc.collect()
    gc.freeze()


def _rank(item: pytest.Item) -> int:
    path = item.path.relative_to(TESTS)
    return next((rank for rank, slow in enumerate(SLOW) if path.is_relative_to(slow)), len(SLOW))


@pytest.fixture(autouse=True)
def _no_run_of_another_test_is_known(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is any of whoever runs the tests."""
    number = os.environ.get("PYTEST_CURRENT_TEST", "")
    folder = tmp_path_factory.getbasetemp() / "state" / sha256(number.encode()).hexdigest()[:16]
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))


@pytest.fixture(autouse=True)
def _no_process_group_is_left() -> Iterator[None]:
    """For the next test of this process, which makes its own."""
    yield
    if (dist := sys.modules.get("torch.distributed")) is not None and dist.is_initialized():
        dist.destroy_process_group()
