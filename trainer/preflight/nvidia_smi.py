"""Health of this machine's GPUs, from nvidia-smi. The only module of the trainer that starts a program."""

import csv
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_S = 30.0
"""nvidia-smi takes a second, or forever if the driver is stuck."""
IDENTITY = ("index", "uuid")
COUNTED = {
    "ecc.errors.uncorrected.volatile.total": "uncorrected memory errors since the last reboot",
}
"""Field of --query-gpu -> meaning of a number above 0."""
FLAGS = {
    "retired_pages.pending": ("Yes", "memory pages waiting to be retired at the next reboot"),
    "clocks_throttle_reasons.hw_thermal_slowdown": ("Active", "its clock is lowered because it is too hot"),
    "clocks_throttle_reasons.sw_thermal_slowdown": ("Active", "its clock is lowered because it is getting too hot"),
    "clocks_throttle_reasons.hw_power_brake_slowdown": ("Active", "its clock is lowered by the power supply"),
}
"""Field -> its value if something is wrong, and the meaning."""
WIDTH = ("pcie.link.width.current", "pcie.link.width.max")
FIELDS = (*IDENTITY, *COUNTED, *FLAGS, *WIDTH)


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine."""

    index: str
    uuid: str
    ails: tuple[str, ...]
    """What is wrong with the GPU, in words."""


@dataclass(frozen=True)
class GpuHealth:
    """The report of nvidia-smi."""

    gpus: tuple[Gpu, ...] = ()
    failure: str | None = None
    """Why there is no report, or None."""


def look_at_gpus() -> GpuHealth | None:
    """The health of the GPUs visible to this process; None without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    fields = list(FIELDS)
    while True:
        query = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return GpuHealth(failure=str(error))
        # Drivers know different fields, and name an unknown one: Field "x" is not a valid field to query.
        unknown = re.search(r'Field "([^"]+)" is not a valid field', done.stdout + done.stderr)
        if unknown and unknown.group(1) in fields and unknown.group(1) not in IDENTITY:
            fields.remove(unknown.group(1))
            continue
        if done.returncode:
            return GpuHealth(failure=f"exit code {done.returncode}: {(done.stdout + done.stderr).strip()[:300]}")
        return GpuHealth(parse_gpus(done.stdout, fields))


def parse_gpus(text: str, fields: list[str]) -> tuple[Gpu, ...]:
    """Parses a line for each GPU with these fields; `[N/A]` is no fault."""
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    gpus = (dict(zip(fields, map(str.strip, row), strict=True)) for row in rows if len(row) == len(fields))
    return tuple(Gpu(gpu["index"], gpu["uuid"], _ails(gpu)) for gpu in gpus)


def _ails(gpu: Mapping[str, str]) -> tuple[str, ...]:
    counted = [f"{gpu[field]} {words}" for field, words in COUNTED.items() if _number(gpu.get(field))]
    flagged = [words for field, (sign, words) in FLAGS.items() if gpu.get(field) == sign]
    now, most = (_number(gpu.get(field)) for field in WIDTH)
    lanes = [f"{now} of its {most} PCIe lanes"] if 0 < now < most else []
    return (*counted, *flagged, *lanes)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
