"""DeepSpeed JSONs made for other tools run as they are, or are refused for what they would change."""

import json
from pathlib import Path
from typing import Any

import pytest

from shardtune.ds_config.keys import BLOCKS, DONE_ANYWAY, IGNORED, REFUSED, REMOVED_FROM_DEEPSPEED, RENAMED
from shardtune.ds_config.resolve import ds_config_notice, load_ds_config, open_precisions, resolve_ds_config, stage_of
from shardtune.errors import ConfigError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import strategies

TEXT = "task: {kind: classification}\nmodel: {path: org/name}\ndata: {train: train.jsonl}\n"


def recipe(path: Path | str, *overrides: str) -> Recipe:
    return parse_recipe(TEXT, [f"engine.deepspeed={path}", *overrides])


def resolved(base: dict[str, Any], *overrides: str) -> dict[str, Any]:
    return resolve_ds_config(base, recipe("my.json", *overrides), hidden_size=8)


def fault_of(base: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        resolved(base, *overrides)
    (line,) = str(error.value).splitlines()
    return line.removeprefix("my.json: ")


def notice_of(base: dict[str, Any], folder: Path, *overrides: str) -> str | None:
    path = folder / "my.json"
    path.write_text(json.dumps(base))
    notice = ds_config_notice(recipe(path, *overrides))
    return notice and notice.removeprefix(f"{path}: ")


NOTHING = resolved({})


@pytest.mark.parametrize(
    "base",
    [
        {"_comment": "for 8 GPUs", "//": "x", "zero_optimization": {"comment": "fast"}},
        {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": True, "steps_per_print": 10},
        {"wandb": {"enabled": True}, "tensorboard": {"enabled": True}, "csv_monitor": {}, "comet": {}},
        {"monitor_config": {"enabled": True}, "comms_config": {"verbose": False}},
        {"amp": {"enabled": "auto", "opt_level": "auto"}, "elasticity": {"enabled": False}, "sparse_gradients": False},
        {"activation_checkpointing": {"partition_activations": False, "number_checkpoints": None}},
        {"gradient_allreduce_op": "mean", "sequence_parallel_size": 1, "tensor_parallel": {"autotp_size": 0}},
        {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": 1},
        {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2},
        {"gradient_clipping": 1.0, "zero_optimization": {"overlap_comm": "auto", "mics_shard_size": -1}},
        {"wall_clock_breakdown": None, "gradient_predivide_factor": None, "communication_data_type": "auto"},
        {"bf16": {"check_grad_overflow": True}, "fp16": {"fp16_master_weights_and_grads": False}},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_ignored(base: dict[str, Any]) -> None:
    assert resolved(base) == NOTHING


def test_one_notice_lists_what_was_ignored_renamed_and_adopted(tmp_path: Path) -> None:
    base = {
        "_comment": "for 8 GPUs",
        "bf16": {"enabled": True},
        "steps_per_print": 10,
        "wandb": {"enabled": True},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 3, "max_live_parameters": 0, "overlap_comm": "auto"},
    }
    assert notice_of(base, tmp_path) == (
        "engine.precision: auto is bf16 by its bf16.enabled and fp16.enabled; renamed max_live_parameters to "
        'stage3_max_live_parameters; left to DeepSpeed zero_optimization.overlap_comm ("auto"); ignored '
        "steps_per_print, wandb (metrics go to metrics.jsonl, report.wandb and report.also); ignored "
        "zero_allow_untested_optimizer (the optimizer is always torch's AdamW); ignored _comment (a comment)"
    )
    assert notice_of({"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}, tmp_path) is None
    compiled = {"compile": {"backend": "inductor", "deepcompile": True, "double_buffer": False}}
    assert (
        notice_of(compiled, tmp_path)
        == "ignored compile.backend, compile.deepcompile (engine.compile sets what is compiled)"
    )


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_renamed(old: str, new: str) -> None:
    def block(key: str) -> dict[str, Any]:
        outer, _, name = key.rpartition(".")
        return {outer: {"stage": 3, name: True}} if outer else {name: {"immediate_grad_update": True}}

    assert resolved(block(old)) == resolved(block(new)) != NOTHING


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"stage": 2, "cpu_offload": True}, {"stage": 2, "offload_optimizer": {"device": "cpu"}}),
        ({"stage": 2, "cpu_offload": False}, {"stage": 2}),
        (
            {"stage": 3, "cpu_offload_params": True, "cpu_offload_use_pin_memory": False},
            {"stage": 3, "offload_param": {"device": "cpu", "pin_memory": False}},
        ),
        (True, {"stage": 1}),
    ],
)
def test_an_old_form_of_offloading_becomes_a_block(old: Any, new: dict[str, Any]) -> None:
    assert resolved({"zero_optimization": old}) == resolved({"zero_optimization": new})


def test_an_old_name_beside_the_new_one_is_refused() -> None:
    zero = {"stage": 3, "max_live_parameters": 0, "stage3_max_live_parameters": 1}
    assert fault_of({"zero_optimization": zero}) == (
        "zero_optimization.max_live_parameters: is the old name of zero_optimization.stage3_max_live_parameters, "
        "which is set too; keep one of them"
    )
    assert resolved({"zero_optimization": zero | {"max_live_parameters": 1}})
    assert "cpu_offload: is the old form of offload_optimizer" in fault_of(
        {"zero_optimization": {"stage": 2, "cpu_offload": True, "offload_optimizer": {"device": "cpu"}}}
    )


def enabled(bf16: Any = None, fp16: Any = None) -> dict[str, Any]:
    given = {"bf16": bf16, "fp16": fp16}
    return {name: {"enabled": value} for name, value in given.items() if value is not None}


@pytest.mark.parametrize(
    ("base", "left"),
    [
        (enabled(), ("bf16", "fp16", "fp32")),
        (enabled("auto", "auto"), ("bf16", "fp16", "fp32")),
        (enabled(bf16=True), ("bf16",)),
        (enabled(bf16="auto", fp16=True), ("fp16",)),
        (enabled(bf16="auto", fp16=False), ("bf16", "fp32")),
        (enabled(fp16=False), ("fp32",)),
        (enabled(False, False), ("fp32",)),
        ({"bfloat16": {"enabled": True}}, ("bf16",)),
    ],
)
def test_a_precision_that_the_file_names_is_what_auto_means(
    base: dict[str, Any], left: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "my.json").write_text(json.dumps(base))
    assert open_precisions(recipe(tmp_path / "my.json")) == left
    assert open_precisions(recipe(tmp_path / "my.json", "engine.precision=fp32")) == ("fp32",)
    found = resolved(base)
    chosen = {name: left == (name,) if len(left) == 1 else "auto" for name in ("bf16", "fp16")}
    assert {name: found[name]["enabled"] for name in chosen} == chosen


@pytest.mark.parametrize(
    ("base", "precision", "fault"),
    [
        (enabled(bf16=True), "fp32", "bf16.enabled: is true, but engine.precision is fp32 in the recipe"),
        (enabled(bf16=False), "bf16", "bf16.enabled: is false, but engine.precision is bf16 in the recipe"),
        (enabled(fp16=True), "bf16", "fp16.enabled: is true, but engine.precision is bf16 in the recipe"),
        (enabled(True, True), "auto", "bf16.enabled and fp16.enabled are both true; keep one of them"),
        (enabled(bf16="yes"), "auto", "bf16.enabled: expected true, false or \"auto\", got 'yes'"),
        (enabled(bf16=1), "auto", 'bf16.enabled: expected true, false or "auto", got 1'),
    ],
)
def test_a_precision_that_contradicts_is_refused_by_name(base: dict[str, Any], precision: str, fault: str) -> None:
    assert fault_of(base, f"engine.precision={precision}").startswith(fault)
    assert resolved(enabled("auto", False), "engine.precision=bf16")["bf16"]["enabled"] is True


@pytest.mark.parametrize(
    ("base", "fault"),
    [
        ({"train_batch_size": 64}, "train_batch_size: is 64, but train.global_batch_size is 32"),
        ({"train_batch_size": 0}, 'train_batch_size: expected a whole number above 0 or "auto", got 0'),
        ({"train_micro_batch_size_per_gpu": 4}, "train_micro_batch_size_per_gpu: the rows of a step are set by train."),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps: the rows of a step are set by train."),
        ({"gradient_clipping": 0.3}, "gradient_clipping: is 0.3, but optim.max_grad_norm is 1.0"),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}},
            "optimizer.params.lr: is 1e-05, but optim.lr is 5e-05",
        ),
        (
            {"optimizer": {"type": "AdamW", "params": {"betas": [0.8, 0.99]}}},
            "optimizer.params.betas: is [0.8, 0.99], but optim.betas is [0.9, 0.999] in the recipe; make them equal",
        ),
        (
            {"optimizer": {"type": "Adam", "params": {"bias_correction": False}}},
            "optimizer.params.bias_correction: is set by optim.* in the recipe, got false",
        ),
        (
            {"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 100}}},
            "scheduler.params.warmup_num_steps: is 100, but optim.warmup_steps is 0",
        ),
        (
            {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 100}}},
            "scheduler.params.total_num_steps: is 100, but train.max_steps is not set",
        ),
        (
            {"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_type": "log"}}},
            "scheduler.params.warmup_type: is set by optim.* in the recipe, got 'log'",
        ),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel: shardtune is data parallel only"),
        ({"elasticity": {"enabled": True}}, "elasticity: no longer exists in DeepSpeed"),
        ({"bf16": {"check_grad_overflow": False}}, "bf16.check_grad_overflow: steps with a non-finite gradient"),
        ({"compile": {"deepcompil": True}}, "compile.deepcompil: unknown key; did you mean 'deepcompile'?"),
        ({"wall_clock_breakdown": "yes"}, "wall_clock_breakdown: expected true or false, got 'yes'"),
        ({"gradient_predivide_factor": True}, "gradient_predivide_factor: expected a number, got true"),
        ({"communication_data_type": "fp7"}, "communication_data_type: got 'fp7'; legal: fp32, fp16, bf16"),
        ({"data_types": {"grad_accum_dtype": 8}}, "data_types.grad_accum_dtype: got 8; legal: fp32, fp16, bf16, "),
        ({"log_level": {}}, "log_level: got a mapping; legal: debug, info"),
        ({"flops_profiler": True}, "flops_profiler: expected an object, got true"),
        ({"cpu_offload": True}, "cpu_offload: unknown key"),
    ],
)
def test_what_would_change_what_is_learned_is_refused_by_name(base: dict[str, Any], fault: str) -> None:
    assert fault_of(base).startswith(fault)


