"""The memory that a recipe needs by the project's formulas; the only place of the check that knows where they are."""

import json
from collections.abc import Mapping
from typing import Any

from shardtune.ds_config.resolve import stage_of
from shardtune.recipe.load import parse_recipe
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.setup.footprint import largest_footprint
from shardtune.trainer.tasks import task_of

TERMS = ("weights", "gradients", "optimizer", "activations", "logits")


def predicted_bytes(recipe: Mapping[str, Any], batch: tuple[int, int]) -> dict[str, int]:
    """Bytes on the only rank by term, and their `total`, with a micro-batch of (rows, longest) tokens.

    Optimizer states that the strategy keeps in host memory do not count.
    """
    parsed = parse_recipe(json.dumps(recipe))
    task = task_of(parsed, prepare(parsed).facts, load_tokenizer(parsed), load_model_config(parsed))
    config = load_model_config(parsed, task)
    footprint = largest_footprint(parsed, task, config, stage=stage_of(parsed), world_size=1, batch=batch)
    terms = {name: int(getattr(footprint, name)) for name in TERMS}
    if (parsed.engine.deepspeed or "").endswith("_offload"):
        terms["optimizer"] = 0
    return {**terms, "total": sum(terms.values())}
