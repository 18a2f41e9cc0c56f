"""The data card: splits, sources, what was dropped and found twice, lengths, labels."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from shardtune.launcher.report.parts import Figure, Part, Table
from shardtune.launcher.report.record import SPLITS, RunRecord
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.view.chart import nice_ticks, short

MOST_SOURCES = 10
"""Sources of a split that are named."""
MOST_LABELS = 100
MOST_LENGTHS = 2_000_000
"""Of more examples every n-th is counted."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, BINS = 440, 210, 58, 14, 42, 26, 40
COLOUR = "#1f6feb"
COUNTS = {
    "rows_dropped": "dropped",
    "rows_truncated": "truncated",
    "skipped": "malformed",
    "duplicates": "duplicates",
    "conflicts": "same input, other answer",
    "deduplicated": "removed as duplicates",
}
"""What may be counted of a split -> head of its column."""


def data_card(record: RunRecord) -> list[Part]:
    """The parts of the data card that are known."""
    tables = (_splits(record), _leaks(record), _near_leaks(record), _labels(record))
    parts: list[Part] = [table for table in tables if table is not None]
    drawn = [drawing for split in SPLITS if (drawing := _lengths(record, split))]
    return [*parts, *([Figure(drawn)] if drawn else [])]


def _splits(record: RunRecord) -> Table | None:
    """The sources of each split, with the rows and the tokens that were made of them."""
    recipe, start = record.recipe, record.start or {}
    if recipe is None:
        return None
    counts, prepared = start.get("data") or {}, _counts(record.prepared)
    names = [split for split in SPLITS if getattr(recipe.data, split) is not None]
    known = [key for key in COUNTS if any(prepared.get(split, {}).get(key) for split in names)]
    rows = []
    for split in names:
        numbers = {**prepared.get(split, {}), **counts.get(split, {})}
        cells = (f"{numbers[key]:,}" if key in numbers else "" for key in ("rows", "tokens", *known))
        rows.append((split, _sources(recipe, split), *cells))
    head = ("split", "source", "rows", "tokens", *(COUNTS[key] for key in known))
    return Table("Splits", head, rows, holds_texts=True)


