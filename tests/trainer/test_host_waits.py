"""In a micro-batch nothing waits for the device: its forward pass, its loss, its backward pass and what is between.
In a step the host waits once, while the device updates the weights.

On a device without values (tests/support/fake_gpu.py) this is seen without a GPU.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.testing._internal.distributed.fake_pg import FakeStore

from shardtune.recipe.load import parse_recipe
from shardtune.rows.source import Row
from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.batch_maker import BatchMaker, seeds_of_rows
from shardtune.trainer.data.batches.bins import Packing
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import Stop
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.objective.objective import KlToBase, Objective, TaskLoss
from shardtune.trainer.engine.objective.reference import AdaptersOff, FrozenCopy
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.loop import fit
from shardtune.trainer.model import known_masks, target_loss
from shardtune.trainer.model.load import load_model
from shardtune.trainer.model.lora import trains_adapters_alone
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.setup.first_token import _last_attention, _narrow
from shardtune.trainer.tasks import TASKS, Task, task_of
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.run_survey import survey
from tests.support.fake_gpu import DEVICE, batch_to_fake_gpu, fake_gpu, on_fake_gpu, to_fake_gpu
from tests.support.tiny import BAD, GOOD, PLAIN, write_causal, write_encoder
from tests.support.translators import write_translator

MASKS = "transformers.masking_utils."
CAUSAL_MASK, PACKED_MASK, ENCODER_MASK = (
    {MASKS + name}
    for name in ("_ignore_causal_mask_sdpa", "find_packed_sequence_indices", "_ignore_bidirectional_mask_sdpa")
)
"""What of transformers (5.23) would wait in each pass, to see whether it can do without a mask."""
BOTH_MASKS = CAUSAL_MASK | ENCODER_MASK
TEXTS = ["the film was good", "a dull plot", "so very warm and bright was it", "grim"]
CHAT = [
    {"messages": [{"role": "user", "content": "the film"}, {"role": "assistant", "content": text, **weight}]}
    for text, weight in zip(TEXTS, [{}, {"weight": 0.5}, {}, {"weight": 2}], strict=True)
]
TAGGED = [{"tokens": text.split(), "tags": ["B-PER", *["O"] * text.count(" ")]} for text in TEXTS]
SOURCES, TARGETS = ["a quiet wonder", "the film was a wonder", "a", "a film"], ["un calme", "le film était", "un", "le"]
PAIRS = [{"source": source, "target": target} for source, target in zip(SOURCES, TARGETS, strict=True)]
QUESTIONS = [
    {"question": question, "choices": choices, "answer": 1}
    for question, choices in zip(
        TEXTS, [["good", "very bad"], ["a", "the", "it"], ["is", "was"], ["so", "so bad"]], strict=True
    )
]
NUM_TARGETS = 7.0
"""Those of the whole step."""
PROMPT = ("task.source_language=en", "task.target_language=fr")
LORA = ("model.lora.r=4", "model.lora.alpha=8")


def labeled(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]


@dataclass(frozen=True)
class Case:
    """A task with a model and rows, and what transformers would wait for."""

    model: str
    task: str
    rows: Sequence[dict[str, Any]]
    waits: set[str]
    overrides: Sequence[str] = ()
    packs: bool = False


NAMES, SETS, NUMBERS = labeled("a", "b", "a", "b"), labeled(["a"], [], ["a", "b"], ["b"]), labeled(1.5, -1, 0, 2)
TEXT_ROWS = [{"text": text} for text in TEXTS]
WEIGHED = "task.train_on=weights"
CASES = {
    "one label": Case("encoder", "classification", NAMES, ENCODER_MASK, ["task.class_weights=balanced"]),
    "one label, LoRA": Case("encoder", "classification", NAMES, ENCODER_MASK, LORA),
    "one label by a causal model": Case("causal", "classification", NAMES, CAUSAL_MASK),
    "several labels": Case("encoder", "classification", SETS, ENCODER_MASK, ["task.problem=multi_label"]),
    "a number": Case("encoder", "classification", NUMBERS, ENCODER_MASK, ["task.problem=regression"]),
    "tags": Case("encoder", "token_classification", TAGGED, ENCODER_MASK),
    "tags, packed": Case("encoder", "token_classification", TAGGED, set(), packs=True),
    "tags, packed, LoRA": Case("encoder", "token_classification", TAGGED, set(), LORA, packs=True),
    "hidden words": Case("encoder", "language_modeling", TEXT_ROWS, ENCODER_MASK),
    "next words": Case("causal", "language_modeling", TEXT_ROWS, CAUSAL_MASK),
    "next words, packed": Case("causal", "language_modeling", TEXT_ROWS, PACKED_MASK, packs=True),
    "next words, packed, LoRA": Case("causal", "language_modeling", TEXT_ROWS, PACKED_MASK, LORA, packs=True),
    "next words, recomputed": Case(
        "causal", "language_modeling", TEXT_ROWS, CAUSAL_MASK, ["model.activation_checkpointing=true"]
    ),
    "chat": Case("causal", "chat", CHAT, CAUSAL_MASK),
    "chat with weights": Case("causal", "chat", CHAT, CAUSAL_MASK, [WEIGHED]),
    "chat with weights, packed": Case("causal", "chat", CHAT, PACKED_MASK, [WEIGHED], packs=True),
    "chat, LoRA": Case("causal", "chat", CHAT, CAUSAL_MASK, LORA),
    "chat, packed, LoRA": Case("causal", "chat", CHAT, PACKED_MASK, [WEIGHED, *LORA], packs=True),
    "multiple choice": Case("causal", "multiple_choice", QUESTIONS, CAUSAL_MASK),
    "multiple choice, LoRA": Case("causal", "multiple_choice", QUESTIONS, CAUSAL_MASK, LORA),
    "translation by a prompt": Case("causal", "translation", PAIRS, CAUSAL_MASK, PROMPT),
    "translation by a prompt, packed": Case("causal", "translation", PAIRS, PACKED_MASK, PROMPT, packs=True),
    "translation by T5": Case("t5", "translation", PAIRS, ENCODER_MASK),
    "translation by Marian": Case("marian", "translation", PAIRS, BOTH_MASKS),
    "translation by BART, LoRA": Case("bart", "translation", PAIRS, BOTH_MASKS, LORA),
}


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(target_loss.CHUNK_BYTES, "meta", 2**10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the cases."""
    folder = tmp_path_factory.mktemp("models")
    write_encoder(folder / "encoder", dropout=0.1)
    write_causal(folder / "causal", [*GOOD, *BAD, *PLAIN])
    for family in ("t5", "marian", "bart"):
        write_translator(family, folder / family)
    return folder


