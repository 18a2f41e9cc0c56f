"""The recipe's schema. Every default of shardtune is declared in a section or in a task's Options, and nowhere else.

Torch is not imported: the launcher reads recipes too, on machines without it.
"""

from pydantic import model_validator

from shardtune.recipe.model.config import ModelConfig
from shardtune.recipe.sections.checkpoint import CheckpointConfig
from shardtune.recipe.sections.data import DataConfig
from shardtune.recipe.sections.engine import EngineConfig
from shardtune.recipe.sections.fault_policy import FaultsConfig
from shardtune.recipe.sections.job import JobConfig
from shardtune.recipe.sections.optim import OptimConfig
from shardtune.recipe.sections.regularize import RegularizeConfig
from shardtune.recipe.sections.report import ReportConfig
from shardtune.recipe.sections.retention import RetentionConfig
from shardtune.recipe.sections.train import TrainConfig
from shardtune.recipe.tasks import AnyTask
from shardtune.section import Section

SORTED_WINDOW = 50
"""data.length_window where `auto` sorts, as in transformers' length-grouped sampler."""


class Recipe(Section):
    """One fine-tuning job, from the model to the machines."""

    task: AnyTask
    """What is learned; `kind` selects the task, and with it the other keys."""
    model: ModelConfig
    data: DataConfig
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    regularize: RegularizeConfig = RegularizeConfig()
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    retention: RetentionConfig = RetentionConfig()
    faults: FaultsConfig = FaultsConfig()
    report: ReportConfig = ReportConfig()
    job: JobConfig = JobConfig()

    @property
    def length_window(self) -> int:
        """data.length_window, with `auto` settled."""
        window = self.data.length_window
        if window != "auto":
            return window
        return 0 if self.task.can_pack else SORTED_WINDOW

    @property
    def compares_with_base(self) -> bool:
        """Whether the distribution of the trained model is compared with that of the pretrained one."""
        return self.retention.kl_to_base or self.regularize.kl_to_base > 0

    @model_validator(mode="after")
    def _a_base_has_a_distribution(self) -> "Recipe":
        for key, is_set, instead in (
            ("retention.kl_to_base", self.retention.kl_to_base, "evaluate other skills with retention.sets"),
            (
                "regularize.kl_to_base",
                self.regularize.kl_to_base > 0,
                "regularize.l2_sp keeps the weights near instead",
            ),
        ):
            if is_set and not self.task.predicts_tokens:
                raise ValueError(
                    f"{key}: the pretrained model has no distribution over the answers of {self.task.kind} to compare "
                    f"with; remove the key ({instead})"
                )
            if is_set and self.model.from_scratch:
                raise ValueError(
                    f"{key}: model.from_scratch has no pretrained model to compare with; remove one of them"
                )
        if self.retention.kl_to_base and self.data.dev is None:
            raise ValueError("retention.kl_to_base: no data.dev to measure it on; set it, or remove kl_to_base")
        return self

    @model_validator(mode="after")
    def _averages_are_judged_by_dev_alone(self) -> "Recipe":
        if self.checkpoint.average_last is not None and self.retention.max_drop is not None:
            raise ValueError(
                "checkpoint.average_last: the mean of checkpoints is judged by dev alone, retention.max_drop by "
                "other skills; remove one of them (train.ema_decay averages within the limits)"
            )
        return self

    @model_validator(mode="after")
    def _best_metric_exists(self) -> "Recipe":
        legal = ("loss", *self.task.metric_names())
        if self.checkpoint.best_metric not in (None, *legal):
            raise ValueError(f"checkpoint.best_metric: got {self.checkpoint.best_metric!r}; legal: {', '.join(legal)}")
        return self

    @model_validator(mode="after")
    def _several_columns_are_labels(self) -> "Recipe":
        sources = [source for split in ("train", "dev", "test") for source in self.data.sources(split)]
        for columns in (self.data.columns, *(source.columns or {} for source in sources)):
            for ours, in_data in columns.items():
                if not isinstance(in_data, str) and ours not in self.task.list_columns:
                    legal = ", ".join(sorted(self.task.list_columns)) or "no column"
                    raise ValueError(
                        f"data.columns.{ours}: a list of columns is not supported here, only for {legal} of this task; "
                        "name one column"
                    )
        return self

    @model_validator(mode="after")
    def _rows_can_be_packed(self) -> "Recipe":
        if self.data.packing == "on" and not self.task.can_pack:
            raise ValueError(f"data.packing: the rows of {self.task.kind} cannot be packed; set it to auto or off")
        return self

    @model_validator(mode="after")
    def _only_labels_have_a_head(self) -> "Recipe":
        if self.model.head != "auto" and not self.task.has_labels:
            raise ValueError(f"model.head: a model for {self.task.kind} has no head for labels; remove the key")
        return self

    @model_validator(mode="after")
    def _a_stream_has_no_epochs(self) -> "Recipe":
        if self.data.streaming and self.train.max_steps is None:
            raise ValueError("data.streaming: the length of a stream is unknown; set train.max_steps")
        if self.data.streaming and self.train.global_batch_tokens is not None:
            raise ValueError("data.streaming: row lengths are not known in advance; remove train.global_batch_tokens")
        return self

    @model_validator(mode="after")
    def _what_is_held_is_pretrained(self) -> "Recipe":
        if self.optim.layer_decay < 1 and self.model.from_scratch:
            raise ValueError("optim.layer_decay: with model.from_scratch all weights are new; remove one of them")
        for key in self.regularize.holding():
            if self.model.from_scratch:
                raise ValueError(f"regularize.{key}: there are no pretrained weights (model.from_scratch); remove it")
            if self.model.lora is not None:
                raise ValueError(
                    f"regularize.{key}: adapters (model.lora) leave the pretrained weights as they are; remove it"
                )
        return self

    @model_validator(mode="after")
    def _patience_has_something_to_wait_for(self) -> "Recipe":
        if self.train.patience is not None and self.data.dev is None:
            raise ValueError("train.patience: no data.dev to evaluate on; set it, or remove patience")
        if self.train.min_delta and self.train.patience is None:
            raise ValueError("train.min_delta: counts only with train.patience; set that, or remove min_delta")
        return self

    @model_validator(mode="after")
    def _an_average_can_be_compared(self) -> "Recipe":
        if self.checkpoint.average_last is not None and self.data.dev is None:
            raise ValueError("checkpoint.average_last: no data.dev to evaluate on; set it, or remove average_last")
        return self

    @model_validator(mode="after")
    def _start_can_be_evaluated(self) -> "Recipe":
        if self.train.eval_at_start and self.data.dev is None:
            raise ValueError("train.eval_at_start: no data.dev to evaluate on; set it, or remove eval_at_start")
        return self

    @model_validator(mode="after")
    def _retention_weighs_against_dev(self) -> "Recipe":
        if self.retention.max_drop is not None and self.data.dev is None:
            raise ValueError("retention.max_drop: no data.dev to choose the best model on; set it, or remove max_drop")
        return self

    @model_validator(mode="after")
    def _longest_row_fits(self) -> "Recipe":
        tokens = self.train.micro_batch_tokens
        if tokens != "auto" and self.data.max_tokens > tokens:
            raise ValueError(
                f"data.max_tokens ({self.data.max_tokens}) is above train.micro_batch_tokens ({tokens}): the longest "
                "row would not fit into a forward pass; lower the first or raise the second"
            )
        return self


LEARNING_SECTIONS = ("task", "model", "data", "train", "optim", "regularize")
"""The sections that decide what is learned. A run directory belongs to one value of these."""

NOT_LEARNED = frozenset(
    {
        "model.activation_checkpointing",
        "data.packing",
        "data.cache_dir",
        "data.prepare_processes",
        "train.micro_batch_tokens",
        "train.eval_at_start",
        "train.patience",
        "train.min_delta",
        "train.seeds",
    }
)
"""The keys of these sections that only decide where and how fast training runs."""

ADDED_LATER = frozenset(
    {
        "data.fraction",
        "data.near_duplicates",
        "model.freeze",
        "optim.layer_decay",
        "regularize.ewc",
        "regularize.kl_to_base",
        "regularize.l2_sp",
        "train.ema_decay",
    }
)
"""Keys of these sections that recipes had no name for before; with their defaults, what is learned is as it was."""
