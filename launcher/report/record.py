"""A run directory -> all that a report is made of. What is missing or damaged is None."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shardtune.errors import ConfigError
from shardtune.home import expand_home
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.redaction import Redactor, redactor
from shardtune.run_dir.files import BLEND, CHECKPOINTS, CONFIG, DATA, FACTS, RESULTS
from shardtune.run_dir.quality.retention import RetentionSet, retention_sets
from shardtune.run_dir.quality.worst_rows import WorstRow, WorstRows, read_worst_rows
from shardtune.run_dir.view.event_lines import Event
from shardtune.run_dir.view.history import History, read_history
from shardtune.run_dir.view.plan_file import read_plan
from shardtune.run_dir.view.time_use import TimeUse, time_use

MANIFEST = "manifest.json"
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run directory holds."""

    name: str
    history: History
    run_dir: Path | None = None
    config: str = ""
    """The resolved recipe as YAML; empty if the file is missing."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] | None = None
    blend: Mapping[str, Any] = field(default_factory=dict)
    """What `shardtune blend` has found; empty if the run was not blended."""
    prepared: Mapping[str, Any] = field(default_factory=dict)
    """The meta.json of the prepared data, as long as these are in the cache."""
    prepared_folder: Path | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """That of the newest checkpoint, without its files."""
    fingerprint: str = ""
    """Of the prepared data."""
    worst_rows: WorstRows = field(default_factory=lambda: WorstRows([], 0))
    """The test rows with the highest loss."""

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe; None if it is of another version."""
        try:
            return parse_recipe(self.config, name=CONFIG)
        except ConfigError:
            return None

    @cached_property
    def start(self) -> Event | None:
        """The newest `start` event."""
        return next(reversed(self.history.of("start")), None)

    @cached_property
    def evaluations(self) -> list[Event]:
        """The `eval` events that say of what."""
        return [event for event in self.history.of("eval") if "split" in event and "step" in event]

    @cached_property
    def retention(self) -> list[RetentionSet]:
        """What became of each retention set."""
        state = self.manifest.get("state")
        best_step = state.get("best_step") if isinstance(state, dict) else None
        return retention_sets(self.history.of("retention"), self.results, best_step)

    @cached_property
    def time_use(self) -> TimeUse:
        """What the time of the whole life went to."""
        return time_use(self.history.events)

    @cached_property
    def last_step(self) -> int:
        """The newest step that was reported; 0 before the first."""
        steps = self.history.steps.get("step")
        return int(steps[-1]) if steps is not None and len(steps) else 0

    def scores(self, split: str) -> Mapping[str, Any]:
        """The metrics of the best model on dev or test, or of the newest evaluation of a run without results."""
        if self.results is not None and isinstance(self.results.get(split), dict):
            found: Mapping[str, Any] = self.results[split]
            return found
        newest = next((event for event in reversed(self.evaluations) if event["split"] == split), {})
        return {key: value for key, value in newest.items() if key not in ("event", "time", "split", "step")}


def read_record(run_dir: Path) -> RunRecord:
    """The record of a run directory. Raises OSError."""
    hidden = redactor()
    config, fingerprint = hidden.text(_text(run_dir / CONFIG)), _text(run_dir / DATA).partition("\n")[0].strip()
    history = read_history(run_dir)
    record = RunRecord(
        name=run_dir.absolute().name,
        history=replace(history, events=[hidden.value(event) for event in history.events]),
        run_dir=run_dir,
        config=config,
        facts=_json(run_dir / FACTS) or {},
        results=_json(run_dir / RESULTS),
        plan=read_plan(run_dir),
        blend=_json(run_dir / BLEND) or {},
        manifest=_newest_manifest(run_dir / CHECKPOINTS),
        fingerprint=fingerprint,
    )
    worst = read_worst_rows(run_dir, record.recipe)
    record = _with(record, worst_rows=replace(worst, rows=[_hidden_row(row, hidden) for row in worst.rows]))
    folder = _prepared_folder(record)
    meta = _json(folder / "meta.json") if folder is not None else None
    return record if meta is None else _with(record, prepared=meta, prepared_folder=folder)


def _hidden_row(row: WorstRow, hidden: Redactor) -> WorstRow:
    return replace(row, values=hidden.value(row.values))


def _with(record: RunRecord, **values: Any) -> RunRecord:
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return RunRecord(**{**fields, **values})


def _prepared_folder(record: RunRecord) -> Path | None:
    """The folder of the prepared data; None if it is not known."""
    # The fingerprint is hex digits: what somebody else wrote leads nowhere else.
    if record.recipe is None or not record.fingerprint.isalnum():
        return None
    try:
        return expand_home(record.recipe.data.cache_dir) / record.fingerprint
    except ConfigError:  # `~` without a home
        return None


def _newest_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest of the newest checkpoint says of the training; empty without one."""
    try:
        steps = [path for path in folder.iterdir() if path.name.removeprefix("step-").isdecimal()]
    except OSError:
        return {}
    for path in sorted(steps, key=lambda path: -int(path.name.removeprefix("step-"))):
        found = (_json(path / MANIFEST) or {}).get("checkpoint")
        if isinstance(found, dict):
            return {key: value for key, value in found.items() if key in ("state", "layout", "versions")}
    return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is none."""
    try:
        value = json.loads(text) if (text := _text(path)) else None
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
