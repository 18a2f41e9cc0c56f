"""How often the host waits for the device in a micro-batch, and the part of a step in which no kernel runs."""

from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.bench import Bench, Outcome
from benchmarks.gpu.losses import Layout, task_recipe, write_tasks
from benchmarks.gpu.shapes import MEDIUM, TINY, Shape, shape_recipe, write_shape
from benchmarks.gpu.trace import GPU_WAITS, READS, Counts, Waits, read_trace, separate
from benchmarks.gpu.workers import JobFailed, Worker

FIRST, LAST = 5, 10
"""The steps that are traced: none is the first of its shapes."""
TINY_FIRST, TINY_LAST = 3, 4
MOST = 0.01
"""Waits in a micro-batch that a GPU may have, without DeepSpeed: none, but for rounding."""
ONE, SEVERAL = 10**5, 100
"""train.micro_batch_tokens with which the rows of a step are one micro-batch, and a few."""


@dataclass(frozen=True)
class Subject:
    """A training that is traced."""

    task: str
    strategy: str | None = None
    is_lora: bool = False

    def __str__(self) -> str:
        return f"{self.task}{', LoRA' if self.is_lora else ''}, {self.strategy or 'null'}"


SUBJECTS = (
    Subject("causal"),
    Subject("classification"),
    Subject("causal", "zero2"),
    Subject("chat", is_lora=True),
    Subject("translation"),
    Subject("token_classification"),
    Subject("masked"),
    Subject("causal", "zero3"),
)
"""The most important first."""
NUM_TINY = 2


def run(bench: Bench, outcome: Outcome) -> None:
    """Traces each subject with one micro-batch a step and with several, and a larger model for the gaps."""
    outcome.data = {"subjects": {}, "gaps": {}}
    shown = READS if bench.device == "cpu" else GPU_WAITS
    outcome.lines.append(f"{'waits':32}{'a micro-batch':>14}{'the rest of a step':>20}")
    with bench.workers.fresh() as worker:
        write_tasks(bench, worker)
        for subject in SUBJECTS[: NUM_TINY if bench.is_tiny else None]:
            try:
                waits = _trace(bench, worker, subject)
            except JobFailed as error:
                outcome.failures.append(f"{subject}: {error}")
                continue
            inside, outside = (sum(per[name] for name in shown) for per in (waits.per_micro_batch, waits.per_step))
            outcome.data["subjects"][str(subject)] = {
                "per_micro_batch": dict(waits.per_micro_batch),
                "per_step": dict(waits.per_step),
                "num_micro_batches": waits.num_micro_batches,
            }
            outcome.lines.append(f"{subject!s:32}{inside:14.2f}{outside:20.2f}")
            if bench.device == "cuda" and subject.strategy is None and inside > MOST:
                outcome.failures.append(f"{subject}: the host waits {inside:.2f} times in a micro-batch")
        if bench.device == "cuda":
            _gaps(bench, worker, MEDIUM if not bench.is_tiny else TINY, outcome)


def _steps(bench: Bench) -> tuple[int, int]:
    return (TINY_FIRST, TINY_LAST) if bench.is_tiny else (FIRST, LAST)


def _trace(bench: Bench, worker: Worker, subject: Subject) -> Waits:
    """The waits of a small task; all rows of a step are its only micro-batch first, and then several."""
    first, last = _steps(bench)
    layout = Layout(bench.device, "bf16" if bench.device == "cuda" else "fp32", subject.strategy)

    def counted(tokens: int) -> Counts:
        recipe = task_recipe(
            bench, subject.task, layout, is_lora=subject.is_lora, max_steps=last + 1, micro_batch_tokens=tokens
        )
        recipe["report"]["profile_steps"] = [first, last]
        return _traced(bench, worker, f"waits-{subject}-{tokens}", recipe, last)

    return separate(counted(ONE), counted(SEVERAL), last - first + 1)


def _traced(bench: Bench, worker: Worker, run: str, recipe: dict[str, Any], last: int) -> Counts:
    """The counts of a training that is traced until the step `last`."""
    run = run.replace(" ", "-").replace(",", "")
    bench.train(worker, run, recipe, leave_after=last)
    (path,) = (bench.folder / "runs" / run / "profile").glob("*.json.gz")
    return read_trace(path)


def _gaps(bench: Bench, worker: Worker, shape: Shape, outcome: Outcome) -> None:
    """The part of some steps of a larger model in which no kernel runs. The profiler itself slows the host down."""
    first, last = _steps(bench)
    write_shape(bench, worker, shape)
    for lora_r in (None, 16):
        report = {"profile_steps": [first, last]}
        recipe = shape_recipe(bench, shape, num_steps=last, lora_r=lora_r, report=report)
        name = f"{shape.name}{'' if lora_r is None else ', LoRA'}"
        found = _traced(bench, worker, f"gaps-{name}", recipe, last)
        outcome.data["gaps"][name] = {"idle_share": found.idle_share}
        shown = "no kernels" if found.idle_share is None else f"{found.idle_share:.1%}"
        outcome.lines.append(f"{name:32}no kernel runs {shown} of the time")
