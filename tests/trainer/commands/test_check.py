"""`shardtune check` shows the data as the loss sees them, and names every fault before anything is trained."""

import io
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from shardtune.errors import DataError
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.run_dir.micro_batch_budget import read_budget
from shardtune.trainer.commands.check import NUM_BINS, bin_edges, check, count_cut, cut_warnings, main
from shardtune.trainer.commands.check_report import Lengths, Report, SplitReport
from shardtune.trainer.commands.check_view import show
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.tasks.example import texts_of
from tests.support.runs import RECIPE, train
from tests.support.runs import tiny_recipe as recipe_of
from tests.support.tiny import give_masked_head, write_documents


def shown_of(report: Report) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=200))
    return out.getvalue()


@pytest.fixture(scope="module")
def recipe_path(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("check") / "tiny.yaml"
    path.write_text(RECIPE.format(folder=tiny), encoding="utf-8")
    return path


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == EXIT_OK
    return json.loads(capsys.readouterr().out)


def test_a_loss_that_includes_class_weights_and_smoothing_says_so(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weighted = [str(recipe_path), "task.class_weights={positive: 3}", "task.label_smoothing=0.1"]
    for report in (checked(capsys, *weighted), checked(capsys, *weighted)):  # prepared, and taken from the cache
        assert [note for note in report["notes"] if "the loss" in note] == [
            "the loss, on dev and test too, includes task.class_weights (mapping) and task.label_smoothing=0.1: "
            "compare it only with that of runs that have the same; accuracy and F1 do not depend on it"
        ]
    assert not any("the loss" in note for note in checked(capsys, str(recipe_path))["notes"])


def test_every_number_is_that_of_the_data(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = checked(capsys, str(recipe_path), "--ranks=2", "data.max_tokens=20")
    train_rows = report["splits"]["train"]
    assert (train_rows["facts"]["rows"], train_rows["facts"]["examples"]) == (67, 67)
    assert sum(train_rows["labels"].values()) == 67 and set(train_rows["labels"]) == {"negative", "positive"}
    lengths = train_rows["lengths"]
    assert sum(lengths["counts"]) == 67 and lengths["edges"][-1] == lengths["longest"] == 20
    assert 0 < lengths["full"] < 67
    assert (report["steps_per_epoch"], report["num_steps"]) == (6, 18)
    assert [source["rows"] for source in report["rows"]["sources"]] == [67, 29, 31]
    assert report["rows"]["duplicates"].keys() == {"train", "dev", "test"}
    rows, longest = report["largest_micro_batch"]
    assert 0 < rows <= 6 and longest == 20
    assert 0.5 < report["padding_efficiency"] <= 1


def test_auto_is_what_a_run_on_this_machine_begins_with(
    recipe_path: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = ("train.micro_batch_tokens=auto", "train.max_steps=1", "data.dev=null", "data.test=null")
    report = checked(capsys, str(recipe_path), "--ranks=1", *auto)
    train(recipe_of(tiny, *auto), tmp_path, world_size=1)
    kept = read_budget(tmp_path)
    assert kept is not None and report["micro_batch_tokens"] == kept.tokens
    assert checked(capsys, str(recipe_path), "--ranks=1", *auto[1:])["micro_batch_tokens"] == 16384


def test_what_the_ds_config_had_ignored_and_what_will_have_no_effect_is_told(
    recipe_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.json").write_text('{"_comment": "x", "zero_optimization": {"stage": 1}}')
    report = checked(capsys, str(recipe_path), f"engine.deepspeed={tmp_path}/my.json", "optim.warmup_steps=18")
    assert report["notes"][0] == f"{tmp_path}/my.json: ignored _comment (a comment)"
    assert [warning.partition(":")[0] for warning in report["warnings"]] == ["optim.warmup_steps"]


def test_a_preview_ends_with_what_is_learned(recipe_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pieces = checked(capsys, str(recipe_path), "--previews=1")["splits"]["train"]["previews"][0]
    first = json.loads((tiny / "train.jsonl").read_text().splitlines()[0])
    assert "".join(text for text, _ in pieces).split() == ["[CLS]", *first["text"].split(), "[SEP]"]
    assert [target for _, target in pieces if target] == [first["label"]]


def test_a_person_sees_tables_bars_and_coloured_targets(tiny: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system="standard")
    show(check(recipe_of(tiny), world_size=2, num_previews=1), console)
    shown = out.getvalue()
    assert "█" in shown and "positive" in shown and "activations" in shown
    assert "\x1b[30;42m" in shown  # black on green
    assert "green: what is learned" not in shown and "[[" not in shown


def test_without_colour_targets_are_in_brackets(tiny: Path) -> None:
    shown = shown_of(check(recipe_of(tiny), world_size=1, num_previews=1))
    assert "→positive]]" in shown or "→negative]]" in shown
    assert "([[…]]: what is learned)" in shown and "green" not in shown


def test_cut_rows_and_lost_tokens_are_counted_and_above_a_tenth_warned_of(
    tiny: Path, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = checked(capsys, str(recipe_path))
    assert [split["cut"]["rows"] for split in whole["splits"].values()] == [0, 0, 0] and not whole["warnings"]
    report = checked(capsys, str(recipe_path), "data.max_tokens=20")
    for name, split in report["splits"].items():
        cut, num_tokens = split["cut"], whole["splits"][name]["facts"]["tokens"]
        assert 0 < cut["rows"] <= split["lengths"]["full"] and cut["is_exact"] and not cut["into_windows"]
        assert cut["rows_percent"] == pytest.approx(100 * cut["rows"] / split["facts"]["rows"])
        assert cut["tokens_lost"] == num_tokens - split["facts"]["tokens"]
        assert cut["tokens_lost_percent"] == pytest.approx(100 * cut["tokens_lost"] / num_tokens)
    first, *_ = report["warnings"]
    assert first.startswith("train: ") and "of 67 rows" in first
    assert first.endswith("raise data.max_tokens (this model takes up to 64)")
    shown = shown_of(check(recipe_of(tiny, "data.max_tokens=20"), world_size=1, num_previews=0))
    assert f"warning: {first}" in shown


def test_data_prepared_before_lost_tokens_were_counted_show_what_is_known(tiny: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, "data.max_tokens=20", f"data.cache_dir={tmp_path}")
    prepared = prepare(recipe)
    meta = json.loads((prepared.folder / "meta.json").read_text(encoding="utf-8"))
    for split in meta["splits"].values():
        del split["tokens_truncated"]
        split["rows_truncated"] = 0  # as it was for classification
    (prepared.folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    report = check(recipe, world_size=1, num_previews=0)
    assert report.splits["train"].cut.rows is None and report.splits["train"].cut.tokens_lost is None
    assert not report.warnings
    assert f"at most {report.splits['train'].lengths.full}" in shown_of(report)
    assert count_cut({**meta["splits"]["train"], "rows_truncated": 7}, "translation").rows == 7


def test_data_prepared_before_near_duplicates_were_looked_for_say_so(tiny: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, f"data.cache_dir={tmp_path}")
    prepared = prepare(recipe)
    meta = json.loads((prepared.folder / "meta.json").read_text(encoding="utf-8"))
    assert check(recipe, world_size=1, num_previews=0).rows["near_duplicates"] == meta.pop("near_duplicates")
    (prepared.folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    report = check(recipe, world_size=1, num_previews=0)
    assert report.rows["near_duplicates"] is None
    assert any("data.near_duplicates=count counts them" in note for note in report.notes)


def test_texts_cut_into_windows_lose_nothing(tiny: Path) -> None:
    text = ("task={kind: language_modeling, objective: masked}", f"data.cache_dir={tiny}/windows")
    report = check(recipe_of(tiny, *text, "data.max_tokens=20"), world_size=1, num_previews=0)
    cut = report.splits["train"].cut
    assert cut.into_windows and (cut.rows, cut.tokens_lost) == (0, 0) and not report.warnings
    assert "into windows: longer texts are cut into several examples; nothing is lost" in shown_of(report)


@pytest.mark.parametrize(
    ("kind", "is_exact", "max_tokens", "limit", "said"),
    [
        (
            "classification",
            True,
            20,
            64,
            ", which loses 20.0 % of the tokens; raise data.max_tokens (this model takes up",
        ),
        ("translation", True, 20, 10**9, "; raise data.max_tokens"),
        ("chat", False, 64, 64, ", which loses at least 20.0 % of the tokens; the model takes no more: "),
    ],
)
def test_the_warning_names_the_cure(kind: str, is_exact: bool, max_tokens: int, limit: int, said: str) -> None:
    facts = {"rows": 10, "examples": 10, "rows_dropped": 0, "tokens": 80, "rows_truncated": 2, "tokens_truncated": 20}
    cut = count_cut(facts, kind)
    assert cut.is_exact is is_exact
    split = SplitReport(facts, {}, Lengths(8, 8, 8, 20, [0, 20], [10], 2), cut, [])
    (warning,) = cut_warnings({"dev": split}, max_tokens, limit)
    assert warning.startswith(f"dev: 2 of 10 rows (20.0 %) are cut at data.max_tokens={max_tokens}") and said in warning
    few = SplitReport({**facts, "rows": 20}, {}, split.lengths, count_cut({**facts, "rows": 20}, kind), [])
    assert not cut_warnings({"dev": few}, max_tokens, limit)


@given(shortest=st.integers(1, 5000), more=st.integers(0, 100_000))
def test_bins_are_round_and_hold_every_length_once(shortest: int, more: int) -> None:
    edges = bin_edges(shortest, shortest + more)
    assert edges[0] < shortest and edges[-1] == shortest + more and len(edges) <= NUM_BINS + 2
    widths = {high - low for low, high in pairwise(edges[:-1])}
    assert len(widths) <= 1 and all(str(width).strip("0") in ("1", "2", "5") for width in widths)
    assert edges == sorted(set(edges))


def test_bins_of_a_few_tokens_are_single_numbers() -> None:
    assert bin_edges(1, 4) == [0, 1, 2, 3, 4]
    assert bin_edges(12, 64) == [10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 64]
    assert bin_edges(7, 7) == [6, 7]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.max_tokns=3"], "did you mean 'max_tokens'"),
        (["task.label_names=[negative, good]"], "label 'positive' is not in task.label_names"),
        (["model.path=./nowhere"], "nowhere"),
        (["data.max_tokens=65"], "more than"),
    ],
)
def test_what_is_wrong_is_said_and_the_exit_code_is_2(
    recipe_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    assert main([str(recipe_path), *overrides]) == EXIT_USER
    printed = capsys.readouterr()
    assert said in printed.err and "Traceback" not in printed.err and not printed.out
    assert main([str(recipe_path), *overrides, "--json"]) == EXIT_USER
    assert any(said in line for line in json.loads(capsys.readouterr().out)["errors"])


def test_the_first_bad_rows_are_named_all_at_once(
    recipe_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ['{"text": "good", "label": "positive"}', "{", '{"text": 5', "[1]", '{"text": "bad", "label": "negative"}']
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    assert main([str(recipe_path), f"data.train={tmp_path}/bad.jsonl"]) == EXIT_USER
    said = capsys.readouterr().err
    assert [f"bad.jsonl:{line}:" in said for line in (1, 2, 3, 4, 5)] == [False, True, True, True, False]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_optimizer_takes_what_was_foretold(tiny: Path, tmp_path: Path, stage: int) -> None:
    recipe = recipe_of(tiny, f"engine.deepspeed=zero{stage}", "engine.precision=bf16", "train.max_steps=1")
    foretold = check(recipe, world_size=2, num_previews=0).memory
    started = next(event for event in train(recipe, tmp_path, world_size=2)[1] if event["event"] == "start")
    assert started["num_parameters"] == foretold.num_parameters
    held = foretold.terms["optimizer"] - (foretold.terms["gradients"] if foretold.peak == "update" and stage else 0)
    assert held == pytest.approx(foretold.num_parameters * 12 / (1 if stage == 0 else 2), rel=0.01)


def test_pieces_of_bytes_make_up_the_text_again() -> None:
    """A byte-level tokenizer spreads 中 over three tokens, of which none is a character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    text = "a 中文 é"
    assert texts_of(fast(text)["input_ids"], fast) == ["a", " ", "", "", "中", "", "", "文", " ", "", "é"]


def test_sources_have_the_names_that_they_have_now_also_where_the_data_were_prepared_under_others(
    recipe_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        report = checked(capsys, str(recipe_path), f"data.train={{path: {tiny}/train.jsonl, name: {name}}}")
        first, *_ = report["rows"]["sources"]
        assert (first["name"], first["path"], first["rows"]) == (name, f"{tiny}/train.jsonl", 67)


def test_the_earlier_rows_of_ewc_are_read_and_counted(tiny: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "text.jsonl", 7)
    ewc = f"regularize.ewc={{data: {tmp_path}/text.jsonl, rows: 5, task: language_modeling}}"
    shutil.copytree(tiny / "encoder", tmp_path / "encoder")
    give_masked_head(tmp_path / "encoder")
    words = (ewc, f"model.path={tmp_path}/encoder")
    report = check(recipe_of(tiny, *words), world_size=1, num_previews=0)
    assert "regularize.ewc: the Fisher information is that of 5 of 7 earlier rows" in report.notes
    (tmp_path / "text.jsonl").write_text('{"body": 1}\n')
    with pytest.raises(DataError, match=r"^regularize\.ewc: .*text\.jsonl"):
        check(recipe_of(tiny, *words), world_size=1, num_previews=0)


def test_all_heads_that_are_missing_are_named_before_a_model_is_loaded(tiny: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "text.jsonl", 7)
    rows = f"task: {{kind: language_modeling}}, data: {tmp_path}/text.jsonl"
    words = (f"regularize.ewc={{{rows}}}", f"retention.sets={{general: {{{rows}}}, other: {{{rows}}}}}")
    shutil.copytree(tiny / "encoder", tmp_path / "three")
    config = transformers.BertConfig.from_pretrained(tmp_path / "three", num_labels=3)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "three")
    for model in (tiny / "encoder", tmp_path / "three"):  # whose head has three labels, and is replaced
        with pytest.raises(DataError) as raised:
            check(recipe_of(tiny, *words, f"model.path={model}"), world_size=1, num_previews=0)
        first, *others = str(raised.value).splitlines()
        assert first.startswith("regularize.ewc: the pretrained model has no weights for cls.predictions.")
        assert [line.partition(": neither")[0] for line in others] == ["retention.sets.general", "retention.sets.other"]
        assert all("there are no weights for cls.predictions." in line for line in others)

    data = f"data={{train: {tmp_path}/text.jsonl, cache_dir: {tmp_path}/cache, max_tokens: 64}}"
    texts = ("task={kind: language_modeling}", data)
    with pytest.raises(DataError, match=r"^model\.path: .* has no weights for cls.*kl_to_base has no pretrained"):
        check(recipe_of(tiny, *texts, "regularize.kl_to_base=0.1"), world_size=1, num_previews=0)
