"""What becomes of bad rows: they are refused, or skipped and counted (data.on_bad_row)."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from shardtune.errors import DataError
from shardtune.rows.row_faults import BadRowsError, Faults


class BadRowPolicy:
    """Refuses bad rows, or counts those that are skipped.

    Single rows may be skipped; what is wrong with more than single rows is always refused.
    """

    def __init__(self, on_bad_row: Literal["error", "skip"]) -> None:
        self._may_skip = on_bad_row == "skip"
        self._faults = Faults()
        self._num_skipped: Counter[str] = Counter()

    def add_unread(self, faults: Mapping[str, Faults], sizes: Mapping[str, int]) -> None:
        """Adds the faults found while each split was read; `sizes` has the rows that each split still has.

        Rows that could not be read are dropped already. Raises BadRowsError at once if going on would find no more
        faults: because more than single rows is wrong, or because a split has no rows left. Otherwise refuse_unread is
        to be called when the faults of the other rows are known too, so that all are reported together.
        """
        for split, split_faults in faults.items():
            self._faults.update(split_faults)
            self._num_skipped[split] += split_faults.num_rows
        if not self._faults.are_rows_alone or any(not sizes[split] for split in faults):
            self._refuse(self._faults)

    def refuse_unread(self, later_error: DataError | None) -> None:
        """Raises BadRowsError with the rows that could not be read, unless they may be skipped.

        The faults of a later BadRowsError are reported with them.
        """
        if self._faults and not self._may_skip:
            if isinstance(later_error, BadRowsError):
                self._faults.update(later_error.faults)
            raise BadRowsError(self._faults) from None

    def skip(self, faults: Faults) -> None:
        """Adds faults whose rows are to be skipped. Raises BadRowsError if they may not be."""
        self._refuse(faults)
        self._faults.update(faults)

    def count(self, num_skipped: Mapping[str, int]) -> None:
        """Counts rows that have been skipped, by split."""
        self._num_skipped.update(num_skipped)

    def refuse_empty(self, sizes: Mapping[str, int]) -> None:
        """Raises DataError if all rows of a split were skipped."""
        for split, size in sizes.items():
            if not size and self._num_skipped[split]:
                raise DataError(f"{split}: no rows left: all {self._num_skipped[split]:,} are bad:\n{self._faults}")

    @property
    def summary(self) -> str | None:
        """How many rows were skipped and why, for a person to read; None if there were none."""
        if not self._faults:
            return None
        by_split = ", ".join(f"{count:,} of {split}" for split, count in self._num_skipped.items() if count)
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in self._faults.reasons.most_common(10))
        first = "\n  ".join(self._faults.first)
        return f"rows skipped (data.on_bad_row): {by_split}: {reasons}; the first ones:\n  {first}"

    @property
    def report(self) -> dict[str, Any]:
        """The rows skipped by split and by reason, and the first faults. JSON values."""
        reasons = dict(self._faults.reasons.most_common())
        return {"rows": dict(+self._num_skipped), "reasons": reasons, "first": self._faults.first}

    def _refuse(self, faults: Faults) -> None:
        if faults and not (self._may_skip and faults.are_rows_alone):
            raise BadRowsError(faults)
