"""A run directory -> one HTML page: what was trained and how well, curves, results; a single file without links."""

from pathlib import Path

from shardtune.launcher.report.charts import axes_of, charts_of
from shardtune.launcher.report.parts import Listing, Section
from shardtune.launcher.report.record import RunRecord, read_record
from shardtune.launcher.report.retention.of_run import retained, retention_curves
from shardtune.launcher.report.sections.blending import blending
from shardtune.launcher.report.sections.data import data_card
from shardtune.launcher.report.sections.machine import environment, speed_line, time_parts
from shardtune.launcher.report.sections.results import evaluations, results
from shardtune.launcher.report.sections.samples import samples
from shardtune.launcher.report.sections.settings import reproduction, settings
from shardtune.launcher.report.sections.summary import key_figures, state, summary
from shardtune.launcher.report.sections.suspects import suspects
from shardtune.launcher.report.sections.warnings import warnings_of
from shardtune.launcher.report.sections.worst import worst_examples
from shardtune.launcher.report.templates import render_template
from shardtune.run_dir.files import REPORT, write_atomically
from shardtune.run_dir.view.curves import curves_of


def write_report(run_dir: Path, path: Path | None = None) -> Path:
    """Writes RUN_DIR/report.html, or another file, from what the directory holds so far; returns its path."""
    path = run_dir / REPORT if path is None else path
    write_atomically(path, render_page(read_record(run_dir)))
    return path


def render_page(record: RunRecord) -> str:
    """The page of one run."""
    curves = [*curves_of(record.history), *retention_curves(record)]
    charts = charts_of(curves, [axes_of(record.history)], [0 for curve in curves for _ in curve.lines])
    found = warnings_of(record)
    before = [
        Section("warnings", "Warnings and notices", [Listing(found)] if found else []),
        Section("results", "Results", results(record)),
        Section("retention", "Retention", retained(record)),
    ]
    after = [
        Section("evaluations", "Evaluations", evaluations(record)),
        Section("blending", "Between base and tuned", blending(record)),
        Section("time", "Where the time went", time_parts(record)),
        Section("samples", "Samples", samples(record)),
        Section("worst", "Worst examples", worst_examples(record)),
        Section("data", "Data", data_card(record)),
        Section("suspects", "Suspicious rows", suspects(record)),
        Section("environment", "Environment", environment(record)),
        Section("recipe", "Recipe", settings(record)),
        Section("reproduce", "How to do it again", reproduction(record)),
    ]
    return render_template(
        "run.html.j2",
        name=record.name,
        state=state(record),
        summary=summary(record),
        speed=speed_line(record),
        figures=key_figures(record),
        charts=charts,
        before=[section for section in before if section.parts],
        after=[section for section in after if section.parts],
    )
