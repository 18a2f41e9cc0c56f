"""How the base model writes a row of each task: a text, a conversation, a translation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from shardtune.trainer.commands.sampling.degenerate import Written
from shardtune.trainer.commands.sampling.draws import Sampling
from shardtune.trainer.evaluation.generate import settings_of
from shardtune.trainer.model.load import generate
from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.chat.chat import Chat
from shardtune.trainer.tasks.chat.conversations import Conversation, Message
from shardtune.trainer.tasks.chat.template.turns import TurnError
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.task import GeneratingTask

Drawn = tuple[Mapping[str, Any] | str, bool]
"""A row, or why it is none; and whether it was cut at the maximum length."""


@dataclass(frozen=True)
class Base:
    """The base model, and how it is sampled."""

    model: Any
    tokenizer: Any
    sampling: Sampling
    max_tokens: int

    def generate(
        self,
        inputs: Mapping[str, Tensor],
        rows: Sequence[int],
        ends: Sequence[int],
        *,
        part: int = 0,
        max_new_tokens: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> list[Written]:
        """What the model writes after these prompts of shape (rows, …), each up to one of the `ends`."""
        wanted = self.max_tokens if max_new_tokens is None else max_new_tokens
        how = {"do_sample": False, "num_beams": 1, "pad_token_id": self.pad_id, **(settings or {})}
        how |= {"max_new_tokens": wanted, "eos_token_id": list(ends)}
        if (processor := self.sampling.processor(rows, part, wanted)) is not None:
            how |= {"logits_processor": LogitsProcessorList([processor]), "num_beams": 1}
        with torch.inference_mode():
            ids = generate(self.model, {name: each.to(self.model.device) for name, each in inputs.items()}, how)
        begin = int(self.model.config.is_encoder_decoder)  # the decoder's own start token
        return [Written.of(of_row[begin:], ends) for of_row in ids.tolist()]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, without special ones."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @cached_property
    def special(self) -> frozenset[int]:
        """The special tokens, which no row may have."""
        return frozenset(self.tokenizer.all_special_ids)


class Writer(Protocol):
    """Writes the rows of a task."""

    def write(self, rows: Sequence[int]) -> list[Drawn]:
        """The rows of these numbers, in one batch."""


@dataclass(frozen=True)
class TextWriter:
    """Texts from the token that begins one, or that continue the beginnings of given ones."""

    base: Base
    start: int
    beginnings: Sequence[Sequence[int]] | None
    """The tokens that texts begin with, in turn; None lets the model begin them too."""

    def write(self, rows: Sequence[int]) -> list[Drawn]:
        begun: list[list[int]] = [[] for _ in rows]
        if self.beginnings is not None:
            begun = [list(self.beginnings[row % len(self.beginnings)]) for row in rows]
        inputs = causal.collate_prompts([[self.start, *ids] for ids in begun], self.base.pad_id)
        ends = [self.base.tokenizer.eos_token_id]
        room = self.base.max_tokens - max(map(len, begun))
        written = self.base.generate(inputs, rows, ends, max_new_tokens=room)
        return [self._drawn(ids, text) for ids, text in zip(begun, written, strict=True)]

    def _drawn(self, begun: Sequence[int], written: Written) -> Drawn:
        text = self.base.decode([*begun, *written.ids]).strip()
        fault = written.fault(self.base.special, must_end=False) or ("" if text else "empty")
        return fault or {"text": text}, not written.has_ended


@dataclass(frozen=True)
class ChatWriter:
    """A question, which the model asks itself where the template opens a user's turn (Magpie), and its reply."""

    base: Base
    task: Chat
    opening: Sequence[int]
    """The tokens up to the text of the question."""
    question_end: int
    room: int
    """The longest prompt for a reply."""

    def write(self, rows: Sequence[int]) -> list[Drawn]:
        inputs = causal.collate_prompts([self.opening] * len(rows), self.base.pad_id)
        ends = sorted({self.question_end, *ends_of(self.task, self.base.tokenizer)})
        asked = self.base.generate(inputs, rows, ends)
        drawn: dict[int, Drawn] = {}
        prompts: dict[int, list[int]] = {}
        questions = [self.base.decode(each.ids).strip() for each in asked]
        for at, (each, question) in enumerate(zip(asked, questions, strict=True)):
            fault = each.fault(self.base.special, must_end=True) or ("" if question else "empty")
            if not fault:
                try:
                    prompts[at] = self.task.prompt(self._conversation(question), self.room)
                except TurnError:  # it is too long, or has a part that the template reads as the end of a turn
                    fault = "unusable"
            if fault:
                drawn[at] = fault, False
        replies = _replies(self.base, self.task, [rows[at] for at in prompts], list(prompts.values()))
        for at, reply in zip(prompts, replies, strict=True):
            drawn[at] = _conversation([{"role": "user", "content": questions[at]}], None, reply), False
        return [drawn[at] for at in range(len(rows))]

    def _conversation(self, question: str) -> Conversation:
        asked: Message = {"role": "user", "content": question}
        if self.task.system is None:
            return Conversation(messages=[asked], weights=[])
        return Conversation(messages=[{"role": "system", "content": self.task.system}, asked], weights=[])


