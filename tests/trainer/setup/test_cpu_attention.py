"""Attention on a CPU: torch's, but for what is dropped."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from shardtune.trainer.setup.cpu_attention import _Attention, _parts, attention, fast_attention
from shardtune.trainer.setup.cpu_dropout import Draws

MASKS = ["not", "causal", "bool", "float", "heads", "grouped"]


def inputs(masked: str, dtype: torch.dtype = torch.float32, tokens: int = 9) -> tuple[list[Tensor], dict[str, Any]]:
    """Query, key and value of 3 rows and 4 heads as models make them, and how they are to be attended to."""
    torch.manual_seed(0)
    num_heads = (4, 2, 2) if masked == "grouped" else (4, 4, 4)
    tensors = [torch.randn(3, tokens, heads, 8, dtype=dtype).transpose(1, 2).requires_grad_() for heads in num_heads]
    seen = torch.ones(3, 1, tokens, tokens, dtype=torch.bool)
    seen[1, :, :, tokens // 2 :] = False
    how: dict[str, dict[str, Any]] = {
        "not": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": seen},
        "float": {"attn_mask": torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -1e9)},
        "heads": {"attn_mask": torch.rand(4, tokens, tokens) > 0.3},
        "grouped": {"enable_gqa": True, "scale": 0.5},
    }
    return tensors, how[masked]


def gradients(output: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Of something that no symmetry makes zero."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return list(torch.autograd.grad((output * weights).sum(), tensors))


def dropped_out(tensors: list[Tensor], how: dict[str, Any], p: float) -> Tensor:
    """The same in a few lines of torch, with the draws that the seed gives."""
    query, key, value = (tensor.repeat_interleave(query_heads(tensors) // tensor.shape[1], 1) for tensor in tensors)
    scores = query @ key.transpose(-1, -2) * how.get("scale", 8**-0.5)
    mask = how.get("attn_mask")
    if how.get("is_causal"):
        mask = torch.ones(scores.shape[-2:]).tril() > 0
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e9) if mask.dtype == torch.bool else scores + mask
    weights, draws, kept = scores.softmax(-1), Draws(p), torch.empty(scores.shape)
    for part in _parts(scores.shape):
        kept[part] = (draws.below(kept[part].numel()) >= 0).view(kept[part].shape) * draws.scale
    return (weights * kept) @ value


def query_heads(tensors: list[Tensor]) -> int:
    return tensors[0].shape[1]


@pytest.mark.parametrize(("masked", "at_once"), list(product(MASKS, [2**20, 700, 200, 1])))
def test_output_and_gradients_are_those_of_weights_dropped_one_by_one(
    monkeypatch: pytest.MonkeyPatch, masked: str, at_once: int
) -> None:
    """Whether all rows are done together, two, some heads of one, or one head."""
    monkeypatch.setattr("shardtune.trainer.setup.cpu_attention.AT_ONCE", at_once)
    tensors, how = inputs(masked)
    torch.manual_seed(7)
    found = attention(*tensors, dropout_p=0.3, **how)
    torch.manual_seed(7)
    expected = dropped_out(tensors, how, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for gradient, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", MASKS)
def test_without_dropout_the_gradients_in_bf16_are_as_near_to_the_exact_ones_as_torchs(masked: str) -> None:
    tensors, how = inputs(masked, torch.bfloat16, tokens=64)
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    its_how = {
        name: argument.float() if name == "attn_mask" and argument.is_floating_point() else argument
        for name, argument in how.items()
    }
    expected = gradients(functional.scaled_dot_product_attention(*exact, **its_how), exact)
    torchs = gradients(functional.scaled_dot_product_attention(*tensors, **how), tensors)
    output = attention(*tensors, **how)
    assert "_Attention" in str(output.grad_fn)
    for gradient, other, right in zip(gradients(output, tensors), torchs, expected, strict=True):
        assert float((gradient - right).norm()) <= 2 * float((other - right).norm()) + 1e-3 * float(right.norm())


def test_it_is_torchs_where_that_is_as_fast() -> None:
    tensors, how = inputs("causal")
    assert "_Attention" not in str(attention(*tensors, **how).grad_fn)
    half = [tensor.detach().bfloat16() for tensor in tensors]
    assert torch.equal(attention(*half, **how), functional.scaled_dot_product_attention(*half, **how))
    with torch.no_grad():
        assert torch.equal(attention(*tensors), functional.scaled_dot_product_attention(*tensors))


def test_it_is_torchs_where_the_mask_is_learned_or_a_head_has_too_many_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T5 adds its relative positions as a mask."""
    tensors, _ = inputs("not")
    positions = torch.zeros(1, 4, 9, 9, requires_grad=True)
    output = attention(*tensors, attn_mask=positions, dropout_p=0.1)
    assert "_Attention" not in str(output.grad_fn)
    assert gradients(output, [positions])[0].abs().sum() > 0
    half, _ = inputs("not", torch.bfloat16)
    assert "_Attention" in str(attention(*half).grad_fn)
    monkeypatch.setattr("shardtune.trainer.setup.cpu_attention.LONGEST", 80)
    assert "_Attention" not in str(attention(*half).grad_fn)


