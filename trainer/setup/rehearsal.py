"""The value of `train.micro_batch_tokens: auto`: estimated, tried out, kept in the run directory, and halved there when
memory is short.

A rank that runs out of memory in the middle of a collective cannot tell the others. So only the next start can use a
smaller value; and the first start rehearses the largest possible micro-batch before it trains.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from shardtune.errors import RestartError, ShortOfMemoryError
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.micro_batch_budget import KeptBudget, keep_budget, read_budget
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.lease import Lease
from shardtune.trainer.distributed.rank_env import ranks_here
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.objective.objective import Objective
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.setup.micro_batch import Budget, estimate, most_wanted, share_of_step
from shardtune.trainer.setup.out_of_memory import memory_said, share_of_memory
from shardtune.trainer.tasks.batch import Batch


def settle_budget(
    recipe: Recipe,
    run_dir: Path,
    engine: Engine,
    objective: Objective,
    train: Split,
    batch_maker: BatchMaker,
    *,
    reporter: Reporter,
    lease: Lease,
) -> Budget:
    """Collective: the recipe's number; with auto the one kept in the run directory, or an estimate, tried out here.

    `batch_maker` has no limit yet.

    Raises RestartError if it is too large, ShortOfMemoryError if there is no smaller one.
    """
    task, ranks = batch_maker.task, batch_maker.ranks
    given = recipe.train.micro_batch_tokens
    if given != "auto":
        return Budget(given)
    wanted = most_wanted(train, recipe, batch_maker)
    kept = ranks.from_zero(read_budget(run_dir) if ranks.is_zero else None)
    if kept is None:
        tokens = estimate(
            recipe,
            task,
            longest=int(train.lengths.max()),
            wanted=wanted,
            world_size=ranks.world_size,
            memory=share_of_memory(ranks.device, ranks_here()),
        )
        kept = KeptBudget(ranks.from_zero(min(ranks.to_zero(tokens), default=0)), fits=False)
    budget = Budget(kept.tokens, least=recipe.data.max_tokens)
    small = replace(batch_maker, micro_batch_tokens=1).largest_batch(train)
    filled = replace(batch_maker, micro_batch_tokens=min(wanted, budget.tokens))
    others = [] if kept.fits else _of_other_shapes(filled, train, share_of_step(recipe, ranks))
    large = filled.largest_batch(train)
    begun: list[Batch] = []
    with (
        halved_when_short(budget, run_dir, lease),
        memory_said(recipe, task, ranks, lambda: begun[-1].shape if begun else None, micro_batch_tokens=budget.tokens),
    ):
        rehearse(engine, objective, [small, *others, large], begun)
        ranks.barrier()  # inside, because under ZeRO-0 each rank updates all weights by itself
    if not kept.fits:
        kept = KeptBudget(kept.tokens, fits=True, too_many=kept.too_many)
        if ranks.is_zero:
            keep_budget(run_dir, kept)
        reporter.report("notice", text=str(kept))
    return budget


def _of_other_shapes(batch_maker: BatchMaker, train: Split, most_rows: int) -> list[Batch]:
    """Full micro-batches of the shortest examples and of those of median length, of at most this many rows.

    Many short rows need other tensors than a few long ones; and the memory that one shape leaves on a GPU fits the next
    in pieces only.
    """
    middle = len(train.lengths) // 2
    rows = dict.fromkeys((int(train.lengths.argmin()), int(np.argpartition(train.lengths, middle)[middle])))
    return [batch_maker.full_batch(train, row, most_rows=most_rows) for row in rows]


def rehearse(engine: Engine, objective: Objective, micro_batches: Sequence[Batch], begun: list[Batch]) -> None:
    """Collective: does steps that need as much memory as any step of the training, and change nothing.

    The first step, of the first micro-batch alone, creates the optimizer's states. In the second all follow one
    another, the largest last, so that states and gradients are in memory already. Each micro-batch is appended to
    `begun` when it begins.
    """
    with engine.rehearsing():
        for step in (micro_batches[:1], micro_batches):
            engine.begin_step(0, num_micro_batches=len(step))
            for batch in step:
                beat()
                begun.append(batch)
                # With infinitely many targets, the gradient is 0.
                trained, _ = objective.sums(engine, batch)
                engine.backward(trained, num_targets=math.inf)
            engine.step(lr=0.0)


@contextmanager
def halved_when_short(budget: Budget, run_dir: Path, lease: Lease) -> Iterator[None]:
    """Turns a ShortOfMemoryError into a RestartError, and saves a smaller budget for the next start, if there is one.

    Raises TakenOverError if another start owns the run directory now.
    """
    try:
        yield
    except ShortOfMemoryError as error:
        smaller = budget.next_smaller
        if smaller is None:
            raise
        lease.check_here()
        kept = KeptBudget(smaller, fits=False, too_many=budget.tokens)
        try:
            keep_budget(run_dir, kept)
        except OSError as full:  # a full disk: the next start would do the same as this one
            raise error from full
        raise RestartError(f"{str(error).splitlines()[0]}\n{kept}; run again to train with it") from error
