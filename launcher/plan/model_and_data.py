"""What a forecast needs to know of the model and the data: their sizes, without weights, tokenizer or torch."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shardtune.ds_config.resolve import open_precisions
from shardtune.errors import ConfigError, DataError
from shardtune.known_machine.prepared_data import token_counts
from shardtune.machine.cpu_units import has_bf16_units
from shardtune.planner.forecast.of_recipe import DataSize
from shardtune.planner.model_shape import ModelShape, shape_of_config, shape_of_sizes
from shardtune.recipe.schema import Recipe
from shardtune.rows.source_files import find_files, is_hub
from shardtune.run_dir.files import METRICS

LINES = (".jsonl", ".csv", ".tsv", ".txt")
"""Files with a row on each line, which a sample of their lines is enough to count."""
SAMPLE_BYTES = 2**20
MOST_SAMPLED = 16
"""Files of a source whose lines are counted: a run says its plan before it starts, and must not wait for that."""
BYTES_PER_TOKEN = 4.0
"""Of English text in UTF-8, with a vocabulary of 30 thousand tokens or more; other languages have fewer."""
SIZES = ("params", "layers", "hidden", "heads", "kv_heads", "vocabulary")


def model_shape(recipe: Recipe, sizes: dict[str, str | None], *, fetches: bool = True) -> ModelShape:
    """The shape of the recipe's model, or of the sizes given; `fetches` is as for read_config. Raises ConfigError if it
    cannot be found out."""
    given = {name: value for name, value in sizes.items() if value is not None}
    if given:
        return _shape_given(given)
    num_labels = 2 if recipe.task.has_labels else None
    return shape_of_config(
        read_config(recipe, fetches=fetches), num_labels=num_labels, name=Path(recipe.model.path).name
    )


def _shape_given(given: dict[str, str]) -> ModelShape:
    if "params" not in given or "layers" not in given:
        raise ConfigError("shardtune: plan: the sizes of a model need --params and --layers, such as --params=7B")
    whole = {name: int(value) for name, value in given.items() if name != "params"}
    return shape_of_sizes(
        number_of(given["params"], "--params"),
        whole["layers"],
        hidden=whole.get("hidden"),
        num_heads=whole.get("heads"),
        num_kv_heads=whole.get("kv_heads"),
        **({"vocabulary": whole["vocabulary"]} if "vocabulary" in whole else {}),
    )


def number_of(text: str, flag: str) -> float:
    """`7B` -> 7e9. Raises ConfigError for anything but a number above 0 with an optional K, M, B or T."""
    match = re.fullmatch(r"([\d_,]*\.?\d+)([kKmMbBgGtT]?)", text.strip())
    number = float(re.sub("[_,]", "", match[1])) * _UNITS[match[2].lower()] if match else 0.0
    if number <= 0:
        raise ConfigError(f"shardtune: {flag} takes a number above 0, such as 7B or 350M, got {text!r}")
    return number


_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def read_config(recipe: Recipe, *, fetches: bool = True) -> dict[str, Any]:
    """The config.json of the recipe's model, in a local folder or fetched from the hub; without `fetches` only from the
    hub's cache. Raises ConfigError."""
    path = Path(recipe.model.path)
    file = path / "config.json" if path.is_dir() else _fetched(recipe) if fetches else _cached(recipe)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise ConfigError(f"model.path: {file} cannot be read: {what}; or give --params and --layers") from None
    if not isinstance(config, dict):
        raise ConfigError(f"model.path: {file} is not a JSON object; or give --params and --layers")
    return config


