"""The numbers that are neither in a config nor in a data sheet, each with its meaning and where it is from.

One value for all models, machines and rows. `fitted` ones were fitted once on the training part of the published
throughput (benchmarks/planner/fit.py, seed 20261130), never on the part that is held out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Constants:
    """How far hardware falls short of its data sheet."""

    sustained: Mapping[str, float] = field(
        default_factory=lambda: {
            "ampere": 0.78,
            "hopper": 0.72,
            "ada": 0.80,
            "blackwell": 0.70,
            "turing": 0.70,
            "volta": 0.80,
            "cdna3": 0.50,
        }
    )
    """The part of the peak at which large matrix products run for minutes, by generation of GPUs."""
    attention: float = 0.59
    """Rate of flash attention in Triton with large heads, as a part of that of large matrix products. Fitted."""
    second_version: float = 1.4
    """How much faster FlashAttention-2 is (1.3 to 1.5 times: Dao, 2023, section 4.1)."""
    exponentials: float = 18.0
    """Elements of a head in whose products a GPU of Ampere's takes as long as in the exponential of a score, which is
    computed elsewhere: 16 a clock and multiprocessor, against 1,024 multiplications. Hopper's multiplications are twice
    as fast, its exponentials are not (Shah et al., 2024: FlashAttention-3, section 3.2). Fitted."""
    old_instructions: float = 0.62
    """The part of Hopper's rate that FlashAttention-2 can reach, which uses Ampere's instructions (mma.sync, not
    wgmma: Luo et al., 2024, "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture")."""
    attention_backward: float = 3.1
    """Time of its backward pass, in forward passes: 2.5 times the operations (5 products instead of 2) at four fifths
    of the rate (Dao, 2023: FlashAttention-2, section 4.1)."""
    bandwidth: float = 0.85
    """The part of the memory's bandwidth that elementwise operations reach."""
    short_k: float = 570.0
    """Elements of the inner dimension of a matrix product that take the time of its start and end."""
    exposed: float = 0.39
    """The part of communication that compute does not hide, because both use the GPU's memory and multiprocessors."""
    launch_s: float = 6e-6
    """Seconds between two kernels that Python starts."""
    link: float = 0.78
    """The part of a link's rate that a collective reaches."""


DEFAULTS = Constants()
