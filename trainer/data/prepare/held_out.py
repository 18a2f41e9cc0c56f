"""Held-out splits: which training rows become dev or test rows where a recipe asks for a share of them."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from shardtune.recipe.sections.data import DataConfig
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row
from shardtune.rows.source_config import HeldOutConfig
from shardtune.trainer.data.prepare.digests import digest, input_values

FOLD_SEED = 2**32
"""Added to the seed of a fold: above all seeds of shares, so that the hashes of folds are independent of those."""


def shares_of(data: DataConfig) -> dict[str, HeldOutConfig]:
    """The splits of dev and test that are shares of the training rows."""
    return {split: share for split in ("dev", "test") if (share := data.share(split)) is not None}


def held_out(rows: Sequence[Row], data: DataConfig, inputs: Sequence[str], faults: Faults) -> NDArray[np.str_]:
    """The name of the split of each of these training rows: train, or dev or test where they are shares; shape (rows,).

    Only a hash of the row's group decides (of its `inputs` columns, if there are no groups): the same group is always
    in the same split, whatever else is in the data. dev takes the lowest hashes and test the highest, so that changing
    one share does not move rows of the other. A fold is drawn from the rows that are left, by another hash. Adds a
    fault for each row without a group.
    """
    shares = shares_of(data)
    if not shares:
        return np.full(len(rows), "train")
    (share, *_) = shares.values()
    fold = shares["test"] if "test" in shares and shares["test"].fold is not None else None
    drawn = {split: share for split, share in shares.items() if share is not fold}
    low, high = (int(drawn[split].fraction * 2**64) if split in drawn else 0 for split in ("dev", "test"))
    hashes = (_hash(row, share, inputs, faults) for row in rows)
    names = ["dev" if number < low else "test" if number >= 2**64 - high else "train" for number in hashes]
    if fold is not None:
        drawing = fold.model_copy(update={"seed": fold.seed + FOLD_SEED})
        folds = [_hash(row, drawing, inputs, Faults()) * fold.num_folds >> 64 for row in rows]
        names = [
            "test" if name == "train" and number == fold.fold else name
            for name, number in zip(names, folds, strict=True)
        ]
    return np.array(names, dtype="<U5")


def refuse_unknown_group(data: DataConfig, columns: Collection[str]) -> None:
    """Raises DataError if a group is not a column of any training row; `columns` are those of all training rows."""
    faults = Faults()
    for split, share in shares_of(data).items():
        if share.group is not None and share.group not in columns:
            names = ", ".join(columns)
            what = f"no training row has a column {share.group!r}; columns, after renaming: {names}"
            faults.add(f"data.{split}.group", what)
    faults.raise_if_any()


def _hash(row: Row, share: HeldOutConfig, inputs: Sequence[str], faults: Faults) -> int:
    """A hash of 64 bits that decides the split of a row."""
    if share.group is None:
        return digest(input_values(row, inputs), seed=share.seed)
    group = row.values.get(share.group)
    if group is None:
        faults.add(row, f"no {share.group}, the group by which rows are held out")
    return digest(group, seed=share.seed)
