"""Puts the parts together and runs them in order: data, model, engine, resume, fit, evaluate, export.

The composition root: the only module that may import every other.
"""

import json
from pathlib import Path
from typing import Any, TextIO

import transformers

from trainer.checkpoint import Checkpoints, newest_step
from trainer.config.deepspeed import load_ds_config, resolve_ds_config, zero_stage
from trainer.config.run_dir import FACTS, RESULTS, STOP, write_atomically
from trainer.config.schema import Recipe
from trainer.data.order import Order
from trainer.data.prepare import Prepared, load_model_config, load_tokenizer
from trainer.engine import DeepSpeedEngine, hold_ds_config
from trainer.loop import fit
from trainer.meter import Meter
from trainer.milestones import Milestones
from trainer.model import load_exported, load_model
from trainer.optim import OPTIMIZERS
from trainer.ranks import Ranks
from trainer.reporter import open_reporter
from trainer.schedule import make_schedule
from trainer.state import TrainState
from trainer.steps import train_steps
from trainer.tasks import TASKS


def run(recipe: Recipe, run_dir: Path, prepared: Prepared, ranks: Ranks, *, terminal: TextIO | None = None) -> bool:
    """Collective: trains the recipe from where the run directory stands; whether it came to its end.

    False means that it was asked to stop: a checkpoint is saved, and the same call goes on from it. Raises DataError,
    ConfigError or CheckpointError for what a user has to mend.
    """
    train, dev = prepared.split("train"), prepared.split("dev")
    assert train is not None, "a recipe always names training data"
    resumed_step = newest_step(run_dir / "checkpoints")
    ranks.barrier()
    reporter = open_reporter(recipe, run_dir, ranks, resumed_step=resumed_step, terminal=terminal)
    try:
        transformers.utils.logging.disable_progress_bar()  # they would fill the ranks' log files
        reporter.report("phase", name="loading the model")
        tokenizer = load_tokenizer(recipe)
        task = TASKS[recipe.task.kind](recipe.task, prepared.facts, tokenizer)
        hidden_size = getattr(load_model_config(recipe).get_text_config(), "hidden_size", None)
        ds_config = resolve_ds_config(load_ds_config(recipe.engine.deepspeed), recipe, hidden_size=hidden_size)
        if ranks.is_zero:
            write_atomically(run_dir / "deepspeed.json", json.dumps(ds_config, indent=2))
            write_atomically(run_dir / FACTS, json.dumps(prepared.facts, ensure_ascii=False, indent=1))
        sharded_birth = hold_ds_config(ds_config)
        model = load_model(recipe, task)
        del sharded_birth
        make_optimizer = OPTIMIZERS[recipe.optim.kind]
        engine = DeepSpeedEngine(
            model, ds_config, lambda m: make_optimizer(m, recipe.optim), ranks=ranks, seed=recipe.train.seed
        )

        order = Order(train.lengths, recipe.train.global_batch_size, recipe.data.length_window, recipe.train.seed)
        num_steps = order.num_steps(recipe.train.num_epochs, recipe.train.max_steps)
        checkpoints = Checkpoints(run_dir / "checkpoints", keep_last=recipe.checkpoint.keep_last, ranks=ranks)
        state = checkpoints.resume(engine)
        milestones = Milestones(
            recipe,
            run_dir,
            num_steps,
            order.steps_per_epoch,
            engine,
            task,
            dev,
            model,
            tokenizer,
            checkpoints,
            Meter(num_steps, ranks.device),
            reporter,
            ranks,
        )
        reporter.report(
            "start",
            step=state.step,
            num_steps=num_steps,
            num_rows=len(train),
            num_parameters=engine.num_parameters,
            world_size=ranks.world_size,
            device=ranks.device.type,
            zero_stage=zero_stage(ds_config),
            precision=recipe.engine.precision,
        )
        steps = train_steps(
            train,
            task,
            order,
            range(state.step, num_steps),
            ranks=ranks,
            micro_batch_tokens=recipe.train.micro_batch_tokens,
        )
        schedule = make_schedule(recipe.optim, num_steps)
        state = fit(engine, task, steps, state, schedule=schedule, ranks=ranks, milestones=milestones)
        if state.step < num_steps:
            milestones.save(state)
            ranks.barrier()
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


def _finish(milestones: Milestones, state: TrainState, test: Any) -> dict[str, Any]:
    """Collective: the last model exported; the best one evaluated on test."""
    milestones.export("last")
    if state.best_step is None:
        milestones.export("best")
    best_step = state.step if state.best_step is None else state.best_step
    results: dict[str, Any] = {"step": state.step, "best_step": best_step}
    if milestones.dev is not None:
        results["dev"] = {milestones.best_metric: state.best_value}
    if best_step != state.step:
        best = load_exported(milestones.recipe, milestones.task, milestones.run_dir / "export" / "best")
        milestones.engine.set_weights(best)
    if test is not None:
        results["test"] = milestones.evaluate("test", test, best_step)
    return results
