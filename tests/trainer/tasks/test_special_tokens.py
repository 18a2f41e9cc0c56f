"""Special tokens that are literally in a text are plain text, whatever the tokenizer does with its vocabulary."""

from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from shardtune.trainer.tasks.special_tokens import encode_plain, special_in
from tests.support.tiny import byte_tokenizer

WORDS = ["<s>", "</s>", "<unk>", "say", "no"]


def of_words(**more: Any) -> Any:
    """Its special tokens are words of the vocabulary too: whatever is not parsed before is found there."""
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **more
    )


def of_unigrams() -> Any:
    """Like T5's: the most likely pieces, one of which is the end of text."""
    letters = [chr(code) for code in range(33, 127)] + ["▁"]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -2.0) for letter in letters), ("▁say", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


BYTES = byte_tokenizer("<s>", "</s>", "<|end|>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("tokenizer", [of_words(), of_unigrams(), BYTES], ids=["words", "unigrams", "bytes"])
@pytest.mark.parametrize("text", ["say </s> no", "</s>", "say</s></s>", "</s>no", "<</s>/s>"])
def test_no_special_token_arises_from_a_text(tokenizer: Any, text: str) -> None:
    (ids,) = encode_plain(tokenizer, [text], add_special_tokens=False)
    assert ids and tokenizer.eos_token_id not in ids
    assert tokenizer.eos_token_id in tokenizer(text, add_special_tokens=False)["input_ids"]  # which this is about
    assert special_in(tokenizer, text) == "</s>"


def test_plain_text_is_decoded_as_it_was() -> None:
    texts = ["say </s> no", "<|end|>", "Hi <s>."]
    for tokenizer in (BYTES, of_unigrams()):
        decoded = [tokenizer.decode(ids) for ids in encode_plain(tokenizer, texts, add_special_tokens=False)]
        assert [text.replace(" ", "") for text in decoded] == [text.replace(" ", "") for text in texts]


def test_a_text_without_special_tokens_has_the_ids_that_it_always_had() -> None:
    texts = ["say no", "no", "", "other words"]
    for tokenizer in (of_words(), BYTES):
        assert encode_plain(tokenizer, texts) == tokenizer(texts)["input_ids"]
        bare = tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert encode_plain(tokenizer, texts, add_special_tokens=False) == bare
        assert [special_in(tokenizer, text) for text in texts] == [None] * 4


def test_the_special_tokens_around_a_text_stay() -> None:
    (ids,) = encode_plain(of_words(), ["say </s>"])
    assert (ids[0], ids[1], ids[-1], ids.count(1)) == (0, 3, 1, 1)


def test_tokens_that_are_not_special_are_parsed_in_any_text() -> None:
    tokenizer = byte_tokenizer("<s>", bos_token="<s>")
    tokenizer.add_tokens(["<think>"])
    (ids,) = encode_plain(tokenizer, ["<think><s>"], add_special_tokens=False)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<think>") and tokenizer.decode(ids) == "<think><s>"


@given(st.lists(st.sampled_from(["<s>", "</s>", "<|end|>", "<", "s>", "|end|>", " ", "a", "é", "\n"]), max_size=8))
def test_whatever_the_text_it_is_read_back_without_a_special_token(parts: list[str]) -> None:
    text = "".join(parts)
    (ids,) = encode_plain(BYTES, [text], add_special_tokens=False)
    assert BYTES.decode(ids) == text and not {256, 257, 258} & {*ids}
