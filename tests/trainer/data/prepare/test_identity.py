"""Data are the same wherever they lie, and a run says what of them has changed."""

import json
import shutil
from pathlib import Path

import pytest

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import DATA
from shardtune.run_dir.run import find_run, refuse_other_data, write_run_dir
from shardtune.trainer.data.prepare.identity import data_identity
from shardtune.trainer.data.prepare.sources import STREAM_ORDER
from tests.support.runs import RECIPE, tiny_recipe, write_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "here")


def test_moved_data_and_a_moved_model_go_on_with_the_same_run(folder: Path, tmp_path: Path) -> None:
    (folder / "tiny.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    run = find_run(folder / "tiny.yaml", [], tmp_path / "run")
    write_run_dir(run)
    refuse_other_data(run.run_dir, data_identity(run.recipe))
    there = tmp_path / "there"
    shutil.move(folder, there)
    (there / "train.jsonl").rename(there / "rows.jsonl")
    moved = [f"data.{split}={there}/{split}.jsonl" for split in ("dev", "test")]
    moved += [f"data.train={there}/rows.jsonl", f"model.path={there}/encoder", f"data.cache_dir={there}/cache"]
    again = find_run(tmp_path / "run", moved, None)
    refuse_other_data(again.run_dir, data_identity(again.recipe))
    with pytest.raises(CheckpointError, match=r"belongs to another recipe:\n  optim.lr: 0.003 -> 0.5\n"):
        find_run(tmp_path / "run", [*moved, "optim.lr=0.5"], None)


def test_what_has_changed_is_named(folder: Path, tmp_path: Path) -> None:
    refuse_other_data(tmp_path, data_identity(tiny_recipe(folder)))
    (folder / "dev.jsonl").write_text((folder / "test.jsonl").read_text())
    with pytest.raises(CheckpointError, match=r"began on other data: data\.dev has changed since\. Use another"):
        refuse_other_data(tmp_path, data_identity(tiny_recipe(folder)))
    config = folder / "encoder" / "config.json"
    config.write_text(config.read_text() + "\n")
    changed = tiny_recipe(folder, "data.max_tokens=32", "task.label_smoothing=0.1")
    with pytest.raises(CheckpointError) as raised:
        refuse_other_data(tmp_path, data_identity(changed))
    assert "data.dev, task.label_smoothing, data.max_tokens, the tokenizer (model.path) have changed" in str(
        raised.value
    )


def test_a_run_of_the_earlier_format_is_known_as_long_as_no_newer_option_is_used(folder: Path, tmp_path: Path) -> None:
    identity = data_identity(tiny_recipe(folder))
    assert identity.earlier is not None
    (tmp_path / DATA).write_text(identity.earlier)
    refuse_other_data(tmp_path, identity)
    assert (tmp_path / DATA).read_text().startswith(f"{identity.fingerprint}\n")
    assert data_identity(tiny_recipe(folder, "data.special_tokens_in_text=escape")).earlier is None
    (tmp_path / DATA).write_text("0123456789abcdef")
    with pytest.raises(
        CheckpointError, match="began on other data: a data file, the tokenizer or an option of the task"
    ):
        refuse_other_data(tmp_path, identity)


def test_a_stream_of_several_files_that_an_earlier_version_read_in_another_order_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    stream = ("data.streaming=true", "train.max_steps=9")
    several = data_identity(tiny_recipe(folder, *stream, f"data.train=[{folder}/train.jsonl, {folder}/dev.jsonl]"))
    earlier_parts = {name: digest for name, digest in several.parts.items() if name != STREAM_ORDER}
    (tmp_path / DATA).write_text(f"0123456789abcdef\n{json.dumps(earlier_parts)}")
    with pytest.raises(CheckpointError, match="the order in which shardtune streams several files has changed"):
        refuse_other_data(tmp_path, several)
    one = data_identity(tiny_recipe(folder, *stream, f"data.train={folder}/tr*.jsonl"))
    assert STREAM_ORDER in several.parts and STREAM_ORDER not in one.parts
    assert STREAM_ORDER not in data_identity(tiny_recipe(folder, f"data.train={folder}/*.jsonl")).parts
