"""The promise of `make demo`, on the real model and the real reviews."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from demo import sentiment

ROOT = Path(__file__).parents[2]
FROZEN_PROBE = 0.790
"""Test accuracy of a logistic regression on the frozen encoder (benchmarks/frozen_probe.py)."""


@pytest.mark.timeout(1200)
def test_the_sentiment_recipe_beats_the_frozen_encoder(tmp_path: Path) -> None:
    assert sentiment.main() == 0
    command = [sys.executable, "-m", "shardtune.launcher", "run", "recipes/sentiment.yaml", f"--run-dir={tmp_path}"]
    completed = subprocess.run(
        [*command, "report.wandb=disabled"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    accuracy = json.loads((tmp_path / "results.json").read_text())["test"]["accuracy"]
    assert accuracy >= 0.85 > FROZEN_PROBE
    assert "<svg" in (tmp_path / "report.html").read_text()

    classify = transformers.pipeline("text-classification", model=str(tmp_path / "export" / "best"))
    answers = classify(["One of the best films of the year.", "Dull and far too long."])
    assert [answer["label"] for answer in answers] == ["positive", "negative"]
