"""The recipe's schema. Every default of shardtune is declared here or in a task's Options, and nowhere else.

Torch is not imported: the launcher reads recipes too, on machines without it.
"""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, field_validator, model_validator

from shardtune.recipe.fault_policy import FaultsConfig
from shardtune.recipe.job import JobConfig
from shardtune.recipe.lora import LoraConfig
from shardtune.recipe.model.freeze import refuse_malformed
from shardtune.recipe.regularize import RegularizeConfig
from shardtune.recipe.retention import RetentionConfig
from shardtune.recipe.tasks import AnyTask
from shardtune.rows.source_config import Column, HeldOutConfig, SourceConfig, Sources, SourcesOrShare, listed
from shardtune.section import Section

Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

Tokens = Annotated[
    Annotated[PositiveInt, Tag("number")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "number"),
]
"""A number of tokens, or `auto`. The discriminator makes a wrong value one fault instead of two."""


Attention = Literal[
    "auto",
    "eager",
    "sdpa",
    "varlen",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
]


class ModelConfig(Section):
    """The pretrained model to fine-tune."""

    path: str
    """A Hugging Face model folder, or a hub id such as `bert-base-chinese`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id. None uses the hub's default branch."""
    from_scratch: bool = False
    """Uses only config.json and the tokenizer, and initializes the weights at random from train.seed: for new
    architectures, and for languages that no pretrained model covers. Every rank holds the whole model until training
    begins."""
    head: Literal["auto", "keep", "new"] = "auto"
    """The pretrained head of a classification or token_classification model. `auto` keeps it if it has the labels of
    the rows, which then take the order of the head; and draws a new one if it has other labels, or another number of
    them. `keep` refuses to train with a new one, and `new` always draws one."""
    attention: Attention = "auto"
    """The attention implementation. `varlen` is torch's own flash kernel (torch 2.11 and newer), called with the
    borders of the texts, so that neither packed rows nor padding need a mask; the others are those of transformers. On
    a GPU `auto` takes the fastest one that the GPU, the precision, the installed packages and the model allow, and
    reports which; on a CPU it leaves the choice to transformers."""
    dropout: Fraction | None = None
    """Sets every dropout probability in the model's config. None keeps the pretrained values."""
    layerdrop: Fraction | None = None
    """Sets the probability with which a step skips a layer (LayerDrop), in models that can: BART, M2M100, OPT and their
    relatives. The same layers are skipped on all ranks and in all micro-batches of a step. None keeps the pretrained
    values, which are 0 in most models and 0.05 in M2M100."""
    activation_checkpointing: bool = False
    """Recomputes activations in the backward pass: uses less memory, and takes about a third more time."""
    lora: LoraConfig | None = None
    """Trains low-rank adapters (LoRA) instead of all weights, as in `{r: 16}`, or `{}` for the defaults. None trains
    all weights."""
    freeze: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Pretrained weights that are not trained, as in `[embeddings, "layers:0-5"]`: `embeddings` is what precedes the
    first layer, `layers:0-5` are the first six layers (of an encoder and of a decoder), in any architecture. Any other
    pattern is found anywhere in the name of a weight, part by part between the dots, each a glob:
    `encoder.layer.[0-5]`, `layers.*.mlp`, `bias`. They get no gradient and no optimizer state, and are not exchanged.
    What the pretrained model has no weights for, such as a new head, is trained in any case."""

    @property
    def has_quantized_base(self) -> bool:
        """Whether the frozen weights under adapters are held in few bits."""
        return self.lora is not None and self.lora.quantize_base != "none"

    @model_validator(mode="after")
    def _a_kept_head_is_pretrained(self) -> "ModelConfig":
        if self.head == "keep" and self.from_scratch:
            raise ValueError("head: keep needs pretrained weights, but from_scratch has none; remove one of them")
        return self

    @model_validator(mode="after")
    def _frozen_weights_are_pretrained(self) -> "ModelConfig":
        refuse_malformed(self.freeze)
        if self.freeze and self.from_scratch:
            raise ValueError("freeze: needs pretrained weights, but from_scratch has none; remove one of them")
        if self.freeze and self.lora is not None:
            raise ValueError("freeze: adapters (model.lora) freeze all pretrained weights already; remove one of them")
        return self

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> "ModelConfig":
        if self.lora is not None and self.from_scratch:
            raise ValueError("lora: adapters need pretrained weights, but from_scratch has none; remove one of them")
        return self


class DataConfig(Section):
    """The labelled rows, and how they are prepared."""

    train: Sources
    """The training rows: a file, a folder, a glob, `hf:owner/name`, or a list of these. Supported files are .jsonl,
    .json (an array of objects, or an object that contains one), .csv, .tsv, .parquet, .arrow, .txt (one row of `text`
    per line), .conll or .bio (one word per line: the first column is `tokens`, the last `tags`, those between are
    `column_2` and so on) and .tmx (one column per language), each also compressed as .gz or .zst. `"corpus.{en,fr}"` is
    a pair of line-aligned text files, corpus.en and corpus.fr. A folder stands for all supported files in it, at any
    depth, or for a data set written by `datasets.save_to_disk`; `hf:owner/name` is a data set on the hub. A list item
    is one of these, or a mapping such as `{path: chats/*.jsonl.gz, weight: 0.5}`. Relative paths start from the working
    directory."""
    dev: SourcesOrShare | None = None
    """Rows for the evaluations during training, which also select the best model: sources as for train, or a share of
    the training rows, as in `{fraction: 0.05, group: conversation_id}`."""
    test: SourcesOrShare | None = None
    """Rows for the single evaluation of the best model at the end; as for dev."""
    columns: dict[str, Column] = Field(default={})
    """Maps shardtune's column names to those in the data, as in `{text: review, label: stars}`. Columns that are not
    listed keep their names. Classification also reads one column of zeros and ones per label:
    `{label: [toxic, insult]}`."""
    guess_columns: bool = True
    """If a column is missing and exactly one other column has a common name for it (such as review for text), uses that
    one, and prints a note."""
    text_unit: Literal["line", "paragraph", "file"] = "line"
    """What one row of a .txt file is. Paragraphs are separated by blank lines; blank lines are not rows."""
    on_bad_row: Literal["error", "skip"] = "error"
    """What to do with lines that cannot be read and rows that the task cannot use: stop with an error, or skip them.
    Skipped rows are counted by reason. A file that is damaged as a whole is always an error."""
    special_tokens_in_text: Literal["refuse", "escape"] = "refuse"
    """What to do with special tokens, such as `<|im_end|>` or `</s>`, that are literally in a text. `refuse` names the
    rows in which they would be read as the end of a turn (chat) or of the text by which a BART or T5 classifies; other
    such rows are counted. `escape` reads them as plain text, in training and
    in predictions alike, so that no row can contain a control token."""
    deduplicate: Literal["none", "train", "all"] = "none"
    """`train` drops duplicates among the training rows (the first copy stays), and training rows whose model input also
    occurs in dev or test. `all` also drops duplicates within dev and test, and dev rows that occur in test. Duplicates
    are counted and reported in any case."""
    near_duplicates: Literal["auto", "off", "count", "drop"] = "auto"
    """Rows of dev and test whose model input is nearly, but not exactly, that of a training row: of their runs of three
    words (three characters in Chinese, Japanese and Thai), at least 80 % are in both. `count` counts and reports them,
    `drop` also drops those training rows, and `off` does not look for them. `auto` counts them if there are at most a
    million rows, and 100,000 of dev and test."""
    max_tokens: PositiveInt = 512
    """Maximum length in tokens, special tokens included. Longer texts are truncated; token_classification splits them
    into windows and language_modeling into pieces instead, each of which then counts as a row."""
    length_window: Annotated[int, Field(ge=0)] = 50
    """Rows are sorted by length within windows of this many global batches, to reduce padding; the batches are then
    shuffled. 0 makes the order fully random."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Trains on this part of the training rows, chosen at random from each source and the same for every train.seed. A
    smaller part is contained in a larger one. dev, test, label names and all else come from all rows, whose prepared
    data the parts share. `shardtune run RECIPE --fractions=0.1,0.3,1.0` trains on several parts, and says whether more
    rows would help."""
    streaming: bool = False
    """Trains on the rows of train as they are read and stores nothing on disk: for data that is read only once. Rows
    are shuffled in a buffer of shuffle_window rows and not sorted by length. What must be known in advance, such as
    label names, is taken from the first rows of each source. Needs train.max_steps, and separate files for dev and
    test."""
    shuffle_window: PositiveInt = 10_000
    """Size of the shuffle buffer of a stream, in rows, on all ranks together."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Packs several rows into one sequence of up to max_tokens, for causal language models and token classifiers, so
    that little padding is computed. Packed rows cannot attend to each other, and what is learned is the same. `auto`
    checks at the start of a run whether the model keeps packed rows apart (Llama, BERT and similar models do; OPT,
    Bloom and Mamba do not), and does not pack if it does not; with `on` that is an error."""
    cache_dir: str = "~/.cache/shardtune"
    """Where prepared (tokenized) data is cached between runs. Machines that share this folder divide the preparation
    among themselves."""
    prepare_processes: PositiveInt | None = None
    """Worker processes that prepare the data on each machine. None starts one per core. Fewer use less memory."""

    def sources(self, split: str) -> list[SourceConfig]:
        """The sources of train, dev or test; empty if there is no such split, or if it is a share of train."""
        return listed(getattr(self, split))

    def share(self, split: str) -> HeldOutConfig | None:
        """The share of the training rows that dev or test is, or None."""
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
                        f"{split}: {source.path!r} has a weight, but only training rows can be weighted; remove it"
                    )
        return self

    @model_validator(mode="after")
    def _a_stream_is_read_once(self) -> "DataConfig":
        faults = []
        if self.share("dev") or self.share("test"):
            faults.append("dev and test cannot be shares of a stream; give separate files")
        if self.deduplicate != "none":
            faults.append("a stream cannot be searched for duplicates; remove deduplicate")
        if self.near_duplicates in ("count", "drop"):
            faults.append("a stream cannot be searched for near duplicates; remove near_duplicates")
        if any(source.weight != 1 for source in self.sources("train")):
            faults.append("the sources of a stream cannot be weighted; remove the weights")
        if self.fraction != 1:
            faults.append("a part of a stream cannot be chosen; remove fraction, and lower train.max_steps")
        if self.streaming and faults:
            raise ValueError(f"streaming: {'; '.join(faults)}")
        return self

    @model_validator(mode="after")
    def _shares_fit_together(self) -> "DataConfig":
        dev, test = self.share("dev"), self.share("test")
        if dev and dev.fold is not None:
            raise ValueError("dev.fold: folds are for test; remove the key")
        if dev and test:
            if (dev.group, dev.seed) != (test.group, test.seed):
                raise ValueError("dev and test are both shares of train; give them the same group and the same seed")
            if test.fold is None and dev.fraction + test.fraction >= 1:
                raise ValueError(
                    f"dev and test together take {dev.fraction + test.fraction:g} of train; lower the fractions"
                )
        return self


class TrainConfig(Section):
    """How much to train, in units that do not depend on the machine."""

    global_batch_size: PositiveInt = 32
    """Rows per optimizer step, over all ranks, packed or not."""
    global_batch_tokens: PositiveInt | None = None
    """Targets (tokens with a loss) per optimizer step, over all ranks, instead of a number of rows: each step takes the
    number of rows that comes nearest to it, and the steps of an epoch are of nearly equal size. Overrides
    global_batch_size."""
    num_epochs: PositiveFloat = 3.0
    """Passes over the training rows; may be a fraction."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps; overrides num_epochs. None trains for num_epochs."""
    micro_batch_tokens: Tokens = 16384
    """Maximum number of tokens, padding included, in one forward pass of a rank. Lower it if memory runs out: the
    result of training does not change. `auto` estimates what fits, verifies it before training begins, and stores the
    number in the run directory; if memory still runs out, the run restarts with half of it."""
    eval_every_steps: PositiveInt | None = None
    """Optimizer steps between evaluations on dev. None evaluates at the end of each epoch. The end of training is
    always evaluated."""
    eval_at_start: bool = False
    """Also evaluates on dev before the first step, as a baseline."""
    patience: PositiveInt | None = None
    """Ends training after this many evaluations on dev in a row without a better value of checkpoint.best_metric (by
    default the task's main metric). None trains to the end. The learning rate follows its schedule for all steps."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """For patience: how much better a value has to be to count."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keeps an exponential moving average of the weights, such as 0.999, and evaluates and exports it in their place.
    It is in fp32, divided among the ranks as the optimizer's states are: 4 bytes more for each trained parameter, of
    memory and of checkpoints. The decay begins low and rises to this: after step t it is at most (1 + t) / (10 + t).
    None keeps no average."""
    seed: Seed = 0
    """Seed of new layers, the order of the rows, and dropout. Not of what is held out or kept of the data, by
    data.dev.fraction and data.fraction."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=2, strict=False)] | None = None
    """Trains the recipe once with each of these seeds, as in `[1, 2, 3]`, and reports mean and spread of every metric.
    `shardtune run`, `submit` and `sweep` do this, each seed in a run directory of its own. Instead of seed."""

    @model_validator(mode="after")
    def _seed_or_seeds(self) -> "TrainConfig":
        if self.seeds is None:
            return self
        if "seed" in self.model_fields_set:
            raise ValueError("seed and seeds are both given; keep one of them")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is given twice; give each once")
        return self


