"""What a training begins with: random weights and an evaluation before the first step, if the recipe asks for them."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from shardtune.errors import ConfigError
from shardtune.trainer.between_steps.milestones import Milestones
from shardtune.trainer.between_steps.stop_checks import StopChecks
from tests.support.runs import curve, events, tiny_recipe, train

SHORT = "train={global_batch_size: 12, max_steps: 4, eval_every_steps: 2}"
HEAD = ("event", "time", "split", "step")
FROM_SCRATCH = "model.from_scratch=true"
AT_START = "train={global_batch_size: 12, max_steps: 4, eval_every_steps: 2, eval_at_start: true}"


def stop_after(num_steps: int) -> Callable[[], None]:
    def before() -> None:
        asked = count(1)
        StopChecks.requested = lambda self: next(asked) >= num_steps  # type: ignore[method-assign]

    return before


@pytest.fixture(scope="module")
def scratch(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float, float]]:
    """The curve of one rank that begins with random weights."""
    return curve(train(tiny_recipe(tiny, SHORT, FROM_SCRATCH), tmp_path_factory.mktemp("one"), world_size=1)[1])


@pytest.mark.parametrize(("world_size", "stage"), [(2, 2), (2, 3)])
def test_random_weights_are_the_same_on_any_number_of_ranks_and_stage(
    tiny: Path, tmp_path: Path, scratch: list[tuple[int, float, float]], world_size: int, stage: int
) -> None:
    recipe = tiny_recipe(tiny, SHORT, FROM_SCRATCH, f"engine.deepspeed=zero{stage}")
    sharded = curve(train(recipe, tmp_path, world_size=world_size)[1])
    for (_, loss, norm), (_, sharded_loss, sharded_norm) in zip(scratch, sharded, strict=True):
        assert sharded_loss == pytest.approx(loss, rel=1e-4)
        assert sharded_norm == pytest.approx(norm, rel=1e-3)


def test_random_weights_are_not_the_pretrained_ones_and_follow_the_seed(
    tiny: Path, tmp_path: Path, scratch: list[tuple[int, float, float]]
) -> None:
    pretrained = tiny_recipe(tiny, SHORT)
    other_seed = tiny_recipe(tiny, SHORT, FROM_SCRATCH, "train.seed=1")
    losses = [
        curve(train(recipe, tmp_path / name, world_size=1)[1])[0][1]
        for name, recipe in (("pretrained", pretrained), ("seed", other_seed))
    ]
    assert len({round(loss, 4) for loss in [*losses, scratch[0][1]]}) == 3


def test_an_evaluation_at_the_start_is_kept_and_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    without = train(tiny_recipe(tiny, SHORT), tmp_path / "without", world_size=2)[1]
    recipe = tiny_recipe(tiny, AT_START)
    assert train(recipe, tmp_path / "with", world_size=2, before=stop_after(1))[0] == [False, False]
    assert train(recipe, tmp_path / "with", world_size=2)[0] == [True, True]
    assert curve(events(tmp_path / "with")) == curve(without)
    evaluations = events(tmp_path / "with", "eval")
    assert [(event["split"], event["step"]) for event in evaluations] == [
        ("dev", 0),
        ("dev", 2),
        ("dev", 4),
        ("test", 4),
    ]
    results = json.loads((tmp_path / "with" / "results.json").read_text())
    best = evaluations[results["best_step"] // 2]
    for name, event in (("dev_at_start", evaluations[0]), ("dev", best), ("test", evaluations[3])):
        assert results[name] == {key: value for key, value in event.items() if key not in HEAD}


def test_an_evaluation_that_is_done_again_is_reported_once(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, AT_START)

    def break_off() -> None:
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("broken off before the first checkpoint")

        Milestones.step_done = broken  # type: ignore[assignment]

    with pytest.raises(AssertionError, match="broken off"):
        train(recipe, tmp_path, world_size=1, before=break_off)
    assert len(events(tmp_path, "eval")) == 1
    train(recipe, tmp_path, world_size=1)
    assert [event["step"] for event in events(tmp_path, "eval")] == [0, 2, 4, 4]


def test_an_evaluation_at_the_start_needs_dev() -> None:
    with pytest.raises(ConfigError, match=r"train\.eval_at_start: no data\.dev to evaluate on"):
        tiny_recipe(Path("x"), "data.dev=null", AT_START)
