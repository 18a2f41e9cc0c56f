"""Random tokens that depend on the row alone: on the seed, the row's number, and the position in what it says.

So a row is the same whichever rank generates it, and whichever rows were generated before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    seed: int
    temperature: float
    """0 always takes the likeliest token."""
    top_p: float
    """Only the likeliest tokens that together have this probability are drawn."""

    def processor(self, rows: Sequence[int], part: int, num_tokens: int) -> "SeededTokens | None":
        """What draws up to `num_tokens` tokens of these rows; None if nothing is random.

        `part` is the number of the text within a row, such as 1 for the reply to a question.
        """
        if self.temperature == 0:
            return None
        draws = [np.random.default_rng([self.seed, row, part]).random(num_tokens) for row in rows]
        return SeededTokens(torch.from_numpy(np.stack(draws)), self.temperature, self.top_p)


class SeededTokens(LogitsProcessor):
    """Leaves one token to choose from in each row: the one that the row's own random number picks."""

    def __init__(self, draws: Tensor, temperature: float, top_p: float) -> None:
        """`draws` are numbers in [0, 1) of shape (rows, tokens)."""
        self._draws, self._temperature, self._top_p = draws, temperature, top_p
        self._position = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` of shape (rows, vocabulary), in which all tokens but one are impossible."""
        draws = self._draws[:, self._position].to(scores.device)
        self._position += 1
        chosen = pick(scores, draws, self._temperature, self._top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def pick(scores: Tensor, draws: Tensor, temperature: float, top_p: float) -> Tensor:
    """The token of each row at its place in [0, 1) of the cumulative probability, likeliest token first; shape (rows,).

    `scores` are logits of shape (rows, vocabulary), `draws` numbers in [0, 1) of shape (rows,).
    """
    probabilities, tokens = (scores.float() / temperature).softmax(-1).sort(stable=True, dim=-1, descending=True)
    reached = probabilities.double().cumsum(-1)
    num_kept = 1 + (reached[:, :-1] < top_p).sum(-1, keepdim=True)
    total = reached.gather(-1, num_kept - 1)
    place = (reached <= draws[:, None] * total).sum(-1, keepdim=True)
    chosen: Tensor = tokens.gather(-1, torch.minimum(place, num_kept - 1))[:, 0]
    return chosen
