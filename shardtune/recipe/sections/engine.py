"""The `engine` section of a recipe: how ranks compute a step."""

from typing import Literal

from pydantic import model_validator

from shardtune.section import Section


class EngineConfig(Section):
    """How a step is computed. Apart from rounding, nothing here changes what is learned."""

    deepspeed: str | None = "zero2"
    """zero0, zero1, zero2, zero3, zero2_offload, zero3_offload, zero3_hpz, zero3_qwz or zero3_zeropp (the files in
    ds_configs/), or the path of a DeepSpeed JSON file. For several machines: zero3_hpz keeps the weights on each of
    them, besides dividing them among all ranks, so only one of two passes waits for other machines. zero3_qwz sends
    weights rounded to 8 bits, and computes with them; zero3_zeropp does both and sends gradients in 4 bits. These two
    need NVIDIA GPUs, the last one fp16. `auto` is the fastest of the others that fits, by the planner
    (docs/planner.md), and on CPUs null or else the lowest ZeRO stage that fits; it is chosen and reported when a run
    begins, and kept when it resumes. None trains without DeepSpeed: every rank holds a full replica, as with zero0,
    with fewer and larger operations; CPU ranks on one machine communicate through shared memory."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of weights and activations in the forward and backward pass. The optimizer always works in fp32, so a
    run may resume in another precision. `auto` is the one that a DeepSpeed JSON of your own turns on, if it does;
    otherwise bf16 if the devices of all ranks support it in hardware (NVIDIA GPUs since Ampere, CPUs with AVX512-BF16
    or AMX), and else fp16 on GPUs and fp32 on CPUs."""
    communication_data_type: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision in which ranks exchange gradients. `auto` is fp32 without DeepSpeed, and what the ds_config says, or
    else engine.precision, with it. bf16 halves what is sent, and keeps two to three digits: summed over 2 ranks, the
    gradient of MiniLM-L6 is off by 0.22 %, over 4 by 0.31 % (in fp32 by 0.000004 %), over 64 by about 0.8 %. CPU ranks
    without DeepSpeed on one machine read each other's gradients in fp32, whatever this says."""
    compile: Literal["off", "regional", "full"] = "off"
    """Compiles the model with torch.compile, which fuses operations. `regional` compiles the layers that repeat, once
    for all of them; `full` compiles the model without its head in one piece, which takes longer to compile, and is not
    possible under ZeRO-3 or with LayerDrop. Micro-batches of all shapes share a few compiled variants; their lengths
    are rounded up to multiples of 8. The variants are compiled before training begins, and later ones are reported in
    metrics.jsonl. Generation is not compiled. Needs a C++ compiler on CPUs, and Triton and a C compiler on GPUs."""
    kernels: Literal["auto", "liger", "torch"] = "auto"
    """Who computes norms, rotary positions and gated activations on a GPU. `liger` uses the kernels of Liger Kernel
    (`pip install 'shardtune[gpu]'`), and its loss for large vocabularies where targets have no weights; it is an error
    if that is not possible. `torch` uses none of them. `auto` uses Liger's kernels, but shardtune's own loss, if they
    are installed, know the model, and `compile` is off. The start of a run says what is used, and why."""
    tf32: bool = False
    """On NVIDIA GPUs since Ampere, multiplies fp32 matrices in TF32: several times faster, but each number is rounded
    to 11 bits (3 decimal digits instead of 7) before it is multiplied; sums stay in fp32. No effect in bf16 and fp16,
    and on CPUs."""

    @model_validator(mode="after")
    def _a_loss_scale_is_deepspeeds(self) -> "EngineConfig":
        if self.deepspeed is None and self.precision == "fp16":
            raise ValueError("precision: fp16 needs a loss scale, which DeepSpeed has; set deepspeed=zero0")
        return self
