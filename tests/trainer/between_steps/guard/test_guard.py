"""Non-finite steps change no weight and name their rows; a loss spike can be rolled back."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import shardtune.trainer.run
from shardtune.trainer.between_steps.milestones import Milestones
from shardtune.trainer.checkpoint.manifest import complete_checkpoints
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from tests.support.runs import curve, events, tiny_recipe, train, write_tiny
from tests.support.stops import stop_after
from tests.support.tiny import poison


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in which two rows of one step, lines 3 and 67, give a loss of nan."""
    folder = write_tiny(tmp_path_factory.mktemp("poisoned"))
    poison(folder / "encoder")
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    for number in (3, 67):
        lines[number - 1] = json.dumps({"text": "the [MASK] was", "label": "negative"})
    (folder / "train.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "export" / "last" / "model.safetensors")


SHORT = ("train.num_epochs=1", "data.dev=null", "data.test=null", "data.length_window=6")


@pytest.mark.parametrize(
    ("strategy", "precision"),
    [
        ("null", "fp32"),
        ("null", "bf16"),
        ("zero0", "fp32"),
        ("zero0", "bf16"),
        ("zero1", "bf16"),
        ("zero2", "fp32"),
        ("zero3", "bf16"),
    ],
)
def test_a_row_with_a_loss_of_nan_changes_no_weight_and_is_named(
    poisoned: Path, tmp_path: Path, strategy: str, precision: str
) -> None:
    settings = (*SHORT, f"engine.deepspeed={strategy}", f"engine.precision={precision}")
    ended, reported = train(tiny_recipe(poisoned, *settings), tmp_path, world_size=2)
    assert ended == [True, True]
    bad = [event for event in reported if event["event"] == "step" and event["skipped_steps"]]
    good = [event for event in reported if event["event"] == "step" and not event["skipped_steps"]]
    assert 1 <= len(bad) <= 2 and len(good) == 6 - len(bad)
    assert all(event["loss"] is None for event in bad) and all(event["loss"] > 0 for event in good)
    named = [json.loads(line) for line in (tmp_path / "logs" / "bad_rows.jsonl").read_text().splitlines()]
    assert sorted(row["place"] for row in named) == [f"{poisoned}/train.jsonl:{number}" for number in (3, 67)]
    assert {row["step"] for row in named} == {event["step"] for event in bad}
    assert {row["loss"] for row in named} == {"nan"}
    alerts = [event["text"] for event in reported if event["event"] == "alert"]
    assert len(alerts) == len(bad) and all("train.jsonl:" in text for text in alerts)
    num_non_finite = sum(int((~weight.isfinite()).sum()) for weight in weights(tmp_path).values())
    assert num_non_finite == 32, "except for the embedding of the word itself"


def test_without_the_guard_one_such_row_ruins_the_model(poisoned: Path, tmp_path: Path) -> None:
    """The negative control: ZeRO-0 in fp32, where DeepSpeed does not check for itself."""

    def blind() -> None:
        DeepSpeedEngine._own_grad_norm = lambda self: 1.0  # type: ignore[method-assign]

    train(
        tiny_recipe(poisoned, *SHORT, "engine.deepspeed=zero0", "faults.max_bad_steps=9"),
        tmp_path,
        world_size=1,
        before=blind,
    )
    ruined = {name for name, weight in weights(tmp_path).items() if not bool(weight.isfinite().all())}
    assert len(ruined) > 10


def test_too_many_bad_steps_in_a_row_end_the_run_with_a_checkpoint_from_before(poisoned: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(poisoned, *SHORT, "faults.max_bad_steps=1")
    with pytest.raises(
        AssertionError, match=r"1 step in a row .* had a non-finite loss.*Rows with a non-finite loss: .*train\.jsonl:"
    ):
        train(recipe, tmp_path, world_size=2)
    last_good = events(tmp_path, "step")[-1]["step"]
    (checkpoint,) = complete_checkpoints(tmp_path / "checkpoints")
    assert (checkpoint.step, checkpoint.manifest.state.bad_in_a_row) == (last_good, 0)
    assert 0 < last_good < 6


def test_an_infinite_loss_has_no_gradient_even_where_one_could_be_had(tiny: Path, tmp_path: Path) -> None:
    """The loss of a target with probability 0 is infinite, its gradient is not."""

    def infinite() -> None:
        backward = DeepSpeedEngine.backward

        def spoiled(self, loss_sum, *, num_targets):  # type: ignore[no-untyped-def]
            backward(self, loss_sum + math.inf, num_targets=num_targets)

        DeepSpeedEngine.backward = spoiled  # type: ignore[method-assign]

    with pytest.raises(AssertionError, match="No single row of this step gives a non-finite loss"):
        train(tiny_recipe(tiny, "train.max_steps=4", "data.dev=null"), tmp_path, world_size=2, before=infinite)
    assert [event["skipped_steps"] for event in events(tmp_path, "step")] == [1, 1]


LONG = ("train.num_epochs=4", "checkpoint.every_steps=5", "data.test=null", "data.dev=null", "faults.on_spike=rollback")


def spikes_at(number: int, *, stop_at: int | None = None) -> Callable[[], None]:
    """Makes the loss of the step of this number a hundred times as high, whenever it is trained on."""

    def before() -> None:
        step_done = Milestones.step_done

        def jumping(self, state, step, stats, *, loss):  # type: ignore[no-untyped-def]
            return step_done(self, state, step, stats, loss=loss * (100 if step.number == number else 1))

        Milestones.step_done = jumping  # type: ignore[method-assign]
        if stop_at is not None:
            stop_after(stop_at)()

    return before


def skips(number: int) -> Callable[[], None]:
    def before() -> None:
        shardtune.trainer.run.TrainState = lambda: TrainState(left_out=(number,))  # type: ignore[misc,assignment]

    return before


def test_a_rollback_ends_where_a_run_without_the_batch_does(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, *LONG)
    # Of 24 steps: rolled back from 19 to 15, stopped after five more, and resumed.
    assert train(recipe, tmp_path / "spiky", world_size=2, before=spikes_at(18, stop_at=24))[0] == [False, False]
    assert complete_checkpoints(tmp_path / "spiky" / "checkpoints")[-1].manifest.state.left_out == (18,)
    assert train(recipe, tmp_path / "spiky", world_size=2, before=spikes_at(18))[0] == [True, True]
    alerts = [(event["step"], event["title"]) for event in events(tmp_path / "spiky", "alert")]
    assert alerts == [(19, "loss spike at step 19"), (19, "rolled back to step 15")]
    train(recipe, tmp_path / "without", world_size=2, before=skips(18))
    spiky, without = (curve(events(tmp_path / name)) for name in ("spiky", "without"))
    assert [step for step, *_ in spiky] == [*range(1, 25)]
    assert spiky == without
    assert spiky[18][1] is None
    after_rollback, expected = (weights(tmp_path / name) for name in ("spiky", "without"))
    assert all(torch.equal(after_rollback[name], expected[name]) for name in expected)


def test_a_spike_that_is_only_flagged_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, *LONG, "faults.on_spike=alert")
    ended, reported = train(recipe, tmp_path, world_size=1, before=spikes_at(18))
    assert ended == [True]
    (alert,) = (event for event in reported if event["event"] == "alert")
    assert alert["title"] == "loss spike at step 19"


def test_a_run_that_is_rolled_back_again_and_again_ends(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, *LONG, "faults.max_rollbacks=2")

    def ever_higher() -> None:
        step_done = Milestones.step_done

        def jumping(self, state, step, stats, *, loss):  # type: ignore[no-untyped-def]
            return step_done(self, state, step, stats, loss=loss * (100 if step.number > 15 else 1))

        Milestones.step_done = jumping  # type: ignore[method-assign]

    with pytest.raises(AssertionError, match=r"loss spike at step 19 after 2 rollbacks"):
        train(recipe, tmp_path, world_size=1, before=ever_higher)
