"""What the panels beside the charts show of a run, as lines of text: ranks, faults, time use, log. Pure."""

from collections.abc import Iterable, Sequence

from rich.text import Text

from shardtune.launcher.runs.terminal.plain_text import fitted, shown_text, wrapped
from shardtune.run_dir.follow.history import Line, RunHistory, clock
from shardtune.run_dir.view.step_line import duration
from shardtune.run_dir.view.time_use import CAUSES

HELP = """\
q, Ctrl-C      quit; the run goes on
j/k, arrows    choose a run (also Home, End, a click)
Tab, 1 to 5    panel: charts, ranks, faults, time, log
m, M           next, previous curve
l              logarithmic values
s              smoothing: 0.9, 0.99, none
x              by step, or by time since the run began
Space          mark the run: marked runs are drawn with the chosen one
c              unmark all runs
o              log of events, output of the job, output of each rank
u, d           scroll the panel (also the mouse wheel)

Nothing here changes a run. The numbers are those of metrics.jsonl in
the run directory, which is looked at every second.

Files that W&B has written offline have a viewer of their own:
wandb leet RUN_DIR/wandb                              any key closes this
"""


def rank_lines(history: RunHistory, width: int) -> list[Text]:
    """The ranks, with the one first that the others have waited for most since the newest start."""
    tally, start = history.ranks, history.start or {}
    if not tally.num_reports:
        several = start.get("world_size", 1) > 1
        return [_dim("no report of the ranks yet" if several else "a single rank: nobody waits")]
    shares = tally.shares()
    lost = sum(share.lost_share for share in shares) / tally.num_reports
    size = f"{start['world_size']} ranks on {start['device']}" if start else f"{len(shares)} ranks"
    lines = [_plain(f"{size}; {lost:.1%} of the time of all ranks was lost waiting for the slowest since this start")]
    if (straggler := tally.straggler()) is not None:
        lines.append(_warning(f"lately {straggler.share:.0%} lost waiting for {straggler.name}"))
    longest = max(tally.compute_s, default=0.0)
    head = f"{'RANK':>5}  {'SLOWEST':>8}  {'LOST':>6}  {'COMPUTE':>9}  "
    bar_width = max(0, min(20, width - len(head) - 24))
    place_width = max(8, width - len(head) - bar_width - 2)
    lines.append(Text(head + fitted("", bar_width) + "  HOST", style="bold"))
    for share in shares:
        seconds = tally.compute_s[share.rank] if share.rank < len(tally.compute_s) else None
        bar = "" if seconds is None or not longest else "█" * round(bar_width * seconds / longest)
        cells = f"{share.rank:>5}  {share.num_slowest / tally.num_reports:>8.1%}  "
        cells += f"{share.lost_share / tally.num_reports:>6.1%}  {'' if seconds is None else f'{seconds:.3f} s':>9}  "
        lines.append(_plain(cells + fitted(bar, bar_width) + "  " + fitted(shown_text(share.place), place_width)))
    return lines


def fault_lines(history: RunHistory, width: int) -> list[Text]:
    """Starts, warnings and lost steps, the newest first."""
    counts = [
        f"{history.num_starts or 1} start{'s' if history.num_starts > 1 else ''}",
        f"{history.num_alerts} warning{'' if history.num_alerts == 1 else 's'}",
        f"{history.num_lost_steps:,} steps lost and done again",
        *([f"{history.num_damaged} damaged lines in metrics.jsonl"] if history.num_damaged else []),
    ]
    lines = [Text(", ".join(counts), style="bold")]
    return lines + _log(reversed(history.faults), width) if history.faults else [*lines, _dim("no faults so far")]


def time_lines(history: RunHistory, width: int) -> list[Text]:
    """What the time of the run's whole life went to, the largest part first."""
    use = history.life.time_use()
    if use.goodput is None:
        return [_dim("the run has not begun")]
    rows = sorted(use.seconds.items(), key=lambda item: (item[0] != "useful", -item[1]))
    names = max(map(len, CAUSES.values()))
    bar_width = max(4, min(40, width - names - 24))
    lines = [Text(f"{use.goodput:.1%} of {duration(use.total_s)} was useful", style="bold")]
    for cause, seconds in rows:
        share = seconds / use.total_s
        if seconds >= 0.0005 * use.total_s or cause == "useful":
            line = _plain(fitted(CAUSES[cause], names) + "  ")
            line.append(
                fitted("█" * max(1, round(bar_width * share)), bar_width), "green" if cause == "useful" else "red"
            )
            lines.append(line.append(f"  {share:>6.1%}  {duration(seconds):>9}"))
    return lines


def event_lines(history: RunHistory, width: int) -> list[Text]:
    """The newest events in words."""
    return _log(history.lines, width) if history.lines else [_dim("no events yet")]


def output_lines(output: Sequence[str], width: int) -> list[Text]:
    """The newest lines of an output."""
    return [_plain(part) for line in output for part in wrapped(shown_text(line), width)] or [_dim("no output yet")]


def _log(entries: Iterable[Line], width: int) -> list[Text]:
    lines = []
    for entry in entries:
        moment = clock(entry.time) + "  "
        parts = wrapped(" ".join(map(shown_text, entry.text.splitlines())), width - len(moment))
        for number, part in enumerate(parts):
            line = Text(" " * len(moment) if number else moment, style="bright_black", no_wrap=True)
            lines.append(line.append(part, style="yellow" if entry.is_warning else "default"))
    return lines


def _plain(text: str) -> Text:
    return Text(text, no_wrap=True)


def _dim(text: str) -> Text:
    return Text(text, style="bright_black", no_wrap=True)


def _warning(text: str) -> Text:
    return Text(text, style="yellow", no_wrap=True)
