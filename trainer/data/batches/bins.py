"""Packing: which examples share a row of a batch (a bin), so that little padding runs through the model.

Every rank computes the layout of all ranks from the lengths alone, without communication.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.batches.cost import TYPICAL, Cost
from shardtune.trainer.data.batches.deal import Positions, deal, deal_texts
from shardtune.trainer.tasks.example import Example, weights_of

MAX_BINS_A_RANK, SLACK = 8, 1.02
"""Bins of lengths that give each rank 1 to 8 of them are tried, 2 % longer than if they could be filled to the brim. On
lengths of news and chats in steps of 32 to 256 rows this wasted the least; slacks of 0 to 10 % and up to 16 bins were
tried."""

WORTH_IT = 0.97
"""Examples are packed only if that lowers the cost to this part or less."""
PER_TOKEN = ("input_ids", "labels", "token_type_ids")
"""The fields of an example that have one value per token, besides weights."""

Share = list[list[Positions]]
"""The micro-batches of a rank, each a list of bins: the positions of the examples that share a row."""


@dataclass(frozen=True)
class Packing:
    """How the examples of a micro-batch are laid into rows."""

    capacity: int
    """Tokens that a row may hold."""
    is_flat: bool
    """Whether all bins of a micro-batch are put into one row, without padding, for variable-length attention."""
    first_position: int = 0
    """The position id of an example's first token."""
    is_marked: bool = False
    """Of a flat one: whether its batches have Masks.MARKED (trainer/tasks/masks.py) instead of BORDERS."""


def merge(examples: Sequence[Example], first_position: int = 0) -> Example:
    """The examples concatenated into one, with `position_ids` that restart at each of them.

    Their other values per token are concatenated too.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    merged: Example = {
        name: [value for example in examples for value in example[name]] for name in PER_TOKEN if name in examples[0]
    }
    merged["position_ids"] = [first_position + at for length in lengths for at in range(length)]
    if any(example.get("weights") for example in examples):
        merged["weights"] = [weight for example in examples for weight in weights_of(example)]
    return merged


def pack(lengths: NDArray[np.int32], capacity: int) -> list[Positions]:
    """The positions in `lengths` by bin, each bin of at most `capacity` tokens in sum; every length must fit.

    Best-fit decreasing: the longest first, each into the fullest bin that still has room for it. Needs at most 11/9 of
    the fewest bins possible, plus 4 (Johnson, 1973).
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
    return [np.array(positions, dtype=np.int64) for positions in bins]


def lay_out(
    lengths: NDArray[np.int32],
    *,
    world_size: int,
    micro_batch_tokens: int,
    packing: Packing | None,
    cost: Cost = TYPICAL,
) -> list[Share]:
    """The share of each rank: each example is in one bin of one rank, and all ranks get as many micro-batches.

    Longer bins are not always better: the cost of attention grows with the square of a row's length, and too few bins
    leave ranks idle. Of several lengths up to the capacity, and of a bin for each example, the cheapest is taken. A
    flat packing needs no bins: there, examples are attended to alone and nothing is padded.
    """
    how: dict[str, Any] = {"world_size": world_size, "micro_batch_tokens": micro_batch_tokens, "cost": cost}
    if packing is not None and packing.is_flat:
        return [[[at] if len(at) else [] for at in share] for share in deal_texts(lengths, **how)]
    alone = [np.array([at]) for at in range(len(lengths))]
    if packing is None:
        shares = deal(lengths, **how)
        return [[[alone[at] for at in positions] for positions in share] for share in shares]
    best: list[Share] = []
    least = float("inf")
    for limit in _limits(lengths, world_size, packing.capacity):
        bins = pack(lengths, limit) if limit else alone
        sizes = np.array([lengths[positions].sum() for positions in bins], dtype=np.int32)
        shares = deal(sizes, **how)
        costs = [[cost.of_rows(sizes[at].max(), len(at)) if len(at) else 0 for at in share] for share in shares]
        total = sum(max(by_rank) for by_rank in zip(*costs, strict=True))
        if total < least:
            least = total if limit else total * WORTH_IT
            best = [[[bins[at] for at in numbers] for numbers in share] for share in shares]
    return best


def shape_of(bins: Sequence[Positions], lengths: NDArray[np.int32], packing: Packing | None) -> tuple[int, int]:
    """(rows, longest) of a micro-batch; (0, 0) of an empty one."""
    sizes = [int(lengths[positions].sum()) for positions in bins]
    return (1, sum(sizes)) if packing and packing.is_flat and sizes else (len(sizes), max(sizes, default=0))


def _limits(lengths: NDArray[np.int32], world_size: int, capacity: int) -> list[int]:
    """The lengths of bins to try: 0 (a bin for each example), the longest example's, the capacity, and lengths between
    that give about as many bins as ranks, or twice as many, and so on."""
    longest, total = int(lengths.max()), int(lengths.sum())
    even = (math.ceil(SLACK * total / (world_size * times)) for times in range(1, MAX_BINS_A_RANK + 1))
    return [0, *sorted({longest, max(longest, capacity), *(length for length in even if longest < length < capacity)})]
