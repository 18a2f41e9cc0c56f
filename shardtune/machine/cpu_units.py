"""What the processors of this machine compute in hardware, as the kernel lists it; torch-free."""

from pathlib import Path

BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Names of bf16 units in /proc/cpuinfo, on x86 and on ARM."""


def has_bf16_units(root: Path = Path("/")) -> bool:
    """Whether the processors compute in bf16 (trainer/setup/precision.py asks torch, where torch is)."""
    text = (root / "proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    return not BF16.isdisjoint(text.split())
