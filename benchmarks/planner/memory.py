"""The planner's memory and speed beside published figures of other trainers, which no constant was fitted to."""

from dataclasses import dataclass, replace

from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Adapters, Batch, Cluster, Job, Software, States
from shardtune.planner.memory import gpu_memory, held_states
from shardtune.planner.model_shape import Layers, ModelShape
from shardtune.planner.schedule import step_time


def gated_decoder(
    name: str,
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    mlp: int,
    vocabulary: int,
    is_tied: bool = False,
    head_size: int = 0,
    biases: int = 0,
) -> ModelShape:
    """A decoder as Llama and Qwen are, by the sizes in its config.json."""
    stack = Layers(
        num=layers,
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size or hidden // heads,
        mlp_width=mlp,
        is_gated=True,
        is_causal=True,
        small=2 * hidden + biases,
    )
    return ModelShape(
        name=name,
        stacks=(stack,),
        hidden=hidden,
        vocabulary=vocabulary,
        embeddings=vocabulary * hidden,
        others=hidden,
        is_tied=is_tied,
    )


LLAMA_32_3B = gated_decoder(
    "Llama-3.2-3B", layers=28, hidden=3072, heads=24, kv_heads=8, mlp=8192, vocabulary=128256, is_tied=True
)
LLAMA_3_8B = gated_decoder("Llama-3-8B", layers=32, hidden=4096, heads=32, kv_heads=8, mlp=14336, vocabulary=128256)
LLAMA_2_7B = gated_decoder("Llama-2-7B", layers=32, hidden=4096, heads=32, kv_heads=32, mlp=11008, vocabulary=32000)
QWEN_25_14B = gated_decoder(
    "Qwen2.5-14B", layers=48, hidden=5120, heads=40, kv_heads=8, mlp=13824, vocabulary=152064, biases=7168
)
OLMO_2_1B = gated_decoder("OLMo2-1B", layers=16, hidden=2048, heads=16, kv_heads=16, mlp=8192, vocabulary=100352)
OLMO_2_7B = gated_decoder("OLMo2-7B", layers=32, hidden=4096, heads=32, kv_heads=32, mlp=11008, vocabulary=100352)
OLMO_2_13B = gated_decoder("OLMo2-13B", layers=40, hidden=5120, heads=40, kv_heads=40, mlp=13824, vocabulary=100352)

ALL_BF16 = States(gradient=2, master=0, moments=4)
"""Pure bf16 on one GPU: weights, gradients and both moments (torchtune's single-device recipes)."""
FSDP = States(shards_weights=True, shards_gradients=True, shards_optimizer=True, exchanged=4)
COMPILED = frozenset({"norm", "rotary", "mlp"})


@dataclass(frozen=True)
class Published:
    """A published figure, and the job that it is of."""

    name: str
    source: str
    job: Job
    gigabytes: float | None = None
    is_of_tensors: bool = True
    """Whether the memory is that of tensors, and not what nvidia-smi shows."""
    tokens_per_s: float | None = None
    """Of a GPU."""

    @property
    def predicted_gigabytes(self) -> float:
        memory = gpu_memory(self.job)
        return (memory.allocated if self.is_of_tensors else memory.used) / 1e9

    @property
    def predicted_tokens_per_s(self) -> float:
        return step_time(self.job).tokens_per_s


def _one(gpu: str) -> Cluster:
    return Cluster(gpu=find_gpu(gpu), gpus_per_node=1)


def torchtune() -> list[Published]:
    """torchtune's ladder: full fine-tuning of Llama-3.2-3B on an A100-80G, batch 2 of 4096 tokens (GiB)."""
    source = "pytorch/torchtune README.md"
    packed = Job(
        shape=LLAMA_32_3B,
        states=ALL_BF16,
        software=Software(loss="whole"),
        batch=Batch(rows=2, tokens=4096),
        cluster=_one("a100-sxm-80g"),
    )
    compiled = replace(packed, software=Software(loss="whole", fused=COMPILED))
    chunked = replace(packed, software=Software(loss="fused", fused=COMPILED))
    checkpointed = replace(chunked, software=replace(chunked.software, activation_checkpointing=True))
    in_backward = replace(checkpointed, states=replace(ALL_BF16, gradient=0))
    rungs = (
        ("packed", packed, 60.0, 7075),
        ("+ compile", compiled, 51.0, 8998),
        ("+ chunked cross entropy", chunked, 42.9, 9174),
        ("+ activation checkpointing", checkpointed, 24.9, 7210),
        ("+ optimizer in backward", in_backward, 23.1, 7309),
    )
    return [
        Published(f"torchtune {name}", source, job, gigabytes=gib * 2**30 / 1e9, tokens_per_s=speed)
        for name, job, gib, speed in rungs
    ]