class OptimConfig(Section):
    """The optimizer and the learning rate schedule."""

    kind: Literal["adamw"] = "adamw"
    """AdamW (Loshchilov and Hutter, 2019). Norms and biases have no weight decay."""
    states: Literal["fp32", "bf16"] = "fp32"
    """How AdamW's two moments are kept. `bf16` takes 4 bytes less for each trained parameter, of GPU memory and of
    checkpoints; they are rounded stochastically, so that small changes are not lost, and the weights stay in fp32. The
    noise is about that of a slightly smaller batch; the update itself is a series of operations instead of one, and
    slower."""
    lr: PositiveFloat = 5e-5
    """Peak learning rate, reached after warm-up."""
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.999)
    """Decay rates of AdamW's first and second moments."""
    eps: PositiveFloat = 1e-8
    """Added to AdamW's denominator for numerical stability."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Layer-wise learning rates: each layer learns at this factor of the rate of the layer above it. The last layer has
    lr * layer_decay, the first of L layers lr * layer_decay^L, embeddings lr * layer_decay^(L + 1); a head, new weights
    and what comes after the layers have the whole lr. Encoder and decoder count their own layers."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of weight matrices and embeddings."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this global norm. 0 turns clipping off."""
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """The learning rate after warm-up: linear or cosine decay to min_lr_ratio; constant; or wsd (warm-up, stable,
    decay), constant until the last decay_fraction of the steps, then linear decay."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps over which the learning rate rises linearly from 0."""
    warmup_fraction: Fraction | None = None
    """Warm-up as a fraction of all steps. Set either this or warmup_steps; without both there is no warm-up."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """For schedule wsd: the fraction of all steps over which the learning rate decays."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Final learning rate, as a fraction of lr."""

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimConfig":
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("warmup_steps and warmup_fraction are both set; keep one of them")
        return self


