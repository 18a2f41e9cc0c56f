"""Passes the events of a run to an open W&B run: the same way while it trains and when it is uploaded later."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import DATA, EXPORT, FACTS
from shardtune.run_dir.quality.retention import retention_sets
from shardtune.run_dir.quality.worst_rows import read_worst_rows
from shardtune.trainer.reporting.wandb_run.keys import AXES, Row, Rows, best_key
from shardtune.trainer.reporting.wandb_run.session import Session, wandb_id
from shardtune.trainer.reporting.wandb_run.tables import BEFORE_AFTER, RETAINED, WORST, Tables, worst_table


class Feed:
    """Takes the events of a run in their order."""

    def __init__(self, recipe: Recipe, run_dir: Path) -> None:
        self._recipe, self._run_dir = recipe, run_dir
        self._rows = Rows()
        self._tables = Tables()
        self.ended: str | None = None
        """`done` or `stopped`, if the newest start said how it ended."""
        self.last_step = 0

    def catch_up(self, session: Session, events: list[dict[str, Any]]) -> None:
        """Takes the events of earlier starts. A server gets those that it has not got from these starts; an offline
        log is of one start only."""
        for event in events:
            if session.mode == "online":
                self.pass_on(session, event["event"], event, alerts=False)
                continue
            self._follow(event["event"], event)
            self._rows.add(event["event"], event)
            self._tables.of(event["event"], event)

    def rolled_back(self, step: int) -> None:
        """Takes note that the training goes back to a step."""
        self._rows.rolled_back(step)

    def pass_on(self, session: Session, event: str, values: Mapping[str, Any], *, alerts: bool = True) -> bool:
        """Passes an event to W&B; returns whether it became a row that W&B had not got. Without `alerts` nobody is
        alerted."""
        self._follow(event, values)
        row = self._rows.add(event, values)
        media = self._tables.of(event, values)
        if event == "start" and media and not values.get("step"):
            row = Row(0, dict.fromkeys(AXES, 0))  # the one before every step
        if row is not None:
            return session.log(row, media)
        if event == "environment":
            session.configure({"environment": _without_event(values)})
        elif event == "time_use":
            session.summarize({f"time/{key}": value for key, value in _without_event(values).items()})
        elif event == "alert" and alerts:
            session.alert(values["title"], values["text"])
        elif event == "stopped" and alerts:
            why = values["reason"] or "it was asked to"
            session.alert("the run was stopped", f"at step {values['step']}: {why}", is_last=True)
        elif event == "done":
            self._finish(session, values)
        return False

    def _follow(self, event: str, values: Mapping[str, Any]) -> None:
        if event in ("done", "stopped", "begin"):
            self.ended = None if event == "begin" else event
        elif event == "step":
            self.last_step = int(values["step"])
        elif event == "start":
            self._tables.label_names = _label_names(self._run_dir)

    def _finish(self, session: Session, results: Mapping[str, Any]) -> None:
        """Passes on what is known at the end only."""
        numbers = {
            f"best/{split}/{key}": value
            for split in ("dev", "test")
            for key, value in (results.get(split) or {}).items()
            if isinstance(value, int | float)
        }
        numbers |= {best_key(each): each.best for each in retention_sets([], results) if each.best is not None}
        session.summarize({"best/step": results.get("best_step"), **numbers})
        tables = {
            BEFORE_AFTER: self._tables.before_after(),
            RETAINED: self._tables.retained(results),
            WORST: worst_table(read_worst_rows(self._run_dir, self._recipe)),
        }
        if media := {key: table for key, table in tables.items() if table is not None}:
            session.log(self._rows.extra(), media)
        name = f"run-{wandb_id(self._run_dir)}"
        if "model" in self._recipe.report.artifacts and (self._run_dir / EXPORT / "best").is_dir():
            session.add_files(f"{name}-model", "model", self._run_dir / EXPORT / "best", numbers)
        if "data" in self._recipe.report.artifacts and (self._run_dir / DATA).is_file():
            session.add_files(f"{name}-data", "dataset", self._run_dir / DATA, {"kind": "fingerprints"})


def _without_event(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("event", "time")}


def _label_names(run_dir: Path) -> list[str] | None:
    """The names of the labels, by the task's facts; None for a task without labels."""
    try:
        names = json.loads((run_dir / FACTS).read_text(encoding="utf-8")).get("label_names")
    except (OSError, ValueError, AttributeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
