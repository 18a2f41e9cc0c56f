"""Who owns which key of a ds_config: what is learned belongs to the recipe, how it is computed to the ds_config.

DeepSpeed ignores the top-level keys that it does not know; here they are refused, and DeepSpeed is not imported for it.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.config.errors import ConfigError
from trainer.config.explain import did_you_mean, shown
from trainer.config.schema import Recipe

_FOLDER = Path(__file__).resolve().parents[2] / "ds_configs"


def strategies() -> tuple[str, ...]:
    """The names that engine.deepspeed may have besides a path: the files of ds_configs/."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def is_path(name_or_path: str) -> bool:
    """Whether engine.deepspeed names a file rather than one of the strategies."""
    return name_or_path.endswith(".json") or "/" in name_or_path


def not_a_strategy(name: str) -> str:
    """What is said of a name that is neither a strategy nor a path."""
    return f"got {shown(name)}; legal: {', '.join(strategies())}, the path of a DeepSpeed JSON, or null"


def load_ds_config(name_or_path: str) -> dict[str, Any]:
    """The JSON object of a strategy (`zero2`) or of the user's file; as written, not yet resolved."""
    if not is_path(name_or_path) and name_or_path not in strategies():
        raise ConfigError(f"engine.deepspeed: {not_a_strategy(name_or_path)}")
    path, source = _file(name_or_path), _source(name_or_path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        config = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        comment = "; JSON has no comments" if error.doc[error.pos :].startswith(("//", "/*", "#")) else ""
        raise ConfigError(f"{source}:{error.lineno}: not JSON: {error.msg}{comment}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not UTF-8 text; save the file as UTF-8") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{source}: expected a JSON object, got {shown(config)}")
    return config


def resolve_ds_config(base: Mapping[str, Any], recipe: Recipe, *, hidden_size: int | None) -> dict[str, Any]:
    """The ds_config that DeepSpeed is given: the base's engine knobs and the recipe's values, no "auto" left.

    `hidden_size` fills the three "auto" of zero_optimization that depend on it, as transformers does; where it is None
    they are left out and DeepSpeed's own defaults hold. Raises one ConfigError with a line for each fault.
    """
    config = copy.deepcopy(dict(base))
    faults = [*_shape_faults(config)]
    if not faults:
        faults += [*_unknown_faults(config), *_owned_faults(config, recipe), *_zero_faults(config)]
        _fill_sizes(config["zero_optimization"], hidden_size)
        faults += [
            f'{key}: "auto" means nothing here; write a value, or remove it'
            for key in _autos(config)
            if key not in _AUTO_OF_DEEPSPEED and key.partition(".")[0] in _TOP_LEVEL
        ]
    if faults:
        assert recipe.engine.deepspeed is not None, "a recipe without DeepSpeed has no ds_config"
        source = _source(recipe.engine.deepspeed)
        raise ConfigError("\n".join(f"{source}: {' '.join(fault.splitlines())}" for fault in dict.fromkeys(faults)))
    return _with_recipe(config, recipe)


def ds_config_of(recipe: Recipe, *, hidden_size: int | None) -> dict[str, Any] | None:
    """What DeepSpeed is given for a recipe; None for one without DeepSpeed. Raises ConfigError as the above do."""
    if recipe.engine.deepspeed is None:
        return None
    return resolve_ds_config(load_ds_config(recipe.engine.deepspeed), recipe, hidden_size=hidden_size)


def stage_of(recipe: Recipe) -> int:
    """The ZeRO stage that a recipe asks for; 0 where nothing is sharded. Raises ConfigError."""
    return 0 if recipe.engine.deepspeed is None else zero_stage(load_ds_config(recipe.engine.deepspeed))


def zero_stage(ds_config: Mapping[str, Any]) -> int:
    """The ZeRO stage of a ds_config; 0 if it says nothing."""
    return int(ds_config.get("zero_optimization", {}).get("stage", 0))


def sharding_name(stage: int | None) -> str:
    """What a person calls it: `ZeRO-2`, or of None, a run without DeepSpeed, `replicated`."""
    return "replicated" if stage is None else f"ZeRO-{stage}"


OWNED_BY_RECIPE = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_tokens",
    "gradient_accumulation_steps": "train.global_batch_size",
    "gradient_clipping": "optim.max_grad_norm",
    "fp16.enabled": "engine.precision",
    "bf16.enabled": "engine.precision",
}
"""Written by us. "auto", which users of transformers write there, says the same; a value is refused."""

