"""What a path in a recipe stands for: a file, the files of a folder or glob, or a data set of the `datasets` library.

Only names are read here, not contents.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from glob import escape, glob, has_magic
from itertools import islice
from pathlib import Path

from shardtune.errors import DataError
from shardtune.rows.class_folders import class_folders, unlabeled_folders
from shardtune.rows.formats import ENDINGS, LEGAL_FORMATS, format_of
from shardtune.rows.input_file import COMPRESSIONS, ReadOptions, ending_of
from shardtune.rows.readers.parallel_text import sides_of

HUB = "hf:"
_LEGAL = f"{', '.join(ENDINGS)}, each also compressed ({', '.join(COMPRESSIONS)})"


class FindError(DataError):
    """A path that stands for no rows."""

    def __init__(self, where: str | Path, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


def is_hub(path: str) -> bool:
    """Whether the path is `hf:owner/name`, or `hf:` and the folder of a repository."""
    return path.startswith(HUB)


def is_saved_dataset(path: str) -> bool:
    """Whether the folder was written by `datasets.save_to_disk`."""
    folder = Path(path)
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def is_dataset(path: str) -> bool:
    """Whether the `datasets` library loads the path."""
    return is_hub(path) or is_saved_dataset(path)


def is_glob(path: str, folder: Path = Path()) -> bool:
    """Whether the path, relative to the folder, is a glob; not if a file or folder has exactly that name."""
    try:
        return has_magic(path) and not (folder / path).exists()
    except OSError:  # the name is too long
        return True


def escaped(folder: Path) -> str:
    """The folder's path, escaped for use at the start of a glob."""
    return escape(str(folder))


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source, and how they are read."""

    files: list[Path]
    options: ReadOptions
    labels: Mapping[Path, str] = field(default_factory=dict)
    """The label of each file's only row, if the files are in a folder per class."""
    unlabeled: tuple[str, ...] = ()
    """The names of the folders beside those that are no class, and are not read."""


def find_source(path: str, options: ReadOptions) -> SourceFiles:
    """The files that the path stands for, or the texts of its folders, one folder per class. Raises FindError."""
    may_be_classes = options.text_files == "classes" and options.format in (None, "text") and Path(path).is_dir()
    if may_be_classes and (classes := class_folders(Path(path))):
        labels = {file: label for label, files in classes.items() for file in files}
        text_files = replace(options, format="text", text_unit="file")
        return SourceFiles(sorted(labels), text_files, labels, tuple(unlabeled_folders(Path(path))))
    return SourceFiles(find_files(path, options), options)


def find_files(path: str, options: ReadOptions | None = None) -> list[Path]:
    """Return the files of rows that the path stands for, sorted; all of one format.

    Raises FindError if there is none, if the format of one is unknown, or if there are several formats.
    """
    options = options or ReadOptions()
    by_format: dict[str, list[Path]] = {}
    try:
        files = _files(path, options)
        for file in files:
            name = "a pair of text files" if sides_of(file) else format_of(file, options)
            if name is None:
                ending = ending_of(file) or "(no suffix)"
                raise FindError(file, f"unknown format {ending!r}; legal: {_LEGAL}. Or {LEGAL_FORMATS}")
            by_format.setdefault(name, []).append(file)
    except OSError as error:
        raise FindError(path, f"cannot be read ({error.strerror or error})") from error
    if len(by_format) > 1:
        found = "; ".join(f"{name}: {_listed(group)}" for name, group in by_format.items())
        raise FindError(path, f"files of several formats ({found}); use a glob such as {_example(path, files)}")
    return files


def files_in_words(found: SourceFiles) -> str | None:
    """How many files a source has, and the first ones or its classes; None if there is only one file."""
    files = found.files
    if found.labels:
        counts = Counter(found.labels.values())
        classes = ", ".join(f"{label} ({count:,})" for label, count in islice(counts.items(), 10))
        more = f" and {len(counts) - 10:,} more" if len(counts) > 10 else ""
        aside = f"; not read: {', '.join(found.unlabeled)}" if found.unlabeled else ""
        return f"{len(files):,} texts in a folder per class, which is their label: {classes}{more}{aside}"
    if len(files) < 2:
        return None
    more = f" and {len(files) - 3:,} more" if len(files) > 3 else ""
    return f"{len(files):,} files: {', '.join(path.name for path in files[:3])}{more}"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the file, or of both files of a pair. Raises DataError if it cannot be read."""
    if sides := sides_of(path):
        return ":".join(file_digest(side) for side in sides.values())
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _files(path: str, options: ReadOptions) -> list[Path]:
    if is_glob(path):
        matches = [Path(match) for match in sorted(glob(path, recursive=True))]  # noqa: PTH207  the path is absolute
        files = [file for match in matches for file in (_files_below(match, options) if match.is_dir() else [match])]
        if not files:
            raise FindError(path, f"no file matches; {_neighbours(Path(path).parent)}")
    elif Path(path).is_dir():
        files = _files_below(Path(path), options)
        if not files:
            raise FindError(path, f"no file of a supported format in the folder; legal: {_LEGAL}")
    elif Path(path).is_file():
        files = [Path(path)]
    elif sides := sides_of(Path(path)):
        missing = [side for side in sides.values() if not side.is_file()]
        if missing:
            listed = " and ".join(map(str, missing))
            raise FindError(path, f"no such file: {listed} (braces stand for a pair of files)")
        return [Path(path)]
    else:
        raise FindError(path, "no such file")
    return list(dict.fromkeys(files))


def _files_below(folder: Path, options: ReadOptions) -> list[Path]:
    """The files of known formats, at any depth, except hidden ones (.name) and markers (_SUCCESS).

    If the options name a format, all files are of it.
    """
    files = []
    for path in folder.rglob("*"):
        is_hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        is_known = options.format is not None or ending_of(path) in ENDINGS
        if not is_hidden and is_known and path.is_file():
            files.append(path)
    return sorted(files)


def _neighbours(folder: Path) -> str:
    if has_magic(str(folder)) or not folder.is_dir():
        return f"does the folder {folder} exist?"
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"the folder {folder} contains {', '.join(names[:5])}{more}" if names else f"the folder {folder} is empty"


def _listed(files: Iterable[Path]) -> str:
    first, *others = (file.name for file in files)
    return f"{first}{f' and {len(others)} more' if others else ''}"


def _example(path: str, files: list[Path]) -> str:
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return f"{folder}/*{''.join(files[0].suffixes[-2:]) if files[0].suffix in COMPRESSIONS else files[0].suffix}"
