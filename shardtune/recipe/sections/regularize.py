"""The `regularize` section of a recipe: what keeps a model near the pretrained one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag

from shardtune.recipe.tasks import TASK_OPTIONS, AnyTask
from shardtune.rows.source_config import Column, Sources
from shardtune.section import Section, TaskOptions

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[("same", *TASK_OPTIONS)]


class EwcConfig(Section):
    """Elastic weight consolidation (Kirkpatrick et al., 2017): the penalty weight / 2 * sum F (w - w0)^2, where F is
    the diagonal of the empirical Fisher information of the pretrained model w0 on rows of an earlier skill. F is
    computed once, before the first step, and kept in the run directory."""

    data: Sources
    """Rows of the earlier skill: sources as in data.train."""
    weight: PositiveFloat = 100.0
    """Weight of the penalty, beside a loss in nats per target."""
    rows: PositiveInt = 1000
    """How many of the rows are used, drawn at random by train.seed; all if there are fewer."""
    task: Annotated[
        Annotated[TaskName, Tag("name")] | Annotated[AnyTask, Tag("mapping")],
        Discriminator(lambda value: "name" if isinstance(value, str) else "mapping"),
    ] = "same"
    """What the rows teach: `same` is the task of the recipe, with the labels of these rows; `language_modeling` are
    plain texts, which the pretrained model continues or fills in; and so on, also with the keys of that task, as in
    `{kind: classification, problem: multi_label}`. model.path has to have the head: in a sequence of trainings the
    export of the run before has the head of its task."""
    columns: dict[str, Column] | None = None
    """Like data.columns, for these rows. None uses data.columns; for another task than that of the recipe, only what it
    says of `text`."""

    @property
    def options(self) -> TaskOptions | None:
        """The task of the rows; None if it is that of the recipe."""
        if not isinstance(self.task, str):
            return self.task
        return None if self.task == "same" else TASK_OPTIONS[self.task](kind=self.task)


class RegularizeConfig(Section):
    """Keeps the model near the pretrained one, so that it forgets less. The reported loss stays that of the task; the
    penalty is `penalty` of the steps."""

    kl_to_base: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """The weight of KL(pretrained || model), in nats, averaged over the same targets as the loss; 0 turns it off. For
    language_modeling, chat and translation. `loss` stays that of the task, and `kl_to_base` is reported beside it. Each
    pass takes another one, of the pretrained model: with LoRA without the adapters, otherwise of a frozen copy, which
    takes the memory of the model's weights once more on each rank (so not under ZeRO-3)."""

    l2_sp: Annotated[float, Field(ge=0)] = 0.0
    """L2-SP (Li et al., 2018): decay towards the pretrained weights instead of towards zero, decoupled from the
    gradient as AdamW's weight decay is: each step moves a pretrained weight by lr * l2_sp of its way back. Weights that
    are not pretrained keep optim.weight_decay."""
    ewc: EwcConfig | None = None
    """Elastic weight consolidation, as in `{weight: 100, data: earlier.jsonl, rows: 1000}`."""

    def holding(self) -> Iterator[str]:
        """The keys in use that hold weights near those of the pretrained model."""
        if self.l2_sp:
            yield "l2_sp"
        if self.ewc is not None:
            yield "ewc"
