"""engine.deepspeed: auto is settled when a run begins, kept in its config.yaml, and the same when it resumes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shardtune.ds_config.resolve import ds_config_notice
from shardtune.errors import ConfigError
from shardtune.launcher.commands import run as run_commands
from shardtune.launcher.plan.job import JobPlan, Machine, plan_job
from shardtune.launcher.slurm.allocation import Allocation
from shardtune.launcher.slurm.batch_job import begin
from shardtune.launcher.slurm.submission import plan_submission
from shardtune.launcher.start import execute
from shardtune.recipe.load import learning_hash, load_recipe
from shardtune.run_dir.run import read_config, write_run_dir

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
}
BERT = {**TINY, "model_type": "bert", "max_position_embeddings": 512, "type_vocab_size": 2}
GPUS = Machine(8, 64, gpu_name="NVIDIA H100 80GB HBM3", memory=2**40)
CPUS = Machine(0, 8, memory=2**36)


@pytest.fixture(autouse=True)
def model(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text(json.dumps(BERT))
    return folder / "model"


def _plan(path: str = "x.yaml", *overrides: str, machine: Machine = CPUS, deepspeed: str = "auto") -> JobPlan:
    given = () if Path(path).is_dir() else ("model.path=model", f"engine.deepspeed={deepspeed}")
    return plan_job(Path(path), (*given, *overrides), None, machine)


def test_a_small_model_on_cpus_is_replicated() -> None:
    plan = _plan()
    assert plan.recipe.engine.deepspeed is None
    assert plan.ds_config is None
    (notice,) = plan.notices
    assert notice.startswith("engine.deepspeed: auto is null: a whole copy fits")
    assert f"notice         {notice}" in plan.describe()


def test_on_gpus_it_is_the_fastest_strategy() -> None:
    (notice,) = _plan(machine=GPUS).notices
    assert notice.startswith("engine.deepspeed: auto is ")
    assert "of 79.6 GiB per GPU" in notice


def test_the_run_directory_has_it_resolved_and_keeps_it_on_another_machine() -> None:
    first = _plan()
    write_run_dir(first.run)
    assert read_config(first.run_dir).engine.deepspeed is None
    poor = replace(CPUS, memory=2**20)
    assert "nothing fits" in str(_plan("x.yaml", "optim.lr=1", machine=poor).strategy_notice)
    again = _plan(machine=poor)
    assert again.run_dir == first.run_dir
    assert again.recipe == first.recipe
    assert again.strategy_notice == "engine.deepspeed: auto is null: as when this run began"
    resumed = _plan(str(first.run_dir), machine=poor)
    assert resumed.recipe == first.recipe
    assert resumed.strategy_notice is None
    assert resumed.run.is_as_kept


def test_a_run_directory_that_still_says_auto_is_written_anew() -> None:
    overrides = ["model.path=model", "engine.deepspeed=auto", "job.gpus_per_node=8"]
    run = plan_submission(Path("x.yaml"), overrides, None, None).run
    write_run_dir(run)
    assert read_config(run.run_dir).engine.deepspeed == "auto"
    plan = _plan(str(run.run_dir))
    write_run_dir(plan.run)
    assert read_config(run.run_dir).engine.deepspeed is None


def test_what_is_learned_does_not_depend_on_it() -> None:
    recipes = [_plan(deepspeed=name).recipe for name in ("auto", "zero2")]
    assert len({learning_hash(recipe) for recipe in recipes}) == 1


@pytest.mark.parametrize(
    ("machine", "config", "reason"),
    [
        (replace(GPUS, gpu_name=None), BERT, "the kind of this machine's GPUs is not known"),
        (replace(GPUS, gpu_name="Frobnicator 3000"), BERT, "the planner cannot tell: unknown GPU 'Frobnicator 3000'"),
        (replace(CPUS, memory=None), BERT, "the memory of this machine is not known"),
        (GPUS, {"model_type": "mamba"}, "the planner cannot tell: "),
    ],
)
def test_where_nothing_can_be_foreseen_it_is_the_default(
    machine: Machine, config: dict[str, object], reason: str, model: Path
) -> None:
    (model / "config.json").write_text(json.dumps(config))
    plan = _plan(machine=machine)
    assert plan.recipe.engine.deepspeed == "zero2"
    assert str(plan.strategy_notice).startswith(f"engine.deepspeed: auto is zero2: the default, because {reason}")


def test_a_slurm_job_settles_it_for_its_nodes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(execute, "find_machine", lambda: GPUS)
    allocation = Allocation("7", 0, "node[1-2]", 2, Machine(8, 64, "Slurm has given"), {})
    begin(folder / "x.yaml", ["model.path=model", "engine.deepspeed=auto"], allocation)
    (run_dir,) = (folder / "runs").iterdir()
    assert read_config(run_dir).engine.deepspeed != "auto"
    assert "engine.deepspeed: auto is " in capsys.readouterr().err


def test_check_looks_at_the_strategy_that_a_run_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(execute, "find_machine", lambda: CPUS)
    monkeypatch.setattr(execute, "run_module", lambda module, words: called.extend(words) or 0)
    run_commands.check("x.yaml", "model.path=model", "engine.deepspeed=auto").perform()
    assert called[:4] == ["x.yaml", "model.path=model", "engine.deepspeed=auto", "engine.deepspeed=null"]


def test_a_rank_that_is_started_by_hand_says_what_to_do() -> None:
    recipe = load_recipe(Path("x.yaml"), ["model.path=model", "engine.deepspeed=auto"])
    with pytest.raises(ConfigError, match="auto is chosen by shardtune run, submit and sweep; started in another way"):
        ds_config_notice(recipe)
