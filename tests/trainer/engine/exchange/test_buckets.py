"""Gradients that are exchanged in buckets, during the backward pass, are those of one all-reduce after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isfinite, nan
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine import replicated_engine
from shardtune.trainer.engine.exchange.buckets import LONGEST_DOT, Bucket, Span, plan_buckets, square_sum
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks

SIZE = 16
LAYER = SIZE * SIZE
SMALL = 4 * LAYER
"""Bytes of a bucket that one layer's weights fill."""


class Model(nn.Module):
    """Layers of which each pass goes through some, and one that none goes through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(SIZE, SIZE) for _ in range(4))
        self.unused = nn.Linear(SIZE, SIZE)

    def forward(self, x: Tensor, through: tuple[int, ...]) -> Tensor:
        for number in through:
            x = torch.tanh(self.layers[number](x))
        return x.float()


PASSES = {0: [(0, 1, 2), (0, 2, 3)], 1: [(0, 1, 3), (0, 3)], 2: [(0, 1), (0,)], 3: [(0, 1, 2, 3), (0, 1, 2, 3)]}
"""Rank -> the layers of each micro-batch of a step. No micro-batch of ranks 1 and 2 passes through layer 2."""


@pytest.fixture(autouse=True)
def without_common_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on several machines, and on GPUs."""
    monkeypatch.setattr(replicated_engine, "common_memory", lambda *_: None)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Weights and biases apart, as AdamW has them."""
    return torch.optim.SGD(
        [{"params": [p for p in model.parameters() if p.dim() == 2]}, {"params": [*model.parameters()][1::2]}], lr=1.0
    )


def engine_of(ranks: Ranks, precision: str = "fp32", **words: Any) -> ReplicatedEngine:
    return ReplicatedEngine(Model(), sgd, precision=precision, max_grad_norm=0.0, ranks=ranks, seed=0, **words)


def rows(rank: int, number: int) -> Tensor:
    return torch.randn(3, SIZE, generator=torch.Generator().manual_seed(10 * rank + number))


def backward(engine: Any, rank: int, *, spoiled: float = 1.0) -> None:
    engine.begin_step(0, num_micro_batches=len(PASSES[rank]))
    for number, through in enumerate(PASSES[rank]):
        x = rows(rank, number).to(next(engine._model.parameters()).dtype)
        out = engine.forward(Batch({"x": x, "through": through}, x))
        engine.backward(out.square().sum() * spoiled, num_targets=8.0)


def by_torch(world_size: int) -> dict[str, Tensor]:
    """The gradients of all micro-batches of all ranks."""
    model = Model()
    for rank in range(world_size):
        for number, through in enumerate(PASSES[rank]):
            (model(rows(rank, number), through).square().sum() / 8).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def gradients(ranks: Ranks, words: dict[str, Any]) -> tuple[dict[str, Any], float]:
    engine = engine_of(ranks, **words)
    before = {name: p.detach().clone() for name, p in engine._model.named_parameters()}
    backward(engine, ranks.rank)
    norm = engine.step(lr=1.0).grad_norm
    return {name: (before[name] - p.detach()).numpy() for name, p in engine._model.named_parameters()}, norm


@pytest.mark.parametrize("bucket_bytes", [4, SMALL, 3 * SMALL, 2**30])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_buckets_of_any_size_give_the_sum_over_all_ranks_whatever_they_pass_through(
    world_size: int, bucket_bytes: int
) -> None:
    expected = by_torch(world_size)
    norm = float(square_sum([gradient.view(-1) for gradient in expected.values()]).sqrt())
    for found, found_norm in run_ranks(gradients, {"bucket_bytes": bucket_bytes}, world_size=world_size):
        assert found_norm == pytest.approx(norm, rel=1e-6)
        for name, gradient in found.items():
            torch.testing.assert_close(torch.from_numpy(gradient), expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("world_size", [2, 4])
def test_in_bf16_a_gradient_keeps_two_digits(world_size: int) -> None:
    expected = torch.cat([gradient.view(-1) for gradient in by_torch(world_size).values()])
    words = {"bucket_bytes": SMALL, "exchanged_in": torch.bfloat16}
    for found, _ in run_ranks(gradients, words, world_size=world_size):
        wrong = torch.cat([torch.from_numpy(gradient).view(-1) for gradient in found.values()]) - expected
        error = float(wrong.norm() / expected.norm())
        assert 2**-11 < error < 2**-8, "a bf16 has 8 bits"


@contextmanager
def recorded() -> Iterator[list[tuple[int, str]]]:
    """(elements, dtype) of each all-reduce."""
    calls: list[tuple[int, str]] = []
    right = dist.all_reduce

    def all_reduce(tensor: Tensor, *args: Any, **words: Any) -> Any:
        calls.append((tensor.numel(), str(tensor.dtype)))
        return right(tensor, *args, **words)

    dist.all_reduce = all_reduce
    try:
        yield calls
    finally:
        dist.all_reduce = right


def launches(ranks: Ranks, dtype: torch.dtype) -> tuple[list[tuple[int, str]], list[int]]:
    """What a step exchanges, and how much of it when the hooks of its last pass have run."""
    engine = engine_of(ranks, bucket_bytes=LAYER * dtype.itemsize, exchanged_in=dtype)
    rest, during = engine._buckets.launch_rest, []

    def launch_rest() -> None:
        during.append(len(calls))
        rest()

    engine._buckets.launch_rest = launch_rest  # type: ignore[method-assign]
    with recorded() as calls:
        backward(engine, 3)
        engine.step(lr=0.0)
    return calls, during


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_complete_is_exchanged_during_the_last_backward_pass_and_the_same_on_all_ranks(
    dtype: torch.dtype,
) -> None:
    unused_first, (calls, during) = run_ranks(launches, dtype)
    assert unused_first == (calls, during)
    assert sorted(calls) == [(64, str(dtype)), *[(LAYER, str(dtype))] * 6], "a layer each, four biases, the first bias"
    assert during == [0], "the last layer's gradient is missing, which no pass goes through"


def through_all(ranks: Ranks) -> tuple[list[tuple[int, str]], list[int]]:
    Model.forward = lambda self, x, through: self.unused(right(self, x, through))  # type: ignore[method-assign,assignment]
    return launches(ranks, torch.float32)


right = Model.forward


def test_a_step_that_passes_through_all_layers_has_launched_all_buckets_before_its_backward_pass_ends() -> None:
    for calls, during in run_ranks(through_all):
        assert during == [len(calls)] == [7]


def test_the_layers_that_a_pass_reaches_last_are_exchanged_last_and_what_is_apart_after_them() -> None:
    parameters = [nn.Parameter(torch.empty(size)) for size in (4, 1, 3, 1, 9)]
    first, bias, second, other_bias, large = parameters
    # In memory: the weights, something that is not exchanged whole, the biases.
    places = {first: (0, 4), second: (4, 7), large: (7, 16), bias: (20, 21), other_bias: (21, 22)}
    numbers = {parameter: number for number, parameter in enumerate(parameters)}
    spans = [Span(parameter, slice(*place), numbers[parameter]) for parameter, place in places.items()]
    assert plan_buckets(spans, 7) == [
        Bucket(slice(7, 16), (large,)),
        Bucket(slice(20, 22), (other_bias, bias)),
        Bucket(slice(0, 7), (second, first)),
    ]
    assert [bucket.place for bucket in plan_buckets(spans, 100)] == [slice(20, 22), slice(0, 16)]
    assert [len(bucket.parameters) for bucket in plan_buckets(spans, 1)] == [1] * 5


def spoiled(ranks: Ranks, loss: float) -> tuple[bool, float, bool]:
    engine = engine_of(ranks, bucket_bytes=SMALL)
    backward(engine, ranks.rank, spoiled=loss if ranks.rank == 1 else 1.0)
    stats = engine.step(lr=1.0)
    kept = all(torch.equal(a, b) for a, b in zip(engine._model.parameters(), Model().parameters(), strict=True))
    return stats.applied, stats.grad_norm, kept


@pytest.mark.parametrize("loss", [nan, inf])
def test_a_gradient_that_is_non_finite_on_one_rank_skips_the_step_on_all(loss: float) -> None:
    for applied, norm, kept in run_ranks(spoiled, loss, world_size=3):
        assert not applied and not isfinite(norm) and kept


def given_up(ranks: Ranks) -> tuple[list[int], dict[str, Any]]:
    engine = engine_of(ranks, bucket_bytes=SMALL)
    backward(engine, ranks.rank)  # the ranks are asked to stop, and have launched different numbers of buckets by then
    seen = ranks.gather(ranks.rank)
    backward(engine, ranks.rank)
    engine.step(lr=1.0)
    return seen, {name: p.detach().numpy() for name, p in engine._model.named_parameters()}


def test_a_step_that_is_given_up_after_its_last_pass_leaves_the_ranks_in_step() -> None:
    expected = by_torch(2)
    for seen, weights in run_ranks(given_up):
        assert seen == [0, 1]
        for name, weight in Model().named_parameters():
            torch.testing.assert_close(torch.from_numpy(weights[name]), weight.detach() - expected[name], msg=name)


def test_a_norm_is_taken_in_parts_that_cublas_can_count() -> None:
    assert LONGEST_DOT < 2**31 - 1
    values = torch.linspace(-1, 2, 1000)
    exact = float(values.double().square().sum())
    for longest in (1, 7, 1000, LONGEST_DOT):
        assert float(square_sum([values[:300], values[300:], values[:0]], longest)) == pytest.approx(exact, rel=1e-6)
