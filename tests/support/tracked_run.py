"""A run's metrics.jsonl as it is after a failure, a resume and a rollback, with texts that readers stumble over."""

from pathlib import Path
from typing import Any

from shardtune.json_lines import json_line
from shardtune.run_dir.files import METRICS

SAMPLES = [
    {"prompt": "Wie geht's? 你好", "answer": "<script>alert(1)</script> | a\u2028b\x85c", "reference": "gut\nja"},
    {"prompt": "", "answer": "NUL \x00 and \t tab\x00", "reference": "*bold* & co"},
]
BEGAN = 1_796_011_500.0


def step_event(step: int, *, at: float, loss: float | None = 0.5) -> dict[str, Any]:
    """A `step` event as the trainer writes it; null stands for NaN."""
    return {
        **{"event": "step", "time": round(BEGAN + at, 3), "step": step, "epoch": step / 8, "loss": loss, "lr": 1e-5},
        **{"grad_norm": 1.0 / (step + 2), "tokens_per_s": 1234.5, "mfu": 0.25, "memory_bytes": 1_054_859_264 + step},
        **{"compute_s": [0.1, 0.2], "slowest_rank": 1, "slowest_host": "node-ä", "slowest_gpu": None},
        **{"lost_share": 0.01, "skipped_steps": 0},
    }


FIRST_START = [
    {"event": "begin", "time": BEGAN, "job": None},
    {"event": "start", "time": BEGAN + 1, "step": 0, "num_steps": 8, "num_rows": 64},
    step_event(1, at=2, loss=0.1 + 0.2),
    step_event(2, at=3.125, loss=None),
    {"event": "eval", "time": BEGAN + 4, "split": "dev", "step": 2, "loss": 1 / 3, "confusion": [[1, 0], [0, 1]]}
    | {"f1_by_class": {"Überraschung": 0.5, "R&D, 研究": None}, "answers": SAMPLES},
    {"event": "retention", "time": BEGAN + 4.5, "set": "R&D news", "task": "classification", "step": 2}
    | {"metric": "accuracy", "lower_is_better": False, "loss": 0.4, "accuracy": 0.5, "f1_by_class": {"a": None}},
    {"event": "checkpoint", "time": BEGAN + 5, "step": 2, "num_bytes": 123, "stall_s": 0.5},
]
SECOND_START = [
    {"event": "alert", "time": BEGAN + 9, "title": "loss spike at step 4", "text": "the löss is 9", "step": 4},
    {"event": "lost", "time": BEGAN + 9, "step": 2, "num_steps": 2, "seconds": 2.5},
    {"event": "begin", "time": BEGAN + 20, "job": None},
    {"event": "start", "time": BEGAN + 21, "step": 2, "num_steps": 8, "num_rows": 64},
    step_event(3, at=19, loss=0.25),  # the clock has gone back
    {"event": "eval", "time": BEGAN + 24, "split": "test", "step": 3, "loss": 0.75, "accuracy": 1.0},
    {"event": "time_use", "time": BEGAN + 25, "goodput": 0.5, "useful": 12.5},
    {"event": "done", "time": BEGAN + 25, "step": 3, "best_step": 3},
]
WHOLE = [*FIRST_START, *SECOND_START]


def write_events(run_dir: Path, events: list[dict[str, Any]], *, end: str = "") -> Path:
    """Replaces the metrics.jsonl of a run directory, as a resume does; `end` follows the last line."""
    run_dir.mkdir(exist_ok=True)
    draft = run_dir / "draft"
    draft.write_text("".join(map(json_line, events)) + end, encoding="utf-8")
    draft.replace(run_dir / METRICS)
    return run_dir


def add_events(run_dir: Path, events: list[dict[str, Any]]) -> None:
    """Adds lines to the metrics.jsonl of a run directory, as a run does."""
    with (run_dir / METRICS).open("a", encoding="utf-8") as file:
        file.write("".join(map(json_line, events)))
