"""The list of runs as lines of text: which columns a terminal has room for. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from shardtune.launcher.runs.status import RunStatus
from shardtune.launcher.runs.terminal.plain_text import fitted
from shardtune.run_dir.follow.history import RunHistory
from shardtune.run_dir.view.step_line import duration

STATE_STYLES = {
    "running": "green", "pending": "yellow", "waiting": "yellow", "finished": "cyan", "stopped": "magenta",
    "failed": "bold red", "lost": "red", "gone": "red",
}  # fmt: skip
MIN_NAME, MAX_NAME = 14, 60


@dataclass(frozen=True)
class RunRow:
    """What the list shows of a run."""

    name: str
    state: str
    job: str
    step: int | None
    num_steps: int | None
    eta_s: float | None
    loss: float | None
    metric: float | None
    best: float | None
    tokens_per_s: float | None
    num_warnings: int = 0


def row_of(name: str, state: str, status: RunStatus | None, history: RunHistory, metric: str | None) -> RunRow:
    """The row of a run: the numbers of its events, or where these are not read yet those of its status."""
    newest = history.step or {}
    known: Mapping[str, float] = status.metrics if status else {}
    curve = history.curves.get(metric or "")
    step = newest.get("step", status.step if status else None)
    return RunRow(
        name=name,
        state=state,
        job=(status.job or "") if status else "",
        step=step,
        num_steps=(history.start or {}).get("num_steps", status.num_steps if status else None),
        eta_s=newest.get("eta_s", status.eta_s if status else None) if state == "running" else None,
        loss=newest.get("loss", known.get("loss")),
        metric=curve.newest if curve is not None else known.get(metric or ""),
        best=history.best.get(metric or ""),
        tokens_per_s=newest.get("tokens_per_s") if state == "running" else None,
        num_warnings=history.num_alerts,
    )


@dataclass(frozen=True)
class _Column:
    head: str
    width: int
    render: Callable[[RunRow], str]
    importance: int
    at_right: bool = True


def run_lines(
    rows: Sequence[RunRow], chosen: int, marked: Mapping[int, str], width: int, metric: str | None = None
) -> tuple[Text, list[Text]]:
    """The head and a line for each run. `marked` has the colour of each run that is compared."""
    columns = _chosen_columns(rows, width, metric)
    name_width = width - 2 - sum(column.width + 2 for column in columns)
    head = Text("  " + fitted("RUN", name_width), style="bold", no_wrap=True)
    for column in columns:
        head.append("  " + fitted(column.head, column.width, at_right=column.at_right))
    lines = []
    for number, row in enumerate(rows):
        line = Text("▸" if number == chosen else " ", no_wrap=True)
        line.append("●" if number in marked else " ", style=marked.get(number, ""))
        line.append(fitted(row.name, name_width), style="bold" if number == chosen else "")
        for column in columns:
            style = STATE_STYLES.get(row.state, "") if column.head == "STATE" else ""
            line.append("  ")
            line.append(fitted(column.render(row), column.width, at_right=column.at_right), style=style)
        if number == chosen:
            line.stylize("reverse", 0, 2 + name_width)
        lines.append(line)
    return head, lines


def _chosen_columns(rows: Sequence[RunRow], width: int, metric: str | None) -> list[_Column]:
    """The columns that the width has room for; the run's name gets what they leave."""
    longest = max((cell_len(row.name) for row in rows), default=MIN_NAME)
    wanted = min(MAX_NAME, max(MIN_NAME, longest))
    columns = [column for column in _columns(rows, metric) if column.width]

    def is_too_wide() -> bool:
        names = wanted if any(column.importance > 5 for column in columns) else MIN_NAME
        return 2 + names + sum(column.width + 2 for column in columns) > width

    while columns and is_too_wide():
        columns.remove(max(columns, key=lambda column: column.importance))
    return columns


def _columns(rows: Sequence[RunRow], metric: str | None) -> list[_Column]:
    steps = max((len(_step(row)) for row in rows), default=4)
    name = (metric or "").removeprefix("dev/").upper()[:8]
    has_best = any(row.best is not None for row in rows)
    jobs = max((len(row.job) for row in rows), default=0)
    warned = any(row.num_warnings for row in rows)
    return [
        _Column("STATE", 8, lambda row: row.state, 0, at_right=False),
        _Column("STEP", max(4, steps), _step, 1),
        _Column("DONE", 5, _percent, 7),
        _Column("", 12, lambda row: _bar(row, 12), 9, at_right=False),
        _Column("LEFT", 8, lambda row: "" if row.eta_s is None else duration(row.eta_s), 2),
        _Column("LOSS", 7, lambda row: _number(row.loss), 3),
        _Column(name, max(6, len(name)) if metric else 0, lambda row: _number(row.metric, 6), 4),
        _Column("BEST", 6 if has_best else 0, lambda row: _number(row.best, 6), 6),
        _Column("TOK/S", 6, lambda row: _rate(row.tokens_per_s), 5),
        _Column("WARN", 4 if warned else 0, lambda row: str(row.num_warnings or ""), 8),
        _Column("JOB", jobs and max(3, jobs), lambda row: row.job, 10),
    ]


def _step(row: RunRow) -> str:
    return "" if row.step is None else f"{row.step}/{row.num_steps or '?'}"


def _done(row: RunRow) -> float | None:
    return min(1.0, row.step / row.num_steps) if row.step is not None and row.num_steps else None


def _percent(row: RunRow) -> str:
    return "" if (done := _done(row)) is None else f"{int(100 * done)}%"


def _bar(row: RunRow, width: int) -> str:
    done = _done(row)
    return "" if done is None else "━" * int(done * width) + "─" * (width - int(done * width))


def _number(value: float | None, width: int = 7) -> str:
    """The value in at most that many characters, with at most four decimals."""
    if value is None:
        return ""
    for decimals in (4, 3, 2, 1, 0):
        if len(text := f"{value:.{decimals}f}") <= width:
            return text
    return f"{value:.0e}"


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 9999.5 * size / 1e3:
            return f"{value / size:.{1 if value < 100 * size else 0}f}{unit}"
    return f"{value:.0f}"
