"""Offsets between the clocks of machines, measured by round trips of messages (Cristian, 1989)."""

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from shardtune.trainer.distributed.ranks import Ranks

NUM_ROUND_TRIPS = 5


def offset_of(round_trips: Sequence[tuple[float, float, float]]) -> float:
    """How far the clock here is ahead of another one, in seconds.

    A round trip is (sent, the other clock's time, received). The fastest one counts: its two ways differ by at most its
    duration, so the error is at most half of that.
    """
    sent, remote, received = min(round_trips, key=lambda trip: trip[2] - trip[0])
    return (sent + received) / 2 - remote


def clock_offsets(ranks: Ranks, hosts: Sequence[str]) -> list[float]:
    """Collective: how far the clock of each rank's machine is ahead of that of rank 0, in seconds, in rank order.

    One rank of each machine asks, one after another; 512 machines take about 512 ms. `hosts` names the machine of every
    rank.
    """
    firsts = {host: hosts.index(host) for host in dict.fromkeys(hosts)}
    mine = 0.0
    for asking in firsts.values():
        if asking and ranks.is_zero:
            _answer(asking, ranks)
        elif asking and ranks.rank == asking:
            mine = offset_of([_ask(ranks) for _ in range(NUM_ROUND_TRIPS)])
    offsets = ranks.gather_numbers(mine)
    return [offsets[firsts[host]] for host in hosts]


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
