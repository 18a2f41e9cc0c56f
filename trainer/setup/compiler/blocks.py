"""The repeated layers of a model, of any architecture: what regional compilation compiles."""

from torch import nn

from shardtune.trainer.model.parts.layers import stacks_of


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of the model's stacks, encoder and decoder alike; none of them is inside another."""
    return [block for stack in stacks_of(model) for block in stack.blocks.values()]
