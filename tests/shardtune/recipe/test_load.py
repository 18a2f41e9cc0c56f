"""What a recipe file and its overrides may contain, and how faults in them are reported."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from shardtune.errors import ConfigError
from shardtune.recipe.counterparts.other_tools import OTHER_COUNTERPARTS
from shardtune.recipe.counterparts.training_arguments import COUNTERPARTS
from shardtune.recipe.explain import Fault, all_keys, explain
from shardtune.recipe.load import differences, learning_hash, load_recipe, parse_recipe, render_recipe
from shardtune.recipe.paths import path_faults, with_absolute_paths
from shardtune.recipe.schema import LEARNING_SECTIONS, NOT_LEARNED, Recipe
from shardtune.recipe.yaml_lines import read_yaml, write_yaml
from shardtune.section import Section
from shardtune.trainer.tasks import TASKS

SMALLEST = """\
task:
  kind: classification
model:
  path: org/name
data:
  train: train.jsonl
"""
LEGAL = (
    ".jsonl, .ndjson, .csv, .tsv, .json, .parquet, .arrow, .txt, .conll, .bio, .iob, .iob2, .conllu, .tmx, "
    "each also compressed (.gz, .zst)"
)
A_FEW = {
    "optim": "optim:\n  lr: 2e-5\n  schedule: cosine\n",
    "train": "train: {num_epochs: 2, seed: 7}\n",
    "task": "",
}


def faults_of(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_recipe(text, overrides, name="x.yaml")
    return str(error.value).splitlines()


def test_a_recipe_gives_only_what_differs_from_the_defaults() -> None:
    recipe = parse_recipe(SMALLEST + A_FEW["optim"])
    assert (recipe.optim.lr, recipe.optim.schedule, recipe.train.global_batch_size) == (2e-5, "cosine", 32)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("2e5", 2e5), ("1.", 1.0), (".5", 0.5), ("-3", -3), ("0x1F", 31), ("0o17", 15), ("017", 17),
        ("true", True), ("False", False), ("null", None), ("~", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("1_000", "1_000"), ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"), (".inf", ".inf"), (".nan", ".nan"), ("1e999", "1e999"), ("9" * 5000, "9" * 5000),
        ("'1'", "1"), ("! 1", "1"), ("[1, {a: b}]", [1, {"a": "b"}]), ("{1: a}", {"1": "a"}),
    ],
)  # fmt: skip
def test_scalars_are_read_by_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    read = read_yaml(text).value
    assert (read, type(read)) == (value, type(value))


def test_lists_fill_tuples_and_whole_numbers_fill_numbers() -> None:
    recipe = parse_recipe(SMALLEST, ["optim.betas=[0.8, 0.9]", "train.num_epochs=2", "task.label_names=[b, a]"])
    assert recipe.optim.betas == (0.8, 0.9)
    assert recipe.train.num_epochs == 2.0
    assert recipe.model_dump()["task"]["label_names"] == ("b", "a")


def test_a_section_whose_keys_are_all_commented_out_has_the_defaults() -> None:
    assert parse_recipe(SMALLEST + "optim:\n  # lr: 1e-5\n") == parse_recipe(SMALLEST)


def test_a_byte_order_mark_is_not_part_of_the_text() -> None:
    assert parse_recipe("\ufeff" + SMALLEST) == parse_recipe(SMALLEST)


def test_later_overrides_win_over_earlier_ones_and_over_the_file() -> None:
    recipe = parse_recipe(SMALLEST + A_FEW["optim"], ["optim.lr=1", "optim.lr=3e-5", "data.dev=d", "data.dev=null"])
    assert (recipe.optim.lr, recipe.data.dev, recipe.optim.schedule) == (3e-5, None, "cosine")


def test_an_override_replaces_a_mapping_as_a_whole_and_a_deeper_one_only_its_key() -> None:
    text = SMALLEST + "  columns: {text: a, label: b}\n"
    assert parse_recipe(text, ["data.columns={text: review}"]).data.columns == {"text": "review"}
    assert parse_recipe(text, ["data.columns.text=review"]).data.columns == {"text": "review", "label": "b"}


def test_mics_is_refused_with_what_is_nearest_to_it(tmp_path: Path) -> None:
    values = {"engine": {"deepspeed": "zero_mics"}}
    (fault,) = path_faults(values, tmp_path)
    assert fault.what.endswith("or null; DeepSpeed has removed MiCS, zero3_hpz is the nearest to it")


def test_all_faults_of_the_file_and_the_overrides_are_reported_at_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(
        """\
