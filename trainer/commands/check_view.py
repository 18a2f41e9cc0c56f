"""What `shardtune check` found, for a person to look at in a terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardtune.trainer.commands.check_report import Report, SplitReport
from shardtune.trainer.tasks.task import PreviewSpan

BAR_WIDTH, MAX_LABELS, WIDE = 40, 20, 140
TARGET, TARGET_NAME, PLAIN = "black on green", "bold green", "dim"


def show(report: Report, console: Console | None = None) -> None:
    """Prints the whole report."""
    if console is None:
        console = Console(highlight=False, soft_wrap=True)
        if not console.is_terminal:
            console.width = max(console.width, WIDE)  # a file has no edge for a table to shrink to
    console.print(f"[bold]{report.task}[/] on {report.model}, for {report.world_size} ranks")
    for note in report.notes:
        console.print(f"  {note}", markup=False)
    console.print(_splits(report))
    for name, split in report.splits.items():
        if split.labels:
            console.print(_bars(f"labels of {name}", split.labels))
    train = report.splits["train"]
    console.print(_length_bars(train))
    for name, split in report.splits.items():
        for number, preview in enumerate(split.previews, start=1):
            console.print(Text(f"\n{name}, example {number}: ", "bold") + _pieces(preview))
    if any(split.previews for split in report.splits.values()):
        console.print(Text("\n(") + Text("green", TARGET) + Text(": what is learned)"))
    console.print(_memory(report))


def _splits(report: Report) -> Table:
    table = Table(title="data", title_justify="left")
    columns = ("split", "rows", "examples", "tokens", "targets", "mean", "median", "95 %", "longest", "full", "dropped")
    for name in columns:
        table.add_column(name, justify="left" if name == "split" else "right")
    for name, split in report.splits.items():
        facts, lengths = split.facts, split.lengths
        table.add_row(
            name,
            f"{facts['rows']:,}",
            f"{facts['examples']:,}",
            f"{facts['tokens']:,}",
            f"{facts['targets']:,.6g}",
            *(f"{number:,.0f}" for number in (lengths.mean, lengths.median, lengths.p95, lengths.longest)),
            f"{lengths.full:,}",
            f"{facts['rows_dropped']:,}",
        )
    table.caption = (
        "mean to longest: tokens of an example. full: examples of exactly data.max_tokens. "
        "dropped: rows of which nothing could be learned"
    )
    table.caption_justify = "left"
    return table


def _bars(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    most = max(counts.values(), default=1) or 1
    total = sum(counts.values()) or 1
    falling = sorted(counts.items(), key=lambda item: -item[1])
    for label, count in falling[:MAX_LABELS]:
        table.add_row(Text(label), f"{count:,}", f"{count / total:.1%}", "█" * max(1, round(BAR_WIDTH * count / most)))
    if len(falling) > MAX_LABELS:
        table.add_row(f"… {len(falling) - MAX_LABELS} more", "", "", "")
    return table


def _length_bars(split: SplitReport) -> Table:
    lengths = split.lengths
    table = Table(title="tokens of the training examples", title_justify="left", show_header=False, box=None)
    most = max(lengths.counts) or 1
    for low, high, count in zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False):
        table.add_row(f"{low:,} - {high:,}", f"{count:,}", "█" * round(BAR_WIDTH * count / most))
    return table


def _pieces(pieces: list[PreviewSpan]) -> Text:
    """The text as the model sees it, what is learned coloured; a target that is not the piece itself behind it."""
    shown = Text()
    for piece in pieces:
        if piece.target is None:
            shown.append(piece.text, PLAIN)
        else:
            shown.append(piece.text, TARGET)
            if piece.target != piece.text:
                shown.append(f"→{piece.target} ", TARGET_NAME)
    return shown


def _memory(report: Report) -> Table:
    rows, longest = report.largest_micro_batch
    memory = report.memory
    is_partial = memory.num_trained < memory.num_parameters
    table = Table(title="\nmemory of a rank, estimated", title_justify="left", show_header=False, box=None)
    parts = {
        f"weights ({memory.num_parameters:,} parameters)": memory.weights,
        "gradients" + (f" ({memory.num_trained:,} are trained)" if is_partial else ""): memory.gradients,
        "optimizer": memory.optimizer,
        f"activations ({rows:,} rows x {longest:,} tokens)": memory.activations,
        "logits": memory.logits,
        "together": memory.total,
    }
    for name, size in parts.items():
        table.add_row(name, f"{size / 2**30:.2f} GiB")
    table.caption = (
        f"micro-batches of at most {report.micro_batch_tokens:,} tokens; "
        f"{report.num_steps:,} steps, {report.steps_per_epoch:,} an epoch; "
        f"{report.padding_efficiency:.1%} of the tokens are real, the others padding"
    )
    table.caption_justify = "left"
    return table