class EngineConfig(Section):
    """How a step is computed. Apart from rounding, nothing here changes what is learned."""

    deepspeed: str | None = "zero2"
    """zero0, zero1, zero2, zero3, zero2_offload, zero3_offload, zero3_hpz, zero3_qwz or zero3_zeropp (the files in
    ds_configs/), or the path of a DeepSpeed JSON file. For several machines: zero3_hpz keeps the weights on each of
    them, besides dividing them among all ranks, so only one of two passes waits for other machines. zero3_qwz sends
    weights rounded to 8 bits, and computes with them; zero3_zeropp does both and sends gradients in 4 bits. These two
    need NVIDIA GPUs, the last one fp16. `auto` is the fastest of the others that fits, by the planner
    (docs/planner.md), and on CPUs null or else the lowest ZeRO stage that fits; it is chosen and reported when a run
    begins, and kept when it resumes. None trains without DeepSpeed: every rank holds a full replica, as with zero0,
    with fewer and larger operations; CPU ranks on one machine communicate through shared memory."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of weights and activations in the forward and backward pass. The optimizer always works in fp32, so a
    run may resume in another precision. `auto` is the one that a DeepSpeed JSON of your own turns on, if it does;
    otherwise bf16 if the devices of all ranks support it in hardware (NVIDIA GPUs since Ampere, CPUs with AVX512-BF16
    or AMX), and else fp16 on GPUs and fp32 on CPUs."""
    communication_data_type: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision in which ranks exchange gradients. `auto` is fp32 without DeepSpeed, and what the ds_config says, or
    else engine.precision, with it. bf16 halves what is sent, and keeps two to three digits: summed over 2 ranks, the
    gradient of MiniLM-L6 is off by 0.22 %, over 4 by 0.31 % (in fp32 by 0.000004 %), over 64 by about 0.8 %. CPU ranks
    without DeepSpeed on one machine read each other's gradients in fp32, whatever this says."""
    compile: Literal["off", "regional", "full"] = "off"
    """Compiles the model with torch.compile, which fuses operations. `regional` compiles the layers that repeat, once
    for all of them; `full` compiles the model without its head in one piece, which takes longer to compile, and is not
    possible under ZeRO-3 or with LayerDrop. Micro-batches of all shapes share a few compiled variants; their lengths
    are rounded up to multiples of 8. The variants are compiled before training begins, and later ones are reported in
    metrics.jsonl. Generation is not compiled. Needs a C++ compiler on CPUs, and Triton and a C compiler on GPUs."""
    kernels: Literal["auto", "liger", "torch"] = "auto"
    """Who computes norms, rotary positions and gated activations on a GPU. `liger` uses the kernels of Liger Kernel
    (`pip install 'shardtune[gpu]'`), and its loss for large vocabularies where targets have no weights; it is an error
    if that is not possible. `torch` uses none of them. `auto` uses Liger's kernels, but shardtune's own loss, if they
    are installed, know the model, and `compile` is off. The start of a run says what is used, and why."""
    tf32: bool = False
    """On NVIDIA GPUs since Ampere, multiplies fp32 matrices in TF32: several times faster, but each number is rounded
    to 11 bits (3 decimal digits instead of 7) before it is multiplied; sums stay in fp32. No effect in bf16 and fp16,
    and on CPUs."""

    @model_validator(mode="after")
    def _a_loss_scale_is_deepspeeds(self) -> "EngineConfig":
        if self.deepspeed is None and self.precision == "fp16":
            raise ValueError("precision: fp16 needs a loss scale, which DeepSpeed has; set deepspeed=zero0")
        return self


