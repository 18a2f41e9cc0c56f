"""A special token that is literally in a text is refused, counted, or read as plain text, whatever the task."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from shardtune.errors import DataError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.rows.source import Row
from shardtune.trainer.data.prepare.prepare import fingerprint, prepare
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks import Task, task_of
from tests.support.tiny import byte_tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ESCAPE = "data.special_tokens_in_text=escape"
SMALL = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 1}
SMALL |= {"decoder_attention_heads": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}


def write_tokenizer(folder: Path, *, pair: str = "<s> $A </s> </s> $B </s>") -> Any:
    """Bytes, with the special tokens of BART around a text."""
    fast = byte_tokenizer(
        *SPECIAL, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>"
    )
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair=pair,
        special_tokens=[(token, fast.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")],
    )
    fast.save_pretrained(folder)
    return fast


def write_bart(folder: Path) -> Path:
    tokenizer = write_tokenizer(folder)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "eos")}
    config = transformers.BartConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        decoder_start_token_id=ids["eos_token_id"],
        **SMALL,
        **ids,
    )
    config.save_pretrained(folder)
    return folder


def write_bert(folder: Path) -> Path:
    tokenizer = write_tokenizer(folder)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    config.save_pretrained(folder)
    return folder


def write_llama(folder: Path) -> Path:
    tokenizer = write_tokenizer(folder)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    transformers.LlamaConfig(vocab_size=len(tokenizer), **small).save_pretrained(folder)
    return folder


def recipe_of(folder: Path, rows: list[dict[str, Any]], task: str, *overrides: str) -> Recipe:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    text = f"task: {{kind: {task}}}\nmodel: {{path: {folder}, from_scratch: true}}\n"
    text += f"data: {{train: {folder}/rows.jsonl, max_tokens: 64, cache_dir: {folder}/cache}}\n"
    return parse_recipe(text + "train: {micro_batch_tokens: 64}", overrides)


def prepared(recipe: Recipe) -> tuple[Task, Any, list[str]]:
    """The task, its tokenizer, and the notes of the preparation."""
    notes: list[str] = []
    data = prepare(recipe, say=notes.append, num_processes=1)
    tokenizer = load_tokenizer(recipe)
    return task_of(recipe, data.facts, tokenizer, load_model_config(recipe)), tokenizer, notes


def encoded(recipe: Recipe, values: dict[str, Any], *, labeled: bool = True) -> tuple[dict[str, Any], Any]:
    """The only example of a row, and the tokenizer."""
    task, tokenizer, _ = prepared(recipe)
    ((example,),) = task.encode([Row(values, Path("r.jsonl"), 1)], 64, labeled=labeled)
    return example, tokenizer


ENDS = [
    {"text": "fine", "label": "a"},
    {"text": "so </s> poor", "label": "b"},
]
ENDS_OF_PAIRS = [
    {"text": "fine", "text_pair": "very", "label": "a"},
    {"text": "so", "text_pair": "it </s> is", "label": "b"},
]


@pytest.mark.parametrize("rows", [ENDS, ENDS_OF_PAIRS])
def test_an_encoder_decoder_classifies_no_text_with_an_end_in_it(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError) as raised:
        prepare(recipe_of(write_bart(tmp_path), rows, "classification"), num_processes=1)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{tmp_path}/rows.jsonl:2: </s> in the text would be read as its end")
    assert line.endswith("remove it, or set data.special_tokens_in_text=escape")


@pytest.mark.parametrize("rows", [ENDS, ENDS_OF_PAIRS])
def test_it_classifies_the_end_as_plain_text_if_asked_to(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    recipe = recipe_of(write_bart(tmp_path), rows, "classification", ESCAPE)
    for labeled in (True, False):
        example, tokenizer = encoded(recipe, rows[1], labeled=labeled)
        ids = example["input_ids"]
        assert ids.count(tokenizer.eos_token_id) == (1 if rows is ENDS else 3)
        text = rows[1]["text"] + ("" if rows is ENDS else f"</s></s>{rows[1]['text_pair']}")
        assert tokenizer.decode(ids) == f"<s>{text}</s>"


def test_an_escaped_pair_is_cut_as_every_pair_is(tmp_path: Path) -> None:
    pairs = [
        {"text": "fine", "text_pair": "x" * 70, "label": "a"},
        {"text": "so", "text_pair": "b </s>" * 9, "label": "b"},
    ]
    recipe = recipe_of(write_bart(tmp_path), pairs, "classification", ESCAPE)
    task, tokenizer, _ = prepared(recipe)
    ((example,),) = task.encode([Row(pairs[1], Path("r.jsonl"), 1)], 20, labeled=True)
    assert tokenizer.decode(example["input_ids"]) == "<s>so</s></s>" + ("b </s>" * 9)[:14] + "</s>"
    assert example["truncated"] == 6 * 9 - 14
    plain = {"text": "so", "text_pair": "b " * 27, "label": "b"}
    ((other,),) = task.encode([Row(plain, Path("r.jsonl"), 1)], 20, labeled=True)
    assert (len(other["input_ids"]), other["truncated"]) == (20, example["truncated"])


def test_a_model_whose_texts_have_no_end_is_refused(tmp_path: Path) -> None:
    write_bart(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": 5}))
    with pytest.raises(DataError, match=r"the tokenizer ends none with its eos_token_id \(5\)"):
        prepare(recipe_of(tmp_path, ENDS, "classification"), num_processes=1)


WORDS = [{"tokens": ["Anna", "</s>", "is"], "tags": ["B-PER", "O", "O"]}, {"tokens": ["so"], "tags": ["O"]}]
SENTENCES = [{"source": "a </s> b", "target": "c d"}, {"source": "a", "target": "b"}]


@pytest.mark.parametrize(
    ("write", "task", "rows"),
    [
        (write_bert, "classification", ENDS),
        (write_bert, "token_classification", WORDS),
        (write_bert, "language_modeling", ENDS),
        (write_llama, "language_modeling", ENDS),
        (write_bart, "translation", SENTENCES),
        (write_llama, "translation, prompt: '<mask>{source} ='", SENTENCES),
    ],
)
def test_elsewhere_such_rows_are_counted_or_plain_text(
    tmp_path: Path, write: Any, task: str, rows: list[dict[str, Any]]
) -> None:
    model = write(tmp_path)
    row = next(row for row in rows if "</s>" in str(row))
    parsed, tokenizer = encoded(recipe_of(model, rows, task), row)
    _, _, notes = prepared(recipe_of(model, rows, task, "data.max_tokens=63"))
    (note,) = [note for note in notes if "special tokens in their text" in note]
    assert note.startswith("train: 1 rows have special tokens in their text (</s>), which the model reads as such")
    escaped, _ = encoded(recipe_of(model, rows, task, ESCAPE), row)
    num_ends = [example["input_ids"].count(tokenizer.eos_token_id) for example in (parsed, escaped)]
    assert num_ends[0] == num_ends[1] + 1
    # Byte by byte, there are no other tokens than the ones that the text has without its special token.
    assert len(escaped["input_ids"]) == len(parsed["input_ids"]) + len("</s>") - 1
    _, _, notes = prepared(recipe_of(model, rows, task, "data.max_tokens=62", ESCAPE))
    assert not [note for note in notes if "special tokens" in note]


def test_a_translation_is_escaped_on_both_sides(tmp_path: Path) -> None:
    recipe = recipe_of(write_bart(tmp_path), SENTENCES, "translation", ESCAPE, "task.prefix=<mask>")
    example, tokenizer = encoded(recipe, {"source": "a <mask> b", "target": "c <mask> d"})
    assert example["input_ids"][1] == tokenizer.mask_token_id, "the recipe's own text is read as ever"
    assert example["input_ids"].count(tokenizer.mask_token_id) == 1
    assert tokenizer.mask_token_id not in example["labels"]
    assert tokenizer.decode(example["labels"], skip_special_tokens=True) == "c <mask> d"


def test_a_masked_model_fills_its_mask_also_where_texts_are_plain(tmp_path: Path) -> None:
    rows = [{"text": "so <mask> it"}, {"text": "is"}]
    recipe = recipe_of(write_bert(tmp_path), rows, "language_modeling", ESCAPE)
    example, tokenizer = encoded(recipe, rows[0], labeled=False)
    assert example["input_ids"].count(tokenizer.mask_token_id) == 1
    example, _ = encoded(recipe, rows[0], labeled=True)
    assert tokenizer.mask_token_id not in example["input_ids"]


def test_plain_texts_are_other_prepared_data_and_the_default_is_not(tmp_path: Path) -> None:
    write_bert(tmp_path)
    default = fingerprint(recipe_of(tmp_path, ENDS, "classification"))
    assert fingerprint(recipe_of(tmp_path, ENDS, "classification", "data.special_tokens_in_text=refuse")) == default
    assert fingerprint(recipe_of(tmp_path, ENDS, "classification", ESCAPE)) != default


def test_a_word_of_the_vocabulary_is_no_end_either(tmp_path: Path) -> None:
    """A tokenizer of whole words may know `</s>` as an ordinary word too."""
    vocabulary = {word: at for at, word in enumerate([*SPECIAL, "so", "poor", "fine"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    write_bart(tmp_path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    (tmp_path / "config.json").write_text(json.dumps({**config, **ids}))
    example, _ = encoded(recipe_of(tmp_path, ENDS, "classification", ESCAPE), ENDS[1])
    assert example["input_ids"].count(2) == 1
