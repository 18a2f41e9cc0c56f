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


def give_masked_head(folder: Path) -> None:
    """Gives the model in this folder a head for masked language modelling, with random weights."""
    base = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    torch.manual_seed(3)
    model = transformers.BertForMaskedLM(base.config)
    model.bert.load_state_dict(base.state_dict())
    model.save_pretrained(folder)


def poison(folder: Path, word: str = "[MASK]") -> None:
    """Gives a word of the model in this folder an embedding that is no number: so is the loss of a row that has it."""
    model = transformers.BertModel.from_pretrained(folder)
    number = transformers.AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(word)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[number] = torch.nan
    model.save_pretrained(folder)


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


def write_documents(path: Path, num_rows: int, *, seed: int = 0, longest: int = 60) -> Path:
    """JSONL of made-up texts, in which most words follow from the one before; lengths from 1 to `longest` words."""
    chosen = random.Random(seed)
    words = [*GOOD, *BAD, *PLAIN]
    rows = []
    for _ in range(num_rows):
        at = chosen.randrange(len(words))
        text = []
        for _ in range(chosen.randint(1, longest)):
            text.append(words[at])
            at = chosen.randrange(len(words)) if chosen.random() < 0.2 else (3 * at + 1) % len(words)
        rows.append({"text": " ".join(text)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_encoder_decoder(folder: Path, words: Sequence[str]) -> Path:
    """A Marian of 1 + 1 layers x 64 as config and word-level tokenizer of these words alone, without weights."""
    vocabulary = ["<pad>", "</s>", "<unk>", *words]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", model_max_length=32
    ).save_pretrained(folder)
    transformers.MarianConfig(
        vocab_size=len(vocabulary),
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=32,
        dropout=0.0,
        init_std=0.05,
        scale_embedding=True,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
    ).save_pretrained(folder)
    return folder


SPOKEN = ["ba", "da", "fa", "ga", "ka", "la", "ma", "na", "pa", "ra", "sa", "ta"]
WRITTEN = ["or", "ul", "im", "es", "ak", "ug", "en", "ip", "ob", "it", "ar", "ez"]


def write_toy_language(folder: Path, **num_rows: int) -> None:
    """JSONL of made-up translations for each split: each word has another one, and they come in the opposite order.

    No sentence of 3 to 6 words is there twice.
    """
    chosen = random.Random(0)
    seen: dict[tuple[int, ...], None] = {}
    while len(seen) < sum(num_rows.values()):
        seen[tuple(chosen.choices(range(len(SPOKEN)), k=chosen.randint(3, 6)))] = None
    sentences = iter(seen)
    for split, count in num_rows.items():
        rows = [
            {
                "source": " ".join(SPOKEN[at] for at in sentence),
                "target": " ".join(WRITTEN[at] for at in reversed(sentence)),
            }
            for sentence in (next(sentences) for _ in range(count))
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


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
