"""The tensors of a base model, by the names that they have in the files of the model that was tuned from it.

Read one at a time. A base in a format of weights other than safetensors, or with names that only transformers can
translate, is loaded as a whole.
"""

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from shardtune.errors import CheckpointError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.checkpoint.base_model import weight_files
from shardtune.trainer.model.head import choose_head, own_heads
from shardtune.trainer.model.load import embeddings_of
from shardtune.trainer.model.lora import open_base
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer, model_class
from shardtune.trainer.tasks import Task

FIRST_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""What the first BERTs on the hub still call the weights of their norms -> what transformers calls them now."""


@dataclass(frozen=True)
class BaseModel:
    """What of a tuned model its base has, and how it is read."""

    new: frozenset[str]
    """The names of the tuned weights that the base has not: new heads."""
    embeddings: frozenset[str]
    """The names of the weights with a row for each token."""
    new_tokens: tuple[int, ...]
    """The tokens that were added to the base's tokenizer, by their numbers."""
    num_tokens: int
    """Rows of the base's embeddings."""
    read: Callable[[str], Tensor]
    """The base's tensor by its name in the files of the tuned model; in the dtype of its file. Raises
    CheckpointError if the base has none, or cannot be read."""


def open_base_model(
    recipe: Recipe, task: Task, tokenizer: Any, config: Any, wanted: Iterable[str], say: Callable[[str], None]
) -> BaseModel:
    """The base of a tuned model with this tokenizer and config, whose files have the `wanted` names.

    `say` is called if the base has to be loaded as a whole. Raises CheckpointError if the tokenizers contradict each
    other, and DataError if the base cannot be loaded.
    """
    pretrained = load_model_config(recipe)
    new_tokens = _new_tokens(recipe, tokenizer)
    kind: Any = model_class(config)
    with _silent():
        empty, info = kind.from_pretrained(
            recipe.model.path,
            revision=recipe.model.revision,
            config=copy.deepcopy(config),
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    heads = own_heads(empty) if choose_head(recipe, task, pretrained).is_replaced else []
    names = [name for name, _ in empty.named_parameters(remove_duplicate=False)]
    new = {*info["missing_keys"], *(name for name in names for head in heads if name.startswith(f"{head}."))}
    files = _Files(weight_files(recipe), empty.base_model_prefix)
    unknown = [name for name in wanted if name not in new and not files.has(name)]
    read = files.read
    if unknown:
        say(
            f"{recipe.model.path} is loaded as a whole, because its files do not have the names of the tuned model's "
            f"({unknown[0]})"
        )
        read = _Whole(recipe, kind, config, pretrained).read
    num_tokens = getattr(pretrained.get_text_config(), "vocab_size", 0)
    return BaseModel(frozenset(new), frozenset(embeddings_of(empty)), new_tokens, num_tokens, read)


def _new_tokens(recipe: Recipe, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that this tokenizer has beyond those of the base. Raises CheckpointError if it has others instead."""
    before, now = load_tokenizer(recipe).get_vocab(), tokenizer.get_vocab()
    if moved := [token for token, number in before.items() if now.get(token) != number]:
        raise CheckpointError(
            f"the tokenizer of {recipe.model.path} is not the one that the tuned model has: {moved[0]!r} is token "
            f"{before[moved[0]]} in it, and {now.get(moved[0], 'none')} in the tuned model's; restore the base model"
        )
    return tuple(sorted(number for token, number in now.items() if token not in before))


class _Files:
    """The tensors of safetensors files."""

    def __init__(self, paths: Sequence[Path], prefix: str) -> None:
        """`prefix` is what the names of the weights without a head begin with, where there is a head beside them."""
        self._paths = [path for path in paths if path.suffix == ".safetensors"]
        self._prefix = f"{prefix}." if prefix else ""

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name. Raises CheckpointError if a file cannot be read."""
        return self._found(name) is not None

    def read(self, name: str) -> Tensor:
        """The tensor of this name. Raises CheckpointError."""
        found = self._found(name)
        if found is None:
            raise _missing(name)
        path, own_name = found
        with _readable(path), safe_open(path, framework="pt", backend="pread") as file:
            tensor: Tensor = file.get_tensor(own_name)
        return tensor

    def _found(self, name: str) -> tuple[Path, str] | None:
        return self._by_name.get(name) or self._by_plain_name.get(self._plain(name))

    @cached_property
    def _by_name(self) -> Mapping[str, tuple[Path, str]]:
        found: dict[str, tuple[Path, str]] = {}
        for path in self._paths:
            with _readable(path), safe_open(path, framework="pt", backend="pread") as file:
                found |= {name: (path, name) for name in file.keys()}  # noqa: SIM118  it is not a dict
        return found

    @cached_property
    def _by_plain_name(self) -> Mapping[str, tuple[Path, str]]:
        return {self._plain(name): place for name, place in self._by_name.items()}

    def _plain(self, name: str) -> str:
        """The name as it is without a head beside the model, and in today's words."""
        for first, later in FIRST_NAMES.items():
            name = re.sub(rf"{re.escape(first)}$", later, name)
        return name.removeprefix(self._prefix)


class _Whole:
    """The tensors of a base that transformers has loaded, under the names that it would save them by."""

    def __init__(self, recipe: Recipe, kind: Any, config: Any, pretrained: Any) -> None:
        from transformers.core_model_loading import revert_weight_conversion

        as_pretrained = copy.deepcopy(config)
        if (num_tokens := getattr(pretrained.get_text_config(), "vocab_size", None)) is not None:
            as_pretrained.get_text_config().vocab_size = num_tokens  # else added embeddings would replace all others
        model = open_base(recipe, kind, as_pretrained, dtype=None)
        self._tensors: Mapping[str, Tensor] = revert_weight_conversion(model, model.state_dict())

    def read(self, name: str) -> Tensor:
        """The tensor of this name. Raises CheckpointError."""
        if name not in self._tensors:
            raise _missing(name)
        return self._tensors[name]


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps transformers from reporting which weights it would initialize."""
    import transformers

    logging: Any = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _missing(name: str) -> CheckpointError:
    return CheckpointError(f"the base model has no {name}, which the tuned model has: they are not of one kind")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Explains a file that cannot be read."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
