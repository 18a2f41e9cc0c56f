"""The `compile` events: what torch.compile still compiles during training, and what to do if it does not end."""

from dataclasses import dataclass, field

from shardtune.trainer.between_steps.callback import Callback, StepDone
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.setup.compiler.compilations import USUAL, Compilations

CURE = "set engine.compile=off, or find out why with TORCH_LOGS=recompiles"


@dataclass(kw_only=True)
class CompileReport(Callback):
    """Reports, every `every_steps` steps, on the rank that has compiled most since the last report."""

    compilations: Compilations
    every_steps: int
    reporter: Reporter
    ranks: Ranks
    _told: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._number, self._seconds = self.compilations.number, self.compilations.seconds

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        if state.step % self.every_steps == 0:
            self._report(state)
        return state

    def finish(self, state: TrainState) -> None:
        self._report(state)

    def _report(self, state: TrainState) -> None:
        so_far = self.compilations
        mine = [
            so_far.number - self._number,
            so_far.seconds - self._seconds,
            so_far.number,
            so_far.most_variants,
            len(so_far.given_up),
        ]
        number, seconds, total, most_variants, given_up = map(max, zip(*self.ranks.gather_table(mine), strict=True))
        self._number, self._seconds = so_far.number, so_far.seconds
        if number:
            self.reporter.report(
                "compile", step=state.step, compilations=int(number), compile_s=seconds, total=int(total)
            )
        if most_variants > USUAL:
            text = f"one function has been compiled {int(most_variants)} times; each time takes as long as many steps"
            self._tell("torch.compile does not come to an end", text, state)
        if given_up:
            names = f" ({', '.join(dict.fromkeys(so_far.given_up))})" if so_far.given_up else ""
            text = f"{int(given_up)} functions{names} have too many variants; further ones run uncompiled, and slower"
            self._tell("torch.compile has given up", text, state)

    def _tell(self, title: str, text: str, state: TrainState) -> None:
        """Raises an alert, once."""
        if title not in self._told:
            self._told.add(title)
            self.reporter.report("alert", title=title, text=f"{text}; {CURE}", step=state.step)
