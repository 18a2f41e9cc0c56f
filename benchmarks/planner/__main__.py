"""Prints the planner's predictions beside the published figures, and draws them.

    python -m benchmarks.planner [--svg=FILE]
    python -m benchmarks.planner --cpu [--only=MiniLM] [--steps=16]

The second compares planned steps with real ones on this machine's CPUs, after `shardtune plan --calibrate`.
Exit code 1 if an error is above its bound. The rows that are held out were never used while constants were fitted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.planner.memory import published, zero_paper
from benchmarks.planner.on_cpus import STEPS, compare_on_cpus, names
from benchmarks.planner.scatter import scatter
from benchmarks.planner.score import BOUNDS, Score, score_of
from benchmarks.planner.throughput import Comparison, compare


def _throughput(title: str, comparisons: Sequence[Comparison]) -> Score:
    print(f"\n{title}\n{'model':6} {'tokens':>6} {'GPUs':>15} {'rows':>8} {'published':>10} {'predicted':>10}   error")
    for found in comparisons:
        row = found.row
        batch = f"{row.micro_batch} x {row.num_micro_batches}"
        print(
            f"{row.model:6} {row.num_tokens:6} {f'{row.num_gpus} {row.gpu}':>15} {batch:>8} "
            f"{row.tokens_per_s_per_gpu:10,.0f} {found.predicted:10,.0f} {found.error:+7.1%}"
        )
    return score_of([found.error for found in comparisons])


def _others() -> tuple[Score, Score]:
    """Memory and speed of other trainers."""
    memory, speed = [], []
    print(f"\nOther trainers\n{'':46} {'published':>10} {'predicted':>10}   error")
    for row in published():
        if row.gigabytes is not None:
            memory.append(_line(row.name, "GB", row.gigabytes, row.predicted_gigabytes))
        if row.tokens_per_s is not None:
            speed.append(_line(row.name, "t/s", row.tokens_per_s, row.predicted_tokens_per_s))
    return score_of(memory), score_of(speed)


def _line(name: str, unit: str, figure: float, predicted: float) -> float:
    """Prints a line; returns the error."""
    error = predicted / figure - 1
    width = 10 - len(unit) - 1
    digits = 1 if figure < 10000 and unit == "GB" else 0
    print(f"{name:46} {figure:{width},.{digits}f} {unit} {predicted:{width},.{digits}f} {unit} {error:+7.1%}")
    return error


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svg", type=Path, help="where to draw published against predicted throughput")
    parser.add_argument("--cpu", action="store_true", help="train on this machine's CPUs, and compare the steps' times")
    parser.add_argument("--only", help=f"with --cpu, a part of the names of what is trained: {names()}")
    parser.add_argument("--steps", type=int, default=STEPS, help="with --cpu, steps of each (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.cpu:
        return compare_on_cpus(args.only, args.steps)
    train, held_out = compare(held_out=False), compare(held_out=True)
    scores = {
        "throughput, fitted": _throughput("llm-foundry, the rows that constants were fitted to", train),
        "throughput, held out": _throughput("llm-foundry, held out", held_out),
    }
    scores["memory, measured"], scores["speed of other trainers"] = _others()
    print("\nModel states by the formulas of the ZeRO paper")
    scores["memory, ZeRO paper"] = score_of([_line(name, "GB", *figures) for name, *figures in zero_paper()])
    print(f"\n{'':26} {'rows':>5} {'median':>8} {'90 %':>8} {'largest':>8}")
    for name, score in scores.items():
        print(f"{name:26} {score.num:5} {score.median:8.1%} {score.ninetieth:8.1%} {score.largest:8.1%}")
    if args.svg:
        args.svg.write_text(scatter(train, held_out), encoding="utf-8")
    failed = [name for name, score in scores.items() if not BOUNDS[name].holds(score)]
    for name in failed:
        print(f"{name}: above its bound {BOUNDS[name]}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
