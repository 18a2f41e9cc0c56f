"""The table of GPUs (hardware.yaml): rates, sizes and links, found by the names that drivers or users give them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from shardtune.errors import ConfigError
from shardtune.recipe.explain import did_you_mean

PRECISIONS = ("bf16", "fp16", "tf32", "fp32")
CPU = "cpu"
NUMBERS = ("memory_gib", "bandwidth_gb_s", "sms", "link_gb_s", "network_gb_s", "tdp_w")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU."""

    name: str
    pattern: str
    """What is found in the names that drivers give it."""
    aliases: tuple[str, ...] = ()
    generation: str
    tflops: Mapping[str, float]
    """Peak rate of dense matrix products by precision, in 10^12 operations a second."""
    memory_gib: float
    """Capacity in 2^30 bytes, as drivers show it."""
    bandwidth_gb_s: float
    sms: int
    """Number of multiprocessors."""
    link_gb_s: float
    """To the other GPUs of its node, in each direction."""
    network_gb_s: float
    """From its node to the others, in each direction."""
    tdp_w: float
    source: str

    @property
    def is_cpu(self) -> bool:
        """Whether this stands for a rank on processors, whose memory is its share of the machine's."""
        return self.generation == CPU


@cache
def known_gpus() -> tuple[Gpu, ...]:
    """All kinds of GPUs, in the order in which their patterns are tried."""
    text = files("shardtune.planner").joinpath("hardware.yaml").read_text(encoding="utf-8")
    return tuple(_gpu(entry) for entry in yaml.safe_load(text))


def gpus_of_file(path: Path) -> tuple[Gpu, ...]:
    """The GPUs of a table of the user's, which looks as hardware.yaml. Raises ConfigError for anything else."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = getattr(error, "strerror", None) or getattr(error, "problem", None) or error
        raise ConfigError(f"{path}: cannot be read as a table of GPUs: {what}") from None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: expected a list of GPUs, as in shardtune/planner/hardware.yaml")
    gpus = []
    for number, entry in enumerate(entries, start=1):
        if fault := _fault(entry):
            raise ConfigError(f"{path}: GPU {number}: {fault}")
        gpus.append(_gpu(entry))
    return tuple(gpus)


def find_gpu(name: str, more: Iterable[Gpu] = (), *, flag: str = "--gpu") -> Gpu:
    """The GPU of this name, alias or driver's name; `more` are looked at first. Raises ConfigError, which names the
    flag, if it is unknown."""
    gpus = (*more, *known_gpus())
    wanted = re.sub(r"[\s_]+", "-", name.strip().lower())
    for gpu in gpus:
        if wanted in (gpu.name, *gpu.aliases):
            return gpu
    if (found := _of_driver(name, gpus)) is not None and not re.fullmatch(r"[\w-]*", name):
        return found
    names = [gpu.name for gpu in gpus]
    near = did_you_mean(wanted, [*names, *(alias for gpu in gpus for alias in gpu.aliases)])
    rest = near or f"; known: {', '.join(names)}"
    raise ConfigError(f"{flag}: unknown GPU {name!r}{rest}")


def gpu_of_slurm(kind: str) -> Gpu:
    """The GPU of this type in Slurm's gres, such as a100 or nvidia_h100_80gb_hbm3. Raises ConfigError if it is
    unknown."""
    return _of_driver(re.sub(r"[_-]+", " ", kind), known_gpus()) or find_gpu(kind)


def memory_only(kind: str, num_bytes: float) -> Gpu:
    """A device (`cpu` or `cuda`) of which nothing but the memory of a rank is known: it has no rates."""
    return Gpu(
        name=kind,
        pattern="",
        generation=kind,
        tflops={},
        memory_gib=num_bytes / 2**30,
        bandwidth_gb_s=0.0,
        sms=0,
        link_gb_s=0.0,
        network_gb_s=0.0,
        tdp_w=0.0,
        source="",
    )


def peak_tflops(device_name: str, precision: str) -> float | None:
    """The peak rate of the GPU of this name, in 10^12 operations a second; None if it is not in the table, or has no
    tensor cores for the precision."""
    gpu = _of_driver(device_name, known_gpus())
    return None if gpu is None else gpu.tflops.get(precision)


def _of_driver(device_name: str, gpus: Iterable[Gpu]) -> Gpu | None:
    """The first GPU whose pattern is in the name that a driver gives; None if there is none."""
    if re.search(r"\bMIG\b", device_name):
        return None
    for gpu in gpus:
        # No letter or digit may follow, so that an A100 is no A10.
        if re.search(rf"(?<![0-9a-z])(?:{gpu.pattern})(?![0-9a-z])", device_name, re.IGNORECASE):
            return gpu
    return None


def _gpu(entry: Mapping[str, Any]) -> Gpu:
    numbers = {key: float(entry[key]) for key in NUMBERS if key != "sms"}
    return Gpu(
        name=entry["name"],
        pattern=entry.get("pattern", re.escape(entry["name"])),
        aliases=tuple(str(alias) for alias in entry.get("aliases", ())),
        generation=entry.get("generation", "unknown"),
        tflops={
            precision: float(entry["tflops"][precision]) for precision in PRECISIONS if precision in entry["tflops"]
        },
        sms=int(entry["sms"]),
        source=entry.get("source", "the user's table"),
        **numbers,
    )


def _fault(entry: Any) -> str | None:
    """What is wrong with an entry of a user's table, or None."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return "expected a mapping with a name"
    tflops = entry.get("tflops")
    if not isinstance(tflops, dict) or not tflops or not set(tflops) <= set(PRECISIONS):
        return f"tflops: expected a mapping of {', '.join(PRECISIONS)} to 10^12 operations a second"
    values = {**{f"tflops.{key}": value for key, value in tflops.items()}, **{key: entry.get(key) for key in NUMBERS}}
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            return f"{key}: expected a number above 0, got {value!r}"
    return None
