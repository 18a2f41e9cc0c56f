"""What of a generated text is no use as a row to learn from."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

SHORTEST_LOOP = 32
"""Texts of fewer tokens may repeat themselves."""
DISTINCT = 0.4
"""A longer text has at least this share of distinct runs of four tokens: in prose it is above 0.9."""


@dataclass(frozen=True)
class Written:
    """The tokens of one generated text."""

    ids: list[int]
    """Without the token that ends it."""
    has_ended: bool
    """False if it was cut at the maximum length."""

    @classmethod
    def of(cls, ids: Sequence[int], ends: Collection[int]) -> "Written":
        """The text in a row that generate has returned, padded after its end."""
        at = next((at for at, token in enumerate(ids) if token in ends), None)
        return cls(list(ids[:at]), at is not None)

    def fault(self, special: Collection[int], *, must_end: bool) -> str | None:
        """Why it is not a row: the name of the reason; None if it is one."""
        if not self.ids:
            return "empty"
        if must_end and not self.has_ended:
            return "unfinished"
        if any(token in special for token in self.ids):
            return "with special tokens"
        return "looping" if is_loop(self.ids) else None


def is_loop(ids: Sequence[int]) -> bool:
    """Whether a text repeats few words again and again."""
    if len(ids) < SHORTEST_LOOP:
        return False
    runs = list(zip(*(ids[start:] for start in range(4)), strict=False))
    return len(set(runs)) < DISTINCT * len(runs)
