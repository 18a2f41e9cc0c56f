"""What nvidia-smi says of the health of this machine's GPUs. The only module of the trainer that starts a program."""

import csv
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_S = 30.0
"""nvidia-smi takes a second, or for ever where the driver is stuck."""
IDENTITY = ("index", "uuid")
COUNTED = {
    "ecc.errors.uncorrected.volatile.total": "uncorrected memory errors since the last reboot",
}
"""Field of --query-gpu -> what a number above 0 says."""
SAID = {
    "retired_pages.pending": ("Yes", "memory pages to be retired at the next reboot"),
    "clocks_throttle_reasons.hw_thermal_slowdown": ("Active", "its clock is lowered, for it is too hot"),
    "clocks_throttle_reasons.sw_thermal_slowdown": ("Active", "its clock is lowered, for it is getting too hot"),
    "clocks_throttle_reasons.hw_power_brake_slowdown": ("Active", "its clock is lowered by the power supply"),
}
"""Field -> what it says where something is wrong, and what that is."""
WIDTH = ("pcie.link.width.current", "pcie.link.width.max")
FIELDS = (*IDENTITY, *COUNTED, *SAID, *WIDTH)


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine."""

    index: str
    uuid: str
    ails: tuple[str, ...]
    """What is wrong with it, in words."""


@dataclass(frozen=True)
class GpuHealth:
    """What nvidia-smi says."""

    gpus: tuple[Gpu, ...] = ()
    failure: str | None = None
    """Why it says nothing."""


def look_at_gpus() -> GpuHealth | None:
    """The health of the GPUs that this process may see; None where there is no nvidia-smi."""
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
        # Drivers know different fields, and say which one they do not: Field "x" is not a valid field to query.
        unknown = re.search(r'Field "([^"]+)" is not a valid field', done.stdout + done.stderr)
        if unknown and unknown.group(1) in fields and unknown.group(1) not in IDENTITY:
            fields.remove(unknown.group(1))
            continue
        if done.returncode:
            return GpuHealth(failure=f"exit code {done.returncode}: {(done.stdout + done.stderr).strip()[:300]}")
        return GpuHealth(parse_gpus(done.stdout, fields))


def parse_gpus(text: str, fields: list[str]) -> tuple[Gpu, ...]:
    """A line for each GPU, with these fields; what is `[N/A]` says nothing."""
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    found = (dict(zip(fields, map(str.strip, row), strict=True)) for row in rows if len(row) == len(fields))
    return tuple(Gpu(its["index"], its["uuid"], _ails(its)) for its in found)


def _ails(its: Mapping[str, str]) -> tuple[str, ...]:
    counted = [f"{its[field]} {words}" for field, words in COUNTED.items() if _number(its.get(field))]
    said = [words for field, (sign, words) in SAID.items() if its.get(field) == sign]
    now, most = (_number(its.get(field)) for field in WIDTH)
    lanes = [f"{now} of its {most} PCIe lanes"] if 0 < now < most else []
    return (*counted, *said, *lanes)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
