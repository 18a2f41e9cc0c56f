"""The overhead of shardtune per step: a tiny model, compared with a bare DeepSpeed loop and a bare torch loop.

All sides train the same small encoder in fp32 on the same rows, all of the same length, one micro-batch per step and
rank, on the same cores, one after another, round by round. The bare loops have their batches in memory. They do not
report, count, check for stop requests or check the loss. The time of a side is the median step, timed by tens, without
the first ones.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.fetched import fetched
from benchmarks.throughput import OURS, add_sides
from benchmarks.trainer_example import MODEL, by_torchrun, new_folder, run_command
from demo import sentiment

DEEPSPEED, TORCH = "bare DeepSpeed", "bare torch"
PEERS = (DEEPSPEED, TORCH)
AT_ONCE = 10
"""Steps that are timed together."""
ROWS_OF_RANK = 16
NUM_WORDS = 62
"""Words per row: 64 tokens with the special tokens at its ends."""
SMALLER = {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Measured:
    side: str
    round: int
    step_s: float


def write_model(folder: Path) -> None:
    """Writes a small untrained encoder with the demo's tokenizer."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, folder)
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **SMALLER}), encoding="utf-8")


def write_rows(path: Path, num_rows: int) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for row in range(num_rows):
            text = " ".join(["good", "bad", "film"][(row + word) % 3] for word in range(NUM_WORDS))
            lines.write(json.dumps({"text": text, "label": f"label {row % 2}"}) + "\n")


def train_bare(settings: dict[str, Any]) -> None:
    """Trains with a bare loop, on each rank."""
    import torch
    import torch.distributed as dist
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    folder, model_folder = Path(settings["folder"]), settings["model"]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    rows = [json.loads(line) for line in Path(settings["data"]).read_text(encoding="utf-8").splitlines()]
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(model_folder, num_labels=2))
    model.train()
    make_loop = {DEEPSPEED: deepspeed_loop, TORCH: torch_loop}[settings["side"]]
    do_step = make_loop(model, settings)
    own_rows = rows[dist.get_rank() * ROWS_OF_RANK :][:ROWS_OF_RANK]
    batch = dict(tokenizer([row["text"] for row in own_rows], return_tensors="pt"))
    batch["labels"] = torch.tensor([int(row["label"].removeprefix("label ")) for row in own_rows])
    times = [time.time()]
    for step in range(1, settings["steps"] + 1):
        do_step(batch)
        if step % AT_ONCE == 0:
            times.append(time.time())
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps({"times": times}), encoding="utf-8")
    dist.destroy_process_group()


def deepspeed_loop(model: Any, settings: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """One step of DeepSpeed's documented loop, with the ds_config that shardtune used."""
    import deepspeed
    import torch

    from shardtune.trainer.engine.deepspeed_engine import open_deepspeed

    open_deepspeed()
    config = json.loads(Path(settings["ds_config"]).read_text(encoding="utf-8"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)

    def do_step(batch: dict[str, Any]) -> None:
        engine.backward(engine(**batch).loss)
        engine.step()

    return do_step


def torch_loop(model: Any, settings: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """One step of torch's documented loop, on DistributedDataParallel."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def do_step(batch: dict[str, Any]) -> None:
        parallel(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return do_step


def step_seconds(times: Sequence[float]) -> float:
    """The median time of a step in seconds, from the times after every AT_ONCE steps, without the first fifth."""
    spans = [(end - start) / AT_ONCE for start, end in pairwise(times)]
    return statistics.median(spans[len(spans) // 5 :])


def measure(side: str, round_: int, folder: Path, given: argparse.Namespace) -> Measured:
    threads = max(1, len(os.sched_getaffinity(0)) // given.ranks)
    model, data = folder / "model", folder / "train.jsonl"
    ours = folder / f"{OURS}-{round_}"
    if side == OURS:
        keys: dict[str, Any] = {
            "model.path": model,
            "model.from_scratch": "true",
            "data.train": data,
            "data.dev": "null",
            "data.test": "null",
            "data.cache_dir": folder / "prepared",
            "train.global_batch_size": ROWS_OF_RANK * given.ranks,
            "train.num_epochs": 1,
            "train.max_steps": given.steps,
            "optim.lr": LEARNING_RATE,
            "engine.precision": "fp32",
            "job.ranks": given.ranks,
            "job.threads_per_rank": threads,
            "report.every_steps": AT_ONCE,
            "report.wandb": "disabled",
        }
        overrides = [f"{key}={value}" for key, value in keys.items()]
        command = [sys.executable, "-m", "shardtune.launcher", "run", "recipes/sentiment.yaml", *overrides]
        run_command([*command, f"--run-dir={ours}"], ours, threads)
        events = map(json.loads, (ours / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return Measured(side, round_, step_seconds([event["time"] for event in events if event["event"] == "step"]))
    side_folder = folder / f"{side.replace(' ', '-')}-{round_}"
    side_folder.mkdir()
    settings = {
        "side": side,
        "model": str(model),
        "data": str(data),
        "folder": str(side_folder),
        "steps": given.steps,
        "ds_config": str(folder / f"{OURS}-0" / "deepspeed.json"),
    }
    command = by_torchrun(given.ranks, "benchmarks.overhead", "--rank-of", json.dumps(settings))
    results, _ = run_command(command, side_folder, threads)
    return Measured(side, round_, step_seconds(results["times"]))


def summarize(results: Sequence[Measured]) -> dict[str, Any]:
    """Medians by side, and the overhead of shardtune over each other side: the median ratio of the rounds, less one."""
    step_s = {(result.side, result.round): result.step_s for result in results}
    rounds = sorted({result.round for result in results})
    return {
        "step_s": {
            side: statistics.median(result.step_s for result in results if result.side == side)
            for side in dict.fromkeys(result.side for result in results)
        },
        "above": {
            side: statistics.median(step_s[OURS, number] / step_s[side, number] for number in rounds) - 1
            for side in PEERS
            if (side, rounds[0]) in step_s
        },
    }


def render(summary: dict[str, Any]) -> str:
    lines = [f"{'':16}{'per step':>12}"]
    lines += [f"{side:16}{1000 * step_s:9.2f} ms" for side, step_s in summary["step_s"].items()]
    lines += [f"{OURS} takes {above:+.1%} compared with {side}" for side, above in summary["above"].items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="steps of each training (default: %(default)s)")
    add_sides(parser, PEERS, num_rounds=3)
    parser.add_argument("--rank-of", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.rank_of:
        train_bare(given.rank_of)
        return 0

    fetched(sentiment.prepare)
    folder = new_folder("overhead")
    write_model(folder / "model")
    write_rows(folder / "train.jsonl", 64 * ROWS_OF_RANK * given.ranks)
    sides = [OURS, *(side for side in PEERS if side in (given.side or PEERS))]  # shardtune's run writes the ds_config
    results = [measure(side, number, folder, given) for number in range(given.rounds) for side in sides]
    summary = summarize(results)
    if given.json:
        print(json.dumps({**summary, "results": [asdict(result) for result in results]}))
    else:
        print(render(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