_PRECISION = "engine.precision decides it, and the optimizer always works in fp32"
_ROWS = "shardtune reads and orders the rows itself (data.*, train.*)"
_PARALLEL = "shardtune is data parallel: every rank reads other rows"
_CHECKPOINTS = "shardtune writes, publishes and resumes checkpoints itself (checkpoint.*)"
_LOOP = "shardtune's loop says where a step ends"
_OPTIMIZER = "shardtune brings its own AdamW (optim.*)"

REFUSED = {
    "activation_checkpointing": "model.activation_checkpointing turns it on; DeepSpeed's own is never called",
    "autotuning": "it changes the batch and then ends the run",
    "bf16.bf16_master_weights_and_grads": _PRECISION,
    "bf16.bf16_optimizer_states": _PRECISION,
    "bf16.check_grad_overflow": "a gradient that is no finite number never reaches the weights (faults.max_bad_steps)",
    "bfloat16": "DeepSpeed's old name of bf16; rename it",
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
    "gradient_allreduce_op": "gradients are averaged, and the loss is scaled for that",
    "hybrid_engine": "it is for generation between training steps",
    "managed_gradient_accumulation": _LOOP,
    "pipeline": _PARALLEL,
    "sequence_parallel_size": _PARALLEL,
    "tensor_parallel": _PARALLEL,
    "torch_autocast": _PRECISION,
    "use_data_before_expert_parallelism": _PARALLEL,
    "wandb": "report.wandb decides it",
    "weight_quantization": "it is for inference",
    "zero_allow_untested_optimizer": _OPTIMIZER,
    "zero_force_ds_cpu_optimizer": _OPTIMIZER,
    "zero_optimization.compute_grad_norm": "the norm is reported at every step",
    "zero_optimization.zenflow": "it updates some weights later than others, so that something else is learned",
}
"""What DeepSpeed reads and a run of ours could not keep its promises with."""

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
"""The top-level keys that are the ds_config's to set."""

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
"""The legal keys of the blocks, by the names that are written in JSON."""

_TOP_LEVEL = ENGINE_KNOBS | {"optimizer", "scheduler"} | {key for key in (*OWNED_BY_RECIPE, *REFUSED) if "." not in key}
_AUTO_OF_DEEPSPEED = frozenset({"data_types.keep_in_fp32_modules"})
"""Where "auto" is a value of DeepSpeed's own."""

_SCHEDULERS = {"warmupdecaylr": "linear", "warmuplr": "constant", "warmupcosinelr": "cosine"}


def _shape_faults(config: dict[str, Any]) -> Iterator[str]:
    """Blocks that are no objects; nothing inside them can be judged."""
    config.setdefault("zero_optimization", {})
    for block in (*BLOCKS, "optimizer", "scheduler"):
        found = _get(config, block, {})
        if not isinstance(found, dict) and not (found is None and "." in block):
            yield f"{block}: expected an object, got {shown(found)}"


def _unknown_faults(config: Mapping[str, Any]) -> Iterator[str]:
    for key in [key for key in config if key not in _TOP_LEVEL]:
        if key in REMOVED_FROM_DEEPSPEED:
            yield f"{key}: DeepSpeed has removed it; remove it here"
        else:
            yield f"{key}: unknown key{did_you_mean(key, ENGINE_KNOBS)}"
    for block, legal in BLOCKS.items():
        for key in [key for key in _get(config, block, None) or {} if key not in legal]:
            if f"{block}.{key}" in REMOVED_FROM_DEEPSPEED:
                yield f"{block}.{key}: DeepSpeed has removed it; remove it here"
            else:
                yield f"{block}.{key}: unknown key{did_you_mean(key, legal)}"


