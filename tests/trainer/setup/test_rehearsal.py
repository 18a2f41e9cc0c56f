"""With `train.micro_batch_tokens: auto` a lack of memory is found at the start, and costs a start and nothing else."""

from pathlib import Path

import pytest

from shardtune.run_dir.micro_batch_budget import KeptBudget, keep_budget, read_budget
from tests.support.runs import curve, events, tiny_recipe, train, write_tiny
from tests.support.shortage import short_of_memory
from tests.support.stops import stop_after

Curve = list[tuple[int, float, float]]
AUTO = "train.micro_batch_tokens=auto"
SHORT = ("train.max_steps=4", "data.dev=null", "data.test=null", "checkpoint.every_steps=1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With dropout, so that random numbers count."""
    return write_tiny(tmp_path_factory.mktemp("dropout"), dropout=0.1)


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without it, for another cut draws other masks."""
    return write_tiny(tmp_path_factory.mktemp("dry"))


@pytest.fixture(scope="module")
def given(dry: Path, tmp_path_factory: pytest.TempPathFactory) -> Curve:
    """The curve of a run on it whose number is given, and large."""
    return curve(train(tiny_recipe(dry, *SHORT), tmp_path_factory.mktemp("given"), world_size=2)[1])


def kept(run_dir: Path) -> KeptBudget:
    budget = read_budget(run_dir)
    assert budget is not None
    return budget


def notices(run_dir: Path) -> list[str]:
    return [event["text"] for event in events(run_dir, "notice")]


def saved(run_dir: Path) -> dict[str, bytes]:
    """Weights and optimizer states of the last checkpoint."""
    return {path.name: path.read_bytes() for path in (run_dir / "checkpoints" / "step-4").glob("*.safetensors")}


def assert_close(one: Curve, other: Curve) -> None:
    assert [step for step, _, _ in one] == [step for step, _, _ in other] == [1, 2, 3, 4]
    for (_, loss, norm), (_, other_loss, other_norm) in zip(one, other, strict=True):
        assert loss == pytest.approx(other_loss, rel=1e-4)
        assert norm == pytest.approx(other_norm, rel=1e-3)


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "bf16"), (2, "bf16"), (3, "fp32")])
def test_a_run_that_was_rehearsed_is_bit_for_bit_the_one_that_was_not(
    tiny: Path, tmp_path: Path, stage: int, precision: str
) -> None:
    layout = (*SHORT, f"engine.deepspeed=zero{stage}", f"engine.precision={precision}")
    train(tiny_recipe(tiny, AUTO, *layout), tmp_path / "auto", world_size=2)
    number = kept(tmp_path / "auto")
    assert number.fits and number.tokens > 64
    assert notices(tmp_path / "auto") == [f"train.micro_batch_tokens: auto is {number.tokens}"]
    recipe = tiny_recipe(tiny, f"train.micro_batch_tokens={number.tokens}", *layout)
    train(recipe, tmp_path / "number", world_size=2)
    assert not notices(tmp_path / "number") and read_budget(tmp_path / "number") is None
    assert curve(events(tmp_path / "auto")) == curve(events(tmp_path / "number"))
    assert len(saved(tmp_path / "auto")) == 4
    assert saved(tmp_path / "auto") == saved(tmp_path / "number")


def test_a_rehearsal_that_is_not_undone_is_seen(tiny: Path, tmp_path: Path) -> None:
    def not_undone() -> None:
        from shardtune.trainer.engine import zero_layout as zero

        zero.forget_steps = lambda engine: None

    train(tiny_recipe(tiny, AUTO, *SHORT), tmp_path / "one", world_size=1, before=not_undone)
    number = f"train.micro_batch_tokens={kept(tmp_path / 'one').tokens}"
    train(tiny_recipe(tiny, number, *SHORT), tmp_path / "other", world_size=1)
    assert curve(events(tmp_path / "one")) != curve(events(tmp_path / "other"))


def test_one_rank_short_of_memory_at_the_start_halves_it_for_all(tmp_path: Path, dry: Path, given: Curve) -> None:
    recipe = tiny_recipe(dry, AUTO, *SHORT)
    message = r"RestartError: rank 1 ran out of memory in a micro-batch of \d+ rows x \d+ tokens: it requested 1\.61 GB"
    with pytest.raises(AssertionError, match=message):
        train(recipe, tmp_path, world_size=2, before=short_of_memory(100))
    assert not events(tmp_path, "start", "step")
    half = kept(tmp_path)
    assert 64 <= half.tokens <= 100 < (half.too_many or 0) and not half.fits
    train(recipe, tmp_path, world_size=2, before=short_of_memory(100))
    assert notices(tmp_path) == [
        f"train.micro_batch_tokens: auto is {half.tokens} (memory ran out with {half.too_many})"
    ]
    assert_close(curve(events(tmp_path)), given)


def test_one_rank_short_of_memory_in_the_middle_goes_on_from_the_newest_checkpoint_with_half(
    tmp_path: Path, dry: Path, given: Curve
) -> None:
    recipe = tiny_recipe(dry, AUTO, *SHORT)
    with pytest.raises(AssertionError, match="RestartError: rank 1"):
        train(recipe, tmp_path, world_size=2, before=short_of_memory(100, from_call=5))
    half = kept(tmp_path)
    assert 64 <= half.tokens <= 100 < (half.too_many or 0) and not half.fits
    train(recipe, tmp_path, world_size=2, before=short_of_memory(100))
    first, second = events(tmp_path, "start")
    assert first["step"] == 0 < second["step"]
    assert kept(tmp_path) == KeptBudget(half.tokens, fits=True, too_many=half.too_many)
    assert_close(curve(events(tmp_path)), given)


def test_what_does_not_fit_with_the_longest_row_alone_ends_with_what_would(tmp_path: Path, dry: Path) -> None:
    keep_budget(tmp_path, KeptBudget(64, fits=False, too_many=100))
    with pytest.raises(AssertionError, match="ShortOfMemoryError: rank 1") as raised:
        train(tiny_recipe(dry, AUTO, *SHORT), tmp_path, world_size=2, before=short_of_memory(0))
    assert "By estimate, each of these alone would fit" in str(raised.value)
    assert kept(tmp_path) == KeptBudget(64, fits=False, too_many=100)


def test_a_run_that_goes_on_keeps_its_number_and_ends_bit_for_bit_as_the_unbroken_one(
    tiny: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tiny, AUTO, *SHORT)
    for name in ("unbroken", "broken"):  # less than would be estimated
        (tmp_path / name).mkdir()
        keep_budget(tmp_path / name, KeptBudget(70, fits=True))
    train(recipe, tmp_path / "unbroken", world_size=2, before=short_of_memory(70))
    ended, _ = train(recipe, tmp_path / "broken", world_size=2, before=stop_after(2))
    assert ended == [False, False]
    assert train(recipe, tmp_path / "broken", world_size=2, before=short_of_memory(70))[0] == [True, True]
    assert notices(tmp_path / "broken") == []
    assert kept(tmp_path / "broken") == KeptBudget(70, fits=True)
    assert curve(events(tmp_path / "broken")) == curve(events(tmp_path / "unbroken"))
    assert saved(tmp_path / "broken") == saved(tmp_path / "unbroken")
