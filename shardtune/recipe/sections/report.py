"""The `report` section of a recipe: where metrics go."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from shardtune.section import Section


class ReportConfig(Section):
    """Where metrics go, besides RUN_DIR/metrics.jsonl."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases. `auto` follows WANDB_MODE or WANDB_DISABLED of the environment; without them it is online if an
    API key for the server (WANDB_BASE_URL) is found, and offline otherwise. The start of a run says which, and why."""
    project: str | None = None
    """The W&B project. None uses WANDB_PROJECT of the environment, or else `shardtune`."""
    name: str | None = None
    """The name of the run in W&B. None uses WANDB_NAME of the environment, or else the name of the run directory."""
    group: str | None = None
    """The W&B group. None uses WANDB_RUN_GROUP of the environment, if it is set. The runs of a sweep are one group."""
    entity: str | None = None
    """The W&B user or team. None uses WANDB_ENTITY of the environment, or else the default of the API key."""
    tags: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """The tags of the run in W&B. None uses WANDB_TAGS of the environment."""
    notes: str | None = None
    """A description of the run in W&B. None uses WANDB_NOTES of the environment."""
    job_type: str | None = None
    """The W&B job type. None uses WANDB_JOB_TYPE of the environment, or else `train`."""
    artifacts: Annotated[tuple[Literal["model", "data"], ...], Field(strict=False)] = ()
    """What W&B gets at the end besides metrics: `model` uploads the exported best model, `data` the fingerprints of the
    data files, with no data."""
    also: tuple[Literal["tensorboard", "mlflow", "trackio"], ...] = ()
    """Other experiment trackers that follow the run while it trains, such as [tensorboard]. Each needs its package, as
    in `pip install 'shardtune[tensorboard]'`. They use report.project and report.name, or else `shardtune` and the name
    of the run directory. `shardtune replay` sends a run that is there already."""
    every_steps: PositiveInt = 1
    """Optimizer steps between step lines in metrics.jsonl; each line averages over the steps since the previous one."""
    profile_steps: tuple[PositiveInt, PositiveInt] | None = None
    """The first and the last step, counted from 1, that torch's profiler traces on rank 0, such as [10, 12]. The trace
    is written to RUN_DIR/profile/. Tracing slows these steps down."""

    @field_validator("profile_steps")
    @classmethod
    def _steps_in_order(cls, steps: tuple[int, int] | None) -> tuple[int, int] | None:
        if steps is not None and steps[0] > steps[1]:
            raise ValueError(f"the first step, {steps[0]}, comes after the last, {steps[1]}; exchange them")
        return steps
