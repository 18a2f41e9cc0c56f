"""From what models make of rows to a list of the suspicious ones, the worst first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.evaluation.suspects.confident import Judged, suggested
from shardtune.trainer.evaluation.suspects.judge import JudgedSplit
from shardtune.trainer.tasks.example import IGNORED

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class JudgedRows:
    """Some rows, and what one model makes of them."""

    split: str
    """The split of the run that they are in."""
    is_unseen: bool
    """Whether the model was not trained on them."""
    is_of_fold: bool
    """Whether one of the models of a cross-validation judged them; otherwise that of the run did."""
    rows: Split
    judged: JudgedSplit
    has_several_labels: bool = False
    """Whether a text may have any number of labels, each of which is right or wrong by itself."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return int(self.rows.row_of_example.max(initial=-1)) + 1

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """The mean loss per target of each row; minus infinity for a row without targets."""
        rows = self.rows.row_of_example[self.judged.examples]
        sums, counts = (np.bincount(rows, values) for values in (self.judged.loss_sums, self.judged.num_targets))
        means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(sums), -np.inf), where=counts > 0)
        return means


@dataclass(frozen=True)
class Suspect:
    """A suspicious row."""

    place: str
    """The file and the line."""
    split: str
    is_unseen: bool
    """Whether the model that judged it was not trained on it."""
    loss: float
    """The mean loss of its targets."""
    text: str
    """What the model reads, in one line; of a long row the window that is suspicious."""
    label: str | None = None
    """The label in the data; None for a task without labels, as are the next four."""
    predicted: str | None = None
    """The label that it should rather have."""
    label_probability: float | None = None
    predicted_probability: float | None = None
    word: str | None = None
    """The word whose label it is; None where a whole text has the label."""
    num_labels: int = 1
    """How many labels of the row are suspected; this is the least likely one."""


def renamed(judged: Judged, own: Sequence[str], names: Sequence[str], *, has_several_labels: bool) -> Judged:
    """The labels by the numbers of these names, of which another model had only some, or in another order."""
    if list(own) == list(names):
        return judged
    numbers = np.array([names.index(name) for name in own])
    if has_several_labels:
        return replace(judged, questions=numbers[judged.questions])
    probabilities = np.zeros((len(judged), len(names)), dtype=np.float32)
    probabilities[:, numbers] = judged.probabilities
    return replace(judged, given=numbers[judged.given], probabilities=probabilities)


def suspected_labels(parts: Sequence[JudgedRows], names: Sequence[str], tokenizer: Any) -> list[Suspect]:
    """The rows with labels that their models disagree with, those with the least likely label first.

    Rows that their models were not trained on are judged by confident learning: those of all folds together, as in the
    paper, and those of the run's own model by themselves, because it has seen more rows and is more confident. Of rows
    that a model was trained on, all that it would label otherwise are listed: it is nearly always sure of those, right
    or wrong, so that no threshold means much. `names` are those of the classes.
    """
    found = []
    for is_unseen, is_of_fold in ((True, False), (True, True), (False, False)):
        chosen = [
            part
            for part in parts
            if (part.is_unseen, part.is_of_fold) == (is_unseen, is_of_fold) and part.judged.labels is not None
        ]
        labels = [part.judged.labels for part in chosen if part.judged.labels is not None]
        if labels:
            judged = Judged.joined(labels)
            rather = suggested(judged) if is_unseen else judged.likeliest
            part_of_label = np.repeat(np.arange(len(labels)), [len(of_part) for of_part in labels])
            for suspects in _by_row(chosen, part_of_label, judged, rather):
                part = chosen[int(part_of_label[suspects[0]])]
                found.append(_suspect(part, judged, int(suspects[0]), rather, len(suspects), names, tokenizer))
    return sorted(found, key=lambda suspect: (suspect.label_probability or 0.0, suspect.place))


