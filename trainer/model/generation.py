"""How a model generates: by the recipe's settings alone, whatever its own generation_config.json says.

The exported model keeps the settings of its own that are valid, for those who use it elsewhere.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "use_cache",
    "cache_implementation",
)
"""The settings of a model's own without which it would not be decoded rightly, or not as it is built."""


def remember_generation(model: "PreTrainedModel", settings: Mapping[str, Any]) -> None:
    """Sets how the model, also once exported, generates; its own end-of-text tokens are kept."""
    generation: Any = model.generation_config
    own = generation.eos_token_id
    generation.update(**settings)
    if "eos_token_id" in settings and own is not None:
        old, new = ([ids] if isinstance(ids, int) else list(ids) for ids in (own, settings["eos_token_id"]))
        generation.eos_token_id = list(dict.fromkeys([*new, *old]))


def unset_invalid(generation: Any) -> str:
    """Unsets what transformers refuses to save, such as a temperature without do_sample; a note, or ""."""
    dropped: dict[str, Any] = {}
    while True:
        try:
            generation.validate(strict=True)
            break
        except ValueError as error:
            names = [
                name for name in re.findall(r"^- `(\w+)`: ", str(error), re.MULTILINE) if hasattr(generation, name)
            ]
            if not names:
                raise
            for name in names:
                dropped[name] = getattr(generation, name)
                setattr(generation, name, None)
    if not dropped:
        return ""
    return f"generation_config.json of the model: {_listed(dropped)} contradict its other settings; not exported"


def describe_unused(generation: Any, settings: Mapping[str, Any]) -> str:
    """A note on the settings of a model's own that evaluations and predict do not use; "" if there are none."""
    ignored = {*KEPT, *settings, "transformers_version"}
    unused = {
        name: value
        for name, value in generation.to_diff_dict().items()
        if name not in ignored and not name.startswith("_") and value not in (None, False)
    }
    if _pad_alone(generation) is not None:
        unused.pop("bad_words_ids", None)
    if not unused:
        return ""
    return (
        f"generation_config.json of the model: {_listed(unused)} are not used in evaluations and predict, in which the "
        "recipe decides; the exported model keeps them"
    )


@contextmanager
def decoding_of_recipe(model: Any) -> Iterator[None]:
    """Takes all settings from a model that would decide what is generated, for as long as this is open."""
    from transformers import GenerationConfig

    own = model.generation_config
    kept = {name: value for name in KEPT if (value := getattr(own, name, None)) is not None}
    if (bad_words := _pad_alone(own)) is not None:
        kept["bad_words_ids"] = bad_words
    model.generation_config = GenerationConfig(**kept)
    try:
        yield
    finally:
        model.generation_config = own


def _pad_alone(generation: Any) -> list[list[int]] | None:
    """The bad words, if they are the padding alone: a Marian does not know that it must not write it."""
    bad_words: list[list[int]] | None = generation.bad_words_ids
    return bad_words if bad_words == [[generation.pad_token_id]] else None


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.40}" for name, value in sorted(settings.items()))
