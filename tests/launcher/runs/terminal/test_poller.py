"""What is looked at when, and what happens to a run whose files are not as they should be."""

import os
import time
from pathlib import Path

import pytest

from shardtune.launcher.runs import monitor
from shardtune.launcher.runs.terminal.poller import Poller
from shardtune.launcher.runs.terminal.watched_run import best_metric
from shardtune.launcher.slurm import cluster
from tests.support.hand_made_run import life, lines, step, write_run


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def poller_of(*run_dirs: Path) -> Poller:
    return Poller(lambda jobs: list(run_dirs), is_fixed=True)


def test_a_round_without_news_opens_no_status_and_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = [write_run(tmp_path / str(number), life(2)) for number in range(5)]
    poller = poller_of(*ended)
    poller.round()
    assert [run.state for run in poller.runs] == ["lost"] * 5
    version, looks = poller.version, []
    monkeypatch.setattr(monitor, "look_at", lambda *_, **__: looks.append(1))
    for run in poller.runs:
        run.look_at = 0.0  # it is time again, but nothing has changed
    poller.round()
    assert (poller.version, looks) == (version, [])


def test_a_run_that_begins_again_is_seen(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "r", life(2))
    poller = poller_of(run_dir)
    poller.round()
    (run_dir / "lease.json").touch()
    poller.runs[0].look_at = 0.0
    poller.round()
    assert poller.runs[0].state == "running"
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(lines([step(3, 2e9)]))
    poller.round()
    assert (poller.runs[0].reader.history.step or {})["step"] == 3


def test_of_many_runs_a_few_are_looked_at_in_a_round(tmp_path: Path) -> None:
    run_dirs = [write_run(tmp_path / str(number), []) for number in range(45)]
    poller = poller_of(*run_dirs)
    known = []
    for _ in range(3):
        poller.round()
        known.append(sum(run.is_looked_at for run in poller.runs))
    assert known == [20, 40, 45]


def test_a_slurm_that_does_not_answer_is_said_and_asked_again_later(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    poller = poller_of(write_run(tmp_path / "r", life(2), is_going_on=True))
    poller.round()
    assert "Slurm does not answer" in (poller.notice or "") and poller.runs[0].state == "running"
    program(tmp_path / "bin" / "squeue", "exit 0")
    poller.runs[0].look_at = 0.0
    poller.round()
    assert poller.notice is not None  # it is not asked in every round
    poller._jobs_at = poller.runs[0].look_at = 0.0
    poller.round()
    assert poller.notice is None


def test_a_job_of_slurm_is_shown_with_its_state(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "r", [])
    job = ["7", "7", "PENDING", "Priority", "", "1", "0:00", "1:00:00", "N/A", "gpu", str(run_dir)]
    assert cluster.SQUEUE_FORMAT.count("|") == len(job) - 1
    program(tmp_path / "bin" / "squeue", f"echo '{'|'.join(job)}'")
    poller = poller_of(run_dir)
    poller.round()
    (run,) = poller.runs
    assert run.status is not None and (run.state, run.status.job) == ("pending", "7") and run.is_going_on


@pytest.mark.parametrize("name", ["status.json", "results.json", "submission.json"])
def test_a_damaged_file_is_a_reason_and_no_crash(name: str, tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "r", life(2))
    (run_dir / name).write_text("{ half")
    poller = poller_of(run_dir)
    poller.round()
    (run,) = poller.runs
    assert "the status cannot be read" in run.why and run.is_looked_at
    (run_dir / name).unlink()
    run.look_at = 0.0
    poller.round()
    assert run.state == "lost"


def test_the_recipes_metric_is_shown(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "r", life(10))
    (run_dir / "config.yaml").write_text("checkpoint:\n  best_metric: loss\n")
    poller = poller_of(run_dir)
    poller.wanted = frozenset([run_dir])
    poller.round()
    poller.round()
    (run,) = poller.runs
    assert run.reader.history.metric(run.metric) == "dev/loss"
    for text in ("[", "checkpoint: 3\n", "- a\n", "\xff"):
        (run_dir / "config.yaml").write_text(text, encoding="latin-1")
        assert best_metric(run_dir) is None


def test_the_newest_lines_of_an_output_are_read_when_it_changes(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "r", [])
    log = run_dir / "logs" / "rank-0.log"
    poller = poller_of(run_dir)
    poller.output.path = log
    poller.round()
    assert poller.output.lines == []
    log.write_text("".join(f"line {number}\n" for number in range(20_000)))
    poller.round()
    assert poller.output.lines[-1] == "line 19999" and len(poller.output.lines) < 10_000
    assert all(line.startswith("line ") for line in poller.output.lines)


def test_runs_that_are_found_are_ordered_those_going_on_first_and_then_the_newest(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old", "going-on")):
        run_dir = write_run(tmp_path / "runs" / name, life(2), is_going_on=name == "going-on")
        os.utime(run_dir / "metrics.jsonl", (time.time() - 100 * age,) * 2)
    poller = Poller(monitor.known_run_dirs, is_fixed=False)
    poller.round()
    assert [run.name for run in poller.runs] == ["going-on", "new", "old"]
