"""The script for sbatch is planned first, all faults of it are reported at once, and no name is run as code."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.errors import ConfigError, LaunchError
from shardtune.launcher.plan.several import plan_several
from shardtune.launcher.plan.sweep import grid, plan_sweep
from shardtune.launcher.slurm import submission
from shardtune.launcher.slurm.submission import (
    Share,
    Submission,
    plan_array,
    plan_doctor,
    plan_preparation,
    plan_submission,
    share_of_node,
)
from shardtune.launcher.slurm.text import BODY, Nodes, render_script, script_body
from shardtune.recipe.sections.job import JobConfig

RECIPE = """
task: {kind: classification}
model: {path: org/name}
data: {train: train.csv}
"""
CLUSTER = [
    Nodes("main", True, 14, 8, 64000, 2, None),
    Nodes("big", False, 2, 128, 1031000, 8, 2 * 86400),
    Nodes("cpu", False, 600, 4, 2048, 0, 1800),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(RECIPE)
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    (tmp_path / "site.sh").write_text("module load cuda\n")
    return tmp_path


def plan(*overrides: str, cluster: list[Nodes] | None = CLUSTER, depends: str | None = None) -> Submission:
    return plan_submission(Path("x.yaml"), overrides, Path("r"), cluster, depends=depends)


def test_the_header_of_the_job_script_is_the_recipes_job_keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "CODE_DIR", folder / "installed")
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    planned = plan(
        "job.nodes=2", "job.partition=big", "job.gpus_per_node=4", "job.memory_per_node_gb=200", "job.account=lab-1",
        "job.qos=long", "job.constraint=a100&ib", "job.time_limit=1-12:00:00", "job.stop_lead_s=600",
        "job.preamble=site.sh", "job.sbatch_options=['--exclude=node7', '--mail-type=END']", depends="afterok:12",
    )  # fmt: skip
    header, body = planned.script.split(BODY, 1)
    assert (
        header
        == f"""#!/bin/bash
#SBATCH --job-name=r
#SBATCH --comment={folder}/r
#SBATCH --output={folder}/r/logs/slurm-%j.out
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=64
#SBATCH --mem=200G
#SBATCH --partition=big
#SBATCH --account=lab-1
#SBATCH --qos=long
#SBATCH "--constraint=a100&ib"
#SBATCH --time=1-12:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --open-mode=append
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --dependency=afterok:12
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --exclude=node7
#SBATCH --mail-type=END

# shellcheck disable=SC2016,SC2317 # a $ in a name is not a variable; functions are called by name
export SHARDTUNE_PYTHON=/venv/bin/python
export SHARDTUNE_PREAMBLE={folder}/site.sh
set -- {folder}/r

