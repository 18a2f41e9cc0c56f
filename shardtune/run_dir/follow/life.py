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


class Life:
    """The events of a run as far as their time matters: all `step` events in a row are kept as a single one that
    accounts for the same seconds."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._row: dict[str, float] = {}
        """Seconds by cause of the steps in a row that end the events so far."""
        self._row_from = self._step = 0

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes the next event of metrics.jsonl."""
        kind = event["event"]
        if kind == "step":
            self._add_step(event)
            return
        kept = {"event": kind, "time": event["time"]}
        if kind in KEPT:
            kept |= {key: event[key] for key in KEPT[kind] if key in event}
            if "step" in kept:
                self._step = kept["step"] if kind == "start" else min(self._step, kept["step"])
            self._events.append(kept)
        elif len(self._events) < 2 or self._events[-1]["event"] in ("step", *KEPT):
            self._events.append(kept)
        else:
            self._events[-1] = kept  # of others in a row only the time of the newest matters, and where a life begins

    def time_use(self) -> TimeUse:
        """What the time so far went to."""
        return time_use(self._events)

    def _add_step(self, event: Mapping[str, Any]) -> None:
        if not self._events or self._events[-1]["event"] != "step":
            self._events.append({})
            self._row = dict.fromkeys(("useful", "padding", "waiting_for_ranks", "waiting_for_data"), 0.0)
            self._row_from = self._step
        add_steps(self._row, event, event["step"] - self._step)
        self._step = event["step"]
        num_steps, took_s = self._step - self._row_from or 1, sum(self._row.values())
        ran_s = took_s - self._row["waiting_for_data"]
        computed_s = self._row["useful"] + self._row["padding"]
        self._events[-1] = {
            "event": "step",
            "time": event["time"],
            "step": event["step"],
            "step_time_s": took_s / num_steps,
            "data_wait_s": self._row["waiting_for_data"] / num_steps,
            "lost_share": self._row["waiting_for_ranks"] / ran_s if ran_s else 0.0,
            "padding_efficiency": self._row["useful"] / computed_s if computed_s else None,
        }
