"""Which source each place of a mixture is of, so that every beginning of it is mixed as the whole is.

Arithmetic on the sources' counts alone. The law is that of the chairman assignment problem (Tijdeman, 1980).
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int16]


def interleave(counts: Sequence[int]) -> Places:
    """The source of each place; shape (sum of counts,). Source k has counts[k] of them, and among the first n places
    n * counts[k] / sum(counts), to less than or just one place."""
    places = by_halves(counts)
    if sum(count > 0 for count in counts) < 4:
        return places
    blocks = _blocks_to_mend(places, counts)
    own = [np.flatnonzero(places == source) for source in range(len(counts))]
    for start, stop in blocks:
        before, wanted = ([int(np.searchsorted(its, end)) for its in own] for end in (start, stop))
        behind = [count * start - its * len(places) for count, its in zip(counts, before, strict=True)]
        wanted = [its - earlier for its, earlier in zip(wanted, before, strict=True)]
        places[start:stop] = one_by_one(counts, wanted, behind)
    if blocks and (_furthest_off(places, counts) > len(places)).any():
        return one_by_one(counts, counts)
    return places


def by_halves(counts: Sequence[int]) -> Places:
    """Two halves of the sources at a time, each half's places evenly spread, and so on in either.

    Exact for up to three sources. With more, what each division may be off, one half of a place, adds up to more than a
    place now and then, though little, for the tree is Huffman's.
    """
    heap: list[tuple[int, int, Any]] = [(count, source, source) for source, count in enumerate(counts) if count]
    heapq.heapify(heap)
    number = len(counts)
    while len(heap) > 1:
        small, large = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (small[0] + large[0], number, (small, large)))
        number += 1
    places = np.empty(sum(counts), dtype=np.int16)
    pending = [(*its, np.arange(len(places))) for its in heap]
    while pending:
        count, _, tree, own = pending.pop()
        if isinstance(tree, int):
            places[own] = tree
            continue
        small, large = tree
        so_far = (2 * np.arange(count + 1) * small[0] + count) // (2 * count)
        is_small = np.diff(so_far) > 0
        pending += [(*small, own[is_small]), (*large, own[~is_small])]
    return places


def _furthest_off(places: Places, counts: Sequence[int]) -> NDArray[np.int64]:
    """After each place, how far the source that is furthest off is from its part, in places times their number."""
    total, at = len(places), np.arange(1, len(places) + 1)
    furthest = np.zeros(total, dtype=np.int64)
    for source, count in enumerate(counts):
        np.maximum(furthest, np.abs(np.cumsum(places == source) * total - at * count), out=furthest)
    return furthest


def _blocks_to_mend(places: Places, counts: Sequence[int]) -> list[tuple[int, int]]:
    """The stretches with a source that is off by more than a place, from and to where none is by more than half."""
    furthest = _furthest_off(places, counts)
    calm = np.concatenate([[0], np.flatnonzero(2 * furthest <= len(places)) + 1])
    after = np.searchsorted(calm, np.flatnonzero(furthest > len(places)) + 1)
    return [(int(calm[at - 1]), int(calm[at])) for at in np.unique(after)]


def one_by_one(counts: Sequence[int], wanted: Sequence[int], behind: Sequence[int] = ()) -> Places:
    """So many places of each source as `wanted`, mixed as `counts` are, by Tijdeman's rule: of the sources that are
    behind, the one whose next place is due first. `behind` is by how many places times sum(counts) they are at first.

    If they are not, and all are wanted, none is ever off by more than 1 - 1 / (2 * sources - 2) of a place.
    """
    total, num_sources = sum(counts), sum(count > 0 for count in counts)
    slack = total / max(1, 2 * num_sources - 2)
    late = [int(its) for its in behind] or [0] * len(counts)
    left = [int(its) for its in wanted]
    places = np.empty(sum(left), dtype=np.int16)
    for at in range(len(places)):
        chosen, first_due = -1, (True, float("inf"))
        for source, count in enumerate(counts):
            late[source] += count
            if left[source]:
                due = (late[source] < slack, (total - slack - late[source]) / count)
                if due < first_due:
                    chosen, first_due = source, due
        late[chosen] -= total
        left[chosen] -= 1
        places[at] = chosen
    return places
