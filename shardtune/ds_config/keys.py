"""The keys of a ds_config: set by the recipe, refused, or free for the ds_config to set."""

OWNED_BY_RECIPE = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_tokens",
    "gradient_accumulation_steps": "train.global_batch_size",
    "gradient_clipping": "optim.max_grad_norm",
    "fp16.enabled": "engine.precision",
    "bf16.enabled": "engine.precision",
}
"""DeepSpeed key -> the recipe key that sets it. "auto", which users of transformers write there, is accepted; any other
value is refused."""
_PRECISION = "set by engine.precision; the optimizer always works in fp32"
_ROWS = "shardtune reads and orders the rows itself (data.*, train.*)"
_PARALLEL = "shardtune is data parallel only: every rank reads different rows"
_CHECKPOINTS = "shardtune saves and loads checkpoints itself (checkpoint.*)"
_LOOP = "shardtune's training loop decides where a step ends"
_OPTIMIZER = "shardtune uses its own AdamW (optim.*)"


REFUSED = {
    "activation_checkpointing": "use model.activation_checkpointing; DeepSpeed's implementation is never called",
    "autotuning": "changes the batch size and then ends the run",
    "bf16.bf16_master_weights_and_grads": _PRECISION,
    "bf16.bf16_optimizer_states": _PRECISION,
    "bf16.check_grad_overflow": "steps with a non-finite gradient are always skipped (faults.max_bad_steps)",
    "bfloat16": "DeepSpeed's old name for bf16; rename it",
    "checkpoint.load_universal": _CHECKPOINTS,
    "checkpoint.use_node_local_storage": _CHECKPOINTS,
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
    "wandb": "set by report.wandb",
    "weight_quantization": "only for inference",
    "zero_allow_untested_optimizer": _OPTIMIZER,
    "zero_force_ds_cpu_optimizer": _OPTIMIZER,
    "zero_optimization.compute_grad_norm": "the gradient norm is reported at every step",
    "zero_optimization.zenflow": "updates some weights later than others, which changes what is learned",
}
"""DeepSpeed keys that would break a guarantee of shardtune, and why."""


ENGINE_KNOBS = frozenset(
    {
        "aio",
        "bf16",
        "checkpoint",
        "comet",
        "comms_logger",
        "communication_data_type",
        "compile",
        "csv_monitor",
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
        "steps_per_print",
        "tensorboard",
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


TOP_LEVEL = ENGINE_KNOBS | {"optimizer", "scheduler"} | {key for key in (*OWNED_BY_RECIPE, *REFUSED) if "." not in key}


AUTO_OF_DEEPSPEED = frozenset({"data_types.keep_in_fp32_modules"})
"""Keys for which DeepSpeed itself accepts "auto"."""


SCHEDULERS = {"warmupdecaylr": "linear", "warmuplr": "constant", "warmupcosinelr": "cosine"}
