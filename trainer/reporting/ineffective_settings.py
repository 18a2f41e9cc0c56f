"""Settings of a recipe that will have no effect, or not the one they promise: reported before training, a line each."""

from collections.abc import Iterator, Mapping
from typing import Any

from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.optim import OptimConfig
from shardtune.trainer.engine.schedule import make_schedule, num_warmup_steps

NO_DECAY = 2.0**-25
"""Below this product of learning rate and weight decay no fp32 weight changes: the decay is less than half of the last
bit of even the largest mantissa."""
SLIGHT_DECAY_PERCENT = 0.1
"""A weight decay that was asked for and shrinks the weights by less than this over a whole training is reported."""
_SAMPLES = 1000


def settings_without_effect(recipe: Recipe, facts: Mapping[str, Any], *, num_steps: int) -> list[str]:
    """A line for each setting that does less than it says, with the numbers; `facts` are those of the prepared data."""
    return [
        *_learning_rate(recipe.optim, num_steps),
        *_weight_decay(recipe.optim, num_steps),
        *_label_smoothing(recipe, facts),
        *_class_weights(recipe, facts),
        *_beyond_the_end(recipe, num_steps),
        *_without_dev(recipe),
        *_idle(recipe),
    ]


def _learning_rate(optim: OptimConfig, num_steps: int) -> Iterator[str]:
    warmup = num_warmup_steps(optim, num_steps)
    if warmup >= num_steps:
        key = "optim.warmup_fraction" if optim.warmup_steps is None else "optim.warmup_steps"
        last = make_schedule(optim, num_steps)(num_steps - 1)
        yield (
            f"{key}: the warm-up takes {warmup:,} steps, but training has {num_steps:,}: the learning rate ends at "
            f"{last:.3g} and never reaches optim.lr={optim.lr:g}; lower {key}, or train longer"
        )
        return
    decay, after = optim.decay_fraction * num_steps, num_steps - warmup
    if optim.schedule == "wsd" and decay > after:
        yield (
            f"optim.decay_fraction={optim.decay_fraction:g}: warm-up ({warmup:,} steps) and decay ({decay:,.0f}) are "
            f"longer than the {num_steps:,} steps of training: no step is stable, and the decay takes {after:,} steps"
        )


def _weight_decay(optim: OptimConfig, num_steps: int) -> Iterator[str]:
    if not optim.weight_decay:
        return
    schedule, stride = make_schedule(optim, num_steps), max(1, num_steps // _SAMPLES)
    rates = [schedule(step) for step in range(0, num_steps, stride)]
    peak, decay = max(rates), optim.weight_decay
    percent = 100 * decay * sum(rates) / len(rates) * num_steps
    if peak * decay < NO_DECAY:
        yield (
            f"optim.weight_decay={decay:g} changes no weight: at a learning rate of at most {peak:.3g} a step takes "
            f"{peak * decay:.1e} of a weight, which fp32 rounds off"
        )
    elif _is_changed(optim, "weight_decay") and percent < SLIGHT_DECAY_PERCENT:
        yield (
            f"optim.weight_decay={decay:g} has hardly an effect: at these learning rates it shrinks the weights by "
            f"{percent:.2g} % over all {num_steps:,} steps"
        )


def _label_smoothing(recipe: Recipe, facts: Mapping[str, Any]) -> Iterator[str]:
    # With p the true probability of a label, smoothing teaches (1 - e) p + e / 2: above one half exactly if p is.
    smoothing, names = getattr(recipe.task, "label_smoothing", 0.0), facts.get("label_names") or ()
    if smoothing and len(names) == 2:
        yield (
            f"task.label_smoothing={smoothing:g} with 2 labels does not change which of them is the likelier: it only "
            f"keeps the probabilities between {smoothing / 2:g} and {1 - smoothing / 2:g}"
        )


def _class_weights(recipe: Recipe, facts: Mapping[str, Any]) -> Iterator[str]:
    if getattr(recipe.task, "class_weights", None) != "balanced":
        return
    counts = set(facts["label_counts"]["train"].values())
    if len(counts) == 1:
        yield f"task.class_weights: balanced has no effect: every label has {counts.pop():,} training rows"


def _beyond_the_end(recipe: Recipe, num_steps: int) -> Iterator[str]:
    has_dev = recipe.data.dev is not None
    saved = "only the last step and each new best on dev are saved" if has_dev else "only the last step is saved"
    for key, every, result in (
        (
            "train.eval_every_steps",
            recipe.train.eval_every_steps if has_dev else None,
            "dev is evaluated only at the end",
        ),
        ("checkpoint.every_steps", recipe.checkpoint.every_steps, saved),
        ("report.every_steps", recipe.report.every_steps, "the loss is reported only once, at the end"),
    ):
        if every is not None and every > num_steps:
            yield f"{key}={every:,} is more than the {num_steps:,} steps of this training: {result}"


def _without_dev(recipe: Recipe) -> Iterator[str]:
    if recipe.data.dev is not None:
        return
    every, checkpoint = recipe.train.eval_every_steps, recipe.checkpoint
    if every is not None:
        sets_checkpoints = checkpoint.every_steps is None and checkpoint.every_minutes is None
        effect = "only sets when checkpoints are saved" if sets_checkpoints else "has no effect"
        yield f"train.eval_every_steps={every:,} {effect}: there is no data.dev to evaluate on"
    for name in ("best_metric", "keep_best"):
        if _is_changed(checkpoint, name):
            yield f"checkpoint.{name} has no effect: there is no data.dev to choose the best model by"


def _idle(recipe: Recipe) -> Iterator[str]:
    """Settings that another setting puts out of use."""
    data, train, optim, faults = recipe.data, recipe.train, recipe.optim, recipe.faults
    for key, is_idle, why in (
        ("train.num_epochs", train.max_steps is not None, "train.max_steps sets the length of the training"),
        ("train.global_batch_size", train.global_batch_tokens is not None, "train.global_batch_tokens sets the batch"),
        ("optim.decay_fraction", optim.schedule != "wsd", f"only schedule wsd uses it, not {optim.schedule}"),
        ("optim.min_lr_ratio", optim.schedule == "constant", "schedule constant never lowers the learning rate"),
        ("data.shuffle_window", not data.streaming, "only data.streaming uses it"),
        ("data.length_window", data.streaming, "a stream is not sorted by length"),
        ("faults.max_rollbacks", faults.on_spike != "rollback", "only faults.on_spike: rollback uses it"),
    ):
        section, _, name = key.partition(".")
        if is_idle and _is_changed(getattr(recipe, section), name):
            yield f"{key}={getattr(getattr(recipe, section), name):g} has no effect: {why}"


def _is_changed(section: Any, name: str) -> bool:
    """Whether a value is not the default; a run directory's recipe lists the defaults too."""
    return bool(getattr(section, name) != type(section).model_fields[name].default)
