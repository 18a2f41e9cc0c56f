"""What a model learns depends on the recipe, never on how the step is computed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from shardtune.ds_config.fill import PARTITION
from shardtune.trainer.engine import replicated_engine
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.exchange import nodes
from shardtune.trainer.engine.exchange.buckets import GradientBuckets
from shardtune.trainer.tasks.example import IGNORED
from tests.support.runs import STEPS_PER_EPOCH, curve, tiny_recipe, train
from tests.support.translators import WORDS, write_translator

Events = list[dict[str, Any]]


def assert_same_training(events: Events, other: Events) -> None:
    """The same loss and gradient norm in each step, and the same metrics in each evaluation."""
    assert len(curve(events)) == len(curve(other)) == 3 * STEPS_PER_EPOCH
    for (step, loss, norm), (_, other_loss, other_norm) in zip(curve(events), curve(other), strict=True):
        assert loss == pytest.approx(other_loss, rel=1e-4), f"loss of step {step}"
        assert norm == pytest.approx(other_norm, rel=1e-3), f"grad_norm of step {step}"
    for one, two in zip(evaluations(events), evaluations(other), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        assert one["confusion"] == two["confusion"]


def evaluations(events: Events) -> Events:
    return [event for event in events if event["event"] == "eval"]


@pytest.fixture(scope="module")
def reference(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Events:
    """One rank, ZeRO-0, each step one micro-batch."""
    recipe = tiny_recipe(tiny, "engine.deepspeed=zero0")
    return train(recipe, tmp_path_factory.mktemp("reference"), world_size=1)[1]


def test_the_reference_learns(reference: Events) -> None:
    losses = [loss for _, loss, _ in curve(reference)]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(norm > 0 for _, _, norm in curve(reference))


@pytest.mark.parametrize(
    ("world_size", "strategy", "micro_batch_tokens"),
    [
        (1, "zero2", 64),
        (2, "zero0", 64),
        (2, "zero1", 16384),
        (2, "zero2", 16384),
        (2, "zero3", 64),
        (4, "zero2", 64),
        (4, "zero3", 16384),
        (1, "null", 16384),
        (3, "null", 64),
    ],
)
def test_ranks_zero_stages_and_ragged_micro_batches_change_nothing(
    tiny: Path, tmp_path: Path, reference: Events, world_size: int, strategy: str, micro_batch_tokens: int
) -> None:
    recipe = tiny_recipe(tiny, f"engine.deepspeed={strategy}", f"train.micro_batch_tokens={micro_batch_tokens}")
    assert_same_training(train(recipe, tmp_path, world_size=world_size)[1], reference)


def buckets_of_one_kilobyte() -> None:
    """As GPUs, or CPU ranks of several machines, exchange the gradients of a model that is much larger."""
    replicated_engine.common_memory = lambda *_: None

    def small(*args: Any, **words: Any) -> GradientBuckets:
        made = GradientBuckets(*args, **words | {"num_bytes": 1024})
        assert len(made.buckets) > 10
        return made

    replicated_engine.GradientBuckets = small  # type: ignore[misc,assignment]


@pytest.mark.parametrize(("world_size", "micro_batch_tokens"), [(2, "64"), (4, "auto")])
def test_gradients_exchanged_in_buckets_teach_the_same(
    tiny: Path, tmp_path: Path, reference: Events, world_size: int, micro_batch_tokens: str
) -> None:
    recipe = tiny_recipe(tiny, "engine.deepspeed=null", f"train.micro_batch_tokens={micro_batch_tokens}")
    events = train(recipe, tmp_path, world_size=world_size, before=buckets_of_one_kilobyte)[1]
    assert_same_training(events, reference)


@pytest.mark.parametrize("strategy", ["null", "zero2"])
def test_gradients_exchanged_in_bf16_teach_nearly_the_same(
    tiny: Path, tmp_path: Path, reference: Events, strategy: str
) -> None:
    recipe = tiny_recipe(tiny, f"engine.deepspeed={strategy}", "engine.communication_data_type=bf16")
    events = train(recipe, tmp_path, world_size=2, before=buckets_of_one_kilobyte)[1]
    (_, loss, norm), (_, expected, expected_norm) = curve(events)[0], curve(reference)[0]
    assert loss == pytest.approx(expected, rel=1e-5), "the first loss has no gradient yet"
    assert norm == pytest.approx(expected_norm, rel=1e-3) and norm != pytest.approx(expected_norm, rel=1e-6)
    for (step, loss, _), (_, expected, _) in zip(curve(events), curve(reference), strict=True):
        assert loss == pytest.approx(expected, rel=0.02), f"loss of step {step}"


def machines_of_two_ranks() -> None:
    nodes.host_name = lambda: f"node{int(os.environ['RANK']) // 2}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_second_copy_of_the_weights_on_each_machine_teaches_the_same(
    tiny: Path, tmp_path: Path, reference: Events, precision: str
) -> None:
    overrides = ("train.micro_batch_tokens=64", f"engine.precision={precision}")
    recipe = tiny_recipe(tiny, "engine.deepspeed=zero3_hpz", *overrides)
    events = train(recipe, tmp_path / "hpz", world_size=4, before=machines_of_two_ranks)[1]
    assert json.loads((tmp_path / "hpz/deepspeed.json").read_text())["zero_optimization"][PARTITION] == 2
    assert [event["text"] for event in events if PARTITION in event.get("text", "")] == [
        f'ds_configs/zero3_hpz.json: {PARTITION}: "auto" is 2: every 2 ranks, which share a machine, keep a second '
        "copy of the weights"
    ]
    if precision == "bf16":
        reference = train(tiny_recipe(tiny, "engine.deepspeed=zero3", *overrides), tmp_path / "zero3", world_size=4)[1]
        assert curve(events) == curve(reference), "the same numbers are added up in the same order"
    else:
        assert_same_training(events, reference)


def test_adapters_of_an_encoder_decoder_with_dropout_learn_the_same_on_every_strategy(tmp_path: Path) -> None:
    """On the same number of ranks, whose dropout draws the same masks."""
    write_translator("m2m100", tmp_path / "m2m100")
    rows = [{"source": " ".join(WORDS[at % 7 :]), "target": " ".join(WORDS[: 1 + at % 5])} for at in range(16)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = {}
    for strategy in ("null", "zero2", "zero3"):
        recipe = tiny_recipe(
            tmp_path,
            "task={kind: translation, source_language: en, target_language: fr}",
            f"model={{path: {tmp_path}/m2m100, lora: {{r: 2, dropout: 0.2}}, dropout: 0.2, layerdrop: 0.4}}",
            f"data={{train: {tmp_path}/train.jsonl, max_tokens: 64, cache_dir: {tmp_path}/cache}}",
            "train={global_batch_size: 8, max_steps: 2, micro_batch_tokens: 128}",
            f"engine.deepspeed={strategy}",
        )
        curves[strategy] = curve(train(recipe, tmp_path / strategy, world_size=2)[1])
    assert len(curves["null"]) == 2
    for strategy, found in curves.items():
        for step, expected in zip(found, curves["null"], strict=True):
            assert step == pytest.approx(expected, rel=1e-4), strategy


def mean_over_micro_batches() -> None:
    """Breaks this process: a step's gradient is the mean of its micro-batches' means."""
    right_backward, right_forward, right_begin = (
        DeepSpeedEngine.backward,
        DeepSpeedEngine.forward,
        DeepSpeedEngine.begin_step,
    )

    def begin_step(self: Any, number: int, *, num_micro_batches: int) -> None:
        self.passes = num_micro_batches * self._ranks.world_size
        right_begin(self, number, num_micro_batches=num_micro_batches)

    def forward(self: Any, batch: Any) -> Any:
        self.targets = max(1, int((batch.labels != IGNORED).sum()))
        return right_forward(self, batch)

    def backward(self: Any, loss_sum: Tensor, *, num_targets: int) -> None:
        right_backward(self, loss_sum / self.targets, num_targets=self.passes)

    DeepSpeedEngine.begin_step, DeepSpeedEngine.forward, DeepSpeedEngine.backward = begin_step, forward, backward  # type: ignore[method-assign]


def forgotten_ranks() -> None:
    """Breaks this process: the gradient is averaged over the ranks once more than it should be."""
    right = DeepSpeedEngine.backward

    def backward(self: Any, loss_sum: Tensor, *, num_targets: int) -> None:
        right(self, loss_sum / self._ranks.world_size, num_targets=num_targets)

    DeepSpeedEngine.backward = backward  # type: ignore[method-assign]


@pytest.mark.parametrize("broken", [mean_over_micro_batches, forgotten_ranks])
def test_a_wrong_normalisation_is_seen(
    tiny: Path, tmp_path: Path, reference: Events, broken: Callable[[], None]
) -> None:
    recipe = tiny_recipe(tiny, "train.micro_batch_tokens=64")
    events = train(recipe, tmp_path, world_size=2, before=broken)[1]
    with pytest.raises(AssertionError):
        assert_same_training(events, reference)
