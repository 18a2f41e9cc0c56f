"""Language modeling: each token of a document, and its end, is learned once; masks are the same on any layout."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import processors

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.recipe.tasks.language_modeling import LanguageModelingOptions
from shardtune.rows.source import Faults, Row, read_rows
from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.commands.predict import main as predict_main
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.bins import Packing
from shardtune.trainer.data.batches.evaluation import evaluation_batches
from shardtune.trainer.data.batches.order import Order
from shardtune.trainer.data.batches.steps import PreparedSteps
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.model.pretrained import load_tokenizer
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.tasks.example import IGNORED
from shardtune.trainer.tasks.language_modeling.language_modeling import LanguageModeling, cut, objective_of
from shardtune.trainer.tasks.run_survey import survey
from tests.support.runs import curve, events, train
from tests.support.tiny import BAD, GOOD, PLAIN, write_causal, write_documents, write_encoder

WORDS = [*GOOD, *BAD, *PLAIN]
MAX_TOKENS, STEPS_PER_EPOCH, NUM_EPOCHS = 24, 10, 2
RECIPE = """
task: {{kind: language_modeling}}
model: {{path: {folder}/{model}}}
data:
  train: {folder}/train.jsonl
  dev: {folder}/dev.jsonl
  max_tokens: 24
  length_window: 0
  cache_dir: {folder}/cache
