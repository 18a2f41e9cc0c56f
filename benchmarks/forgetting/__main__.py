"""Trains two models in several ways and shows what each way keeps of other skills.

    python -m benchmarks.forgetting [--only=encoder|chat] [--out=docs] [--steps=N]

Each takes less than half an hour on two cores. What is finished is kept in .cache/forgetting, and not trained again.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.forgetting.drawing import Axis, Mark, draw
from benchmarks.forgetting.experiments import DATA, EXPERIMENTS, Experiment, names
from demo.fetch import CACHE

FOLDER = CACHE / "forgetting"
ALPHAS = "0.3,0.5,0.7"
REPLAY_WEIGHT = 15.0
"""How often each replayed row occurs in an epoch: together they are one row in nine."""


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


def run_experiment(experiment: Experiment, folder: Path, steps: int | None) -> dict[str, list[Any]]:
    """The results of each way by its name, and of the blends under `blend`: those of each seed."""
    folder.mkdir(parents=True, exist_ok=True)
    experiment.prepare(folder)
    more = [] if steps is None else [f"train.max_steps={steps}"]
    if experiment.first is not None:
        _run(experiment.first, folder, "reviews", more, {"train": ""})
    found: dict[str, list[Any]] = {"blend": []}
    for way in experiment.ways:
        train = str(DATA / "chitchat/train.jsonl")
        if way.replays:
            train = json.dumps([train, {"path": _replay(experiment, folder, way.replays), "weight": REPLAY_WEIGHT}])
        overrides = [*(word.replace("FOLDER", str(folder)) for word in way.overrides), *more]
        found[way.name] = []
        for seed in experiment.seeds:
            name = f"{way.name.replace(' ', '_')}-{seed}"
            words = [*overrides, f"train.seed={seed}"]
            found[way.name].append(_run(experiment.recipe, folder, name, words, {"train": train}))
            if way.blends:
                found["blend"].append(_blended(folder / name))
    return found


def _blended(run_dir: Path) -> Any:
    """What the models between the base and the result of a run are worth."""
    path = run_dir / "blend.json"
    if not path.is_file():
        _shardtune(["blend", str(run_dir), f"--alphas={ALPHAS}"])
    return json.loads(path.read_text(encoding="utf-8"))


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


def rows_of(experiment: Experiment, found: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """For each way its name, and of each seed the test metric, and the metric of each set before and after."""
    rows = []
    for way in experiment.ways:
        results = found[way.name]
        sets = results[0]["retention"].items()
        rows.append(
            {
                "name": way.name,
                "learned": [one["test"][experiment.metric] for one in results],
                "before": {name: each["at_start"][each["metric"]] for name, each in sets},
                "after": {
                    name: [one["retention"][name]["best"][each["metric"]] for one in results] for name, each in sets
                },
            }
        )
    blends = found["blend"]
    for points in zip(*(blend["alphas"] for blend in blends), strict=True):
        if 0 < points[0]["alpha"] < 1:
            metrics = {name: each["metric"] for name, each in blends[0]["retention"].items()}
            rows.append(
                {
                    "name": f"blend {points[0]['alpha']:g}",
                    "learned": [point["test"][experiment.metric] for point in points],
                    "before": rows[0]["before"],
                    "after": {
                        name: [point["retention"][name][metric] for point in points] for name, metric in metrics.items()
                    },
                }
            )
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
        cells = " | ".join(_cell(row["after"][name]) for name in sets)
        lines.append(f"| {row['name']} | {_cell(row['learned'])} | {cells} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    """The mean, and of several values the lowest and the highest."""
    text = f"{fmean(values):.4g}"
    return text if len(values) == 1 else f"{text} ({min(values):.3g} to {max(values):.3g})"


def picture(experiment: Experiment, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Sequence[Any]]) -> str:
    """What each way learned and kept."""
    of_set = found[experiment.ways[0].name][0]["retention"][experiment.kept]
    marks = [
        Mark(row["name"], fmean(row["learned"]), fmean(row["after"][experiment.kept]), row["name"].startswith("blend"))
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
