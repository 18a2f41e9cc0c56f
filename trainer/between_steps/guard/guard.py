"""What follows from a non-finite step or a loss spike: an alert that names rows, a rollback, or an error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shardtune.counted import counted
from shardtune.errors import TrainingError
from shardtune.recipe.sections.fault_policy import FaultsConfig
from shardtune.trainer.between_steps.callback import Callback, RolledBack, StepDone
from shardtune.trainer.between_steps.guard.bad_rows import BAD_ROWS, BadRowSearch
from shardtune.trainer.between_steps.guard.spikes import is_bad, spike_limit, with_loss
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, Checkpoints
from shardtune.trainer.checkpoint.manifest import OPTIMIZER, WEIGHTS
from shardtune.trainer.checkpoint.resume import first_whole, restore, state_of
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.distributed.background import run_on_zero
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.tasks import Task

NUM_NAMED = 5
"""Rows that an alert names; the file lists all of them."""


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
            return self._count_bad(state, done)
        limit = spike_limit(state.recent_losses, self.config.spike_deviations)
        if loss > limit and not self._is_spiking:
            self._alert(step, f"loss spike at step {step.number + 1}", f"the loss is {loss:.4g}, above {limit:.4g}")
        if loss > limit and self.config.on_spike == "rollback":
            self._roll_back(state, step)
        self._is_spiking = loss > limit
        return replace(state, bad_in_a_row=0, recent_losses=with_loss(state.recent_losses, loss))

    def _count_bad(self, state: TrainState, done: StepDone) -> TrainState:
        """Collective: returns the state with one more bad step counted in it."""
        step, loss = done.step, done.loss
        if done.before.bad_in_a_row == 0:
            self._before_bad = done.before
        state = replace(state, bad_in_a_row=done.before.bad_in_a_row + 1)
        what = "gradient is non-finite" if math.isfinite(loss) else f"loss is {loss}"
        rows = _describe(self.bad_rows.find(self.engine, self.task, step.number), step.num_samples)
        self._alert(step, f"step {step.number + 1} was skipped: {what}", rows)
        if state.bad_in_a_row < self.config.max_bad_steps:
            return state
        if self._before_bad is not None:  # no step has changed the weights since
            self.checkpoints.save(self.engine, self._before_bad, None)
            self.checkpoints.finish()
        steps = counted(state.bad_in_a_row, "step")
        raise TrainingError(
            f"{steps} in a row (up to step {step.number + 1}) had a non-finite loss or gradient, which is the limit "
            f"of faults.max_bad_steps. They were skipped, so the weights are unchanged. {rows[0].upper()}{rows[1:]}. "
            "Fix or remove such rows; if there are none, lower optim.lr, or train in bf16 instead of fp16"
        )

    def _roll_back(self, state: TrainState, step: Step) -> None:
        """Collective: restores the newest checkpoint from before the step and raises RolledBack, if one exists.

        Raises TrainingError after too many rollbacks.
        """
        if len(state.left_out) >= self.config.max_rollbacks:
            raise TrainingError(
                f"loss spike at step {step.number + 1} after {len(state.left_out)} rollbacks, which is the limit of "
                "faults.max_rollbacks. Lower optim.lr or optim.max_grad_norm, or check the rows of this step"
            )
        self.checkpoints.finish()
        complete = run_on_zero(self.ranks, self.checkpoints.complete)
        complete = [checkpoint for checkpoint in complete if checkpoint.step <= step.number]
        newest = first_whole(complete[::-1], self.ranks, (WEIGHTS, OPTIMIZER))
        if newest is None:
            self._alert(step, "rollback is not possible", "no checkpoint from before the spike exists")
            return
        restore(self.engine, newest)
        self.reporter.go_back(newest.step)
        text = f"the batch of step {step.number + 1} will be skipped"
        self._alert(step, f"rolled back to step {newest.step}", text)
        left_out = (*state.left_out, step.number)
        raise RolledBack(replace(state_of(newest, complete, self.policy), left_out=left_out))

    def _alert(self, step: Step, title: str, text: str) -> None:
        self.reporter.report("alert", title=title, text=text, step=step.number + 1)


def _describe(places: Sequence[str], num_rows: int) -> str:
    """What is known about the rows that caused a bad step."""
    if not places:
        return "no single row of this step gives a non-finite loss"
    if len(places) == num_rows > 1:
        return "every row of this step gives a non-finite loss, so the weights of the model are the cause"
    more = f" and {len(places) - NUM_NAMED} more" if len(places) > NUM_NAMED else ""
    return f"rows with a non-finite loss: {', '.join(places[:NUM_NAMED])}{more} (all are listed in {BAD_ROWS})"
