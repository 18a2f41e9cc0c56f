"""Speed of data exchange between pairs of ranks: within their machine, and from machine to machine.

Every pair is measured, in the rounds of a tournament: in each round all ranks exchange data at the same time, each with
one other. So a slow link can be told from a slow machine, and the time grows with the number of machines only up to
MOST_ROUNDS.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest

import torch
import torch.distributed as dist

from shardtune.trainer.distributed.ranks import Ranks

MOST_ROUNDS = 24
"""Most rounds between machines: each machine is measured with at most this many others."""
NUM_EXCHANGES = 2
"""Exchanges per pair; the fastest counts."""

Round = list[tuple[int, int]]


@dataclass(frozen=True)
class Link:
    """The speed of an all-reduce of two ranks: both send and receive at once."""

    ranks: tuple[int, int]
    hosts: tuple[str, str]
    gb_per_s: float
    """Rate in each direction."""

    @property
    def is_inside(self) -> bool:
        """Whether both are on one machine."""
        return self.hosts[0] == self.hosts[1]


def tournament(players: Sequence[int]) -> list[Round]:
    """The rounds in which each of n players meets each other one once: n - 1, or n if n is odd, because then one pauses
    in each round (the circle method)."""
    circle: list[int | None] = [*players, *([None] if len(players) % 2 else [])]
    rounds: list[Round] = []
    for _ in range(len(circle) - 1):
        pairs = zip(circle[: len(circle) // 2], reversed(circle[len(circle) // 2 :]), strict=True)
        rounds.append([(a, b) for a, b in pairs if a is not None and b is not None])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return [pairs for pairs in rounds if pairs]


def rounds_of(hosts: Sequence[str]) -> Iterator[Round]:
    """The pairs to measure, round by round: all ranks within their machines, then the first rank of each machine."""
    by_host: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        by_host.setdefault(host, []).append(rank)
    for at_once in zip_longest(*(tournament(ranks) for ranks in by_host.values()), fillvalue=[]):
        yield list(chain.from_iterable(at_once))
    between = tournament([ranks[0] for ranks in by_host.values()])
    every = max(1.0, len(between) / MOST_ROUNDS)
    yield from (between[int(number * every)] for number in range(min(len(between), MOST_ROUNDS)))


def measure_neighbors(ranks: Ranks, hosts: Sequence[str]) -> list[Link]:
    """Collective: as measure_links, but only the links from each rank to the next, as in a ring."""
    pairs = list(pairwise(range(len(hosts))))
    return _measure(ranks, hosts, [pairs[::2], pairs[1::2]])


def measure_links(ranks: Ranks, hosts: Sequence[str]) -> list[Link]:
    """Collective: returns all measured links on every rank; `hosts` names the machine of every rank."""
    return _measure(ranks, hosts, rounds_of(hosts))


def _measure(ranks: Ranks, hosts: Sequence[str], rounds: Iterable[Round]) -> list[Link]:
    mine: list[Link] = []
    for pairs in rounds:
        ranks.barrier()
        for a, b in pairs:
            if ranks.rank in (a, b):
                seconds, num_bytes = _exchange(ranks, b if ranks.rank == a else a)
                if ranks.rank == a:
                    mine.append(Link((a, b), (hosts[a], hosts[b]), num_bytes / seconds / 1e9))
    return sorted((link for links in ranks.gather(mine) for link in links), key=lambda link: link.ranks)


def _exchange(ranks: Ranks, other: int) -> tuple[float, int]:
    """Seconds of an all-reduce with the other rank, and its bytes."""
    size = 2**24 if ranks.device.type == "cuda" else 2**18
    payload = torch.ones(size, device=ranks.device)
    received = torch.empty_like(payload)
    best = float("inf")
    for count in (1, *[size] * NUM_EXCHANGES):  # the first opens the connection
        since = time.monotonic()
        both = [dist.P2POp(dist.isend, payload[:count], other), dist.P2POp(dist.irecv, received[:count], other)]
        for work in dist.batch_isend_irecv(both):
            work.wait()
        (payload[:count] + received[:count])[0].item()  # waits for the GPU
        best = min(best, time.monotonic() - since) if count == size else best
    return best, payload.nbytes
