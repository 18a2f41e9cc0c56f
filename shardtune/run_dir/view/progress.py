"""Shows the progress of a run: a bar on a terminal, plain lines anywhere else. Uses events only; torch is not
imported."""

import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from shardtune.counted import counted
from shardtune.ds_config.resolve import sharding_name
from shardtune.run_dir.view.step_line import LostTime, StragglerWatch, step_numbers

PLAIN_EVERY_S = 20.0
BAR_WIDTH, MIN_BAR_WIDTH = 40, 8
PREPARING = {
    "lines": "indexing lines",
    "read": "reading rows",
    "look": "looking for duplicates",
    "near": "looking for near duplicates",
    "survey": "checking rows",
    "encode": "tokenizing",
}
"""The stages of a preparation (trainer/data/prepare/)."""


class PreparationProgress:
    """Reports the progress of data preparation from time to time."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._last_line_at = time.monotonic()

    def __call__(self, stage: str, num_done: int, num_units: int) -> None:
        name = PREPARING.get(stage.split("-")[0])
        if name is not None and time.monotonic() - self._last_line_at > PLAIN_EVERY_S:
            self._last_line_at = time.monotonic()
            print(f"{name}: {num_done:,} of {num_units:,} pieces", file=self._terminal, flush=True)


class Progress:
    """Shows the events of metrics.jsonl (trainer/reporting/reporter.py) as they arrive."""

    def __init__(self, terminal: TextIO) -> None:
        self._console = Console(file=terminal, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal
        self._num_steps: int | None = None
        self._step: Mapping[str, Any] | None = None
        self._lost: LostTime | None = None
        self._stragglers = StragglerWatch()
        self._last_line_at = 0.0
        self._bar_column = BarColumn()
        self._bars = Bars(
            TextColumn("{task.description}"),
            self._bar_column,
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            transient=True,
        )
        self._bar = self._bars.add_task("starting", total=None, numbers="")
        if self._live:
            self._bars.start()

    def show(self, event: Mapping[str, Any]) -> None:
        """Show one event; unknown kinds are ignored."""
        match event["event"]:
            case "start":
                self._num_steps = event["num_steps"]
                self._stragglers.begin(event["step"])
                self._bars.update(self._bar, total=self._num_steps, completed=event["step"])
                self._say(start_line(event))
            case "phase" if event["name"]:
                self._draw(event["name"])
                if not self._live and not self._num_steps:
                    self._say(event["name"])
            case "phase":
                self._draw("training")
            case "step":
                self._step, self._lost = event, self._stragglers.add(event)
                self._bars.update(self._bar, completed=event["step"])
                self._draw("training")
                if not self._live and time.monotonic() - self._last_line_at > PLAIN_EVERY_S:
                    self._last_line_at = time.monotonic()
                    self._say(f"step {event['step']}/{self._num_steps or '?'}  {step_numbers(event, self._lost)}")
            case "notice" | "eval" | "retention" | "alert":
                self._say(str(event_line(event)))

    def _draw(self, description: str) -> None:
        """Updates the bar, and the numbers that the line has room for."""
        digits, width = len(str(self._num_steps or "?")), self._console.width
        self._bar_column.bar_width = max(MIN_BAR_WIDTH, min(BAR_WIDTH, width // 6))
        room = width - len(description) - self._bar_column.bar_width - (2 * digits + 1) - 3
        numbers = step_numbers(self._step, self._lost, room) if self._step else ""
        self._bars.update(self._bar, description=description, numbers=numbers)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._say(text)

    def close(self) -> None:
        """Remove the bar."""
        if self._live:
            self._bars.stop()

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)


def start_line(event: Mapping[str, Any]) -> str:
    """What is about to be trained, in one line."""
    begin = f"resuming at step {event['step']:,} of" if event["step"] else "training for"
    engine = f"{sharding_name(event['zero_stage'])}, {event['precision']}{', packed' if event.get('packed') else ''}"
    trained = event.get("num_trained", event["num_parameters"])
    parameters = f"{event['num_parameters']:,} parameters"
    if trained < event["num_parameters"]:
        parameters += f", of which {trained:,} are trained ({trained / event['num_parameters']:.2%})"
    return (
        f"{begin} {counted(event['num_steps'], 'step')}: {counted(event['num_rows'], 'row')}, {parameters}, "
        f"{counted(event['world_size'], 'rank')} on {event['device']}, {engine}"
    )


def event_line(event: Mapping[str, Any]) -> str | None:
    """An event as a line of a log; None for a kind that has no line, such as the end of a phase."""
    match event["event"]:
        case "start":
            return start_line(event)
        case "phase":
            return event["name"] or None
        case "step":
            return f"step {event['step']}  {step_numbers(event)}"
        case "notice":
            return str(event["text"])
        case "eval" | "retention":
            return evaluation_line(event)
        case "alert":
            return f"WARNING: {event['title']}: {event['text']}"
        case "stopped":
            return f"stopped at step {event['step']}: {event['reason']}"
        case "done":
            return "finished"
    return None


def evaluation_line(event: Mapping[str, Any]) -> str:
    """The metrics of an evaluation in one line; tables and lists are only in the files."""
    hidden = ("event", "time", "split", "step")
    shown = [f"{key} {value:.4f}" for key, value in event.items() if isinstance(value, float) and key not in hidden]
    rows = f"retention of {event['set']}" if event["event"] == "retention" else event["split"]
    return f"step {event['step']}: {rows}  {'  '.join(shown)}"
