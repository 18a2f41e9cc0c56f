"""Ranks are bound to the cores of the NUMA node of their GPU, on machines that are folders here."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shardtune.recipe.load import parse_recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight import numa as binding
from shardtune.trainer.preflight.numa import (
    Binding,
    Seat,
    bind,
    bind_all_threads,
    find_seat,
    parse_cores,
    render_bindings,
    settle_ranks,
    shared_notes,
)
from tests.support.ranks import run_ranks

SEAT = Seat("node1", frozenset(range(8)), threads=2, node=1, cores=frozenset(range(4, 8)))
"""Of two nodes with four cores each, on a machine that it may use as a whole."""
GPU = "0000:c8:00.0"


@pytest.fixture
def sys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two NUMA nodes with two sockets' cores, a third without cores (as GPUs with memory of their own have), a GPU."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("SLURM_CPU_BIND_TYPE", raising=False)
    for node, cores in enumerate(("0-3", "4-7", "")):
        (folder := tmp_path / f"devices/system/node/node{node}").mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cores}\n")
    (device := tmp_path / "bus/pci/devices" / GPU).mkdir(parents=True)
    (device / "numa_node").write_text("1\n")
    (device / "local_cpulist").write_text("4-7\n")
    return tmp_path


def test_the_kernels_notation_of_cores() -> None:
    assert parse_cores("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11}
    assert parse_cores("\n") == frozenset()


def test_a_seat_has_the_cores_that_the_gpu_is_attached_to(sys: Path) -> None:
    seat = find_seat(GPU, threads=2, sys=sys)
    assert replace(seat, host="node1") == SEAT
    assert bind([seat, seat]) == [Binding(frozenset(range(4, 8)))] * 2  # of one node, which share its cores


def test_without_several_nodes_a_gpu_or_its_node_nothing_is_bound(sys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_seat(None, threads=2, sys=sys).node is None
    assert find_seat("0000:00:00.0", threads=2, sys=sys).node is None
    (sys / "bus/pci/devices" / GPU / "numa_node").write_text("-1\n")
    assert find_seat(GPU, threads=2, sys=sys).node is None
    (sys / "bus/pci/devices" / GPU / "numa_node").write_text("1\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})  # a job that has cores of one node only
    assert find_seat(GPU, threads=2, sys=sys).node is None
    assert bind([replace(SEAT, node=None, cores=frozenset())]) == [Binding()]


def test_only_cores_that_the_process_may_use_are_taken() -> None:
    assert bind([replace(SEAT, allowed=frozenset({0, 1, 4, 5}))]) == [Binding(frozenset({4, 5}))]
    assert bind([replace(SEAT, allowed=frozenset({4, 5}))]) == [Binding()]  # bound more narrowly already
    (away,) = bind([replace(SEAT, allowed=frozenset({0, 1}))])
    assert away.cores is None and away.reason == (
        "none of the cores that they may use is on the NUMA node of their GPU"
    )


def test_what_slurm_has_bound_stays(sys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPU_BIND_TYPE", "none")
    assert not find_seat(GPU, threads=2, sys=sys).is_bound
    monkeypatch.setenv("SLURM_CPU_BIND_TYPE", "mask_cpu:")
    assert bind([find_seat(GPU, threads=2, sys=sys)]) == [Binding(reason="Slurm has bound them to cores")]


def test_no_rank_gets_fewer_cores_than_threads() -> None:
    # One rank on the whole machine would leave the other node's cores idle; so would three on one node.
    for seats in ([replace(SEAT, threads=8)], [SEAT] * 3):
        assert {decision.cores for decision in bind(seats)} == {None}
    (decision, *_) = bind([SEAT] * 3)
    assert decision.reason is not None and decision.reason.startswith(
        "the 3 ranks of a NUMA node have 2 threads each, and the node has 4 cores; job.threads_per_rank"
    )
    assert bind([SEAT, SEAT, replace(SEAT, host="node2")])[2].cores == SEAT.cores


def test_it_is_said_once_for_all_ranks() -> None:
    here = [SEAT, SEAT, replace(SEAT, node=0, cores=frozenset(range(4)))]
    assert render_bindings(here, bind(here)) == [
        "3 ranks: each bound to the 4 cores of the NUMA node of its GPU (job.numa_binding)"
    ]
    two = [*here, replace(SEAT, host="node2", allowed=frozenset({0, 4, 5})), replace(SEAT, host="node3", is_bound=True)]
    assert render_bindings(two, bind(two)) == [
        "4 ranks on 2 machines: each bound to the 2 to 4 cores of the NUMA node of its GPU (job.numa_binding)",
        "1 rank not bound to the cores near its GPU (job.numa_binding): Slurm has bound them to cores",
    ]
    assert render_bindings([replace(SEAT, node=None)], [Binding()]) == []


def test_all_threads_are_bound_but_those_with_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = {0: {0, 1}, os.getpid(): {0, 1}, 71: {0, 1}, 72: {1}}
    monkeypatch.setattr(os, "sched_getaffinity", lambda task: affinity[task])
    monkeypatch.setattr(os, "sched_setaffinity", lambda task, cores: affinity.update({task: set(cores)}))
    tasks = type("Tasks", (), {"iterdir": lambda self: [Path(str(task)) for task in affinity if task]})()
    bind_all_threads(frozenset({0}), tasks)
    assert affinity == {0: {0, 1}, os.getpid(): {0}, 71: {0}, 72: {1}}


def test_a_thread_that_runs_already_and_one_that_is_started_later_are_bound() -> None:
    def body(_: Ranks) -> list[set[int]]:
        core, seen, go = min(os.sched_getaffinity(0)), [], threading.Event()
        early = threading.Thread(target=lambda: (go.wait(), seen.append(os.sched_getaffinity(0))))
        early.start()
        bind_all_threads(frozenset({core}))
        go.set()
        late = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        late.start()
        for thread in (early, late):
            thread.join()
        return [{core}, *seen]

    ((core, *seen),) = run_ranks(body, world_size=1)
    assert seen == [core, core]


def test_a_note_is_said_once_and_with_its_machine_unless_all_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(ranks: Ranks) -> list[str]:
        binding.host_name = lambda: f"node{ranks.rank // 2}"  # type: ignore[attr-defined]
        notes = ("of all", "of one") if ranks.rank == 3 else ("of all",)
        return shared_notes(replace(ranks, notes=notes))

    assert run_ranks(body, world_size=4) == [["of all", "of one (node1)"]] * 4


@pytest.mark.parametrize(("key", "bound"), [("auto", True), ("none", False)])
def test_the_recipe_decides_and_cpu_ranks_are_never_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, bound: bool
) -> None:
    text = (
        f"task: {{kind: classification}}\nmodel: {{path: {tmp_path}/encoder}}\ndata: {{train: {tmp_path}/train.jsonl}}"
    )
    recipe = parse_recipe(text, [f"job.numa_binding={key}"])
    monkeypatch.setattr(binding, "pci_address", lambda _: GPU)
    monkeypatch.setattr(binding, "find_seat", lambda *_, **__: SEAT)

    def body(ranks: Ranks) -> tuple[list[str], list[str], list[frozenset[int]]]:
        taken: list[frozenset[int]] = []
        binding.bind_all_threads = taken.append  # type: ignore[assignment]
        on_gpu = replace(ranks, device=torch.device("cuda", 0))
        binding.shared_notes = lambda _: []  # which would gather over the GPU
        monkeypatch.setattr(Ranks, "gather", lambda self, value: [value] * self.world_size)
        return settle_ranks(recipe, ranks), settle_ranks(recipe, on_gpu), taken

    said = ["2 ranks: each bound to the 4 cores of the NUMA node of its GPU (job.numa_binding)"]
    expected = ([], said if bound else [], [SEAT.cores] if bound else [])
    assert run_ranks(body) == [expected, expected]
