"""Peak memory of one step of SmolLM2-135M on 4 rows of 512 tokens: with all logits at once, in chunks, and row by row.

Each method runs in a process of its own, which computes the loss and the gradients of the same rows once, in bf16. The
memory before the step (libraries and weights) is shown separately. train.micro_batch_tokens=512 computes row by row.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fetched import fetched
from demo import smollm2

MODEL = Path(".cache/demo/smollm2")
METHODS = ("all logits", "in chunks", "in chunks, row by row")


def step(method: str, *, activation_checkpointing: bool, rows: int, tokens: int) -> dict[str, float]:
    """Loss, gradient norm and memory in bytes of this process, before the step and at its peak."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    from shardtune.trainer.model.target_loss import keep_target_loss

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    model: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    if activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    torch.manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (rows, tokens + 1))
    inputs, labels = ids[:, :-1], ids[:, 1:]
    before = peak()
    total = 0.0
    if method == METHODS[0]:
        logits = model(input_ids=inputs, use_cache=False).logits
        loss: Any = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
        loss.backward()
        total = loss.item()
    else:
        keep_target_loss(model)
        with torch.no_grad():
            model(input_ids=inputs[:1, :2], targets=labels[:1, :2])
        at_once = rows if method == "in chunks" else 1
        for start in range(0, rows, at_once):
            part = slice(start, start + at_once)
            loss = model(input_ids=inputs[part], targets=labels[part]).logits[0]
            loss.backward()
            total += loss.item()
    norm = torch.nn.utils.get_total_norm([p.grad.float() for p in model.parameters() if p.grad is not None])
    return {"loss": total / labels.numel(), "grad_norm": norm.item(), "before": before, "peak": peak()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss_memory", description=__doc__)
    parser.add_argument("--rows", type=int, default=4, help="rows of the step (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=512, help="tokens per row (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="prints one JSON object instead of a table")
    parser.add_argument("--step-of", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.step_of:
        print(json.dumps(step(**given.step_of)))
        return 0

    fetched(smollm2.prepare)
    results = {}
    for checkpointing in (False, True):
        for method in METHODS:
            step_of = {"method": method, "activation_checkpointing": checkpointing}
            step_of |= {"rows": given.rows, "tokens": given.tokens}
            command = [sys.executable, "-m", "benchmarks.loss_memory", "--step-of", json.dumps(step_of)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            name = f"{method}, activation checkpointing" if checkpointing else method
            results[name] = json.loads(output.splitlines()[-1])
    all_logits = results[METHODS[0]]["peak"]
    for result in results.values():
        result["ratio"] = result["peak"] / all_logits
    if given.json:
        print(json.dumps(results))
        return 0
    print(f"{'':50}{'before':>10}{'peak':>10}{'ratio':>8}{'loss':>11}{'gradient':>11}")
    for name, result in results.items():
        print(
            f"{name:50}{result['before'] / 2**30:7.2f} GB{result['peak'] / 2**30:7.2f} GB{result['ratio']:8.2f}"
            f"{result['loss']:11.6f}{result['grad_norm']:11.5g}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
