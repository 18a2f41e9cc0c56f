"""The peak of memory by strategy, measured and by the formulas that estimate it."""

from typing import Any

from benchmarks.gpu.bench import Bench, Outcome
from benchmarks.gpu.shapes import MEDIUM, TINY, shape_recipe, write_shape
from benchmarks.gpu.workers import JobFailed

NUM_STEPS = 3
TOLERANCE = 0.25
"""How far the measured peak of a GPU may be from the formulas, relative to them. They count neither the workspaces of
kernels nor fragments. What is offloaded has no bound: the formulas do not say what of it is on the GPU at a time."""
LORA_R = 16
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"lora_r": LORA_R},
    {"strategy": "zero2"},
    {"strategy": "zero3"},
    {"model": {"activation_checkpointing": True}},
    {"strategy": "zero1"},
    {"strategy": "zero0"},
    {"strategy": "zero3_offload"},
    {"strategy": "zero2_offload"},
)
"""Arguments of shape_recipe, the most important first."""
IN_TINY = (0, 1, 2)
"""The ways that are tried with --tiny."""


def run(bench: Bench, outcome: Outcome) -> None:
    """Trains a few steps in each way. On a CPU the numbers are shown only: they are those of the whole process."""
    shape = TINY if bench.device == "cpu" else MEDIUM
    is_bound = bench.device == "cuda"
    outcome.data = {"shape": shape.name, "tolerance": TOLERANCE if is_bound else None, "ways": {}}
    outcome.lines.append(f"{shape.name:26}{'peak':>12}{'reserved':>12}{'formulas':>12}{'peak / formulas':>17}")
    with bench.workers.fresh() as worker:
        write_shape(bench, worker, shape)
        for number, way in enumerate(WAYS):
            if bench.is_tiny and number not in IN_TINY:
                continue
            recipe = shape_recipe(bench, shape, num_steps=NUM_STEPS, **way)
            name = name_of(way)
            try:
                batch = {"rows": shape.at_once, "tokens": shape.max_tokens}
                formulas = bench.do(worker, "predict_memory", recipe=recipe, **batch)
                trained = bench.train(worker, f"memory-{number}", recipe, leave_after=NUM_STEPS)
            except JobFailed as error:
                outcome.failures.append(f"{name}: {error}")
                continue
            found = _compare(trained, formulas)
            outcome.data["ways"][name] = found
            outcome.lines.append(
                f"{name:26}{found['peak'] / 1e6:9,.0f} MB{found['reserved'] / 1e6:9,.0f} MB"
                f"{formulas['total'] / 1e6:9,.0f} MB{found['ratio']:17.2f}"
            )
            if is_bound and "offload" not in name and not abs(found["ratio"] - 1) <= TOLERANCE:
                outcome.failures.append(f"{name}: the peak is {found['ratio']:.2f} times what the formulas say")


def name_of(way: dict[str, Any]) -> str:
    """How a way is called in the table."""
    strategy = way.get("strategy", "null")
    if "lora_r" in way:
        return f"{strategy}, LoRA"
    return f"{strategy}, checkpointing" if "model" in way else str(strategy)


def _compare(trained: dict[str, Any], formulas: dict[str, int]) -> dict[str, Any]:
    """Bytes that the training took, reserved, and needs by the formulas; and what was left behind after it."""
    memory = trained["memory"]
    peak = memory["peak"] - memory["before"]
    return {
        "peak": peak,
        "reserved": max((step.get("memory_reserved_bytes", 0) for step in trained["steps"]), default=0),
        "formulas": formulas,
        "ratio": peak / formulas["total"],
        "left_behind": memory["after"] - memory["before"],
    }
