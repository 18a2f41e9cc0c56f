"""Bytes of a node's host memory, and of checkpoints on disk."""

from shardtune.planner.job import Job
from shardtune.planner.memory import host_states
from shardtune.recipe.schema import Recipe

PROCESS = 3.5e9
"""A rank with torch, CUDA's libraries, DeepSpeed and the batches that it prepares. Assumed: 3 to 4 GB."""


def host_memory(recipe: Recipe, job: Job) -> dict[str, float]:
    """Bytes of a node's memory by term, at the larger of its two peaks: while the model is loaded, or in training.

    While loading, each rank holds a copy of the weights (at stage 3 the first rank alone: transformers gives the others
    no values; those to be quantized go to the GPU one by one). In training the newest checkpoint is
    copied to pinned memory, 12 bytes (8 with moments in bf16) for each trained parameter over all ranks, of which torch
    rounds each block up to a power of two: a third more on average.
    """
    ranks = job.cluster.gpus_per_node
    copies = 1 if job.states.shards_weights else ranks
    is_quantized = job.adapters is not None and job.adapters.base != "none"
    read = job.shape.largest_parameter if is_quantized else job.shape.num_parameters
    loading = {"processes": ranks * PROCESS, "loading": copies * read * job.states.weight}
    training = {"processes": ranks * PROCESS}
    training |= {name: ranks * size for name, size in host_states(job).items()}
    if recipe.checkpoint.asynchronous:
        training["checkpoint copy"] = _saved(job) / job.cluster.num_nodes * 4 / 3
    return max(loading, training, key=lambda terms: sum(terms.values()))


def checkpoint_bytes(recipe: Recipe, job: Job) -> float:
    """Bytes of all checkpoints that are kept, and the one that is being written: weights and moments."""
    last = max(recipe.checkpoint.keep_last, recipe.checkpoint.average_last or 0)
    kept = last + recipe.checkpoint.keep_best + 1
    return kept * _saved(job)


def _saved(job: Job) -> float:
    """Bytes of a checkpoint: weights that model.freeze leaves as they are are in it too, in their precision."""
    return job.states.saved * job.num_trained + job.states.weight * job.num_frozen
