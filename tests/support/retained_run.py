"""A run directory with retention sets, `kl_to_base` and test rows, as a training would write it."""

import json
import math
from pathlib import Path
from typing import Any

from shardtune.json_lines import json_line
from tests.support.hand_made_run import event, lines, start, step

BEGAN = 1_796_000_000.0
NUM_STEPS, EVERY, BEST = 100, 20, 60
TEXTS = [
    ("the film is a joy from the first minute to the last", "good"),
    ("nobody should have to sit through this", "bad"),
    ("a plot with holes, saved by its actors", "good"),
    ("<b>bold</b> & dull, and far too long", "bad"),
]
CONFIG = """\
task: {{kind: classification}}
model: {{path: /models/encoder}}
data: {{train: {folder}/train.jsonl, dev: {{fraction: 0.1}}, test: {folder}/test.jsonl}}
train: {{micro_batch_tokens: 4096}}
"""


def retention(name: str, at: int, metric: str, value: float, **more: Any) -> dict[str, Any]:
    """A `retention` event."""
    lower = metric == "perplexity"
    task = "masked_lm" if lower else "classification"
    shared = {"set": name, "task": task, "step": at, "metric": metric, "lower_is_better": lower}
    return event("retention", BEGAN + 10.5 + at, **shared, **{"loss": 0.5 + at / 100, metric: value} | more)


def sets_at(at: int) -> list[dict[str, Any]]:
    """What is measured of three sets at a step: two classifiers that forget, and a perplexity that rises."""
    part = at / NUM_STEPS
    return [
        retention("news", at, "accuracy", 0.9 - 0.2 * part**2),
        retention("questions", at, "accuracy", 0.8 - 0.05 * part),
        retention("wiki", at, "perplexity", 12 + 9 * part),
    ]


def dev_at(at: int, **more: Any) -> dict[str, Any]:
    """The evaluation on dev: the accuracy is highest at BEST."""
    accuracy = 0.9 - abs(at - BEST) / 250
    found = {"loss": 1 - accuracy, "accuracy": accuracy, "kl_to_base": 0.02 * math.sqrt(at)}
    return event("eval", BEGAN + 10.2 + at, split="dev", step=at, **found, **more)


def events(**of_dev: Any) -> list[dict[str, Any]]:
    """All events of the run."""
    found = [event("begin", BEGAN, process_began=BEGAN - 5, launched=BEGAN - 9), start(BEGAN + 10)]
    found += [dev_at(0, **of_dev), *sets_at(0)]
    for number in range(1, NUM_STEPS + 1):
        found.append(step(number, BEGAN + 10 + number, epoch=number / 50))
        if number % EVERY == 0:
            found += [dev_at(number, **of_dev), *sets_at(number)]
    return [*found, event("done", BEGAN + 125, **results())]


def results() -> dict[str, Any]:
    """Its results.json."""
    hidden = ("event", "time", "step", "set", "task", "split")
    start_dev, best_dev = ({k: v for k, v in dev_at(at).items() if k not in hidden} for at in (0, BEST))
    sets = {}
    for before, best in zip(sets_at(0), sets_at(BEST), strict=True):
        numbers = [{k: v for k, v in each.items() if k in ("loss", before["metric"])} for each in (before, best)]
        shared = {key: before[key] for key in ("metric", "lower_is_better")}
        sets[before["set"]] = {**shared, "at_start": numbers[0], "best": numbers[1]}
    return {
        "step": NUM_STEPS,
        "best_step": BEST,
        "dev_at_start": start_dev,
        "dev": best_dev,
        "test": {"loss": 0.3, "accuracy": 0.875, "intervals": {"accuracy": [0.75, 0.9375]}},
        "chosen_by": {"metric": "accuracy", "lower_is_better": False},
        "retention": sets,
    }


def write_retained_run(run_dir: Path, *, texts: list[tuple[str, str]] | None = None, **of_dev: Any) -> Path:
    """Writes the run directory, with its test data and what the model made of each of their rows; `of_dev` are more
    entries of the evaluations on dev."""
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    data = run_dir.parent / f"{run_dir.name}-data"
    data.mkdir(exist_ok=True)
    rows = texts or TEXTS
    (data / "test.jsonl").write_text("".join(json_line({"text": text, "label": label}) for text, label in rows))
    (data / "train.jsonl").write_text(json_line({"text": "fine", "label": "good"}))
    (run_dir / "config.yaml").write_text(CONFIG.format(folder=data), encoding="utf-8")
    (run_dir / "metrics.jsonl").write_bytes(lines(events(**of_dev)))
    (run_dir / "results.json").write_text(json.dumps(results()), encoding="utf-8")
    (run_dir / "facts.json").write_text(json.dumps({"label_names": ["bad", "good"]}), encoding="utf-8")
    write_test_rows(run_dir, [f"{data}/test.jsonl:{number}" for number in range(1, len(rows) + 1)])
    return run_dir


def write_test_rows(run_dir: Path, places: list[str]) -> None:
    """The file of what each row adds to the metrics; the loss rises from row to row."""
    found = [
        {"place": place, "loss": 0.25 * number, "targets": 1.0, "scores": {"hits": 1}}
        for number, place in enumerate(places)
    ]
    path = run_dir / "test_rows.jsonl"
    path.write_text("".join(map(json_line, found)), encoding="utf-8")
    path.chmod(0o644)
