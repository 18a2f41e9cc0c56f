"""Trains two models in several ways and shows what each way keeps of other skills.

    python -m benchmarks.forgetting [--only=encoder|chat] [--out=docs] [--steps=N]

Half an hour on two cores. What is finished is kept in .cache/forgetting, and not trained again.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.forgetting.drawing import Axis, Mark, draw
from benchmarks.forgetting.experiments import DATA, EXPERIMENTS, Experiment, names
from demo.fetch import CACHE

FOLDER = CACHE / "forgetting"
ALPHAS = "0.3,0.5,0.7"


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is not trained yet, prints a table for each model, and draws it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forgetting", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=[*names()], help="the experiment, by default both")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the pictures are written")
    parser.add_argument("--steps", type=int, help="steps of a training, to try the benchmark itself")
    arguments = parser.parse_args(argv)
    for experiment in EXPERIMENTS:
        if arguments.only in (None, experiment.name):
            began = time.monotonic()
            folder = FOLDER / experiment.name if arguments.steps is None else FOLDER / f"{experiment.name}-short"
            found = run_experiment(experiment, folder, arguments.steps)
            rows = rows_of(experiment, found)
            print(f"\n{experiment.title} ({time.monotonic() - began:.0f} s)\n\n{table(experiment, rows)}")
            path = arguments.out / f"forgetting-{experiment.name}.svg"
            path.write_text(picture(experiment, rows, found), encoding="utf-8")
            print(f"\npicture: {path}")
    return 0


def run_experiment(experiment: Experiment, folder: Path, steps: int | None) -> dict[str, Any]:
    """The results of each way by its name, and of the blends under `blend`."""
    folder.mkdir(parents=True, exist_ok=True)
    experiment.prepare(folder)
    more = [] if steps is None else [f"train.max_steps={steps}"]
    if experiment.first is not None:
        _run(experiment.first, folder, "reviews", more, {"train": ""})
    found = {}
    for way in experiment.ways:
        name = way.name.replace(" ", "_")
        train = str(DATA / "chitchat/train.jsonl")
        if way.replays:
            train = json.dumps([train, {"path": _replay(experiment, folder, way.replays), "weight": 1.0}])
        overrides = [*(word.replace("FOLDER", str(folder)) for word in way.overrides), *more]
        found[way.name] = _run(experiment.recipe, folder, name, overrides, {"train": train})
        if way.blends:
            blended = folder / name / "blend.json"
            if not blended.is_file():
                _shardtune(["blend", str(folder / name), f"--alphas={ALPHAS}"])
            found["blend"] = json.loads(blended.read_text(encoding="utf-8"))
    return found


def _replay(experiment: Experiment, folder: Path, num_rows: int) -> str:
    """The file of rows that the base model writes."""
    path, recipe = folder / "replay.jsonl", folder / "replay.yaml"
    train = str(DATA / "chitchat/train.jsonl")
    recipe.write_text(experiment.recipe.format(folder=folder, data=DATA, train=train), encoding="utf-8")
    _shardtune(["sample-base", str(recipe), f"--out={path}", f"--rows={num_rows}", "--ranks=2"])
    return str(path)


def _run(text: str, folder: Path, name: str, overrides: Sequence[str], values: Mapping[str, str]) -> Any:
    """The results of a run, which is trained unless one like it is finished."""
    recipe, run_dir = folder / f"{name}.yaml", folder / name
    content = text.format(folder=folder, data=DATA, **values) + "".join(f"# {word}\n" for word in overrides)
    if recipe.is_file() and recipe.read_text(encoding="utf-8") != content:
        shutil.rmtree(run_dir, ignore_errors=True)
    recipe.write_text(content, encoding="utf-8")
    results = run_dir / "results.json"
    if not results.is_file() or json.loads(results.read_text(encoding="utf-8")).get("export_pending"):
        _shardtune(["run", str(recipe), *overrides, f"--run-dir={run_dir}"])
    return json.loads(results.read_text(encoding="utf-8"))


def _shardtune(words: Sequence[str]) -> None:
    """Runs a command of shardtune. Ends the process if it fails."""
    print(f"$ shardtune {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "shardtune.launcher", *words], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def rows_of(experiment: Experiment, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each way its name, the test metric, and each set before and after."""
    rows = []
    for way in experiment.ways:
        results = found[way.name]
        rows.append(
            {
                "name": way.name,
                "learned": results["test"][experiment.metric],
                "before": {name: each["at_start"][each["metric"]] for name, each in results["retention"].items()},
                "after": {name: each["best"][each["metric"]] for name, each in results["retention"].items()},
            }
        )
    for point in found["blend"]["alphas"]:
        if 0 < point["alpha"] < 1:
            after = {
                name: metrics[found["blend"]["retention"][name]["metric"]]
                for name, metrics in point["retention"].items()
            }
            row = {"name": f"blend {point['alpha']:g}", "learned": point["test"][experiment.metric], "after": after}
            rows.append(row | {"before": rows[0]["before"]})
    return rows


def table(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    before = rows[0]["before"]
    sets = [*before]
    lines = [
        f"| | {experiment.metric} | {' | '.join(f'{name} kept' for name in sets)} |",
        f"| --- | {' | '.join(['---:'] * (1 + len(sets)))} |",
        f"| before | | {' | '.join(f'{before[name]:.4g}' for name in sets)} |",
    ]
    for row in rows:
        cells = " | ".join(f"{row['after'][name]:.4g}" for name in sets)
        lines.append(f"| {row['name']} | {row['learned']:.4g} | {cells} |")
    return "\n".join(lines)


def picture(experiment: Experiment, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    """What each way learned and kept."""
    of_set = found[experiment.ways[0].name]["retention"][experiment.kept]
    marks = [
        Mark(row["name"], row["learned"], row["after"][experiment.kept], row["name"].startswith("blend"))
        for row in rows
    ]
    learned = Axis.over(
        f"test {experiment.metric}: what is learned",
        [mark.learned for mark in marks],
        lower_is_better=experiment.lower_is_better,
    )
    before = rows[0]["before"][experiment.kept]
    kept = Axis.over(
        f"{experiment.kept} {of_set['metric']}: what is kept (before: {before:.3g})",
        [before, *(mark.kept for mark in marks)],
        lower_is_better=of_set["lower_is_better"],
    )
    return draw(experiment.title, marks, learned, kept)


if __name__ == "__main__":
    sys.exit(main())
