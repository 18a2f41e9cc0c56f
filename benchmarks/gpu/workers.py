"""The processes in which the check trains: each takes jobs, one after another, and answers each with a line of JSON.

A part takes a process of its own, so that all memory of a GPU is free when it begins, and a crash ends no other part.
Importing torch, transformers and DeepSpeed takes ten seconds: the next process does so while this one computes.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ERROR_LINES = 8
"""Last lines of an error that are shown."""


class JobFailed(Exception):
    """A job failed; the message is the last lines of its error."""


class OutOfTime(Exception):
    """A job was not done in time; its process is ended."""


class Worker:
    """A process that takes jobs (benchmarks/gpu/worker.py)."""

    def __init__(self, device: str, log: Path) -> None:
        """`device` is cpu or cuda; what the process writes goes to the file `log`."""
        self.device = device
        self._log = log
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        environment |= {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TOKENIZERS_PARALLELISM": "false"}
        if device == "cpu":
            # One thread: what is computed on a CPU is small, and threads that wait for each other are slower.
            environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        else:
            # One GPU, because the Trainer would use all.
            environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu.worker", device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment,
                start_new_session=True,  # so that the processes that it starts can be ended with it
            )
        self._unread = b""

    def do(self, job: str, *, within_s: float, **arguments: Any) -> dict[str, Any]:
        """The result of a job. Raises JobFailed, or OutOfTime if it takes longer."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: reading its answer says so
            self._process.stdin.write(json.dumps({"job": job, "arguments": arguments}).encode() + b"\n")
            self._process.stdin.flush()
        answer = json.loads(self._line(time.monotonic() + within_s))
        if "error" in answer:
            raise JobFailed(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the process, and those that it started."""
        if self.is_alive:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                assert pipe is not None
                pipe.close()

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self.close()
                raise OutOfTime("it took too long")
            received = os.read(descriptor, 2**16)
            if not received:
                code = self._process.wait()
                raise JobFailed(f"the process ended with code {code}\n{last_lines(self._log.read_text('utf-8'))}")
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line


class Workers:
    """Gives each part its processes. On a CPU there is one for all, because nothing has to be freed."""

    def __init__(self, device: str, folder: Path) -> None:
        """`device` is cpu or cuda; the processes write their logs into the folder."""
        self.device = device
        self._folder = folder
        self._started: list[Worker] = []
        self._on_cpu: Worker | None = None
        self._next: Worker | None = None

    @contextmanager
    def fresh(self) -> Iterator[Worker]:
        """A process of its own on the device, for as long as this lasts."""
        if self.device == "cpu":
            yield self.on_cpu()
            return
        worker = self.next_one()
        self._next = self._start(self.device)
        try:
            yield worker
        finally:
            worker.close()

    def next_one(self) -> Worker:
        """The process that `fresh` gives next; it must not have computed anything by then."""
        if self.device == "cpu":
            return self.on_cpu()
        if self._next is None or not self._next.is_alive:
            self._next = self._start(self.device)
        return self._next

    def on_cpu(self) -> Worker:
        """The process that computes on the CPU."""
        if self._on_cpu is None or not self._on_cpu.is_alive:
            self._on_cpu = self._start("cpu")
        return self._on_cpu

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._started:
            worker.close()

    def _start(self, device: str) -> Worker:
        worker = Worker(device, self._folder / f"worker-{len(self._started)}-{device}.log")
        self._started.append(worker)
        return worker


def last_lines(text: str) -> str:
    """The last lines of an error or a log."""
    return "\n".join(text.strip().splitlines()[-ERROR_LINES:])
