"""Health of this machine's GPUs, from nvidia-smi of any driver since R450."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shardtune.machine.nvidia_smi import Answer, ask_nvidia_smi
from shardtune.trainer.distributed.gpu.own_gpu import number_on_machine

IDENTITY = ("index", "pci.bus_id")
COUNTED = {
    "ecc.errors.uncorrected.volatile.total": "uncorrected memory errors since the last reboot",
}
"""Field of --query-gpu -> meaning of a number above 0."""
CLOCKS, OLD_CLOCKS = "clocks_event_reasons.", "clocks_throttle_reasons."
"""Drivers before R535 know the old name only, the newest ones the new one only."""
FLAGS = {
    "retired_pages.pending": "memory pages waiting to be retired at the next reboot",  # before Ampere
    f"{CLOCKS}hw_thermal_slowdown": "its clock is lowered because it is too hot",
    f"{CLOCKS}sw_thermal_slowdown": "its clock is lowered because it is getting too hot",
    f"{CLOCKS}hw_power_brake_slowdown": "its clock is lowered by the power supply",
}
"""Field of --query-gpu -> meaning of `Yes` or `Active`."""
WIDTH = ("pcie.link.width.current", "pcie.link.width.max")
FIELDS = (*IDENTITY, *COUNTED, *FLAGS, *WIDTH)
ROWS = {
    "remapped_rows.pending": "memory rows waiting to be remapped at the next reset of the GPU",
    "remapped_rows.failure": "a faulty memory row could not be remapped; the GPU has to be replaced",
}
"""Field of --query-remapped-rows (since Ampere) -> meaning of `Yes`, which some drivers write as a number."""
ROW_FIELDS = ("gpu_bus_id", *ROWS)


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine."""

    number: str
    """The machine's own number of it."""
    address: str
    """Its PCI address, such as 0000:3b:00.0."""
    ails: tuple[str, ...]
    """What is wrong with the GPU, in words."""


@dataclass(frozen=True)
class GpuHealth:
    """The report of nvidia-smi."""

    gpus: tuple[Gpu, ...] = ()
    fault: str | None = None
    """Why there is no report, in words that name the machine, or None."""


def look_at_gpus() -> GpuHealth | None:
    """The health of the GPUs of this machine that this process may use; None without nvidia-smi."""
    fields, answer = _ask_what_is_known()
    if answer is None:
        return None
    if answer.fault is not None:
        return GpuHealth(fault=answer.fault)
    rows = ask_nvidia_smi(f"--query-remapped-rows={','.join(ROW_FIELDS)}", "--format=csv,noheader,nounits")
    if rows is not None and rows.exit_code is None:
        return GpuHealth(fault=rows.fault)
    # An old driver does not know the option, and fails.
    remapped = parse_table(rows.output, ROW_FIELDS) if rows is not None and rows.exit_code == 0 else []
    return GpuHealth(judge_gpus(parse_table(answer.output, fields), remapped))


def _ask_what_is_known() -> tuple[Sequence[str], Answer | None]:
    """The fields that this driver knows, and its answer: a single unknown one fails the whole query."""
    fields = list(FIELDS)
    while True:
        answer = ask_nvidia_smi(f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
        unknown = re.search(r'Field "([^"]+)" is not a valid field', answer.output if answer else "")
        if unknown is None or unknown[1] not in fields or unknown[1] in IDENTITY:
            return fields, answer
        if unknown[1].startswith(CLOCKS):
            fields = [field.replace(CLOCKS, OLD_CLOCKS) for field in fields]
        else:
            fields.remove(unknown[1])


def parse_table(text: str, fields: Sequence[str]) -> list[dict[str, str]]:
    """The lines of nvidia-smi's CSV that have these fields; a field's name is the current one."""
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    names = [field.replace(OLD_CLOCKS, CLOCKS) for field in fields]
    return [dict(zip(names, map(str.strip, row), strict=True)) for row in rows if len(row) == len(names)]


def judge_gpus(gpus: Sequence[Mapping[str, str]], remapped: Sequence[Mapping[str, str]]) -> tuple[Gpu, ...]:
    """The GPUs with what ails them; `[N/A]`, for what a GPU does not have, is no fault."""
    by_address = {plain_address(row["gpu_bus_id"]): row for row in remapped}
    judged = []
    for gpu in gpus:
        address = plain_address(gpu["pci.bus_id"])
        number = number_on_machine(address)
        ails = (*_ails(gpu), *_row_ails(by_address.get(address, {})))
        judged.append(Gpu(gpu["index"] if number is None else str(number), address, ails))
    return tuple(judged)


def plain_address(text: str) -> str:
    """nvidia-smi's form of a PCI address as the kernel writes it: `00000000:3B:00.0` -> `0000:3b:00.0`."""
    return re.sub(r"^0000(?=[0-9a-f]{4}:)", "", text.strip().lower())


def _ails(gpu: Mapping[str, str]) -> tuple[str, ...]:
    counted = [f"{gpu[field]} {words}" for field, words in COUNTED.items() if _number(gpu.get(field))]
    flagged = [words for field, words in FLAGS.items() if gpu.get(field) in ("Yes", "Active")]
    now, most = (_number(gpu.get(field)) for field in WIDTH)
    lanes = [f"{now} of its {most} PCIe lanes"] if 0 < now < most else []
    return (*counted, *flagged, *lanes)


def _row_ails(rows: Mapping[str, str]) -> list[str]:
    return [words for field, words in ROWS.items() if rows.get(field) == "Yes" or _number(rows.get(field))]


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
