"""Data parallelism without DeepSpeed learns what a few lines of torch do, on any number of ranks."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shardtune.errors import ConfigError
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.replicated_engine import LARGE, ReplicatedEngine
from shardtune.trainer.setup.precision import otherwise
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe, train

WORDS = LARGE + 7
STEPS = [[[3, 5, 3], [WORDS - 1, 0, 3]], [[0, 0, 0], [1, 2, 3]], [[9, 9, 8], [7, 6, 5]]]
"""Of each step: the words of each rank."""
MAX_NORM = 0.05


class Model(nn.Module):
    """Two embeddings that are looked up, one of them also the last layer; a layer that only some words pass through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, 4)
        self.shared = nn.Embedding(WORDS, 4)
        self.head = nn.Linear(4, WORDS)
        self.head.weight = self.shared.weight
        self.seldom = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.words(x) + self.shared(x)
        if bool((x > 3).any()):
            hidden = torch.where((x > 3)[:, None], self.seldom(hidden), hidden)
        logits: Tensor = self.head(hidden)
        return logits.float()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def loss_sum(logits: Tensor, words: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, words, reduction="sum")


def by_engine(
    ranks: Ranks, make: Callable[[nn.Module], torch.optim.Optimizer], precision: str, whole: bool
) -> tuple[dict[str, Any], list[float]]:
    """The weights after all steps, and the gradient's norm in each; a rank's words at once, or one by one."""
    engine = ReplicatedEngine(Model(), make, precision=precision, max_grad_norm=MAX_NORM, ranks=ranks, seed=0)
    model, norms = engine._model, []
    for number, step in enumerate(STEPS):
        mine = torch.tensor(step[ranks.rank] if ranks.world_size == 2 else [word for words in step for word in words])
        parts = [mine] if whole else list(mine.split(1))
        engine.begin_step(number, num_micro_batches=len(parts))
        for words in parts:
            engine.backward(loss_sum(engine.forward(Batch({"x": words}, words)), words), num_targets=6)
        norms.append(engine.step(lr=0.1).grad_norm)
    assert isinstance(model, Model) and model.words.sparse and not model.shared.sparse
    return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}, norms


def by_torch(make: Callable[[nn.Module], torch.optim.Optimizer]) -> tuple[dict[str, Tensor], list[float]]:
    model, norms = Model(), []
    optimizer = make(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # what a step does not pass through has a gradient of 0, not none
    for step in STEPS:
        optimizer.zero_grad(set_to_none=False)
        for words in map(torch.tensor, step):
            (loss_sum(model(words), words) / 6).backward()  # type: ignore[no-untyped-call]
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)))
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}, norms


