"""The source of each place of a mixture, such that every prefix is mixed like the whole.

Arithmetic on the counts of the sources alone: the chairman assignment problem (Tijdeman, 1980).
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int16]

FEW = 8
"""This many stretches or fewer are mended one after the other, which is faster than numpy's calls."""
CHUNK = 1 << 16
"""Places that are processed at a time: their intermediate arrays fit into the cache of a core."""


def interleave(counts: Sequence[int]) -> Places:
    """The source of each place; shape (sum of counts,). Source k has counts[k] places, and n * counts[k] / sum(counts)
    of the first n places, to within one place."""
    places = by_halves(counts)
    if sum(count > 0 for count in counts) < 4:
        return places
    return places if _mend(places, counts) else one_by_one(counts, counts)


def by_halves(counts: Sequence[int]) -> Places:
    """The mixture by repeated division of the sources into two halves, whose places are spread evenly.

    Exact for up to three sources. With more, the error of each division, half a place, can add up to more than a place;
    rarely and by little, because the tree is a Huffman tree.
    """
    heap: list[tuple[int, int, Any]] = [(count, source, source) for source, count in enumerate(counts) if count]
    heapq.heapify(heap)
    number = len(counts)
    while len(heap) > 1:
        small, large = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (small[0] + large[0], number, (small, large)))
        number += 1
    return _spread(heap[0][2], counts)


def _spread(tree: Any, counts: Sequence[int]) -> Places:
    """The places of a source, or of two trees, those of one spread evenly among those of the other."""
    if isinstance(tree, int):
        return np.full(counts[tree], tree, dtype=np.int16)
    small, large = (_spread(half[2], counts) for half in tree)
    total = len(small) + len(large)
    # Among the first n places, round(n * len(small) / total) are the smaller tree's, halves rounded up.
    is_small = np.zeros(total, dtype=bool)
    is_small[-(-(2 * np.arange(len(small)) + 1) * total // (2 * len(small))) - 1] = True
    places = np.empty(total, dtype=np.int16)
    places[is_small] = small
    places[~is_small] = large
    return places


def _furthest_off(places: Places, counts: Sequence[int]) -> NDArray[np.int64]:
    """After each place, the largest error of a source, in places times their number; shape (places,)."""
    total, ahead = len(places), [0] * len(counts)
    furthest = np.zeros(total, dtype=np.int64)
    for start in range(0, total, CHUNK):
        chunk, largest = places[start : start + CHUNK], furthest[start : start + CHUNK]
        for source, count in enumerate(counts):
            so_far = np.where(chunk == source, total - count, -count)
            so_far[0] += ahead[source]
            np.cumsum(so_far, out=so_far)
            ahead[source] = int(so_far[-1])
            np.maximum(largest, np.abs(so_far, out=so_far), out=largest)
    return furthest


def _mend(places: Places, counts: Sequence[int]) -> bool:
    """Lays out again, by Tijdeman's rule, the stretches in which a source is off by more than a place; a stretch begins
    and ends where no source is off by more than half a place. Returns whether no source is off by more than one now."""
    furthest = _furthest_off(places, counts)
    far = np.flatnonzero(furthest > len(places)) + 1
    if not len(far):
        return True
    calm = np.concatenate([[0], np.flatnonzero(2 * furthest <= len(places)) + 1])
    first = np.unique(np.searchsorted(calm, far)) - 1
    starts, stops = calm[first], calm[first + 1]
    inside = np.repeat(starts, stops - starts) + _counted(stops - starts)
    stretch = np.repeat(np.arange(len(starts)), stops - starts)
    num_sources = len(counts)
    wanted = np.bincount(stretch * num_sources + places[inside], minlength=len(starts) * num_sources)
    wanted = wanted.reshape(len(starts), num_sources)
    by_source = (np.flatnonzero(places == source) for source in range(num_sources))
    before = np.stack([np.searchsorted(own, starts) for own in by_source], axis=-1)
    behind = np.asarray(counts) * starts[:, np.newaxis] - before * len(places)
    mended = places[inside] = stretches(counts, wanted, behind)
    first_of = np.cumsum(stops - starts) - (stops - starts)
    for source, count in enumerate(counts):
        ahead = np.cumsum(np.where(mended == source, len(places) - count, -count))
        at_first = np.concatenate([[0], ahead])[first_of]
        if (np.abs(ahead - np.repeat(at_first + behind[:, source], stops - starts)) > len(places)).any():
            return False
    return True


def _counted(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ranges from 0 to each size, concatenated; shape (sum of sizes,)."""
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def stretches(counts: Sequence[int], wanted: NDArray[np.int64], behind: NDArray[np.int64]) -> Places:
    """The places that one_by_one gives for each of many stretches, concatenated; `wanted` and `behind` have the shape
    (stretches, sources).

    All stretches advance by one place at a time; the few longest are then finished one by one.
    """
    sizes = wanted.sum(axis=1)
    longest_first = np.argsort(-sizes, kind="stable")
    ends = -sizes[longest_first]
    late, left = behind[longest_first], wanted[longest_first]
    offsets = (np.cumsum(sizes) - sizes)[longest_first]
    places = np.empty(int(sizes.sum()), dtype=np.int16)
    total, each, slack = sum(counts), np.maximum(counts, 1), _slack(counts)
    at = 0
    while (active := int(np.searchsorted(ends, -at))) > FEW:
        active_late, active_left, rows = late[:active], left[:active], np.arange(active)
        active_late += counts
        due = np.where(active_left > 0, (total - slack - active_late) / each, np.inf)
        chosen = np.where(active_late >= slack, due, np.inf).argmin(axis=1)
        none_behind = ~((active_late >= slack) & (active_left > 0)).any(axis=1)
        chosen[none_behind] = due[none_behind].argmin(axis=1)
        active_late[rows, chosen] -= total
        active_left[rows, chosen] -= 1
        places[offsets[:active] + at] = chosen
        at += 1
    for stretch in range(active):
        start = offsets[stretch] + at
        rest = one_by_one(counts, left[stretch].tolist(), late[stretch].tolist())
        places[start : start + len(rest)] = rest
    return places


def _slack(counts: Sequence[int]) -> float:
    return sum(counts) / max(1, 2 * sum(count > 0 for count in counts) - 2)


def one_by_one(counts: Sequence[int], wanted: Sequence[int], behind: Sequence[int] = ()) -> Places:
    """`wanted` places of each source, mixed in the proportions of `counts`, by Tijdeman's rule: of the sources that are
    behind, the one whose next place is due first. `behind` says by how much each is at first, in places times
    sum(counts).

    If none is behind at first, and all places are wanted, none is ever off by more than 1 - 1 / (2 * sources - 2) of a
    place.
    """
    total, slack = sum(counts), _slack(counts)
    late = [int(amount) for amount in behind] or [0] * len(counts)
    left = [int(count) for count in wanted]
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
