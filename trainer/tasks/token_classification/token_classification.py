"""Token classification: which spans of a text are entities, and of which type.

Words carry the labels, each on its first piece alone; whatever scheme the tags come in, inside they are BIO.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from shardtune.errors import DataError
from shardtune.recipe.tasks.token_classification import TokenClassificationOptions
from shardtune.rows.source import Faults, Row, check_text
from shardtune.trainer.tasks.example import IGNORED, Example, frame_of, texts_of
from shardtune.trainer.tasks.task import PreviewSpan, Survey, Task
from shardtune.trainer.tasks.token_classification.spans import (
    OUTSIDE,
    Scheme,
    Signs,
    Span,
    cut_windows,
    detect_scheme,
    signs_of,
    spans_of,
    split_words,
    tags_of,
    to_bio,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.trainer.tasks.batch import Batch


class _Words(NamedTuple):
    """A row's text and where its words are in it, as (start, end)."""

    text: str
    offsets: list[tuple[int, int]]


class _Tags(NamedTuple):
    """What is seen of some rows at first."""

    signs: Signs
    has_words: bool
    """Whether any row came in words."""
    path: Path | None
    """Of a row."""


class _Entities(NamedTuple):
    """What is seen of some rows when the scheme is known."""

    counts: Counter[str]
    num_repaired: int


