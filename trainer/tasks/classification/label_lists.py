"""How several labels are written in one value, and which of the ways the rows of a recipe use.

A list of names; a text of names with separators; a list as a text, in the notation of JSON or of Python; one number per
label, 1 for those that apply (multi-hot); or one column per label. Whether `1, 0` is two names or multi-hot, and which
separator a text has, is decided over all rows.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardtune.errors import DataError

SEPARATORS = (",", ";", "|")
_IS_ON = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""The numbers of a multi-hot list, as texts in lower case."""


class MisfitError(ValueError):
    """A label that is well-formed, but not written in the way of the others."""


@dataclass(frozen=True)
class Written:
    """One row's labels, as far as the row alone tells."""

    names: tuple[str, ...] | None = None
    """The names in a list, in its order, repeated ones too."""
    text: str | None = None
    """A text whose separator is not known yet."""
    columns: Mapping[str, bool] | None = None
    """The columns of one label each, and whether it applies."""

    @property
    def bits(self) -> tuple[bool, ...] | None:
        """The numbers of a multi-hot list or text; None if it cannot be one."""
        cells = re.split(r"[\s,;|]+", self.text) if self.text is not None else self.names
        if cells is None or len(cells) < 2 or not all(cell.lower() in _IS_ON for cell in cells):
            return None
        return tuple(_IS_ON[cell.lower()] for cell in cells)

    def split(self, separator: str) -> list[str]:
        """The names of the labels that apply, each once."""
        if self.columns is not None:
            return [name for name, is_on in self.columns.items() if is_on]
        if self.text is None:
            return list(dict.fromkeys(self.names or ()))
        return list(dict.fromkeys(name for cell in self.text.split(separator) if (name := cell.strip())))


def read_written(label: Any, separator: str | None = None) -> Written:
    """The labels of a row; a text is divided by the separator if it is known.

    Raises ValueError with what was expected instead.
    """
    if isinstance(label, Mapping):
        return Written(columns={str(name): _is_on(name, value) for name, value in label.items()})
    if isinstance(label, str):
        text = label.strip()
        listed = list_in(text) if text[:1] in "[(" and text[-1:] in ")]" else None
        if listed is None and separator is None:
            return Written(text=text)
        label = [cell for cell in text.split(separator) if cell.strip()] if listed is None else listed
    if not isinstance(label, list | tuple):
        marks = " or ".join(map(repr, SEPARATORS if separator is None else [separator]))
        raise ValueError(f"expected a list of names, or a text of names separated by {marks}, got")
    return Written(names=tuple(map(name_of, label)))


def name_of(label: Any) -> str:
    """A label as a name: a text without blanks around it, or a whole number. Raises ValueError."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # pandas makes such floats of whole numbers as soon as a value is missing
    if not isinstance(label, str | int) or not str(label).strip():
        raise ValueError("expected a name or a whole number, got")
    return str(label).strip()


def _is_on(name: Any, value: Any) -> bool:
    found = _IS_ON.get(str(value).strip().lower()) if isinstance(value, str | int | float) else None
    if found is None:
        raise ValueError(f"{name}: expected 0 or 1, got")
    return found


def list_in(text: str) -> Any:
    """The list that a text in brackets is in the notation of JSON, Python or numpy; None if it is none."""
    inside = text[1:-1]
    if all(cell.lower() in _IS_ON for cell in inside.split()):
        return inside.split()
    if re.fullmatch(r"""\s*(?:'[^']*'|"[^"]*")(?:\s+(?:'[^']*'|"[^"]*"))+\s*""", inside):
        return [one or other for one, other in re.findall(r"""'([^']*)'|"([^"]*)\"""", inside)]
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list | tuple):
            return list(found)
    return None


