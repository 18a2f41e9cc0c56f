"""The rows of all retention sets, prepared beside the data of the recipe: each as a data set of its own."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.model.config import ModelConfig
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.data import DataConfig
from shardtune.recipe.sections.retention import RetentionSet
from shardtune.recipe.sections.train import TrainConfig
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.data.prepare.prepare import Prepared, described_data
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.retention.heads import Answerer, Trained, answerers, folder_of, settle
from shardtune.trainer.tasks import TASKS, Task, task_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = "train"
"""The split of its own data set that the rows of a set are."""
Say = Callable[[str], None]
Get = Callable[[Recipe, Say], Prepared | None]
"""What gives the prepared data of a recipe, or None if they are not there yet and are not to be prepared."""


class NotPreparedError(Exception):
    """The rows of a set are not prepared yet."""


@dataclass(frozen=True)
class HeldOut:
    """A retention set whose rows are prepared."""

    name: str
    recipe: Recipe
    """The set as a recipe of its own: its task, and the model whose tokenizer and config it is prepared with."""
    prepared: Prepared
    split_name: str
    """Which split of the prepared data it is."""
    head: str | None
    """The model folder whose head answers; None for the model in training itself."""
    is_automatic: bool = False
    """Whether the recipe does not name it: what is wrong with it is a notice then, and no error."""

    @property
    def split(self) -> Split:
        """The examples of the set."""
        split = self.prepared.split(self.split_name)
        assert split is not None, "it was there when the set was prepared"
        return split

    def task(self) -> "tuple[Task, PreTrainedTokenizerBase]":
        """The task of the rows, and the tokenizer that they were encoded with."""
        return _task_of(self.recipe, self.prepared)

    def described(self) -> dict[str, Any]:
        """This set in JSON's types."""
        return {
            "name": self.name,
            "recipe": self.recipe.model_dump(mode="json"),
            "prepared": self.prepared.described(),
            "split_name": self.split_name,
            "head": self.head,
            "is_automatic": self.is_automatic,
        }


@dataclass(frozen=True)
class Retention:
    """The retention sets of a run."""

    sets: tuple[HeldOut, ...] = ()
    notices: tuple[str, ...] = field(default=(), compare=False)
    """What the user has to know of sets that the recipe does not name."""

    def described(self) -> dict[str, Any]:
        """These sets in JSON's types, for ranks that are to read nothing but their examples (`described_retention`)."""
        return {"sets": [held_out.described() for held_out in self.sets], "notices": list(self.notices)}


NO_RETENTION = Retention()


def described_retention(description: Mapping[str, Any]) -> Retention:
    """The sets that another process has described."""
    sets = [
        HeldOut(
            **{
                **one,
                "recipe": Recipe.model_validate_json(json.dumps(one["recipe"])),
                "prepared": described_data(one["prepared"]),
            }
        )
        for one in description["sets"]
    ]
    return Retention(tuple(sets), tuple(description["notices"]))


def prepare_set(
    trained: Trained, name: str, held_out: RetentionSet, get: Get, say: Say, *, is_automatic: bool = False
) -> HeldOut:
    """The rows of a set, encoded for who answers them; `is_automatic` if the recipe does not name it.

    Raises DataError for all that is wrong with them, or if nobody can answer them; NotPreparedError if `get` gives
    none.
    """
    if held_out.model is not None:
        held_out = held_out.model_copy(update={"model": folder_of(held_out.model)})
    possible, is_named = list(answerers(trained, held_out)), held_out.model is not None and not is_automatic
    errors: list[DataError] = []
    is_missing = False
    for answerer in possible:
        is_last = answerer is possible[-1]
        recipe = _recipe_of(trained.recipe, held_out, answerer, skips_bad_rows=is_last)
        notes: list[str] = []
        try:
            prepared = get(recipe, notes.append)
            if prepared is None:
                is_missing = True
                continue
            found = _settled(trained, name, answerer, recipe, prepared, is_automatic=is_automatic, is_named=is_named)
        except DataError as error:
            errors.append(error)
            continue
        for note in notes:
            say(f"retention.sets.{name}: {note.removeprefix(f'{ROWS}: ')}")
        return found
    if is_missing:
        raise NotPreparedError
    if len(errors) > 1:
        raise DataError(
            f"its rows have the labels of neither the model in training nor {trained.recipe.model.path}; name a model "
            f"that has them by `model`: {errors[0]}"
        )
    raise errors[0]


def prepare_sets(recipe: Recipe, trained: Trained, get: Get, say: Say) -> Iterator[HeldOut]:
    """The sets that the recipe names. Raises as prepare_set, naming the set."""
    for name, held_out in recipe.retention.sets.items():
        try:
            yield prepare_set(trained, name, held_out, get, say)
        except DataError as error:
            raise DataError(f"retention.sets.{name}: {error}") from error


def refuse_unknown_limits(recipe: Recipe, sets: tuple[HeldOut, ...]) -> None:
    """Raises ConfigError if retention.max_drop names a set that there is not."""
    limits, names = recipe.retention.max_drop, [held_out.name for held_out in sets]
    for name in limits if isinstance(limits, dict) else ():
        if name not in names:
            legal = ", ".join(names) or "there is none"
            raise ConfigError(f"retention.max_drop: no set is called {name!r}; legal: {legal}")


def _settled(
    trained: Trained,
    name: str,
    answerer: Answerer,
    recipe: Recipe,
    prepared: Prepared,
    *,
    is_automatic: bool,
    is_named: bool,
) -> HeldOut:
    """The set, if the answerer can answer its rows. Raises DataError if not."""
    task, _ = _task_of(recipe, prepared)
    head = settle(trained, answerer, task, is_named=is_named)
    answerer.refuse_other_labels(TASKS[recipe.task.kind].head_labels(prepared.facts))
    return HeldOut(name, recipe, prepared, ROWS, head, is_automatic=is_automatic)


def _task_of(recipe: Recipe, prepared: Prepared) -> "tuple[Task, PreTrainedTokenizerBase]":
    tokenizer = load_tokenizer(recipe)
    return task_of(recipe, prepared.facts, tokenizer, load_model_config(recipe)), tokenizer


def _recipe_of(recipe: Recipe, held_out: RetentionSet, answerer: Answerer, *, skips_bad_rows: bool) -> Recipe:
    """The set as a recipe of its own, whose training rows are the rows of the set: what is prepared."""
    data, model = recipe.data, answerer.head
    revision = recipe.model.revision if model in (None, recipe.model.path) else None
    return Recipe(
        task=answerer.task,
        model=ModelConfig(path=recipe.model.path if model is None else model, revision=revision),
        data=DataConfig(
            train=held_out.data,
            columns=held_out.columns,
            guess_columns=data.guess_columns,
            text_unit=data.text_unit,
            on_bad_row=data.on_bad_row if skips_bad_rows else "error",
            special_tokens_in_text=data.special_tokens_in_text,
            max_tokens=held_out.max_tokens or data.max_tokens,
            cache_dir=data.cache_dir,
            prepare_processes=data.prepare_processes,
        ),
        train=TrainConfig(micro_batch_tokens="auto"),
    )
