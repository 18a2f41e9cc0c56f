"""What any ranks wrote, any other ranks read: a checkpoint's tensors have no layout of their own."""

import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from shardtune.errors import CheckpointError
from shardtune.trainer.engine import snapshot as shards
from shardtune.trainer.engine.memory.host_room import HostRoom
from shardtune.trainer.engine.snapshot import Fragment, SavedTensors, to_host, write_fragments


def cut(numel: int, places: list[int]) -> list[tuple[int, int]]:
    """(first, one past last) of the parts that a tensor falls into when it is cut at these places."""
    at = sorted({0, numel, *(place % (numel + 1) for place in places)})
    return list(pairwise(at))


def write(folder: Path, whole: torch.Tensor, places: list[int]) -> list[Path]:
    """A file for each part."""
    paths = []
    for rank, (first, last) in enumerate(cut(len(whole), places)):
        paths.append(folder / f"{rank}.safetensors")
        write_fragments(paths[-1], [Fragment("w", first, whole[first:last])])
    return paths


@given(st.integers(1, 40), st.lists(st.integers(0, 40), max_size=5), st.lists(st.integers(0, 40), max_size=5))
def test_any_partition_reads_any_other(numel: int, written: list[int], read: list[int]) -> None:
    whole = torch.arange(numel, dtype=torch.float32)
    with TemporaryDirectory() as folder:
        saved = SavedTensors(write(Path(folder), whole, written))
        for first, last in cut(numel, read):
            part = torch.full((last - first,), -1.0)
            saved.read("w", first, part)
            assert torch.equal(part, whole[first:last])


def test_large_tensors_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "READ_ELEMENTS", 3)
    whole = torch.randn(31)
    into = torch.empty(31, dtype=torch.bfloat16)
    SavedTensors(write(tmp_path, whole, [10])).read("w", 0, into)
    assert torch.equal(into, whole.bfloat16())


@pytest.mark.parametrize(("name", "first", "numel"), [("w", 0, 9), ("w", 4, 4), ("v", 0, 1)])
def test_elements_that_are_in_no_file_are_an_error(tmp_path: Path, name: str, first: int, numel: int) -> None:
    paths = write(tmp_path, torch.zeros(9), [3, 6])
    with pytest.raises(CheckpointError, match=rf"^{name}: no file of the checkpoint holds its elements from \d on"):
        SavedTensors([paths[0], paths[2]]).read(name, first, torch.empty(numel))


def test_a_file_that_is_none_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match=r"x\.safetensors cannot be read"):
        SavedTensors([tmp_path / "x.safetensors"])


def test_the_files_are_plain_safetensors_that_others_may_read(tmp_path: Path) -> None:
    write_fragments(tmp_path / "x.safetensors", [Fragment("w", 5, torch.ones(2)), Fragment("v", 0, torch.zeros(1))])
    assert {name: tensor.tolist() for name, tensor in load_file(tmp_path / "x.safetensors").items()} == {
        "w": [1, 1],
        "v": [0],
    }
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o644


def test_what_is_in_host_memory_no_later_step_changes() -> None:
    weights = torch.ones(4)
    (copy,) = to_host([Fragment("w", 2, weights[1:3])], HostRoom(torch.device("cpu")))
    weights.zero_()
    assert (copy.name, copy.start, copy.values.tolist()) == ("w", 2, [1, 1])


def test_what_the_system_refuses_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_fragments(tmp_path / "gone" / "x.safetensors", [Fragment("w", 0, torch.ones(1))])


def test_the_starts_are_json_in_the_files_metadata(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_fragments(tmp_path / "x.safetensors", [Fragment("w", 5, torch.ones(2))])
    metadata = safe_open(tmp_path / "x.safetensors", framework="pt").metadata()  # type: ignore[no-untyped-call]
    assert json.loads(metadata["starts"]) == {"w": 5}
