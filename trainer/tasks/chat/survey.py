"""What is found out about the rows of a chat before any is encoded, and what the user is told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from shardtune.recipe.tasks.chat import ChatOptions
from shardtune.rows.source import Faults, Row
from shardtune.trainer.tasks.chat.conversations import format_of, read_conversation
from shardtune.trainer.tasks.chat.template.thoughts import count_thoughts
from shardtune.trainer.tasks.languages import NUM_LOOKED_AT, Letters, bleu_tokenizer, letters_of
from shardtune.trainer.tasks.task import Survey


class _Observation(NamedTuple):
    """What is observed in some rows."""

    formats: Counter[str]
    num_replies: int
    letters: Letters
    roles: Counter[tuple[str, str]]
    """How often a name is read as a role."""
    num_thoughts: int
    """How many replies have thoughts."""


class ChatSurvey(Survey):
    """Finds out the formats of each split's rows, and how many replies they have."""

    observed = (_Observation, Letters)

    def __init__(self, options: ChatOptions) -> None:
        super().__init__()
        self._options = options

    def observe(self, split: str, rows: Sequence[Row], faults: Faults) -> _Observation:
        formats, roles, num_thoughts = Counter[str](), Counter[tuple[str, str]](), 0
        replies: list[str] = []
        num_replies = 0
        for row in rows:
            conversation = read_conversation(row, faults, format_=self._options.format, roles=self._options.roles)
            if conversation is None:
                continue
            formats[str(format_of(row.values)) if self._options.format == "auto" else self._options.format] += 1
            texts = [message["content"] for message in conversation.messages if message["role"] == "assistant"]
            num_replies += len(texts)
            num_thoughts += count_thoughts(conversation.messages)
            roles.update(conversation.renamed)
            replies += texts if len(replies) < NUM_LOOKED_AT else []
        return _Observation(formats, num_replies, letters_of(replies), roles, num_thoughts)

    def conclude(self, observations: Mapping[str, Sequence[_Observation]], faults: Faults) -> bool:
        self.facts = {
            "formats": {
                split: dict(sum((piece.formats for piece in pieces), Counter[str]()))
                for split, pieces in observations.items()
            },
            "replies": {split: sum(piece.num_replies for piece in pieces) for split, pieces in observations.items()},
            "bleu_tokenizer": bleu_tokenizer(
                None, (piece.letters for pieces in observations.values() for piece in pieces)
            ),
        }
        roles = {split: _counted(piece.roles for piece in pieces) for split, pieces in observations.items()}
        if any(roles.values()):
            self.facts["roles"] = roles
        if num_thoughts := sum(piece.num_thoughts for piece in observations.get("train", ())):
            self.facts["thoughts"] = num_thoughts
        return False


def _counted(parts: Iterable[Counter[tuple[str, str]]]) -> list[tuple[str, str, int]]:
    """How often each name is read as a role: name, role and count, in the order of the rows."""
    return [(name, role, count) for (name, role), count in sum(parts, Counter[tuple[str, str]]()).items()]


def notes_on(split: str, roles: Sequence[tuple[str, str, int]], noted: Mapping[str, int]) -> list[str]:
    """What the user should know of a split: how its `roles` were read, and what its examples noted."""
    return [f"{split}: {note}" for note in _notes_on(roles, noted)]


def _notes_on(roles: Sequence[tuple[str, str, int]], noted: Mapping[str, int]) -> Iterator[str]:
    if roles:
        read = ", ".join(f"{count:,} roles {name!r} read as {role}" for name, role, count in roles)
        yield f"{read} (task.roles names others)"
    if noted.get("apart"):
        yield (
            f"{noted['apart']:,} conversations are taken apart into {noted['examples']:,} examples, one for each "
            "reply, because the chat template renders replies differently when more follows (task.turns): "
            f"{noted['tokens']:,} tokens instead of {noted['at_once']:,}"
        )
    if hidden := noted.get("hidden_thoughts"):
        yield (
            f"the chat template does not show the thoughts of {hidden:,} replies, so they are not learned; "
            "task.thoughts=keep puts them in front of the answers"
        )
