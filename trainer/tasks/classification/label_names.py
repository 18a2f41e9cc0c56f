"""What the problems whose labels have names share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def unknown_names(facts: Mapping[str, Any]) -> set[str]:
    return {name for counts in facts["label_counts"].values() for name in counts} - {*facts["label_names"]}


def names_config(names: Sequence[str]) -> dict[str, Any]:
    ids = {name: number for number, name in enumerate(names)}
    return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": ids}


def by_name(names: Sequence[str], scores: Tensor) -> dict[str, float]:
    return {name: round(score, 6) for name, score in zip(names, scores.tolist(), strict=True)}
