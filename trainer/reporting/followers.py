"""Other trackers (report.also) follow a run in threads of their own, which read metrics.jsonl.

The training only looks whether a thread has failed: a tracker that is slow, or hangs, or cannot be reached, is behind,
and the events wait for it in the file.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shardtune.recipe.schema import Recipe
from shardtune.run_dir.trackers import TRACKERS
from shardtune.run_dir.trackers.replay import Replay
from shardtune.run_dir.trackers.tracker import Target, facts_of
from shardtune.shell_line import shell_line

log = logging.getLogger(__name__)

EVERY_S = 5.0
"""Between two looks at metrics.jsonl."""
RETRY_S = 60.0
"""After a failure of the tracker."""
PATIENCE_S = 30.0
"""How long the end of a run waits for all trackers together."""
Report = Callable[..., None]


class Followers:
    """A reporter that lets the trackers of report.also follow; what they fail of is reported once, as an alert."""

    def __init__(self, recipe: Recipe, run_dir: Path, alert: Report, *, every_s: float = EVERY_S) -> None:
        """`alert` is the `report` of the other reporters; it is called on the thread that reports events."""
        self._run_dir = run_dir
        self._alert = alert
        self._failures: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._over = threading.Event()
        self._step = 0
        self._threads = {
            name: threading.Thread(target=self._follow, args=(name, recipe, every_s), name=name, daemon=True)
            for name in dict.fromkeys(recipe.report.also)
        }
        for thread in self._threads.values():
            thread.start()

    def report(self, event: str, /, **values: Any) -> None:
        self._step = values.get("step", self._step)
        while not self._failures.empty():
            name, text = self._failures.get()
            self._warn(name, text)

    def go_back(self, step: int) -> None:
        pass  # the threads find lines missing that they have sent, and send all again

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Waits until everything is sent, but no longer than `patience_s`."""
        self._over.set()
        until = time.monotonic() + patience_s
        for thread in self._threads.values():
            thread.join(max(0.0, until - time.monotonic()))
        self.report("closed")
        for name, thread in self._threads.items():
            if thread.is_alive():
                self._warn(name, "it is slow, and lacks the end of the run")

    def _warn(self, name: str, text: str) -> None:
        catch_up = shell_line("replay", self._run_dir, f"--to={name}")
        text = f"{text}. Training goes on; to send what is missing after it: {catch_up}"
        self._alert("alert", title=f"report.also: {name} is behind", text=text, step=self._step)

    def _follow(self, name: str, recipe: Recipe, every_s: float) -> None:
        """The work of a thread: sends what is new from time to time, and what is left when the run is over."""
        replay: Replay | None = None
        has_failed, wait_s = False, every_s
        while True:
            is_over = self._over.wait(wait_s)
            try:
                if replay is None:
                    tracker = TRACKERS[name](facts_of(recipe, self._run_dir), Target())
                    replay = Replay(self._run_dir, name, tracker, lambda text: log.warning("%s", text))
                replay.catch_up()
                wait_s = every_s
                if is_over:
                    replay.close()
            except BaseException as error:  # a failure of a tracker ends no training
                wait_s = RETRY_S
                if not has_failed:
                    has_failed = True
                    self._failures.put((name, f"{type(error).__name__}: {' '.join(str(error).split())}"))
            if is_over:
                return
