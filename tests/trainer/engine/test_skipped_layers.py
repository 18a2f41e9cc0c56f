"""Layers that a step skips at random, and experts that have no tokens on a rank, change nothing of what is learned by
any layout."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from shardtune.ds_config.resolve import ds_config_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.model.layer_drop import LayerDrop, describe_layer_drop
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe

Curve = list[tuple[float, float]]
"""(loss, gradient norm) of each step."""
STRATEGIES = ["null", "zero0", "zero1", "zero2", "zero3"]
OFFLOADED = ["zero2_offload", "zero3_offload"]
NUM_STEPS, NUM_ROWS, NUM_WORDS = 2, 8, 40
NONE = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
SIZES: dict[str, Any] = {
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "vocab_size": NUM_WORDS,
    "max_position_embeddings": 16,
    "init_std": 0.3,
}
SKIPPED = {"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.4}


def m2m100(**changes: Any) -> Any:
    return transformers.M2M100Config(**SIZES | NONE | SKIPPED | changes)


def nllb(**changes: Any) -> Any:
    """As NLLB-200's config.json, but for the sizes."""
    return m2m100(activation_function="relu", scale_embedding=True, **changes)


def bart_with_dropout() -> Any:
    """As model.dropout leaves it: dropout alone."""
    config = transformers.BartConfig(**SIZES, dropout=0.3, attention_dropout=0.3, activation_dropout=0.3)
    assert config.encoder_layerdrop == config.decoder_layerdrop == 0
    return config


def switch() -> Any:
    """With more experts than a rank's micro-batches need."""
    return transformers.SwitchTransformersConfig(
        vocab_size=NUM_WORDS,
        d_model=8,
        d_kv=4,
        d_ff=8,
        num_layers=2,
        num_decoder_layers=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        num_heads=2,
        num_experts=8,
        expert_capacity=64,
        dropout_rate=0.0,
        router_jitter_noise=0.0,
        decoder_start_token_id=0,
    )


MODELS = {"m2m100": m2m100, "nllb": nllb, "bart_with_dropout": bart_with_dropout, "switch": switch}


