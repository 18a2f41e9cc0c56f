"""Translation: both kinds of models learn the target and nothing else, and translate into the right language."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.load import parse_recipe, render_recipe
from shardtune.recipe.schema import Recipe
from shardtune.recipe.tasks.translation import TranslationOptions
from shardtune.rows.source import Faults, Row
from shardtune.trainer.commands import predict
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.evaluation.generate import settings_of
from shardtune.trainer.model.load import generate, load_model
from shardtune.trainer.model.pretrained import load_tokenizer
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.tasks.example import IGNORED, TRUNCATED
from shardtune.trainer.tasks.run_survey import survey
from shardtune.trainer.tasks.translation.translation import Translation
from tests.support.runs import curve, events, tiny_recipe, train
from tests.support.tiny import SPOKEN, WRITTEN, write_causal, write_encoder_decoder, write_toy_language
from tests.support.translators import FAMILIES, write_translator

FACTS = {"bleu_tokenizer": "13a"}
LANGUAGES: dict[str, dict[str, str]] = {
    "mbart": {"source_language": "en", "target_language": "fr"},
    "mbart50": {"source_code": "en_XX", "target_code": "fr_XX"},
    "m2m100": {"source_language": "en-US", "target_language": "fr"},
    "nllb": {"source_code": "eng_Latn", "target_code": "fra_Latn"},
    "nllb_legacy": {"source_code": "eng_Latn", "target_code": "fra_Latn"},
}
PAIRS = [("a quiet wonder", "un calme était doux"), ("the film was a wonder", "le film")]
CAUSAL_WORDS = ["Translate", "from", "English", "to", "French:", *SPOKEN, *WRITTEN]


def options(**values: Any) -> TranslationOptions:
    return TranslationOptions(kind="translation", **values)


def row(line: int = 1, **values: Any) -> Row:
    return Row(values, Path("r.jsonl"), line)


def rows(*pairs: tuple[str, str]) -> list[Row]:
    return [row(line, source=source, target=target) for line, (source, target) in enumerate(pairs, start=1)]


def task_of(folder: Path, **values: Any) -> Translation:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    task = Translation(options(**values), FACTS, tokenizer, config)
    task.check_model(config)
    return task


def tokenizer_of(task: Translation) -> Any:
    return task._translator._tokenizer  # type: ignore[attr-defined]


def encoded(task: Translation, *pairs: tuple[str, str], max_tokens: int = 64) -> list[dict[str, Any]]:
    return [example for (example,) in task.encode(rows(*pairs), max_tokens, labeled=True)]


def targets(example: dict[str, Any]) -> list[int]:
    return [label for label in example["labels"] if label != IGNORED]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {family: write_translator(family, folder / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny Llamas: one that chats, and one without a chat template."""
    folder = tmp_path_factory.mktemp("causal")
    return {
        "chat": write_causal(folder / "chat", CAUSAL_WORDS),
        "plain": write_causal(folder / "plain", CAUSAL_WORDS, chat_template=None),
    }


ENGLISH_FRENCH = {"source_language": "en", "target_language": "fr"}


# Rows


@pytest.mark.parametrize(
    "values",
    [
        {"source": "a film", "target": "un film"},
        {"source": "a film", "target": "un film", "en": "another", "fr_score": 0.3},
        {"translation": {"en": "a film", "fr": "un film", "de": "ein Film"}},
        {"translation": {"en-GB": "a film", "FR": "un film"}, "source": "europarl"},
        {"en": "a film", "fr": "un film", "id": 7},
        {"en_US": "a film", "fr-CA": "un film"},
    ],
)
def test_the_two_sides_are_found_by_name_or_by_language(values: dict[str, Any]) -> None:
    named = values | Translation.named_columns(options(**ENGLISH_FRENCH), values)
    assert (named["source"], named["target"]) == ("a film", "un film")
    assert survey(Translation, options(), {"train": [row(**named)]}) == {"bleu_tokenizer": "13a"}


