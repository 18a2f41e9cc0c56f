"""Texts in a folder per class."""

from pathlib import Path


def class_folders(folder: Path) -> dict[str, list[Path]] | None:
    """The files of each class, or None."""
    return None
