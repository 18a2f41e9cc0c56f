"""The workspace, as it would be saved, and as a server gets it."""

import json
from pathlib import Path

import pytest

from shardtune.trainer.reporting.wandb_run.workspace import build_workspace, panels_of, save_workspace, trade_offs_of
from tests.support.retained_run import write_retained_run
from tests.support.wandb_server import wandb_server

EVENTS = [
    {"event": "begin", "time": 0.0},
    {"event": "step", "time": 1.0, "step": 1, "loss": 0.5, "tokens_per_s": 9.0, "slowest_host": "a", "memory_bytes": 7},
    {"event": "eval", "time": 2.0, "step": 1, "split": "dev", "loss": 0.5, "f1": 0.25},
    {"event": "eval", "time": 3.0, "step": 1, "split": "test", "loss": 0.5},
]


def test_each_section_has_a_panel_for_each_number_and_splits_share_theirs(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    panels = panels_of(tmp_path)
    assert panels == {
        "eval": [["eval/dev/loss", "eval/test/loss"], ["eval/dev/f1"]],
        "train": [["train/loss"]],
        "perf": [["perf/tokens_per_s"]],
        "memory": [["memory/bytes"]],
        "faults": [["faults/starts"]],
    }
    workspace = build_workspace("us", "ours", panels)
    spec = workspace._to_model().model_dump(mode="json", by_alias=True)  # what save() sends
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    shown = {section["name"]: [panel["config"]["metrics"] for panel in section["panels"]] for section in sections}
    assert shown["eval"] == [["eval/dev/loss", "eval/test/loss"], ["eval/dev/f1"]]
    assert [panel["config"]["xAxis"] for panel in sections[0]["panels"]] == ["step", "step"]
    assert (spec["entity"], spec["project"]) == ("us", "ours")


def test_retention_sets_share_panels_and_are_drawn_against_the_metric_of_dev(tmp_path: Path) -> None:
    run_dir = write_retained_run(tmp_path / "run")
    panels = panels_of(run_dir)
    assert panels["retention"] == [
        ["retention/news/loss", "retention/questions/loss", "retention/wiki/loss"],
        ["retention/news/accuracy", "retention/questions/accuracy"],
        ["retention/wiki/perplexity"],
    ]
    assert trade_offs_of(run_dir)[0] == ("best/dev/accuracy", "best/retention/news/accuracy")
    (run_dir / "results.json").unlink()
    assert trade_offs_of(run_dir) == []


def test_a_server_gets_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = write_retained_run(tmp_path / "run")
    for name, value in {"HOME": str(tmp_path), "WANDB_API_KEY": "0" * 40, "WANDB_PROJECT": "ours"}.items():
        monkeypatch.setenv(name, value)
    with wandb_server("good") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert save_workspace(run_dir).startswith(f"{server.url}/us/ours?nw=")
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("us", "ours", "shardtune")
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections if section["panels"]][:3] == ["eval", "train", "retention"]
    retention = next(section for section in sections if section["name"] == "retention")
    first = retention["panels"][0]
    axes = first["config"]["xAxis"], first["config"]["yAxis"]
    assert first["viewType"] == "Scatter Plot"
    assert axes == ("summary:best/dev/accuracy", "summary:best/retention/news/accuracy")
    assert [panel["viewType"] for panel in retention["panels"]] == ["Scatter Plot"] * 3 + ["Run History Line Plot"] * 3