LANGUAGE = "Set its language (task.target_language) or its column (data.columns)"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "a"}, f"no target; found: source. {LANGUAGE}"),
        ({"target": "un"}, "no source; found: target."),
        ({"source": "a", "fr_score": 1}, f"no target; found: source, fr_score. {LANGUAGE}"),
        ({"source": "a", "target": None}, "target: expected a text, got null"),
        ({"source": ["a"], "target": "un"}, "source: expected a text, got ['a']"),
        ({"source": " \n", "target": "un"}, "source is empty"),
        ({"source": "a", "target": ""}, "target is empty"),
        ({"translation": {"en": "a", "de": "ein"}}, f"no target; found: translation.en, translation.de. {LANGUAGE}"),
        ({"translation": {"en": "a", "fr": 3}}, "target: expected a text, got 3"),
        ({"translation": {"en": "", "fr": "un"}}, "source is empty"),
        (
            {"translation": {"en-US": "a", "en-GB": "a", "fr": "un"}},
            "no source; found: translation.en-US, translation.en",
        ),
        ({"translation": {}}, "no source; found: nothing."),
        ({"translation": {3: "a"}}, "no source; found: translation.3."),
        ({"translation": "un"}, "no source; found: translation."),
        ({"en": "a"}, "no target; found: en."),
        ({}, "no source; found: nothing."),
    ],
)
def test_faults_of_a_row_are_reported_with_its_line(values: dict[str, Any], message: str) -> None:
    named = Translation.named_columns(options(**ENGLISH_FRENCH), values)
    wrong = replace(row(2, **(values | named)), file_columns=tuple(values))
    train_rows = [row(1, source="a", target="un"), wrong]
    with pytest.raises(DataError) as raised:
        survey(Translation, options(**ENGLISH_FRENCH), {"train": train_rows})
    assert str(raised.value).startswith(f"r.jsonl:2: {message}")


def test_rows_by_language_are_held_out_and_deduplicated(toy: Path, tmp_path: Path) -> None:
    pairs = [(SPOKEN[at % 12], WRITTEN[at % 12]) for at in range(15)]
    lines = [json.dumps({"translation": {"en": f"{a} {a}", "fr": b}}) for a, b in pairs]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    recipe = toy_recipe(toy, f"data.train={tmp_path}/train.jsonl", "data.dev={fraction: 0.3}", "data.test=null")
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"deduplicate": "train"})})
    meta = prepare(recipe).meta
    assert meta["splits"]["train"]["rows"] + meta["splits"]["dev"]["rows"] - meta["duplicates"]["dev"] == 12
    assert 2 <= meta["splits"]["dev"]["rows"] <= 8


def test_the_survey_chooses_how_bleu_splits_words() -> None:
    split = {"train": rows(("a film", "一部电影"))}
    assert survey(Translation, options(), split) == {"bleu_tokenizer": "zh"}
    assert survey(Translation, options(target_language="fr"), split) == {"bleu_tokenizer": "13a"}
    assert survey(Translation, options(bleu_tokenizer="char"), split) == {"bleu_tokenizer": "char"}


# Encoder-decoders


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_reads_what_transformers_own_shift_would_give_it(families: dict[str, Path], family: str) -> None:
    """Except mBART-25's wrap-around and NLLB's legacy format, see the tests below."""
    if family in ("mbart", "nllb_legacy"):
        return
    task = task_of(families[family], **LANGUAGES.get(family, {}))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(families[family])
    tokenizer = tokenizer_of(task)
    for example, (source, target) in zip(encoded(task, *PAIRS), PAIRS, strict=True):
        expected = tokenizer(source, text_target=target, return_tensors="pt")
        assert example["input_ids"] == expected["input_ids"][0].tolist()
        shift = getattr(model, "prepare_decoder_input_ids_from_labels", None) or shift_m2m100
        assert example["decoder_input_ids"] == shift(labels=expected["labels"])[0].tolist()
        assert targets(example) == [label for label in expected["labels"][0].tolist() if label != language_id(task)]


def shift_m2m100(labels: torch.Tensor) -> torch.Tensor:
    from transformers.models.m2m_100.modeling_m2m_100 import shift_tokens_right

    return shift_tokens_right(labels, pad_token_id=1, decoder_start_token_id=2)


