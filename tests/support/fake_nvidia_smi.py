"""A program called nvidia-smi on PATH, which says what a test has it say."""

from pathlib import Path

import pytest


def install_nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a bash script called nvidia-smi into the folder, and the folder first on PATH."""
    (folder / "nvidia-smi").write_text(f"#!/bin/bash\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
