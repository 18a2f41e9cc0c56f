"""What `shardtune check` finds out about a recipe's data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardtune.trainer.setup.footprint import Footprint
from shardtune.trainer.tasks.task import PreviewSpan


@dataclass(frozen=True)
class Lengths:
    """How long the examples of a split are, in tokens."""

    mean: float
    median: int
    p95: int
    longest: int
    edges: list[int]
    """Of the histogram's bins, from the first one's lower to the last one's upper."""
    counts: list[int]
    full: int
    """Examples of exactly data.max_tokens: truncated, or cut into windows, or just fitting."""


@dataclass(frozen=True)
class SplitReport:
    """One split, prepared."""

    facts: Mapping[str, Any]
    """What was counted while it was prepared: rows, examples, tokens, targets, rows_dropped, …"""
    labels: Mapping[str, int]
    lengths: Lengths
    previews: list[list[PreviewSpan]]


@dataclass(frozen=True)
class Report:
    """All that was found out."""

    task: str
    model: str
    world_size: int
    splits: Mapping[str, SplitReport]
    notes: list[str]
    """What the preparation had to say, such as a column that it guessed."""
    rows: Mapping[str, Any]
    """The rows of each source, those that are bad, and those that are there twice, within a split or in two of them."""
    steps_per_epoch: int
    num_steps: int
    micro_batch_tokens: int
    """What a micro-batch may have at most; with auto as estimated for a machine like this one."""
    largest_micro_batch: tuple[int, int]
    """(rows, longest) of the most tokens among the first steps."""
    padding_efficiency: float
    """The part of the first steps' tokens that is not padding."""
    memory: Footprint
