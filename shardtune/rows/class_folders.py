"""Texts in a folder for each class, as aclImdb (train/pos/17.txt) and 20 newsgroups (sci.space/60191) come.

Only names are read here, not contents.
"""

import re
from pathlib import Path

from shardtune.errors import DataError
from shardtune.rows.formats import ENDINGS
from shardtune.rows.input_file import ending_of

_ENDINGS = frozenset({"", ".txt", ".text"})
_UNLABELED = frozenset({"unsup", "unlabeled", "unlabelled"})
_ASIDE = frozenset({"readme", "license", "licence", "copying", "notice", "authors", "citation", "changelog", "changes"})


def class_folders(folder: Path) -> dict[str, list[Path]] | None:
    """The text files of each class, by the name of its folder: classes sorted, files in the order of their numbers.

    None if that is not what the folder holds. Every file has to lie in a folder directly below it, which holds texts
    alone (.txt or no ending), and at least two of these folders have to be classes; `unlabeled_folders` are none. Not
    counted are hidden files, empty folders, and beside the folders files such as README, aclImdb's urls_pos.txt and
    those of no format of rows. Raises DataError if a folder cannot be read.
    """
    try:
        below = _visible(folder)
        folders = [path for path in below if path.is_dir()]
        if any(_has_rows(path, folders) for path in below if path not in folders):
            return None
        files = {path: _visible(path) for path in folders}
        if not all(_is_text(path) for texts in files.values() for path in texts):
            return None
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error
    classes = {
        path.name: sorted(texts, key=_order) for path, texts in files.items() if texts and not _is_unlabeled(path)
    }
    return classes if len(classes) > 1 else None


def unlabeled_folders(folder: Path) -> list[str]:
    """The names of the folders below this one that are no class: aclImdb's `unsup` and the like, whose texts nobody has
    labeled."""
    return [path.name for path in _visible(folder) if path.is_dir() and _is_unlabeled(path)]


def _visible(folder: Path) -> list[Path]:
    """What the folder holds, sorted, except hidden files (.name) and markers (_SUCCESS)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))


def _has_rows(file: Path, folders: list[Path]) -> bool:
    """Whether a file beside the folders may be one of rows."""
    name = file.name.split(".")[0].casefold()
    is_list_of_urls = name in {f"urls_{folder.name.casefold()}" for folder in folders}
    return name not in _ASIDE and not is_list_of_urls and ending_of(file) in ENDINGS


def _is_text(path: Path) -> bool:
    return path.is_file() and ending_of(path) in _ENDINGS


def _is_unlabeled(folder: Path) -> bool:
    return folder.name.casefold() in _UNLABELED


def _order(path: Path) -> list[tuple[int, str]]:
    """Sorts 9.txt before 10.txt."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", path.name)]
