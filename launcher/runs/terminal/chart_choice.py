"""Which curves a chart shows, of which runs, in which colours and how smooth. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.text import Text

from shardtune.launcher.runs.terminal.chart_text import DOTS, FINE, GREY, DrawnLine, draw_chart
from shardtune.launcher.runs.terminal.plain_text import fitted
from shardtune.run_dir.follow.curve import Axis
from shardtune.run_dir.follow.history import RunHistory
from shardtune.run_dir.view.chart import short

MAIN = ("loss", "lr", "tokens_per_s", "memory_bytes")
"""The charts that are seen at once where there is room."""
WITHOUT_NOISE = ("lr", "memory_bytes")
"""Curves that are never smoothed."""
TITLES = {
    "loss": "loss",
    "lr": "learning rate",
    "tokens_per_s": "tokens/s",
    "memory_bytes": "peak memory of a rank, GB",
    "grad_norm": "gradient norm",
    "step_time_s": "seconds per step",
    "mfu": "MFU",
    "lost_share": "part of the time lost waiting for the slowest rank",
}
COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue", "bright_black")
COLOUR_CODES = {"cyan": 6, "yellow": 3, "magenta": 5, "green": 2, "red": 1, "blue": 4, "bright_black": 8}
SMOOTHINGS = (0.9, 0.99, 0.0)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Choice:
    """How the charts are drawn."""

    axis: Axis = "step"
    smoothing: float = SMOOTHINGS[0]
    is_log: bool = False
    has_letters: bool = False
    """Whether lines of several runs are drawn with letters, because there are no colours or no fine characters."""

    def next_smoothing(self) -> "Choice":
        """The choice with the next smoothing."""
        return replace(self, smoothing=SMOOTHINGS[(SMOOTHINGS.index(self.smoothing) + 1) % len(SMOOTHINGS)])

    def describe(self) -> str:
        """The choice in words."""
        smooth = f"smoothed {self.smoothing:g}" if self.smoothing else "not smoothed"
        return f"{smooth}, {'log' if self.is_log else 'linear'}, by {self.axis}"


@dataclass(frozen=True)
class ShownRun:
    """A run in a chart."""

    name: str
    history: RunHistory
    colour: str


def curve_names(histories: Sequence[RunHistory]) -> list[str]:
    """All curves that the runs have, in the order in which they are offered: the main ones, those of dev, those of
    retention sets, others."""
    known = {name for history in histories for name in history.curves}
    dev = sorted(name for name in known if name.startswith("dev/"))
    retained = sorted(name for name in known if name.startswith("retention/"))
    others = [name for name in TITLES if name in known and name not in MAIN]
    return [*MAIN, *dev, *retained, *others]


def chart(
    name: str, runs: Sequence[ShownRun], choice: Choice, can_be_fine: bool = True
) -> Callable[[int, int], list[Text]]:
    """What draws a curve of these runs in a given room: a line with the title and the newest values, and the chart."""
    scale = 1e-9 if name == "memory_bytes" else 1.0

    def draw(width: int, height: int) -> list[Text]:
        if height < 2:
            return []
        lines = [line for number, run in enumerate(runs) for line in _lines_of(name, run, number, runs, choice, scale)]
        if not can_be_fine:
            lines = [replace(line, marker="*") if line.marker in (FINE, DOTS) else line for line in lines]
        drawn = draw_chart(lines, width, height - 1, axis=choice.axis, is_log=choice.is_log, label=_label(name))
        return [_title(name, runs, choice, width, scale), *drawn.split("\n")]

    return draw


def _lines_of(
    name: str, run: ShownRun, number: int, runs: Sequence[ShownRun], choice: Choice, scale: float
) -> list[DrawnLine]:
    curve = run.history.curves.get(name)
    if curve is None:
        return []
    colour, is_alone = COLOUR_CODES[run.colour], len(runs) == 1
    marker = LETTERS[number % len(LETTERS)] if choice.has_letters and not is_alone else FINE
    raw = DrawnLine(_times(curve.points(choice.axis), scale), colour, marker)
    if not choice.smoothing or name in WITHOUT_NOISE or name.startswith(("dev/", "retention/")):
        lines = [raw]
    else:
        smooth = replace(raw, points=_times(curve.smoothed(choice.smoothing, choice.axis), scale))
        lines = [*([replace(raw, colour=GREY, is_behind=True)] if is_alone and not choice.has_letters else []), smooth]
    dev = run.history.curves.get("dev/loss")
    if name == "loss" and is_alone and dev is not None:
        points = _times(dev.points(choice.axis), scale)
        lines.append(DrawnLine(points, COLOUR_CODES["yellow"], "o", is_joined=False))
    return lines


def _times(points: Sequence[tuple[float, float]], scale: float) -> list[tuple[float, float]]:
    return [(x, y * scale) for x, y in points]


def _title(name: str, runs: Sequence[ShownRun], choice: Choice, width: int, scale: float) -> Text:
    """The name of the curve and its newest values; of several runs also their names, in the colours of their lines."""
    text = Text(f" {TITLES.get(name, name)}", style="bold", no_wrap=True)
    if len(runs) == 1:
        text.append(f"  {_newest(name, runs[0], scale)}", style="not bold")
        if name == "loss" and "dev/loss" in runs[0].history.curves:
            text.append("  o dev", style="not bold yellow")
            text.append(f" {_newest('dev/loss', runs[0], scale)}", style="not bold")
    for number, run in enumerate(runs if len(runs) > 1 else []):
        letter = LETTERS[number % len(LETTERS)] if choice.has_letters else "━"
        value, room = _newest(name, run, scale), (width - len(text)) // (len(runs) - number) - 4
        shown = fitted(run.name, min(cell_len(run.name), max(1, room - len(value) - 1)))
        text.append(f"  {letter} ", style=f"not bold {run.colour}")
        text.append(f"{shown} {value}", style=f"not bold {run.colour}")
    text.truncate(width, overflow="ellipsis")
    return text


def _newest(name: str, run: ShownRun, scale: float) -> str:
    curve = run.history.curves.get(name)
    return "-" if curve is None or curve.newest is None else _label(name)(curve.newest * scale)


def _label(name: str) -> Callable[[float], str]:
    if name == "lr":
        return lambda value: f"{value:.1e}"
    return lambda value: short(float(f"{value:.4g}")) if abs(value) < 1e12 else f"{value:.1e}"
