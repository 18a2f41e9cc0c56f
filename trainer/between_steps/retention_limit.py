"""Training ends at the first evaluation in which a retention set is beyond its limit, or it is only told of."""

from dataclasses import dataclass

from shardtune.recipe.sections.retention import RetentionConfig
from shardtune.trainer.between_steps.callback import Callback
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.reporting.reporter import Reporter


@dataclass(kw_only=True)
class RetentionLimit(Callback):
    """Keeps to retention.max_drop and retention.on_drop, by what the evaluations have left in the state."""

    stops: bool
    """Whether training ends, instead of only choosing the best model by it."""
    reporter: Reporter

    def ends_training(self, state: TrainState) -> bool:
        return self.stops and state.is_beyond_retention

    def finish(self, state: TrainState) -> None:
        if self.ends_training(state):
            text = (
                f"training ended at step {state.step}: what the model could do before has dropped by more than "
                "retention.max_drop (retention.on_drop)"
            )
            self.reporter.report("notice", text=text)
        if state.best_excess > 0:
            self.reporter.report(
                "alert",
                title="no evaluation was within retention.max_drop",
                text=f"the best model is of step {state.best_step}, which exceeds it by the least: by "
                f"{state.best_excess:.6g}",
                step=state.step,
            )


def retention_limits(config: RetentionConfig, reporter: Reporter) -> list[RetentionLimit]:
    """What keeps to the recipe's limits; empty if it has none."""
    if config.max_drop is None:
        return []
    return [RetentionLimit(stops=config.on_drop == "stop", reporter=reporter)]
