"""The order of a training step, and nothing else.

What a loss is belongs to the task, how a step is computed to the engine, what happens between steps to the callbacks.
"""

from collections.abc import Iterable

import torch

from shardtune.trainer.between_steps.milestones import Milestones
from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import StopAsked
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.schedule import Schedule
from shardtune.trainer.tasks import Task


def fit(
    engine: Engine,
    task: Task,
    steps: Iterable[Step],
    state: TrainState,
    *,
    schedule: Schedule,
    ranks: Ranks,
    stop_checks: StopChecks,
    milestones: Milestones,
) -> TrainState:
    """Collective: trains until no step is left or a callback ends the training; returns the state then.

    Raises StopAsked if a rank is asked to stop, TrainingError and RolledBack as the callbacks do. milestones.state is
    the state in each case.
    """
    for step in steps:
        engine.begin_step(step.number, num_micro_batches=len(step.micro_batches))
        loss_sum = torch.zeros((), dtype=torch.float64, device=ranks.device)
        for batch in stop_checks.between(step.micro_batches):
            batch_loss = task.loss_sum(engine.forward(batch), batch)
            engine.backward(batch_loss, num_targets=step.num_targets)
            loss_sum += batch_loss.detach()
        sums = ranks.sum_later(loss_sum / step.num_targets, stop_checks.requested())
        stats = engine.step(lr=schedule(step.number))
        loss, stop = sums()
        state = milestones.step_done(state.after(step), step, stats, loss=loss)
        if stop:
            raise StopAsked
        if milestones.is_over:
            break
    return state
