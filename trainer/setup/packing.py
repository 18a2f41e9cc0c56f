"""Whether a run packs its examples, which is measured on the model; there is no list of architectures.

transformers builds the attention mask of packed examples from their position ids, for the causal models that pass these
on to it; an encoder is given a mask. Flash attention of any kind is given the borders of the examples, all of which are
then in one row. Other models ignore them, and so do layers other than attention (Mamba, convolutions), all without a
warning.
"""

import math
from collections.abc import Collection, Iterator
from inspect import Parameter, signature
from typing import Any

from torch import Tensor

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.batch_maker import collate_packed
from shardtune.trainer.data.batches.bins import Packing
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.model.attention.choice import VARLEN
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import IGNORED, Example

MAX_LEAK = {"fp32": 1e-5, "bf16": 3e-3, "fp16": 3e-3}
"""How much another example may change the logits, relative to the change where it is seen. The shapes are the same, so
the kernels are too: masked attention changes nothing at all, the rounding of experts 2e-7 (Mixtral, fp32). The smallest
real leak, the convolution of an untrained Lfm2, was 7e-4 in fp32 and 1e-2 in bf16."""
MAX_DIFFERENCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}
"""How much packing may change the logits, relative to the change if the examples were one text. Other shapes are other
kernels, which round differently; learned positions that do not start again come to 0.2 (OPT)."""


def choose_packing(
    recipe: Recipe, task: Task, engine: Engine, model: Any, *, ranks: Ranks, reporter: Reporter
) -> Packing | None:
    """Collective: how this run packs its examples, or None if it does not. Reports why, if `auto` cannot.

    Raises DataError if the recipe requires packing and the task or the model does not support it.
    """
    if recipe.data.packing == "off" or (recipe.data.packing == "auto" and not task.packable):
        return None
    faults: list[str] = []
    for packing in _packings(recipe, model):
        fault = _fault(task, engine, model, packing, recipe.engine.precision, ranks)
        if fault is None:
            if faults and not packing.is_flat and model.config._attn_implementation == VARLEN:
                reporter.report("notice", text=f"packed rows have a mask, and {VARLEN} is not used: {faults[0]}")
            return packing
        faults.append(fault)
    if recipe.data.packing == "on":
        raise DataError(f"data.packing: {faults[0]}; set it to auto or off")
    reporter.report("notice", text=f"rows are not packed: {faults[0]}")
    return None


def _packings(recipe: Recipe, model: Any) -> Iterator[Packing]:
    """The ways to pack that the attention implementation may support, the fastest first."""
    name = model.config._attn_implementation or ""
    # RoBERTa and similar models count positions from the one after the padding's id.
    firsts = dict.fromkeys((0, (getattr(model.config, "pad_token_id", None) or 0) + 1))
    # Flash attention keeps examples apart by their borders alone, varlen by masks too.
    for is_flat in [True] * (name == VARLEN or "flash" in name) + [False] * ("flash" not in name):
        for first_position in firsts:
            yield Packing(
                capacity=recipe.data.max_tokens,
                is_flat=is_flat,
                first_position=first_position,
                is_marked=is_flat and name == VARLEN,
            )


def _fault(task: Task, engine: Engine, model: Any, packing: Packing, precision: str, ranks: Ranks) -> str | None:
    """Collective: why these examples cannot be packed for this model, or None if they can."""
    name = type(model).__name__
    if not task.packable:
        return f"the examples of this task cannot be packed for {name}"
    parameters = signature(type(model).forward).parameters
    if "position_ids" not in parameters:
        return f"{name} takes no position_ids"
    if packing.is_flat and not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return f"{name} does not pass on where packed rows begin and end"
    has_mask = not (task.wants_target_loss or packing.is_flat)
    if has_mask and any(kind != "full_attention" for kind in _kinds_of_layers(model)):
        return f"some layers of {name} attend within a window, which the mask of packed rows cannot express"
    size = getattr(model.config.get_text_config(), "vocab_size", None)
    if size is None:
        return f"{name} has no vocabulary, from which rows could be made to see whether it keeps packed ones apart"
    leak, difference = _measure(engine, task, size, packing, ranks)
    # Every rank has the same weights, but perhaps a different kernel.
    if ranks.any(math.isnan(leak) or math.isnan(difference)):
        return f"{name} answers every text with the same logits, which do not show whether it keeps packed rows apart"
    if ranks.any(not leak <= MAX_LEAK[precision]):
        return f"{name} does not keep packed rows apart ({leak:.1%} of one row is seen in another)"
    if ranks.any(not difference <= MAX_DIFFERENCE[precision]):
        return f"{name} computes different logits for packed rows (they differ by {difference:.1%})"
    return None


def _kinds_of_layers(model: Any) -> Collection[str]:
    """The attention type of each layer, as transformers names it in a config."""
    return getattr(model.config.get_text_config(), "layer_types", None) or ()


def _measure(engine: Engine, task: Task, vocabulary_size: int, packing: Packing, ranks: Ranks) -> tuple[float, float]:
    """Collective: how much of one example is seen in the next, and how much packing changes the logits of the latter.

    Both relative to what is seen, or changed, if the two are one text; nan if that is nothing.
    """

    def example(start: int, length: int) -> Example:
        ids = [(start + 7 * at * at + 3 * at) % vocabulary_size for at in range(length)]
        return {"input_ids": ids, "labels": [IGNORED] * length, "token_type_ids": [0] * length}

    first, other, watched, third = example(1, 5), example(2, 5), example(20, 7), example(11, 15)
    watched["labels"] = watched["input_ids"]

    def logits(batch: Batch) -> Tensor:
        """Logits of the watched example at each of its tokens; shape (tokens, vocabulary or labels)."""
        batch = batch.to(ranks.device)
        batch.inputs.pop("targets", None)
        with engine.evaluating():
            result: Tensor = engine.forward(batch).logits[batch.targets].float()
        return result

    def packed(before: Example) -> Tensor:
        return logits(collate_packed(task, [[before, watched], [third]], packing))

    def one_text(before: Example) -> Tensor:
        return logits(task.collate([{key: [*before[key], *watched[key]] for key in before}]))

    behind, alone, seen = packed(first), logits(task.collate([watched])), one_text(first)
    leak = (behind - packed(other)).norm(dim=1).max() / (seen - one_text(other)).norm(dim=1).max()
    return float(leak), float((behind - alone).norm() / (seen - alone).norm())
