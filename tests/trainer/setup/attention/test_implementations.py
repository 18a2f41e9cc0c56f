"""Whatever computes attention, and whatever keeps texts apart: the same loss and the same gradient."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn
from transformers import masking_utils

from shardtune.trainer.data.batches.batch_maker import collate_alone, collate_packed
from shardtune.trainer.data.batches.bins import Packing
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.model.attention import varlen
from shardtune.trainer.model.attention.varlen import register
from shardtune.trainer.setup.attention.masks import choose_masks
from shardtune.trainer.setup.first_token import read_first_alone
from shardtune.trainer.setup.packing import choose_packing
from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.classification.classification import Classification
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.masks import Masks, with_masks
from tests.support.ranks import run_ranks
from tests.support.runs import curve, tiny_recipe, train
from tests.trainer.setup.test_first_token import batch, classifier
from tests.trainer.setup.test_packing import (
    DISTILBERT,
    GPT2,
    OPT,
    SMALL,
    WINDOWED,
    Heard,
    Plain,
    Task,
    examples,
    loss_and_gradient,
    model_of,
    recipe_of,
    tagged,
    tagger,
)

FLAT, BY_MASK = Packing(48, is_flat=True, is_marked=True), Packing(48, is_flat=False)
MISTRAL = SMALL | {"head_dim": 8, "sliding_window": 4}
CAUSAL: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "eager", SMALL),
    ("llama", "sdpa", SMALL),
    ("llama", "varlen", SMALL),
    ("gpt2", "varlen", GPT2),
    ("mistral", "eager", MISTRAL),
    ("mistral", "sdpa", MISTRAL),
    ("mistral", "varlen", MISTRAL),
    ("gemma3_text", "varlen", WINDOWED),
    ("qwen2", "varlen", SMALL | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    ("mixtral", "varlen", SMALL | {"num_local_experts": 4}),
]
"""Models of each kind of attention; the windows of some are shorter than the examples."""


def kept(name: str) -> Masks:
    """The batches of this implementation that need least."""
    return Masks.MARKED if name == "varlen" else Masks.NONE


def padded(masks: Masks) -> Batch:
    return collate_alone(Task(), examples(), masks)  # type: ignore[arg-type]


def is_same(found: tuple[float, Tensor], expected: tuple[float, Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-4 * float(expected[1].abs().max()))


@pytest.mark.parametrize(("name", "attention", "settings"), CAUSAL)
def test_packed_and_unmasked_are_as_padded_and_masked(name: str, attention: str, settings: dict[str, Any]) -> None:
    register()
    expected = loss_and_gradient(model_of(name, "eager", settings), padded(Masks.KEPT))
    model = model_of(name, attention, settings)
    first, *others = examples()
    packing = FLAT if attention == "varlen" else BY_MASK
    packed = collate_packed(Task(), [[first, *others[:2]], others[2:]], packing)  # type: ignore[arg-type]
    assert packed.shape[0] == (1 if attention == "varlen" else 2)
    is_same(loss_and_gradient(model, packed), expected)
    is_same(loss_and_gradient(model, padded(kept(attention))), expected)
    is_same(loss_and_gradient(model, padded(Masks.KEPT)), expected)


def test_recomputed_activations_see_the_same_texts() -> None:
    register()
    expected = loss_and_gradient(model_of("llama", "sdpa", SMALL), padded(Masks.KEPT))
    model = model_of("llama", "varlen", SMALL)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    is_same(loss_and_gradient(model.train(), collate_packed(Task(), [examples()], FLAT)), expected)  # type: ignore[arg-type]


ENCODERS: list[tuple[str, dict[str, Any], int]] = [
    ("bert", SMALL, 0),
    ("roberta", SMALL | {"pad_token_id": 1}, 2),
    ("distilbert", DISTILBERT | {"dropout": 0.0, "attention_dropout": 0.0}, 0),
    ("modernbert", SMALL | {"local_attention": 4, "pad_token_id": 0}, 0),
]
"""Encoders, and the place that each counts from; the last one has layers with a window."""


def tagging(name: str, settings: dict[str, Any], attention: str) -> tuple[Any, Any]:
    register()
    model, task = tagger(name, settings)
    model.set_attn_implementation(attention)
    return model, task


def of_batch(model: Any, task: Any, batch: Batch) -> tuple[float, Tensor]:
    model.zero_grad()
    loss = task.loss_sum(model(**batch.inputs), batch)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("name", "settings", "first_position"), ENCODERS)
def test_an_encoder_packs_and_pads_by_borders_alone(name: str, settings: dict[str, Any], first_position: int) -> None:
    model, task = tagging(name, settings, "eager")
    expected = of_batch(model, task, task.collate(tagged()))
    model.set_attn_implementation("varlen")
    packing = Packing(48, is_flat=True, first_position=first_position, is_marked=True)
    assert chosen_packing(model, task) == (packing, [])
    packed = collate_packed(task, [tagged()], packing)
    assert packed.inputs["attention_mask"].numel() == 1 and packed.shape == (1, packed.labels.numel())
    is_same(of_batch(model, task, packed), expected)
    is_same(of_batch(model, task, collate_alone(task, tagged(), Masks.MARKED)), expected)


def alone(body: Any) -> Any:
    (found,) = run_ranks(body, world_size=1)
    return found


def chosen_packing(model: Any, task: Any, kind: str = "token_classification") -> tuple[Packing | None, list[str]]:
    def body(ranks: Ranks) -> Any:
        heard: Any = Heard()
        engine: Any = Plain(model)
        packing = choose_packing(recipe_of("auto", kind=kind), task, engine, model, ranks=ranks, reporter=heard)
        return packing, [event["text"] for event in heard.events]

    found: tuple[Packing | None, list[str]] = alone(body)
    return found


def chosen_masks(model: Any, task: Any, like: Example, precision: str = "fp32") -> tuple[Masks, list[str]]:
    def body(ranks: Ranks) -> Any:
        heard: Any = Heard()
        recipe, engine = recipe_of("auto", precision), Plain(model)
        masks = choose_masks(recipe, task, engine, model, like=like, ranks=ranks, reporter=heard)  # type: ignore[arg-type]
        return masks, [event["text"] for event in heard.events]

    found: tuple[Masks, list[str]] = alone(body)
    return found


class Causal(Task):
    auto_model = "AutoModelForCausalLM"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "attention", "settings", "masks"),
    [
        ("llama", "eager", SMALL, Masks.NONE),
        ("llama", "sdpa", SMALL, Masks.NONE),
        ("llama", "varlen", SMALL, Masks.MARKED),
        ("mistral", "sdpa", MISTRAL, Masks.NONE),
        ("bloom", "eager", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, Masks.NONE),
        ("opt", "sdpa", OPT | {"ffn_dim": 64, "word_embed_proj_dim": 32}, Masks.NONE),
    ],
)
def test_a_causal_model_needs_no_mask_for_padding(
    name: str, attention: str, settings: dict[str, Any], masks: Masks, precision: str
) -> None:
    register()
    model = model_of(name, attention, settings, dtype=torch.bfloat16 if precision == "bf16" else None)
    assert chosen_masks(model, Causal(), examples()[0], precision) == (masks, [])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "settings", "first_position"), ENCODERS)
@pytest.mark.parametrize(
    ("attention", "masks"), [("eager", Masks.UNPADDED), ("sdpa", Masks.UNPADDED), ("varlen", Masks.MARKED)]
)
def test_an_encoder_needs_one_where_rows_are_padded_unless_it_has_borders(
    name: str, settings: dict[str, Any], first_position: int, attention: str, masks: Masks, precision: str
) -> None:
    model, task = tagging(name, settings, attention)
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    assert chosen_masks(model, task, tagged()[0], precision) == (masks, [])


LLAMA_HEAD = SMALL | {"num_labels": 3}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "attention", "masks"),
    [
        ("bert", "sdpa", Masks.UNPADDED),
        ("bert", "varlen", Masks.MARKED),
        ("llama", "sdpa", Masks.NONE),
        ("llama", "varlen", Masks.MARKED),
    ],
)
def test_a_classifier_needs_them_as_its_model_does(name: str, attention: str, masks: Masks, precision: str) -> None:
    register()
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **LLAMA_HEAD)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = transformers.AutoModelForSequenceClassification.from_config(
        config, attn_implementation=attention, dtype=dtype
    )
    facts = {"label_names": ["a", "b", "c"], "has_pairs": False}
    tokenizer: Any = SimpleNamespace(pad_token_id=0, pad_token="[PAD]")
    task = Classification(Classification.Options(kind="classification"), facts, tokenizer, config)
    assert chosen_masks(model, task, {"input_ids": [5, 7, 6], "labels": 1}, precision) == (masks, [])


def test_a_model_whose_padding_is_seen_behind_a_text_keeps_its_masks() -> None:
    """A causal model whose last layer looks ahead."""
    register()
    model = model_of("llama", "sdpa", SMALL)
    model.model.layers[-1].self_attn.forward = lambda hidden_states, **_: (hidden_states.mean(1, keepdim=True), None)
    assert chosen_masks(model, Causal(), examples()[0])[0] in (Masks.KEPT, Masks.UNPADDED)


def test_where_the_borders_do_not_arrive_masks_do_their_work_and_it_is_said() -> None:
    register()
    model = model_of("llama", "varlen", SMALL)
    forward = model.model.forward
    model.model.forward = lambda *args, cu_seq_lens_q=None, **kwargs: forward(*args, **kwargs)
    packing, notes = chosen_packing(model, Causal(), "language_modeling")
    assert packing == BY_MASK
    (note,) = notes
    assert note.startswith("packed rows have a mask, and varlen is not used: LlamaForCausalLM does not keep packed")


def test_an_encoder_decoder_and_a_head_of_zeros_keep_what_they_have() -> None:
    model = model_of("llama", "sdpa", SMALL)
    model.lm_head.weight.data.zero_()
    assert chosen_masks(model, Causal(), examples()[0]) == (Masks.KEPT, [])
    model.config.is_encoder_decoder = True
    assert chosen_masks(model, Causal(), examples()[0]) == (Masks.KEPT, [])


def lengths_of(rows: Sequence[Example]) -> list[int]:
    return [len(row["input_ids"]) for row in rows]


def test_masks_are_left_out_where_they_say_nothing() -> None:
    rows = examples()
    even: list[Example] = [{key: row[key][:2] for key in ("input_ids", "labels")} for row in rows]
    for one in (rows, even):
        whole = causal.collate(one, 0)
        assert collate_alone(Task(), one, Masks.KEPT).inputs.keys() == whole.inputs.keys()  # type: ignore[arg-type]
        assert "attention_mask" not in collate_alone(Task(), one, Masks.NONE).inputs  # type: ignore[arg-type]
        is_padded = len(set(lengths_of(one))) > 1
        unpadded = collate_alone(Task(), one, Masks.UNPADDED)  # type: ignore[arg-type]
        assert ("attention_mask" in unpadded.inputs) == is_padded


def test_borders_of_padded_rows_make_padding_a_text_of_its_own() -> None:
    batch = collate_alone(Task(), examples(), Masks.BORDERS)  # type: ignore[arg-type]
    longest, places = batch.shape[1], batch.inputs["cu_seq_lens_q"]
    expected = [0]
    for length in lengths_of(examples()):
        expected += [expected[-1] + length] + [expected[-1] + longest] * (length < longest)
    assert places.tolist() == expected and places.dtype == torch.int32
    assert batch.inputs["max_length_q"] == batch.inputs["max_length_k"] == max(torch.tensor(expected).diff().tolist())
    moved = batch.to(torch.device("cpu"))
    assert type(moved.inputs["max_length_q"]) is int and "attention_mask" not in moved.inputs


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_a_last_layer_of_one_token_sees_its_own_text_by_the_borders(kind: str) -> None:
    register()
    rows = batch()
    lengths = [[9], [5]]
    expected = classifier(kind, "sdpa").eval()(**rows.inputs).logits
    model = classifier(kind, "varlen").eval()
    marked = with_masks(rows, lengths, Masks.MARKED)
    engine, alone_rank = Plain(model), SimpleNamespace(any=bool)
    assert read_first_alone(engine, model, marked, "fp32", alone_rank)  # type: ignore[arg-type]
    torch.testing.assert_close(model.eval()(**marked.inputs).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "settings"), [("llama", SMALL), ("gemma2", WINDOWED)])
def test_the_document_mask_of_flex_attention_keeps_packed_rows_apart(name: str, settings: dict[str, Any]) -> None:
    """Forwards: it has no backward pass on a CPU."""
    first, *others = examples()
    packed = collate_packed(Task(), [[first, *others[:2]], others[2:]], BY_MASK)  # type: ignore[arg-type]
    expected = model_of(name, "eager", settings)(**padded(Masks.KEPT).inputs).logits[0]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # it takes half a minute to compile
        found = model_of(name, "flex_attention", settings)(**packed.inputs).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_pass_by_borders_reads_neither_position_ids_nor_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would read them, and so wait for a GPU; under fake tensors, whatever else waits raises."""
    register()
    reads: list[str] = []
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda _: reads.append("position ids"))
    monkeypatch.setattr(varlen, "kernel_of", lambda device: varlen_attn)

    def pass_over(rows: Batch) -> None:
        with FakeTensorMode() as fake:
            config = transformers.AutoConfig.for_model("mistral", **MISTRAL)
            model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="varlen")
            inputs = {
                name: fake.from_tensor(value) if isinstance(value, Tensor) else value
                for name, value in rows.inputs.items()
                if not name.startswith("target")
            }
            model(**inputs, use_cache=False).logits.sum().backward()
            assert all(parameter.grad is not None for parameter in model.parameters())

    pass_over(collate_packed(Task(), [examples()], FLAT))  # type: ignore[arg-type]
    pass_over(padded(Masks.MARKED))
    assert not reads
    pass_over(padded(Masks.NONE))
    assert reads, "the test would see a read"


def test_convolutions_see_the_other_texts_of_a_row_whatever_the_borders() -> None:
    register()
    model = model_of("lfm2", "varlen", SMALL | {"layer_types": ["conv", "full_attention"]})
    packing, (note,) = chosen_packing(model, Causal(), "language_modeling")
    assert packing is None and note.startswith("rows are not packed: Lfm2ForCausalLM does not keep packed rows apart")
    assert chosen_masks(model, Causal(), examples()[0]) == (Masks.MARKED, [])


def test_a_classifier_learns_the_same_by_masks_and_by_borders(tiny: Path, tmp_path: Path) -> None:
    shared = ("train.max_steps=4", "data.test=null", "train.micro_batch_tokens=64")
    (_, expected), (_, found) = (
        train(tiny_recipe(tiny, *shared, f"model.attention={name}"), tmp_path / name, world_size=2)
        for name in ("sdpa", "varlen")
    )
    assert len(curve(found)) == 4
    for (_, loss, norm), (_, expected_loss, expected_norm) in zip(curve(found), curve(expected), strict=True):
        assert (loss, norm) == (pytest.approx(expected_loss, rel=1e-4), pytest.approx(expected_norm, rel=1e-3))
