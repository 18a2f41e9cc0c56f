"""Which source each place of a mixture is of, so that every beginning of it is mixed as the whole is.

Arithmetic on the sources' counts alone. The law is that of the chairman assignment problem (Tijdeman, 1980).
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int16]

FEW = 8
"""So many stretches or fewer are mended one after the other: numpy's calls would take longer."""
CHUNK = 1 << 16
"""Places that are looked at together: what is computed of them stays in a core's cache."""


def interleave(counts: Sequence[int]) -> Places:
    """The source of each place; shape (sum of counts,). Source k has counts[k] of them, and among the first n places
    n * counts[k] / sum(counts), to less than or just one place."""
    places = by_halves(counts)
    if sum(count > 0 for count in counts) < 4:
        return places
    return places if _mend(places, counts) else one_by_one(counts, counts)


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
    return _spread(heap[0][2], counts)


def _spread(tree: Any, counts: Sequence[int]) -> Places:
    """The places of a source, or those of two trees with each one's evenly among the other's."""
    if isinstance(tree, int):
        return np.full(counts[tree], tree, dtype=np.int16)
    small, large = (_spread(half[2], counts) for half in tree)
    total = len(small) + len(large)
    # Among the first n places are round(n * len(small) / total) of the smaller one's, halves up.
    is_small = np.zeros(total, dtype=bool)
    is_small[-(-(2 * np.arange(len(small)) + 1) * total // (2 * len(small))) - 1] = True
    places = np.empty(total, dtype=np.int16)
    places[is_small] = small
    places[~is_small] = large
    return places


def _furthest_off(places: Places, counts: Sequence[int]) -> NDArray[np.int64]:
    """After each place, how far the source that is furthest off is from its part, in places times their number."""
    total, ahead = len(places), [0] * len(counts)
    furthest = np.zeros(total, dtype=np.int64)
    for start in range(0, total, CHUNK):
        chunk, its = places[start : start + CHUNK], furthest[start : start + CHUNK]
        for source, count in enumerate(counts):
            so_far = np.where(chunk == source, total - count, -count)
            so_far[0] += ahead[source]
            np.cumsum(so_far, out=so_far)
            ahead[source] = int(so_far[-1])
            np.maximum(its, np.abs(so_far, out=so_far), out=its)
    return furthest


def _mend(places: Places, counts: Sequence[int]) -> bool:
    """Lays out anew, by Tijdeman's rule, the stretches with a source that is off by more than a place, from and to
    where none is by more than half; whether none is off by more now."""
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
    own = (np.flatnonzero(places == source) for source in range(num_sources))
    before = np.stack([np.searchsorted(its, starts) for its in own], axis=-1)
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
    """From 0 up to each size, one after the other; shape (sum of sizes,)."""
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def stretches(counts: Sequence[int], wanted: NDArray[np.int64], behind: NDArray[np.int64]) -> Places:
    """What one_by_one gives for each of many stretches, end to end; `wanted` and `behind` are of shape (stretches,
    sources).

    All of them go on by a place at a time; the few longest are then brought to their ends alone.
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
        its, its_left, rows = late[:active], left[:active], np.arange(active)
        its += counts
        due = np.where(its_left > 0, (total - slack - its) / each, np.inf)
        chosen = np.where(its >= slack, due, np.inf).argmin(axis=1)
        none_behind = ~((its >= slack) & (its_left > 0)).any(axis=1)
        chosen[none_behind] = due[none_behind].argmin(axis=1)
        its[rows, chosen] -= total
        its_left[rows, chosen] -= 1
        places[offsets[:active] + at] = chosen
        at += 1
    for stretch in range(active):
        start = offsets[stretch] + at
        its_places = one_by_one(counts, left[stretch].tolist(), late[stretch].tolist())
        places[start : start + len(its_places)] = its_places
    return places


def _slack(counts: Sequence[int]) -> float:
    return sum(counts) / max(1, 2 * sum(count > 0 for count in counts) - 2)


def one_by_one(counts: Sequence[int], wanted: Sequence[int], behind: Sequence[int] = ()) -> Places:
    """So many places of each source as `wanted`, mixed as `counts` are, by Tijdeman's rule: of the sources that are
    behind, the one whose next place is due first. `behind` is by how many places times sum(counts) they are at first.

    If they are not, and all are wanted, none is ever off by more than 1 - 1 / (2 * sources - 2) of a place.
    """
    total, slack = sum(counts), _slack(counts)
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
