"""Puts the parts together and runs them in order: data, model, engine, resume, fit, evaluate, export.

The composition root: the only module that may import every other.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import transformers
from torch import nn

from shardtune.ds_config.resolve import ds_config_of
from shardtune.errors import CheckpointError
from shardtune.recipe.load import learning_hash
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CHECKPOINTS, EXPORT, FACTS, MODEL, RESULTS, STOP, write_atomically
from shardtune.trainer.between_steps.bad_rows import BadRowSearch
from shardtune.trainer.between_steps.guard import Guard, RolledBack
from shardtune.trainer.between_steps.milestones import Milestones, without_answers
from shardtune.trainer.checkpoint.base_model import Base, identify_together, refuse_another_base
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, Checkpoints
from shardtune.trainer.checkpoint.resume import Found, find_newest, first_whole, fork, restore, state_of
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.batches.steps import Step, training_steps_of
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.distributed.background import run_on_every_rank
from shardtune.trainer.distributed.lease import Lease, open_lease
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import Stop, StopAsked
from shardtune.trainer.distributed.watchdog import beat, watching
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine, hold_ds_config
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.optimizers import OPTIMIZERS
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.engine.schedule import make_schedule
from shardtune.trainer.export.export import export, in_order
from shardtune.trainer.loop import fit
from shardtune.trainer.model.load import keep_model_files, load_model
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.preflight.preflight import preflight
from shardtune.trainer.preflight.probe import host_name
from shardtune.trainer.reporting.meter import Meter
from shardtune.trainer.reporting.reporter import Reporter, open_reporter
from shardtune.trainer.reporting.stragglers import Pace, RankLocation
from shardtune.trainer.setup.cpu_attention import fast_attention
from shardtune.trainer.setup.cpu_dropout import fast_dropout
from shardtune.trainer.setup.first_token import read_first_alone
from shardtune.trainer.setup.out_of_memory import memory_said
from shardtune.trainer.setup.packing import choose_packing
from shardtune.trainer.setup.precision import settle_precision
from shardtune.trainer.setup.rehearsal import halved_when_short, settle_budget
from shardtune.trainer.tasks import TASKS, Task
from shardtune.trainer.tasks.batch import Batch

StepsFrom = Callable[[TrainState], Iterator[Step]]
"""The steps that are left when a training stands there."""


def run(
    recipe: Recipe,
    run_dir: Path,
    prepared: Prepared,
    ranks: Ranks,
    stop: Stop,
    *,
    terminal: TextIO | None = None,
    job: str | None = None,
) -> bool:
    """Collective: trains the recipe from where the run directory stands; whether it came to its end.

    False means that it was asked to stop: a checkpoint is saved, and the same call goes on from it. A wish that comes
    while there is nothing to save raises StopAsked. `job` is what the scheduler calls the job of this start. Raises
    DataError, ConfigError, CheckpointError or TrainingError for what a user has to mend.
    """
    recipe = settle_precision(recipe, ranks)
    lease = open_lease(run_dir, ranks, job=job)
    try:
        with fast_dropout(ranks.device), fast_attention(ranks.device):
            return _run(recipe, run_dir, prepared, ranks, stop, lease, terminal, job)
    finally:
        lease.close()


def _run(
    recipe: Recipe,
    run_dir: Path,
    prepared: Prepared,
    ranks: Ranks,
    stop: Stop,
    lease: Lease,
    terminal: TextIO | None,
    job: str | None,
) -> bool:
    transformers.utils.logging.disable_progress_bar()  # they would fill the ranks' log files
    startup_hang_s = recipe.faults.startup_hang_s
    with watching(run_dir, ranks.rank, startup_hang_s):
        found = find_newest(run_dir / CHECKPOINTS, ranks)
        if found.checkpoint is None:
            found = fork(run_dir, learning_hash(recipe), ranks) or found
    reporter = open_reporter(recipe, run_dir, ranks, resumed_step=found.step, terminal=terminal)
    try:
        for step, problem in found.damaged.items():
            text = f"{problem}; the run goes on from step {found.step}"
            reporter.report("alert", title=f"the checkpoint of step {step} is passed over", text=text, step=step)
        with watching(run_dir, ranks.rank, startup_hang_s):
            for text in preflight(recipe, run_dir, ranks, job=job):
                reporter.report("notice", text=text)
            milestones, steps_from = _assemble(recipe, run_dir, prepared, ranks, reporter, found, stop, lease)
        stop.note_only()
        with watching(run_dir, ranks.rank, recipe.faults.hang_s):
            try:
                with _memory_watched(milestones):
                    _train(milestones, steps_from, evaluated=found.is_evaluated)
                    results = _finish(milestones, milestones.state, prepared.split("test"))
            except StopAsked:
                _save_and_stop(milestones)
                return False
        if ranks.is_zero:
            write_atomically(run_dir / RESULTS, json.dumps(results, indent=1))
        reporter.report("done", **results)
        return True
    finally:
        reporter.close()


@contextmanager
def _memory_watched(milestones: Milestones) -> Iterator[None]:
    """Says what was short of memory, and leaves the next start a smaller budget where it may."""
    its, budget = milestones, milestones.budget
    with (
        halved_when_short(budget, its.run_dir, its.lease),
        memory_said(its.recipe, its.task, its.ranks, lambda: its.shape, micro_batch_tokens=budget.tokens),
    ):
        yield


def _train(milestones: Milestones, steps_from: StepsFrom, *, evaluated: bool) -> None:
    """Collective: all steps that are left, however often a spike sends the training back."""
    schedule = make_schedule(milestones.recipe.optim, milestones.num_steps)
    state = milestones.begin(milestones.state, evaluated=evaluated)
    engine, task, ranks = milestones.engine, milestones.task, milestones.ranks
    while state.step < milestones.num_steps:
        with closing(prefetch(steps_from(state))) as ahead:
            steps = (replace(made.item, waited_s=made.waited_s) for made in ahead)
            try:
                state = fit(engine, task, steps, state, schedule=schedule, ranks=ranks, milestones=milestones)
            except RolledBack as back:
                milestones.state = state = back.state


def _save_and_stop(milestones: Milestones) -> None:
    """Collective: a checkpoint of the last step that was done."""
    milestones.save(milestones.state)
    milestones.finish_saving()
    if milestones.ranks.is_zero:
        (milestones.run_dir / STOP).unlink(missing_ok=True)
    reasons = [its for its in milestones.ranks.gather(milestones.stop.reason) if its]
    milestones.reporter.report("stopped", step=milestones.state.step, reason=", ".join(dict.fromkeys(reasons)))


def _assemble(
    recipe: Recipe,
    run_dir: Path,
    prepared: Prepared,
    ranks: Ranks,
    reporter: Reporter,
    found: Found,
    stop: Stop,
    lease: Lease,
) -> tuple[Milestones, StepsFrom]:
    """Collective: the model on its engine, where the run stands, and the steps that are left from there."""
    beat()
    reporter.report("phase", name="loading the model")
    train = prepared.split("train")
    assert train is not None, "a recipe always names training data"
    tokenizer = load_tokenizer(recipe)
    task = TASKS[recipe.task.kind](recipe.task, prepared.facts, tokenizer, load_model_config(recipe))
    with memory_said(recipe, task, ranks, lambda: None, micro_batch_tokens=recipe.data.max_tokens):
        engine, model = _load_engine(recipe, run_dir, task, tokenizer, ranks)
        beat()
        packing = choose_packing(recipe, task, engine, model, ranks=ranks, reporter=reporter)
        _pass_once(engine, task, train, ranks)
        if task.auto_model == "AutoModelForSequenceClassification":
            read_first_alone(engine, model, _ends_of(train, task).to(ranks.device), recipe.engine.precision, ranks)
        beat()
    budget = settle_budget(recipe, run_dir, engine, task, train, packing, ranks=ranks, reporter=reporter, lease=lease)
    course = training_steps_of(prepared, recipe, task, ranks=ranks, micro_batch_tokens=budget.tokens, packing=packing)
    if ranks.is_zero:
        keep_model_files(model, tokenizer, run_dir / MODEL)
        write_atomically(run_dir / FACTS, json.dumps(prepared.facts, ensure_ascii=False, indent=1))
    base = identify_together(recipe, ranks) if recipe.model.lora is not None else None
    policy = _policy(recipe, task, engine, ranks, base)
    beat()
    checkpoints = Checkpoints(
        run_dir / CHECKPOINTS, policy, ranks=ranks, reporter=reporter, newest=found.step, damaged=found.damaged
    )
    state = TrainState()
    if found.checkpoint is not None:
        refuse_another_base(found.checkpoint.manifest.base, base, found.checkpoint.path)
        restore(engine, found.checkpoint)
        state = state_of(found.checkpoint, checkpoints.complete(), policy)
    milestones = Milestones(
        recipe=recipe,
        run_dir=run_dir,
        num_steps=course.num_steps,
        steps_per_epoch=course.steps_per_epoch,
        engine=engine,
        task=task,
        dev=prepared.split("dev"),
        packing=packing,
        budget=budget,
        tokenizer=tokenizer,
        checkpoints=checkpoints,
        guard=Guard(
            recipe.faults,
            recipe.engine.precision,
            policy,
            engine,
            task,
            checkpoints,
            BadRowSearch(run_dir, ranks, course.alone),
            reporter,
            ranks,
        ),
        meter=Meter(course.num_steps, ranks.device),
        pace=Pace(ranks.gather(RankLocation(host_name(), ranks.device.index))),
        reporter=reporter,
        ranks=ranks,
        lease=lease,
        stop=stop,
        state=state,
    )
    reporter.report(
        "start",
        step=state.step,
        num_steps=course.num_steps,
        num_rows=course.num_rows,
        data={name: {key: its[key] for key in ("rows", "tokens")} for name, its in prepared.meta["splits"].items()},
        num_parameters=engine.num_parameters,
        num_trained=engine.num_trained,
        world_size=ranks.world_size,
        device=ranks.device.type,
        zero_stage=engine.zero_stage,
        precision=recipe.engine.precision,
        packed=packing is not None,
    )
    return milestones, lambda state: course.begin(state.step, state.left_out)


def _load_engine(recipe: Recipe, run_dir: Path, task: Task, tokenizer: Any, ranks: Ranks) -> tuple[Engine, Any]:
    """Collective: the pretrained model, sharded as the ds_config says; the engine and the model within."""
    hidden_size = getattr(load_model_config(recipe).get_text_config(), "hidden_size", None)
    ds_config = ds_config_of(recipe, hidden_size=hidden_size)
    if ranks.is_zero and ds_config is not None:
        write_atomically(run_dir / "deepspeed.json", json.dumps(ds_config, indent=2))
    # transformers (5.23) draws other weights where they are born sharded: the stage would decide what is learned.
    born_sharded = None if recipe.model.from_scratch or ds_config is None else hold_ds_config(ds_config)
    model = load_model(recipe, task, tokenizer)
    del born_sharded
    beat()

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return OPTIMIZERS[recipe.optim.kind](model, recipe.optim)

    common: dict[str, Any] = {"ranks": ranks, "seed": recipe.train.seed, "keeps_frozen": recipe.model.lora is None}
    if ds_config is not None:
        return DeepSpeedEngine(model, ds_config, make_optimizer, **common), model
    precision, norm = recipe.engine.precision, recipe.optim.max_grad_norm
    return ReplicatedEngine(model, make_optimizer, precision=precision, max_grad_norm=norm, **common), model


def _pass_once(engine: Engine, task: Task, train: Split, ranks: Ranks) -> None:
    """Collective: a forward pass of the shortest example, by which the model shows how its loss can be computed."""
    shortest = np.where(train.num_targets > 0, train.lengths, np.iinfo(np.int32).max).argmin()
    (example,) = train.examples(np.array([shortest]))
    with engine.evaluating():
        engine.forward(task.collate([{**example, "draw": (0, 0)}]).to(ranks.device))


def _ends_of(train: Split, task: Task) -> Batch:
    """The shortest and the longest example."""
    rows = np.array([train.lengths.argmin(), train.lengths.argmax()])
    return task.collate([{**example, "draw": (0, 0)} for example in train.examples(rows)])


def _policy(recipe: Recipe, task: Task, engine: Engine, ranks: Ranks, base: Base | None) -> CheckpointPolicy:
    metric = recipe.checkpoint.best_metric or task.main_metric
    return CheckpointPolicy(
        keep_last=recipe.checkpoint.keep_last,
        keep_best=recipe.checkpoint.keep_best,
        asynchronous=recipe.checkpoint.asynchronous,
        metric=metric,
        lower_is_better=metric in task.lower_is_better,
        recipe_hash=learning_hash(recipe),
        layout={
            "world_size": ranks.world_size,
            "zero_stage": engine.zero_stage,
            "precision": recipe.engine.precision,
        },
        base=base,
    )


def _finish(milestones: Milestones, state: TrainState, test: Split | None) -> dict[str, Any]:
    """Collective: the best model evaluated on test; it and the last one exported, both from their checkpoints.

    Raises CheckpointError if the end of the training could not be saved, or the models not be exported.
    """
    milestones.finish_saving()
    ranks, recipe, run_dir = milestones.ranks, milestones.recipe, milestones.run_dir
    complete = milestones.checkpoints.complete() if ranks.is_zero else []
    last = first_whole([its for its in complete if its.step == state.step], ranks)
    best = first_whole(in_order(complete, recipe), ranks)
    if last is None or best is None:
        raise CheckpointError(
            f"the training is done, but its end is not on disk; make room in {run_dir} and start it again: what came "
            "after the newest checkpoint is done again"
        )
    if state.best_step is not None and best.step != state.best_step:
        milestones.reporter.report(
            "alert",
            title=f"the best model is not that of step {state.best_step}",
            text=f"its checkpoint is not there; the best one that is there is of step {best.step}",
            step=state.step,
        )
    results: dict[str, Any] = {"step": state.step, "best_step": best.step}
    if state.dev_at_start is not None:
        results["dev_at_start"] = state.dev_at_start
    if (dev_metrics := best.manifest.dev_metrics) is not None:
        results["dev"] = dict(dev_metrics)
        milestones.task.calibrate(dev_metrics)
        metric = milestones.best_metric
        results["chosen_by"] = {"metric": metric, "lower_is_better": metric in milestones.task.lower_is_better}
    if best.step != state.step:
        restore(milestones.engine, best, weights_only=True)
    if test is not None:
        results["test"] = without_answers(milestones.evaluate("test", test, best.step))

    def write() -> None:
        if ranks.is_zero:
            export(run_dir, best, run_dir / EXPORT / "best", recipe=recipe, results=results)
            export(run_dir, last, run_dir / EXPORT / "last", recipe=recipe)

    with milestones.phase("exporting the models"):
        run_on_every_rank(ranks, write)
    return results
