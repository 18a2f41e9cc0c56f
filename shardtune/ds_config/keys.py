"""The keys of a ds_config: set by the recipe, refused, ignored, or free for the ds_config to set."""

OWNED_BY_RECIPE = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_tokens",
    "gradient_accumulation_steps": "train.global_batch_size",
    "gradient_clipping": "optim.max_grad_norm",
    "optimizer.type": "optim.kind",
    "optimizer.params.lr": "optim.lr",
    "optimizer.params.betas": "optim.betas",
    "optimizer.params.eps": "optim.eps",
    "optimizer.params.weight_decay": "optim.weight_decay",
    "scheduler.type": "optim.schedule",
    "scheduler.params.warmup_max_lr": "optim.lr",
    "scheduler.params.warmup_num_steps": "optim.warmup_steps",
    "scheduler.params.total_num_steps": "train.max_steps",
    "scheduler.params.cos_min_ratio": "optim.min_lr_ratio",
    "fp16.enabled": "engine.precision",
    "bf16.enabled": "engine.precision",
    "communication_data_type": "engine.communication_data_type",
}
"""DeepSpeed key -> the recipe key that sets it. "auto", which users of transformers write there, and a value that
agrees with the recipe are accepted; a contradiction is refused."""
_PRECISION = "set by engine.precision; the optimizer always works in fp32"
_ROWS = "shardtune reads and orders the rows itself (data.*, train.*)"
_PARALLEL = "shardtune is data parallel only: every rank reads different rows"
_CHECKPOINTS = "shardtune saves and loads checkpoints itself (checkpoint.*)"
_LOOP = "shardtune's training loop decides where a step ends"


REFUSED = {
    "activation_checkpointing": "use model.activation_checkpointing; DeepSpeed's implementation is never called",
    "autotuning": "changes the batch size and then ends the run",
    "bf16.bf16_master_weights_and_grads": _PRECISION,
    "bf16.bf16_optimizer_states": _PRECISION,
    "bf16.check_grad_overflow": "steps with a non-finite gradient are always skipped (faults.max_bad_steps)",
    "checkpoint.load_universal": _CHECKPOINTS,
    "checkpoint.use_node_local_storage": f"{_CHECKPOINTS}, in a run directory that all machines share",
    "checkpoint.writer": _CHECKPOINTS,
    "data_efficiency": _ROWS,
    "data_parallel_size": _PARALLEL,
    "data_types.param_dtype": _PRECISION,
    "dataloader_drop_last": _ROWS,
    "datastates_ckpt": _CHECKPOINTS,
    "expert_parallel": _PARALLEL,
    "fp16.fp16_master_weights_and_grads": _PRECISION,
    "gradient_allreduce_op": "gradients are averaged, and the loss is scaled accordingly",
    "hybrid_engine": "only for generation between training steps",
    "managed_gradient_accumulation": _LOOP,
    "pipeline": _PARALLEL,
    "sequence_parallel_size": _PARALLEL,
    "tensor_parallel": _PARALLEL,
    "torch_autocast": _PRECISION,
    "use_data_before_expert_parallelism": _PARALLEL,
    "weight_quantization": "only for inference",
    "zero_optimization.compute_grad_norm": "the gradient norm is reported at every step",
    "zero_optimization.zenflow": "updates some weights later than others, which changes what is learned",
    "zero_optimization.zero_quantized_nontrainable_weights": (
        "DeepSpeed (0.19.8) quantizes what is frozen before it is loaded, adapters' base models are frozen after it"
    ),
}
"""DeepSpeed keys that would break a guarantee of shardtune, and why. Values that turn nothing on are ignored."""


DONE_ANYWAY: dict[str, tuple[object, ...]] = {
    "bf16.check_grad_overflow": (True,),
    "gradient_allreduce_op": ("mean",),
    "managed_gradient_accumulation": (True,),
    "sequence_parallel_size": (1,),
    "tensor_parallel": ({"autotp_size": 1},),
    "zero_optimization.compute_grad_norm": (True,),
    "zero_optimization.mics_shard_size": (-1,),
}
"""Refused or removed key -> the values that say what shardtune does in any case, where false would not."""


_METRICS = "metrics go to metrics.jsonl, report.wandb and report.also"
_OPTIMIZER = "the optimizer is always torch's AdamW"
NOT_COMPILED = "engine.compile sets what is compiled"