"""
    )
    assert BODY + body == script_body("finetune.sh")


def test_the_jobs_that_do_not_train_have_headers_of_their_own(folder: Path) -> None:
    """What is asked of the machines, which script is frozen, and with what words it is called."""

    def header_of(job: Submission, script: str) -> list[str]:
        header, body = job.script.split(BODY, 1)
        assert BODY + body == script_body(script)
        lines = header.splitlines()
        return [line.removeprefix("#SBATCH ") for line in lines if line.startswith(("#SBATCH", "set -- "))]

    job = ["job.nodes=2", "job.partition=big", "job.account=lab-1", "job.time_limit=1:00:00"]
    assert header_of(plan_preparation(plan(*job, "job.prepare_partition=cpu", depends="afterok:12")), "prepare.sh") == [
        "--job-name=r-prepare",
        f"--output={folder}/r/logs/prepare-%j.out",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=8",
        "--partition=cpu",
        "--account=lab-1",
        "--dependency=afterok:12",
        "--kill-on-invalid-dep=yes",
        f"set -- {folder}/r",
    ]
    resources = [
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gpus-per-node=8",
        "--cpus-per-task=128",
        "--partition=big",
        "--account=lab-1",
        "--time=1:00:00",
        "--signal=B:USR1@300",
        "--open-mode=append",
    ]
    assert header_of(plan_doctor([*job, "job.ranks=3"], folder, CLUSTER), "doctor.sh") == [
        "--job-name=shardtune-doctor",
        f"--output={folder}/doctor.out",
        *resources,
        "--no-requeue",
        "set -- job.ranks=3",
    ]
    sweep = plan_sweep(Path("x.yaml"), job, Path("s"), grid(["optim.lr=1e-5,2e-5,3e-5"]))
    assert header_of(plan_array(sweep, [0, 2], CLUSTER, parallel=1), "sweep.sh") == [
        "--job-name=s",
        f"--comment={folder}/s",
        "--array=0,2%1",
        f"--output={folder}/s/%a/logs/slurm-%A_%a.out",
        *resources,
        "--no-kill",
        "--requeue",
        f"set -- {folder}/s",
    ]


def test_seeds_are_the_tasks_of_an_array_by_their_own_numbers(folder: Path) -> None:
    sweep = plan_several(Path("x.yaml"), ["job.nodes=2", "train.seeds=[7,1]"], Path("s"))
    assert sweep is not None
    options = plan_array(sweep, [7, 1], CLUSTER, parallel=None).options
    assert "--array=7,1" in options and f"--output={folder}/s/seed-%a/logs/slurm-%A_%a.out" in options
    large = plan_several(Path("x.yaml"), ["job.nodes=2", "train.seeds=[1,1001]"], Path("t"))
    assert large is not None
    with pytest.raises(LaunchError, match=r"train\.seeds: 1001 cannot be the number of a task in a job array"):
        plan_array(large, [1, 1001], CLUSTER, parallel=None)


@pytest.mark.parametrize(("name", "task"), [("3", "3"), ("seed-12", "12"), ("part-1", "1")])
def test_the_task_of_an_array_trains_the_point_of_its_number(folder: Path, name: str, task: str) -> None:
    (folder / "s" / name).mkdir(parents=True)
    (folder / "slurm").mkdir()
    (folder / "slurm/finetune.sh").write_text('echo "$1" "$2"')
    (folder / "scontrol").write_text("#!/bin/bash\n")
    (folder / "scontrol").chmod(0o755)
    environment = {"SLURM_ARRAY_TASK_ID": task, "SLURM_JOB_ID": "1", "SHARDTUNE_CODE": str(folder)}
    script = Path(__file__).parents[3] / "slurm" / "sweep.sh"
    done = subprocess.run(
        ["bash", script, "s", "more"],
        env={**environment, "PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"s/{name} more\n", "")


def test_slurm_leaves_a_job_its_other_nodes_when_one_is_lost_unless_it_is_to_wait_for_all() -> None:
    assert "--no-kill" in plan("job.nodes=2").options
    assert "--no-kill" not in plan("job.nodes=2", "job.on_lost_node=requeue").options
    assert "--no-kill" not in plan("job.nodes=1").options


@pytest.mark.parametrize(
    ("default_s", "limit_s", "words"),
    [
        (300, None, "the default of main, 0:05:00, is not above job.stop_lead_s (300 s); set it"),
        (None, 240, "the default of main, 0:04:00, is not above job.stop_lead_s (300 s); set it"),
        (301, 240, None),
        (None, None, None),
    ],
)
def test_a_partition_whose_default_time_leaves_none_to_train_is_refused(
    default_s: int | None, limit_s: int | None, words: str | None
) -> None:
    nodes = [Nodes("main", True, 14, 8, 64000, 2, limit_s, default_s)]
    if words is None:
        assert share_of_node(JobConfig(), nodes)
        return
    with pytest.raises(LaunchError, match=re.escape(f"job.time_limit: not set, and {words}")):
        share_of_node(JobConfig(), nodes)
    assert share_of_node(JobConfig(stop_lead_s=60), nodes)


def test_what_is_not_set_is_left_to_the_cluster() -> None:
    names = [option.split("=")[0] for option in plan("job.device=cpu", cluster=None).options]
    assert not {"--partition", "--account", "--qos", "--mem", "--time", "--gpus-per-node", "--cpus-per-task"} & {*names}


def test_a_job_that_is_not_to_be_put_back_is_not_put_back_by_slurm_either() -> None:
    assert "--no-requeue" in plan("job.max_requeues=0").options


@pytest.mark.parametrize("binding", ["none", "cores", "verbose,ldoms", "map_cpu:0,1,2", "mask_cpu:0xf0,0x0f"])
def test_a_binding_of_cpus_is_handed_to_srun(binding: str) -> None:
    assert f"export SHARDTUNE_CPU_BIND={binding}\n" in plan(f"job.cpu_binding='{binding}'").script
    assert "SHARDTUNE_CPU_BIND=" not in plan().script.split(BODY)[0]


def test_a_container_sees_the_run_and_what_the_recipe_names(folder: Path) -> None:
    for name in ("model", "data"):
        (folder / name).mkdir()
    (folder / "train.csv").rename(folder / "data" / "train.csv")
    container = ["job.container=nvcr.io#nvidia/pytorch:25.01-py3", "job.container_mounts=[/scratch]"]
    script = plan(*container, "model.path=./model", "data.train='data/*.csv'").script
    assert "export SHARDTUNE_PYTHON=python3\n" in script
    (mounts,) = [line for line in script.splitlines() if line.startswith("export SHARDTUNE_CONTAINER_MOUNTS=")]
    for path in ("/scratch", f"{folder}/model", f"{folder}/data", f"{folder}/r"):
        assert f"{path}:{path}" in mounts.split("=")[1].strip("'").split(",")


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        ([], Share(2, 8)),
        (["job.partition=big"], Share(8, 128)),
        (["job.partition=big", "job.gpus_per_node=2"], Share(2, 32)),
        (["job.partition=cpu"], Share(0, 4)),
        (["job.device=cpu"], Share(0, 8)),
        (["job.cpus_per_node=3", "job.gpus_per_node=1"], Share(1, 3)),
    ],
)
def test_a_job_gets_all_gpus_of_a_node_and_their_share_of_its_cpus(overrides: list[str], share: Share) -> None:
    assert share_of_node(plan(*overrides).recipe.job, CLUSTER) == share


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["job.partition=bigg"], ["job.partition: unknown partition 'bigg'", "big: 2 nodes of 128 CPUs"]),
        (["job.gpus_per_node=3"], ["job.gpus_per_node: 3 are requested, but no node of main has more than 2"]),
        (
            ["job.partition=cpu", "job.nodes=601", "job.device=cuda", "job.cpus_per_node=5", "job.time_limit=1:00:00"],
            [
                "job.device: cuda is requested, but cpu has no GPU",
                "job.cpus_per_node: 5 are requested, but no node of cpu has more than 4",
                "job.nodes: 601 are requested, but cpu has 600",
                "job.time_limit: 1:00:00 exceeds the limit of cpu, 0:30:00",
            ],
        ),
    ],
)
def test_what_the_partition_does_not_have_is_reported_before_the_job_is_queued(
    overrides: list[str], message: list[str]
) -> None:
    with pytest.raises(LaunchError) as error:
        plan(*overrides)
    for line in message:
        assert line in str(error.value)


def test_nodes_that_differ_need_a_number_of_gpus() -> None:
    mixed = [*CLUSTER[:1], Nodes("main", True, 1, 16, 64000, 4, None)]
    with pytest.raises(LaunchError, match="the nodes of main have 2 or 4 GPUs; set one"):
        plan(cluster=mixed)
    assert "--gpus-per-node=4" in plan("job.gpus_per_node=4", cluster=mixed).options


def test_without_slurm_the_number_of_gpus_has_to_be_set() -> None:
    with pytest.raises(LaunchError, match=r"job\.gpus_per_node: Slurm is not available here"):
        plan(cluster=None)
    assert "--gpus-per-node=8" in plan("job.gpus_per_node=8", cluster=None).options


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("job.time_limit=90 min", r"expected \[D-\]HH:MM:SS, got '90 min'"),
        ("job.time_limit=0:04:00", "must be above stop_lead_s"),
        ("job.sbatch_options=['--nodes=3']", r"--nodes is set by job\.nodes"),
        ("job.sbatch_options=['-N3']", "expected a long option of sbatch"),
        ('job.partition="a\\nb"', "expected printable text on one line"),
        ("job.container_mounts=[here]", "expected /HERE:/THERE"),
        ("job.preamble=gone.sh", "gone.sh"),
        ("job.cpu_binding=core", "expected auto, none, cores, "),
        ("job.cpu_binding='cores; id'", "expected auto, none, cores, "),
        ("job.sbatch_options=['--cpu-bind=cores']", r"--cpu-bind is set by job\.cpu_binding"),
    ],
)
def test_a_job_key_that_slurm_would_not_understand_is_refused_as_it_is_read(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(override)


def test_the_script_of_512_nodes_is_rendered_in_less_than_a_second() -> None:
    began = time.process_time()
    script = plan("job.partition=cpu", "job.nodes=512").script
    assert time.process_time() - began < 1.0
    assert "#SBATCH --nodes=512\n" in script


def test_a_job_of_many_nodes_has_no_longer_a_script() -> None:
    words = ("job.partition=cpu", "job.on_lost_node=requeue")
    one, many = plan(*words).script, plan(*words, "job.nodes=512").script
    assert one.replace("#SBATCH --nodes=1\n", "#SBATCH --nodes=512\n") == many


HOSTILE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(values=st.lists(HOSTILE | st.sampled_from(["$(touch pwned)", "a'; touch pwned #", "`id`", "\\", "-n", "!!"])))
def test_whatever_a_value_holds_bash_reads_it_as_it_is(values: list[str]) -> None:
    environment = {f"HOSTILE_{number}": value for number, value in enumerate(values)}
    body = 'printf \'%s\\0\' "$@"; for name in ${!HOSTILE_@}; do printf \'%s=%s\\0\' "$name" "${!name}"; done'
    script = render_script([], environment, values, body)
    message = subprocess.run(["bash"], input=script.encode(), capture_output=True, check=True).stdout.decode()
    *found, last = message.split("\0")
    assert last == ""
    if values:  # printf without arguments prints its format once
        assert found[: len(values)] == values
        assert dict(item.split("=", 1) for item in found[len(values) :]) == environment