def _cached(recipe: Recipe) -> Path:
    """The config.json of a hub id in the hub's cache. Raises ConfigError if it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(recipe.model.path, "config.json", revision=recipe.model.revision)
    except HFValidationError:  # a local folder that is not there: the run itself says so
        path = None
    if not isinstance(path, str):
        raise ConfigError(f"model.path: the config.json of {recipe.model.path!r} is not on this machine yet")
    return Path(path)


def _fetched(recipe: Recipe) -> Path:
    """The config.json of a hub id in the hub's cache, where it is put first. Raises ConfigError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from shardtune.rows.hub_access import hub_fault

    fault = hub_fault()
    try:
        return Path(hf_hub_download(recipe.model.path, "config.json", revision=recipe.model.revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        what = fault or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model.path: no config.json of {recipe.model.path!r} ({what}); give --params and --layers, such as "
            "--params=7B --layers=32"
        ) from None


def data_size(recipe: Recipe, run_dir: Path, rows: str | None, tokens: str | None) -> DataSize:
    """Rows of an epoch and their length: as given; as in the prepared data of the recipe, if they are in the cache; as
    an earlier start of the run found them; or else estimated from the files of data.train, as far as those are on this
    machine and have a row on each line. Raises ConfigError for what is no number."""
    found = _prepared(recipe) or _of_earlier_start(run_dir) or _estimated(recipe)
    if rows or tokens:
        found = replace(found, is_prepared=False, attended=None, useful=None)
    num_rows = number_of(rows, "--rows") if rows else found.num_rows
    if tokens is None:
        return replace(found, num_rows=num_rows)
    if num_rows is None:
        raise ConfigError("shardtune: --tokens are those of all training rows, whose number is not known; give --rows")
    mean = number_of(tokens, "--tokens") / num_rows
    return replace(found, num_rows=num_rows, tokens_per_row=mean, is_estimated=rows is None)


def _prepared(recipe: Recipe) -> DataSize | None:
    """The exact numbers of the prepared data; None if they are not in the cache."""
    if (counts := token_counts(recipe)) is None or not counts.num_rows:
        return None
    return DataSize(
        float(counts.num_rows),
        counts.tokens / counts.num_rows,
        is_prepared=True,
        attended=counts.attended,
        useful=None if recipe.task.can_pack and recipe.data.packing != "off" else counts.useful,
        dev_tokens=float(counts.dev_tokens),
        test_tokens=float(counts.test_tokens),
    )


def _of_earlier_start(run_dir: Path) -> DataSize | None:
    """What the newest start of this run has prepared; None if there was none."""
    path = run_dir / METRICS
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    # Of a long run's many events only those that may be a start are parsed.
    for event in (json.loads(line) for line in reversed(lines) if b'"start"' in line):
        if event.get("event") != "start":
            continue
        splits = event.get("data", {})
        if (train := splits.get("train")) and train["rows"]:
            dev, test = (float(splits.get(name, {}).get("tokens", 0)) for name in ("dev", "test"))
            return DataSize(train["rows"], train["tokens"] / train["rows"], dev_tokens=dev, test_tokens=test)
    return None


def _estimated(recipe: Recipe) -> DataSize:
    train = _sampled(recipe, "train")
    return replace(
        train, dev_tokens=_held_out_tokens(recipe, "dev", train), test_tokens=_held_out_tokens(recipe, "test", train)
    )


def _held_out_tokens(recipe: Recipe, split: str, train: DataSize) -> float:
    """Tokens of dev or test, as far as they can be estimated; 0 without it."""
    if (share := recipe.data.share(split)) is not None:
        return share.fraction * (train.num_rows or 0.0) * (train.tokens_per_row or 0.0)
    found = _sampled(recipe, split)
    return (found.num_rows or 0.0) * (found.tokens_per_row or 0.0)


def _sampled(recipe: Recipe, split: str) -> DataSize:
    """The rows of a split, and their length, by a sample of its files."""
    rows = size = 0.0
    for source in recipe.data.sources(split):
        try:
            files = [] if is_hub(source.path) else find_files(source.path)
            if not files or any(file.suffix not in LINES for file in files):
                return DataSize()
            lines, num_bytes = _lines_of_all(files)
        except (DataError, OSError):
            return DataSize()
        rows, size = rows + lines * source.weight, size + num_bytes * source.weight
    if not rows:
        return DataSize()
    return DataSize(rows, max(1.0, size / rows / BYTES_PER_TOKEN), is_estimated=True)


def _lines_of_all(files: Sequence[Path]) -> tuple[float, float]:
    """Number of lines of these files together, from at most MOST_SAMPLED of them, and their bytes. Raises OSError."""
    sampled = [_lines_of(file) for file in files[:: math.ceil(len(files) / MOST_SAMPLED)]]
    looked_at = sum(num_bytes for _, num_bytes in sampled)
    size = float(sum(file.stat().st_size for file in files))
    return (sum(lines for lines, _ in sampled) * size / looked_at if looked_at else 0.0), size


def _lines_of(file: Path) -> tuple[float, float]:
    """Number of lines of a file, from its first megabyte, and its bytes."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        sample = stream.read(SAMPLE_BYTES)
    whole = sample if len(sample) == size else sample[: sample.rfind(b"\n") + 1] or sample
    lines = sum(bool(line.strip()) for line in whole.split(b"\n"))
    return (lines * size / len(whole) if whole else 0.0), float(size)


def precision_on_cpus(recipe: Recipe) -> str:
    """The precision in which the processors of machines like this one will compute."""
    left = open_precisions(recipe)
    if len(left) == 1:
        return left[0]
    return "bf16" if "bf16" in left and has_bf16_units() else "fp32"
