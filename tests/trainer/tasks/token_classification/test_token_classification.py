"""Token classification: words carry the labels, no entity is lost on the way, and the scores are seqeval's."""

import json
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import seqeval.metrics
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.tasks.token_classification import TokenClassificationOptions
from shardtune.rows.source import Faults, Row, read_rows
from shardtune.trainer.tasks.example import IGNORED
from shardtune.trainer.tasks.run_survey import survey
from shardtune.trainer.tasks.token_classification.spans import spans_of, tags_of
from shardtune.trainer.tasks.token_classification.token_classification import TokenClassification
from tests.support.runs import curve, events, tiny_recipe, train
from tests.support.tiny import BAD, GOOD, PLAIN

OPTIONS = TokenClassificationOptions(kind="token_classification")
FACTS = {"types": ["LOC", "PER"], "scheme": "bio", "keep_inner": True}
NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """At most two letters per piece, so that words have several pieces; an accent alone has none."""
    letters = "abcdefghijklmnopqrstuvwxyz.,'在北京我"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    folder = tmp_path_factory.mktemp("letters")
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return transformers.BertTokenizer(str(folder / "vocab.txt"))


def options(**values: Any) -> TokenClassificationOptions:
    return TokenClassificationOptions(kind="token_classification", **values)


def task(tokenizer: Any, **values: Any) -> TokenClassification:
    return TokenClassification(options(**values), FACTS, tokenizer, transformers.BertConfig())


def row(line: int = 1, **values: Any) -> Row:
    return Row(values, Path("r.jsonl"), line)


def written(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_bytes(content.encode())
    return folder / name


def messages_of(*rows: Row, **values: Any) -> list[str]:
    with pytest.raises(DataError) as raised:
        survey(TokenClassification, options(**values), {"train": rows})
    return str(raised.value).splitlines()


def logits_of(tags: Sequence[str | None], length: int) -> Tensor:
    """Logits of one example whose most likely labels are these."""
    ids = [NAMES.index(tag) if tag else 0 for tag in tags]
    return torch.nn.functional.one_hot(torch.tensor(ids + [0] * (length - len(ids))), len(NAMES)).float() * 9


CONLL = "-DOCSTART- -X- O\r\n\r\nEU NNP B-ORG\r\nrejects VBZ O\r\n\r\n\r\n在 P O\r\n北 N B-LOC\r\n京 N I-LOC"


@pytest.mark.parametrize("name", ["a.conll", "a.BIO"])
@pytest.mark.parametrize("content", [CONLL, CONLL.replace("\r", "").replace(" ", "\t") + "\n-DOCSTART-\t-X-\tO\n"])
def test_a_sentence_of_columns_is_a_row_that_knows_its_words_lines(tmp_path: Path, name: str, content: str) -> None:
    rows = read_rows(written(tmp_path, name, content), {})
    assert [{name: row.values[name] for name in ("tokens", "tags")} for row in rows] == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["在", "北", "京"], "tags": ["O", "B-LOC", "I-LOC"]},
    ]
    assert [row.values["column_2"] for row in rows] == [["NNP", "VBZ"], ["P", "N", "N"]]
    assert [row.line for row in rows] == [3, 7]
    assert rows[1].word(2) == f"{tmp_path / name}:9"


def test_another_column_may_hold_the_tags(tmp_path: Path) -> None:
    (only,) = read_rows(written(tmp_path, "a.conll", "EU B-ORG x\n"), {"tags": "column_2"})
    assert only.values["tags"] == ["B-ORG"]


def test_a_file_of_words_alone_can_be_predicted(tmp_path: Path) -> None:
    (only,) = read_rows(written(tmp_path, "a.conll", "EU\nrejects\n"), {})
    assert dict(only.values) == {"tokens": ["EU", "rejects"]}


def test_a_line_with_other_columns_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.conll:2: 1 columns, but the file's first word has 2"):
        read_rows(written(tmp_path, "a.conll", "EU B-ORG\nrejects\n"), {})


