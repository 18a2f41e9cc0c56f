"""Machines that do not fit together are refused by name before the model is loaded, and slow ones are named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_ranks
from trainer import preflight as its_module
from trainer import probe as probing
from trainer.config.errors import LaunchError
from trainer.config.load import parse_recipe
from trainer.preflight import judge, preflight, render_facts
from trainer.probe import Facts, Link, measure_links, probe
from trainer.ranks import Ranks

GOOD = [
    Facts(
        rank=rank, host=f"node{rank // 2 + 1}", versions={"torch": "2.6"}, recipe="ab", device="cpu", tflops=1.0,
        free_gb=50.0, clock_s=1000.0, sees_run_dir=True,
    )
    for rank in range(6)
]  # fmt: skip
LINKS = [Link(("node1", "node2"), 1.0), Link(("node2", "node3"), 1.1), Link(("node3", "node1"), 0.9)]


def with_odd(rank: int, **change: Any) -> list[Facts]:
    return [replace(its, **change) if its.rank == rank else its for its in GOOD]


def test_of_good_machines_nothing_is_said() -> None:
    verdict = judge(GOOD, LINKS)
    assert (verdict.faults, verdict.notices, verdict.slow_hosts) == ((), (), ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {"torch": "2.5"}}, "node2 has torch 2.5 (elsewhere 2.6)"),
        ({"versions": {}}, "node2 has torch None (elsewhere 2.6)"),
        ({"recipe": "cd"}, "node2 has another recipe (cd, elsewhere ab)"),
        ({"sees_run_dir": False}, "node2 does not see what rank 0 writes"),
        ({"free_gb": 0.2}, "node2 has 0.2 GB left where the run directory is"),
    ],
)
def test_what_does_not_fit_is_a_fault_of_a_machine_by_name(change: dict[str, Any], said: str) -> None:
    (fault,) = judge(with_odd(3, **change), LINKS).faults
    assert fault.startswith(said)


def test_a_slow_rank_a_slow_link_and_a_wrong_clock_are_named() -> None:
    verdict = judge(with_odd(3, tflops=0.3), LINKS)
    assert verdict.notices == ("node2 is slow: rank 3 multiplies matrices at 0.3 TFLOPS, others at 1",)
    assert verdict.slow_hosts == ("node2",)

    slow = [replace(link, gb_per_s=0.1) if "node2" in link.hosts else link for link in LINKS]
    assert judge(GOOD, slow).notices == ("node2 is slow: it sends at 0.1 GB/s at best, others at 0.9",)
    assert judge(GOOD[:4], slow[:1]).notices == ()  # of two, nobody knows which

    late = [replace(its, clock_s=990.0) if its.host == "node3" else its for its in GOOD]
    assert judge(late, LINKS).notices == ("the clock of node3 is 10 s behind; is ntp running?",)


def test_a_slow_gpu_of_a_single_machine_is_named_by_its_rank() -> None:
    (notice,) = judge([replace(its, host="box") for its in with_odd(5, tflops=0.1)], []).notices
    assert notice == "box is slow: rank 5 multiplies matrices at 0.1 TFLOPS, others at 1"


def test_what_was_found_is_shown_a_line_for_each_rank_and_link() -> None:
    assert render_facts(GOOD[:1], LINKS[:1]) == (
        "rank   0  node1            cpu  1 TFLOPS  50 GB free\nlink node1 - node2  1 GB/s"
    )


def on_three_machines(ranks: Ranks) -> None:
    """Gives each of three ranks a machine of its own."""
    probing.host_name = its_module.host_name = lambda: f"node{ranks.rank + 1}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_link_of_the_ring_is_measured(tmp_path: Path, world_size: int) -> None:
    def body(ranks: Ranks) -> tuple[list[Facts], list[Link]]:
        on_three_machines(ranks)
        facts = probe(tmp_path, ranks, recipe="ab")
        return facts, measure_links(ranks, [its.host for its in facts])

    answers = run_ranks(body, world_size=world_size)
    facts, links = answers[0]
    assert all(answer == answers[0] for answer in answers)
    assert [its.host for its in facts] == [f"node{rank + 1}" for rank in range(world_size)]
    assert all(its.tflops > 0 and its.free_gb > 0 and its.sees_run_dir for its in facts)
    assert len({frozenset(link.hosts) for link in links}) == len(links) == (1 if world_size == 2 else world_size)
    assert all(link.gb_per_s > 0 for link in links)
    assert list(tmp_path.iterdir()) == []


def test_machines_that_do_not_share_the_run_directory_are_refused_on_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "SHARED_FILE_S", 0.2)
    text = (
        f"task: {{kind: classification}}\nmodel: {{path: {tmp_path}/encoder}}\ndata: {{train: {tmp_path}/train.jsonl}}"
    )
    recipe = parse_recipe(text)

    def body(ranks: Ranks) -> str:
        on_three_machines(ranks)
        folder = tmp_path / f"of-{ranks.rank}"  # not one that all see
        folder.mkdir()
        with pytest.raises(LaunchError) as error:
            preflight(recipe, folder, ranks)
        return str(error.value)

    said = run_ranks(body, world_size=3)
    assert said[0] == said[1] == said[2]
    assert "node2 does not see what rank 0 writes" in said[0] and "node1" not in said[0]
