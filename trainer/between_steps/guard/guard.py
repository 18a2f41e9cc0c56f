"""What becomes of steps that are not to be trusted: they are counted and named, gone back from, or end the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shardtune.errors import TrainingError
from shardtune.recipe.fault_policy import FaultsConfig
from shardtune.trainer.between_steps.callback import Callback, RolledBack, StepDone
from shardtune.trainer.between_steps.guard.bad_rows import BAD_ROWS, BadRowSearch
from shardtune.trainer.between_steps.guard.spikes import is_bad, spike_limit, with_loss
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, Checkpoints
from shardtune.trainer.checkpoint.manifest import OPTIMIZER, WEIGHTS
from shardtune.trainer.checkpoint.resume import first_whole, restore, state_of
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.tasks import Task

NUM_NAMED = 5
"""Rows that an alert names; all of them are in the file."""


@dataclass(kw_only=True)
class Guard(Callback):
    """Checks the numbers of every step."""

    config: FaultsConfig
    precision: str
    policy: CheckpointPolicy
    engine: Engine
    task: Task
    checkpoints: Checkpoints
    bad_rows: BadRowSearch
    reporter: Reporter
    ranks: Ranks

    def __post_init__(self) -> None:
        self._before_bad: TrainState | None = None
        self._is_spiking = False

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        """Collective: returns the state with the loss of the step noted in it.

        Raises TrainingError if training cannot continue, RolledBack if it continues from an earlier step.
        """
        step, loss = done.step, done.loss
        if not step.micro_batches:
            return state
        if is_bad(loss, done.stats, self.precision):
            return self._count(state, done)
        limit = spike_limit(state.recent_losses, self.config.spike_deviations)
        if loss > limit and not self._is_spiking:
            self._say(step, f"the loss of step {step.number + 1} is a spike", f"it is {loss:.4g}, above {limit:.4g}")
        if loss > limit and self.config.on_spike == "rollback":
            self._roll_back(state, step)
        self._is_spiking = loss > limit
        return replace(state, bad_in_a_row=0, recent_losses=with_loss(state.recent_losses, loss))

    def _count(self, state: TrainState, done: StepDone) -> TrainState:
        """Collective: returns the state with one more bad step counted in it."""
        step, loss = done.step, done.loss
        if done.before.bad_in_a_row == 0:
            self._before_bad = done.before
        state = replace(state, bad_in_a_row=done.before.bad_in_a_row + 1)
        what = "its gradient is no finite number" if math.isfinite(loss) else f"its loss is {loss}"
        rows = _named(self.bad_rows.find(self.engine, self.task, step.number), step.num_samples)
        self._say(step, f"step {step.number + 1} has changed no weight", f"{what}; {rows}")
        if state.bad_in_a_row < self.config.max_bad_steps:
            return state
        if self._before_bad is not None:  # the weights are still those, for no step has changed them since
            self.checkpoints.save(self.engine, self._before_bad, None)
            self.checkpoints.finish()
        raise TrainingError(
            f"step {step.number + 1} is number {state.bad_in_a_row} in a row whose loss or gradient is no finite "
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
        complete = [checkpoint for checkpoint in self.checkpoints.complete() if checkpoint.step <= step.number]
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