class CheckpointConfig(Section):
    """When checkpoints are saved, which ones are kept, and how the best model is chosen."""

    every_steps: PositiveInt | None = None
    """Optimizer steps between checkpoints. If neither this nor every_minutes is set, a checkpoint is saved after every
    evaluation. A new best on dev, a stop and the end of training are always saved."""
    every_minutes: PositiveFloat | None = None
    """Minutes between checkpoints; with every_steps, whichever comes first."""
    keep_last: PositiveInt = 2
    """How many of the newest checkpoints to keep. If one is damaged, the run resumes from the one before."""
    keep_best: PositiveInt = 1
    """How many of the best checkpoints on dev to keep, in addition."""
    best_metric: str | None = None
    """The dev metric that selects the best model. None uses the task's default metric."""
    average_last: Annotated[int, Field(ge=2)] | None = None
    """At the end, averages the weights of this many of the newest checkpoints, and evaluates the mean on dev; if it is
    better than the best model, it is that, and is tested and exported. These checkpoints are kept. None averages
    nothing."""
    asynchronous: bool = True
    """Training waits only until a checkpoint is copied to host memory, which needs 12 bytes per trained parameter (8
    with optim.states=bf16, and 4 more with train.ema_decay), over all ranks; the copy is written to disk in the
    background. `false` waits until it is on disk, and needs no extra memory."""


