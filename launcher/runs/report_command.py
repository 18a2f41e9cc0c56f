"""`shardtune report`: which page is written of which directories, and where."""

from collections.abc import Sequence
from pathlib import Path

from shardtune.errors import CheckpointError, ConfigError
from shardtune.launcher.plan.sweep import SWEEP, load_sweep
from shardtune.launcher.report.comparison import compare_runs, render_comparison
from shardtune.launcher.report.markdown import render_run, render_runs
from shardtune.launcher.report.page import write_report
from shardtune.launcher.report.record import read_record
from shardtune.launcher.runs import sweep_queue
from shardtune.run_dir.files import CONFIG, write_atomically

FORMATS = ("html", "markdown")
COMPARISON = "comparison.html"


def report_runs(folders: Sequence[Path], form: str, out: Path | None) -> None:
    """Writes the page of one run, of a sweep or of several runs, and prints its path; prints Markdown, unless it goes
    to a file.

    Raises ConfigError for another format, CheckpointError for what is no run directory, OSError.
    """
    if form not in FORMATS:
        raise ConfigError(f"shardtune: --format is {' or '.join(FORMATS)}, got {form!r}")
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"shardtune: --out: there is no folder {out.absolute().parent}")
    is_sweep = [(folder / SWEEP).is_file() for folder in folders]
    if is_sweep == [True] and form == "html" and out is None:
        print(sweep_queue.summary(load_sweep(folders[0])))
        return
    run_dirs = [run_dir for folder in folders for run_dir in _run_dirs(folder)]
    if form == "html" and len(run_dirs) == 1:
        print(write_report(run_dirs[0], out))
        return
    records = [read_record(run_dir) for run_dir in run_dirs]
    if form == "html":
        path = out or Path(COMPARISON)
        write_atomically(path, render_comparison(compare_runs(records)))
        print(path)
        return
    text = render_run(records[0]) if len(records) == 1 else render_runs(compare_runs(records))
    if out is None:
        print(text, end="")
    else:
        write_atomically(out, text)
        print(out)


def _run_dirs(folder: Path) -> list[Path]:
    """The run directory, or those of a sweep's points that have begun. Raises CheckpointError if there are none."""
    if (folder / SWEEP).is_file():
        begun = [point.run_dir for point in load_sweep(folder).points if (point.run_dir / CONFIG).is_file()]
        if not begun:
            raise CheckpointError(f"{folder}: no point of this sweep has begun")
        return begun
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: not a run directory (no {CONFIG})")
    return [folder]
