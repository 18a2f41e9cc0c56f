"""Machines that cannot train together are refused by name before the model is loaded, and slow ones are named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import BadNodesError, LaunchError
from shardtune.recipe.load import parse_recipe
from shardtune.run_dir.bad_nodes import read_bad_nodes
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight import preflight as its_module
from shardtune.trainer.preflight import probe as probing
from shardtune.trainer.preflight.link_speed import Link, measure_links
from shardtune.trainer.preflight.nvidia_smi import Gpu, GpuHealth
from shardtune.trainer.preflight.preflight import judge, preflight, render_facts
from shardtune.trainer.preflight.probe import Facts, probe
from tests.support.ranks import run_ranks

GOOD = [
    Facts(
        rank=rank, host=f"node{rank // 2 + 1}", versions={"torch": "2.6"}, recipe="ab", device="cpu", tflops=1.0,
        free_gb=50.0, clock_s=0.0, sees_run_dir=True,
    )
    for rank in range(6)
]  # fmt: skip
RATES = {(0, 2): 1.0, (2, 4): 1.1, (0, 4): 0.9, (0, 1): 5.0, (2, 3): 5.0, (4, 5): 5.0}
"""Between the first ranks of the machines, and within them."""


def links_at(**rates: float) -> list[Link]:
    """LINKS, but for these: `r0_r2=0.1`."""
    changed = RATES | {(int(name[1]), int(name[4])): rate for name, rate in rates.items()}
    return [Link(pair, (GOOD[pair[0]].host, GOOD[pair[1]].host), rate) for pair, rate in changed.items()]


LINKS = links_at()


def with_odd(rank: int, **change: Any) -> list[Facts]:
    return [replace(entry, **change) if entry.rank == rank else entry for entry in GOOD]


def test_of_good_machines_nothing_is_said() -> None:
    verdict = judge(GOOD, LINKS)
    assert (verdict.faults, verdict.notices, verdict.bad_hosts) == ((), (), {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {"torch": "2.5"}}, "node2 has torch 2.5 (elsewhere 2.6)"),
        ({"versions": {}}, "node2 has torch None (elsewhere 2.6)"),
        ({"recipe": "cd"}, "node2 has a different recipe (cd, elsewhere ab)"),
        ({"sees_run_dir": False}, "node2 does not see what rank 0 writes"),
        ({"is_seen": False}, "rank 0 does not see what node2 writes"),
        ({"free_gb": 0.2}, "node2 has 0.2 GB free where the run directory is; at least 1 GB is needed"),
    ],
)
def test_what_does_not_fit_is_a_fault_of_a_machine_by_name(change: dict[str, Any], said: str) -> None:
    verdict = judge(with_odd(3, **change), LINKS)
    (fault,) = verdict.faults
    assert fault.startswith(said)
    assert verdict.bad_hosts == ({} if "recipe" in change else {"node2": "unfit"})  # a recipe is no fault of a machine


def test_a_slow_rank_and_a_wrong_clock_are_named() -> None:
    verdict = judge(with_odd(3, tflops=0.3), LINKS)
    assert verdict.notices == ("node2 is slow: rank 3 multiplies matrices at 0.3 TFLOPS, others at 1",)
    assert verdict.bad_hosts == {"node2": "slow"}

    late = [replace(entry, clock_s=-10.0) if entry.host == "node3" else entry for entry in GOOD]
    assert judge(late, LINKS).notices == ("the clock of node3 is 10 s behind; is ntp running?",)
    # The clock of rank 0 is the odd one.
    early = [replace(entry, clock_s=0.0 if entry.host == "node1" else -1.5) for entry in GOOD]
    assert judge(early, LINKS).notices == ("the clock of node1 is 1.5 s ahead; is ntp running?",)
    assert not judge(late, LINKS).bad_hosts


def test_a_machine_that_sees_files_as_they_were_is_named() -> None:
    (notice,) = judge(with_odd(3, sees_changes=False), LINKS).notices
    assert notice.startswith(
        "node2 still sees the old version of a file in the run directory after 10 s; it may notice a stop request"
    )


def test_a_slow_machine_is_told_from_a_slow_link() -> None:
    verdict = judge(GOOD, links_at(r0_r2=0.1, r2_r4=0.1))
    assert verdict.notices == ("node2 is slow: it exchanges 0.1 GB/s with most other machines, which exchange 0.9",)
    assert verdict.bad_hosts == {"node2": "slow"}
    assert judge(GOOD[:4], links_at(r0_r2=0.1)[:1]).notices == ()  # of two, nobody knows which

    verdict = judge(GOOD, links_at(r0_r2=0.1))
    assert verdict.notices == ("the link node1 - node2 is slow: 0.1 GB/s, others of its kind 0.9",)
    assert verdict.bad_hosts == {}


def test_a_slow_link_within_a_machine_is_the_machines_where_the_ranks_have_a_gpu_each() -> None:
    gpus = [replace(entry, device="H100", gpu=f"GPU-{entry.rank}") for entry in GOOD]
    verdict = judge(gpus, links_at(r2_r3=0.5))
    assert verdict.notices == ("the link rank 2 - rank 3 within node2 is slow: 0.5 GB/s, others of its kind 5",)
    assert verdict.bad_hosts == {"node2": "slow"}
    numbered = [replace(entry, gpu_number=entry.rank + 2) for entry in gpus]
    assert judge(numbered, links_at(r2_r3=0.5)).notices == (f"{verdict.notices[0]} (GPUs 4 and 5)",)
    assert judge(GOOD, links_at(r2_r3=0.5)).notices == ()


def test_a_gpu_that_is_not_well_is_named_if_the_job_uses_it() -> None:
    def of(host: str, *ails: str, fault: str | None = None, num_gpus: int = 2) -> list[Facts]:
        gpus = tuple(Gpu(str(at), f"GPU-{host}-{at}", ails if at == 1 else ()) for at in range(num_gpus))
        return [
            replace(
                entry,
                gpu=f"GPU-{entry.host}-{entry.rank % 2}",
                health=None
                if entry.rank % 2
                else GpuHealth(fault=fault)
                if fault and entry.host == host
                else GpuHealth(gpus)
                if entry.host == host
                else GpuHealth((Gpu("0", "a", ()), Gpu("1", "b", ()))),
            )
            for entry in GOOD
        ]

    assert judge(of("node2"), LINKS).notices == ()
    verdict = judge(of("node2", "3 uncorrected memory errors", "it is too hot"), LINKS)
    assert verdict.notices == ("GPU 1 of node2 is unhealthy: 3 uncorrected memory errors; it is too hot",)
    assert verdict.bad_hosts == {"node2": "sick"}
    elsewhere = [replace(entry, gpu=f"GPU-{entry.host}-0") for entry in of("node2", "it is too hot")]
    assert judge(elsewhere, LINKS).notices == ()
    verdict = judge(of("node2", fault="nvidia-smi does not answer within 30 s on node2"), LINKS)
    assert verdict.notices == ("nvidia-smi does not answer within 30 s on node2",)
    assert verdict.bad_hosts == {"node2": "sick"}
    (notice,) = judge(of("node2", num_gpus=1), LINKS).notices
    assert notice == "node2 has 1 GPUs according to nvidia-smi, others have 2"


def test_a_slow_gpu_of_a_single_machine_is_named_by_its_rank() -> None:
    (notice,) = judge([replace(entry, host="box") for entry in with_odd(5, tflops=0.1)], []).notices
    assert notice == "box is slow: rank 5 multiplies matrices at 0.1 TFLOPS, others at 1"
    numbered = [replace(entry, host="box", gpu_number=entry.rank + 2) for entry in with_odd(5, tflops=0.1)]
    (notice,) = judge(numbered, []).notices
    assert notice == "box is slow: rank 5 (GPU 7) multiplies matrices at 0.1 TFLOPS, others at 1"


def test_what_was_found_is_shown_a_line_for_each_rank_and_link() -> None:
    assert render_facts(GOOD[:1], LINKS[:1]) == (
        "rank   0  node1            cpu  1 TFLOPS  50 GB free  clock +0.0000 s\nlink node1 - node2  1 GB/s"
    )
    on_gpu = replace(GOOD[0], device="NVIDIA H100 80GB HBM3", gpu_number=5)
    assert render_facts([on_gpu], []).startswith("rank   0  node1            GPU 5 NVIDIA H100 80GB HBM3  1 TFLOPS")


def on_three_machines(ranks: Ranks) -> None:
    """Gives each of three ranks a machine of its own."""
    probing.host_name = its_module.host_name = lambda: f"node{ranks.rank + 1}"  # type: ignore[attr-defined]


def test_every_rank_finds_out_the_same_of_all(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> tuple[list[Facts], list[Link]]:
        on_three_machines(ranks)
        facts = probe(tmp_path, ranks, recipe="ab", gpus=False)
        return facts, measure_links(ranks, [entry.host for entry in facts])

    answers = run_ranks(body, world_size=3)
    facts, links = answers[0]
    assert all(answer == answers[0] for answer in answers)
    assert [entry.host for entry in facts] == ["node1", "node2", "node3"]
    assert all(entry.tflops > 0 and entry.free_gb > 0 for entry in facts)
    assert all(entry.sees_run_dir and entry.sees_changes and entry.is_seen for entry in facts)
    assert [link.ranks for link in links] == [(0, 1), (0, 2), (1, 2)] and all(link.gb_per_s > 0 for link in links)
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


def test_a_scheduled_job_that_is_to_leave_bad_nodes_ends_on_every_rank_and_writes_them_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        f"task: {{kind: classification}}\nmodel: {{path: {tmp_path}/encoder}}\ndata: {{train: {tmp_path}/train.jsonl}}"
    )
    recipe = parse_recipe(text, ["job.exclude_bad_nodes=true"])

    def body(ranks: Ranks) -> list[str]:
        on_three_machines(ranks)
        monkeypatch.setattr(probing, "matmul_tflops", lambda device: 0.1 if ranks.rank == 1 else 1.0)
        monkeypatch.setattr(its_module, "measure_links", lambda *_: [])
        with pytest.raises(BadNodesError) as error:
            preflight(recipe, tmp_path, ranks, job="7")
        ranks.barrier()
        # A start by hand is not put back, and neither is one to which the scheduler has given the same node again.
        return [str(error.value), *preflight(recipe, tmp_path, ranks), *preflight(recipe, tmp_path, ranks, job="7")]

    answers = run_ranks(body, world_size=3)
    slow = "node2 is slow: rank 1 multiplies matrices at 0.1 TFLOPS, others at 1"
    left = f"excluding node2 from this job (job.exclude_bad_nodes):\n  {slow}"
    assert answers == [[left, slow, slow]] * 3
    (kept,) = read_bad_nodes(tmp_path)
    assert (kept.node, kept.why, kept.job) == ("node2", "slow", "7")
