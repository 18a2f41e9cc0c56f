"""Events of metrics.jsonl -> tables of samples, confusion matrices and histograms for W&B. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shardtune.run_dir.quality.retention import retention_sets
from shardtune.run_dir.quality.worst_rows import WorstRows
from shardtune.trainer.reporting.wandb_run.keys import section_of

MOST_LABELS = 50
"""A confusion matrix with more labels than this is not shown: it would have thousands of cells."""
BEFORE_AFTER = "samples/before_after"
RETAINED = "retention/table"
WORST = "samples/worst"


@dataclass(frozen=True)
class SampleTable:
    """Texts in columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class ConfusionTable:
    """How often each label was taken for each."""

    rows: Sequence[tuple[str, str, int]]
    """(true label, predicted label, number of examples)."""


@dataclass(frozen=True)
class Counts:
    """A histogram."""

    edges: Sequence[float]
    counts: Sequence[int]


Media = SampleTable | ConfusionTable | Counts


@dataclass
class Tables:
    """Follows the events of a run, and keeps what a table over several of them needs."""

    label_names: Sequence[str] | None = None
    _first: dict[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    _last: dict[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    _retained: list[Mapping[str, Any]] = field(default_factory=list)

    def of(self, event: str, values: Mapping[str, Any]) -> dict[str, Media]:
        """The tables of this event, by their keys in W&B."""
        if event == "retention":
            self._retained.append({"event": event, **{key: value for key, value in values.items() if _is_small(value)}})
        if event in ("eval", "retention"):
            return self._of_evaluation(values)
        if event == "start":
            return {
                f"data/lengths_{split}": Counts(found["edges"], found["counts"])
                for split, found in (values.get("lengths") or {}).items()
            }
        return {}

    def before_after(self) -> SampleTable | None:
        """The answers to the same prompts in the first and the last evaluation; None with fewer than two."""
        for section, first in self._first.items():
            last = {_prompt(answer): answer for answer in self._last[section]}
            both = [(answer, last[_prompt(answer)]) for answer in first if _prompt(answer) in last]
            if first is not self._last[section] and both:
                rows = [
                    [_prompt(before), before.get("reference", ""), before["answer"], after["answer"]]
                    for before, after in both
                ]
                return SampleTable(("prompt", "reference", "before", "after"), rows)
        return None

    def retained(self, results: Mapping[str, Any]) -> SampleTable | None:
        """What became of each retention set; None without any."""
        sets = retention_sets(self._retained, results)
        rows = [[each.name, each.task, each.metric, each.before, each.best, each.last, each.change] for each in sets]
        head = ("set", "task", "metric", "before", "best", "last", "change")
        return SampleTable(head, rows) if rows else None

    def _of_evaluation(self, values: Mapping[str, Any]) -> dict[str, Media]:
        found: dict[str, Media] = {}
        section = section_of(values)
        if answers := values.get("answers"):
            self._first.setdefault(section, answers)
            self._last[section] = answers
            columns = list(answers[0])
            rows = [[answer.get(column, "") for column in columns] for answer in answers]
            found[f"{section}/answers"] = SampleTable(columns, rows)
        matrix: Any = values.get("confusion")
        if _is_matrix(matrix) and len(matrix) <= MOST_LABELS:
            names = self.label_names or () if "split" in values else ()  # those of another task are not known
            names = names if len(names) == len(matrix) else [str(number) for number in range(len(matrix))]
            cells = [
                (names[true], names[taken], count) for true, row in enumerate(matrix) for taken, count in enumerate(row)
            ]
            found[f"{section}/confusion"] = ConfusionTable(cells)
        return found


def worst_table(worst: WorstRows) -> SampleTable | None:
    """The test rows with the highest loss; None without any."""
    rows = [[row.loss, *(row.values.get(name, "") for name in worst.columns), row.place] for row in worst.rows]
    return SampleTable(("loss", *worst.columns, "place"), rows) if rows else None


def _is_small(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _prompt(answer: Mapping[str, Any]) -> str:
    """What was asked: the first column that is neither an answer nor its reference."""
    return str(next((value for key, value in answer.items() if key not in ("answer", "reference")), ""))


def _is_matrix(value: Any) -> bool:
    """Whether it has one number for each pair of labels; the matrices of several labels have more dimensions."""
    if not isinstance(value, list) or not value:
        return False
    rows = [row for row in value if isinstance(row, list) and len(row) == len(value)]
    return len(rows) == len(value) and all(isinstance(number, int) for row in rows for number in row)
