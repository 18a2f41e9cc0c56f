"""Predictions for rows, by one rank or by several: in the order of the rows, and the same on any number of ranks.

Ranks share batches, not rows: each batch is put together as a single rank would, and so has the same padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from shardtune.rows.source import Row
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.task import GeneratingTask

BATCH_ROWS, WINDOW_ROWS = 32, 1024


@dataclass(frozen=True)
class _Window:
    """Consecutive rows whose batches are made of examples of about the same length."""

    rows: Sequence[Row]
    examples_of_rows: list[list[Example]]

    @property
    def examples(self) -> list[Example]:
        return [example for of_row in self.examples_of_rows for example in of_row]

    def batches(self) -> list[list[int]]:
        """The numbers of the examples of each batch."""
        examples = self.examples
        by_length = sorted(range(len(examples)), key=lambda at: len(examples[at]["input_ids"]))
        return [by_length[first : first + BATCH_ROWS] for first in range(0, len(by_length), BATCH_ROWS)]

    def predictions(self, task: Task, answers: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
        """The prediction of each row, from the answers to all examples."""
        in_order = (answers[at] for at in range(len(answers)))
        pairs = zip(self.rows, self.examples_of_rows, strict=True)
        return [task.answer(row, examples, list(islice(in_order, len(examples)))) for row, examples in pairs]


def predict_together(
    task: Task, model: Any, tokenizer: Any, rows: Sequence[Row], max_tokens: int, ranks: Ranks | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Collective: yields the predictions of the next rows on rank 0, and empty lists on other ranks.

    All ranks have to take equally many of them. Without `ranks` this process predicts alone.
    """
    rank, world_size = (0, 1) if ranks is None else (ranks.rank, ranks.world_size)
    starts = range(0, len(rows), WINDOW_ROWS)
    for first in range(0, len(starts), world_size):
        windows = [
            _Window(window, task.encode(window, max_tokens, labeled=False))
            for start in starts[first : first + world_size]
            for window in (rows[start : start + WINDOW_ROWS],)
        ]
        batches = [(number, chosen) for number, window in enumerate(windows) for chosen in window.batches()]
        found: dict[tuple[int, int], dict[str, Any]] = {}
        for number, chosen in batches[rank::world_size]:
            examples = windows[number].examples
            answers = _answers(task, model, [examples[at] for at in chosen], tokenizer)
            found |= zip(((number, at) for at in chosen), answers, strict=True)
        parts = [found] if ranks is None else ranks.to_zero(found)
        known = {place: answer for part in parts for place, answer in part.items()}
        yield [
            prediction
            for number, window in enumerate(windows if parts else ())
            for prediction in window.predictions(task, {at: known[number, at] for at in range(len(window.examples))})
        ]


def _answers(task: Task, model: Any, examples: Sequence[Example], tokenizer: Any) -> list[dict[str, Any]]:
    import torch

    from shardtune.trainer.evaluation.generate import settings_of
    from shardtune.trainer.model.load import generate

    with torch.inference_mode():
        if not isinstance(task, GeneratingTask):
            batch = task.collate(examples).to(model.device)
            return task.predictions(model(**batch.plain_inputs), batch)
        inputs = {name: value.to(model.device) for name, value in task.collate_prompts(examples).items()}
        ids = generate(model, inputs, settings_of(task.generation, tokenizer))
        return [task.prediction(answer) for answer in tokenizer.batch_decode(ids, skip_special_tokens=True)]
