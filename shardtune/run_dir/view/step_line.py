"""The numbers of a step in one line: which are shown, and which of them a narrow terminal has room for."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

JUDGED_STEPS = 20
"""Before this many steps of a start it is not judged which rank the others wait for: the first ones are noise."""
SHOWN_LOST_SHARE = 0.1
"""From this share on, the time that ranks lose waiting for the slowest one is shown."""


class LostTime(NamedTuple):
    """The time that ranks lose by waiting for one of them."""

    share: float
    """Of the time of all ranks."""
    rank: int
    name: str
    """The rank and where it runs."""


class StragglerWatch:
    """Which rank the others waited for in the newest reports of a start."""

    def __init__(self) -> None:
        self._first_step: int | None = None
        self._reports: deque[LostTime] = deque(maxlen=JUDGED_STEPS)

    def begin(self, step: int) -> None:
        """Forgets everything, because a start has begun at this step."""
        self._first_step = step
        self._reports.clear()

    def add(self, event: Mapping[str, Any]) -> LostTime | None:
        """Takes a `step` event; returns the rank that cost most, unless it is too early or too little to tell."""
        if self._first_step is None:
            self._first_step = event["step"] - 1
        if "lost_share" not in event:
            return None
        self._reports.append(LostTime(event["lost_share"], event["slowest_rank"], slowest(event)))
        if event["step"] - self._first_step < JUDGED_STEPS:
            return None
        lost: dict[tuple[int, str], float] = {}
        for report in self._reports:
            key = (report.rank, report.name)
            lost[key] = lost.get(key, 0.0) + report.share / len(self._reports)
        (rank, name), share = max(lost.items(), key=lambda item: item[1])
        return LostTime(share, rank, name) if share >= SHOWN_LOST_SHARE else None


def step_numbers(event: Mapping[str, Any], lost: LostTime | None = None, room: int | None = None) -> str:
    """The numbers of a `step` event; the less important ones are dropped until the text has at most `room` columns."""
    loss, rate = f"loss {_number(event, 'loss'):.4f}", f"{_number(event, 'tokens_per_s'):,.0f} tokens/s"
    lr, left = f"lr {_number(event, 'lr'):.2e}", f"{duration(_number(event, 'eta_s'))} left"
    mfu = [f"{event['mfu']:.{0 if event['mfu'] >= 0.1 else 1}%} MFU"] if event.get("mfu") is not None else []
    long = [f"{lost.share:.0%} lost waiting for {lost.name}"] if lost else []
    short = [f"{lost.share:.0%} lost to rank {lost.rank}"] if lost else []
    choices = (
        [loss, lr, rate, *mfu, left, *long],
        [loss, lr, rate, *mfu, left, *short],
        [loss, rate, *mfu, left, *short],
        [loss, *(mfu or [rate]), left, *short],
        [loss, left, *short],
        [loss, left],
    )
    lines = ["  ".join(parts) for parts in choices]
    return next((line for line in lines if room is None or len(line) <= room), loss)


def _number(event: Mapping[str, Any], key: str) -> float:
    """The entry of an event; NaN if it is null, or not there."""
    value = event.get(key)
    return math.nan if value is None else float(value)


def slowest(event: Mapping[str, Any]) -> str:
    """The rank that the others waited for in a `step` event, and where it runs."""
    gpu = "" if event["slowest_gpu"] is None else f", GPU {event['slowest_gpu']}"
    return f"rank {event['slowest_rank']} ({event['slowest_host']}{gpu})"


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` under an hour; `?` for what is no time."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
