"""The models that the check trains: configs and tokenizers made here, with random weights.

The weights are written once, in fp32, so that a training on a GPU in bf16 begins with those of one on a CPU in fp32.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from benchmarks.gpu.rows import CUES, NAMES, VOCABULARY

CHATML = (
    "{% for message in messages %}<|im_start|> {{ message.role }} \n {{ message.content }} <|im_end|> \n {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant \n {% endif %}"
)
"""ChatML with spaces between its tokens, for a tokenizer of whole words."""
INITIAL = 0.2
"""Standard deviation of the weights of the small models: large, so that they learn something within a few steps."""
FILE_BYTES = 2 * 10**9
"""Size from which on weights go to a further file."""


HIDDEN, LAYERS, HEADS = 64, 2, 2
"""The size of the small models. A head of 32 is one that flash attention has kernels for."""


def write_model(folder: Path, task: str) -> None:
    """Writes a small model for a task of benchmarks/gpu/rows.py, its tokenizer, and random weights in fp32."""
    torch.manual_seed(0)
    model: Any
    if task in ("chat", "causal"):
        special = write_word_tokenizer(folder, is_chat=task == "chat")
        model = transformers.LlamaForCausalLM(_llama(special + len(VOCABULARY)))
    elif task == "translation":
        special = _write_translation_tokenizer(folder)
        model = transformers.MarianMTModel(_marian(special + len(VOCABULARY)))
    else:
        special = _write_encoder_tokenizer(folder)
        model = _encoder(task, _bert(special + len(VOCABULARY)))
    model.save_pretrained(folder)


def _encoder(task: str, config: Any) -> Any:
    if task == "masked":
        return transformers.BertForMaskedLM(config)
    labels = list(CUES) if task == "classification" else ["O", *(f"{side}-{kind}" for side in "BI" for kind in NAMES)]
    config.id2label = dict(enumerate(sorted(labels)))
    config.label2id = {label: number for number, label in config.id2label.items()}
    if task == "classification":
        return transformers.BertForSequenceClassification(config)
    return transformers.BertForTokenClassification(config)


def _bert(vocab_size: int) -> transformers.BertConfig:
    return transformers.BertConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=INITIAL,
    )


def _llama(vocab_size: int) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=128,
        initializer_range=INITIAL,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )


def _marian(vocab_size: int) -> transformers.MarianConfig:
    return transformers.MarianConfig(
        vocab_size=vocab_size,
        d_model=HIDDEN,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=2 * HIDDEN,
        decoder_ffn_dim=2 * HIDDEN,
        max_position_embeddings=64,
        dropout=0.0,
        init_std=INITIAL / 4,
        scale_embedding=True,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
    )


def write_word_tokenizer(folder: Path, *, is_chat: bool, longest: int = 128) -> int:
    """Writes a tokenizer of whole words for a causal language model; returns its number of special tokens."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "system", "user", "assistant"]
    _words(special, "<unk>").save_pretrained(
        folder,
        {
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "bos_token": "<s>",
            "eos_token": "<|im_end|>" if is_chat else "</s>",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "model_max_length": longest,
        }
        | ({"chat_template": CHATML} if is_chat else {}),
    )
    return len(special)


def _write_translation_tokenizer(folder: Path) -> int:
    special = ["<pad>", "</s>", "<unk>"]
    words = _words(special, "<unk>")
    words.add_end("$A </s>", [("</s>", 1)])
    words.save_pretrained(
        folder, {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", "model_max_length": 64}
    )
    return len(special)


def _write_encoder_tokenizer(folder: Path) -> int:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = _words(special, "[UNK]")
    words.add_end("[CLS] $A [SEP]", [("[CLS]", 2), ("[SEP]", 3)])
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    words.save_pretrained(folder, {**names, "model_max_length": 64})
    return len(special)


@dataclass(frozen=True)
class _Words:
    """A tokenizer of whole words."""

    tokenizer: Any

    def add_end(self, template: str, special: Sequence[tuple[str, int]]) -> None:
        self.tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=list(special))

    def save_pretrained(self, folder: Path, names: dict[str, Any]) -> None:
        transformers.PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, **names).save_pretrained(folder)


def _words(special: Sequence[str], unknown: str) -> _Words:
    vocabulary = {word: number for number, word in enumerate([*special, *VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _Words(tokenizer)


def write_llama(folder: Path, config: dict[str, Any], *, longest: int, device: str) -> int:
    """Writes a Llama of this config with random weights in bf16, drawn on the device; returns the bytes of these."""
    folder.mkdir(parents=True)
    write_word_tokenizer(folder, is_chat=False, longest=longest)
    whole = transformers.LlamaConfig(**config, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    whole.architectures = ["LlamaForCausalLM"]
    whole.save_pretrained(folder)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(whole)
    torch.manual_seed(0)
    files: dict[str, str] = {}
    waiting: dict[str, Tensor] = {}
    num_bytes = 0

    def write() -> None:
        name = f"model-{len(set(files.values())):05}.safetensors"
        files.update(dict.fromkeys(waiting, name))
        save_file(waiting, folder / name, metadata={"format": "pt"})
        waiting.clear()

    for name, parameter in model.named_parameters():
        drawn = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
        waiting[name] = (drawn.fill_(1) if parameter.dim() == 1 else drawn.normal_(std=0.02)).cpu()
        num_bytes += 2 * drawn.numel()
        if sum(2 * tensor.numel() for tensor in waiting.values()) >= FILE_BYTES:
            write()
    if waiting:
        write()
    index = {"metadata": {"total_size": num_bytes}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return num_bytes
