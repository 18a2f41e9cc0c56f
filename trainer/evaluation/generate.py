"""Generated answers on any number of ranks: which rank generates for which rows, and how generate is called."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.deal import deal
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Inference
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.task import GeneratingTask, Generation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Questions:
    """The prompts of one call of generate on this rank."""

    examples: list[Example]
    shown: list[int]
    """For each example, its place among the rows if its answer is shown, else -1."""
    rows: NDArray[np.int64]
    """The number of each example in the split; shape (examples,)."""
    muted: bool
    """Generated only so that all ranks make equally many calls; the answers do not count."""


@dataclass(frozen=True)
class Answered:
    """The answers of this rank, scored."""

    rows: NDArray[np.int64]
    """The number of each answered example in the split; shape (answers,)."""
    scores: dict[str, Tensor]
    """The counts of each answer; shape (answers, …)."""
    shown: list[dict[str, str]]
    """On rank 0, the answers of all ranks that are shown, in row order."""


def questions(
    split: Split, generation: Generation, num_rows: int | None, batch_maker: BatchMaker
) -> Iterator[Questions]:
    """Yields the calls of this rank: each row on exactly one rank, equally many calls on every rank."""
    asked = _spread(num_rows or len(split), len(split))
    shown = set(_spread(generation.num_shown, len(asked)).tolist())
    # Prompt and expected answer together bound the prompt; every beam holds its own row.
    lengths = ((split.lengths[asked] + generation.max_new_tokens) * generation.num_beams).astype(np.int32)
    ranks, budget, cost = batch_maker.ranks, batch_maker.micro_batch_tokens, batch_maker.cost
    for piece in deal(lengths, world_size=ranks.world_size, micro_batch_tokens=budget, cost=cost)[ranks.rank]:
        muted = len(piece) == 0
        places = np.array([int(lengths.argmin())]) if muted else piece
        yield Questions(
            split.examples(asked[places]),
            [int(place) if place in shown and not muted else -1 for place in places],
            asked[places],
            muted,
        )


def _spread(number: int, of: int) -> NDArray[np.int64]:
    """`number` of the integers below `of`, evenly spaced; all of them if there are fewer."""
    return np.unique(np.linspace(0, of - 1, min(number, of)).astype(np.int64))


def settings_of(generation: Generation, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The arguments of transformers' generate for this generation."""
    return {
        "max_new_tokens": generation.max_new_tokens,
        "num_beams": generation.num_beams,
        # An evaluation has to be repeatable, whatever the generation_config of the model says.
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "pad_token_id": tokenizer.pad_token_id,
        **generation.settings,
    }


@torch.no_grad()
def score_answers(
    engine: Inference,
    task: GeneratingTask,
    asked: Iterable[Questions],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    ranks: Ranks,
) -> Answered:
    """Collective: returns the counts of the answers of this rank, and some answers to show."""
    settings = settings_of(task.generation, tokenizer)
    scores, rows = [task.score_answers([], [])], [np.zeros(0, dtype=np.int64)]
    shown: dict[int, dict[str, str]] = {}
    for call in asked:
        inputs = {name: tensor.to(ranks.device) for name, tensor in task.collate_prompts(call.examples).items()}
        ids = engine.generate(inputs, settings)
        answers: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        if call.muted:
            continue
        scores.append(task.score_answers(answers, call.examples))
        rows.append(call.rows)
        for place, answer, example in zip(call.shown, answers, call.examples, strict=True):
            if place >= 0:
                shown[place] = task.show_answer(answer, example)
    by_place = {place: answer for answers in ranks.to_zero(shown) for place, answer in answers.items()}
    by_name = {name: torch.cat([counts[name] for counts in scores]) for name in scores[0]}
    return Answered(np.concatenate(rows), by_name, [by_place[place] for place in sorted(by_place)])
