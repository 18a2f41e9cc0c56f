"""train.seeds and --fractions are sweeps: runs of their own in one directory, found again when one is added."""

from pathlib import Path

import pytest

from shardtune.errors import CheckpointError, ConfigError
from shardtune.launcher.plan.several import fractions_of, plan_several
from shardtune.launcher.plan.sweep import SweepPlan, grid, load_sweep, plan_sweep, point_dirs, refuse_sweep, write_sweep
from shardtune.recipe.load import learning_hash, load_recipe
from shardtune.run_dir.run import Run, write_run_dir

pytestmark = pytest.mark.usefixtures("folder")
RECIPE = Path("x.yaml")


def plan(*overrides: str, fractions: str | None = None, run_dir: Path | None = None) -> SweepPlan:
    found = plan_several(RECIPE, overrides, run_dir, fractions)
    assert found is not None
    return found


def test_each_seed_is_a_run_of_its_own_whose_recipe_has_that_seed_alone(folder: Path) -> None:
    sweep = plan("train.seeds=[7,1]")
    assert [point.run_dir for point in sweep.points] == [sweep.sweep_dir / "seed-7", sweep.sweep_dir / "seed-1"]
    assert [(at.recipe.train.seed, at.recipe.train.seeds) for at in sweep.points] == [(7, None), (1, None)]
    assert sweep.sweep_dir.parent == folder / "runs" and sweep.sweep_dir.name.startswith("x-seeds-")
    assert {point.recipe.report.group for point in sweep.points} == {sweep.sweep_dir.name}
    assert [point.recipe.report.name for point in sweep.points] == ["seed-7", "seed-1"]
    single = load_recipe(RECIPE, ["train.seed=7"])
    assert learning_hash(sweep.point(7).recipe) == learning_hash(single)


def test_a_recipe_without_seeds_is_a_single_run() -> None:
    assert plan_several(RECIPE, ["train.seed=3"], None) is None
    assert plan_several(RECIPE, ["train.seeds=null"], None) is None


def test_a_fault_of_the_recipe_reads_as_that_of_a_single_run() -> None:
    with pytest.raises(ConfigError, match=r"^override 'train\.sede=3': "):
        plan_several(RECIPE, ["train.sede=3"], None)


def test_a_seed_that_is_added_finds_the_others() -> None:
    first, then = plan("train.seeds=[1,2]"), plan("train.seeds=[1,2,3]")
    assert first.sweep_dir == then.sweep_dir != plan("train.seeds=[1,2]", "optim.lr=1e-3").sweep_dir
    write_sweep(first)
    write_sweep(then, [3])
    assert load_sweep(then.sweep_dir) == then
    assert [path.name for path in point_dirs(then.sweep_dir)] == ["seed-1", "seed-2", "seed-3"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["train.seeds=[1,2]", "train.seed=1"], "seed and seeds are both given; keep one of them"),
        (["train.seeds=[1,1]"], "a seed is given twice"),
        (["train.seeds=[1]"], "train.seeds"),
        (["train.seeds=[1,-2]"], "train.seeds"),
    ],
)
def test_what_is_no_list_of_seeds_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(*given)


def test_fractions_are_runs_on_parts_of_the_rows_with_each_seed() -> None:
    sweep = plan("train.seeds=[1,2]", fractions="1.0,0.25")
    assert [point.overrides for point in sweep.points] == [
        ("data.fraction=0.25", "train.seed=1"),
        ("data.fraction=0.25", "train.seed=2"),
        ("data.fraction=1", "train.seed=1"),
        ("data.fraction=1", "train.seed=2"),
    ]
    assert [point.recipe.data.fraction for point in sweep.points] == [0.25, 0.25, 1, 1]
    assert [point.run_dir.name for point in sweep.points] == ["part-1", "part-2", "part-3", "part-4"]


def test_a_fraction_that_is_added_leaves_the_others_their_numbers() -> None:
    write_sweep(plan(fractions="0.1,1.0"))
    assert {at.number: at.recipe.data.fraction for at in plan(fractions="0.1,0.5,1.0").points} == {1: 0.1, 3: 0.5, 2: 1}


@pytest.mark.parametrize(
    ("overrides", "fractions", "message"),
    [
        ((), "0.1,x", "expected numbers such as"),
        ((), "0,1", "above 0 and at most 1"),
        ((), "0.5,1.5", "above 0 and at most 1"),
        ((), "0.5,0.5", "at least two"),
        (("train.max_steps=5",), "0.1,1", "same number of steps, not of epochs"),
        (("data.fraction=0.5",), "0.1,1", "has data.fraction=0.5 already"),
    ],
)
def test_what_is_no_learning_curve_is_refused(overrides: tuple[str, ...], fractions: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(*overrides, fractions=fractions)


def test_fractions_are_sorted_and_each_counts_once() -> None:
    assert fractions_of("1,0.1,.1,0.3") == [0.1, 0.3, 1.0]


def test_the_directory_resumes_and_takes_nothing_else() -> None:
    sweep = plan("train.seeds=[1,2]")
    write_sweep(sweep)
    assert plan_several(sweep.sweep_dir, (), None) == sweep
    for overrides, fractions in ((("optim.lr=1",), None), ((), "0.1,1")):
        with pytest.raises(ConfigError, match="are fixed; give the recipe"):
            plan_several(sweep.sweep_dir, overrides, None, fractions)
    assert plan_several(sweep.points[0].run_dir, (), None) is None
    with pytest.raises(ConfigError, match="needs a recipe"):
        plan_several(sweep.points[0].run_dir, (), None, "0.1,1")


def test_a_directory_holds_one_kind_of_runs() -> None:
    several, single = Path("several"), Path("single")
    write_sweep(plan("train.seeds=[1,2]", run_dir=several))
    write_run_dir(Run(load_recipe(RECIPE), single.absolute(), RECIPE))
    with pytest.raises(ConfigError, match="holds several runs"):
        plan_several(RECIPE, (), several)
    with pytest.raises(ConfigError, match="is the directory of a single run"):
        plan("train.seeds=[1,2]", run_dir=single)
    with pytest.raises(ConfigError, match="holds other runs"):
        plan(fractions="0.1,1", run_dir=several)
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        plan("train.seeds=[1,2]", "optim.lr=1", run_dir=several)


def test_where_one_run_is_asked_for_those_of_a_directory_are_named() -> None:
    sweep = plan("train.seeds=[1,2]")
    write_sweep(sweep)
    with pytest.raises(ConfigError, match=r"holds several runs; name one, such as .*/seed-1; mean and spread"):
        refuse_sweep(sweep.sweep_dir)
    refuse_sweep(sweep.points[0].run_dir)


def test_a_sweep_of_a_recipe_with_seeds_trains_each_point_with_each() -> None:
    sweep = plan_sweep(RECIPE, ["train.seeds=[1,2]"], None, grid(["optim.lr=1e-5,2e-5"]))
    assert [point.overrides for point in sweep.points] == [
        ("optim.lr=1e-5", "train.seed=1"),
        ("optim.lr=1e-5", "train.seed=2"),
        ("optim.lr=2e-5", "train.seed=1"),
        ("optim.lr=2e-5", "train.seed=2"),
    ]
    assert [point.run_dir.name for point in sweep.points] == ["0", "1", "2", "3"]