def _counts(prepared: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Split -> what was counted while it was prepared."""
    found: dict[str, dict[str, int]] = {}
    for split, values in (prepared.get("splits") or {}).items():
        numbers = {key: value for key, value in values.items() if isinstance(value, int)}
        for key in ("duplicates", "conflicts", "deduplicated"):
            numbers[key] = (prepared.get(key) or {}).get(split, 0)
        numbers["skipped"] = ((prepared.get("bad_rows") or {}).get("rows") or {}).get(split, 0)
        found[split] = numbers
    return found


def _sources(recipe: Recipe, split: str) -> str:
    if (share := recipe.data.share(split)) is not None:
        return f"{share.fraction:.3g} of the training rows"
    paths = [source.path for source in recipe.data.sources(split)]
    more = [f"and {len(paths) - MOST_SOURCES} more"] if len(paths) > MOST_SOURCES else []
    return "\n".join([*paths[:MOST_SOURCES], *more])


def _leaks(record: RunRecord) -> Table | None:
    """Rows of a split whose input is in another one too."""
    return _leak_table("Leaks between splits", "that are in", record.prepared.get("leaks"))


def _near_leaks(record: RunRecord) -> Table | None:
    """Rows of a split whose input is nearly that of a row in another one."""
    found = record.prepared.get("near_duplicates") or {}
    return _leak_table("Near duplicates between splits", "that are nearly in", found.get("leaks"))


def _leak_table(title: str, relation: str, leaks: Sequence[Mapping[str, Any]] | None) -> Table | None:
    rows = [
        (str(leak.get("of")), str(leak.get("inside")), f"{leak['rows']:,}", "\n".join(map(str, leak.get("first", []))))
        for leak in leaks or []
        if leak.get("rows")
    ]
    head = ("rows of", relation, "number", "such as")
    return Table(title, head, rows, holds_texts=True) if rows else None


def _labels(record: RunRecord) -> Table | None:
    """How often each label occurs in each split."""
    counts = record.facts.get("label_counts")
    if not isinstance(counts, dict) or not all(isinstance(numbers, dict) for numbers in counts.values()) or not counts:
        return None
    splits = list(counts)
    totals: dict[str, int] = {}
    for numbers in counts.values():
        for label, number in numbers.items():
            totals[label] = totals.get(label, 0) + number
    labels = sorted(totals, key=lambda label: -totals[label])
    rows = [(label, *(f"{counts[split].get(label, 0):,}" for split in splits)) for label in labels[:MOST_LABELS]]
    note = f"The {MOST_LABELS} most frequent of {len(labels):,}." if len(labels) > MOST_LABELS else ""
    return Table("Labels", ("label", *splits), rows, has_row_heads=True, note=note)


def _lengths(record: RunRecord, split: str) -> str:
    """The lengths of a split's examples in tokens as an <svg>; empty if they are not known."""
    found = _read_histogram(record.prepared_folder, split) or _reported_histogram(record, split)
    if found is None:
        return ""
    counts, edges, words = found
    title = f"{split}: tokens of an example"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {words}")}">']
    parts.append(f'<text x="{LEFT}" y="17" class="title">{escape(title)}</text>')
    parts.append(f'<text x="{LEFT}" y="32">{words}</text>')
    parts += _bars(counts, edges)
    return "".join([*parts, "</svg>"])


def _bars(counts: list[int], edges: list[float]) -> Iterator[str]:
    ticks = nice_ticks(0.0, float(max(counts)), 4)
    height, bottom = HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM

    def x_at(length: float) -> float:
        return LEFT + length / edges[-1] * (WIDTH - LEFT - RIGHT)

    for tick in ticks:
        y = bottom - tick / ticks[-1] * height
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
    for at, count in enumerate(counts):
        tall, width = count / ticks[-1] * height, x_at(edges[at + 1]) - x_at(edges[at])
        about = f"{edges[at]:,.0f} to {edges[at + 1]:,.0f} tokens: {count:,}"
        yield (
            f'<rect x="{x_at(edges[at]):.1f}" y="{bottom - tall:.1f}" width="{max(1.0, width - 1):.1f}" '
            f'height="{tall:.1f}" fill="{COLOUR}"><title>{about}</title></rect>'
        )
    for tick in nice_ticks(0.0, edges[-1]):
        if tick <= edges[-1]:
            x = x_at(tick)
            yield f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{short(tick)}</text>'


Histogram = tuple[list[int], list[float], str]
"""(counts, edges, which are one more, the whole in words)."""


def _read_histogram(folder: Path | None, split: str) -> Histogram | None:
    """That of the prepared data, which are read only as far as they are counted; None if they are no longer there."""
    if folder is None:
        return None
    try:
        lengths = np.load(folder / f"{split}.lengths.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not len(lengths):
        return None
    counted = np.asarray(lengths[:: -(-len(lengths) // MOST_LENGTHS)])
    longest = max(int(counted.max()), 1)
    counts, edges = np.histogram(counted, bins=min(BINS, longest), range=(0, longest))
    words = f"median {int(np.median(counted)):,}, longest {longest:,}, of {len(lengths):,} examples"
    return counts.tolist(), edges.tolist(), words


def _reported_histogram(record: RunRecord, split: str) -> Histogram | None:
    """That which a `start` event has; None for versions that wrote none."""
    lengths = (record.start or {}).get("lengths")
    found = lengths.get(split) if isinstance(lengths, dict) else None
    counts, edges = (found.get(key) for key in ("counts", "edges")) if isinstance(found, dict) else (None, None)
    if not isinstance(counts, list) or not isinstance(edges, list) or not counts or len(edges) != len(counts) + 1:
        return None
    return counts, edges, f"longest {edges[-1] - 1:,}, of {sum(counts):,} examples"
