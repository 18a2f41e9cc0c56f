"""On which device a command has its model: on one, or divided over all GPUs of this machine.

A model that is larger than a GPU is divided by its layers (device_map of transformers, by accelerate), in one process:
each batch passes through the GPUs one after another. ZeRO-3 would keep all GPUs busy, but it gathers all weights for
every pass, and each pass, also of each token that is generated, needs all ranks at the same time. Divided layers need
neither, and work for every model that transformers can divide.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def placement(*, is_split: bool) -> dict[str, Any]:
    """The arguments of from_pretrained that divide a model over the GPUs; none for a model on one device."""
    return {"device_map": "auto"} if is_split else {}


def place(model: Any, device: "torch.device | str", *, is_split: bool) -> Any:
    """The model on this device; one that is divided stays where its layers are."""
    return model if is_split else model.to(device)
