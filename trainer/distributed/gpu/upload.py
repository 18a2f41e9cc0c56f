"""How batches get to a GPU: on a stream of their own, beside what the GPU computes."""

from functools import cache

import torch

from shardtune.trainer.tasks.batch import Batch


def upload(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device, for another thread. On a GPU it may be used once Batch.arrived was called.

    The copies are under way when this returns. They do not queue behind the kernels of earlier steps, nor these behind
    them.
    """
    if device.type != "cuda":
        return batch.to(device)
    stream = _stream_of(device)
    with torch.cuda.stream(stream):
        return batch.to(device).expected(stream.record_event())


@cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """The one stream of all copies to this device."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