def test_each_weight_is_kept_once_with_dropout_and_none_without() -> None:
    for p, largest in ((0.1, 3 * 4 * 9 * 9), (0.0, 3 * 4 * 9 * 8)):
        tensors, _ = inputs("not")
        output = _Attention.apply(*tensors, None, False, p, 1.0)  # type: ignore[no-untyped-call]
        assert max(tensor.numel() for tensor in output.grad_fn.saved_tensors if tensor is not None) == largest


def test_a_pass_that_is_done_again_drops_the_same() -> None:
    """As activation checkpointing does it."""
    tensors, how = inputs("bool")

    def attend(*tensors: Tensor) -> Tensor:
        return attention(*tensors, dropout_p=0.5, **how)

    torch.manual_seed(3)
    plain = attend(*tensors)
    torch.manual_seed(3)
    again = checkpoint(attend, *tensors, use_reentrant=False)
    assert torch.equal(plain, again)
    for gradient, other in zip(gradients(plain, tensors), gradients(again, tensors), strict=True):
        assert torch.equal(gradient, other)


def test_models_attend_in_this_way_while_a_cpu_trains() -> None:
    tensors, how = inputs("causal")
    with fast_attention(torch.device("cpu")):
        output = functional.scaled_dot_product_attention(*tensors, dropout_p=0.5, **how)
    assert "_Attention" in str(output.grad_fn)


def test_a_gpu_keeps_torchs_attention() -> None:
    torchs = functional.scaled_dot_product_attention
    with fast_attention(torch.device("cuda")):
        assert functional.scaled_dot_product_attention is torchs


def test_afterwards_attention_is_torchs_again_whatever_was_raised() -> None:
    torchs = functional.scaled_dot_product_attention
    with fast_attention(torch.device("cpu")):
        assert functional.scaled_dot_product_attention is attention
    assert functional.scaled_dot_product_attention is torchs
    with pytest.raises(KeyboardInterrupt), fast_attention(torch.device("cpu")):
        raise KeyboardInterrupt
    assert functional.scaled_dot_product_attention is torchs


@pytest.mark.parametrize(("dtype", "p"), [(torch.float32, 0.3), (torch.bfloat16, 0.3), (torch.bfloat16, 0.0)])
def test_a_query_that_sees_nothing_spoils_no_number(dtype: torch.dtype, p: float) -> None:
    tensors, _ = inputs("not", dtype)
    mask = torch.zeros(3, 1, 9, 9, dtype=dtype)
    mask[1, :, 4] = -torch.inf
    output = attention(*tensors, attn_mask=mask, dropout_p=p)
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(output, tensors))
