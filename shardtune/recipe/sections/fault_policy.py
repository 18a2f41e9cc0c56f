"""The `faults` section of a recipe: how a run handles failures."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from shardtune.section import Section


class FaultsConfig(Section):
    """How a run handles hangs, non-finite numbers and ranks that die (docs/reliability.md)."""

    stop_after_minutes: PositiveFloat | None = None
    """Minutes after which a start saves a checkpoint and stops, as if RUN_DIR/stop had been created. None runs until
    training is finished."""
    hang_s: PositiveFloat | None = 600.0
    """Seconds without a finished micro-batch on any one rank after which the run counts as hung: every rank writes its
    stack traces to RUN_DIR/logs and exits. None waits forever."""
    startup_hang_s: Annotated[float, Field(ge=0)] | None = 1800.0
    """The same before training begins, for each phase separately: connecting the ranks, loading the model, creating the
    engine, and so on, in seconds. Raise it for a large model on a slow disk or network. 0 or None waits forever."""
    max_bad_steps: PositiveInt = 3
    """A step with a non-finite loss or gradient is skipped. After this many such steps in a row the run ends, with a
    checkpoint from before the first of them."""
    spike_deviations: PositiveFloat | None = 10.0
    """A loss is a spike if it exceeds the median of the last 64 losses by more than this many deviations (1.4826 times
    the median absolute deviation) and by more than half of that median. None disables spike detection."""
    on_spike: Literal["alert", "rollback"] = "alert"
    """`alert` only reports a spike; `rollback` also returns to the newest checkpoint from before it, and skips the
    batch that caused it."""
    max_rollbacks: PositiveInt = 3
    """After this many rollbacks, the next spike ends the run."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often the ranks are restarted after one was killed, failed or hung, by `shardtune run`, or on Slurm within
    the job (which requeues itself if it cannot restart them there). Every new checkpoint starts the count again. It
    gives up earlier if three starts ended at the same step, or if one failed before its first step."""
    restart_delay_s: Annotated[float, Field(ge=0)] = 5.0
    """Seconds before the first restart; the delay doubles with each further one, up to five minutes."""
