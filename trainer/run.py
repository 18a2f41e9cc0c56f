"""Puts the parts together and runs them in order: data, model, engine, resume, fit, finish.

The composition root: the only module that may import every other.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import transformers

from shardtune.ds_config.resolve import ds_config_notice
from shardtune.recipe.load import learning_hash
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CHECKPOINTS, FACTS, MODEL, STOP, write_atomically
from shardtune.run_dir.lease import FileLease
from shardtune.run_dir.view.history import read_history
from shardtune.run_dir.view.time_use import time_use
from shardtune.trainer.between_steps.averages.running_average import RunningAverage
from shardtune.trainer.between_steps.base_answers import base_answers
from shardtune.trainer.between_steps.callback import Callback, RolledBack
from shardtune.trainer.between_steps.compile_report import CompileReport
from shardtune.trainer.between_steps.dev_evaluation import DevEvaluation
from shardtune.trainer.between_steps.early_stop import EarlyStop
from shardtune.trainer.between_steps.evaluator import Evaluator
from shardtune.trainer.between_steps.guard.bad_rows import BadRowSearch
from shardtune.trainer.between_steps.guard.guard import Guard
from shardtune.trainer.between_steps.milestones import Milestones
from shardtune.trainer.between_steps.profiler import Profiler
from shardtune.trainer.between_steps.retention.assemble import retention_evaluation
from shardtune.trainer.between_steps.retention_limit import retention_limits
from shardtune.trainer.between_steps.saver import Publisher, Saver
from shardtune.trainer.between_steps.step_report import StepReport
from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.checkpoint.base_model import (
    identify_together,
    keep_base_once,
    refuse_another_anchor,
    refuse_another_base,
)
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, Checkpoints
from shardtune.trainer.checkpoint.resume import (
    find_newest,
    fork,
    refuse_other_labels,
    restore,
    state_of,
)
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.batches.steps import TrainingSteps, part_note, training_steps_of
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.distributed.background import run_on_zero
from shardtune.trainer.distributed.gpu.own_gpu import gpu_number
from shardtune.trainer.distributed.lease import leased
from shardtune.trainer.distributed.rank_env import begin_times
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import Stop, StopAsked
from shardtune.trainer.distributed.watchdog import beat, watching
from shardtune.trainer.engine.schedule import make_schedule
from shardtune.trainer.evaluation.base_answers import BaseAnswers
from shardtune.trainer.finish import finish
from shardtune.trainer.loop import fit
from shardtune.trainer.model.load import keep_model_files
from shardtune.trainer.model.quantized.loading import quantized_as
from shardtune.trainer.preflight.numa import settle_ranks
from shardtune.trainer.preflight.preflight import preflight
from shardtune.trainer.preflight.probe import device_name, host_name
from shardtune.trainer.reporting.compute_rate import measure_compute_rate
from shardtune.trainer.reporting.environment import environment_of
from shardtune.trainer.reporting.fragmentation import Fragmentation
from shardtune.trainer.reporting.gpu_sensors import GpuSensors
from shardtune.trainer.reporting.ineffective_settings import settings_without_effect
from shardtune.trainer.reporting.lengths import length_histogram
from shardtune.trainer.reporting.meter import Meter
from shardtune.trainer.reporting.phases import Phases
from shardtune.trainer.reporting.reporter import open_reporter
from shardtune.trainer.reporting.stragglers import Pace, RankLocation
from shardtune.trainer.retention.sets import NO_RETENTION, Retention
from shardtune.trainer.setup.cpu_attention import fast_attention
from shardtune.trainer.setup.cpu_dropout import fast_dropout
from shardtune.trainer.setup.load_engine import Loaded, load
from shardtune.trainer.setup.out_of_memory import memory_said, share_of_memory
from shardtune.trainer.setup.precision import settle_precision
from shardtune.trainer.setup.rehearsal import halved_when_short
from shardtune.trainer.training import Resumed, Start, Training


def run(
    recipe: Recipe,
    run_dir: Path,
    prepared: Prepared,
    ranks: Ranks,
    stop: Stop,
    *,
    terminal: TextIO | None = None,
    job: str | None = None,
    held: FileLease | None = None,
    retention: Retention = NO_RETENTION,
) -> bool:
    """Collective: trains the recipe from where the run directory stands; returns whether the run is finished.

    False means that it was asked to stop: a checkpoint is saved, and the same call resumes from it. A stop request
    that comes while there is nothing to save raises StopAsked. `job` is the scheduler's name of the job of this start,
    `held` the lease that its rank 0 has already, `retention` the retention sets. Raises DataError, ConfigError,
    CheckpointError or TrainingError for what a user has to fix.
    """
    notice = ds_config_notice(recipe)
    recipe = settle_precision(recipe, ranks)
    transformers.utils.logging.disable_progress_bar()  # they would fill the log files of the ranks
    with (
        leased(run_dir, ranks, job=job, held=held) as lease,
        # What is compiled has torch's own: it can look into these, and fuses them.
        nullcontext() if recipe.engine.compile != "off" else fast_dropout(ranks.device),
        nullcontext() if recipe.engine.compile != "off" else fast_attention(ranks.device),
    ):
        with watching(run_dir, ranks.rank, recipe.faults.startup_hang_s, num_ranks=ranks.world_size):
            found = find_newest(run_dir / CHECKPOINTS, ranks)
            if found.checkpoint is None:
                found = fork(run_dir, learning_hash(recipe), ranks) or found
        with closing(open_reporter(recipe, run_dir, ranks, resumed_step=found.step, terminal=terminal)) as reporter:
            reporter.report("begin", job=job, **begin_times())
            return _run(Start(recipe, run_dir, prepared, ranks, stop, lease, job, reporter, found, notice, retention))


def _run(start: Start) -> bool:
    """Collective: assembles, trains, finishes; returns whether the run is finished."""
    recipe, run_dir, ranks, reporter, found = start.recipe, start.run_dir, start.ranks, start.reporter, start.found
    for step, problem in found.damaged.items():
        text = f"{problem}; resuming at step {found.step}"
        reporter.report("alert", title=f"the checkpoint of step {step} was skipped", text=text, step=step)
    if start.ds_config_notice is not None:
        reporter.report("notice", text=start.ds_config_notice)
    with watching(run_dir, ranks.rank, recipe.faults.startup_hang_s, num_ranks=ranks.world_size):
        for text in (*settle_ranks(recipe, ranks), *preflight(recipe, run_dir, ranks, job=start.job)):
            reporter.report("notice", text=text)
        training = _assemble(start)
    start.stop.note_only()
    with watching(run_dir, ranks.rank, recipe.faults.hang_s, num_ranks=ranks.world_size):
        try:
            with _memory_watched(start, training):
                _train(start, training)
                results = finish(start, training)
        except StopAsked:
            _stop(start, training)
            return False
    _report_time_use(start)
    reporter.report("done", **results)
    return True


def _report_time_use(start: Start) -> None:
    """Reports what the time of all starts so far went to, for those who do not read metrics.jsonl."""
    if start.ranks.is_zero:
        use = time_use(read_history(start.run_dir).events)
        start.reporter.report("time_use", goodput=use.goodput, **use.seconds)


def _assemble(start: Start) -> Training:
    """Collective: loads the model, resumes, and puts everything together; reports the start."""
    recipe, run_dir, prepared, ranks = start.recipe, start.run_dir, start.prepared, start.ranks
    if any(recipe.regularize.holding()):
        base = identify_together(recipe, ranks)
        run_on_zero(ranks, lambda: refuse_another_anchor(run_dir, base))
    loaded = load(recipe, run_dir, prepared, ranks=ranks, reporter=start.reporter, lease=start.lease)
    steps = training_steps_of(prepared, recipe, loaded.batch_maker)
    if not start.found.step:
        for text in (
            *settings_without_effect(recipe, prepared.facts, num_steps=steps.num_steps),
            *start.retention.notices,
        ):
            start.reporter.report("notice", text=text)
        if recipe.data.fraction != 1:
            start.reporter.report("notice", text=part_note(recipe, steps.num_rows))
    run_on_zero(ranks, lambda: refuse_other_labels(run_dir, prepared.facts))
    keep_base_once(recipe, run_dir, ranks)
    if ranks.is_zero:
        keep_model_files(loaded.model, loaded.tokenizer, run_dir / MODEL)
        write_atomically(run_dir / FACTS, json.dumps(prepared.facts, ensure_ascii=False, indent=1))
    bases = base_answers(recipe, prepared, loaded, ranks=ranks, reporter=start.reporter)  # before it learns anything
    resumed = _resume(start, loaded)
    training = _compose(start, loaded, resumed, steps, bases)
    if devices := ranks.to_zero((host_name(), device_name(ranks.device))):
        start.reporter.report("environment", **environment_of(devices))
    start.reporter.report(
        "start",
        step=resumed.state.step,
        num_steps=steps.num_steps,
        num_rows=steps.num_rows,
        data={name: {key: split[key] for key in ("rows", "tokens")} for name, split in prepared.meta["splits"].items()},
        num_parameters=loaded.engine.num_parameters,
        num_trained=loaded.engine.num_trained,
        world_size=ranks.world_size,
        device=ranks.device.type,
        zero_stage=loaded.engine.zero_stage,
        precision=recipe.engine.precision,
        packed=loaded.batch_maker.packing is not None,
        attention=loaded.model.config._attn_implementation,
        lengths=_lengths(prepared) if ranks.is_zero else {},
    )
    return training


def _lengths(prepared: Prepared) -> dict[str, Any]:
    """How long the examples of each split are."""
    splits = {name: prepared.split(name) for name in prepared.meta["splits"]}
    return {name: length_histogram(split.lengths) for name, split in splits.items() if split is not None}


def _resume(start: Start, loaded: Loaded) -> Resumed:
    """Collective: gives the engine the checkpoint that was found, if there is one. Raises CheckpointError."""
    recipe, ranks, engine, found = start.recipe, start.ranks, loaded.engine, start.found
    metric = recipe.checkpoint.best_metric or loaded.task.main_metric
    base = identify_together(recipe, ranks) if recipe.model.lora is not None else None
    if base is not None and (quantized := quantized_as(loaded.model)) is not None:
        base = {**base, "quantized": quantized}
    beat()
    policy = CheckpointPolicy(
        keep_last=max(recipe.checkpoint.keep_last, recipe.checkpoint.average_last or 0),
        keep_best=recipe.checkpoint.keep_best,
        asynchronous=recipe.checkpoint.asynchronous,
        metric=metric,
        lower_is_better=metric in loaded.task.lower_is_better,
        recipe_hash=learning_hash(recipe),
        layout={
            "world_size": ranks.world_size,
            "zero_stage": engine.zero_stage,
            "precision": recipe.engine.precision,
        },
        base=base,
    )
    checkpoints = Checkpoints(
        start.run_dir / CHECKPOINTS,
        policy,
        ranks=ranks,
        reporter=start.reporter,
        newest=found.step,
        damaged=found.damaged,
        refuse_if_lost=start.lease.check_here,
    )
    if found.checkpoint is None:
        return Resumed(checkpoints, policy, TrainState())
    refuse_another_base(found.checkpoint.manifest.base, base, found.checkpoint.path)
    restore(engine, found.checkpoint)
    resumed = found.checkpoint
    return Resumed(checkpoints, policy, run_on_zero(ranks, lambda: state_of(resumed, checkpoints.complete(), policy)))


def _compose(
    start: Start, loaded: Loaded, resumed: Resumed, steps: TrainingSteps, bases: Mapping[str, BaseAnswers]
) -> Training:
    """Collective: puts together what happens between steps."""
    compute_rate = measure_compute_rate(loaded.model, start.recipe.engine.precision, start.ranks)
    meter = Meter(steps.num_steps, compute_rate)
    phases = Phases(start.reporter, meter)
    stop_checks = StopChecks(start.stop, start.lease, start.ranks)
    evaluator = Evaluator(
        engine=loaded.engine,
        task=loaded.task,
        tokenizer=loaded.tokenizer,
        batch_maker=loaded.batch_maker,
        stop_checks=stop_checks,
        phases=phases,
        reporter=start.reporter,
        ranks=start.ranks,
        bases=bases,
    )
    retention = retention_evaluation(start.retention, start.recipe, loaded, evaluator)
    dev = replace(_dev_evaluation(start, resumed, steps, evaluator), retention=retention)
    # Called in this order after each step; each hands its state on to the next. Something new is one line here.
    callbacks: list[Callback] = [
        _guard(start, loaded, resumed, steps),
        *_running_average(start, loaded),
        Publisher(resumed.checkpoints, meter),
        _step_report(start, steps, meter),
        dev,
        *_early_stop(start, dev),
        *retention_limits(start.recipe.retention, start.reporter),
        _saver(start, loaded, resumed, dev, phases),
        *_profiler(start),
        *_compile_report(start, loaded),
    ]
    milestones = Milestones(callbacks, resumed.state, num_steps=steps.num_steps)
    return Training(loaded, resumed, steps, evaluator, stop_checks, phases, milestones, retention)


def _guard(start: Start, loaded: Loaded, resumed: Resumed, steps: TrainingSteps) -> Guard:
    return Guard(
        config=start.recipe.faults,
        precision=start.recipe.engine.precision,
        policy=resumed.policy,
        engine=loaded.engine,
        task=loaded.task,
        checkpoints=resumed.checkpoints,
        bad_rows=BadRowSearch(start.run_dir, start.ranks, steps.alone),
        reporter=start.reporter,
        ranks=start.ranks,
    )


def _running_average(start: Start, loaded: Loaded) -> list[Callback]:
    decay = start.recipe.train.ema_decay
    return [] if decay is None else [RunningAverage(engine=loaded.engine, decay=decay)]


def _step_report(start: Start, steps: TrainingSteps, meter: Meter) -> StepReport:
    return StepReport(
        every_steps=start.recipe.report.every_steps,
        num_steps=steps.num_steps,
        steps_per_epoch=steps.steps_per_epoch,
        meter=meter,
        pace=Pace(start.ranks.to_zero(RankLocation(host_name(), gpu_number(start.ranks.device)))),
        sensors=GpuSensors(start.ranks.device),
        fragmentation=Fragmentation(share_of_memory(start.ranks.device, 1)),
        reporter=start.reporter,
        ranks=start.ranks,
    )


def _dev_evaluation(start: Start, resumed: Resumed, steps: TrainingSteps, evaluator: Evaluator) -> DevEvaluation:
    return DevEvaluation(
        evaluator=evaluator,
        dev=start.prepared.split("dev"),
        every_steps=start.recipe.train.eval_every_steps or steps.steps_per_epoch,
        num_steps=steps.num_steps,
        at_start=start.recipe.train.eval_at_start,
        is_evaluated=start.found.is_evaluated,
        metric=resumed.policy.metric,
        lower_is_better=resumed.policy.lower_is_better,
    )


def _early_stop(start: Start, dev: DevEvaluation) -> list[Callback]:
    train = start.recipe.train
    if train.patience is None:
        return []
    return [EarlyStop(dev=dev, patience=train.patience, min_delta=train.min_delta, reporter=start.reporter)]


def _profiler(start: Start) -> list[Callback]:
    if (steps := start.recipe.report.profile_steps) is None:
        return []
    first, last = steps
    return [Profiler(first=first, last=last, run_dir=start.run_dir, reporter=start.reporter, ranks=start.ranks)]


def _compile_report(start: Start, loaded: Loaded) -> list[Callback]:
    if (compilations := loaded.compilations) is None:
        return []
    every_steps = start.recipe.report.every_steps
    report = CompileReport(
        compilations=compilations, every_steps=every_steps, reporter=start.reporter, ranks=start.ranks
    )
    return [report]


def _saver(start: Start, loaded: Loaded, resumed: Resumed, dev: DevEvaluation, phases: Phases) -> Saver:
    return Saver(
        config=start.recipe.checkpoint,
        checkpoints=resumed.checkpoints,
        engine=loaded.engine,
        dev=dev,
        phases=phases,
        lease=start.lease,
        ranks=start.ranks,
    )


@contextmanager
def _memory_watched(start: Start, training: Training) -> Iterator[None]:
    """Explains a lack of memory, and leaves the next start a smaller budget where it may."""
    task, budget, checks = training.loaded.task, training.loaded.budget, training.stop_checks
    with (
        halved_when_short(budget, start.run_dir, start.lease),
        memory_said(start.recipe, task, start.ranks, lambda: checks.shape, micro_batch_tokens=budget.tokens),
    ):
        yield


def _train(start: Start, training: Training) -> None:
    """Collective: trains all steps that are left, however often a spike rolls the training back."""
    loaded, steps, milestones = training.loaded, training.steps, training.milestones
    schedule = make_schedule(start.recipe.optim, steps.num_steps)
    milestones.begin()
    while not milestones.is_over:
        state = milestones.state
        with closing(prefetch(steps.begin(state.step, state.left_out))) as ahead, suppress(RolledBack):
            fit(
                loaded.engine,
                loaded.objective,
                (replace(entry.item, waited_s=entry.waited_s) for entry in ahead),
                state,
                schedule=schedule,
                ranks=start.ranks,
                stop_checks=training.stop_checks,
                milestones=milestones,
            )


def _stop(start: Start, training: Training) -> None:
    """Collective: saves a checkpoint of the last step done, and reports who asked to stop."""
    training.milestones.stop()
    if start.ranks.is_zero:
        (start.run_dir / STOP).unlink(missing_ok=True)
    reasons = filter(None, start.ranks.to_zero(start.stop.reason))
    step = training.milestones.state.step
    _report_time_use(start)
    start.reporter.report("stopped", step=step, reason=", ".join(dict.fromkeys(reasons)))
