"""Dialogue: real tokens per second and memory, compared with TRL's SFTTrainer with and without packing and
assistant-only loss.

All sides train SmolLM2-135M in the same precision on the same conversations, truncated to the same number of tokens,
with the same number of processes on the same cores, one after another. A real token belongs to a conversation, not to
padding. The time is that of the training steps. `pip install -e .[bench]` installs TRL.
"""

import argparse
import json
import os
import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.fetched import fetched
from benchmarks.throughput import OURS, add_sides, our_numbers
from benchmarks.trainer_example import by_torchrun, new_folder, read_rows, run_command
from demo import chitchat

MODEL = Path(".cache/demo/smollm2")
DATA = Path(".cache/demo/chitchat/train.jsonl")
PEERS: dict[str, dict[str, Any]] = {
    "TRL": {},
    "TRL, assistant only": {"assistant_only_loss": True},
    "TRL, packed": {"packing": True, "packing_strategy": "bfd"},
    "TRL, packed, assistant only": {"packing": True, "packing_strategy": "bfd", "assistant_only_loss": True},
}
"""Side -> its additional arguments of SFTConfig."""
BATCH_OF_RANK = 4
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
"""The model's own template, with the markers that TRL's assistant_only_loss needs."""


@dataclass(frozen=True)
class Measured:
    side: str
    round: int
    tokens_per_s: float
    memory_bytes: int
    loss: float


def train_by_trl(settings: dict[str, Any]) -> None:
    """Trains with SFTTrainer, on each rank."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(read_rows(Path(settings["data"]))),
        args=SFTConfig(
            output_dir=f"{settings['folder']}/checkpoints",
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_OF_RANK,
            learning_rate=1e-4,
            max_length=settings["max_tokens"],
            bf16=settings["precision"] == "bf16",
            gradient_checkpointing=False,
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            **settings["arguments"],
        ),
    )
    metrics = trainer.train().metrics
    if trainer.is_world_process_zero():
        results = {
            "train_s": metrics["train_runtime"],
            "loss": metrics["train_loss"],
            "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        Path(settings["folder"], "results.json").write_text(json.dumps(results), encoding="utf-8")


def measure(side: str, round_: int, folder: Path, data: Path, given: argparse.Namespace, num_tokens: int) -> Measured:
    threads = max(1, len(os.sched_getaffinity(0)) // given.ranks)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if side == OURS:
        keys: dict[str, Any] = {
            "model.path": MODEL,
            "data.train": data,
            "data.dev": "null",
            "data.test": "null",
            "data.max_tokens": given.max_tokens,
            "data.cache_dir": f"{folder}-prepared",
            "train.global_batch_size": BATCH_OF_RANK * given.ranks,
            "train.max_steps": "null",
            "train.num_epochs": 1,
            "train.eval_at_start": "false",
            "train.micro_batch_tokens": given.micro_batch_tokens or given.max_tokens,
            "engine.precision": given.precision,
            "engine.deepspeed": "null",  # plain data parallelism, like the others
            "job.ranks": given.ranks,
            "job.threads_per_rank": threads,
            "report.wandb": "disabled",
        }
        overrides = [f"{key}={value}" for key, value in keys.items()]
        command = [
            sys.executable,
            "-m",
            "shardtune.launcher",
            "run",
            "recipes/chat.yaml",
            *overrides,
            f"--run-dir={folder}",
        ]
        run_command(command, folder, threads)
        numbers = our_numbers(folder)
    else:
        folder.mkdir()
        settings = {
            "data": str(data),
            "folder": str(folder),
            "max_tokens": given.max_tokens,
            "precision": given.precision,
            "arguments": PEERS[side],
        }
        command = by_torchrun(given.ranks, "benchmarks.chat", "--rank-of", json.dumps(settings))
        numbers, _ = run_command(command, folder, threads)
    return Measured(side, round_, num_tokens / numbers["train_s"], numbers["memory_bytes"], numbers["loss"])


def count_tokens(rows: Sequence[dict[str, Any]], max_tokens: int) -> int:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = TEMPLATE
    texts = [str(tokenizer.apply_chat_template(row["messages"], tokenize=False)) for row in rows]
    return sum(min(max_tokens, len(ids)) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


def summarize(results: Sequence[Measured]) -> dict[str, Any]:
    """Medians by side, and the ratios of shardtune to the fastest peer, in speed and memory."""
    sides = {
        side: {
            name: statistics.median(getattr(result, name) for result in results if result.side == side)
            for name in ("tokens_per_s", "memory_bytes", "loss")
        }
        for side in dict.fromkeys(result.side for result in results)
    }
    peers = [medians for side, medians in sides.items() if side != OURS]
    if OURS not in sides or not peers:
        return {"sides": sides, "ratio_to_best": None, "memory_ratio_to_best": None}
    best = max(peers, key=lambda medians: medians["tokens_per_s"])
    return {
        "sides": sides,
        "ratio_to_best": sides[OURS]["tokens_per_s"] / best["tokens_per_s"],
        "memory_ratio_to_best": sides[OURS]["memory_bytes"] / best["memory_bytes"],
    }


def render(summary: dict[str, Any]) -> str:
    lines = [f"{'':30}{'real tokens/s':>14}{'peak RSS of a rank':>20}{'last loss':>11}"]
    for side, medians in summary["sides"].items():
        memory = medians["memory_bytes"] / 2**30
        lines.append(f"{side:30}{medians['tokens_per_s']:14,.0f}{memory:17.2f} GB{medians['loss']:11.3f}")
    if summary["ratio_to_best"] is not None:
        lines.append(
            f"shardtune is {summary['ratio_to_best']:.2f} times as fast as the fastest TRL, with "
            f"{summary['memory_ratio_to_best']:.2f} times its memory"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat", description=__doc__)
    parser.add_argument("--chats", type=int, default=64, help="number of training conversations")
    parser.add_argument(
        "--max-tokens", type=int, default=512, help="where conversations are truncated (default: %(default)s)"
    )
    parser.add_argument("--micro-batch-tokens", type=int, help="of shardtune (default: --max-tokens)")
    add_sides(parser, PEERS, num_rounds=1)
    parser.add_argument("--rank-of", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.rank_of:
        train_by_trl(given.rank_of)
        return 0

    fetched(chitchat.prepare)
    folder = new_folder("chat_benchmark")
    folder.mkdir(parents=True)
    data = folder / "train.jsonl"
    rows = [{"messages": _plain(row["messages"])} for row in read_rows(DATA)[: given.chats]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    num_tokens = count_tokens(rows, given.max_tokens)
    results: list[Measured] = []
    for number in range(given.rounds):
        for side in given.side or [OURS, *PEERS]:
            side_folder = folder / f"{''.join(filter(str.isalpha, side))}-{number}"
            results.append(measure(side, number, side_folder, data, given, num_tokens))
            print(f"round {number + 1}: {side}: {results[-1].tokens_per_s:,.0f} real tokens/s", file=sys.stderr)
    summary = summarize(results)
    if given.json:
        settings = {name: getattr(given, name) for name in ("chats", "max_tokens", "ranks", "precision")} | {
            "tokens": num_tokens
        }
        print(json.dumps({**summary, "settings": settings, "results": [asdict(result) for result in results]}))
    else:
        print(render(summary))
    return 0


def _plain(messages: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The messages with role and content only, because not every trainer accepts weights."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


if __name__ == "__main__":
    sys.exit(main())
