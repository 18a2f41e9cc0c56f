"""Written piece by piece, an export's files hold what `save_pretrained` writes at once."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from shardtune.errors import CheckpointError
from shardtune.trainer.engine.snapshot import STARTS
from shardtune.trainer.export.weight_files import INDEX, WeightFiles

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2} | {
    "shared_expert_intermediate_size": 48
}
SEQ2SEQ = {"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
MODELS = [
    ("llama", "CausalLM", SMALL),
    ("llama", "CausalLM", SMALL | {"tie_word_embeddings": True}),
    ("gpt2", "CausalLM", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}),
    ("mixtral", "CausalLM", SMALL | EXPERTS),
    ("qwen2_moe", "CausalLM", SMALL | EXPERTS),
    ("bert", "TokenClassification", SMALL),
    ("t5", "Seq2SeqLM", T5),
    ("bart", "Seq2SeqLM", SEQ2SEQ | {"decoder_ffn_dim": 48, "max_position_embeddings": 32}),
    ("marian", "Seq2SeqLM", SEQ2SEQ | {"decoder_ffn_dim": 48, "max_position_embeddings": 32, "pad_token_id": 0}),
]


def model_of(name: str, kind: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **settings)
    return getattr(transformers, f"AutoModelFor{kind}").from_config(config)


def checkpoint_of(model: Any, folder: Path) -> Any:
    """A checkpoint of one rank with a shared weight once, as a run saves it."""
    kept = model.state_dict().keys()
    tensors = dict(model.named_parameters()) | {name: buffer for name, buffer in model.named_buffers() if name in kept}
    path = folder / "weights.safetensors"
    flat = {name: tensor.detach().reshape(-1).clone() for name, tensor in tensors.items()}
    save_file(flat, path, {STARTS: json.dumps(dict.fromkeys(flat, 0))})
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    return SimpleNamespace(path=folder, manifest=SimpleNamespace(shapes=shapes), files=lambda _: [path])


def content(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("max_bytes", [20_000, 10**9])
@pytest.mark.parametrize(("name", "kind", "settings"), MODELS)
def test_the_files_hold_what_save_pretrained_writes(
    tmp_path: Path, name: str, kind: str, settings: dict[str, Any], max_bytes: int
) -> None:
    model = model_of(name, kind, settings)
    model.save_pretrained(tmp_path / "at_once", max_shard_size=max_bytes)
    with torch.device("meta"):
        empty = type(model)(model.config)
    files = WeightFiles(empty, checkpoint_of(model, tmp_path), max_bytes)
    (tmp_path / "pieces").mkdir()
    for piece in reversed(files.pieces):
        files.write(piece, tmp_path / "pieces")
    expected, found = content(tmp_path / "at_once"), content(tmp_path / "pieces")
    assert expected.keys() == found.keys()
    for weight, values in expected.items():
        assert torch.equal(found[weight], values) and found[weight].dtype == values.dtype, weight
    written = {path.name for path in (tmp_path / "pieces").iterdir()}
    assert written == {file for piece in files.pieces for file in piece.files}
    if max_bytes > 1_000_000:
        assert written == {"model.safetensors"} and files.index is None
        return
    known = json.loads((tmp_path / "at_once" / INDEX).read_text())
    assert files.index is not None and files.index["metadata"] == known["metadata"]
    assert files.index["weight_map"].keys() == known["weight_map"].keys()
    assert len(files.pieces) > 2 and all((tmp_path / "pieces" / file).stat().st_size < 25_000 for file in written)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(model_of("llama", "CausalLM", SMALL), tmp_path)
    with torch.device("meta"):
        other = model_of("llama", "CausalLM", SMALL | {"num_hidden_layers": 4})
    with pytest.raises(CheckpointError, match=r"is of another model than the run's model/: it has no model\.layers\.3"):
        WeightFiles(other, checkpoint, 10**9)
