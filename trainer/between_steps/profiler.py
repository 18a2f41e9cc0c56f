"""A trace of some steps by torch's profiler (report.profile_steps)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from shardtune.run_dir.files import PROFILE
from shardtune.trainer.between_steps.callback import Callback, StepDone
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.reporting.reporter import Reporter


@dataclass(kw_only=True)
class Profiler(Callback):
    """Traces the steps from `first` to `last`, counted from 1, on rank 0: its operators, kernels and copies."""

    first: int
    last: int
    run_dir: Path
    reporter: Reporter
    ranks: Ranks
    _trace: Any = field(default=None, init=False)

    def begin(self, state: TrainState) -> TrainState:
        self._begin_before(state)
        return state

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        if state.step == self.last:
            self._end(state)
        self._begin_before(state)
        return state

    def rolled_back(self, state: TrainState) -> None:
        if self._trace is not None:
            self._trace.stop()
            self._trace = None
        self._begin_before(state)

    def finish(self, state: TrainState) -> None:
        self._end(state)

    def stop(self, state: TrainState) -> None:
        self._end(state)

    def _begin_before(self, state: TrainState) -> None:
        """Begins to trace if the first step is the next one."""
        if self.ranks.is_zero and state.step == self.first - 1:
            activities = [ProfilerActivity.CPU]
            if self.ranks.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._trace = profile(activities=activities, record_shapes=True, profile_memory=True)
            self._trace.start()

    def _end(self, state: TrainState) -> None:
        """Writes the trace, if there is one."""
        if self._trace is None:
            return
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
        self._trace.stop()
        path = self.run_dir / PROFILE / f"steps-{self.first}-{state.step}.json.gz"
        path.parent.mkdir(exist_ok=True)
        self._trace.export_chrome_trace(str(path))
        self._trace = None
        text = f"a trace of steps {self.first} to {state.step} is in {path}; open it in Perfetto or chrome://tracing"
        self.reporter.report("notice", text=text)
