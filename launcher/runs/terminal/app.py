"""`shardtune watch` in a terminal: a list of runs, and panels on the chosen one. It only looks: nothing here changes a
run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.filter import LineFilter, NoColor
from textual.screen import ModalScreen

from shardtune.counted import counted
from shardtune.launcher.runs import monitor
from shardtune.launcher.runs.terminal.chart_choice import COLOURS, MAIN, Choice, ShownRun, chart, curve_names
from shardtune.launcher.runs.terminal.panels import (
    HELP,
    event_lines,
    fault_lines,
    output_lines,
    rank_lines,
    time_lines,
)
from shardtune.launcher.runs.terminal.plain_text import AsciiFilter, shown_text
from shardtune.launcher.runs.terminal.poller import Poller
from shardtune.launcher.runs.terminal.run_table import STATE_STYLES, row_of, run_lines
from shardtune.launcher.runs.terminal.watched_run import UNKNOWN, WatchedRun
from shardtune.launcher.runs.terminal.widgets import ChartView, Lines, Tabs, TextLine
from shardtune.run_dir.quality.retention import retention_line

TICK_S = 0.25
PANELS = ("charts", "ranks", "faults", "time", "log")
NUM_LINES = 5
"""Lines besides the list of runs and the panel."""
FOUR_WIDTH, FOUR_HEIGHT = 96, 20
"""From this room on, the four main charts are seen at once."""
KEYS = "q quit  j/k run  Tab panel  m metric  l log  s smooth  x axis  Spc mark  ? help"
SHORT_KEYS = "q quit  ? help  Tab panel  m metric"


class Help(ModalScreen[None]):
    """The keys; any of them closes it."""

    def compose(self) -> ComposeResult:
        yield Lines(id="help")

    def on_mount(self) -> None:
        """Shows the text."""
        lines = self.query_one(Lines)
        lines.show([Text(f" {line}", no_wrap=True) for line in HELP.splitlines()])

    def on_key(self) -> None:
        """Closes it."""
        self.dismiss()

    def on_click(self) -> None:
        """Closes it."""
        self.dismiss()


class WatchApp(App[None]):
    """The program in the terminal. What it knows of the runs is its poller's."""

    ENABLE_COMMAND_PALETTE = False
    ANIMATION_LEVEL = "none"
    CSS = """
    Screen, Help { background: ansi_default; color: ansi_default; layout: vertical; scrollbar-size: 1 1; }
    Lines { background: ansi_default; scrollbar-size: 1 1; overflow-x: hidden; overflow-y: auto; }
    Lines { scrollbar-color: ansi_bright_black; scrollbar-background: ansi_default; }
    Lines { scrollbar-corner-color: ansi_default; }
    Lines { scrollbar-color-hover: ansi_white; scrollbar-color-active: ansi_white; }
    Lines { scrollbar-background-hover: ansi_default; scrollbar-background-active: ansi_default; }
    TextLine, Tabs { height: 1; background: ansi_default; }
    #runs { height: 1; }
    #room { height: 1fr; background: ansi_default; }
    #text { display: none; height: 1fr; padding-left: 1; }
    #charts { height: 1fr; layout: grid; grid-size: 1 1; background: ansi_default; }
    #charts.four { grid-size: 2 2; grid-gutter: 0 2; }
    ChartView { width: 1fr; height: 1fr; background: ansi_default; }
    #charts ChartView { display: none; }
    #charts.four ChartView, #chart0 { display: block; }
    #charts #chart0 { display: block; }
    Help { align: center middle; }
    #help { width: 78; max-width: 100%; height: 20; max-height: 100%; border: round ansi_bright_black; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c,ctrl+q", "quit", "quit", priority=True),
        Binding("down,j", "choose(1)", "next run"),
        Binding("up,k", "choose(-1)", "previous run"),
        Binding("home", "choose(-1000000)", "first run"),
        Binding("end", "choose(1000000)", "last run"),
        Binding("tab", "panel(1)", "next panel", priority=True),
        Binding("shift+tab", "panel(-1)", "previous panel", priority=True),
        *(Binding(str(number + 1), f"show_panel({number})", name) for number, name in enumerate(PANELS)),
        Binding("m", "metric(1)", "next metric"),
        Binding("M", "metric(-1)", "previous metric"),
        Binding("l", "log_scale", "logarithmic values"),
        Binding("s", "smooth", "smoothing"),
        Binding("x", "axis", "steps or time"),
        Binding("space", "mark", "mark for comparison"),
        Binding("c", "unmark", "unmark all"),
        Binding("o", "output", "next output"),
        Binding("d,pagedown", "scroll(1)", "scroll down"),
        Binding("u,pageup", "scroll(-1)", "scroll up"),
        Binding("question_mark", "help", "help"),
    ]

    def __init__(self, poller: Poller, *, no_color: bool = False, is_ascii: bool = False) -> None:
        super().__init__(ansi_color=True)
        self._poller = poller
        self._is_ascii = is_ascii
        self._ours: list[LineFilter] = [AsciiFilter()] if is_ascii else []
        if no_color and not self.no_color:
            self.no_color = True
            self._ours.append(NoColor())
        self._choice = Choice(has_letters=self.no_color or is_ascii)
        self._chosen: Path | None = None
        self._marked: list[Path] = []
        self._panel = 0
        self._metric: str | None = None
        self._output = 0
        self._shown_version = -1

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), *self._ours]

    def compose(self) -> ComposeResult:
        yield TextLine(id="head")
        yield TextLine(id="columns")
        yield Lines(id="runs")
        yield TextLine(id="why")
        yield TextLine(id="retains")
        yield Tabs(PANELS, id="tabs")
        with Container(id="room"):
            yield Lines(id="text")
            with Container(id="charts"):
                for number in range(len(MAIN)):
                    yield ChartView(id=f"chart{number}")
        yield TextLine(id="keys")

    def on_mount(self) -> None:
        """Begins to look at the runs."""
        self._poller.start()
        self.set_interval(TICK_S, self._tick)
        self._redraw()

    def on_unmount(self) -> None:
        """Looks no more."""
        self._poller.stop()

    def on_resize(self) -> None:
        """Draws for the new size."""
        self.call_after_refresh(self._redraw)

    @property
    def exit_code(self) -> int:
        """The exit code of the plain `watch` for runs with these states."""
        return monitor.exit_code([run.state for run in self._poller.runs if run.state != UNKNOWN] or ["running"])

    # What is shown.

    def _tick(self) -> None:
        if self._poller.failure is not None:
            raise self._poller.failure
        if self._poller.version != self._shown_version:
            self._redraw()

    def _redraw(self) -> None:
        with self._poller.lock:
            self._shown_version = self._poller.version
            runs = self._poller.runs
            chosen = self._chosen_number(runs)
            self._ask_for(runs[chosen] if runs else None)
            self._show_runs(runs, chosen)
            self._show_panel(runs, chosen)
        keys = KEYS if self.size.width >= len(KEYS) + 1 else SHORT_KEYS
        self.query_one("#keys", TextLine).show(Text(f" {keys}", style="bright_black", no_wrap=True))

    def _chosen_number(self, runs: Sequence[WatchedRun]) -> int:
        number = next((number for number, run in enumerate(runs) if run.run_dir == self._chosen), 0)
        if self._chosen is None and runs and self._poller.is_settled:
            self._chosen = runs[0].run_dir
        return number

    def _ask_for(self, run: WatchedRun | None) -> None:
        """Tells the poller what the user looks at."""
        wanted = frozenset([*self._marked, *([run.run_dir] if run else [])])
        output = self._outputs(run)[self._output][1] if run and PANELS[self._panel] == "log" else None
        if (wanted, output) != (self._poller.wanted, self._poller.output.path):
            self._poller.wanted, self._poller.output.path = wanted, output
            self._poller.hasten()

    def _show_runs(self, runs: Sequence[WatchedRun], chosen: int) -> None:
        width = self.size.width
        metric = runs[chosen].reader.history.metric(runs[chosen].metric) if runs else None
        rows = [row_of(run.name, run.state, run.status, run.reader.history, metric) for run in runs]
        marked = {number: self._colour(run) for number, run in enumerate(runs) if run.run_dir in self._marked}
        room = self._num_listed(runs)
        bar = 1 if len(runs) > room else 0
        columns, lines = run_lines(rows, chosen, marked, width - bar, metric)
        table = self.query_one("#runs", Lines)
        table.styles.height = room
        table.show(lines)
        table.show_line(chosen)
        self.query_one("#columns", TextLine).show(columns)
        self.query_one("#head", TextLine).show(self._head(runs, width))
        self.query_one("#why", TextLine).show(_why(runs[chosen], width) if runs else Text(""))
        retains, line = self.query_one("#retains", TextLine), _retains(runs[chosen], width) if runs else Text("")
        retains.display = bool(line)
        retains.show(line)

    def _num_listed(self, runs: Sequence[WatchedRun]) -> int:
        """How many runs the list shows without scrolling."""
        return max(1, min(len(runs), (self.size.height - NUM_LINES) // 3))

    def _has_four(self, runs: Sequence[WatchedRun]) -> bool:
        """Whether there is room for the four main charts."""
        height = self.size.height - NUM_LINES - self._num_listed(runs)
        return self.size.width >= FOUR_WIDTH and height >= FOUR_HEIGHT

    def _head(self, runs: Sequence[WatchedRun], width: int) -> Text:
        states = [run.state for run in runs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != UNKNOWN)
        text = Text(" shardtune watch", style="bold", no_wrap=True)
        text.append(f"  {len(runs)} run{'' if len(runs) == 1 else 's'}{f': {counts}' if counts else ''}", "not bold")
        if self._poller.notice:
            text.append(f"  {shown_text(self._poller.notice)}", style="not bold yellow")
        text.truncate(width, overflow="ellipsis")
        return text

    def _show_panel(self, runs: Sequence[WatchedRun], chosen: int) -> None:
        panel = PANELS[self._panel]
        is_chart = panel == "charts"
        self.query_one("#charts").display, self.query_one("#text").display = is_chart, not is_chart
        run = runs[chosen] if runs else None
        progress = run.reader.progress if run else None
        note = "" if progress is None else f"reading {progress:.0%}  "
        if is_chart:
            note += self._choice.describe()
            self._show_charts(runs, chosen)
        elif run is not None:
            if panel == "log":
                note += self._outputs(run)[self._output][0] + " (o: next)"
            self._show_text(panel, run)
        self.query_one("#tabs", Tabs).choose(self._panel, note)

    def _show_charts(self, runs: Sequence[WatchedRun], chosen: int) -> None:
        compared = [run for number, run in enumerate(runs) if run.run_dir in self._marked and number != chosen]
        shown = [*compared, *runs[chosen : chosen + 1]]  # the chosen one over the others
        drawn = [ShownRun(run.name, run.reader.history, self._colour(run)) for run in shown]
        is_four = self._metric is None and self._has_four(runs)
        self.query_one("#charts").set_class(is_four, "four")
        names = MAIN if is_four else (self._metric or MAIN[0],)
        for number, name in enumerate(names):
            self.query_one(f"#chart{number}", ChartView).show(
                self._locked(chart(name, drawn, self._choice, can_be_fine=not self._is_ascii))
            )

    def _locked(self, draw: Callable[[int, int], list[Text]]) -> Callable[[int, int], list[Text]]:
        def draw_locked(width: int, height: int) -> list[Text]:
            with self._poller.lock:
                return draw(width, height)

        return draw_locked

    def _show_text(self, panel: str, run: WatchedRun) -> None:
        text = self.query_one("#text", Lines)
        width = max(20, self.size.width - 2)  # the margin and the scroll bar
        history = run.reader.history
        is_log = panel == "log"
        if is_log and self._output:
            lines = output_lines(self._poller.output.lines, width)
        elif is_log:
            lines = event_lines(history, width)
        else:
            lines = {"ranks": rank_lines, "faults": fault_lines, "time": time_lines}[panel](history, width)
        is_at_end = text.scroll_offset.y >= text.max_scroll_y
        text.show(lines)
        if is_log and is_at_end:
            text.scroll_end(animate=False, force=True)

    def _colour(self, run: WatchedRun) -> str:
        """The colour of a run in the charts, which it keeps for as long as it is marked."""
        if run.run_dir in self._marked:
            return COLOURS[self._marked.index(run.run_dir) % len(COLOURS)]
        return COLOURS[len(self._marked) % len(COLOURS)]

    def _outputs(self, run: WatchedRun | None) -> list[tuple[str, Path | None]]:
        """What the log panel can show: the events, the output of the newest job, that of each rank."""
        outputs: list[tuple[str, Path | None]] = [("events", None)]
        if run is not None:
            outputs += run.outputs
        self._output %= len(outputs)
        return outputs

    # What the keys do.

    def action_choose(self, by: int) -> None:
        """Chooses another run."""
        runs = self._poller.runs
        if runs:
            number = max(0, min(len(runs) - 1, self._chosen_number(runs) + by))
            self._choose(runs[number].run_dir)

    def _choose(self, run_dir: Path) -> None:
        if run_dir != self._chosen:
            self._chosen, self._output = run_dir, 0
            self._begin_panel()

    def _begin_panel(self) -> None:
        self.query_one("#text", Lines).scroll_to(y=0, animate=False, force=True)
        self._redraw()
        if PANELS[self._panel] == "log":
            self.query_one("#text", Lines).scroll_end(animate=False, force=True)

    def action_panel(self, by: int) -> None:
        """Shows the next panel."""
        self.action_show_panel((self._panel + by) % len(PANELS))

    def action_show_panel(self, number: int) -> None:
        """Shows a panel."""
        self._panel = number
        self._begin_panel()

    def action_metric(self, by: int) -> None:
        """Shows the next curve; before the first one, the four main ones if there is room."""
        names = [None, *curve_names([run.reader.history for run in self._poller.runs])]
        if not self._has_four(self._poller.runs):
            names.remove(None)
        now = names.index(self._metric) if self._metric in names else 0
        self._metric, self._panel = names[(now + by) % len(names)], 0
        self._redraw()

    def action_log_scale(self) -> None:
        """Switches between linear and logarithmic values."""
        self._choose_drawing(replace(self._choice, is_log=not self._choice.is_log))

    def action_smooth(self) -> None:
        """Takes the next smoothing."""
        self._choose_drawing(self._choice.next_smoothing())

    def action_axis(self) -> None:
        """Switches between steps and time."""
        self._choose_drawing(replace(self._choice, axis="time" if self._choice.axis == "step" else "step"))

    def _choose_drawing(self, choice: Choice) -> None:
        self._choice, self._panel = choice, PANELS.index("charts")
        self._redraw()

    def action_mark(self) -> None:
        """Marks the chosen run, or unmarks it."""
        if self._chosen in self._marked:
            self._marked.remove(self._chosen)
        elif self._chosen is not None:
            self._marked.append(self._chosen)
        self._redraw()

    def action_unmark(self) -> None:
        """Unmarks all runs."""
        self._marked.clear()
        self._redraw()

    def action_output(self) -> None:
        """Shows the next output in the log panel."""
        self._output += PANELS[self._panel] == "log"
        self._panel = PANELS.index("log")
        self._begin_panel()

    def action_scroll(self, by: int) -> None:
        """Scrolls the panel by half of its height."""
        text = self.query_one("#text", Lines)
        text.scroll_relative(y=by * max(1, text.size.height // 2), animate=False, force=True)

    def action_help(self) -> None:
        """Shows the keys."""
        self.push_screen(Help())

    def on_lines_clicked(self, event: Lines.Clicked) -> None:
        """Chooses the run that was clicked on."""
        if event.lines.id == "runs" and event.number < len(self._poller.runs):
            self._choose(self._poller.runs[event.number].run_dir)

    def on_tabs_chosen(self, event: Tabs.Chosen) -> None:
        """Shows the panel that was clicked on."""
        self.action_show_panel(event.number)


def _why(run: WatchedRun, width: int) -> Text:
    """The state of a run, its job and the reason, in one line."""
    text = Text(" ", no_wrap=True)
    text.append(run.state, style=STATE_STYLES.get(run.state, ""))
    status, history = run.status, run.reader.history
    if status is not None and status.job:
        text.append(f"  job {status.job}{f' on {status.nodes}' if status.nodes else ''}")
    if run.why:
        text.append(f"  {shown_text(run.why)}")
    if run.state == "running" and history.phase:
        text.append(f"  {shown_text(history.phase)}", style="cyan")
    if not run.reader.exists and run.state != "gone":
        text.append("  no metrics.jsonl yet", style="bright_black")
    if (start := history.start) is not None:
        shape = f"{counted(start['world_size'], 'rank')} on {start['device']}, {start['precision']}"
        text.append(f"  {shown_text(shape)}", style="bright_black")
    text.truncate(width, overflow="ellipsis")
    return text


def _retains(run: WatchedRun, width: int) -> Text:
    """What the chosen run retains of other skills, in one line; empty without retention sets."""
    line = retention_line(run.reader.history.retention())
    text = Text(f" retains {shown_text(line)}" if line else "", no_wrap=True)
    text.truncate(width, overflow="ellipsis")
    return text
