"""What the planner is asked about: a model, how it is trained, on what, and with which software."""

from dataclasses import dataclass
from typing import Literal

from shardtune.errors import ConfigError
from shardtune.planner.frozen import Frozen
from shardtune.planner.hardware import Gpu
from shardtune.planner.model_shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class States:
    """Bytes of a trained parameter's states, and what keeps them in parts."""

    weight: float = 2
    """As the model computes with it."""
    gradient: float = 4
    """As it is added up over a step; 0 if each is used and freed within the backward pass."""
    master: float = 4
    """The fp32 copy that the optimizer updates; 0 without one."""
    moments: float = 8
    average: float = 0
    """The moving average of the weights, kept where the moments are; 0 without one."""
    rounds_moments: bool = False
    """Whether the update rounds them to bf16 stochastically (trainer/engine/states)."""
    exchanged: float = 2
    """As gradients are sent to other ranks."""
    all_reduces: bool = False
    """Whether gradients are all-reduced even where a rank keeps only a part of them."""
    frees_gradients: bool = True
    """Whether gradients are freed between steps."""
    shards_weights: bool = False
    shards_gradients: bool = False
    shards_optimizer: bool = False
    offloads_weights: bool = False
    offloads_optimizer: bool = False
    keeps_gathered: bool = False
    """Whether weights that were gathered in the forward pass stay for the backward pass."""
    copied: float = 0
    """Bytes of the copy of the gradients that the update makes."""
    bucket: float = 0
    """Elements of a bucket in which gradients are exchanged."""
    num_buckets: float = 1
    """How many of them are there at once: 0 if gradients are exchanged where they are, infinity for as many as the
    gradients fill."""
    shares_weights: bool = False
    """Whether the ranks of a machine have the trained weights in common memory, once."""
    reuse: float = 0
    """Gathered weights stay if they are used again within so many elements (stage3_max_reuse_distance)."""
    fetched: float = 0
    """Elements that are gathered at once, if weights of single matrices are (stage3_prefetch_bucket_size); 0 if those
    of a layer are."""
    secondary: int = 1
    """Ranks among which a second copy of the weights is divided (zero_hpz_partition_size), from which the backward pass
    gathers them; 1 without."""
    keeps_own_part: bool = False
    """Whether the end of the backward passes leaves a rank its own part of the gradients only."""
    views_gradients: bool = False
    """Whether that part (or, of an offloaded optimizer, the sum of the micro-batches on the host) has the gradients of
    all parameters in it whole."""
    held: float = 0
    """Its pretrained value and Fisher information, which `regularize` keeps beside the moments."""

    @property
    def saved(self) -> float:
        """Bytes of a trained parameter in a checkpoint: fp32 weights, and moments and an average as they are."""
        return 4 + self.moments + self.average


@dataclass(frozen=True, kw_only=True)
class Software:
    """How the layers are computed: which operations are fused, and what they keep for the backward pass."""

    attention: Literal["flash", "triton", "eager"] = "flash"
    """FlashAttention-2 or torch's own; the first version in Triton; or all scores written to memory."""
    fused: frozenset[str] = frozenset()
    """Of `norm`, `mlp`, `rotary`: computed by one kernel each, by hand or by a compiler."""
    loss: Literal["whole", "chunked", "fused"] = "chunked"
    """Logits of all targets at once; in chunks of loss_chunk bytes; or a chunk after another without keeping them."""
    loss_chunk: float = 2**29
    """Bytes of a chunk of logits in fp32."""
    activation_checkpointing: bool = False
    offloads_checkpoints: bool = False
    dropout: bool = False


