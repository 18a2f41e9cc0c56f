"""`shardtune watch` as users run it: in a terminal, and through a pipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hand_made_run import event, life, lines, step, write_run
from tests.support.tmux import terminal

ROOT = Path(__file__).parents[3]
WATCH = f"{sys.executable} -m shardtune.launcher watch"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state"), "LC_ALL": "C.UTF-8"}


def test_a_terminal_of_80_columns_shows_a_run_live_until_the_user_quits(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    run_dir = write_run(tmp_path / "r", life(60), is_going_on=True)
    with terminal(f"{WATCH} r", tmp_path, (80, 24), **settings) as opened:
        shown = opened.shows("60/100", "running", "loss  0.03333", "┤", "⣀")
        assert max(map(len, shown.splitlines())) <= 80
        with (run_dir / "metrics.jsonl").open("ab") as file:
            file.write(lines([step(77, 1_796_000_090.0)]))
        opened.shows("77/100")
        opened.press("m")
        opened.shows(" learning rate ")
        opened.press("Tab")
        opened.shows("2 ranks on cuda", "node1, GPU 1")
        opened.tmux("resize-window", "-x", "110", "-y", "30")
        opened.press("1", "M")
        opened.shows(" loss ", "DONE")
        opened.press("C-c")
        opened.shows("exit code 130")
    assert not (run_dir / "stop").exists()


def test_a_terminal_without_colours_or_unicode_shows_plain_letters(tmp_path: Path, settings: dict[str, str]) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("first", "翻译-second"):
        write_run(tmp_path / "runs" / name, [*life(20), event("stopped", 1_796_000_099.0, step=20, reason="asked")])
    plain = settings | {"LC_ALL": "C"}
    with terminal(f"{WATCH} --no-color runs/*", tmp_path, (80, 24), **plain) as opened:
        opened.shows("2 runs: 2 stopped", "????-second")
        opened.press("Space", "j")
        opened.shows("a first", "b ????-second")
        styled = opened.screen(with_styles=True)
        assert styled.isascii() and not any(f"\x1b[{colour}m" in styled for colour in (*range(30, 38), *range(90, 98)))
        opened.press("q")
        opened.shows("exit code 75")


@pytest.mark.parametrize("flags", ["", "--plain"])
def test_a_dumb_terminal_and_plain_get_lines(flags: str, tmp_path: Path, settings: dict[str, str]) -> None:
    write_run(tmp_path / "r", [*life(20), event("done", 1_796_000_099.0, step=20)])
    (tmp_path / "r" / "results.json").write_text(json.dumps({}))
    name = "screen" if flags else "dumb"
    with terminal(f"TERM={name} {WATCH} r {flags}", tmp_path, (80, 24), **settings) as opened:
        assert opened.shows("exit code 0").splitlines()[0] == "r: finished"


def test_through_a_pipe_several_runs_are_lines_with_their_names(tmp_path: Path, settings: dict[str, str]) -> None:
    write_run(tmp_path / "a", [*life(20), event("stopped", 1_796_000_099.0, step=20, reason="asked")])
    write_run(tmp_path / "b", life(20), is_going_on=True)
    watching = subprocess.Popen(
        [*WATCH.split(), "a", "b"], cwd=tmp_path, env=os.environ | settings, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watching.stdout is not None and watching.stderr is not None
    shown = [watching.stderr.readline() for _ in range(2)]
    (tmp_path / "b" / "lease.json").unlink()
    out, _ = watching.communicate(timeout=90)
    assert [line.partition(": ")[0] for line in shown] == ["b", "b"]
    assert shown[0].startswith("b: training for 100 steps") and shown[1].startswith("b: step 20/100  loss 0.1000")
    assert out.splitlines()[0] == "a: stopped (asked)" and out.splitlines()[1].startswith("b: lost (")
    assert watching.returncode == 1
