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

PLAIN_EVERY_S = 20.0
SHOWN_LOST_SHARE = 0.1
"""From this share on, the time that ranks lose waiting for the slowest one is shown."""
PREPARING = {
    "lines": "indexing lines",
    "read": "reading rows",
    "look": "looking for duplicates",
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
        self._last_line_at = 0.0
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
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
                self._bars.update(self._bar, total=self._num_steps, completed=event["step"])
                self._say(start_line(event))
            case "phase" if event["name"]:
                self._bars.update(self._bar, description=event["name"])
                if not self._live and not self._num_steps:
                    self._say(event["name"])
            case "phase":
                self._bars.update(self._bar, description="training")
            case "step":
                numbers = step_numbers(event)
                self._bars.update(self._bar, description="training", completed=event["step"], numbers=numbers)
                if not self._live and time.monotonic() - self._last_line_at > PLAIN_EVERY_S:
                    self._last_line_at = time.monotonic()
                    self._say(f"step {event['step']}/{self._num_steps}  {numbers}")
            case "notice":
                self._say(event["text"])
            case "eval":
                self._say(evaluation_line(event))
            case "alert":
                self._say(f"WARNING: {event['title']}: {event['text']}")

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


def step_numbers(event: Mapping[str, Any]) -> str:
    """The numbers beside the bar."""
    loss = "nan" if event["loss"] is None else f"{event['loss']:.4f}"
    line = f"loss {loss}  lr {event['lr']:.2e}  {event['tokens_per_s']:,.0f} tokens/s  {duration(event['eta_s'])} left"
    if event.get("lost_share", 0) < SHOWN_LOST_SHARE:
        return line
    return f"{line}  {event['lost_share']:.0%} lost waiting for {slowest(event)}"


def slowest(event: Mapping[str, Any]) -> str:
    """The rank that the others waited for in a `step` event, and where it runs."""
    gpu = "" if event["slowest_gpu"] is None else f", GPU {event['slowest_gpu']}"
    return f"rank {event['slowest_rank']} ({event['slowest_host']}{gpu})"


def evaluation_line(event: Mapping[str, Any]) -> str:
    """The metrics of an evaluation in one line; tables and lists are only in the files."""
    hidden = ("event", "time", "split", "step")
    shown = [f"{key} {value:.4f}" for key, value in event.items() if isinstance(value, float) and key not in hidden]
    return f"step {event['step']}: {event['split']}  {'  '.join(shown)}"


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` under an hour."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
