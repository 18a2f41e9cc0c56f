"""The model on its engine, ready to train: loaded, tried out, and given a micro-batch budget."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shardtune.ds_config.cluster import bucket_bytes
from shardtune.ds_config.resolve import ds_config_of
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import write_atomically
from shardtune.trainer.data.batches.batch_maker import BatchMaker, collate_alone
from shardtune.trainer.data.batches.steps import training_split
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.distributed.lease import Lease
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine, refuse_bad_ds_config, sharded_birth
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.exchange.buckets import BUCKET_BYTES, WIRE_DTYPES
from shardtune.trainer.engine.exchange.nodes import describe_cluster, look_at_cluster
from shardtune.trainer.engine.objective.objective import KlToBase, Objective, TaskLoss
from shardtune.trainer.engine.objective.reference import AdaptersOff, FrozenCopy, Reference, copy_of_base
from shardtune.trainer.engine.optimizers import OPTIMIZERS
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.model.kernels.liger import settle_kernels
from shardtune.trainer.model.load import load_model
from shardtune.trainer.model.lora import trains_adapters_alone
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.setup.attention.cost import cost_of
from shardtune.trainer.setup.attention.masks import choose_masks
from shardtune.trainer.setup.compiler.compilations import Compilations
from shardtune.trainer.setup.compiler.compile import parts_to_compile
from shardtune.trainer.setup.compiler.warm_up import compile_and_try, rounding_of
from shardtune.trainer.setup.first_token import read_first_alone
from shardtune.trainer.setup.micro_batch import Budget
from shardtune.trainer.setup.out_of_memory import memory_said
from shardtune.trainer.setup.packing import choose_packing
from shardtune.trainer.setup.precision import settle_tf32
from shardtune.trainer.setup.regularize.fisher import settle_fisher
from shardtune.trainer.setup.rehearsal import settle_budget
from shardtune.trainer.tasks import Task, task_of
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.masks import Masks


@dataclass(frozen=True)
class Loaded:
    """The model on its engine, and how large and how dense its micro-batches are."""

    engine: Engine
    model: Any
    task: Task
    tokenizer: Any
    budget: Budget
    batch_maker: BatchMaker
    compilations: Compilations | None
    """None if nothing is compiled."""
    objective: Objective
    reference: Reference | None
    """The pretrained model, where it can be asked while this one is trained and the recipe compares the two."""


def load(
    recipe: Recipe, run_dir: Path, prepared: Prepared, *, ranks: Ranks, reporter: Reporter, lease: Lease
) -> Loaded:
    """Collective: loads the model onto its engine, and finds out what micro-batches it can take."""
    beat()
    reporter.report("phase", name="loading the model")
    train = training_split(prepared, recipe)
    tokenizer = load_tokenizer(recipe)
    task = task_of(recipe, prepared.facts, tokenizer, load_model_config(recipe))
    with memory_said(recipe, task, ranks, lambda: None, micro_batch_tokens=recipe.data.max_tokens):
        fisher = settle_fisher(recipe, run_dir, ranks, reporter)
        first = task.collate([{**_shortest(train), "draw": (0, 0)}]).to(ranks.device)
        engine, model, parts, copy = _load_engine(recipe, run_dir, task, tokenizer, first, ranks, reporter)
        if any(recipe.regularize.holding()):
            engine.hold_weights(fisher)
        reference = _reference(recipe, engine, model, copy)
        beat()
        packing = choose_packing(recipe, task, engine, model, ranks=ranks, reporter=reporter)
        masks = choose_masks(recipe, task, engine, model, like=_shortest(train), ranks=ranks, reporter=reporter)
        with engine.evaluating():
            engine.forward(first)  # by it the model shows how its loss can be computed
        if task.auto_model == "AutoModelForSequenceClassification":
            ends = _ends_of(train, task, masks).to(ranks.device)
            read_first_alone(engine, model, ends, recipe.engine.precision, ranks)
        beat()
        batch_maker = BatchMaker(
            task, ranks, packing, masks=masks, cost=cost_of(model, train, packing, masks), rounding=rounding_of(recipe)
        )
        compilations = compile_and_try(engine, model, parts, train, batch_maker, reporter=reporter)
    objective = _objective(recipe, task, reference)
    budget = settle_budget(recipe, run_dir, engine, objective, train, batch_maker, reporter=reporter, lease=lease)
    batch_maker = replace(batch_maker, micro_batch_tokens=budget.tokens)
    return Loaded(engine, model, task, tokenizer, budget, batch_maker, compilations, objective, reference)


def _reference(recipe: Recipe, engine: Engine, model: Any, copy: FrozenCopy | None) -> Reference | None:
    if copy is not None:
        return copy
    return AdaptersOff(engine, model) if recipe.compares_with_base and trains_adapters_alone(model) else None


def _objective(recipe: Recipe, task: Task, reference: Reference | None) -> Objective:
    weight = recipe.regularize.kl_to_base
    return KlToBase(task, reference, weight) if weight and reference is not None else TaskLoss(task)


def _load_engine(
    recipe: Recipe, run_dir: Path, task: Task, tokenizer: Any, first: Batch, ranks: Ranks, reporter: Reporter
) -> tuple[Engine, Any, Sequence[nn.Module], FrozenCopy | None]:
    """Collective: the engine, sharded as the ds_config asks, and the pretrained model within it; the parts of it that
    are to be compiled; and its copy, if there is to be one. `first` is a batch to try a model with."""

    def say(text: str | None) -> None:
        if text is not None:
            reporter.report("notice", text=text)

    refuse_bad_ds_config(recipe)
    say(settle_tf32(recipe, ranks.device))
    kernels = settle_kernels(
        recipe.engine.kernels,
        device=ranks.device.type,
        model_type=load_model_config(recipe).model_type,
        is_compiled=recipe.engine.compile != "off",
    )
    say(kernels.note)
    hidden_size = getattr(load_model_config(recipe).get_text_config(), "hidden_size", None)
    cluster = look_at_cluster(ranks)
    ds_config = ds_config_of(recipe, hidden_size=hidden_size, cluster=cluster)
    for text in describe_cluster(recipe, ds_config, cluster):
        say(text)
    if ranks.is_zero and ds_config is not None:
        write_atomically(run_dir / "deepspeed.json", json.dumps(ds_config, indent=2))
    # transformers (5.23) draws other weights where they are born sharded: the stage would decide what is learned.
    with nullcontext() if ds_config is None or recipe.model.from_scratch else sharded_birth(ds_config):
        model = load_model(recipe, task, tokenizer, say=say, device=ranks.device, kernels=kernels)
    copy = copy_of_base(recipe, model, first)
    say(None if copy is None else copy.note)
    parts = parts_to_compile(recipe, model)
    beat()

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return OPTIMIZERS[recipe.optim.kind](model, recipe.optim, l2_sp=recipe.regularize.l2_sp)

    common: dict[str, Any] = {"ranks": ranks, "seed": recipe.train.seed, "keeps_frozen": recipe.model.lora is None}
    common["keeps_average"] = recipe.train.ema_decay is not None
    if ds_config is not None:
        return DeepSpeedEngine(model, ds_config, make_optimizer, undivided=parts, **common), model, parts, copy
    engine = ReplicatedEngine(
        model,
        make_optimizer,
        precision=recipe.engine.precision,
        max_grad_norm=recipe.optim.max_grad_norm,
        exchanged_in=WIRE_DTYPES[recipe.engine.communication_data_type],
        bucket_bytes=BUCKET_BYTES if cluster.link is None else bucket_bytes(cluster.link, cluster.world_size),
        # A penalty gives rows a gradient that no text has looked up.
        has_sparse_gradients=recipe.engine.compile != "full" and recipe.regularize.ewc is None,
        **common,
    )
    return engine, model, parts, copy


def _shortest(train: Split) -> Example:
    """The shortest example that has targets."""
    shortest = np.where(train.num_targets > 0, train.lengths, np.iinfo(np.int32).max).argmin()
    return train.examples(np.array([shortest]))[0]


def _ends_of(train: Split, task: Task, masks: Masks) -> Batch:
    """A batch of the shortest and the longest example."""
    rows = np.array([train.lengths.argmin(), train.lengths.argmax()])
    return collate_alone(task, [{**example, "draw": (0, 0)} for example in train.examples(rows)], masks)
