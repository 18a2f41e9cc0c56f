"""Dropout on a CPU: the law of torch's, other draws."""

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from trainer.cpu_dropout import attention, dropout, hasten_dropout

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def hastened() -> Iterator[None]:
    """What it is like while a run trains on a CPU."""
    before = functional.dropout, functional.scaled_dot_product_attention
    hasten_dropout()
    yield
    functional.dropout, functional.scaled_dot_product_attention = before


@pytest.mark.parametrize(("dtype", "p"), list(product(DTYPES, [0.1, 0.5, 0.9])))
def test_the_part_that_is_asked_for_is_dropped_and_the_mean_stays(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(0)
    its = dropout(torch.ones(1003, 1001, dtype=dtype), p)
    kept = its != 0
    # Four standard deviations of a million draws.
    assert float(kept.double().mean()) == pytest.approx(1 - p, abs=4 * (p * (1 - p)) ** 0.5 / 1002)
    assert its[kept].unique().tolist() == pytest.approx([1 / (1 - p)], rel=2e-2 if dtype == torch.bfloat16 else 1e-3)
    assert float(its.double().mean()) == pytest.approx(1, abs=8e-3)


def test_neighbours_and_the_four_numbers_of_a_draw_are_dropped_each_for_itself() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(1_000_000), 0.25) != 0).double()
    for shift in (1, 2, 3, 4):
        both = float((kept[shift:] * kept[:-shift]).mean())
        assert both == pytest.approx(0.75**2, abs=2e-3)


def test_the_gradient_is_dropped_where_the_number_was() -> None:
    its = torch.randn(64, 33, requires_grad=True)
    out = dropout(its, 0.3)
    out.sum().backward()
    assert its.grad is not None
    assert torch.equal(its.grad * its, out)
    assert 0 < int((its.grad == 0).sum()) < its.numel()


def test_the_same_seed_drops_the_same() -> None:
    its = torch.randn(100)
    first, second, other = (torch.manual_seed(seed) and dropout(its, 0.5) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_all_are_dropped_by_torch(p: float) -> None:
    its = torch.randn(10)
    assert torch.equal(dropout(its, p), its * (1 - p))
    assert torch.equal(dropout(its, 0.5, training=False), its)


@pytest.mark.parametrize("masked", ["not", "causal", "bool", "float", "grouped"])
def test_attention_is_torchs_but_for_what_is_dropped(masked: str) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 9, 8) for heads in (4, 2, 2))
    if masked != "grouped":
        key, value = key.repeat(1, 2, 1, 1), value.repeat(1, 2, 1, 1)
    seen = torch.ones(2, 1, 9, 9, dtype=torch.bool)
    seen[1, :, :, 6:] = False
    how = {
        "not": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": seen},
        "float": {"attn_mask": torch.zeros(seen.shape).masked_fill(~seen, -1e9)},
        "grouped": {"enable_gqa": True, "scale": 0.5},
    }[masked]
    expected = functional.scaled_dot_product_attention(query, key, value, **how)  # type: ignore[arg-type]
    mean = torch.stack([attention(query, key, value, dropout_p=0.1, **how) for _ in range(1000)]).mean(0)  # type: ignore[arg-type]
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.08)
    nearly = attention(query, key, value, dropout_p=1e-9, **how)  # type: ignore[arg-type]
    assert float((nearly - expected).abs().median()) < 1e-3


@pytest.mark.usefixtures("hastened")
def test_modules_functions_and_attention_all_drop_out_in_this_way() -> None:
    its = torch.ones(400)
    for drop in (nn.Dropout(0.5), lambda its: functional.dropout(its, 0.5)):
        torch.manual_seed(0)
        found = drop(its)
        torch.manual_seed(0)
        assert torch.equal(found, dropout(its, 0.5))
    query = torch.randn(1, 2, 5, 4)
    torch.manual_seed(0)
    found = functional.scaled_dot_product_attention(query, query, query, dropout_p=0.5)
    torch.manual_seed(0)
    assert torch.equal(found, attention(query, query, query, dropout_p=0.5))
