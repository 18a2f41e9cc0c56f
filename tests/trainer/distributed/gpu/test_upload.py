"""Copies between host and device: what is given to which stream, in which order, and what is waited for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from torch import Tensor

from shardtune.trainer.distributed.gpu import upload as uploads
from shardtune.trainer.distributed.gpu.host_copy import HostCopy
from shardtune.trainer.distributed.gpu.upload import upload
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import IGNORED

GPU = torch.device("cuda", 0)


class Cuda:
    """In the place of torch.cuda: notes what each stream is given, by the signatures of the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[tuple[str, str]] = []
        """(stream, what)."""
        self.held: dict[int, str] = {}
        """Tensor -> the stream that its memory is kept for."""
        self.compute, self.copies = self._stream("compute"), self._stream("copies")
        self._current = threading.local()
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.copies)
        monkeypatch.setattr(torch.cuda, "stream", self._as_current)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.current)
        monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: self.held.update({id(tensor): stream.name}))
        monkeypatch.setattr(Batch, "to", lambda batch, device: self._copied(batch, device))
        uploads._stream_of.cache_clear()

    @property
    def current(self) -> Any:
        return getattr(self._current, "stream", self.compute)

    def _stream(self, name: str) -> Any:
        stream = create_autospec(torch.cuda.Stream, instance=True)
        stream.name = name
        stream.record_event.side_effect = lambda *_: self.given.append((name, "event")) or name
        stream.wait_event.side_effect = lambda event: self.given.append((name, f"wait for {event}"))
        return stream

    @contextmanager
    def _as_current(self, stream: Any) -> Iterator[None]:
        self._current.stream = stream
        yield
        del self._current.stream

    def _copied(self, batch: Batch, device: torch.device) -> Batch:
        assert device == GPU
        self.given.append((self.current.name, "copy"))
        return batch.mapped(torch.clone)


def a_batch() -> Batch:
    labels = torch.tensor([[5, IGNORED], [IGNORED, 7]])
    return Batch({"input_ids": torch.ones(2, 2), "longest": 2}, labels, torch.ones(2, 2)).with_target_inputs()


@pytest.mark.parametrize("engine", [ReplicatedEngine, DeepSpeedEngine])
def test_the_stream_that_computes_waits_for_copies_that_another_thread_has_begun(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, sent = Cuda(monkeypatch), []
    thread = threading.Thread(target=lambda: sent.append(upload(a_batch(), GPU)))
    thread.start()
    thread.join()
    assert cuda.given == [("copies", "copy"), ("copies", "event")]
    (batch,) = sent

    def model(**_: Any) -> None:
        cuda.given.append(("compute", "pass"))

    engine.forward(SimpleNamespace(_model=model, _engine=model), batch)
    assert cuda.given[2:] == [("compute", "wait for copies"), ("compute", "pass")]
    tensors = [*batch.inputs.values(), batch.labels, batch.weights, batch.positions]
    assert cuda.held == {id(tensor): "compute" for tensor in tensors if isinstance(tensor, Tensor)}
    assert len(cuda.held) == 6, "positions are copied once"


def test_on_a_cpu_nothing_is_copied_or_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cuda, "current_stream")
    before = a_batch()
    batch = upload(before, torch.device("cpu")).arrived()
    assert batch.labels is before.labels and batch.inputs["input_ids"] is before.inputs["input_ids"]


class Arriving:
    """Numbers on a GPU, whose copy arrives when its event is waited for."""

    is_cuda, shape, dtype, device = True, (2,), torch.float64, GPU


def test_numbers_are_read_when_their_copy_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    host = torch.zeros(2, dtype=torch.float64)
    room = create_autospec(Tensor, instance=True)
    room.tolist.side_effect = host.tolist
    event = create_autospec(torch.cuda.Event, instance=True)
    event.synchronize.side_effect = lambda: host.copy_(torch.tensor([0.5, 3]))
    stream = create_autospec(torch.cuda.Stream, instance=True)
    stream.record_event.side_effect = lambda: event if room.copy_.called else None
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    asked: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda shape, **how: asked.update(how) or room)
        numbers: Any = Arriving()
        copy = HostCopy(numbers)
    assert asked == {"dtype": torch.float64, "pin_memory": True}
    room.copy_.assert_called_once_with(numbers, non_blocking=True)
    assert not event.synchronize.called
    assert copy.read() == [0.5, 3.0]
