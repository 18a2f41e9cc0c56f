"""The moving average of the weights: right in every layout, evaluated and saved in their place, and never trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from shardtune.trainer.between_steps.averages.running_average import decay_at
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import StopAsked
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.states.names import RAW
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.trainer.checkpoint.test_elastic import DTYPES, NAMES, Model, kept, make_engine, outputs, read, train, whole

LAYOUTS = [
    ("null", "fp32"),
    ("null", "bf16"),
    ("zero0", "fp32"),
    ("zero0", "bf16"),
    ("zero1", "bf16"),
    ("zero2", "fp32"),
    ("zero3", "fp32"),
    ("zero2_offload", "bf16"),
    ("zero3_offload", "bf16"),
]
DECAY = 0.3
"""Above the first decays of the warm-up, 2 / 11 and 3 / 12, and below the next, 4 / 13."""
TRAINED = [*NAMES, "shared.bias"]
Tensors = dict[str, Tensor]
Arrays = dict[str, NDArray[np.float32]]


def test_the_decay_rises_to_its_value() -> None:
    assert [decay_at(step, DECAY) for step in (1, 2, 3, 1000)] == [2 / 11, 3 / 12, 0.3, 0.3]


def averaged_steps(engine: Engine, ranks: Ranks, folder: Path, steps: range) -> list[Tensors]:
    """Trains these steps; what is saved after each."""
    saved = []
    for step in steps:
        train(engine, 1, first=step)
        engine.average(decay_at(step + 1, DECAY))
        saved.append(whole(kept(engine, ranks, folder)))
    return saved


def raw(tensors: Tensors, name: str) -> Tensor:
    return tensors[f"{RAW}/{name}"]


def of_model(weights: Tensors, precision: str) -> Tensor:
    """What the model computes with these weights."""
    model = Model(seed=1).to(DTYPES[precision])
    model.load_state_dict({**weights, "shared.weight": weights["large.weight"]}, strict=False)
    with torch.no_grad():
        output: Tensor = model(torch.ones(1, 5))
    return output


def faults_of(ranks: Ranks, folder: Path, layout: tuple[str, str]) -> list[str]:
    """What is wrong with the average of a training in this layout."""
    engine = make_engine(ranks, layout, seed=1, keeps_average=True)
    saved = averaged_steps(engine, ranks, folder, range(4))
    faults = []
    for name in TRAINED:
        expected = raw(saved[0], name).clone()
        for number, tensors in enumerate(saved[1:], start=2):
            expected.lerp_(raw(tensors, name), 1 - decay_at(number, DECAY))
        if not torch.allclose(saved[-1][name], expected, rtol=1e-6, atol=1e-7):
            faults.append(f"the average of {name}")
        if torch.allclose(saved[-1][name], raw(saved[-1], name), rtol=1e-3):
            faults.append(f"{name} has not moved")
    weights = {name: value for name, value in saved[-1].items() if "/" not in name}
    trained = weights | {name: raw(saved[-1], name) for name in TRAINED}
    if not torch.allclose(outputs(engine), of_model(weights, layout[1]), rtol=1e-5, atol=1e-5):
        faults.append("evaluations do not see the average")
    with engine.evaluating(averaged=False):
        output = engine.forward(Batch({"x": torch.ones(1, 5)}, torch.zeros(1)))
    if not torch.allclose(output, of_model(trained, layout[1]), rtol=1e-5, atol=1e-5):
        faults.append("a search for bad rows does not see the weights")
    try:
        with engine.evaluating():
            raise StopAsked
    except StopAsked:
        pass
    after = whole(kept(engine, ranks, folder))
    faults += [f"{name} is another one" for name in after if not torch.equal(after[name], saved[-1][name])]
    return faults


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_the_average_is_that_of_the_formula_and_evaluations_leave_the_weights_to_the_bit(
    layout: tuple[str, str], tmp_path: Path
) -> None:
    assert run_ranks(faults_of, tmp_path, layout) == [[], []]


def written(ranks: Ranks, folder: Path, layout: tuple[str, str]) -> None:
    averaged_steps(make_engine(ranks, layout, seed=1, keeps_average=True), ranks, folder, range(2))


def sent(tensors: Tensors) -> Arrays:
    """As it can be sent by a process that ends."""
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def continued(ranks: Ranks, folder: Path, out: Path, layout: tuple[str, str]) -> list[Arrays]:
    """What is saved, what is held once it is restored, and what after two more steps."""
    engine = make_engine(ranks, layout, seed=2, keeps_average=True)
    before = read(folder)
    engine.restore(before)
    held = whole(kept(engine, ranks, out))
    return [sent(whole(before)), sent(held), sent(averaged_steps(engine, ranks, out, range(2, 4))[-1])]


def unbroken(ranks: Ranks, folder: Path) -> Arrays:
    engine = make_engine(ranks, ("null", "fp32"), seed=1, keeps_average=True)
    return sent(averaged_steps(engine, ranks, folder, range(4))[-1])


@pytest.mark.parametrize("layout", [("null", "fp32"), ("zero1", "bf16"), ("zero3", "fp32")], ids="-".join)
def test_three_ranks_of_another_layout_go_on_with_the_average_of_two(layout: tuple[str, str], tmp_path: Path) -> None:
    before, out = tmp_path / "before", tmp_path / "out"
    before.mkdir(), out.mkdir()
    run_ranks(written, before, ("zero2", "fp32"))
    (saved, held, later), *_ = run_ranks(continued, before, out, layout, world_size=3)
    ours = [name for name in saved if not name.startswith(("frozen", "seen"))]  # what is not trained is in bf16
    assert held.keys() == saved.keys() and all(np.array_equal(held[name], saved[name]) for name in ours)
    if layout[1] == "fp32":
        (expected,) = run_ranks(unbroken, tmp_path, world_size=1)
        assert all(np.allclose(later[name], expected[name], rtol=1e-3, atol=1e-5) for name in TRAINED)


def restored_without(ranks: Ranks, folder: Path, out: Path) -> tuple[Arrays, Arrays, bool]:
    engine = make_engine(ranks, ("zero2", "fp32"), seed=2)
    before = read(folder)
    engine.restore(before)
    held = whole(kept(engine, ranks, out))
    same = torch.allclose(outputs(engine), of_model(held, "fp32"), rtol=1e-5, atol=1e-5)
    return sent(whole(before)), sent(held), same


def test_a_recipe_without_an_average_goes_on_with_the_weights_that_were_trained(tmp_path: Path) -> None:
    before, out = tmp_path / "before", tmp_path / "out"
    before.mkdir(), out.mkdir()
    run_ranks(written, before, ("zero3", "fp32"))
    (saved, held, is_evaluated), *_ = run_ranks(restored_without, before, out)
    assert is_evaluated and all(np.array_equal(held[name], saved[f"{RAW}/{name}"]) for name in TRAINED)
    assert not any(name.startswith(RAW) for name in held)
