"""The other side of the speed part: transformers.Trainer on the same weights and the same packed rows.

Its rows are packed beforehand, without a gap, which costs it nothing here; positions begin anew with each document.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from benchmarks.gpu.training import Place

DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training of the Trainer, in which every step trains on all rows."""

    model: str
    rows: str
    sequences: Sequence[Sequence[int]]
    """The numbers of words of the documents of each packed row."""
    at_once: int
    """Packed rows in a micro-batch."""
    num_steps: int
    lora_r: int | None
    learning_rate: float
    """Does not change."""
    attention: str
    compile: bool
    liger: bool
    folder: str


def train(place: Place, training: Training) -> dict[str, Any]:
    """Loss and seconds of each step, and the memory in bytes before the training and at its peak."""
    place.free()
    before = place.memory()[0]
    with _alone():
        times, trainer = _run(place, training)
    peak = place.memory()[1]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    del trainer
    place.free()
    return {
        "losses": losses,
        "step_s": [end - start for start, end in pairwise(times)],
        "num_tokens": sum(map(sum, training.sequences)),
        "memory": {"before": before, "peak": peak},
    }


def _run(place: Place, training: Training) -> tuple[list[float], Any]:
    """The times at which each step ended, and the Trainer after them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

    is_flat = training.attention != "sdpa"
    # As its users do: weights that are trained are kept in fp32, and computed with in bf16.
    dtype = torch.float32 if training.lora_r is None else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(
        training.model, dtype=dtype, attn_implementation=_known(training.attention), trust_remote_code=False
    )
    if training.lora_r is not None:
        model = _adapted(model, training.lora_r)
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if place.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    trainer = Trainer(
        model=model,
        train_dataset=_packed(AutoTokenizer.from_pretrained(training.model), training),
        data_collator=lambda items: collate(items, is_flat=is_flat),
        callbacks=[Clock()],
        args=TrainingArguments(
            output_dir=training.folder,
            max_steps=training.num_steps,
            per_device_train_batch_size=training.at_once,
            gradient_accumulation_steps=len(training.sequences) // training.at_once,
            learning_rate=training.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=True,
            gradient_checkpointing=False,
            use_liger_kernel=training.liger,
            torch_compile=training.compile,
            use_cpu=place.device == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=place.device == "cuda",
        ),
    )
    trainer.train()
    return times, trainer


def _known(attention: str) -> str:
    """The name by which transformers knows this implementation; that of shardtune is made known to it."""
    if attention in AttentionInterface().valid_keys() or attention in ("eager", "flash_attention_2"):
        return attention
    own = import_module("shardtune.trainer.model.attention.varlen")
    own.register()
    return str(own.VARLEN)


def _adapted(model: Any, r: int) -> Any:
    import peft

    config = peft.LoraConfig(r=r, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def _packed(tokenizer: Any, training: Training) -> list[dict[str, list[int]]]:
    """An item for each sequence: its tokens, the token after each of them, and the positions in its documents."""
    lines = Path(training.rows).read_text(encoding="utf-8").splitlines()
    documents = iter(tokenizer([json.loads(line)["text"] for line in lines], add_special_tokens=False)["input_ids"])
    items = []
    for sequence in training.sequences:
        item: dict[str, list[int]] = {"input_ids": [], "shift_labels": [], "position_ids": []}
        for length in sequence:
            ids = next(documents)
            assert len(ids) == length, "a word is not a token"
            item["input_ids"] += ids
            item["shift_labels"] += [*ids[1:], tokenizer.eos_token_id]
            item["position_ids"] += range(length)
        items.append(item)
    return items


def collate(items: Sequence[dict[str, list[int]]], *, is_flat: bool) -> dict[str, Tensor | int]:
    """A micro-batch, a row for each item; or one row, and where its documents begin (transformers' names for it)."""
    batch: dict[str, Any] = {name: torch.tensor([item[name] for item in items]) for name in items[0]}
    if is_flat:
        batch = {name: tensor.reshape(1, -1) for name, tensor in batch.items()}
        starts = (batch["position_ids"][0] == 0).nonzero()[:, 0].to(torch.int32)
        ends = torch.cat([starts, starts.new_tensor([batch["position_ids"].numel()])])
        longest = int(ends.diff().max())
        batch |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return batch | {"labels": batch["shift_labels"]}


@contextmanager
def _alone() -> Iterator[None]:
    """Without the environment of this process's group, which the Trainer would join."""
    kept = {name: os.environ.pop(name) for name in DISTRIBUTED if name in os.environ}
    try:
        yield
    finally:
        os.environ |= kept
