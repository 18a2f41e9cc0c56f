"""Puts the parts together and runs them in order: data, model, engine, resume, fit, evaluate, export.

The composition root: the only module that may import every other.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import transformers
from torch import nn

from trainer.checkpoint import Checkpoints, Layout, newest_step
from trainer.config.deepspeed import load_ds_config, resolve_ds_config
from trainer.config.run_dir import FACTS, RESULTS, STOP, write_atomically
from trainer.config.schema import Recipe
from trainer.data.prepare import Prepared, load_model_config, load_tokenizer
from trainer.data.shards import Split
from trainer.engine import DeepSpeedEngine, hold_ds_config
from trainer.lease import Lease, open_lease
from trainer.loop import fit
from trainer.meter import Meter
from trainer.milestones import Milestones, without_answers
from trainer.model import calibrate, exported_dev_metrics, load_exported, load_model
from trainer.optim import OPTIMIZERS
from trainer.packing import choose_packing
from trainer.preflight import check_device, preflight
from trainer.ranks import Ranks
from trainer.reporter import Reporter, open_reporter
from trainer.schedule import make_schedule
from trainer.state import TrainState
from trainer.steps import Step, course_of
from trainer.stop import sigterm_asks_to_stop
from trainer.tasks import TASKS, Task


def run(
    recipe: Recipe,
    run_dir: Path,
    prepared: Prepared,
    ranks: Ranks,
    *,
    terminal: TextIO | None = None,
    job: str | None = None,
) -> bool:
    """Collective: trains the recipe from where the run directory stands; whether it came to its end.

    False means that it was asked to stop: a checkpoint is saved, and the same call goes on from it. `job` is what the
    scheduler calls the job of this start. Raises DataError, ConfigError or CheckpointError for what a user has to mend.
    """
    check_device(recipe, ranks)
    lease = open_lease(run_dir, ranks, job=job)
    try:
        return _run(recipe, run_dir, prepared, ranks, lease, terminal)
    finally:
        lease.close()


def _run(
    recipe: Recipe, run_dir: Path, prepared: Prepared, ranks: Ranks, lease: Lease, terminal: TextIO | None
) -> bool:
    transformers.utils.logging.disable_progress_bar()  # they would fill the ranks' log files
    resumed_step = newest_step(run_dir / "checkpoints")
    ranks.barrier()
    reporter = open_reporter(recipe, run_dir, ranks, resumed_step=resumed_step, terminal=terminal)
    try:
        for text in preflight(recipe, run_dir, ranks):
            reporter.report("notice", text=text)
        milestones, state, steps = _assemble(recipe, run_dir, prepared, ranks, reporter, lease)
        schedule = make_schedule(recipe.optim, milestones.num_steps)
        with sigterm_asks_to_stop():
            state = fit(
                milestones.engine,
                milestones.task,
                steps,
                milestones.begin(state),
                schedule=schedule,
                ranks=ranks,
                milestones=milestones,
            )
        if state.step < milestones.num_steps:
            milestones.save(state)
            if ranks.is_zero:
                (run_dir / STOP).unlink(missing_ok=True)
            reporter.report("stopped", step=state.step)
            return False
        results = _finish(milestones, state, prepared.split("test"))
        if ranks.is_zero:
            write_atomically(run_dir / RESULTS, json.dumps(results, indent=1))
        reporter.report("done", **results)
        return True
    finally:
        reporter.close()


def _assemble(
    recipe: Recipe, run_dir: Path, prepared: Prepared, ranks: Ranks, reporter: Reporter, lease: Lease
) -> tuple[Milestones, TrainState, Iterator[Step]]:
    """Collective: the model on its engine, where the run stands, and the steps that are left."""
    reporter.report("phase", name="loading the model")
    train = prepared.split("train")
    assert train is not None, "a recipe always names training data"
    tokenizer = load_tokenizer(recipe)
    task = TASKS[recipe.task.kind](recipe.task, prepared.facts, tokenizer, load_model_config(recipe))
    engine, model = _load_engine(recipe, run_dir, task, tokenizer, ranks)
    packing = choose_packing(recipe, task, engine, model, ranks=ranks, reporter=reporter)
    _pass_once(engine, task, train, ranks)
    course = course_of(prepared, recipe, task, ranks=ranks, packing=packing)
    layout = Layout(ranks.world_size, engine.zero_stage, recipe.engine.precision)
    checkpoints = Checkpoints(
        run_dir / "checkpoints", layout=layout, keep_last=recipe.checkpoint.keep_last, ranks=ranks
    )
    state = checkpoints.resume(engine)
    if ranks.is_zero:
        write_atomically(run_dir / FACTS, json.dumps(prepared.facts, ensure_ascii=False, indent=1))
    milestones = Milestones(
        recipe=recipe,
        run_dir=run_dir,
        num_steps=course.num_steps,
        steps_per_epoch=course.steps_per_epoch,
        engine=engine,
        task=task,
        dev=prepared.split("dev"),
        packing=packing,
        model=model,
        tokenizer=tokenizer,
        checkpoints=checkpoints,
        meter=Meter(course.num_steps, ranks.device),
        reporter=reporter,
        ranks=ranks,
        lease=lease,
    )
    reporter.report(
        "start",
        step=state.step,
        num_steps=course.num_steps,
        num_rows=course.num_rows,
        num_parameters=engine.num_parameters,
        world_size=ranks.world_size,
        device=ranks.device.type,
        zero_stage=engine.zero_stage,
        precision=recipe.engine.precision,
        packed=packing is not None,
    )
    return milestones, state, course.begin(state.step)


def _load_engine(
    recipe: Recipe, run_dir: Path, task: Task, tokenizer: Any, ranks: Ranks
) -> tuple[DeepSpeedEngine, Any]:
    """Collective: the pretrained model, sharded as the ds_config says; the engine and the model within."""
    hidden_size = getattr(load_model_config(recipe).get_text_config(), "hidden_size", None)
    ds_config = resolve_ds_config(load_ds_config(recipe.engine.deepspeed), recipe, hidden_size=hidden_size)
    if ranks.is_zero:
        write_atomically(run_dir / "deepspeed.json", json.dumps(ds_config, indent=2))
    # transformers (5.23) draws other weights where they are born sharded: the stage would decide what is learned.
    born_sharded = None if recipe.model.from_scratch else hold_ds_config(ds_config)
    model = load_model(recipe, task, tokenizer)
    del born_sharded

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return OPTIMIZERS[recipe.optim.kind](model, recipe.optim)

    return DeepSpeedEngine(model, ds_config, make_optimizer, ranks=ranks, seed=recipe.train.seed), model


def _pass_once(engine: DeepSpeedEngine, task: Task, train: Split, ranks: Ranks) -> None:
    """Collective: a forward pass of the shortest example, by which the model shows how its loss can be computed."""
    shortest = np.where(train.num_targets > 0, train.lengths, np.iinfo(np.int32).max).argmin()
    (example,) = train.examples(np.array([shortest]))
    with engine.evaluating():
        engine.forward(task.collate([{**example, "draw": (0, 0)}]).to(ranks.device))


def _finish(milestones: Milestones, state: TrainState, test: Any) -> dict[str, Any]:
    """Collective: the last model exported; the best one evaluated on test."""
    milestones.export("last")
    if state.best_step is None:
        milestones.export("best")
    best_step = state.step if state.best_step is None else state.best_step
    results: dict[str, Any] = {"step": state.step, "best_step": best_step}
    if state.dev_at_start is not None:
        results["dev_at_start"] = state.dev_at_start
    if milestones.dev is not None:
        results["dev"] = exported_dev_metrics(milestones.run_dir / "export" / "best")
        metric = milestones.best_metric
        results["chosen_by"] = {"metric": metric, "lower_is_better": metric in milestones.task.lower_is_better}
    if best_step != state.step:
        folder = milestones.run_dir / "export" / "best"
        best = load_exported(milestones.recipe, milestones.task, milestones.tokenizer, folder)
        milestones.engine.set_weights(best)
    calibrate(milestones.task, milestones.run_dir / "export" / "best")
    if test is not None:
        results["test"] = without_answers(milestones.evaluate("test", test, best_step))
    return results
