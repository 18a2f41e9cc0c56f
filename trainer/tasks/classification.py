"""Text classification: one label a text.

Labels are names; their ids are the order of the names, and both are kept in the model's config.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainer.config.errors import DataError
from trainer.data.source import Faults, Row, require_columns
from trainer.tasks.task import IGNORED, Example, TaskOptions

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from trainer.data.batch import Batch


class ClassificationOptions(TaskOptions):
    """Text classification: one label for each text."""

    kind: Literal["classification"]
    label_names: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """The labels in the order of their ids. None takes those of the training rows, sorted."""


class Classification:
    """Rows of `text` and `label`; cross entropy; accuracy, F1, MCC and the confusion matrix."""

    Options: ClassVar[type[TaskOptions]] = ClassificationOptions
    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    input_columns: ClassVar[tuple[str, ...]] = ("text",)
    main_metric: ClassVar[str] = "accuracy"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss"})
    auto_model: ClassVar[str] = "AutoModelForSequenceClassification"

    def __init__(
        self, options: ClassificationOptions, facts: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._names: list[str] = facts["label_names"]
        self._ids = {name: number for number, name in enumerate(self._names)}
        self._tokenizer = tokenizer

    @staticmethod
    def survey(options: ClassificationOptions, splits: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
        """The label names, in the order of their ids, and how often each split has them."""
        faults = Faults()
        counts: dict[str, Counter[str]] = {}
        legal = set(options.label_names or ())
        for split, rows in splits.items():
            require_columns(rows, Classification.columns)
            counts[split] = Counter()
            for row in rows:
                Classification.check_inputs(row, faults)
                name = _label_name(row, faults)
                if name is None:
                    continue
                counts[split][name] += 1
                if split == "train" and not options.label_names:
                    legal.add(name)
                elif name not in legal:
                    known = ", ".join(sorted(legal)[:20])
                    source = "task.label_names" if options.label_names else "the training rows"
                    faults.add(row, f"label {name!r} is not in {source}; legal: {known}")
            if split == "train" and len(counts[split]) == 1 and not faults:
                (only,) = counts[split]
                raise DataError(f"{rows[0].path}: every row has the label {only!r}; a classifier needs at least two")
        faults.raise_if_any()
        names = list(options.label_names or sorted(legal))
        return {"label_names": names, "label_counts": {split: dict(count) for split, count in counts.items()}}

    def model_config(self) -> dict[str, Any]:
        return {
            "num_labels": len(self._names),
            "id2label": dict(enumerate(self._names)),
            "label2id": dict(self._ids),
            "problem_type": "single_label_classification",
        }

    def check_model(self, config: PreTrainedConfig) -> None:
        """Any model that transformers has a sequence classification head for will do; from_pretrained says if not."""

    @staticmethod
    def check_inputs(row: Row, faults: Faults) -> None:
        check_text(row, "text", faults)

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labelled: bool) -> list[list[Example]]:
        texts = [row.values["text"] for row in rows]
        encoded = self._tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
        labels = [self._ids[_name_of(row.values["label"])] if labelled else IGNORED for row in rows]
        return [[{"input_ids": ids, "labels": label}] for ids, label in zip(encoded, labels, strict=True)]

    def num_targets(self, example: Example) -> int:
        return int(example["labels"] != IGNORED)

    def collate(self, examples: Sequence[Example]) -> Batch:
        import torch

        from trainer.data.batch import Batch, pad

        ids = [example["input_ids"] for example in examples]
        inputs = {
            "input_ids": pad(ids, self._tokenizer.pad_token_id or 0),
            "attention_mask": pad([[1] * len(row) for row in ids], 0),
        }
        return Batch(inputs, torch.tensor([example["labels"] for example in examples]))

    def loss_sum(self, output: Any, batch: Batch) -> Tensor:
        """Cross entropy in float32; output.logits of shape (rows, labels)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(output.logits.float(), batch.labels, ignore_index=IGNORED, reduction="sum")

    def score(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """The confusion matrix: rows are the true labels, columns the predicted ones."""
        known = batch.labels != IGNORED
        found, true = output.logits.argmax(-1)[known], batch.labels[known]
        num_labels = len(self._names)
        cells = (true * num_labels + found).bincount(minlength=num_labels**2)
        return {"confusion": cells.reshape(num_labels, num_labels)}

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """Accuracy, F1 and MCC as scikit-learn defines them; a label without rows or predictions has an F1 of 0.

        MCC is the multi-class R_k (Gorodkin, 2004). Micro F1 over all labels equals accuracy.
        """
        confusion = totals["confusion"].double()
        hits, true, found, count = confusion.diag(), confusion.sum(1), confusion.sum(0), confusion.sum()
        f1 = 2 * hits / (true + found).clamp(min=1)
        present = (true + found) > 0
        spread = ((count**2 - (found**2).sum()) * (count**2 - (true**2).sum())).sqrt()
        covariance = hits.sum() * count - (found * true).sum()
        return {
            "accuracy": float(hits.sum() / count),
            "f1_macro": float(f1[present].mean()),
            "f1_micro": float(2 * hits.sum() / (true + found).sum()),
            "mcc": float(covariance / spread) if spread > 0 else 0.0,
            "confusion": confusion.long().tolist(),
        }

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        """The likeliest label, its probability, and every label's."""
        return [
            {
                "label": self._names[int(row.argmax())],
                "score": round(float(row.max()), 6),
                "scores": {name: round(score, 6) for name, score in zip(self._names, row.tolist(), strict=True)},
            }
            for row in output.logits.float().softmax(-1)
        ]

    def answer(self, row: Row, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        (only,) = predictions
        return only


def check_text(row: Row, column: str, faults: Faults) -> None:
    """Adds a fault if this column is not a text with something in it."""
    text = row.values.get(column)
    if not isinstance(text, str):
        faults.add(row, f"{column}: expected a text, got {text!r:.60}" if column in row.values else f"no {column}")
    elif not text.strip():
        faults.add(row, f"{column} is empty")


def _name_of(label: Any) -> str:
    return str(label).strip()


def _label_name(row: Row, faults: Faults) -> str | None:
    label = row.values.get("label")
    if not isinstance(label, str | int) or not _name_of(label):
        faults.add(
            row, f"label: expected a name or a whole number, got {label!r:.60}" if label is not None else "no label"
        )
        return None
    return _name_of(label)
