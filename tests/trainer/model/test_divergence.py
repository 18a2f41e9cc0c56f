"""The divergence from the pretrained model: torch's own of all logits, in chunks where the loss is, with gradients."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from shardtune.trainer.model import target_loss
from shardtune.trainer.model.divergence import BaseTargets, compare, divergence
from shardtune.trainer.model.target_loss import keep_target_loss, plain_layer
from tests.trainer.model.test_target_loss import (
    CHUNKED,
    TOKENS,
    VOCABULARY,
    WHOLE,
    Largest,
    batch_of,
    gradients,
    model_of,
    targets_of,
)

SHARE = 0.7


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(target_loss.CHUNK_BYTES, "cpu", 4 * VOCABULARY * 7 * target_loss.WITH_BASE)


def tuned_from(base: Any) -> Any:
    """The model after some training, as far as its numbers go."""
    model = copy.deepcopy(base)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def of_all_logits(base: Any, model: Any, inputs: Any, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss and KL(base || model), by torch's functions of all logits."""
    with torch.no_grad():
        log_q = base(**inputs).logits.flatten(0, 1).log_softmax(-1)
    logits = model(**inputs).logits.flatten(0, 1)
    factors = (labels.flatten() >= 0) * (1 if weights is None else weights.flatten())
    losses = cross_entropy(logits, labels.flatten(), reduction="none")
    each = kl_div(logits.log_softmax(-1), log_q, reduction="none", log_target=True).sum(-1)
    return (losses * factors).sum(), (each * factors).sum()


def base_targets(base: Any, inputs: Any, targets: Any, share: float) -> BaseTargets:
    """As the base computes them, by a model that has shown before how its loss can be computed."""
    keep_target_loss(base)
    with torch.no_grad():
        base(**inputs, **targets)
        hidden = base(**inputs, **targets, hidden_of_targets=True).logits
    layer = plain_layer(base.get_output_embeddings())
    return BaseTargets(hidden, layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), share)


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(("name", "auto", "settings"), [*CHUNKED, *WHOLE])
def test_it_and_its_gradients_are_those_of_all_logits(
    name: str, auto: str, settings: dict[str, Any], is_weighted: bool
) -> None:
    base = model_of(name, auto, settings)
    model = tuned_from(base)
    inputs, labels, weights = batch_of(base)
    weights_or_none = weights if is_weighted else None
    loss, total = of_all_logits(base, model, inputs, labels, weights_or_none)
    assert total > 0.05
    expected = gradients(model, loss + SHARE * total)
    targets = targets_of(labels, weights_or_none)
    of_base = base_targets(base, inputs, targets, SHARE)
    keep_target_loss(model)
    model(**inputs, **targets)
    trained, right, found_loss, found = model(**inputs, **targets, base=of_base).logits
    torch.testing.assert_close(torch.stack((found_loss, found)), torch.stack((loss, total)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(trained, loss + SHARE * total, rtol=1e-5, atol=1e-4)
    assert right.isnan()
    for parameter, gradient in gradients(model, trained).items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-3, atol=2e-5, msg=parameter)


@pytest.mark.parametrize(("name", "auto", "settings"), [CHUNKED[1], WHOLE[0], WHOLE[3]])
def test_without_gradients_it_is_measured_and_nothing_else_changes(
    name: str, auto: str, settings: dict[str, Any]
) -> None:
    base = model_of(name, auto, settings)
    model = tuned_from(base)
    inputs, labels, _ = batch_of(base)
    targets = targets_of(labels)
    _, total = of_all_logits(base, model, inputs, labels, None)
    of_base = base_targets(base, inputs, targets, 0.0)
    keep_target_loss(model)
    with torch.no_grad():
        before = model(**inputs, **targets).logits
        found = model(**inputs, **targets, base=of_base).logits
        assert found[:3].tolist() == [*before.tolist(), float(before[0])]
        torch.testing.assert_close(found[3], total.detach(), rtol=1e-4, atol=1e-4)
        assert model(**inputs, **targets).logits.shape == (2,)


def test_of_the_pretrained_model_itself_it_is_0_also_by_the_models_own_layer() -> None:
    model = model_of(*CHUNKED[1])
    inputs, labels, _ = batch_of(model)
    of_base = base_targets(model, inputs, targets_of(labels), 0.0)
    with torch.no_grad():
        for base in (of_base, BaseTargets(of_base.hidden)):
            model(**inputs, **targets_of(labels))
            assert abs(float(model(**inputs, **targets_of(labels), base=base).logits[3])) < 1e-5


def test_no_tensor_of_all_logits_is_ever_there() -> None:
    base = model_of(*CHUNKED[0])
    model = tuned_from(base)
    inputs, labels, _ = batch_of(base)
    targets = targets_of(labels)
    keep_target_loss(model)
    model(**inputs, **targets)
    layer = base_targets(base, inputs, targets, SHARE).weight
    with Largest() as largest:
        with torch.no_grad():
            hidden = base(**inputs, **targets, hidden_of_targets=True).logits
        model(**inputs, **targets, base=BaseTargets(hidden, layer, None, SHARE)).logits[0].backward()
    assert largest.elements < VOCABULARY * TOKENS  # the last layer alone has VOCABULARY * 32


def test_a_batch_without_targets_has_none_and_moves_nothing() -> None:
    for settings in (CHUNKED[0], WHOLE[0]):
        base = model_of(*settings)
        model = tuned_from(base)
        inputs, labels, _ = batch_of(base)
        targets, none = targets_of(labels), targets_of(torch.full_like(labels, -100))
        of_base = base_targets(base, inputs, none, SHARE)
        assert of_base.hidden.shape == (0, 32)
        keep_target_loss(model)
        model(**inputs, **targets)
        answer = model(**inputs, **none, base=of_base).logits
        assert answer[[0, 2, 3]].tolist() == [0, 0, 0]
        assert not any(gradient.any() for gradient in gradients(model, answer[0]).values())


def test_a_token_that_the_base_excludes_counts_nothing() -> None:
    base, model = torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[0.3, -1.0, 2.0]])
    _, found = compare(base, model.log_softmax(1))
    expected = kl_div(model.log_softmax(1)[:, :2], base[:, :2].softmax(1), reduction="sum")
    torch.testing.assert_close(found.sum(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_16_bits_the_gradient_is_scaled_before_it_is_rounded(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    base, logits = torch.randn(2, 5, VOCABULARY).to(dtype)
    logits.requires_grad_()
    exact = logits.detach().double().requires_grad_()
    (kl_div(exact.log_softmax(1), base.double().log_softmax(1), reduction="sum", log_target=True) * 1e-4).backward()
    (divergence(logits, base, None, at_once=2) * (1e-4 * 2**16)).backward()
    assert logits.grad is not None and exact.grad is not None
    torch.testing.assert_close(logits.grad.double() / 2**16, exact.grad, rtol=2e-2, atol=1e-9)