@dataclass(frozen=True)
class ReplyWriter:
    """The model's own reply to given conversations, in turn."""

    base: Base
    task: Chat
    conversations: Sequence[Conversation]
    """As in the data, up to where a reply is asked for."""
    prompts: Sequence[Sequence[int]]
    """The tokens of each, with the header of the reply."""

    def write(self, rows: Sequence[int]) -> list[Drawn]:
        chosen = [row % len(self.prompts) for row in rows]
        replies = _replies(self.base, self.task, rows, [self.prompts[at] for at in chosen])
        asked = [self.conversations[at] for at in chosen]
        return [
            (_conversation([_unlearned(message) for message in each.messages], each.tools, reply), False)
            for each, reply in zip(asked, replies, strict=True)
        ]


@dataclass(frozen=True)
class TranslationWriter:
    """The model's own translations of given sources, in turn."""

    base: Base
    task: GeneratingTask
    examples: Callable[[Sequence[int]], Sequence[Example]]
    """The encoded sources of rows of these numbers."""

    def write(self, rows: Sequence[int]) -> list[Drawn]:
        examples = self.examples(rows)
        settings = settings_of(self.task.generation, self.base.tokenizer)
        inputs, ends = self.task.collate_prompts(examples), ends_of(self.task, self.base.tokenizer)
        written = self.base.generate(inputs, rows, ends, settings=settings)
        return [(self._row(example, text), False) for example, text in zip(examples, written, strict=True)]

    def _row(self, example: Example, written: Written) -> Mapping[str, Any] | str:
        target = str(self.task.prediction(self.base.decode(written.ids))["translation"])
        special = self.base.special - set(written.ids[:1])  # the language of the target comes first
        fault = written.fault(special, must_end=True) or ("" if target.strip() else "empty")
        return fault or {"source": example["source"], "target": target}


def ends_of(task: GeneratingTask, tokenizer: Any) -> list[int]:
    """The tokens that end an answer."""
    return [int(token) for token in np.atleast_1d(task.generation.settings.get("eos_token_id", tokenizer.eos_token_id))]


Reply = str | Message
"""A reply of the model as a message, or why it is none."""


def _replies(base: Base, task: Chat, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> list[Reply]:
    """The reply to each prompt."""
    if not prompts:
        return []
    inputs = causal.collate_prompts(prompts, base.pad_id)
    written = base.generate(inputs, rows, ends_of(task, base.tokenizer), part=1)
    replies: list[Reply] = []
    for each in written:
        text = base.decode(each.ids).strip()
        fault = each.fault(base.special, must_end=True) or ("" if text else "empty")
        replies.append(fault or {"role": "assistant", "content": text})
    return replies


def _conversation(asked: Sequence[Message], tools: Any, reply: Reply) -> Mapping[str, Any] | str:
    """The row of a conversation; or why its reply is none."""
    if isinstance(reply, str):
        return reply
    return {"messages": [*asked, reply], **({"tools": tools} if tools else {})}


def _unlearned(message: Message) -> Message:
    """A message of the data, which is not the model's own, and so is not to be learned with it."""
    return {**message, "weight": 0} if message["role"] == "assistant" else message
