"""What a recipe may say. Every default of shardtune stands here or in a task's Options, and nowhere else.

Torch is not imported: the launcher reads recipes too, on machines that have none.
"""

from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from shardtune.recipe.fault_policy import FaultsConfig
from shardtune.recipe.job import JobConfig
from shardtune.recipe.lora import LoraConfig
from shardtune.recipe.tasks import TASK_OPTIONS
from shardtune.rows.source_config import HeldOutConfig, SourceConfig, Sources, SourcesOrShare, listed
from shardtune.section import Section, TaskOptions

Fraction = Annotated[float, Field(ge=0, lt=1)]

Tokens = Annotated[
    Annotated[PositiveInt, Tag("number")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "number"),
]
"""A number of tokens, or `auto`. Told apart beforehand, so that a wrong value is one fault and not two."""


class ModelConfig(Section):
    """The pretrained model that is fine-tuned."""

    path: str
    """A Hugging Face model folder, or a hub id such as `bert-base-chinese`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id. None takes the hub's default branch."""
    from_scratch: bool = False
    """Takes the config.json and the tokenizer alone, and draws the weights by train.seed: for new architectures, and
    for languages that no pretrained model knows. Every rank holds the whole model until the training begins."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """The attention implementation of transformers; `auto` leaves the choice to transformers."""
    dropout: Fraction | None = None
    """Sets every dropout probability of the model's config; None keeps the pretrained values."""
    activation_checkpointing: bool = False
    """Recomputes activations in the backward pass: less memory, about a third more time."""
    lora: LoraConfig | None = None
    """Trains low-rank adapters (LoRA) in place of all weights, as in `{r: 16}` or, with the defaults, `{}`. None trains
    them all."""

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> "ModelConfig":
        if self.lora is not None and self.from_scratch:
            raise ValueError("lora: adapters need pretrained weights, and from_scratch has none; remove one of them")
        return self


class DataConfig(Section):
    """Where the labelled rows are."""

    train: Sources
    """A file, a folder, a glob, `hf:owner/name`, or a list of these. Files are .jsonl, .json (an array of objects, or
    an object that holds one), .csv, .tsv, .parquet, .arrow, .txt (a line is a row of `text`), .conll or .bio (a word a
    line: the first column is `tokens`, the last `tags`, those between are `column_2` and so on) or .tmx (a column for
    each language), each also with .gz or .zst after it. `"corpus.{en,fr}"` is a pair of text files, corpus.en and
    corpus.fr, whose lines are aligned. A folder stands for all such files in it, at any depth, or for what
    `datasets.save_to_disk` has written there; `hf:owner/name` is a data set on the hub. An item of a list is one of
    these or, as in `{path: chats/*.jsonl.gz, weight: 0.5}`, a mapping. Relative paths start from the working
    directory."""
    dev: SourcesOrShare | None = None
    """Rows for the evaluations while training, which also choose the best model: as for train, or a share of its rows,
    as in `{fraction: 0.05, group: conversation_id}`."""
    test: SourcesOrShare | None = None
    """Rows for the one evaluation at the end, of the best model; as for dev."""
    columns: dict[str, str] = Field(default={})
    """The data's names for our columns, as in `{text: review, label: stars}`. What is not named keeps our name."""
    guess_columns: bool = True
    """Where a column is missing and just one other has a name that is often used for it (review for text), takes that
    one, and says so."""
    text_unit: Literal["line", "paragraph", "file"] = "line"
    """What a row of a .txt file is. Blank lines are between paragraphs, and are no rows."""
    on_bad_row: Literal["error", "skip"] = "error"
    """What becomes of lines that cannot be read and of rows that the task cannot use. Skipped ones are counted, by what
    is wrong with them. A file that is damaged as a whole is always an error."""
    deduplicate: Literal["none", "train", "all"] = "none"
    """`train` drops the training rows that are there twice (the first one stays), and those of which the model reads
    the same in a row of dev or test; `all` also drops from dev and test what is there twice, and from dev what is in
    test. They are counted in any case."""
    max_tokens: PositiveInt = 512
    """Longer texts are truncated to this many tokens, special ones included; token_classification cuts them into
    windows and language_modeling into pieces instead, each of which is a row from then on."""
    length_window: Annotated[int, Field(ge=0)] = 50
    """Rows are sorted by length within windows of this many global batches, so that little padding is trained on.
    The batches are then shuffled. 0 makes the order fully random."""
    streaming: bool = False
    """Trains on the rows of train as they are read, and keeps nothing of them on the disk: for data that are read once.
    They are shuffled among shuffle_window at a time, and not sorted by length; what has to be known of them beforehand,
    such as label names, is taken from the first of each source. Set train.max_steps, and files of their own for dev and
    test."""
    shuffle_window: PositiveInt = 10_000
    """How many rows of a stream are held in memory by each rank, to be shuffled."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Lays several rows side by side, up to max_tokens, where a causal language model or a token classifier learns from
    them, so that little padding is computed. No row sees another, and what is learned is the same. `auto` asks the
    model, when a run starts, whether it keeps them apart (Llama, BERT and their like do; OPT, Bloom or Mamba do not),
    and leaves it if not; with `on` that is an error."""
    cache_dir: str = "~/.cache/shardtune"
    """Where the prepared (tokenized) data are kept between runs. Machines that see the same folder prepare them
    together, each its share."""
    prepare_processes: PositiveInt | None = None
    """Processes that prepare the data on a machine. None takes one for each core. Fewer take less memory."""

    def sources(self, split: str) -> list[SourceConfig]:
        """The sources of train, dev or test; none if there is no such split or it is a share of train."""
        return listed(getattr(self, split))

    def share(self, split: str) -> HeldOutConfig | None:
        """The share of the training rows that dev or test is, if it is one."""
        value = getattr(self, split)
        return value if isinstance(value, HeldOutConfig) else None

    @model_validator(mode="after")
    def _lists_have_items(self) -> "DataConfig":
        for split in ("train", "dev", "test"):
            if getattr(self, split) == ():
                raise ValueError(f"{split}: the list of sources is empty")
        return self

    @model_validator(mode="after")
    def _only_training_rows_are_weighted(self) -> "DataConfig":
        for split in ("dev", "test"):
            for source in self.sources(split):
                if source.weight != 1:
                    raise ValueError(
                        f"{split}: {source.path!r} has a weight, but its rows are not trained on; remove it"
                    )
        return self

    @model_validator(mode="after")
    def _a_stream_is_read_once(self) -> "DataConfig":
        faults = []
        if self.share("dev") or self.share("test"):
            faults.append("dev and test cannot be shares of a stream; name files of their own")
        if self.deduplicate != "none":
            faults.append("a stream is not searched for double rows; remove deduplicate")
        if any(source.weight != 1 for source in self.sources("train")):
            faults.append("the sources of a stream have no weights; remove them")
        if self.streaming and faults:
            raise ValueError(f"streaming: {'; '.join(faults)}")
        return self

    @model_validator(mode="after")
    def _shares_fit_together(self) -> "DataConfig":
        dev, test = self.share("dev"), self.share("test")
        if dev and test:
            if (dev.group, dev.seed) != (test.group, test.seed):
                raise ValueError("dev and test are both shares of train; give them the same group and the same seed")
            if dev.fraction + test.fraction >= 1:
                raise ValueError(f"dev and test take {dev.fraction + test.fraction:g} of train; leave something of it")
        return self


