"""The table of GPUs (hardware.yaml): their peak rates, found by the names that drivers give them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

PRECISIONS = ("bf16", "fp16", "tf32", "fp32")


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU."""

    name: str
    pattern: str
    """What is found in the names that drivers give it."""
    tflops: Mapping[str, float]
    """Peak rate of dense matrix products by precision, in 10^12 operations a second."""
    source: str


@cache
def known_gpus() -> tuple[Gpu, ...]:
    """All kinds of GPUs, in the order in which their patterns are tried."""
    text = files("shardtune.planner").joinpath("hardware.yaml").read_text(encoding="utf-8")
    return tuple(
        Gpu(
            name=entry["name"],
            pattern=entry["pattern"],
            tflops={precision: float(entry[precision]) for precision in PRECISIONS if precision in entry},
            source=entry["source"],
        )
        for entry in yaml.safe_load(text)
    )


def peak_tflops(device_name: str, precision: str) -> float | None:
    """The peak rate of the GPU of this name, in 10^12 operations a second; None if it is not in the table, or has no
    tensor cores for the precision."""
    if re.search(r"\bMIG\b", device_name):
        return None
    for gpu in known_gpus():
        # No letter or digit may follow, so that an A100 is no A10.
        if re.search(rf"(?<![0-9a-z])(?:{gpu.pattern})(?![0-9a-z])", device_name, re.IGNORECASE):
            return gpu.tflops.get(precision)
    return None
