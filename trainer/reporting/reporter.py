"""Where events go: metrics.jsonl (authoritative), Weights & Biases (best effort), terminal.

Decided once: ranks above 0 get a reporter that does nothing.
"""

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, TextIO

from shardtune.json_lines import json_line
from shardtune.recipe.schema import Recipe
from shardtune.redaction import redactor
from shardtune.run_dir.files import METRICS, events_in, published
from shardtune.run_dir.view.progress import Progress
from shardtune.run_dir.view.time_use import lost_event
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.reporting.followers import Followers
from shardtune.trainer.reporting.wandb_run.choice import choose_wandb
from shardtune.trainer.reporting.wandb_run.live import WandbReporter

log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Takes events: `begin` (when the process began), `environment` (versions, hosts, git, …), `start` (num_steps, …),
    `phase` (name), `notice` (text), `step`, `eval` (split, …), `retention` (set, …), `checkpoint`, `alert` (title,
    text: what the user should know at once), `compile` (compilations, …), `time_use` (goodput, seconds by cause),
    `stopped` (reason), `done`."""

    def report(self, event: str, /, **values: Any) -> None: ...

    def go_back(self, step: int) -> None:
        """Drops the events of later steps, because these will be done again."""
        ...

    def close(self) -> None: ...


def open_reporter(
    recipe: Recipe, run_dir: Path, ranks: Ranks, *, resumed_step: int, terminal: TextIO | None
) -> Reporter:
    """The reporter of this rank. Drops the lines of steps after `resumed_step`, because these will be done again."""
    if not ranks.is_zero:
        return NullReporter()
    reporters: list[Reporter] = [JsonlReporter(run_dir / METRICS, resumed_step)]
    if terminal is not None:
        reporters.append(TerminalReporter(terminal))
    choice = choose_wandb(recipe, run_dir)
    if choice.mode != "disabled":
        reporters.append(WandbReporter(recipe, run_dir, choice))
    if recipe.report.also:
        followers = Followers(recipe, run_dir, Reporters(list(reporters)).report)
        reporters.insert(0, followers)  # closed first, because it still reports what it could not send
    every = Reporters(reporters)
    if (line := choice.line(run_dir)) is not None:
        every.report("notice", text=line)
    return every


class NullReporter:
    """Ignores every event."""

    def report(self, event: str, /, **values: Any) -> None:
        pass

    def go_back(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


class Reporters:
    """Passes every event to each reporter, without the secrets that a text may quote."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = reporters
        self._hidden = redactor()

    def report(self, event: str, /, **values: Any) -> None:
        values = {key: self._hidden.value(value) for key, value in values.items()}
        for reporter in self._reporters:
            reporter.report(event, **values)

    def go_back(self, step: int) -> None:
        for reporter in self._reporters:
            reporter.go_back(step)

    def close(self) -> None:
        for reporter in self._reporters:
            reporter.close()


class JsonlReporter:
    """One JSON object per line, written at once. nan and inf become null, because JSON has neither.

    Lines that the disk refuses are kept for the next report, so that a full disk ends no training.
    """

    def __init__(self, path: Path, resumed_step: int) -> None:
        self._path = path
        if path.exists():
            _drop_later_steps(path, resumed_step)
        self._file = self._open()
        self._waiting = b""

    def report(self, event: str, /, **values: Any) -> None:
        line = {"event": event, "time": round(time.time(), 3), **_finite(values)}
        self._waiting += json_line(line).encode()
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) or 0 :]
        except OSError as error:
            log.warning("metrics.jsonl: %s; its lines are kept in memory", error)

    def go_back(self, step: int) -> None:
        try:
            _drop_later_steps(self._path, step)
        except OSError as error:
            log.warning("metrics.jsonl: %s; it keeps lines of steps that will be done again", error)
            return
        self._file.close()
        self._file = self._open()

    def close(self) -> None:
        self._file.close()

    def _open(self) -> FileIO:
        return FileIO(os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o666), "ab")


class TerminalReporter:
    """The progress bar of a run that is started without the launcher."""

    def __init__(self, terminal: TextIO) -> None:
        self._progress = Progress(terminal)

    def report(self, event: str, /, **values: Any) -> None:
        self._progress.show({"event": event, **values})

    def go_back(self, step: int) -> None:
        pass  # the bar goes back with the next step

    def close(self) -> None:
        self._progress.close()


def _drop_later_steps(path: Path, step: int) -> None:
    """Removes the lines of later steps and those that are no events, and adds one on the time that is lost with them.

    The last line of a run that was killed while writing it is no event.
    """
    dropped = []
    with published(path) as draft, path.open("rb") as lines, draft.open("wb") as kept:
        for line in lines:
            for event in events_in([line] if line.endswith(b"\n") else []):
                if _is_kept(event, step):
                    kept.write(line)
                else:
                    dropped.append(event)
        if (lost := lost_event(dropped, step)) is not None:
            kept.write(json_line(lost).encode())


def _is_kept(event: Mapping[str, Any], resumed_step: int) -> bool:
    if event["event"] in ("alert", "lost"):
        return True
    if event["event"] in ("eval", "retention") and resumed_step == 0:  # they are evaluated once more
        return False
    return int(event.get("step", 0)) <= resumed_step


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
