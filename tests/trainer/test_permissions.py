"""The files of a run have the permissions of the user's umask, so that a group shares them or nobody sees them."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardtune.launcher.report.page import write_report
from shardtune.run_dir.run import Run, write_run_dir
from tests.support.runs import tiny_recipe, train, write_tiny

QUICK = ("engine.deepspeed=null", "train.max_steps=2", "train.eval_every_steps=1")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_whatever_a_run_writes_has_the_permissions_of_the_umask(tmp_path: Path, mask: int) -> None:
    write_tiny(tmp_path)
    run_dir = tmp_path / "r"
    with umask(mask):
        recipe = tiny_recipe(tmp_path, *QUICK)
        (tmp_path / "x.yaml").touch()
        write_run_dir(Run(recipe, run_dir, tmp_path / "x.yaml"))
        assert train(recipe, run_dir, world_size=2)[0] == [True, True]
        write_report(run_dir)
    written = [path for folder in (run_dir, tmp_path / "cache") for path in (folder, *folder.rglob("*"))]
    modes = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in written}
    others = {
        name: oct(mode)
        for name, mode in modes.items()
        if mode != (0o777 if (tmp_path / name).is_dir() else 0o666) & ~mask
    }
    assert others == {}
    for wanted in ("config.yaml", "results.json", "report.html", "checkpoints/latest"):
        assert f"r/{wanted}" in modes
    assert sum(name.endswith(".safetensors") for name in modes) >= 6 and any(name.endswith(".arrow") for name in modes)
