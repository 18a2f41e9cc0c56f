"""Which of the training rows are held out for dev or test where a recipe asks for a share of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shardtune.recipe.schema import DataConfig
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row
from shardtune.rows.source_config import HeldOutConfig
from shardtune.trainer.data.prepare.digests import digest, held_in


def shares_of(data: DataConfig) -> dict[str, HeldOutConfig]:
    """Those of dev and test that are shares of the training rows."""
    return {split: share for split in ("dev", "test") if (share := data.share(split)) is not None}


def held_out(rows: Sequence[Row], data: DataConfig, inputs: Sequence[str], faults: Faults) -> NDArray[np.str_]:
    """The split that each of these training rows falls into: train, or dev or test where they are shares of it.

    A hash of the row's group decides (of what the model reads of it, the columns `inputs`, if there are no groups), and
    nothing else: the same group falls into the same split, whatever else is in the data. dev takes the lowest hashes
    and test the highest, so that neither moves the other. Adds the rows that have no group.
    """
    shares = shares_of(data)
    if not shares:
        return np.full(len(rows), "train")
    (share, *_) = shares.values()
    low, high = (int(shares[split].fraction * 2**64) if split in shares else 0 for split in ("dev", "test"))
    hashes = (_hash(row, share, inputs, faults) for row in rows)
    return np.array(["dev" if its < low else "test" if its >= 2**64 - high else "train" for its in hashes], dtype="<U5")


def refuse_unknown_group(data: DataConfig, columns: Sequence[str], faults: Faults) -> None:
    """Adds a group that is none of the columns that any training row has."""
    for split, share in shares_of(data).items():
        if share.group is not None and share.group not in columns:
            names = ", ".join(columns)
            what = f"no training row has a column {share.group!r}; columns, after renaming: {names}"
            faults.add(f"data.{split}.group", what)


def _hash(row: Row, share: HeldOutConfig, inputs: Sequence[str], faults: Faults) -> int:
    """64 bits."""
    if share.group is None:
        return digest(held_in(row, inputs), seed=share.seed)
    group = row.values.get(share.group)
    if group is None:
        faults.add(row, f"no {share.group}, by which rows are held out together")
    return digest(group, seed=share.seed)
