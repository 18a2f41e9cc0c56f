"""The Fisher information of the pretrained model for EWC: computed once, and kept in the run directory.

The empirical one (Kunstner et al., 2019): the squared gradient of the log-likelihood of each row's own targets, added
up over rows and divided by the number of targets, so that the penalty is in nats per target as the loss is. What
computes it is an engine like that of the training, with an optimizer that adds up squares. Where a rank has all
weights, each takes a share of the rows; under ZeRO-3 all compute each row together.
"""

import gc
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shardtune.ds_config.resolve import ds_config_of
from shardtune.errors import ConfigError, DataError
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.regularize import EwcConfig
from shardtune.run_dir.files import write_atomically
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.data.prepare.prepare import described_data, prepare
from shardtune.trainer.distributed.background import run_on_every_rank, run_on_zero
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine, sharded_birth
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.regularize.penalty import Fisher
from shardtune.trainer.engine.regularize.squares import SQUARES, SquaredGradients
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.engine.snapshot import Fragment, SavedTensors, state_name, write_fragments
from shardtune.trainer.model.load import load_model
from shardtune.trainer.model.parts.layers import parts_of
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.setup.regularize.earlier_skill import FISHER, INDEX, earlier_recipe, naming_its_key
from shardtune.trainer.tasks import Task, task_of

REPORT_S = 10.0
"""Seconds between two reports of the progress."""


def settle_fisher(recipe: Recipe, run_dir: Path, ranks: Ranks, reporter: Reporter) -> Fisher | None:
    """Collective: the Fisher information that regularize.ewc asks for, from the run directory or computed now.

    Raises DataError or ConfigError if the rows, or the head of the pretrained model, do not allow it.
    """
    if (ewc := recipe.regularize.ewc) is None:
        return None
    folder = run_dir / FISHER
    index = run_on_zero(ranks, lambda: _read_index(folder))
    if index is None:
        _compute(earlier_recipe(recipe, ewc), ewc, folder, ranks, reporter)
        index = run_on_zero(ranks, lambda: _read_index(folder))
        assert index is not None, "it has just been written"
    files = [folder / name for name in sorted(index["files"])]
    return Fisher(ewc.weight, SavedTensors(files, opens_all=False), index["num_elements"])


