"""Every pair of machines is measured, all of them at the same time."""

from itertools import combinations

import pytest

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight.link_speed import MOST_ROUNDS, Link, measure_links, rounds_of, tournament
from tests.support.ranks import run_ranks


@pytest.mark.parametrize("num_players", range(9))
def test_in_a_tournament_each_meets_each_once_and_nobody_plays_twice_at_a_time(num_players: int) -> None:
    rounds = tournament(range(10, 10 + num_players))
    met = [tuple(sorted(pair)) for pairs in rounds for pair in pairs]
    assert sorted(met) == list(combinations(range(10, 10 + num_players), 2))
    assert all(len({player for pair in pairs for player in pair}) == 2 * len(pairs) for pairs in rounds)
    assert len(rounds) <= max(0, num_players - 1 + num_players % 2)


def test_first_all_play_within_their_machines_and_then_one_of_each_against_the_others() -> None:
    rounds = [set(pairs) for pairs in rounds_of(["a", "b", "a", "b", "a"])]
    assert rounds == [{(1, 3), (2, 4)}, {(0, 4)}, {(0, 2)}, {(0, 1)}]
    assert list(rounds_of(["a", "b"])) == [[(0, 1)]]
    assert list(rounds_of(["a"])) == []


def test_of_many_machines_each_is_measured_against_so_many_that_it_takes_seconds() -> None:
    rounds = list(rounds_of([f"node{number // 8}" for number in range(512 * 8)]))
    assert len(rounds) == 7 + MOST_ROUNDS
    assert all(len(pairs) == 256 for pairs in rounds[7:])
    assert len({frozenset(pair) for pairs in rounds for pair in pairs}) == 512 * 28 + 256 * MOST_ROUNDS


@pytest.mark.parametrize(("hosts", "pairs"), [(["a", "a", "b", "b"], {(0, 1), (2, 3), (0, 2)}), (["a"] * 3, None)])
def test_what_is_measured_is_known_to_every_rank(hosts: list[str], pairs: set[tuple[int, int]] | None) -> None:
    def body(ranks: Ranks) -> list[Link]:
        return measure_links(ranks, hosts)

    answers = run_ranks(body, world_size=len(hosts))
    assert all(answer == answers[0] for answer in answers)
    assert {link.ranks for link in answers[0]} == (pairs or {(0, 1), (0, 2), (1, 2)})
    assert all(link.hosts == (hosts[link.ranks[0]], hosts[link.ranks[1]]) for link in answers[0])
    assert all(0 < link.gb_per_s < 1000 for link in answers[0])