def test_a_bad_tag_is_named_with_its_own_line_and_may_be_repaired(tmp_path: Path) -> None:
    content = "In O\nUlm B-LOC\n\nOld B-PER\nBo I-PER\nin O\nUlm I-LOC\n"
    rows = read_rows(written(tmp_path, "a.conll", content), {})
    where, what = f"{tmp_path}/a.conll:7: tag 4", "'I-LOC' after 'O': no open LOC entity"
    assert messages_of(*rows) == [f"{where}: {what}; read as BIO (task.scheme, task.on_bad_tag)"]
    facts = survey(TokenClassification, options(on_bad_tag="repair"), {"train": rows})
    assert facts["span_counts"] == {"train": {"LOC": 2, "PER": 1}}
    assert facts["tags_repaired"] == {"train": 1}


def test_types_come_from_the_training_rows_and_the_scheme_from_all() -> None:
    rows = [row(tokens=["a", "b", "c"], tags=["I-PER", "B-PER", "I-LOC"]), row(tokens=["a"], tags=["O"])]
    facts = survey(TokenClassification, OPTIONS, {"train": rows})
    assert (facts["types"], facts["scheme"]) == (["LOC", "PER"], "iob1")
    assert survey(TokenClassification, options(types=("PER", "LOC")), {"train": rows})["types"] == ["PER", "LOC"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "1 tags for 2 tokens"),
        ({"tokens": ["a"], "tags": [3.5]}, "tags: expected a list of names such as B-PER, got [3.5]"),
        (
            {"tokens": ["a"], "tags": [3]},
            "tag 1: 3 is a number; name them all, from 0 on, in task.tag_names=[O, B-…, I-…, …], or write names",
        ),
        ({"tokens": ["a"]}, "no tags; found: tokens"),
        ({"tokens": "a b", "tags": ["O"]}, "1 tags for 2 tokens"),
        ({"tokens": 7, "tags": ["O"]}, "tokens: expected a list of words, got 7"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "token 2: expected a word, got ' '"),
        (
            {"tokens": ["a"], "tags": ["PER"]},
            "tag 1: 'PER' is not a tag of BIO; legal: O, B-TYPE, I-TYPE. If tags are types without a prefix, set "
            "task.scheme: io",
        ),
        ({"label": "x"}, "neither tokens nor text; found: label"),
        ({"text": "", "spans": []}, "text is empty"),
        ({"text": "Bo"}, "no spans; use [] for a text without entities"),
        ({"text": "Bo", "spans": {}}, "spans: expected a list, got {}"),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_named(values: dict[str, Any], message: str) -> None:
    assert messages_of(row(**values)) == [f"r.jsonl:1: {message}"]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 3, "PER")], "span 'Bob' (0 to 3, PER) splits the word 'Bobby'"),
        ([(0, 5, "PER"), (0, 12, "PER")], "spans overlap at 'Bobby Miller in Ulm' (PER, PER)"),
        ([(0, 99, "PER")], "span {'start': 0, 'end': 99, 'label': 'PER'}: expected start and end (0 to 19) "
         "around words, and a label"),
        ([(5, 6, "PER")], "span {'start': 5, 'end': 6, 'label': 'PER'}: expected start and end (0 to 19) "
         "around words, and a label"),
    ],
)  # fmt: skip
def test_a_malformed_span_is_named(spans: list[tuple[int, int, str]], message: str) -> None:
    given = [{"start": start, "end": end, "label": label} for start, end, label in spans]
    assert messages_of(row(text="Bobby Miller in Ulm", spans=given)) == [f"r.jsonl:1: {message}"]


def test_an_unknown_type_is_named_with_its_line() -> None:
    splits = {"train": [row(tokens=["a"], tags=["B-PER"])], "dev": [row(4, tokens=["a", "b"], tags=["O", "B-ORG"])]}
    with pytest.raises(DataError, match=r"r\.jsonl:4: type 'ORG' is not in the training rows; legal: PER"):
        survey(TokenClassification, OPTIONS, splits)


