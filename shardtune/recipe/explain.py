"""The faults that pydantic finds in a recipe, as messages that say what to do about them.

Legal values and suggestions for unknown keys are read from the schema itself.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from shardtune.recipe.counterparts.other_tools import OTHER_COUNTERPARTS
from shardtune.recipe.counterparts.training_arguments import COUNTERPARTS
from shardtune.recipe.yaml_lines import KeyPath
from shardtune.section import Section, TaskOptions


class Fault(NamedTuple):
    """One thing that is wrong, and the value it concerns."""

    key_path: KeyPath
    what: str


def explain(error: ValidationError, values: Mapping[str, Any], model: type[Section]) -> list[Fault]:
    """Return every fault in `values`, which `model` rejected with `error`."""
    faults = [_fault(detail, values, model) for detail in error.errors(include_url=False)]
    unknown_kinds = {fault.key_path[:-1] for fault in faults if fault.key_path[-1:] == ("kind",)}
    # Without a kind it is unknown which keys a section may have.
    return [fault for fault in faults if fault.key_path[-1:] == ("kind",) or fault.key_path[:-1] not in unknown_kinds]


def dotted(key_path: KeyPath) -> str:
    """`optim.betas[0]`, the form used in messages and overrides."""
    text = ""
    for step in key_path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f"{'.' if text else ''}{step if step.isprintable() else ascii(step)}"
    return text


def sections_in(annotation: Any) -> tuple[type[Section], ...]:
    """The sections that a field, or a list in it, may hold: none, one, or one for each kind."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (annotation,)
    return tuple(dict.fromkeys(section for part in get_args(annotation) for section in sections_in(part)))


def holds_only_sections(annotation: Any) -> bool:
    """Whether a field may hold nothing but sections."""
    if isinstance(annotation, type):
        return issubclass(annotation, Section)
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return holds_only_sections(parts[0])
    return get_origin(annotation) in (Union, UnionType) and all(map(holds_only_sections, parts))


def all_keys(model: type[Section], *, is_whole: bool = True) -> Iterator[str]:
    """Every dotted key that can have a value; those of a task only where a whole recipe has its task."""
    for name, field in model.model_fields.items():
        # The names of sections in a mapping are the user's.
        sections = [] if get_origin(field.annotation) is dict else [*sections_in(field.annotation)]
        if not is_whole:
            sections = [section for section in sections if not issubclass(section, TaskOptions)]
        if not sections or not holds_only_sections(field.annotation):
            yield name
        yield from dict.fromkeys(f"{name}.{key}" for section in sections for key in all_keys(section, is_whole=False))


def first_sentence(text: str) -> str:
    """`The seed. Of everything.` -> `The seed`."""
    return re.split(r"\.\s|\.$", " ".join(text.split()), maxsplit=1)[0]


