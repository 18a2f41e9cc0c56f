"""Sends the events of a run to a tracker, each once, however often it is called and whatever was interrupted.

How far a tracker has come is kept in the run directory: the number and the digest of the bytes of metrics.jsonl that it
has. If these are still the beginning of the file, what follows is sent. If not (a resume or a rollback has dropped
steps), or if an earlier process ended while it was sending, the tracker's run is deleted and sent again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from shardtune.run_dir.files import METRICS, write_atomically
from shardtune.run_dir.trackers.event_file import EventFile, RewrittenError
from shardtune.run_dir.trackers.tracker import End, Tracker
from shardtune.run_dir.view.tracked import records

FOLDER = "trackers"
"""In a run directory: how far each tracker has come."""
DROPPED = "a resume or a rollback has dropped steps from metrics.jsonl"
INTERRUPTED = "it was interrupted, so that nobody knows what has arrived"
LONGER = "the run has gone on, and the tracker adds to no run of an earlier process"
ENDS: Mapping[str, End] = {"begin": "running", "start": "running", "done": "finished", "stopped": "stopped"}


@dataclass(frozen=True)
class Sent:
    """What a tracker has of a run."""

    run: str
    """The tracker's id of it."""
    num_bytes: int = 0
    digest: str = ""
    """Of the first bytes of metrics.jsonl."""
    step: int = 0
    time: float = 0.0
    """Of the last event."""
    end: End = "running"
    is_sending: bool = False
    """Whether more is on its way, of which nobody knows whether it has arrived."""

    def after(self, events: Sequence[Mapping[str, Any]]) -> "Sent":
        """The step, the time and the end after these events."""
        step, time, end = self.step, self.time, self.end
        for event in events:
            step = event["step"] if isinstance(event.get("step"), int) else step
            time = _time(event) or time
            end = ENDS.get(str(event.get("event")), end)
        return replace(self, step=step, time=time, end=end)


class Replay:
    """The way of one run's events to one tracker."""

    def __init__(self, run_dir: Path, name: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        """`name` is the tracker's; `say` is told what the user should know."""
        # A run directory that is moved takes what lies in it along.
        key = xxhash.xxh3_64_hexdigest(tracker.place.replace(str(run_dir), "").encode())
        self._path = run_dir / FOLDER / f"{name}-{key}.json"
        self._events = EventFile(run_dir / METRICS)
        self._tracker = tracker
        self._say = say
        self._sent: Sent | None = None
        self._is_open = False
        self._is_new = True

    @property
    def run(self) -> str | None:
        """The tracker's id of the run; None if it has none."""
        return None if self._sent is None else self._sent.run

    @property
    def num_skipped(self) -> int:
        """Lines of metrics.jsonl that could not be read."""
        return self._events.num_skipped

    def catch_up(self) -> int:
        """Sends what is new; returns the number of records. Raises OSError, and what the tracker's library raises."""
        try:
            if self._is_new:
                self._resume()
            try:
                return self._send_new()
            except RewrittenError:
                self._forget(DROPPED)
                return self._send_new()
        except BaseException:
            with suppress(Exception):
                self._close_tracker()
            self._is_new = True  # what has arrived is in the file
            raise

    def close(self) -> None:
        """Closes the tracker's run, if anything was sent."""
        self._close_tracker()
        if self._sent is not None and self._sent.is_sending:
            self._keep(replace(self._sent, is_sending=False))

    def _close_tracker(self) -> None:
        if self._is_open and self._sent is not None:
            self._is_open = False
            self._tracker.close(self._sent.end, self._sent.time)

    def _resume(self) -> None:
        """Finds out what the tracker has, so that the next events are those it lacks."""
        self._events.rewind()
        self._sent = None
        if self._path.exists():
            sent = Sent(**json.loads(self._path.read_text(encoding="utf-8")))
            if self._tracker.has(sent.run):
                self._sent = sent
                if (why := self._fault(sent)) is not None:
                    self._forget(why)
        self._is_new = False

    def _fault(self, sent: Sent) -> str | None:
        """Why nothing can be added to what was sent; None if it can."""
        if not self._events.skip(sent.num_bytes, sent.digest):
            return DROPPED
        if sent.is_sending and not self._tracker.ignores_repeats:
            return INTERRUPTED
        if not self._tracker.continues and self._events.path.stat().st_size > sent.num_bytes:
            return LONGER
        return None

    def _forget(self, why: str) -> None:
        """Has the tracker delete its run, so that all is sent again."""
        assert self._sent is not None, "the tracker has a run"
        self._say(f"{self._tracker.place}: run {self._sent.run} is replaced, because {why}")
        self._close_tracker()
        self._tracker.delete(self._sent.run)
        self._path.unlink(missing_ok=True)
        self._events.rewind()
        self._sent = None

    def _send_new(self) -> int:
        num_sent = 0
        for events in self._events.chunks():
            if not events:
                continue
            sent = self._opened(_time(events[0]) or 0.0)
            self._keep(replace(sent, is_sending=True))
            batch = list(records(events, sent.step))
            self._tracker.send(batch)
            stored = replace(sent, num_bytes=self._events.num_bytes, digest=self._events.digest)
            self._keep(replace(stored.after(events), is_sending=not self._tracker.continues))
            num_sent += len(batch)
        return num_sent

    def _opened(self, began: float) -> Sent:
        """Opens the tracker's run, if it is not open, and returns what it has."""
        if not self._is_open:
            run = self._tracker.open(None if self._sent is None else self._sent.run, began)
            self._is_open = True
            self._sent = self._sent or Sent(run)
        assert self._sent is not None, "it was opened"
        return self._sent

    def _keep(self, sent: Sent) -> None:
        self._path.parent.mkdir(exist_ok=True)
        write_atomically(self._path, json.dumps(asdict(sent), ensure_ascii=False, indent=1))
        self._sent = sent


def _time(event: Mapping[str, Any]) -> float | None:
    time = event.get("time")
    return float(time) if isinstance(time, int | float) else None