class Summed(nn.Module):
    """The sum of a model's losses."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        logits = self.model(input_ids=source, decoder_input_ids=target).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.03, fused=True)


def engine_of(config: Any, strategy: str, ranks: Ranks, *, checkpointed: bool = False) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config)
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ds_config = ds_config_of(tiny_recipe(Path("/"), f"engine.deepspeed={strategy}"), hidden_size=8)
    if ds_config is None:
        return ReplicatedEngine(Summed(model), adamw, precision="fp32", max_grad_norm=1.0, ranks=ranks, seed=0)
    return DeepSpeedEngine(Summed(model), ds_config, adamw, ranks=ranks, seed=0)


def curve(engine: Any, ranks: Ranks, steps: range = range(NUM_STEPS)) -> Curve:
    """Trains on the same 8 rows in each layout, two micro-batches a rank."""
    found = []
    for step in steps:
        words = torch.randint(4, NUM_WORDS, (2, NUM_ROWS, 6), generator=torch.Generator().manual_seed(step))
        own = words[:, ranks.rank :: ranks.world_size]
        loss = torch.zeros(())
        engine.begin_step(step, num_micro_batches=2)
        for source, target in own.chunk(2, dim=1):
            summed = engine.forward(Batch({"source": source, "target": target}, target))
            engine.backward(summed, num_targets=NUM_ROWS * 6)
            loss += summed.detach()
        norm = engine.step(lr=0.03).grad_norm
        found.append((ranks.sum(loss)[0] / (NUM_ROWS * 6), norm))
    return found


def curves(ranks: Ranks, name: str, strategies: list[str]) -> list[Curve]:
    return [curve(engine_of(MODELS[name](), strategy, ranks), ranks) for strategy in strategies]


@cache
def reference(name: str, world_size: int) -> Curve:
    return run_ranks(curves, name, ["null"], world_size=world_size)[0][0]


def close(found: Curve, other: Curve) -> bool:
    return all(one == pytest.approx(two, rel=1e-4) for one, two in zip(found, other, strict=True))


@pytest.mark.parametrize(
    ("name", "world_size"),
    [*((name, size) for name in ("m2m100", "nllb", "bart_with_dropout") for size in (2, 4)), ("switch", 2)],
)
def test_every_strategy_learns_the_same(name: str, world_size: int) -> None:
    # Dropout draws other masks for other rows, and another number of ranks has other rows on each.
    expected = reference(name, world_size if name == "bart_with_dropout" else 1)
    strategies = [*STRATEGIES, *OFFLOADED] if (name, world_size) == ("m2m100", 2) else STRATEGIES
    for found in run_ranks(curves, name, strategies, world_size=world_size)[0]:
        assert close(found, expected)


def test_layers_were_skipped() -> None:
    def whole(ranks: Ranks) -> Curve:
        return curve(engine_of(m2m100(encoder_layerdrop=0.0, decoder_layerdrop=0.0), "null", ranks), ranks)

    assert not close(run_ranks(whole, world_size=1)[0], reference("m2m100", 1))


def test_layers_that_each_rank_draws_for_itself_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LayerDrop, "_drawn", lambda self, stack, number: stack.forward)
    drawn_apart: Curve = run_ranks(curves, "m2m100", ["null"])[0][0]
    assert not close(drawn_apart, reference("m2m100", 1))


def test_recomputed_layers_and_a_start_in_the_middle_skip_the_same() -> None:
    def checkpointed(ranks: Ranks) -> Curve:
        return curve(engine_of(m2m100(), "zero2", ranks, checkpointed=True), ranks)

    def in_the_middle(ranks: Ranks) -> list[Any]:
        """The losses of the last step from the first weights: after the other steps at a rate of 0, and alone."""
        losses = []
        for steps in (range(NUM_STEPS), range(NUM_STEPS - 1, NUM_STEPS)):
            engine = engine_of(m2m100(), "null", ranks)
            apply = engine.step
            engine.step = lambda lr, apply=apply: apply(lr=0.0)
            losses.append(curve(engine, ranks, steps)[-1])
        return losses

    assert close(run_ranks(checkpointed)[0], reference("m2m100", 1))
    after, alone = run_ranks(in_the_middle)[0]
    assert after == alone


def test_a_rehearsal_skips_no_layer_and_a_step_never_all_of_a_stack() -> None:
    def passed(ranks: Ranks) -> tuple[int, int]:
        engine = engine_of(m2m100(encoder_layerdrop=0.9999, decoder_layerdrop=0.9999), "null", ranks)
        calls: list[nn.Module] = []
        for layer in (*engine._model.model.model.encoder.layers, *engine._model.model.model.decoder.layers):
            layer.register_forward_hook(lambda module, *_: calls.append(module))
        with engine.rehearsing():
            curve(engine, ranks, range(1))
        in_rehearsal = len(calls)
        curve(engine, ranks, range(1))
        return in_rehearsal, len(calls) - in_rehearsal

    assert run_ranks(passed, world_size=1) == [(6, 4)]


def test_only_scalars_within_a_stack_are_drawn_anew() -> None:
    config = transformers.OPTConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, ffn_dim=8, layerdrop=0.25
    )
    model = transformers.OPTForCausalLM(config)
    before = torch.rand
    LayerDrop(model).begin_step(1, 2)
    model.train()(torch.tensor([[3, 4]]))
    assert torch.rand is before
    assert describe_layer_drop(model) == (
        "a step skips a layer with probability 0.25 (LayerDrop), the same layers on all ranks; model.layerdrop=0 turns "
        "it off"
    )
    config.layerdrop = 0.0
    assert describe_layer_drop(transformers.OPTForCausalLM(config)) is None
