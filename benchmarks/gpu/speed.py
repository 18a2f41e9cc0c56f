"""Tokens per second and model FLOPs utilization of a 1B and an 8B Llama, by kernels, beside transformers.Trainer."""

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu.bench import Bench, Outcome
from benchmarks.gpu.losses import difference
from benchmarks.gpu.shapes import (
    LLAMA_1B,
    LLAMA_8B,
    TINY,
    Shape,
    folder_of,
    needs_disk,
    sequences_of,
    shape_recipe,
    write_shape,
)
from benchmarks.gpu.variants import Variant, variants
from benchmarks.gpu.workers import JobFailed

LORA_R = 16
OURS, TRAINER = "shardtune", "Trainer"
MARKED_GPUS = re.compile(r"H200|H100(?! (PCIe|NVL))")
"""The GPUs that the marks are for, by the names that the driver gives them: 989 TFLOP/s dense in bf16."""
LORA_8B_TOKENS_PER_S = 12_500
"""40 % of 989 TFLOP/s at 4 operations a weight and token. NVIDIA NeMo Automodel's performance summary has 12,473 on an
H100, with r 16 and rows of 4,096 tokens."""
FULL_1B_MFU = 0.45
"""OLMo-core's README has 47 % for 7B, and 55,000 tokens/s for 1B, on H100s (2025-03)."""
TIMES_TRAINER = 1.3
"""Of the Trainer with the same kernels."""
LOSS_TOLERANCE = 2e-2
"""How far the loss of a step may be from that of the first measurement of the same model, relative to it: kernels round
differently in bf16, and the Trainer draws other adapters."""
FITS = 0.95
"""The part of a GPU's memory that a training may take by the formulas; others are not tried."""
LEAST_S = {"tiny": 1.0, "1B": 30.0, "8B": 45.0}
"""Seconds that a measurement takes at least; it is not begun with less."""


@dataclass(frozen=True)
class Measurement:
    """One training to measure."""

    shape: Shape
    lora_r: int | None
    variant: Variant
    side: str = OURS

    @property
    def model(self) -> str:
        return f"{self.shape.name} {'full' if self.lora_r is None else 'LoRA'}"

    @property
    def num_steps(self) -> int:
        return 5 if self.shape is LLAMA_8B else 10

    def __str__(self) -> str:
        return f"{self.model}, {self.variant.name}, {self.side}"


def measurements(found: Sequence[Variant], *, is_gpu: bool, has_trainer: bool) -> list[Measurement]:
    """All measurements, the most important first: those that the marks are about, then the other variants."""
    if not is_gpu:
        models: list[tuple[Shape, int | None]] = [(TINY, LORA_R), (TINY, None)]
        ways = [replace(way, missing=way.missing or "not on a CPU, nor with --tiny") for way in found[1:]]
        found = [found[0], *ways]
    else:
        models = [(LLAMA_8B, LORA_R), (LLAMA_1B, None)]
    able = [way for way in found if way.missing is None]
    first = next((way for way in able[1:2]), able[0])  # with varlen attention, if there is any
    order = [first, *(way for way in found if way is not first)]
    sides = (OURS, TRAINER) if has_trainer else (OURS,)
    marked = [Measurement(*model, first, side) for model in models for side in sides]
    rest = [Measurement(*model, way) for way in order[1:] for model in reversed(models)]
    trainers = [Measurement(*model, way, TRAINER) for way in order[1:] for model in reversed(models) if has_trainer]
    more = [Measurement(LLAMA_1B, LORA_R, first), Measurement(LLAMA_8B, None, first)] if is_gpu else []
    return [*marked, *rest, *more, *(each for each in trainers if each.variant.missing is None)]


def run(bench: Bench, outcome: Outcome) -> None:
    """Measures as many as there is time for, each in a process of its own, and compares them with the marks."""
    installed = bench.facts["optional"]
    is_gpu, has_trainer = bench.device == "cuda" and not bench.is_tiny, "accelerate" in installed
    outcome.data = {"measurements": {}}
    outcome.lines.append(
        f"{'':34}{'tokens/s':>10}{'TFLOP/s':>9}{'MFU':>7}{'peak':>10}{'step':>9}{'first and last loss':>22}"
    )
    if not has_trainer:
        outcome.skipped.append("transformers.Trainer: accelerate is not installed")
    found: dict[Measurement, dict[str, Any]] = {}
    try:
        for each in measurements(variants(installed), is_gpu=is_gpu, has_trainer=has_trainer):
            if (numbers := _attempt(bench, each, outcome)) is not None:
                found[each] = numbers
                _with_flops(found, each)
                outcome.data["measurements"][str(each)] = numbers
                outcome.lines.append(render(each, numbers))
    finally:
        judge(found, bench.facts["name"], outcome)


def _attempt(bench: Bench, each: Measurement, outcome: Outcome) -> dict[str, Any] | None:
    """The numbers of a measurement; None if it cannot be done or fails, which the outcome then says."""
    reason = each.variant.missing or needs_disk(bench, each.shape)
    if reason is None and bench.left_s < LEAST_S[each.shape.name]:
        reason = "no time is left for it"
    if reason is not None:
        outcome.skipped.append(f"{each}: {reason}")
        return None
    try:
        return measure(bench, each, outcome)
    except JobFailed as error:
        outcome.failures.append(f"{each}: {error}")
        return None


