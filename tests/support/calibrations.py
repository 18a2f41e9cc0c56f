"""Calibrations made by hand, whose numbers follow from a few round ones."""

from dataclasses import replace

from shardtune.planner.measured.calibration import (
    ATTENTION,
    ELEMENTWISE,
    ENGINES,
    FAMILIES,
    PRODUCTS,
    AttentionTime,
    BothWays,
    Calibration,
    Computing,
    CpuLayout,
    EngineTime,
    GpuLayout,
    Links,
    WholePass,
)
from shardtune.planner.measured.curves import Curve, Products

RATE = 1e10
"""Multiplications a second of any product."""
ELEMENT_S = 1e-9
"""Seconds for an element of any operation forward; twice as many backward."""
QUERY_S = 1e-6
"""Seconds for a query of attention with rows of 128 tokens; twice as many backward."""
UPDATE_S = 1e-8
"""Seconds of an engine's step for an element; a tenth for each further micro-batch."""
TENSOR_S = 1e-5


def proportional(seconds: float) -> Curve:
    """So many seconds for each element."""
    return Curve(((1.0, seconds), (1e12, seconds * 1e12)))


def computing(*, speed: float = 1.0, factor: float = 1.0, layer_s: float = 0.0) -> Computing:
    """A precision in which all takes as above, divided by the speed."""
    sizes = (1.0, 1e5)
    seconds = tuple(rows * inner * columns / RATE / speed for rows in sizes for inner in sizes for columns in sizes)
    once = BothWays(proportional(ELEMENT_S / speed), proportional(2 * ELEMENT_S / speed))
    attention = AttentionTime(32, proportional(QUERY_S / 128 / speed), proportional(2 * QUERY_S / 128 / speed))
    engine = EngineTime(proportional(UPDATE_S / speed), proportional(0.1 * UPDATE_S / speed), TENSOR_S / speed)
    return Computing(
        products={name: Products(sizes, sizes, sizes, seconds) for name in PRODUCTS},
        elementwise=dict.fromkeys(ELEMENTWISE, once),
        attention={name: (attention, replace(attention, head_size=128)) for name in ATTENTION},
        loss=proportional(ELEMENT_S / speed),
        engines=dict.fromkeys(ENGINES, engine),
        passes={name: WholePass(factor, layer_s) for name in FAMILIES},
    )


def calibration(machine: str = "machine", *, speed: float = 1.0, ranks: tuple[int, ...] = (1, 2)) -> Calibration:
    """Of a machine with CPUs, in fp32 and bf16."""
    each = {"fp32": computing(speed=speed), "bf16": computing(speed=speed)}
    links = Links(proportional(1e-9), proportional(1e-9), 1e-4)
    cpus = tuple(CpuLayout(num, 2 // num or 1, each, 1e10, links if num > 1 else None) for num in ranks)
    return Calibration(machine, cpus, disk_gb_s=0.5, tokens_per_s=1e5, start_s=8.0)


def gpu_calibration(machine: str = "machine", *, bandwidth_gb_s: float = 3000.0) -> Calibration:
    """Of a machine with 8 GPUs."""
    links = Links(proportional(1e-11), proportional(1e-11), 1e-5)
    layout = GpuLayout(8, {"bf16": 700.0, "fp16": 700.0, "fp32": 50.0}, bandwidth_gb_s, 300.0, 5e-6, 50.0, links)
    return Calibration(machine, gpus=(layout,))
