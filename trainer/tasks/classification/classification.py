"""Classification of texts and of pairs of texts: what a row is, and how it becomes a batch.

What its label is, and what the loss and the metrics of it are, is its problem's to say (classification_problems.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from shardtune.errors import DataError
from shardtune.recipe.tasks.classification import ClassificationOptions
from shardtune.rows.source import Columns, Faults, Row, check_text, columns_of, require_columns
from shardtune.section import TaskOptions
from shardtune.trainer.tasks.classification.problems import PROBLEMS, Problem
from shardtune.trainer.tasks.example import TRUNCATED, Example, texts_of
from shardtune.trainer.tasks.task import Generation, PreviewSpan, Scores, Survey

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchEncoding, PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.trainer.tasks.batch import Batch


class _Look(NamedTuple):
    columns: Columns
    num_rows: int
    num_pairs: int
    labels: Any
    """As the problem counts them."""


class ClassificationSurvey:
    """Whether the rows are pairs, and what the problem has to know of their labels."""

    def __init__(self, options: ClassificationOptions) -> None:
        self._options = options
        self._problem = PROBLEMS[options.problem]
        self._is_again = False
        self.facts: dict[str, Any] = {}

    def look(self, split: str, rows: Sequence[Row], faults: Faults) -> _Look | None:
        if self._is_again:
            self._find_misfits(rows, faults)
            return None
        labels = []
        for row in rows:
            _check_texts(row, faults, has_pairs="text_pair" in row.values)
            label = row.values.get("label")
            try:
                labels.append(self._problem.parse(label, self._options))
            except ValueError as error:
                faults.add(row, "no label" if label is None else f"label: {error} {label!r:.60}")
        num_pairs = sum("text_pair" in row.values for row in rows)
        return _Look(columns_of(rows), len(rows), num_pairs, self._problem.count(labels))

    def learn(self, looks: Mapping[str, Sequence[Any]], faults: Faults) -> bool:
        if self._is_again:
            return False
        every = [look for its in looks.values() for look in its]
        has_pairs = any(look.num_pairs for look in every)
        for its in looks.values():
            wanted = [*Classification.columns, *(["text_pair"] if has_pairs else [])]
            require_columns([look.columns for look in its], wanted)
        counted = {split: [look.labels for look in its] for split, its in looks.items()}
        path = next((path for look in looks["train"] for path, _ in look.columns.values()), None)
        facts = self._problem.survey(self._options, counted, path, are_sound=not faults)
        self.facts = {"has_pairs": has_pairs, **facts}
        self._is_again = True
        are_mixed = has_pairs and any(look.num_pairs < look.num_rows for look in every)
        return are_mixed or bool(self._problem.unknown(facts))

    def recall(self, facts: Mapping[str, Any]) -> bool:
        self.facts = dict(facts)
        self._is_again = True
        return True

    def _find_misfits(self, rows: Sequence[Row], faults: Faults) -> None:
        """Adds the rows that are not as all the others are."""
        source = "task.label_names" if self._options.label_names else "the training rows"
        legal = self.facts.get("label_names", ())
        known = {*legal}
        for row in rows:
            if self.facts["has_pairs"] and "text_pair" not in row.values:
                faults.add(row, "no text_pair")
            if not known:
                continue
            with suppress(ValueError):  # which has been said
                parsed = self._problem.parse(row.values.get("label"), self._options)
                for name in [parsed] if isinstance(parsed, str) else parsed:
                    if name not in known:
                        listed = ", ".join(sorted(legal)[:20])
                        faults.add(row, f"label {name!r} is not in {source}; legal: {listed}")


class Classification:
    """Rows of `text`, `label` and, in all rows or in none, `text_pair`."""

    Options: ClassVar[type[TaskOptions]] = ClassificationOptions
    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    input_columns: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    column_guesses: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("sentence", "content", "review", "body", "comment", "question", "sentence1", "question1", "premise"),
        "text_pair": ("sentence2", "question2", "hypothesis"),
        "label": ("labels", "sentiment", "class", "target", "category", "intent", "topic", "rating", "score"),
    }
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "mse", "mae"})
    auto_model: str = "AutoModelForSequenceClassification"
    wants_target_loss: bool = False
    packable: bool = False
    generation: Generation | None = None

    def __init__(
        self,
        options: ClassificationOptions,
        facts: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        self._options = options
        self._problem: Problem = PROBLEMS[options.problem](options, facts)
        self._has_pairs: bool = facts["has_pairs"]
        self._tokenizer = tokenizer
        if tokenizer.pad_token is None:
            # Of causal language models. The end of text pads them, here and wherever the exported model is used.
            tokenizer.pad_token = tokenizer.eos_token

    @property
    def main_metric(self) -> str:
        return self._problem.main_metric

    @staticmethod
    def named_columns(options: ClassificationOptions, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    @staticmethod
    def survey(options: ClassificationOptions) -> Survey:
        return ClassificationSurvey(options)

    def model_config(self) -> dict[str, Any]:
        # A causal model's head reads the last token that is not padding, which it knows by this number.
        return {**self._problem.model_config(), "pad_token_id": self._tokenizer.pad_token_id}

    def check_model(self, config: PreTrainedConfig) -> None:
        from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise DataError(f"model.path: transformers has no classification head for {config.model_type} models")
        if self._tokenizer.pad_token is None:
            raise DataError("model.path: the tokenizer has no pad_token and no eos_token; name one in its config")
        if self._has_pairs and "token_type_ids" in self._tokenizer.model_input_names:
            model: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
            if "token_type_ids" not in signature(model.forward).parameters:
                raise DataError(
                    f"model.path: the tokenizer makes token_type_ids for a text_pair, but {model.__name__} takes none; "
                    'set "model_input_names": ["input_ids", "attention_mask"] in its tokenizer_config.json'
                )

    @staticmethod
    def check_inputs(row: Row, faults: Faults) -> None:
        _check_texts(row, faults, has_pairs="text_pair" in row.values)

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labelled: bool) -> list[list[Example]]:
        faults = Faults()
        for row in rows:
            if self._has_pairs and "text_pair" not in row.values:
                faults.add(row, "no text_pair; the model has learned from pairs")
        faults.raise_if_any()
        texts = [row.values["text"] for row in rows]
        pairs = [row.values["text_pair"] for row in rows] if self._has_pairs else None
        # Of two texts the longer one is truncated, token by token.
        encoded = self._tokenizer(texts, pairs, truncation="longest_first", max_length=max_tokens)
        kept = ["input_ids", *(["token_type_ids"] if pairs and "token_type_ids" in encoded else [])]
        labels = [self._problem.parse(row.values["label"], self._options) if labelled else None for row in rows]
        examples = [
            {**{name: encoded[name][at] for name in kept}, "labels": self._problem.encode(label)}
            for at, label in enumerate(labels)
        ]
        for at, example in enumerate(examples):
            if labelled and len(example["input_ids"]) == max_tokens:
                example[TRUNCATED] = self._num_lost(encoded, at, texts[at], pairs[at] if pairs else None)
        return [[example] for example in examples]

    def _num_lost(self, encoded: BatchEncoding, at: int, text: str, pair: str | None) -> int:
        """The number of tokens that truncation took from one text or pair of `encoded`."""
        if pair is None and encoded.encodings is not None:
            rest = encoded.encodings[at].overflowing
            return sum(len(part.ids) - sum(part.special_tokens_mask) for part in rest)
        # What overflows of a pair comes in every combination of its two sides, and slow tokenizers do not keep it.
        whole = self._tokenizer(text, pair, verbose=False)["input_ids"]
        return len(whole) - len(encoded["input_ids"][at])

    @staticmethod
    def label_counts(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
        counts: Mapping[str, Mapping[str, int]] = facts.get("label_counts", {})
        return counts

    def preview(self, example: Example) -> list[PreviewSpan]:
        pieces = [PreviewSpan(text) for text in texts_of(example["input_ids"], self._tokenizer)]
        return [*pieces, PreviewSpan(" ", self._problem.show(example["labels"]))]

    def num_tokens(self, example: Example) -> int:
        return len(example["input_ids"])

    def num_targets(self, example: Example) -> int:
        return self._problem.num_targets(example["labels"])

    def collate(self, examples: Sequence[Example]) -> Batch:
        import torch

        from shardtune.trainer.tasks.batch import Batch, pad

        ids = [example["input_ids"] for example in examples]
        inputs = {
            "input_ids": pad(ids, self._tokenizer.pad_token_id),
            "attention_mask": pad([[1] * len(row) for row in ids], 0),
        }
        if "token_type_ids" in examples[0]:
            inputs["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
        return Batch(inputs, torch.tensor([example["labels"] for example in examples]))

    def loss_sum(self, output: Any, batch: Batch) -> Tensor:
        """The problem's loss in float32; output.logits of shape (rows, outputs of the head)."""
        return self._problem.loss_sum(output.logits.float(), batch)

    def score(self, output: Any, batch: Batch) -> Scores:
        return self._problem.score(output.logits.float(), batch)

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        return self._problem.metrics(totals)

    def calibrate(self, dev_metrics: Mapping[str, Any]) -> None:
        self._problem.calibrate(dev_metrics)

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        return self._problem.predictions(output.logits.float())

    @staticmethod
    def text_row(text: str) -> dict[str, Any]:
        return {"text": text}

    def answer(self, row: Row, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        (only,) = predictions
        return only


def _check_texts(row: Row, faults: Faults, *, has_pairs: bool) -> None:
    check_text(row, "text", faults)
    if has_pairs:
        check_text(row, "text_pair", faults)
