"""The settings that are compared: those that decide how a step is computed, and nothing of what is learned."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from shardtune.planner.forecast.of_recipe import USEFUL, DataSize, rows_per_step
from shardtune.planner.job import Cluster
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import AUTO, is_path

STRATEGIES = (None, "zero0", "zero1", "zero2", "zero3", "zero3_hpz", "zero2_offload", "zero3_offload")
"""Values of engine.deepspeed, in the order in which they are preferred where they are equally fast. zero3_qwz and
zero3_zeropp are not among them: they compute with rounded weights."""


@dataclass(frozen=True)
class Setting:
    """One way to compute the steps of a recipe."""

    deepspeed: str | None
    micro_batch_tokens: int
    activation_checkpointing: bool

    @property
    def overrides(self) -> str:
        """The setting as overrides of a recipe, for a command line."""
        return (
            f"engine.deepspeed={self.deepspeed or 'null'} train.micro_batch_tokens={self.micro_batch_tokens} "
            f"model.activation_checkpointing={str(self.activation_checkpointing).lower()}"
        )

    def applied_to(self, recipe: Recipe) -> Recipe:
        """The recipe with this setting."""
        model = recipe.model.model_copy(update={"activation_checkpointing": self.activation_checkpointing})
        train = recipe.train.model_copy(update={"micro_batch_tokens": self.micro_batch_tokens})
        return with_strategy(recipe.model_copy(update={"model": model, "train": train}), self.deepspeed)


def with_strategy(recipe: Recipe, deepspeed: str | None) -> Recipe:
    """The recipe with this value of engine.deepspeed."""
    engine = recipe.engine.model_copy(update={"deepspeed": deepspeed})
    return recipe.model_copy(update={"engine": engine})


def strategies_for(recipe: Recipe, cluster: Cluster) -> list[str | None]:
    """The values of engine.deepspeed that the recipe's other keys allow, and the recipe's own file if it names one."""
    own = recipe.engine.deepspeed
    found = [name for name in STRATEGIES if _is_possible(name, recipe, cluster)]
    return [*found, own] if own is not None and own != AUTO and is_path(own) else found


def _is_possible(name: str | None, recipe: Recipe, cluster: Cluster) -> bool:
    if name is None:
        return recipe.engine.precision != "fp16"  # which needs DeepSpeed's loss scale
    if name == "zero3_hpz" and (cluster.num_nodes == 1 or cluster.gpus_per_node == 1):  # where it is zero3
        return False
    return not (name.startswith("zero3") and (recipe.engine.compile == "full" or recipe.model.has_quantized_base))


def settings_for(recipe: Recipe, cluster: Cluster, data: DataSize) -> Iterator[Setting]:
    """All settings that are compared, in the order in which they are preferred where they are equally fast."""
    budgets = micro_batches_for(recipe, cluster, data)
    for deepspeed in strategies_for(recipe, cluster):
        for checkpointing in (False, True):
            for tokens in budgets:
                yield Setting(deepspeed, tokens, checkpointing)


def micro_batches_for(recipe: Recipe, cluster: Cluster, data: DataSize) -> list[int]:
    """Values of train.micro_batch_tokens, ascending: 1, 2, 3, 4, 6, 8, 12, … of the longest rows, up to all that a rank
    has in a step; and the recipe's own."""
    longest = recipe.data.max_tokens
    mean = min(longest, data.tokens_per_row or longest)
    share = max(1.0, rows_per_step(recipe, mean) / cluster.world_size)
    most = max(1, math.ceil(share * mean / min(USEFUL.values()) / longest))
    rows = {most} | {size for power in range(most.bit_length()) for size in (2**power, 3 * 2**power) if size <= most}
    own = recipe.train.micro_batch_tokens
    return sorted({size * longest for size in rows} | ({own} if own != "auto" else set()))
