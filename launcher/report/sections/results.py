"""The results as tables: metrics with their intervals, per class, per entity, the confusion matrix."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shardtune.launcher.report.intervals import interval_of, is_confusion
from shardtune.launcher.report.parts import Table
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.sections.numbers import shown
from shardtune.launcher.report.sections.summary import main_metric
from shardtune.run_dir.view.curves import as_float, same_metrics

MOST_LABELS = 30
"""Of a confusion matrix with more labels the largest confusions are listed instead."""
MOST_CONFUSIONS = 40
MOST_ROWS = 500
"""A table of classes or entities has at most so many rows; the rest is in results.json."""
MOST_EVALUATIONS = 60
HIDDEN = ("confusion", "answers", "intervals", "thresholds")


def results(record: RunRecord) -> list[Table]:
    """The metrics, and the tables of the split that counts: test, or dev if there is no test split."""
    metrics = metrics_table(record)
    return [*([metrics] if metrics is not None else []), *_tables(record, _main_split(record))]


def evaluations(record: RunRecord) -> list[Table]:
    """All evaluations, and the tables of dev beside a test split."""
    listed = _evaluations(record.evaluations)
    more = _tables(record, "dev") if _main_split(record) != "dev" else []
    return [*([listed] if listed is not None else []), *more]


def _main_split(record: RunRecord) -> str:
    return "test" if record.scores("test") else "dev"


def _tables(record: RunRecord, split: str) -> list[Table]:
    """The tables of a split: classes, confusion matrix, whatever else has numbers by name."""
    scores = record.scores(split)
    tables = [_per_class(split, scores, record.facts), _confusion(split, scores, record.facts)]
    return [*(table for table in tables if table is not None), *_nested(split, scores)]


def metrics_table(record: RunRecord) -> Table | None:
    """Each metric that is one number, on each split, with its interval where there is one."""
    before = (record.results or {}).get("dev_at_start")
    columns: dict[str, Mapping[str, Any]] = {"dev before training": before} if isinstance(before, dict) else {}
    columns |= {split: scores for split in ("dev", "test") if (scores := record.scores(split))}
    if not columns:
        return None
    groups = dict.fromkeys(same_metrics(list(columns.values()))) | {("loss",): None}
    main = main_metric(record)
    rows = []
    for names in sorted(groups, key=lambda names: main not in names):
        cells = [_with_interval(names[0], scores) for scores in columns.values()]
        rows.append((" = ".join(names), *cells))
    note = "In brackets: 95% intervals." if any("[" in cell for row in rows for cell in row[1:]) else ""
    return Table("Metrics of the best model", ("metric", *columns), rows, has_row_heads=True, note=note)


def _with_interval(metric: str, scores: Mapping[str, Any]) -> str:
    if metric not in scores:
        return ""
    interval = interval_of(metric, scores)
    return shown(scores[metric]) + (f" [{shown(interval.low)}, {shown(interval.high)}]" if interval else "")


def _evaluations(evaluations: Sequence[Mapping[str, Any]]) -> Table | None:
    """All evaluations; of very many the first and the last ones."""
    groups = [("loss",), *same_metrics(evaluations)]
    kept, note = list(evaluations), ""
    if len(kept) > MOST_EVALUATIONS:
        half = MOST_EVALUATIONS // 2
        kept = [*kept[:half], *kept[-half:]]
        note = f"The first and the last {half} of {len(evaluations):,}; all are in metrics.jsonl."
    rows = [
        (str(event["split"]), f"{as_float(event['step']):,.0f}", *(shown(event.get(names[0])) for names in groups))
        for event in kept
    ]
    head = ("split", "step", *(" = ".join(names) for names in groups))
    return Table("Evaluations", head, rows, note=note) if rows else None


def _names(facts: Mapping[str, Any], number: int) -> list[str]:
    names = facts.get("label_names")
    return list(map(str, names)) if isinstance(names, list) and len(names) == number else list(map(str, range(number)))


def per_class_tables(record: RunRecord) -> list[Table]:
    """The classes and entity types on test, or on dev if there is no test split."""
    split = _main_split(record)
    classes = _per_class(split, record.scores(split), record.facts)
    return [*([classes] if classes is not None else []), *_nested(split, record.scores(split))]


def _per_class(split: str, scores: Mapping[str, Any], facts: Mapping[str, Any]) -> Table | None:
    """Precision, recall, F1 and support of each class, from the confusion matrix."""
    matrix = scores.get("confusion")
    if not is_confusion(matrix):
        return None
    found = [sum(column) for column in zip(*matrix, strict=True)]
    rows = []
    for at, name in enumerate(_names(facts, len(matrix))):
        hits, true = matrix[at][at], sum(matrix[at])
        rates = (hits / found[at] if found[at] else 0.0, hits / true if true else 0.0)
        f1 = 2 * hits / (true + found[at]) if true + found[at] else 0.0
        rows.append((name, *(shown(rate) for rate in (*rates, f1)), f"{true:,}", f"{found[at]:,}"))
    head = ("class", "precision", "recall", "F1", "true rows", "predicted rows")
    return _cut(Table(f"Classes on {split}", head, rows, has_row_heads=True))


def _confusion(split: str, scores: Mapping[str, Any], facts: Mapping[str, Any]) -> Table | None:
    """The matrix, shaded by the share of each true label's rows; of a large one the largest confusions."""
    matrix = scores.get("confusion")
    if not is_confusion(matrix):
        return None
    names, sums = _names(facts, len(matrix)), [sum(row) or 1 for row in matrix]
    if len(matrix) <= MOST_LABELS:
        rows = [(name, *(f"{cell:,}" for cell in row)) for name, row in zip(names, matrix, strict=True)]
        shades = [[cell / total for cell in row] for row, total in zip(matrix, sums, strict=True)]
        note = "Rows are true labels, columns predicted ones; the shade is the share of the true label's rows."
        head = ("true \\ predicted", *names)
        return Table(f"Confusion matrix on {split}", head, rows, has_row_heads=True, shades=shades, note=note)
    cells = [(cell, true, at) for true, row in enumerate(matrix) for at, cell in enumerate(row) if cell and true != at]
    cells = sorted(cells, reverse=True)[:MOST_CONFUSIONS]
    rows = [(names[true], names[at], f"{cell:,}", f"{cell / sums[true]:.1%}") for cell, true, at in cells]
    title = f"Largest confusions on {split}, of {len(matrix):,} labels"
    return Table(title, ("true label", "predicted label", "rows", "of the true label's rows"), rows, has_row_heads=True)


def _nested(split: str, scores: Mapping[str, Any]) -> Iterator[Table]:
    """A table for each entry with numbers by name: entity types, labels, languages, thresholds."""
    for key, values in scores.items():
        if not isinstance(values, Mapping) or (key in HIDDEN and key != "thresholds") or not values:
            continue
        title = f"{key.replace('_', ' ').capitalize()} on {split}"
        if all(isinstance(value, Mapping) for value in values.values()):
            heads = list(dict.fromkeys(head for value in values.values() for head in value))
            rows = [(str(name), *(shown(value.get(head)) for head in heads)) for name, value in values.items()]
            yield _cut(Table(title, ("", *heads), rows, has_row_heads=True))
        elif all(isinstance(value, int | float) for value in values.values()):
            rows = [(str(name), shown(value)) for name, value in values.items()]
            yield _cut(Table(title, ("", "value"), rows, has_row_heads=True))


def _cut(table: Table) -> Table:
    """The table with at most MOST_ROWS rows."""
    if len(table.rows) <= MOST_ROWS:
        return table
    note = f"The first {MOST_ROWS} of {len(table.rows):,} rows; all are in results.json."
    return Table(table.title, table.head, table.rows[:MOST_ROWS], has_row_heads=table.has_row_heads, note=note)
