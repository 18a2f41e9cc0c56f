"""Real jobs, as a user starts them: by the launcher, by torchrun, by deepspeed; and what they say when they break."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shardtune.launcher.plan.job import Machine, plan_job
from shardtune.launcher.start import execute
from shardtune.launcher.start.execute import run_job
from shardtune.trainer import __main__ as trainer
from shardtune.trainer.checkpoint.manifest import open_checkpoint
from shardtune.trainer.commands import checkpoints, predict, prepare
from shardtune.trainer.export import export
from tests.support.namesakes import write_namesakes
from tests.support.runs import RECIPE, curve, events, write_tiny

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}:.", "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
"""Many projects set PYTHONPATH=., and the folder of these tests holds a random.py and its like."""
BY_HAND = ENVIRONMENT | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
"""torchrun and deepspeed import torch before shardtune can say where not to look."""


def command(*words: str, cwd: Path, environment: dict[str, str] = ENVIRONMENT) -> subprocess.CompletedProcess[str]:
    env = os.environ | environment
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=200)


def shardtune(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return command(sys.executable, "-m", "shardtune.launcher", *words, cwd=cwd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny(tmp_path_factory.mktemp("launch"))
    (folder / "tiny.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    write_namesakes(folder)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run directory that the launcher has brought to its end, and what it printed."""
    done = shardtune("run", "tiny.yaml", "--run-dir=finished", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "finished", done


def test_the_launcher_shows_the_run_and_says_where_everything_is(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run_dir, done = finished
    assert "training for 18 steps" in done.stderr
    assert "dev  loss" in done.stderr and "test  loss" in done.stderr
    assert re.search(r"\naccuracy +0\.\d{4} +0\.\d{4} \(0\.\d{4} to \d\.\d{4}\)\n", done.stdout)
    assert re.search(r"\nbest step   \d+ of 18: highest accuracy on dev\ntime        (\d+ min )?\d+ s\n", done.stdout)
    assert f"best model  {run_dir}/export/best" in done.stdout
    for name in ("config.yaml", "recipe.yaml", "deepspeed.json", "metrics.jsonl", "results.json", "logs/rank-1.log"):
        assert (run_dir / name).is_file(), name


def test_a_rank_log_names_the_new_weights_and_repeats_nothing_of_libraries(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    for rank in (0, 1):
        text = (finished[0] / f"logs/rank-{rank}.log").read_text(encoding="utf-8")
        assert "newly initialized, because the checkpoint lacks them: classifier.bias, classifier.weight\n" in text
        for noise in ("\x1b", "LOAD REPORT", "FutureWarning", "DeprecationWarning"):
            assert noise not in text, text


@pytest.mark.parametrize(
    "words",
    [
        [sys.executable, "-m", "shardtune.launcher", "run", "tiny.yaml", "job.backend=deepspeed", "--run-dir=by"],
        [
            "torchrun",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "shardtune.trainer",
            "tiny.yaml",
            "--run-dir",
            "by",
        ],
        [
            "deepspeed",
            "--num_gpus",
            "2",
            "--master_port",
            "29917",
            "--module",
            "shardtune.trainer",
            "tiny.yaml",
            "--run-dir",
            "by",
        ],
        [sys.executable, "-m", "shardtune.trainer", "tiny.yaml", "--run-dir", "by"],
    ],
    ids=["launcher-deepspeed", "torchrun", "deepspeed", "alone"],
)
def test_the_loss_curve_is_the_same_however_the_ranks_are_started(
    folder: Path,
    tmp_path: Path,
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    words: list[str],
) -> None:
    words = [str(tmp_path / "by") if word == "by" else word.replace("=by", f"={tmp_path / 'by'}") for word in words]
    is_by_hand = words[0] in ("torchrun", "deepspeed")
    done = command(*words, cwd=folder, environment=BY_HAND if is_by_hand else ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout + done.stderr
    assert shown.count(f"finished: {tmp_path / 'by'}\n") == 1
    assert re.search(r"\naccuracy +0\.\d{4} +0\.\d{4} \(0\.\d{4} to \d\.\d{4}\)\n", shown)
    assert f"best model  {tmp_path / 'by'}/export/best" in shown
    for by_hand, by_launcher in zip(curve(events(tmp_path / "by")), curve(events(finished[0])), strict=True):
        assert by_hand == pytest.approx(by_launcher, rel=1e-3)


def test_a_finished_run_is_not_trained_again(
    folder: Path, finished: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    before = (finished[0] / "metrics.jsonl").read_bytes()
    done = shardtune("run", "finished", cwd=folder)
    assert done.returncode == 0
    assert "is already finished" in done.stdout
    assert (finished[0] / "metrics.jsonl").read_bytes() == before


def test_predict_answers_in_the_order_of_the_rows(
    folder: Path,
    tmp_path: Path,
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.jsonl"
    done = shardtune("predict", "finished", f"--file={folder / 'test.jsonl'}", f"--out={out}", cwd=folder)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    asked = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [answer["text"] for answer in answers] == [row["text"] for row in asked]
    hits = sum(answer["prediction"]["label"] == row["label"] for answer, row in zip(answers, asked, strict=True))
    reported = json.loads((finished[0] / "results.json").read_text())["test"]["accuracy"]
    assert hits / len(asked) == pytest.approx(reported)

    assert predict.main([str(finished[0]), "--text=the film was good"]) == 0
    (answer,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answer["prediction"]["label"] in ("negative", "positive")
    assert sum(answer["prediction"]["scores"].values()) == pytest.approx(1, abs=1e-4)


def test_checkpoints_are_listed_with_what_is_wrong_with_them(
    folder: Path,
    tmp_path: Path,
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    (weights,) = (run_dir / "checkpoints" / "step-18").glob("weights-00001-*")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (run_dir / "checkpoints" / ".step-19").mkdir()
    listed = json.loads(shardtune("checkpoints", str(run_dir), "--json", cwd=folder).stdout)
    assert {checkpoint["step"]: checkpoint["whole"] for checkpoint in listed} == {12: True, 18: False, 19: False} | {
        checkpoint["step"]: True for checkpoint in listed if checkpoint.get("best")
    }
    twelve = next(checkpoint for checkpoint in listed if checkpoint["step"] == 12)
    assert (twelve["state"], twelve["metric"]) == ("verified", "accuracy")
    assert twelve["num_bytes"] == sum(path.stat().st_size for path in Path(twelve["path"]).glob("*.safetensors"))
    assert checkpoints.main([str(run_dir)]) == 0
    table = capsys.readouterr().out
    assert f"{weights.name} is damaged: its checksum differs" in table
    assert "left behind by a killed run" in table
    assert f"{twelve['value']:.4f}" in table
    assert checkpoints.main([str(run_dir), "--quick"]) == 0
    quick = capsys.readouterr().out
    assert "damaged" not in quick and "verified" not in quick


def test_export_writes_a_folder_and_says_where(
    folder: Path,
    tmp_path: Path,
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["export", "finished", "--step=18", "--dtype=bf16", f"--out={tmp_path / 'out'}"]
    done = shardtune(*words, cwd=folder)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n"), done.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert {"model.safetensors", "tokenizer.json", "README.md", "curves.svg"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    assert export.main([str(finished[0]), *words[2:]]) == 2
    assert capsys.readouterr().err == f"--out: {tmp_path / 'out'} is not empty; give a new folder\n"


def test_predict_refuses_what_it_cannot_read(
    tmp_path: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "good"}\n{"text": ""}\n')
    assert predict.main([str(finished[0]), f"--file={tmp_path / 'in.jsonl'}"]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'in.jsonl'}:2: text is empty\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "tiny.yaml", "--dry-rum"], "shardtune: run: unknown flag --dry-rum; did you mean --dry-run?"),
        (
            ["run", "tiny.yaml", "--run_dir=nowhere", "--frobnicate=1"],
            "run: unknown flag --frobnicate; choose from --run-dir",
        ),
        (["run", "tiny.yaml", "optim.lrr=1"], "override 'optim.lrr=1': unknown key; did you mean 'lr'?"),
        (["run", "tiny.yaml", "data.train=missing.jsonl"], "data.train"),
        (["rum", "tiny.yaml"], "did you mean run?"),
        (
            ["predict", "nowhere", "--text=a", "--text=b"],
            "--text is given twice; put several texts into a --file",
        ),
        (["predict", "nowhere", "--text=x", "--out=x.csv"], "--out: predictions are JSON lines; name it x.jsonl"),
        (["predict", "nowhere", "--text=x"], "nowhere: not a run directory"),
        (["checkpoints", "nowhere"], "nowhere: not a run directory"),
        (["export", "nowhere"], "nowhere: not a run directory"),
        (["run", "tiny.yaml", "--fork=new"], "--fork: no run in"),
    ],
)
def test_a_mistyped_command_does_nothing_but_say_so(
    folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    before = sorted(folder.rglob("*"))
    done = shardtune(*words, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_dry_run_shows_the_plan_wherever_the_flag_stands(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = shardtune("run", "--dry-run", "tiny.yaml", "optim.lr=0.5", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "global batch   12 rows = 2 ranks" in done.stdout
    assert sorted(folder.rglob("*")) == before


def test_plan_is_a_dry_run(folder: Path) -> None:
    words = ["tiny.yaml", "optim.lr=0.5"]
    plan, dry_run = shardtune("plan", *words, cwd=folder), shardtune("run", *words, "--dry-run", cwd=folder)
    assert plan.returncode == 0
    assert plan.stdout == dry_run.stdout


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ('{"text": "good", "label": "x"}\n{"text": "bad", "label": "x"}\n', "a classifier needs at least two"),
        ('{"text": "good", "label": "negative"}\n', "every row has the label"),
        ("", "contains no rows"),
    ],
)
def test_bad_data_are_one_clear_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], train: str, message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text(train)
    words = [str(folder / "tiny.yaml"), f"data.train={tmp_path}/bad.jsonl", f"--run-dir={tmp_path / 'r'}"]
    assert trainer.main([*words, "--prepare=1"]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[0]
    assert "Traceback" not in error
    assert (tmp_path / "bad.jsonl").read_text() == train


def test_bad_data_end_a_run_before_any_rank_starts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "good", "label": "x"}\n{"text": \n')
    done = shardtune("run", "tiny.yaml", f"data.train={tmp_path}/bad.jsonl", f"--run-dir={tmp_path / 'r'}", cwd=folder)
    assert done.returncode == 2
    assert sum(":2: not JSON" in line for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "r" / "logs").iterdir())


def test_a_dying_rank_ends_the_job_with_its_traceback_first(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "r" / "logs" / "rank-1.log").mkdir(parents=True)  # rank 1 cannot open its log
    done = shardtune("run", "tiny.yaml", f"--run-dir={tmp_path / 'r'}", cwd=folder)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("rank "))
    assert lines[first].startswith("rank 1 on ")
    assert lines[first + 1].startswith("Traceback")
    assert "IsADirectoryError" in done.stderr
    assert not ranks_of(tmp_path / "r")


@pytest.fixture
def long_run(folder: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A long job, in the middle of its training."""
    run_dir = tmp_path / "long"
    settings = ["train.num_epochs=5000", "faults.max_restarts=0", "engine.deepspeed=null"]
    words = [sys.executable, "-m", "shardtune.launcher", "run", "tiny.yaml", *settings, f"--run-dir={run_dir}"]
    process = subprocess.Popen(
        words, cwd=folder, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: (run_dir / "metrics.jsonl").exists() and len(events(run_dir, "step")) >= 8)
        yield process, run_dir
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # the second one ends its ranks at once, as no kill of it would
            process.send_signal(number)
        process.communicate()


def wait_for(met: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def ranks_of(run_dir: Path) -> list[int]:
    """The processes of the job that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"shardtune.trainer" in words and str(run_dir).encode() in words and b"--followed" in words:
                found.append(int(entry.name))
    return found


def rank_processes(run_dir: Path) -> list[int]:
    """Those of them that are ranks: the last two started (the others are torchrun's)."""
    return sorted(ranks_of(run_dir))[-2:]


def test_ctrl_c_saves_a_checkpoint_and_ends_every_process(long_run: tuple[subprocess.Popen[str], Path]) -> None:
    process, run_dir = long_run
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"`shardtune run {run_dir}` resumes" in stderr
    assert not ranks_of(run_dir)
    done = events(run_dir, "step")[-1]["step"]
    assert open_checkpoint(run_dir / "checkpoints" / f"step-{done}").manifest.step == done


def test_usr1_asks_for_another_start_as_a_scheduler_does(long_run: tuple[subprocess.Popen[str], Path]) -> None:
    process, run_dir = long_run
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    assert not ranks_of(run_dir)
    done = events(run_dir, "step")[-1]["step"]
    assert open_checkpoint(run_dir / "checkpoints" / f"step-{done}").manifest.step == done


def test_ranks_whose_launcher_is_killed_save_a_checkpoint_and_end(
    long_run: tuple[subprocess.Popen[str], Path],
) -> None:
    process, run_dir = long_run
    process.kill()
    wait_for(lambda: not ranks_of(run_dir))
    done = events(run_dir, "step")[-1]["step"]
    assert events(run_dir, "stopped")[-1] | {"time": 0} == {
        "event": "stopped",
        "time": 0,
        "step": done,
        "reason": "SIGTERM",
    }
    assert open_checkpoint(run_dir / "checkpoints" / f"step-{done}").manifest.step == done


def test_a_killed_rank_is_started_again_and_the_run_comes_to_its_end_as_one(folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "r"
    settings = ["train.max_steps=200", "data.dev=null", "checkpoint.every_steps=5"]
    settings += ["faults.restart_delay_s=0", "report.wandb=offline", "engine.deepspeed=null"]
    words = [sys.executable, "-m", "shardtune.launcher", "run", "tiny.yaml", *settings, f"--run-dir={run_dir}"]
    process = subprocess.Popen(
        words, cwd=folder, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: (run_dir / "metrics.jsonl").exists() and len(events(run_dir, "step")) >= 12)
        os.kill(rank_processes(run_dir)[-1], signal.SIGKILL)
        _, stderr = process.communicate(timeout=200)
    finally:
        process.terminate()
    assert process.returncode == 0, stderr
    assert "was killed by signal 9" in stderr
    assert "restarting in 0 s (restart 1 of at most 3)" in stderr
    assert [event["step"] for event in events(run_dir, "step")] == [*range(1, 201)]
    first, second = events(run_dir, "start")
    assert (first["step"], second["step"] % 5) == (0, 0) and second["step"] >= 5
    tracked = {path.name.rpartition("-")[2] for path in (run_dir / "wandb").glob("offline-run-*")}
    assert tracked == {(run_dir / "wandb_id").read_text().strip()}


def test_a_killed_rank_ends_the_job_and_is_named(long_run: tuple[subprocess.Popen[str], Path]) -> None:
    process, run_dir = long_run
    os.kill(rank_processes(run_dir)[-1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was killed by signal 9" in stderr
    assert not ranks_of(run_dir)


def test_a_run_whose_data_have_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    words = [str(tmp_path / "tiny.yaml"), f"--run-dir={tmp_path / 'r'}", "--prepare=1"]
    assert trainer.main(words) == 0
    (tmp_path / "dev.jsonl").write_text((tmp_path / "test.jsonl").read_text())
    assert trainer.main(words) == 2
    assert "began on other data" in capsys.readouterr().err


def test_output_that_nobody_reads_to_its_end_is_no_error(folder: Path) -> None:
    done = command(
        "bash", "-c", f"{sys.executable} -m shardtune.launcher run tiny.yaml --dry-run | head -1", cwd=folder
    )
    assert done.stdout.startswith("run directory")
    assert done.stderr == ""


def test_data_are_prepared_ahead_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = shardtune("prepare", "tiny.yaml", "data.max_tokens=33", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["was_made"] and report["rows"] == 127 and Path(report["path"]).is_dir()
    assert prepare.main([str(folder / "tiny.yaml"), "data.max_tokens=33"]) == 0
    again = capsys.readouterr().out
    assert f"in {report['path']}" in again and "they were already prepared" in again
    assert prepare.main([str(folder / "tiny.yaml"), "data.train=nothing.jsonl"]) == 2
    assert "no such file: 'nothing.jsonl'" in capsys.readouterr().err


def test_a_rank_short_of_memory_costs_a_start_and_no_more(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings = ["train.micro_batch_tokens=auto", "train.max_steps=4", "data.dev=null", "checkpoint.every_steps=1"]
    plan = plan_job(folder / "tiny.yaml", [*settings, "faults.max_restarts=0"], tmp_path / "r", Machine(0, 2))
    words = tuple("tests.support.shortage" if word == "shardtune.trainer" else word for word in plan.argv)
    # The rehearsal is five passes, those after it are of the training.
    short = {**plan.environment, "SHORTAGE": "100 7"}
    assert run_job(replace(plan, argv=words, environment=short)) == 0
    budgets = re.findall(r"auto is (\d+) \(memory ran out with (\d+)\); restarting now\n", capsys.readouterr().err)
    assert len(budgets) == 1 and int(budgets[0][0]) <= 100 < int(budgets[0][1])
    first, second = events(tmp_path / "r", "start")
    assert first["step"] == 0 < second["step"]
    assert [event["step"] for event in events(tmp_path / "r", "step")] == [1, 2, 3, 4]


def run_that_hangs(folder: Path, run_dir: Path, hang: str, *settings: str) -> int:
    """The exit code of a run of 4 steps whose ranks hang in its first start; see tests/support/hang.py."""
    plan = plan_job(folder / "tiny.yaml", ["train.max_steps=4", "data.dev=null", *settings], run_dir, Machine(0, 2))
    words = tuple("tests.support.hang" if word == "shardtune.trainer" else word for word in plan.argv)
    return run_job(replace(plan, argv=words, environment={**plan.environment, "HANG": hang}))


@pytest.mark.timeout(600)
def test_a_rank_that_hangs_in_start_up_is_detected_and_all_write_stack_traces_and_restart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_dir = tmp_path / "r"
    settings = ["faults.startup_hang_s=20", "faults.restart_delay_s=0"]
    assert run_that_hangs(folder, run_dir, "load 1", *settings) == 0
    message = capsys.readouterr().err
    stacks = [run_dir / "logs" / f"rank-{rank}.stacks.txt" for rank in (0, 1)]
    assert (
        "no progress before the training began for longer than faults.startup_hang_s; stack traces of the "
        f"ranks:\n  {stacks[0]}\n  {stacks[1]}\n"
    ) in message
    assert "restarting in 0 s (restart 1 of at most 3)" in message
    assert "in wait_for_ever" in stacks[1].read_text(encoding="utf-8")
    assert "in look_at_cluster" in stacks[0].read_text(encoding="utf-8")  # the first collective
    assert [event["step"] for event in events(run_dir, "step")] == [1, 2, 3, 4]


def test_ranks_that_are_all_frozen_are_ended_by_the_launcher_and_none_is_left_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(execute, "FROZEN_AFTER_S", 1.0)
    run_dir = tmp_path / "r"
    assert run_that_hangs(folder, run_dir, "_train 0 1", "faults.hang_s=5", "faults.max_restarts=0") == 1
    message = capsys.readouterr().err
    assert re.search(r"no rank made progress for \d+ s \(faults.hang_s\), and none wrote a stack", message)
    for rank in (0, 1):
        path = Path("/proc") / (run_dir / f"hung-{rank}").read_text() / "cmdline"
        assert not path.exists() or not path.read_bytes(), f"rank {rank} is still there"
