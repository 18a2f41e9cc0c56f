"""Whether a run packs its examples, which the model itself is asked: no list of architectures says it.

transformers makes the attention mask of packed examples from their position ids, for the causal models that hand these
on to it; an encoder is given a mask. Others pass over them, and so do layers that are no attention (Mamba,
convolutions); none of these says a word.
"""

from collections.abc import Collection
from inspect import signature
from typing import Any

from torch import Tensor

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.bins import Packing, merge
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.example import IGNORED, Example

MAX_LEAK = {"fp32": 1e-5, "bf16": 3e-3, "fp16": 3e-3}
"""What another example may change, as a part of what it changes where it is seen. The same shapes, so the same kernels:
attention that is masked changes nothing at all, the rounding of experts 2e-7 (Mixtral, fp32). What leaks least, the
convolution of an Lfm2 without training, came to 7e-4 in fp32 and to 1e-2 in bf16."""
MAX_DIFFERENCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}
"""What packing may change, as a part of what being one text would. Other shapes are other kernels, which round
otherwise; learned positions that do not begin anew come to 0.2 (OPT)."""


def choose_packing(
    recipe: Recipe, task: Task, engine: Engine, model: Any, *, ranks: Ranks, reporter: Reporter
) -> Packing | None:
    """Collective: how this run packs its examples; None if it does not. Reports it if `auto` finds that it cannot.

    Raises DataError if the recipe wants packing and the task or the model cannot.
    """
    if recipe.data.packing == "off" or (recipe.data.packing == "auto" and not task.packable):
        return None
    # RoBERTa and its like count places from the one after the padding's id.
    firsts = dict.fromkeys((0, (getattr(model.config, "pad_token_id", None) or 0) + 1))
    faults: list[str] = []
    for first_position in firsts:
        packing = Packing(
            capacity=recipe.data.max_tokens,
            # Flash attention tells packed examples apart in a single row only (transformers' _is_packed_sequence).
            is_flat="flash" in (model.config._attn_implementation or ""),
            first_position=first_position,
        )
        fault = _fault(task, engine, model, packing, recipe.engine.precision, ranks)
        if fault is None:
            return packing
        faults.append(fault)
    if recipe.data.packing == "on":
        raise DataError(f"data.packing: {faults[0]}; set it to auto or off")
    reporter.report("notice", text=f"rows are not packed: {faults[0]}")
    return None


def _fault(task: Task, engine: Engine, model: Any, packing: Packing, precision: str, ranks: Ranks) -> str | None:
    """Collective: why these examples cannot be packed for this model; None if they can."""
    name = type(model).__name__
    if not task.packable:
        return f"the examples of this task cannot be packed for a {name}"
    if "position_ids" not in signature(type(model).forward).parameters:
        return f"{name} takes no position_ids"
    if not task.wants_target_loss and any(kind != "full_attention" for kind in _kinds_of_layers(model)):
        return f"some layers of a {name} see a window of a text alone, of which a mask of packed rows says nothing"
    if packing.is_flat and not task.wants_target_loss:
        return f"flash attention takes no mask, by which the examples of a {name} would be told apart; use sdpa"
    leak, difference = _measure(engine, task, model.config.get_text_config().vocab_size, packing, ranks)
    # Every rank has the same weights, but perhaps another kernel.
    if ranks.any(not leak <= MAX_LEAK[precision]):
        return f"{name} does not keep rows apart that share one (one is seen in another: {leak:.1%} of it)"
    if ranks.any(not difference <= MAX_DIFFERENCE[precision]):
        return f"{name} computes something else for rows that share one ({difference:.1%})"
    return None


def _kinds_of_layers(model: Any) -> Collection[str]:
    """What each layer attends to, as transformers names it in a config."""
    return getattr(model.config.get_text_config(), "layer_types", None) or ()


def _measure(engine: Engine, task: Task, vocabulary_size: int, packing: Packing, ranks: Ranks) -> tuple[float, float]:
    """Collective: how much of one example is seen in the next, and how much packing changes the latter's logits.

    Both as parts of what is seen, or changed, if the two are one text; not a number if that is nothing.
    """

    def example(start: int, length: int) -> Example:
        ids = [(start + 7 * at * at + 3 * at) % vocabulary_size for at in range(length)]
        return {"input_ids": ids, "labels": [IGNORED] * length, "token_type_ids": [0] * length}

    first, other, watched, third = example(1, 5), example(2, 5), example(20, 7), example(11, 15)
    watched["labels"] = watched["input_ids"]

    def logits(*rows: Example) -> Tensor:
        """Those of the watched example, at each of its tokens; shape (tokens, vocabulary or labels)."""
        batch = task.collate(rows).to(ranks.device)
        batch.inputs.pop("targets", None)
        with engine.evaluating():
            result: Tensor = engine.forward(batch).logits[batch.targets].float()
        return result

    def packed(before: Example) -> Tensor:
        rows = [[before, watched, third]] if packing.is_flat else [[before, watched], [third]]
        return logits(*(merge(row, packing.first_position) for row in rows))

    def one_text(before: Example) -> Tensor:
        return logits({key: [*before[key], *watched[key]] for key in before})

    its, alone, seen = packed(first), logits(watched), one_text(first)
    leak = (its - packed(other)).norm(dim=1).max() / (seen - one_text(other)).norm(dim=1).max()
    return float(leak), float((its - alone).norm() / (seen - alone).norm())
