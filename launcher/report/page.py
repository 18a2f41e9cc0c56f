"""A run directory -> one HTML page: what was trained, curves, evaluations; a single file without links."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from shardtune.counted import counted
from shardtune.ds_config.resolve import sharding_name
from shardtune.errors import ConfigError
from shardtune.launcher.report.templates import render_template
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.redaction import redactor
from shardtune.run_dir.files import CONFIG, FACTS, REPORT, RESULTS, read_events, write_atomically
from shardtune.run_dir.view.curves import as_float, charts, metric_names
from shardtune.run_dir.view.plan_file import read_plan
from shardtune.run_dir.view.predicted import HEAD, compare
from shardtune.run_dir.view.results import render_time
from shardtune.run_dir.view.step_line import slowest
from shardtune.run_dir.view.time_use import time_use
from shardtune.run_dir.view.waterfall import render_waterfall

MOST_SOURCES = 10
"""Sources of a split that are named."""
MOST_LABELS = 30
"""A confusion matrix with more labels than this is not shown."""


@dataclass(frozen=True)
class Table:
    """A table of the page, under a heading of its own."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    has_row_heads: bool = False
    """Whether the first cell of each row is its heading."""
    holds_texts: bool = False
    """Whether the cells hold texts of several lines, not numbers."""


def write_report(run_dir: Path) -> Path:
    """Writes RUN_DIR/report.html from what the directory holds so far; returns its path."""
    path = run_dir / REPORT
    facts, results = _json(run_dir / FACTS), _json(run_dir / RESULTS)
    hidden = redactor()
    page = render_page(
        run_dir.name,
        [hidden.value(event) for event in read_events(run_dir)],
        hidden.text(_text(run_dir / CONFIG)),
        facts or {},
        results,
        read_plan(run_dir),
    )
    write_atomically(path, page)
    return path


def render_page(
    name: str,
    events: Sequence[Mapping[str, Any]],
    config: str,
    facts: Mapping[str, Any],
    results: Mapping[str, Any] | None,
    plan: Mapping[str, Any] | None = None,
) -> str:
    """The page of one run, from its name, events, resolved config, task facts, results if it is finished, and what was
    predicted of it."""
    steps = [event for event in events if event["event"] == "step"]
    evaluations = [event for event in events if event["event"] == "eval"]
    start = next((event for event in reversed(events) if event["event"] == "start"), None)
    recipe = _recipe(config)
    tables = [
        _data(start, recipe),
        _stragglers(steps),
        _predicted(plan, events),
        _evaluations(evaluations),
        _confusion(evaluations, facts.get("label_names")),
        *_answers(evaluations),
    ]
    return render_template(
        "run.html.j2",
        name=name,
        summary=_summary(start, steps, results),
        when=_when(events),
        charts=charts(events),
        waterfall=render_waterfall(time_use(events)) if steps else "",
        alerts=[event for event in events if event["event"] == "alert"],
        tables=[table for table in tables if table is not None],
        config=config,
    )


def _summary(
    start: Mapping[str, Any] | None, steps: Sequence[Mapping[str, Any]], results: Mapping[str, Any] | None
) -> str:
    if start is None or not steps:
        return "No training step has been done yet."
    ended = f"finished; best step {results['best_step']}" if results else "not finished"
    trained = start.get("num_trained", start["num_parameters"])
    parameters = f"{start['num_parameters']:,} parameters"
    if trained < start["num_parameters"]:
        parameters = f"{trained:,} of {parameters} trained"
    peak = max(step["memory_bytes"] for step in steps) / 1e9
    return (
        f"step {steps[-1]['step']:,} of {start['num_steps']:,} ({ended}) · {counted(start['num_rows'], 'row')} · "
        f"{parameters} · {counted(start['world_size'], 'rank')} on {start['device']} · "
        f"{sharding_name(start['zero_stage'])} · {start['precision']} · "
        f"peak memory of a rank: {peak:.2f} GB" + _batches(steps)
    )


def _when(events: Sequence[Mapping[str, Any]]) -> str:
    """When the run began and did its last event, and how long its starts took; empty before the first start."""
    times = [event["time"] for event in events if event["event"] == "start"] + [event["time"] for event in events[-1:]]
    if len(times) < 2:
        return ""
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) for moment in (times[0], times[-1]))
    return f"{first} to {last}; training took {render_time(events, None, times[-1])}"


def _recipe(config: str) -> Recipe | None:
    try:
        return parse_recipe(config, name=CONFIG)
    except ConfigError:  # of another version
        return None


