"""The repeated layers of any architecture are found, without a list of architectures."""

from typing import Any

import pytest
import torch
import transformers

from shardtune.trainer.setup.compiler.blocks import repeated_blocks
from shardtune.trainer.setup.compiler.compile import describe_parts

SMALL: dict[str, Any] = {"vocab_size": 40}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (transformers.BertConfig(**SMALL, hidden_size=32, num_attention_heads=2, num_hidden_layers=3), "3 x BertLayer"),
        (
            transformers.LlamaConfig(**SMALL, hidden_size=32, num_attention_heads=2, num_hidden_layers=2),
            "2 x LlamaDecoderLayer",
        ),
        (
            transformers.T5Config(**SMALL, d_model=32, num_heads=2, num_layers=2, num_decoder_layers=3),
            "5 x T5Block",
        ),
        (
            transformers.BartConfig(**SMALL, d_model=32, encoder_layers=2, decoder_layers=1),
            "2 x BartEncoderLayer and BartDecoderLayer",
        ),
        (transformers.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2), "2 x GPT2Block"),
        (
            transformers.DebertaV2Config(**SMALL, hidden_size=32, num_attention_heads=2, num_hidden_layers=2),
            "2 x DebertaV2Layer",
        ),
        (transformers.MambaConfig(**SMALL, hidden_size=32, num_hidden_layers=2), "2 x MambaBlock"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_layers_of_all_stacks(config: Any, found: str) -> None:
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    assert describe_parts(repeated_blocks(model)) == found


def test_lists_of_modules_that_consist_of_none_are_no_layers() -> None:
    norms = torch.nn.ModuleList(torch.nn.LayerNorm(2) for _ in range(3))
    assert repeated_blocks(torch.nn.ModuleDict({"norms": norms})) == []
