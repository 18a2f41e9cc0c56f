"""How the ranks share the work on a step of a stream: each row is encoded by one rank, and each example travels once,
to the rank that trains on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shardtune.errors import DataError
from shardtune.rows.row_faults import BadRowsError, Faults
from shardtune.rows.source import Row
from shardtune.trainer.data.batches.deal import Positions
from shardtune.trainer.data.prepare.example_shards import Encoder
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.example import NOTED, TRUNCATED, Example

T = TypeVar("T")


def gather_or_raise(ranks: Ranks, value: T, errors: Mapping[int, DataError]) -> list[T]:
    """Collective: every rank's value, in rank order.

    Raises on all ranks if any has errors: all faults of rows together, ordered by the numbers of the errors, which are
    the same for any number of ranks; or else the first error.
    """
    own = {number: error.faults if isinstance(error, BadRowsError) else str(error) for number, error in errors.items()}
    gathered = ranks.gather((value, own))
    found = dict(sorted(chain.from_iterable(told.items() for _, told in gathered)))
    for error in found.values():
        if isinstance(error, str):
            raise DataError(error)
    faults = Faults()
    for error in found.values():
        assert isinstance(error, Faults)
        faults.update(error)
    faults.raise_if_any()
    return [value for value, _ in gathered]


def deliver(ranks: Ranks, own: Mapping[int, T], needed: Sequence[Positions]) -> dict[int, T]:
    """Collective: the items that this rank needs, by their positions. `own` are those that it has, and no other rank
    has; `needed` are the positions that each rank needs, the same on all ranks."""
    parts = ranks.exchange([{at: own[at] for at in positions.tolist() if at in own} for positions in needed])
    return {at: item for part in parts for at, item in part.items()}


@dataclass(frozen=True)
class StepExamples:
    """The examples of a step, of which this rank holds some; all ranks know the lengths of all."""

    lengths: NDArray[np.int32]
    num_targets: NDArray[np.float64]
    held: Mapping[int, Example]
    """By their numbers."""
    places: Mapping[int, str]
    """Where the row of each example that this rank has encoded was written, by its number."""

    def examples(self, rows: NDArray[np.int64]) -> list[Example]:
        return [self.held[row] for row in rows.tolist()]


def encode_step(rows: Mapping[int, Row], encoder: Encoder, task: Task, ranks: Ranks) -> StepExamples:
    """Collective: the examples of a step, each held by the rank that has its row; `rows` are this rank's, by position.

    TRUNCATED and NOTED, which are only counted when rows are prepared, are dropped from the examples. Raises
    DataError on all ranks alike.
    """
    by_row, errors = _encode(dict(sorted(rows.items())), encoder)
    sizes = {
        at: [(task.num_tokens(example), task.num_targets(example)) for example in examples]
        for at, examples in by_row.items()
    }
    held: dict[int, Example] = {}
    places: dict[int, str] = {}
    all_sizes: list[tuple[int, float]] = []
    for at, row_sizes in sorted(chain.from_iterable(own.items() for own in gather_or_raise(ranks, sizes, errors))):
        for number, example in enumerate(by_row.get(at, ()), start=len(all_sizes)):
            held[number] = {name: value for name, value in example.items() if name not in (NOTED, TRUNCATED)}
            places[number] = str(rows[at])[:]  # without the key of a RowLocation
        all_sizes += row_sizes
    return StepExamples(
        np.array([length for length, _ in all_sizes], dtype=np.int32),
        np.array([num_targets for _, num_targets in all_sizes], dtype=np.float64),
        held,
        places,
    )


def _encode(rows: Mapping[int, Row], encoder: Encoder) -> tuple[dict[int, list[Example]], dict[int, DataError]]:
    """The examples of each row by its position, or the errors of rows."""
    try:
        return dict(zip(rows, encoder.encode(list(rows.values()), Faults()), strict=True)), {}
    except BadRowsError as error:
        errors: dict[int, DataError] = {}
        for at, row in rows.items():  # one by one, because another number of ranks encodes other rows together
            try:
                encoder.encode([row], Faults())
            except BadRowsError as of_row:
                errors[at] = of_row
        return {}, errors or {min(rows): error}
    except DataError as error:
        return {}, {min(rows): error}
