"""Which of the training rows are held out for dev or test where a recipe asks for a share of them."""

from collections.abc import Sequence

from trainer.config.schema import DataConfig
from trainer.config.sources import HeldOutConfig
from trainer.data.digests import digest, held_in
from trainer.data.faults import Faults
from trainer.data.source import Row


def held_out(rows: Sequence[Row], data: DataConfig, inputs: Sequence[str], faults: Faults) -> dict[str, list[Row]]:
    """The training rows by the split that each falls into: train, and those of dev and test that are shares of it.

    A hash of the row's group decides (of what the model reads of it, the columns `inputs`, if there are no groups), and
    nothing else: the same group falls into the same split, whatever else is in the data. dev takes the lowest hashes
    and test the highest, so that neither moves the other. Adds the rows that have no group.
    """
    shares = {split: share for split in ("dev", "test") if (share := data.share(split)) is not None}
    splits: dict[str, list[Row]] = {"train": [], **{split: [] for split in shares}}
    if not shares:
        return {"train": list(rows)}
    (share, *_) = shares.values()
    if share.group is not None and not any(share.group in row.values for row in rows):
        found = ", ".join(dict.fromkeys(name for row in rows for name in row.values))
        for split in shares:
            faults.add(f"data.{split}.group", f"no row of train has a column {share.group!r}; found: {found}")
        return splits
    low, high = (int(shares[split].fraction * 2**64) if split in shares else 0 for split in ("dev", "test"))
    for row in rows:
        hashed = _hash(row, share, inputs, faults)
        splits["dev" if hashed < low else "test" if hashed >= 2**64 - high else "train"].append(row)
    return splits


def _hash(row: Row, share: HeldOutConfig, inputs: Sequence[str], faults: Faults) -> int:
    """64 bits."""
    if share.group is None:
        return digest(held_in(row, inputs), seed=share.seed)
    group = row.values.get(share.group)
    if group is None:
        faults.add(row, f"no {share.group}, by which rows are held out together")
    return digest(group, seed=share.seed)
