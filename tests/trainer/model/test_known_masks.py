"""What the host answers in the place of a device is what transformers would have read there."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from shardtune.trainer.data.batches.bins import merge
from shardtune.trainer.model import known_masks
from shardtune.trainer.model.known_masks import masks_known
from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.batch import Batch, pad, padded_inputs

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 64}
MARIAN: dict[str, Any] = {
    f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("layers", "attention_heads")
}
MARIAN |= {"vocab_size": 64, "d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("AutoModelForCausalLM", SIZES),
    "gemma3_text": ("AutoModelForCausalLM", SIZES | {"head_dim": 8, "sliding_window": 4}),
    "bert": ("AutoModelForMaskedLM", SIZES),
    "modernbert": ("AutoModelForMaskedLM", SIZES | {"pad_token_id": 0, "local_attention": 4}),
    "marian": ("AutoModelForSeq2SeqLM", MARIAN | {"decoder_start_token_id": 0}),
}


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    auto, settings = MODELS[name]
    config = transformers.AutoConfig.for_model(name, **settings)
    return getattr(transformers, auto).from_config(config, attn_implementation="sdpa").eval()


def batch_of(lengths: tuple[int, ...], *, packs: bool = False, decodes: bool = False) -> Batch:
    texts = [
        torch.randint(1, 64, (length,), generator=torch.Generator().manual_seed(length)).tolist() for length in lengths
    ]
    if packs:
        examples = [{"input_ids": text, "labels": text} for text in texts]
        batch = causal.collate([merge(examples[:2]), merge(examples[2:])], 0)
        return Batch(batch.plain_inputs, batch.labels)
    inputs = padded_inputs(texts, 0)
    return Batch(inputs | ({"decoder_input_ids": inputs["input_ids"][:, :5]} if decodes else {}), pad(texts, 0))


class Asked(list[str]):
    """The questions that transformers has asked."""

    def note(self, monkeypatch: pytest.MonkeyPatch) -> "Asked":
        for name, function in known_masks._ASKED.items():

            def noted(mask: Tensor | None, *args: Any, name: str = name, function: Any = function) -> Any:
                if mask is not None:
                    self.append(name)
                return function(mask, *args)

            monkeypatch.setitem(known_masks._ASKED, name, noted)
            monkeypatch.setattr(transformers.masking_utils, name, noted)
        return self


@pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 4, 7)])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_same_and_nothing_is_asked(
    name: str, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = model_of(name), batch_of(lengths, decodes=name == "marian")
    assert batch.is_padded == (len({*lengths}) > 1)
    asked = Asked().note(monkeypatch)
    with torch.no_grad():
        with masks_known(batch):  # on a CPU they are asked
            expected = model(**batch.inputs).logits
        assert asked
        asked.clear()
        monkeypatch.setattr(known_masks, "FREE", frozenset())
        with masks_known(batch):
            found = model(**batch.inputs).logits
    assert not asked
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_packed_rows_are_kept_apart_without_a_question(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(name), batch_of((9, 4, 7, 3), packs=True)
    with torch.no_grad():
        expected = model(**batch.inputs, use_cache=False).logits
        monkeypatch.setattr(known_masks, "FREE", frozenset())
        asked = Asked().note(monkeypatch)
        with masks_known(batch):
            found = model(**batch.inputs, use_cache=False).logits
    assert not asked
    assert torch.equal(found, expected)


def test_of_a_mask_that_is_not_the_batchs_own_the_device_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of("bert"), batch_of((9, 9))
    longer = {"input_ids": batch.inputs["input_ids"][:, :7], "attention_mask": torch.ones(2, 7, dtype=torch.int64)}
    longer["attention_mask"][1, 3:] = 0
    with torch.no_grad():
        expected = model(**longer).logits
        monkeypatch.setattr(known_masks, "FREE", frozenset())
        asked = Asked().note(monkeypatch)
        with masks_known(batch):
            assert torch.equal(model(**longer).logits, expected)
    assert asked
    assert torch.equal(model(**longer).logits, expected), "and behind the pass as ever"
