"""The same steps on every device, in every precision and strategy: the losses have to be those of a CPU in fp32."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from benchmarks.gpu.bench import Bench, Outcome
from benchmarks.gpu.rows import ROWS
from benchmarks.gpu.workers import JobFailed, OutOfTime, Worker

NUM_STEPS = 20
NUM_ROWS = 64
BATCH = 16
MAX_TOKENS = 48
"""The longest row has 41 words and two special tokens."""
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""How far a loss may be from the reference, relative to it. Sums are rounded in another order on another device, and 20
steps enlarge the difference; bf16 has 8 bits."""
STRATEGIES = (None, "zero2", "zero3", "zero1", "zero0")
OPTIONS: dict[str, dict[str, Any]] = {
    "causal": {"kind": "language_modeling"},
    "masked": {"kind": "language_modeling"},
    "chat": {"kind": "chat", "max_new_tokens": 8},
}
"""Task of benchmarks/gpu/rows.py -> the task section of its recipe, where that says more than the name."""


@dataclass(frozen=True)
class Layout:
    """Where and how a training computes."""

    device: str
    precision: str
    strategy: str | None
    """engine.deepspeed."""

    def __str__(self) -> str:
        return f"{self.device} {self.precision} {self.strategy or 'null'}"


REFERENCE = Layout("cpu", "fp32", None)


@dataclass(frozen=True)
class Training:
    """A training of this part."""

    task: str
    is_lora: bool
    layout: Layout

    @property
    def subject(self) -> str:
        return f"{self.task}, LoRA" if self.is_lora else self.task

    @property
    def run(self) -> str:
        return f"losses {self.subject} {self.layout}".replace(" ", "-").replace(",", "")


def task_recipe(bench: Bench, task: str, layout: Layout, *, is_lora: bool = False, **train: Any) -> dict[str, Any]:
    """A recipe of a small task, on a layout; `train` are keys of its train section."""
    folder = bench.folder / "tasks" / task
    return bench.recipe(
        task=OPTIONS.get(task, {"kind": task}),
        model={"path": str(folder / "model"), "lora": {"r": 4} if is_lora else None},
        data={"train": str(folder / "train.jsonl"), "max_tokens": MAX_TOKENS, "length_window": 2},
        train={"global_batch_size": BATCH, "max_steps": NUM_STEPS, **train},
        optim={"lr": 3e-3, "warmup_steps": 2},
        engine={"deepspeed": layout.strategy, "precision": layout.precision},
        job={"device": layout.device},
    )


def layouts(device: str) -> list[Layout]:
    """All layouts but the reference, the most important first."""
    found = [Layout(device, precision, strategy) for strategy in STRATEGIES for precision in ("fp32", "bf16")]
    return [layout for layout in found if layout != REFERENCE]


def trainings(device: str, *, is_tiny: bool) -> list[Training]:
    """All trainings, the references and the most important first."""
    references = [Training(task, lora, REFERENCE) for lora in (False, True) for task in ROWS]
    others = [
        Training(task, lora, layout)
        for lora in (False, True)
        for layout in layouts(device)
        for task in ROWS
        if not lora or layout.strategy in (None, "zero2", "zero3")
    ]
    if is_tiny:
        references = [training for training in references if not training.is_lora or training.task == "chat"]
        others = [training for training in others if _is_in_tiny(training)]
    return references + others


def _is_in_tiny(training: Training) -> bool:
    """Whether a training is among the few: every strategy for one task, one strategy for every task."""
    layout = training.layout
    if training.is_lora:
        return training.task == "chat" and (layout.precision, layout.strategy) == ("fp32", "zero2")
    if layout.precision == "bf16":
        return training.task == "causal" and layout.strategy is None
    return training.task == "causal" or layout.strategy == "zero2"


def write_tasks(bench: Bench, worker: Worker) -> None:
    """Writes the models and the rows of all tasks, unless they are there."""
    if not (bench.folder / "tasks").exists():
        bench.do(worker, "write_tasks", folder=str(bench.folder / "tasks"), num_rows=NUM_ROWS)


