"""Which examples share a row of a batch (a bin), so that little padding runs through the model.

As with the deal of rows to ranks, every rank computes all of it from the lengths alone.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.batches.deal import Positions, cost, deal
from shardtune.trainer.tasks.example import Example, weights_of

MAX_BINS_A_RANK, SLACK = 8, 1.02
"""Bins of lengths that give each rank 1 to 8 of them are tried, 2 % longer than if they could be filled to the brim. On
lengths of news and chats in steps of 32 to 256 rows this wasted the least; slacks of 0 to 10 % and up to 16 bins were
tried."""

WORTH_IT = 0.97
"""What packing is to leave of the cost; else each example keeps a row for itself."""
PER_TOKEN = ("input_ids", "labels", "token_type_ids")
"""What an example has one of for each of its tokens, besides weights."""

Share = list[list[Positions]]
"""A rank's micro-batches, each as its bins: the positions of the examples that share a row."""


@dataclass(frozen=True)
class Packing:
    """How the examples of a micro-batch are laid into rows."""

    capacity: int
    """Tokens that a row may hold."""
    is_flat: bool
    """All bins of a micro-batch are put into one row, without padding: attention with variable lengths takes that."""
    first_position: int = 0
    """The position id of an example's first token."""


def merge(examples: Sequence[Example], first_position: int = 0) -> Example:
    """The examples one after the other as a single one, with `position_ids` that begin anew at each.

    What else they have for each token is put together too.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    merged: Example = {
        name: [value for example in examples for value in example[name]] for name in PER_TOKEN if name in examples[0]
    }
    merged["position_ids"] = [first_position + place for length in lengths for place in range(length)]
    if any(example.get("weights") for example in examples):
        merged["weights"] = [weight for example in examples for weight in weights_of(example)]
    return merged


def pack(lengths: NDArray[np.int32], capacity: int) -> list[Positions]:
    """The positions in `lengths` by bin, none of more than `capacity` tokens in sum; every length must fit.

    Best-fit decreasing: the longest first, each into the fullest bin that still has room for it. At most 11/9 of the
    fewest bins possible, and 4 (Johnson, 1973).
    """
    longest_first = np.argsort(-lengths.astype(np.int64), kind="stable")
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of by_room in rising order: the best fit is the first that is enough
    for at, length in zip(longest_first.tolist(), lengths[longest_first].tolist(), strict=True):
        place = bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            chosen = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        else:
            assert length <= capacity, "what is packed has to fit"
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(at)
        if left := room - length:
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(chosen)
    return [np.array(its, dtype=np.int64) for its in bins]


def lay_out(
    lengths: NDArray[np.int32], *, world_size: int, micro_batch_tokens: int, packing: Packing | None
) -> list[Share]:
    """Each rank's share of these examples: each is in one bin of one rank, and all ranks get as many micro-batches.

    Bins are no longer than pays off: attention costs with the square of a row's length, and bins that are too few leave
    ranks idle. So of several lengths up to the capacity, and of a bin for each example, what costs least is taken.
    """
    alone = [np.array([at]) for at in range(len(lengths))]
    if packing is None:
        shares = deal(lengths, world_size=world_size, micro_batch_tokens=micro_batch_tokens)
        return [[[alone[at] for at in its] for its in share] for share in shares]
    best: list[Share] = []
    least = float("inf")
    for limit in _limits(lengths, world_size, packing.capacity):
        bins = pack(lengths, limit) if limit else alone
        sizes = np.array([lengths[its].sum() for its in bins], dtype=np.int32)
        shares = deal(sizes, world_size=world_size, micro_batch_tokens=micro_batch_tokens)
        costs = [[cost(sizes[its].max(), len(its)) if len(its) else 0 for its in share] for share in shares]
        total = sum(max(together) for together in zip(*costs, strict=True))
        if total < least:
            least = total if limit else total * WORTH_IT
            best = [[[bins[at] for at in its] for its in share] for share in shares]
    return best


def shape_of(bins: Sequence[Positions], lengths: NDArray[np.int32], packing: Packing | None) -> tuple[int, int]:
    """(rows, longest) of a micro-batch; (0, 0) of an empty one."""
    sizes = [int(lengths[its].sum()) for its in bins]
    return (1, sum(sizes)) if packing and packing.is_flat and sizes else (len(sizes), max(sizes, default=0))


def _limits(lengths: NDArray[np.int32], world_size: int, capacity: int) -> list[int]:
    """The lengths of bins that are tried: 0 (a bin for each example), the longest example's, the capacity, and those
    between that make about as many bins as there are ranks, or twice as many, and so on."""
    longest, total = int(lengths.max()), int(lengths.sum())
    even = (math.ceil(SLACK * total / (world_size * times)) for times in range(1, MAX_BINS_A_RANK + 1))
    return [0, *sorted({longest, max(longest, capacity), *(its for its in even if longest < its < capacity)})]
