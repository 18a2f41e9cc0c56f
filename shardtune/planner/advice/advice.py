"""What `shardtune plan --auto` says, as numbers and as text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shardtune.counted import counted
from shardtune.planner.advice.changes import Change, changes
from shardtune.planner.advice.machines import ScalePoint, nodes_that_help, scaling_curve, smallest_machine
from shardtune.planner.advice.search import HOST_GIB_PER_GPU, Candidate, Question, Searched, search
from shardtune.planner.advice.text_table import lined_up
from shardtune.planner.forecast.forecast import GIB, duration
from shardtune.planner.hardware import Gpu
from shardtune.planner.job import Cluster

MOST_OTHERS = 8
"""Runners-up that are shown."""
HEAD = ("GPU GiB", "tokens/s", "step", "run", "GPU-hours")

SCALING_HEAD = ("nodes", "GPUs", "step", "run", "efficiency", "GPU-hours", "setting")


@dataclass(frozen=True)
class Advice:
    """The best settings on some machines, and other machines."""

    question: Question
    cluster: Cluster
    searched: Searched
    changes: Sequence[Change]
    """What would change what is learned: LoRA, a quantized base, optimizer states in bf16."""
    smallest: Candidate | None
    curve: Sequence[ScalePoint]

    @property
    def best(self) -> Candidate | None:
        return self.searched.best

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "machine": machine_of(self.cluster),
            "host_memory_bytes_per_node": round(self.question.host_bytes(self.cluster)),
            "settings_tried": self.searched.num_tried,
            "best": _json_of(self.best),
            "overrides": self.best.setting.overrides.split() if self.best else None,
            "nearest": _json_of(self.searched.nearest),
            "others": [_json_of(one) for one in self.searched.others],
            "too_large": [_json_of(one) for one in self.searched.too_large],
            "changes": [
                {"name": one.name, "overrides": one.overrides.split(), "best": _json_of(one.searched.best)}
                for one in self.changes
            ],
            "with_lora": next((_json_of(one.searched.best) for one in self.changes if one.name == "LoRA"), None),
            "smallest_machine": None if self.smallest is None else machine_of(self.smallest.forecast.cluster),
            "on_smallest_machine": _json_of(self.smallest),
            "scaling": [
                {
                    "nodes": point.cluster.num_nodes,
                    "gpus": point.cluster.world_size,
                    "efficiency": point.efficiency,
                    "best": _json_of(point.best),
                }
                for point in self.curve
            ],
            "more_nodes_help_up_to": nodes_that_help(self.curve),
        }

    def describe(self) -> str:
        """The advice as text."""
        return "\n".join([*self._best(), "", *self._others(), "", *self._machines(), "", *self._scaling()])

    def _best(self) -> Iterator[str]:
        if self.best is None:
            yield f"advice         nothing fits: of {self.searched.num_tried} settings none has room on this machine"
            near = self.searched.nearest
            yield f"               the nearest needs {needs(near)}: {near.setting.overrides}"
        else:
            yield self.best.forecast.describe()
            yield f"advice         the fastest of {self.searched.num_tried} settings that fits:"
            yield f"               {self.best.setting.overrides}"
        yield f"               {self.about_host()}"
        if self.changes:
            yield "What changes what is learned, and is yours to decide:"
        for change in self.changes:
            yield f"{change.name:14} {self.about_change(change)}"

    def about_host(self) -> str:
        """Which memory of a node was counted on."""
        limit = self.question.host_bytes(self.cluster) / GIB
        if self.question.host_limit is not None:
            return f"a node has {limit:,.0f} GiB of memory"
        return (
            f"a node is taken to have {limit:,.0f} GiB of memory, {HOST_GIB_PER_GPU} for each GPU; "
            "job.memory_per_node_gb says what it has"
        )

    def about_change(self, change: Change) -> str:
        """What a change would save."""
        best = change.searched.best
        if best is None:
            return f"{change.overrides} would not fit either: it needs {needs(change.searched.nearest)}"
        memory, settings = best.forecast.memory.used / GIB, best.setting.overrides
        return (
            f"{change.overrides} would train {best.forecast.planned.average.num_trained / 1e6:,.0f} M parameters in "
            f"{memory:.1f} GiB per GPU{change.gain(self.best)}, with {settings}"
        )

    def _others(self) -> Iterator[str]:
        shown = [self.best, *self.searched.others[:MOST_OTHERS]] if self.best else []
        if shown:
            yield "What fits, the fastest of each strategy:"
            rows = [("", *HEAD), *((setting_name(one), *figures(one)) for one in shown)]
            yield from (f"  {line}" for line in lined_up(rows))
            if (hidden := len(self.searched.others) - MOST_OTHERS) > 0:
                yield f"  and {hidden} slower (--json or --page has them)"
        if self.searched.too_large:
            yield "What does not fit, and what it needs at least:"
            yield from (
                f"  {line}" for line in lined_up([(setting_name(one), needs(one)) for one in self.searched.too_large])
            )

    def _machines(self) -> Iterator[str]:
        if self.smallest is None:
            yield "No machine of the table of GPUs with 512 GPUs or less is large enough."
            return
        cluster = self.smallest.forecast.cluster
        yield f"The smallest machine that can: {machine_name(cluster)} with {cluster.gpu.memory_gib:g} GiB each"
        yield f"  {_run_or_step(self.smallest)}, with {self.smallest.setting.overrides}"

    def _scaling(self) -> Iterator[str]:
        yield "More nodes, each with its best setting:"
        yield from (f"  {line}" for line in lined_up([SCALING_HEAD, *map(scaling_row, self.curve)]))
        yield self.about_nodes()

    def about_nodes(self) -> str:
        """How far more nodes help."""
        limit = nodes_that_help(self.curve)
        if limit is None:
            return f"Nothing fits on up to {counted(self.curve[-1].cluster.num_nodes, 'node')}."
        if limit == self.curve[-1].cluster.num_nodes:
            gpus = self.curve[-1].cluster.world_size
            return f"More nodes help up to {limit}: with {gpus} GPUs the rows of a step are all divided."
        return f"More nodes help up to {limit}: twice as many save less than a fifth of the time."


def advise(question: Question, cluster: Cluster, gpus: Sequence[Gpu]) -> Advice:
    """The advice for these machines; `gpus` are those of which smaller ones may consist. Raises ConfigError if the GPU
    cannot do what the recipe asks for."""
    return Advice(
        question,
        cluster,
        search(question, cluster),
        tuple(changes(question, cluster)),
        smallest_machine(question, gpus),
        scaling_curve(question, cluster),
    )


def machine_of(cluster: Cluster) -> dict[str, Any]:
    """The machine for programs."""
    return {"gpu": cluster.gpu.name, "nodes": cluster.num_nodes, "gpus_per_node": cluster.gpus_per_node}


def machine_name(cluster: Cluster) -> str:
    """`2 nodes x 8 x h100-sxm-80g`."""
    nodes = f"{cluster.num_nodes} nodes x " if cluster.num_nodes > 1 else ""
    return f"{nodes}{cluster.gpus_per_node} x {cluster.gpu.name}"


def setting_name(candidate: Candidate) -> str:
    """`zero2, 16,384 tokens, checkpointing`."""
    setting = candidate.setting
    checkpointing = ", checkpointing" if setting.activation_checkpointing else ""
    return f"{setting.deepspeed or 'null'}, {setting.micro_batch_tokens:,} tokens{checkpointing}"


def figures(candidate: Candidate) -> tuple[str, str, str, str, str]:
    """Memory, tokens a second of all GPUs, times, and GPU-hours, as HEAD names them."""
    found = candidate.forecast
    return (
        f"{found.memory.used / GIB:.1f}",
        f"{found.tokens_per_s_per_gpu * found.cluster.world_size:,.0f}",
        duration(candidate.step_s),
        "-" if found.run_s is None else duration(found.run_s),
        "-" if found.gpu_hours is None else f"{found.gpu_hours:,.1f}",
    )


def scaling_row(point: ScalePoint) -> tuple[str, ...]:
    """A line of the scaling curve, as SCALING_HEAD names its columns."""
    ends = (str(point.cluster.num_nodes), str(point.cluster.world_size))
    if point.best is None:
        return (*ends, *["-"] * 4, "does not fit")
    _, _, step, run, hours = figures(point.best)
    return (*ends, step, run, f"{point.efficiency:.0%}", hours, setting_name(point.best))


def needs(candidate: Candidate) -> str:
    """What a setting needs that does not fit, of the memory that is short."""
    found = candidate.forecast
    parts = []
    if found.verdict != "fits":
        tight = " (tight)" if found.verdict == "tight" else ""
        parts.append(f"{found.memory.used / GIB:,.1f} of {found.capacity / GIB:g} GiB per GPU{tight}")
    if not candidate.has_host:
        parts.append(f"{sum(found.host.values()) / GIB:,.0f} GiB of host memory per node")
    return " and ".join(parts)


def _run_or_step(candidate: Candidate) -> str:
    found = candidate.forecast
    return f"a step takes {duration(candidate.step_s)}" if found.run_s is None else f"it takes {duration(found.run_s)}"


def _json_of(candidate: Candidate | None) -> dict[str, Any] | None:
    """A setting and its forecast for programs."""
    if candidate is None:
        return None
    setting = candidate.setting
    return {
        "engine.deepspeed": setting.deepspeed,
        "train.micro_batch_tokens": setting.micro_batch_tokens,
        "model.activation_checkpointing": setting.activation_checkpointing,
        "fits": candidate.fits,
        "forecast": candidate.forecast.as_json(),
    }
