"""The classification problems: each is one class in a module of its own, and one line here."""

from __future__ import annotations

from shardtune.trainer.tasks.classification.multi_label import MultiLabel
from shardtune.trainer.tasks.classification.problem import Problem
from shardtune.trainer.tasks.classification.regression import Regression
from shardtune.trainer.tasks.classification.single_label import SingleLabel

PROBLEMS: dict[str, type[Problem]] = {
    "single_label": SingleLabel,
    "multi_label": MultiLabel,
    "regression": Regression,
}
