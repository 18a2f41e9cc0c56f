"""Which tokens a masked language model has to predict, and what it sees in their place (Devlin et al., 2019).

A pure function of an example's draw: the same on every rank and after every restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.tasks.example import IGNORED

MASKED, REPLACED = 0.8, 0.1
"""The fractions of the chosen tokens that become [MASK] and a random token; the others stay unchanged."""


class Masked(NamedTuple):
    """A text with some tokens hidden; both lists have shape (tokens,)."""

    input_ids: list[int]
    labels: list[int]
    """The original tokens where they are to be predicted, IGNORED elsewhere."""


@dataclass(frozen=True, eq=False)
class Masking:
    """Chooses and hides tokens."""

    probability: float
    """The fraction of an example's tokens to predict, rounded to a whole number of tokens, at least one."""
    mask_id: int
    special_ids: NDArray[np.int64]
    """Tokens that are never hidden and never replace another: [CLS], [SEP], [UNK], …"""
    other_ids: NDArray[np.int64]
    """Tokens that may replace another."""

    def num_targets(self, ids: Sequence[int]) -> int:
        """The number of tokens to predict, the same in each draw; 0 if all tokens are special."""
        return self._num_targets(len(self._candidates(np.asarray(ids))))

    def hide(self, ids: Sequence[int], words: Sequence[int] | None, draw: tuple[int, int]) -> Masked:
        """The text as masked by this draw. If `words` has the word of each token, whole words are hidden.

        The last chosen word may then have more tokens than targets are left: its other tokens are hidden without being
        targets, so that the number of targets does not depend on the draw.
        """
        shown = np.array(ids, dtype=np.int64)
        labels = np.full_like(shown, IGNORED)
        candidates = self._candidates(shown)
        count = len(candidates)
        random = np.random.Philox(key=np.array(draw, dtype=np.uint64)).random_raw(3 * count).reshape(3, count)
        # Raw draws, because numpy guarantees only these to be stable across versions (NEP 19).
        units = candidates if words is None else np.asarray(words)[candidates]
        _, first, unit = np.unique(units, return_index=True, return_inverse=True)
        place = random[0][first][unit]
        chosen = np.lexsort((candidates, place))
        targets = chosen[: self._num_targets(count)]
        hidden = chosen[place[chosen] <= place[targets[-1]]] if len(targets) else targets
        labels[candidates[targets]] = shown[candidates[targets]]
        fate = (random[1][hidden] >> np.uint64(11)) * 2.0**-53
        replaced = self.other_ids[random[2][hidden] % np.uint64(len(self.other_ids))]
        shown[candidates[hidden]] = np.select(
            [fate < MASKED, fate < MASKED + REPLACED], [self.mask_id, replaced], shown[candidates[hidden]]
        )
        return Masked(shown.tolist(), labels.tolist())

    def _candidates(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.flatnonzero(~np.isin(ids, self.special_ids))

    def _num_targets(self, num_candidates: int) -> int:
        return max(1, round(self.probability * num_candidates)) if num_candidates else 0