def run(bench: Bench, outcome: Outcome) -> None:
    """Trains everything, the devices and precisions side by side, and compares the losses."""
    write_tasks(bench, bench.workers.on_cpu())
    todo = trainings(bench.device, is_tiny=bench.is_tiny)
    losses: dict[Training, list[float]] = {}
    try:
        _train_in_lanes(bench, todo, losses, outcome)
    finally:
        summarize(todo, losses, outcome)


def _train_in_lanes(
    bench: Bench, todo: Sequence[Training], losses: dict[Training, list[float]], outcome: Outcome
) -> None:
    """Fills `losses`; on a GPU the CPU, fp32 and bf16 train at the same time, in processes of their own."""
    lanes = {key: list(group) for key, group in groupby(sorted(todo, key=_lane), key=_lane)}
    with ThreadPoolExecutor(len(lanes)) as threads, ExitStack() as stack:  # the processes end first, then the threads
        works = []
        for (device, *_), lane in lanes.items():
            worker = bench.workers.on_cpu() if device == "cpu" else stack.enter_context(bench.workers.fresh())
            works.append(threads.submit(_train_all, bench, worker, lane, losses, outcome))
        for work in works:
            work.result()


def _lane(training: Training) -> tuple[str, ...]:
    """What trains in one process: the device first, and on a GPU the precision, and whether it is the slow stage."""
    layout = training.layout
    if layout.device == "cpu":
        return ("cpu",)
    return layout.device, layout.precision, "zero3" if layout.strategy == "zero3" else ""


def _train_all(
    bench: Bench, worker: Worker, todo: Sequence[Training], losses: dict[Training, list[float]], outcome: Outcome
) -> None:
    """Trains one after another, until the time is used up or the process dies."""
    for training in todo:
        recipe = task_recipe(bench, training.task, training.layout, is_lora=training.is_lora)
        try:
            steps = bench.train(worker, training.run, recipe)["steps"]
            losses[training] = [step["loss"] for step in steps]
        except JobFailed as error:
            outcome.failures.append(f"{training.subject} on {training.layout}: {error}")
            if not worker.is_alive:
                return
        except OutOfTime:
            return


def difference(losses: Sequence[float | None], reference: Sequence[float | None]) -> float:
    """The largest difference of a step's loss, relative to the reference's; infinite if one has no number, or another
    number of steps."""
    pairs = list(zip(losses, reference, strict=False))
    if len(losses) != len(reference) or not pairs:
        return math.inf
    apart = [
        math.inf if one is None or other is None else abs(one - other) / max(abs(other), 1e-6) for one, other in pairs
    ]
    return max(apart) if all(map(math.isfinite, apart)) else math.inf


def summarize(todo: Sequence[Training], losses: dict[Training, list[float]], outcome: Outcome) -> None:
    """Compares what was trained with its references, and fills the table."""
    outcome.data = {"tolerance": TOLERANCE, "num_steps": NUM_STEPS, "tasks": {}}
    width = max(len(str(training.layout)) for training in todo)
    for subject, group in groupby(sorted(todo, key=lambda each: each.subject), key=lambda each: each.subject):
        outcome.data["tasks"][subject] = {}
        for training in sorted(group, key=lambda each: each.layout != REFERENCE):
            if (found := losses.get(training)) is None:
                outcome.skipped.append(f"{subject} on {training.layout}")
                continue
            reference = losses.get(Training(training.task, training.is_lora, REFERENCE), [])
            apart = difference(found, reference)
            bound = TOLERANCE[training.layout.precision]
            outcome.data["tasks"][subject][str(training.layout)] = {"losses": found, "difference": apart}
            outcome.lines.append(
                f"{subject:28}{training.layout!s:{width + 2}}{found[0]:9.5f} -> {found[-1]:9.5f}"
                f"{apart:10.1e} of {bound:.0e}"
            )
            if not apart <= bound:
                outcome.failures.append(f"{subject} on {training.layout}: a loss is off by {apart:.1e} of {bound:.0e}")
