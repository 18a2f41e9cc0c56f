"""Encoder-decoders of every family that has its own idea of languages and of how a decoder begins, without training.

Their tokenizers are the families' own, over a few words; so are their configs, but for the sizes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

WORDS = ["a", "quiet", "wonder", "the", "film", "was", "un", "calme", "le", "était", "doux"]
PIECES = [*(f"▁{word}" for word in WORDS), "▁", *sorted({letter for word in WORDS for letter in word})]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
SIZES: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
}


def write_translator(family: str, folder: Path) -> Path:
    """A Hugging Face folder of this family: tokenizer, config and random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, config = FAMILIES[family](folder)
    tokenizer.save_pretrained(folder)
    # M2M100's languages are not in its vocabulary, but behind it.
    languages = getattr(tokenizer, "lang_token_to_id", {})
    config.vocab_size = max([*tokenizer.get_vocab().values(), *languages.values()]) + 1
    torch.manual_seed(0)
    transformers.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    return folder


def _t5(folder: Path) -> tuple[Any, Any]:
    vocabulary = _scored(["<pad>", "</s>", "<unk>", *PIECES])
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0, dropout_rate=0.0
    )
    return transformers.T5Tokenizer(vocab=vocabulary, extra_ids=2), config


def _marian(folder: Path) -> tuple[Any, Any]:
    model = _sentencepiece(folder)
    pieces = sentencepiece.SentencePieceProcessor(str(model))
    words = ["</s>", "<unk>", *(pieces.id_to_piece(at) for at in range(3, pieces.get_piece_size())), ">>fra<<", "<pad>"]
    vocabulary = folder / "words.json"
    vocabulary.write_text(json.dumps({word: at for at, word in enumerate(words)}))
    tokenizer = transformers.MarianTokenizer(str(model), str(model), str(vocabulary))
    pad = len(words) - 1
    config = transformers.MarianConfig(
        **SIZES, pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=0, dropout=0.0
    )
    return tokenizer, config


def _mbart(folder: Path) -> tuple[Any, Any]:
    tokenizer = transformers.MBartTokenizer(vocab=_scored([*SPECIAL, *PIECES, *FAIRSEQ_LANGUAGE_CODES, "<mask>"]))
    return tokenizer, transformers.MBartConfig(**SIZES, dropout=0.0)


def _mbart50(folder: Path) -> tuple[Any, Any]:
    tokenizer = transformers.MBart50Tokenizer(vocab=_scored(["<unk>", "<s>", "</s>", *PIECES]))
    return tokenizer, transformers.MBartConfig(**SIZES, decoder_start_token_id=2, dropout=0.0)


def _m2m100(folder: Path) -> tuple[Any, Any]:
    model = _sentencepiece(folder)
    pieces = sentencepiece.SentencePieceProcessor(str(model))
    words = [*SPECIAL, *(pieces.id_to_piece(at) for at in range(3, pieces.get_piece_size()))]
    vocabulary = folder / "words.json"
    vocabulary.write_text(json.dumps({word: at for at, word in enumerate(words)}))
    tokenizer = transformers.M2M100Tokenizer(str(vocabulary), str(model))
    return tokenizer, transformers.M2M100Config(**SIZES, dropout=0.0)


def _nllb(folder: Path, *, legacy: bool = False) -> tuple[Any, Any]:
    tokenizer = transformers.NllbTokenizer(
        vocab={piece: at for at, piece in enumerate([*SPECIAL, *PIECES])}, merges=[], legacy_behaviour=legacy
    )
    return tokenizer, transformers.M2M100Config(**SIZES, dropout=0.0)


def _bart(folder: Path) -> tuple[Any, Any]:
    letters = {chr(at): at + 3 for at in range(33, 127)}
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **{letter: 4 + at for at, letter in enumerate(letters)}}
    vocabulary |= {
        "Ġ": len(vocabulary),
        "Ã": len(vocabulary) + 1,
        "©": len(vocabulary) + 2,
        "<mask>": len(vocabulary) + 3,
    }
    return transformers.BartTokenizer(vocab=vocabulary, merges=[]), transformers.BartConfig(**SIZES, dropout=0.0)


FAMILIES: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "t5": _t5,
    "marian": _marian,
    "bart": _bart,
    "mbart": _mbart,
    "mbart50": _mbart50,
    "m2m100": _m2m100,
    "nllb": _nllb,
    "nllb_legacy": lambda folder: _nllb(folder, legacy=True),
}


def _scored(pieces: list[str]) -> list[tuple[str, float]]:
    return [(piece, -float(at)) for at, piece in enumerate(dict.fromkeys(pieces))]


def _sentencepiece(folder: Path) -> Path:
    """A model trained on the words alone."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 20 + WORDS * 5),
        model_prefix=str(folder / "pieces"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder / "pieces.model"
