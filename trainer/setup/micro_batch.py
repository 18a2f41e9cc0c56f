"""Size limit of micro-batches in tokens: what a step can use, and what fits in memory by estimate."""

import math
from dataclasses import dataclass, replace

import numpy as np

from shardtune.planner.forecast.of_recipe import FILLS
from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.batch_maker import NO_LIMIT, BatchMaker
from shardtune.trainer.data.batches.order import Order
from shardtune.trainer.data.batches.steps import training_order
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.model.pretrained import load_model_config
from shardtune.trainer.setup.memory_plan import memory_of, model_size, rank_job
from shardtune.trainer.tasks import Task

STEPS_LOOKED_AT = 50


@dataclass(frozen=True)
class Budget:
    """Most tokens of a micro-batch in this start, padding included."""

    tokens: int
    least: int | None = None
    """When memory is short, the next start halves the budget, but not below this; None if the recipe sets it."""

    @property
    def next_smaller(self) -> int | None:
        """The budget of the next start if this one is too large; None if there is no smaller one."""
        if self.least is None or self.tokens <= self.least:
            return None
        return max(self.least, self.tokens // 2)


@dataclass(frozen=True)
class FirstSteps:
    """The first steps of a training, as they are distributed to the ranks."""

    largest: tuple[int, int]
    """(rows, longest) of the micro-batch with the most tokens."""
    num_targets: int
    """Number of targets of that micro-batch."""
    padding_efficiency: float
    """The part of their tokens that is not padding."""


def lay_out_first_steps(train: Split, order: Order, batch_maker: BatchMaker) -> FirstSteps:
    """Lays out the first steps with the budget of this batch maker."""
    largest, targets, real, padded = (0, 0), 0, 0, 0
    for step in range(min(STEPS_LOOKED_AT, order.steps_per_epoch)):
        rows = order.rows(step)
        lengths = np.asarray(train.lengths[rows])
        num_targets = np.asarray(train.num_targets[rows])
        real += int(lengths.sum())
        for share in batch_maker.lay_out(lengths):
            for bins in share:
                shape = batch_maker.shape_of(bins, lengths)
                padded += shape[0] * shape[1]
                if shape[0] * shape[1] > largest[0] * largest[1]:
                    largest, targets = shape, int(sum(num_targets[bin_rows].sum() for bin_rows in bins))
    return FirstSteps(largest, targets, real / padded)


def share_of_step(recipe: Recipe, ranks: Ranks) -> int:
    """Rows of a step that a rank gets, if all ranks get as many."""
    return -(-recipe.train.global_batch_size // ranks.world_size)


def most_wanted(train: Split, recipe: Recipe, batch_maker: BatchMaker) -> int:
    """Tokens of a micro-batch that holds a rank's whole share of a step, by the first steps; more would be unused."""
    if recipe.data.streaming:  # the lengths are not known
        return share_of_step(recipe, batch_maker.ranks) * recipe.data.max_tokens
    unlimited = replace(batch_maker, micro_batch_tokens=NO_LIMIT)
    whole = lay_out_first_steps(train, training_order(train, recipe), unlimited)
    return math.prod(whole.largest)


def estimate(recipe: Recipe, task: Task, *, longest: int, wanted: int, world_size: int, memory: float) -> int:
    """The largest number of tokens up to `wanted` that fits in a rank's memory (bytes), in rows of `longest` tokens; at
    least one row, and data.max_tokens."""
    least = recipe.data.max_tokens
    if wanted <= least:
        return least
    size = model_size(recipe, task, load_model_config(recipe, task))
    job = rank_job(recipe, size, world_size=world_size)

    def fits(num_rows: int) -> bool:
        return memory_of(job, size, (num_rows, longest)).used <= FILLS * memory

    if fits(-(-wanted // longest)):
        return wanted
    low, high = 1, -(-wanted // longest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return max(low * longest, least)