task:
  kind: classification
engine:
  precision: bf61
  deepspeed: zero9
model:
  path: ./models
optim:
  lr: -1
  warmup_step: 10
  max_grad_norm: yes
train:
  seed: 1.5
  seed: true
"""
    )
    with pytest.raises(ConfigError) as error:
        load_recipe(Path("x.yaml"), ["optim.lr=abc", "no-equals", "job.rank=2", "data.dev=x.yml", "model.dropout=1"])
    assert str(error.value).splitlines() == [
        "x.yaml:4: engine.precision: got 'bf61'; legal: auto, bf16, fp16, fp32",
        "x.yaml:5: engine.deepspeed: got 'zero9'; legal: zero0, zero1, zero2, zero2_offload, zero3, zero3_hpz, "
        "zero3_offload, zero3_qwz, zero3_zeropp, auto, the path of a DeepSpeed JSON, or null",
        f"x.yaml:7: model.path: no such folder: './models' in {tmp_path}",
        "x.yaml:10: optim.warmup_step: unknown key; did you mean 'warmup_steps'?",
        "x.yaml:11: optim.max_grad_norm: expected a number, got 'yes'",
        "x.yaml:14: train.seed: already given on line 13; keep one of them",
        "x.yaml:14: train.seed: expected a whole number, got true",
        "override 'optim.lr=abc': expected a number, got 'abc'",
        "override 'no-equals': expected section.key=value, such as optim.lr=2e-5",
        "override 'job.rank=2': unknown key; did you mean 'ranks'?",
        "override 'data.dev=x.yml': data.train: missing; the training rows: a file, a folder, a glob, "
        "`hf:owner/name`, or a list of these",
        f"override 'data.dev=x.yml': no such file: 'x.yml' in {tmp_path}; did you mean 'x.yaml'?",
        "override 'model.dropout=1': must be below 1, got 1",
    ]


def test_a_broken_link_is_reported_with_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").symlink_to("gone.jsonl")
    (tmp_path / "model").symlink_to("/gone/model")
    (tmp_path / "x.yaml").write_text(
        "task: {kind: classification}\nmodel: {path: ./model}\ndata: {train: train.jsonl}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_recipe(Path("x.yaml"))
    assert str(error.value).splitlines() == [
        "x.yaml:2: model.path: expected a folder, but './model' is a link to '/gone/model', which does not exist",
        "x.yaml:3: data.train: expected a file, but 'train.jsonl' is a link to 'gone.jsonl', which does not exist",
    ]


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ("lr: 1e-5\n", "x.yaml:7: lr: unknown key; did you mean optim.lr?"),
        ("keep_last: 5\n", "x.yaml:7: keep_last: unknown key; did you mean checkpoint.keep_last?"),
        ("every_steps: 5\n", "x.yaml:7: every_steps: unknown key; did you mean checkpoint.every_steps or "
         "report.every_steps?"),
        ("optimm: {}\n", "x.yaml:7: optimm: unknown key; did you mean 'optim'?"),
        ("train: {save_steps: 5}\n", "x.yaml:7: train.save_steps: unknown key; did you mean checkpoint.every_steps?"),
        ("bf16: true\n", "x.yaml:7: bf16: unknown key; did you mean engine.precision?"),
        (
            "optim:\n  fsdp: full\n",
            "x.yaml:8: optim.fsdp: unknown key; transformers' fsdp has no counterpart here: parameters are sharded by "
            "ZeRO: engine.deepspeed zero3",
        ),
        ("cutoff_len: 64\n", "x.yaml:7: cutoff_len: unknown key; did you mean data.max_tokens?"),
        ("train: {use_dora: true}\n",
         f"x.yaml:7: train.use_dora: unknown key; {OTHER_COUNTERPARTS['use_dora'].note}"),
        ("train: {load_in_4bit: true}\n",
         "x.yaml:7: train.load_in_4bit: unknown key; did you mean model.lora.quantize_base? (nf4, which is QLoRA with "
         "double quantization, or int8)"),
        (
            "data.max_tokens: 64\n",
            "x.yaml:7: data.max_tokens: a dotted key is for the command line only; here write max_tokens within the "
            "section data",
        ),
        (
            "model.lora.r: 64\n",
            "x.yaml:7: model.lora.r: a dotted key is for the command line only; here write r within the section "
            "model.lora",
        ),
        (
            "train: {optim.lrr: 64}\n",
            "x.yaml:7: train.optim.lrr: unknown key; a dotted key is for the command line only; did you mean "
            "'optim.lr'?",
        ),
        (
            "report:\n  qqqq: 1\n",
            "x.yaml:8: report.qqqq: unknown key; legal: wandb, project, name, group, entity, "
            "tags, notes, job_type, artifacts, also, every_steps, profile_steps",
        ),
    ],
)  # fmt: skip
def test_an_unknown_key_is_reported_with_what_may_have_been_meant(extra: str, line: str) -> None:
    assert faults_of(SMALLEST + extra) == [line]


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("optim.betas=[0.9]", "optim.betas[1]: the item at position 1 is missing"),
        ("optim.betas=[0.9, 0.9, 0.9]", "expected 2 items, got 3"),
        ("optim.betas=[0.9, 1]", "optim.betas[1]: must be below 1, got 1"),
        ("optim.betas=0.9", "expected a list, got 0.9"),
        ("report.name=2024", "expected text, got 2024; put it in quotes"),
        ("data.columns=[text]", "expected a mapping, got a list"),
        ("data.columns={text: 1}", "data.columns.text: expected text, got 1; put it in quotes"),
        ("optim=3", "expected a mapping, got 3"),
        ("optim.lr=.inf", "expected a number, got '.inf'"),
        ("optim.lr=0", "must be above 0, got 0"),
        ("optim.lr.peak=1", "optim.lr: expected a number, got a mapping"),
        ("model.activation_checkpointing=yes", "expected true or false, got 'yes'"),
        ("task.label_names=[a]", "expected 2 items or more, got 1"),
        ("train.global_batch_size=null", "expected a whole number, got null"),
        (
            "optim={warmup_steps: 3, warmup_fraction: 0.1}",
            "warmup_steps and warmup_fraction are both set; keep one of them",
        ),
        ("task.kind=clasification", f"got 'clasification'; legal: {', '.join(TASKS)}"),
        ("task={}", f"task.kind: missing; legal: {', '.join(TASKS)}"),
        ("=3", "expected section.key=value, such as optim.lr=2e-5"),
        ("--optim.lr=3", "expected section.key=value, such as optim.lr=2e-5"),
        ("data.dev=", "the value is missing; write null to unset the key"),
        ("report.name=a #b", "' #' starts a comment; add quotes inside those of the shell, as in key='\"a #b\"'"),
        ("report.name=@a", "not YAML: found character '@' at the start of a value; put the value in quotes"),
        ("optim={lr: 1, lr: 2}", "lr is given twice; keep one of them"),
        ("model.lora.rank=4", "unknown key; legal: r, alpha, dropout, targets, train_whole, quantize_base"),
    ],
)
def test_an_invalid_override_is_reported_with_what_was_expected(override: str, what: str) -> None:
    assert faults_of(SMALLEST, override) == [f"override '{override}': {what}"]


def test_a_metric_that_the_task_does_not_measure_is_refused() -> None:
    (fault,) = faults_of(SMALLEST, "checkpoint.best_metric=acuracy")
    assert fault == "x.yaml: checkpoint.best_metric: got 'acuracy'; legal: loss, accuracy, f1_macro, f1_micro, mcc, ece"
    assert parse_recipe(SMALLEST, ["checkpoint.best_metric=f1_macro"]).checkpoint.best_metric == "f1_macro"


def test_a_fault_between_two_sections_names_both() -> None:
    (fault,) = faults_of(SMALLEST, "train.micro_batch_tokens=9")
    assert fault.startswith("x.yaml: data.max_tokens (512) is above train.micro_batch_tokens (9)")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("atuo", "got 'atuo'; legal: auto, or a whole number"),
        ("0", "must be above 0, got 0"),
        ("1.5", "expected a whole number, got 1.5"),
        ("null", "expected a whole number, got null"),
    ],
)
def test_a_number_of_tokens_is_a_whole_number_or_auto(value: str, message: str) -> None:
    assert parse_recipe(SMALLEST, ["train.micro_batch_tokens=auto"]).train.micro_batch_tokens == "auto"
    assert faults_of(SMALLEST, f"train.micro_batch_tokens={value}") == [
        f"override 'train.micro_batch_tokens={value}': {message}"
    ]


NO_ALIASES = "anchors (&) and aliases (*) are not supported; put text that starts with & or * in quotes"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "x.yaml: is empty; a recipe needs at least the sections task, model, data"),
        ("# a\n---\n", "x.yaml: is empty; a recipe needs at least the sections task, model, data"),
        ("- a\n", "x.yaml:1: expected sections such as task, model, data, got a list"),
        ("a: 1\n\tb: 2\n", "x.yaml:2: not YAML: a tab; YAML is indented with spaces"),
        ("a: 'b\nc: d\n", "x.yaml:1: not YAML: a quote that is never closed"),
        ("a:\nb: [1,\nc: 2\n", "x.yaml:2: not YAML: expected ',' or ']', but got 'stream end'"),
        ("a: 1\nb: c: d\n", "x.yaml:2: not YAML: a ':' that is not allowed here; is the line above complete, the "
         "indentation right, and text that contains ': ' in quotes?"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: a second YAML document; a recipe is a single one"),
        ("a: &x 1\nb: 2\n", f"x.yaml:1: {NO_ALIASES}"),
        ("a: 1\nb: *.csv\n", f"x.yaml:2: not YAML: {NO_ALIASES}"),
        ("a: 1\nb: *x\n", f"x.yaml:2: {NO_ALIASES}"),
        ("a: !!python/name:os.system\n", "x.yaml:1: tags (!) are not supported; put text that starts with ! in quotes"),
        ("a: 1\n? [b]\n: c\n", "x.yaml:2: a key must be one word; put text that starts with { [ * in quotes"),
        ("a: 1\nb: \x00\n", "x.yaml:2: the character U+0000 is not allowed in YAML"),
        ('a: "\\ud800"\n', "x.yaml:1: an escape for half a character; write the character itself"),
        ('a: 1\nb: "\\UFFFFFFFF"\n', "x.yaml:2: not YAML: an escape that is not a character"),
        ("a: " + "[" * 100_000, "x.yaml:1: nested more than 16 deep"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_parsed_is_reported_in_one_line_with_its_line_number(text: str, line: str) -> None:
    assert faults_of(text) == [line]


def test_missing_sections_are_reported_with_their_meaning() -> None:
    assert faults_of("optim: {}\n") == [
        "x.yaml: task: missing; what is learned; `kind` selects the task, and with it the other keys",
        "x.yaml: model: missing; the pretrained model to fine-tune",
        "x.yaml: data: missing; the labelled rows, and how they are prepared",
    ]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("chat.yml", None, "chat.yml: no such file in {folder}; did you mean 'chat.yaml'?"),
        ("latin.yaml", "a: 1\nb: \xe9\n".encode("latin-1"), "latin.yaml:2: not UTF-8 text; save the file as UTF-8"),
        (".", None, "'.' cannot be read: Is a directory"),
        ("a\0b", None, r"'a\x00b' cannot be read: embedded null byte"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported_in_one_line(
    name: str, content: bytes | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chat.yaml").write_text(SMALLEST)
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_recipe(Path(name))
    assert str(error.value) == what.replace("{folder}", str(tmp_path))


class Ham(Section):
    kind: Literal["ham"]
    slices: int = 1


class Spam(Section):
    kind: Literal["spam"]
    tins: int = 1


class Breakfast(Section):
    main: Annotated[Ham | Spam, Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("main", "faults"),
    [
        ({"kind": "spam", "tin": 2}, [Fault(("main", "tin"), "unknown key; did you mean 'tins'?")]),
        ({"kind": "spam", "tins": "2"}, [Fault(("main", "tins"), "expected a whole number, got '2'")]),
        ({"kind": "spam", "slice": 2}, [Fault(("main", "slice"), "unknown key; did you mean main.slices?")]),
        ({"kind": "eggs", "tin": 2}, [Fault(("main", "kind"), "got 'eggs'; legal: ham, spam")]),
        ({"tins": 2}, [Fault(("main", "kind"), "missing; legal: ham, spam")]),
    ],
)
def test_faults_of_a_section_with_kinds_name_its_keys_and_its_kind(main: dict[str, Any], faults: list[Fault]) -> None:
    with pytest.raises(ValidationError) as error:
        Breakfast.model_validate({"main": main})
    assert explain(error.value, {"main": main}, Breakfast) == faults


def test_every_counterpart_of_another_tools_name_is_a_key_of_the_recipe() -> None:
    for table in (COUNTERPARTS, OTHER_COUNTERPARTS):
        assert {ours.key for ours in table.values() if ours.key} <= set(all_keys(Recipe))
        assert [name for name, ours in table.items() if ours.key is None and not ours.note] == []


OTHER_NAMES = """cutoff_len template load_in_4bit load_in_8bit early_stopping_patience adafactor finetuning_type
lora_target sequence_len micro_batch_size sample_packing max_seq_length quantization_bit val_set_size base_model
train_on_inputs dataset_text_field assistant_only_loss val_size use_dora stage flash_attn"""


@pytest.mark.parametrize("name", OTHER_NAMES.split())
def test_names_of_llama_factory_axolotl_and_trl_get_an_answer_wherever_they_stand(name: str) -> None:
    for extra in (f"{name}: 1\n", f"train: {{{name}: 1}}\n", f"optim:\n  {name}: true\n"):
        (line,) = faults_of(SMALLEST + extra)
        assert "did you mean" in line or "not supported" in line or "always" in line
        assert "legal:" not in line


def test_every_training_argument_of_transformers_has_an_answer() -> None:
    transformers = pytest.importorskip("transformers")
    ours_alone = {"label_names"}  # one word for two things: columns in transformers, labels here
    assert set(transformers.TrainingArguments.__dataclass_fields__) - set(COUNTERPARTS) - ours_alone == set()


def test_local_paths_become_absolute_and_hub_ids_and_strategies_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = SMALLEST + "  dev: ../dev.jsonl\n  test: ~/test.jsonl\n  cache_dir: cache\n"
    recipe = with_absolute_paths(parse_recipe(text), tmp_path)
    assert recipe.data.train == f"{tmp_path}/train.jsonl"
    assert recipe.data.dev == f"{tmp_path}/../dev.jsonl"
    assert recipe.data.test == f"{tmp_path}/home/test.jsonl"
    assert recipe.data.cache_dir == f"{tmp_path}/cache"
    assert (recipe.model.path, recipe.engine.deepspeed) == ("org/name", "zero2")


@pytest.mark.parametrize("path", ["./m", "../m", "~/m", "a/b/c", "there", "org/there"])
def test_a_path_that_looks_like_a_folder_or_is_one_is_a_local_model(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "org" / "there").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    recipe = with_absolute_paths(parse_recipe(SMALLEST, [f"model.path={path}"]), tmp_path)
    assert Path(recipe.model.path).is_absolute()


@pytest.mark.parametrize("path", ["bert-base-uncased", "org/name", "org/name-1.5"])
def test_a_path_that_is_not_a_folder_and_has_at_most_one_slash_is_a_hub_id(path: str, tmp_path: Path) -> None:
    recipe = parse_recipe(SMALLEST, [f"model.path={path}"])
    assert with_absolute_paths(recipe, tmp_path).model.path == path
    assert path_faults({"model": {"path": path}}, tmp_path) == []


def test_missing_paths_are_faults_with_similar_names(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "bert").mkdir()
    values = {
        "model": {"path": "./brt"},
        "data": {"train": "train.json", "dev": "bert", "test": "gone/test.jsonl"},
        "engine": {"deepspeed": "my.json"},
    }
    assert path_faults(values, tmp_path) == [
        Fault(("data", "train"), f"no such file: 'train.json' in {tmp_path}; did you mean 'train.jsonl'?"),
        Fault(("data", "dev"), f"'bert': no file of a supported format in the folder; legal: {LEGAL}"),
        Fault(("data", "test"), f"no such file: 'gone/test.jsonl'; its folder '{tmp_path}/gone' does not exist either"),
        Fault(("model", "path"), f"no such folder: './brt' in {tmp_path}; did you mean 'bert'?"),
        Fault(("engine", "deepspeed"), f"no such file: 'my.json' in {tmp_path}"),
    ]


def test_a_missing_source_is_reported_at_its_place_in_the_recipe(tmp_path: Path) -> None:
    for name in ("a.csv", "rows/b.csv", "mixed/a.csv", "mixed/b.tsv", "saved/dataset_dict.json", "a.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    train = ["a.csv", {"path": "rows"}, {"path": "*.cvs", "weight": 2}, "mixed", {"path": "saved"}, {"path": "a.cvs"}]
    data = {
        "train": [*train, "a.xml", "hf:owner/name", "hf:./rows", "hf:./gone", {"path": 3}, 4, ["x"]],
        "dev": {"path": "gone/*.csv"},
        "test": {"fraction": 0.1, "path": None},
    }
    assert path_faults({"data": data}, tmp_path) == [
        Fault(("data", "train", 2, "path"), f"'*.cvs': no file matches; the folder {tmp_path} contains a.csv, a.xml, "
              "mixed, rows, saved"),
        Fault(("data", "train", 3), "'mixed': files of several formats (csv: a.csv; tsv: b.tsv); use a glob "
              f"such as {tmp_path}/mixed/*.csv"),
        Fault(("data", "train", 5, "path"), f"no such file: 'a.cvs' in {tmp_path}; did you mean 'a.csv'?"),
        Fault(("data", "train", 6), f"'a.xml': unknown format '.xml'; legal: {LEGAL}. Or set format "
              "in the source to one of: jsonl, csv, tsv, json, parquet, arrow, text, conll, tmx"),
        Fault(("data", "train", 9), f"no such folder: './gone' in {tmp_path}"),
        Fault(("data", "dev", "path"), f"'gone/*.csv': no file matches; does the folder {tmp_path}/gone exist?"),
    ]  # fmt: skip


def test_every_path_of_a_source_becomes_absolute_and_globs_stay_globs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home")
    folder = tmp_path / "run[1]"
    text = SMALLEST.replace(
        "train.jsonl", "[a.csv, {path: '*.csv', weight: 2}, 'hf:owner/name', 'hf:./repo', '~/x/*.csv']"
    )
    recipe = with_absolute_paths(parse_recipe(text, ["data.dev={path: /b/*.csv}", "data.test={fraction: 0.1}"]), folder)
    paths = [source.path for source in recipe.data.sources("train")]
    globbed = f"{tmp_path}/run[[]1]/*.csv"
    assert paths == [f"{folder}/a.csv", globbed, "hf:owner/name", f"hf:{folder}/repo", "/home/x/*.csv"]
    assert [source.path for source in recipe.data.sources("dev")] == ["/b/*.csv"]
    assert with_absolute_paths(recipe, Path("/elsewhere")) == recipe
    assert parse_recipe(render_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("data.train=3", "expected text, got 3; put it in quotes"),
        ("data.train=[a.csv, 3]", "data.train[1]: expected text, got 3; put it in quotes"),
        ("data.train=[[a.csv]]", "data.train[0]: expected text, got a list"),
        ("data.train=[{path: b, wieght: 2}]", "data.train[0].wieght: unknown key; did you mean 'weight'?"),
        ("data.train=[{path: b, weight: 0}]", "data.train[0].weight: must be above 0, got 0"),
        ("data.train=[{path: b, columns: [x]}]", "data.train[0].columns: expected a mapping, got a list"),
        ("data.train=[{path: b, columns: {a: 1}}]", "data.train[0].columns.a: expected text, got 1; put it in quotes"),
        ("data.train=[{weight: 2}]", "data.train[0].path: missing; a file, a folder, a glob or `hf:owner/name`, as "
         "in data.train"),
        ("data.dev={fraction: 2}", "data.dev.fraction: must be below 1, got 2"),
        ("data.dev={fraction: 0.1, gruop: x}", "data.dev.gruop: unknown key; did you mean 'group'?"),
        ("data.on_bad_row=drop", "got 'drop'; legal: error, skip"),
        ("data.deduplicate=true", "got true; legal: none, train, all"),
    ],
)  # fmt: skip
def test_an_invalid_source_is_reported_by_its_place_in_the_list(override: str, what: str) -> None:
    assert faults_of(SMALLEST, override) == [f"override '{override}': {what}"]


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["data.train=[]"], "train: the list of sources is empty"),
        (
            ["data.dev=[{path: a, weight: 2}]"],
            "dev: 'a' has a weight, but only training rows can be weighted; remove it",
        ),
        (
            ["data.dev={fraction: 0.1}", "data.test={fraction: 0.1, seed: 3}"],
            "dev and test are both shares of train; give them the same group and the same seed",
        ),
        (
            ["data.dev={fraction: 0.5}", "data.test={fraction: 0.5}"],
            "dev and test together take 1 of train; lower the fractions",
        ),
    ],
)
def test_sources_and_shares_that_do_not_fit_together_are_refused(overrides: list[str], what: str) -> None:
    assert faults_of(SMALLEST, *overrides) == [f"x.yaml:5: data: {what}"]


def test_a_path_a_mapping_and_a_list_of_one_are_one_source() -> None:
    plain, mapping, list_ = (
        parse_recipe(SMALLEST, [f"data.train={value}"]).data.sources("train") for value in ("a", "{path: a}", "[a]")
    )
    assert plain == mapping == list_
    data = parse_recipe(SMALLEST, ["data.dev.fraction=0.1"]).data
    assert data.sources("dev") == [] and (share := data.share("dev")) is not None and share.fraction == 0.1


@pytest.mark.parametrize(
    "path", ["a\0b", "*" * 5000, "hf:./a\0b", "/[" + "x" * 5000, "x" * 5000, "~nobody-of-this-name/x", "/nowhere/" * 3]
)
def test_impossible_paths_are_missing_like_any_other(path: str, tmp_path: Path) -> None:
    assert len(path_faults({"data": {"train": path}}, tmp_path)) == 1


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


LABELS = st.lists(TEXT, min_size=2, unique=True)


@given(name=TEXT, columns=st.dictionaries(TEXT, TEXT, max_size=3), lr=st.floats(1e-300, 1e300), labels=LABELS)
@example(name="1e5", columns={"yes": "0o17", "~": "1."}, lr=1e-5, labels=["null", "2020-01-01", "0x1F", "<<", "="])
def test_a_rendered_recipe_reads_back_to_an_equal_one(
    name: str, columns: dict[str, str], lr: float, labels: list[str]
) -> None:
    values = {"report": {"name": name}, "optim": {"lr": lr}}
    values["task"] = {"kind": "classification", "label_names": labels}
    recipe = parse_recipe(
        write_yaml({**values, "model": {"path": "m"}, "data": {"train": "t", "columns": columns}}), name="x.yaml"
    )
    assert recipe.report.name == name and recipe.data.columns == columns
    assert parse_recipe(render_recipe(recipe)) == recipe


def test_a_rendered_recipe_loads_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "x.yaml").write_text(SMALLEST)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(Path("x.yaml"))
    monkeypatch.chdir("/")
    (tmp_path / "resolved.yaml").write_text(render_recipe(recipe))
    assert load_recipe(tmp_path / "resolved.yaml") == recipe
    assert recipe.data.train == str(tmp_path / "train.jsonl")


@pytest.mark.parametrize(
    "override",
    [
        "optim.lr=1",
        "train.seed=1",
        "data.max_tokens=7",
        "task.label_names=[a, b]",
        "data.dev={fraction: 0.1}",
        "data.train=[{path: train.jsonl, weight: 2}]",
        "data.on_bad_row=skip",
        "data.deduplicate=all",
    ],
)
def test_the_hash_changes_with_what_is_learned(override: str) -> None:
    assert learning_hash(parse_recipe(SMALLEST, [override])) != learning_hash(parse_recipe(SMALLEST))


@pytest.mark.parametrize(
    "override",
    ["engine.deepspeed=zero3", "engine.precision=fp32", "job.ranks=4", "report.name=x", "checkpoint.keep_last=3",
     "data.cache_dir=/x", "train.micro_batch_tokens=999", "model.activation_checkpointing=true", "train.num_epochs=3"],
)  # fmt: skip
def test_the_hash_does_not_change_with_the_machine_or_with_defaults_that_are_spelled_out(override: str) -> None:
    assert learning_hash(parse_recipe(SMALLEST, [override])) == learning_hash(parse_recipe(SMALLEST))


def test_the_hash_is_of_the_values_and_not_of_how_they_were_written() -> None:
    assert learning_hash(parse_recipe(SMALLEST)) == learning_hash(parse_recipe(SMALLEST, ["data.dev=null"]))
    assert len(learning_hash(parse_recipe(SMALLEST))) == 8


def test_what_is_not_learned_are_keys_of_the_learning_sections() -> None:
    assert set(NOT_LEARNED) <= set(all_keys(Recipe))
    assert {key.partition(".")[0] for key in NOT_LEARNED} <= set(LEARNING_SECTIONS)


def test_differences_are_a_line_for_each_key() -> None:
    a = parse_recipe(SMALLEST, ["optim.lr=2e-5", "data.columns={text: a}"])
    b = parse_recipe(SMALLEST, ["optim.lr=3e-5", "data.columns={label: b}", "data.dev=d"])
    assert differences(a, b) == [
        'data.dev: null -> "d"',
        'data.columns.text: "a" -> (unset)',
        "optim.lr: 2e-05 -> 3e-05",
        'data.columns.label: (unset) -> "b"',
    ]
    assert differences(a, a) == []


WORDS = "task kind classification model path data train optim lr betas 1e-5 0x ~ null true << ? &a *a !!str ..."
PIECES = [
    *WORDS.split(),
    *"[]{},:#!|>%@'\"\\\n\t\0\x85\ufeff\u00e9\ud800",
    *(": ", "\n  ", "- ", "---\n", "\\UFFFFFFFF", "9" * 400),
]
YAML_LIKE = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@settings(max_examples=400, deadline=None)
@given(
    text=YAML_LIKE | st.text(max_size=60),
    rest=st.sampled_from(["", SMALLEST]),
    overrides=st.lists(YAML_LIKE, max_size=2),
)
@example(text='a: "\\uD800', rest=SMALLEST, overrides=["a.b=1", "a=1", "a.b.c=2"])
def test_no_text_and_no_override_ends_in_anything_but_a_recipe_or_a_config_error(
    text: str, rest: str, overrides: list[str]
) -> None:
    prefixed = [f"{key}={override}" for key, override in zip(("data.train", "optim"), overrides, strict=False)]
    try:
        recipe = parse_recipe(rest + text, [*overrides, *prefixed])
    except ConfigError as error:
        assert all(line.startswith(("recipe:", "override ")) for line in str(error).encode().decode().splitlines())
    else:
        assert parse_recipe(render_recipe(recipe)) == recipe
        path_faults(recipe.model_dump(mode="json"), Path("/nowhere"))


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_no_bytes_end_in_anything_but_a_recipe_or_a_config_error(data: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        load_recipe(path)


def test_a_path_that_exists_beside_the_recipe_alone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes" / "data").mkdir(parents=True)
    (tmp_path / "recipes" / "data" / "a.jsonl").write_text("{}\n")
    recipe = tmp_path / "recipes" / "r.yaml"
    recipe.write_text("task: {kind: classification}\nmodel: {path: o/n}\ndata: {train: data/a.jsonl, dev: gone.csv}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        load_recipe(recipe)
    train, dev = sorted(str(raised.value).split("\n"), key=len, reverse=True)
    assert train.endswith(
        f"it lies beside the recipe, as {recipe.parent}/data/a.jsonl; paths start from the working directory: "
        f"give that path, or run this in {recipe.parent}"
    )
    assert "no such file: 'data/a.jsonl'" in train and "no such file: 'gone.csv'" in dev and "lies beside" not in dev


def test_recipes_are_read_where_torch_is_missing() -> None:
    script = "import sys; sys.modules['torch'] = None; import shardtune.recipe.load, shardtune.docs"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3], timeout=60)


def test_legal_items_of_a_list_and_a_mapping_are_named() -> None:
    text = "task: {{kind: chat, {}}}\nmodel: {{path: o/n}}\ndata: {{train: a}}\n"
    with pytest.raises(ConfigError, match=r"task.reference_metrics\[0\]: got 'rouge'; legal: rouge_l, bleu, chrf"):
        parse_recipe(text.format("reference_metrics: [rouge]"))
    with pytest.raises(ConfigError, match=r"task.roles.bot: got 'x'; legal: system, user, assistant, tool"):
        parse_recipe(text.format("roles: {bot: x}"))


def test_a_secret_in_a_recipe_is_refused_without_being_quoted() -> None:
    token = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
    with pytest.raises(ConfigError) as error:
        parse_recipe(
            f"task: {{kind: classification}}\nmodel: {{path: m}}\ndata:\n  train: https://me:{token}@host/x\n",
            [f"report.notes=use {token}"],
        )
    text = str(error.value)
    assert token not in text and "recipe:4: data.train: looks like an access token" in text
    assert "override 'report.notes=use ***': looks like an access token" in text and "HF_TOKEN" in text
