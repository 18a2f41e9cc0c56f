"""The `train` section of a recipe: batches, steps, evaluations and seeds."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Tag, model_validator

from shardtune.recipe.values import NUMBER_OR_WORD
from shardtune.section import Section

Seed = Annotated[int, Field(ge=0, lt=2**32)]

Tokens = Annotated[
    Annotated[PositiveInt, Tag("number")] | Annotated[Literal["auto"], Tag("word")],
    NUMBER_OR_WORD,
]
"""A number of tokens, or `auto`."""


class TrainConfig(Section):
    """How much to train, in units that do not depend on the machine."""

    global_batch_size: PositiveInt = 32
    """Rows per optimizer step, over all ranks, packed or not."""
    global_batch_tokens: PositiveInt | None = None
    """Targets (tokens with a loss) per optimizer step, over all ranks, instead of a number of rows: each step takes the
    number of rows that comes nearest to it, and the steps of an epoch are of nearly equal size. Overrides
    global_batch_size."""
    num_epochs: PositiveFloat = 3.0
    """Passes over the training rows; may be a fraction."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps; overrides num_epochs. None trains for num_epochs."""
    micro_batch_tokens: Tokens = 16384
    """Maximum number of tokens, padding included, in one forward pass of a rank. Lower it if memory runs out: the
    result of training does not change. `auto` estimates what fits, verifies it before training begins, and stores the
    number in the run directory; if memory still runs out, the run restarts with half of it."""
    eval_every_steps: PositiveInt | None = None
    """Optimizer steps between evaluations on dev. None evaluates at the end of each epoch. The end of training is
    always evaluated."""
    eval_at_start: bool = False
    """Also evaluates on dev before the first step, as a baseline."""
    patience: PositiveInt | None = None
    """Ends training after this many evaluations on dev in a row without a better value of checkpoint.best_metric (by
    default the task's main metric). None trains to the end. The learning rate follows its schedule for all steps."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """For patience: how much better a value has to be to count."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keeps an exponential moving average of the weights, such as 0.999, and evaluates and exports it in their place.
    It is in fp32, divided among the ranks as the optimizer's states are: 4 bytes more for each trained parameter, of
    memory and of checkpoints. The decay begins low and rises to this: after step t it is at most (1 + t) / (10 + t).
    None keeps no average."""
    seed: Seed = 0
    """Seed of new layers, the order of the rows, and dropout. Not of what is held out or kept of the data, by
    data.dev.fraction and data.fraction."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=2, strict=False)] | None = None
    """Trains the recipe once with each of these seeds, as in `[1, 2, 3]`, and reports mean and spread of every metric.
    `shardtune run`, `submit` and `sweep` do this, each seed in a run directory of its own. Instead of seed."""

    @model_validator(mode="after")
    def _seed_or_seeds(self) -> "TrainConfig":
        if self.seeds is None:
            return self
        if "seed" in self.model_fields_set:
            raise ValueError("seed and seeds are both given; keep one of them")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is given twice; give each once")
        return self
