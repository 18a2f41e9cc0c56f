"""Checks the machines before the model is loaded, and judges the results."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, median_high
from typing import Any

from shardtune.errors import BadNodesError, LaunchError
from shardtune.recipe.load import learning_hash
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.bad_nodes import keep_bad_nodes, may_be_excluded, read_bad_nodes
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight.link_speed import Link, measure_links
from shardtune.trainer.preflight.probe import SHARED_FILE_S, Facts, host_name, probe

LEAST_FREE_GB = 1.0
MOST_SKEW_S = 1.0
"""With ntp, clocks differ by milliseconds."""
SLOW = 0.5
"""A machine whose compute speed is below this part of the others' speed is slow."""
SLOW_LINK = 1 / 3
"""As SLOW, for links, which differ more by their place in the network."""


@dataclass(frozen=True)
class Verdict:
    """The result of the checks."""

    faults: tuple[str, ...]
    """Faults with which training cannot begin."""
    notices: tuple[str, ...]
    bad_hosts: Mapping[str, str]
    """Machines that the job should exclude -> why, in a word."""


def preflight(recipe: Recipe, run_dir: Path, ranks: Ranks, *, job: str | None = None) -> list[str]:
    """Collective: returns notices about the machines; none for a single machine without a GPU.

    Raises LaunchError, on every rank, if the machines cannot train together, and BadNodesError if a scheduler's job is
    to exclude some of them (job.exclude_bad_nodes).
    """
    uses_gpus = ranks.device.type == "cuda"
    if not uses_gpus and len(set(ranks.gather(host_name()))) == 1:
        return []  # ranks that share a machine's cores slow each other down
    facts = probe(run_dir, ranks, recipe=learning_hash(recipe), gpus=uses_gpus)
    hosts = [rank.host for rank in facts]
    verdict = judge(facts, measure_links(ranks, hosts))
    if job is not None and recipe.job.exclude_bad_nodes and recipe.job.max_requeues:
        _exclude_bad_nodes(verdict, run_dir, ranks, set(hosts), job)
    if verdict.faults:
        raise LaunchError("the machines cannot train together:\n  " + "\n  ".join(verdict.faults))
    return list(verdict.notices)


def _exclude_bad_nodes(verdict: Verdict, run_dir: Path, ranks: Ranks, hosts: set[str], job: str) -> None:
    """Collective: raises BadNodesError if the job is to exclude some machines."""
    known = ranks.from_zero(read_bad_nodes(run_dir) if ranks.is_zero else [])
    if not (nodes := may_be_excluded(verdict.bad_hosts, known, hosts)):
        return
    if ranks.is_zero:
        keep_bad_nodes(run_dir, nodes, job=job)
    ranks.barrier()
    reasons = "\n  ".join(text for text in (*verdict.faults, *verdict.notices) if any(node in text for node in nodes))
    raise BadNodesError(f"excluding {', '.join(nodes)} from this job (job.exclude_bad_nodes):\n  {reasons}")


def judge(facts: Sequence[Facts], links: Sequence[Link]) -> Verdict:
    """The verdict on the facts and links that the ranks have measured."""
    recipes = _odd_ones(
        facts, lambda rank: rank.recipe, lambda recipe, usual: f"a different recipe ({recipe}, elsewhere {usual})"
    )
    odd = _odd_ones(facts, lambda rank: rank.versions, _versions)
    unfit = [*((host, f"{host} {text}") for host, text in odd), *_unfit_for_files(facts)]
    sick = list(_sick_gpus(facts))
    slow = [*_slow_ranks(facts), *_slow_hosts(links)]
    if facts[0].gpu is not None:  # ranks that share a machine's cores slow each other down
        slow += _slow_inside(links, {rank.rank: rank.gpu_number for rank in facts})
    notices = [*_wrong_clocks(facts), *_stale_files(facts), *sick, *slow]
    return Verdict(
        faults=tuple(text for _, text in [*((host, f"{host} has {text}") for host, text in recipes), *unfit]),
        notices=(*(text for _, text in notices), *_slow_links(links)),
        bad_hosts={host: why for notes, why in ((slow, "slow"), (sick, "sick"), (unfit, "unfit")) for host, _ in notes},
    )


def render_facts(facts: Sequence[Facts], links: Sequence[Link]) -> str:
    """A line for each rank and each link."""
    lines = [
        f"rank {rank.rank:3}  {rank.host:16} {_device(rank)}  {rank.tflops:.3g} TFLOPS  {rank.free_gb:,.0f} GB free  "
        f"clock {rank.clock_s:+.4f} s"
        for rank in facts
    ]
    lines += [f"link {_name(link)}  {link.gb_per_s:.3g} GB/s" for link in links]
    return "\n".join(lines)


def _device(rank: Facts) -> str:
    return rank.device if rank.gpu_number is None else f"GPU {rank.gpu_number} {rank.device}"


Note = tuple[str, str]
"""(machine, text about it)."""


def _unfit_for_files(facts: Sequence[Facts]) -> Iterator[Note]:
    for host, ranks in _by_host(facts).items():
        if not all(rank.sees_run_dir for rank in ranks):
            yield host, f"{host} does not see what rank 0 writes; the run directory must be on a shared file system"
        elif not all(rank.is_seen for rank in ranks):
            yield host, f"rank 0 does not see what {host} writes into the run directory; check that it may write there"
        if (free := min(rank.free_gb for rank in ranks)) < LEAST_FREE_GB:
            needed = f"at least {LEAST_FREE_GB:.0f} GB is needed"
            yield host, f"{host} has {free:.1f} GB free where the run directory is; {needed}"


