"""The ZeRO strategies that a recipe can name: the files in ds_configs/."""

from importlib.resources import files
from pathlib import Path

from shardtune.recipe.explain import shown

AUTO = "auto"
"""Stands for the fastest strategy that fits, which the launcher chooses (shardtune/planner/advice/choice.py)."""
FOLDER = Path(str(files("shardtune") / "ds_configs"))


def strategies() -> tuple[str, ...]:
    """The names that engine.deepspeed may have besides a path: the files in ds_configs/."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def is_path(name_or_path: str) -> bool:
    """Whether engine.deepspeed is a path rather than a strategy."""
    return name_or_path.endswith(".json") or "/" in name_or_path


def not_a_strategy(name: str) -> str:
    """The message for a name that is neither a strategy nor a path."""
    if name == AUTO:
        return (
            "auto is chosen by shardtune run, submit and sweep; started in another way, name a strategy: "
            f"{', '.join(strategies())} or null"
        )
    gone = "; DeepSpeed has removed MiCS, zero3_hpz is the nearest to it" if "mics" in name.lower() else ""
    return f"got {shown(name)}; legal: {', '.join(strategies())}, auto, the path of a DeepSpeed JSON, or null{gone}"
