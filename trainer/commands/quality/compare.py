"""Compares two runs on the same test rows: is the difference real, or an accident of which rows are in the test set?

`python -m shardtune.trainer.commands.quality.compare RUN_A RUN_B [--json]`
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.errors import CheckpointError, ShardtuneError
from shardtune.processes import run_piped
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.run_dir.files import FACTS, MODEL, RESULTS, TEST_ROWS
from shardtune.run_dir.run import read_config
from shardtune.trainer.evaluation.intervals import Counts
from shardtune.trainer.evaluation.paired import Difference, Discordant, differences, discordant
from shardtune.trainer.evaluation.row_file import read_rows
from shardtune.trainer.evaluation.rows import RowScores
from shardtune.trainer.tasks import TASKS, Task, task_of

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class TestedRun:
    """A finished run, and what each of its test rows adds to the metrics."""

    run_dir: Path
    recipe: Recipe
    labels: list[str]
    task: Task
    rows: RowScores
    places: list[str]
    """Of each row, where it was read, such as `data/test.jsonl:12`."""

    def counts(self, chosen: NDArray[np.int64], times: Counts) -> dict[str, Any]:
        """The metrics of the rows with these numbers, each counted as often as `times` says."""
        of_rows = np.zeros(len(self.places), dtype=np.int64)
        of_rows[chosen] = times
        return self.rows.metrics(self.task, of_rows)


@dataclass(frozen=True)
class Comparison:
    """Two runs on the rows that both were tested on."""

    num_rows: int
    only_in: tuple[int, int]
    """How many test rows each run has that the other has not."""
    metrics: Mapping[str, Difference]
    discordant: Mapping[str, Discordant]
    """For each fraction of rows, those that only one of the models gets right."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = OneLineParser("shardtune compare", description=__doc__)
    parser.add_argument("run_a", type=Path, help="a run directory")
    parser.add_argument("run_b", type=Path, help="another one, tested on the same rows")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    arguments = parser.parse_args(argv)
    try:
        a, b = open_run(arguments.run_a), open_run(arguments.run_b)
        comparison = compare(a, b)
    except ShardtuneError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    print(json.dumps(as_json(comparison), indent=1) if arguments.json else render(comparison, a.run_dir, b.run_dir))
    return EXIT_OK


def open_run(run_dir: Path) -> TestedRun:
    """A run with its test rows. Raises CheckpointError if it is not a run directory, or was not tested."""
    import transformers

    recipe = read_config(run_dir)
    if not (run_dir / TEST_ROWS).is_file():
        why = "it is not finished" if not (run_dir / RESULTS).is_file() else "its recipe has no data.test"
        raise CheckpointError(f"{run_dir}: no {TEST_ROWS}: {why}, or it was trained by an older version")
    facts = json.loads((run_dir / FACTS).read_text(encoding="utf-8"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(run_dir / MODEL, trust_remote_code=False)
    config = transformers.AutoConfig.from_pretrained(run_dir / MODEL, trust_remote_code=False)
    task = task_of(recipe, facts, tokenizer, config)
    results = json.loads((run_dir / RESULTS).read_text(encoding="utf-8"))
    if "dev" in results:
        task.calibrate(results["dev"])
    rows, places = read_rows(run_dir / TEST_ROWS)
    return TestedRun(run_dir, recipe, TASKS[recipe.task.kind].head_labels(facts), task, rows, places)


def compare(a: TestedRun, b: TestedRun) -> Comparison:
    """The differences of b from a. Raises CheckpointError if they cannot be compared, or share no test row."""
    if a.recipe.task.kind != b.recipe.task.kind:
        raise CheckpointError(
            f"{a.run_dir} learned {a.recipe.task.kind}, {b.run_dir} {b.recipe.task.kind}: their metrics differ"
        )
    if a.labels != b.labels:
        names = ", ".join(sorted({*a.labels} ^ {*b.labels})) or "the same in another order"
        raise CheckpointError(f"{a.run_dir} and {b.run_dir} have different labels ({names}): they cannot be compared")
    numbers = {place: number for number, place in enumerate(b.places)}
    pairs = [(number, numbers[place]) for number, place in enumerate(a.places) if place in numbers]
    if not pairs:
        raise CheckpointError(
            f"{a.run_dir} and {b.run_dir} have no test row in common: they were tested on {a.places[0]} … and "
            f"{b.places[0]} …; give both the same data.test"
        )
    of_a, of_b = np.array(pairs, dtype=np.int64).T
    found = differences(lambda times: a.counts(of_a, times), lambda times: b.counts(of_b, times), len(pairs))
    fractions = {}
    for name in sorted(a.task.proportions & b.task.proportions & found.keys()):
        right_a, right_b = a.rows.is_right(a.task, name), b.rows.is_right(b.task, name)
        fractions[name] = discordant([right_a[row] for row in of_a], [right_b[row] for row in of_b])
    return Comparison(len(pairs), (len(a.places) - len(pairs), len(b.places) - len(pairs)), found, fractions)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values; p is that of the paired bootstrap, mcnemar_p that of McNemar's test."""
    fractions = {name: {**asdict(found), "mcnemar_p": found.p} for name, found in comparison.discordant.items()}
    return {
        "rows": comparison.num_rows,
        "only_in_a": comparison.only_in[0],
        "only_in_b": comparison.only_in[1],
        "metrics": {name: asdict(found) | fractions.get(name, {}) for name, found in comparison.metrics.items()},
    }


def render(comparison: Comparison, a: Path, b: Path) -> str:
    """The comparison as a table of at most 100 columns, and what it means in words."""
    lines = [f"A  {a}", f"B  {b}", f"{counted(comparison.num_rows, 'test row')} in common"]
    if any(comparison.only_in):
        lines[-1] += f"; {comparison.only_in[0]:,} only in A and {comparison.only_in[1]:,} only in B do not count"
    lines += ["", f"{'':18}{'A':>10}{'B':>10}{'B - A':>10}  {'95 % interval':22}{'p':>8}"]
    for name, found in comparison.metrics.items():
        interval = "-" if found.interval is None else f"{found.interval[0]:+.4f} to {found.interval[1]:+.4f}"
        p = _p_of(comparison, name)
        lines.append(
            f"{name:18}{found.a:10.4f}{found.b:10.4f}{found.b - found.a:+10.4f}  {interval:22}"
            f"{'-' if p is None else f'{p:.4f}' if p >= 0.0001 else '<0.0001':>8}"
        )
    for name, of_rows in comparison.discordant.items():
        lines.append(
            f"\n{name}: {counted(of_rows.only_a, 'row')} right only by A, {of_rows.only_b:,} only by B "
            f"(McNemar's exact test: p = {of_rows.p:.4f})"
        )
    lines.append(f"\n{conclusion(comparison)}")
    return "\n".join(lines)


def conclusion(comparison: Comparison) -> str:
    """One sentence: which metrics differ by more than chance explains."""
    better = [name for name in comparison.metrics if (p := _p_of(comparison, name)) is not None and p < SIGNIFICANT]
    if not better:
        return "No metric differs by more than chance explains (p < 0.05)."
    return f"More than chance explains (p < 0.05): {', '.join(better)}."


def _p_of(comparison: Comparison, name: str) -> float | None:
    """McNemar's where there is one: it is exact."""
    fraction = comparison.discordant.get(name)
    return comparison.metrics[name].p if fraction is None else fraction.p


if __name__ == "__main__":
    run_piped(main)
