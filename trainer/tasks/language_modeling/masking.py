"""Which tokens a masked language model has to guess, and what it is shown in their place (Devlin et al., 2019).

Arithmetic on an example's draw: the same for whoever asks, on any rank and after any stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.tasks.example import IGNORED

MASKED, REPLACED = 0.8, 0.1
"""The parts of the chosen tokens that are shown as [MASK] and as any token; what is left stays as it is."""


class Masked(NamedTuple):
    """A text with some of its tokens hidden; both of shape (tokens,)."""

    input_ids: list[int]
    labels: list[int]
    """The hidden tokens, IGNORED elsewhere."""


@dataclass(frozen=True, eq=False)
class Masking:
    """How tokens are chosen and hidden."""

    probability: float
    """The part of an example's tokens that is to be guessed; of each, rounded, and at least one."""
    mask_id: int
    special_ids: NDArray[np.int64]
    """What is never hidden, nor shown in another's place: [CLS], [SEP], [UNK], …"""
    other_ids: NDArray[np.int64]
    """What may be shown in another's place."""

    def num_targets(self, ids: Sequence[int]) -> int:
        """How many tokens of this text are to be guessed: the same in each draw. 0 if it has special ones only."""
        return self._num_targets(len(self._candidates(np.asarray(ids))))

    def hide(self, ids: Sequence[int], words: Sequence[int] | None, draw: tuple[int, int]) -> Masked:
        """The text as this draw shows it. If `words` says which word each token belongs to, words are hidden whole.

        Then the last word chosen may have more tokens than there are targets left: the rest is hidden, but not asked
        for, so that the number of targets does not depend on the draw.
        """
        shown = np.array(ids, dtype=np.int64)
        labels = np.full_like(shown, IGNORED)
        candidates = self._candidates(shown)
        count = len(candidates)
        random = np.random.Philox(key=np.array(draw, dtype=np.uint64)).random_raw(3 * count).reshape(3, count)
        # Raw draws, for numpy promises that these stay as they are across versions (NEP 19).
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
