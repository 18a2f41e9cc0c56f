"""transformers loads the folder of the chat model like any other; nothing shows that it was a GGUF file."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.smollm2 import prepare


@pytest.fixture(scope="module")
def folder() -> Path:
    return prepare()


def test_it_is_converted_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.smollm2.convert", lambda *_: pytest.fail("it was converted again"))
    assert prepare() == folder


def test_the_tokenizer_loses_nothing_and_adds_no_special_tokens_by_itself(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "It's  the 2024\n\nété, 你好 <|im_end|>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer("a")["input_ids"] == [tokenizer.convert_tokens_to_ids("a")]
    assert tokenizer.model_max_length == 8192


def test_the_model_still_chats(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        ids = model.generate(**asked, max_new_tokens=20, do_sample=False)
    answer = tokenizer.decode(ids[0, asked["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")