class TokenSurvey(Survey):
    """The types in the order of their ids, how the tags are read, and how many entities each split has."""

    def __init__(self, options: TokenClassificationOptions) -> None:
        super().__init__()
        self._options = options
        self._scheme: Scheme | None = None
        self._keep_inner = False
        self._path: Path | None = None
        self._legal: set[str] | None = set(options.types) if options.types else None
        """None as long as it is not known which there are."""
        self._are_counted = False

    def look(self, split: str, rows: Sequence[Row], faults: Faults) -> _Tags | _Entities:
        if self._scheme is None:
            tags = [_tags(row, faults) for row in rows]
            words = [its for its in tags if its is not None]
            return _Tags(signs_of(words), bool(words), rows[0].path if rows else None)
        counts, num_repaired = Counter[str](), 0
        for row in rows:
            # What is wrong with a tag or a span has been said when they were counted.
            spans, repaired = self._spans(row, Faults() if self._are_counted else faults)
            counts.update(span.type for span in spans)
            num_repaired += repaired
            if self._legal is not None:
                self._refuse_unknown(row, spans, faults)
        return _Entities(counts, num_repaired)

    def learn(self, looks: Mapping[str, Sequence[Any]], faults: Faults) -> bool:
        if self._scheme is None:
            if faults:
                return False
            detected = detect_scheme(look.signs for its in looks.values() for look in its)
            self._scheme = detected if self._options.scheme == "auto" else self._options.scheme
            # Of words that came as words, the model learns the first piece alone: a text must be cut as coarsely.
            self._keep_inner = any(look.has_words for look in looks["train"])
            self._path = next((look.path for look in looks["train"] if look.path), None)
            return True
        if self._are_counted:
            return False
        self._are_counted = True
        counts = {split: sum((look.counts for look in its), Counter[str]()) for split, its in looks.items()}
        if not counts["train"] and not faults:
            raise DataError(f"{self._path}: no row has an entity; there is nothing to learn")
        is_known = self._legal is not None
        self._legal = self._legal or {*counts["train"]}
        self.facts = {
            "types": list(self._options.types or sorted(self._legal)),
            "scheme": self._scheme,
            "keep_inner": self._keep_inner,
            "span_counts": {split: dict(count) for split, count in counts.items()},
            "tags_repaired": {split: sum(look.num_repaired for look in its) for split, its in looks.items()},
        }
        return not is_known and any(its.keys() - self._legal for its in counts.values())

    def recall(self, facts: Mapping[str, Any]) -> bool:
        self.facts = dict(facts)
        self._scheme, self._keep_inner, self._legal = facts["scheme"], facts["keep_inner"], set(facts["types"])
        return True

    def _spans(self, row: Row, faults: Faults) -> tuple[list[Span], int]:
        """The row's spans, and how many of its tags had to be repaired."""
        assert self._scheme is not None, "it is the first thing that is learned"
        tags = _tags(row, Faults())
        if tags is None:
            return _given_spans(row, _words(row, keep_inner=self._keep_inner), faults), 0
        bio, unknown, illegal = to_bio(tags, self._scheme)
        for bad in unknown if self._options.on_bad_tag == "repair" else sorted([*unknown, *illegal]):
            read_as = "" if bad in unknown else f"; read as {self._scheme.upper()} (task.scheme, task.on_bad_tag)"
            faults.add(row.word(bad.at), f"tag {bad.at + 1}: {bad.what}{read_as}")
        return spans_of(bio), len(illegal)

    def _refuse_unknown(self, row: Row, spans: Sequence[Span], faults: Faults) -> None:
        assert self._legal is not None
        source = "task.types" if self._options.types else "the training rows"
        for type_ in dict.fromkeys(span.type for span in spans):
            if type_ not in self._legal:
                at = next(span.start for span in spans if span.type == type_)
                known = ", ".join(sorted(self._legal)[:20])
                faults.add(row.word(at), f"type {type_!r} is not in {source}; legal: {known}")


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
        self._keep_inner: bool = facts["keep_inner"]
        self._stride = options.stride
        self._marks_capitals = options.mark_capitals
        self._names = [OUTSIDE, *(f"{prefix}-{type_}" for type_ in self._types for prefix in "BI")]
        self._ids = {name: number for number, name in enumerate(self._names)}

    @staticmethod
    def survey(options: TokenClassificationOptions) -> Survey:
        return TokenSurvey(options)

    def model_config(self) -> dict[str, Any]:
        return {"num_labels": len(self._names), "id2label": dict(enumerate(self._names)), "label2id": dict(self._ids)}

    def check_model(self, config: PreTrainedConfig) -> None:
        """Any model that transformers has a token classification head for will do; from_pretrained says if not."""
        if self._marks_capitals and (getattr(config, "type_vocab_size", None) or 0) < 2:
            raise DataError(f"task.mark_capitals: a {config.model_type} model has no two token types; leave it out")

    @staticmethod
    def check_inputs(row: Row, faults: Faults) -> None:
        if "tokens" not in row.values:
            if "text" in row.values:
                check_text(row, "text", faults)
            else:
                faults.add(row, f"neither tokens nor text; found: {', '.join(row.values)}")
            return
        tokens = row.values["tokens"]
        if not isinstance(tokens, list) or not tokens:
            faults.add(row, f"tokens: expected a list of words, got {tokens!r:.60}")
            return
        for at, token in enumerate(tokens):
            if not isinstance(token, str) or not token.strip():
                faults.add(row.word(at), f"token {at + 1}: expected a word, got {token!r:.60}")

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labelled: bool) -> list[list[Example]]:
        """A window is an example; `heads` are the places of the first pieces of its own words, where it has no labels.

        Gold spans come out of the labels again (see score): a window holds each of its entities whole, as B-, I-, …; of
        an entity longer than any window, the first one has I-, I-, … from the second word on and none the rest.
        """
        before, after = self._frame
        room = max_tokens - len(before) - len(after)
        if room < 4:
            raise DataError(f"data.max_tokens: {max_tokens} leaves no room for a sentence and its special tokens")
        all_words = [_words(row, keep_inner=self._keep_inner) for row in rows]
        return [
            self._windows(words, pieces, self._bio(row, words) if labelled else None, room)
            for row, words, pieces in zip(rows, all_words, self._pieces(all_words), strict=True)
        ]

    def _windows(self, words: _Words, pieces: list[list[int]], tags: list[str] | None, room: int) -> list[Example]:
        if sum(map(len, pieces)) > room:
            pieces = [its[: room // 4] for its in pieces]  # or one endless word would fill a window
        before, after = self._frame
        examples: list[Example] = []
        sizes = [len(its) for its in pieces]
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
        tags = _tags(row, Faults())
        if tags is not None:
            return to_bio(tags, self._scheme)[0]
        return tags_of(_given_spans(row, words, Faults()), len(words.offsets))

    def _pieces(self, all_words: Sequence[_Words]) -> list[list[list[int]]]:
        """Each word's pieces; the unknown token where a word has none, such as a control character."""
        split = [
            [
                f"{' ' if self._needs_space and text[start - 1 : start].isspace() else ''}{text[start:end]}"
                for start, end in offsets
            ]
            for text, offsets in all_words
        ]
        encoded = self._tokenizer(split, is_split_into_words=True, add_special_tokens=False, verbose=False)
        pieces: list[list[list[int]]] = [[[] for _ in words] for words in split]
        for number, its in enumerate(pieces):
            for piece, word in zip(encoded["input_ids"][number], encoded.word_ids(number), strict=True):
                its[word].append(piece)
        nothing = self._tokenizer.unk_token_id or 0
        return [[piece or [nothing] for piece in its] for its in pieces]

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        return frame_of(self._tokenizer)

    @cached_property
    def _needs_space(self) -> bool:
        """Whether a word's first piece tells that a space was before it (GPT-2, RoBERTa), and has to be given one."""

        def encode(*words: str) -> Any:
            return self._tokenizer(list(words), is_split_into_words=True, add_special_tokens=False)["input_ids"]

        running = self._tokenizer("a a", add_special_tokens=False)["input_ids"]
        return bool(encode("a", "a") != running and encode("a", " a") == running)

    @staticmethod
    def label_counts(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
        counts: Mapping[str, Mapping[str, int]] = facts["span_counts"]
        return counts

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
        if "position_ids" in examples[0]:
            # An encoder makes no mask of position ids (transformers 5.23), so it is told who sees whom: who is of the
            # same example. Padding is one more of them.
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
        """Cross entropy in float32; output.logits of shape (rows, longest, labels)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(
            output.logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def score(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Spans that are right, found and there, each by type; and the words.

        A gold I- that continues nothing stands for an entity that no window holds: it is there, and cannot be found.
        """
        import torch

        found_ids, known = output.logits.argmax(-1), batch.labels != IGNORED
        counts = torch.zeros(3, len(self._types), dtype=torch.int64)
        for true_row, found_row, known_row in _by_example(batch, batch.labels, found_ids, known):
            true_tags = [self._names[number] for number in true_row[known_row].tolist()]
            found = set(spans_of([self._names[number] for number in found_row[known_row].tolist()]))
            gold = set(spans_of(true_tags))
            whole = {span for span in gold if true_tags[span.start][0] == "B"}
            for row, spans in enumerate((found & whole, found, gold)):
                for span in spans:
                    counts[row, self._types.index(span.type)] += 1
        hit, found_count, gold_count = counts.to(batch.labels.device)
        right = ((found_ids == batch.labels) & known).sum()
        return {"hit": hit, "found": found_count, "gold": gold_count, "words_right": right, "words": known.sum()}

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """Precision, recall and F1 of spans as seqeval defines them by default; 0 where there is nothing to divide by.

        Macro is the mean over the types that are there or were found.
        """
        hit, found, gold = (totals[name].double() for name in ("hit", "found", "gold"))
        precision, recall, f1 = _rates(hit, found, gold)
        micro = [float(rate) for rate in _rates(hit.sum(), found.sum(), gold.sum())]
        present = (found + gold) > 0
        macro = [float(rate[present].mean()) if present.any() else 0.0 for rate in (precision, recall, f1)]
        return {
            **dict(zip(("precision", "recall", "f1"), micro, strict=True)),
            **dict(zip(("precision_macro", "recall_macro", "f1_macro"), macro, strict=True)),
            "token_accuracy": float(totals["words_right"] / totals["words"].clamp(min=1)),
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
        """The likeliest label and its probability at every place."""
        scores, labels = output.logits.float().softmax(-1).max(-1)
        return [
            {"labels": its_labels, "scores": its_scores}
            for its_labels, its_scores in zip(labels.tolist(), scores.tolist(), strict=True)
        ]

    @staticmethod
    def text_row(text: str) -> dict[str, Any]:
        return {"text": text}

    def answer(self, row: Row, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The entities, where they are in the text (of tokens: joined by spaces), and their words' mean probability."""
        heads = [(its, head) for example, its in zip(examples, predictions, strict=True) for head in example["heads"]]
        tags = [self._names[its["labels"][head]] for its, head in heads]
        scores = [its["scores"][head] for its, head in heads]
        text, offsets = _words(row, keep_inner=self._keep_inner)
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
    """What tensors of shape (rows, longest) hold of each example; padding comes as examples of its own."""
    for row, its in enumerate(zip(*tensors, strict=True)):
        if (places := batch.inputs.get("position_ids")) is None:
            yield its
            continue
        begins = (places[row].diff() != 1).nonzero().flatten() + 1
        yield from zip(*(one.tensor_split(begins.cpu()) for one in its), strict=True)


def _rates(hit: Tensor, found: Tensor, gold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return hit / found.clamp(min=1), hit / gold.clamp(min=1), 2 * hit / (found + gold).clamp(min=1)


def _words(row: Row, *, keep_inner: bool) -> _Words:
    if "tokens" not in row.values:
        text: str = row.values["text"]
        return _Words(text, split_words(text, keep_inner=keep_inner))
    tokens: list[str] = row.values["tokens"]
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token) + 1)
    offsets = [(start, start + len(token)) for start, token in zip(ends, tokens, strict=False)]
    return _Words(" ".join(tokens), offsets)


def _tags(row: Row, faults: Faults) -> list[str] | None:
    """The tags of a row of tokens, None if it is one of text; adds what is wrong with the row's form."""
    TokenClassification.check_inputs(row, faults)
    if "tokens" not in row.values:
        if "text" in row.values and not isinstance(row.values.get("spans"), list):
            faults.add(
                row,
                "no spans; a text without an entity has []" if "spans" not in row.values else "spans: expected a list",
            )
        return None
    tokens, tags = row.values["tokens"], row.values.get("tags")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        faults.add(
            row, "no tags" if tags is None else f"tags: expected a list of names such as B-PER, got {tags!r:.60}"
        )
    elif isinstance(tokens, list) and len(tags) != len(tokens):
        faults.add(row, f"{len(tags)} tags for {len(tokens)} tokens")
    else:
        return tags
    return []


def _given_spans(row: Row, words: _Words, faults: Faults) -> list[Span]:
    """The spans of a row of text, in words; adds those that are none, overlap, or cut a word."""
    text, offsets = words
    first_at = {start: word for word, (start, _) in enumerate(offsets)}
    end_at = {end: word + 1 for word, (_, end) in enumerate(offsets)}
    spans: list[Span] = []
    for given in row.values["spans"]:
        place = _place(given, text)
        if place is None:
            faults.add(row, f"span {given!r:.80}: expected start, end (0 to {len(text)}) and label, around some words")
            continue
        start, end, label = place
        if start in first_at and end in end_at:
            spans.append(Span(first_at[start], end_at[end], label))
            continue
        cut = next(text[a:b] for a, b in offsets if a < start < b or a < end < b)
        faults.add(row, f"span {text[start:end]!r:.60} ({start} to {end}, {label}) cuts the word {cut!r:.60}")
    spans.sort()
    for one, two in pairwise(spans):
        if two.start < one.end:
            faults.add(row, f"spans overlap at {text[offsets[two.start][0] :]!r:.40} ({one.type}, {two.type})")
    return spans


def _place(given: Any, text: str) -> Span | None:
    """The span as it is written, in characters, without spaces at its ends; None if it is none."""
    if not isinstance(given, dict):
        return None
    start, end, label = (given.get(key) for key in ("start", "end", "label"))
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label:
        return None
    inside = text[start:end] if 0 <= start < end <= len(text) else ""
    if not inside.strip():
        return None
    return Span(end - len(inside.lstrip()), start + len(inside.rstrip()), label)
