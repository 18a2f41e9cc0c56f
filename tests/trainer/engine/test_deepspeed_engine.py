"""What DeepSpeed does besides computing steps is kept in check."""

from pathlib import Path

import pytest

from tests.support.runs import tiny_recipe, train


@pytest.mark.parametrize("stage", [2, 3])
def test_nothing_is_compiled_for_a_training(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    """It would take minutes, and a rank that is killed meanwhile leaves a lock that all later ones wait for."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    recipe = tiny_recipe(tiny, f"engine.deepspeed=zero{stage}", "train.max_steps=1")
    assert train(recipe, tmp_path, world_size=2)[0] == [True, True]
    assert not (tmp_path / "extensions").exists()
