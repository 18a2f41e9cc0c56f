"""The test rows with the highest loss: where labels are wrong, or where the model is."""

from shardtune.launcher.report.parts import Table
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.sections.numbers import shown


def worst_examples(record: RunRecord) -> list[Table]:
    """The rows with their places and texts; empty without test rows."""
    worst = record.worst_rows
    if not worst.rows:
        return []
    rows = [
        (shown(row.loss), *(row.values.get(column, "") for column in worst.columns), row.place) for row in worst.rows
    ]
    lost = sum(not row.values for row in worst.rows)
    note = f"Of {worst.num_rows:,} rows. A high loss may be a mistake of the model, or a wrong label."
    if lost:
        note += f" {lost} of these rows could not be read again from their files."
    head = ("loss", *worst.columns, "place")
    return [Table("Test rows with the highest loss", head, rows, holds_texts=True, note=note)]
