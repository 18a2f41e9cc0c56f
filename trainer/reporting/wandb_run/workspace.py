"""A workspace of a W&B project that shows the sections of our runs, with the charts that are looked at first on top."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardtune.errors import LaunchError
from shardtune.run_dir.files import RESULTS, read_events
from shardtune.run_dir.quality.retention import retention_sets
from shardtune.run_dir.run import read_config
from shardtune.trainer.reporting.wandb_run.choice import choose_wandb
from shardtune.trainer.reporting.wandb_run.keys import AXES, Rows, best_key
from shardtune.trainer.reporting.wandb_run.session import default_entity

NAME = "shardtune"
RETENTION = "retention"
SECTIONS = ("eval", "train", RETENTION, "perf", "memory", "ranks", "faults")
"""In the order in which they are shown; those that a run has no key of are left out."""
OPEN = ("eval", "train")


def panels_of(run_dir: Path) -> dict[str, list[list[str]]]:
    """Section -> the panels in it, each a list of keys that are drawn over each other: a metric of all splits is one
    panel. By the rows that the run has in metrics.jsonl."""
    rows = Rows()
    keys: dict[str, None] = {}
    for event in read_events(run_dir):
        if (row := rows.add(event["event"], event)) is not None:
            keys |= {key: None for key, value in row.values.items() if not isinstance(value, str) and key not in AXES}
    panels: dict[str, dict[str, list[str]]] = {}
    for key in keys:
        section, _, rest = key.partition("/")
        panels.setdefault(section, {}).setdefault(rest.rpartition("/")[2], []).append(key)
    return {section: list(panels[section].values()) for section in SECTIONS if section in panels}


def trade_offs_of(run_dir: Path) -> list[tuple[str, str]]:
    """(metric on dev, metric of a retention set) of the exported models, as keys of the summary: a drawing for each
    set, in which each run is a point. By the newest results of the run; empty without any."""
    try:
        results = json.loads((run_dir / RESULTS).read_text(encoding="utf-8"))
        target = results["chosen_by"]["metric"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [(f"best/dev/{target}", best_key(each)) for each in retention_sets([], results)]


def build_workspace(
    entity: str, project: str, panels: dict[str, list[list[str]]], trade_offs: Sequence[tuple[str, str]] = ()
) -> Any:
    """The workspace, not saved yet. Raises LaunchError without the package wandb-workspaces."""
    try:
        reports: Any = importlib.import_module("wandb_workspaces.reports.v2")
        workspaces: Any = importlib.import_module("wandb_workspaces.workspaces")
    except ImportError:
        raise LaunchError(
            "--workspace needs the package wandb-workspaces: pip install 'shardtune[workspaces]'"
        ) from None

    def chart(keys: Sequence[str]) -> Any:
        return reports.LinePlot(
            title=keys[0] if len(keys) == 1 else keys[0].rpartition("/")[2], x=AXES[0], y=list(keys)
        )

    def drawing(target: str, retained: str) -> Any:
        x, y = (reports.SummaryMetric(key) for key in (target, retained))
        return reports.ScatterPlot(title=f"{retained.removeprefix('best/')} against {target}", x=x, y=y)

    drawn = {section: [chart(keys) for keys in charts] for section, charts in panels.items()}
    if trade_offs:
        drawn[RETENTION] = [*(drawing(*keys) for keys in trade_offs), *drawn.get(RETENTION, [])]
    sections = [
        workspaces.Section(name=section, panels=shown, is_open=section in OPEN) for section, shown in drawn.items()
    ]
    return workspaces.Workspace(name=NAME, entity=entity, project=project, sections=sections)


def save_workspace(run_dir: Path) -> str:
    """The address of the workspace, saved in the W&B project of a run. Raises LaunchError, and what wandb raises."""
    choice = choose_wandb(read_config(run_dir), run_dir)
    entity = choice.entity or default_entity()
    if not entity:
        raise LaunchError("--workspace: W&B does not say whose project it is; set report.entity or WANDB_ENTITY")
    workspace = build_workspace(entity, choice.project, panels_of(run_dir), trade_offs_of(run_dir))
    workspace.save()
    return str(workspace.url)