def test_rows_without_an_entity_teach_nothing() -> None:
    assert messages_of(row(tokens=["a"], tags=["O"])) == ["r.jsonl: no row has an entity; there is nothing to learn"]


def test_only_the_first_piece_of_a_word_carries_its_label(tokenizer: Any) -> None:
    ((example,),) = task(tokenizer).encode(
        [row(tokens=["bo", "\u200e", "ulm"], tags=["B-PER", "O", "B-LOC"])], 64, labeled=True
    )
    assert tokenizer.convert_ids_to_tokens(example["input_ids"]) == [
        "[CLS]", "b", "##o", "[UNK]", "u", "##l", "##m", "[SEP]"
    ]  # fmt: skip
    assert example["labels"] == [IGNORED, 3, IGNORED, 0, 1, IGNORED, IGNORED, IGNORED]
    assert task(tokenizer).num_targets(example) == 3


def test_words_with_capitals_are_marked_for_a_model_that_does_not_see_them(tokenizer: Any) -> None:
    tagging = task(tokenizer, mark_capitals=True)
    rows = [row(tokens=["Bo", "in", "uLm"], tags=["B-PER", "O", "B-LOC"]), row(text="in 北", spans=[])]
    (first,), (second,) = tagging.encode(rows, 64, labeled=True)
    assert tokenizer.convert_ids_to_tokens(first["input_ids"]) == [
        "[CLS]", "b", "##o", "i", "##n", "u", "##l", "##m", "[SEP]"
    ]  # fmt: skip
    assert first["token_type_ids"] == [0, 1, 1, 0, 0, 1, 1, 1, 0]
    assert tagging.collate([first, second]).inputs["token_type_ids"].tolist() == [first["token_type_ids"], [0] * 9]
    assert tagging.encode(rows[:1], 64, labeled=False)[0][0]["token_type_ids"] == first["token_type_ids"]
    assert "token_type_ids" not in task(tokenizer).encode(rows, 64, labeled=True)[0][0]
    with pytest.raises(DataError, match=r"task\.mark_capitals: a distilbert model lacks a second token type"):
        tagging.check_model(transformers.DistilBertConfig())


def test_chinese_is_labeled_character_by_character(tokenizer: Any) -> None:
    rows = [row(text="我在北京", spans=[{"start": 2, "end": 4, "label": "LOC"}])]
    facts = survey(TokenClassification, OPTIONS, {"train": rows})
    assert (facts["types"], facts["keep_inner"]) == (["LOC"], False)
    tagging = TokenClassification(OPTIONS, facts, tokenizer, transformers.BertConfig())
    ((example,),) = tagging.encode(rows, 16, labeled=True)
    assert example["labels"] == [IGNORED, 0, 0, 1, 2, IGNORED]
    ((unlabeled,),) = tagging.encode([row(text="我在北京")], 16, labeled=False)
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 0, 0, 1, 2, 0]]), 3).float() * 9
    (prediction,) = tagging.predictions(SimpleNamespace(logits=logits), tagging.collate([unlabeled]))
    (span,) = tagging.answer(row(text="我在北京"), [unlabeled], [prediction])["spans"]
    assert {**span, "score": 1} == {"type": "LOC", "text": "北京", "start": 2, "end": 4, "score": 1}


