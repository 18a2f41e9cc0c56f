"""What tells this machine from others, as far as its speed goes."""

import hashlib
import os
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A machine, as far as its speed goes."""

    cpu: str
    """The model of its processors."""
    cores: int
    """That this process may use."""
    instructions: str
    """A digest of the instruction sets."""
    gpus: str
    """`8 x NVIDIA H100 80GB HBM3`; empty without."""
    torch: str

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256("\n".join(map(str, vars(self).values())).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        gpus = f", {self.gpus}" if self.gpus else ""
        return f"{self.cpu}, {self.cores} cores{gpus}, torch {self.torch}"


def identify(gpus: str = "", *, root: Path = Path("/")) -> Identity:
    """This machine, with these GPUs."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    name = re.search(r"^(?:model name|Model|CPU part)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    words = " ".join(sorted(flags[1].split())) if flags else ""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    return Identity(
        name[1].strip() if name else "unknown processor",
        len(os.sched_getaffinity(0)),
        hashlib.sha256(words.encode()).hexdigest()[:12],
        gpus,
        torch,
    )
