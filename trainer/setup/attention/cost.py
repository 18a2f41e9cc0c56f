"""What a pass of this model costs by the lengths of its rows: counted from its weights, not from a typical model."""

from typing import Any

import torch
import transformers

from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.bins import Packing
from shardtune.trainer.data.batches.cost import TYPICAL, Cost, Pairs
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.model.flops import Attention, ModelFlops, count_flops
from shardtune.trainer.model.pretrained import load_model_config
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.masks import Masks


def cost_of(model: Any, train: Split, packing: Packing | None, masks: Masks) -> Cost:
    """The cost of a pass of the model; with a mask, its kernels also compute the scores that the mask hides."""
    without_mask = packing.is_flat if packing is not None else masks not in (Masks.KEPT, Masks.UNPADDED)
    num_tokens = max(1, int(train.lengths.sum()))
    return cost_by_flops(
        count_flops(model), targets_per_token=float(train.num_targets.sum()) / num_tokens, without_mask=without_mask
    )


def expected_cost(recipe: Recipe, task: Task, train: Split) -> Cost:
    """The cost of a pass of the recipe's model with masks, as if all weights were trained; nothing is loaded."""
    with torch.device("meta"):
        model = getattr(transformers, task.auto_model).from_config(load_model_config(recipe, task))
    return cost_of(model, train, None, Masks.KEPT)


def cost_by_flops(flops: ModelFlops, *, targets_per_token: float, without_mask: bool) -> Cost:
    """Operations of attention for each pair of tokens, in those of all else for a token."""
    each = flops.per_weight
    # In an encoder-decoder each side has about half of a row's tokens, and so about a quarter of its pairs.
    share = 0.5 if each["target"] else 1.0
    linear = share * (each["source"] + each["target"]) + each["loss"] * min(1.0, targets_per_token)
    if not linear:
        return TYPICAL
    return Cost(tuple(_pairs(part, share**2 / linear, without_mask=without_mask) for part in flops.attention))


def _pairs(part: Attention, scale: float, *, without_mask: bool) -> Pairs:
    if not without_mask:
        return Pairs(part.per_pair * scale)
    window = part.window if part.is_causal or part.window is None else 2 * part.window - 1
    return Pairs(part.per_pair * scale, window, part.is_causal)
