"""What a task family decides: how rows become examples, what the loss is, and what an evaluation counts.

Torch is imported only inside the functions that compute, so that recipes can be read where torch is missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from shardtune.rows.source import SourceColumns, check_text, columns_of, require_columns
from shardtune.section import TaskOptions
from shardtune.trainer.tasks.example import IGNORED, Example, texts_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.rows.source import Columns, Faults, Row
    from shardtune.trainer.tasks.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a model that answers with a text generates it."""

    max_new_tokens: int
    num_beams: int = 1
    """1 is greedy search."""
    num_dev_rows: int | None = None
    """Answers are generated for this many rows, evenly spaced, in an evaluation during training; None for all rows."""
    num_test_rows: int | None = None
    """The same for the test at the end."""
    num_shown: int = 8
    """How many answers of an evaluation are shown to the user."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of transformers' generate, such as forced_bos_token_id; the exported model keeps them."""

    def num_rows(self, split: str) -> int | None:
        """For how many rows of a split answers are generated; None for all."""
        return self.num_dev_rows if split == "dev" else self.num_test_rows


@dataclass(frozen=True)
class PerExample:
    """A score that is concatenated instead of added up: one value, or one row of values, per example.

    For metrics that no sum can give, such as a rank correlation. All values together have to fit on every rank.
    """

    values: Tensor


class PreviewSpan(NamedTuple):
    """A part of an example's text, for the user to read."""

    text: str
    target: str | None = None
    """The target here: a label, or the text itself where a model learns to generate it; None if there is no target."""


Scores = Mapping[str, "Tensor | PerExample"]
"""The counts of a batch: tensors are added up over batches and ranks, PerExample values are concatenated."""


class Survey:
    """Finds out what has to be known of all rows before any is encoded, such as the label names.

    The rows are never all in memory at once. Several processes look at pieces of them, the observations are put
    together, and another pass follows if one is needed. By default, nothing has to be known.
    """

    observed: tuple[type, ...] = ()
    """The classes of the objects that `observe` returns, and of those in them; no others are read from its files."""
    facts: dict[str, Any]
    """The result, complete once `conclude` returns False; JSON values only."""
    notes: list[str]
    """What the user should know of how the rows were read, complete at the same time."""
    is_evaluation: bool = False
    """Whether the rows are not learned: the labels in the options are those of a model that is evaluated on them."""

    def __init__(self) -> None:
        self.facts = {}
        self.notes = []

    def observe(self, split: str, rows: Sequence[Row], faults: Faults) -> Any:
        """Returns what is observed in some rows of a split, as small as possible; adds the faults of single rows."""

    def conclude(self, observations: Mapping[str, Sequence[Any]], faults: Faults) -> bool:
        """Takes the observations of all rows, by split; returns whether another pass over the rows is needed.

        `faults` are those found so far. Raises DataError for what is wrong with the rows as a whole.
        """
        return False

    @property
    def found_unlearnable(self) -> bool:
        """Whether rows outside train have labels that no training row has. Known once `conclude` has returned."""
        return False

    def is_unlearnable(self, row: Row) -> bool:
        """Whether this row is one of those."""
        return False

    def adopt(self, facts: Mapping[str, Any]) -> bool:
        """Takes facts that were learned from other rows; returns whether `observe` then finds rows that do not fit."""
        return False


class ColumnSurvey(Survey):
    """Checks the inputs of each row and that the task's columns exist; there are no facts."""

    observed = (SourceColumns,)

    def __init__(self, task: type[Task]) -> None:
        super().__init__()
        self._task = task

    def observe(self, split: str, rows: Sequence[Row], faults: Faults) -> Columns:
        for row in rows:
            self._task.check_inputs(row, faults)
        return columns_of(rows)

    def conclude(self, observations: Mapping[str, Sequence[Columns]], faults: Faults) -> bool:
        for columns in observations.values():
            require_columns(columns, self._task.columns)
        return False