class InMemory:
    """Examples of rows, in the place of a Split."""

    def __init__(self, task: Task, rows: Sequence[Row]) -> None:
        self._examples = [example for (example,) in task.encode(rows, 64, labeled=True)]
        self.lengths = np.array([task.num_tokens(example) for example in self._examples], dtype=np.int32)
        self.num_targets = np.array([task.num_targets(example) for example in self._examples])

    def examples(self, rows: Any) -> list[Example]:
        return [self._examples[row] for row in rows]


def load(folder: Path, case: Case) -> tuple[Task, Any, Batch]:
    """The task, its model as a run loads it, and the batch of all rows."""
    text = f"task: {{kind: {case.task}}}\nmodel: {{path: {folder / case.model}}}\ndata: {{train: t.jsonl}}"
    recipe = parse_recipe(f"{text}\nengine: {{precision: fp32}}", case.overrides)
    rows = [Row(values, Path("t.jsonl"), line) for line, values in enumerate(case.rows, start=1)]
    tokenizer, config = load_tokenizer(recipe), load_model_config(recipe)
    task = task_of(recipe, survey(TASKS[case.task], recipe.task, {"train": rows}), tokenizer, config)
    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    packing = Packing(64, is_flat=False) if case.packs else None
    numbers = np.arange(len(rows))
    bins = [numbers[:2], numbers[2:]] if case.packs else [numbers[at : at + 1] for at in numbers]
    batch = BatchMaker(task, ranks, packing).batch(InMemory(task, rows), numbers, seeds_of_rows(numbers), bins)
    model = load_model(recipe, task, tokenizer)
    with torch.no_grad():
        model(**batch.inputs)  # the first pass decides how the loss is computed
    return task, model.train(), batch


