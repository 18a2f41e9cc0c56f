"""The summary in words: what was trained, how well, how long and at which cost."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shardtune.counted import counted
from shardtune.ds_config.resolve import sharding_name
from shardtune.launcher.report.intervals import interval_of
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.sections.numbers import in_list, in_millions, shown
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.view.curves import as_float
from shardtune.run_dir.view.results import in_words, render_time
from shardtune.run_dir.view.step_line import duration
from shardtune.run_dir.view.time_use import CAUSES

MAIN = ("accuracy", "f1", "f1_micro", "pearson", "bleu", "rouge_l", "perplexity", "loss")
"""Metrics by which a result is said in a sentence, the first that there is, where no metric chose the best step."""
MOST_CAUSES = 3


def summary(record: RunRecord) -> list[str]:
    """Paragraphs; each sentence is there only if its facts are."""
    if record.start is None or not record.last_step:
        return ["No training step has been done yet."]
    paragraphs = [_what(record, record.start), _result(record), _retained(record), _how_long(record, record.start)]
    return [paragraph for paragraph in paragraphs if paragraph]


def state(record: RunRecord) -> str:
    """`step 400 of 400 (finished; best step 300)`."""
    if record.start is None or not record.last_step:
        return "not started"
    results = record.results
    ended = "not finished"
    if results is not None:
        ended = f"finished; best step {results['best_step']:,}" if "best_step" in results else "finished"
    elif (reason := _stopped(record)) is not None:
        ended = f"not finished; stopped: {reason}"
    steps = record.start.get("num_steps")
    of = f" of {steps:,}" if isinstance(steps, int) else ""
    return f"step {record.last_step:,}{of} ({ended})"


def _stopped(record: RunRecord) -> str | None:
    """Why the run was stopped, if nothing came after it."""
    ends = [event for event in record.history.events if event["event"] in ("stopped", "step", "begin")]
    return str(ends[-1].get("reason", "")) if ends and ends[-1]["event"] == "stopped" else None


def _what(record: RunRecord, start: Mapping[str, Any]) -> str:
    recipe, sentences = record.recipe, []
    rows = counted(start["num_rows"], "row") if isinstance(start.get("num_rows"), int) else "the training rows"
    tokens = start.get("data", {}).get("train", {}).get("tokens")
    data = f"{rows} with {in_millions(tokens)} tokens" if tokens else rows
    if recipe is None:
        sentences.append(f"A model{_parameters(start)} was trained on {data}.")
    else:
        method = f"with LoRA (r = {recipe.model.lora.r})" if recipe.model.lora is not None else "in full"
        if recipe.model.freeze:
            method = f"in part (frozen: {', '.join(recipe.model.freeze)})"
        if recipe.model.from_scratch:
            method = "from scratch"
        sentences.append(f"{model_name(recipe)}{_parameters(start)} was trained {method} for {task_name(recipe)}.")
        sentences.append(f"It saw {data}: {_amount(record, recipe, start)}.")
    return " ".join(sentences)


def model_name(recipe: Recipe) -> str:
    """The model without the folders above it; a hub id as it is."""
    path = recipe.model.path
    return Path(path).name if Path(path).is_absolute() or path.count("/") > 1 else path


def task_name(recipe: Recipe) -> str:
    """`classification (single label)`."""
    kind = recipe.task.kind.replace("_", " ")
    detail = getattr(recipe.task, "problem", None) or getattr(recipe.task, "objective", None)
    return kind if detail in (None, "auto") else f"{kind} ({str(detail).replace('_', ' ')})"


def _parameters(start: Mapping[str, Any]) -> str:
    number = start.get("num_parameters")
    if not isinstance(number, int):
        return ""
    trained = start.get("num_trained", number)
    if trained < number:
        return f" ({in_millions(trained)} of {in_millions(number)} parameters trained, {trained / number:.2%})"
    return f" ({in_millions(number)} parameters)"


def _amount(record: RunRecord, recipe: Recipe, start: Mapping[str, Any]) -> str:
    """The steps that were done, and of how much each."""
    steps = start.get("num_steps")
    done = f"{record.last_step:,} of {steps:,} steps" if steps and record.last_step < steps else ""
    done = done or counted(record.last_step, "step")
    train = recipe.train
    size = f"{train.global_batch_tokens:,} tokens" if train.global_batch_tokens else f"{train.global_batch_size} rows"
    epochs = record.history.steps.get("epoch")
    if epochs is not None and len(epochs) and epochs[-1] == epochs[-1]:
        size += f", {epochs[-1]:.3g} epoch{'' if epochs[-1] == 1 else 's'}"
    return f"{done} of {size}"


def main_metric(record: RunRecord) -> str | None:
    """The metric that chose the best step, or the most common one of what was evaluated."""
    chosen = (record.results or {}).get("chosen_by")
    if isinstance(chosen, dict) and isinstance(metric := chosen.get("metric"), str):
        return metric
    known = {**record.scores("dev"), **record.scores("test")}
    return next((name for name in MAIN if isinstance(known.get(name), float)), None)


def result_of(record: RunRecord, split: str, metric: str) -> str:
    """`0.9120 (95% interval 0.8930 to 0.9280; Wilson, 912 of 1,000)`; empty without a number."""
    scores = record.scores(split)
    if not isinstance(scores.get(metric), int | float):
        return ""
    text = shown(scores[metric])
    if (interval := interval_of(metric, scores)) is not None:
        how = f"; {interval.how}" if interval.how else ""
        text += f" (95% interval {shown(interval.low)} to {shown(interval.high)}{how})"
    return text


def _result(record: RunRecord) -> str:
    """What came out, on test if there is one."""
    metric = main_metric(record)
    if metric is None:
        return ""
    found = [(split, text) for split in ("test", "dev") if (text := result_of(record, split, metric))]
    if not found:
        return ""
    sentences = [f"On {found[0][0]}, {metric} is {found[0][1]}" + "".join(f"; on {s}, {t}" for s, t in found[1:]) + "."]
    before = (record.results or {}).get("dev_at_start") or {}
    if isinstance(before.get(metric), float):
        sentences.append(f"Before training it was {shown(before[metric])} on dev.")
    results = record.results or {}
    if "chosen_by" in results and "best_step" in results and "step" in results:
        which = "lowest" if results["chosen_by"].get("lower_is_better") else "highest"
        last = " (the last one)" if results["best_step"] == results["step"] else ""
        model = f"that of step {results['best_step']:,}{last}"
        if (mean := results.get("average_last") or {}).get("is_best"):
            model = f"the mean of the checkpoints of steps {', '.join(f'{step:,}' for step in mean['steps'])}"
        sentences.append(f"The best model is {model}, by the {which} {metric}.")
    return " ".join(sentences)


def _retained(record: RunRecord) -> str:
    """What was lost of other skills, or won."""
    known = [each for each in record.retention if each.change is not None]
    if not known:
        return ""
    model = "the best model" if all(each.best is not None for each in known) else "the newest evaluation"
    texts = [f"{each.metric} on {each.name} went from {shown(each.before)} to {shown(each.now)}" for each in known]
    return f"Of other skills, by {model}: {in_list(texts)}."


def _how_long(record: RunRecord, start: Mapping[str, Any]) -> str:
    return " ".join([*_dates(record), *_machines(record, start), *_where_time_went(record)])


def _dates(record: RunRecord) -> Iterator[str]:
    times = [event["time"] for event in record.history.events if event["time"] > 0]
    took = render_time(record.history.events, None, times[-1]) if times else ""
    if not took:
        return
    (first, began), (last, ended) = (_date(moment) for moment in (times[0], times[-1]))
    yield (
        f"Training took {took}, {first} {began} to {ended}."
        if first == last
        else (f"Training took {took}, {first} {began} to {last} {ended}.")
    )


def _date(moment: float) -> tuple[str, str]:
    """Day and time of day."""
    try:
        local = time.localtime(moment)
    except (OverflowError, OSError, ValueError):  # a clock that is far off
        return "an unknown day", "an unknown time"
    return time.strftime("%Y-%m-%d", local), time.strftime("%H:%M", local)


def _machines(record: RunRecord, start: Mapping[str, Any]) -> Iterator[str]:
    """Where it ran, and the hours of its devices."""
    ranks, device = start.get("world_size"), device_name(record)
    if not isinstance(ranks, int):
        return
    sharded = [sharding_name(start["zero_stage"])] if "zero_stage" in start else []
    how = ", ".join([*sharded, *([str(start["precision"])] if "precision" in start else [])])
    text = f"It ran on {counted(ranks, 'rank')} ({device}{f'; {how}' if how else ''})"
    hours = device_hours(record, ranks)
    yield f"{text} and cost {hours:,.3g} {hours_name(start)}." if hours else f"{text}."


def device_name(record: RunRecord) -> str:
    """The GPU's name if it is known, or the kind of the device."""
    seen = newest_environment(record).get("devices")
    if isinstance(seen, dict) and seen:
        return " and ".join(str(name) for name in seen)
    planned = (record.plan or {}).get("device")
    kind = str((record.start or {}).get("device", "unknown device"))
    return str(planned) if planned and kind == "cuda" else kind


