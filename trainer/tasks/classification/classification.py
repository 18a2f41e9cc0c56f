"""Classification of texts and of pairs of texts: what a row is, and how it becomes a batch.

The problem (problems.py) decides what a label is, and its loss and metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from shardtune.errors import DataError
from shardtune.recipe.tasks.classification import ClassificationOptions
from shardtune.rows.source import (
    Columns,
    Faults,
    Row,
    SourceColumns,
    check_text,
    columns_of,
    require_columns,
    shown,
)
from shardtune.trainer.tasks.classification.label_lists import MisfitError
from shardtune.trainer.tasks.classification.plain_texts import PlainTexts
from shardtune.trainer.tasks.classification.problem import Problem
from shardtune.trainer.tasks.classification.problems import PROBLEMS
from shardtune.trainer.tasks.example import TRUNCATED, Example
from shardtune.trainer.tasks.plain_text import mark_special, special_notes
from shardtune.trainer.tasks.special_tokens import special_in
from shardtune.trainer.tasks.task import PreviewSpan, Scores, Survey, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchEncoding, PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.trainer.tasks.batch import Batch


class _Observation(NamedTuple):
    """What is observed in some rows."""

    columns: Columns
    num_rows: int
    num_pairs: int
    labels: Any
    """The labels, as the problem counts them."""


class ClassificationSurvey(Survey):
    """Finds out whether the rows are pairs, and what the problem has to know of their labels."""

    def __init__(self, options: ClassificationOptions) -> None:
        super().__init__()
        self._options = options
        self._problem = PROBLEMS[options.problem]
        self.observed = (_Observation, SourceColumns, *self._problem.counted)
        self._is_second_pass = False

    def observe(self, split: str, rows: Sequence[Row], faults: Faults) -> _Observation | None:
        if self._is_second_pass:
            self._find_misfits(rows, faults)
            return None
        labels = []
        for row in rows:
            _check_texts(row, faults, has_pairs="text_pair" in row.values)
            label = row.values.get("label")
            try:
                labels.append(self._problem.parse(label, self._options))
            except ValueError as error:
                faults.add(row, "no label" if label is None else f"label: {error} {shown(label)}")
        num_pairs = sum("text_pair" in row.values for row in rows)
        return _Observation(columns_of(rows), len(rows), num_pairs, self._problem.count(labels))

    def conclude(self, observations: Mapping[str, Sequence[Any]], faults: Faults) -> bool:
        if self._is_second_pass:
            return False
        every = [piece for pieces in observations.values() for piece in pieces]
        has_pairs = any(piece.num_pairs for piece in every)
        for pieces in observations.values():
            required = [*Classification.columns, *(["text_pair"] if has_pairs else [])]
            require_columns([piece.columns for piece in pieces], required)
        counted = {split: [piece.labels for piece in pieces] for split, pieces in observations.items()}
        path = next((columns.path for piece in observations["train"] for columns in piece.columns.values()), None)
        facts = self._problem.survey(self._options, counted, path, are_sound=not faults and not self.is_evaluation)
        self.facts = {"has_pairs": has_pairs, **facts}
        self._is_second_pass = True
        are_mixed = has_pairs and any(piece.num_pairs < piece.num_rows for piece in every)
        return are_mixed or bool(self._problem.unknown(facts))

    @property
    def found_unlearnable(self) -> bool:
        return not self._options.label_names and bool(self._problem.unknown(self.facts))

    def is_unlearnable(self, row: Row) -> bool:
        try:
            read = self._problem.read(row.values.get("label"), self._options, self.facts)
        except ValueError:
            return False
        known = self.facts.get("label_names", ())
        return any(name not in known for name in ([read] if isinstance(read, str) else read))

    def adopt(self, facts: Mapping[str, Any]) -> bool:
        self.facts = dict(facts)
        self._is_second_pass = True
        return True

    def _find_misfits(self, rows: Sequence[Row], faults: Faults) -> None:
        """Adds the rows that lack a text_pair or have an unknown label."""
        source = "task.label_names" if self._options.label_names else "the training rows"
        source = "the labels of the model" if self.is_evaluation else source
        legal = self.facts.get("label_names", ())
        known = {*legal}
        for row in rows:
            if self.facts["has_pairs"] and "text_pair" not in row.values:
                faults.add(row, "no text_pair")
            if not known:
                continue
            label = row.values.get("label")
            try:
                read = self._problem.read(label, self._options, self.facts)
            except MisfitError as error:
                faults.add(row, f"label: {error} {shown(label)}")
            except ValueError:
                pass  # reported in the first pass
            else:
                for name in [read] if isinstance(read, str) else read:
                    if name not in known:
                        listed = ", ".join(sorted(legal)[:20])
                        faults.add(row, f"label {name!r} is not in {source}; legal: {listed}")


class Classification(Task):
    """Rows of `text`, `label` and, in either all rows or none, `text_pair`."""

    Options = ClassificationOptions
    columns = ("text", "label")
    input_columns = ("text", "text_pair")
    column_guesses: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": (
            *("sentence", "content", "review", "body", "comment", "question", "sentence1", "question1", "premise"),
            *("message", "tweet", "document", "文本", "内容", "评论", "句子"),
        ),
        "text_pair": ("sentence2", "question2", "hypothesis"),
        "label": (
            *("labels", "sentiment", "class", "target", "category", "intent", "topic", "rating", "score"),
            *("标签", "类别", "分类", "情感"),
        ),
    }
    lower_is_better = frozenset({"loss", "mse", "mae", "ece", "ece_scaled"})
    auto_model = "AutoModelForSequenceClassification"

    def __init__(
        self,
        options: ClassificationOptions,
        facts: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        super().__init__(options, facts, tokenizer, config)
        self._problem: Problem = PROBLEMS[options.problem](options, facts)
        self.main_metric = self._problem.main_metric
        self._has_pairs: bool = facts["has_pairs"]
        self._facts = facts
        # By this token of the decoder's input, BART, T5 and similar models classify a text.
        self._end_id: int | None = config.eos_token_id if getattr(config, "is_encoder_decoder", False) else None
        if tokenizer.pad_token is None:
            # Causal language models have none. eos_token pads, here and wherever the exported model is used.
            tokenizer.pad_token = tokenizer.eos_token

    @staticmethod
    def survey(options: ClassificationOptions) -> Survey:
        return ClassificationSurvey(options)

    def model_config(self) -> dict[str, Any]:
        # The head of a causal model reads the last token that is not padding, which it recognizes by this id.
        return {**self._problem.model_config(), "pad_token_id": self._tokenizer.pad_token_id}

    def check_model(self, config: PreTrainedConfig) -> None:
        from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise DataError(f"model.path: transformers has no classification head for {config.model_type} models")
        if self._tokenizer.pad_token is None:
            raise DataError(
                "model.path: the tokenizer has no pad_token and no eos_token; set one in tokenizer_config.json"
            )
        if self._end_id is not None and not self._num_ends:
            raise DataError(
                f"model.path: a {config.model_type} model classifies by the end of a text, but the tokenizer ends "
                f"none with its eos_token_id ({self._end_id}); correct config.json or the tokenizer"
            )
        if self._has_pairs and "token_type_ids" in self._tokenizer.model_input_names:
            model: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
            if "token_type_ids" not in signature(model.forward).parameters:
                raise DataError(
                    f"model.path: the tokenizer has token_type_ids for a text_pair, but {model.__name__} takes none; "
                    'set "model_input_names": ["input_ids", "attention_mask"] in its tokenizer_config.json'
                )

    @staticmethod
    def check_inputs(row: Row, faults: Faults) -> None:
        _check_texts(row, faults, has_pairs="text_pair" in row.values)

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labeled: bool) -> list[list[Example]]:
        faults = Faults()
        for row in rows:
            if self._has_pairs and "text_pair" not in row.values:
                faults.add(row, "no text_pair; the model was trained on pairs")
        faults.raise_if_any()
        texts = [row.values["text"] for row in rows]
        pairs = [row.values["text_pair"] for row in rows] if self._has_pairs else None
        sides: list[tuple[str, ...]] = list(zip(texts, pairs, strict=True)) if pairs else [(text,) for text in texts]
        # The longer of two texts is truncated first, token by token.
        encoded = self._tokenizer(texts, pairs, truncation="longest_first", max_length=max_tokens)
        kept = ["input_ids", *(["token_type_ids"] if pairs and "token_type_ids" in encoded else [])]
        examples: list[Example] = [{name: encoded[name][at] for name in kept} for at in range(len(rows))]
        for at, example in enumerate(examples):
            if labeled and len(example["input_ids"]) == max_tokens:
                example[TRUNCATED] = self._num_lost(encoded, at, texts[at], pairs[at] if pairs else None)
        if self.escapes_special_tokens:
            self._escape(sides, examples, max_tokens)
        elif labeled:
            mark_special(self._tokenizer, sides, [[example] for example in examples])
        self._refuse_ends(rows, examples)
        for row, example in zip(rows, examples, strict=True):
            label = self._read(row.values["label"]) if labeled else None
            example["labels"] = self._problem.encode(label)
        return [[example] for example in examples]

    def _read(self, label: Any) -> Any:
        return self._problem.read(label, self._options, self._facts)

    def _escape(self, sides: Sequence[tuple[str, ...]], examples: Sequence[Example], max_tokens: int) -> None:
        """Encodes those texts again in which there is a special token, as plain text."""
        for texts, example in zip(sides, examples, strict=True):
            if any(special_in(self._tokenizer, text) is not None for text in texts):
                inputs, num_lost = self._plain_texts.assemble(list(texts), max_tokens)
                example.update({name: inputs[name] for name in inputs if name in example})
                example[TRUNCATED] = num_lost

    @cached_property
    def _plain_texts(self) -> PlainTexts:
        return PlainTexts(self._tokenizer, are_pairs=self._has_pairs)

    def _refuse_ends(self, rows: Sequence[Row], examples: Sequence[Example]) -> None:
        """Raises BadRowsError for texts in which an encoder-decoder, which classifies by the last end, reads an end."""
        if self._end_id is None:
            return
        faults = Faults()
        for row, example in zip(rows, examples, strict=True):
            if example["input_ids"].count(self._end_id) != self._num_ends:
                faults.add(
                    row,
                    f"{self._tokenizer.convert_ids_to_tokens(self._end_id)} in the text would be read as its end, by "
                    "which this model classifies; remove it, or set data.special_tokens_in_text=escape",
                )
        faults.raise_if_any()

    @cached_property
    def _num_ends(self) -> int:
        """How many ends the tokenizer puts into a text or a pair of texts."""
        ids: list[int] = self._tokenizer(*(("a", "a") if self._has_pairs else ("a",)))["input_ids"]
        return ids.count(self._end_id) if self._end_id is not None else 0

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

    @staticmethod
    def head_labels(facts: Mapping[str, Any]) -> list[str]:
        return list(facts.get("label_names", ()))

    @staticmethod
    def with_head_labels(facts: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        return {**facts, "label_names": list(labels)}

    def notes(self, split: str, noted: Mapping[str, int]) -> list[str]:
        return special_notes(split, noted)

    def preview(self, example: Example) -> list[PreviewSpan]:
        return [*super().preview(example), PreviewSpan(" ", self._problem.show(example["labels"]))]

    def num_targets(self, example: Example) -> int:
        return self._problem.num_targets(example["labels"])

    def collate(self, examples: Sequence[Example]) -> Batch:
        import torch

        from shardtune.trainer.tasks.batch import Batch, pad, padded_inputs

        ids = [example["input_ids"] for example in examples]
        inputs = padded_inputs(ids, self._tokenizer.pad_token_id)
        if "token_type_ids" in examples[0]:
            inputs["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
        return Batch(inputs, torch.tensor([example["labels"] for example in examples]))

    def loss_sum(self, output: Any, batch: Batch) -> Tensor:
        """The problem's loss in float32; output.logits have shape (rows, outputs of the head)."""
        return self._problem.loss_sum(output.logits.float(), batch)

    def score(self, output: Any, batch: Batch) -> Scores:
        return self._problem.score(output.logits.float(), batch)

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        return self._problem.metrics(totals)

    @property
    def proportions(self) -> frozenset[str]:
        return self._problem.proportions

    def loss_of_rows(self, output: Any, batch: Batch) -> Tensor:
        return self._problem.loss_of_rows(output.logits.float(), batch)

    def score_rows(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return self._problem.score_rows(output.logits.float(), batch)

    def totals(self, scores: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        return self._problem.totals(scores, times)

    def calibrate(self, dev_metrics: Mapping[str, Any]) -> None:
        self._problem.calibrate(dev_metrics)

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        return self._problem.predictions(output.logits.float())


def _check_texts(row: Row, faults: Faults, *, has_pairs: bool) -> None:
    check_text(row, "text", faults)
    if has_pairs:
        check_text(row, "text_pair", faults)