Base = Literal["none", "nf4", "int8"]


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """LoRA: trained matrices beside frozen weights."""

    rank: int
    on_mlp: bool = True
    """Whether the MLP's layers have adapters too, and not only the attention's. Experts have none."""
    on_all_attention: bool = True
    """Whether all four projections have one, and not only those of queries and values."""
    dropout: bool = False
    """Whether the inputs of adapters are dropped out: each adapter then keeps a copy and a mask of its own."""
    base: Base = "none"
    """How the frozen linear layers are held (model.lora.quantize_base); experts, embeddings and norms never are."""
    num_trained: float | None = None
    """All that is trained, as counted in the model itself; None counts the matrices of a usual model."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The micro-batches of a rank in a step; sizes are averages or those of the largest, as the caller asks."""

    rows: float
    tokens: float
    """Tokens of a row, padding included; the source's in an encoder-decoder."""
    target_tokens: float = 0
    """Tokens of a row's target in an encoder-decoder."""
    attended: float | None = None
    """Average number of tokens that a token may attend to within its row, as packed examples are shorter; None for
    the whole row."""
    losses: float = 1.0
    """The part of the tokens (or of the target's) with a loss."""
    num_micro_batches: float = 1


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines."""

    gpu: Gpu
    gpus_per_node: int = 8
    num_nodes: int = 1
    network_gb_s: float | None = None
    """From a node to the others, in each direction; None takes what is usual for the GPU."""

    def __post_init__(self) -> None:
        if self.gpus_per_node < 1 or self.num_nodes < 1:
            raise ConfigError("--gpus-per-node and --nodes must be above 0")

    @property
    def world_size(self) -> int:
        return self.gpus_per_node * self.num_nodes


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that memory and time are computed from."""

    shape: ModelShape
    states: States
    software: Software
    batch: Batch
    cluster: Cluster
    precision: str = "bf16"
    adapters: Adapters | None = None
    frozen: Frozen | None = None
    copies_base: bool = False
    """Whether each rank also holds the pretrained model, frozen (regularize.kl_to_base)."""
    asks_base: bool = False
    """Whether each micro-batch also takes a forward pass of the pretrained model."""

    @property
    def num_trained(self) -> float:
        """Parameters with a gradient."""
        if self.adapters is None:
            return self.shape.num_parameters - self.num_frozen
        return self.adapters.num_trained or adapter_parameters(self.shape, self.adapters)

    @property
    def num_frozen(self) -> float:
        """Parameters that model.freeze leaves as they are."""
        return 0.0 if self.frozen is None else self.frozen.num_parameters

    def passes(self, stack: int) -> tuple[float, float, float]:
        """How many layers of a stack are trained, only pass a gradient on, and have no backward pass at all."""
        num = self.shape.stacks[stack].num
        if self.adapters is not None:
            return 0.0, float(num), 0.0
        if self.frozen is None:
            return float(num), 0.0, 0.0
        below, frozen = self.frozen.num_below(stack), len(self.frozen.layers[stack])
        return float(num - frozen), float(frozen - below), float(below)

    @property
    def tokens(self) -> float:
        """Tokens of a micro-batch."""
        return self.batch.rows * (self.batch.tokens + self.batch.target_tokens)

    @property
    def num_losses(self) -> float:
        """Tokens, or rows of a classifier of texts, with a loss in a micro-batch."""
        tokens = self.batch.target_tokens if self.shape.is_encoder_decoder else self.batch.tokens
        return self.batch.rows * tokens * self.batch.losses


def adapter_parameters(shape: ModelShape, adapters: Adapters) -> float:
    """Number of parameters of LoRA's matrices: rank * (inputs + outputs) for each layer with one.

    Experts have none: transformers keeps those of a layer in one tensor, and peft adapts linear layers.
    """
    total = 0.0
    for stack in shape.stacks:
        hidden, query, key = stack.hidden, stack.query_width, stack.kv_width
        ends = hidden + query + hidden + key
        if adapters.on_all_attention:
            ends += hidden + key + query + hidden
        if stack.has_cross_attention:
            ends *= 2
        if adapters.on_mlp:
            widths = [stack.shared_width] if stack.num_experts > 1 else [stack.mlp_width]
            ends += sum((3 if stack.is_gated else 2) * (hidden + width) for width in widths if width)
        total += stack.num * adapters.rank * ends
    return total
