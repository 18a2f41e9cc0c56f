"""Which rank or node of a job step failed first, by the job's output and the records of the ranks. Pure.

The first record is not always the cause: a killed rank records nothing, one that fails before it knows its run
directory does not either, and srun then ends the other ranks with SIGTERM, which to them is a request to stop.
"""

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardtune.launcher.slurm.text import parse_node_list
from shardtune.run_dir.exit_codes import EXIT_RESUME
from shardtune.run_dir.files import failed_rank

TAIL_LINES = 20
_BLAMELESS = (EXIT_RESUME, -signal.SIGTERM)


@dataclass(frozen=True)
class RankExit:
    """How a rank ended, as torchrun reports it."""

    rank: int
    host: str
    code: int
    """The exit code; negative: the signal that killed it."""


@dataclass(frozen=True)
class NodeExit:
    """How the part of a step on one node ended, as srun reports it."""

    node: str
    how: str
    """In srun's words, such as `Exited with exit code 2` or `Killed`."""


@dataclass(frozen=True)
class Culprit:
    """The rank or node that failed first."""

    text: str
    """What happened, with all that is known of the reason."""
    is_killed: bool = False
    """Whether a rank was killed by a signal that no launcher sends."""
    rank: int | None = None
    """The rank, if there is no record of its failure."""
    code: int | None = None
    """Its exit code, if it was not killed."""


def parse_rank_exits(output: str) -> list[RankExit]:
    """The ranks that torchrun reports as failed, in the tables of all nodes."""
    block = r"host +: (\S+)\n *rank +: (\d+) \(local_rank: \d+\)\n *exitcode +: (-?\d+) \(pid: (\d+)"
    # torchrun kills a rank that ignores SIGTERM half a minute later: that one has not failed.
    ended_by_torchrun = set(re.findall(r"Unable to shutdown process (\d+) via", output))
    return [
        RankExit(int(rank), host.split(".")[0], -signal.SIGTERM if pid in ended_by_torchrun else int(code))
        for host, rank, code, pid in re.findall(block, output)
    ]


def parse_node_exits(output: str) -> list[NodeExit]:
    """The nodes on which a task of a step failed, in srun's order, without those where srun has ended it."""
    lines = re.findall(r"^srun: error: (\S+): tasks? [\d,-]+: (.+)$", output, flags=re.MULTILINE)
    return [NodeExit(node, how) for nodes, how in lines if how != "Terminated" for node in parse_node_list(nodes)]


def parse_lost_nodes(output: str) -> set[str]:
    """The nodes that Slurm declared lost while a step ran on them."""
    found = re.findall(r"^srun: error: Node failure on (\S+)$", output, flags=re.MULTILINE)
    return {node for nodes in found for node in parse_node_list(nodes)}


def is_stop(record: Mapping[str, Any], exits: Sequence[RankExit], *, was_signalled: bool) -> bool:
    """Whether the record of a rank that was asked to stop before its first step means that the job was asked.

    SIGTERM also comes from srun and torchrun when another rank has failed: unless the batch shell was signalled too, it
    counts only if the launcher saw that rank end by itself.
    """
    if record.get("code") != EXIT_RESUME:
        return False
    if not str(record["text"]).startswith("stopped by SIGTERM") or was_signalled:
        return True
    return any((one.rank, one.code) == (record["rank"], EXIT_RESUME) for one in exits)


def find_culprit(
    records: Sequence[Mapping[str, Any]], exits: Sequence[RankExit], node_exits: Sequence[NodeExit], output: str
) -> Culprit:
    """Who failed first; `records` are what the ranks of this start recorded, `output` is the job's since it began."""
    killed = [one for one in exits if one.code < 0 and one.code not in _BLAMELESS]
    # Collective libraries abort a rank whose peer is gone.
    struck = [one for one in killed if one.code != -signal.SIGABRT]
    recorded = {record["rank"] for record in records}
    silent = [one for one in exits if one.code > 0 and one.code not in _BLAMELESS and one.rank not in recorded]
    failures = sorted((one for one in records if one["code"] != EXIT_RESUME), key=lambda one: float(one["time"]))
    if struck:
        return _killed(struck[0])
    if silent:
        text = f"rank {silent[0].rank} on {silent[0].host} failed first: exit code {silent[0].code}, without a record"
        return Culprit(text, rank=silent[0].rank, code=silent[0].code)
    if failures:
        first = failures[0]
        text = f"{failed_rank(first)} failed first:\n{str(first['text']).rstrip()}"
        return Culprit(text, code=first["code"])
    if killed:
        return _killed(killed[0])
    tail = output_tail(output)
    if node_exits:
        how = node_exits[0].how
        text = f"{node_exits[0].node} failed first ({how[:1].lower()}{how[1:]}), before a rank recorded anything"
        return Culprit(f"{text}; the end of the output:\n{tail}" if tail else text, is_killed=how == "Killed")
    return Culprit(f"no rank recorded a failure; the end of the output:\n{tail}" if tail else "")


def _killed(exit_: RankExit) -> Culprit:
    number = -exit_.code
    text = f"rank {exit_.rank} on {exit_.host} was killed by signal {number} ({signal.strsignal(number)})"
    return Culprit(text, is_killed=True, rank=exit_.rank)


def output_tail(output: str) -> str:
    """The last lines that ranks and scripts printed, without those of torchrun, srun and slurmstepd that follow."""
    by_ranks = re.split(r"^.* failed \(exitcode: ", output, maxsplit=1, flags=re.MULTILINE)[0]
    noise = r"srun: (error: \S+: tasks? |launch/slurm|Force|Job step|Terminating)|slurmstepd"
    lines = [line for line in by_ranks.splitlines() if line.strip() and not re.match(noise, line)]
    return "\n".join(lines[-TAIL_LINES:])