def litgpt() -> list[Published]:
    """litgpt's LoRA of a 7B on an A100-40G, rows of up to 1304 tokens."""
    rows = []
    for micro_batch, gigabytes in ((1, 21.3), (2, 29.07)):
        job = Job(
            shape=LLAMA_2_7B,
            states=States(weight=2, gradient=2, master=0, moments=4),
            software=Software(),
            batch=Batch(rows=micro_batch, tokens=1304),
            cluster=_one("a100-sxm-40g"),
            adapters=Adapters(rank=8, on_mlp=False, on_all_attention=False, dropout=True),
        )
        rows.append(
            Published(f"litgpt LoRA, micro-batch {micro_batch}", "Lightning-AI/litgpt tutorials", job, gigabytes)
        )
    return rows


def others() -> list[Published]:
    """Single figures of other trainers."""
    swift = Job(
        shape=QWEN_25_14B,
        states=States(
            gradient=2,
            exchanged=2,
            all_reduces=True,
            shards_gradients=True,
            shards_optimizer=True,
            bucket=2e8,
            num_buckets=2,
            copied=4,
        ),
        software=Software(loss="whole", activation_checkpointing=True),
        batch=Batch(rows=1, tokens=8192, num_micro_batches=2),
        cluster=Cluster(gpu=find_gpu("a800")),
    )
    nemo = Job(
        shape=LLAMA_3_8B,
        states=States(weight=2, gradient=2, master=0, moments=4),
        software=Software(loss="fused"),
        batch=Batch(rows=2, tokens=4096, num_micro_batches=16),
        cluster=_one("h100-sxm-80g"),
        adapters=Adapters(rank=16),
    )
    factory = replace(
        nemo,
        shape=LLAMA_2_7B,
        software=Software(loss="whole", activation_checkpointing=True),
        batch=Batch(rows=4, tokens=1024),
        cluster=_one("a100-sxm-40g"),
        adapters=Adapters(rank=8),
    )
    found = [
        Published(
            "ms-swift Qwen2.5-14B, ZeRO-2, 8 GPUs",
            "modelscope/ms-swift docs",
            swift,
            80.0,
            is_of_tensors=False,
            tokens_per_s=2 * 8192 / 10.32,
        ),
        Published("NeMo AutoModel Llama-3-8B LoRA", "NVIDIA-NeMo/Automodel docs", nemo, tokens_per_s=12473),
        Published("LLaMA-Factory Llama-2-7B LoRA", "hiyouga/LLaMA-Factory wiki", factory, tokens_per_s=2954),
    ]
    for shape, speed in ((LLAMA_3_8B, 9500), (OLMO_2_1B, 55000), (OLMO_2_7B, 10000), (OLMO_2_13B, 4600)):
        job = Job(
            shape=shape,
            states=FSDP,
            software=Software(loss="fused", fused=COMPILED),
            batch=Batch(rows=2, tokens=4096, num_micro_batches=2),
            cluster=Cluster(gpu=find_gpu("h100"), num_nodes=8),
        )
        found.append(Published(f"OLMo-core {shape.name}", "allenai/OLMo-core README.md", job, tokens_per_s=speed))
    return found


def zero_paper() -> list[tuple[str, float, float]]:
    """Model states of the ZeRO paper (Rajbhandari et al., 2020, table 1) in GB: name, published, planned."""
    rows = []
    for billions, world, published in (
        (7.5, 64, (120, 31.4, 16.6, 1.9)),
        (7.5, 4, (None, 52.5, 41.25, 30)),
        (1000, 1024, (None, 4011, 2013, 15.6)),
    ):
        shape = ModelShape(name="", stacks=(), hidden=1, vocabulary=1, embeddings=int(billions * 1e9) - 1)
        for stage, gigabytes in enumerate(published):
            states = States(
                gradient=2, shards_optimizer=stage >= 1, shards_gradients=stage >= 2, shards_weights=stage >= 3
            )
            job = Job(
                shape=shape,
                states=states,
                software=Software(),
                batch=Batch(rows=1, tokens=1),
                cluster=Cluster(gpu=find_gpu("h100"), gpus_per_node=world),
            )
            if gigabytes is not None:
                planned = sum(held_states(job).values()) / 1e9
                rows.append((f"ZeRO paper, {billions:g}B on {world}, stage {stage}", float(gigabytes), planned))
    return rows


def published() -> list[Published]:
    """All published figures of other trainers."""
    return [*torchtune(), *litgpt(), *others()]
