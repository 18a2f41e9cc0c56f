"""What one layout saved, every other one holds, bit for bit: ranks, ZeRO stage, precision and offload are no matter."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from torch import nn

from shardtune.ds_config.cluster import Cluster
from shardtune.ds_config.resolve import ds_config_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.engine.snapshot import Saved, SavedTensors, state_name, write_fragments
from shardtune.trainer.engine.zero_layout import loss_scale, set_loss_scale
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe

LAYOUTS = [
    ("null", "fp32"),
    ("null", "bf16"),
    ("zero0", "fp32"),
    ("zero0", "bf16"),
    ("zero1", "fp32"),
    ("zero1", "bf16"),
    ("zero2", "fp32"),
    ("zero2", "bf16"),
    ("zero3", "fp32"),
    ("zero3", "bf16"),
    ("zero2_offload", "bf16"),
    ("zero3_offload", "bf16"),
]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NAMES = ["odd.weight", "odd.bias", "large.weight", "large.bias", "norm.weight", "norm.bias"]


class Model(nn.Module):
    """Odd shapes that no number of ranks divides, a frozen layer, a shared weight and a buffer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.odd = nn.Linear(5, 7)
        self.frozen = nn.Linear(7, 11).requires_grad_(False)
        self.large = nn.Linear(11, 3)
        self.shared = nn.Linear(11, 3)
        self.shared.weight = self.large.weight
        self.norm = nn.LayerNorm(3)
        self.register_buffer("seen", torch.tensor([seed + 12345678901]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.frozen(self.odd(x.to(self.odd.weight.dtype)))
        return (self.norm(self.large(hidden)) + self.shared(hidden)).float()


def make_engine(ranks: Ranks, layout: tuple[str, str], seed: int, *, keeps_average: bool = False) -> Engine:
    strategy, precision = layout
    recipe = tiny_recipe(Path("/"), f"engine.deepspeed={strategy}", f"engine.precision={precision}")
    ds_config = ds_config_of(recipe, hidden_size=8, cluster=Cluster(ranks.world_size, 2, None))
    if strategy == "zero3_hpz":  # or these weights would all stay whole
        assert ds_config is not None
        ds_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    model = Model(seed).to(DTYPES[precision])

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return adamw(model, recipe.optim)

    if ds_config is None:
        return ReplicatedEngine(
            model,
            make_optimizer,
            precision=precision,
            max_grad_norm=recipe.optim.max_grad_norm,
            ranks=ranks,
            seed=0,
            keeps_average=keeps_average,
        )
    return DeepSpeedEngine(model, ds_config, make_optimizer, ranks=ranks, seed=0, keeps_average=keeps_average)


def train(engine: Engine, num_steps: int, *, first: int = 0) -> None:
    for step in range(first, first + num_steps):
        engine.begin_step(step, num_micro_batches=1)
        inputs = torch.linspace(-1, 1, 10).view(2, 5) * (step + 1)
        engine.backward(engine.forward(Batch({"x": inputs}, torch.zeros(2))).pow(2).sum(), num_targets=4)
        engine.step(lr=1e-2)


def write(ranks: Ranks, folder: Path, layout: tuple[str, str]) -> dict[str, Any]:
    """Trains three steps and writes what this rank has; what is not in files."""
    engine = make_engine(ranks, layout, seed=1)
    train(engine, 3)
    snapshot = engine.snapshot()
    for kind, fragments in (("weights", snapshot.weights), ("states", snapshot.states)):
        write_fragments(folder / f"{kind}-{ranks.rank}.safetensors", fragments)
    return {"shapes": snapshot.shapes, "keys": snapshot.keys, "scalars": snapshot.scalars}


def read(folder: Path) -> Saved:
    """What all ranks of a layout wrote."""
    weights, states = (SavedTensors(sorted(folder.glob(f"{kind}-*"))) for kind in ("weights", "states"))
    notes = torch.load(folder / "notes.pt")
    scalars = {name: scalar for rank in notes for name, scalar in rank["scalars"].items()}
    return Saved(folder, weights, states, notes[0]["shapes"], notes[0]["keys"], scalars, {})


def kept(engine: Engine, ranks: Ranks, folder: Path) -> Saved:
    """What the engine holds now, by way of files."""
    snapshot = engine.snapshot()
    for kind, fragments in (("weights", snapshot.weights), ("states", snapshot.states)):
        write_fragments(folder / f"{kind}-{ranks.rank}.safetensors", fragments)
    notes = ranks.gather({"shapes": snapshot.shapes, "keys": snapshot.keys, "scalars": dict(snapshot.scalars)})
    torch.save(notes, folder / f"notes-{ranks.rank}.pt")
    ranks.barrier()
    (folder / f"notes-{ranks.rank}.pt").rename(folder / "notes.pt")
    ranks.barrier()
    return read(folder)


def whole(saved: Saved) -> dict[str, torch.Tensor]:
    """Every tensor of it."""
    tensors = {}
    for name, shape in saved.shapes.items():
        tensors[name] = torch.empty(tuple(shape), dtype=saved.weights.dtype(name))
        saved.weights.read(name, 0, tensors[name].view(-1))
        for key in saved.keys if name in saved.scalars else []:
            assert saved.states is not None
            tensors[state_name(key, name)] = torch.empty(tuple(shape))
            saved.states.read(state_name(key, name), 0, tensors[state_name(key, name)].view(-1))
    return tensors


def outputs(engine: Engine) -> torch.Tensor:
    with engine.evaluating():
        return torch.as_tensor(engine.forward(Batch({"x": torch.ones(1, 5)}, torch.zeros(1))))


def differences(ranks: Ranks, folders: list[Path], layout: tuple[str, str], out: Path) -> list[str]:
    """Goes on in this layout from what is in each folder, and names what is not as it was written."""
    engine = make_engine(ranks, layout, seed=2)
    found = []
    for folder in folders:
        before = read(folder)
        engine.restore(before)
        after = kept(engine, ranks, out)
        theirs, ours = whole(before), whole(after)
        found += [
            f"{folder.name}: {name}" for name in theirs if not torch.equal(theirs[name].to(ours[name]), ours[name])
        ]
        found += [f"{folder.name}: {name} is gone" for name in theirs.keys() - ours.keys()]
        found += [f"{folder.name}: scalars"] * (dict(before.scalars) != dict(after.scalars))
        reference = Model(seed=3).to(DTYPES[layout[1]])
        reference.load_state_dict({**theirs, "shared.weight": theirs["large.weight"]}, strict=False)
        with torch.no_grad():
            expected = reference(torch.ones(1, 5))
        if not torch.allclose(outputs(engine), expected, rtol=1e-6, atol=1e-6):
            found.append(f"{folder.name}: the model does not compute with what its optimizer holds")
        ranks.barrier()
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Each layout's tensors, of two ranks."""
    folders = []
    for strategy, precision in LAYOUTS:
        folder = tmp_path_factory.mktemp(f"{strategy}-{precision}")
        torch.save(run_ranks(write, folder, (strategy, precision)), folder / "notes.pt")
        folders.append(folder)
    return folders


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_three_ranks_of_any_layout_hold_what_two_of_any_other_saved(
    written: list[Path], tmp_path: Path, layout: tuple[str, str]
) -> None:
    assert run_ranks(differences, written, layout, tmp_path, world_size=3) == [[], [], []]


def test_secondary_partitions_are_neither_saved_nor_kept_when_something_is_restored(
    written: list[Path], tmp_path: Path
) -> None:
    hpz, out = tmp_path / "hpz", tmp_path / "out"
    hpz.mkdir(), out.mkdir()
    torch.save(run_ranks(write, hpz, ("zero3_hpz", "fp32"), world_size=4), hpz / "notes.pt")
    folders = [hpz, *(folder for folder in written if folder.name.startswith(("null-fp", "zero2-bf", "zero3-fp")))]
    assert run_ranks(differences, folders, ("zero3_hpz", "fp32"), out, world_size=4) == [[]] * 4
    assert run_ranks(differences, [hpz], ("zero2", "fp32"), out, world_size=3) == [[]] * 3


def test_all_of_the_model_is_saved_once_with_both_moments_of_what_is_trained(written: list[Path]) -> None:
    for folder in written:
        saved = read(folder)
        trained = [*NAMES, "shared.bias"]
        assert sorted(saved.shapes) == sorted([*trained, "frozen.weight", "frozen.bias", "seen"])
        assert sorted(saved.scalars) == sorted(trained)
        assert all(scalars == {"step": 3.0} for scalars in saved.scalars.values())
        tensors = whole(saved)
        assert tensors["seen"].tolist() == [12345678902]
        assert all(tensors[state_name(key, name)].abs().sum() > 0 for key in saved.keys for name in trained)


def test_precision_is_all_that_tells_the_layouts_apart(written: list[Path]) -> None:
    """Also that ZeRO-0 in half precision takes as many steps as all others: DeepSpeed steps once of its own there."""
    of = {folder.name.rstrip("0123456789"): whole(read(folder)) for folder in written}
    for name, tensors in of.items():
        other = of["zero2-fp" if "-fp" in name else "zero2-bf"]
        tolerance = 1e-6 if "-fp" in name else 1e-2
        for key in NAMES:
            assert torch.allclose(tensors[key], other[key], rtol=tolerance, atol=tolerance), f"{name}: {key}"
            assert torch.allclose(tensors[f"exp_avg/{key}"], other[f"exp_avg/{key}"], rtol=0.1, atol=tolerance)


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(written: list[Path]) -> None:
    tensors = read(written[0])
    with pytest.raises(
        Exception,
        match=r"belongs to a different model:\n  odd\.weight: \[7, 5\] in the checkpoint, \[5, 7\] in this model\n"
        r"  new: missing in the checkpoint, \[1\] in this model",
    ):
        tensors.refuse_another_model({**tensors.shapes, "odd.weight": [5, 7], "new": [1]})


def loss_scales(ranks: Ranks) -> None:
    make_engine(ranks, ("zero0", "fp32"), seed=0)  # the scaler asks DeepSpeed for its rank
    fresh, worn = (SimpleNamespace(fp16_enabled=lambda: True, optimizer=SimpleNamespace()) for _ in range(2))
    for engine in (fresh, worn):
        engine.optimizer.loss_scaler = DynamicLossScaler(2.0**16, 4, 1.0, 2, False)
    for overflow in (False, True, True, False):
        worn.optimizer.loss_scaler.update_scale(overflow)
    saved = json.loads(json.dumps(loss_scale(worn)))
    assert saved["cur_scale"] == 2**15
    set_loss_scale(fresh, saved)
    assert vars(fresh.optimizer.loss_scaler) == vars(worn.optimizer.loss_scaler)
    assert loss_scale(SimpleNamespace(fp16_enabled=lambda: False)) == {}


def test_a_loss_scale_that_overflows_have_lowered_stays_low() -> None:
    """fp16 runs on no CPU, but its scaler does."""
    run_ranks(loss_scales, world_size=1)


def once_and_again(ranks: Ranks, folder: Path, layout: tuple[str, str]) -> list[list[float]]:
    """What the model answers after a step, and after three and that one again from before the first."""
    engine = make_engine(ranks, layout, seed=1)
    beginning = kept(engine, ranks, folder)
    train(engine, 1)
    once = outputs(engine).tolist()
    train(engine, 3)
    engine.restore(beginning)
    train(engine, 1)
    return [once, outputs(engine).tolist()]


@pytest.mark.parametrize(
    "layout", [("null", "bf16"), ("zero0", "bf16"), ("zero2", "fp32"), ("zero3", "bf16")], ids="-".join
)
def test_going_back_to_before_the_first_step_leaves_nothing_of_what_came_after(
    tmp_path: Path, layout: tuple[str, str]
) -> None:
    for once, again in run_ranks(once_and_again, tmp_path, layout):
        assert once == again
