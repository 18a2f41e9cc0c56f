"""The order of a training step, and nothing else.

What is minimized belongs to the objective, how a step is computed to the engine, what happens between steps to the
callbacks.
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
from shardtune.trainer.engine.objective.objective import Objective
from shardtune.trainer.engine.schedule import Schedule


def fit(
    engine: Engine,
    objective: Objective,
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
        sums = torch.zeros(len(objective.terms), dtype=torch.float64, device=ranks.device)
        for batch in stop_checks.between(step.micro_batches):
            trained, terms = objective.sums(engine, batch)
            engine.backward(trained, num_targets=step.num_targets)
            sums += terms
        totals = ranks.sum_later(*(sums / step.num_targets), stop_checks.requested())
        stats = engine.step(lr=schedule(step.number))
        *means, stop = totals()
        state = milestones.step_done(state.after(step), step, stats, **dict(zip(objective.terms, means, strict=True)))
        if stop:
            raise StopAsked
        if milestones.is_over:
            break
    return state