def without_common_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on several machines."""
    monkeypatch.setattr("shardtune.trainer.engine.replicated_engine.common_memory", lambda *_: None)


@pytest.mark.parametrize("make", [adamw, sgd])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("world_size", "is_shared"), [(1, False), (2, False), (2, True)])
def test_weights_and_norms_are_those_of_a_plain_loop(
    make: Callable[[nn.Module], torch.optim.Optimizer],
    whole: bool,
    world_size: int,
    is_shared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_shared:
        without_common_memory(monkeypatch)
    expected, expected_norms = by_torch(make)
    assert max(expected_norms) > MAX_NORM, "nothing would be clipped"
    for weights, norms in run_ranks(by_engine, make, "fp32", whole, world_size=world_size):
        assert norms == pytest.approx(expected_norms, rel=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(torch.from_numpy(weight), expected[name], rtol=1e-4, atol=1e-5, msg=name)


def steps_of(ranks: Ranks, precision: str, max_grad_norm: float, is_unread: bool) -> list[Any]:
    """After each step: its numbers, the weights and the moments of AdamW. The gradient of the first two is infinite."""
    engine = ReplicatedEngine(Model(), adamw, precision=precision, max_grad_norm=max_grad_norm, ranks=ranks, seed=0)
    engine._updates_unread = is_unread
    found: list[Any] = []
    for number, factor in enumerate((math.inf, math.nan, 1.0, 1.0, math.inf, 1.0)):
        engine.begin_step(number, num_micro_batches=1)
        words = torch.tensor(STEPS[number % 3][ranks.rank])
        engine.backward(factor * loss_sum(engine.forward(Batch({"x": words}, words)), words), num_targets=6)
        stats = engine.step(lr=0.1)
        snapshot = engine.snapshot()
        states = {fragment.name: fragment.values.tolist() for fragment in (*snapshot.weights, *snapshot.states)}
        steps = {home.scalars()["step"] for home in engine._homes() if home.has_state}
        found.append((stats.grad_norm, stats.applied, steps - {0}, {k: v for k, v in states.items() if any(v)}))
    return found


@pytest.mark.parametrize("max_grad_norm", [MAX_NORM, 0.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_the_device_decides_by_a_norm_that_nobody_has_read_is_what_the_host_decides(
    precision: str, max_grad_norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_common_memory(monkeypatch)
    read, unread = (run_ranks(steps_of, precision, max_grad_norm, is_unread) for is_unread in (False, True))
    assert [applied for _, applied, _, _ in read[0]] == [False, False, True, True, False, True]
    assert read == unread


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ranks_of_one_machine_have_the_weights_in_common_and_update_a_part_each(
    precision: str, is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_shared:
        without_common_memory(monkeypatch)

    def body(ranks: Ranks) -> tuple[int, list[bool]]:
        engine = ReplicatedEngine(Model(), adamw, precision=precision, max_grad_norm=MAX_NORM, ranks=ranks, seed=0)
        engine.begin_step(0, num_micro_batches=1)
        words = torch.tensor([5, 6])
        engine.backward(loss_sum(engine.forward(Batch({"x": words}, words)), words), num_targets=4)
        engine.step(lr=0.1)
        snapshot = engine.snapshot()
        ranks.barrier()
        if ranks.is_zero:
            for parameter in engine._model.parameters():
                parameter.data.fill_(0.5)
        ranks.barrier()
        return sum(len(fragment.values) for fragment in snapshot.states), [
            bool((parameter == 0.5).all()) for parameter in engine._model.parameters()
        ]

    (one, seen_by_one), (other, seen_by_other) = run_ranks(body)
    num_elements = sum(parameter.numel() for parameter in Model().parameters())
    assert one + other == 2 * num_elements, "AdamW has two states of each element"
    assert all(seen_by_one) and all(seen_by_other) == is_shared
    assert min(one, other) > 0.8 * num_elements


def test_in_bf16_the_gradients_of_micro_batches_are_added_up_in_fp32() -> None:
    """In bf16, 300 times a three-hundredth would stop growing at about a quarter of the whole."""

    def norm(ranks: Ranks, num_parts: int) -> float:
        engine = ReplicatedEngine(
            nn.Linear(1, 1, bias=False), adamw, precision="bf16", max_grad_norm=1.0, ranks=ranks, seed=0
        )
        engine.begin_step(0, num_micro_batches=num_parts)
        ones = torch.ones(1, 1, dtype=torch.bfloat16)
        for _ in range(num_parts):
            engine.backward(engine._model(ones).float().sum(), num_targets=num_parts)
        return engine.step(lr=0.0).grad_norm

    (many,) = run_ranks(norm, 300, world_size=1)
    assert many == pytest.approx(1, rel=0.01)


def test_no_deepspeed_is_needed(tiny: Path, tmp_path: Path) -> None:
    def hide() -> None:
        sys.modules["deepspeed"] = None  # type: ignore[assignment]

    ended, events = train(tiny_recipe(tiny, "engine.deepspeed=null"), tmp_path, world_size=2, before=hide)
    assert ended == [True, True]
    assert not (tmp_path / "deepspeed.json").exists()
    assert next(event for event in events if event["event"] == "start")["zero_stage"] is None


def test_fp16_wants_deepspeed(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a loss scale, which DeepSpeed has; set deepspeed=zero0"):
        tiny_recipe(tiny, "engine.deepspeed=null", "engine.precision=fp16")
    assert otherwise("cuda", tiny_recipe(tiny, "engine.deepspeed=null")) == "fp32"
    assert otherwise("cuda", tiny_recipe(tiny)) == "fp16"


class Unembedding(nn.Module):
    """Looks words up, and multiplies by the same weights, which no module shares; as DeBERTa's masked tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, 4)
        self.register_buffer("frequencies", torch.full((4,), 1.001), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.words(x) @ self.words.weight.t()
        return logits.float()


def unembedded(ranks: Ranks) -> tuple[Any, list[float]]:
    engine = ReplicatedEngine(Unembedding(), adamw, precision="fp32", max_grad_norm=MAX_NORM, ranks=ranks, seed=0)
    norms = []
    for number, step in enumerate(STEPS):
        words = torch.tensor(step[ranks.rank] if ranks.world_size == 2 else [word for words in step for word in words])
        engine.begin_step(number, num_micro_batches=1)
        engine.backward(loss_sum(engine.forward(Batch({"x": words}, words)), words), num_targets=6)
        norms.append(engine.step(lr=0.1).grad_norm)
    assert isinstance(engine._model, Unembedding) and engine._model.words.sparse
    return engine._model.words.weight.detach().numpy().copy(), norms


@pytest.mark.parametrize("is_shared", [False, True])
def test_an_embedding_that_is_a_matrix_too_has_the_whole_gradient_of_all_ranks(
    is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_shared:
        without_common_memory(monkeypatch)
    ((expected, expected_norms),) = run_ranks(unembedded, world_size=1)
    for weights, norms in run_ranks(unembedded, world_size=2):
        assert norms == pytest.approx(expected_norms, rel=1e-5)
        torch.testing.assert_close(torch.from_numpy(weights), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def precisions(ranks: Ranks) -> tuple[str, float]:
    engine = ReplicatedEngine(Unembedding(), adamw, precision="bf16", max_grad_norm=1.0, ranks=ranks, seed=0)
    assert isinstance(engine._model, Unembedding)
    return str(engine._model.words.weight.dtype), float(engine._model.frequencies.double().max())


def test_what_is_no_weight_keeps_its_precision() -> None:
    assert run_ranks(precisions, world_size=1) == [("torch.bfloat16", pytest.approx(1.001, abs=1e-6))]
