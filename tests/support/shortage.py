"""Ranks of which one is short of memory; for `train(…, before=…)`, and as a program in the trainer's stead.

`SHORTAGE="100 5" python -m tests.support.shortage RUN_DIR …` is `python -m shardtune.trainer`, with
short_of_memory(100, 5).
"""

import os
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import torch

from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine


def short_of_memory(limit: int, from_call: int = 0) -> Callable[[], None]:
    """From this forward pass of a step on, rank 1 has no memory for micro-batches of more tokens than this."""

    def before() -> None:
        forward, calls = DeepSpeedEngine.forward, count()

        def refused(self: DeepSpeedEngine, batch: Any) -> Any:
            is_short = self._engine.module.training and next(calls) >= from_call
            if os.environ["RANK"] == "1" and is_short and batch.inputs["input_ids"].numel() > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB.")
            return forward(self, batch)

        DeepSpeedEngine.forward = refused  # type: ignore[method-assign]

    return before


if __name__ == "__main__":
    from shardtune.trainer.__main__ import main

    short_of_memory(*map(int, os.environ["SHORTAGE"].split()))()
    sys.exit(main())
