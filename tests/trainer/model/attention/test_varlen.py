"""Attention within the borders of texts: what the kernel computes, how it is called, and what else goes elsewhere."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from shardtune.errors import ConfigError
from shardtune.trainer.model.attention import varlen
from shardtune.trainer.model.attention.reference import varlen_reference
from shardtune.trainer.model.attention.varlen import attend, first_text_mask, register, window_of
from shardtune.trainer.tasks.masks import borders
from tests.trainer.setup.test_packing import SMALL

LENGTHS = (5, 1, 9, 3)
Kernel = Callable[..., Tensor]


def states(*, heads: int = 4, key_heads: int = 4, tokens: int = sum(LENGTHS)) -> list[Tensor]:
    """Queries, keys and values of one row; shape (1, heads, tokens, 8)."""
    drawn = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, number, tokens, 8, generator=drawn).requires_grad_() for number in (heads, key_heads, key_heads)
    ]


def pairs(window: tuple[int, int]) -> Tensor:
    """Which keys each query sees by the texts and the window; shape (tokens, tokens)."""
    text = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    at = torch.arange(len(text))
    ahead = at[None] - at[:, None]
    before, behind = (10**6 if reach < 0 else reach for reach in window)
    return (text[:, None] == text[None]) & (ahead >= -before) & (ahead <= behind)


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize(("is_causal", "window"), [(True, None), (False, None), (True, 3), (False, 3)])
def test_each_token_sees_its_own_text_within_its_window(is_causal: bool, window: int | None, key_heads: int) -> None:
    found, expected = states(key_heads=key_heads), states(key_heads=key_heads)
    module = SimpleNamespace(is_causal=is_causal)
    marker = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    of_texts = borders([LENGTHS], sum(LENGTHS))
    output, _ = attend(module, *found, marker, scaling=0.3, sliding_window=window, **of_texts)  # type: ignore[arg-type]
    mask = pairs(window_of(window, is_causal=is_causal))
    masked = scaled_dot_product_attention(*expected, mask, scale=0.3, enable_gqa=key_heads < 4)
    torch.testing.assert_close(output, masked.transpose(1, 2))
    (output**2).sum().backward()
    (masked**2).sum().backward()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_window_counts_the_token_itself_and_reaches_to_both_sides_in_an_encoder() -> None:
    cases = [(None, True), (None, False), (3, True), (3, False)]
    assert [window_of(window, is_causal=is_causal) for window, is_causal in cases] == [
        (-1, 0),
        (-1, -1),
        (2, 0),
        (2, 2),
    ]


def test_the_kernel_is_called_as_torch_declares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def checked(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(signature(varlen_attn).bind(*args, **kwargs).arguments)
        return varlen_reference(*args, **kwargs)

    monkeypatch.setattr(varlen, "kernel_of", lambda device: checked)
    attend(SimpleNamespace(is_causal=True), *states(key_heads=2), None, **borders([LENGTHS], 18))  # type: ignore[arg-type]
    (call,) = calls
    assert [tuple(call[name].shape) for name in ("query", "key", "value")] == [(18, 4, 8), (18, 2, 8), (18, 2, 8)]
    for name in ("cu_seq_q", "cu_seq_k"):
        assert call[name].dtype == torch.int32 and call[name].tolist() == [0, 5, 6, 15, 18]
    assert type(call["max_q"]) is int and call["max_q"] == call["max_k"] == 9
    assert (call["window_size"], call["enable_gqa"]) == ((-1, 0), True)


def test_a_gpu_gets_torchs_kernel_and_a_cpu_its_reference() -> None:
    assert varlen.kernel_of(torch.device("cuda", 0)) is varlen_attn
    assert varlen.kernel_of(torch.device("cpu")) is varlen_reference
    taken = signature(varlen_reference).parameters
    assert taken.keys() <= signature(varlen_attn).parameters.keys()


def test_no_pass_through_the_kernel_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def grads(kernel: Kernel) -> list[Any]:
        monkeypatch.setattr(varlen, "kernel_of", lambda device: kernel)
        with FakeTensorMode():
            of_texts = borders([LENGTHS], sum(LENGTHS)) | dict.fromkeys(
                ("cu_seq_lens_q", "cu_seq_lens_k"), torch.empty(len(LENGTHS) + 1, dtype=torch.int32)
            )
            query, key, value = (torch.empty(1, number, 18, 8, requires_grad=True) for number in (4, 2, 2))
            output, _ = attend(SimpleNamespace(is_causal=True), query, key, value, None, **of_texts)  # type: ignore[arg-type]
            output.sum().backward()
            return [tensor.grad.shape for tensor in (query, key, value) if tensor.grad is not None]

    assert grads(varlen_attn) == [(1, 4, 18, 8), (1, 2, 18, 8), (1, 2, 18, 8)]
    with pytest.raises(DataDependentOutputException):
        grads(varlen_reference)  # it reads the borders: the test would see a wait


def test_calls_without_borders_go_to_sdpa() -> None:
    query, key, value = states(key_heads=2)
    module = SimpleNamespace(is_causal=True, num_key_value_groups=2)
    mask = torch.ones(1, 1, 18, 18, dtype=torch.bool).tril()
    mask[..., :4] = False
    mask[..., torch.arange(18), torch.arange(18)] = True
    for given, how in ((mask, {"attn_mask": mask}), (None, {"is_causal": True})):
        output, _ = attend(module, query, key, value, given, sliding_window=3)  # type: ignore[arg-type]
        expected = scaled_dot_product_attention(query, key, value, **how, enable_gqa=True)  # type: ignore[arg-type]
        torch.testing.assert_close(output, expected.transpose(1, 2))


def test_fewer_queries_than_keys_see_the_first_text_of_their_row() -> None:
    places = borders([[3], [5], [2]], 5)["cu_seq_lens_k"]
    mask = first_text_mask(places, 3, 5)
    assert mask.shape == (3, 1, 1, 5) and mask.sum(-1).flatten().tolist() == [3, 5, 2]
    query = torch.randn(3, 4, 1, 8)
    key, value = torch.randn(2, 3, 4, 5, 8)
    output, _ = attend(SimpleNamespace(is_causal=False), query, key, value, None, **borders([[3], [5], [2]], 5))  # type: ignore[arg-type]
    torch.testing.assert_close(output, scaled_dot_product_attention(query, key, value, mask).transpose(1, 2))


@pytest.mark.parametrize("needed", [{"dropout": 0.1}, {"softcap": 30.0}, {"s_aux": torch.ones(4)}])
def test_what_the_kernel_lacks_is_named_with_the_cure(needed: dict[str, Any]) -> None:
    (name,) = needed
    with pytest.raises(ConfigError, match=rf"model\.attention: varlen lacks .*{name}.*; set it to sdpa or eager"):
        attend(SimpleNamespace(), *states(), None, **borders([LENGTHS], 18), **needed)  # type: ignore[arg-type]


def model_of(attention: str) -> Any:
    register()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def test_generation_with_a_cache_and_padding_on_the_left_is_as_with_sdpa() -> None:
    ids = torch.tensor([[0, 0, 0, 7, 8, 9], [3, 4, 5, 6, 7, 8]])
    mask = (ids > 0).long()
    how = {"max_new_tokens": 8, "do_sample": False, "attention_mask": mask}
    found, expected = (model_of(name).generate(ids, **how, num_beams=2) for name in ("varlen", "sdpa"))
    assert found.tolist() == expected.tolist() and found.shape == (2, 14)


def test_a_saved_model_does_not_name_the_implementation(tmp_path: Path) -> None:
    model = model_of("varlen")
    assert model.config._attn_implementation == "varlen"
    model.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    assert "varlen" not in (tmp_path / "config.json").read_text()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
