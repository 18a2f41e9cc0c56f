"""A last layer that computes the first token alone: same logits, same gradients, and only where that is so."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from shardtune.ds_config.resolve import ds_config_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.setup.first_token import read_first_alone
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "num_labels": 3,
}
KINDS = ["Bert", "Roberta", "XLMRoberta", "Electra"]


def classifier(kind: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, attn_implementation=attention)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    for name, parameter in model.named_parameters():  # logits that can be told apart
        if "classifier" in name:
            torch.nn.init.normal_(parameter)
    return model


def batch() -> Batch:
    """Two texts, of 9 and 5 tokens."""
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    ids = torch.arange(18).view(2, 9) % 40 + 5
    return Batch({"input_ids": ids, "attention_mask": mask}, torch.tensor([0, 2]))


def engine_of(model: Any, ranks: Ranks, strategy: str) -> Engine:
    recipe = tiny_recipe(Path("/"), f"engine.deepspeed={strategy}")
    common: dict[str, Any] = {"ranks": ranks, "seed": 0}
    ds_config = ds_config_of(recipe, hidden_size=16)
    if ds_config is None:
        return ReplicatedEngine(
            model, lambda parameters: adamw(parameters, recipe.optim), precision="fp32", max_grad_norm=1.0, **common
        )
    return DeepSpeedEngine(model, ds_config, lambda parameters: adamw(parameters, recipe.optim), **common)


def grads(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    one_batch = batch()
    model.eval()  # no dropout
    torch.nn.functional.cross_entropy(model(**one_batch.inputs).logits, one_batch.labels).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


class Plain:
    """An engine for a model alone in this process."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def evaluating(self) -> Any:
        return torch.no_grad()

    def forward(self, one_batch: Batch) -> Any:
        return self.model.eval()(**one_batch.inputs)


class Alone:
    def any(self, flag: bool) -> bool:
        return flag


def asked(model: Any) -> bool:
    engine, alone = Plain(model), Alone()
    return read_first_alone(engine, model, batch(), "fp32", alone)  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_stay_and_the_last_layer_has_one_token(kind: str, attention: str) -> None:
    model = classifier(kind, attention)
    expected, logits = grads(model), model(**batch().inputs).logits
    assert asked(model)
    widths: list[int] = []
    model.base_model.encoder.layer[-1].register_forward_hook(lambda *arguments: widths.append(arguments[2].shape[1]))
    found = grads(model)
    assert widths == [1]
    torch.testing.assert_close(model(**batch().inputs).logits, logits, rtol=1e-5, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_model_that_reads_other_tokens_too_stays_as_it_is() -> None:
    model = classifier("Bert")
    pooler = model.bert.pooler
    pooler.forward = lambda hidden: pooler.activation(pooler.dense(hidden.mean(1)))
    expected = grads(model)
    assert not asked(model)
    found = grads(model)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in found.items())


def test_a_model_of_another_make_is_left_alone() -> None:
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=24, num_labels=3)
    assert not asked(transformers.DistilBertForSequenceClassification(config))


def with_all_ranks(ranks: Ranks, strategy: str) -> tuple[bool, list[list[float]], list[list[float]]]:
    model = classifier("Bert")
    engine = engine_of(model, ranks, strategy)
    with engine.evaluating():
        before = engine.forward(batch()).logits.tolist()
    is_narrow = read_first_alone(engine, model, batch(), "fp32", ranks)
    engine.begin_step(1, num_micro_batches=1)
    engine.backward(engine.forward(batch()).logits.sum(), num_targets=4)
    engine.step(lr=0.0)
    with engine.evaluating():
        return is_narrow, before, engine.forward(batch()).logits.tolist()


@pytest.mark.parametrize("strategy", ["null", "zero2", "zero3"])
def test_sharded_or_not_all_ranks_do_it(strategy: str) -> None:
    for is_narrow, before, after in run_ranks(with_all_ranks, strategy):
        assert is_narrow
        torch.testing.assert_close(torch.tensor(after), torch.tensor(before), rtol=1e-4, atol=1e-5)
