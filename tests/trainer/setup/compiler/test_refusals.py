"""What cannot be compiled is said before anything else is done, in one line with the cure."""

from pathlib import Path

import pytest
import torch
import transformers

from shardtune.errors import ConfigError, LaunchError
from shardtune.trainer.setup.compiler.compile import parts_to_compile
from shardtune.trainer.setup.compiler.refusals import missing_compiler, refuse_no_compiler, refuse_uncompilable
from tests.support.runs import tiny_recipe


def test_zero3_has_no_weights_for_a_whole_forward_pass(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"full is not possible under ZeRO-3.*set engine\.compile=regional"):
        refuse_uncompilable(tiny_recipe(tmp_path, "engine.deepspeed=zero3", "engine.compile=full"))
    refuse_uncompilable(tiny_recipe(tmp_path, "engine.deepspeed=zero3", "engine.compile=regional"))
    refuse_uncompilable(tiny_recipe(tmp_path, "engine.deepspeed=null", "engine.compile=full"))


def test_a_machine_without_a_cpp_compiler_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config
    from torch._inductor.cpp_builder import cpp_compiler_search

    assert missing_compiler("cpu") is None
    cpp_compiler_search.cache_clear()
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    try:
        with pytest.raises(LaunchError, match=r"no C\+\+ compiler \(no-such-compiler\) .*, or set engine\.compile=off"):
            refuse_no_compiler(tiny_recipe(tmp_path, "engine.compile=regional", "job.device=cpu"))
        refuse_no_compiler(tiny_recipe(tmp_path, "job.device=cpu"))
    finally:
        cpp_compiler_search.cache_clear()


def test_on_a_gpu_triton_and_a_c_compiler_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"triton": object()}
    monkeypatch.setattr("shardtune.trainer.setup.compiler.refusals.find_spec", found.get)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert missing_compiler("cuda") == (
        "there is no C compiler on this machine, which Triton needs; install gcc, or set CC to one"
    )
    monkeypatch.setenv("CC", "/opt/cc")
    assert missing_compiler("cuda") is None
    found.clear()
    assert "pip install triton" in (missing_compiler("cuda") or "")


def test_what_draws_its_layers_anew_in_each_step_is_not_compiled_as_a_whole(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "vocab_size": 40}
    with torch.device("meta"):
        skipping = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes, encoder_layerdrop=0.5))
    with pytest.raises(ConfigError, match=r"LayerDrop.*regional, or model\.layerdrop=0"):
        parts_to_compile(tiny_recipe(tmp_path, "engine.compile=full"), skipping)
    assert len(parts_to_compile(tiny_recipe(tmp_path, "engine.compile=regional"), skipping)) == 3


def test_a_model_without_layers_is_compiled_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"no repeated layers were found in Linear; set engine\.compile=full or off"):
        parts_to_compile(tiny_recipe(tmp_path, "engine.compile=regional"), model)
    assert parts_to_compile(tiny_recipe(tmp_path, "engine.compile=full"), model) == (model,)
    assert parts_to_compile(tiny_recipe(tmp_path), model) == ()
