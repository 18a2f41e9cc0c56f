"""Tokens are drawn by the row's own random numbers, in the proportions of the model's probabilities."""

from typing import Any

import pytest
import torch

from shardtune.trainer.commands.sampling.draws import Sampling, pick

SCORES = torch.tensor([[0.5, 0.2, 0.3]]).log()


def picked(draw: float, *, temperature: float = 1.0, top_p: float = 1.0) -> int:
    return int(pick(SCORES, torch.tensor([draw], dtype=torch.float64), temperature, top_p))


def test_a_number_picks_the_token_at_its_place_in_the_cumulative_probability() -> None:
    assert [picked(draw) for draw in (0.0, 0.49, 0.51, 0.79, 0.81, 0.999999)] == [0, 0, 2, 2, 1, 1]


def test_top_p_keeps_the_likeliest_tokens_and_shares_out_the_rest() -> None:
    assert [picked(draw, top_p=0.6) for draw in (0.0, 0.62, 0.63, 0.999)] == [0, 0, 2, 2]  # 0.5 of 0.8 is 0.625
    assert {picked(draw, top_p=0.4) for draw in (0.0, 0.5, 0.999)} == {0}


def test_a_temperature_sharpens_and_flattens() -> None:
    """At 1/2 the probabilities are as 25 : 4 : 9, at a very high temperature equal."""
    assert [picked(draw, temperature=0.5) for draw in (0.65, 0.67, 0.88, 0.9)] == [0, 2, 2, 1]
    assert [picked(draw, temperature=1e6) for draw in (0.3, 0.6, 0.9)] == [0, 2, 1]


def test_the_numbers_of_a_row_are_its_own() -> None:
    sampling = Sampling(7, 1.0, 1.0)

    def draws(rows: list[int], part: int = 0, seed: int = 7) -> Any:
        processor = Sampling(seed, 1.0, 1.0).processor(rows, part, 5)
        assert processor is not None
        return processor._draws

    assert torch.equal(draws([3, 9])[1], draws([9])[0])
    for other in (draws([4]), draws([3], part=1), draws([3], seed=8)):
        assert not torch.isclose(draws([3]), other).any()
    assert Sampling(7, 0.0, 1.0).processor([3], 0, 5) is None and sampling.temperature == 1.0


def test_all_but_the_picked_token_become_impossible() -> None:
    processor = Sampling(0, 1.0, 1.0).processor(range(4), 0, 2)
    assert processor is not None
    scores = processor(torch.zeros(4, 1), SCORES.expand(4, -1))
    assert (scores.isfinite().sum(-1) == 1).all()


def test_the_shares_of_many_draws_are_the_probabilities() -> None:
    processor = Sampling(1, 1.0, 1.0).processor(range(4000), 0, 1)
    assert processor is not None
    chosen = processor(torch.zeros(4000, 1), SCORES.expand(4000, -1)).argmax(-1)
    shares = torch.bincount(chosen) / 4000
    assert shares.tolist() == pytest.approx([0.5, 0.2, 0.3], abs=0.03)
