"""What is sampled: the base model of a recipe or a model folder, and what it is prompted with."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from shardtune.errors import DataError
from shardtune.recipe.load import load_recipe, parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.recipe.tasks.chat import ChatOptions
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row
from shardtune.run_dir.files import CONFIG
from shardtune.trainer.commands.predict import read_inputs
from shardtune.trainer.commands.sampling.draws import Sampling
from shardtune.trainer.commands.sampling.writers import (
    Base,
    ChatWriter,
    ReplyWriter,
    TextWriter,
    TranslationWriter,
    Writer,
)
from shardtune.trainer.data.prepare.prepare import Prepared, most_tokens, prepare
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.model.pretrained import hub_words, load_model_config, load_tokenizer, num_positions, unreachable
from shardtune.trainer.setup.precision import expected_precision
from shardtune.trainer.tasks import TASKS, Task, task_of
from shardtune.trainer.tasks.chat.chat import Chat
from shardtune.trainer.tasks.chat.conversations import Conversation, read_conversation
from shardtune.trainer.tasks.chat.template.turns import TurnError
from shardtune.trainer.tasks.task import GeneratingTask

FACTS = {"bleu_tokenizer": "none"}
"""Facts for a task whose metrics are not computed."""
INSTEAD = (
    "as replay, add general text of your own to data.train as a source with a weight, such as "
    "{path: general.jsonl, weight: 0.1}"
)


def recipe_of(path: Path, overrides: Sequence[str], say: Callable[[str], None]) -> Recipe:
    """The recipe in a file or a run directory; or one for a model folder: chat if its tokenizer has a chat template,
    otherwise language modeling, as `say` is told.

    Whether the recipe's data exist is not checked: what is sampled may be among them. Raises ConfigError or DataError.
    """
    if not (path / "config.json").is_file() or (path / CONFIG).is_file():
        return load_recipe(path / CONFIG if path.is_dir() else path, overrides, checks_paths=False)
    values: dict[str, Any] = {"model": {"path": str(path.absolute())}, "data": {"train": "./none"}}
    recipe = parse_recipe(json.dumps({**values, "task": {"kind": "language_modeling"}}), overrides)
    config, tokenizer = load_model_config(recipe), load_tokenizer(recipe)
    values["data"]["max_tokens"] = min(recipe.data.max_tokens, most_tokens(config, tokenizer))
    if config.is_encoder_decoder:
        raise DataError(f"{path}: an encoder-decoder writes only about a source; give a recipe, whose data have some")
    kind = "chat" if tokenizer.chat_template else "language_modeling"
    has, writes = ("a", "conversations") if tokenizer.chat_template else ("no", "plain texts")
    say(f"{path} has {has} chat template: it writes {writes}, rows of {kind}")
    return parse_recipe(json.dumps({**values, "task": {"kind": kind}}), overrides)


@dataclass(frozen=True)
class Sampled:
    """What a recipe's base model is to write, and from what."""

    recipe: Recipe
    prompts: Path | None
    """A file with rows of the task."""
    out: Path
    longest: int | None
    """The longest text of a row, in tokens; None for that of the recipe."""
    say: Callable[[str], None]

    def refuse(self) -> None:
        """Raises DataError if this base model writes no rows that the task could learn from."""
        kind, path = self.recipe.task.kind, self.recipe.model.path
        if self.recipe.model.from_scratch:
            raise DataError("model.from_scratch: a model without pretrained weights has nothing to say; remove it")
        if kind not in ("language_modeling", "chat", "translation"):
            raise DataError(
                f"task.kind: rows of {kind} have labels, which the base model does not know; against forgetting use "
                "model.lora, or shardtune blend RUN_DIR after the training"
            )
        if kind == "chat" and not load_tokenizer(self.recipe).chat_template:
            raise DataError(
                f"model.path: {path} has no chat template of its own, so it was not trained to converse; {INSTEAD}"
            )
        self.task.check_model(self._config)
        if self.task.auto_model == "AutoModelForMaskedLM":
            raise DataError(
                f"model.path: {path} is a masked language model, which fills gaps and writes no texts; {INSTEAD}"
            )

    @cached_property
    def task(self) -> Task:
        """The task as the base model knows it: with its own chat template. Raises DataError."""
        recipe, facts = self.recipe, FACTS
        if recipe.task.kind == "chat":
            options = recipe.task.model_copy(update={"chat_template": None, "max_new_tokens": self.max_tokens})
            recipe = recipe.model_copy(update={"task": options})
        elif self.prepared is not None:
            facts = self.prepared.facts
        return task_of(recipe, facts, self.tokenizer, self._config)

    @cached_property
    def tokenizer(self) -> Any:
        """That of the base model. Raises DataError."""
        return load_tokenizer(self.recipe)

    @cached_property
    def _config(self) -> Any:
        return load_model_config(self.recipe)

    @cached_property
    def prepared(self) -> Prepared | None:
        """The training rows, if these are the prompts: the sources of translations. Raises DataError."""
        if self.recipe.task.kind != "translation" or self.prompts is not None:
            return None
        data = self.recipe.data
        out = self.out.absolute()
        others = tuple(source for source in data.sources("train") if Path(source.path).absolute() != out)
        if not others:
            raise DataError(f"data.train: no source but {self.out} itself; name the file with sources as --prompts")
        return prepare(self.recipe.model_copy(update={"data": data.model_copy(update={"train": others})}), say=self.say)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the prompts file. Raises DataError for all that is wrong with them."""
        if self.prompts is None:
            return []
        rows, faults = read_inputs(self.prompts, self.recipe), Faults()
        for row in rows:
            TASKS[self.recipe.task.kind].check_inputs(row, faults)
        faults.raise_if_any()
        return rows

    @property
    def num_prompts(self) -> int | None:
        """How many prompts there are; None if the model begins by itself."""
        if self.prepared is not None:
            return len(self.prepared.split("train") or ())
        return None if self.prompts is None else len(self.rows)

    @property
    def max_tokens(self) -> int:
        """The longest text of a row, in tokens."""
        of_recipe = getattr(self.recipe.task, "max_new_tokens", self.recipe.data.max_tokens)
        return int(of_recipe if self.longest is None else self.longest)

    def digest(self) -> str | None:
        """Identifies the prompts; None if there are none."""
        if self.prepared is not None:
            return self.prepared.identity.fingerprint
        if self.prompts is None:
            return None
        return hashlib.sha256(json.dumps([dict(row.values) for row in self.rows], default=str).encode()).hexdigest()

    def writer(self, sampling: Sampling, device: Any) -> Writer:
        """What writes the rows, with the base model on this device.

        Raises DataError if the model cannot be loaded, or has no room for so many tokens.
        """
        longest, max_tokens = num_positions(self._config), self.max_tokens
        if longest is not None and max_tokens > longest:
            path = self.recipe.model.path
            raise DataError(f"--max-tokens: {max_tokens} is more than the maximum of {path}: {longest}")
        base = Base(self._open_model().to(device).eval(), self.tokenizer, sampling, max_tokens)
        task = self.task
        if isinstance(task, Chat):
            return self._of_chat(base, task, max_tokens, longest)
        if isinstance(task, GeneratingTask):
            return self._of_translation(base, task, sampling.seed)
        return self._of_texts(base, max_tokens)

    def _of_texts(self, base: Base, max_tokens: int) -> Writer:
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start  # which separates texts in GPT-2 and Qwen
        texts = [row.values["text"] for row in self.rows]
        if not texts:
            return TextWriter(base, start, None)
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return TextWriter(base, start, [ids[: max_tokens // 2] for ids in encoded])

    def _of_chat(self, base: Base, task: Chat, max_tokens: int, longest: int | None) -> Writer:
        room = (longest or 10**9) - max_tokens
        if room < 1:
            raise DataError(f"--max-tokens: {max_tokens} leaves no room for a prompt in a model of {longest} positions")
        if self.prompts is None:
            try:
                opening, end = task.opening()
            except TurnError as error:
                raise DataError(f"model.path: {error}, so the model cannot ask itself; give --prompts") from error
            return ChatWriter(base, task, opening, end, room)
        faults, options = Faults(), self.recipe.task
        assert isinstance(options, ChatOptions), "a chat has these options"
        read = [
            read_conversation(row, faults, format_=options.format, answered=False, roles=options.roles)
            for row in self.rows
        ]
        faults.raise_if_any()
        conversations = [each for each in read if isinstance(each, Conversation)]
        asked = task.encode(self.rows, room, labeled=False)
        return ReplyWriter(base, task, conversations, [example["input_ids"] for (example,) in asked])

    def _of_translation(self, base: Base, task: GeneratingTask, seed: int) -> Writer:
        max_tokens = self.recipe.data.max_tokens
        if self.prepared is None:
            encoded = [example for (example,) in task.encode(self.rows, max_tokens, labeled=False)]
            return TranslationWriter(base, task, lambda rows: [encoded[row % len(encoded)] for row in rows])
        split = self.prepared.split("train")
        assert split is not None, "a recipe always has training rows"
        order = np.random.default_rng(seed).permutation(len(split))
        return TranslationWriter(base, task, lambda rows: split.examples(order[np.array(rows) % len(order)]))

    def _open_model(self) -> Any:
        """The base model with the head that writes. Raises DataError."""
        recipe, fault = self.recipe, unreachable(self.recipe)
        auto_model = getattr(transformers, self.task.auto_model)
        logging: Any = transformers.utils.logging
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            model, info = auto_model.from_pretrained(
                recipe.model.path,
                revision=recipe.model.revision,
                dtype=DTYPES[expected_precision(recipe)],
                output_loading_info=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError) as error:
            if fault is not None:
                raise DataError(hub_words(recipe, fault)) from error
            raise DataError(f"model.path: {recipe.model.path!r} cannot be loaded: {error}") from error
        finally:
            logging.set_verbosity(verbosity)
        if missing := sorted(info["missing_keys"]):
            raise DataError(
                f"model.path: {recipe.model.path} has no pretrained {missing[0]}, with which it would write; "
                "give a language model"
            )
        return model
