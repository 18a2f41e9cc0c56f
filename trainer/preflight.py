"""What the ranks check of their machines before the model is loaded, and what is said of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from trainer.config.errors import LaunchError
from trainer.config.load import learning_hash
from trainer.config.schema import Recipe
from trainer.probe import Facts, Link, host_name, measure_links, probe
from trainer.ranks import Ranks

LEAST_FREE_GB = 1.0
MOST_SKEW_S = 5.0
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
    slow_hosts: tuple[str, ...]


def preflight(recipe: Recipe, run_dir: Path, ranks: Ranks) -> list[str]:
    """Collective: what is remarkable about the machines, in words; nothing on a single one without a GPU.

    Raises LaunchError, on every rank, if they are not fit to train together.
    """
    if ranks.device.type == "cpu" and len(set(ranks.gather(host_name()))) == 1:
        return []  # ranks that share a machine's cores are as fast as they let each other be
    facts = probe(run_dir, ranks, recipe=learning_hash(recipe))
    verdict = judge(facts, measure_links(ranks, [its.host for its in facts]))
    if verdict.faults:
        raise LaunchError("the machines do not fit together:\n  " + "\n  ".join(verdict.faults))
    return list(verdict.notices)


def judge(facts: Sequence[Facts], links: Sequence[Link]) -> Verdict:
    """The verdict on what the ranks have found out."""
    faults = [
        *_odd_ones(facts, lambda its: its.versions, _versions),
        *_odd_ones(facts, lambda its: its.recipe, lambda its, usual: f"has another recipe ({its}, elsewhere {usual})"),
    ]
    for host, its in _by_host(facts).items():
        if not all(one.sees_run_dir for one in its):
            faults.append(f"{host} does not see what rank 0 writes; the run directory must be on a common file system")
        if (free := min(one.free_gb for one in its)) < LEAST_FREE_GB:
            faults.append(f"{host} has {free:.1f} GB left where the run directory is")
    notices = []
    now = median(its.clock_s for its in facts)
    for host, its in _by_host(facts).items():
        if abs(skew := median(one.clock_s for one in its) - now) > MOST_SKEW_S:
            notices.append(
                f"the clock of {host} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}; is ntp running?"
            )
    slow = _slow_ranks(facts)
    notices += slow.values()
    slow_links = _slow_links(links)
    notices += slow_links.values()
    return Verdict(tuple(faults), tuple(notices), tuple(dict.fromkeys([*slow, *slow_links])))


def render_facts(facts: Sequence[Facts], links: Sequence[Link]) -> str:
    """A line for each rank and each link."""
    lines = [
        f"rank {its.rank:3}  {its.host:16} {its.device}  {its.tflops:.3g} TFLOPS  {its.free_gb:,.0f} GB free"
        for its in facts
    ]
    lines += [f"link {link.hosts[0]} - {link.hosts[1]}  {link.gb_per_s:.3g} GB/s" for link in links]
    return "\n".join(lines)


def _slow_ranks(facts: Sequence[Facts]) -> dict[str, str]:
    found = {}
    for host, its in _by_host(facts).items():
        others = [one.tflops for one in facts if one.host != host]
        slowest = min(its, key=lambda one: one.tflops)
        rest = others or [one.tflops for one in its if one is not slowest]
        if rest and slowest.tflops < SLOW * median(rest):
            found[host] = (
                f"{host} is slow: rank {slowest.rank} multiplies matrices at {slowest.tflops:.3g} TFLOPS, "
                f"others at {median(rest):.3g}"
            )
    return found


def _slow_links(links: Sequence[Link]) -> dict[str, str]:
    """A machine is slow if the best of its links is, as those of its neighbours have another end that is not."""
    best: dict[str, float] = {}
    for link in links:
        for host in link.hosts:
            best[host] = max(best.get(host, 0.0), link.gb_per_s)
    if len(best) < 3:  # of two, who can say which
        return {}
    usual = median(best.values())
    return {
        host: f"{host} is slow: it sends at {rate:.2g} GB/s at best, others at {usual:.2g}"
        for host, rate in best.items()
        if rate < SLOW_LINK * usual
    }


def _odd_ones(facts: Sequence[Facts], of: Callable[[Facts], Any], words: Callable[[Any, Any], str]) -> list[str]:
    counts = Counter(repr(of(its)) for its in facts)
    usual = next(of(its) for its in facts if repr(of(its)) == counts.most_common(1)[0][0])
    odd = {its.host: of(its) for its in facts if of(its) != usual}
    return [f"{host} {words(value, usual)}" for host, value in odd.items()]


def _versions(its: Any, usual: Any) -> str:
    names = sorted(name for name in {*its, *usual} if its.get(name) != usual.get(name))
    return "has " + ", ".join(f"{name} {its.get(name)} (elsewhere {usual.get(name)})" for name in names)


def _by_host(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    return {host: [its for its in facts if its.host == host] for host in dict.fromkeys(its.host for its in facts)}