class TrainConfig(Section):
    """How much is trained, in units that no machine can change."""

    global_batch_size: PositiveInt = 32
    """Rows in one optimizer step, over all ranks, however they are packed."""
    global_batch_tokens: PositiveInt | None = None
    """Targets (tokens that are learned) in one optimizer step instead, over all ranks: a step takes as many rows as
    come nearest to it, and an epoch has steps of like many. A number here overrides global_batch_size."""
    num_epochs: PositiveFloat = 3.0
    """Passes over the training rows; a fraction is fine."""
    max_steps: PositiveInt | None = None
    """Optimizer steps. None goes by num_epochs, which a number here overrides."""
    micro_batch_tokens: Tokens = 16384
    """At most this many tokens, padding included, in one forward pass of a rank. Lower it when memory runs out: what
    the model learns stays the same. `auto` estimates what fits, tries it out before the training begins, and keeps the
    number in the run directory; where memory is short all the same, the run starts anew with half of it."""
    eval_every_steps: PositiveInt | None = None
    """Steps between evaluations on the dev split. None evaluates at the end of each epoch; the end of training is
    always evaluated."""
    eval_at_start: bool = False
    """Evaluates on dev before the first step too, so that what the training changed can be said."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds the new layers, the order of the rows and the dropout."""


class OptimConfig(Section):
    """The optimizer and its learning rate."""

    kind: Literal["adamw"] = "adamw"
    """AdamW (Loshchilov and Hutter, 2019). Norms and biases are never decayed."""
    lr: PositiveFloat = 5e-5
    """Peak learning rate, reached after the warm-up."""
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    eps: PositiveFloat = 1e-8
    """Added to AdamW's denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of matrices and embeddings."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm. 0 turns clipping off."""
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """How the learning rate goes on after the warm-up: down to min_lr_ratio along a line or a cosine, not at all, or
    (wsd: warm-up, stable, decay) not at all until the last decay_fraction of the steps, then along a line."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps over which the learning rate rises from 0."""
    warmup_fraction: Fraction | None = None
    """The same as a fraction of all steps. Set this or warmup_steps; neither means no warm-up."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The part of all steps that schedule wsd decays over."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The learning rate at the end, as a part of lr."""

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimConfig":
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("warmup_steps and warmup_fraction are both set; keep one of them")
        return self