class Task(ABC):
    """A task family. Rows -> facts (once, over all rows) -> examples -> batches -> loss and scores, as sums.

    A task declares Options, columns, column_guesses and auto_model, and defines check_model, encode, collate, loss_sum,
    loss_of_rows and predictions; all else has a default. A task whose model answers with a text is a GeneratingTask.
    """

    def __init__(
        self,
        options: Any,
        facts: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        """`config` is the pretrained model's, before `model_config` is applied."""
        self._options = options
        self._tokenizer = tokenizer

    # The rows.

    Options: ClassVar[type[TaskOptions]]
    columns: ClassVar[tuple[str, ...]]
    """The columns that every training row must have, by our names."""
    input_columns: ClassVar[tuple[str, ...]] = ("text",)
    """The columns that the model reads; predict needs only these."""
    column_guesses: ClassVar[Mapping[str, tuple[str, ...]]]
    """Our columns, including optional ones, and the lower-case names that others use for them. If one of ours is
    missing and exactly one column has such a name, that column is taken, and the user is told."""

    @staticmethod
    def named_columns(options: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Our columns that a row has under names that only the options tell; they are added to the row first."""
        return {}

    @classmethod
    def check_inputs(cls, row: Row, faults: Faults) -> None:
        """Adds what is wrong with the columns that the model reads, also in predict. Default: each holds a text."""
        for column in cls.input_columns:
            check_text(row, column, faults)

    @classmethod
    def text_row(cls, text: str) -> dict[str, Any]:
        """The columns of a row that has only this text, for `shardtune predict --text`."""
        return {cls.input_columns[0]: text}

    @classmethod
    def survey(cls, options: Any) -> Survey:
        """A new survey of all rows; its `facts` go to __init__."""
        return ColumnSurvey(cls)

    @staticmethod
    def label_counts(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
        """How often each label occurs in each split, from the facts; empty for a task without labels."""
        return {}

    @staticmethod
    def head_labels(facts: Mapping[str, Any]) -> list[str]:
        """The labels of the outputs of the head, in their order; empty for a task without labels."""
        return []

    @staticmethod
    def with_head_labels(facts: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        """The facts by which head_labels returns these labels, the same ones in another order."""
        raise AssertionError("a task without labels has no head for them")

    # The model.

    auto_model: str
    """The name of the transformers Auto class that loads the model with the right head."""
    wants_target_loss: bool = False
    """The model returns the loss of its targets in place of logits: output.logits of shape (2,), see
    trainer/model/target_loss.py. For large vocabularies. The batch then has Batch.with_target_inputs."""
    packable: bool = False
    """Examples may share a row, merged as in trainer/data/batches/bins.py. Where examples have `position_ids`, collate
    ensures that none in a row attends to another, by the position ids alone or by a mask, and score respects it. Where
    they also have `has_borders`, no mask is needed: borders are added to the batch (trainer/tasks/masks.py)."""
    has_row_per_example: bool = True
    """Whether an example is one row of the batch's input_ids."""
    generation: Generation | None = None
    """How answers are generated; None for a task whose answers are not generated."""
    escapes_special_tokens: bool = False
    """Whether special tokens that are literally in a text are plain text (trainer/tasks/special_tokens.py)."""

    def model_config(self) -> dict[str, Any]:
        """The arguments of from_pretrained besides the path, such as num_labels and id2label."""
        return {}

    @abstractmethod
    def check_model(self, config: PreTrainedConfig) -> None:
        """Raises DataError if this model cannot learn this task."""

    @property
    def model_notes(self) -> list[str]:
        """What the user has to know of how this model and its tokenizer are used, a line each."""
        return []

    @property
    def loss_notes(self) -> list[str]:
        """What the user has to know before comparing the loss with that of another recipe, a line each."""
        note: str | None = self._options.loss_note()
        return [] if note is None else [note]

    # The examples.

    @abstractmethod
    def encode(self, rows: Sequence[Row], max_tokens: int, *, labeled: bool) -> list[list[Example]]:
        """Each row's examples: one, several if it is cut into windows, or none if nothing in it can be learned.

        Without labels there is at least one, and all targets are IGNORED.
        """

    def preview(self, example: Example) -> list[PreviewSpan]:
        """The example as the loss sees it. Default: its tokens, without a target."""
        return [PreviewSpan(text) for text in texts_of(example["input_ids"], self._tokenizer)]

    def num_tokens(self, example: Example) -> int:
        """How many tokens run through the model; those of both sides in an encoder-decoder."""
        return len(example["input_ids"])

    def num_targets(self, example: Example) -> float:
        """How many labels count, or the sum of their weights."""
        return float(sum(label != IGNORED for label in example["labels"]))

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """The examples padded into tensors of shape (rows, longest)."""

    def notes(self, split: str, noted: Mapping[str, int]) -> list[str]:
        """What the user should know of how a split was encoded; `noted` are the sums of its examples' NOTED."""
        return []

    # Loss and metrics.

    main_metric: str = "loss"
    """The metric that chooses the best model if the recipe names none."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss"})
    """The metrics of which a lower value is better."""

    @abstractmethod
    def loss_sum(self, output: Any, batch: Batch) -> Tensor:
        """The loss summed over the batch's targets, a float32 scalar."""

    def score(self, output: Any, batch: Batch) -> Scores:
        """The counts of a batch, under the same names for each batch."""
        return {}

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """The metrics of the summed counts, which include the evaluation's own `loss_sum` and `num_targets`."""
        return {}

    # What each row adds to them. By this, intervals are estimated, and the same rows of two runs are compared.

    @property
    def proportions(self) -> frozenset[str]:
        """The metrics that are the fraction of the rows for which something is true."""
        return frozenset()

    @abstractmethod
    def loss_of_rows(self, output: Any, batch: Batch) -> Tensor:
        """The loss summed over the targets of each row, of shape (rows,).

        The batch has Batch.with_each_target, and no two examples share a row of it.
        """

    def score_rows(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """What is counted in each row of such a batch: tensors of shape (rows, …)."""
        return {}

    def totals(self, scores: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        """The counts that `metrics` takes, from those of rows, each of them counted as often as `times` says.

        Shape (rows,); integers. Default: counts of rows add up.
        """
        return summed(scores, times)

    def calibrate(self, dev_metrics: Mapping[str, Any]) -> None:
        """Takes what later answers need, such as thresholds, from the dev metrics of the chosen model."""
        return

    # The predictions.

    @abstractmethod
    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        """The model's answer for each example."""

    def answer(self, row: Row, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The answer for a whole row, from the predictions for its examples; JSON values. Default: the only one."""
        (only,) = predictions
        return only


def summed(scores: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
    """Scores of shape (rows, …) summed over the rows in float64, each row counted as often as `times` says."""
    weights = times.double()
    tables = {name: score.double().view(len(score), -1) for name, score in scores.items()}
    return {name: (weights @ table).view(scores[name].shape[1:]) for name, table in tables.items()}


class GeneratingTask(Task):
    """A task whose model answers with a text: `generation` is set, and predictions come from generated answers."""

    generation: Generation

    @abstractmethod
    def collate_prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The input of generate: the examples without their answers, padded on the left if the model is causal."""

    @abstractmethod
    def score_answers(self, answers: Sequence[str], examples: Sequence[Example]) -> dict[str, Tensor]:
        """The counts of each answer, which add up over batches and ranks: shape (answers, …), also without answers."""

    @abstractmethod
    def show_answer(self, answer: str, example: Example) -> dict[str, str]:
        """A row for the user to read: `prompt`, `answer` and `reference`."""

    @abstractmethod
    def prediction(self, answer: str) -> dict[str, Any]:
        """The prediction for an example with this generated answer."""

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        raise AssertionError("the answers of this task are generated")