def _read_index(folder: Path) -> dict[str, Any] | None:
    """What the folder holds; None if it is incomplete."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        is_whole = all((folder / name).stat().st_size == size for name, size in index["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return index if is_whole else None


def _compute(recipe: Recipe, ewc: EwcConfig, folder: Path, ranks: Ranks, reporter: Reporter) -> None:
    """Collective: computes the Fisher information by a recipe of the earlier skill, and writes it into the folder."""
    reporter.report("phase", name="computing the Fisher information of the pretrained model")
    with naming_its_key():
        prepared = described_data(run_on_zero(ranks, lambda: prepare(recipe).described()))
        for note in prepared.meta["notes"] if ranks.is_zero else ():
            reporter.report("notice", text=f"regularize.ewc: {note}")
        split = prepared.split("train")
        assert split is not None, "a recipe always names training data"
        tokenizer = load_tokenizer(recipe)
        task = task_of(recipe, prepared.facts, tokenizer, load_model_config(recipe))
        engine, model = _engine(recipe, task, tokenizer, ranks)
    rows = _drawn(split, ewc.rows, recipe.train.seed)
    num_targets = _add_up(engine, task, split, rows, ranks, reporter)
    _write(engine, model, folder, ranks, num_targets=num_targets)
    reporter.report("notice", text=f"regularize.ewc: the Fisher information of {len(rows):,} rows is in {FISHER}/")
    del engine, model
    gc.collect()
    if ranks.device.type == "cuda":
        torch.cuda.empty_cache()


def _drawn(split: Split, most: int, seed: int) -> NDArray[np.int64]:
    """Which examples are used, in rising order: all that have targets, or as many of them as are asked for."""
    useful = np.flatnonzero(np.asarray(split.num_targets) > 0)
    return np.sort(np.random.default_rng(seed).permutation(useful)[:most])


def _engine(recipe: Recipe, task: Task, tokenizer: Any, ranks: Ranks) -> tuple[Engine, nn.Module]:
    """Collective: what computes squared gradients, and the pretrained model within it. Raises ConfigError."""
    hidden_size = getattr(load_model_config(recipe).get_text_config(), "hidden_size", None)
    ds_config = ds_config_of(recipe, hidden_size=hidden_size)
    with nullcontext() if ds_config is None else sharded_birth(ds_config):
        model = load_model(recipe, task, tokenizer, device=ranks.device)
    refuse_new_head(model, parts_of(model).new)

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return SquaredGradients([parameter for parameter in model.parameters() if parameter.requires_grad])

    if ds_config is not None:
        return DeepSpeedEngine(model, ds_config, make_optimizer, ranks=ranks, seed=0), model
    how: dict[str, Any] = {"max_grad_norm": 0.0, "seed": 0, "has_sparse_gradients": False}
    alone = replace(ranks, rank=0, world_size=1)
    return ReplicatedEngine(model, make_optimizer, precision=recipe.engine.precision, ranks=alone, **how), model


def refuse_new_head(model: nn.Module, new: Collection[str]) -> None:
    """Raises ConfigError if the model has parameters of these names, which are not pretrained."""
    if missing := [name for name in new if name in dict(model.named_parameters())]:
        raise ConfigError(
            f"regularize.ewc: the pretrained model has no weights for {', '.join(sorted(missing)[:5])}, which a skill "
            "on these rows needs; set regularize.ewc.task, or give rows of a skill that it has"
        )


def _add_up(
    engine: Engine, task: Task, split: Split, rows: NDArray[np.int64], ranks: Ranks, reporter: Reporter
) -> float:
    """Collective: adds up the squared gradients of these rows; returns their number of targets, without those of rows
    whose gradient is not finite."""
    is_shared = engine.zero_stage is not None  # all ranks compute each row
    own: Sequence[int] = rows.tolist() if is_shared else ranks.share(rows.tolist())
    num_targets, began = 0.0, time.monotonic()
    for number, row in enumerate(own):
        is_finite = _add_row(engine, task, split, row, ranks, num_ranks=ranks.world_size if is_shared else 1)
        num_targets += float(split.num_targets[row]) * is_finite
        if time.monotonic() - began > REPORT_S:
            began = time.monotonic()
            done = f"{(number + 1) / len(own):.0%} of {len(rows):,} rows"
            reporter.report("phase", name=f"computing the Fisher information of the pretrained model: {done}")
        beat()
    if not len(own):
        _add_row(engine, task, split, int(rows[0]), ranks, num_ranks=1, factor=0.0)  # so that there is something to sum
    total = num_targets if is_shared else ranks.sum(num_targets)[0]
    if not total:
        raise DataError("regularize.ewc: the gradient of no row is finite; the pretrained model computes nan on them")
    return total


def _add_row(
    engine: Engine, task: Task, split: Split, row: int, ranks: Ranks, *, num_ranks: int, factor: float = 1.0
) -> bool:
    """Collective, if several ranks compute the row: adds the square of its gradient; False if it is not finite."""
    (example,) = split.examples(np.array([row]))
    batch = task.collate([{**example, "draw": (0, row)}]).to(ranks.device)
    engine.begin_step(row, num_micro_batches=1)
    engine.backward(factor * task.loss_sum(engine.forward(batch), batch), num_targets=num_ranks)
    return engine.step(lr=0.0).applied


def _write(engine: Engine, model: nn.Module, folder: Path, ranks: Ranks, *, num_targets: float) -> None:
    """Collective: writes the sums, divided by the number of targets; each rank its part."""
    fragments = [
        replace(part, name=part.name.removeprefix(state_name(SQUARES, ""))) for part in engine.snapshot().states
    ]
    if engine.zero_stage is None:
        fragments = [*_shares(fragments, ranks)]
    for fragment in fragments:
        fragment.values.div_(num_targets)
    name = f"{FISHER}-{ranks.rank:05}-of-{ranks.world_size:05}.safetensors"

    def write() -> tuple[str, int]:
        folder.mkdir(exist_ok=True)
        write_fragments(folder / name, fragments)
        return name, (folder / name).stat().st_size

    files = dict(run_on_every_rank(ranks, write))
    num_elements = {name: int(getattr(p, "ds_numel", p.numel())) for name, p in model.named_parameters()}
    if ranks.is_zero:
        index: Mapping[str, Any] = {"files": files, "num_elements": num_elements, "num_targets": num_targets}
        write_atomically(folder / INDEX, json.dumps(index))
    ranks.barrier()


def _shares(fragments: Sequence[Fragment], ranks: Ranks) -> Iterator[Fragment]:
    """Collective: this rank's part of the sum over the ranks of each whole tensor."""
    sums = ranks.sum_counts({fragment.name: fragment.values for fragment in fragments})
    for name, values in sums.items():
        first, last = (len(values) * rank // ranks.world_size for rank in (ranks.rank, ranks.rank + 1))
        yield Fragment(name, first, values[first:last].clone())
