"""Dropout on a CPU: the law of torch's, other draws."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from shardtune.trainer.setup.cpu_dropout import dropout, fast_dropout

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize(("dtype", "p"), list(product(DTYPES, [0.1, 0.5, 0.9])))
def test_the_part_that_is_asked_for_is_dropped_and_the_mean_stays(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1003, 1001, dtype=dtype), p)
    kept = dropped != 0
    # Four standard deviations of a million draws.
    assert float(kept.double().mean()) == pytest.approx(1 - p, abs=4 * (p * (1 - p)) ** 0.5 / 1002)
    assert dropped[kept].unique().tolist() == pytest.approx(
        [1 / (1 - p)], rel=2e-2 if dtype == torch.bfloat16 else 1e-3
    )
    assert float(dropped.double().mean()) == pytest.approx(1, abs=8e-3)


def test_neighbours_and_the_four_numbers_of_a_draw_are_dropped_each_for_itself() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(1_000_000), 0.25) != 0).double()
    for shift in (1, 2, 3, 4):
        both = float((kept[shift:] * kept[:-shift]).mean())
        assert both == pytest.approx(0.75**2, abs=2e-3)


def test_the_gradient_is_dropped_where_the_number_was() -> None:
    inputs = torch.randn(64, 33, requires_grad=True)
    out = dropout(inputs, 0.3)
    out.sum().backward()
    assert inputs.grad is not None
    assert torch.equal(inputs.grad * inputs, out)
    assert 0 < int((inputs.grad == 0).sum()) < inputs.numel()


def test_the_same_seed_drops_the_same() -> None:
    inputs = torch.randn(100)
    first, second, other = (torch.manual_seed(seed) and dropout(inputs, 0.5) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_all_are_dropped_by_torch(p: float) -> None:
    inputs = torch.randn(10)
    assert torch.equal(dropout(inputs, p), inputs * (1 - p))
    assert torch.equal(dropout(inputs, 0.5, training=False), inputs)


def test_what_is_larger_than_a_piece_is_dropped_by_other_draws_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtune.trainer.setup.cpu_dropout.PIECE", 100)
    inputs = torch.ones(7, 50, requires_grad=True)
    out = dropout(inputs, 0.5)
    pieces = out.detach().view(-1).split(100)
    assert not torch.equal(pieces[0], pieces[1]) and len(pieces[-1]) == 50
    out.backward(torch.ones(50, 7).t())
    assert torch.equal(inputs.grad, out)  # type: ignore[arg-type]


def test_modules_and_functions_drop_out_in_this_way_while_a_cpu_trains() -> None:
    ones = torch.ones(400)
    with fast_dropout(torch.device("cpu")):
        for drop in (nn.Dropout(0.5), lambda inputs: functional.dropout(inputs, 0.5)):
            torch.manual_seed(0)
            dropped = drop(ones)
            torch.manual_seed(0)
            assert torch.equal(dropped, dropout(ones, 0.5))


def test_a_gpu_keeps_torchs_dropout() -> None:
    torchs = functional.dropout
    with fast_dropout(torch.device("cuda")):
        assert functional.dropout is torchs


def test_afterwards_dropout_is_torchs_again_whatever_was_raised() -> None:
    torchs = functional.dropout
    with fast_dropout(torch.device("cpu")):
        assert functional.dropout is dropout
    assert functional.dropout is torchs
    with pytest.raises(KeyboardInterrupt), fast_dropout(torch.device("cpu")):
        raise KeyboardInterrupt
    assert functional.dropout is torchs
