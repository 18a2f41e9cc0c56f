"""How often each rank was the one that the others waited for."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardtune.run_dir.view.step_line import JUDGED_STEPS, LostTime, StragglerWatch


@dataclass
class RankShare:
    """What is known of a rank."""

    rank: int
    num_slowest: int = 0
    """Reports in which it was the slowest."""
    lost_share: float = 0.0
    """Sum over these reports of the part of the time of all ranks that was lost by waiting for it."""
    place: str = ""
    """Host and GPU, as far as it has ever been the slowest."""


class RankTally:
    """The ranks of the newest start."""

    def __init__(self, step: int | None = None) -> None:
        """Of a start that has begun at this step, if that is known."""
        self.num_reports = 0
        self.compute_s: list[float] = []
        """Seconds of computing per step of each rank, as the newest report has it; empty of many ranks."""
        self._shares: dict[int, RankShare] = {}
        self._step = step
        self._newest: deque[Mapping[str, Any]] = deque(maxlen=JUDGED_STEPS)

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes a `step` event."""
        if self._step is None:
            self._step = event["step"] - 1
        self._newest.append(event)
        if "slowest_rank" not in event:
            return
        self.num_reports += 1
        self.compute_s = event.get("compute_s") or []
        share = self._shares.setdefault(event["slowest_rank"], RankShare(event["slowest_rank"]))
        share.num_slowest += 1
        share.lost_share += event["lost_share"]
        gpu = event.get("slowest_gpu")
        share.place = f"{event['slowest_host']}{'' if gpu is None else f', GPU {gpu}'}"

    def straggler(self) -> LostTime | None:
        """The rank that has cost most lately, if that is much."""
        watch, found = StragglerWatch(), None
        if self._step is not None:
            watch.begin(self._step)
        for event in self._newest:
            found = watch.add(event)
        return found

    def shares(self) -> list[RankShare]:
        """The ranks that have ever been the slowest, and those whose times are listed, the costliest first."""
        listed = {rank: RankShare(rank) for rank in range(len(self.compute_s))} | self._shares
        return sorted(listed.values(), key=lambda share: (-share.lost_share, -share.num_slowest, share.rank))
