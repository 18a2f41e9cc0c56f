"""The counterparts of transformers.TrainingArguments in a recipe, and why some names have none.

Both the error messages and docs/recipe.md use this one table.
"""

from typing import NamedTuple


class Counterpart(NamedTuple):
    """A key of a recipe, or None, and a remark."""

    key: str | None
    note: str = ""


class Names(NamedTuple):
    """Names in transformers that have the same counterpart."""

    names: tuple[str, ...]
    ours: Counterpart


_ORDER = Counterpart(
    None, "rows are prepared once, before training, and distributed by arithmetic; there is no DataLoader"
)
_LOGS = Counterpart(None, "logs are lines of RUN_DIR/metrics.jsonl, written by rank 0")
_BEST = Counterpart(None, "the best model by checkpoint.best_metric is always tested and exported")
_FSDP = Counterpart(None, "parameters are sharded by ZeRO: engine.deepspeed zero3")
_DDP = Counterpart(
    None, "gradients are averaged by DeepSpeed, or in buckets of a size that is chosen (engine.deepspeed: null)"
)
_HUB = Counterpart(None, "nothing is uploaded; push the exported model with the hf command")
_EVAL = Counterpart(None, "evaluation gathers sums, never outputs, so there is nothing to tune")
_SPLITS = Counterpart(None, "data.train, data.dev and data.test are used if set")
_NOT_THERE = Counterpart(None, "not supported")

