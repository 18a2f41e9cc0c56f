"""The plan of a Slurm job before it is submitted: on the GPUs that its partition has."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shardtune.launcher.plan.outlook import Outlook, no_plan, on_cpus_of_job, on_gpus
from shardtune.launcher.slurm.submission import Submission, share_of_node
from shardtune.launcher.slurm.text import Nodes
from shardtune.planner.hardware import find_gpu, gpu_of_slurm
from shardtune.recipe.schema import Recipe

UNKNOWN = "plan: none, because Slurm does not say which GPUs the nodes have; --gpu=h100-sxm-80g names them"


def outlook_of_submission(
    submission: Submission, cluster: Sequence[Nodes] | None, gpu: str | None, *, now: float
) -> Outlook:
    """What the job says of its plan, with warnings of what will go wrong; `gpu` is the kind that the user names.

    Raises ConfigError if the planner does not know that kind; nothing else stops a submission.
    """
    named = None if gpu is None else find_gpu(gpu)
    recipe, run_dir = submission.recipe, submission.run_dir
    kinds = _kinds(recipe, cluster)
    share = share_of_node(recipe.job, cluster)
    gpus = share.gpus
    if not gpus:
        ranks = recipe.job.ranks or min(2, share.cpus or 2)  # as `run` chooses on the node
        return _on_cpus(_with_limit(recipe, kinds), run_dir, ranks, now=now)
    found = {nodes.gpu_kind for nodes in kinds if nodes.gpus >= gpus}
    if named is None and (len(found) != 1 or None in found):
        return Outlook((UNKNOWN,), None)
    try:
        kind = named or gpu_of_slurm(str(found.pop()))
        return on_gpus(_with_limit(recipe, kinds), run_dir, kind, gpus, recipe.job.nodes, now=now, warns=True)
    except Exception as error:  # a plan is an extra: whatever it fails of must not cost the job
        return Outlook((no_plan(error),), None)


def written_late(outlook: Outlook) -> Outlook:
    """The same without its lines: they are said before the job is submitted, and there is a run directory after it."""
    return replace(outlook, lines=())


def _on_cpus(recipe: Recipe, run_dir: Path, num_ranks: int, *, now: float) -> Outlook:
    """The outlook of CPU ranks of a single node, if the machine that submits was measured: nodes are taken to be like
    it. Nothing is said otherwise."""
    nothing = Outlook((), None)
    if recipe.job.nodes > 1:
        return nothing
    try:
        found = on_cpus_of_job(recipe, run_dir, num_ranks, now=now)
    except Exception:  # a plan is an extra: whatever it fails of must not cost the job
        return nothing
    if found.record is None or "step_s" not in found.record:
        return nothing
    return replace(found, lines=(*found.lines, "plan: if the node is like this machine, which was measured"))


def _kinds(recipe: Recipe, cluster: Sequence[Nodes] | None) -> list[Nodes]:
    partition = recipe.job.partition
    return [
        nodes for nodes in cluster or () if (nodes.is_default if partition is None else nodes.partition == partition)
    ]


def _with_limit(recipe: Recipe, kinds: Sequence[Nodes]) -> Recipe:
    """The recipe with the partition's default as its time limit, if it has none of its own."""
    defaults = [nodes.default_time_s or nodes.time_limit_s for nodes in kinds]
    known = [seconds for seconds in defaults if seconds is not None]
    if recipe.job.time_limit is not None or not known:
        return recipe
    minutes, seconds = divmod(min(known), 60)
    limit = f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    return recipe.model_copy(update={"job": recipe.job.model_copy(update={"time_limit": limit})})
