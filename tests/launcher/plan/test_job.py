"""A plan says everything before anything is done, and is made from values alone."""

from pathlib import Path

import pytest

from shardtune.errors import CheckpointError, ConfigError, LaunchError
from shardtune.launcher.plan.backends import BACKENDS
from shardtune.launcher.plan.job import JobPlan, Machine, plan_job
from shardtune.run_dir.micro_batch_budget import KeptBudget, keep_budget
from shardtune.run_dir.run import write_run_dir

WORKSTATION, LAPTOP = Machine(num_gpus=8, num_cores=64), Machine(num_gpus=0, num_cores=12)

pytestmark = pytest.mark.usefixtures("folder")


def plan(
    *overrides: str,
    machine: Machine = WORKSTATION,
    path: str = "x.yaml",
    run_dir: str | None = None,
    fork: str | None = None,
) -> JobPlan:
    return plan_job(
        Path(path), overrides, Path(run_dir) if run_dir else None, machine, fork=Path(fork) if fork else None
    )


def test_every_gpu_gets_a_rank() -> None:
    job = plan()
    assert (job.world_size, job.device) == (8, "cuda")
    assert job.environment["OMP_NUM_THREADS"] == "8"
    assert "DS_ACCELERATOR" not in job.environment


MIG = tuple(f"MIG-{number}" for number in range(4))


@pytest.mark.parametrize(
    ("backend", "gpus", "told"),
    [
        ("torchrun", ("2", "3"), None),  # which leaves CUDA_VISIBLE_DEVICES as it is
        ("deepspeed", ("2", "3"), "2,3"),  # which numbers the GPUs anew, and fails at a UUID
        ("deepspeed", ("GPU-a", "GPU-b", "GPU-c"), "GPU-a,GPU-b"),
        ("torchrun", MIG, "MIG-0,MIG-1"),
        ("deepspeed", MIG, "MIG-0,MIG-1"),
        ("torchrun", ("GPU-a", *MIG), "GPU-a,MIG-0"),
        ("deepspeed", (), None),
    ],
)
def test_ranks_are_told_their_gpus_where_something_between_would_change_them(
    backend: str, gpus: tuple[str, ...], told: str | None
) -> None:
    job = plan(f"job.backend={backend}", "job.ranks=2", machine=Machine(max(2, len(gpus)), 8, gpus=gpus))
    assert job.environment.get("SHARDTUNE_VISIBLE_DEVICES") == told
    if backend == "deepspeed":
        assert "--num_gpus=2" in job.argv


def test_what_is_odd_about_the_gpus_is_said_unless_they_are_not_wanted() -> None:
    machine = Machine(1, 8, gpus=("0",), notices=("GPU 7 is not listed",))
    assert "notice         GPU 7 is not listed" in plan(machine=machine).describe()
    assert plan("job.device=cpu", machine=machine).machine_notices == ()
    hung = Machine(0, 8, fault="nvidia-smi does not answer")
    for device in ("auto", "cuda"):
        with pytest.raises(LaunchError, match=r"^nvidia-smi does not answer; job\.device=cpu trains without GPUs$"):
            plan(f"job.device={device}", machine=hung)
    assert plan("job.device=cpu", machine=hung).device == "cpu"


def test_without_a_gpu_two_ranks_share_the_cores() -> None:
    job = plan(machine=LAPTOP)
    assert (job.world_size, job.device) == (2, "cpu")
    assert job.environment["OMP_NUM_THREADS"] == "6"
    assert job.environment["DS_ACCELERATOR"] == "cpu"


def test_one_core_has_one_rank() -> None:
    assert plan(machine=Machine(0, 1)).world_size == 1


def test_the_recipe_has_the_last_word_on_ranks_threads_and_device() -> None:
    job = plan("job.device=cpu", "job.ranks=3", "job.threads_per_rank=5")
    assert (job.world_size, job.device, job.environment["OMP_NUM_THREADS"]) == (3, "cpu", "5")


