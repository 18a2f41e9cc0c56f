"""Questions that all ranks answer, in about log2(ranks) rounds of small messages between pairs of ranks.

gloo's broadcast is a tree, but its all-reduce and all-gather pass everything round a ring (gloo/allreduce.cc): a vote
of 512 ranks takes 1,022 messages, each after the one before, and here 9.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.distributed as dist

GATHER, VOTE, POLL = 101, 102, 103
"""Tags, by which gloo tells messages of different questions apart."""


def num_rounds(num_ranks: int) -> int:
    """The rounds in which what one rank knows reaches all: log2 of their number, rounded up; 0 for a single rank."""
    return (num_ranks - 1).bit_length()


def gather_to_zero(
    payload: bytes, rank: int, num_ranks: int, group: dist.ProcessGroup | None = None
) -> list[bytes] | None:
    """Collective: every rank's payload in rank order on rank 0, None on the others (a binomial tree).

    After round n, each 2**n-th rank has the payloads of the 2**n ranks from itself on.
    """
    parts, distance = [payload], 1
    while distance < num_ranks:
        if rank & distance:
            _send(parts, rank - distance, group)
            return None
        if (num_there := min(distance, num_ranks - rank - distance)) > 0:
            parts += _receive(num_there, rank + distance, group)
        distance *= 2
    return parts


class Poll:
    """Asks all ranks for a yes, by one message a round, which nobody waits for until the next round.

    Whoever asks does something else between two rounds (trainer/between_steps/stop_checks.py). A question takes
    num_rounds() of them, and then the next one begins.
    """

    def __init__(self, rank: int, num_ranks: int, group: dist.ProcessGroup | None = None, *, tag: int = POLL) -> None:
        self._rank, self._num_ranks, self._group, self._tag = rank, num_ranks, group, tag
        self._num_rounds = num_rounds(num_ranks)
        self._round = 0
        self._is_yes = False
        self._waiting: tuple[torch.Tensor, torch.Tensor, Sequence[dist.Work | None]] | None = None

    def ask(self, answer: bool) -> None:
        """Collective: begins the next round; at the first of a question, with the answer of this rank."""
        assert self._waiting is None, "the last round has not been heard"
        if self._round == 0:
            self._is_yes = answer
        if self._round == self._num_rounds:  # a single rank
            return
        distance = 1 << self._round
        sent, received = torch.tensor([self._is_yes], dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8)
        to, from_ = (self._rank + distance) % self._num_ranks, (self._rank - distance) % self._num_ranks
        works = (
            dist.isend(sent, to, group=self._group, tag=self._tag),
            dist.irecv(received, from_, group=self._group, tag=self._tag),
        )
        self._round += 1
        self._waiting = (sent, received, works)

    def hear(self) -> bool | None:
        """Collective: waits for the round that was begun last. Whether any rank said yes, once that is known by all
        ranks; else None."""
        if self._waiting is not None:
            _, received, works = self._waiting
            for work in works:
                if work is not None:
                    work.wait()
            self._is_yes |= bool(received)
            self._waiting = None
        if self._round < self._num_rounds:
            return None
        self._round = 0
        return self._is_yes


def any_of(answer: bool, rank: int, num_ranks: int, group: dist.ProcessGroup | None = None) -> bool:
    """Collective: whether any rank's answer is yes; waits for all ranks."""
    poll = Poll(rank, num_ranks, group, tag=VOTE)
    while True:
        poll.ask(answer)
        if (is_yes := poll.hear()) is not None:
            return is_yes


def _send(parts: Sequence[bytes], to: int, group: dist.ProcessGroup | None) -> None:
    dist.send(torch.tensor([len(part) for part in parts]), to, group=group, tag=GATHER)
    dist.send(bytes_tensor(b"".join(parts)), to, group=group, tag=GATHER)


def _receive(num_parts: int, from_: int, group: dist.ProcessGroup | None) -> list[bytes]:
    sizes = torch.zeros(num_parts, dtype=torch.int64)
    dist.recv(sizes, from_, group=group, tag=GATHER)
    content = torch.empty(int(sizes.sum()), dtype=torch.uint8)
    dist.recv(content, from_, group=group, tag=GATHER)
    ends = accumulate(sizes.tolist(), initial=0)
    whole = content.numpy().tobytes()
    return [whole[start:stop] for start, stop in pairwise(ends)]


def bytes_tensor(content: bytes) -> torch.Tensor:
    """The bytes as a tensor of its own memory; uint8 of shape (bytes,)."""
    return torch.from_numpy(np.frombuffer(bytearray(content), dtype=np.uint8))