def _data(start: Mapping[str, Any] | None, recipe: Recipe | None) -> Table | None:
    """The sources of each split, with the rows and the tokens that were made of them."""
    if recipe is None:
        return None
    counts = (start or {}).get("data", {})
    rows = [
        (
            split,
            _sources(recipe, split),
            *(f"{counts[split][key]:,}" if split in counts else "" for key in ("rows", "tokens")),
        )
        for split in ("train", "dev", "test")
        if getattr(recipe.data, split) is not None
    ]
    return Table("Data", ("split", "source", "rows", "tokens"), rows, holds_texts=True)


def _sources(recipe: Recipe, split: str) -> str:
    if (share := recipe.data.share(split)) is not None:
        return f"{share.fraction:.3g} of the training rows"
    paths = [source.path for source in recipe.data.sources(split)]
    more = [f"and {len(paths) - MOST_SOURCES} more"] if len(paths) > MOST_SOURCES else []
    return "\n".join([*paths[:MOST_SOURCES], *more])


def _batches(steps: Sequence[Mapping[str, Any]]) -> str:
    """Padding and data wait of the steps; empty for runs of versions that did not measure them."""
    measured = [step for step in steps if "data_wait_s" in step]
    if not measured:
        return ""
    real, waited_s = (fmean(step[key] for step in measured) for key in ("padding_efficiency", "data_wait_s"))
    computed = [step["mfu"] for step in measured if "mfu" in step]
    of_peak = f" · {fmean(computed):.1%} MFU" if computed else ""
    return f"{of_peak} · {real:.1%} of the tokens are not padding · {1000 * waited_s:.2f} ms data wait per step"


def _stragglers(steps: Sequence[Mapping[str, Any]], num_named: int = 3) -> Table | None:
    """The ranks that the others waited for most; None for a run on a single rank."""
    measured = [step for step in steps if "lost_share" in step]
    lost: dict[str, float] = {}
    for step in measured:
        lost[slowest(step)] = lost.get(slowest(step), 0.0) + step["lost_share"] / len(measured)
    most = sorted(lost.items(), key=lambda item: -item[1])[:num_named]
    rows = [(name, f"{share:.1%}") for name, share in most]
    return Table("Time lost waiting for a rank", ("slowest rank", "share of all ranks' time"), rows) if rows else None


def _predicted(plan: Mapping[str, Any] | None, events: Sequence[Mapping[str, Any]]) -> Table | None:
    """What the planner predicted, beside the real numbers; None without a prediction."""
    rows = [each.cells() for each in compare(plan, events)]
    return Table("Predicted and real", HEAD, rows, has_row_heads=True) if rows else None


def _evaluations(evaluations: Sequence[Mapping[str, Any]]) -> Table | None:
    keys = ["loss", *metric_names(evaluations)]
    rows = [
        (event["split"], f"{event['step']:,}", *(f"{as_float(event.get(key)):.4f}" for key in keys))
        for event in evaluations
    ]
    return Table("Evaluations", ("split", "step", *keys), rows) if rows else None


def _confusion(evaluations: Sequence[Mapping[str, Any]], label_names: Sequence[str] | None) -> Table | None:
    last = next((event for event in reversed(evaluations) if event.get("confusion")), None)
    if last is None or len(last["confusion"]) > MOST_LABELS:
        return None
    names = label_names or list(map(str, range(len(last["confusion"]))))
    rows = [(name, *(f"{cell:,}" for cell in row)) for name, row in zip(names, last["confusion"], strict=True)]
    title = f"Confusion matrix on {last['split']}: rows are true labels, columns predicted labels"
    return Table(title, ("", *names), rows, has_row_heads=True)


def _answers(evaluations: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The answers of the newest evaluation of each split, beside those of the first one."""
    tables = []
    for split in dict.fromkeys(event["split"] for event in evaluations):
        with_answers = [event for event in evaluations if event["split"] == split and event.get("answers")]
        if not with_answers:
            continue
        newest, first = with_answers[-1], with_answers[0]
        earlier = first["answers"] if first is not newest and len(first["answers"]) == len(newest["answers"]) else None
        head = ["prompt", *([f"answer at step {first['step']:,}"] if earlier else []), "answer", "reference"]
        rows = [
            (shown["prompt"], *([earlier[number]["answer"]] if earlier else []), shown["answer"], shown["reference"])
            for number, shown in enumerate(newest["answers"])
        ]
        tables.append(Table(f"Answers on {split}, step {newest['step']:,}", head, rows, holds_texts=True))
    return tables


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _json(path: Path) -> dict[str, Any] | None:
    value: dict[str, Any] | None = json.loads(text) if (text := _text(path)) else None
    return value
