"""What the time of a run went to, from events that are seen once and not kept."""

from collections.abc import Mapping
from typing import Any

from shardtune.run_dir.view.time_use import TimeUse, add_steps, time_use

KEPT = {
    "begin": ("process_began", "launched", "queued"),
    "start": ("step",),
    "phase": ("name",),
    "lost": ("step", "seconds"),
}
"""Event -> the entries that decide what time was spent on."""

STEP_CAUSES = ("useful", "padding", "waiting_for_ranks", "waiting_for_data")
"""The causes of the time of steps."""


class Life:
    """The events of a run as far as their time matters: all `step` events in a row count as a single one that accounts
    for the same seconds."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._step = 0
        """The step up to which time is accounted for."""
        self._row = dict.fromkeys(STEP_CAUSES, 0.0)
        """Seconds by cause of the steps in a row that end the events so far."""
        self._row_from = 0
        self._row_end: tuple[int, float] | None = None
        """Step and time of the newest of them."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes the next event of metrics.jsonl."""
        kind = event["event"]
        if kind == "step":
            add_steps(self._row, event, event["step"] - self._step)
            self._step = event["step"]
            self._row_end = self._step, event["time"]
            return
        self._end_row()
        kept = {"event": kind, "time": event["time"]}
        kept |= {key: event[key] for key in KEPT.get(kind, ()) if key in event}
        if "step" in kept:
            self._step = self._row_from = kept["step"] if kind == "start" else min(self._step, kept["step"])
        # Of others in a row only the time of the newest matters, and where a life begins.
        if kind not in KEPT and len(self._events) > 1 and self._events[-1]["event"] not in ("step", *KEPT):
            self._events.pop()
        self._events.append(kept)

    def time_use(self) -> TimeUse:
        """What the time so far went to."""
        return time_use([*self._events, *self._row_event()])

    def _end_row(self) -> None:
        self._events += self._row_event()
        self._row, self._row_from, self._row_end = dict.fromkeys(STEP_CAUSES, 0.0), self._step, None

    def _row_event(self) -> list[dict[str, Any]]:
        """The steps in a row as one `step` event; none without steps."""
        if self._row_end is None:
            return []
        (step, time), took_s = self._row_end, sum(self._row.values())
        num_steps = step - self._row_from or 1
        waited_s = self._row["waiting_for_data"]
        computed_s = self._row["useful"] + self._row["padding"]
        event = {
            "event": "step",
            "time": time,
            "step": step,
            "step_time_s": took_s / num_steps,
            "data_wait_s": waited_s / num_steps,
            "lost_share": self._row["waiting_for_ranks"] / (took_s - waited_s) if took_s > waited_s else 0.0,
            "padding_efficiency": self._row["useful"] / computed_s if computed_s else None,
        }
        return [event]
