"""Real tokens per second: shardtune compared with transformers.Trainer, as in its introductory example and well tuned.

All sides train the same encoder on the same rows for the same number of epochs with the same global batch, on the same
cores, one after another, round by round. A real token is one that is not padding. The time is that of the training
steps, without start-up and evaluation. The passages have mixed lengths (benchmarks/help_pages.py).
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.fetched import fetched
from benchmarks.help_pages import write
from benchmarks.trainer_example import MODEL, Settings, measure_side, new_folder, read_rows
from demo import sentiment
from shardtune.trainer.setup.precision import has_bf16

OURS = "shardtune"
INTRODUCTORY, TUNED = "Trainer, introductory", "Trainer, tuned"
TRAINERS: dict[str, dict[str, Any]] = {INTRODUCTORY: {}, TUNED: {"train_sampling_strategy": "group_by_length"}}
"""Side -> its TrainingArguments besides the precision, which is fp32 for the introductory one."""
MAX_TOKENS = 256
BATCH_OF_RANK = 16


@dataclass(frozen=True)
class Measured:
    side: str
    round: int
    tokens_per_s: float
    padding_efficiency: float
    memory_bytes: int
    accuracy: float


def measure(side: str, round_: int, settings: Settings, num_tokens: int) -> Measured:
    """Runs one side; num_tokens is the number of real tokens in all its epochs."""
    result = measure_side(OURS if side == OURS else "transformers.Trainer", settings)
    if side == OURS:
        numbers = our_numbers(Path(settings.folder))
    else:
        numbers = json.loads(Path(settings.folder, "results.json").read_text(encoding="utf-8"))
    return Measured(
        side,
        round_,
        num_tokens / numbers["train_s"],
        numbers["padding_efficiency"],
        numbers["memory_bytes"],
        result.accuracy,
    )


def our_numbers(run_dir: Path) -> dict[str, Any]:
    """The results that the other sides write, computed from our metrics.jsonl."""
    events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    start_time = next(event["time"] for event in events if event["event"] == "start")
    steps = [event for event in events if event["event"] == "step"]
    times = [start_time, *(event["time"] for event in steps)]
    spans = [(end - start, event) for (start, end), event in zip(pairwise(times), steps, strict=True)]
    padded = sum(span * event["tokens_per_s"] / event["padding_efficiency"] for span, event in spans)
    real = sum(span * event["tokens_per_s"] for span, event in spans)
    return {
        "train_s": steps[-1]["time"] - start_time,
        "padding_efficiency": real / padded,
        "memory_bytes": steps[-1]["memory_bytes"],
        "loss": steps[-1]["loss"],
    }


def count_tokens(rows: Sequence[dict[str, str]]) -> int:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_TOKENS)
    return sum(map(len, encoded["input_ids"]))


def summarize(results: Sequence[Measured]) -> dict[str, Any]:
    """Medians by side, and the speed of shardtune relative to each other side: the median ratio of the rounds."""
    sides = {
        side: {
            name: statistics.median(getattr(result, name) for result in results if result.side == side)
            for name in ("tokens_per_s", "padding_efficiency", "memory_bytes", "accuracy")
        }
        for side in dict.fromkeys(result.side for result in results)
    }
    speed = {(result.side, result.round): result.tokens_per_s for result in results}
    rounds = sorted({result.round for result in results})

    def ratio(other: str) -> float | None:
        if OURS not in sides or other not in sides:
            return None
        return statistics.median(speed[OURS, number] / speed[other, number] for number in rounds)

    return {"sides": sides, "ratio_to_tuned": ratio(TUNED), "ratio_to_introductory": ratio(INTRODUCTORY)}


def add_sides(parser: argparse.ArgumentParser, others: Iterable[str], *, num_rounds: int) -> None:
    """Adds the arguments of a comparison, side by side and round by round."""
    default = "bf16" if has_bf16("cuda" if torch.cuda.is_available() else "cpu") else "fp32"
    parser.add_argument("--rounds", type=int, default=num_rounds, help="trainings per side (default: %(default)s)")
    parser.add_argument("--ranks", type=int, choices=[1, 2, 4, 8], default=2, help="processes per side")
    parser.add_argument("--side", choices=[OURS, *others], action="append", help="run only this side")
    parser.add_argument(
        "--precision",
        choices=["bf16", "fp32"],
        default=default,
        help="of all but the introductory side (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="prints one JSON object instead of a table")


def render(summary: dict[str, Any]) -> str:
    lines = [f"{'':24}{'real tokens/s':>14}{'real':>9}{'peak RSS of a rank':>20}{'test accuracy':>15}"]
    for side, medians in summary["sides"].items():
        lines.append(
            f"{side:24}{medians['tokens_per_s']:14,.0f}{medians['padding_efficiency']:9.1%}"
            f"{medians['memory_bytes'] / 2**30:17.2f} GB{medians['accuracy']:15.2%}"
        )
    for name, other in (("ratio_to_tuned", TUNED), ("ratio_to_introductory", INTRODUCTORY)):
        if summary[name] is not None:
            lines.append(f"shardtune is {summary[name]:.2f} times as fast as {other}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--rows", type=int, default=1024, help="number of training passages")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each training (default: %(default)s)")
    add_sides(parser, TRAINERS, num_rounds=2)
    given = parser.parse_args(arguments)

    fetched(sentiment.prepare)
    folder = new_folder("throughput")
    write(folder / "data", num_rows=given.rows)
    num_tokens = count_tokens(read_rows(folder / "data" / "train.jsonl")) * given.epochs
    results: list[Measured] = []
    for number in range(given.rounds):
        for side in given.side or [OURS, *TRAINERS]:
            settings = Settings(
                seed=number,
                epochs=given.epochs,
                precision="fp32" if side == INTRODUCTORY else given.precision,
                ranks=given.ranks,
                threads=max(1, cores // given.ranks),
                data=str(folder / "data"),
                folder=str(folder / f"{''.join(filter(str.isalpha, side))}-{number}"),
                batch=BATCH_OF_RANK * given.ranks,
                max_tokens=MAX_TOKENS,
                learning_rate=1e-4,
                arguments=TRAINERS.get(side, {}),
                deepspeed="null",  # plain data parallelism, like the others
            )
            results.append(measure(side, number, settings, num_tokens))
            print(f"round {number + 1}: {side}: {results[-1].tokens_per_s:,.0f} real tokens/s", file=sys.stderr)
    summary = summarize(results)
    if given.json:
        settings_of_all = {"rows": given.rows, "epochs": given.epochs, "ranks": given.ranks, "tokens": num_tokens}
        settings_of_all["precision"] = given.precision
        print(json.dumps({**summary, "settings": settings_of_all, "results": [asdict(result) for result in results]}))
    else:
        print(render(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
