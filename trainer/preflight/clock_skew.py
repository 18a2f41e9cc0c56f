"""How far clocks are from each other, by messages that go there and back (Cristian, 1989)."""

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from shardtune.trainer.distributed.ranks import Ranks

NUM_ROUND_TRIPS = 5


def offset_of(round_trips: Sequence[tuple[float, float, float]]) -> float:
    """How far a clock here is ahead of another one, in seconds.

    A round trip is (sent, the other clock's time, received). The quickest one counts: its two ways are unlike by no
    more than it took, so the answer is wrong by half of that at most.
    """
    sent, theirs, received = min(round_trips, key=lambda its: its[2] - its[0])
    return (sent + received) / 2 - theirs


def clock_offsets(ranks: Ranks, hosts: Sequence[str]) -> list[float]:
    """Collective: how far each rank's machine's clock is ahead of that of rank 0's, in seconds, in the order of ranks.

    One rank of each machine asks, one after another; 512 machines take about as many milliseconds. `hosts` has the
    machine of every rank.
    """
    firsts = {host: hosts.index(host) for host in dict.fromkeys(hosts)}
    mine = 0.0
    for asking in firsts.values():
        if asking and ranks.is_zero:
            _answer(asking, ranks)
        elif asking and ranks.rank == asking:
            mine = offset_of([_ask(ranks) for _ in range(NUM_ROUND_TRIPS)])
    everyones = ranks.gather_numbers(mine)
    return [everyones[firsts[host]] for host in hosts]


def _ask(ranks: Ranks) -> tuple[float, float, float]:
    clock = torch.zeros(1, dtype=torch.float64)
    sent = time.time()
    dist.send(clock, 0, group=ranks.control)
    dist.recv(clock, 0, group=ranks.control)
    return sent, clock.item(), time.time()


def _answer(asking: int, ranks: Ranks) -> None:
    clock = torch.zeros(1, dtype=torch.float64)
    for _ in range(NUM_ROUND_TRIPS):
        dist.recv(clock, asking, group=ranks.control)
        dist.send(torch.tensor([time.time()], dtype=torch.float64), asking, group=ranks.control)
