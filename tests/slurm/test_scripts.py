"""The scripts are such as shellcheck lets pass, also where they are frozen with names that nobody would choose."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shardtune.launcher.slurm.text import render_script, script_body
from tests.support.slurm_cluster import ROOT

SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))
JOBS = [path for path in SCRIPTS if "#SBATCH" in path.read_text(encoding="utf-8")]


def shellcheck(path: Path) -> None:
    """Fails with what shellcheck has to say of the script and of those that it sources."""
    if shutil.which("shellcheck") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("there is no shellcheck: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", "-x", str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_passes_shellcheck(script: Path) -> None:
    shellcheck(script)


@pytest.mark.parametrize("script", JOBS, ids=lambda path: path.name)
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


FAKES = """
scontrol() { [[ $2 == hostnames ]] && printf 'n1\\nn2\\n' || echo "$PLUGINS"; }
say() { :; }; die() { :; }; enter_site() { :; }
"""
JOB = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_ON_NODE": "64", "run_dir": "/r",
    "gpus_per_node": "8", "ranks_per_node": "8", "SHARDTUNE_PYTHON": "python3", "code_dir": "/code",
    "PLUGINS": "task/none",
}  # fmt: skip


def how_ranks_are_started(**environment: str) -> list[str]:
    """The command line that starts the ranks of a job on two nodes."""
    script = f"{FAKES}\nSLURMD_NODENAME=n1\nsource slurm/site.sh\n{FAKES}\nsource slurm/ranks.sh\n"
    script += 'printf "%s\\0" "${start_ranks[@]}"'
    done = subprocess.run(
        ["bash", "-uc", script], cwd=ROOT, env={"PATH": os.environ["PATH"], **JOB, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split("\0")[:-1]


def test_one_task_a_node_starts_as_many_ranks_as_it_has_gpus() -> None:
    words = how_ranks_are_started()
    assert words[:6] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--wait=60"]
    assert words[6:8] == ["bash", "-c"] and words[9] == "shardtune"
    assert words[10:] == [
        "python3", "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=8", "--rdzv-backend=c10d",
        "--rdzv-endpoint=n1:20007", "--rdzv-id=7.0.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({"SHARDTUNE_CPU_BIND": "auto"}, []),
        ({"PLUGINS": "TaskPlugin = task/affinity,task/cgroup"}, ["--cpu-bind=none"]),
        ({"SHARDTUNE_CPU_BIND": "none"}, ["--cpu-bind=none", "--cpus-per-task=64"]),
        (
            {"SHARDTUNE_CPU_BIND": "cores", "PLUGINS": "task/affinity"},
            ["--cpu-bind=cores", "--cpus-per-task=64"],
        ),
    ],
)
def test_a_binding_comes_with_all_cpus_of_the_job_or_a_task_would_be_bound_to_one(
    environment: dict[str, str], options: list[str]
) -> None:
    words = how_ranks_are_started(**environment)
    assert words[6 : words.index("bash")] == options


def test_a_script_without_a_path_imports_nothing_from_a_folder_that_is_called_like_its_path(tmp_path: Path) -> None:
    (tmp_path / "(null)").mkdir()
    (tmp_path / "(null)" / "pyproject.toml").touch()
    script = f'{FAKES}\nSLURMD_NODENAME=n1\nsource {ROOT}/slurm/site.sh\necho "${{PYTHONPATH:-nothing}}"'
    for code_dir, expected in (("(null)", "nothing"), (f"{tmp_path}/(null)", f"{tmp_path}/(null)")):
        environment = {"PATH": os.environ["PATH"], **JOB, "code_dir": code_dir}
        done = subprocess.run(
            ["bash", "-uc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("who", ["nobody", "this user, for all", "a link"])
def test_compiler_caches_lie_in_a_folder_that_only_this_user_can_fill(tmp_path: Path, who: str) -> None:
    guessed = tmp_path / f"shardtune-{os.getuid()}"
    if who == "a link":  # the script cannot tell whose
        (tmp_path / "evil").mkdir()
        guessed.symlink_to(tmp_path / "evil")
    elif who != "nobody":
        guessed.mkdir()
        guessed.chmod(0o777)
    words = how_ranks_are_started(gpus_per_node="0", run_dir=str(tmp_path))
    at = words.index("bash")
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "SLURMD_NODENAME": "n1", "SLURM_NODEID": "0"}
    environment |= {"gpus_per_node": "0", "run_dir": str(tmp_path)}
    argv = [*words[at : words.index("shardtune") + 1], "printenv", "TRITON_CACHE_DIR"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    scratch = Path(done.stdout.strip()).parent
    assert (scratch == guessed) == (who in ("nobody", "this user, for all"))
    status = scratch.lstat()
    assert (status.st_uid, status.st_mode & 0o777) == (os.getuid(), 0o700)


def test_pyxis_gets_the_image_by_srun_and_apptainer_runs_within_the_task() -> None:
    given = {"SHARDTUNE_CONTAINER": "an image", "SHARDTUNE_CONTAINER_MOUNTS": "/data:/data"}
    mounts = f"{ROOT}:{ROOT},/data:/data"
    words = how_ranks_are_started(**given)
    assert words[6:8] == ["--container-image=an image", f"--container-mounts={mounts}"]
    assert words[words.index("shardtune") + 1] == "python3"
    words = how_ranks_are_started(**given, SHARDTUNE_CONTAINER_RUNTIME="apptainer")
    assert words[6] == "bash"
    assert words[words.index("shardtune") + 1 :][:6] == ["apptainer", "exec", "--nv", "--bind", mounts, "an image"]