class EngineConfig(Section):
    """How a step is computed. Nothing here changes what is learned, but for rounding."""

    deepspeed: str | None = "zero2"
    """zero0, zero1, zero2, zero3, zero2_offload or zero3_offload (the files in ds_configs/), or the path of your own
    DeepSpeed JSON. None does without DeepSpeed: every rank holds everything, as under zero0, in fewer and larger
    operations; CPU ranks of one machine share its memory."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of the weights and activations in the forward and backward pass; the optimizer always works in fp32, so a run may
    go on in another one. auto is bf16 where all ranks' devices have units for it (NVIDIA's since Ampere, CPUs with
    AVX512-BF16 or AMX), else fp16 on GPUs and fp32 on CPUs."""

    @model_validator(mode="after")
    def _a_loss_scale_is_deepspeeds(self) -> "EngineConfig":
        if self.deepspeed is None and self.precision == "fp16":
            raise ValueError("precision: fp16 needs a loss scale, which DeepSpeed has; set deepspeed=zero0")
        return self


class CheckpointConfig(Section):
    """What is kept to go on from, and which model is the best."""

    every_steps: PositiveInt | None = None
    """Steps between checkpoints. None of this and every_minutes saves after every evaluation. A new best on dev, a stop
    and the end of training are always saved."""
    every_minutes: PositiveFloat | None = None
    """Minutes between checkpoints; with every_steps, whichever comes first."""
    keep_last: PositiveInt = 2
    """How many of the newest checkpoints stay on disk: if one is damaged, the run goes on from the one before."""
    keep_best: PositiveInt = 1
    """How many of the best ones by dev stay besides."""
    best_metric: str | None = None
    """The dev metric that chooses the best model. None takes the task's own."""
    asynchronous: bool = True
    """The training waits only until a checkpoint is in host memory, which has to have room for it: 12 bytes for each
    parameter that is trained, over all ranks. false waits until it is on disk, and takes no memory."""


class ReportConfig(Section):
    """Where the metrics go, besides RUN_DIR/metrics.jsonl."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases; `auto` is online where an API key is found and offline elsewhere."""
    project: str = "shardtune"
    """The W&B project."""
    name: str | None = None
    """The run's name in W&B. None takes the run directory's."""
    group: str | None = None
    """The W&B group."""
    every_steps: PositiveInt = 1
    """Steps between lines in metrics.jsonl; each line averages over the steps since the last one."""


if TYPE_CHECKING:
    AnyTask = TaskOptions
else:
    _options = tuple(TASK_OPTIONS.values())
    AnyTask = Annotated[Union[_options], Field(discriminator="kind")] if len(_options) > 1 else _options[0]  # noqa: UP007


class Recipe(Section):
    """One fine-tuning job, from the model to the machine."""

    task: AnyTask
    """What is learned; `kind` chooses the task family, and with it the other keys."""
    model: ModelConfig
    data: DataConfig
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    faults: FaultsConfig = FaultsConfig()
    report: ReportConfig = ReportConfig()
    job: JobConfig = JobConfig()

    @model_validator(mode="after")
    def _best_metric_is_there(self) -> "Recipe":
        legal = ("loss", *self.task.metric_names())
        if self.checkpoint.best_metric not in (None, *legal):
            raise ValueError(f"checkpoint.best_metric: got {self.checkpoint.best_metric!r}; legal: {', '.join(legal)}")
        return self

    @model_validator(mode="after")
    def _rows_can_be_packed(self) -> "Recipe":
        if self.data.packing == "on" and not self.task.can_pack:
            raise ValueError(f"data.packing: the rows of {self.task.kind} cannot be packed; set it to auto or off")
        return self

    @model_validator(mode="after")
    def _a_stream_has_no_epochs(self) -> "Recipe":
        if self.data.streaming and self.train.max_steps is None:
            raise ValueError("data.streaming: nobody knows how long a stream is; set train.max_steps")
        if self.data.streaming and self.train.global_batch_tokens is not None:
            raise ValueError("data.streaming: how long rows are is not known beforehand; remove global_batch_tokens")
        return self

    @model_validator(mode="after")
    def _start_can_be_evaluated(self) -> "Recipe":
        if self.train.eval_at_start and self.data.dev is None:
            raise ValueError("train.eval_at_start: there is no data.dev to evaluate on")
        return self

    @model_validator(mode="after")
    def _longest_row_fits(self) -> "Recipe":
        tokens = self.train.micro_batch_tokens
        if tokens != "auto" and self.data.max_tokens > tokens:
            raise ValueError(
                f"data.max_tokens ({self.data.max_tokens}) is more than train.micro_batch_tokens "
                f"({tokens}): the longest row would not fit into a forward pass"
            )
        return self


LEARNING_SECTIONS = ("task", "model", "data", "train", "optim")
"""The sections that decide what is learned; a run directory belongs to one value of these."""

NOT_LEARNED = frozenset(
    {
        "model.activation_checkpointing",
        "data.packing",
        "data.cache_dir",
        "data.prepare_processes",
        "train.micro_batch_tokens",
        "train.eval_at_start",
    }
)
"""The keys of those sections that decide where and how fast it is learned, and nothing else."""
