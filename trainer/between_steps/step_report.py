"""The `step` events: loss, speed and memory since the last report, and which rank the others wait for."""

from dataclasses import dataclass

from shardtune.trainer.between_steps.callback import Callback, StepDone
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.memory.usage import peak_memory
from shardtune.trainer.reporting.fragmentation import Fragmentation
from shardtune.trainer.reporting.gpu_sensors import GpuSensors, render_sensors
from shardtune.trainer.reporting.meter import Meter
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.reporting.stragglers import Pace


@dataclass(kw_only=True)
class StepReport(Callback):
    """Reports every `every_steps` steps and after the last one; raises an alert for a straggler.

    memory_bytes and memory_reserved_bytes are the peaks of the rank that has most; memory_retries is the sum of the
    ranks' retries (PeakMemory). penalty is what `regularize` adds to the loss of the last step.
    """

    every_steps: int
    num_steps: int
    steps_per_epoch: int
    meter: Meter
    pace: Pace
    sensors: GpuSensors
    fragmentation: Fragmentation
    reporter: Reporter
    ranks: Ranks

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        self.meter.add(done.step, done.stats, done.loss, done.terms)
        if state.step == self.num_steps or state.step % self.every_steps == 0:
            self._report(state)
        return state

    def finish(self, state: TrainState) -> None:
        if self.meter.num_steps:  # a callback ended the training between two reports
            self._report(state)

    def _report(self, state: TrainState) -> None:
        memory = peak_memory(self.ranks.device)
        penalty = self.meter.penalty
        own = [self.meter.compute_s, memory.used, memory.reserved, memory.retries, penalty or 0.0]
        mine = [*own, *self.sensors.read()]
        num_steps, numbers = self.meter.num_steps, self.meter.report()
        if not (by_rank := self.ranks.to_zero(mine)):
            return  # rank 0 reports for all
        compute_s, used, reserved, retries, penalties, *sensors = zip(*by_rank, strict=True)
        if penalty is not None:
            numbers["penalty"] = sum(penalties)
        numbers["memory_bytes"] = int(max(used))
        if self.ranks.device.type == "cuda":
            numbers["memory_reserved_bytes"] = int(max(reserved))
            numbers["memory_retries"] = int(sum(retries))
            numbers |= render_sensors(sensors)
            if (text := self.fragmentation.alert(used, reserved, retries)) is not None:
                self.reporter.report("alert", title="GPU memory is fragmented", text=text, step=state.step)
        epoch = state.step / self.steps_per_epoch
        self.reporter.report("step", step=state.step, epoch=epoch, **numbers, **self.pace.numbers(compute_s))
        elapsed_s = num_steps * numbers["step_time_s"]
        for straggler in self.pace.add([num_steps * seconds for seconds in compute_s], elapsed_s):
            self.reporter.report("alert", title=straggler.title, text=straggler.text, step=state.step)
