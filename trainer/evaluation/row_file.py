"""The file of what each row adds to the metrics: one JSON line for each example, in the order of the split."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shardtune.errors import CheckpointError
from shardtune.json_lines import complete_lines, json_line
from shardtune.run_dir.files import published
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.evaluation.rows import LOSS, RowScores, Scored


def write_rows(path: Path, rows: RowScores, split: Split) -> None:
    """Writes the file, which appears as a whole.

    Each line has the `place` of a row, the mean `loss` of its `targets`, and what the task counts in it: in its
    `scores`, and in the generated `answer` if there is one.
    """
    answers = {} if rows.answered is None else dict(_lines(rows.answered))
    with published(path) as draft, draft.open("w", encoding="utf-8") as file:
        for example, scores in _lines(rows.passed):
            loss_sum, num_targets = (scores.pop(name) for name in LOSS)
            line = {"place": split.place(example), "loss": loss_sum / (num_targets or 1.0), "targets": num_targets}
            answer = {"answer": answers[example]} if example in answers else {}
            file.write(json_line({**line, "scores": scores, **answer}))


def read_rows(path: Path) -> tuple[RowScores, list[str]]:
    """The rows of such a file, and the place of each. Raises CheckpointError if it is not one."""
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in complete_lines(path)]
        places = [str(line["place"]) for line in lines]
        passed = [
            line["scores"] | {"loss_sum": line["loss"] * (line["targets"] or 1.0), "num_targets": line["targets"]}
            for line in lines
        ]
        answered = [(number, line["answer"]) for number, line in enumerate(lines) if "answer" in line]
        rows = list(dict.fromkeys(places))
        numbers = {place: number for number, place in enumerate(rows)}
        return RowScores(
            _scored(range(len(lines)), passed),
            _scored([number for number, _ in answered], [scores for _, scores in answered]) if answered else None,
            np.array([numbers[place] for place in places], dtype=np.int64),
        ), rows
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a file of test rows ({type(error).__name__}: {error})") from error


def _scored(examples: Sequence[int], scores: Sequence[Mapping[str, Any]]) -> Scored:
    names = scores[0] if scores else ()
    columns = {name: np.array([of_example[name] for of_example in scores]) for name in names}  # in float64
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    return Scored(np.array(examples, dtype=np.int64), tensors)


def _lines(scored: Scored) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each example, and its scores."""
    columns = {name: score.tolist() for name, score in scored.scores.items()}
    for at, example in enumerate(scored.examples.tolist()):
        yield example, {name: values[at] for name, values in columns.items()}
