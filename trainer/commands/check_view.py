"""The report of `shardtune check` as tables and coloured text in a terminal."""

from collections.abc import Mapping
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardtune.counted import counted
from shardtune.trainer.commands.check_report import Cut, Report, SplitReport
from shardtune.trainer.tasks.task import PreviewSpan

BAR_WIDTH, MAX_LABELS, WIDE = 40, 20, 140
TARGET, TARGET_NAME, PLAIN = "black on green", "bold green", "dim"


def show(report: Report, console: Console | None = None) -> None:
    """Prints the whole report."""
    if console is None:
        console = Console(highlight=False, soft_wrap=True)
        if not console.is_terminal:
            console.width = max(console.width, WIDE)  # a table need not shrink to the width of a file
    has_colour = console.color_system is not None and not console.no_color
    ranks = counted(report.world_size, "rank")
    console.print(f"[bold]{report.task}[/] on {report.model}, for {ranks}")
    for note in report.notes:
        console.print(f"  {note}", markup=False)
    console.print(_splits(report))
    for warning in report.warnings:
        console.print(Text(f"warning: {warning}", "bold yellow"))
    for name, split in report.splits.items():
        if split.labels:
            console.print(_bars(f"labels of {name}", split.labels))
    train = report.splits["train"]
    console.print(_length_bars(train))
    for name, split in report.splits.items():
        for number, preview in enumerate(split.previews, start=1):
            console.print(Text(f"\n{name}, example {number}: ", "bold") + _spans(preview, has_colour=has_colour))
    if any(split.previews for split in report.splits.values()):
        sign = Text("green", TARGET) if has_colour else Text("[[…]]")
        console.print(Text("\n(") + sign + Text(": what is learned)"))
    console.print(_memory(report))


def _splits(report: Report) -> Table:
    table = Table(title="data", title_justify="left")
    columns = ("split", "rows", "examples", "tokens", "targets", "mean", "median", "95 %", "longest")
    for name in (*columns, "cut", "tokens lost", "dropped"):
        table.add_column(name, justify="left" if name == "split" else "right")
    sets = {f"retention: {name}": split for name, split in report.retention.items()}
    for name, split in {**report.splits, **sets}.items():
        facts, lengths = split.facts, split.lengths
        table.add_row(
            name,
            f"{facts['rows']:,}",
            f"{facts['examples']:,}",
            f"{facts['tokens']:,}",
            f"{facts['targets']:,.6g}",
            *(f"{number:,.0f}" for number in (lengths.mean, lengths.median, lengths.p95, lengths.longest)),
            *_cut(split.cut, lengths.full),
            f"{facts['rows_dropped']:,}",
        )
    table.caption = (
        "mean to longest: tokens of an example. cut: rows truncated to data.max_tokens. "
        "dropped: rows without anything to learn"
    )
    if any(split.cut.into_windows for split in report.splits.values()):
        table.caption += "\ninto windows: longer texts are cut into several examples; nothing is lost"
    table.caption_justify = "left"
    return table


def _cut(cut: Cut, full: int) -> tuple[str, str]:
    """The cells of truncated rows and of lost tokens."""
    if cut.into_windows and not cut.rows:
        return "into windows", "0"
    if cut.rows is None:
        return f"at most {full:,}", "?"
    rows = f"{cut.rows:,} ({cut.rows_percent:.1f} %)" if cut.rows else "0"
    if cut.tokens_lost is None:
        return rows, "?" if cut.rows else "0"
    least = "" if cut.is_exact else "≥ "
    return rows, f"{least}{cut.tokens_lost:,} ({cut.tokens_lost_percent:.1f} %)" if cut.tokens_lost else "0"


def _bars(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    most = max(counts.values(), default=1) or 1
    total = sum(counts.values()) or 1
    falling = sorted(counts.items(), key=lambda item: -item[1])
    for label, count in falling[:MAX_LABELS]:
        bar = "█" * max(1, round(BAR_WIDTH * count / most))
        table.add_row(Text(label), f"{count:,}", f"{100 * count / total:.1f} %", bar)
    if len(falling) > MAX_LABELS:
        table.add_row(f"… {len(falling) - MAX_LABELS} more", "", "", "")
    return table


def _length_bars(split: SplitReport) -> Table:
    lengths = split.lengths
    table = Table(title="tokens of the training examples", title_justify="left", show_header=False, box=None)
    most = max(lengths.counts) or 1
    for low, high, count in zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False):
        table.add_row(
            f"{high:,}" if high == low + 1 else f"{low + 1:,} - {high:,}",
            f"{count:,}",
            "█" * round(BAR_WIDTH * count / most),
        )
    return table


def _spans(spans: list[PreviewSpan], *, has_colour: bool) -> Text:
    """The text as the model sees it, its targets coloured, or within [[…]].

    A target that differs from its text, such as a label, follows it.
    """
    shown = Text()
    for is_itself, group in groupby(spans, lambda span: span.target == span.text):
        if is_itself:  # neighbours are one target, of several tokens
            text = "".join(span.text for span in group)
            shown.append(text if has_colour else f"[[{text}]]", TARGET)
            continue
        for span in group:
            if span.target is None:
                shown.append(span.text, PLAIN)
            elif has_colour:
                shown.append(span.text, TARGET).append(f"→{span.target} ", TARGET_NAME)
            else:
                shown.append(f"[[{span.text.strip()}→{span.target}]] ")
    return shown


def _memory(report: Report) -> Table:
    rows, longest = report.largest_micro_batch
    memory = report.memory
    is_partial = memory.num_trained < memory.num_parameters
    table = Table(title="\nestimated memory of a rank", title_justify="left", show_header=False, box=None)
    details = {
        "weights": f" ({memory.num_parameters:,} parameters)",
        "gradients": f" ({memory.num_trained:,} trained)" if is_partial else "",
        "activations": f" ({rows:,} rows x {longest:,} tokens)",
    }
    for name, size in memory.terms.items():
        table.add_row(name + details.get(name, ""), f"{size / 2**30:.2f} GiB")
    table.add_row(f"total at the peak ({memory.peak})", f"{memory.total / 2**30:.2f} GiB")
    table.caption = (
        f"micro-batches of at most {report.micro_batch_tokens:,} tokens; "
        f"{counted(report.num_steps, 'step')}, {report.steps_per_epoch:,} per epoch; "
        f"{100 * (1 - report.padding_efficiency):.1f} % of the tokens are padding"
    )
    table.caption_justify = "left"
    return table
