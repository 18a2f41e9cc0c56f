"""What has to be known of all rows: the entity types, the tag scheme, and how the rows are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shardtune.errors import DataError
from shardtune.recipe.tasks.token_classification import TokenClassificationOptions
from shardtune.rows.source import Faults, Row
from shardtune.trainer.tasks.task import Survey
from shardtune.trainer.tasks.token_classification.exports import is_unlabeled, read_export
from shardtune.trainer.tasks.token_classification.notation import BARE, Readings, is_bare, notation_of, notes_on
from shardtune.trainer.tasks.token_classification.rows import (
    has_tokens,
    spans_of_row,
    tags_of_row,
    word_place,
    words_of,
)
from shardtune.trainer.tasks.token_classification.spans import (
    OUTSIDE,
    Scheme,
    Signs,
    Span,
    detect_scheme,
    signs_of,
    spans_of,
    split_tag,
    to_bio,
)


class _Tags(NamedTuple):
    """What is observed in some rows in the first pass."""

    signs: Signs
    types: set[str]
    """The types that tags name, or that are given to tags without one."""
    has_words: bool
    """Whether any row has `tokens`."""
    path: Path | None
    """The file of a row."""
    readings: Readings


class _Entities(NamedTuple):
    """What is observed in some rows once the scheme is known."""

    counts: Counter[str]
    num_repaired: int
    readings: Readings


class TokenSurvey(Survey):
    """Finds out the types in the order of their ids, the tag scheme, and how many entities each split has."""

    observed = (_Tags, _Entities, Signs)

    def __init__(self, options: TokenClassificationOptions) -> None:
        super().__init__()
        self._options = options
        self._notation = notation_of(options)
        self._scheme: Scheme | None = None
        self._keep_inner = False
        self._path: Path | None = None
        self._legal: set[str] | None = set(options.types) if options.types else None
        """None until the types are known."""
        self._are_counted = False

    def observe(self, split: str, rows: Sequence[Row], faults: Faults) -> _Tags | _Entities:
        if self._scheme is None:
            return self._look_at_tags(rows, faults)
        counts, num_repaired, readings = Counter[str](), 0, Readings()
        for row in rows:
            if is_unlabeled(row.values):
                continue
            # Faults of tags and spans were reported when they were counted.
            spans, repaired = self._spans(row, Faults() if self._are_counted else faults, readings)
            counts.update(span.type for span in spans)
            num_repaired += repaired
            if self._legal is not None:
                self._refuse_unknown(row, spans, faults)
        return _Entities(counts, num_repaired, readings)

    def conclude(self, observations: Mapping[str, Sequence[Any]], faults: Faults) -> bool:
        if self._scheme is None:
            if faults:
                return False
            self._learn_notation([piece for pieces in observations.values() for piece in pieces])
            # From rows of tokens the model learns first pieces only, so texts must be split as coarsely.
            self._keep_inner = any(piece.has_words for piece in observations["train"])
            self._path = next((piece.path for piece in observations["train"] if piece.path), None)
            return True
        if self._are_counted:
            return False
        self._are_counted = True
        every = [piece for pieces in observations.values() for piece in pieces]
        self.notes += notes_on(sum((piece.readings for piece in every), Readings()))
        counts = {
            split: sum((piece.counts for piece in pieces), Counter[str]()) for split, pieces in observations.items()
        }
        if not counts["train"] and not faults and not self.is_evaluation:
            raise DataError(f"{self._path}: no row has an entity; there is nothing to learn")
        is_known = self._legal is not None
        self._legal = self._legal or {*counts["train"]}
        self.facts = {
            "types": list(self._options.types or sorted(self._legal)),
            "scheme": self._scheme,
            "keep_inner": self._keep_inner,
            "span_counts": {split: dict(count) for split, count in counts.items()},
            "tags_repaired": {
                split: sum(piece.num_repaired for piece in pieces) for split, pieces in observations.items()
            },
        }
        return not is_known and any(count.keys() - self._legal for count in counts.values())

    def adopt(self, facts: Mapping[str, Any]) -> bool:
        self.facts = dict(facts)
        self._scheme, self._keep_inner, self._legal = facts["scheme"], facts["keep_inner"], set(facts["types"])
        return True

    def _look_at_tags(self, rows: Sequence[Row], faults: Faults) -> _Tags:
        readings = Readings()
        tagged = []
        for row in rows:
            tags = tags_of_row(row, self._notation, faults, readings)
            if tags is not None:
                tagged.append(tags)
            if (found := read_export(row.values)) is not None:
                name, export = found
                readings[f"read as {name}: {{rows}}", ""] += 1
                for what, count in export.left_out.items():
                    readings[f"left out: {what} ({{count}})", ""] += count
        parts = map(split_tag, {tag for tags in tagged for tag in tags})
        types = {found_parts[1] for found_parts in parts if found_parts and found_parts[0] != OUTSIDE}
        has_words = any(map(has_tokens, rows))
        return _Tags(signs_of(tagged), types, has_words, rows[0].path if rows else None, readings)

    def _learn_notation(self, pieces: Sequence[_Tags]) -> None:
        """Takes the scheme, and what is to be said of how the rows are written."""
        readings = sum((piece.readings for piece in pieces), Readings())
        has_bare = any(note == BARE for note, _ in readings)
        if has_bare and set().union(*(piece.types for piece in pieces)) != {self._notation.bare_type}:
            self._notation = self._notation._replace(bare_type=None)
        self.notes = notes_on(readings)
        if self._options.scheme == "io":
            self._scheme = "iob1"  # without a B-: neighbours of the same type are one entity
        elif self._options.scheme == "auto":
            self._scheme = detect_scheme(piece.signs for piece in pieces)
        else:
            self._scheme = self._options.scheme

    def _spans(self, row: Row, faults: Faults, readings: Readings) -> tuple[list[Span], int]:
        """The row's spans, and how many of its tags had to be repaired."""
        assert self._scheme is not None, "the scheme is learned first"
        tags = tags_of_row(row, self._notation, Faults(), Readings())
        if tags is None:
            return spans_of_row(row, words_of(row, keep_inner=self._keep_inner), faults, readings), 0
        bio, unknown, illegal = to_bio(tags, self._scheme)
        for bad in unknown if self._options.on_bad_tag == "repair" else sorted([*unknown, *illegal]):
            read_as = "" if bad in unknown else f"; read as {self._scheme.upper()} (task.scheme, task.on_bad_tag)"
            hint = self._hint(tags[bad.at]) if bad in unknown else ""
            faults.add(word_place(row, bad.at), f"tag {bad.at + 1}: {bad.what}{read_as}{hint}")
        return spans_of(bio), len(illegal)

    def _hint(self, tag: str) -> str:
        """What may be meant by a tag that is not legal."""
        if is_bare(tag):
            num_types = len(self._options.types or ())
            others = f"task.types has {num_types}" if num_types > 1 else "other tags have one"
            return f". It names no type, but {others}"
        return ". If tags are types without a prefix, set task.scheme: io" if split_tag(tag) is None else ""

    def _refuse_unknown(self, row: Row, spans: Sequence[Span], faults: Faults) -> None:
        assert self._legal is not None
        source = "task.types" if self._options.types else "the training rows"
        source = "the types of the model" if self.is_evaluation else source
        for type_ in dict.fromkeys(span.type for span in spans):
            if type_ not in self._legal:
                at = next(span.start for span in spans if span.type == type_)
                known = ", ".join(sorted(self._legal)[:20])
                place = word_place(row, at) if has_tokens(row) else row
                faults.add(place, f"type {type_!r} is not in {source}; legal: {known}")
