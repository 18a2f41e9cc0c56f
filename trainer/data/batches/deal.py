"""How the rows of one optimizer step are distributed to ranks and cut into micro-batches.

Every rank computes the shares of all ranks from the lengths alone, without communication.
"""

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


def deal(lengths: NDArray[np.int32], *, world_size: int, micro_batch_tokens: int) -> list[list[Positions]]:
    """The micro-batches of each rank: positions in `lengths`, by [rank][micro_batch].

    Each position goes to one rank, and all ranks get the same number of micro-batches, empty ones where there are fewer
    rows. A micro-batch has at most micro_batch_tokens tokens with padding (or a single row). Rows of similar length go
    together. There are as few micro-batches as the budget allows, cut so that the most expensive one costs least.
    """
    longest_first = np.argsort(-lengths.astype(np.int64), kind="stable")
    sizes = lengths[longest_first].astype(np.int64)
    num_micro_batches = -(-len(_cut(sizes, micro_batch_tokens=micro_batch_tokens)) // world_size)
    num_cuts = num_micro_batches * world_size
    # The smallest cost limit that needs no more cuts: between that of the longest row alone and that of all rows.
    low, high = int(cost(sizes[0], 1)) - 1, int(cost(sizes[0], len(sizes))) + 1
    while high - low > 1:
        limit = (low + high) // 2
        fits = len(_cut(sizes, micro_batch_tokens=micro_batch_tokens, max_cost=limit)) <= num_cuts
        low, high = (low, limit) if fits else (limit, high)
    cuts = _cut(sizes, micro_batch_tokens=micro_batch_tokens, max_cost=high)
    pieces = np.split(longest_first, np.cumsum(cuts)[:-1])
    pieces = _split_to(pieces, num_cuts)
    # Micro-batches of similar cost run at the same time on different ranks; every other round is reversed, to balance
    # the sums.
    rounds = [pieces[start : start + world_size] for start in range(0, num_cuts, world_size)]
    return [
        [round_[rank] if number % 2 == 0 else round_[-1 - rank] for number, round_ in enumerate(rounds)]
        for rank in range(world_size)
    ]


def cost(longest: np.int64 | int, num_rows: int) -> float:
    """The cost of a forward and backward pass over `num_rows` rows, in tokens of very short rows."""
    # Attention's quadratic term against the linear rest of a layer: s / 6h (Narayanan et al., 2021, section 5.1: flops
    # of a layer 24 b s h^2 (1 + s / 6h)), at a hidden size of 1024.
    return float(longest) * num_rows * (1 + float(longest) / 6144)


def _cut(sizes: NDArray[np.int64], *, micro_batch_tokens: int, max_cost: float = float("inf")) -> list[int]:
    """How many rows each micro-batch takes when they are filled one after the other; `sizes` is in falling order."""
    counts: list[int] = []
    start = 0
    while start < len(sizes):
        longest = int(sizes[start])
        room = min(micro_batch_tokens / longest, max_cost / cost(longest, 1), len(sizes) - start)
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
