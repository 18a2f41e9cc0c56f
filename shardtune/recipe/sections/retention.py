"""The `retention` section of a recipe: held-out rows of what the model could do before, and how much of it may go."""

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, PositiveInt, Tag, field_validator, model_validator

from shardtune.recipe.tasks import AnyTask
from shardtune.rows.source_config import Column, Sources, listed
from shardtune.rows.source_files import is_hub
from shardtune.section import Section

if TYPE_CHECKING:
    from shardtune.rows.source_config import SourceConfig

Drop = Annotated[float, Field(ge=0)]


class RetentionSet(Section):
    """Held-out rows of another skill, which are never trained on."""

    task: AnyTask
    """What these rows test, with the keys of that kind of task. A causal or an encoder-decoder model answers them
    itself. An encoder that has another head in training answers through the head of `model`, or without that key, if
    they have the labels of the head in training, through it, and else through the head that model.path has for them.
    Masked language modelling hides the same tokens of a row each time."""
    data: Sources
    """The rows: sources as for data.train. Of a data set on the hub, name the split."""
    columns: dict[str, Column] = Field(default={})
    """Like data.columns, for these rows."""
    model: str | None = None
    """A model folder or run directory (its best exported model), whose head the rows are answered through, as it is
    there: only the model below the head is the one in training. It must be of the same architecture and size, with the
    same vocabulary."""
    max_tokens: PositiveInt | None = None
    """Maximum length in tokens. None uses data.max_tokens."""

    @property
    def sources(self) -> "list[SourceConfig]":
        """The sources of the rows; paths as sources too."""
        return listed(self.data)

    @model_validator(mode="after")
    def _rows_are_held_out(self) -> "RetentionSet":
        if not self.sources:
            raise ValueError("data: the list of sources is empty")
        for source in self.sources:
            if source.weight != 1:
                raise ValueError(
                    f"data: {source.path!r} has a weight, but only training rows can be weighted; remove it"
                )
            if is_hub(source.path) and source.split is None:
                raise ValueError(
                    f"data: {source.path!r} may have rows to train on; name the split that was held out, as in "
                    f"{{path: {source.path}, split: validation}}"
                )
        return self

    @model_validator(mode="after")
    def _several_columns_are_labels(self) -> "RetentionSet":
        for columns in (self.columns, *(source.columns or {} for source in self.sources)):
            for ours, in_data in columns.items():
                if not isinstance(in_data, str) and ours not in self.task.list_columns:
                    raise ValueError(f"columns.{ours}: a list of columns is not supported here; name one column")
        return self


class RetentionConfig(Section):
    """What fine-tuning makes a model forget: rows of its other skills are evaluated before the first step, together
    with dev, and with the best model at the end (docs/forgetting.md)."""

    sets: dict[str, RetentionSet] = Field(default={})
    """Name -> held-out rows of a skill, of any kind of task, as in `{topics: {task: {kind: classification}, data:
    topics.jsonl, model: runs/topics}}`."""
    max_drop: (
        Annotated[
            Annotated[Drop, Tag("number")] | Annotated[dict[str, Drop], Tag("mapping")],
            Discriminator(lambda value: "mapping" if isinstance(value, dict) else "number"),
        ]
        | None
    ) = None
    """How much worse the main metric of a set may become than it was before the first step: a number for all sets, or
    one for each, as in `{topics: 0.02}`, and none for the others. Of a fraction such as accuracy or F1 it is the
    difference: 0.02 lets 0.90 fall to 0.88. Of a metric without a fixed scale (loss, perplexity, errors, BLEU and chrF)
    it is relative: 0.02 lets a perplexity of 10 rise to 10.2. The best model is chosen among the evaluations within all
    limits, or if there are none, it is the one that exceeds a limit by the least. A change between two starts counts
    for the evaluations after it."""
    on_drop: Literal["pick", "stop"] = "pick"
    """What happens when a set drops by more than max_drop: `pick` trains on, and only chooses the best model by it;
    `stop` ends the training after this evaluation."""
    sequential: bool = True
    """If model.path is an export in the run directory of an earlier run, the dev rows of that run (or else its test
    rows) are a set as well, under the name of that run, and so are those of the run that it began from, and so on. A
    notice says so, or why it is not possible."""

    kl_to_base: bool = False
    """Measures on dev how far the model has moved from the pretrained one: the mean over the target tokens of
    KL(pretrained || model), in nats, as `kl_to_base` in the metrics of dev. For tasks whose targets are tokens:
    language_modeling, chat and translation. With LoRA each evaluation takes a second pass without the adapters;
    otherwise the pretrained model's last hidden states on dev and its last layer are written to data.cache_dir once
    (docs/forgetting.md)."""

    @field_validator("sets")
    @classmethod
    def _names_are_words(cls, sets: dict[str, RetentionSet]) -> dict[str, RetentionSet]:
        for name in sets:
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError(f"{name!r}: a name consists of letters, digits, _ and -")
        return sets

    @model_validator(mode="after")
    def _limits_are_of_sets(self) -> "RetentionConfig":
        unknown = [name for name in self.max_drop if name not in self.sets] if isinstance(self.max_drop, dict) else []
        if unknown and not self.sequential:
            legal = ", ".join(self.sets) or "there is none"
            raise ValueError(f"max_drop: no set is called {unknown[0]!r}; legal: {legal}")
        if self.on_drop == "stop" and self.max_drop is None:
            raise ValueError("on_drop: stop counts only with max_drop; set that, or remove on_drop")
        return self

    def limit(self, name: str) -> float | None:
        """How much the main metric of this set may become worse; None if any drop is accepted."""
        return self.max_drop.get(name) if isinstance(self.max_drop, dict) else self.max_drop
