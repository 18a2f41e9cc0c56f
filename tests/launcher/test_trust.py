"""No command executes what another user has written into a run directory: each way in, through the command line."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shardtune.launcher import cli
from shardtune.launcher.start import execute

OURS, EVIL = "site.sh", "evil.sh"
NOBODY = 65534
PROGRAMS = {
    "sinfo": "echo 'cpu*|2|4|8000|(null)|1:00:00|1:00:00'",
    "squeue": "",
    "scontrol": "echo 'JobId=7 JobState=COMPLETED Reason=None'",
    "sbatch": """[[ $1 == --test-only ]] && exit
printf '%s\\n' "$@" >>submitted
/bin/cat >>submitted
echo 7""",
}


@pytest.fixture(autouse=True)
def submitted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What sbatch has been given; a Slurm of programs that only answer is the whole PATH."""
    programs = folder / "bin"
    programs.mkdir()
    for name, body in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(execute, "run_job", lambda plan: (folder / "ran").touch() or 0)
    for name in (OURS, EVIL):
        (folder / name).touch()
    return folder / "submitted"


@pytest.fixture
def give_to_another(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, NOBODY, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: NOBODY)

    return give


def shardtune(*words: str) -> int:
    return cli._carry_out(list(words))


def submit(run_dir: str = "r") -> None:
    assert shardtune("submit", "x.yaml", "job.device=cpu", f"job.preamble={OURS}", f"--run-dir={run_dir}") == 0


def poison(config: Path) -> None:
    config.write_text(config.read_text().replace(OURS, EVIL))


@pytest.mark.parametrize("command", ["run", "submit", "submit --prepare", "requeue"])
def test_the_programs_of_another_users_config_are_refused_without_trust(
    command: str,
    submitted: Path,
    give_to_another: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    submit()
    submitted.unlink()
    poison(Path("r/config.yaml"))
    give_to_another(Path("r/config.yaml"))
    assert shardtune(*command.split(), "r") == 2
    said = capsys.readouterr().err
    assert f"job.preamble: {Path(EVIL).absolute()}" in said and "--trust" in said
    assert not submitted.exists() and not Path("ran").exists()
    assert shardtune(*command.split(), "r", "--trust") == 0
    assert Path("ran").exists() if command == "run" else EVIL in submitted.read_text()


def test_a_strategy_that_is_still_to_be_chosen_does_not_make_them_ours(
    folder: Path, give_to_another: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "x.yaml").write_text(f"{(folder / 'x.yaml').read_text()}engine: {{deepspeed: auto}}\n")
    submit()
    poison(Path("r/config.yaml"))
    give_to_another(Path("r/config.yaml"))
    written = Path("r/config.yaml").read_text()
    assert "deepspeed: auto" in written
    assert shardtune("run", "r") == 2
    assert f"job.preamble: {Path(EVIL).absolute()}" in capsys.readouterr().err
    assert Path("r/config.yaml").read_text() == written
    assert shardtune("run", "r", "--trust") == 0


def test_a_plan_of_it_is_shown(give_to_another: Callable[[Path], None], capsys: pytest.CaptureFixture[str]) -> None:
    submit()
    poison(Path("r/config.yaml"))
    give_to_another(Path("r/config.yaml"))
    assert shardtune("submit", "r", "--dry-run") == 0
    assert EVIL in capsys.readouterr().out


def test_a_job_is_requeued_with_a_script_of_its_recipe_and_not_the_one_that_lies_there(submitted: Path) -> None:
    submit()
    script = submitted.read_text()
    submitted.unlink()
    Path("r/job.sbatch").write_text("#!/bin/bash\ntouch pwned\n")
    assert shardtune("requeue", "r") == 0
    assert submitted.read_text() == script
    assert Path("r/job.sbatch").read_text() in script


def test_sbatch_is_given_the_script_and_no_file_that_could_be_exchanged(submitted: Path) -> None:
    submit()
    assert submitted.read_text().startswith("--parsable\n#!/bin/bash\n")


def test_a_sweep_whose_points_another_user_has_written_is_refused_without_trust(
    submitted: Path, give_to_another: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["x.yaml", "job.device=cpu", f"job.preamble={OURS}", "--grid=train.seed=1,2", "--sweep-dir=s"]
    assert shardtune("sweep", *words, "--write-only") == 0
    poison(Path("s/1/config.yaml"))
    give_to_another(Path("s/1/config.yaml"))
    assert shardtune("sweep", "s") == 2
    assert EVIL in capsys.readouterr().err and not submitted.exists()


def test_seeds_whose_recipe_another_user_has_written_are_refused_without_trust(
    submitted: Path, give_to_another: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["x.yaml", "job.device=cpu", f"job.preamble={OURS}", "train.seeds=[1,2]", "--run-dir=s"]
    assert shardtune("submit", *words) == 0 and submitted.exists()
    submitted.unlink()
    poison(Path("s/seed-2/config.yaml"))
    give_to_another(Path("s/seed-2/config.yaml"))
    for command in ("submit", "run", "sweep"):
        assert shardtune(command, "s") == 2
    assert EVIL in capsys.readouterr().err and not submitted.exists()


@pytest.mark.parametrize("flag", ["--depends=afterok:1", "--prepare", "--gpu=h100-sxm-80g"])
def test_several_runs_take_no_flag_of_a_single_one(
    submitted: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shardtune("submit", "x.yaml", "job.device=cpu", "train.seeds=[1,2]", flag) == 2
    assert "is of a single run" in capsys.readouterr().err and not submitted.exists()


def test_a_sweep_reads_nothing_from_outside_that_its_file_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shardtune("sweep", "x.yaml", "job.device=cpu", "--grid=train.seed=1,2", "--sweep-dir=s", "--write-only") == 0
    sweep, secret = Path("s/sweep.json"), folder / "secret"
    secret.write_text("private")
    kept = json.loads(sweep.read_text())
    sweep.write_text(json.dumps({**kept, "recipe": str(secret)}))
    Path("s/0/recipe.yaml").unlink()
    assert shardtune("sweep", "s", "--write-only") == 0
    assert not Path("s/0/recipe.yaml").exists()
    for number in ("../../elsewhere", None):
        sweep.write_text(json.dumps({"recipe": "x", "points": [{"number": number, "overrides": []}]}))
        assert shardtune("sweep", "s") == 2
        assert "s/sweep.json is damaged" in capsys.readouterr().err


def test_a_stop_request_is_not_written_through_anothers_link(
    tmp_path: Path, give_to_another: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    submit()
    Path("r/lease.json").touch()
    Path("r/stop").symlink_to(tmp_path / "made")
    if os.geteuid() == 0:
        os.chown("r/stop", NOBODY, -1, follow_symlinks=False)
    else:
        give_to_another(Path("r/stop"))
    assert shardtune("stop", "r") == 2
    assert "leads out of the run directory" in capsys.readouterr().err and not (tmp_path / "made").exists()