@dataclass
class LabelForms:
    """What is counted of the labels of some rows, whichever way they are read in the end."""

    names: Counter[str] = field(default_factory=Counter)
    """How often each name is in a list, once a row; or applies in a column."""
    by_separator: dict[str, Counter[str]] = field(default_factory=lambda: {mark: Counter() for mark in SEPARATORS})
    """The same for the names in texts, divided by each separator."""
    num_with: Counter[str] = field(default_factory=Counter)
    """How many texts have each separator in them."""
    columns: dict[str, None] = field(default_factory=dict)
    bits: Counter[int] = field(default_factory=Counter)
    """How often each place of multi-hot lists is 1."""
    widths: Counter[int] = field(default_factory=Counter)
    """How many lists may be multi-hot, by their length."""
    num_others: int = 0
    """How many labels cannot be multi-hot, and are not empty."""
    num_empty: int = 0

    def add(self, written: Written) -> None:
        """Counts the labels of a row."""
        bits = written.bits
        if bits is not None:
            self.widths[len(bits)] += 1
            self.bits.update(place for place, is_on in enumerate(bits) if is_on)
        elif written.names or written.text or written.columns:
            self.num_others += 1
        else:
            self.num_empty += 1
        if written.columns is not None:
            self.columns |= dict.fromkeys(written.columns)
        if written.text is None:
            self.names.update(written.split(""))
            return
        for mark in SEPARATORS:
            self.num_with[mark] += mark in written.text
            self.by_separator[mark].update(written.split(mark))

    def update(self, other: LabelForms) -> None:
        """Adds the counts of other rows."""
        for name in ("names", "num_with", "bits", "widths"):
            getattr(self, name).update(getattr(other, name))
        for mark, counts in other.by_separator.items():
            self.by_separator[mark].update(counts)
        self.columns |= other.columns
        self.num_others += other.num_others
        self.num_empty += other.num_empty


def merged(pieces: Iterable[LabelForms]) -> LabelForms:
    """The counts of all pieces together."""
    forms = LabelForms()
    for piece in pieces:
        forms.update(piece)
    return forms


def settle(
    by_split: Mapping[str, LabelForms], names: Sequence[str] | None, separator: str | None, path: Path | None
) -> dict[str, Any]:
    """The facts about labels of which a row may have several: `label_names`, `label_counts` by split, and `label_form`,
    with which `names_in` reads a label.

    `names` and `separator` are those of the recipe; `path` is the file of a training row. Raises DataError if the ways
    in which the labels are written leave open what they are.
    """
    every = merged(by_split.values())
    if every.columns:
        known = list(names or every.columns)
        return _facts(known, {split: forms.names for split, forms in by_split.items()}, {"kind": "columns"})
    if every.widths and not every.num_others and not {"0", "1"} <= set(names or ()):
        width, _ = every.widths.most_common(1)[0]
        what = f"{path}: the labels are lists of {width} zeros and ones, one for each label"
        if names is None:
            raise DataError(f"{what}; name the {width} labels in their order with task.label_names")
        if len(names) not in every.widths:
            raise DataError(f"{what}, but task.label_names has {len(names)} names")
        counts = {
            split: Counter({name: forms.bits[place] for place, name in enumerate(names) if forms.bits[place]})
            for split, forms in by_split.items()
        }
        have_misfits = len(every.widths) > 1 or every.num_empty > 0
        return _facts(names, counts, {"kind": "multi_hot", "have_misfits": have_misfits})
    mark = separator or _separator(every, path)
    counts = {split: forms.names + forms.by_separator.get(mark, Counter[str]()) for split, forms in by_split.items()}
    return _facts(names or sorted(counts["train"]), counts, {"kind": "names", "separator": mark})


def names_in(label: Any, facts: Mapping[str, Any]) -> list[str]:
    """The names of a row's labels, each once. Raises ValueError with what was expected instead."""
    form = facts["label_form"]
    written = read_written(label, form.get("separator"))
    if form["kind"] == "multi_hot":
        bits, names = written.bits, facts["label_names"]
        if bits is None or len(bits) != len(names):
            raise MisfitError(f"expected {len(names)} zeros and ones, as in other rows, got")
        return [name for name, is_on in zip(names, bits, strict=True) if is_on]
    return written.split("")


def _separator(forms: LabelForms, path: Path | None) -> str:
    """The only separator that is in any text. Raises DataError if there are several."""
    found = [mark for mark in SEPARATORS if forms.num_with[mark]]
    if len(found) > 1:
        listed = " and ".join(f"{mark!r} ({forms.num_with[mark]:,} rows)" for mark in found)
        raise DataError(f"{path}: labels contain {listed}; name the one between two labels with task.label_separator")
    return found[0] if found else ","


def _facts(names: Sequence[str], counts: Mapping[str, Counter[str]], form: dict[str, Any]) -> dict[str, Any]:
    return {
        "label_names": list(names),
        "label_counts": {split: dict(counted) for split, counted in counts.items()},
        "label_form": form,
    }
