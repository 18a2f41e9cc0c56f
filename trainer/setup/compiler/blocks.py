"""The repeated layers of a model, of any architecture: what regional compilation compiles."""

from collections.abc import Iterator

from torch import nn


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of the model's stacks, encoder and decoder alike; none of them is inside another.

    A stack is a list of modules in which there are modules of the classes that transformers never splits between
    devices (_no_split_modules); without any, each list of two or more modules that consist of modules.
    """
    stacks = [[*stack] for stack in _outermost_lists(model)]
    never_split = set(getattr(model, "_no_split_modules", None) or ())
    named = [block for stack in stacks for block in stack if type(block).__name__ in never_split]
    if named:
        return named
    return [block for stack in stacks if len(stack) > 1 for block in stack if [*block.children()]]


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    """The lists of modules that are not inside an element of another one."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outermost_lists(child)
