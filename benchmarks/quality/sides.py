"""Both sides of a comparison: their commands, and what each has reached with one seed."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.cases import Case, Size, read_rows
from benchmarks.quality.peer import WARMUP_FRACTION, WEIGHT_DECAY, PeerSettings, peer_command
from benchmarks.quality.scoring import answers_of, gold_of, scorer_of
from shardtune.run_dir.files import CHECKPOINTS, EXPORT, read_events

OURS, PEER = "shardtune", "Trainer"
BATCH = 32
NUM_EVALUATIONS = 8
"""Of shardtune on dev, evenly over the training: when it reaches the peer's metric is known to an eighth of it."""

Execute = Callable[[Sequence[str], Path, int], float]
"""Carries out a command, whose output goes to a file, with so many threads; returns the seconds that it took."""


@dataclass(frozen=True)
class Settings:
    """What all trainings of a comparison have in common."""

    model: str
    size: Size
    precision: str
    ranks: int
    threads: int


@dataclass(frozen=True)
class Reached:
    """What one side has reached on a data set with one seed."""

    side: str
    seed: int
    answers: list[Any]
    """For each test row, of the model of the last step."""
    dev: float
    """The metric of the same model on dev."""
    train_s: float
    """Of the steps alone, without start, evaluation and checkpoints."""
    wall_s: float
    """Of the whole command."""
    curve: list[tuple[float, float]]
    """(train_s so far, dev metric) at each evaluation; of the peer the last one alone."""


def measure(case: Case, side: str, seed: int, folder: Path, settings: Settings, execute: Execute) -> Reached:
    """Trains one side with one seed on the rows in folder/data, or reads what it reached when it was trained before."""
    path = folder / f"{side}-{seed}.json"
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        return Reached(**{**content, "curve": [(at, value) for at, value in content["curve"]]})
    run = _run_ours if side == OURS else _run_peer
    reached = run(case, seed, folder, settings, execute)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(reached)), encoding="utf-8")
    draft.replace(path)
    return reached


def _run_peer(case: Case, seed: int, folder: Path, settings: Settings, execute: Execute) -> Reached:
    own = _new(folder / f"{PEER}-{seed}")
    own.mkdir()
    wall_s = execute(
        peer_command(
            PeerSettings(
                kind=case.kind,
                model=settings.model,
                data=str(folder / "data"),
                folder=str(own),
                seed=seed,
                epochs=settings.size.epochs,
                batch=BATCH,
                ranks=settings.ranks,
                learning_rate=case.learning_rate,
                max_tokens=case.max_tokens,
                precision=settings.precision,
            )
        ),
        own.with_suffix(".log"),
        settings.threads,
    )
    results = json.loads((own / "results.json").read_text(encoding="utf-8"))
    gold = gold_of(case, read_rows(folder / "data" / "dev.jsonl"))
    dev = scorer_of(case, gold, results["dev"])(np.ones(len(gold), dtype=np.int64))
    return Reached(PEER, seed, results["test"], dev, results["train_s"], wall_s, [(results["train_s"], dev)])


def _run_ours(case: Case, seed: int, folder: Path, settings: Settings, execute: Execute) -> Reached:
    run_dir, data = _new(folder / f"{OURS}-{seed}"), folder / "data"
    log = run_dir.with_suffix(".log")
    wall_s = execute(our_command(case, seed, data, run_dir, settings), log, settings.threads)
    predicted = folder / f"{OURS}-{seed}-test.jsonl"
    words = ["shardtune.launcher", "predict", str(run_dir), f"--file={data / 'test.jsonl'}", f"--out={predicted}"]
    execute([sys.executable, "-m", *words, "--model=last"], log.with_suffix(".predict.log"), settings.threads)
    curve = curve_of(read_events(run_dir), case.metric)
    answers = answers_of(case, read_rows(predicted))
    for large in (run_dir / CHECKPOINTS, run_dir / EXPORT, _prepared(run_dir)):
        shutil.rmtree(large)
    return Reached(OURS, seed, answers, curve[-1][1], curve[-1][0], wall_s, curve)


def our_command(case: Case, seed: int, data: Path, run_dir: Path, settings: Settings) -> list[str]:
    """`shardtune run` with the peer's hyperparameters."""
    num_rows = len(read_rows(data / "train.jsonl"))
    num_steps = -(-num_rows // BATCH) * settings.size.epochs
    kind = "classification" if case.kind == "regression" else case.kind
    keys: dict[str, Any] = {
        "data.max_tokens": case.max_tokens,
        "data.cache_dir": _prepared(run_dir),
        "train.global_batch_size": BATCH,
        "train.num_epochs": settings.size.epochs,
        "train.seed": seed,
        "train.eval_every_steps": max(1, num_steps // NUM_EVALUATIONS),
        "checkpoint.every_steps": num_steps,
        "checkpoint.asynchronous": "false",  # written between steps, whose time is not counted; the peer saves none
        "optim.lr": case.learning_rate,
        "optim.warmup_steps": round(WARMUP_FRACTION * num_steps),
        "optim.weight_decay": WEIGHT_DECAY,
        "engine.precision": settings.precision,
        "engine.deepspeed": "null",  # plain data parallelism, like the peer
        "job.ranks": settings.ranks,
        "job.threads_per_rank": settings.threads,
        "report.wandb": "disabled",
    }
    recipe = {
        "task": {"kind": kind} | ({"problem": "regression"} if case.kind == "regression" else {}),
        "model": {"path": settings.model},
        "data": {split: str(data / f"{split}.jsonl") for split in ("train", "dev")},
    }
    path = run_dir.with_suffix(".yaml")
    path.write_text(json.dumps(recipe), encoding="utf-8")
    overrides = [f"{key}={value}" for key, value in keys.items()]
    return [sys.executable, "-m", "shardtune.launcher", "run", str(path), *overrides, f"--run-dir={run_dir}"]


def curve_of(events: Sequence[dict[str, Any]], metric: str) -> list[tuple[float, float]]:
    """(seconds of all steps so far, dev metric) at each evaluation of a run whose every step is reported."""
    train_s, curve, seconds = 0.0, [], dict[int, float]()
    for event in events:
        if event["event"] == "step":
            train_s += event["step_time_s"]
            seconds[event["step"]] = train_s
        elif event["event"] == "eval" and event["split"] == "dev":
            curve.append((seconds[event["step"]], float(event[metric])))
    return curve


def _new(folder: Path) -> Path:
    """The folder, without what a training that was broken off has left there."""
    for left in (folder, _prepared(folder)):
        shutil.rmtree(left, ignore_errors=True)
    return folder


def _prepared(run_dir: Path) -> Path:
    """The cache of a run: new for each, so that tokenizing is in its wall_s, as in the peer's."""
    return run_dir.with_name(f"{run_dir.name}-prepared")
