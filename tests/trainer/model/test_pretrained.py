"""What follows from a model's config: how long a text may be, and what of it is dropout."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from shardtune.errors import CheckpointError, DataError
from shardtune.recipe.load import parse_recipe
from shardtune.trainer.model.pretrained import (
    dropouts_of,
    layerdrops_of,
    load_model_config,
    load_tokenizer,
    model_class,
    num_positions,
)

RECIPE = "task: {{kind: language_modeling}}\nmodel: {{path: {path}}}\ndata: {{train: train.txt}}"
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 20}
SIDES = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 1, "vocab_size": 20}
SIDES |= {"decoder_attention_heads": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}


@pytest.mark.parametrize(
    ("kind", "padding", "expected"),
    [
        ("Roberta", 1, 64),
        ("Roberta", 3, 62),
        ("Roberta", 0, 65),
        ("XLMRoberta", 1, 64),
        ("Camembert", 1, 64),
        ("MPNet", 1, 64),
        ("Longformer", 1, 64),
        ("IBert", 1, 64),
        ("Esm", 1, 64),
        ("Bert", 0, 66),
        ("Electra", 0, 66),
    ],
)
def test_positions_before_those_of_a_text_do_not_count(kind: str, padding: int, expected: int) -> None:
    config: Any = getattr(transformers, f"{kind}Config")(
        **SMALL, max_position_embeddings=66, pad_token_id=padding, bos_token_id=0, eos_token_id=2
    )
    assert num_positions(config) == expected


@pytest.mark.parametrize("kind", ["Bart", "MBart", "M2M100", "Marian", "FSMT"])
def test_an_encoder_decoder_counts_those_of_a_text_alone(kind: str) -> None:
    more = {"langs": ["en", "de"], "src_vocab_size": 20, "tgt_vocab_size": 20} if kind == "FSMT" else {}
    sides = {name: value for name, value in SIDES.items() if not (more and name == "vocab_size")}
    config: Any = getattr(transformers, f"{kind}Config")(
        **sides, **more, max_position_embeddings=64, pad_token_id=1, bos_token_id=0, eos_token_id=2
    )
    assert num_positions(config) == 64


def test_a_model_without_a_table_of_positions_has_those_that_it_names() -> None:
    llama = transformers.LlamaConfig(**SMALL, max_position_embeddings=64, pad_token_id=1)
    assert num_positions(llama) == 64
    assert num_positions(transformers.T5Config(d_model=8, num_layers=1, vocab_size=20)) is None


def test_few_tokens_are_known_to_fit_without_a_look_at_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    config = transformers.RobertaConfig(**SMALL, max_position_embeddings=66, pad_token_id=1)
    monkeypatch.setattr(transformers.AutoModel, "from_config", None)
    assert (num_positions(config, wanted=64) or 0) >= 64


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_of_its_own_is_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask a person at a terminal
    made = tmp_path / "made"
    (tmp_path / "own.py").write_text(f"from pathlib import Path\nPath({str(made)!r}).touch()\n")
    own = {"auto_map": {"AutoConfig": "own.Config", "AutoTokenizer": ["own.Tokenizer", None]}, "model_type": "own"}
    (tmp_path / "config.json").write_text(json.dumps(own if file == "config.json" else {"model_type": "bert"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**own, "tokenizer_class": "OwnTokenizer"}))
    recipe = parse_recipe(RECIPE.format(path=tmp_path))
    load: Any = load_model_config if file == "config.json" else load_tokenizer
    with pytest.raises(DataError, match=r"needs Python code that lies beside it, which is never run|could be loaded"):
        load(recipe)
    assert not made.exists()


@pytest.mark.parametrize("name", ["pipeline", "AutoModel", "GenerationConfig", "no such name", None])
def test_a_config_names_a_model_of_transformers_and_nothing_else(name: str | None) -> None:
    assert model_class(transformers.BertConfig(architectures=["BertModel"])) is transformers.BertModel
    with pytest.raises(CheckpointError, match="is not a model of transformers"):
        model_class(transformers.BertConfig(architectures=[name] if name else None))


SIDE_DROPS = {"dropout", "attention_dropout", "activation_dropout"}
SIDE_LAYERDROPS = {"encoder_layerdrop", "decoder_layerdrop"}


@pytest.mark.parametrize(
    ("kind", "dropouts", "layerdrops"),
    [
        ("Bart", SIDE_DROPS | {"classifier_dropout"}, SIDE_LAYERDROPS),
        ("Marian", SIDE_DROPS, SIDE_LAYERDROPS),
        ("M2M100", SIDE_DROPS, SIDE_LAYERDROPS),
        ("NllbMoe", SIDE_DROPS, SIDE_LAYERDROPS),  # and not moe_token_dropout, which counts in predictions too
        ("OPT", {"dropout", "attention_dropout"}, {"layerdrop"}),
        ("Flaubert", {"dropout", "attention_dropout", "summary_first_dropout"}, {"layerdrop"}),
        ("Esm", {"hidden_dropout_prob", "attention_probs_dropout_prob"}, set()),
        ("Bert", {"hidden_dropout_prob", "attention_probs_dropout_prob"}, set()),
        ("GPT2", {"resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"}, set()),
        ("DistilBert", {"dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"}, set()),
        ("T5", {"dropout_rate", "classifier_dropout"}, set()),
        ("Swin", {"hidden_dropout_prob", "attention_probs_dropout_prob"}, set()),  # and not drop_path_rate
        ("Llama", {"attention_dropout"}, set()),
        ("Mamba", set(), set()),
    ],
)
def test_what_skips_layers_is_no_dropout(kind: str, dropouts: set[str], layerdrops: set[str]) -> None:
    config = getattr(transformers, f"{kind}Config")()
    assert set(dropouts_of(config)) == dropouts
    assert set(layerdrops_of(config)) == layerdrops


def test_the_recipe_sets_both_apart(tmp_path: Path) -> None:
    transformers.M2M100Config().save_pretrained(tmp_path)
    text = f"task: {{kind: translation}}\nmodel: {{path: {tmp_path}}}\ndata: {{train: x}}"

    def drops(*overrides: str) -> tuple[float, float, float]:
        config: Any = load_model_config(parse_recipe(text, overrides))
        return config.dropout, config.attention_dropout, config.decoder_layerdrop

    assert drops() == (0.1, 0.1, 0.05)
    assert drops("model.dropout=0.3") == (0.3, 0.3, 0.05)
    assert drops("model.dropout=0", "model.layerdrop=0.2") == (0.0, 0.0, 0.2)
