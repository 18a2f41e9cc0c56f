"""The points of a sweep are decided beforehand, and each is a run that can be gone on with alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.errors import ConfigError
from shardtune.launcher.plan.sweep import (
    SweepPlan,
    drawn,
    grid,
    load_sweep,
    plan_sweep,
    points_of,
    split_values,
    write_sweep,
)

pytestmark = pytest.mark.usefixtures("folder")


def plan(*axes: str, overrides: tuple[str, ...] = ()) -> SweepPlan:
    return plan_sweep(Path("x.yaml"), overrides, None, grid(axes))


def test_a_grid_has_a_point_for_each_combination(folder: Path) -> None:
    sweep = plan("optim.lr=1e-5,2e-5", "train.seed=1,2", overrides=("train.num_epochs=2",))
    assert [point.overrides for point in sweep.points] == [
        ("optim.lr=1e-5", "train.seed=1"),
        ("optim.lr=1e-5", "train.seed=2"),
        ("optim.lr=2e-5", "train.seed=1"),
        ("optim.lr=2e-5", "train.seed=2"),
    ]
    assert [point.recipe.optim.lr for point in sweep.points] == [1e-5, 1e-5, 2e-5, 2e-5]
    assert {point.recipe.train.num_epochs for point in sweep.points} == {2}
    assert sweep.points[3].run_dir == sweep.sweep_dir / "3"
    assert sweep.sweep_dir.parent == folder / "runs" and sweep.sweep_dir.name.startswith("x-sweep-")
    assert sweep.describe().splitlines()[1] == "  0  optim.lr=1e-5 train.seed=1"


def test_the_same_words_mean_the_same_directory_and_others_another() -> None:
    assert plan("optim.lr=1e-5,2e-5").sweep_dir == plan("optim.lr=1e-5,2e-5").sweep_dir
    assert plan("optim.lr=1e-5,2e-5").sweep_dir != plan("optim.lr=1e-5,3e-5").sweep_dir


def test_the_points_are_one_group_in_wandb() -> None:
    sweep = plan("optim.lr=1e-5,2e-5")
    assert {point.recipe.report.group for point in sweep.points} == {sweep.sweep_dir.name}
    assert sweep.points[1].recipe.report.name == "1 optim.lr=2e-5"
    sweep = plan("optim.lr=1e-5,2e-5", overrides=("report.group=mine",))
    assert {point.recipe.report.group for point in sweep.points} == {"mine"}


def test_what_is_wrong_with_any_point_is_said_once_before_any_runs() -> None:
    with pytest.raises(ConfigError) as error:
        plan("optim.lr=-1,1e-5", "train.sede=1,2")
    lines = str(error.value).splitlines()
    assert any(line.startswith("point 0: ") and "did you mean 'seed'?" in line for line in lines)
    assert len(lines) == len({line.split(": ", 1)[1] for line in lines})


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["optim.lr"], "expected key=A,B,C"),
        (["optim.lr="], "expected key=A,B,C"),
        (["optim.lr=1,,2"], "the value is missing"),
        (["optim.lr=1e-6..1e-4"], "a range needs --random=N"),
        (["job.nodes=1,2"], r"points 0 \(job.nodes=1\) and 1 \(job.nodes=2\) would train the same model"),
        (["train.seed=" + ",".join(map(str, range(1001)))], "a sweep has 1 to 1000 points, got 1001"),
    ],
)
def test_what_is_no_sweep_is_refused(axes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(*axes)


def test_values_may_hold_commas() -> None:
    assert split_values("1,[2,3],\"a,b\",{c: 'd,e'}") == ["1", "[2,3]", '"a,b"', "{c: 'd,e'}"]
    assert grid(["data.train=[a.csv,b.csv],../c..d/e.csv"]) == [
        ["data.train=[a.csv,b.csv]"],
        ["data.train=../c..d/e.csv"],
    ]


def test_random_points_are_the_same_for_the_same_seed_and_none_comes_twice() -> None:
    axes = ["optim.lr=1e-6..1e-4", "train.seed=1..3", "optim.warmup_steps=0,10"]
    points = drawn(axes, 20)
    assert points == drawn(axes, 20) != drawn(axes, 20, seed=1)
    assert len({tuple(point) for point in points}) == 20
    assert len(drawn(["train.seed=1..3"], 20)) == 3


@given(seed=st.integers(0, 2**32))
def test_a_range_is_drawn_from_within_and_a_wide_one_by_its_logarithm(seed: int) -> None:
    rates = [float(lr.split("=")[1]) for (lr,) in drawn(["optim.lr=1e-6..1e-2"], 60, seed=seed)]
    assert all(1e-6 <= lr <= 1e-2 for lr in rates)
    assert sum(lr < 1e-4 for lr in rates) > 10  # evenly, there would be one in a hundred
    assert all(point[0].split("=")[1].isdecimal() for point in drawn(["train.seed=1..50"], 9, seed=seed))


@pytest.mark.parametrize("axis", ["optim.lr=a..b", "optim.lr=2..1", "optim.lr=1..inf"])
def test_what_is_no_range_is_refused(axis: str) -> None:
    with pytest.raises(ConfigError, match=axis):
        drawn([axis], 3)


def test_points_may_come_from_a_file() -> None:
    text = "- {optim.lr: 1e-5, train.seed: 1}\n- optim.lr: 2.0e-5\n  data.train: [train.csv]\n"
    points = points_of(text, name="points.yaml")
    recipes = [point.recipe for point in plan_sweep(Path("x.yaml"), (), None, points).points]
    assert [(recipe.optim.lr, recipe.train.seed) for recipe in recipes] == [(1e-5, 1), (2e-5, recipes[1].train.seed)]
    for wrong in ("a: 1", "- 1", "- {}", "- {"):
        with pytest.raises(ConfigError, match=r"^points\.yaml:"):
            points_of(wrong, name="points.yaml")


def test_a_sweep_is_read_as_it_was_written(folder: Path) -> None:
    sweep = plan("optim.lr=1e-5,2e-5")
    write_sweep(sweep)
    assert load_sweep(sweep.sweep_dir) == sweep
    with pytest.raises(ConfigError, match="not the directory of a sweep"):
        load_sweep(folder)
