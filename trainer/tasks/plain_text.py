"""How ordinary texts are tokenized: special tokens that are literally in them are counted, or are plain text.

special_tokens.py says what is special in a text; here are the texts of tasks other than chat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shardtune.trainer.tasks.example import NOTED, Example
from shardtune.trainer.tasks.special_tokens import SpecialTokens, encode_plain, special_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPECIAL = "special token "
"""What the names begin with under which an example notes a special token in its row."""


def ids_of(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, is_plain: bool, as_target: bool = False, **how: Any
) -> list[list[int]]:
    """The token ids of each text, as the tokenizer gives them with the arguments `how`.

    With `is_plain`, special tokens that are literally in a text are plain text; DataError if that is impossible.
    """
    if is_plain:
        return encode_plain(tokenizer, texts, as_target=as_target, **how)
    given: dict[str, Any] = {"text_target" if as_target else "text": list(texts)}
    ids: list[list[int]] = tokenizer(**given, verbose=False, **how)["input_ids"]
    return ids


def ids_within(tokenizer: PreTrainedTokenizerBase, parts: Sequence[str], text: str) -> list[int]:
    """The token ids of these parts with the text between them, in which only the parts have special tokens.

    None are put around the whole.
    """
    special = SpecialTokens(tokenizer)
    ids: list[int] = []
    for number, part in enumerate(parts):
        if number:
            ids += special.continued(text) if ids else special.encode([text])[0]
        ids += tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"] if part else []
    return ids


def mark_special(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], by_row: Sequence[Sequence[Example]]
) -> None:
    """Marks the first example of each row in whose texts is a special token, so that such rows are counted."""
    for row_texts, examples in zip(texts, by_row, strict=True):
        found = next((token for text in row_texts if (token := special_in(tokenizer, text)) is not None), None)
        if found is not None and examples:
            examples[0][NOTED] = {f"{_SPECIAL}{found}": 1}


def special_notes(split: str, noted: Mapping[str, int]) -> list[str]:
    """What the user has to know of the marked rows of a split (Task.notes)."""
    counts = Counter({name.removeprefix(_SPECIAL): count for name, count in noted.items() if name.startswith(_SPECIAL)})
    if not counts:
        return []
    tokens = ", ".join(token for token, _ in counts.most_common(3))
    return [
        f"{split}: {counts.total():,} rows have special tokens in their text ({tokens}), which the model reads as "
        "such; data.special_tokens_in_text=escape reads them as plain text"
    ]
