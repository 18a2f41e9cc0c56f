"""Every run under a folder is found once, whatever else lies there."""

import os
import shutil
from pathlib import Path

from shardtune.launcher.dashboard.read.find_runs import find_runs
from shardtune.launcher.dashboard.read.recipes import differing_keys, flatten
from shardtune.launcher.dashboard.read.run import run_id
from shardtune.launcher.registry import remember


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    return folder


def test_runs_are_found_at_any_depth_and_none_within_a_run(tmp_path: Path) -> None:
    runs = [make(tmp_path / name) for name in ("a", "b/c", "sweep/0", "sweep/1")]
    make(tmp_path / "a" / "export" / "inner")
    make(tmp_path / ".hidden" / "run")
    (tmp_path / "only_metrics").mkdir()
    (tmp_path / "only_metrics" / "metrics.jsonl").touch()
    assert find_runs(tmp_path) == sorted([*runs, tmp_path / "only_metrics"])
    assert find_runs(tmp_path / "a") == [tmp_path / "a"]


def test_links_in_circles_end_and_nothing_is_found_twice(tmp_path: Path) -> None:
    run = make(tmp_path / "a" / "run")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    (tmp_path / "zz").symlink_to(tmp_path / "a")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (found,) = find_runs(tmp_path)
    assert found.resolve() == run


def test_a_folder_that_vanishes_is_skipped(tmp_path: Path) -> None:
    make(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    assert find_runs(tmp_path / "a") == []


def test_without_a_folder_the_runs_are_those_of_status(tmp_path: Path) -> None:
    here, elsewhere = make(tmp_path / "work" / "runs" / "a"), make(tmp_path / "elsewhere" / "b")
    remember(elsewhere, here)
    before = Path.cwd()
    os.chdir(tmp_path / "work")
    try:
        assert find_runs(None) == sorted([here, elsewhere])
    finally:
        os.chdir(before)


def test_500_runs_have_500_names_that_are_safe_in_a_url() -> None:
    paths = [Path("/runs") / name / str(number) for name in ("lr=1e-5 <b>", "é/..") for number in range(250)]
    ids = {run_id(path) for path in paths}
    assert len(ids) == 500
    assert all(name.isascii() and name.replace("-", "").isalnum() for name in ids)


def test_recipes_are_compared_key_by_key() -> None:
    one = flatten("# a comment\ntask:\n  kind: chat\noptim:\n  lr: 1.0e-05\n  betas:\n  - 0.9\n  - 0.999\nx: {}\n")
    assert one == {"task.kind": "chat", "optim.lr": 1e-5, "optim.betas": [0.9, 0.999], "x": {}}
    assert flatten('a: "x\nb: y"\n') == {"a": "x b: y"}, "what looks like a key may be text"
    assert [flatten(text) for text in ("", "- 1", "a: [", "\0")] == [{}, {}, {}, {}]
    assert flatten("a: &x 1\nb: *x\n") == {"a": 1, "b": 1}
    other = {**one, "optim.lr": 2e-5, "task.max_new_tokens": 3}
    assert differing_keys([one, other, {}]) == ["optim.lr"]
