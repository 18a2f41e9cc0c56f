"""The test rows on which the best model has the highest loss, with what is in them, as far as their files are there.

They are where labels are wrong, or where the model is. test_rows.jsonl has their places, not their texts.
"""

import heapq
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from shardtune.json_lines import complete_lines
from shardtune.recipe.schema import Recipe
from shardtune.rows.formats import read_file
from shardtune.rows.input_file import File, ReadOptions, place_in_words
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import labeled, read_options
from shardtune.rows.source_files import FindError, find_source, is_dataset
from shardtune.run_dir.accepted import is_own
from shardtune.run_dir.files import TEST_ROWS
from shardtune.users import is_private_group

MOST_ROWS = 20
MOST_COLUMNS = 8
MOST_BYTES = 2**26
"""The texts are not looked up in a file that is larger: it would be read up to the last of these rows."""
MOST_CHARACTERS = 4000
"""Of a text that are kept."""
_IN_FILE = re.compile(r"(?P<path>.+?):(?:\d+(?: \(row \d+\))?| row \d+)\Z", re.DOTALL)
"""A place as place_in_words writes it."""


@dataclass(frozen=True)
class WorstRow:
    """A row of the test split."""

    place: str
    """Where it is written, such as `test.csv:12`."""
    loss: float
    """The mean over its targets."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Column -> its text; empty if the file is not there any more or too large to be searched, or if somebody else may
    have written the place."""


@dataclass(frozen=True)
class WorstRows:
    """Rows with the highest loss, the highest first."""

    rows: Sequence[WorstRow]
    num_rows: int
    """Of the whole split."""

    @cached_property
    def columns(self) -> list[str]:
        """The columns that any of the rows has."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))[:MOST_COLUMNS]


def read_worst_rows(run_dir: Path, recipe: Recipe | None, most: int = MOST_ROWS) -> WorstRows:
    """The worst rows of a run directory; none without a test split, or if its file is damaged."""
    try:
        losses = list(_losses(complete_lines(run_dir / TEST_ROWS)))
        is_trusted = _is_this_users((run_dir / TEST_ROWS).lstat())
    except (OSError, ValueError, KeyError, TypeError):
        return WorstRows([], 0)
    worst = heapq.nlargest(most, losses, key=lambda found: found[1])
    texts = _texts_of([place for place, _ in worst], recipe) if is_trusted else {}
    return WorstRows([WorstRow(place, loss, texts.get(place, {})) for place, loss in worst], len(losses))


def _is_this_users(status: os.stat_result) -> bool:
    """Whether nobody else may have written a file: its places could have any file of this user copied into a report."""
    is_of_group = status.st_uid == os.geteuid() and is_private_group(status.st_gid)
    return is_own(status) or (stat.S_ISREG(status.st_mode) and is_of_group and not status.st_mode & stat.S_IWOTH)


def _losses(lines: Iterable[str]) -> Iterator[tuple[str, float]]:
    """(place, mean loss) of each row that has targets; the examples of a long row are neighbors."""
    examples = (json.loads(line) for line in lines)
    for place, parts in groupby(examples, key=lambda example: str(example["place"])):
        sums = [(float(part["loss"]) * float(part["targets"]), float(part["targets"])) for part in parts]
        if targets := sum(number for _, number in sums):
            loss = sum(total for total, _ in sums) / targets
            # What is not finite is the worst there is.
            yield place, loss if math.isfinite(loss) else math.inf


def _texts_of(places: Sequence[str], recipe: Recipe | None) -> dict[str, Mapping[str, str]]:
    """Place -> the columns of the row there."""
    by_path: dict[Path, set[str]] = {}
    for place in places:
        if match := _IN_FILE.fullmatch(place):
            by_path.setdefault(Path(match["path"]), set()).add(place)
    found: dict[str, Mapping[str, str]] = {}
    for path, wanted in by_path.items():
        with suppress(OSError, ValueError):
            if path.is_file() and path.stat().st_size <= MOST_BYTES:
                options, label = _how_read(path, recipe)
                found |= _rows_at(File(path, options), label, wanted)
    return found


def _rows_at(file: File, label: str | None, wanted: set[str]) -> dict[str, Mapping[str, str]]:
    """Place -> the columns of the rows at these places of a file, which is read up to the last of them."""
    found: dict[str, Mapping[str, str]] = {}
    for record in read_file(file, Faults()):
        place = place_in_words(file.path, record.line, record.item)
        if place in wanted:
            found[place] = {str(name): _text(value) for name, value in labeled(record, label).values.items()}
            if len(found) == len(wanted):
                break
    return found


def _how_read(path: Path, recipe: Recipe | None) -> tuple[ReadOptions, str | None]:
    """How the recipe reads a file, and the label that its folder gives it."""
    if recipe is None:
        return ReadOptions(), None
    for source in (source for split in ("test", "dev", "train") for source in recipe.data.sources(split)):
        options = read_options(source, text_unit=recipe.data.text_unit, text_files=recipe.task.text_files)
        with suppress(FindError, OSError):
            if not is_dataset(source.path) and path in (found := find_source(source.path, options)).files:
                return found.options, found.labels.get(path)
    return ReadOptions(), None


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