def replicated(model: Any) -> Any:
    """Passes as ReplicatedEngine does them."""
    buckets = SimpleNamespace(launch_rest=lambda: None)
    engine: Any = SimpleNamespace(_model=model, _left=1, _step_grads={}, _seen=set(), _sparse=set(), _buckets=buckets)
    return SimpleNamespace(
        forward=partial(ReplicatedEngine.forward, engine), backward=partial(ReplicatedEngine.backward, engine)
    )


def deepspeed(model: Any) -> Any:
    """Passes as DeepSpeedEngine does them, without DeepSpeed's own part."""
    engine: Any = MagicMock(_ranks=SimpleNamespace(world_size=4), _left=2)
    engine._engine.side_effect = model
    engine._engine.backward = lambda loss: loss.backward()
    return SimpleNamespace(
        forward=partial(DeepSpeedEngine.forward, engine), backward=partial(DeepSpeedEngine.backward, engine)
    )


def micro_batch(engine: Any, objective: Objective, batch: Batch) -> Tensor:
    """What trainer/loop.py does with one; returns the sums of the terms."""
    sums = torch.zeros(len(objective.terms), dtype=torch.float64, device=batch.labels.device)
    trained, terms = objective.sums(engine, batch)
    engine.backward(trained, num_targets=NUM_TARGETS)
    return sums.add_(terms)


def compared(task: Task, model: Any, batch: Batch) -> Objective:
    """The objective with the divergence from the pretrained model, which is on the device too if it is a copy."""
    if trains_adapters_alone(model):
        engine = SimpleNamespace(forward=replicated(model).forward, evaluating=lambda *, averaged: torch.no_grad())
        return KlToBase(task, AdaptersOff(engine, model), 0.1)
    copy = FrozenCopy(model, batch)
    to_fake_gpu(copy._model)
    return KlToBase(task, copy, 0.1)


def waits_of(folder: Path, case: Case, *, compares: bool = False) -> set[str]:
    """What waits in each micro-batch from the second one on, one without targets included."""
    task, model, batch = load(folder, case)
    objective: Objective = compared(task, model, batch) if compares else TaskLoss(task)
    if case.task == "classification" and (found := _last_attention(model)):
        _narrow(*found)
    batches = [batch_to_fake_gpu(batch), batch_to_fake_gpu(batch.muted())]
    to_fake_gpu(model)
    with fake_gpu() as gpu:
        micro_batch(replicated(model), objective, batches[0])
        gpu.waits.clear()
        for engine, each in zip((replicated(model), deepspeed(model)), batches, strict=True):
            model.zero_grad()
            assert len(micro_batch(engine, objective, each)) == (2 if compares else 1)
            assert any(parameter.grad is not None for parameter in model.parameters())
    return {*gpu.waits}


def test_each_task_is_a_case_with_and_without_adapters_and_packed_if_it_can_be() -> None:
    for kind, task in TASKS.items():
        cases = [case for case in CASES.values() if case.task == kind]
        assert {LORA[0] in case.overrides for case in cases} == {True, False}, kind
        assert {case.packs for case in cases} == ({True, False} if task.Options.can_pack else {False}), kind


@pytest.mark.parametrize("name", CASES)
def test_a_micro_batch_waits_for_nothing(folder: Path, name: str) -> None:
    assert waits_of(folder, CASES[name]) == set()


@pytest.mark.parametrize("name", ["next words", "chat with weights, packed", "chat, LoRA", "translation by Marian"])
def test_nor_does_one_that_is_compared_with_the_pretrained_model(folder: Path, name: str) -> None:
    assert waits_of(folder, CASES[name], compares=True) == set()


@pytest.mark.parametrize("name", ["one label", "next words", "next words, packed", "translation by Marian"])
def test_transformers_alone_would_wait_for_the_device(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_masks, "FREE", {DEVICE.type})
    assert waits_of(folder, CASES[name]) == CASES[name].waits


