"""Recipe + overrides + machine -> JobPlan: everything that `shardtune run` will do, as a value. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.counted import counted
from shardtune.ds_config.devices import refuse_on_cpus
from shardtune.ds_config.resolve import ds_config_notice, ds_config_of, open_precisions, precision_key
from shardtune.errors import LaunchError
from shardtune.launcher.plan.backends import BACKENDS
from shardtune.launcher.plan.strategy import Nodes, settle_strategy
from shardtune.machine.visible_gpus import MIG, VISIBLE_GPUS
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.micro_batch_budget import KeptBudget, read_budget
from shardtune.run_dir.run import Run, find_run
from shardtune.run_dir.trackers import refuse_missing

KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""For CPU ranks. By default glibc returns tensors to the kernel at once and faults their pages in again at the next
step; with these settings it keeps up to 4 GB. Blocks above 32 MB, such as logits, are still returned: they would leave
holes that no later step fits into, and with those kept a chat model of 134 M parameters grew from 4.5 to 9.8 GB per
rank in 80 steps."""


@dataclass(frozen=True)
class Machine:
    """The hardware to run on."""

    num_gpus: int
    num_cores: int
    """The CPU cores that this process may use."""
    witness: str = "nvidia-smi finds"
    """The source of num_gpus, with a verb, for messages."""
    gpus: tuple[str, ...] = ()
    """The names by which CUDA_VISIBLE_DEVICES leaves these GPUs, or MIG instances, to processes; empty if Slurm has
    seen to that."""
    notices: tuple[str, ...] = ()
    """What was found about the GPUs that the user may not expect."""
    fault: str | None = None
    """Why the GPUs cannot be counted."""
    gpu_name: str | None = None
    """The first GPU's, as its driver says it; None if there is none, or if it is not known."""
    memory: int | None = None
    """Bytes of host memory that a job may use; None if that is not known."""

    @property
    def gpu_text(self) -> str:
        """`8 x NVIDIA H100 80GB HBM3`; empty without a GPU whose name is known."""
        return f"{self.num_gpus} x {self.gpu_name}" if self.gpu_name else ""


@dataclass(frozen=True)
class RankPlan:
    """The ranks of one machine."""

    num_ranks: int
    device: str
    environment: Mapping[str, str]
    """Variables to add to the environment of the ranks."""


