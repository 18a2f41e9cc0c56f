"""The memory that a recipe needs by the planner; the only place of the check that knows where that is."""

import json
from collections.abc import Mapping
from typing import Any

from shardtune.recipe.load import parse_recipe
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.setup.memory_plan import memory_of, model_size, rank_job
from shardtune.trainer.tasks import task_of


def predicted_bytes(recipe: Mapping[str, Any], batch: tuple[int, int]) -> dict[str, int]:
    """Bytes of tensors on the only rank by term, and their `total`, with a micro-batch of (rows, longest) tokens.

    What the strategy keeps in host memory does not count, nor the CUDA context and fragmentation.
    """
    parsed = parse_recipe(json.dumps(recipe))
    task = task_of(parsed, prepare(parsed).facts, load_tokenizer(parsed), load_model_config(parsed))
    size = model_size(parsed, task, load_model_config(parsed, task))
    memory = memory_of(rank_job(parsed, size, world_size=1), size, batch)
    terms = {name: round(num_bytes) for name, num_bytes in memory.terms.items()}
    return {**terms, "total": sum(terms.values())}