def did_you_mean(word: str, words: Iterable[str], num: int = 1) -> str:
    """`; did you mean 'x'?`, or an empty string if no word is similar."""
    near = difflib.get_close_matches(word, list(words), n=num, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def shown(value: Any) -> str:
    """The value as shown in a message."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str() if len(value) > 80:
            return f"{value[:80]!r}..."
    return repr(value)


_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}
_BOUNDS = {"greater_than": ("above", "gt"), "greater_than_equal": ("at least", "ge"), "less_than": ("below", "lt"),
           "less_than_equal": ("at most", "le")}  # fmt: skip


def _fault(detail: ErrorDetails, values: Mapping[str, Any], model: type[Section]) -> Fault:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    key_path = _key_path(detail, values)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key_path = (*key_path, "kind")
        legal = _legal(_fields(model, key_path[:-1], values, narrow=False), "kind")
        return Fault(key_path, f"got {shown(given['kind'])}{legal}" if "kind" in given else f"missing{legal}")
    if kind == "missing":
        return Fault(key_path, _missing(key_path, values, model))
    if kind == "extra_forbidden":
        return Fault(key_path, _unknown(key_path, values, model))
    if kind == "literal_error":
        fields = _field(model, key_path, values)
        others = {int: ", or a whole number", tuple: ", or a list"}
        other = "".join(text for type_, text in others.items() if any(_takes(type_, f.annotation) for f in fields))
        # Of an item in a list or a mapping, pydantic alone knows what is legal.
        legal = ", ".join(_literals(fields)) or context["expected"].replace("'", "").replace(" or ", ", ")
        return Fault(key_path, f"got {shown(given)}; legal: {legal}{other}")
    if kind == "value_error":
        return Fault(key_path, str(context["error"]))
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return Fault(key_path, f"must be {words} {context[bound]:g}, got {shown(given)}")
    if kind == "too_long":
        return Fault(key_path, f"expected {context['max_length']} items, got {context['actual_length']}")
    if kind == "too_short":
        return Fault(key_path, f"expected {context['min_length']} items or more, got {context['actual_length']}")
    if kind in _EXPECTED:
        quotes = "; put it in quotes" if kind == "string_type" and isinstance(given, bool | int | float) else ""
        return Fault(key_path, f"expected {_EXPECTED[kind]}, got {shown(given)}{quotes}")
    return Fault(key_path, f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {shown(given)}")


def _key_path(detail: ErrorDetails, values: Any) -> KeyPath:
    """The path of the value, without the steps that pydantic adds, such as the kind of a section."""
    key_path: list[str | int] = []
    for number, step in enumerate(detail["loc"], start=1):
        given = dict(enumerate(values)) if isinstance(values, list) else values
        if isinstance(given, dict) and step in given:
            values = given[step]
        elif detail["type"] != "missing" or number < len(detail["loc"]):
            continue
        key_path.append(step)
    return tuple(key_path)


def _fields(
    model: type[Section], key_path: KeyPath, values: Mapping[str, Any], *, narrow: bool = True
) -> dict[str, list[FieldInfo]]:
    """The keys that may occur at key_path; several fields per key if the section's kind leaves it open."""
    sections: tuple[type[Section], ...] = (model,)
    given: Any = values
    is_name = False  # of a section in a mapping of sections
    for step in key_path:
        if isinstance(step, int):  # an item of a list of sections
            given = given[step] if isinstance(given, list) and step < len(given) else None
        elif is_name:
            given, is_name = given.get(step) if isinstance(given, dict) else None, False
        else:
            fields = [section.model_fields[step] for section in sections if step in section.model_fields]
            sections = tuple(section for field in fields for section in sections_in(field.annotation))
            is_name = any(get_origin(field.annotation) is dict for field in fields)
            given = given.get(step) if isinstance(given, dict) else None
        if narrow and isinstance(given, dict):
            of_kind = [s for s in sections if "kind" in s.model_fields and given.get("kind") in _literals_of(s, "kind")]
            sections = tuple(of_kind) or sections
    fields_by_name: dict[str, list[FieldInfo]] = {}
    for section in sections:
        for name, field in section.model_fields.items():
            fields_by_name.setdefault(name, []).append(field)
    return fields_by_name


def _field(model: type[Section], key_path: KeyPath, values: Mapping[str, Any]) -> list[FieldInfo]:
    return _fields(model, key_path[:-1], values).get(str(key_path[-1]), [])


def _literals(fields: Iterable[FieldInfo]) -> list[str]:
    def inside(annotation: Any) -> Iterator[str]:
        if get_origin(annotation) is Literal:
            yield from map(str, get_args(annotation))
        else:
            for part in get_args(annotation):
                yield from inside(part)

    return list(dict.fromkeys(word for field in fields for word in inside(field.annotation)))


def _takes(kind: type, annotation: Any) -> bool:
    """Whether the field accepts a value of this type, besides literals."""
    if get_origin(annotation) is Literal:
        return False
    return kind in (annotation, get_origin(annotation)) or any(_takes(kind, part) for part in get_args(annotation))


def _literals_of(section: type[Section], name: str) -> list[str]:
    return _literals([section.model_fields[name]])


def _legal(fields: Mapping[str, list[FieldInfo]], name: str) -> str:
    words = _literals(fields.get(name, []))
    return f"; legal: {', '.join(words)}" if words else ""


def _missing(key_path: KeyPath, values: Mapping[str, Any], model: type[Section]) -> str:
    if isinstance(key_path[-1], int):
        return f"the item at position {key_path[-1]} is missing"
    fields = _field(model, key_path, values)
    if legal := _legal({key_path[-1]: fields}, key_path[-1]):
        return f"missing{legal}"
    docs = [field.description or next((s.__doc__ for s in sections_in(field.annotation)), None) for field in fields]
    meaning = first_sentence(docs[0]) if docs and docs[0] else ""
    return f"missing; {meaning[:1].lower()}{meaning[1:]}" if meaning else "missing"


def _unknown(key_path: KeyPath, values: Mapping[str, Any], model: type[Section]) -> str:
    key, siblings = str(key_path[-1]), _fields(model, key_path[:-1], values)
    if "." in key:
        return _unknown_dotted(key, key_path[:-1], model)
    # Names from other tools come first: difflib would suggest max_steps for save_steps.
    if key in COUNTERPARTS:
        ours, note = COUNTERPARTS[key]
        if ours is None:
            return f"unknown key; transformers' {key} has no counterpart here: {note}"
        return f"unknown key; did you mean {ours}?{f' ({note})' if note else ''}"
    if key in OTHER_COUNTERPARTS:
        ours, note = OTHER_COUNTERPARTS[key]
        if ours is None:
            return f"unknown key; {note}"
        return f"unknown key; did you mean {ours}?{f' ({note})' if note else ''}"
    if near := did_you_mean(key, siblings):
        return f"unknown key{near}"
    elsewhere = {
        name: full for full in all_keys(model) for name in [full.rpartition(".")[2]] if full != dotted(key_path)
    }
    # A nested section has few keys, so that the most similar word elsewhere is hardly what was meant.
    near_elsewhere = difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.8) if len(key_path) < 3 else []
    for word in (key, *near_elsewhere):
        if word in elsewhere:
            meant = [full for full in all_keys(model) if full.rpartition(".")[2] == word]
            return f"unknown key; did you mean {' or '.join(meant)}?"
    return f"unknown key; legal: {', '.join(siblings)}"


def _unknown_dotted(key: str, around: KeyPath, model: type[Section]) -> str:
    """What to say of `data.max_tokens: 64`, which is how overrides are written, but not a file."""
    full = key if not around else f"{dotted(around)}.{key}"
    keys = dict.fromkeys(all_keys(model))
    meant = next((name for name in (full, key) if name in keys), None)
    if meant is None:
        return f"unknown key; a dotted key is for the command line only{did_you_mean(key, keys)}"
    section, _, last = meant.rpartition(".")
    return f"a dotted key is for the command line only; here write {last} within the section {section}"