def measure(bench: Bench, each: Measurement, outcome: Outcome) -> dict[str, Any] | None:
    """The numbers of a measurement; None if its memory would not suffice."""
    recipe = recipe_of(bench, each)
    with bench.workers.fresh() as worker:
        write_shape(bench, worker, each.shape)
        if each.side == OURS and bench.device == "cuda":
            needs = bench.do(
                worker, "predict_memory", recipe=recipe, rows=each.shape.at_once, tokens=each.shape.max_tokens
            )
            if needs["total"] > FITS * bench.facts["memory_bytes"]:
                outcome.skipped.append(f"{each}: does not fit by the formulas ({needs['total'] / 1e9:.0f} GB)")
                return None
        run = str(each).replace(" ", "-").replace(",", "")
        if each.side == OURS:
            return _of_ours(bench.train(worker, run, recipe, leave_after=each.num_steps))
        return _of_trainer(bench.do(worker, "train_by_trainer", **trainer_settings(bench, each)))


def recipe_of(bench: Bench, each: Measurement) -> dict[str, Any]:
    """The recipe of a measurement."""
    sections: dict[str, dict[str, str]] = {"model": {}, "engine": {}}
    for key, value in each.variant.keys.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    return shape_recipe(
        bench,
        each.shape,
        num_steps=each.num_steps,
        lora_r=each.lora_r,
        model=sections["model"],
        engine=sections["engine"],
    )


def trainer_settings(bench: Bench, each: Measurement) -> dict[str, Any]:
    """The arguments of benchmarks.gpu.trainer_side.Training for a measurement."""
    folder = folder_of(bench, each.shape)
    return {
        "model": str(folder / "model"),
        "rows": str(folder / "train.jsonl"),
        "sequences": sequences_of(each.shape),
        "at_once": each.shape.at_once,
        "num_steps": each.num_steps,
        "lora_r": each.lora_r,
        "learning_rate": recipe_of(bench, each)["optim"]["lr"],
        "folder": str(bench.folder / "runs" / "trainer"),
        **each.variant.of_trainer,
    }


def _of_ours(trained: dict[str, Any]) -> dict[str, Any]:
    steps = trained["steps"]
    late = steps[len(steps) // 2 :]
    return {
        "losses": [step["loss"] for step in steps],
        **{name: statistics.median(step[name] for step in late) for name in ("tokens_per_s", "tflops_per_s", "mfu")},
        "step_s": statistics.median(step["step_time_s"] for step in late),
        "padding_efficiency": late[-1]["padding_efficiency"],
        "is_packed": trained["is_packed"],
        "peak": trained["memory"]["peak"] - trained["memory"]["before"],
    }


def _of_trainer(trained: dict[str, Any]) -> dict[str, Any]:
    step_s = statistics.median(trained["step_s"][len(trained["step_s"]) // 2 :])
    return {
        "losses": trained["losses"],
        "tokens_per_s": trained["num_tokens"] / step_s,
        "step_s": step_s,
        "peak": trained["memory"]["peak"] - trained["memory"]["before"],
    }


def _with_flops(found: dict[Measurement, dict[str, Any]], each: Measurement) -> None:
    """Gives a measurement of the Trainer its rate, by the operations that shardtune counts for the same model."""
    ours = [numbers for other, numbers in found.items() if other.side == OURS and other.model == each.model]
    if each.side == TRAINER and ours:
        faster = found[each]["tokens_per_s"] / ours[0]["tokens_per_s"]
        found[each] |= {name: ours[0][name] * faster for name in ("tflops_per_s", "mfu")}


def render(each: Measurement, numbers: dict[str, Any]) -> str:
    rate = f"{numbers['tflops_per_s']:9.3g}{numbers['mfu']:7.1%}" if "mfu" in numbers else f"{'?':>9}{'?':>7}"
    losses = f"{numbers['losses'][0]:11.4f}{numbers['losses'][-1]:11.4f}"
    return (
        f"{each!s:34}{numbers['tokens_per_s']:10,.0f}{rate}{numbers['peak'] / 1e9:7.2f} GB"
        f"{numbers['step_s']:7.3f} s{losses}"
    )


def judge(found: dict[Measurement, dict[str, Any]], gpu: str, outcome: Outcome) -> None:
    """Compares the losses with each other, and the speed with the marks; on another GPU the marks are only shown."""
    for each, numbers in found.items():
        first = next(numbers for other, numbers in found.items() if other.model == each.model)
        length = min(len(first["losses"]), len(numbers["losses"]))
        apart = difference(numbers["losses"][:length], first["losses"][:length])
        numbers["difference"] = apart
        if not apart <= LOSS_TOLERANCE:
            outcome.failures.append(f"{each}: a loss is off by {apart:.1e} of {LOSS_TOLERANCE:.0e}")
    is_marked = MARKED_GPUS.search(gpu) is not None
    outcome.data["marks"] = {}
    for name, value, mark in marks(found):
        outcome.data["marks"][name] = {"value": value, "mark": mark, "is_compared": is_marked}
        outcome.lines.append(f"{name}: {value:,.4g}, mark {mark:,.4g}{'' if is_marked else ' (for an H100 or H200)'}")
        if is_marked and value < mark:
            outcome.failures.append(f"{name}: {value:,.4g} is below {mark:,.4g}")


def marks(found: dict[Measurement, dict[str, Any]]) -> Iterator[tuple[str, float, float]]:
    """Name, value and mark of what was measured; each is better when it is larger."""
    for model, name, mark in (("8B LoRA", "tokens_per_s", LORA_8B_TOKENS_PER_S), ("1B full", "mfu", FULL_1B_MFU)):
        values = [numbers[name] for each, numbers in found.items() if each.model == model and each.side == OURS]
        if values:
            yield f"{model}, {name}", max(values), mark
    for each, numbers in found.items():
        if each.side == OURS and (other := found.get(replace(each, side=TRAINER))) is not None:
            ratio = numbers["tokens_per_s"] / other["tokens_per_s"]
            yield f"{each.model}, {each.variant.name}, times transformers.Trainer", ratio, TIMES_TRAINER
