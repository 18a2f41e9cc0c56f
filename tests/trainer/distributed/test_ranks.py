"""The collectives, on real ranks; and what is set before ranks use a GPU."""

import os
from typing import Any

import pytest
import torch

from shardtune.trainer.distributed.ranks import ALLOCATOR_SETTINGS, Ranks, _let_segments_grow
from tests.support.ranks import run_ranks


def test_each_value_of_an_exchange_goes_to_its_rank_alone() -> None:
    def body(ranks: Ranks) -> tuple[list[Any], list[Any]]:
        values = [{"from": ranks.rank, "to": to, "padding": "x" * 100_000 * to} for to in range(ranks.world_size)]
        return ranks.exchange(values), ranks.exchange([None] * ranks.world_size)

    for world_size in (1, 3):
        for rank, (values, nothing) in enumerate(run_ranks(body, world_size=world_size)):
            assert [(value["from"], value["to"]) for value in values] == [(other, rank) for other in range(world_size)]
            assert {len(value["padding"]) for value in values} == {100_000 * rank}
            assert nothing == [None] * world_size


def test_a_sum_may_be_read_later_than_others_are_requested() -> None:
    def body(ranks: Ranks) -> list[list[float]]:
        first = ranks.sum_later(torch.tensor(0.1) * (ranks.rank + 1), ranks.rank == 1)
        second = ranks.sum(ranks.rank, 2**53)
        return [second, first()]

    expected = [[3.0, 3 * 2.0**53], [sum(float(torch.tensor(0.1) * rank) for rank in (1, 2, 3)), 1.0]]
    assert run_ranks(body, world_size=3) == [expected] * 3


@pytest.mark.parametrize("setting", ALLOCATOR_SETTINGS)
def test_segments_grow_unless_the_user_has_configured_the_allocator(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ALLOCATOR_SETTINGS:
        monkeypatch.setenv(name, "")
    _let_segments_grow()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")
    monkeypatch.setenv(setting, "max_split_size_mb:128")
    _let_segments_grow()
    values = {name: os.environ[name] for name in ALLOCATOR_SETTINGS}
    assert values == dict.fromkeys(ALLOCATOR_SETTINGS, "") | {setting: "max_split_size_mb:128"}
