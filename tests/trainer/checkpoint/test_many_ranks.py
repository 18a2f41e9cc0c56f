"""What a resume of hundreds of ranks asks of the file server: each rank its own files, whatever their number."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from shardtune.trainer.checkpoint.checkpoints import publish_folder
from shardtune.trainer.checkpoint.manifest import OPTIMIZER, WEIGHTS, Manifest, record_file
from shardtune.trainer.checkpoint.resume import find_newest, restore
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.model_state import ModelState
from shardtune.trainer.engine.snapshot import Fragment, Saved, state_name, write_fragments
from shardtune.trainer.engine.zero_layout import Home
from tests.support.many_ranks import file_calls, on_threads

NUM_RANKS = 64
PARTS = ("weight", "bias")


class Model(nn.Module):
    """Two parameters and a buffer, whose elements are their places."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(8.0 * NUM_RANKS))
        self.bias = nn.Parameter(-torch.arange(3.0 * NUM_RANKS))
        self.register_buffer("scale", torch.tensor([7.0]))


class Engine:
    """The part of an engine that restores: each rank has a part of each parameter, or the whole ones, as zeros."""

    def __init__(self, ranks: Ranks, *, is_sharded: bool) -> None:
        self.model = Model()
        self.model.get_buffer("scale").zero_()
        owners = {name: torch.zeros_like(self._part(name, ranks, is_sharded=is_sharded)) for name in PARTS}
        optimizer = torch.optim.AdamW([nn.Parameter(owner) for owner in owners.values()])
        starts = {name: ranks.rank * len(owners[name]) if is_sharded else 0 for name in PARTS}
        self.homes = [
            Home(name, starts[name], owner, 0, len(owner), optimizer, replicated=not is_sharded)
            for name, owner in zip(PARTS, optimizer.param_groups[0]["params"], strict=True)
        ]
        self.state = ModelState(self.model, lambda: self.homes, ranks, keeps_frozen=True)

    def _part(self, name: str, ranks: Ranks, *, is_sharded: bool) -> torch.Tensor:
        whole = self.model.get_parameter(name).detach()
        return whole.chunk(ranks.world_size)[ranks.rank] if is_sharded else whole

    def restore(self, saved: Saved) -> None:
        self.state.restore(saved, lambda: None)

    def is_as_saved(self) -> bool:
        whole = Model()
        return torch.equal(self.model.get_buffer("scale"), whole.get_buffer("scale")) and all(
            torch.equal(values, sign * whole.get_parameter(home.name).detach()[home.start :][: home.num_elements])
            for home in self.homes
            for sign, values in ((1, home.master), (2, home.states()["exp_avg"]))
        )


def write_checkpoint(folder: Path) -> Path:
    """A checkpoint of NUM_RANKS ranks, each with its part of each parameter; the moments are twice the weights."""
    draft, files, model = folder / ".step-5", {}, Model()
    draft.mkdir(parents=True)
    for rank in range(NUM_RANKS):
        parts = {name: model.get_parameter(name).detach().chunk(NUM_RANKS)[rank] for name in PARTS}
        weights = [Fragment(name, rank * len(part), part.clone()) for name, part in parts.items()]
        states = [
            Fragment(state_name("exp_avg", name), rank * len(part), 2 * part.clone()) for name, part in parts.items()
        ]
        if rank == 0:
            weights.append(Fragment("scale", 0, model.get_buffer("scale")))
        for kind, fragments in ((WEIGHTS, weights), (OPTIMIZER, states)):
            name = f"{kind}-{rank:05}-of-{NUM_RANKS:05}.safetensors"
            write_fragments(draft / name, fragments)
            files[name] = record_file(draft / name)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    scalars = {name: {"step": 5.0} for name in PARTS}
    manifest = Manifest(TrainState(5), "", {}, "loss", None, shapes, ["exp_avg"], scalars, {}, files=files)
    publish_folder(draft, folder / "step-5", manifest)
    return folder / "step-5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints")).parent


def resume(folder: Path, *, is_sharded: bool) -> Callable[[Ranks], bool]:
    def body(ranks: Ranks) -> bool:
        found = find_newest(folder, ranks).checkpoint
        assert found is not None
        engine = Engine(ranks, is_sharded=is_sharded)
        restore(engine, found)  # type: ignore[arg-type]
        return engine.is_as_saved()

    return body


@pytest.mark.parametrize("num_ranks", [NUM_RANKS, NUM_RANKS // 2])
def test_at_a_resume_each_rank_opens_a_few_files_whatever_their_number(
    folder: Path, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 files of each rank that it has written are verified and then opened, once each."""
    with file_calls(folder, monkeypatch) as calls:
        assert on_threads(resume(folder, is_sharded=True), num_ranks, monkeypatch)[0] == [True] * num_ranks
    num_files = 2 * NUM_RANKS
    assert calls["stat"] <= num_files + 10
    assert calls["open"] <= 2 * num_files + 10


def test_what_all_ranks_hold_is_read_by_one_of_them_and_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather_rows(self: Ranks, rows: torch.Tensor) -> list[torch.Tensor]:
        return self.gather(rows.clone())  # without an all-gather of tensors

    monkeypatch.setattr(Ranks, "gather_rows", gather_rows)
    with file_calls(folder, monkeypatch) as calls:
        assert on_threads(resume(folder, is_sharded=False), NUM_RANKS, monkeypatch)[0] == [True] * NUM_RANKS
    assert calls["open"] <= 4 * NUM_RANKS + 10


def test_a_single_rank_resumes_what_many_have_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_threads(resume(folder, is_sharded=True), 1, monkeypatch)[0] == [True]


def test_any_damaged_file_of_many_is_found_by_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path)
    damaged = path / f"optimizer-00049-of-{NUM_RANKS:05}.safetensors"
    content = damaged.read_bytes()
    for changed, what in (
        (content[:-4] + b"oops", "its checksum differs"),
        (content[:-4], f"{len(content) - 4:,} bytes"),
    ):
        damaged.write_bytes(changed)
        found, _ = on_threads(lambda ranks: find_newest(tmp_path, ranks), 16, monkeypatch)
        assert {each.checkpoint for each in found} == {None}
        (text,) = {each.damaged[5] for each in found}
        assert text.startswith(f"{path}: {damaged.name} is damaged: {what}")
