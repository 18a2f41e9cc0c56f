"""A model, a tokenizer and labelled rows small enough that a real training takes a second."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

GOOD = ["good", "fine", "great", "warm", "bright"]
BAD = ["bad", "dull", "poor", "cold", "grim"]
PLAIN = ["the", "a", "film", "plot", "and", "was", "is", "very", "it", "so", "actor", "scene"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_encoder(folder: Path, *, dropout: float = 0.0) -> Path:
    """A BERT of 2 layers x 32 with random weights, no head and a word-level tokenizer, as a Hugging Face folder."""
    words = SPECIAL + GOOD + BAD + PLAIN
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,  # large, so that it learns something within a few steps
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


CHATML = (
    "{% for message in messages %}<|im_start|> {{ message.role }} \n {{ message.content }} <|im_end|> \n {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant \n {% endif %}"
)
"""ChatML with spaces between its tokens, for a tokenizer of whole words."""


def write_causal(folder: Path, words: Sequence[str], *, chat_template: str | None = CHATML) -> Path:
    """A Llama of 2 layers x 32 with random weights and a word-level tokenizer of these words, as a folder."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    vocabulary = [*special, "system", "user", "assistant", *words]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>" if chat_template is None else "<|im_end|>",
        chat_template=chat_template,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=128,
    ).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=2,
        eos_token_id=3 if chat_template is None else 5,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def byte_tokenizer(*special: str, merges: Sequence[tuple[str, str]] = (), **words: Any) -> Any:
    """A tokenizer of bytes that splits texts as GPT-2 does, with these special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*alphabet, *(one + other for one, other in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words)


def write_reviews(path: Path, num_rows: int, *, seed: int = 0) -> Path:
    """JSONL of made-up reviews whose label is the word that decides it; lengths from 2 to 30 words."""
    chosen = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        label = chosen.choice(["negative", "positive"])
        words = chosen.choices(PLAIN, k=chosen.randint(1, 29))
        words.insert(chosen.randrange(len(words) + 1), chosen.choice(GOOD if label == "positive" else BAD))
        rows.append({"text": " ".join(words), "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
