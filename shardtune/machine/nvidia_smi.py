"""Asks nvidia-smi, and never waits for it without end: with a dead GPU or a stuck driver it does not answer."""

import contextlib
import shutil
import socket
import subprocess
from dataclasses import dataclass

TIMEOUT_S = 60.0
"""nvidia-smi takes a second; without the persistence daemon it first initializes every GPU, some seconds for each."""
ENDING_S = 2.0
"""How long a process that was killed may take to end. One that waits for the driver within the kernel never does."""


@dataclass(frozen=True)
class Answer:
    """What nvidia-smi printed."""

    exit_code: int | None
    """None if it did not answer in time."""
    output: str
    """Standard output, then its error messages."""

    @property
    def fault(self) -> str | None:
        """What is wrong, in words that name this machine; None if nvidia-smi has done what it was asked for."""
        host = socket.gethostname().split(".")[0]
        if self.exit_code is None:
            return (
                f"nvidia-smi does not answer within {TIMEOUT_S:g} s on {host}: the driver or a GPU hangs; dmesg names "
                "the GPU (Xid), and a reset of that GPU or a restart of the machine helps"
            )
        if self.exit_code:
            return f"nvidia-smi fails on {host} (exit code {self.exit_code}: {' '.join(self.output.split())[:300]})"
        return None


def ask_nvidia_smi(*arguments: str) -> Answer | None:
    """The answer of nvidia-smi to these arguments, after TIMEOUT_S at the latest; None if this machine has none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        process = subprocess.Popen(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        return Answer(127, str(error))
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # Not subprocess.run(timeout=…), which waits for what it has killed: in the driver's hands that never ends.
        process.kill()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDING_S)
        return Answer(None, "")
    return Answer(process.returncode, output + errors)
