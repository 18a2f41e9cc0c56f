"""How long the operations of a step take on CPU ranks: products, attention, the loss, and those by elements."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shardtune.planner.measured.calibration import ATTENTION, ELEMENTWISE, PRODUCTS, AttentionTime, BothWays
from shardtune.planner.measured.curves import Curve, Products
from shardtune.trainer.calibration.timing import Clock, ring_of
from shardtune.trainer.model.target_loss import chunked_loss
from shardtune.trainer.setup.cpu_attention import attention
from shardtune.trainer.setup.cpu_dropout import dropout

WIDTH = 512
"""Elements of a row of what is not a product."""
MOST_WEIGHTS = 2**24
"""Elements of the largest matrix that is multiplied."""
HEADS = 4
HEAD_SIZES = (32, 128)
TOKENS_AT_ONCE = 1024
VOCABULARY = 8192
DROPPED = 0.1
LARGER = 8
"""How many times as many elements `scaled` has."""


def measure_products(clock: Clock, dtype: torch.dtype) -> dict[str, Products]:
    """Collective: the products of linear layers, by PRODUCTS."""
    tokens, features = clock.effort.token_sizes, clock.effort.feature_sizes
    sizes = {
        "forward": (tokens, features, features),
        "of_inputs": (tokens, features, features),
        "of_weights": (features, tokens, features),
    }
    return {name: _products(clock, dtype, name, *sizes[name]) for name in PRODUCTS}


def _products(
    clock: Clock, dtype: torch.dtype, name: str, rows: tuple[int, ...], inner: tuple[int, ...], columns: tuple[int, ...]
) -> Products:
    most = clock.effort.operations * torch.get_num_threads()
    rates: dict[tuple[int, int, int], float] = {}
    for row in rows:
        for between in inner:
            for column in columns:
                sizes = row, between, column
                is_small = math.prod(sizes) <= most and max(row * between, between * column) <= MOST_WEIGHTS
                if is_small or not rates:
                    rates[sizes] = math.prod(sizes) / clock.each(_product(name, *sizes, dtype))
                else:  # rates rise with each of the sizes, until they stay
                    rates[sizes] = max(rates[each] for each in _steps_down(sizes, rows, inner, columns))
    seconds = tuple(math.prod(sizes) / rates[sizes] for sizes in rates)
    of_grid = [tuple(map(float, each)) for each in (rows, inner, columns)]
    return Products(of_grid[0], of_grid[1], of_grid[2], seconds)


def _steps_down(sizes: tuple[int, int, int], *grid: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """The sizes with one of them a step smaller, for each that has a smaller one."""
    for at, each in enumerate(grid):
        if (number := each.index(sizes[at])) > 0:
            first, second, third = (each[number - 1] if place == at else size for place, size in enumerate(sizes))
            yield first, second, third


def _product(name: str, rows: int, inner: int, columns: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    """The product as linear layers compute it: with the weights transposed, with the output's gradient, or that one
    transposed."""
    if name == "forward":
        inputs, weight = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
        return lambda: functional.linear(inputs, weight)
    left = torch.ones(rows, inner, dtype=dtype) if name == "of_inputs" else torch.ones(inner, rows, dtype=dtype).T
    right = torch.ones(inner, columns, dtype=dtype)
    return lambda: left @ right


def measure_elementwise(clock: Clock, dtype: torch.dtype) -> dict[str, BothWays]:
    """Collective: what is done element by element, by ELEMENTWISE."""
    return {name: _elementwise(clock, dtype, name) for name in ELEMENTWISE}


def _elementwise(clock: Clock, dtype: torch.dtype, name: str) -> BothWays:
    forward, backward = [], []
    for elements in (size * (LARGER if name == "scaled" else 1) for size in clock.effort.elements):
        below, above = _timed(clock, dtype, name, elements)
        forward.append((float(elements), below))
        backward.append((float(elements), above))
    if name == "add":  # gradients are added up just so, while the addition's own is nothing
        backward = forward
    return BothWays(Curve(tuple(forward)), Curve(tuple(backward)))


def _timed(clock: Clock, dtype: torch.dtype, name: str, elements: int) -> tuple[float, float]:
    rows = max(1, elements // WIDTH)
    ring = ring_of(elements * dtype.itemsize)
    operation = _operations(dtype, rows)[name]
    inputs = [torch.randn(rows, WIDTH).to(dtype).requires_grad_() for _ in range(ring)]
    grad = torch.ones(rows, WIDTH, dtype=dtype)

    def backward(output: Tensor) -> None:
        output.backward(grad.view(output.shape))  # type: ignore[no-untyped-call]

    below, above = clock.both_ways(lambda number: operation(inputs[number]), backward, ring)
    return below, above


def _operations(dtype: torch.dtype, rows: int) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """The operations as models of transformers call them, on a tensor of shape (rows, WIDTH)."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

    other, bias = torch.ones(rows, WIDTH, dtype=dtype), nn.Parameter(torch.ones(WIDTH, dtype=dtype))
    norm, rms_norm = nn.LayerNorm(WIDTH, dtype=dtype), LlamaRMSNorm(WIDTH).to(dtype)
    table, ids = nn.Embedding(1024, WIDTH, dtype=dtype), torch.arange(rows) * 7 % 1024
    gate = torch.ones(rows, WIDTH, dtype=dtype, requires_grad=True)
    angles = torch.ones(1, rows, 64, dtype=dtype)

    def rotated(values: Tensor) -> Tensor:  # half of the elements are queries, and half keys
        query, key = values.view(1, rows, 2, WIDTH // 128, 64).permute(2, 0, 3, 1, 4).unbind()
        return torch.cat(apply_rotary_pos_emb(query, key, angles, angles), 1)

    return {
        "add": lambda values: values + other,
        "norm": norm,
        "rms_norm": rms_norm,
        "gelu": functional.gelu,
        "gated": lambda values: functional.silu(gate) * values,
        "rotary": rotated,
        "dropout": lambda values: dropout(values, DROPPED),
        "bias": lambda values: values + bias,
        "lookup": lambda _: table(ids),
        "scaled": lambda values: (values.float() * 0.5).to(dtype, copy=True),
    }


def measure_attention(clock: Clock, dtype: torch.dtype) -> dict[str, tuple[AttentionTime, ...]]:
    """Collective: attention as the ranks compute it, by ATTENTION and size of heads."""
    return {kind: tuple(_attention(clock, dtype, kind, size) for size in HEAD_SIZES) for kind in ATTENTION}


def _attention(clock: Clock, dtype: torch.dtype, kind: str, head_size: int) -> AttentionTime:
    forward, backward = [], []
    for length in clock.effort.lengths:
        rows = max(1, min(TOKENS_AT_ONCE, 4 * clock.effort.tokens) // length)
        shape = rows, length, HEADS, head_size
        parts = [torch.randn(shape).to(dtype).transpose(1, 2).requires_grad_() for _ in range(3)]
        how: dict[str, Any] = {"is_causal": True}
        if kind != "causal":
            mask = torch.ones(rows, 1, length, length, dtype=torch.bool)
            mask[..., length - length // 8 :] = False
            how = {"attn_mask": mask, "dropout_p": DROPPED if kind == "dropout" else 0.0}
        grad = torch.ones(shape, dtype=dtype).transpose(1, 2)
        below, above = clock.both_ways(
            lambda _, parts=parts, how=how: attention(*parts, **how),  # type: ignore[misc]
            lambda output, grad=grad: output.backward(grad),  # type: ignore[misc]
            1,
        )
        queries = rows * length * HEADS
        forward.append((float(length), below / queries))
        backward.append((float(length), above / queries))
    return AttentionTime(head_size, Curve(tuple(forward)), Curve(tuple(backward)))


def measure_loss(clock: Clock, dtype: torch.dtype, products: Mapping[str, Products]) -> Curve:
    """Collective: a cross entropy over a vocabulary and its gradient, without the last layer's products, whose times
    are known."""
    points = []
    narrow = min(clock.effort.feature_sizes)
    weight = torch.ones(VOCABULARY, narrow, dtype=dtype, requires_grad=True)
    for targets in (8, 64, 512):
        hidden = torch.randn(targets, narrow).to(dtype).requires_grad_()
        labels = torch.arange(targets) % VOCABULARY

        def run(hidden: Tensor = hidden, labels: Tensor = labels) -> None:
            chunked_loss(hidden, weight, None, labels, None)[0].backward()  # type: ignore[no-untyped-call]

        whole = clock.each(run)
        of_products = (
            products["forward"].at(targets, narrow, VOCABULARY)
            + products["of_inputs"].at(targets, VOCABULARY, narrow)
            + products["of_weights"].at(VOCABULARY, targets, narrow)
        )
        points.append((float(targets * VOCABULARY), max(whole - of_products, 0.2 * whole)))
    return Curve(tuple(points))


def copy_rate(clock: Clock) -> float:
    """Collective: bytes a second that a rank reads and writes while it copies memory, as all others do."""
    size = max(clock.effort.elements) * 4
    pairs = [(torch.ones(size), torch.empty(size)) for _ in range(2)]

    def run() -> None:
        for source, target in pairs:
            target.copy_(source)

    return 2 * 2 * 4 * size / clock.each(run)
