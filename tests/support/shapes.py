"""Shapes of models that the planner is checked on: large enough for its terms, small enough for a test."""

from typing import Any


def decoder(num_layers: int) -> dict[str, Any]:
    """Settings of a causal model with grouped heads, for the config of Llama, Mixtral and the like."""
    return {
        "hidden_size": 256,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 768,
    }
