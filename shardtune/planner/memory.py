"""Bytes of a GPU's memory, term by term and at five instants of a step, of which one is the peak."""

from collections.abc import Mapping
from dataclasses import dataclass

from shardtune.planner.activations import ends_bytes, layer_bytes, loss_bytes, working_bytes
from shardtune.planner.job import Adapters, Job
from shardtune.planner.network import kept_gathered
from shardtune.planner.quantized.frozen_weights import held_bytes, restored_bytes

CONTEXT = 0.6e9
"""The CUDA context with the kernels of torch and cuBLAS, and its workspace: what nvidia-smi shows of a process that has
computed one product. Assumed: 0.4 to 0.8 GB, by GPU and driver."""
COMMUNICATOR = 0.5e9
"""NCCL's buffers of a communicator that spans 8 GPUs or more: 4 MB of Simple, 0.5 of LL128 and LL for each of up to 24
channels and each of its peers. Assumed: 0.3 to 1 GB."""
CPU_PROCESS = 0.45e9
"""A rank on processors before its model: Python with torch, transformers and DeepSpeed. 0.43 GB were measured."""
ROUNDED_ELEMENTS, ROUNDED_AT_ONCE = 2**22, 5 * 4
"""Elements whose moments are rounded to bf16 at a time, and bytes that each takes meanwhile: five tensors in fp32
(trainer/engine/states/bf16_adamw.py)."""
FRAGMENTED = 0.05
"""The part of activations and other memory that comes and goes which the allocator cannot use again. Assumed."""


@dataclass(frozen=True)
class GpuMemory:
    """What a rank holds."""

    instants: Mapping[str, Mapping[str, float]]
    """`loss`, `gradient of the loss`, `start of backward`, `end of backward`, `update` -> term -> bytes of tensors."""
    world_size: int
    is_on_cpu: bool = False
    beyond: float = 0.0
    """Bytes by which earlier runs on the same machine had more than was planned; below 0 if they had less."""

    @property
    def peak_instant(self) -> str:
        """When the most is held."""
        return max(self.instants, key=lambda instant: sum(self.instants[instant].values()))

    @property
    def terms(self) -> Mapping[str, float]:
        """The terms of the peak."""
        return self.instants[self.peak_instant]

    @property
    def allocated(self) -> float:
        """Bytes of tensors at the peak (torch.cuda.max_memory_allocated)."""
        return sum(self.terms.values())

    @property
    def around(self) -> Mapping[str, float]:
        """What is no tensor, and still fills the GPU, or the memory of a rank on processors."""
        moving = sum(size for name, size in self.terms.items() if name in MOVING)
        learned = {"as in earlier runs": self.beyond} if self.beyond else {}
        if self.is_on_cpu:
            return {"process": CPU_PROCESS, "fragmentation": FRAGMENTED * moving, **learned}
        terms = {"CUDA context": CONTEXT, "fragmentation": FRAGMENTED * moving, **learned}
        return terms | ({"NCCL buffers": COMMUNICATOR} if self.world_size > 1 else {})

    @property
    def used(self) -> float:
        """Bytes that nvidia-smi shows at the peak."""
        return self.allocated + sum(self.around.values())


SECOND_COPY = "second copy of weights"
"""The term of weights that each machine has whole; the update drops it."""
MOVING = ("activations", "logits and loss", "working memory", "gathered weights", "update")
"""The terms that come and go within a step."""


def gpu_memory(job: Job) -> GpuMemory:
    """The memory of a rank at its peak, in micro-batches of the size of job.batch."""
    kept = {name: size for name, size in held_states(job).items() if name != "gradients"}
    if job.cluster.gpu.is_cpu:  # which has no other memory to put states into
        kept["offloaded states"] = sum(host_states(job).values())
    buckets = {} if job.states.shards_weights else {"buckets": bucket_bytes(job)}
    gradients = gradient_bytes(job)
    passing = passing_gradient_bytes(job)
    stays = not job.states.frees_gradients or job.batch.num_micro_batches > 1
    layers = sum(
        (stack.num - job.passes(number)[-1]) * layer_bytes(job, stack) for number, stack in enumerate(job.shape.stacks)
    )
    layer = max(layer_bytes(job, stack, within=True) for stack in job.shape.stacks)
    recomputed = layer if job.software.activation_checkpointing else 0.0
    of_loss, of_its_gradient = loss_bytes(job)
    working = max(working_bytes(job, stack) for stack in job.shape.stacks) + restored_bytes(job)
    gathered = {"gathered weights": gathered_bytes(job)} if job.states.shards_weights else {}
    if job.software.offloads_checkpoints:
        layers *= 2 / max(2, job.shape.num_layers)  # a layer's on its way out, and another's on its way in
    activations = layers + ends_bytes(job)
    at_loss = {**kept, "gradients": gradients if stays else 0.0, "activations": activations, **gathered}
    layer_back = {**at_loss, **buckets, "activations": activations + recomputed, "working memory": working}
    instants = {
        "loss": {**at_loss, "logits and loss": of_loss},
        "gradient of the loss": {**at_loss, **buckets, "logits and loss": of_its_gradient},
        "start of backward": {**layer_back, "gradients on their way": passing},
        "end of backward": {
            **kept,
            **gathered,
            **buckets,
            "gradients": gradients,
            "activations": recomputed + layers / max(1, job.shape.num_layers),
            "working memory": working,
            "gradients on their way": passing,
        },
        "update": {**kept, SECOND_COPY: 0.0, "gradients": own_gradient_bytes(job), "update": update_bytes(job)},
    }
    return GpuMemory(
        {name: {term: size for term, size in terms.items() if size > 0} for name, terms in instants.items()},
        job.cluster.world_size,
        job.cluster.gpu.is_cpu,
    )