def _stale_files(facts: Sequence[Facts]) -> Iterator[Note]:
    for host, ranks in _by_host(facts).items():
        if not all(rank.sees_changes for rank in ranks):
            text = f"{host} still sees the old version of a file in the run directory after {SHARED_FILE_S:.0f} s"
            yield host, f"{text}; it may notice a stop request, or a start that took over, late"


def _wrong_clocks(facts: Sequence[Facts]) -> Iterator[Note]:
    now = median(rank.clock_s for rank in facts)
    for host, ranks in _by_host(facts).items():
        if abs(skew := ranks[0].clock_s - now) > MOST_SKEW_S:
            side = "ahead" if skew > 0 else "behind"
            yield host, f"the clock of {host} is {abs(skew):.3g} s {side}; is ntp running?"


def _sick_gpus(facts: Sequence[Facts]) -> Iterator[Note]:
    by_host = _by_host(facts)
    healths = {host: health for host, ranks in by_host.items() for rank in ranks if (health := rank.health) is not None}
    usual = Counter(len(health.gpus) for health in healths.values() if health.fault is None).most_common(1)
    for host, health in healths.items():
        used = {rank.gpu for rank in by_host[host]} - {None}
        if health.fault is not None:
            yield host, health.fault
            continue
        if len(health.gpus) < usual[0][0]:
            yield host, f"{host} has {len(health.gpus)} GPUs according to nvidia-smi, others have {usual[0][0]}"
        for gpu in health.gpus:
            if gpu.ails and (not used or gpu.address in used):
                yield host, f"GPU {gpu.number} of {host} is unhealthy: {'; '.join(gpu.ails)}"


def _slow_ranks(facts: Sequence[Facts]) -> Iterator[Note]:
    for host, ranks in _by_host(facts).items():
        others = [rank.tflops for rank in facts if rank.host != host]
        slowest = min(ranks, key=lambda rank: rank.tflops)
        rest = others or [rank.tflops for rank in ranks if rank is not slowest]
        if rest and slowest.tflops < SLOW * median(rest):
            gpu = "" if slowest.gpu_number is None else f" (GPU {slowest.gpu_number})"
            text = f"{host} is slow: rank {slowest.rank}{gpu} multiplies matrices at {slowest.tflops:.3g} TFLOPS"
            yield host, f"{text}, others at {median(rest):.3g}"


def _slow_hosts(links: Sequence[Link]) -> Iterator[Note]:
    """A machine is slow if the faster half of its links is; links of its neighbours have other ends that are not."""
    between = [link for link in links if not link.is_inside]
    rates = {host: median_high(link.gb_per_s for link in between if host in link.hosts) for host in _ends(between)}
    if len(rates) > 2:  # of two machines, either may be the slow one
        usual = median(rates.values())
        for host, rate in rates.items():
            if rate < SLOW_LINK * usual:
                text = f"{host} is slow: it exchanges {rate:.2g} GB/s with most other machines"
                yield host, f"{text}, which exchange {usual:.2g}"


def _slow_links(links: Sequence[Link]) -> Iterator[str]:
    """Links between machines that are slow although neither end is."""
    slow = {host for host, _ in _slow_hosts(links)}
    between = [link for link in links if not link.is_inside and not slow & set(link.hosts)]
    return (text for _, text in _behind(between))


def _slow_inside(links: Sequence[Link], gpus: Mapping[int, int | None]) -> Iterator[Note]:
    inside = [link for link in links if link.is_inside]
    return ((link.hosts[0], f"{text}{_gpus_of(link, gpus)}") for link, text in _behind(inside))


def _gpus_of(link: Link, gpus: Mapping[int, int | None]) -> str:
    numbers = [number for rank in link.ranks if (number := gpus.get(rank)) is not None]
    return f" (GPUs {numbers[0]} and {numbers[1]})" if len(numbers) == 2 else ""


def _behind(alike: Sequence[Link]) -> Iterator[tuple[Link, str]]:
    usual = median(link.gb_per_s for link in alike) if len(alike) > 2 else 0.0
    for link in alike:
        if link.gb_per_s < SLOW_LINK * usual:
            yield link, f"the link {_name(link)} is slow: {link.gb_per_s:.2g} GB/s, others of its kind {usual:.2g}"


def _name(link: Link) -> str:
    (a, b), (rank, other) = link.hosts, link.ranks
    return f"{a} - {b}" if not link.is_inside else f"rank {rank} - rank {other} within {a}"


def _ends(links: Sequence[Link]) -> list[str]:
    return list(dict.fromkeys(host for link in links for host in link.hosts))


def _odd_ones(facts: Sequence[Facts], of: Callable[[Facts], Any], words: Callable[[Any, Any], str]) -> list[Note]:
    counts = Counter(repr(of(rank)) for rank in facts)
    usual = next(of(rank) for rank in facts if repr(of(rank)) == counts.most_common(1)[0][0])
    odd = {rank.host: of(rank) for rank in facts if of(rank) != usual}
    return [(host, words(value, usual)) for host, value in odd.items()]


def _versions(versions: Any, usual: Any) -> str:
    names = sorted(name for name in {*versions, *usual} if versions.get(name) != usual.get(name))
    return "has " + ", ".join(f"{name} {versions.get(name)} (elsewhere {usual.get(name)})" for name in names)


def _by_host(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    hosts = dict.fromkeys(rank.host for rank in facts)
    return {host: [rank for rank in facts if rank.host == host] for host in hosts}
