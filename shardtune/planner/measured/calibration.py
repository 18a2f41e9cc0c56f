"""What `shardtune plan --calibrate` has measured on a machine, and its form in JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from shardtune.planner.measured.curves import Curve, Products

FORMAT = 1
"""Incremented whenever the numbers would mean something else, so that older files are measured anew."""
PRODUCTS = ("forward", "of_inputs", "of_weights")
"""The products of a linear layer: its output, and the gradients of its inputs and its weights."""
ELEMENTWISE = ("add", "norm", "rms_norm", "gelu", "gated", "rotary", "dropout", "bias", "lookup", "scaled")
"""Operations whose time is that of their elements, each with its seconds forward and backward. `scaled` is a product
with a number in fp32, rounded, as of the last layer's gradient: of sizes whose memory is new each time."""
ATTENTION = ("causal", "masked", "dropout")
"""Kinds of attention: with a causal mask, with another, and with a mask and dropout."""
ENGINES = ("null", "zero1", "zero2", "zero3")
"""Engines whose steps were measured without a model's computations."""
FAMILIES = ("encoder", "decoder")
"""Models of which a whole pass was measured: of the kind of BERT, and of Llama."""


@dataclass(frozen=True)
class BothWays:
    """Seconds of an operation by the number of elements."""

    forward: Curve
    backward: Curve


@dataclass(frozen=True)
class AttentionTime:
    """Seconds for each query of a head, by the length of its row."""

    head_size: int
    forward: Curve
    backward: Curve


@dataclass(frozen=True)
class EngineTime:
    """Seconds of a step in which nothing is computed: adding up and exchanging gradients, the update."""

    first: Curve
    """By the number of trained elements, with one micro-batch."""
    more: Curve
    """Each further micro-batch."""
    per_tensor: float
    """Seconds for each trained tensor beside that, in a micro-batch."""


@dataclass(frozen=True)
class WholePass:
    """What whole passes of small models take beyond the sum of their operations."""

    factor: float
    """By which that sum is multiplied."""
    layer_s: float
    """Seconds of a layer's calls, forward and backward together."""


@dataclass(frozen=True)
class Computing:
    """What ranks on CPUs reach in one precision."""

    products: Mapping[str, Products]
    """By PRODUCTS."""
    elementwise: Mapping[str, BothWays]
    """By ELEMENTWISE."""
    attention: Mapping[str, tuple[AttentionTime, ...]]
    """By ATTENTION, for several sizes of heads, in rising order."""
    loss: Curve
    """Seconds of a cross entropy and its gradient by the number of logits."""
    engines: Mapping[str, EngineTime]
    """By ENGINES."""
    passes: Mapping[str, WholePass]
    """By FAMILIES."""


@dataclass(frozen=True)
class Links:
    """Seconds of collectives between the ranks of the machine, by bytes of the whole tensor."""

    all_reduce: Curve
    all_gather: Curve
    barrier_s: float


@dataclass(frozen=True)
class CpuLayout:
    """This many ranks with this many threads each, all of which were measured at once."""

    ranks: int
    threads: int
    computing: Mapping[str, Computing]
    """By precision."""
    copy_bytes_per_s: float
    """Bytes that a rank reads and writes while the others do, too."""
    links: Links | None
    """None of a single rank."""


@dataclass(frozen=True)
class GpuLayout:
    """This many GPUs of the machine."""

    ranks: int
    tflops: Mapping[str, float]
    """Rate of large matrix products by precision, in 10^12 operations a second."""
    bandwidth_gb_s: float
    attention_tflops: float
    """Rate of the forward pass of flash attention, with heads of 128."""
    launch_s: float
    """Seconds between two kernels that Python starts."""
    host_copy_gb_s: float
    """Pinned copies between the host and a GPU."""
    links: Links | None
    """None of a single GPU."""


@dataclass(frozen=True)
class Calibration:
    """What was measured on a machine."""

    machine: str
    """Its fingerprint (shardtune/known_machine/fingerprint.py)."""
    cpus: tuple[CpuLayout, ...] = ()
    gpus: tuple[GpuLayout, ...] = ()
    disk_gb_s: float | None = None
    """Rate at which a checkpoint is written to the disk of the working directory."""
    tokens_per_s: float | None = None
    """Tokens a second that all cores together make of texts."""
    start_s: float | None = None
    """Seconds of a rank's imports and of connecting."""

    def on_cpus(self, ranks: int) -> CpuLayout | None:
        """The layout of this many ranks; None if it was not measured."""
        return next((layout for layout in self.cpus if layout.ranks == ranks), None)

    def on_gpus(self, ranks: int) -> GpuLayout | None:
        """The layout of this many GPUs, or the largest that was measured; None without one."""
        exact = [layout for layout in self.gpus if layout.ranks == ranks]
        return next(reversed(exact or sorted(self.gpus, key=lambda layout: layout.ranks)), None)

    def as_json(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        return {"format": FORMAT, **asdict(self)}


def calibration_of(value: Any) -> Calibration:
    """The inverse of as_json. Raises ValueError for anything else, and for another format."""
    try:
        if value["format"] != FORMAT:
            raise ValueError(f"it has format {value['format']}, and this version of shardtune reads {FORMAT}")
        rest = {field.name: value[field.name] for field in fields(Calibration)}
        return Calibration(**rest | {"cpus": tuple(map(_cpus, rest["cpus"])), "gpus": tuple(map(_gpus, rest["gpus"]))})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not a calibration ({type(error).__name__}: {error})") from None


def _cpus(value: Mapping[str, Any]) -> CpuLayout:
    computing = {precision: _computing(each) for precision, each in value["computing"].items()}
    return CpuLayout(**{**value, "computing": computing, "links": _links(value["links"])})


def _gpus(value: Mapping[str, Any]) -> GpuLayout:
    return GpuLayout(**{**value, "links": _links(value["links"])})


def _links(value: Mapping[str, Any] | None) -> Links | None:
    if value is None:
        return None
    return Links(_curve(value["all_reduce"]), _curve(value["all_gather"]), value["barrier_s"])


def _computing(value: Mapping[str, Any]) -> Computing:
    return Computing(
        products={
            name: Products(**{key: tuple(numbers) for key, numbers in value["products"][name].items()})
            for name in PRODUCTS
        },
        elementwise={
            name: BothWays(*(_curve(value["elementwise"][name][way]) for way in ("forward", "backward")))
            for name in ELEMENTWISE
        },
        attention={
            name: tuple(
                AttentionTime(each["head_size"], _curve(each["forward"]), _curve(each["backward"]))
                for each in value["attention"][name]
            )
            for name in ATTENTION
        },
        loss=_curve(value["loss"]),
        engines={
            name: EngineTime(_curve(each["first"]), _curve(each["more"]), each["per_tensor"])
            for name, each in value["engines"].items()
        },
        passes={name: WholePass(**each) for name, each in value["passes"].items()},
    )


def _curve(value: Mapping[str, Any]) -> Curve:
    return Curve(tuple((float(size), float(seconds)) for size, seconds in value["points"]))