TRAINING_ARGUMENTS: tuple[Names, ...] = (
    Names(("model_name_or_path",), Counterpart("model.path")),
    Names(("model_revision",), Counterpart("model.revision")),
    Names(("attn_implementation",), Counterpart("model.attention")),
    Names(("gradient_checkpointing", "activation_checkpointing"), Counterpart("model.activation_checkpointing")),
    Names(("use_peft",), Counterpart("model.lora", "a section of its own; {} uses the defaults")),
    Names(("lora_r",), Counterpart("model.lora.r")),
    Names(("lora_alpha",), Counterpart("model.lora.alpha")),
    Names(("lora_dropout",), Counterpart("model.lora.dropout")),
    Names(("lora_target_modules", "target_modules"), Counterpart("model.lora.targets")),
    Names(("lora_modules_to_save", "modules_to_save"), Counterpart("model.lora.train_whole")),
    Names(("train_file",), Counterpart("data.train")),
    Names(("validation_file", "eval_file"), Counterpart("data.dev")),
    Names(("test_file",), Counterpart("data.test")),
    Names(("max_seq_length", "max_length", "model_max_length"), Counterpart("data.max_tokens")),
    Names(("preprocessing_num_workers", "dataset_num_proc", "num_proc"), Counterpart("data.prepare_processes")),
    Names(
        ("group_by_length", "train_sampling_strategy"),
        Counterpart("data.length_window", "on by default where rows cannot be packed; 0 turns it off"),
    ),
    Names(
        ("per_device_train_batch_size", "per_gpu_train_batch_size", "train_batch_size", "batch_size"),
        Counterpart("train.global_batch_size", "rows over all ranks, so multiply by ranks and accumulation steps"),
    ),
    Names(
        ("gradient_accumulation_steps",),
        Counterpart(
            "train.global_batch_size", "it sets the size of a step; train.micro_batch_tokens sets that of a micro-batch"
        ),
    ),
    Names(
        ("auto_find_batch_size",),
        Counterpart("train.micro_batch_tokens", "`auto` finds how many tokens fit; the global batch does not change"),
    ),
    Names(
        ("per_device_eval_batch_size", "eval_accumulation_steps"),
        Counterpart("train.micro_batch_tokens", "memory is limited in tokens, in training and in evaluation"),
    ),
    Names(("num_train_epochs",), Counterpart("train.num_epochs")),
    Names(("max_steps",), Counterpart("train.max_steps")),
    Names(("eval_steps",), Counterpart("train.eval_every_steps")),
    Names(
        ("eval_strategy", "evaluation_strategy"),
        Counterpart("train.eval_every_steps", "a number is `steps`, null is `epoch`, no data.dev is `no`"),
    ),
    Names(("seed", "data_seed"), Counterpart("train.seed")),
    Names(("learning_rate",), Counterpart("optim.lr")),
    Names(("optim", "optim_args"), Counterpart("optim.kind")),
    Names(("adam_beta1", "adam_beta2"), Counterpart("optim.betas", "both in one list")),
    Names(("adam_epsilon",), Counterpart("optim.eps")),
    Names(("weight_decay",), Counterpart("optim.weight_decay")),
    Names(("max_grad_norm",), Counterpart("optim.max_grad_norm")),
    Names(("lr_scheduler_type",), Counterpart("optim.schedule", "linear, cosine, constant or wsd")),
    Names(("lr_scheduler_kwargs",), Counterpart("optim.min_lr_ratio", "and optim.decay_fraction, for wsd")),
    Names(("warmup_steps",), Counterpart("optim.warmup_steps", "a fraction goes to optim.warmup_fraction")),
    Names(("warmup_ratio",), Counterpart("optim.warmup_fraction")),
    Names(("deepspeed",), Counterpart("engine.deepspeed")),
    Names(("bf16", "fp16", "half_precision_backend", "fp16_backend"), Counterpart("engine.precision")),
    Names(("save_steps",), Counterpart("checkpoint.every_steps")),
    Names(
        ("save_strategy",),
        Counterpart(
            "checkpoint.every_steps",
            "null saves after every evaluation; a new best, a stop and the end of training are always saved",
        ),
    ),
    Names(
        ("save_total_limit",),
        Counterpart("checkpoint.keep_last", "checkpoint.keep_best sets how many of the best are kept in addition"),
    ),
    Names(("metric_for_best_model",), Counterpart("checkpoint.best_metric")),
    Names(("logging_steps",), Counterpart("report.every_steps")),
    Names(("report_to",), Counterpart("report.wandb")),
    Names(("run_name",), Counterpart("report.name")),
    Names(("project",), Counterpart("report.project")),
    Names(("use_cpu", "no_cuda"), Counterpart("job.device")),
    Names(
        ("output_dir", "overwrite_output_dir", "logging_dir"), Counterpart(None, "every run has a directory of its own")
    ),
    Names(
        (
            "resume_from_checkpoint",
            "ignore_data_skip",
            "restore_callback_states_from_checkpoint",
            "enable_jit_checkpoint",
        ),
        Counterpart(None, "a start in a run directory resumes from its newest complete checkpoint, at the same row"),
    ),
    Names(("load_best_model_at_end", "greater_is_better"), _BEST),
    Names(
        ("save_only_model", "save_on_each_node", "save_safetensors"),
        Counterpart(None, "a checkpoint is always complete and on shared storage; the exported model is safetensors"),
    ),
    Names(
        ("average_tokens_across_devices",),
        Counterpart(None, "always on: the loss is the mean over all targets of the global batch"),
    ),
    Names(("eval_on_start",), Counterpart("train.eval_at_start")),
    Names(("do_train", "do_eval", "do_predict", "eval_delay"), _SPLITS),
    Names(
        (
            "prediction_loss_only",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "include_for_metrics",
            "batch_eval_metrics",
        ),
        _EVAL,
    ),
    Names(
        (
            "dataloader_drop_last",
            "dataloader_num_workers",
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
            "length_column_name",
        ),
        _ORDER,
    ),
    Names(("remove_unused_columns",), Counterpart(None, "tasks read the columns they know; data.columns renames them")),
    Names(
        (
            "logging_strategy",
            "logging_first_step",
            "log_on_each_node",
            "logging_nan_inf_filter",
            "include_num_input_tokens_seen",
            "log_level",
            "log_level_replica",
            "disable_tqdm",
            "skip_memory_metrics",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
        ),
        _LOGS,
    ),
    Names(("fsdp", "fsdp_config", "parallelism_config", "accelerator_config"), _FSDP),
    Names(
        (
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_static_graph",
            "ddp_backend",
            "ddp_timeout",
        ),
        _DDP,
    ),
    Names(("local_rank",), Counterpart(None, "the rank is read from the environment that the launcher sets")),
    Names(
        (
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ),
        _HUB,
    ),
    Names(("bf16_full_eval", "fp16_full_eval"), Counterpart(None, "evaluation uses engine.precision")),
    Names(("tf32",), Counterpart("engine.tf32")),
    Names(
        ("torch_compile", "torch_compile_backend", "torch_compile_mode"),
        Counterpart("engine.compile", "regional or full, always by inductor in its default mode"),
    ),
    Names(
        ("use_liger_kernel", "liger_kernel_config"),
        Counterpart("engine.kernels", "liger; auto uses it where it is installed and knows the model"),
    ),
    Names(("full_determinism",), Counterpart(None, "row order and seeds do not depend on the number of ranks")),
    Names(
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "use_cache"),
        Counterpart(None, "model.activation_checkpointing sets them"),
    ),
    Names(("debug", "torch_empty_cache_steps"), Counterpart(None, "belongs to the engine, not to the recipe")),
    Names(
        (
            "label_smoothing_factor",
            "neftune_noise_alpha",
            "optim_target_modules",
        ),
        _NOT_THERE,
    ),
)

COUNTERPARTS: dict[str, Counterpart] = {name: row.ours for row in TRAINING_ARGUMENTS for name in row.names}
