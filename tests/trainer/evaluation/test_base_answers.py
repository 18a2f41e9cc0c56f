"""What is stored of the pretrained model's answers: whole, or written again; and refused where there is no room."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shardtune.errors import DataError
from shardtune.run_dir.files import write_atomically
from shardtune.trainer.evaluation import base_answers
from shardtune.trainer.evaluation.base_answers import INDEX, STATES, Stored, stored_bytes
from shardtune.trainer.tasks.batch import Batch

LABELS = torch.tensor([[5, -100, 7], [-100, -100, -100], [1, 2, 3]])
HIDDEN = torch.arange(10.0).view(5, 2).bfloat16()
NUMBERS = np.array([4, 0, 9])


def batch_of(labels: Tensor) -> Batch:
    return Batch({"input_ids": labels}, labels).with_target_inputs()


def written(folder: Path) -> Path:
    """The states of three examples with 2, 0 and 3 targets, and a last layer for 4 tokens."""
    draft = base_answers._Draft()
    with (folder / f"00000{STATES}").open("wb") as file:
        draft.add(file, NUMBERS, batch_of(LABELS), HIDDEN)
    index = {**draft.index, "width": 2, "dtype": "bfloat16"}
    write_atomically(folder / f"00000{INDEX}", json.dumps(index))
    base_answers._save_layer(folder, {"weight": torch.ones(4, 2).bfloat16()})
    return folder


def test_each_example_gets_its_own_states_in_whatever_batch_it_is(tmp_path: Path) -> None:
    stored = Stored(written(tmp_path))
    assert stored.has(NUMBERS) and not stored.has(np.array([1]))
    (first, second) = stored.added(
        [(np.array([9, 4]), batch_of(LABELS[[2, 0]])), (np.zeros(0, dtype=np.int64), batch_of(LABELS[1:2]))]
    )
    torch.testing.assert_close(first.inputs["base"].hidden, HIDDEN[[2, 3, 4, 0, 1]])
    assert second.inputs["base"].hidden.shape == (0, 2) and first.inputs["base"].weight.shape == (4, 2)


@pytest.mark.parametrize("end", [INDEX, STATES])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_that_is_damaged_or_missing_is_not_read(tmp_path: Path, end: str, is_there: bool) -> None:
    path = next(written(tmp_path).glob(f"*{end}"))
    path.write_bytes(path.read_bytes()[:-2])
    if not is_there:
        path.unlink()
    assert not Stored(tmp_path).has(NUMBERS)


def test_states_of_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not belong to these data; delete it, and run again"):
        list(Stored(written(tmp_path)).added([(np.array([4]), batch_of(LABELS[2:]))]))


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 10**9))
    needed = sum(stored_bytes(100_000, (128_000, 4096), 2))
    assert needed == 819_200_000 + 1_048_576_000
    base_answers._make_room(tmp_path / "fits", needed)
    with pytest.raises(
        DataError, match=r"^retention.kl_to_base: .* has 2.00 GB free; .* need 1.95 GB; set data.cache_dir"
    ):
        base_answers._make_room(tmp_path / "full", needed + 8 * 10**7)


def test_a_disk_that_fills_up_meanwhile_ends_the_run_after_the_passes_of_all_ranks(tmp_path: Path) -> None:
    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    draft, file = base_answers._Draft(), SimpleNamespace(write=full)
    for _ in range(2):
        draft.add(file, NUMBERS, batch_of(LABELS), HIDDEN)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); set data.cache_dir"):
        draft.refuse_if_failed(tmp_path)
