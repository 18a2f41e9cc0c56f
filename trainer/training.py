"""What one start of a run consists of: what it has to work with, the checkpoints it resumes from, and all its parts."""

from dataclasses import dataclass
from pathlib import Path

from shardtune.recipe.schema import Recipe
from shardtune.trainer.between_steps.evaluator import Evaluator
from shardtune.trainer.between_steps.milestones import Milestones
from shardtune.trainer.between_steps.retention.evaluation import RetentionEvaluation
from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, Checkpoints
from shardtune.trainer.checkpoint.resume import Found
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.steps import TrainingSteps
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.distributed.lease import Lease
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import Stop
from shardtune.trainer.reporting.phases import Phases
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.retention.sets import Retention
from shardtune.trainer.setup.load_engine import Loaded


@dataclass(frozen=True)
class Start:
    """What one start of a run has to work with."""

    recipe: Recipe
    run_dir: Path
    prepared: Prepared
    ranks: Ranks
    stop: Stop
    lease: Lease
    job: str | None
    """The scheduler's name of the job of this start."""
    reporter: Reporter
    found: Found
    """The checkpoint that this start resumes from, if there is one."""
    ds_config_notice: str | None
    """What the ds_config had ignored and adopted, by the recipe as the user gave it."""
    retention: Retention
    """The prepared retention sets."""


@dataclass(frozen=True)
class Resumed:
    """The checkpoints of the run, and the state that it resumes from."""

    checkpoints: Checkpoints
    policy: CheckpointPolicy
    state: TrainState


@dataclass(frozen=True)
class Training:
    """Everything that takes part in the training."""

    loaded: Loaded
    resumed: Resumed
    steps: TrainingSteps
    evaluator: Evaluator
    stop_checks: StopChecks
    phases: Phases
    milestones: Milestones
    retention: RetentionEvaluation | None = None
    """None if there are no retention sets."""
