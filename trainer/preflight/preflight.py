"""What the ranks check of their machines before the model is loaded, and what is said of it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, median_high
from typing import Any

from shardtune.errors import BadNodesError, LaunchError
from shardtune.recipe.load import learning_hash
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.bad_nodes import keep_bad_nodes, read_bad_nodes, to_leave
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight.link_speed import Link, measure_links
from shardtune.trainer.preflight.probe import SHARED_FILE_S, Facts, host_name, probe

LEAST_FREE_GB = 1.0
MOST_SKEW_S = 1.0
"""Where ntp runs, clocks are milliseconds from each other."""
SLOW = 0.5
"""A machine that computes at less than this part of the others' speed is slow."""
SLOW_LINK = 1 / 3
"""The same for what it sends; links differ more, by where in the network they lie."""


@dataclass(frozen=True)
class Verdict:
    """What is to be said of the machines."""

    faults: tuple[str, ...]
    """With which no training may begin."""
    notices: tuple[str, ...]
    bad_hosts: Mapping[str, str]
    """Machines without which the job would do better -> why, in a word or two."""


def preflight(recipe: Recipe, run_dir: Path, ranks: Ranks, *, job: str | None = None) -> list[str]:
    """Collective: what is remarkable about the machines, in words; nothing on a single one without a GPU.

    Raises LaunchError, on every rank, if they are not fit to train together, and BadNodesError if a scheduler's job is
    to leave some of them (job.exclude_bad_nodes).
    """
    uses_gpus = ranks.device.type == "cuda"
    if not uses_gpus and len(set(ranks.gather(host_name()))) == 1:
        return []  # ranks that share a machine's cores are as fast as they let each other be
    facts = probe(run_dir, ranks, recipe=learning_hash(recipe), gpus=uses_gpus)
    hosts = [its.host for its in facts]
    verdict = judge(facts, measure_links(ranks, hosts))
    if job is not None and recipe.job.exclude_bad_nodes and recipe.job.max_requeues:
        _leave_bad_nodes(verdict, run_dir, ranks, set(hosts), job)
    if verdict.faults:
        raise LaunchError("the machines do not fit together:\n  " + "\n  ".join(verdict.faults))
    return list(verdict.notices)


def _leave_bad_nodes(verdict: Verdict, run_dir: Path, ranks: Ranks, hosts: set[str], job: str) -> None:
    """Collective: raises BadNodesError if there are machines that the job is to leave."""
    known = ranks.gather(read_bad_nodes(run_dir) if ranks.is_zero else [])[0]
    if not (found := to_leave(verdict.bad_hosts, known, hosts)):
        return
    if ranks.is_zero:
        keep_bad_nodes(run_dir, found, job=job)
    ranks.barrier()
    said = [text for text in (*verdict.faults, *verdict.notices) if any(node in text for node in found)]
    raise BadNodesError(f"the job is to leave {', '.join(found)} (job.exclude_bad_nodes):\n  " + "\n  ".join(said))


def judge(facts: Sequence[Facts], links: Sequence[Link]) -> Verdict:
    """The verdict on what the ranks have found out."""
    recipes = _odd_ones(facts, lambda its: its.recipe, lambda its, usual: f"another recipe ({its}, elsewhere {usual})")
    odd = _odd_ones(facts, lambda its: its.versions, _versions)
    unfit = [*((host, f"{host} {text}") for host, text in odd), *_unfit_for_files(facts)]
    sick = list(_sick_gpus(facts))
    slow = [*_slow_ranks(facts), *_slow_hosts(links)]
    if facts[0].gpu is not None:  # ranks that share a machine's cores are as fast as they let each other be
        slow += _slow_inside(links)
    notices = [*_wrong_clocks(facts), *_stale_files(facts), *sick, *slow]
    return Verdict(
        faults=tuple(text for _, text in [*((host, f"{host} has {text}") for host, text in recipes), *unfit]),
        notices=(*(text for _, text in notices), *_slow_links(links)),
        bad_hosts={host: why for found, why in ((slow, "slow"), (sick, "sick"), (unfit, "unfit")) for host, _ in found},
    )


def render_facts(facts: Sequence[Facts], links: Sequence[Link]) -> str:
    """A line for each rank and each link."""
    lines = [
        f"rank {its.rank:3}  {its.host:16} {its.device}  {its.tflops:.3g} TFLOPS  {its.free_gb:,.0f} GB free  "
        f"clock {its.clock_s:+.4f} s"
        for its in facts
    ]
    lines += [f"link {_name(link)}  {link.gb_per_s:.3g} GB/s" for link in links]
    return "\n".join(lines)


Said = tuple[str, str]
"""(machine, what is to be said of it)."""


