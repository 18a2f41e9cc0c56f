"""Weights & Biases while a run trains, in a thread of its own: a slow or failing W&B never delays the training."""

import contextlib
import json
import logging
import queue
import threading
import time
from pathlib import Path
from typing import Any

from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import METRICS, wandb_sync_command
from shardtune.trainer.reporting.wandb_run.choice import WandbChoice
from shardtune.trainer.reporting.wandb_run.config import config_of
from shardtune.trainer.reporting.wandb_run.feed import Feed
from shardtune.trainer.reporting.wandb_run.session import (
    FINISH_S,
    UPLOAD_S,
    Session,
    behind_path,
    end_wandb_core,
    open_session,
)

log = logging.getLogger(__name__)

PATIENCE_S = 20.0
"""How long the end of a start waits for W&B at most, unless the recipe asked for files to be uploaded."""
MOST_WAITING = 10_000
"""Events that wait for W&B in memory."""
PASSED_ON = (
    "begin", "environment", "start", "step", "eval", "retention", "compile", "alert", "lost", "time_use", "stopped",
    "done",
)  # fmt: skip
ROLLBACK = "rollback"
"""Not an event of metrics.jsonl, where `lost` takes its place."""


class WandbReporter:
    """Takes events without ever waiting; a thread passes them on.

    The W&B id of the run is kept in the run directory, so that a resumed run is the same one there. If more events wait
    than MOST_WAITING, all later ones of this start are left out, so that W&B has the run up to a point: metrics.jsonl
    has all of them, and `shardtune sync` uploads what is missing.
    """

    def __init__(self, recipe: Recipe, run_dir: Path, choice: WandbChoice, patience_s: float = PATIENCE_S) -> None:
        self._events: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(maxsize=MOST_WAITING)
        self._finish_s = UPLOAD_S if recipe.report.artifacts else FINISH_S
        self._run_dir, self._patience_s = run_dir, patience_s + self._finish_s - FINISH_S
        self._num_dropped = 0
        self._is_whole = False
        path = run_dir / METRICS
        size = path.stat().st_size if path.exists() else 0
        self._thread = threading.Thread(
            target=self._work, args=(recipe, run_dir, choice, size), name="wandb", daemon=True
        )
        self._thread.start()

    def report(self, event: str, /, **values: Any) -> None:
        if event in PASSED_ON:
            self._put((event, values))

    def go_back(self, step: int) -> None:
        """W&B keeps what it was sent; steps that are done again are drawn over it."""
        self._put((ROLLBACK, {"step": step}))

    def close(self) -> None:
        """Waits until everything is sent or on disk, `patience_s` at most, and then ends wandb's own process."""
        deadline = time.monotonic() + self._patience_s
        try:
            self._events.put(None, timeout=self._patience_s if self._thread.is_alive() else 0.001)
        except queue.Full:
            self._num_dropped += 1
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            end_wandb_core()
        is_whole = self._is_whole and not self._num_dropped
        with contextlib.suppress(OSError):
            behind_path(self._run_dir).unlink(missing_ok=True) if is_whole else behind_path(self._run_dir).touch()
        if is_whole:
            return
        dropped = f"{self._num_dropped} events were dropped there; " if self._num_dropped else ""
        log.warning(
            "W&B was too slow, or failed: %sit may miss the end of this run, and metrics.jsonl has all of it. To "
            "upload the rest: %s",
            dropped,
            wandb_sync_command(self._run_dir),
        )

    def _put(self, event: tuple[str, dict[str, Any]]) -> None:
        if self._num_dropped:
            self._num_dropped += 1
            return
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._num_dropped += 1

    def _work(self, recipe: Recipe, run_dir: Path, choice: WandbChoice, size: int) -> None:
        try:
            feed = Feed(recipe, run_dir)
            earlier = _events_before(run_dir / METRICS, size)
            session = open_session(run_dir, choice, config_of(recipe, run_dir), finish_s=self._finish_s)
            feed.catch_up(session, earlier)
            if earlier and feed.ended is None:
                text = f"the start before ended early, after step {feed.last_step}"
                session.alert("the run was restarted", text, is_error=True)
            self._pass_on(feed, session)
            if feed.ended is None:
                text = f"after step {feed.last_step}; RUN_DIR/logs says why"
                session.alert("the run ended early", text, is_error=True, is_last=True)
            session.finish(failed=feed.ended is None)
            self._is_whole = session.mode == choice.mode
        except Exception as error:  # a failure of W&B ends no training
            log.warning("W&B failed (%s: %s); metrics.jsonl is still written", type(error).__name__, error)

    def _pass_on(self, feed: Feed, session: Session) -> None:
        """Passes events on until the end of this start."""
        while (event := self._events.get()) is not None:
            kind, values = event
            if kind == ROLLBACK:
                feed.rolled_back(values["step"])
            else:
                feed.pass_on(session, kind, values)


def _events_before(path: Path, size: int) -> list[dict[str, Any]]:
    """The events in the first `size` bytes of metrics.jsonl: those of earlier starts."""
    if not size:
        return []
    with path.open("rb") as file:
        return [json.loads(line) for line in file.read(size).split(b"\n") if line]
