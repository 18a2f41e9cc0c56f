"""What cannot be compiled, said before data is prepared or a model loaded."""

import os
import shutil
from importlib.util import find_spec

from shardtune.ds_config.resolve import stage_of
from shardtune.errors import ConfigError, LaunchError
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import AUTO

C_COMPILERS = ("gcc", "clang")
"""The programs that Triton looks for, without CC."""


def refuse_uncompilable(recipe: Recipe) -> None:
    """Raises ConfigError if engine.compile contradicts another key."""
    if recipe.engine.compile == "full" and recipe.engine.deepspeed != AUTO and stage_of(recipe) == 3:
        raise ConfigError(
            "engine.compile: full is not possible under ZeRO-3, which gathers the weights of one layer after another; "
            "set engine.compile=regional, or engine.deepspeed=zero2"
        )


def refuse_no_compiler(recipe: Recipe) -> None:
    """Raises LaunchError if the model is to be compiled and this machine lacks a compiler for it."""
    if recipe.engine.compile == "off":
        return
    import torch

    device = "cuda" if recipe.job.device != "cpu" and torch.cuda.is_available() else "cpu"
    if (fault := missing_compiler(device)) is not None:
        raise LaunchError(f"engine.compile: {fault}, or set engine.compile=off")


def missing_compiler(device: str) -> str | None:
    """What torch.compile lacks on this machine for a device of this type, and how to get it; None if nothing."""
    if device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            name = os.environ.get("CXX", "g++")
            return f"there is no C++ compiler ({name}) on this machine; install g++, or set CXX to one"
        return None
    if find_spec("triton") is None:
        return "Triton is not installed, by which torch compiles for GPUs; pip install triton"
    if not os.environ.get("CC") and not any(map(shutil.which, C_COMPILERS)):
        return "there is no C compiler on this machine, which Triton needs; install gcc, or set CC to one"
    return None
