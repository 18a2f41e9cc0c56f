"""`shardtune sync`, as far as no server is needed."""

from pathlib import Path

import pytest

from shardtune.recipe.load import parse_recipe, render_recipe
from shardtune.run_dir.files import CONFIG, METRICS
from shardtune.trainer.commands.sync import main
from tests.support.wandb_server import wandb_server

RECIPE = "task: {kind: classification}\nmodel: {path: m}\ndata: {train: t}\n"


def test_each_run_that_cannot_be_uploaded_is_named_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, trained = tmp_path / "empty", tmp_path / "trained"
    for folder in (empty, trained):
        folder.mkdir()
        (folder / CONFIG).write_text(render_recipe(parse_recipe(RECIPE)))
    (trained / METRICS).write_text('{"event": "begin", "time": 1.0}\n')
    with wandb_server("fails") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert main([str(tmp_path / "none"), str(empty), str(trained)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("uploading ")] == [
        f"{tmp_path / 'none'}: not a run directory (no config.yaml)",
        f"{empty}: nothing to upload yet; its metrics.jsonl has no event",
        f"W&B: {server.url} answers with 500; nothing was uploaded. Check WANDB_BASE_URL, and run this again",
    ]
    assert not (trained / "wandb").exists()
