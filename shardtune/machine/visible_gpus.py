"""Which GPUs, or MIG instances, the ranks of this machine may use, by CUDA_VISIBLE_DEVICES and nvidia-smi. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shardtune.counted import counted

CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
VISIBLE_GPUS = "SHARDTUNE_VISIBLE_DEVICES"
"""The variable in which the launcher tells the ranks what CUDA_VISIBLE_DEVICES has to be, where what stands between
them would change it: deepspeed numbers the GPUs anew. Of several MIG instances a rank takes one."""
MIG = "MIG-"
OLD_NCCL = "NCCL connects instances of one GPU from version 2.30 on; older ones need instances of different GPUs"


@dataclass(frozen=True)
class ListedGpu:
    """A GPU in the list of nvidia-smi."""

    uuid: str
    instances: tuple[str, ...] = ()
    """The UUIDs of the MIG instances that it is divided into."""
    model: str = ""
    """The name that its driver gives it, such as NVIDIA H100 80GB HBM3."""


@dataclass(frozen=True)
class VisibleGpus:
    """The GPUs and MIG instances that ranks may use."""

    names: tuple[str, ...]
    """As CUDA_VISIBLE_DEVICES may name them, one for each rank."""
    notices: tuple[str, ...] = ()
    """What is done or ignored that the user may not expect."""


def parse_listing(text: str) -> tuple[ListedGpu, ...]:
    """The GPUs in the output of `nvidia-smi -L`, in its order."""
    gpus: list[ListedGpu] = []
    for line in text.splitlines():
        # Before driver R470 a MIG instance was called MIG-GPU-…/1/0.
        if found := re.match(r"GPU \d+: (.*?) *\(UUID: ([^)]+)\)", line):
            gpus.append(ListedGpu(found[2], model=found[1]))
        elif gpus and (found := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line)):
            gpus[-1] = replace(gpus[-1], instances=(*gpus[-1].instances, found[1]))
    return tuple(gpus)


def model_of(listed: Sequence[ListedGpu], name: str) -> str | None:
    """The model of the whole GPU that has this name among VisibleGpus.names; None of an instance."""
    if name.isdecimal():
        return listed[int(name)].model or None
    return next((gpu.model for gpu in listed if gpu.uuid == name and gpu.model), None)


def visible_gpus(listed: Sequence[ListedGpu], variable: str | None) -> VisibleGpus:
    """The GPUs that CUDA_VISIBLE_DEVICES (None: it is not set) leaves of those listed; of a divided GPU its instances.

    As CUDA reads it: the first name decides whether all are numbers or UUIDs, which may be shortened; what follows the
    first invalid name is ignored; a GPU that is named twice leaves none. Beside divided GPUs, whole ones are named by
    UUID, because CUDA does not say how it numbers them there.
    """
    if variable is None:
        groups = [_names(listed, number) for number in range(len(listed))]
        return VisibleGpus(_flat(groups), _division(listed, _flat(groups)))
    words = [word.strip() for word in variable.split(",")]
    kind = _kind(words[0])
    groups, notices = [], []
    for word in words:
        group = _find(listed, word) if _kind(word) == kind else None
        if group is None:
            if word not in ("", "-1"):  # with these a user means: no further one
                text = f"{CUDA_VISIBLE_DEVICES}={variable}: nvidia-smi lists no {_title(word)}"
                notices.append(f"{text}, so it and what follows it are ignored, as by CUDA")
            break
        groups.append(group)
    names = _flat(groups)
    if len(set(names)) < len(names):
        return VisibleGpus((), (f"{CUDA_VISIBLE_DEVICES}={variable} names a GPU twice, so CUDA sees none",))
    return VisibleGpus(names, (*notices, *_division(listed, names)))


def _find(listed: Sequence[ListedGpu], word: str) -> tuple[str, ...] | None:
    """What a name stands for; None if that is nothing, or more than one GPU."""
    if word.isdecimal():
        return _names(listed, int(word)) if int(word) < len(listed) else None
    if word.startswith(MIG):
        instances = [name for gpu in listed for name in gpu.instances if name.startswith(word)]
        return (instances[0],) if len(instances) == 1 else None
    gpus = [gpu for gpu in listed if word and gpu.uuid.startswith(word)]
    return gpus[0].instances or (gpus[0].uuid,) if len(gpus) == 1 else None


def _kind(word: str) -> str:
    return "number" if word.isdecimal() else word[:4]


def _title(word: str) -> str:
    return f"GPU {word}" if word.isdecimal() else word


def _names(listed: Sequence[ListedGpu], number: int) -> tuple[str, ...]:
    """The instances of the GPU of this number, or itself."""
    is_divided = any(gpu.instances for gpu in listed)
    return listed[number].instances or (listed[number].uuid if is_divided else str(number),)


def _flat(groups: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group)


def _division(listed: Sequence[ListedGpu], names: Sequence[str]) -> tuple[str, ...]:
    """What to say of divided GPUs."""
    num_instances = sum(name.startswith(MIG) for name in names)
    if not num_instances:
        return ()
    text = f"{counted(num_instances, 'MIG instance')} can be used, one by each rank"
    if any(len(set(gpu.instances) & set(names)) > 1 for gpu in listed):
        text += f"; {OLD_NCCL}"
    return (text,)