@pytest.mark.parametrize("values", [{"text": "bo,  ulm's"}, {"tokens": ["bo", ",", "ulm", "'s"]}])
def test_an_answer_says_where_its_spans_are_in_the_text(tokenizer: Any, values: dict[str, Any]) -> None:
    ((example,),) = task(tokenizer).encode([row(**values)], 64, labeled=False)
    tags: list[str | None] = [None] * len(example["input_ids"])
    for head, tag in zip(example["heads"], ["B-PER", "O", "I-LOC", "O"], strict=True):
        tags[head] = tag
    output = SimpleNamespace(logits=logits_of(tags, len(tags))[None])
    tagging = task(tokenizer)
    spans = tagging.answer(row(**values), [example], tagging.predictions(output, tagging.collate([example])))["spans"]
    text = values.get("text") or " ".join(values["tokens"])
    assert [(span["type"], span["text"]) for span in spans] == [("PER", "bo"), ("LOC", "ulm")]
    assert [text[span["start"] : span["end"]] for span in spans] == ["bo", "ulm"]
    assert all(0.99 < span["score"] < 1 for span in spans)


def test_words_get_the_space_that_a_byte_level_tokenizer_looks_for() -> None:
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_ = Tokenizer(models.BPE(vocabulary, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_)
    by_tokens = task(fast).encode([row(tokens=["bo", "in", "ulm"])], 64, labeled=False)[0][0]
    assert by_tokens["input_ids"] == fast("bo in ulm")["input_ids"]
    assert by_tokens["heads"] == [0, 2, 5]


def random_rows(seed: int, num_rows: int) -> list[Row]:
    """Sentences of 1 to 60 words with entities of 1 to 24 words."""
    chosen = random.Random(seed)
    rows = []
    for line in range(1, num_rows + 1):
        tags: list[str] = []
        while len(tags) < chosen.choice([1, 10, 60]):
            type_, length = chosen.choice(["LOC", "PER"]), chosen.choice([1, 2, 3, 24])
            tags += ["O"] * chosen.randint(0, 4) + [f"B-{type_}"] + [f"I-{type_}"] * (length - 1)
        tokens = ["".join(chosen.choices("abcdef", k=chosen.choice([1, 1, 2, 5]))) for _ in tags]
        rows.append(row(line, tokens=tokens, tags=tags))
    return rows


@pytest.mark.parametrize("max_tokens", [12, 20, 64, 128])
def test_no_gold_span_vanishes_or_doubles_however_narrow_the_windows(tokenizer: Any, max_tokens: int) -> None:
    rows = random_rows(0, 40)
    tagging = task(tokenizer, stride=3)
    examples = [example for row_examples in tagging.encode(rows, max_tokens, labeled=True) for example in row_examples]
    assert max(len(example["input_ids"]) for example in examples) <= max_tokens
    right = 0
    gold = torch.zeros(2, dtype=torch.int64)
    for example in examples:
        batch = tagging.collate([example])
        perfect = torch.nn.functional.one_hot(batch.labels.clamp(min=0), len(NAMES)).float()
        score = tagging.score(SimpleNamespace(logits=perfect), batch)
        gold += score["gold"]
        right += int(score["hit"].sum())
    spans = [span for sentence in rows for span in spans_of(sentence.values["tags"])]
    room = max_tokens - 2
    num_too_long = 0
    for sentence in rows:
        sizes = list(map(len, sentence.values["tokens"]))  # one piece per letter
        if sum(sizes) > room:
            sizes = [min(size, room // 4) for size in sizes]
        num_too_long += sum(sum(sizes[span.start : span.end]) > room for span in spans_of(sentence.values["tags"]))
    assert gold.tolist() == [sum(span.type == type_ for span in spans) for type_ in ("LOC", "PER")]
    assert right == len(spans) - num_too_long
    assert (num_too_long > 0) == (max_tokens < 128)


def test_windows_of_a_text_answer_like_one(tokenizer: Any) -> None:
    words = ["ab"] * 30
    tags = tags_of(spans_of(["O"] * 4 + ["B-PER", *["I-PER"] * 17, "O", "B-LOC"] + ["O"] * 6), 30)
    tagging = task(tokenizer, stride=4)
    (windows,) = tagging.encode([row(tokens=words)], 20, labeled=False)
    assert len(windows) > 1
    coming = iter(tags)
    predictions = []
    for window in windows:
        places: list[str | None] = [None] * len(window["input_ids"])
        for head in window["heads"]:
            places[head] = next(coming)
        output = SimpleNamespace(logits=logits_of(places, len(places))[None])
        predictions += tagging.predictions(output, tagging.collate([window]))
    spans = tagging.answer(row(tokens=words), windows, predictions)["spans"]
    assert [(span["type"], span["start"], span["end"]) for span in spans] == [("PER", 12, 65), ("LOC", 69, 71)]


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_summed_scores_are_those_of_seqeval(tokenizer: Any, seed: int) -> None:
    chosen = random.Random(seed)
    rows = random_rows(seed, 30)
    tagging = task(tokenizer)
    examples = [example for (example,) in tagging.encode(rows, 512, labeled=True)]
    true, found, totals = [], [], {}
    for start, stop in ((0, 1), (1, 12), (12, 30)):
        batch = tagging.collate(examples[start:stop])
        places = batch.labels.clamp(min=0)
        noise = torch.tensor([[chosen.random() < 0.2 for _ in line] for line in places])
        guessed = torch.where(noise, torch.tensor([[chosen.randrange(5) for _ in line] for line in places]), places)
        scores = tagging.score(SimpleNamespace(logits=torch.nn.functional.one_hot(guessed, 5).float()), batch)
        totals = {name: totals.get(name, 0) + score for name, score in scores.items()}
        for labels, guesses in zip(batch.labels, guessed, strict=True):
            known = labels != IGNORED
            true.append([NAMES[label] for label in labels[known]])
            found.append([NAMES[guess] for guess in guesses[known]])
    assert true == [sentence.values["tags"] for sentence in rows]
    metrics = tagging.metrics(totals)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = seqeval.metrics.classification_report(true, found, output_dict=True)
    for name, at in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert metrics[name] == pytest.approx(report["micro avg"][at])
        assert metrics[f"{name}_macro"] == pytest.approx(report["macro avg"][at])
        for type_ in ("LOC", "PER"):
            assert metrics["types"][type_][name] == pytest.approx(report[type_][at])
    assert [metrics["types"][type_]["gold"] for type_ in ("LOC", "PER")] == [
        report[t]["support"] for t in ("LOC", "PER")
    ]
    assert metrics["token_accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(true, found))


def test_the_loss_is_a_sum_over_words_and_a_muted_batch_counts_nothing(tokenizer: Any) -> None:
    tagging = task(tokenizer)
    examples = [example for (example,) in tagging.encode(random_rows(1, 4), 512, labeled=True)]
    batch = tagging.collate(examples)
    logits = torch.randn(*batch.labels.shape, len(NAMES))
    parts = 0.0
    for at, example in enumerate(examples):
        one = tagging.collate([example])
        parts += float(tagging.loss_sum(SimpleNamespace(logits=logits[at : at + 1, : one.labels.shape[1]]), one))
    assert tagging.loss_sum(SimpleNamespace(logits=logits), batch) == pytest.approx(parts, rel=1e-5)
    muted = batch.muted()
    assert tagging.loss_sum(SimpleNamespace(logits=logits), muted) == 0
    assert not any(score.any() for score in tagging.score(SimpleNamespace(logits=logits), muted).values())


def write_tagged(path: Path, num_rows: int, *, seed: int) -> None:
    """Rows of 1 to 30 words, of which good ones are B-PER and bad ones B-LOC, with the next word if it is plain."""
    chosen = random.Random(seed)
    lines = []
    for _ in range(num_rows):
        tokens = [*chosen.choices(GOOD + BAD + PLAIN, k=chosen.randint(1, 30)), GOOD[0]]
        tags = ["B-PER" if word in GOOD else "B-LOC" if word in BAD else "O" for word in tokens]
        for at in range(1, len(tags)):
            if tags[at] == "O" and tags[at - 1][0] == "B" and chosen.random() < 0.8:
                tags[at] = f"I{tags[at - 1][1:]}"
        lines.append(json.dumps({"tokens": tokens, "tags": tags}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def test_one_rank_and_two_learn_and_score_the_same_however_ragged_and_whatever_attends(
    tiny: Path, tmp_path: Path
) -> None:
    overrides = ["task={kind: token_classification, stride: 2}", "data.max_tokens=20", "train.micro_batch_tokens=64"]
    for split, num_rows in (("train", 67), ("dev", 29), ("test", 31)):
        write_tagged(tmp_path / f"{split}.jsonl", num_rows, seed=num_rows)
        overrides.append(f"data.{split}={tmp_path}/{split}.jsonl")
    (_, one), (_, two) = (
        train(tiny_recipe(tiny, *overrides), tmp_path / "one", world_size=1),
        train(tiny_recipe(tiny, *overrides, "model.attention=varlen"), tmp_path / "two", world_size=2),
    )
    assert len(curve(one)) == len(curve(two)) > 18  # windows are examples: more steps than the rows alone would make
    for (_, loss, norm), (_, other_loss, other_norm) in zip(curve(one), curve(two), strict=True):
        assert loss == pytest.approx(other_loss, rel=1e-4)
        assert norm == pytest.approx(other_norm, rel=1e-3)
    evaluations = [events(tmp_path / run, "eval") for run in ("one", "two")]
    for single, double in zip(*evaluations, strict=True):
        assert single["types"] == double["types"]
        assert single["loss"] == pytest.approx(double["loss"], rel=1e-4)
    gold = sum(len(spans_of(row.values["tags"])) for row in read_rows(tmp_path / "test.jsonl", {}))
    assert sum(counts["gold"] for counts in evaluations[0][-1]["types"].values()) == gold
    assert evaluations[0][-1]["f1"] > evaluations[0][0]["f1"]


SMALLEST = "model: {path: org/name}\ndata: {train: train.conll}\ntask:\n  "


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("kind: ner", "x.yaml:4: task.kind: got 'ner'; legal: classification, token_classification"),
        ("scheme: bio", "x.yaml:3: task.kind: missing; legal: classification, token_classification"),
        (
            "{kind: token_classification, scheme: bilou}",
            "x.yaml:4: task.scheme: got 'bilou'; legal: auto, bio, iob1, bioes",
        ),
        ("{kind: token_classification, strid: 3}", "x.yaml:4: task.strid: unknown key; did you mean 'stride'?"),
        ("{kind: token_classification, stride: -1}", "x.yaml:4: task.stride: must be at least 0, got -1"),
        ("{kind: classification, stride: 3}", "x.yaml:4: task.stride: unknown key; legal: "),
    ],
)
def test_a_wrong_task_is_reported_with_its_path(keys: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_recipe(SMALLEST + keys, name="x.yaml")
    (line,) = str(raised.value).splitlines()
    assert line.startswith(message)


def test_inputs_for_a_prediction_need_no_labels() -> None:
    faults = Faults()
    for values in ({"text": "Bo"}, {"tokens": ["Bo"]}):
        TokenClassification.check_inputs(row(**values), faults)
    assert not faults


def test_a_tokenizer_that_knows_no_words_gets_them_one_by_one() -> None:
    characters = transformers.CanineTokenizer()
    tagger = TokenClassification(OPTIONS, FACTS, characters, transformers.CanineConfig())
    ((example,),) = tagger.encode([row(tokens=["Anna", "in", "Ulm"], tags=["B-PER", "O", "B-LOC"])], 32, labeled=True)
    heads = [at for at, label in enumerate(example["labels"]) if label != IGNORED]
    assert [NAMES[example["labels"][at]] for at in heads] == ["B-PER", "O", "B-LOC"]
    assert "".join(map(chr, example["input_ids"][1:-1])) == "Anna in Ulm"
    assert heads == [1, 5, 8], "a word's first piece is the space before it"
    assert tagger.model_notes == [
        "CanineTokenizer does not tell which tokens are a word, so each word is tokenized on its own"
    ]