def _owned_faults(config: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """Takes what agrees with the recipe out of the config, and says what does not."""
    for key, owner in OWNED_BY_RECIPE.items():
        if (value := _pop(config, key)) not in (None, "auto"):
            yield f'{key}: is set by {owner} of the recipe, got {shown(value)}; remove it here, or write "auto"'
    for key, reason in REFUSED.items():
        if _pop(config, key) is not None:
            yield f"{key}: {reason}; remove it here"
    optimizer, scheduler = config.pop("optimizer", {}), config.pop("scheduler", {})
    if optimizer and not (_is_auto(optimizer) and str(optimizer.get("type")).lower() in ("adam", "adamw")):
        yield 'optimizer: is set by optim.* of the recipe; remove it here, or make it AdamW with every value "auto"'
    if scheduler:
        schedule = _SCHEDULERS.get(str(scheduler.get("type")).lower())
        if not _is_auto(scheduler) or schedule is None:
            yield (
                "scheduler: is set by optim.schedule of the recipe; remove it here, or write WarmupDecayLR (linear), "
                'WarmupLR (constant) or WarmupCosineLR (cosine) with every value "auto"'
            )
        elif schedule != recipe.optim.schedule:
            yield (
                f"scheduler: {scheduler['type']} is schedule {schedule}, but optim.schedule is "
                f"{recipe.optim.schedule}; remove it here"
            )


def _is_auto(block: Mapping[str, Any]) -> bool:
    params = block.get("params", {})
    return block.keys() <= {"type", "params"} and isinstance(params, dict) and all(v == "auto" for v in params.values())


def _zero_faults(config: Mapping[str, Any]) -> Iterator[str]:
    zero = config["zero_optimization"]
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3) or not isinstance(stage, int):
        yield f"zero_optimization.stage: expected 0, 1, 2 or 3, got {shown(stage)}"
        return
    for block, lowest in (("offload_param", 3), ("offload_optimizer", 1)):
        device = (zero.get(block) or {}).get("device", "none")
        if device == "nvme":
            yield f"zero_optimization.{block}.device: checkpoints do not reach what is on nvme; write cpu"
        elif device not in ("none", "auto") and stage < lowest:
            yield f"zero_optimization.{block}: needs stage {lowest} or above, got stage {stage}"


def _fill_sizes(zero: dict[str, Any], hidden_size: int | None) -> None:
    # The formulas of transformers.integrations.deepspeed, so that a ds_config means the same in both.
    for key, size in (
        ("reduce_bucket_size", lambda hidden: hidden * hidden),
        ("stage3_prefetch_bucket_size", lambda hidden: int(0.9 * hidden * hidden)),
        ("stage3_param_persistence_threshold", lambda hidden: 10 * hidden),
    ):
        if zero.get(key) == "auto":
            if hidden_size is None:
                del zero[key]
            else:
                zero[key] = size(hidden_size)


def _autos(value: Any, key: str = "") -> Iterator[str]:
    if value == "auto":
        yield key
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _autos(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _autos(inner, f"{key}[{number}]")


def _with_recipe(config: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    return {
        **config,
        # The loop cuts micro-batches and tells DeepSpeed where a step ends; DeepSpeed never counts rows here.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Always, for DeepSpeed 0.19 clips at 1.0 when told nothing.
        "gradient_clipping": recipe.optim.max_grad_norm,
        "bf16": {**config.get("bf16", {}), "enabled": _enabled("bf16", recipe)},
        "fp16": {**config.get("fp16", {}), "enabled": _enabled("fp16", recipe)},
        # Our AdamW is torch's: DeepSpeed would refuse it under ZeRO, and want its own when the optimizer is offloaded.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }


def _enabled(precision: str, recipe: Recipe) -> bool | str:
    """What the recipe says of it; auto while the ranks have not settled it, which they do before DeepSpeed sees it."""
    return "auto" if recipe.engine.precision == "auto" else recipe.engine.precision == precision


def _file(name_or_path: str) -> Path:
    if not is_path(name_or_path):
        return _FOLDER / f"{name_or_path}.json"
    try:
        return Path(name_or_path).expanduser()
    except RuntimeError:  # the ~user is not known
        return Path(name_or_path)


def _source(name_or_path: str) -> str:
    return name_or_path if is_path(name_or_path) else f"ds_configs/{name_or_path}.json"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} is said twice; keep one of them")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _get(config: Mapping[str, Any], key: str, default: Any) -> Any:
    found: Any = config
    for step in key.split("."):
        if not isinstance(found, dict) or step not in found:
            return default
        found = found[step]
    return found


def _pop(config: dict[str, Any], key: str) -> Any:
    outer, _, name = key.rpartition(".")
    block = _get(config, outer, {}) if outer else config
    return block.pop(name, None)
