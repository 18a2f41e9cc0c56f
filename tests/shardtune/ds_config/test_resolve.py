"""What a ds_config may set beside a recipe, and what DeepSpeed is given in the end."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.ds_config.keys import (
    BLOCKS,
    CHOICES,
    ENGINE_KNOBS,
    IGNORED,
    OWNED_BY_RECIPE,
    REFUSED,
    REMOVED_FROM_DEEPSPEED,
)
from shardtune.ds_config.resolve import adds_up_in_fp32, load_ds_config, resolve_ds_config, zero_stage
from shardtune.errors import ConfigError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import strategies

FROM_TRANSFORMERS: dict[str, Any] = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {
            "warmup_min_lr": "auto",
            "warmup_max_lr": "auto",
            "warmup_num_steps": "auto",
            "total_num_steps": "auto",
        },
    },
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "overlap_comm": True,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": True,
}
"""The ZeRO-3 example of transformers' documentation."""


def recipe(*overrides: str) -> Recipe:
    text = "task: {kind: classification}\nmodel: {path: org/name}\ndata: {train: train.jsonl}\n"
    text += "engine: {precision: bf16}\n"
    return parse_recipe(text, ["engine.deepspeed=my.json", *overrides])


def faults_of(base: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        resolve_ds_config(base, recipe(*overrides), hidden_size=8)
    return str(error.value).splitlines()


def test_a_ds_config_written_for_transformers_is_accepted_as_it_is() -> None:
    resolved = resolve_ds_config(FROM_TRANSFORMERS, recipe("optim.max_grad_norm=0.5"), hidden_size=100)
    assert resolved == {
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
            "overlap_comm": True,
            "reduce_bucket_size": 10_000,
            "stage3_prefetch_bucket_size": 9_000,
            "stage3_param_persistence_threshold": 1_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "data_types": {"grad_accum_dtype": "fp32"},
        "bf16": {"enabled": True},
        "fp16": {"enabled": False, "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16},
        "gradient_clipping": 0.5,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": True,
    }


def test_sizes_that_depend_on_an_unknown_hidden_size_are_left_to_deepspeed() -> None:
    zero = resolve_ds_config(FROM_TRANSFORMERS, recipe(), hidden_size=None)["zero_optimization"]
    assert set(zero) == {"stage", "offload_optimizer", "overlap_comm", "stage3_gather_16bit_weights_on_model_save"}


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_the_recipe_decides_the_precision(precision: str) -> None:
    resolved = resolve_ds_config({}, recipe(f"engine.precision={precision}"), hidden_size=None)
    assert [key for key in ("bf16", "fp16") if resolved[key]["enabled"]] == [precision] * (precision != "fp32")


def test_a_precision_that_the_ranks_have_yet_to_agree_on_stays_auto() -> None:
    resolved = resolve_ds_config({}, recipe("engine.precision=auto"), hidden_size=None)
    assert (resolved["bf16"]["enabled"], resolved["fp16"]["enabled"]) == ("auto", "auto")


def test_deepspeed_is_told_not_to_clip_because_it_clips_at_1_by_default() -> None:
    assert resolve_ds_config({}, recipe("optim.max_grad_norm=0"), hidden_size=None)["gradient_clipping"] == 0


@pytest.mark.parametrize("given", [None, "auto", "bf16", "float32"])
def test_micro_batches_are_added_up_in_fp32_unless_the_ds_config_says_otherwise(given: str | None) -> None:
    resolved = resolve_ds_config({"data_types": {"grad_accum_dtype": given}}, recipe(), hidden_size=None)
    assert adds_up_in_fp32(resolved) == (given != "bf16")
    assert adds_up_in_fp32(resolve_ds_config({}, recipe(), hidden_size=None))


def test_resolving_leaves_the_base_as_it_was() -> None:
    base = copy.deepcopy(FROM_TRANSFORMERS)
    resolve_ds_config(base, recipe(), hidden_size=8)
    assert base == FROM_TRANSFORMERS


def test_all_faults_are_reported_at_once_with_the_file() -> None:
    base = {
        "train_batch_size": 16,
        "gradient_clipping": 0.5,
        "fp16": {"enabled": True},
        "amp": {"enabled": True},
        "zero_optimisation": {"stage": 2},
        "zero_optimization": {"stage": 2, "overlap_com": True, "sub_group_size": "auto", "mics_shard_size": 8},
        "tensor_parallel": {"autotp_size": 2},
        "data_types": {"keep_in_fp32_modules": "auto"},
        "checkpoint": {"load_universal": True},
    }
    assert sorted(faults_of(base)) == [
        "my.json: amp: no longer exists in DeepSpeed; remove it",
        "my.json: checkpoint.load_universal: shardtune saves and loads checkpoints itself (checkpoint.*); "
        "remove it here",
        "my.json: fp16.enabled: is true, but engine.precision is bf16 in the recipe; set engine.precision=auto, "
        'or write "auto" here',
        "my.json: gradient_clipping: is 0.5, but optim.max_grad_norm is 1.0 in the recipe; make them equal, "
        'or write "auto" here',
        "my.json: tensor_parallel: shardtune is data parallel only: every rank reads different rows; "
        "remove it here",
        "my.json: train_batch_size: is 16, but train.global_batch_size is 32 in the recipe; make them equal, "
        'or write "auto" here',
        "my.json: zero_optimisation: unknown key; did you mean 'zero_optimization'?",
        'my.json: zero_optimization.mics_shard_size: DeepSpeed has removed MiCS; zero_hpz_partition_size: "auto" '
        "(engine.deepspeed: zero3_hpz) also gathers weights within a machine, all but once a step; remove it",
        "my.json: zero_optimization.overlap_com: unknown key; did you mean 'overlap_comm'?",
    ]  # fmt: skip


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_a_value_for_a_key_that_the_ds_config_may_not_set_is_refused(key: str) -> None:
    outer, _, name = key.rpartition(".")
    assert [line.split(": ")[1] for line in faults_of({outer: {name: "x"}} if outer else {name: "x"})] == [key]


@pytest.mark.parametrize(
    ("optimizer", "taken"),
    [
        ({"type": "AdamW", "params": {"lr": "auto"}}, True),
        ({"type": "adam"}, True),
        ({"type": "AdamW", "params": {"lr": 5e-5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}}, True),
        ({"type": "Adam", "params": {"lr": "auto", "torch_adam": True, "adam_w_mode": True}}, True),
        ({"type": "Lamb", "params": {"lr": "auto"}}, False),
        ({"params": {"lr": "auto"}}, False),
        ({"type": "AdamW", "params": [1]}, False),
    ],
)
def test_an_optimizer_is_accepted_only_if_it_is_that_of_the_recipe(optimizer: dict[str, Any], taken: bool) -> None:
    if taken:
        assert "optimizer" not in resolve_ds_config({"optimizer": optimizer}, recipe(), hidden_size=None)
    else:
        (line,) = faults_of({"optimizer": optimizer})
        assert line.startswith("my.json: optimizer: is set by optim.* in the recipe")


@pytest.mark.parametrize(
    ("kind", "schedule", "fault"),
    [
        ("WarmupDecayLR", "linear", None),
        ("WarmupLR", "constant", None),
        ("WarmupCosineLR", "cosine", None),
        (
            "WarmupLR",
            "linear",
            "WarmupLR means schedule constant, but optim.schedule is linear; set optim.schedule=",
        ),
        ("OneCycle", "linear", "is set by optim.schedule in the recipe; remove it here"),
    ],
)
def test_a_scheduler_is_accepted_only_if_it_is_that_of_the_recipe(kind: str, schedule: str, fault: str | None) -> None:
    base = {"scheduler": {"type": kind, "params": {"warmup_num_steps": "auto"}}}
    if fault is None:
        assert "scheduler" not in resolve_ds_config(base, recipe(f"optim.schedule={schedule}"), hidden_size=None)
    else:
        (line,) = faults_of(base, f"optim.schedule={schedule}")
        assert line.startswith(f"my.json: scheduler: {fault}")


@pytest.mark.parametrize(
    ("given", "ours", "resolved"),
    [
        (None, "auto", None),
        ("auto", "auto", None),
        ("fp32", "auto", "fp32"),
        (None, "fp32", "fp32"),
        ("auto", "bf16", "bf16"),
        ("BF16", "bf16", "bf16"),
    ],
)
def test_gradients_are_exchanged_in_the_precision_of_the_recipe_or_else_of_the_ds_config(
    given: str | None, ours: str, resolved: str | None
) -> None:
    base = {"communication_data_type": given}
    config = resolve_ds_config(base, recipe(f"engine.communication_data_type={ours}"), hidden_size=None)
    assert config.get("communication_data_type") == resolved


def test_a_precision_of_the_exchange_that_contradicts_the_recipe_is_refused() -> None:
    assert faults_of({"communication_data_type": "fp32"}, "engine.communication_data_type=bf16") == [
        'my.json: communication_data_type: is "fp32", but engine.communication_data_type is "bf16" in the recipe; make '
        'them equal, or write "auto" here'
    ]


@pytest.mark.parametrize("stage", [4, -1, "2", True, None, "auto"])
def test_a_stage_is_0_1_2_or_3(stage: Any) -> None:
    assert faults_of({"zero_optimization": {"stage": stage}})[0].startswith(
        "my.json: zero_optimization.stage: expected 0"
    )


@pytest.mark.parametrize(("block", "stage"), [("offload_param", 2), ("offload_optimizer", 0)])
def test_offloading_that_the_stage_would_ignore_is_refused(block: str, stage: int) -> None:
    (line,) = faults_of({"zero_optimization": {"stage": stage, block: {"device": "cpu"}}})
    assert f"zero_optimization.{block}: needs stage" in line


@pytest.mark.parametrize("block", ["offload_param", "offload_optimizer"])
def test_what_checkpoints_cannot_include_is_refused(block: str) -> None:
    (line,) = faults_of({"zero_optimization": {"stage": 3, block: {"device": "nvme"}}})
    assert f"zero_optimization.{block}.device: checkpoints cannot include what is on nvme; write cpu" in line


@pytest.mark.parametrize("block", ["compile", "fp16", "optimizer", "zero_optimization.offload_param"])
def test_a_block_is_an_object(block: str) -> None:
    outer, _, name = block.rpartition(".")
    assert faults_of({outer: {name: True}} if outer else {name: True}) == [
        f"my.json: {block}: expected an object, got true"
    ]


BLOCK_KEYS = "stage device type params enabled offload_param offload_optimizer reduce_bucket_size keep_in_fp32_modules"
ANY_KEY = sorted({*ENGINE_KNOBS, *REFUSED, *OWNED_BY_RECIPE, *BLOCK_KEYS.split(), "optimizer", "scheduler"})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["auto", "cpu", "AdamW", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(ANY_KEY), inner, max_size=4),
    max_leaves=8,
)


@given(base=st.dictionaries(st.sampled_from(sorted({*ENGINE_KNOBS, *BLOCKS, "optimizer", "scheduler", "x"})), JSON))
def test_no_json_object_ends_in_anything_but_a_ds_config_or_a_config_error(base: dict[str, Any]) -> None:
    try:
        resolved = resolve_ds_config(base, recipe(), hidden_size=8)
    except ConfigError:
        return
    assert zero_stage(resolved) in (0, 1, 2, 3)
    json.dumps(resolved)


@pytest.mark.parametrize("name", strategies())
def test_every_strategy_is_engine_knobs_only_and_resolves(name: str) -> None:
    base = load_ds_config(name)
    assert set(base) <= ENGINE_KNOBS
    resolved = resolve_ds_config(base, recipe(f"engine.deepspeed={name}", "engine.precision=auto"), hidden_size=768)
    assert zero_stage(resolved) == zero_stage(base) == int(name[4])
    assert ("offload" in name) == ("offload_optimizer" in base["zero_optimization"])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{\n  "a": 1,\n}', ":3: not JSON: "),
        (
            '{\n  // a\n  "a": 1}',
            ":2: not JSON: Expecting property name enclosed in double quotes; JSON has no comments",
        ),
        ('{"a": 1, "a": 2}', ": a is given twice; keep one of them"),
        ('{"a": NaN}', ": NaN is not a JSON number"),
        ("[1]", ": expected a JSON object, got a list"),
        ("", ":1: not JSON: Expecting value"),
        ("[" * 100_000, ": "),
        (b"\xff", ": not UTF-8 text; save the file as UTF-8"),
        (None, ": No such file or directory"),
    ],
)
def test_a_file_without_a_json_object_is_reported_in_one_line(
    text: str | bytes | None, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "my.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_ds_config(str(path))
    assert str(error.value).startswith(f"{path}{what}")
    assert len(str(error.value).splitlines()) == 1


def test_an_unknown_strategy_is_reported_with_the_legal_ones() -> None:
    with pytest.raises(ConfigError, match="got 'zero9'; legal: zero0, zero1"):
        load_ds_config("zero9")


class Asked(dict[str, Any]):
    """A ds_config that records which of its top-level keys are read."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.keys_asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.keys_asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.keys_asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> "Asked":
        return self


@pytest.fixture(scope="module")
def deepspeed_config() -> Any:
    pytest.importorskip("deepspeed")
    from deepspeed.runtime import config

    return config


def test_deepspeed_reads_the_keys_that_we_call_legal_and_no_others(deepspeed_config: Any) -> None:
    asked = Asked({"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1})
    deepspeed_config.DeepSpeedConfig(asked)
    removed = {key for key in REMOVED_FROM_DEEPSPEED if "." not in key}
    ours = (*ENGINE_KNOBS, *OWNED_BY_RECIPE, *REFUSED, *IGNORED)
    top_level = {key for key in ours if "." not in key} | {"optimizer", "scheduler", "bfloat16"}
    read_by_initialize = {"data_parallel_size", "sequence_parallel_size"}
    of_other_tools = {"comms_config", "monitor_config"}
    assert asked.keys_asked - removed == top_level - read_by_initialize - of_other_tools


def test_deepspeed_has_removed_the_keys_that_we_list_as_removed(deepspeed_config: Any) -> None:
    zero = {f"zero_optimization.{key}" for key in deepspeed_config._REMOVED_ZERO_CONFIG_KEYS}
    assert set(deepspeed_config._REMOVED_TOP_LEVEL_CONFIG_KEYS) | zero == REMOVED_FROM_DEEPSPEED


def test_the_keys_of_the_blocks_are_deepspeeds(deepspeed_config: Any) -> None:
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    for block, model in {
        "zero_optimization": DeepSpeedZeroConfig,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
        "compile": CompileConfig,
        "comms_logger": CommsLoggerConfig,
    }.items():
        assert BLOCKS[block] == {field.alias or name for name, field in model.model_fields.items()}, block


def test_the_choices_are_deepspeeds(deepspeed_config: Any) -> None:
    from deepspeed.utils.logging import log_levels

    assert set(CHOICES["log_level"]) == set(log_levels)
    for key in ("communication_data_type", "seq_parallel_communication_data_type"):
        assert all(deepspeed_config.get_communication_data_type({key: name}, key) for name in CHOICES[key])
    for key in ("data_types.buffer_dtype", "data_types.grad_accum_dtype"):
        assert all(deepspeed_config.DtypeEnum(name) for name in CHOICES[key])
    modes = CHOICES["checkpoint.tag_validation"]
    assert all(deepspeed_config.get_checkpoint_tag_validation_mode({"tag_validation": mode}) for mode in modes)


@pytest.mark.parametrize("name", strategies())
def test_deepspeed_accepts_every_resolved_strategy(name: str, deepspeed_config: Any) -> None:
    precision = "fp16" if name == "zero3_zeropp" else "bf16"
    ours = recipe(f"engine.deepspeed={name}", f"engine.precision={precision}", "optim.max_grad_norm=0.5")
    parsed = deepspeed_config.DeepSpeedConfig(resolve_ds_config(load_ds_config(name), ours, hidden_size=64))
    assert parsed.zero_optimization_stage == int(name[4])
    assert parsed.gradient_clipping == 0.5
    assert (parsed.bfloat16_config.enabled, parsed.float16_config.enabled) == (precision == "bf16", precision == "fp16")
