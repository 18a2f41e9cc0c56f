"""The report of `shardtune check` on a recipe's data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardtune.trainer.tasks.task import PreviewSpan


@dataclass(frozen=True)
class Lengths:
    """How long the examples of a split are, in tokens."""

    mean: float
    median: int
    p95: int
    longest: int
    edges: list[int]
    """Edges of the histogram's bins. Bin i counts the lengths above edges[i], up to and including edges[i + 1]."""
    counts: list[int]
    full: int
    """Examples of exactly data.max_tokens: truncated, or cut into windows, or just fitting."""


@dataclass(frozen=True)
class Cut:
    """What data.max_tokens cuts off the rows of a split.

    None stands for what was not recorded: these data were prepared by an older shardtune.
    """

    rows: int | None
    """Rows that were truncated."""
    rows_percent: float | None
    tokens_lost: int | None
    """Tokens of these rows that are in no example."""
    tokens_lost_percent: float | None
    """Of all tokens of the rows that have examples."""
    is_exact: bool
    """False for chats: a long conversation is tokenized no further than needed, so at least these tokens are lost."""
    into_windows: bool
    """Longer texts were cut into windows or pieces instead, each an example: nothing is lost."""


@dataclass(frozen=True)
class SplitReport:
    """One prepared split."""

    facts: Mapping[str, Any]
    """Counts of the preparation: rows, examples, tokens, targets, rows_dropped, …"""
    labels: Mapping[str, int]
    lengths: Lengths
    cut: Cut
    previews: list[list[PreviewSpan]]


@dataclass(frozen=True)
class MemoryReport:
    """The planner's estimate of a rank's memory, in bytes."""

    num_parameters: int
    num_trained: int
    """Parameters that have a gradient and optimizer states."""
    peak: str
    """The instant of a step at which the most is held."""
    terms: Mapping[str, int]
    """What is held then: weights, gradients, optimizer, activations, logits and loss, and what is around tensors."""
    total: int


@dataclass(frozen=True)
class Report:
    """All findings of a check."""

    task: str
    model: str
    world_size: int
    splits: Mapping[str, SplitReport]
    warnings: list[str]
    """What is likely to be a mistake, with its cure."""
    notes: list[str]
    """What the preparation reported, such as a column that it guessed."""
    rows: Mapping[str, Any]
    """Counts of rows: of each source, bad ones, and duplicates within a split or between two splits."""
    steps_per_epoch: int
    num_steps: int
    micro_batch_tokens: int
    """The most tokens of a micro-batch; with auto the estimate for a machine like this one."""
    largest_micro_batch: tuple[int, int]
    """(rows, longest) of the micro-batch with the most tokens among the first steps."""
    padding_efficiency: float
    """The share of the first steps' tokens that is not padding."""
    memory: MemoryReport
    retention: Mapping[str, SplitReport]
    """The retention sets, by name."""
