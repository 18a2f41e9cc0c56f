"""A heartbeat at each generated token."""

from typing import Any

import torch
import transformers
from torch import Tensor

from shardtune.trainer.distributed.watchdog import beat


class Beats(transformers.StoppingCriteria):
    """Never stops an answer, but reports progress at each token: on a CPU an answer may take minutes."""

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        beat()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
