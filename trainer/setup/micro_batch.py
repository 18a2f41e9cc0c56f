"""How many tokens a micro-batch may have: what a step can use, and what memory has room for by the estimate."""

import math
from dataclasses import dataclass, replace

import numpy as np

from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.batch_maker import NO_LIMIT, BatchMaker
from shardtune.trainer.data.batches.order import Order
from shardtune.trainer.data.batches.steps import training_order
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.model.pretrained import load_model_config
from shardtune.trainer.setup.footprint import largest_footprint
from shardtune.trainer.tasks import Task

ESTIMATE_FILLS = 0.8
"""The part of a rank's memory that the estimate fills: it knows nothing of the CUDA context, of what collectives need
and of fragmentation. What is too much all the same costs a start, what is too little a micro-batch more in a step."""
STEPS_LOOKED_AT = 50


@dataclass(frozen=True)
class Budget:
    """Tokens of a micro-batch, padding included, in this start."""

    tokens: int
    least: int | None = None
    """Where memory is short, the next start's is half of it, but not less than this; None if the recipe decides it."""

    @property
    def next_smaller(self) -> int | None:
        """What the next start is to have when this is too much; None if there is nothing less."""
        if self.least is None or self.tokens <= self.least:
            return None
        return max(self.least, self.tokens // 2)


@dataclass(frozen=True)
class FirstSteps:
    """The first steps of a training, as they are dealt to the ranks."""

    largest: tuple[int, int]
    """(rows, longest) of the micro-batch with the most tokens."""
    num_targets: int
    """Of that micro-batch."""
    padding_efficiency: float
    """The part of their tokens that is not padding."""


def lay_out_first_steps(train: Split, order: Order, batch_maker: BatchMaker) -> FirstSteps:
    """What they come to with the budget of this batch maker."""
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
                    largest, targets = shape, int(sum(num_targets[its].sum() for its in bins))
    return FirstSteps(largest, targets, real / padded)


def most_wanted(train: Split, recipe: Recipe, batch_maker: BatchMaker) -> int:
    """The tokens of a micro-batch that takes a rank's whole share of a step, by the first steps; more are of no use."""
    if recipe.data.streaming:  # of which no lengths are known
        return -(-recipe.train.global_batch_size // batch_maker.ranks.world_size) * recipe.data.max_tokens
    unlimited = replace(batch_maker, micro_batch_tokens=NO_LIMIT)
    whole = lay_out_first_steps(train, training_order(train, recipe), unlimited)
    return math.prod(whole.largest)


def estimate(
    recipe: Recipe, task: Task, *, longest: int, wanted: int, stage: int, world_size: int, memory: float
) -> int:
    """As many of the `wanted` tokens as the memory of a rank (bytes) has room for, in rows of the `longest`; one row at
    least, and data.max_tokens."""
    config = load_model_config(recipe, task)

    def fits(num_rows: int) -> bool:
        batch = (num_rows, longest)
        needed = largest_footprint(recipe, task, config, stage=stage, world_size=world_size, batch=batch)
        return needed.total <= ESTIMATE_FILLS * memory

    least = recipe.data.max_tokens
    if wanted <= least or fits(-(-wanted // longest)):
        return max(wanted, least)
    low, high = 1, -(-wanted // longest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return max(low * longest, least)