@pytest.mark.parametrize("name", ["one label", "tags", "chat"])
def test_a_number_that_a_loss_reads_is_seen(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_sum = type(load(folder, CASES[name])[0]).loss_sum

    def reads(self: Any, output: Any, batch: Batch) -> Tensor:
        loss = loss_sum(self, output, batch)
        return loss + loss.item()

    monkeypatch.setattr(TASKS[CASES[name].task], "loss_sum", reads)
    assert waits_of(folder, CASES[name]) == {f"{__name__}.{reads.__qualname__}"}


WAITING: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a condition": lambda logits, _: logits.sum() if logits.isnan().any() else logits.mean(),
    "a list": lambda logits, _: logits[0].tolist(),
    "numbers of the host": lambda logits, _: logits.new_tensor([1.0, 2.0]),
    "a tensor of the host": lambda logits, _: logits * torch.ones(2).to(logits.device),
    "a tensor for the host": lambda logits, _: logits.cpu(),
    "indices of the host": lambda logits, _: logits[torch.tensor([0, 1])],
}
SELECTING: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a mask": lambda logits, mask: logits[mask],
    "nonzero": lambda _, mask: mask.nonzero(),
    "different values": lambda logits, _: logits.unique(),
}


@pytest.mark.parametrize("name", [*WAITING, *SELECTING])
def test_whatever_waits_is_seen(name: str) -> None:
    logits, mask = on_fake_gpu(torch.ones(3, 2)), on_fake_gpu(torch.tensor([True, False, True]))
    with fake_gpu() as gpu:
        if name in SELECTING:
            with pytest.raises(DynamicOutputShapeException):
                SELECTING[name](logits, mask)
        else:
            WAITING[name](logits, mask)
            assert {*gpu.waits} == {f"{__name__}.<lambda>"}
            gpu.waits.clear()
            torch.where(mask, 0.5, math.nan) * torch.tensor(2.0)  # arguments of the kernel
            assert not gpu.waits


@contextmanager
def group_of_nobody() -> Iterator[Ranks]:
    """Rank 0 of 4 on the device; a collective does nothing."""
    backend, place = "cpu:fake,meta:fake", {"rank": 0, "world_size": 4}
    torch.distributed.init_process_group(backend, store=FakeStore(), **place)
    try:
        yield Ranks(local_rank=0, device=DEVICE, **place)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("name", "max_grad_norm"), [("one label", 1.0), ("chat with weights, packed", 0.0)])
def test_a_step_is_waited_for_once_while_the_weights_are_updated(
    folder: Path, name: str, max_grad_norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, model, batch = load(folder, CASES[name])
    batches = [batch_to_fake_gpu(batch), batch_to_fake_gpu(batch.muted())]
    to_fake_gpu(model)
    monkeypatch.setattr(import_module("torch.optim.adam"), "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr(model, "to", lambda _: model)  # it is there
    with fake_gpu() as gpu, group_of_nobody() as ranks:
        engine = ReplicatedEngine(
            model, fused_adamw, precision="bf16", max_grad_norm=max_grad_norm, ranks=ranks, seed=0
        )
        engine._updates_unread = True  # as on CUDA
        engine._optimizer.register_step_post_hook(lambda *_: gpu.waits.append("(updated)"))
        milestones: Any = SimpleNamespace(step_done=lambda state, *_, **__: state, is_over=False)
        checks = StopChecks(Stop(), cast(Any, SimpleNamespace(check=lambda: None)), ranks)
        by_step: list[list[str]] = []

        def steps() -> Iterator[Step]:
            for number in range(2):
                yield Step(number, batches, num_samples=4, num_targets=NUM_TARGETS, num_tokens=9, num_padded_tokens=9)
                by_step.append([*gpu.waits])
                gpu.waits.clear()

        parts: Any = {"schedule": lambda _: 1e-3, "ranks": ranks, "stop_checks": checks, "milestones": milestones}
        assert fit(engine, TaskLoss(task), steps(), TrainState(), **parts).step == 2
    read = "shardtune.trainer.distributed.gpu.host_copy.HostCopy.read"
    norm, loss_and_stop = [read], [read, read]
    assert by_step[1] == ["(updated)", *norm, *loss_and_stop]


def fused_adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