@pytest.mark.parametrize(
    ("overrides", "machine", "message"),
    [
        (["job.ranks=9"], WORKSTATION, "job.ranks: 9 ranks need 9 GPUs"),
        (["engine.precision=fp16"], LAPTOP, "engine.precision: fp16 needs a GPU"),
        (["engine.deepspeed=zero3_qwz"], LAPTOP, "zero_quantized_weights: DeepSpeed quantizes on NVIDIA GPUs only"),
        (["engine.deepspeed=zero3_zeropp"], LAPTOP, "and zero_quantized_gradients: DeepSpeed quantizes on NVIDIA GPUs"),
        (["job.device=cuda"], LAPTOP, "job.device: cuda is requested, but nvidia-smi finds no GPU"),
    ],
)
def test_what_the_machine_does_not_have_is_refused(overrides: list[str], machine: Machine, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        plan(*overrides, machine=machine)


def test_a_ds_config_of_another_tool_is_planned_with_what_it_had_ignored_and_adopted(folder: Path) -> None:
    (folder / "my.json").write_text('{"_comment": "x", "fp16": {"enabled": true}}')
    job = plan("engine.deepspeed=my.json")
    assert job.ds_config is not None and job.ds_config["fp16"]["enabled"] is True
    assert f"notice         {folder}/my.json: engine.precision: auto is fp16 by its " in job.describe()
    with pytest.raises(LaunchError, match=r"my.json: fp16.enabled: fp16 needs a GPU .*; write \"auto\""):
        plan("engine.deepspeed=my.json", machine=LAPTOP)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_starts_the_same_module_on_as_many_ranks(backend: str) -> None:
    job = plan(f"job.backend={backend}")
    assert "8" in " ".join(job.argv)
    assert job.argv[-3:] == ("shardtune.trainer", str(job.run_dir), "--followed")


def test_the_same_command_means_the_same_directory_and_a_changed_recipe_another() -> None:
    assert plan().run_dir == plan("job.ranks=4", "engine.deepspeed=zero3").run_dir
    assert plan().run_dir != plan("optim.lr=1e-3").run_dir
    assert plan().run_dir.parent == Path("runs").absolute()


def test_a_run_directory_is_gone_on_with_by_its_name(folder: Path) -> None:
    first = plan(run_dir="r")
    write_run_dir(first.run)
    again = plan(path="r")
    assert (again.recipe, again.run_dir) == (first.recipe, first.run_dir)


def test_another_recipe_in_an_old_directory_is_refused_with_what_changed() -> None:
    first = plan(run_dir="r")
    write_run_dir(first.run)
    plan("job.ranks=2", "report.every_steps=10", run_dir="r")
    with pytest.raises(CheckpointError, match=r"belongs to another recipe:\n  optim\.lr: 5e-05 -> 0\.001"):
        plan("optim.lr=1e-3", run_dir="r")


def test_what_cannot_alter_learning_is_no_other_recipe() -> None:
    write_run_dir(plan(run_dir="r").run)
    machine = ["job.ranks=2", "report.every_steps=10", "checkpoint.every_steps=7", "engine.deepspeed=zero3"]
    assert plan(*machine, "engine.precision=fp32", "train.micro_batch_tokens=600", run_dir="r").run_dir.name == "r"


def test_what_auto_may_come_to_is_said_and_what_it_has_come_to_in_a_run() -> None:
    auto = "train.micro_batch_tokens=auto"
    assert "micro-batches of at most 16,384 tokens;" in plan().describe()
    assert "micro-batches of as many tokens as fit, from 512 to 2,048 (auto);" in plan(auto).describe()
    by_targets = plan(auto, "train.global_batch_tokens=5000").describe()
    assert "micro-batches of as many tokens as fit, 512 or more (auto);" in by_targets
    write_run_dir(plan(auto, run_dir="r").run)
    keep_budget(Path("r"), KeptBudget(1024, fits=True))
    assert "at most 1,024 tokens (auto, determined by this run);" in plan(path="r").describe()
    assert "at most 600 tokens;" in plan("train.micro_batch_tokens=600", path="r").describe()


def test_a_fork_has_the_changed_recipe_and_a_directory_of_its_own(folder: Path) -> None:
    write_run_dir(plan(run_dir="r").run)
    job = plan("optim.lr=1e-3", path="r", fork="s")
    assert (job.run_dir, job.run.forked_from) == (folder / "s", folder / "r")
    assert str(folder / "s") in job.argv
    assert f"run directory  {folder}/s, from the newest checkpoint of {folder}/r\n" in job.describe()
    write_run_dir(job.run)
    assert plan(path="s").recipe.optim.lr == 1e-3
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        plan("optim.lr=1e-4", path="r", fork="s")


def test_a_folder_that_is_no_run_is_refused(folder: Path) -> None:
    (folder / "d").mkdir()
    with pytest.raises(ConfigError, match="not a run directory"):
        plan(path="d")


def test_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        plan("optim.lrr=1", "data.train=nothing.csv", "engine.precision=bf61", "job.ranks=0")
    assert len(str(raised.value).splitlines()) == 4


def test_the_description_has_what_a_user_wants_to_know_before() -> None:
    text = plan("train.global_batch_size=64").describe()
    for message in ("8 on cuda", "64 rows = 8 ranks x about 8 rows", "runs/x-", "torch.distributed.run", '"stage": 2'):
        assert message in text


TORCHRUN_LOG = """
E1124 02:30:14.844000 15158 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: -9) local_rank: 1 (pid: 15163) of binary: python
Failures:
[1]:
  time      : 2026-11-24_02:30:14
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 15162)  (SIGTERM)
"""  # noqa: E501
STUBBORN_LOG = """
W1129 05:57:11.165000 27786 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 27803 closing signal SIGTERM
W1129 05:57:41.166000 27786 torch/distributed/elastic/multiprocessing/api.py:1047] Unable to shutdown process 27803 via 15, forcefully exiting via 9
E1129 05:57:41.167000 27786 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) local_rank: 1 (pid: 27804) of binary: python
Failures:
[1]:
  time      : 2026-11-29_05:57:41
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -9 (pid: 27803)  (SIGKILL)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-29_05:57:11
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 27804)
"""  # noqa: E501
DEEPSPEED_LOG = """
[2026-11-24 02:31:30,214] [ERROR] [launch.py:259:sigkill_handler] ['python', '-u', '-m', 'trainer', '--local_rank=1', 'r'] exits with return code = -9
"""  # noqa: E501


@pytest.mark.parametrize(
    ("backend", "log", "exits"),
    [
        ("torchrun", TORCHRUN_LOG, {1: -9, 0: -15}),
        ("torchrun", STUBBORN_LOG, {1: 1, 0: -15}),
        ("deepspeed", DEEPSPEED_LOG, {1: -9}),
        ("torchrun", "", {}),
    ],
)
def test_a_backends_report_of_dead_ranks_is_parsed(backend: str, log: str, exits: dict[int, int]) -> None:
    assert BACKENDS[backend].parse_exits(log) == exits