IGNORED = {
    "comet": _METRICS,
    "comms_config": _METRICS,
    "csv_monitor": _METRICS,
    "monitor_config": _METRICS,
    "steps_per_print": _METRICS,
    "tensorboard": _METRICS,
    "wandb": _METRICS,
    "compile.backend": NOT_COMPILED,
    "compile.disable": NOT_COMPILED,
    "compile.enabled": NOT_COMPILED,
    "compile.kwargs": NOT_COMPILED,
    "zero_allow_untested_optimizer": _OPTIMIZER,
    "zero_force_ds_cpu_optimizer": _OPTIMIZER,
    "zero_optimization.aio": "only used for nvme",
}
"""Keys of files made for other tools that change nothing here, and why. A notice lists those that a file has."""


RENAMED = {
    "bfloat16": "bf16",
    **{
        f"zero_optimization.{old}": f"zero_optimization.{new}"
        for old, new in {
            "allgather_sequential": "stage3_allgather_sequential",
            "cpu_offload_params": "cpu_offload_param",
            "gather_16bit_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
            "gather_fp16_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
            "max_live_parameters": "stage3_max_live_parameters",
            "max_reuse_distance": "stage3_max_reuse_distance",
            "model_persistence_threshold": "stage3_model_persistence_threshold",
            "module_granularity_threshold": "stage3_module_granularity_threshold",
            "param_persistence_threshold": "stage3_param_persistence_threshold",
            "prefetch_bucket_size": "stage3_prefetch_bucket_size",
            "stage3_gather_fp16_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
            "use_all_reduce_for_fetch_params": "stage3_use_all_reduce_for_fetch_params",
        }.items()
    },
}
"""Old name, or one without the prefix that the JSON has -> today's name. cpu_offload and its like become blocks
(clean.py)."""


ENGINE_KNOBS = frozenset(
    {
        "aio",
        "bf16",
        "checkpoint",
        "comms_logger",
        "communication_data_type",
        "compile",
        "data_types",
        "disable_allgather",
        "disable_python_gc",
        "dump_state",
        "flops_profiler",
        "fp16",
        "gradient_predivide_factor",
        "log_level",
        "memory_breakdown",
        "prescale_gradients",
        "seq_parallel_communication_data_type",
        "timers",
        "vocabulary_size",
        "wall_clock_breakdown",
        "zero_optimization",
    }
)
"""The top-level keys that a ds_config may set."""


REMOVED_FROM_DEEPSPEED = frozenset(
    {
        "amp",
        "compression_training",
        "curriculum_learning",
        "eigenvalue",
        "elasticity",
        "graph_harvesting",
        "nebula",
        "progressive_layer_drop",
        "quantize_training",
        "sparse_attention",
        "sparse_gradients",
        "zero_optimization.mics_hierarchical_params_gather",
        "zero_optimization.mics_shard_size",
        "zero_optimization.zeropp_loco_param",
    }
)


REPLACED = {
    "zero_optimization.mics_shard_size": (
        'DeepSpeed has removed MiCS; zero_hpz_partition_size: "auto" (engine.deepspeed: zero3_hpz) also gathers '
        "weights within a machine, all but once a step; remove it"
    ),
}
"""Removed key -> what is nearest to it today."""


