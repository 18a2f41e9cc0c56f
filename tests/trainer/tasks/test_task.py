"""A task defines only what is its own: all else has a default that works."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shardtune.errors import DataError
from shardtune.rows.source import Faults, Row
from shardtune.section import TaskOptions
from shardtune.trainer.tasks import TASKS
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import IGNORED, Example
from shardtune.trainer.tasks.run_survey import survey
from shardtune.trainer.tasks.task import GeneratingTask, Task


class Smallest(Task):
    """A task of texts without labels."""

    Options = TaskOptions
    columns = ("text", "title")
    auto_model = "AutoModel"

    def check_model(self, config: Any) -> None: ...

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labeled: bool) -> list[list[Example]]:
        return [[{"input_ids": [len(row.values["text"])], "labels": [IGNORED, 1]}] for row in rows]

    def collate(self, examples: Sequence[Example]) -> Batch:
        raise NotImplementedError

    def loss_sum(self, output: Any, batch: Batch) -> Any:
        raise NotImplementedError

    def loss_of_rows(self, output: Any, batch: Batch) -> Any:
        raise NotImplementedError

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        raise NotImplementedError


def rows(*texts: Any, **others: str) -> list[Row]:
    return [Row({"text": text, **others}, Path("r.jsonl"), line) for line, text in enumerate(texts, 1)]


def test_by_default_nothing_has_to_be_known_of_the_rows_but_their_inputs_are_checked() -> None:
    assert survey(Smallest, None, {"train": rows("a", "b", title="A")}) == {}
    with pytest.raises(DataError, match=r"r.jsonl:2: text is empty"):
        survey(Smallest, None, {"train": rows("a", "", title="A")})
    with pytest.raises(DataError, match=r"r.jsonl: no column 'title'; found: text\."):
        survey(Smallest, None, {"train": rows("a")})
    assert not Smallest.survey(None).adopt({})


def test_the_defaults_are_those_of_a_task_without_labels_metrics_or_generation() -> None:
    tokenizer = SimpleNamespace(decode=lambda ids, **_: "".join(map(str, ids)))
    task = Smallest(None, {}, tokenizer, None)  # type: ignore[arg-type]
    ((example,),) = task.encode(rows("seven"), 8, labeled=True)
    assert (task.num_tokens(example), task.num_targets(example)) == (1, 1)
    assert task.preview(example) == [("5", None)]
    assert task.answer(rows("a")[0], [example], [{"x": 1}]) == {"x": 1}
    assert task.text_row("a") == {"text": "a"}
    assert (task.named_columns(None, {}), task.label_counts({}), task.model_config()) == ({}, {}, {})
    assert (task.score(None, None), task.metrics({}), task.main_metric) == ({}, {}, "loss")  # type: ignore[arg-type]
    assert not (task.packable or task.wants_target_loss or task.generation)


def test_inputs_are_texts_by_default() -> None:
    faults = Faults()
    Smallest.check_inputs(rows(7)[0], faults)
    assert faults.first == ["r.jsonl:1: text: expected a text, got 7"]


@pytest.mark.parametrize("kind", TASKS)
def test_no_task_repeats_a_default(kind: str) -> None:
    task = TASKS[kind]
    values = {name: value for name, value in vars(task).items() if isinstance(value, bool | str | tuple | frozenset)}
    assert not [name for name, value in values.items() if vars(Task).get(name) == value and not name.startswith("__")]


def test_a_generating_task_must_define_how_answers_are_scored() -> None:
    with pytest.raises(TypeError, match="collate_prompts"):
        type("Unfinished", (Smallest, GeneratingTask), {})(None, {}, None, None)
