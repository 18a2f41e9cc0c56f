"""Whether a folder is a checkpoint, what is wrong with it if not, and which of several is the best."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.errors import CheckpointError
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, superseded
from shardtune.trainer.checkpoint.manifest import (
    MANIFEST,
    Checkpoint,
    FileRecord,
    Manifest,
    best_first,
    checkpoint_folders,
    complete_checkpoints,
    damage,
    open_checkpoint,
    parse_manifest,
    record_file,
    render_manifest,
)
from shardtune.trainer.checkpoint.train_state import TrainState

WEIGHTS = "weights-00000-of-00001.safetensors"


def manifest(step: int, dev: dict[str, Any] | None = None) -> Manifest:
    return Manifest(
        state=TrainState(step, samples_seen=12 * step, best_value=0.5),
        recipe_hash="0123abcd",
        layout={"world_size": 1, "zero_stage": 2, "precision": "fp32"},
        best_metric="accuracy",
        dev_metrics=dev,
        shapes={"w": [2, 3]},
        optimizer_keys=["exp_avg"],
        optimizer_scalars={"w": {"step": float(step)}},
        loss_scale={},
        written_at=1e9,
    )


def write_checkpoint(folder: Path, step: int, dev: dict[str, Any] | None = None) -> Path:
    path = folder / f"step-{step}"
    path.mkdir(parents=True)
    (path / WEIGHTS).write_bytes(bytes(range(256)))
    whole = manifest(step, dev).with_files({WEIGHTS: record_file(path / WEIGHTS)})
    (path / MANIFEST).write_text(render_manifest(whole))
    return path


@given(
    st.integers(0, 10**9), st.none() | st.floats(allow_nan=False), st.dictionaries(st.text(), st.floats(), max_size=3)
)
def test_a_manifest_reads_back_as_it_was_written(step: int, best: float | None, dev: dict[str, float]) -> None:
    written = manifest(step).with_files({})
    written = Manifest(**{**vars(written), "state": TrainState(step, best_value=best), "dev_metrics": dev})
    assert repr(parse_manifest(render_manifest(written), Path("m"))) == repr(written)


@pytest.mark.parametrize("name", ["../step-6/weights.safetensors", "/etc/passwd", "a/b", ".."])
def test_a_manifest_names_no_file_outside_its_folder(name: str) -> None:
    text = render_manifest(manifest(7).with_files({name: FileRecord(1, "0")}))
    with pytest.raises(CheckpointError, match="is not the name of a file in its folder"):
        parse_manifest(text, Path("m"))


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / WEIGHTS).read_bytes())
    content[100] ^= 4
    (path / WEIGHTS).write_bytes(content)


def change_the_step(path: Path) -> None:
    (path / MANIFEST).write_text((path / MANIFEST).read_text().replace('"step": 7', '"step": 8'))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / MANIFEST).unlink(), "it was never finished"),
        (lambda path: (path / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
        (lambda path: os.truncate(path / WEIGHTS, 200), f"{WEIGHTS} is damaged: 200 bytes, not 256"),
        (lambda path: os.truncate(path / MANIFEST, 200), f"{MANIFEST} is damaged: it is not a manifest"),
        (change_the_step, f"{MANIFEST} is damaged: its checksum differs"),
        (flip_a_bit, f"{WEIGHTS} is damaged: its checksum differs"),
    ],
    ids=["no-manifest", "no-file", "truncated", "half-a-manifest", "forged", "bit-flip"],
)
def test_harm_of_any_kind_is_seen_and_said(tmp_path: Path, harm: Callable[[Path], Any], said: str) -> None:
    path = write_checkpoint(tmp_path, 7)
    assert damage(open_checkpoint(path), [WEIGHTS]) is None
    harm(path)
    try:
        found = damage(open_checkpoint(path), [WEIGHTS])
    except CheckpointError as error:
        found = str(error)
    assert found == said


def test_a_newer_format_is_not_called_damaged(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 7)
    whole = json.loads((path / MANIFEST).read_text()) | {"format": 99}
    (path / MANIFEST).write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="has format 99; this shardtune reads formats up to 3"):
        open_checkpoint(path)


def test_steps_are_ordered_as_numbers_and_other_folders_are_none(tmp_path: Path) -> None:
    for step in (100, 9, 20):
        write_checkpoint(tmp_path, step)
    for name in (".step-30", "step-x", "step-5.old", "latest"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-9", "step-20", "step-100"]
    assert [checkpoint.step for checkpoint in complete_checkpoints(tmp_path)] == [9, 20, 100]


SCORES = {1: 0.5, 2: 0.9, 3: None, 4: 0.9, 5: float("nan"), 6: 0.1}
"""What dev said at each step; None if it was not asked."""


@pytest.fixture
def scored(tmp_path: Path) -> list[Checkpoint]:
    for step, value in SCORES.items():
        write_checkpoint(tmp_path, step, None if value is None else {"accuracy": value})
    return complete_checkpoints(tmp_path)


def test_the_best_comes_first_of_equals_the_earlier_and_never_one_without_a_number(scored: list[Checkpoint]) -> None:
    assert [checkpoint.step for checkpoint in best_first(scored, "accuracy", lower_is_better=False)] == [2, 4, 1, 6]
    assert [checkpoint.step for checkpoint in best_first(scored, "accuracy", lower_is_better=True)] == [6, 1, 2, 4]
    assert best_first(scored, "f1", lower_is_better=False) == []


def test_a_checkpoint_whose_loss_on_dev_is_nan_is_never_the_best(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, {"accuracy": 0.5, "loss": 0.7})
    write_checkpoint(tmp_path, 2, {"accuracy": 0.9, "loss": float("nan")})
    complete = complete_checkpoints(tmp_path)
    assert [checkpoint.step for checkpoint in best_first(complete, "accuracy", lower_is_better=False)] == [1]
    assert superseded(complete, CheckpointPolicy(1, 1, True, "accuracy", False, "", {})) == []


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "stay"), [(1, 1, [2, 6]), (2, 1, [2, 5, 6]), (1, 3, [1, 2, 4, 6]), (9, 1, [*SCORES])]
)
def test_the_last_and_the_best_stay(scored: list[Checkpoint], keep_last: int, keep_best: int, stay: list[int]) -> None:
    policy = CheckpointPolicy(keep_last, keep_best, True, "accuracy", False, "", {})
    gone = {checkpoint.step for checkpoint in superseded(scored, policy)}
    assert [checkpoint.step for checkpoint in scored if checkpoint.step not in gone] == stay