BLOCKS: dict[str, frozenset[str]] = {
    "zero_optimization": frozenset(
        [
            "allgather_bucket_size",
            "allgather_partitions",
            "compute_grad_norm",
            "contiguous_gradients",
            "cpu_offload",
            "cpu_offload_param",
            "cpu_offload_use_pin_memory",
            "elastic_checkpoint",
            "enable_sanity_checks",
            "ignore_unused_parameters",
            "leaf_module",
            "legacy_stage1",
            "load_from_fp32_weights",
            "log_trace_cache_warnings",
            "memory_efficient_linear",
            "offload_optimizer",
            "offload_param",
            "overlap_comm",
            "override_module_apply",
            "parameter_alignment",
            "pipeline_loading_checkpoint",
            "reduce_bucket_size",
            "reduce_scatter",
            "round_robin_gradients",
            "save_muon_momentum_buffer_in_memory",
            "stage",
            "stage3_allgather_sequential",
            "stage3_gather_16bit_weights_on_model_save",
            "stage3_gather_fp16_weights_on_model_save",
            "stage3_max_live_parameters",
            "stage3_max_reuse_distance",
            "stage3_model_persistence_threshold",
            "stage3_module_granularity_threshold",
            "stage3_param_persistence_threshold",
            "stage3_prefetch_bucket_size",
            "stage3_use_all_reduce_for_fetch_params",
            "sub_group_size",
            "use_multi_rank_bucket_allreduce",
            "zenflow",
            "zero_hpz_partition_size",
            "zero_quantized_gradients",
            "zero_quantized_nontrainable_weights",
            "zero_quantized_weights",
        ]
    ),
    "zero_optimization.offload_param": frozenset(
        {"buffer_count", "buffer_size", "device", "max_in_cpu", "nvme_path", "pin_memory"}
    ),
    "zero_optimization.offload_optimizer": frozenset(
        [
            "buffer_count",
            "cpuadam_cores_perc",
            "device",
            "fast_init",
            "nvme_path",
            "pin_memory",
            "pipeline_read",
            "pipeline_write",
            "ratio",
            "super_offload",
        ]
    ),
    "bf16": frozenset(
        [
            "bf16_master_weights_and_grads",
            "bf16_optimizer_states",
            "check_grad_overflow",
            "enabled",
            "immediate_grad_update",
        ]
    ),
    "fp16": frozenset(
        [
            "auto_cast",
            "consecutive_hysteresis",
            "enabled",
            "fp16_master_weights_and_grads",
            "hysteresis",
            "initial_scale_power",
            "loss_scale",
            "loss_scale_window",
            "min_loss_scale",
        ]
    ),
    "comms_logger": frozenset({"debug", "enabled", "prof_all", "prof_ops", "verbose"}),
    "compile": frozenset(
        [
            "autoep_non_moe",
            "debug_log",
            "deepcompile",
            "double_buffer",
            "free_activation",
            "free_activation_threshold",
            "keep_all_input_tensors",
            "keep_int_input_tensors",
            "offload_activation",
            "offload_activation_pin_memory",
            "offload_opt_states",
            "offload_parameters",
            "passes",
            "symmetric_memory",
            "sync_after_allgather",
            "sync_after_reduce",
            "sync_before_allgather",
            "sync_before_reduce",
        ]
    ),
    "data_types": frozenset({"buffer_dtype", "grad_accum_dtype", "keep_in_fp32_modules", "param_dtype"}),
    "checkpoint": frozenset(
        [
            "checkpoint_serialization",
            "load_universal",
            "parallel_write",
            "tag_validation",
            "use_node_local_storage",
            "writer",
        ]
    ),
}
"""The legal keys of each block, as named in the JSON."""


TOP_LEVEL = (
    ENGINE_KNOBS
    | {"optimizer", "scheduler"}
    | {key for key in (*OWNED_BY_RECIPE, *REFUSED, *IGNORED) if "." not in key}
)


AUTO_OF_DEEPSPEED = frozenset({"data_types.keep_in_fp32_modules"})
"""Keys for which DeepSpeed itself accepts "auto"."""


SCHEDULERS = {"warmupdecaylr": "linear", "warmuplr": "constant", "warmupcosinelr": "cosine"}
"""Type of a DeepSpeed scheduler, in lower case -> optim.schedule."""


FREE_BLOCKS = ("aio", "checkpoint.parallel_write", "flops_profiler", "timers", "timers.throughput")
"""Blocks whose keys DeepSpeed does not check."""


FLAGS = (
    "disable_allgather",
    "disable_python_gc",
    "dump_state",
    "memory_breakdown",
    "prescale_gradients",
    "wall_clock_breakdown",
)
"""The top-level keys that are true or false, which DeepSpeed does not check."""


_DTYPES = ("fp32", "fp16", "bf16")


CHOICES = {
    "checkpoint.tag_validation": ("ignore", "warn", "fail"),
    "communication_data_type": _DTYPES,
    "data_types.buffer_dtype": (*_DTYPES, "float32", "float16", "bfloat16"),
    "data_types.grad_accum_dtype": (*_DTYPES, "float32", "float16", "bfloat16"),
    "log_level": ("debug", "info", "warning", "error", "critical"),
    "seq_parallel_communication_data_type": _DTYPES,
}
"""Key -> its legal values, which DeepSpeed looks at only in the ranks, or refuses without a name."""


NUMBERS = ("gradient_predivide_factor", "vocabulary_size")
"""The top-level keys that are a number, which DeepSpeed does not check."""
