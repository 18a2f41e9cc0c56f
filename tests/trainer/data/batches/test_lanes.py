"""The files of a stream are divided into lanes by their sources and sizes alone; lanes take turns by their sizes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shardtune.trainer.data.batches.lanes import MAX_LANES, Lanes, Rotation, encoders_of, lanes_of, times_before
from shardtune.trainer.data.prepare.sources import ReadUnit, sources_of
from tests.support.runs import tiny_recipe


def lanes_over(folder: Path, *sizes: list[int]) -> Lanes:
    """The lanes of a source for each list, with files of these sizes in bytes."""
    for number, source in enumerate(sizes):
        (folder / f"s{number}").mkdir()
        for at, size in enumerate(source):
            (folder / f"s{number}" / f"{at:03}.jsonl").write_bytes(b"x" * size)
    paths = ", ".join(f"{folder}/s{number}/*.jsonl" for number in range(len(sizes)))
    recipe = tiny_recipe(folder, f"data.train=[{paths}]", "data.dev=null", "data.test=null")
    return lanes_of(sources_of(recipe), len(sizes))


def files_of(lanes: Lanes) -> list[list[str]]:
    return [["/".join(path.parts[-2:]) for path, _ in unit.files] for unit in lanes.units.values()]


def test_each_file_is_in_one_lane_and_each_lane_of_one_source(tmp_path: Path) -> None:
    lanes = lanes_over(tmp_path, [10] * 150, [10] * 2, [10])
    assert [unit.source for unit in lanes.units.values()] == [0] * 62 + [1, 2]
    files = [file for group in files_of(lanes) for file in group]
    assert len(files) == len(set(files)) == 153
    assert files_of(lanes)[0] == ["s0/000.jsonl", "s0/062.jsonl", "s0/124.jsonl"]
    assert files_of(lanes)[62] == ["s1/000.jsonl", "s1/001.jsonl"]


def test_there_are_no_more_lanes_than_files_and_not_many_more_than_the_maximum(tmp_path: Path) -> None:
    assert len(lanes_over(tmp_path, [10, 20, 30]).units) == 3
    (tmp_path / "more").mkdir()
    assert MAX_LANES < len(lanes_over(tmp_path / "more", [1] * 300, *[[1]] * 5).units) <= MAX_LANES + 5


def test_the_window_is_divided_among_the_lanes_by_their_sizes(tmp_path: Path) -> None:
    lanes = lanes_over(tmp_path, [3000, 1000], [0], [4000])
    assert lanes.windows(800) == [300, 100, 1, 400]
    assert 20 <= sum(lanes.windows(20)) <= 20 + 4


@pytest.mark.parametrize("sizes", [[3000, 1000], [500, 500, 500], [7000, 100, 900, 2000, 60]])
def test_lanes_are_mixed_in_proportion_to_their_sizes(tmp_path: Path, sizes: list[int]) -> None:
    rotation = Rotation(lanes_over(tmp_path, sizes).turns)
    lanes = np.concatenate([rotation.take(count) for count in (1, 7, 300, 5000, 2000)])
    for count in (10, 100, 1000, len(lanes)):
        for lane, size in enumerate(sizes):
            assert abs((lanes[:count] == lane).sum() - count * size / sum(sizes)) < 1 + count * 1e-3


def test_a_lane_that_has_ended_is_passed_over(tmp_path: Path) -> None:
    rotation = Rotation([2, 1, 1])
    whole = rotation.take(8).tolist()
    assert Counter(whole) == {0: 4, 1: 2, 2: 2}
    rotation = Rotation([2, 1, 1])
    rotation.close(0)
    assert rotation.take(4).tolist() == [lane for lane in whole if lane]
    rotation.close(1)
    assert rotation.take(3).tolist() == [2, 2, 2] and not rotation.is_over
    rotation.close(2)
    assert rotation.is_over


@pytest.mark.parametrize(("num_lanes", "world_size"), [(2, 16), (5, 3), (64, 512), (64, 24), (3, 4)])
def test_lanes_are_divided_evenly_among_the_ranks(num_lanes: int, world_size: int) -> None:
    lanes = Lanes((1,) * num_lanes, {number: ReadUnit(0, ()) for number in range(num_lanes)})
    readers = lanes.readers(world_size)
    counts = np.bincount(readers, minlength=world_size)
    assert counts.max() == -(-num_lanes // world_size) and counts.min() == num_lanes // world_size
    assert [len(lanes.of_rank(rank, world_size).units) for rank in range(world_size)] == counts.tolist()
    if num_lanes <= world_size:  # and over the nodes
        assert (np.diff(readers) == world_size // num_lanes).all()


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_each_rank_encodes_as_many_rows_and_those_that_it_has_read_first(world_size: int) -> None:
    readers = np.random.default_rng(0).integers(0, world_size, 101) // 2
    encoders = encoders_of(readers, world_size)
    counts = np.bincount(encoders, minlength=world_size)
    assert counts.max() - counts.min() <= 1 and counts.sum() == 101
    for rank in range(world_size):
        kept = ((readers == rank) & (encoders == rank)).sum()
        assert kept == min(counts[rank], (readers == rank).sum())


def test_how_often_a_value_came_before() -> None:
    assert times_before(np.array([3, 0, 3, 3, 0])).tolist() == [0, 0, 1, 2, 1]
    assert times_before(np.array([], dtype=np.int64)).tolist() == []