@dataclass(frozen=True)
class JobPlan:
    """A training on one machine."""

    run: Run
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    """Variables to add to the environment of the ranks."""
    world_size: int
    device: str
    ds_config: Mapping[str, Any] | None
    """None without DeepSpeed."""
    kept_budget: KeptBudget | None = None
    """The value of train.micro_batch_tokens: auto in this run directory, if an earlier start has determined it."""
    ds_config_notice: str | None = None
    """What the ds_config had renamed, ignored and adopted."""
    gpu_name: str | None = None
    """The GPU's, as its driver says it; None on CPUs, or if it is not known."""
    machine_notices: tuple[str, ...] = ()
    """What the user may not expect of this machine's GPUs."""
    strategy_notice: str | None = None
    """What engine.deepspeed: auto stands for, and why."""
    machine_gpus: str = ""
    """The GPUs of this machine, used or not, as they are in its fingerprint."""

    @property
    def recipe(self) -> Recipe:
        return self.run.recipe

    @property
    def run_dir(self) -> Path:
        return self.run.run_dir

    @property
    def notices(self) -> tuple[str, ...]:
        """What to tell the user when the run starts."""
        return self.machine_notices if self.strategy_notice is None else (*self.machine_notices, self.strategy_notice)

    def describe(self) -> str:
        """The plan in readable form (`shardtune run --dry-run`)."""
        train = self.recipe.train
        rows = train.global_batch_size
        share = (
            f"{rows / self.world_size:g}"
            if rows % self.world_size == 0
            else f"{math.floor(rows / self.world_size)} or more"
        )
        batch = f"{rows} rows = {counted(self.world_size, 'rank')} x about {share} rows"
        if train.global_batch_tokens is not None:
            batch = f"about {train.global_batch_tokens:,} targets over {counted(self.world_size, 'rank')}"
        length = counted(train.max_steps, "step") if train.max_steps is not None else f"{train.num_epochs:g} epochs"
        lines = [
            f"run directory  {self.run_dir}"
            + (f", from the newest checkpoint of {self.run.forked_from}" if self.run.forked_from else ""),
            f"ranks          {self.world_size} on {self.device}, by {self.recipe.job.backend}",
            f"global batch   {batch}, in micro-batches of {self._budget()}; the same on any number of ranks",
            f"length         {length}",
            f"environment    {' '.join(f'{name}={value}' for name, value in self.environment.items())}",
            f"command        {' '.join(self.argv)}",
            *(f"notice         {text}" for text in self.notices),
        ]
        if self.ds_config is None:
            return "\n".join(
                [*lines, "ds_config      none: without DeepSpeed, every rank holds the whole model and optimizer state"]
            )
        lines += [] if self.ds_config_notice is None else [f"notice         {self.ds_config_notice}"]
        return "\n".join([*lines, "ds_config", json.dumps(self.ds_config, indent=2)])

    def _budget(self) -> str:
        """The token budget of a micro-batch, or the bounds of the budget that the ranks will determine."""
        tokens, least = self.recipe.train.micro_batch_tokens, self.recipe.data.max_tokens
        if tokens != "auto":
            return f"at most {tokens:,} tokens"
        if self.kept_budget is not None:
            return f"at most {self.kept_budget.tokens:,} tokens (auto, determined by this run)"
        if self.recipe.train.global_batch_tokens is not None:
            return f"as many tokens as fit, {least:,} or more (auto)"
        share = -(-self.recipe.train.global_batch_size // self.world_size) * least
        return f"as many tokens as fit, from {least:,} to {share:,} (auto)"


def plan_job(
    path: Path, overrides: Sequence[str], run_dir: Path | None, machine: Machine, fork: Path | None = None
) -> JobPlan:
    """Plans `shardtune run`. Raises ConfigError, CheckpointError or LaunchError if that is not possible."""
    run = find_run(path, overrides, run_dir, fork)
    ranks = plan_ranks(run.recipe, machine)
    run, strategy_notice = settle_strategy(
        run, Nodes(ranks.device, ranks.num_ranks, 1, machine.gpu_name, machine.memory)
    )
    recipe = run.recipe
    refuse_missing(recipe.report.also, "report.also")
    return JobPlan(
        run,
        BACKENDS[recipe.job.backend].argv(ranks.num_ranks, ["shardtune.trainer", str(run.run_dir), "--followed"]),
        ranks.environment,
        ranks.num_ranks,
        ranks.device,
        ds_config_of(recipe, hidden_size=_hidden_size(recipe)),
        read_budget(run.run_dir),
        ds_config_notice(recipe),
        machine.gpu_name if ranks.device == "cuda" else None,
        machine.notices if recipe.job.device != "cpu" else (),
        strategy_notice,
        machine.gpu_text,
    )


def plan_ranks(recipe: Recipe, machine: Machine) -> RankPlan:
    """Plans the ranks of a machine. Raises LaunchError if it lacks what the recipe asks for."""
    device, num_ranks = _ranks(recipe, machine)
    threads = recipe.job.threads_per_rank or max(1, machine.num_cores // num_ranks)
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
        environment |= KEEP_MEMORY
    elif machine.gpus and (recipe.job.backend == "deepspeed" or any(name.startswith(MIG) for name in machine.gpus)):
        environment[VISIBLE_GPUS] = ",".join(machine.gpus[:num_ranks])
    return RankPlan(num_ranks, device, environment)


def _ranks(recipe: Recipe, machine: Machine) -> tuple[str, int]:
    wanted = recipe.job.device
    if wanted != "cpu" and machine.fault is not None:
        raise LaunchError(f"{machine.fault}; job.device=cpu trains without GPUs")
    if wanted == "cuda" and machine.num_gpus == 0:
        raise LaunchError(
            f"job.device: cuda is requested, but {machine.witness} no GPU; check the driver, or set job.device=cpu"
        )
    device = "cuda" if machine.num_gpus and wanted != "cpu" else "cpu"
    if device == "cuda":
        world_size = recipe.job.ranks or machine.num_gpus
        if world_size > machine.num_gpus:
            raise LaunchError(
                f"job.ranks: {world_size} ranks need {world_size} GPUs, but there are {machine.num_gpus}; lower it"
            )
        return device, world_size
    refuse_on_cpus(recipe)
    if open_precisions(recipe) == ("fp16",):
        key, cure = precision_key(recipe, "fp16")
        raise LaunchError(f"{key}: fp16 needs a GPU (DeepSpeed does not support it on CPUs); {cure}")
    return device, recipe.job.ranks or min(2, machine.num_cores)


def _hidden_size(recipe: Recipe) -> int | None:
    """The hidden size in the model folder's config.json; None for a hub id, whose config only the ranks fetch."""
    path = Path(recipe.model.path) / "config.json"
    try:
        size = json.loads(path.read_text(encoding="utf-8")).get("hidden_size")
    except (OSError, ValueError, AttributeError):
        return None
    return size if isinstance(size, int) else None
