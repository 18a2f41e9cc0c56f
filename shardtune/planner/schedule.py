"""Seconds of a step: compute, the communication that it does not hide, the update, and what is moved to the host."""

from dataclasses import dataclass, replace

from shardtune.planner.compute import Rates, Seconds, micro_batch_seconds
from shardtune.planner.constants import DEFAULTS, Constants
from shardtune.planner.job import Job
from shardtune.planner.network import collective_seconds, step_traffic

HOST_GB_S = 200.0
"""Memory bandwidth of a node's processors, which its ranks share (two sockets of 8 channels DDR4-3200: 2 x 205)."""
ROUNDING_TRAFFIC = 290.0
"""Bytes that an update with moments in bf16 reads and writes for a parameter: 30 operations, each on tensors in memory
(trainer/engine/states/bf16_adamw.py)."""
PCIE_GB_S = 25.0
"""Pinned copies between a GPU and its host over PCIe 4 x16 (bandwidthTest of CUDA's samples)."""


@dataclass(frozen=True)
class StepTime:
    """The parts of a step's time in seconds."""

    forward: Seconds
    backward: Seconds
    communication_s: float
    """All of it, hidden or not."""
    exposed_s: float
    """What compute does not hide."""
    update_s: float
    offload_s: float
    tokens: float
    """Tokens of a rank in the step, padding included."""
    model_operations: float
    """Of a rank in the step; recomputation is not counted."""

    @property
    def compute_s(self) -> float:
        return self.forward.total + self.backward.total

    @property
    def total_s(self) -> float:
        return self.compute_s + self.exposed_s + self.update_s + self.offload_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of a rank."""
        return self.tokens / self.total_s

    def times(self, factor: float) -> "StepTime":
        """The same step if all of its parts take so many times as long."""
        return replace(
            self,
            forward=self.forward.times(factor),
            backward=self.backward.times(factor),
            communication_s=self.communication_s * factor,
            exposed_s=self.exposed_s * factor,
            update_s=self.update_s * factor,
            offload_s=self.offload_s * factor,
        )

    def mfu(self, peak_tflops: float) -> float:
        """Model FLOPs utilization."""
        return self.model_operations / self.total_s / (peak_tflops * 1e12)


def step_time(job: Job, constants: Constants = DEFAULTS) -> StepTime:
    """The time of an optimizer step of the job."""
    forward, backward = (part.times(job.batch.num_micro_batches) for part in micro_batch_seconds(job, constants))
    forward = forward.times(2 if job.asks_base else 1)
    traffic = step_traffic(job)
    seconds = {part.name: collective_seconds(part, job.cluster, constants) for part in traffic}
    communication = sum(seconds.values())
    hidden_by = forward.total + backward.total
    update, offload = _update_seconds(job, constants)
    if not job.states.shards_weights and "gather weights" in seconds:  # after the update, when nothing is computed
        alone = seconds["gather weights"]
        exposed = alone + _exposed(communication - alone, hidden_by, constants)
    else:
        exposed = _exposed(communication, hidden_by, constants)
    return StepTime(
        forward,
        backward,
        communication,
        exposed,
        update,
        offload,
        tokens=job.tokens * job.batch.num_micro_batches,
        model_operations=model_operations(job) * job.batch.num_micro_batches,
    )


def _exposed(communication: float, compute: float, constants: Constants) -> float:
    """Seconds of communication that compute of so many seconds does not hide."""
    return max(communication * constants.exposed, communication - compute)


def _update_seconds(job: Job, constants: Constants) -> tuple[float, float]:
    """Seconds of the update, and of moving states between host and GPU."""
    states, world = job.states, job.cluster.world_size
    own = job.num_trained / (world if states.shards_optimizer else 1)
    # Norm and clipping read gradients twice and write them once; AdamW reads 4 tensors and writes 3.
    moved = own * (3 * 4 + 4 + 4 + 2 * (states.master or states.weight) + 2 * states.moments)
    if states.rounds_moments:
        moved = own * ROUNDING_TRAFFIC
    moved += own * 3 * states.average  # reads it and the weights, and writes it
    if not states.offloads_optimizer:
        return Rates(job.cluster.gpu, job.precision, constants).moving(moved), 0.0
    update = moved * job.cluster.gpus_per_node / (HOST_GB_S * 1e9)
    copies = own * (states.weight + states.gradient * job.batch.num_micro_batches)
    if states.offloads_weights:
        copies += job.shape.num_parameters / world * states.weight * 2 * job.batch.num_micro_batches
    return update, copies / (PCIE_GB_S * 1e9)


def model_operations(job: Job) -> float:
    """Operations of a micro-batch: 6 for each weight and token, 12 for each pair of tokens that attend to each other
    and each element of a query (Chowdhery et al., 2022, appendix B), half of it where the mask is causal. A frozen
    weight has 4; below all that is trained, a third of each is left."""
    batch, shape = job.batch, job.shape
    total = (6 if job.adapters is None else 4) * job.num_losses * shape.hidden * shape.width
    for number, stack in enumerate(shape.stacks):
        length = batch.tokens if stack.side == "source" else batch.target_tokens
        tokens = batch.rows * length
        seen = min(length, batch.attended or length) / (2 if stack.is_causal else 1)
        seen += batch.tokens if stack.has_cross_attention else 0
        trained, passing, below = job.passes(number)
        weights = (6 * trained + 4 * passing + 2 * below) * stack.active
        pairs = (12 * (trained + passing) + 4 * below) * seen * stack.query_width
        total += tokens * (weights + pairs)
    return total
