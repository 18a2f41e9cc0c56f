"""The `checkpoint` section of a recipe: what is written when, and kept."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from shardtune.section import Section


class CheckpointConfig(Section):
    """When checkpoints are saved, which ones are kept, and how the best model is chosen."""

    every_steps: PositiveInt | None = None
    """Optimizer steps between checkpoints. If neither this nor every_minutes is set, a checkpoint is saved after every
    evaluation. A new best on dev, a stop and the end of training are always saved."""
    every_minutes: PositiveFloat | None = None
    """Minutes between checkpoints; with every_steps, whichever comes first."""
    keep_last: PositiveInt = 2
    """How many of the newest checkpoints to keep. If one is damaged, the run resumes from the one before."""
    keep_best: PositiveInt = 1
    """How many of the best checkpoints on dev to keep, in addition."""
    best_metric: str | None = None
    """The dev metric that selects the best model. None uses the task's default metric."""
    average_last: Annotated[int, Field(ge=2)] | None = None
    """At the end, averages the weights of this many of the newest checkpoints, and evaluates the mean on dev; if it is
    better than the best model, it is that, and is tested and exported. These checkpoints are kept. None averages
    nothing."""
    asynchronous: bool = True
    """Training waits only until a checkpoint is copied to host memory, which needs 12 bytes per trained parameter (8
    with optim.states=bf16, and 4 more with train.ema_decay), over all ranks; the copy is written to disk in the
    background. `false` waits until it is on disk, and needs no extra memory."""
