"""Token classification: which spans of a text are entities, and of which type.

The label of a word is on its first piece only; internally, tags are BIO, whatever the scheme of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from shardtune.errors import DataError
from shardtune.recipe.tasks.token_classification import TokenClassificationOptions
from shardtune.rows.source import Faults, Row
from shardtune.trainer.tasks.example import IGNORED, Example, frame_of, texts_of
from shardtune.trainer.tasks.plain_text import mark_special, special_notes
from shardtune.trainer.tasks.task import PreviewSpan, Survey, Task
from shardtune.trainer.tasks.token_classification.exports import is_unlabeled, read_export
from shardtune.trainer.tasks.token_classification.notation import Readings, notation_of
from shardtune.trainer.tasks.token_classification.rows import Words as _Words
from shardtune.trainer.tasks.token_classification.rows import check_words, spans_of_row, tags_of_row, words_of
from shardtune.trainer.tasks.token_classification.spans import (
    OUTSIDE,
    Scheme,
    cut_windows,
    spans_of,
    tags_of,
    to_bio,
)
from shardtune.trainer.tasks.token_classification.survey import TokenSurvey
from shardtune.trainer.tasks.token_classification.word_pieces import word_pieces

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.trainer.tasks.batch import Batch


class TokenClassification(Task):
    """Rows of `tokens` and `tags`, or of `text` and `spans`; cross entropy over words; seqeval's span F1."""

    Options = TokenClassificationOptions
    columns = ("tokens", "tags")
    input_columns = ("tokens", "text")
    column_guesses: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tokens": ("words",),
        "tags": ("ner_tags", "ner", "labels", "bio_tags"),
        "text": ("sentence", "content"),
        "spans": ("entities", "ents"),
    }
    main_metric = "f1"
    auto_model = "AutoModelForTokenClassification"
    packable = True

    def __init__(
        self,
        options: TokenClassificationOptions,
        facts: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        super().__init__(options, facts, tokenizer, config)
        self._types: list[str] = facts["types"]
        self._scheme: Scheme = facts["scheme"]
        self._notation = notation_of(options)
        self._keep_inner: bool = facts["keep_inner"]
        self._stride = options.stride
        self._marks_capitals = options.mark_capitals
        self._names = self.head_labels(facts)
        self._ids = {name: number for number, name in enumerate(self._names)}

    @staticmethod
    def named_columns(options: TokenClassificationOptions, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The text, tokens and spans of a row that an annotation tool has exported."""
        found = read_export(values)
        return {} if found is None else found[1].columns

    @staticmethod
    def survey(options: TokenClassificationOptions) -> Survey:
        return TokenSurvey(options)

    def model_config(self) -> dict[str, Any]:
        return {"num_labels": len(self._names), "id2label": dict(enumerate(self._names)), "label2id": dict(self._ids)}

    def check_model(self, config: PreTrainedConfig) -> None:
        """Accepts any model; from_pretrained fails if transformers has no token classification head for it."""
        if self._marks_capitals and (getattr(config, "type_vocab_size", None) or 0) < 2:
            raise DataError(
                f"task.mark_capitals: a {config.model_type} model lacks a second token type; remove the key"
            )

    @property
    def model_notes(self) -> list[str]:
        if self._tokenizer.is_fast:
            return []
        name = type(self._tokenizer).__name__
        return [f"{name} does not tell which tokens are a word, so each word is tokenized on its own"]

    @staticmethod
    def check_inputs(row: Row, faults: Faults) -> None:
        check_words(row, faults)

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labeled: bool) -> list[list[Example]]:
        """One example per window; without labels, `heads` are the positions of the first pieces of its own words.

        Gold spans are restored from the labels (see score): a window contains each of its entities whole, as B-, I-, …;
        of an entity longer than any window, only one window has a part: I-, I-, … from the second word on.
        """
        before, after = self._frame
        room = max_tokens - len(before) - len(after)
        if room < 4:
            raise DataError(
                f"data.max_tokens: {max_tokens} leaves no room for a sentence and its special tokens; raise it"
            )
        all_words = [words_of(row, keep_inner=self._keep_inner) for row in rows]
        by_row = [
            []
            if labeled and is_unlabeled(row.values)
            else self._windows(words, pieces, self._bio(row, words) if labeled else None, room)
            for row, words, pieces in zip(rows, all_words, self._pieces(all_words), strict=True)
        ]
        if labeled and not self.escapes_special_tokens:
            mark_special(self._tokenizer, [[words.text] for words in all_words], by_row)
        return by_row

    def _windows(self, words: _Words, pieces: list[list[int]], tags: list[str] | None, room: int) -> list[Example]:
        if sum(map(len, pieces)) > room:
            pieces = [ids[: room // 4] for ids in pieces]  # because one very long word could fill a window
        before, after = self._frame
        examples: list[Example] = []
        sizes = [len(ids) for ids in pieces]
        has_capital = [any(map(str.isupper, words.text[start:end])) for start, end in words.offsets]
        for window in cut_windows(sizes, spans_of(tags or ()), room=room, context=min(self._stride, room // 4)):
            ids, types, heads = list(before), [0] * len(before), []
            for word in range(window.first, window.last):
                if window.start <= word < window.end:
                    heads.append(len(ids))
                ids += pieces[word]
                types += [int(has_capital[word])] * sizes[word]
            ids += after
            labels = [IGNORED] * len(ids)
            more = {"token_type_ids": types + [0] * len(after)} if self._marks_capitals else {}
            if tags is None:
                examples.append({"input_ids": ids, "labels": labels, "heads": heads, **more})
                continue
            for word, head in zip(range(window.start, window.end), heads, strict=True):
                if word > window.start or not window.is_cut:
                    labels[head] = self._ids[tags[word]]
            examples.append({"input_ids": ids, "labels": labels, **more})
        return examples

    def _bio(self, row: Row, words: _Words) -> list[str]:
        tags = tags_of_row(row, self._notation, Faults(), Readings())
        if tags is not None:
            return to_bio(tags, self._scheme)[0]
        return tags_of(spans_of_row(row, words, Faults(), Readings()), len(words.offsets))

    def _pieces(self, all_words: Sequence[_Words]) -> list[list[list[int]]]:
        """The pieces of each word; the unknown token if a word has none, such as a control character."""
        split = [
            [
                f"{' ' if self._needs_space and text[start - 1 : start].isspace() else ''}{text[start:end]}"
                for start, end in offsets
            ]
            for text, offsets in all_words
        ]
        pieces = word_pieces(self._tokenizer, split, is_plain=self.escapes_special_tokens)
        unknown = self._tokenizer.unk_token_id or 0
        return [[word or [unknown] for word in words] for words in pieces]

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        return frame_of(self._tokenizer)

    @cached_property
    def _needs_space(self) -> bool:
        """Whether a word's first piece encodes the space before it (GPT-2, RoBERTa), so that it has to be added."""

        def encode(*words: str) -> Any:
            return self._tokenizer(list(words), is_split_into_words=True, add_special_tokens=False)["input_ids"]

        running = self._tokenizer("a a", add_special_tokens=False)["input_ids"]
        return bool(encode("a", "a") != running and encode("a", " a") == running)

    @staticmethod
    def label_counts(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
        counts: Mapping[str, Mapping[str, int]] = facts["span_counts"]
        return counts

    @staticmethod
    def head_labels(facts: Mapping[str, Any]) -> list[str]:
        """The tags; by default O, then B and I of each type."""
        default = [OUTSIDE, *(f"{prefix}-{type_}" for type_ in facts["types"] for prefix in "BI")]
        return list(facts.get("tags", default))

    @staticmethod
    def with_head_labels(facts: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        return {**facts, "tags": list(labels)}

    def notes(self, split: str, noted: Mapping[str, int]) -> list[str]:
        return special_notes(split, noted)

    def preview(self, example: Example) -> list[PreviewSpan]:
        texts = texts_of(example["input_ids"], self._tokenizer)
        return [
            PreviewSpan(text, None if label == IGNORED else self._names[label])
            for text, label in zip(texts, example["labels"], strict=True)
        ]

    def collate(self, examples: Sequence[Example]) -> Batch:
        from shardtune.trainer.tasks.batch import Batch, pad

        ids = [example["input_ids"] for example in examples]
        inputs = {"input_ids": pad(ids, self._tokenizer.pad_token_id or 0)}
        if "has_borders" in examples[0]:
            inputs["position_ids"] = pad([example["position_ids"] for example in examples], 0)
        elif "position_ids" in examples[0]:
            # Encoders derive no mask from position ids (transformers 5.23), so this mask lets tokens attend only to
            # those of the same example. Padding is one more example.
            places = pad([example["position_ids"] for example in examples], 0)
            number = (places.diff(prepend=places[:, :1]) != 1).cumsum(1)
            inputs["position_ids"] = places
            inputs["attention_mask"] = (number[:, :, None] == number[:, None, :])[:, None]
        else:
            inputs["attention_mask"] = pad([[1] * len(row) for row in ids], 0)
        if self._marks_capitals:
            inputs["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
        return Batch(inputs, pad([example["labels"] for example in examples], IGNORED))

    def loss_sum(self, output: Any, batch: Batch) -> Tensor:
        """Cross entropy in float32; output.logits have shape (rows, longest, labels)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(
            output.logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def loss_of_rows(self, output: Any, batch: Batch) -> Tensor:
        from torch.nn.functional import cross_entropy

        logits = output.logits.float().flatten(0, 1)
        losses = cross_entropy(logits, batch.labels.flatten(), ignore_index=IGNORED, reduction="none")
        return losses.view(batch.labels.shape).sum(1)

    def score(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """The sums of score_rows, also of rows that several examples share."""
        return {name: counts.sum(0) for name, counts in self.score_rows(output, batch).items()}

    def score_rows(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """The number of correct, predicted and gold spans of each example by type, of shape (examples, types); and of
        correct words and all words, of shape (rows,).

        A gold I- that continues nothing represents an entity longer than any window: it counts as gold, but cannot be
        found.
        """
        import torch

        labels, found_ids = torch.stack((batch.labels, output.logits.argmax(-1))).cpu()  # one wait for a GPU, not many
        known = labels != IGNORED
        examples = list(_by_example(batch, labels, found_ids, known))
        counts = torch.zeros(3, len(examples), len(self._types), dtype=torch.int64)
        for number, (true_row, found_row, known_row) in enumerate(examples):
            true_tags = [self._names[label] for label in true_row[known_row].tolist()]
            found = set(spans_of([self._names[label] for label in found_row[known_row].tolist()]))
            gold = set(spans_of(true_tags))
            whole = {span for span in gold if true_tags[span.start][0] == "B"}
            for row, spans in enumerate((found & whole, found, gold)):
                for span in spans:
                    counts[row, number, self._types.index(span.type)] += 1
        hit, found_count, gold_count = counts
        right = ((found_ids == labels) & known).sum(1)
        return {"hit": hit, "found": found_count, "gold": gold_count, "words_right": right, "words": known.sum(1)}

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """Precision, recall and F1 of spans as seqeval defines them by default; 0 where the denominator is 0.

        Macro is the mean over the types with gold or predicted spans.
        """
        hit, found, gold = (totals[name].double() for name in ("hit", "found", "gold"))
        precision, recall, f1 = _rates(hit, found, gold)
        micro = [float(rate) for rate in _rates(hit.sum(), found.sum(), gold.sum())]
        present = (found + gold) > 0
        macro = [float(rate[present].mean()) if present.any() else 0.0 for rate in (precision, recall, f1)]
        return {
            **dict(zip(("precision", "recall", "f1"), micro, strict=True)),
            **dict(zip(("precision_macro", "recall_macro", "f1_macro"), macro, strict=True)),
            "token_accuracy": float(totals["words_right"].double() / totals["words"].clamp(min=1)),
            "types": {
                type_: {
                    "precision": float(precision[at]),
                    "recall": float(recall[at]),
                    "f1": float(f1[at]),
                    "found": int(found[at]),
                    "gold": int(gold[at]),
                }
                for at, type_ in enumerate(self._types)
            },
        }

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        """The most likely label and its probability at each position."""
        scores, labels = output.logits.float().softmax(-1).max(-1)
        return [
            {"labels": row_labels, "scores": row_scores}
            for row_labels, row_scores in zip(labels.tolist(), scores.tolist(), strict=True)
        ]

    @staticmethod
    def text_row(text: str) -> dict[str, Any]:
        return {"text": text}

    def answer(self, row: Row, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The entities, their positions in the text (tokens: joined by spaces), and their words' mean probability."""
        windows = zip(examples, predictions, strict=True)
        heads = [(prediction, head) for example, prediction in windows for head in example["heads"]]
        tags = [self._names[prediction["labels"][head]] for prediction, head in heads]
        scores = [prediction["scores"][head] for prediction, head in heads]
        text, offsets = words_of(row, keep_inner=self._keep_inner)
        spans = []
        for first, end, type_ in spans_of(tags):
            place = slice(offsets[first][0], offsets[end - 1][1])
            score = sum(scores[first:end]) / (end - first)
            spans.append(
                {
                    "type": type_,
                    "text": text[place],
                    "start": place.start,
                    "end": place.stop,
                    "score": round(score, 6),
                }
            )
        return {"spans": spans}


def _by_example(batch: Batch, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The parts of tensors on the host, of shape (rows, longest), that belong to each example; padding yields further
    examples."""
    if (places := batch.inputs.get("position_ids")) is None:
        yield from zip(*tensors, strict=True)
        return
    for of_row, *parts in zip(places.cpu(), *tensors, strict=True):
        begins = (of_row.diff() != 1).nonzero().flatten() + 1
        yield from zip(*(part.tensor_split(begins) for part in parts), strict=True)


def _rates(hit: Tensor, found: Tensor, gold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return hit / found.clamp(min=1), hit / gold.clamp(min=1), 2 * hit / (found + gold).clamp(min=1)