def held_states(job: Job) -> dict[str, float]:
    """Bytes of a rank's GPU that do not depend on the batch: weights, gradients, master weights and moments, and what
    DeepSpeed keeps for as long as it runs."""
    states, world = job.states, job.cluster.world_size
    shape, trained = job.shape, job.num_trained
    of_trained = trained * states.weight / (world if states.shares_weights else 1)
    of_frozen = job.num_frozen * states.weight if job.adapters is None else _frozen_bytes(job, job.adapters)
    weights = of_frozen + of_trained
    share = world if states.shards_weights else 1
    optimizer = world if states.shards_optimizer else 1
    on_gpu = not states.offloads_optimizer
    return {
        "weights": 0.0 if states.offloads_weights else weights / share,
        "frozen copy of weights": shape.num_parameters * states.weight if job.copies_base else 0.0,
        # Stage 3 keeps vectors whole as well.
        "whole vectors": (1 - 1 / world) * shape.num_small * states.weight if states.fetched else 0.0,
        SECOND_COPY: weights / states.secondary if 1 < states.secondary < world else 0.0,
        "gradients": gradient_bytes(job),
        "master weights": on_gpu * trained * states.master / optimizer,
        "optimizer states": on_gpu * trained * (states.moments + states.average) / optimizer,
        "pretrained values": on_gpu * trained * states.held / optimizer,
        # Stage 3 keeps the bucket; an optimizer on the host has a place for the largest gradient on the GPU.
        "buckets": bucket_bytes(job) if states.shards_weights else 0.0,
        "offload buffer": shape.largest_parameter
        * states.weight
        * (states.offloads_optimizer and not states.shards_weights),
    }


def host_states(job: Job) -> dict[str, float]:
    """Bytes of a rank's states in host memory: what is offloaded, and where DeepSpeed puts gradients on their way."""
    states, world = job.states, job.cluster.world_size
    own = job.num_trained / (world if states.shards_optimizer else 1)
    held = {"weights": job.shape.num_parameters / world * states.weight if states.offloads_weights else 0.0}
    if states.offloads_optimizer:
        held["master weights"] = own * states.master
        held["optimizer states"] = own * (states.moments + states.average)
        held["pretrained values"] = own * states.held
        # Those of the step, and those handed to the optimizer.
        added_up = _with_whole_tensors(job, own) if states.views_gradients else own
        held["gradients"] = (own + added_up) * states.gradient
        if not states.shards_weights:
            held["offload buffers"] = (own + job.shape.largest_parameter) * states.weight
    return {name: size for name, size in held.items() if size}


def _frozen_bytes(job: Job, adapters: Adapters) -> float:
    """Bytes of LoRA's base: the linear layers may be quantized, embeddings, norms and experts are not."""
    whole, base = job.shape.num_parameters * job.states.weight, adapters.base
    if base == "none":
        return whole
    quantized = sum(stack.num * stack.separate for stack in job.shape.stacks)
    held = sum(stack.num * held_bytes(base, stack) for stack in job.shape.stacks)
    return whole - quantized * job.states.weight + held


def gradient_bytes(job: Job) -> float:
    """Bytes of the gradients that a rank adds up on its GPU."""
    states = job.states
    if states.offloads_optimizer:
        return 0.0
    return job.num_trained * states.gradient / (job.cluster.world_size if states.shards_gradients else 1)


def own_gradient_bytes(job: Job) -> float:
    """Bytes of the gradients that are on a rank's GPU once the backward passes are done."""
    states = job.states
    if not (states.keeps_own_part or states.shards_gradients) or states.offloads_optimizer:
        return gradient_bytes(job)
    own = job.num_trained / job.cluster.world_size
    if states.views_gradients:
        own = _with_whole_tensors(job, own)
    return own * states.gradient


def _with_whole_tensors(job: Job, own: float) -> float:
    """Elements of the gradients that a rank's part of this size lies in: those of a parameter that is only partly in it
    count whole."""
    return max(own, min(job.num_trained, job.shape.largest_parameter))


def passing_gradient_bytes(job: Job) -> float:
    """Bytes of a gradient between its computation and its place: the largest parameter's, whole."""
    if job.adapters is not None:
        return 0.0
    return job.shape.largest_parameter * job.states.weight


def bucket_bytes(job: Job) -> float:
    """Bytes of the buffers in which gradients wait to be exchanged."""
    states = job.states
    size = states.bucket * states.num_buckets if states.bucket else 0.0
    if not states.shards_optimizer:  # those of stages 1 to 3 are whole from the start
        size = min(size, job.num_trained)
    return size * states.exchanged


def gathered_bytes(job: Job) -> float:
    """Bytes of weights that are whole at the turn from the forward to the backward pass: those that stay, a layer that
    is computed, and one that is fetched ahead."""
    shape = job.shape
    layer = max(stack.matrices + stack.small for stack in shape.stacks)
    return min(shape.num_parameters, kept_gathered(job) + 2 * layer) * job.states.weight


def update_bytes(job: Job) -> float:
    """Bytes that only the update needs: DeepSpeed flattens the gradients into a copy (stage 3: of 10^9 elements)."""
    states, world = job.states, job.cluster.world_size
    if states.offloads_optimizer:
        return 0.0
    own = job.num_trained / (world if states.shards_optimizer else 1)
    rounding = ROUNDED_AT_ONCE * min(own, ROUNDED_ELEMENTS) if states.rounds_moments else 0.0
    return states.copied * (min(own, 1e9) if states.shards_weights else own) + rounding
