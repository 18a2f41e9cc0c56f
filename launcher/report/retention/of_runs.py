"""What several runs retain of other skills beside what they learn: a row for each run, a drawing for each set."""

from collections.abc import Sequence

from markupsafe import Markup

from shardtune.launcher.report.parts import Figure, Part, Table
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.scatter import Path, render_scatter
from shardtune.launcher.report.sections.numbers import shown
from shardtune.metrics.numbers import change_text
from shardtune.run_dir.quality.retention import RetentionSet, TradeOff, targets_of
from shardtune.run_dir.view.curves import bounds_of


def retained_by_runs(
    names: Sequence[str], records: Sequence[RunRecord], colours: Sequence[str], target: str | None
) -> list[Part]:
    """The table and the drawings; empty without retention sets. `target` is the metric on dev that was learned."""
    table = table_of_runs(names, records, colours, target)
    if table is None:
        return []
    drawings = drawings_of_sets(names, records, colours, target) if target is not None else []
    return [table, *([Figure(drawings)] if drawings else [])]


def table_of_runs(
    names: Sequence[str], records: Sequence[RunRecord], colours: Sequence[str], target: str | None
) -> Table | None:
    """The target metric of each run, and its metric on each set with the change since before training; None without
    sets."""
    keys = _keys(records)
    if not keys:
        return None
    rows = []
    for name, record in zip(names, records, strict=True):
        found = _by_key(record)
        rows.append((name, shown(record.scores("dev").get(target or "")), *(_cell(found.get(key)) for key in keys)))
    head = ("run", f"dev {target}", *(f"{name} {metric}" for name, metric in keys))
    note = "In brackets: the change since before training. Of runs that have not finished, the newest evaluation."
    return Table("What is retained of other skills", head, rows, has_row_heads=True, note=note, colours=colours)


def drawings_of_sets(
    names: Sequence[str], records: Sequence[RunRecord], colours: Sequence[str], target: str
) -> list[str]:
    """For each set an <svg> of its metric against the target metric, with a path for each run."""
    drawings = []
    for key in _keys(records):
        paths = [
            Path(name, _points(record, key, target), colour)
            for name, record, colour in zip(names, records, colours, strict=True)
        ]
        title = f"{key[0]} {key[1]} against dev {target}"
        drawings.append(render_scatter(title, f"dev {target}", key[1], paths, bounds_of(target), bounds_of(key[1])))
    return [Markup(drawing) for drawing in drawings if drawing]


def _points(record: RunRecord, key: tuple[str, str], target: str) -> list[TradeOff]:
    found = _by_key(record).get(key)
    if found is None:
        return []
    best_step = (record.results or {}).get("best_step")
    return found.trade_off(targets_of(record.history.events, target, record.results), best_step)


def _by_key(record: RunRecord) -> dict[tuple[str, str], RetentionSet]:
    return {(each.name, each.metric): each for each in record.retention}


def _keys(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """(set, metric) of all runs."""
    return list(dict.fromkeys(key for record in records for key in _by_key(record)))


def _cell(found: RetentionSet | None) -> str:
    if found is None:
        return ""
    change = f" ({change_text(found.change)})" if found.change is not None else ""
    return f"{shown(found.now)}{change}"