def _unfit_for_files(facts: Sequence[Facts]) -> Iterator[Said]:
    for host, its in _by_host(facts).items():
        if not all(one.sees_run_dir for one in its):
            yield (
                host,
                f"{host} does not see what rank 0 writes; the run directory must be on a common file system",
            )
        elif not all(one.is_seen for one in its):
            yield host, f"rank 0 does not see what {host} writes into the run directory; may it write there?"
        if (free := min(one.free_gb for one in its)) < LEAST_FREE_GB:
            yield host, f"{host} has {free:.1f} GB left where the run directory is"


def _stale_files(facts: Sequence[Facts]) -> Iterator[Said]:
    for host, its in _by_host(facts).items():
        if not all(one.sees_changes for one in its):
            text = f"{host} still sees a file of the run directory as it was {SHARED_FILE_S:.0f} s ago"
            yield host, f"{text}; a stop, or another start that has taken over, may be noticed late there"


def _wrong_clocks(facts: Sequence[Facts]) -> Iterator[Said]:
    now = median(its.clock_s for its in facts)
    for host, its in _by_host(facts).items():
        if abs(skew := its[0].clock_s - now) > MOST_SKEW_S:
            side = "ahead" if skew > 0 else "behind"
            yield host, f"the clock of {host} is {abs(skew):.3g} s {side}; is ntp running?"


def _sick_gpus(facts: Sequence[Facts]) -> Iterator[Said]:
    by_host = _by_host(facts)
    healths = {host: health for host, its in by_host.items() for one in its if (health := one.health) is not None}
    usual = Counter(len(its.gpus) for its in healths.values() if its.failure is None).most_common(1)
    for host, health in healths.items():
        used = {one.gpu for one in by_host[host]} - {None}
        if health.failure is not None:
            yield host, f"{host}: nvidia-smi fails ({health.failure})"
            continue
        if len(health.gpus) < usual[0][0]:
            yield host, f"{host} has {len(health.gpus)} GPUs as nvidia-smi says, others have {usual[0][0]}"
        for gpu in health.gpus:
            if gpu.ails and (not used or gpu.uuid in used):
                yield host, f"GPU {gpu.index} of {host} is not well: {'; '.join(gpu.ails)}"


def _slow_ranks(facts: Sequence[Facts]) -> Iterator[Said]:
    for host, its in _by_host(facts).items():
        others = [one.tflops for one in facts if one.host != host]
        slowest = min(its, key=lambda one: one.tflops)
        rest = others or [one.tflops for one in its if one is not slowest]
        if rest and slowest.tflops < SLOW * median(rest):
            text = f"{host} is slow: rank {slowest.rank} multiplies matrices at {slowest.tflops:.3g} TFLOPS"
            yield host, f"{text}, others at {median(rest):.3g}"


def _slow_hosts(links: Sequence[Link]) -> Iterator[Said]:
    """A machine is slow if the better half of its links is, as those of its neighbours have other ends that are not."""
    between = [link for link in links if not link.is_inside]
    rates = {host: median_high(link.gb_per_s for link in between if host in link.hosts) for host in _ends(between)}
    if len(rates) > 2:  # of two, who can say which
        usual = median(rates.values())
        for host, rate in rates.items():
            if rate < SLOW_LINK * usual:
                yield host, f"{host} is slow: it exchanges {rate:.2g} GB/s with most others, they {usual:.2g}"


def _slow_links(links: Sequence[Link]) -> Iterator[str]:
    """Those between machines that are slow though neither end is."""
    slow = {host for host, _ in _slow_hosts(links)}
    between = [link for link in links if not link.is_inside and not slow & set(link.hosts)]
    return (text for _, text in _behind(between))


def _slow_inside(links: Sequence[Link]) -> Iterator[Said]:
    return ((link.hosts[0], text) for link, text in _behind([link for link in links if link.is_inside]))


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


def _odd_ones(facts: Sequence[Facts], of: Callable[[Facts], Any], words: Callable[[Any, Any], str]) -> list[Said]:
    counts = Counter(repr(of(its)) for its in facts)
    usual = next(of(its) for its in facts if repr(of(its)) == counts.most_common(1)[0][0])
    odd = {its.host: of(its) for its in facts if of(its) != usual}
    return [(host, words(value, usual)) for host, value in odd.items()]


def _versions(its: Any, usual: Any) -> str:
    names = sorted(name for name in {*its, *usual} if its.get(name) != usual.get(name))
    return "has " + ", ".join(f"{name} {its.get(name)} (elsewhere {usual.get(name)})" for name in names)


def _by_host(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    return {host: [its for its in facts if its.host == host] for host in dict.fromkeys(its.host for its in facts)}
