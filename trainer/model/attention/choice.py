"""Which attention implementation a model runs with, and why none faster; decided from what was observed, and pure."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from shardtune.errors import ConfigError

VARLEN = "varlen"
FLEX, SDPA, EAGER = "flex_attention", "sdpa", "eager"
FLASH = {version: f"flash_attention_{version}" for version in (2, 3, 4)}
LEAST_CAPABILITY = {VARLEN: (8, 0), FLEX: (8, 0), FLASH[2]: (8, 0), FLASH[3]: (9, 0), FLASH[4]: (9, 0)}
"""Implementation -> the first compute capability that it is taken for. Flash attention 3 runs on 8.0 too, but is made
for 9.0."""
MOST_CAPABILITY = {FLASH[3]: (9, 9)}
"""Implementation -> the last one that it has kernels for."""
CALLED_WITH = frozenset({"scale", "window_size", "enable_gqa"})
"""Parameters of varlen_attn that torch 2.10 does not have, and later versions do."""
LARGEST_HEAD, HEAD_MULTIPLE = 256, 8
"""What torch's flash kernel computes: heads of at most this size, a multiple of this."""
DESCRIBED = {
    VARLEN: "torch's flash kernel, within the borders of texts",
    FLEX: "compiled for the mask of packed rows",
    SDPA: "torch's scaled_dot_product_attention",
    EAGER: "unfused",
} | dict.fromkeys(FLASH.values(), "of the flash-attn package")


@dataclass(frozen=True)
class Machine:
    """What was observed of the machine."""

    device: str
    """The type: cpu, cuda, …"""
    capability: tuple[int, int] = (0, 0)
    """The compute capability of a CUDA device."""
    torch: str = ""
    varlen: frozenset[str] | None = None
    """The parameters of torch's varlen_attn, or None if this torch has none."""
    flash: frozenset[int] = frozenset()
    """The versions of flash attention that can be loaded."""
    has_triton: bool = False
    """Whether there is what compiles flex_attention for GPUs."""


@dataclass(frozen=True)
class Needs:
    """What was observed of the model and its task."""

    name: str
    """The model's class."""
    head_sizes: frozenset[int] = frozenset()
    """The sizes of heads of queries, keys and values."""
    has_flash: bool = True
    """Whether transformers has flash attention for it, and lets implementations be registered."""
    has_sdpa: bool = True
    has_flex: bool = True
    has_own_kernels: bool = False
    """Whether it needs kernels of its own, for attention sinks."""
    reads_mask: bool = False
    """Whether something besides attention reads the mask: the loss of a router."""
    dropout: float = 0.0
    """The largest probability with which attention weights are dropped in training."""
    softcap: bool = False
    """Whether scores are capped."""
    crosses: bool = False
    """Whether it also attends to another text: an encoder-decoder."""
    is_packed: bool = False
    """Whether texts may share a row."""


@dataclass(frozen=True)
class Choice:
    """The implementation, by its name for transformers; None leaves it to transformers."""

    implementation: str | None
    notice: str | None = None
    """What the user should know of it."""


def choose(asked: str, machine: Machine, needs: Needs, precision: str) -> Choice:
    """The implementation for `model.attention: asked`. Raises ConfigError if it is not `auto` and cannot be had."""
    if asked != "auto":
        if (fault := fault_of(asked, machine, needs, precision)) is not None:
            raise ConfigError(f"model.attention: {asked} {fault}; set it to auto")
        is_reference = asked == VARLEN and machine.device == "cpu"
        note = (
            f"attention: {asked}, which on a CPU attends to one text after another, for tests" if is_reference else None
        )
        return Choice(asked, note)
    if machine.device != "cuda":
        return Choice(None)
    better: list[str] = []
    for name in _from_best(machine.capability, is_packed=needs.is_packed):
        if (fault := fault_of(name, machine, needs, precision)) is None:
            return Choice(name, "; ".join([f"attention: {name} ({DESCRIBED[name]})", *better]))
        better.append(f"{name} {fault}")
    raise AssertionError("every model has eager attention")


def _from_best(capability: tuple[int, int], *, is_packed: bool) -> Iterator[str]:
    """The implementations for a GPU, the fastest first."""
    if capability >= (10, 0):
        yield FLASH[4]
    elif capability >= (9, 0):
        yield from (FLASH[3], FLASH[4])
    yield from (VARLEN, FLASH[2])
    if is_packed:  # without packed rows there is no mask that sdpa would be slow for
        yield FLEX
    yield from (SDPA, EAGER)


def fault_of(name: str, machine: Machine, needs: Needs, precision: str) -> str | None:
    """Why the implementation cannot be used, as the rest of a sentence that begins with its name; None if it can."""
    return next(_faults(name, machine, needs, precision), None)


def _faults(name: str, machine: Machine, needs: Needs, precision: str) -> Iterator[str]:
    is_flash = name in FLASH.values()
    if name == EAGER:
        return
    if name == SDPA:
        if not needs.has_sdpa:
            yield f"is not supported by transformers for {needs.name}"
        return
    if name != VARLEN or machine.device != "cpu":  # there is a reference of varlen for CPUs
        yield from _faults_of_machine(name, machine, precision)
    if not (needs.has_flex if name == FLEX else needs.has_flash):
        yield f"is not supported by transformers for {needs.name}"
    if needs.has_own_kernels:
        yield f"lacks the attention sinks of {needs.name}"
    if needs.dropout and name != FLASH[2]:
        yield f"has no dropout, and the model's attention has {needs.dropout:g} (model.dropout=0 drops nothing)"
    if needs.softcap and name in (VARLEN, FLASH[4]):
        yield f"has no soft cap of scores, which {needs.name} needs"
    if name == VARLEN:
        if needs.reads_mask:
            yield f"has no mask, which the router of {needs.name} reads (output_router_logits in its config.json)"
        if needs.crosses:
            yield f"attends within a text only, and {needs.name} has an encoder and a decoder"
        if machine.device != "cpu":
            yield from _faults_of_heads(needs.head_sizes)
    if name == VARLEN and machine.varlen is None:
        yield f"is missing from torch {machine.torch}"
    elif name == VARLEN and (lacking := CALLED_WITH - (machine.varlen or frozenset())):
        yield f"of torch {machine.torch} lacks {', '.join(sorted(lacking))}"
    elif is_flash and int(name[-1]) not in machine.flash:
        yield "is not installed (flash-attn, or kernels with its files from the hub)"


def _faults_of_machine(name: str, machine: Machine, precision: str) -> Iterator[str]:
    if machine.device != "cuda":
        yield f"trains on GPUs only, and this run is on {machine.device}"
    elif not LEAST_CAPABILITY[name] <= machine.capability <= MOST_CAPABILITY.get(name, machine.capability):
        yield f"is not for GPUs of compute capability {machine.capability[0]}.{machine.capability[1]}"
    elif name == FLEX and not machine.has_triton:
        yield "is compiled by triton, which is not installed"
    if name != FLEX and precision not in ("bf16", "fp16"):
        yield f"computes in bf16 and fp16, and engine.precision is {precision}"


def _faults_of_heads(sizes: Collection[int]) -> Iterator[str]:
    if len(set(sizes)) > 1:
        yield f"needs queries and values of one size, and these have {' and '.join(map(str, sorted(sizes)))}"
    for size in sizes:
        if size > LARGEST_HEAD or size % HEAD_MULTIPLE:
            yield f"needs heads of at most {LARGEST_HEAD}, a multiple of {HEAD_MULTIPLE}, and these have {size}"
