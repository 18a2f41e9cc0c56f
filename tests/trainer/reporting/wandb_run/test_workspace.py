"""The workspace, as it would be saved."""

import json
from pathlib import Path

from shardtune.trainer.reporting.wandb_run.workspace import build_workspace, panels_of

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
