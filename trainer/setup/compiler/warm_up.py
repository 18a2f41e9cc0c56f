"""Compiles what training and evaluation will run, before they begin.

A compilation takes as long as many steps. Here all ranks compile at the same time, while the watchdog waits longer
(faults.startup_hang_s), and the speed that is reported is that of training.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.batch_maker import BatchMaker, seeds_of_rows
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.setup.compiler.cache import keep_compiled_code
from shardtune.trainer.setup.compiler.compilations import Compilations
from shardtune.trainer.setup.compiler.compile import compile_parts, describe_parts
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.padding import EXACT, Rounding

MULTIPLE = 8
"""Lengths are multiples of this where the model is compiled: half precision's fast kernels need rows of whole 16 bytes,
and are compiled by themselves for lengths that are not."""


def rounding_of(recipe: Recipe) -> Rounding:
    """To which lengths this recipe's rows are padded; never beyond data.max_tokens, where positions may end."""
    return EXACT if recipe.engine.compile == "off" else Rounding(MULTIPLE, limit=recipe.data.max_tokens)


def compile_and_try(
    engine: Engine,
    model: Any,
    parts: Sequence[nn.Module],
    train: Split,
    batch_maker: BatchMaker,
    *,
    reporter: Reporter,
) -> Compilations | None:
    """Collective: compiles these parts of the model, and says what it took; None if there are none."""
    if not parts:
        return None
    if (note := keep_compiled_code()) is not None:
        reporter.report("notice", text=note)
    reporter.report("phase", name="compiling the model")
    compilations, began = Compilations(), time.monotonic()
    compile_parts(model, parts)
    warm_up(engine, train, batch_maker)
    most = int(max(batch_maker.ranks.gather_numbers(compilations.number)))
    seconds = time.monotonic() - began
    text = f"engine.compile: {describe_parts(parts)} compiled in {most} variants, which took {seconds:.0f} seconds"
    reporter.report("notice", text=text)
    return compilations


def warm_up(engine: Engine, train: Split, batch_maker: BatchMaker) -> None:
    """Collective: computes a step, and an evaluation, with each kind of micro-batch; changes nothing."""
    task = batch_maker.task
    batches = [*kinds_of_batches(train, batch_maker)]
    with engine.rehearsing():
        engine.begin_step(0, num_micro_batches=len(batches))
        for batch in batches:
            beat()
            # With infinitely many targets, the gradient is 0.
            engine.backward(task.loss_sum(engine.forward(batch), batch), num_targets=math.inf)
        engine.step(lr=0.0)
    with engine.evaluating():
        for batch in batches:
            beat()
            engine.forward(batch)


def kinds_of_batches(train: Split, batch_maker: BatchMaker) -> Iterator[Batch]:
    """A small micro-batch of each kind that is compiled by itself: with one row, and with two, padded or not.

    transformers drops a mask that hides nothing, so that without padding there is none.
    """
    is_packed = batch_maker.packing is not None and not batch_maker.packing.is_flat
    for chosen in rows_of_kinds(train.lengths, batch_maker):
        rows, bins = np.array(chosen), [np.array([at]) for at in range(len(chosen))]
        for masked in (False, True) if is_packed else (False,):
            batch = batch_maker.batch(train, rows, seeds_of_rows(rows), bins, masked=masked)
            yield batch.to(batch_maker.ranks.device)


def rows_of_kinds(lengths: NDArray[np.int32], batch_maker: BatchMaker) -> list[tuple[int, ...]]:
    """The rows of each of these micro-batches; long ones, as far as two fit together."""
    longest, shortest = int(lengths.argmax()), int(lengths.argmin())
    is_padded = batch_maker.rounding.up(lengths) != lengths
    full, padded = (
        int(np.where(chosen, lengths, 0).argmax()) if chosen.any() else None for chosen in (~is_padded, is_padded)
    )
    kinds = [(row,) for row in (full, padded) if row is not None]
    pairs = [] if full is None else [(full, full)]
    if padded is not None or lengths[longest] != lengths[shortest]:
        pairs.append((longest if padded is None else padded, shortest))
    fits_twice = 2 * batch_maker.rounding.up(int(lengths[longest])) <= batch_maker.micro_batch_tokens
    return [*kinds, *(pairs if fits_twice else [])]
