"""The loss that a model answers with: transformers' own, in chunks where it can be, and its gradients."""

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from shardtune.trainer.model import target_loss
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import IGNORED

VOCABULARY, TOKENS = 640, 48
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
LLAMA = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
MARIAN = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
CHUNKED: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "AutoModelForCausalLM", LLAMA),
    ("llama", "AutoModelForCausalLM", LLAMA | {"tie_word_embeddings": True}),
    ("gpt2", "AutoModelForCausalLM", GPT2),
    ("bert", "AutoModelForMaskedLM", SIZES | {"intermediate_size": 48}),
    ("t5", "AutoModelForSeq2SeqLM", T5 | {"decoder_start_token_id": 0}),
]
WHOLE: list[tuple[str, str, dict[str, Any]]] = [
    ("gemma2", "AutoModelForCausalLM", LLAMA | {"head_dim": 8, "final_logit_softcapping": 1.0}),
    ("granite", "AutoModelForCausalLM", LLAMA | {"logits_scaling": 8.0}),
    ("cohere", "AutoModelForCausalLM", LLAMA | {"logit_scale": 0.25}),
    ("marian", "AutoModelForSeq2SeqLM", MARIAN),
]
"""Models that change the logits which their last layer has made."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(target_loss.CHUNK_BYTES, "cpu", 4 * VOCABULARY * 7)


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that is made meanwhile."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def model_of(name: str, auto: str, settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(name, **settings)).to(dtype)
    if name == "marian":
        model.final_logits_bias.normal_()
    return model.eval()


def batch_of(model: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """What the model reads, its labels, of which some are no targets, and the targets' weights; (2, TOKENS) each."""
    torch.manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (2, TOKENS))
    labels = torch.randint(1, VOCABULARY, (2, TOKENS)).masked_fill(torch.rand(2, TOKENS) < 0.2, IGNORED)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.flip(1)
    return inputs, labels, torch.rand(2, TOKENS)


def targets_of(labels: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
    """What the model with target loss reads besides."""
    return Batch({}, labels, weights).with_target_inputs().inputs


def plain(model: Any, inputs: dict[str, Tensor], labels: Tensor, weights: Tensor | None) -> Tensor:
    losses = cross_entropy(model(**inputs).logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return (losses if weights is None else losses * weights.flatten()).sum()


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (loss / 3).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(("name", "auto", "settings"), [*CHUNKED, *WHOLE])
def test_loss_and_gradients_are_those_of_all_logits(
    name: str, auto: str, settings: dict[str, Any], is_weighted: bool
) -> None:
    model = model_of(name, auto, settings)
    inputs, labels, weights = batch_of(model)
    more = targets_of(labels, weights if is_weighted else None)
    expected = plain(model, inputs, labels, weights if is_weighted else None)
    expected_gradients = gradients(model, expected)
    keep_target_loss(model)
    for _ in ("the first pass finds out", "the second does it"):
        loss, right = model(**inputs, **more).logits
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert right.isnan()
        found = gradients(model, loss)
        assert found.keys() == expected_gradients.keys()
        for parameter, gradient in found.items():
            torch.testing.assert_close(gradient, expected_gradients[parameter], rtol=1e-4, atol=1e-5, msg=parameter)


@pytest.mark.parametrize(("name", "auto", "settings"), [*CHUNKED, *WHOLE])
def test_an_evaluation_counts_the_likeliest_tokens(name: str, auto: str, settings: dict[str, Any]) -> None:
    model = model_of(name, auto, settings)
    inputs, labels, _ = batch_of(model)
    with torch.no_grad():
        likeliest = model(**inputs).logits.argmax(-1)
        labels[:, ::3] = likeliest[:, ::3]
        expected = plain(model, inputs, labels, None)
        keep_target_loss(model)
        for _ in ("whole", "in chunks"):
            loss, right = model(**inputs, **targets_of(labels)).logits
            assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
            assert int(right) == int((likeliest == labels).sum()) >= 2 * TOKENS // 3


@pytest.mark.parametrize(
    ("name", "auto", "settings", "is_chunked"),
    [*((*case, True) for case in CHUNKED), *((*case, False) for case in WHOLE)],
)
def test_the_logits_of_all_targets_are_never_there(
    name: str, auto: str, settings: dict[str, Any], is_chunked: bool
) -> None:
    model = model_of(name, auto, settings)
    inputs, labels, _ = batch_of(model)
    keep_target_loss(model)
    one = torch.full_like(labels, IGNORED)
    one[0, 0] = 5
    model(**inputs, **targets_of(one))
    with Largest() as largest:
        model(**inputs, **targets_of(labels)).logits[0].backward()
    whole = int((labels != IGNORED).sum()) * VOCABULARY
    weight = VOCABULARY * 32
    assert largest.elements == weight if is_chunked else largest.elements >= whole > weight


def test_a_batch_without_targets_has_no_loss_and_a_gradient_of_zeros() -> None:
    model = model_of(*CHUNKED[0])
    inputs, labels, weights = batch_of(model)
    keep_target_loss(model)
    none = torch.full_like(labels, IGNORED)
    for targets in (none, labels, none):  # of none, nothing is found out
        loss, _ = model(**inputs, **targets_of(targets, weights)).logits
        found = gradients(model, loss)
        if targets is none:
            assert loss.item() == 0
            assert len(found) == len(list(model.parameters())) and not any(
                gradient.any() for gradient in found.values()
            )


def test_what_is_frozen_gets_no_gradient() -> None:
    model = model_of(*CHUNKED[0])
    inputs, labels, _ = batch_of(model)
    model.get_output_embeddings().requires_grad_(False)
    expected = gradients(model, plain(model, inputs, labels, None))
    keep_target_loss(model)
    model(**inputs, **targets_of(labels))
    found = gradients(model, model(**inputs, **targets_of(labels)).logits[0])
    assert found.keys() == expected.keys()
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-5)


def test_in_half_precision_it_is_no_further_from_the_truth_than_all_logits_are() -> None:
    exact = model_of(*CHUNKED[0]).double()
    half = copy.deepcopy(exact).to(torch.bfloat16)
    exact = copy.deepcopy(half).double()  # of the same, rounded weights
    inputs, labels, _ = batch_of(exact)
    truth = gradients(exact, plain(exact, inputs, labels, None))
    of_all = {name: gradient.double() for name, gradient in gradients(half, plain(half, inputs, labels, None)).items()}
    keep_target_loss(half)
    half(**inputs, **targets_of(labels))
    found = gradients(half, half(**inputs, **targets_of(labels)).logits[0])
    for name, gradient in found.items():
        error, error_of_all = (gradient.double() - truth[name]).norm(), (of_all[name] - truth[name]).norm()
        assert error <= 1.5 * error_of_all + 1e-3 * truth[name].norm(), name


def test_without_targets_nothing_changes() -> None:
    model = model_of(*CHUNKED[0])
    inputs, labels, _ = batch_of(model)
    with torch.no_grad():
        expected = model(**inputs).logits
        keep_target_loss(model)
        for _ in range(2):
            torch.testing.assert_close(model(**inputs).logits, expected)
            assert model(**inputs).past_key_values is None
            model(**inputs, **targets_of(labels))
    answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert answer.shape == (2, TOKENS + 3)
