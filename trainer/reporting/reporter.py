"""Where events go: metrics.jsonl (authoritative), Weights & Biases (best effort), terminal.

Decided once: ranks above 0 get a reporter that does nothing. The only module that imports wandb.
"""

import logging
import math
import os
import queue
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, TextIO

from shardtune.json_lines import json_line
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import METRICS, events_in, published, write_atomically
from shardtune.run_dir.view.progress import Progress
from shardtune.run_dir.view.time_use import lost_event
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.reporting.followers import Followers
from shardtune.trainer.reporting.wandb_choice import WandbChoice, choose_wandb, give_wandb_a_home

log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Takes events: `begin` (when the process began), `start` (num_steps, …), `phase` (name), `notice` (text), `step`,
    `eval` (split, …), `checkpoint`, `alert` (title, text: what the user should know at once), `compile`
    (compilations, …), `time_use` (goodput, seconds by cause), `stopped` (reason) and `done`."""

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
    """Passes every event to each reporter."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = reporters

    def report(self, event: str, /, **values: Any) -> None:
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


class WandbReporter:
    """Weights & Biases in a separate thread: a slow or failing W&B loses its own lines, never the training.

    The W&B id of the run is kept in the run directory, so that a resumed run is the same one there.
    """

    def __init__(self, recipe: Recipe, run_dir: Path, choice: WandbChoice, patience_s: float = 30.0) -> None:
        self._events: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(maxsize=10_000)
        self._patience_s = patience_s
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._work, args=(recipe, run_dir, choice), name="wandb", daemon=True)
        self._thread.start()

    def report(self, event: str, /, **values: Any) -> None:
        if event not in ("step", "eval", "alert", "time_use"):
            return
        try:
            self._events.put_nowait((event, values))
        except queue.Full:
            self._num_dropped += 1

    def go_back(self, step: int) -> None:
        pass  # W&B keeps what it was sent; steps that are done again are drawn over it

    def close(self) -> None:
        """Waits until everything is sent, at most twice `patience_s`."""
        try:
            self._events.put(None, timeout=self._patience_s)
        except queue.Full:
            self._num_dropped += 1
        self._thread.join(self._patience_s)
        if self._thread.is_alive() or self._num_dropped:
            log.warning(
                "W&B was too slow: %d events were dropped there; metrics.jsonl has all of them", self._num_dropped
            )

    def _work(self, recipe: Recipe, run_dir: Path, choice: WandbChoice) -> None:
        try:
            give_wandb_a_home(run_dir)
            import wandb

            run = wandb.init(
                id=wandb_id(run_dir),
                # What is None here, and what is not named at all (entity, tags, notes, …), wandb takes from WANDB_*.
                project=choice.project,
                name=choice.name,
                group=recipe.report.group,
                config=recipe.model_dump(mode="json"),
                dir=str(run_dir),
                mode=choice.mode,  # type: ignore[arg-type]
                resume="allow",
                settings=wandb.Settings(console="off", silent=True, init_timeout=self._patience_s),
            )
            run.define_metric("*", step_metric="step")
            while (event := self._events.get()) is not None:
                kind, values = event
                if kind == "alert":
                    run.alert(values["title"], values["text"], level="WARN")
                    continue
                if kind == "time_use":
                    run.summary.update({f"time/{key}": value for key, value in values.items()})
                    continue
                prefix = "train" if kind == "step" else str(values.pop("split"))
                step = values.pop("step")
                shown = {key: value for key, value in values.items() if _plain(value)}
                if answers := values.get("answers"):
                    columns = list(answers[0])
                    rows = [[answer[column] for column in columns] for answer in answers]
                    shown["answers"] = wandb.Table(columns=columns, data=rows)
                run.log({"step": step} | {f"{prefix}/{key}": value for key, value in shown.items()})
            run.finish()
        except Exception as error:  # a failure of W&B ends no training
            log.warning("W&B failed (%s: %s); metrics.jsonl is still written", type(error).__name__, error)


def wandb_id(run_dir: Path) -> str:
    """The W&B id of this run directory; created on the first call."""
    path = run_dir / "wandb_id"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex[:8])
    return path.read_text(encoding="utf-8").strip()


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
    if event["event"] == "eval" and resumed_step == 0:  # train.eval_at_start evaluates once more
        return False
    return int(event.get("step", 0)) <= resumed_step


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str)