def newest_environment(record: RunRecord) -> Mapping[str, Any]:
    """The newest `environment` event; empty for versions that wrote none."""
    return next(reversed(record.history.of("environment")), {})


def device_hours(record: RunRecord, ranks: int) -> float:
    """The hours of all ranks' devices, from the launch on, without the time in the queue."""
    return ranks * (record.time_use.total_s - record.time_use.seconds["queueing"]) / 3600


def hours_name(start: Mapping[str, Any]) -> str:
    """What device_hours counts."""
    return "GPU-hours" if start.get("device") == "cuda" else "rank-hours of CPU"


def _where_time_went(record: RunRecord) -> Iterator[str]:
    use = record.time_use
    if use.goodput is None:
        return
    rest = sorted(((spent, cause) for cause, spent in use.seconds.items() if cause != "useful"), reverse=True)
    named = [
        f"{CAUSES[cause].partition(':')[0]} ({spent / use.total_s:.1%})"
        for spent, cause in rest[:MOST_CAUSES]
        if spent > 0.005 * use.total_s
    ]
    more = f"; the rest went mostly to {in_list(named)}" if named else ""
    yield f"{use.goodput:.1%} of {in_words(use.total_s)} was training on real tokens{more}."


def key_figures(record: RunRecord) -> list[tuple[str, str, str]]:
    """(name, value, a word more) of what is seen first."""
    if record.start is None or not record.last_step:
        return []
    figures = []
    metric = main_metric(record)
    for split in ("test", "dev"):
        if metric is not None and isinstance(value := record.scores(split).get(metric), int | float):
            interval = interval_of(metric, record.scores(split))
            about = f"{interval.low:.3f} to {interval.high:.3f} (95%)" if interval is not None else ""
            figures.append((f"{metric} on {split}", f"{as_float(value):.3f}", about))
    rates = record.history.of_steps("tokens_per_s")[1]
    if len(rates):
        figures.append(("tokens/s", f"{float(rates.mean()):,.0f}", "without padding"))
    if record.time_use.total_s:
        figures.append(("wall time", duration(record.time_use.total_s), "of all starts"))
        if isinstance(ranks := record.start.get("world_size"), int):
            figures.append((hours_name(record.start), f"{device_hours(record, ranks):,.3g}", counted(ranks, "rank")))
    if record.time_use.goodput is not None:
        figures.append(("goodput", f"{record.time_use.goodput:.1%}", "of the wall time"))
    memory = record.history.of_steps("memory_bytes")[1]
    if len(memory):
        figures.append(("peak memory", f"{float(memory.max()) / 1e9:.2f} GB", "of a rank"))
    return figures
