"""How often and for how long the compiler has worked in this process, and where it has given up."""

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shardtune.trainer.distributed.watchdog import beat

USUAL = 32
"""Variants of a function beyond which something makes the compiler start again and again. One row or several, with or
without a mask, training or evaluation: these give 8 for each kind of layer. Kinds that share a function: the last layer
of a BERT (trainer/setup/first_token.py), layers with a window of attention and those without."""
LIMIT = 64
"""Variants of a function beyond which torch does not compile further ones; its own limit is 8."""
BEAT_EVERY_S, LONGEST_S = 10.0, 3600.0
"""While the compiler works, the watchdog is told so, but for no longer than an hour at a time."""
_GIVEN_UP = re.compile(r"torch\._dynamo hit config\.\w*recompile_limit.*?function: '([^']+)'", re.DOTALL)


class Compilations:
    """Counts the compilations of this process, from its creation on."""

    def __init__(self) -> None:
        from torch._dynamo import config
        from torch._dynamo.callback import callback_handler

        config.recompile_limit = LIMIT
        self.number = 0
        self.seconds = 0.0
        self.given_up: list[str] = []
        """Functions of which torch runs further variants uncompiled."""
        self._variants: Counter[str] = Counter()
        self._began = 0.0
        self._is_over = threading.Event()
        callback_handler.register_start_callback(self._start)
        callback_handler.register_end_callback(self._end)
        logging.getLogger("torch._dynamo.convert_frame").addFilter(self._listen)

    @property
    def most_variants(self) -> int:
        """Variants of the function that was compiled most often."""
        return max(self._variants.values(), default=0)

    def _start(self, compilation: Any) -> None:
        self._began = time.monotonic()
        if compilation.callback_trigger.name == "DYNAMO":  # not the backward pass of a variant that is counted already
            self.number += 1
            self._variants[str(compilation.compile_id).partition("/")[0]] += 1
        beat()
        self._is_over = threading.Event()
        threading.Thread(target=_beat_until, args=(self._is_over,), name="compiling", daemon=True).start()

    def _end(self, _: Any) -> None:
        self._is_over.set()
        self.seconds += time.monotonic() - self._began
        beat()

    def _listen(self, record: logging.LogRecord) -> bool:
        """Notes the function of a message that torch has given up; each message is kept."""
        if found := _GIVEN_UP.search(record.getMessage()):
            self.given_up.append(found[1])
        return True


def _beat_until(is_over: threading.Event) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not is_over.wait(BEAT_EVERY_S) and time.monotonic() < deadline:
        beat()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Runs what is compiled as if it were not."""
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield
