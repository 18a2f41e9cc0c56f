"""What a run does about what goes wrong: the `faults` section of a recipe."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from shardtune.section import Section


class FaultsConfig(Section):
    """What is done about hangs, numbers that are none, and ranks that die (docs/reliability.md)."""

    stop_after_minutes: PositiveFloat | None = None
    """Minutes after which a start saves a checkpoint and stops, as if RUN_DIR/stop had been made. None goes on to the
    end."""
    hang_s: PositiveFloat | None = 600.0
    """Seconds without a micro-batch, on whichever rank, after which the run counts as hung: every rank writes where it
    stands to RUN_DIR/logs and ends. None waits for ever."""
    startup_hang_s: Annotated[float, Field(ge=0)] | None = 1800.0
    """The same before the training begins: the seconds that the ranks have to meet, then to load the model, then to
    make the engine, and so on. Raise it for a large model that comes from a slow disk or network. 0 or None waits for
    ever."""
    max_bad_steps: PositiveInt = 3
    """A step whose loss or gradient is no finite number changes no weight; after so many of them in a row the run ends,
    with a checkpoint from before the first."""
    spike_deviations: PositiveFloat | None = 10.0
    """A loss is a spike if it is above the median of the last 64 by more than this many of their deviations (1.4826
    times the median absolute one), and by more than half. None looks for none."""
    on_spike: Literal["alert", "rollback"] = "alert"
    """`rollback` also goes back to the newest checkpoint from before the spike, and leaves its batch out this time."""
    max_rollbacks: PositiveInt = 3
    """After so many of them, the next spike ends the run."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often `shardtune run` starts the ranks anew after one was killed, failed or hung, or a Slurm job puts itself
    back into the queue for it. It gives up earlier if three starts have ended at the same step, or if one failed before
    its first step."""
    restart_delay_s: Annotated[float, Field(ge=0)] = 5.0
    """Seconds before the first new start; before each further one twice as many, up to five minutes."""
