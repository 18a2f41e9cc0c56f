"""What has to hold when a run is moved, runs out of memory or saves in the background.

A run that stops on one device, precision and strategy resumes on another; too large a micro-batch is halved; and a
checkpoint that is written while training goes on is the one that training would have waited for.
"""

from typing import Any

from benchmarks.gpu.bench import Bench, Outcome
from benchmarks.gpu.losses import REFERENCE, TOLERANCE, Layout, difference, task_recipe, write_tasks
from benchmarks.gpu.workers import Worker

STOP_AT = 10
ROWS_AT_ONCE = {"cpu": 2048, "cuda": 4096}
"""Rows of a step that runs out of memory: 22 tokens each."""
SHORT_OF = {"cpu": 200 * 2**20, "cuda": 150 * 2**20}
"""Bytes that may be allocated in addition. All rows at once take more than twice as much."""
SAVES = (5, 10)
APART = 1e-2
"""How far two checkpoints may be apart, relative to how far five steps move the weights: a copy that the next step had
overwritten would be a fifth."""


def run_resumes(bench: Bench, outcome: Outcome) -> None:
    """Stops each run at a step on one layout, and resumes it on another."""
    with bench.workers.fresh() as fresh:
        write_tasks(bench, fresh)
        whole = bench.train(_worker(bench, fresh, REFERENCE), "resume-whole", task_recipe(bench, "causal", REFERENCE))
        reference = _losses(whole)
        outcome.data = {"reference": reference, "moves": []}
        for number, (one, other) in enumerate(_moves(bench)):
            run = f"resume-{number}"
            recipes = [task_recipe(bench, "causal", layout) for layout in (one, other)]
            bench.train(_worker(bench, fresh, one), run, recipes[0], stop_after=STOP_AT)
            second = bench.train(_worker(bench, fresh, other), run, recipes[1])
            apart = difference(_losses(second), reference)
            bound = max(TOLERANCE[layout.precision] for layout in (one, other))
            move = {"from": str(one), "to": str(other), "resumed_at": second["resumed_at"], "difference": apart}
            outcome.data["moves"].append({**move, "losses": _losses(second)})
            text = f"{one} -> {other}"
            outcome.lines.append(f"{text:44}at step {second['resumed_at']:3}{apart:10.1e} of {bound:.0e}")
            if second["resumed_at"] != STOP_AT:
                outcome.failures.append(f"{text}: resumed at step {second['resumed_at']}, not {STOP_AT}")
            if not apart <= bound:
                outcome.failures.append(f"{text}: a loss is off by {apart:.1e} of {bound:.0e}")


def _moves(bench: Bench) -> list[tuple[Layout, Layout]]:
    """Pairs of layouts: to stop on, and to resume on."""
    here = bench.device
    moves = [
        (Layout("cpu", "fp32", "zero3"), Layout(here, "bf16", "zero2")),
        (Layout(here, "bf16", "zero1"), Layout("cpu", "fp32", None)),
        (Layout(here, "fp32", None), Layout(here, "bf16", "zero3")),
        (Layout(here, "bf16", "zero3"), Layout(here, "fp32", "zero2")),
        (Layout(here, "bf16", "zero0"), Layout(here, "bf16", None)),
    ]
    return moves[:2] if bench.is_tiny else moves


def _worker(bench: Bench, fresh: Worker, layout: Layout) -> Worker:
    return bench.workers.on_cpu() if layout.device == "cpu" else fresh


def _losses(trained: dict[str, Any]) -> list[float | None]:
    return [step["loss"] for step in trained["steps"]]


def run_shortage(bench: Bench, outcome: Outcome) -> None:
    """Trains with less memory than the rows of a step take at once."""
    layout = Layout(bench.device, "bf16" if bench.device == "cuda" else "fp32", None)
    num_rows = ROWS_AT_ONCE[bench.device]
    train: dict[str, Any] = {"global_batch_size": num_rows, "max_steps": 2}
    with bench.workers.fresh() as worker:
        write_tasks(bench, worker)
        bench.do(worker, "write_task_rows", path=str(bench.folder / "many.jsonl"), task="causal", num_rows=num_rows)
        recipes = [
            task_recipe(bench, "causal", layout, **train, micro_batch_tokens=tokens) for tokens in (4096, "auto")
        ]
        for recipe in recipes:
            recipe["data"]["train"] = str(bench.folder / "many.jsonl")
        plenty = bench.train(worker, "shortage-none", recipes[0])
        short = bench.train(worker, "shortage", recipes[1], memory_bytes=SHORT_OF[bench.device])
    apart = difference(_losses(short), _losses(plenty))
    bound = TOLERANCE[layout.precision]
    outcome.data = {"budgets": short["budgets"], "difference": apart, "losses": _losses(short)}
    outcome.lines.append(
        f"memory ran out {len(short['budgets'])} times, then train.micro_batch_tokens was "
        f"{(short['budgets'] or ['unchanged'])[-1]}; a loss is off by {apart:.1e} of {bound:.0e}"
    )
    if not short["budgets"]:
        outcome.failures.append("memory did not run out, although less was there than the rows take at once")
    if not apart <= bound:
        outcome.failures.append(f"the losses are off by {apart:.1e} of {bound:.0e}")


def run_saves(bench: Bench, outcome: Outcome) -> None:
    """Trains twice, once with checkpoints in the background, and compares these."""
    layout = Layout(bench.device, "fp32", "zero2")
    folders = []
    with bench.workers.fresh() as worker:
        write_tasks(bench, worker)
        for is_asynchronous in (False, True):
            recipe = task_recipe(bench, "causal", layout, max_steps=12)
            every = SAVES[1] - SAVES[0]
            recipe["checkpoint"] = {"every_steps": every, "keep_last": 4, "asynchronous": is_asynchronous}
            run = f"saves-{'asynchronous' if is_asynchronous else 'synchronous'}"
            bench.train(worker, run, recipe, deterministic=True)
            folders.append(str(bench.folder / "runs" / run))
        found = bench.do(worker, "compare_checkpoints", folders=folders, steps=SAVES)
    outcome.data = {**found, "bound": APART}
    outcome.lines.append(
        f"{found['num_tensors']} tensors of step {SAVES[1]}: apart by {found['relative']:.1e} of what "
        f"{SAVES[1] - SAVES[0]} steps change"
    )
    if not found["relative"] <= APART:
        outcome.failures.append(f"the checkpoints differ by {found['relative']:.1e} of {APART:.0e}")
