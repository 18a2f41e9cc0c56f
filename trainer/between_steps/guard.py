"""What becomes of steps that are not to be trusted: they are counted and named, gone back from, or end the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shardtune.errors import TrainingError
from shardtune.recipe.fault_policy import FaultsConfig
from shardtune.trainer.between_steps.bad_rows import BAD_ROWS, BadRowSearch
from shardtune.trainer.between_steps.spikes import is_bad, spike_limit, with_loss
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, Checkpoints
from shardtune.trainer.checkpoint.manifest import OPTIMIZER, WEIGHTS
from shardtune.trainer.checkpoint.resume import first_whole, restore, state_of
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine, StepStats
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.tasks import Task

NUM_NAMED = 5
"""Rows that an alert names; all of them are in the file."""


class RolledBack(Exception):
    """The training stands at an earlier step again, and is to go on from there."""

    def __init__(self, state: TrainState) -> None:
        super().__init__(f"back at step {state.step}")
        self.state = state


@dataclass
class Guard:
    """Looks at every step's numbers, on all ranks alike."""

    config: FaultsConfig
    precision: str
    policy: CheckpointPolicy
    engine: Engine
    task: Task
    checkpoints: Checkpoints
    culprits: BadRowSearch
    reporter: Reporter
    ranks: Ranks

    def __post_init__(self) -> None:
        self._before_bad: TrainState | None = None
        self._is_spiking = False

    def judge(self, before: TrainState, after: TrainState, step: Step, stats: StepStats, loss: float) -> TrainState:
        """Collective: the state after the step, with what its numbers say.

        Raises TrainingError if the training is not to go on, RolledBack if it is to go on from an earlier step.
        """
        if not step.micro_batches:
            return after
        if is_bad(loss, stats, self.precision):
            return self._count(before, after, step, loss)
        limit = spike_limit(after.recent_losses, self.config.spike_deviations)
        if loss > limit and not self._is_spiking:
            self._say(step, f"the loss of step {step.number + 1} is a spike", f"it is {loss:.4g}, above {limit:.4g}")
        if loss > limit and self.config.on_spike == "rollback":
            self._roll_back(after, step)
        self._is_spiking = loss > limit
        return replace(after, bad_in_a_row=0, recent_losses=with_loss(after.recent_losses, loss))

    def _count(self, before: TrainState, after: TrainState, step: Step, loss: float) -> TrainState:
        """Collective: one more bad step."""
        if before.bad_in_a_row == 0:
            self._before_bad = before
        after = replace(after, bad_in_a_row=before.bad_in_a_row + 1)
        what = "its gradient is no finite number" if math.isfinite(loss) else f"its loss is {loss}"
        rows = _named(self.culprits.find(self.engine, self.task, step.number), step.num_samples)
        self._say(step, f"step {step.number + 1} has changed no weight", f"{what}; {rows}")
        if after.bad_in_a_row < self.config.max_bad_steps:
            return after
        if self._before_bad is not None:  # the weights are still those, for no step has changed them since
            self.checkpoints.save(self.engine, self._before_bad, None)
            self.checkpoints.finish()
        raise TrainingError(
            f"step {step.number + 1} is number {after.bad_in_a_row} in a row whose loss or gradient is no finite "
            f"number (faults.max_bad_steps), so the run ends. None of them has changed a weight. {rows[0].upper()}"
            f"{rows[1:]}. Mend or remove such rows; if there are none, lower optim.lr, or train in bf16 instead of fp16"
        )

    def _roll_back(self, state: TrainState, step: Step) -> None:
        """Collective: raises RolledBack from the newest checkpoint before the step, if there is one."""
        if len(state.left_out) >= self.config.max_rollbacks:
            raise TrainingError(
                f"the loss of step {step.number + 1} is a spike, after {len(state.left_out)} rollbacks already "
                "(faults.max_rollbacks), so the run ends. Lower optim.lr or optim.max_grad_norm, or look at the rows"
            )
        self.checkpoints.finish()
        complete = [its for its in self.checkpoints.complete() if its.step <= step.number]
        newest = first_whole(complete[::-1], self.ranks, (WEIGHTS, OPTIMIZER))
        if newest is None:
            self._say(step, "there is no rollback", "no checkpoint is from before the spike")
            return
        restore(self.engine, newest)
        self.reporter.go_back(newest.step)
        text = f"the batch of step {step.number + 1} is left out this time"
        self._say(step, f"the run goes on from step {newest.step}", text)
        left_out = (*state.left_out, step.number)
        raise RolledBack(replace(state_of(newest, complete, self.policy), left_out=left_out))

    def _say(self, step: Step, title: str, text: str) -> None:
        self.reporter.report("alert", title=title, text=text, step=step.number + 1)


def _named(places: Sequence[str], num_rows: int) -> str:
    """What is known of the rows to blame."""
    if not places:
        return "no row of it gives such a loss alone"
    if len(places) == num_rows > 1:
        return "every row of it gives such a loss: the model's own weights are to blame"
    more = f" and {len(places) - NUM_NAMED} more" if len(places) > NUM_NAMED else ""
    return f"to blame: {', '.join(places[:NUM_NAMED])}{more} (all are in {BAD_ROWS})"
