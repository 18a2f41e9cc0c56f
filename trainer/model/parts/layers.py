"""Which weights of a model are embeddings, which are in which layer, and which the pretrained model has no values for.

Whatever the architecture: transformers builds stacks of layers as lists of modules.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Stack:
    """A list of layers, none of which is inside another."""

    name: str
    """As in named_modules, such as `bert.encoder.layer`."""
    blocks: Mapping[int, nn.Module]
    """Number of each layer in the list -> the layer."""


def stacks_of(model: nn.Module) -> list[Stack]:
    """The model's stacks, those of encoder and decoder alike.

    A stack is a list of modules in which there are modules of the classes that transformers never splits between
    devices (_no_split_modules); without any, each list of two or more modules that consist of modules.
    """
    lists = [(name, {**dict(enumerate(stack))}) for name, stack in _outermost_lists(model)]
    never_split = set(getattr(model, "_no_split_modules", None) or ())
    named = [(name, {n: b for n, b in blocks.items() if type(b).__name__ in never_split}) for name, blocks in lists]
    if any(blocks for _, blocks in named):
        return [Stack(name, blocks) for name, blocks in named if blocks]
    several = [
        (name, {n: b for n, b in blocks.items() if [*b.children()]}) for name, blocks in lists if len(blocks) > 1
    ]
    return [Stack(name, blocks) for name, blocks in several if blocks]


def _outermost_lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    """The lists of modules that are not inside an element of another one, with their names."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield f"{prefix}{name}", child
        else:
            yield from _outermost_lists(child, f"{prefix}{name}.")


@dataclass(frozen=True)
class Parts:
    """Where the weights of a model are, by their names."""

    stacks: tuple[Stack, ...]
    embeddings: frozenset[str]
    """Names of the weights that are looked up, and of what is beside them before the first layer, such as a norm."""
    new: frozenset[str]
    """Names of the weights that are not pretrained."""

    @property
    def depth(self) -> int:
        """The number of layers of the deepest stack."""
        return max((max(stack.blocks) + 1 for stack in self.stacks), default=0)

    def layer(self, name: str) -> tuple[Stack, int] | None:
        """The stack and the number of the layer that the weight of this name is in; None if it is in no layer."""
        for stack in self.stacks:
            if name.startswith(f"{stack.name}."):
                number = name.removeprefix(f"{stack.name}.").partition(".")[0]
                if number.isdecimal():
                    return stack, int(number)
        return None

    def num_above(self, name: str) -> int:
        """How many layers' updates lie between this weight and the head: 0 for a head and all else that is new or above
        the layers, 1 for the last layer of a stack, and one more than the deepest stack has for embeddings."""
        if name in self.new:
            return 0
        if (found := self.layer(name)) is not None:
            stack, number = found
            return max(stack.blocks) + 1 - number
        return self.depth + 1 if name in self.embeddings else 0


def parts_of(model: Any) -> Parts:
    """The parts of a model of transformers; what is new in it is as remember_new has noted."""
    stacks = tuple(stacks_of(model))
    new: frozenset[str] = getattr(model, "new_weights", frozenset())
    parts = Parts(stacks, frozenset(), new)
    embeddings = frozenset(name for name in _embedding_names(model) if parts.layer(name) is None)
    return Parts(stacks, embeddings, new)


def remember_new(model: Any, names: Collection[str]) -> None:
    """Notes which weights of the model are not pretrained, for parts_of."""
    model.new_weights = frozenset(names)


def _embedding_names(model: Any) -> Iterator[str]:
    """Names of the parameters of embeddings, and of all modules that are named after them (`embeddings.LayerNorm`,
    `layernorm_embedding`); not of an output layer, unless it shares its weight with what is looked up."""
    looked_up = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    last = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    output = {id(parameter) for parameter in last.parameters()} if last is not None else set()
    for name, parameter in model.named_parameters():
        is_named = any("embed" in part.lower() for part in name.split("."))
        if id(parameter) in looked_up or (is_named and id(parameter) not in output):
            yield name
