"""What a task family decides: how rows become examples, what the loss is, and what is counted when it is evaluated.

Torch is imported only inside the functions that compute, so that recipes can be read where torch is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from shardtune.section import TaskOptions
from shardtune.trainer.tasks.example import Example

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.rows.source import Faults, Row
    from shardtune.trainer.tasks.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a model that answers with a text is asked for it."""

    max_new_tokens: int
    num_beams: int = 1
    """1 is greedy search."""
    num_dev_rows: int | None = None
    """An evaluation while training asks for the answers of so many rows, evenly spaced; None for those of all."""
    num_test_rows: int | None = None
    """The same for the test at the end."""
    num_shown: int = 8
    """Answers of an evaluation that are shown to a person."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else transformers' generate is told, such as forced_bos_token_id; the exported model remembers it."""

    def num_rows(self, split: str) -> int | None:
        """How many rows of a split are asked; None for all."""
        return self.num_dev_rows if split == "dev" else self.num_test_rows


@dataclass(frozen=True)
class PerExample:
    """A score that is not added up but put together: one value, or a row of them, of each example.

    For what no sum can tell, such as a rank correlation. All of it has to fit on every rank.
    """

    values: Tensor


class PreviewSpan(NamedTuple):
    """A bit of an example's text, for a person to read."""

    text: str
    target: str | None = None
    """What is learned here: a label, or the piece itself where a model learns to say it; None if nothing is."""


Scores = Mapping[str, "Tensor | PerExample"]
"""What a task counts of a batch: tensors add up over batches and ranks, those in an Each are concatenated."""


class Survey(Protocol):
    """What has to be known of all rows before any is encoded, such as the label names.

    The rows are never all there at once: they are looked at in pieces, by several processes, and what was seen in them
    is put together; then perhaps once more, with what is known now.
    """

    facts: dict[str, Any]
    """What has been found out, once there is nothing more to learn; JSON values only."""

    def look(self, split: str, rows: Sequence[Row], faults: Faults) -> Any:
        """What is seen in some rows of a split, as little as will do; adds what is wrong with any of them."""

    def learn(self, looks: Mapping[str, Sequence[Any]], faults: Faults) -> bool:
        """Takes what was seen in all rows, by split; whether they have to be looked at again.

        `faults` are those so far. Raises DataError for what is wrong with the rows as a whole.
        """

    def recall(self, facts: Mapping[str, Any]) -> bool:
        """Takes up facts that were learned of other rows; whether `look` then finds what does not fit them."""


class Task(Protocol):
    """One task family. Rows -> facts (once, over all rows) -> examples -> batches -> loss and scores, as sums."""

    Options: ClassVar[type[TaskOptions]]
    columns: ClassVar[tuple[str, ...]]
    """The columns that every training row must have, by our names."""
    input_columns: ClassVar[tuple[str, ...]]
    """The columns that the model reads; predict needs only these."""
    column_guesses: ClassVar[Mapping[str, tuple[str, ...]]]
    """Our columns, those too that a row may do without, and the names in lower case that others give them. Where one
    is missing and a single column has one of its names, that is taken, and said."""
    lower_is_better: ClassVar[frozenset[str]]
    """The metrics of which less is more."""
    auto_model: str
    """The name of the transformers Auto class that loads the model with the right head."""
    wants_target_loss: bool
    """The model is to answer with the loss of its targets in place of logits: output.logits of shape (2,), as
    trainer/model/target_loss.py says. For large vocabularies. The batch's inputs then have the labels as `targets`, and
    its weights, if it has some, as `target_weights`."""
    packable: bool
    """Examples may share a row, as trainer/data/batches/bins.py merges them: where an example has `position_ids`,
    collate sees to it that none of those in it sees another, by these alone or by a mask, and so does score."""
    generation: Generation | None
    """How the model is asked for its answers; None for a task whose answers are not generated."""

    def __init__(
        self,
        options: Any,
        facts: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        """`config` is the pretrained model's, as it was before the task."""

    @staticmethod
    def named_columns(options: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a row has of our columns under names that only the options tell; it is given them before all else."""

    @staticmethod
    def survey(options: Any) -> Survey:
        """What has to be known of all rows, not yet begun; its `facts` go to __init__."""

    @staticmethod
    def label_counts(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
        """How often each split's rows have each label, out of the facts; empty for a task without labels."""

    @property
    def main_metric(self) -> str:
        """The metric that chooses the best model where the recipe names none."""

    def model_config(self) -> dict[str, Any]:
        """What from_pretrained is told besides the path, such as num_labels and id2label."""

    @staticmethod
    def check_inputs(row: Row, faults: Faults) -> None:
        """Adds what is wrong with the columns that the model reads, which predict needs too."""

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labelled: bool) -> list[list[Example]]:
        """Each row's examples: one, several if it is cut into windows, or none if nothing of it can be learned.

        Without labels there is at least one, and all targets are IGNORED.
        """

    def check_model(self, config: PreTrainedConfig) -> None:
        """Raises DataError if this model cannot learn this task."""

    def preview(self, example: Example) -> list[PreviewSpan]:
        """The example as the loss sees it."""

    def num_tokens(self, example: Example) -> int:
        """How many tokens it runs through the model; those of both sides of an encoder-decoder."""

    def num_targets(self, example: Example) -> float:
        """How many of its labels count, or the sum of their weights."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pads the examples into tensors of shape (rows, longest)."""

    def loss_sum(self, output: Any, batch: Batch) -> Tensor:
        """The loss summed over the batch's targets, a float32 scalar."""

    def score(self, output: Any, batch: Batch) -> Scores:
        """What is counted of a batch, under the same names for each batch."""

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """The metrics of the summed counts, among which are the evaluation's own `loss_sum` and `num_targets`."""

    def calibrate(self, dev_metrics: Mapping[str, Any]) -> None:
        """Takes from the chosen model's dev metrics what its later answers need, such as thresholds."""

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        """What the model says of each example. Not asked where answers are generated."""

    @staticmethod
    def text_row(text: str) -> dict[str, Any]:
        """The columns of a row that has only this text, for `shardtune predict --text`."""

    def answer(self, row: Row, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What it says of a whole row, from what it says of the row's examples; JSON values."""


class GeneratingTask(Task, Protocol):
    """A task whose `generation` is not None: its model answers with a text."""

    def collate_prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """What generate takes: the examples without their answers, padded on the left if the model is causal."""

    def score_answers(self, answers: Sequence[str], examples: Sequence[Example]) -> dict[str, Tensor]:
        """Counts that add up over batches and ranks; of no answers, zeros of the same names and shapes."""

    def show_answer(self, answer: str, example: Example) -> dict[str, str]:
        """A row for a person to read: what was asked, answered and expected, as `prompt`, `answer`, `reference`."""

    def prediction(self, answer: str) -> dict[str, Any]:
        """What predict says of an example whose answer this is."""
