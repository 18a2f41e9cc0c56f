"""What a model answers, on any number of ranks: which rows are asked, by which rank, and how generate is called."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shardtune.trainer.data.batches.deal import deal
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.task import GeneratingTask, Generation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Questions:
    """One call of generate on this rank."""

    examples: list[Example]
    shown: list[int]
    """The places of those whose answers are shown, by the number of the example; -1 for the others."""
    muted: bool
    """Only asked so that all ranks ask equally often; the answers do not count."""


def questions(
    split: Split, generation: Generation, num_rows: int | None, *, ranks: Ranks, micro_batch_tokens: int
) -> Iterator[Questions]:
    """This rank's share of the asked rows, each on exactly one rank, in as many calls on every rank."""
    asked = _spread(num_rows or len(split), len(split))
    shown = set(_spread(generation.num_shown, len(asked)).tolist())
    # Prompt and expected answer are a bound of the prompt; every beam holds a row of its own.
    lengths = ((split.lengths[asked] + generation.max_new_tokens) * generation.num_beams).astype(np.int32)
    for piece in deal(lengths, world_size=ranks.world_size, micro_batch_tokens=micro_batch_tokens)[ranks.rank]:
        muted = len(piece) == 0
        places = np.array([int(lengths.argmin())]) if muted else piece
        yield Questions(
            split.examples(asked[places]),
            [int(place) if place in shown and not muted else -1 for place in places],
            muted,
        )


def _spread(number: int, of: int) -> NDArray[np.int64]:
    """So many of the numbers below `of`, evenly spaced; all of them if they are fewer."""
    return np.unique(np.linspace(0, of - 1, min(number, of)).astype(np.int64))


def settings_of(generation: Generation, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The same in the words of transformers' generate."""
    return {
        "max_new_tokens": generation.max_new_tokens,
        "num_beams": generation.num_beams,
        # A measurement has to come out the same each time, whatever the model's own generation_config says.
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "pad_token_id": tokenizer.pad_token_id,
        **generation.settings,
    }


@torch.no_grad()
def score_answers(
    engine: Engine,
    task: GeneratingTask,
    asked: Iterable[Questions],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    ranks: Ranks,
) -> tuple[dict[str, Tensor], list[dict[str, str]]]:
    """Collective: the counts of this rank's answers, and the shown answers of all ranks in the order of the rows."""
    settings = settings_of(task.generation, tokenizer)
    totals = task.score_answers([], [])
    shown: dict[int, dict[str, str]] = {}
    for its in asked:
        inputs = {name: tensor.to(ranks.device) for name, tensor in task.collate_prompts(its.examples).items()}
        ids = engine.generate(inputs, settings)
        answers: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        if its.muted:
            continue
        scores = task.score_answers(answers, its.examples)
        totals = {name: totals[name] + score for name, score in scores.items()}
        for place, answer, example in zip(its.shown, answers, its.examples, strict=True):
            if place >= 0:
                shown[place] = task.show_answer(answer, example)
    everyones: Sequence[dict[int, dict[str, str]]] = ranks.gather(shown)
    in_order = sorted((place, its) for one in everyones for place, its in one.items())
    return totals, [its for _, its in in_order]
