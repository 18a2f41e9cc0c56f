"""One cluster for all tests of a session, brought up when the first of them asks."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shardtune.recipe.load import load_recipe, render_recipe
from tests.support.namesakes import write_namesakes
from tests.support.runs import curve, tiny_recipe, train, write_tiny
from tests.support.slurm_cluster import ROOT, Cluster, open_cluster, why_not
from tests.support.slurm_jobs import START_S, Shardtune, Stage, Told

NUM_NODES = 6
LONGER = ("train.num_epochs=10", "train.eval_every_steps=30", "checkpoint.every_steps=10", "engine.deepspeed=null")
"""60 steps: enough to be caught in the middle of. Importing DeepSpeed is a third of what a rank costs here."""


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Cluster]:
    if reason := why_not():
        # What nobody has seen run on CI is not known to run.
        (pytest.fail if "CI" in os.environ else pytest.skip)(reason)
    with open_cluster(NUM_NODES) as cluster:
        yield cluster


@pytest.fixture
def cluster(session_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with nothing in its queue, before and after."""
    yield session_cluster
    session_cluster.cancel_all()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny encoder, its rows, and tiny.yaml."""
    folder = write_tiny(tmp_path_factory.mktemp("tiny"))
    (folder / "tiny.yaml").write_text(render_recipe(tiny_recipe(folder, *LONGER)), encoding="utf-8")
    write_namesakes(folder)
    return folder


@pytest.fixture
def shardtune(cluster: Cluster, tiny: Path, tmp_path: Path) -> Shardtune:
    """Runs a command on the login node, in a folder with tiny.yaml."""
    (tmp_path / "tiny.yaml").write_text((tiny / "tiny.yaml").read_text())
    write_namesakes(tmp_path)

    def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "shardtune.launcher", *map(str, words)]
        return cluster.run(*argv, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:.", **environment}, timeout_s=START_S)

    return run


@pytest.fixture(scope="session")
def unbroken(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The loss curve of tiny.yaml on one rank of this machine."""
    return curve(train(load_recipe(tiny / "tiny.yaml"), tmp_path_factory.mktemp("unbroken"), world_size=1)[1])


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest,
    session_cluster: Cluster,
    tiny: Path,
    unbroken: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Told]:
    """The module's stories that are wanted, all begun at once: most of their time is Slurm's, waiting for what is
    gone."""
    wanted = [item.callspec.params["story"] for item in request.session.items if item.fspath == request.node.fspath]
    with ThreadPoolExecutor(len(wanted)) as pool:
        yield {
            story: pool.submit(story, Stage(session_cluster, tiny, tmp_path_factory.mktemp(story.__name__), unbroken))
            for story in wanted
        }
    session_cluster.cancel_all()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A start of ranks on a busy machine takes longer than other tests do."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(2 * START_S))