class ReportConfig(Section):
    """Where metrics go, besides RUN_DIR/metrics.jsonl."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases. `auto` follows WANDB_MODE or WANDB_DISABLED of the environment; without them it is online if an
    API key for the server (WANDB_BASE_URL) is found, and offline otherwise. The start of a run says which, and why."""
    project: str | None = None
    """The W&B project. None uses WANDB_PROJECT of the environment, or else `shardtune`."""
    name: str | None = None
    """The name of the run in W&B. None uses WANDB_NAME of the environment, or else the name of the run directory."""
    group: str | None = None
    """The W&B group. None uses WANDB_RUN_GROUP of the environment, if it is set. The runs of a sweep are one group."""
    entity: str | None = None
    """The W&B user or team. None uses WANDB_ENTITY of the environment, or else the default of the API key."""
    tags: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """The tags of the run in W&B. None uses WANDB_TAGS of the environment."""
    notes: str | None = None
    """A description of the run in W&B. None uses WANDB_NOTES of the environment."""
    job_type: str | None = None
    """The W&B job type. None uses WANDB_JOB_TYPE of the environment, or else `train`."""
    artifacts: Annotated[tuple[Literal["model", "data"], ...], Field(strict=False)] = ()
    """What W&B gets at the end besides metrics: `model` uploads the exported best model, `data` the fingerprints of the
    data files, with no data."""
    also: tuple[Literal["tensorboard", "mlflow", "trackio"], ...] = ()
    """Other experiment trackers that follow the run while it trains, such as [tensorboard]. Each needs its package, as
    in `pip install 'shardtune[tensorboard]'`. They use report.project and report.name, or else `shardtune` and the name
    of the run directory. `shardtune replay` sends a run that is there already."""
    every_steps: PositiveInt = 1
    """Optimizer steps between step lines in metrics.jsonl; each line averages over the steps since the previous one."""
    profile_steps: tuple[PositiveInt, PositiveInt] | None = None
    """The first and the last step, counted from 1, that torch's profiler traces on rank 0, such as [10, 12]. The trace
    is written to RUN_DIR/profile/. Tracing slows these steps down."""

    @field_validator("profile_steps")
    @classmethod
    def _steps_in_order(cls, steps: tuple[int, int] | None) -> tuple[int, int] | None:
        if steps is not None and steps[0] > steps[1]:
            raise ValueError(f"the first step, {steps[0]}, comes after the last, {steps[1]}; exchange them")
        return steps


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
