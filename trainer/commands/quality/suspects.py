"""Lists the rows of a run that look wrong to its model: suspected label errors, or the rows of the highest loss.

`python -m shardtune.trainer.commands.quality.suspects RUN_DIR`, also under torchrun. With --fold each training row is
judged by that of these runs which was not trained on it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.errors import ConfigError
from shardtune.json_lines import json_line
from shardtune.processes import run_piped
from shardtune.run_dir.files import SUSPECTS, published
from shardtune.trainer.commands.inference.exported_model import open_task
from shardtune.trainer.commands.inference.shared_command import PATIENCE, carry_out
from shardtune.trainer.commands.quality.judged_runs import facts_of, judge_run, label_names, open_run
from shardtune.trainer.commands.quality.subject import Subject
from shardtune.trainer.distributed.meeting import meet
from shardtune.trainer.distributed.ranks import Ranks, connect, disconnect
from shardtune.trainer.evaluation.suspects.listing import JudgedRows, Suspect, highest_losses, suspected_labels

MOST_PAIRS, TEXT_WIDTH = 5, 60


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command, or one rank of it, and returns its exit code."""
    arguments = _parse(argv)
    return carry_out(_main, arguments, arguments.failures)


def _main(arguments: argparse.Namespace) -> None:
    exported = open_run(arguments.run_dir)
    folds = [open_run(folder) for folder in arguments.fold]
    out: Path = arguments.out or arguments.run_dir / SUSPECTS
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: there is no folder {out.absolute().parent}; make it, or name another one")
    ranks = connect(arguments.device, store=meet(PATIENCE), timeout=PATIENCE)
    try:
        list_suspects(exported, folds, ranks, most=arguments.top, out=out)
        ranks.barrier()
    finally:
        disconnect()


def list_suspects(exported: Subject, folds: Sequence[Subject], ranks: Ranks, *, most: int, out: Path) -> list[Suspect]:
    """Collective: judges the rows, and on rank 0 writes the suspicious ones to RUN_DIR/suspects.jsonl, and to `out`,
    prints the first ones and returns them all; of a task without labels, at most `most`.

    Raises CheckpointError, ConfigError or ShortOfMemoryError as `judge_run` does, OSError.
    """
    parts = judge_run(exported, folds, ranks)
    if not ranks.is_zero:
        return []
    _, tokenizer, _ = open_task(exported.recipe, exported.folder, facts_of(exported))
    names = label_names(exported)
    found = suspected_labels(parts, names, tokenizer) if names else highest_losses(parts, tokenizer, most=most)
    for path in dict.fromkeys([exported.given / SUSPECTS, out]):
        with published(path) as draft, draft.open("w", encoding="utf-8") as file:
            for suspect in found:
                file.write(json_line({name: value for name, value in asdict(suspect).items() if value is not None}))
    print("\n".join(rendered(found, parts, most=most, has_labels=bool(names))))
    print(f"{counted(len(found), 'row')} written to {out}", file=sys.stderr)
    return found


def rendered(found: Sequence[Suspect], parts: Sequence[JudgedRows], *, most: int, has_labels: bool) -> Iterator[str]:
    """The lines that a terminal shows: how many rows are suspicious, and the first of them as a table."""
    if has_labels:
        yield from _counts(found, parts)
    shown = found[:most]
    what = "label, and what it should rather be" if has_labels else "loss"
    more = f" (the first {most:,} of {len(found):,})" if len(found) > most else ""
    if shown:
        yield f"\n{'place':{_width(shown)}}  {what}{more}"
    for suspect in shown:
        yield f"{_place(suspect):{_width(shown)}}  {_judgement(suspect)}"
        yield f"{'':{_width(shown)}}    {_cut(suspect.text)}"
    if not all(part.is_unseen for part in parts):
        yield (
            "\nThe model was trained on the rows of train, and may know their errors by heart. --folds=5 trains five\n"
            "more models, and has each row judged by one that has not seen it, which finds more."
        )


def _counts(found: Sequence[Suspect], parts: Sequence[JudgedRows]) -> Iterator[str]:
    sizes, numbers = Counter[str](), Counter(suspect.split for suspect in found)
    for part in parts:
        sizes[part.split] += part.num_rows
    for split, size in sizes.items():
        share = f"{numbers[split] / size:.1%}" if size else "0"
        yield f"{split}: {counted(numbers[split], 'suspicious row')} of {size:,} ({share})"
    pairs = Counter((suspect.label, suspect.predicted) for suspect in found).most_common(MOST_PAIRS)
    if pairs:
        yield "most often: " + ", ".join(f"{label} -> {rather} {count:,} x" for (label, rather), count in pairs)


def _judgement(suspect: Suspect) -> str:
    if suspect.predicted is None or suspect.label_probability is None or suspect.predicted_probability is None:
        label = "" if suspect.label is None else f"  label {suspect.label}"
        return f"{suspect.loss:.3f}{label}"
    word = "" if suspect.word is None else f"{suspect.word!r}: "
    more = f", and {suspect.num_labels - 1:,} more" if suspect.num_labels > 1 else ""
    seen = "" if suspect.is_unseen else "  (seen in training)"
    return (
        f"{word}{suspect.label} ({suspect.label_probability:.2f}) -> {suspect.predicted} "
        f"({suspect.predicted_probability:.2f}){more}{seen}"
    )


def _place(suspect: Suspect) -> str:
    here = f"{Path.cwd()}/"
    return suspect.place.removeprefix(here)


def _width(shown: Sequence[Suspect]) -> int:
    return min(48, max(len(_place(suspect)) for suspect in shown))


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_WIDTH else f"{text[:TEXT_WIDTH]}…"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser("shardtune suspects", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a run directory")
    parser.add_argument("--fold", type=Path, action="append", default=[], help="the run directory of one fold")
    parser.add_argument("--top", type=int, default=50, help="how many rows to show")
    parser.add_argument("--out", type=Path, help="a JSON lines file to write, a line for each suspicious row")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="what to compute on")
    parser.add_argument("--failures", type=Path, help="a folder in which a rank records why it failed")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_piped(main)
