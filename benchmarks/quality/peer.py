"""Trains with transformers.Trainer as its documentation does, on each rank; rank 0 writes what it predicts.

The settings that differ from the documentation's are those that shardtune is given too. Rows are padded to the longest
of their batch (the documented collators); there is no evaluation during training, so that none of its time is counted.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.cases import SPLITS, Row, read_rows
from benchmarks.quality.scoring import entities_of

WEIGHT_DECAY = 0.01
WARMUP_FRACTION = 0.1


@dataclass(frozen=True)
class PeerSettings:
    """One training."""

    kind: str
    model: str
    data: str
    folder: str
    seed: int
    epochs: int
    batch: int
    """Over all ranks."""
    ranks: int
    learning_rate: float
    max_tokens: int
    precision: str


def peer_command(settings: PeerSettings) -> list[str]:
    """The command that trains so on the ranks of this machine."""
    words = ["benchmarks.quality.peer", json.dumps(asdict(settings))]
    if settings.ranks == 1:
        return [sys.executable, "-m", *words]
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={settings.ranks}"]
    return [sys.executable, "-m", *torchrun, "-m", *words]


def train(settings: PeerSettings) -> None:
    """Trains, and writes folder/results.json: the seconds of the training, and the answers for dev and test."""
    import torch
    from transformers import AutoTokenizer, Trainer, TrainingArguments, set_seed

    set_seed(settings.seed)  # the new head is drawn before Trainer seeds anything
    rows = {split: read_rows(Path(settings.data, f"{split}.jsonl")) for split in SPLITS}
    labels = _labels(settings.kind, rows["train"])
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    datasets = {split: _encoded(settings, tokenizer, labels, of_split) for split, of_split in rows.items()}
    num_steps = -(-len(rows["train"]) // settings.batch) * settings.epochs
    arguments = TrainingArguments(
        output_dir=f"{settings.folder}/checkpoints",
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch // settings.ranks,
        per_device_eval_batch_size=64,
        learning_rate=settings.learning_rate,
        warmup_steps=round(WARMUP_FRACTION * num_steps),
        weight_decay=WEIGHT_DECAY,
        bf16=settings.precision == "bf16",
        seed=settings.seed,
        # By default the loss is multiplied by the number of ranks, which BERT's heads do not undo (seen with
        # transformers 5.23): on two ranks twice the gradient before clipping, which the documented use on one has not.
        average_tokens_across_devices=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=_model(settings, labels),
        args=arguments,
        train_dataset=datasets["train"],
        data_collator=_collator(settings.kind, tokenizer),
    )
    train_s = trainer.train().metrics["train_runtime"]
    answers = {split: _answers(settings.kind, labels, trainer.predict(datasets[split])) for split in ("dev", "test")}
    if trainer.is_world_process_zero():
        results = {"train_s": train_s, **answers}
        Path(settings.folder, "results.json").write_text(json.dumps(results), encoding="utf-8")


def _labels(kind: str, rows: Sequence[Row]) -> list[str]:
    """The names of the labels, sorted; none for a regression."""
    if kind == "regression":
        return []
    if kind == "token_classification":
        return sorted({tag for row in rows for tag in row["tags"]})
    return sorted({row["label"] for row in rows})


def _model(settings: PeerSettings, labels: Sequence[str]) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    common: dict[str, Any] = {"dtype": torch.float32}
    if settings.kind == "token_classification":
        return AutoModelForTokenClassification.from_pretrained(settings.model, num_labels=len(labels), **common)
    if settings.kind == "regression":
        common["problem_type"] = "regression"
    return AutoModelForSequenceClassification.from_pretrained(settings.model, num_labels=len(labels) or 1, **common)


def _collator(kind: str, tokenizer: Any) -> Any:
    from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

    of_kind = DataCollatorForTokenClassification if kind == "token_classification" else DataCollatorWithPadding
    return of_kind(tokenizer)


def _encoded(settings: PeerSettings, tokenizer: Any, labels: Sequence[str], rows: Sequence[Row]) -> Any:
    """The rows as the documentation encodes them: a word has its label at its first piece."""
    from datasets import Dataset

    def encode(batch: dict[str, list[Any]]) -> Any:
        limits = {"truncation": True, "max_length": settings.max_tokens}
        if settings.kind != "token_classification":
            encoded = tokenizer(batch["text"], **limits)
            encoded["labels"] = [labels.index(value) if labels else float(value) for value in batch["label"]]
            return encoded
        encoded = tokenizer(batch["tokens"], is_split_into_words=True, **limits)
        encoded["labels"] = [
            _first_pieces(encoded.word_ids(at), [labels.index(tag) if tag in labels else 0 for tag in tags])
            for at, tags in enumerate(batch["tags"])
        ]
        return encoded

    columns = ["tokens", "tags"] if settings.kind == "token_classification" else ["text", "label"]
    dataset = Dataset.from_list([{column: row[column] for column in columns} for row in rows])
    return dataset.map(encode, batched=True, remove_columns=columns)


def _first_pieces(words: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """The label of each position; -100, which no loss counts, beyond the first piece of a word."""
    return [-100 if word is None or (at and words[at - 1] == word) else labels[word] for at, word in enumerate(words)]


def _answers(kind: str, labels: Sequence[str], predicted: Any) -> list[Any]:
    """The answer for each row, as scoring.gold_of has them."""
    logits = predicted.predictions
    if kind == "regression":
        return [float(row[0]) for row in logits]
    best = logits.argmax(-1)
    if kind == "classification":
        return [labels[at] for at in best.tolist()]
    return [
        entities_of([labels[at] for at, label in zip(row, gold, strict=True) if label != -100])
        for row, gold in zip(best.tolist(), predicted.label_ids.tolist(), strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    (settings,) = sys.argv[1:] if arguments is None else arguments
    train(PeerSettings(**json.loads(settings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
