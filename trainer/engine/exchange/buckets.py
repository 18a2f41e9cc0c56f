"""When plain data parallelism adds up the gradients of all ranks: in buckets, while the backward pass still runs.

As in DistributedDataParallel (Li et al., 2020, section 3.2), but the order of the buckets is fixed by the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shardtune.trainer.distributed.ranks import Ranks

BUCKET_BYTES = 25 * 2**20
"""Bytes of gradients that are exchanged at once, by default: those of DistributedDataParallel."""
LONGEST_DOT = 2**30
"""Most elements of one torch.dot: cuBLAS counts in 32 bits, and torch (2.13) refuses more than 2^31 - 1."""
WIRE_DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
"""engine.communication_data_type -> dtype in which gradients are exchanged."""


@dataclass(frozen=True)
class Span:
    """Where the gradient of a parameter lies among all gradients of the rank."""

    parameter: nn.Parameter
    place: slice
    number: int
    """Position among the model's parameters. A backward pass reaches the last ones first."""


@dataclass(frozen=True)
class Bucket:
    """Adjacent gradients that are exchanged at once."""

    place: slice
    parameters: tuple[nn.Parameter, ...]


def plan_buckets(spans: Sequence[Span], most_elements: int) -> list[Bucket]:
    """The buckets of these spans, which are in order of their places, in the order in which a backward pass fills them.

    A bucket has at most most_elements, unless one parameter alone has more.
    """
    runs: list[list[Span]] = []
    for span in reversed(spans):
        run = runs[-1] if runs else None
        if run and span.place.stop == run[-1].place.start and run[0].place.stop - span.place.start <= most_elements:
            run.append(span)
        else:
            runs.append([span])
    # Biases and norms lie apart from the weights, those of all layers together: they are complete last.
    runs.sort(key=lambda run: -min(span.number for span in run))
    return [
        Bucket(slice(run[-1].place.start, run[0].place.stop), tuple(span.parameter for span in run)) for run in runs
    ]


class GradientBuckets:
    """Adds up the gradients of all ranks, a bucket as soon as the step's last backward pass has filled it.

    Ranks may pass through different parameters, or through none of some. Collectives have to match anyway: every rank
    launches all buckets in the same order, and those that are not filled by the end of the pass after it.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        gradients: Tensor,
        ranks: Ranks,
        *,
        dtype: torch.dtype = torch.float32,
        num_bytes: int = BUCKET_BYTES,
    ) -> None:
        """`gradients`, in fp32 and of shape (elements,), are exchanged in `dtype`, num_bytes at once."""
        self._gradients, self._ranks, self._dtype = gradients, ranks, dtype
        self.buckets = plan_buckets(spans, max(1, num_bytes // dtype.itemsize))
        self._bucket_of = {p: number for number, bucket in enumerate(self.buckets) for p in bucket.parameters}
        self._missing: list[set[nn.Parameter]] = []
        self._under_way: list[tuple[Tensor, Tensor, dist.Work]] = []

    def begin(self) -> None:
        """Begins a step: no bucket is filled."""
        self.finish()  # of a step that was given up after its last backward pass
        self._missing = [set(bucket.parameters) for bucket in self.buckets]

    def fill(self, parameter: nn.Parameter) -> None:
        """Collective: notes that the gradient of a parameter is complete, and launches the buckets that are filled."""
        if (number := self._bucket_of.get(parameter)) is None:
            return
        assert number >= len(self._under_way), "a gradient changed after its exchange had begun"
        self._missing[number].discard(parameter)
        while len(self._under_way) < len(self.buckets) and not self._missing[len(self._under_way)]:
            self._launch()

    def launch_rest(self) -> None:
        """Collective: launches the buckets that are left, after the step's last backward pass."""
        while len(self._under_way) < len(self.buckets):
            self._launch()

    def finish(self) -> None:
        """Waits, on a GPU on its stream only, until the gradients of all launched buckets are those of all ranks."""
        for part, wire, work in self._under_way:
            work.wait()
            if wire is not part:
                part.copy_(wire)
        self._under_way.clear()

    def _launch(self) -> None:
        part = self._gradients[self.buckets[len(self._under_way)].place]
        wire = part if part.dtype == self._dtype else part.to(self._dtype)
        work = dist.all_reduce(wire, group=self._ranks.group, async_op=True)
        self._under_way.append((part, wire, work))


def square_sum(gradients: Sequence[Tensor], longest: int = LONGEST_DOT) -> Tensor:
    """The sum of the squares of all elements; shape ().

    More exact than vector_norm, which is off by a thousandth.
    """
    parts = [part for gradient in gradients for part in torch.split(gradient, longest)]
    return torch.stack([torch.dot(part, part) for part in parts]).sum()