train: {{global_batch_size: 12, num_epochs: 2}}
optim: {{lr: 5e-3, warmup_steps: 2}}
engine: {{precision: fp32, deepspeed: zero2}}
report: {{wandb: disabled}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model and an encoder of the same words, and documents of up to 60 of them: some are cut in three."""
    folder = tmp_path_factory.mktemp("texts")
    write_causal(folder / "causal", WORDS, chat_template=None)
    write_encoder(folder / "masked")
    write_documents(folder / "train.jsonl", 57, seed=1)
    write_documents(folder / "dev.jsonl", 23, seed=2)
    return folder


def recipe_of(folder: Path, model: str, *overrides: str) -> Recipe:
    return parse_recipe(RECIPE.format(folder=folder, model=model), overrides)


def task_of(folder: Path, model: str, **options: Any) -> LanguageModeling:
    recipe = recipe_of(folder, model)
    config = transformers.AutoConfig.from_pretrained(recipe.model.path)
    return LanguageModeling(options_of(**options), {}, load_tokenizer(recipe), config)


def options_of(**values: Any) -> LanguageModelingOptions:
    return LanguageModelingOptions(kind="language_modeling", **values)


def row(text: Any, line: int = 1) -> Row:
    return Row({"text": text}, Path("r.jsonl"), line)


# Documents and their pieces


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 12), st.data())
def test_every_token_but_the_first_is_learned_once(ids: list[int], max_tokens: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(0, max_tokens // 2))
    pieces = cut(ids, max_tokens, stride)
    learned = [label for piece in pieces for label in piece["labels"] if label != IGNORED]
    assert learned == ids[1:]
    done = 0
    for number, piece in enumerate(pieces):
        new = sum(label != IGNORED for label in piece["labels"])
        seen = len(piece["input_ids"]) - new
        assert len(piece["input_ids"]) == len(piece["labels"]) <= max_tokens
        assert piece["input_ids"] == ids[done - seen : done + new], "what is seen is what comes before"
        assert seen == (min(stride, done) if number else 0)
        done += new


def test_a_documents_end_is_learned_once_and_so_is_its_first_token_after_a_bos(folder: Path) -> None:
    task = task_of(folder, "causal")
    tokenizer = task._tokenizer
    a, film = tokenizer.convert_tokens_to_ids(["a", "film"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    (piece,) = task.encode([row("a film")], MAX_TOKENS, labeled=True)[0]
    assert piece == {"input_ids": [a, film], "labels": [film, eos]}
    (ended,) = task.encode([row("a film </s>")], MAX_TOKENS, labeled=True)[0]
    assert ended == piece
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", bos), ("</s>", eos)]
    )
    (framed,) = task.encode([row("a film")], MAX_TOKENS, labeled=True)[0]
    assert framed == {"input_ids": [bos, a, film], "labels": [a, film, eos]}


def test_a_preview_shows_the_end_as_learned_and_what_was_learned_before_as_not(folder: Path) -> None:
    task = task_of(folder, "causal", stride=2)
    first, second = task.encode([row("a film was grim")], 3, labeled=True)[0]
    assert [(piece.text.strip(), piece.target is not None) for piece in task.preview(first)] == [
        ("a", False),
        ("film", True),
        ("was", True),
        ("grim", True),
    ]
    assert [(piece.text.strip(), piece.target is not None) for piece in task.preview(second)] == [
        ("was", False),
        ("grim", False),
        ("</s>", True),
    ]


def test_a_long_text_is_cut_into_equal_windows_none_of_whose_tokens_is_lost(folder: Path) -> None:
    task = task_of(folder, "masked", whole_words=True)
    words = [WORDS[at % len(WORDS)] for at in range(45)]
    windows = task.encode([row(" ".join(words))], MAX_TOKENS, labeled=True)[0]
    tokenizer = task._tokenizer
    assert [len(window["input_ids"]) for window in windows] == [17, 17, 17]
    for window in windows:
        assert window["input_ids"][0] == tokenizer.cls_token_id and window["input_ids"][-1] == tokenizer.sep_token_id
        assert window["words"][0] == window["words"][-1] == -1 and len(set(window["words"])) == 16
    tokens = [token for window in windows for token in window["input_ids"][1:-1]]
    assert tokens == tokenizer.convert_tokens_to_ids(words)


def test_a_preview_of_a_masked_text_shows_what_is_hidden(folder: Path) -> None:
    task = task_of(folder, "masked", mask_probability=0.5)
    (window,) = task.encode([row("the film was very good and it was bright")], MAX_TOKENS, labeled=True)[0]
    pieces = task.preview(window)
    assert sum(piece.target is not None for piece in pieces) == task.num_targets(window) == 4
    whole = " ".join((piece.target or piece.text).strip() for piece in pieces)
    assert whole == "[CLS] the film was very good and it was bright [SEP]"
    assert any("[MASK]" in piece.text for piece in pieces)


@pytest.mark.parametrize("model", ["causal", "masked"])
def test_a_text_of_unknown_tokens_is_dropped_and_still_answered(folder: Path, model: str) -> None:
    task = task_of(folder, model)
    kept = task.encode([row("北京"), row("a film")], MAX_TOKENS, labeled=True)
    assert [len(examples) for examples in kept] == [0, 1]
    ((alone,),) = task.encode([row("北京")], MAX_TOKENS, labeled=False)
    assert task.num_targets(alone) == 0


# What is refused


MALFORMED: list[tuple[bytes, str]] = [
    (b'{"text": "a"}\n{"txt": "b"}\n', "2: no text"),
    (b'{"text": "a"}\n{"text": null}\n', "2: text: expected a text, got null"),
    (b'{"text": 7}\n', "1: text: expected a text, got 7"),
    (b'{"text": true}\n', "1: text: expected a text, got True"),
    (b'{"text": ["a", "b"]}\n', "1: text: expected a text, got ['a', 'b']"),
    (b'{"text": {"text": null}}\n', "1: text: expected a text, got {'text': None}"),
    (b'{"text": [[null]]}\n', "1: text: expected a text, got [[None]]"),
    (b'{"text": ""}\n', "1: text is empty"),
    (b'{"text": " \\t\\n\\u00a0\\u3000 "}\n', "1: text is empty"),
    (b'{"text": "a\\u0000b"}\n', "1: text: character 2 is U+0000, which no text may have"),
    (b'{"text": "\\ud83d"}\n', "1: an escape from \\ud800 to \\udfff is half a character"),
    (b'{"text": "a"}\n["b"]\n', '2: expected an object such as {"text": …}, got a list'),
    (b'{"text": "a"}\n"b"\n', '2: expected an object such as {"text": …}, got a text'),
    (b'{"text": "a"}\n{"text": "b"\n', "2: not JSON"),
    (b'{"text": "a"}\n{"text": "\xff"}\n', "2: not UTF-8 (byte 11 of the line is 0xff)"),
    ('{"text": "a"}'.encode("utf-16-le"), "looks like UTF-16LE; set its encoding"),
    (b'{"body": "a"}\n', "no column 'text'; found: body. Name yours: data.columns={text: …}"),
    (b"", "contains no rows"),
]


@pytest.mark.parametrize(("content", "message"), MALFORMED)
def test_a_malformed_row_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        survey(LanguageModeling, options_of(), {"train": read_rows(path, {})})
    assert str(raised.value).startswith(f"{path}:") and message in str(raised.value)


def test_characters_that_no_text_has_are_named_in_every_format() -> None:
    # Bytes of a command line that are not UTF-8 become such unpaired surrogates.
    faults = Faults()
    LanguageModeling.check_inputs(row("a\udc80"), faults)
    with pytest.raises(DataError, match=r"r\.jsonl:1: text: character 2 is U\+DC80, which no text may have"):
        faults.raise_if_any()


def test_all_malformed_rows_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["a", None, "b", "", 3]), encoding="utf-8")
    with pytest.raises(DataError) as raised:
        survey(LanguageModeling, options_of(), {"train": read_rows(path, {}), "dev": [row("\0", 9)]})
    assert [line.split(": ")[0].rpartition(":")[2] for line in str(raised.value).splitlines()] == ["2", "4", "5", "9"]


@pytest.fixture(scope="module")
def tasks(folder: Path) -> list[LanguageModeling]:
    return [task_of(folder, "causal", stride=1), task_of(folder, "masked", whole_words=True)]


@given(st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=8), st.lists(st.text(max_size=2)))))
def test_whatever_a_row_holds_it_is_encoded_or_named(tasks: list[LanguageModeling], values: list[Any]) -> None:
    for line, value in enumerate(values, start=1):
        try:
            survey(LanguageModeling, options_of(), {"train": [row(value, line)]})
        except DataError as error:
            assert str(error).startswith(f"r.jsonl:{line}: text")
            continue
        for task in tasks:
            task.encode([row(value, line)], 5, labeled=True)
            assert task.encode([row(value, line)], 5, labeled=False)[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.objective=next", "got 'next'; legal: auto, causal, masked"),
        (
            "task={kind: language_modeling, objective: causal, whole_words: true}",
            "whole_words does not apply to a causal",
        ),
        (
            "task={kind: language_modeling, objective: causal, mask_probability: 0.2}",
            "mask_probability does not apply to a causal objective, only to a masked one; remove it",
        ),
        (
            "task={kind: language_modeling, objective: masked, stride: 2}",
            "stride does not apply to a masked objective",
        ),
        ("task.mask_probability=1", "task.mask_probability"),
        ("task.stride=-1", "task.stride"),
        ("checkpoint.best_metric=f1", "got 'f1'; legal: loss, perplexity, token_accuracy"),
    ],
)
def test_a_wrong_option_is_named(folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        recipe_of(folder, "causal", override)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("model", "options", "config", "message"),
    [
        ("masked", {"objective": "causal"}, {}, "task.objective: a bert model attends to the next token"),
        ("causal", {"objective": "masked"}, {}, "transformers has no masked language model for llama"),
        ("masked", {"stride": 3}, {}, "task.stride does not apply to a masked objective"),
        ("causal", {"whole_words": True}, {}, "task.whole_words does not apply to a causal objective"),
        ("causal", {}, {"is_encoder_decoder": True}, "llama is an encoder-decoder"),
    ],
)
def test_a_model_that_cannot_learn_it_is_refused(
    folder: Path, model: str, options: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    model_config = transformers.AutoConfig.from_pretrained(folder / model, **config)
    with pytest.raises(DataError, match=message):
        task_of(folder, model, **options).check_model(model_config)


@pytest.mark.parametrize(("model", "token"), [("causal", "eos_token"), ("masked", "mask_token")])
def test_a_tokenizer_without_the_token_that_is_needed_is_refused(folder: Path, model: str, token: str) -> None:
    task = task_of(folder, model)
    setattr(task._tokenizer, token, None)
    with pytest.raises(DataError, match=f"the tokenizer has no {token}"):
        task.check_model(transformers.AutoConfig.from_pretrained(folder / model))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.LlamaConfig(), "causal"),
        (transformers.GPT2Config(architectures=["GPT2LMHeadModel"]), "causal"),
        (transformers.BertConfig(), "masked"),
        (transformers.BertConfig(architectures=["BertForMaskedLM"]), "masked"),
        (transformers.BertConfig(is_decoder=True), "causal"),
        (transformers.RobertaConfig(architectures=["RobertaForCausalLM"]), "causal"),
        (transformers.ModernBertConfig(), "masked"),
        (transformers.XLMConfig(architectures=["XLMWithLMHeadModel"]), "masked"),
        (transformers.MambaConfig(), "causal"),
    ],
)
def test_the_objective_is_that_of_the_pretrained_model(config: Any, expected: str) -> None:
    assert objective_of(config) == expected


# The loss


def test_the_causal_loss_is_transformers_own(folder: Path) -> None:
    task = task_of(folder, "causal")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "causal").eval()
    text = "the film was very good and it was bright"
    batch = task.collate(task.encode([row(text)], MAX_TOKENS, labeled=True)[0])
    ids = torch.tensor([[*task._tokenizer(text)["input_ids"], task._tokenizer.eos_token_id]])
    expected = model(input_ids=ids, labels=ids).loss * batch.num_targets
    keep_target_loss(model)
    assert task.loss_sum(model(**batch.inputs), batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_masked_loss_is_transformers_own(folder: Path) -> None:
    task = task_of(folder, "masked", mask_probability=0.4)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder / "masked").eval()
    texts = ["the film was very good and it was bright", "a grim plot", "dull"]
    encoded = [examples[0] for examples in task.encode([row(text) for text in texts], MAX_TOKENS, labeled=True)]
    batch = task.collate([example | {"draw": (1, at)} for at, example in enumerate(encoded)])
    assert batch.num_targets == sum(map(task.num_targets, encoded)) == 4 + 1 + 1
    plain = {name: tensor for name, tensor in batch.inputs.items() if name != "targets"}
    expected = model(**plain, labels=batch.labels).loss * batch.num_targets
    keep_target_loss(model)
    output = model(**batch.inputs)
    assert task.loss_sum(output, batch).item() == pytest.approx(expected.item(), rel=1e-5)


# Steps


def batch_maker(
    task: Any, rank: int, world_size: int, packing: Packing | None = None, *, tokens: int = 64
) -> BatchMaker:
    return BatchMaker(task, Ranks(rank, world_size, rank, torch.device("cpu")), packing, tokens)


@pytest.mark.parametrize("packing", [None, Packing(MAX_TOKENS, is_flat=False), Packing(MAX_TOKENS, is_flat=True)])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_step_counts_its_tokens_and_targets_rightly(folder: Path, packing: Packing | None, world_size: int) -> None:
    task, train_split = task_of(folder, "causal"), prepare(recipe_of(folder, "causal")).split("train")
    assert train_split is not None
    order = Order(train_split.lengths, 12, 0, seed=0)
    shares = [
        PreparedSteps(train_split, order, STEPS_PER_EPOCH, batch_maker(task, rank, world_size, packing)).begin(0, ())
        for rank in range(world_size)
    ]
    for steps in zip(*shares, strict=True):
        batches = [batch for step in steps for batch in step.micro_batches]
        spoken = [batch for batch in batches if batch.num_targets]
        assert sum(int(batch.num_targets) for batch in spoken) == steps[0].num_targets
        assert sum(batch.inputs["input_ids"].numel() for batch in spoken) == steps[0].num_padded_tokens
        assert {step.num_tokens for step in steps} == {int(train_split.lengths[order.rows(steps[0].number)].sum())}
        assert steps[0].num_tokens <= steps[0].num_padded_tokens
        if packing and packing.is_flat:
            assert steps[0].num_tokens == steps[0].num_padded_tokens


def masked_batches(folder: Path, seed: int, steps: range, *, world_size: int = 1) -> dict[int, list[tuple[Any, ...]]]:
    """The inputs and targets of the training rows by step, on whichever rank they are."""
    task, split = task_of(folder, "masked", mask_probability=0.3), prepare(recipe_of(folder, "masked")).split("train")
    assert split is not None
    shown: dict[int, list[tuple[Any, ...]]] = {}
    for rank in range(world_size):
        order = Order(split.lengths, 12, 0, seed)
        left = PreparedSteps(split, order, steps.stop, batch_maker(task, rank, world_size)).begin(steps.start, ())
        for step in left:
            shown.setdefault(step.number, []).extend(rows_of(step.micro_batches))
    return {number: sorted(rows) for number, rows in shown.items()}


def rows_of(batches: Any) -> list[tuple[Any, ...]]:
    """(input ids, labels) of each row that has a target, without padding."""
    return [
        (tuple(ids[mask.bool()].tolist()), tuple(labels[mask.bool()].tolist()))
        for batch in batches
        for ids, mask, labels in zip(
            *(batch.inputs[name] for name in ("input_ids", "attention_mask")), batch.labels, strict=True
        )
        if (labels != IGNORED).any()
    ]


def test_masks_follow_from_the_seed_the_step_and_the_place_in_it_alone(folder: Path) -> None:
    whole = masked_batches(folder, 0, range(2 * STEPS_PER_EPOCH))
    assert masked_batches(folder, 0, range(13, 16), world_size=3) == {step: whole[step] for step in range(13, 16)}
    assert masked_batches(folder, 1, range(2))[0] != whole[0]


def test_a_text_is_masked_differently_in_each_epoch(folder: Path) -> None:
    shown = masked_batches(folder, 0, range(2 * STEPS_PER_EPOCH))
    first, second = (
        {row for step in range(start, start + STEPS_PER_EPOCH) for row in shown[step]} for start in (0, STEPS_PER_EPOCH)
    )
    assert len(first & second) < 0.3 * len(first)


def test_a_row_that_occurs_several_times_in_a_step_is_masked_differently_each_time(folder: Path) -> None:
    task, split = task_of(folder, "masked", mask_probability=0.3), prepare(recipe_of(folder, "masked")).split("train")
    assert split is not None
    order = Order(split.lengths, 4 * len(split), 0, 0, np.zeros(len(split), dtype=np.int32), (4.0,))
    (step,) = PreparedSteps(split, order, 1, batch_maker(task, 0, 1, tokens=4096)).begin(0, ())
    shown = rows_of(step.micro_batches)
    assert len(shown) == 4 * len(split) and len(set(shown)) > 3 * len(split)


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_evaluation_masks_the_same_tokens(folder: Path, world_size: int) -> None:
    task, split = task_of(folder, "masked"), prepare(recipe_of(folder, "masked")).split("dev")
    assert split is not None
    asked = [
        sorted(
            row
            for rank in range(world_size)
            for row in rows_of(evaluation_batches(split, batch_maker(task, rank, world_size, tokens=budget)))
        )
        for budget in (64, 4096)
    ]
    assert asked[0] == asked[1] and len(asked[0]) == len(split)


# Whole trainings


Events = list[dict[str, Any]]


def assert_same_training(run: Events, other: Events) -> None:
    assert len(curve(run)) == len(curve(other)) == NUM_EPOCHS * STEPS_PER_EPOCH
    for (step, loss, norm), (_, other_loss, other_norm) in zip(curve(run), curve(other), strict=True):
        assert loss == pytest.approx(other_loss, rel=1e-4), f"loss of step {step}"
        assert norm == pytest.approx(other_norm, rel=1e-3), f"grad_norm of step {step}"
    evaluations = [[event for event in events if event["event"] == "eval"] for events in (run, other)]
    assert len(evaluations[0]) == len(evaluations[1]) == NUM_EPOCHS
    for one, two in zip(*evaluations, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        assert one["perplexity"] == pytest.approx(math.exp(one["loss"]), rel=1e-6)
        assert one["token_accuracy"] == pytest.approx(two["token_accuracy"], abs=0.005)


@pytest.fixture(scope="module")
def references(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Events]:
    """The events of one rank, ZeRO-0, without packing, by model; each trained once."""
    trained: dict[str, Events] = {}

    def reference(model: str) -> Events:
        if model not in trained:
            recipe = recipe_of(folder, model, "engine.deepspeed=zero0", "data.packing=off")
            trained[model] = train(recipe, tmp_path_factory.mktemp(model), world_size=1)[1]
        return trained[model]

    return reference


@pytest.mark.parametrize("model", ["causal", "masked"])
def test_an_epochs_last_step_has_fewer_rows_than_there_may_be_ranks(folder: Path, model: str) -> None:
    split = prepare(recipe_of(folder, model)).split("train")
    assert split is not None
    order = Order(split.lengths, 12, 0, seed=0)
    assert order.steps_per_epoch == STEPS_PER_EPOCH and 0 < len(order.rows(STEPS_PER_EPOCH - 1)) < 3


@pytest.mark.parametrize("model", ["causal", "masked"])
def test_it_learns(references: Callable[[str], Events], model: str) -> None:
    losses = [loss for _, loss, _ in curve(references(model))]
    assert sum(losses[-3:]) < 0.88 * sum(losses[:3])


@pytest.mark.parametrize(
    ("model", "world_size", "stage", "packing", "micro_batch_tokens", "attention"),
    [
        ("causal", 1, 0, "on", 64, "auto"),
        ("causal", 2, 2, "auto", 16384, "varlen"),
        ("causal", 2, 3, "on", 64, "varlen"),
        ("causal", 4, 3, "on", 64, "auto"),
        ("masked", 2, 3, "auto", 64, "auto"),
    ],
)
def test_neither_packing_nor_ranks_nor_zero_stages_nor_attention_change_what_is_learned(
    folder: Path,
    tmp_path: Path,
    references: Callable[[str], Events],
    model: str,
    world_size: int,
    stage: int,
    packing: str,
    micro_batch_tokens: int,
    attention: str,
) -> None:
    recipe = recipe_of(
        folder,
        model,
        f"engine.deepspeed=zero{stage}",
        f"data.packing={packing}",
        f"train.micro_batch_tokens={micro_batch_tokens}",
        f"model.attention={attention}",
    )
    run = train(recipe, tmp_path, world_size=world_size)[1]
    (start,) = events(tmp_path, "start")
    assert start["packed"] == (model == "causal")
    assert start["attention"] == ("sdpa" if attention == "auto" else attention)
    if attention == "varlen":
        assert {event["padding_efficiency"] for event in events(tmp_path, "step")} == {1.0}
    assert_same_training(run, references(model))


def as_one_text() -> None:
    """Breaks this process: the model sees packed examples as one text, as a model without separation would."""
    right = DeepSpeedEngine.forward

    def forward(self: Any, batch: Any) -> Any:
        if "position_ids" in batch.inputs and self._engine.module.training:
            places = torch.arange(batch.inputs["position_ids"].shape[1])
            batch.inputs["position_ids"] = places.expand_as(batch.inputs["position_ids"])
        return right(self, batch)

    DeepSpeedEngine.forward = forward  # type: ignore[method-assign]


def test_a_leak_between_documents_is_seen(folder: Path, tmp_path: Path, references: Callable[[str], Events]) -> None:
    run = train(recipe_of(folder, "causal", "data.packing=on"), tmp_path, world_size=1, before=as_one_text)[1]
    with pytest.raises(AssertionError):
        assert_same_training(run, references("causal"))


def stop_after(num_steps: int) -> Callable[[], None]:
    def before() -> None:
        asked = iter(range(1, 1000))
        StopChecks.requested = lambda self: next(asked) >= num_steps  # type: ignore[method-assign]

    return before


@pytest.mark.parametrize("model", ["causal", "masked"])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one_bit_for_bit(
    folder: Path, tmp_path: Path, model: str
) -> None:
    recipe = recipe_of(folder, model, "engine.precision=bf16", "train.max_steps=9")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(recipe, whole, world_size=2)[0] == [True, True]
    assert train(recipe, broken, world_size=2, before=stop_after(4))[0] == [False, False]
    assert train(recipe, broken, world_size=2)[0] == [True, True]
    expected, found = (load_file(run_dir / "export" / "last" / "model.safetensors") for run_dir in (whole, broken))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert curve(events(whole)) == curve(events(broken))


# Predictions


@pytest.fixture(scope="module")
def run_dirs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each model."""
    trained = {}
    for model in ("causal", "masked"):
        trained[model] = tmp_path_factory.mktemp(f"run-{model}")
        recipe = recipe_of(folder, model, "train.max_steps=40", "data.dev=null")
        train(recipe, trained[model], world_size=1)
        (trained[model] / "config.yaml").write_text(RECIPE.format(folder=folder, model=model), encoding="utf-8")
    return trained


def predicted(capsys: pytest.CaptureFixture[str], run_dir: Path, *texts: str) -> list[dict[str, Any]]:
    assert predict_main([str(run_dir), *(f"--text={text}" for text in texts)]) == 0
    return [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()]


def test_predict_returns_the_perplexity_of_each_text(
    run_dirs: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = " ".join(WORDS[(3 * at) % len(WORDS)] for at in range(40))
    short, unknown, cut_up = predicted(capsys, run_dirs["causal"], "a film was good", "北京", long)
    assert unknown == {"perplexity": None, "num_tokens": 0}
    assert (short["num_tokens"], cut_up["num_tokens"]) == (4, 40)
    model = transformers.AutoModelForCausalLM.from_pretrained(run_dirs["causal"] / "export" / "best").eval()
    ids = torch.tensor([task_of(folder, "causal")._tokenizer("a film was good </s>")["input_ids"]])
    assert short["perplexity"] == pytest.approx(math.exp(model(input_ids=ids, labels=ids).loss.item()), rel=1e-4)


def test_predict_fills_masks_as_transformers_pipeline_does(
    run_dirs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "the film was [MASK] and [MASK] good"
    both, none = predicted(capsys, run_dirs["masked"], text, "the film")
    assert none == {"fillings": []} and [len(filling) for filling in both["fillings"]] == [5, 5]
    fill = transformers.pipeline("fill-mask", model=str(run_dirs["masked"] / "export" / "best"))
    for filling, expected in zip(both["fillings"], fill(text), strict=True):
        assert [one["token"] for one in filling] == [one["token_str"] for one in expected]
        assert [one["score"] for one in filling] == pytest.approx([one["score"] for one in expected], abs=1e-5)
