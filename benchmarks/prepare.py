"""Speed and memory of preparing data, compared with other libraries and with the tokenizer alone on as many processes.

`python -m benchmarks.prepare` generates a JSONL file of texts of mixed lengths, prepares it, loads the prepared data,
and orders 10 million rows. The tokenizer alone runs on texts that are already in memory, before and after. `datasets`
reads the same file and maps the tokenizer over it, without checking rows, searching for duplicates or counting.
Dialogue is prepared by `shardtune prepare` and by TRL's SFTTrainer, both with only the assistant's turns as targets,
from the same numbered copies of the demo's conversations.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fetched import fetched
from demo import chitchat, sentiment

MODEL = Path(".cache/demo/minilm")
MAX_TOKENS, BATCH = 512, 1000
BASELINE_ROWS = 40_000
"""Rows per process when the tokenizer runs alone."""

RECIPE = """
task: {{kind: classification}}
model: {{path: {model}}}
data: {{train: {file}, cache_dir: {cache}, max_tokens: {max_tokens}}}
train: {{micro_batch_tokens: {max_tokens}}}
"""
HIT = """
import json, sys, time
from pathlib import Path
since = time.monotonic()
from shardtune.recipe.load import load_recipe
from shardtune.trainer.data.batches.order import Order
from shardtune.trainer.data.prepare.prepare import prepare
imported = time.monotonic()
train = prepare(load_recipe(Path(sys.argv[1]), [])).split("train")
order = Order(train.lengths, 32, 50, 0, sources=train.sources, num_targets=train.num_targets)
train.examples(order.rows(0))
ended = time.monotonic()
order.rows(order.steps_per_epoch // 2)
lines = [line.split() for line in open("/proc/self/smaps_rollup")]
private = 1024 * sum(int(line[1]) for line in lines if line[0].startswith("Private"))
times = {"seconds": ended - imported, "import_s": imported - since}
print(json.dumps({"rows": len(train), **times, "private_bytes": private}))
"""

BY_DATASETS = """
import json, sys, time
from datasets import load_dataset
from transformers import AutoTokenizer
model, file, cache, processes, max_tokens = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
since = time.monotonic()
rows = load_dataset("json", data_files=file, split="train", cache_dir=cache)
encode = lambda batch: tokenizer(batch["text"], truncation=True, max_length=int(max_tokens))
rows = rows.map(encode, batched=True, num_proc=int(processes), remove_columns=["text"])
print(json.dumps({"rows": len(rows), "seconds": time.monotonic() - since}))
"""
BY_TRL = """
import json, sys, time
from datasets import load_dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer
from benchmarks.chat import TEMPLATE
model, file, cache, processes, max_tokens = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
tokenizer.chat_template = TEMPLATE
config = AutoConfig.from_pretrained(model)
config.num_hidden_layers = 1
tiny = AutoModelForCausalLM.from_config(config)
seconds = []
for part in ("train[:2]", "train"):
    since = time.monotonic()
    rows = load_dataset("json", data_files=file, split=part, cache_dir=cache)
    arguments = SFTConfig(
        output_dir=cache, assistant_only_loss=True, max_length=int(max_tokens), report_to=[], use_cpu=True,
        dataset_num_proc=int(processes) if part == "train" else None,
    )
    SFTTrainer(model=tiny, processing_class=tokenizer, train_dataset=rows, args=arguments)
    seconds.append(time.monotonic() - since)
print(json.dumps({"rows": len(rows), "seconds": seconds[1] - seconds[0]}))
"""
CHAT_MODEL = Path(".cache/demo/smollm2")
CHATS = Path(".cache/demo/chitchat/train.jsonl")
CHAT_RECIPE = """
task: {{kind: chat}}
model: {{path: {model}}}
data: {{train: {file}, cache_dir: {cache}, max_tokens: {max_tokens}}}
train: {{micro_batch_tokens: {max_tokens}}}
"""


def texts(model: Path, seed: int = 0) -> Iterator[str]:
    """Random texts of words from the tokenizer's vocabulary, Zipf-distributed; 5 to 1,500 words, median 75."""
    from transformers import AutoTokenizer

    random = np.random.default_rng(seed)
    vocabulary = AutoTokenizer.from_pretrained(model).get_vocab()
    words = [word for word in sorted(vocabulary, key=vocabulary.__getitem__) if word.isalpha() and len(word) > 1]
    pool = [words[at] for at in np.minimum(random.zipf(1.2, 2_000_000) - 1, len(words) - 1).tolist()]
    for number in count():
        length = int(np.clip(random.lognormal(np.log(75), 0.8), 5, 1500))
        start = int(random.integers(0, len(pool) - length))
        yield f"Report {number}: {' '.join(pool[start : start + length])}."


def make(path: Path, model: Path, num_bytes: float, num_rows: int) -> int:
    """Writes at least num_bytes and num_rows; returns the number of rows."""
    written = 0
    with path.open("w", encoding="utf-8", buffering=1 << 20) as file:
        for number, text in enumerate(texts(model), start=1):
            label = ("business", "sport", "world")[number % 3]
            written += file.write(json.dumps({"text": text, "label": label}) + "\n")
            if written >= num_bytes and number >= num_rows:
                return number
    raise AssertionError("texts() never ends")


def tokenizer_alone(model: Path, path: Path, num_processes: int) -> tuple[float, float]:
    """Rows/s and tokens/s of `tokenizer(texts, truncation=True)` on num_processes at once."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    barrier = context.Barrier(num_processes)
    processes = [
        context.Process(target=_tokenize, args=(model, path, number, barrier, results))
        for number in range(num_processes)
    ]
    for process in processes:
        process.start()
    measured = [results.get() for _ in processes]
    for process in processes:
        process.join()
    seconds = max(end for _, _, _, end in measured) - min(start for _, _, start, _ in measured)
    return sum(rows for rows, *_ in measured) / seconds, sum(tokens for _, tokens, *_ in measured) / seconds


def _tokenize(model: Path, path: Path, number: int, barrier: Any, results: Any) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    with path.open(encoding="utf-8") as file:
        for at, line in enumerate(file):
            if at >= number * BASELINE_ROWS:
                rows.append(json.loads(line)["text"])
            if len(rows) == BASELINE_ROWS:
                break
    barrier.wait()
    start, num_tokens = time.monotonic(), 0
    for at in range(0, len(rows), BATCH):
        encoded = tokenizer(rows[at : at + BATCH], truncation=True, max_length=MAX_TOKENS)
        num_tokens += sum(map(len, encoded["input_ids"]))
    results.put((len(rows), num_tokens, start, time.monotonic()))


def prepare(recipe: Path, *overrides: str) -> dict[str, Any]:
    """The report of `shardtune prepare`, and the peak memory of all its processes together."""
    process = subprocess.Popen(
        [sys.executable, "-m", "shardtune.trainer.commands.prepare", str(recipe), *overrides, "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = {"private_bytes": 0, "shared_out_bytes": 0, "resident_bytes": 0}
    while process.poll() is None:
        memory = [_memory(pid) for pid in _family(process.pid)]
        for name in peak:
            peak[name] = max(peak[name], sum(process_memory[name] for process_memory in memory))
        time.sleep(0.2)
    assert process.stdout is not None
    output = process.stdout.read()
    if process.returncode:
        raise SystemExit(output)
    return {**json.loads(output), "peak": peak}


def _family(pid: int) -> list[int]:
    """The ids of a process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _memory(pid: int) -> dict[str, int]:
    """Private memory, PSS (each shared page divided among its processes) and RSS of a process, in bytes."""
    memory = {"private_bytes": 0, "shared_out_bytes": 0, "resident_bytes": 0}
    names = {"Private_Clean:": "private_bytes", "Private_Dirty:": "private_bytes"}
    names |= {"Pss:": "shared_out_bytes", "Rss:": "resident_bytes"}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            word, *rest = line.split()
            if word in names:
                memory[names[word]] += int(rest[0]) * 1024
    except OSError:
        pass  # the process has ended
    return memory


def by_others(script: str, model: Path, file: Path, cache: Path, num_processes: int) -> float:
    """Rows/s of one of the scripts above, in its own process with its own cache."""
    command = [sys.executable, "-c", script, str(model), str(file), str(cache), str(num_processes), str(MAX_TOKENS)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    environment["HF_DATASETS_CACHE"] = str(cache)
    completed = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if completed.returncode:
        raise SystemExit(completed.stderr[-2000:])
    result = json.loads(completed.stdout.splitlines()[-1])
    return float(result["rows"] / result["seconds"])


def chats(folder: Path, num_chats: int, num_processes: int) -> dict[str, float]:
    """Conversations per second prepared by shardtune and by TRL."""
    file, recipe = folder / "chats.jsonl", folder / "chats.yaml"
    originals = [json.loads(line) for line in CHATS.read_text(encoding="utf-8").splitlines()]
    with file.open("w", encoding="utf-8") as lines:
        for number in range(num_chats):
            first, *rest = originals[number % len(originals)]["messages"]
            messages = [{**first, "content": f"{first['content']} ({number})"}, *rest]
            lines.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    recipe.write_text(
        CHAT_RECIPE.format(model=CHAT_MODEL, file=file, cache=folder / "chat-cache", max_tokens=MAX_TOKENS)
    )
    report = prepare(recipe, f"data.prepare_processes={num_processes}")
    return {
        "chats_per_s": num_chats / report["seconds"],
        "trl_chats_per_s": by_others(BY_TRL, CHAT_MODEL, file, folder / "trl", num_processes),
    }


def order_of(num_rows: int) -> dict[str, float]:
    """Seconds to order an epoch of num_rows: by rows, by targets, and as mixtures of three and six sources."""
    from shardtune.trainer.data.batches.order import Order

    random = np.random.default_rng(0)
    lengths = random.integers(5, 512, num_rows).astype(np.int32)
    three = random.choice(3, num_rows, p=[0.6, 0.3, 0.1]).astype(np.int32)
    six = random.choice(6, num_rows, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05]).astype(np.int32)
    seconds = {}
    for name, order in (
        ("order_s", Order(lengths, 32, 50, 0)),
        ("order_of_tokens_s", Order(lengths, 32, 50, 0, num_targets=lengths.astype(float), global_batch_tokens=8000)),
        ("order_of_three_s", Order(lengths, 32, 50, 0, sources=three, weights=(1.0, 0.5, 2.0))),
        ("order_of_six_s", Order(lengths, 32, 50, 0, sources=six, weights=(1.0, 0.5, 2.0, 1.0, 3.0, 0.25))),
    ):
        since = time.monotonic()
        order.rows(order.steps_per_epoch // 2)
        seconds[name] = time.monotonic() - since
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser("benchmarks.prepare", description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0, help="GB of JSONL to generate")
    parser.add_argument("--rows", type=int, default=1_000_000, help="minimum number of rows")
    parser.add_argument("--chats", type=int, default=20_000, help="number of conversations; 0 skips them and TRL")
    parser.add_argument("--order-rows", type=int, default=10_000_000, help="number of rows to order")
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="of each side (default: %(default)s)"
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder with a tokenizer; `make demo` fetches one")
    parser.add_argument("--json", action="store_true", help="prints one JSON object instead of a table")
    arguments = parser.parse_args(argv)
    fetched(sentiment.prepare, *([chitchat.prepare] if arguments.chats else []))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_rows = make(folder / "train.jsonl", arguments.model, arguments.gb * 1e9, arguments.rows)
        recipe = folder / "recipe.yaml"
        recipe.write_text(
            RECIPE.format(
                model=arguments.model, file=folder / "train.jsonl", cache=folder / "cache", max_tokens=MAX_TOKENS
            )
        )
        before = tokenizer_alone(arguments.model, folder / "train.jsonl", arguments.processes)
        report = prepare(recipe, f"data.prepare_processes={arguments.processes}")
        after = tokenizer_alone(arguments.model, folder / "train.jsonl", arguments.processes)
        by_datasets = by_others(
            BY_DATASETS, arguments.model, folder / "train.jsonl", folder / "datasets", arguments.processes
        )
        hit = subprocess.run([sys.executable, "-c", HIT, str(recipe)], capture_output=True, text=True, check=True)
        alone = [(one + other) / 2 for one, other in zip(before, after, strict=True)]
        numbers = {
            "rows": num_rows,
            "file_bytes": (folder / "train.jsonl").stat().st_size,
            "processes": arguments.processes,
            "seconds": report["seconds"],
            "rows_per_s": num_rows / report["seconds"],
            "tokens_per_s": report["tokens_per_s"],
            "datasets_rows_per_s": by_datasets,
            "ratio_to_datasets": num_rows / report["seconds"] / by_datasets,
            "tokenizer_rows_per_s": alone[0],
            "tokenizer_tokens_per_s": alone[1],
            "ratio_to_tokenizer": report["tokens_per_s"] / alone[1],
            "peak": report["peak"],
            "shards": report["shards"],
            "prepared_bytes": report["bytes"],
            "hit": json.loads(hit.stdout),
            **(chats(folder, arguments.chats, arguments.processes) if arguments.chats else {}),
            "order_rows": arguments.order_rows,
            **order_of(arguments.order_rows),
        }
    print(json.dumps(numbers, indent=1) if arguments.json else _table(numbers))
    return 0


def _table(numbers: dict[str, Any]) -> str:
    peak, hit = numbers["peak"], numbers["hit"]
    lines = [
        ("rows; GB of JSONL", numbers["rows"], numbers["file_bytes"] / 1e9),
        ("prepared: rows/s; tokens/s", numbers["rows_per_s"], numbers["tokens_per_s"]),
        ("datasets.map: rows/s; shardtune / datasets", numbers["datasets_rows_per_s"], numbers["ratio_to_datasets"]),
        ("the tokenizer alone: rows/s; tokens/s", numbers["tokenizer_rows_per_s"], numbers["tokenizer_tokens_per_s"]),
        ("shardtune / tokenizer alone, tokens/s", numbers["ratio_to_tokenizer"], None),
        ("peak memory, MB: private; all", peak["private_bytes"] / 1e6, peak["shared_out_bytes"] / 1e6),
        ("start with prepared data: s; private MB", hit["seconds"], hit["private_bytes"] / 1e6),
        (f"ordering {numbers['order_rows']:,} rows, s", numbers["order_s"], None),
        ("… by targets, s", numbers["order_of_tokens_s"], None),
        ("… as a mixture of three; six sources, s", numbers["order_of_three_s"], numbers["order_of_six_s"]),
    ]
    if "chats_per_s" in numbers:
        lines.append(("chats/s: shardtune; TRL", numbers["chats_per_s"], numbers["trl_chats_per_s"]))
    return "\n".join(f"{name:42} {_number(first):>14} {_number(second):>14}" for name, first, second in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
