"""What a trace of torch's profiler says of the host: how often it waits for the GPU, and when no kernel runs."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GPU_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls of the CUDA runtime that return when the GPU has caught up. (cudaMemcpyAsync to pageable memory is followed by
cudaStreamSynchronize.)"""
READS = ("aten::_local_scalar_dense", "aten::nonzero")
"""Operators that need a value of the device: each waits for a GPU, and on a CPU shows where it would."""
LOOKUP = "aten::embedding"
"""Called equally often in each forward pass of a model."""
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True)
class Counts:
    """What some steps did."""

    waits: Mapping[str, int]
    """By the name of the call."""
    num_lookups: int
    idle_share: float | None
    """The part of the time between the first and the last kernel in which none ran; None if there was none."""


def read_trace(path: Path) -> Counts:
    """The counts of the trace in a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return count(json.load(file)["traceEvents"])


def count(events: Iterable[Mapping[str, Any]]) -> Counts:
    """The counts of a trace's events."""
    names: Counter[str] = Counter()
    spans = []
    for event in events:
        if event.get("ph") != "X":
            continue
        names[event["name"]] += 1
        if event.get("cat") in ON_GPU:
            spans.append((event["ts"], event["ts"] + event["dur"]))
    return Counts({name: names[name] for name in (*GPU_WAITS, *READS)}, names[LOOKUP], idle_share(spans))


def idle_share(spans: Sequence[tuple[float, float]]) -> float | None:
    """The part of the time between the first begin and the last end that no span covers; None without spans."""
    busy, covered_to = 0.0, float("-inf")
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, covered_to))
        covered_to = max(covered_to, end)
    if not spans or (whole := covered_to - min(spans)[0]) <= 0:
        return None
    return 1 - busy / whole


@dataclass(frozen=True)
class Waits:
    """Waits of a micro-batch, and of the rest of a step, by the name of the call."""

    per_micro_batch: Mapping[str, float]
    per_step: Mapping[str, float]
    num_micro_batches: float
    """Of a step with several."""


def separate(one: Counts, several: Counts, num_steps: int) -> Waits:
    """What belongs to a micro-batch, and what to a step: from a trace of so many steps of one micro-batch each, and one
    of the same steps in several micro-batches."""
    more = several.num_lookups / one.num_lookups
    per_micro_batch = {name: (several.waits[name] - one.waits[name]) / (num_steps * (more - 1)) for name in one.waits}
    per_step = {name: one.waits[name] / num_steps - per_micro_batch[name] for name in one.waits}
    return Waits(per_micro_batch, per_step, more)
