"""A recipe and the flags of `shardtune plan --auto` and `--table` -> advice, and a table to choose from."""

from dataclasses import replace

from shardtune.errors import ConfigError
from shardtune.launcher.plan.forecast import Inquiry
from shardtune.launcher.plan.job import Machine
from shardtune.planner.advice.advice import Advice, advise
from shardtune.planner.advice.matrix import Cell, matrix
from shardtune.planner.hardware import known_gpus


def plan_advice(inquiry: Inquiry, machine: Machine) -> Advice:
    """The advice on the machines asked about. Raises ConfigError and CheckpointError as Inquiry.question."""
    question = inquiry.question(machine)
    cluster = inquiry.machines.cluster(question.recipe, machine)
    return advise(question, cluster, (*inquiry.machines.own_gpus(), *known_gpus()))


def plan_matrix(inquiry: Inquiry, machine: Machine, gpus: str | None, *, is_searched: bool) -> list[Cell]:
    """The recipe on each of the GPUs with each of the numbers of nodes, which are separated by commas; by default on
    the one kind that --gpu or this machine says. Raises ConfigError and CheckpointError as Inquiry.question."""
    machines = inquiry.machines
    names: list[str | None] = [machines.gpu]
    if gpus is not None:
        names = [*_listed(gpus, "--gpus", "a100-80g,h100")]
        inquiry = replace(inquiry, machines=replace(machines, gpu=names[0]))  # other machines than this one
    numbers: list[str | None] = [None]
    if machines.nodes is not None:
        numbers = [*_listed(machines.nodes, "--nodes", "1,2,4,8")]
    question = inquiry.question(machine)
    flag = "--gpu" if gpus is None else "--gpus"
    clusters = [
        replace(machines, gpu=name, nodes=number).cluster(question.recipe, machine, flag=flag)
        for name in names
        for number in numbers
    ]
    return matrix(question, clusters, is_searched=is_searched)


def _listed(text: str, flag: str, example: str) -> list[str]:
    """The different words between commas. Raises ConfigError if one is empty."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ConfigError(
            f"shardtune: {flag} takes words with commas between them, as in {flag}={example}, got {text!r}"
        )
    return list(dict.fromkeys(words))
