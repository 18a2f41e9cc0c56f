"""What a pass costs by the lengths of its rows, and that texts attended to alone are shared evenly by it."""

from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from shardtune.trainer.data.batches.bins import Packing, lay_out, shape_of
from shardtune.trainer.data.batches.cost import TYPICAL, Cost, Pairs
from shardtune.trainer.data.batches.deal import deal_texts
from shardtune.trainer.model.flops import ModelFlops, count_flops
from shardtune.trainer.setup.attention.cost import cost_by_flops

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=120).map(lambda lengths: np.array(lengths, dtype=np.int32))
FLAT = Packing(60, is_flat=True)
LLAMA: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
}


T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def flops_of(name: str, kind: str = "CausalLM", **settings: Any) -> ModelFlops:
    config = transformers.AutoConfig.for_model(name, **(settings if name == "t5" else LLAMA | settings))
    return count_flops(getattr(transformers, f"AutoModelFor{kind}").from_config(config))


def cost_of(name: str, *, targets_per_token: float = 1.0, without_mask: bool = True, **settings: Any) -> Cost:
    return cost_by_flops(flops_of(name, **settings), targets_per_token=targets_per_token, without_mask=without_mask)


def test_the_cost_of_a_model_is_that_of_its_own_shape() -> None:
    # Forwards and backwards: 3 x 2 operations for each weight, and for each pair of tokens, layer and unit of width.
    layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 160
    linear, pair = 6 * (2 * layer + 64 * 1000), 3 * 2 * 2 * 64 * 2
    assert cost_of("llama").of_rows(100, 3) == pytest.approx(300 * (1 + 100 * pair / 2 / linear))
    assert cost_of("llama", without_mask=False).of_rows(100, 3) == pytest.approx(300 * (1 + 100 * pair / linear))
    without_head = cost_of("llama", targets_per_token=0.0)
    assert without_head.of_rows(100) == pytest.approx(100 * (1 + 100 * pair / 2 / (6 * 2 * layer)))


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("llama", "CausalLM", {}),
        ("mistral", "CausalLM", {"sliding_window": 128}),
        ("gemma3_text", "CausalLM", {"head_dim": 16, "sliding_window": 64}),
        ("bert", "MaskedLM", {}),
        ("modernbert", "MaskedLM", {"local_attention": 128, "pad_token_id": 0}),
        ("t5", "Seq2SeqLM", T5 | {"decoder_start_token_id": 0}),
    ],
)
def test_rows_cost_as_many_operations_as_are_counted(name: str, kind: str, settings: dict[str, Any]) -> None:
    flops, lengths = flops_of(name, kind, **settings), np.array([64, 300, 2048])
    cost = cost_by_flops(flops, targets_per_token=0.5, without_mask=True)
    counted = [
        flops.of_rows(np.array([one]), np.array([one // 2]), is_encoder_decoder=kind == "Seq2SeqLM") for one in lengths
    ]
    ratios = cost.of_texts(lengths) / counted
    assert ratios / ratios[0] == pytest.approx(1, rel=0.02)


def test_attention_costs_less_of_a_wider_model() -> None:
    narrow, wide = cost_of("llama"), cost_of("llama", hidden_size=512, intermediate_size=1280)
    assert narrow.of_rows(4096) > 1.5 * wide.of_rows(4096)
    assert cost_of("llama", without_mask=False).of_rows(4096) > 1.5 * narrow.of_rows(4096)


@given(LENGTHS)
def test_a_text_costs_as_much_alone_as_a_row_of_it(lengths: np.ndarray) -> None:
    cost = Cost((Pairs(1e-3), Pairs(2e-3, window=50), Pairs(3e-3, window=70, is_causal=True)))
    assert cost.of_texts(lengths).tolist() == pytest.approx([cost.of_rows(length) for length in lengths.tolist()])


@given(LENGTHS, st.integers(1, 9), st.integers(1, 2000))
def test_each_text_goes_to_one_rank_and_no_micro_batch_is_over_the_budget(
    lengths: np.ndarray, world_size: int, budget: int
) -> None:
    shares = deal_texts(lengths, world_size=world_size, micro_batch_tokens=budget, cost=TYPICAL)
    assert len(shares) == world_size and len({len(share) for share in shares}) == 1
    assert sorted(int(at) for share in shares for piece in share for at in piece) == list(range(len(lengths)))
    assert all(len(piece) <= 1 or lengths[piece].sum() <= budget for share in shares for piece in share)
    # No more passes than if every other one were half empty.
    assert len(shares[0]) <= 1 + 2 * -(-int(np.maximum(lengths, 1).sum()) // (budget * world_size)) + len(lengths) * (
        int(lengths.max()) > budget // 2
    )


def test_ranks_share_the_cost_of_texts_evenly_though_some_are_much_longer() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 1.2, 512), 1, 4096).astype(np.int32)
    shares = deal_texts(lengths, world_size=8, micro_batch_tokens=16384, cost=TYPICAL)
    costs = [[float(TYPICAL.of_texts(lengths[piece]).sum()) for piece in share] for share in shares]
    step = sum(max(by_rank) for by_rank in zip(*costs, strict=True))
    assert step < 1.02 * sum(map(sum, costs)) / 8
    assert len(shares[0]) == -(-int(lengths.sum()) // (8 * 16384))


@given(LENGTHS, st.integers(1, 9), st.integers(300, 900))
def test_a_flat_layout_has_one_row_without_padding_in_each_micro_batch(
    lengths: np.ndarray, world_size: int, budget: int
) -> None:
    shares = lay_out(lengths, world_size=world_size, micro_batch_tokens=budget, packing=FLAT)
    shapes = [shape_of(bins, lengths, FLAT) for share in shares for bins in share if bins]
    assert sum(rows * longest for rows, longest in shapes) == lengths.sum()
    assert all(rows == 1 and longest <= budget for rows, longest in shapes)