def _by_row(parts: Sequence[JudgedRows], part_of_label: Numbers, judged: Judged, rather: Numbers) -> Iterator[Numbers]:
    """The suspicious labels of each row that has any, the least likely one first."""
    suspects = np.flatnonzero(rather != judged.given)
    by_row: dict[tuple[int, int], list[int]] = {}
    rows = [part.rows.row_of_example for part in parts]
    for label in suspects[np.argsort(judged.probability_of(judged.given)[suspects], kind="stable")].tolist():
        part = int(part_of_label[label])
        by_row.setdefault((part, int(rows[part][judged.examples[label]])), []).append(label)
    yield from map(np.array, by_row.values())


def _suspect(
    part: JudgedRows, judged: Judged, label: int, rather: Numbers, num_labels: int, names: Sequence[str], tokenizer: Any
) -> Suspect:
    number, position = int(judged.examples[label]), int(judged.positions[label])
    (example,) = part.rows.examples(np.array([number]))
    given, predicted = int(judged.given[label]), int(rather[label])
    has_words = len(example["labels"]) == len(example["input_ids"]) if isinstance(example["labels"], list) else False

    def name(label_class: int) -> str:
        if not part.has_several_labels:
            return names[label_class]
        return f"{'' if label_class else 'not '}{names[int(judged.questions[label])]}"

    return Suspect(
        place=part.rows.place(number),
        split=part.split,
        is_unseen=part.is_unseen,
        loss=float(part.losses[part.rows.row_of_example[number]]),
        text=text_of(example, tokenizer),
        label=name(given),
        predicted=name(predicted),
        label_probability=float(judged.probabilities[label, given]),
        predicted_probability=float(judged.probabilities[label, predicted]),
        word=_word_at(example, position, tokenizer) if has_words and not part.has_several_labels else None,
        num_labels=num_labels,
    )


def highest_losses(parts: Sequence[JudgedRows], tokenizer: Any, *, most: int) -> list[Suspect]:
    """The rows with the highest mean loss per target, at most so many of them, the highest first."""
    found = [
        (float(part.losses[row]), number, row)
        for number, part in enumerate(parts)
        for row in np.argsort(-part.losses, kind="stable")[:most].tolist()
        if np.isfinite(part.losses[row])
    ]
    found.sort(key=lambda entry: (-entry[0], *entry[1:]))
    return [_of_loss(parts[number], row, loss, tokenizer) for loss, number, row in found[:most]]


def _of_loss(part: JudgedRows, row: int, loss: float, tokenizer: Any) -> Suspect:
    at = np.flatnonzero(part.rows.row_of_example[part.judged.examples] == row)
    means = part.judged.loss_sums[at] / np.maximum(part.judged.num_targets[at], 1e-9)
    number = int(part.judged.examples[at[int(means.argmax())]])
    (example,) = part.rows.examples(np.array([number]))
    label = f"{example['labels']:g}" if isinstance(example["labels"], float) else None
    return Suspect(part.rows.place(number), part.split, part.is_unseen, loss, text_of(example, tokenizer), label)


def text_of(example: dict[str, Any], tokenizer: Any) -> str:
    """What a model reads in an example, in one line; behind an arrow, what a decoder is to answer."""
    text = str(tokenizer.decode(example["input_ids"], skip_special_tokens=True))
    if "decoder_input_ids" in example:
        answer = [label for label in example["labels"] if label != IGNORED]
        text = f"{text} -> {tokenizer.decode(answer, skip_special_tokens=True)}"
    return " ".join(text.split())


def _word_at(example: dict[str, Any], position: int, tokenizer: Any) -> str:
    """The word whose first piece is at this position."""
    after = next(
        (at for at in range(position + 1, len(example["labels"])) if example["labels"][at] != IGNORED),
        len(example["labels"]),
    )
    words = str(tokenizer.decode(example["input_ids"][position:after], skip_special_tokens=True)).split()
    return words[0] if words else ""
