"""How the rows of one optimizer step are distributed to ranks and cut into micro-batches.

Every rank computes the shares of all ranks from the lengths alone, without communication.
"""

from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.batches.cost import TYPICAL, Cost

Positions = NDArray[np.int64]


def deal(
    lengths: NDArray[np.int32], *, world_size: int, micro_batch_tokens: int, cost: Cost = TYPICAL
) -> list[list[Positions]]:
    """The micro-batches of each rank: positions in `lengths`, by [rank][micro_batch].

    Each position goes to one rank, and all ranks get the same number of micro-batches, empty ones where there are fewer
    rows. A micro-batch has at most micro_batch_tokens tokens with padding (or a single row). Rows of similar length go
    together. There are as few micro-batches as the budget allows, cut so that the most expensive one costs least.
    """
    longest_first = np.argsort(-lengths.astype(np.int64), kind="stable")
    sizes = lengths[longest_first].astype(np.int64)
    how: dict[str, Any] = {"micro_batch_tokens": micro_batch_tokens, "cost": cost}
    num_micro_batches = -(-len(_cut(sizes, **how)) // world_size)
    num_cuts = num_micro_batches * world_size
    # The smallest cost limit that needs no more cuts: between that of the longest row alone and that of all rows.
    low, high = int(cost.of_rows(sizes[0])) - 1, int(cost.of_rows(sizes[0], len(sizes))) + 1
    while high - low > 1:
        limit = (low + high) // 2
        fits = len(_cut(sizes, **how, max_cost=limit)) <= num_cuts
        low, high = (low, limit) if fits else (limit, high)
    cuts = _cut(sizes, **how, max_cost=high)
    pieces = np.split(longest_first, np.cumsum(cuts)[:-1])
    return _by_rank(_split_to(pieces, num_cuts), world_size)


def deal_texts(
    lengths: NDArray[np.int32], *, world_size: int, micro_batch_tokens: int, cost: Cost = TYPICAL
) -> list[list[Positions]]:
    """As deal, for texts that lie one behind another, without padding, and are attended to alone.

    So a micro-batch has at most micro_batch_tokens tokens in sum (or a single text). All of them cost nearly the same:
    the most expensive texts first, each is put into the cheapest one with room (Graham, 1969).
    """
    costs = cost.of_texts(lengths)
    longest_first = np.argsort(-costs, kind="stable").tolist()
    num_micro_batches = max(1, -(-int(lengths.sum()) // (micro_batch_tokens * world_size)))
    while (parts := _filled(longest_first, lengths, costs, num_micro_batches * world_size, micro_batch_tokens)) is None:
        num_micro_batches += 1
    parts.sort(key=lambda part: -float(costs[part].sum()))
    return _by_rank(parts, world_size)


def _filled(
    order: list[int], lengths: NDArray[np.int32], costs: NDArray[np.float64], number: int, most_tokens: int
) -> list[Positions] | None:
    """The texts in so many parts, taken in this order; None if they do not fit."""
    parts: list[list[int]] = [[] for _ in range(number)]
    room = [most_tokens] * number
    cheapest = [(0.0, part) for part in range(number)]
    heapify(cheapest)
    for at in order:
        length, too_full = int(lengths[at]), []
        while cheapest and parts[cheapest[0][1]] and room[cheapest[0][1]] < length:
            too_full.append(heappop(cheapest))
        if not cheapest:
            return None
        so_far, part = heappop(cheapest)
        parts[part].append(at)
        room[part] -= length
        for entry in (*too_full, (so_far + float(costs[at]), part)):
            heappush(cheapest, entry)
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def _by_rank(pieces: list[Positions], world_size: int) -> list[list[Positions]]:
    """The pieces of each rank; they are as many as a multiple of the ranks, in falling order of their cost.

    Micro-batches of similar cost run at the same time on different ranks; every other round is reversed, to balance the
    sums.
    """
    rounds = [pieces[start : start + world_size] for start in range(0, len(pieces), world_size)]
    return [
        [round_[rank] if number % 2 == 0 else round_[-1 - rank] for number, round_ in enumerate(rounds)]
        for rank in range(world_size)
    ]


def _cut(sizes: NDArray[np.int64], *, micro_batch_tokens: int, cost: Cost, max_cost: float = float("inf")) -> list[int]:
    """How many rows each micro-batch takes when they are filled one after the other; `sizes` is in falling order."""
    counts: list[int] = []
    start = 0
    while start < len(sizes):
        longest = int(sizes[start])
        room = min(micro_batch_tokens / longest, max_cost / cost.of_rows(longest), len(sizes) - start)
        counts.append(max(1, int(room)))
        start += counts[-1]
    return counts


def _split_to(pieces: list[Positions], number: int) -> list[Positions]:
    """Halves the largest pieces until there are `number`; adds empty ones at the end if there are too few rows."""
    pieces = list(pieces)
    while len(pieces) < number:
        largest = max(range(len(pieces)), key=lambda at: len(pieces[at]))
        if len(pieces[largest]) < 2:
            return pieces + [np.empty(0, dtype=np.int64)] * (number - len(pieces))
        pieces[largest : largest + 1] = np.array_split(pieces[largest], 2)
    return pieces