def test_a_batch_in_targets_has_no_number_of_rows() -> None:
    fault = fault_of({"train_batch_size": 32}, "train.global_batch_tokens=4096")
    assert fault.startswith("train_batch_size: is 32, but train.global_batch_tokens is 4096 in the recipe")


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        (name, precision)
        for name in strategies()
        for precision in ("auto", *(("fp16",) if name == "zero3_zeropp" else ("bf16", "fp32")))
    ],
)
def test_what_a_run_writes_can_be_read_as_a_ds_config_again(name: str, precision: str, tmp_path: Path) -> None:
    ours = recipe(name, f"engine.precision={precision}", "optim.max_grad_norm=0.5")
    written = resolve_ds_config(load_ds_config(name), ours, hidden_size=64)
    (tmp_path / "deepspeed.json").write_text(json.dumps(written))
    again = recipe(tmp_path / "deepspeed.json", f"engine.precision={precision}", "optim.max_grad_norm=0.5")
    assert resolve_ds_config(load_ds_config(str(tmp_path / "deepspeed.json")), again, hidden_size=64) == written
    assert stage_of(again) == int(name[4])


def test_no_key_is_both_ignored_and_passed_on() -> None:
    inner = {f"{block}.{key}" for block, keys in BLOCKS.items() for key in keys}
    assert not IGNORED.keys() & inner
    assert set(RENAMED.values()) - {"bf16"} <= inner
    assert DONE_ANYWAY.keys() <= REFUSED.keys() | REMOVED_FROM_DEEPSPEED