def language_id(task: Translation) -> int | None:
    assert task.generation is not None
    return task.generation.settings.get("forced_bos_token_id")


def test_mbart_begins_with_the_language_and_learns_no_more_after_the_end(families: dict[str, Path]) -> None:
    from transformers.models.mbart.modeling_mbart import shift_tokens_right

    task = task_of(families["mbart"], **LANGUAGES["mbart"])
    (example,) = encoded(task, PAIRS[0])
    expected = tokenizer_of(task)(text_target=PAIRS[0][1], return_tensors="pt")["input_ids"]
    assert example["decoder_input_ids"] == shift_tokens_right(expected, 1)[0].tolist()[:-1]
    assert example["labels"] == expected[0].tolist()[:-1]


def test_nllbs_legacy_format_changes_the_source_but_not_the_target(families: dict[str, Path]) -> None:
    (old,), (new,) = (encoded(task_of(families[name], **LANGUAGES[name]), PAIRS[0]) for name in ("nllb_legacy", "nllb"))
    assert old["input_ids"] != new["input_ids"]
    assert sorted(old["input_ids"]) == sorted(new["input_ids"])
    assert (old["decoder_input_ids"], old["labels"]) == (new["decoder_input_ids"], new["labels"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_answer_begins_as_the_decoder_began_in_training(
    families: dict[str, Path], family: str, num_beams: int
) -> None:
    task = task_of(families[family], num_beams=num_beams, max_new_tokens=5, **LANGUAGES.get(family, {}))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(families[family])
    examples = encoded(task, *PAIRS)
    assert task.generation is not None
    ids = generate(model, task.collate_prompts(examples), settings_of(task.generation, tokenizer_of(task)))
    begin = 1 + (language_id(task) is not None)
    for answer, example in zip(ids.tolist(), examples, strict=True):
        assert answer[:begin] == example["decoder_input_ids"][:begin]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_read_as_the_translation_alone(families: dict[str, Path], family: str) -> None:
    task = task_of(families[family], **LANGUAGES.get(family, {}))
    (example,) = encoded(task, ("the film", "le film était"))
    written = [example["decoder_input_ids"][0], *example["decoder_input_ids"][1:], targets(example)[-1]]
    answer = tokenizer_of(task).decode(written, skip_special_tokens=True)
    assert task.prediction(answer) == {"translation": "le film était"}
    assert task.show_answer(answer, example) == {
        "prompt": "the film",
        "answer": "le film était",
        "reference": "le film était",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_is_learned_and_padding_never(families: dict[str, Path], family: str) -> None:
    task = task_of(families[family], **LANGUAGES.get(family, {}))
    examples = encoded(task, *PAIRS)
    tokenizer = tokenizer_of(task)
    batch = task.collate(examples)
    for example, labels in zip(examples, batch.labels.tolist(), strict=True):
        assert targets(example)[-1] == tokenizer.eos_token_id
        assert labels[: len(example["labels"])] == example["labels"]
        assert set(labels[len(example["labels"]) :]) <= {IGNORED}
    assert tokenizer.pad_token_id not in [target for example in examples for target in targets(example)]
    assert batch.num_targets == sum(map(task.num_targets, examples))
    assert [task.num_tokens(example) for example in examples] == [
        len(example["input_ids"]) + len(example["decoder_input_ids"]) for example in examples
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_a_batch_is_that_of_its_rows_and_of_a_muted_one_zero(
    families: dict[str, Path], family: str
) -> None:
    task = task_of(families[family], **LANGUAGES.get(family, {}))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(families[family]).eval()
    assert_batches_add_up(task, model, encoded(task, *PAIRS, ("a film", "un")))


def assert_batches_add_up(task: Translation, model: Any, examples: Sequence[dict[str, Any]]) -> None:
    """The loss of a padded batch is the sum of its rows' losses, which are those that transformers computes."""
    plain = copy.deepcopy(model)
    keep_target_loss(model)
    whole = task.collate(examples)
    with torch.no_grad():
        loss = float(task.loss_sum(model(**whole.inputs), whole))
        muted = whole.muted()
        assert float(task.loss_sum(model(**muted.inputs), muted)) == 0
        alone = 0.0
        for example in examples:
            batch = task.collate([example])
            logits = plain(**batch.plain_inputs).logits
            alone += float(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
                )
            )
    assert loss == pytest.approx(alone, rel=1e-4)


def test_a_prefix_goes_before_every_source(families: dict[str, Path]) -> None:
    task = task_of(families["marian"], prefix=">>fra<< ")
    (example,) = encoded(task, PAIRS[0])
    pieces = tokenizer_of(task).convert_ids_to_tokens(example["input_ids"])
    assert pieces[:3] == [">>fra<<", "▁a", "▁quiet"]
    assert example["source"] == PAIRS[0][0]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_cut_off_is_counted_and_its_end_is_not_learned(families: dict[str, Path], family: str) -> None:
    task = task_of(families[family], **LANGUAGES.get(family, {}))
    (whole,) = encoded(task, PAIRS[0])
    assert not whole[TRUNCATED]
    (example,) = encoded(task, PAIRS[0], max_tokens=4)
    lost_of_target = len(whole["labels"]) - 4
    assert example[TRUNCATED] == len(whole["input_ids"]) - 4 + lost_of_target > 0
    assert len(example["input_ids"]) == len(example["labels"]) == len(example["decoder_input_ids"]) == 4
    assert tokenizer_of(task).eos_token_id not in targets(example)
    assert example["labels"] == whole["labels"][:4]
    assert example["reference"] == PAIRS[0][1]
    # The frame of the source stays whole.
    specials = [token for token in whole["input_ids"] if token in tokenizer_of(task).all_special_ids]
    assert [token for token in example["input_ids"] if token in specials] == specials


def test_a_limit_that_leaves_nothing_of_any_row_is_refused(families: dict[str, Path]) -> None:
    task = task_of(families["nllb"], **LANGUAGES["nllb"])
    with pytest.raises(DataError, match=r"data\.max_tokens: 1 leaves no room"):
        task.encode(rows(*PAIRS), 1, labeled=True)


def test_an_answer_is_generated_without_a_target(families: dict[str, Path]) -> None:
    task = task_of(families["mbart50"], **LANGUAGES["mbart50"])
    ((example,),) = task.encode([row(source="a quiet film")], 64, labeled=False)
    assert targets(example) == []
    assert task.num_targets(example) == 0
    assert task.answer(row(source="a"), [example], [{"translation": "un"}]) == {"translation": "un"}
    faults = Faults()
    Translation.check_inputs(row(3, text="a"), faults)
    assert faults.first == [
        "r.jsonl:3: no source; found: text. Set its language (task.source_language) or its column (data.columns)"
    ]


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("mbart", {}, r"task\.source_code: the tokenizer needs a source language; legal: ar_AR, "),
        ("mbart", {"source_language": "tlh"}, r"task\.source_code: unknown language 'tlh'; legal: "),
        (
            "nllb",
            {"source_code": "eng_Latn", "target_code": "fra"},
            r"task\.target_code: unknown language 'fra'; legal: ",
        ),
        ("nllb", {"source_language": "zho"}, r"task\.source_code: 'zho' may be zho_Hans or zho_Hant; legal: "),
        ("t5", {"target_code": "fr_XX"}, r"task\.source_code, task\.target_code: the tokenizer has no languages"),
        ("t5", {"prompt": "Say {source}"}, r"task\.prompt and task\.use_chat_template apply to causal models only"),
        ("t5", {"architecture": "causal", "prompt": "{source}"}, r"no causal language model for t5"),
        ("chat", {"architecture": "encoder_decoder"}, "has no decoder_start_token_id"),
        ("chat", {"prefix": "translate: ", **ENGLISH_FRENCH}, r"task\.prefix applies to encoder-decoders only"),
        ("chat", {"source_language": "en"}, r"task\.target_language is used in task.prompt; set it"),
        ("plain", {"use_chat_template": True, **ENGLISH_FRENCH}, "the tokenizer has no chat template"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(
    families: dict[str, Path], causal: dict[str, Path], family: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        task_of((families | causal)[family], **values)


# Causal models


def test_a_chat_is_learned_from_the_answer_to_its_end_of_turn(causal: dict[str, Path]) -> None:
    task = task_of(causal["chat"], **ENGLISH_FRENCH)
    (example,) = encoded(task, ("ba da", "ul or"))
    tokens = tokenizer_of(task).convert_ids_to_tokens(example["input_ids"])
    assert " ".join(tokens) == (
        "<|im_start|> user Translate from English to French: ba da <|im_end|> <|im_start|> assistant ul or <|im_end|>"
    )
    assert tokenizer_of(task).convert_ids_to_tokens(targets(example)) == ["ul", "or", "<|im_end|>"]
    assert example["labels"][-4:] == [*targets(example), IGNORED]
    assert "".join(piece.target or "" for piece in task.preview(example)).split() == ["ul", "or", "<|im_end|>"]


def test_without_a_template_the_prompt_is_text_and_the_end_is_the_end_of_text(causal: dict[str, Path]) -> None:
    for folder, values, end in (
        (causal["plain"], {}, "</s>"),
        (causal["chat"], {"use_chat_template": False}, "<|im_end|>"),
    ):
        task = task_of(folder, **ENGLISH_FRENCH, **values)
        (example,) = encoded(task, ("ba da", "ul or"))
        tokens = tokenizer_of(task).convert_ids_to_tokens(example["input_ids"])
        assert tokens == ["Translate", "from", "English", "to", "French:", "ba", "da", "ul", "or", end]
        assert tokenizer_of(task).convert_ids_to_tokens(targets(example)) == ["ul", "or", end]


def test_a_prompt_of_ones_own_may_hold_braces_and_so_may_a_source(causal: dict[str, Path]) -> None:
    task = task_of(causal["plain"], prompt="{{ {source} }}")
    tokenizer = tokenizer_of(task)
    (example,) = encoded(task, ("{source} {0}", "or"))
    asked = tokenizer("{ {source} {0} }")["input_ids"]
    assert example["input_ids"] == [*asked, *tokenizer("or")["input_ids"], tokenizer.eos_token_id]


def test_special_tokens_occur_once_and_the_end_is_learned_though_it_pads(causal: dict[str, Path]) -> None:
    from tokenizers import processors

    tokenizer = transformers.AutoTokenizer.from_pretrained(causal["plain"])
    tokenizer.pad_token = None
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    task = Translation(options(prompt="{source}"), FACTS, tokenizer, transformers.LlamaConfig())
    examples = encoded(task, ("ba", "or ul"), ("ba da fa", "or"))
    ends = tokenizer.eos_token_id
    assert tokenizer.pad_token_id == ends
    for example in examples:
        assert example["input_ids"].count(tokenizer.bos_token_id) == 1
        assert example["input_ids"].count(ends) == 1
    batch = task.collate(examples)
    assert (batch.labels == ends).sum() == 2
    assert (batch.inputs["input_ids"] == ends).sum() == 3  # one of them pads


def test_the_loss_of_a_causal_batch_is_that_of_its_rows(causal: dict[str, Path]) -> None:
    task = task_of(causal["chat"], **ENGLISH_FRENCH)
    model = transformers.AutoModelForCausalLM.from_pretrained(causal["chat"]).eval()
    examples = encoded(task, ("ba", "or"), ("ba da fa ga", "es im ul or"), ("ka", "ak ak ak"))
    assert_batches_add_up(task, model, examples)


def test_rows_whose_target_has_no_room_are_dropped_and_cut_ones_counted(causal: dict[str, Path]) -> None:
    task = task_of(causal["plain"], **ENGLISH_FRENCH)
    pairs = [("ba", "or ul"), ("ba", "or ul im es"), ("ba da fa", "or"), ("ba da fa ga ka", "or")]
    by_row = task.encode(rows(*pairs), 9, labeled=True)
    assert [[example[TRUNCATED] for example in examples] for examples in by_row] == [[0], [2], [1], []]
    whole, cut, *_ = (example for examples in by_row for example in examples)
    tokenizer = tokenizer_of(task)
    assert tokenizer.convert_ids_to_tokens(targets(whole)) == ["or", "ul", "</s>"]
    assert tokenizer.convert_ids_to_tokens(targets(cut)) == ["or", "ul", "im"]


def test_a_source_that_is_too_long_is_cut_within_the_prompt(causal: dict[str, Path]) -> None:
    task = task_of(causal["chat"], **ENGLISH_FRENCH)
    ((example,),) = task.encode([row(source="ba da fa ga ka la ma na")], 13, labeled=False)
    tokens = tokenizer_of(task).convert_ids_to_tokens(example["input_ids"])
    assert " ".join(tokens[2:]) == ("Translate from English to French: ba da fa <|im_end|> <|im_start|> assistant")
    assert example["source"] == "ba da fa ga ka la ma na"
    with pytest.raises(DataError, match=r"data\.max_tokens: 9 leaves no room for a source"):
        task.encode([row(source="ba da")], 9, labeled=False)


def test_a_template_that_rejects_the_prompt_is_an_error(causal: dict[str, Path]) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(causal["chat"])
    tokenizer.chat_template = "{{ raise_exception('only tools may speak') }}"
    with pytest.raises(DataError, match=r"only tools may speak.*task\.use_chat_template=false"):
        Translation(options(**ENGLISH_FRENCH), FACTS, tokenizer, transformers.LlamaConfig())


@given(source=st.text(min_size=1), target=st.text(min_size=1))
def test_whatever_the_texts_the_targets_are_the_target_and_its_end(
    families: dict[str, Path], causal: dict[str, Path], source: str, target: str
) -> None:
    if not source.strip() or not target.strip():
        return
    for folder, values in ((families["t5"], {}), (causal["chat"], ENGLISH_FRENCH)):
        task = task_of(folder, **values)
        tokenizer = tokenizer_of(task)
        body = tokenizer(target, add_special_tokens=False)["input_ids"]
        (examples,) = task.encode(rows((source, target)), 4096, labeled=True)
        expected = [[*body, tokenizer.eos_token_id]] if body else []
        assert [targets(example) for example in examples] == expected


def test_answers_do_not_depend_on_the_other_rows_of_the_batch(causal: dict[str, Path]) -> None:
    task = task_of(causal["chat"], max_new_tokens=6, **ENGLISH_FRENCH)
    model = transformers.AutoModelForCausalLM.from_pretrained(causal["chat"])
    examples = encoded(task, ("ba", "or"), ("ba da fa ga", "es im ul or"), ("ka la", "ug ak"))
    assert task.generation is not None
    settings = settings_of(task.generation, tokenizer_of(task))
    together = generate(model, task.collate_prompts(examples), settings)
    for example, ids in zip(examples, together.tolist(), strict=True):
        (alone,) = generate(model, task.collate_prompts([example]), settings).tolist()
        assert alone == ids[: len(alone)]


# Runs


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy language, models that do not know it yet, and rows that no two splits share."""
    folder = tmp_path_factory.mktemp("toy")
    write_encoder_decoder(folder / "encoder_decoder", [*SPOKEN, *WRITTEN])
    write_causal(folder / "causal", CAUSAL_WORDS)
    write_toy_language(folder, train=4000, dev=5, test=200)
    return folder


def toy_recipe(folder: Path, *overrides: str) -> Recipe:
    return tiny_recipe(
        folder,
        "task={kind: translation, source_language: en, target_language: fr, max_new_tokens: 8}",
        f"model={{path: {folder}/encoder_decoder, from_scratch: true}}",
        "data.max_tokens=16",
        *overrides,
    )


@pytest.fixture(scope="module")
def learned(toy: Path) -> Path:
    """The run directory of an encoder-decoder that has learned the toy language on two ranks, from its config alone."""
    recipe = toy_recipe(
        toy,
        "train={global_batch_size: 64, max_steps: 420, eval_every_steps: 420}",
        "optim={lr: 3e-3, warmup_steps: 40, betas: [0.9, 0.98]}",
        "engine.deepspeed=zero1",
    )
    assert train(recipe, toy / "run", world_size=2)[0] == [True, True]
    (toy / "run" / "config.yaml").write_text(render_recipe(recipe))
    return toy / "run"


def test_an_encoder_decoder_learns_a_language_from_scratch(learned: Path) -> None:
    results = json.loads((learned / "results.json").read_text())
    assert results["test"]["exact_match"] > 0.95
    assert results["test"]["bleu"] > 95
    assert results["test"]["num_answers"] == 200
    assert results["test"]["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
    first, last = (curve(events(learned))[at][1] for at in (0, -1))
    assert last < 0.05 < 2 < first
    shown = events(learned, "eval")[-1]["answers"]
    assert len(shown) == 8
    assert sum(row["answer"] == row["reference"] for row in shown) > 6


def test_predict_translates_texts_and_files(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([str(learned), "--text=ba da fa", "--text=ka ra ga pa"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"source": "ba da fa", "prediction": {"translation": "im ul or"}}
    assert second == {"source": "ka ra ga pa", "prediction": {"translation": "ob es it ak"}}
    (tmp_path / "in.jsonl").write_text('{"translation": {"en": "la ma sa"}}\n{"en": "ga ga sa", "id": 3}\n')
    assert predict.main([str(learned), f"--file={tmp_path}/in.jsonl", f"--out={tmp_path}/out.jsonl"]) == 0
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [answer["prediction"] for answer in answers] == [{"translation": "ar en ug"}, {"translation": "ar es es"}]
    (tmp_path / "in.jsonl").write_text('{"source": 7}\n{"source": ""}\n')
    assert predict.main([str(learned), f"--file={tmp_path}/in.jsonl"]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"{tmp_path}/in.jsonl:1: source: expected a text, got 7",
        f"{tmp_path}/in.jsonl:2: source is empty",
    ]


def test_the_exported_model_translates_by_itself(learned: Path) -> None:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(learned / "export" / "best")
    tokenizer = transformers.AutoTokenizer.from_pretrained(learned / "export" / "best")
    ids = model.generate(**tokenizer(["ba da fa", "ka la na ta"], return_tensors="pt", padding=True), max_new_tokens=8)
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == ["im ul or", "ez ip ug ak"]


@pytest.mark.parametrize("model", ["encoder_decoder", "causal"])
@pytest.mark.parametrize(("world_size", "stage"), [(2, 2), (2, 3)])
def test_ranks_and_stages_change_neither_loss_nor_answers(
    toy: Path, tmp_path: Path, model: str, world_size: int, stage: int, references: dict[str, list[dict[str, Any]]]
) -> None:
    """Five rows of dev and seven of test on two ranks: unequal shares, which end under ZeRO-3 too."""
    run = train(short_recipe(toy, model, stage), tmp_path, world_size=world_size)[1]
    reference = references[model]
    for (_, loss, norm), (_, reference_loss, reference_norm) in zip(curve(run), curve(reference), strict=True):
        assert loss == pytest.approx(reference_loss, rel=1e-4)
        assert norm == pytest.approx(reference_norm, rel=1e-3)
    evaluations = [[event for event in each if event["event"] == "eval"] for each in (run, reference)]
    assert [(event["split"], event["num_answers"]) for event in evaluations[0]] == [("dev", 5), ("dev", 5), ("test", 7)]
    for one, other in zip(*evaluations, strict=True):
        for name in ("bleu", "chrf", "exact_match", "num_answers", "answers", "bleu_signature"):
            assert one[name] == other[name]
        for name in ("loss", "perplexity", "token_accuracy"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)
    assert evaluations[0][0]["answers"] != evaluations[0][1]["answers"]


@pytest.fixture(scope="module")
def references(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The events of each kind of model on one rank, ZeRO-0."""
    folder = tmp_path_factory.mktemp("references")
    return {
        model: train(short_recipe(toy, model, 0), folder / model, world_size=1)[1]
        for model in ("encoder_decoder", "causal")
    }


def short_recipe(toy: Path, model: str, stage: int) -> Recipe:
    (toy / "seven.jsonl").write_text("".join((toy / "test.jsonl").read_text().splitlines(keepends=True)[:7]))
    return toy_recipe(
        toy,
        f"model={{path: {toy}/{model}, from_scratch: {'true' if model == 'encoder_decoder' else 'false'}}}",
        f"data.test={toy}/seven.jsonl",
        "data.max_tokens=32",
        "train={global_batch_size: 12, max_steps: 6, eval_every_steps: 6, eval_at_start: true, micro_batch_tokens: 64}",
        "optim={lr: 1e-2}",
        f"engine.deepspeed=zero{stage}",
    )


def test_languages_and_ends_are_exported_with_the_model(families: dict[str, Path], causal: dict[str, Path]) -> None:
    for folder, values in (
        (families["mbart50"], LANGUAGES["mbart50"]),
        (families["mbart"], LANGUAGES["mbart"]),
        (causal["chat"], ENGLISH_FRENCH),
    ):
        recipe = parse_recipe(
            f"task: {{kind: translation}}\nmodel: {{path: {folder}}}\ndata: {{train: x}}\nengine: {{precision: fp32}}",
            [f"task.{name}={value}" for name, value in values.items()],
        )
        task = task_of(folder, **values)
        assert task.generation is not None
        generation = load_model(recipe, task, load_tokenizer(recipe)).generation_config.to_dict()
        assert task.generation.settings.items() <= generation.items()


def test_what_was_dropped_and_cut_is_counted_where_the_data_are_prepared(toy: Path, tmp_path: Path) -> None:
    pairs = [("ba", "or"), ("ba", " ".join(["or"] * 40)), (" ".join(["ba"] * 40), "or")]
    (tmp_path / "train.tsv").write_text("source\ttarget\n" + "".join(f"{a}\t{b}\n" for a, b in pairs))
    messages: list[str] = []
    recipe = toy_recipe(
        toy, f"model={{path: {toy}/causal}}", f"data.train={tmp_path}/train.tsv", "data.dev=null", "data.test=null"
    )
    meta = prepare(recipe, say=messages.append).meta["splits"]["train"]
    assert (meta["rows"], meta["examples"], meta["rows_dropped"], meta["rows_truncated"]) == (3, 2, 1, 1)
    assert 0 < meta["tokens_truncated"] < 41
    assert messages[-2:] == [
        "train: 1 row dropped: no targets were left in them",
        "train: 1 row truncated to data.max_tokens",
    ]


SMALLEST = "model: {path: org/name}\ndata: {train: train.tsv}\ntask:\n  "


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("{kind: translation, prompt: Translate}", "task.prompt: must contain {source} exactly once"),
        ("{kind: translation, prompt: '{source} {source}'}", "task.prompt: must contain {source} exactly once"),
        (
            "{kind: translation, prompt: '{text}'}",
            "task.prompt: unknown placeholder 'text'; legal: {source}, {source_language}",
        ),
        ("{kind: translation, prompt: '{source'}", "task.prompt: unbalanced braces"),
        ("{kind: translation, num_beams: 0}", "task.num_beams: must be above 0, got 0"),
        ("{kind: translation, bleu_tokenizer: moses}", "task.bleu_tokenizer: got 'moses'; legal: auto, 13a, intl, zh"),
        (
            "{kind: translation, architecture: seq2seq}",
            "task.architecture: got 'seq2seq'; legal: auto, encoder_decoder",
        ),
        ("{kind: translation, target_lang: fr}", "task.target_lang: unknown key; did you mean 'target_language'?"),
    ],
)
def test_a_wrong_task_is_reported_with_its_path(keys: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_recipe(SMALLEST + keys, name="x.yaml")
    assert str(raised.value).startswith(f"x.yaml:4: {message}")


def test_the_best_model_may_be_chosen_by_every_metric() -> None:
    assert options().metric_names() == ("bleu", "chrf", "exact_match", "perplexity", "token_accuracy")
    for name in options().metric_names():
        parse_recipe(SMALLEST + "{kind: translation}", [f"checkpoint.best_metric={name}"])
