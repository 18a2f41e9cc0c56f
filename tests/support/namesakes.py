"""Files of a user's own that are called like modules which shardtune, torch or transformers import."""

from pathlib import Path

NAMES = ("trainer", "launcher", "random", "datasets", "torch")


def write_namesakes(folder: Path) -> None:
    """Writes trainer.py, random.py … and the package tests into a folder; each ends the process that imports it."""
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported the user\\'s own {name}')\n", encoding="utf-8")
    (folder / "tests").mkdir()
    (folder / "tests" / "__init__.py").write_text("raise SystemExit('imported the user\\'s own tests')\n")
