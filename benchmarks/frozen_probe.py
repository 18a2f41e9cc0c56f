"""The accuracy of the demo's encoder before any fine-tuning: logistic regression on its frozen embeddings.

Fine-tuning has to beat this number. The dev rows select the regularization; the test rows are used once.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from sklearn.linear_model import LogisticRegression

from benchmarks.fetched import fetched
from benchmarks.trainer_example import DATA, MAX_TOKENS, MODEL, read_rows
from demo import sentiment

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
BATCH_SIZE = 64


@torch.inference_mode()
def embed(texts: Sequence[str], model_path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The mean of each text's last hidden states, in the order of the texts; shape (texts, hidden)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    model = transformers.AutoModel.from_pretrained(model_path, dtype=torch.float32).eval()
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(texts), BATCH_SIZE):
        chosen = by_length[start : start + BATCH_SIZE]
        batch = tokenizer(
            [texts[number] for number in chosen],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        mask = batch["attention_mask"].unsqueeze(-1)
        hidden = model(**batch).last_hidden_state
        vectors[chosen] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return vectors


def probe(model_path: Path, data_path: Path) -> dict[str, float]:
    """Test accuracy of the probe that is best on the dev rows, its C and dev accuracy, and the majority baseline."""
    splits = {split: read_rows(data_path / f"{split}.jsonl") for split in ("train", "dev", "test")}
    inputs = {split: embed([row["text"] for row in rows], model_path) for split, rows in splits.items()}
    labels = {split: [row["label"] for row in rows] for split, rows in splits.items()}
    probes = [LogisticRegression(C=c, max_iter=5000).fit(inputs["train"], labels["train"]) for c in STRENGTHS]
    best = max(probes, key=lambda fitted: fitted.score(inputs["dev"], labels["dev"]))
    return {
        "C": best.C,
        "dev": float(best.score(inputs["dev"], labels["dev"])),
        "test": float(best.score(inputs["test"], labels["test"])),
        "majority": max(labels["test"].count(label) for label in set(labels["test"])) / len(labels["test"]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frozen_probe", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="a Hugging Face encoder (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="a folder with train.jsonl, dev.jsonl and test.jsonl")
    parser.add_argument("--json", type=Path, help="also writes the numbers to this file")
    given = parser.parse_args(arguments)
    if (given.model, given.data) == (MODEL, DATA):
        fetched(sentiment.prepare)
    numbers = probe(given.model, given.data)
    print(f"majority label {numbers['majority']:.1%}   frozen probe {numbers['test']:.1%}  (test accuracy)")
    if given.json:
        given.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
