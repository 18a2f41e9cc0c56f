"""Runs as Markdown for a pull request: summary, results and settings; without links, and nobody is mentioned by it."""

import re
from collections.abc import Iterator, Sequence

from shardtune.launcher.report.comparison import (
    Comparison,
    differences_tables,
    results_table,
    retention_tables,
    seeds_tables,
    sentences,
)
from shardtune.launcher.report.parts import Table
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.retention.of_run import retention_table
from shardtune.launcher.report.sections.results import metrics_table, per_class_tables
from shardtune.launcher.report.sections.settings import key_settings
from shardtune.launcher.report.sections.summary import state, summary
from shardtune.launcher.report.sections.warnings import ALERT, warnings_of
from shardtune.launcher.report.templates import visible

MOST_ROWS = 40
MOST_WARNINGS = 20
_SPECIAL = re.compile(r"[\\`*_\[\]<>|#~$!]")
_LINKS = re.compile(r"(?<=[a-z])(?=://)|(?<=www)(?=\.)|(?=@)", re.IGNORECASE)
_NOTHING = "\u2060"
"""A word joiner: it is not seen, and ends what would be taken for a link or a name."""


def render_run(record: RunRecord) -> str:
    """One run."""
    parts = [f"## {escaped(record.name)}", escaped(state(record)), *map(escaped, summary(record))]
    found = [text for kind, text in warnings_of(record) if kind == ALERT]
    if found:
        parts.append("\n".join(["**Warnings**", "", *_listed(found)]))
    tables = [metrics_table(record), retention_table(record), *per_class_tables(record)]
    parts += [render_table(table) for table in tables if table is not None]
    if record.recipe is not None:
        rows = list(key_settings(record.recipe).items())
        parts.append(
            render_table(Table("Settings that differ from the defaults", ("key", "value"), rows), is_code=True)
        )
    return visible("\n\n".join(parts) + "\n")


def render_runs(comparison: Comparison) -> str:
    """Several runs."""
    parts = [f"## Comparison of {len(comparison.records)} runs", *map(escaped, sentences(comparison))]
    tables = [results_table(comparison), *retention_tables(comparison), *seeds_tables(comparison)]
    parts += [render_table(table) for table in tables]
    parts += [render_table(table, is_code=True) for table in differences_tables(comparison)]
    return visible("\n\n".join(parts) + "\n")


def _listed(texts: Sequence[str]) -> Iterator[str]:
    for text in texts[:MOST_WARNINGS]:
        yield f"- {escaped(text)}"
    if len(texts) > MOST_WARNINGS:
        yield f"- and {len(texts) - MOST_WARNINGS} more"


def render_table(table: Table, *, is_code: bool = False) -> str:
    """A table in GitHub's notation under its title; with `is_code` the cells after the first are code."""
    head = "| " + " | ".join(escaped(cell) for cell in table.head) + " |"
    line = "| " + " | ".join("---" if at == 0 or is_code else "---:" for at in range(len(table.head))) + " |"
    rows = [
        "| " + " | ".join(_code(cell) if is_code and at else escaped(cell) for at, cell in enumerate(row)) + " |"
        for row in table.rows[:MOST_ROWS]
    ]
    more = [f"\n{len(table.rows) - MOST_ROWS} more rows are not shown."] if len(table.rows) > MOST_ROWS else []
    note = [f"\n{escaped(table.note)}"] if table.note else []
    return "\n".join([f"**{escaped(table.title)}**", "", head, line, *rows, *more, *note])


def escaped(text: str) -> str:
    """The text on one line, in which nothing is markup, a link or a name."""
    plain = _SPECIAL.sub(lambda found: f"\\{found.group()}", " ".join(text.split()))
    return _LINKS.sub(_NOTHING, plain)


def _code(text: str) -> str:
    """The text as code in a cell of a table."""
    if not text:
        return ""
    # A bar ends a cell even in code; code that holds backticks needs more of them around it.
    plain = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    room = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{room}{plain}{room}{fence}"
