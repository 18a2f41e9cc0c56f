"""What a finished run shows: a table of its metrics, how long it took, and where everything is."""

import io
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shardtune.metrics.numbers import change_text, metric_text
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import (
    METRICS,
    REPORT,
    RESULTS,
    WANDB_BEHIND,
    already_finished,
    wandb_sync_command,
)
from shardtune.run_dir.quality.retention import retention_sets
from shardtune.run_dir.view.event_lines import read_milestones
from shardtune.shell_line import shell_line

WIDTH = 80
SPLITS = {"dev": "dev", "test": "test", "dev_at_start": "dev before training", "evaluated": "these rows"}
"""Keys of results.json that hold metrics -> the heads of their columns; `evaluated` are those of other rows."""


def finished_message(recipe: Recipe, run_dir: Path, began: float | None = None) -> str:
    """The results of a finished run and the paths of what it made.

    `began` is when the start that finished it began, in seconds since the epoch; None if the run was finished before.
    """
    results = json.loads((run_dir / RESULTS).read_text(encoding="utf-8"))
    rows = {
        "best step": _best_step(results),
        "time": render_time(read_milestones(run_dir), began, time.time()),
        "best model": run_dir / "export" / "best",
        "last model": run_dir / "export" / "last",
        "results": run_dir / RESULTS,
        "curves": run_dir / REPORT if (run_dir / REPORT).exists() else shell_line("report", run_dir),
        "metrics": run_dir / METRICS,
        "logs": run_dir / "logs",
        "W&B": _wandb(run_dir),
        "try it": f'{shell_line("predict", run_dir)} --text "…"',
        "in Python": _in_python(run_dir / "export" / "best"),
        "talk to it": shell_line("chat", run_dir) if recipe.task.kind == "chat" else "",
    }
    tables = [table for table in (render_metrics(results), render_retention(results)) if table]
    lines = [f"{name:12}{value}" for name, value in rows.items() if value]
    first = already_finished(run_dir) if began is None else f"finished: {run_dir}"
    return "\n\n".join([first, *tables, "\n".join(lines)]) if tables else "\n".join([first, *lines])


def _in_python(folder: Path) -> str:
    """The line of the model card that loads the model, with the folder's path, which the card itself does not name."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    loads = next((line.partition("  #")[0] for line in lines if line.startswith("model = pipeline(")), "")
    line = loads.replace('model="."', f"model={json.dumps(str(folder), ensure_ascii=False)}")
    return f"from transformers import pipeline; {line}" if line else ""


def _wandb(run_dir: Path) -> str:
    """Where the files of W&B are, and how to upload what it has not got; an empty string if there are none."""
    folder = run_dir / "wandb"
    if (run_dir / WANDB_BEHIND).exists():
        return f"{folder}; the server did not get all of it; to upload the rest: {wandb_sync_command(run_dir)}"
    if next(folder.glob("offline-run-*"), None) is not None:
        return f"{folder}; to upload: {wandb_sync_command(run_dir)}"
    return str(folder) if next(folder.glob("run-*"), None) is not None else ""


def render_metrics(results: Mapping[str, Any]) -> str:
    """A row for each metric that is a single number, with a column for each split; an empty string without any.

    Behind a metric of the test split stands its 95 % interval. Confusion matrices and the numbers of each class stay in
    results.json.
    """
    splits = {key: head for key, head in SPLITS.items() if isinstance(results.get(key), dict)}
    numbers = {key: _floats(results[key]) for key in splits}
    chosen = (results.get("chosen_by") or {}).get("metric")
    known = dict.fromkeys(name for metrics in numbers.values() for name in metrics)
    names = sorted(known, key=lambda name: name != chosen)  # the metric that chose the step comes first
    if not names:
        return ""
    rows = []
    for name in names:
        intervals = {key: (results[key].get("intervals") or {}).get(name) for key in splits}
        rows.append((name, *(f"{metric_text(numbers[key].get(name))}{_interval(intervals[key])}" for key in splits)))
    return _in_columns(("", *splits.values()), rows)


def render_retention(results: Mapping[str, Any]) -> str:
    """A row for each retention set; an empty string without any."""
    rows = [
        (
            f"{each.name}: {each.metric}",
            *(metric_text(value) for value in (each.before, each.best)),
            change_text(each.change),
        )
        for each in retention_sets([], results)
    ]
    return _in_columns(("retention", "before", "best model", "change"), rows) if rows else ""


def _in_columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The rows as text under their heads; all columns but the first are aligned at the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column(head[0])
    for name in head[1:]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def render_time(events: Sequence[Mapping[str, Any]], began: float | None, now: float) -> str:
    """The time since `began`, and that of all starts of the run together if there were others before.

    Of those, metrics.jsonl has neither the loading nor the steps that were repeated, hence "about".
    """
    spans = start_spans(events)
    if began is None:
        return f"about {in_words(sum(last - first for first, last in spans))} in {_starts(len(spans))}" if spans else ""
    before = [last - first for first, last in spans if first < began]
    text = in_words(now - began)
    if len(spans) - len(before) > 1:
        text += f" in {_starts(len(spans) - len(before))}"
    if before:
        text += f"; about {in_words(now - began + sum(before))} with {_starts(len(before))} before"
    return text


def start_spans(events: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(begin, end) of each start of the training: its `start` event, and the last event of one of its steps."""
    begins = [number for number, event in enumerate(events) if event["event"] == "start"]
    spans = []
    for begin, following in itertools.pairwise([*begins, len(events)]):
        # Alerts have a step too, but may come from the next start, before its `start` event.
        times = [event["time"] for event in events[begin:following] if "step" in event and event["event"] != "alert"]
        spans.append((times[0], times[-1]))
    return spans


def in_words(seconds: float) -> str:
    """`58 s`, `10 min 57 s` or `1 h 40 min`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _starts(number: int) -> str:
    return f"{number} start{'' if number == 1 else 's'}"


def _best_step(results: Mapping[str, Any]) -> str:
    if "best_step" not in results:
        return ""
    steps = f"{results['best_step']:,} of {results['step']:,}"
    if (mean := results.get("average_last") or {}).get("is_best"):
        steps = f"the mean of {', '.join(f'{step:,}' for step in mean['steps'])}"
    if chosen := results.get("chosen_by"):
        return f"{steps}: {'lowest' if chosen['lower_is_better'] else 'highest'} {chosen['metric']} on dev"
    why = "no evaluation on dev gave a number" if "dev" in results else "there is no dev split to choose by"
    return f"{steps}: the last one, because {why}"


def _floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _interval(interval: Sequence[float] | None) -> str:
    """` (low to high)`; an empty string for a metric without an interval."""
    return "" if interval is None else f" ({metric_text(interval[0])} to {metric_text(interval[1])})"
